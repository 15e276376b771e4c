//! Bodies of requests: how long they may take, and the memory for those that are read as a whole.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::routes::Service;
use crate::admission::fields::Violation;
use crate::executions::Held;

/// Longest pause within a body.
pub const PAUSE: Duration = Duration::from_secs(10);
/// Longest time for a body that is read as a whole.
const TIME: Duration = Duration::from_secs(60);
/// Memory is counted in this unit.
const KIB: usize = 1024;

/// Memory for bodies: eight of the largest, or as many smaller ones, are held at a time.
pub fn memory(largest_bytes: u64) -> Semaphore {
    let most = (largest_bytes as usize).saturating_mul(8) / KIB;
    Semaphore::new(most.min(Semaphore::MAX_PERMITS))
}

/// How long the body says it is, if it says so.
///
/// # Errors
/// It is in an encoding that is not read here.
pub fn announced(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::UnsupportedMediaType);
    }
    Ok(headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()))
}

/// The client went away in the middle of its body; nobody reads the answer.
pub fn cut_off() -> Problem {
    Problem::Validation(vec![Violation::new("body", "was cut off")])
}

/// Reads a body within bounds of size and time; what it takes of the memory for bodies is held until dropped.
pub async fn read_body(service: &Service, request: Request) -> Result<(BytesMut, Held), Problem> {
    let most = service.config.max_body_bytes;
    if announced(request.headers())?.is_some_and(|length| length > most) {
        return Err(Problem::PayloadTooLarge(most));
    }
    let deadline = tokio::time::Instant::now() + TIME;
    let (mut body, mut bytes, mut held) = (request.into_body(), BytesMut::new(), Vec::new());
    loop {
        let until = deadline.min(tokio::time::Instant::now() + PAUSE);
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return Err(Problem::RequestTimeout),
            Ok(None) => return Ok((bytes, held)),
            Ok(Some(Err(_))) => return Err(cut_off()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() as u64 + data.len() as u64 > most {
            return Err(Problem::PayloadTooLarge(most));
        }
        bytes.extend_from_slice(&data);
        let counted: usize = held.iter().map(OwnedSemaphorePermit::num_permits).sum();
        let missing = (bytes.len() / KIB).saturating_sub(counted);
        if missing > 0 {
            let permits =
                Arc::clone(&service.bodies).try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
            held.push(permits.map_err(|_| Problem::QueueFull)?);
        }
    }
}
