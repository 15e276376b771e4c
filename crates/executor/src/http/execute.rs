//! `POST /execute`: from a body to an execution, now or later.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::answer;
use super::problem::Problem;
use super::routes::{KIB, RequestId, Service};
use crate::admission::fields::Violation;
use crate::admission::request::{self, ExecuteRequest};
use crate::config::ExecuteMode;
use crate::executions::{Done, Held, Submitted};
use crate::offload::offload;
use crate::store::Status;

/// Longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Longest time for a whole body.
const BODY_TIME: Duration = Duration::from_secs(60);

/// The route.
pub async fn execute(State(service): State<Arc<Service>>, request: Request) -> Result<Response, Problem> {
    let request_id = request.extensions().get::<RequestId>().cloned().map(|id| id.0).unwrap_or_default();
    let prefers_later = prefers_respond_async(request.headers());
    let (body, held) = read_body(&service, request).await?;
    let (parsed, body) = parse(&service, body.freeze()).await?;
    if service.config.execute_mode == ExecuteMode::Async {
        let submitted = service.executions.submit(parsed, body).await?;
        return Ok(as_the_control_plane_expects(&submitted));
    }
    if prefers_later {
        let submitted = service.executions.submit(parsed, body).await?;
        return Ok(accepted(submitted));
    }
    drop(body);
    service.executions.run(parsed, request_id, held).await.map(result)
}

/// The answer that an execution has.
pub fn result(done: Done) -> Response {
    answer::json(done.body, done.held)
}

/// Whether the client would rather not wait (RFC 7240, section 4.1).
fn prefers_respond_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences
        .flat_map(|value| value.split(','))
        .any(|preference| preference.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("respond-async"))
}

/// 202 and where to look for it; of one that has ended, its result.
fn accepted(submitted: Submitted) -> Response {
    let (id, status) = match submitted {
        Submitted::Accepted(id, status) => (id, status),
        Submitted::Ended(_, done) => return result(done),
    };
    let message = if status == Status::Pending { "Execution accepted" } else { "Execution is under way" };
    let body = json!({"execution_id": id, "status": status.name(), "message": message});
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&format!("/executions/{id}")).ok().map(|path| (header::LOCATION, path)));
    headers.insert(HeaderName::from_static("preference-applied"), HeaderValue::from_static("respond-async"));
    response
}

/// What `EXECUTE_MODE=async` answers to every request that is fine; the result goes to the control plane.
fn as_the_control_plane_expects(submitted: &Submitted) -> Response {
    let id = match submitted {
        Submitted::Accepted(id, _) | Submitted::Ended(id, _) => id,
    };
    Json(json!({"execution_id": id, "status": "PENDING", "message": "Execution submitted"})).into_response()
}

/// The request, and the bytes that it was read from.
async fn parse(service: &Arc<Service>, body: Bytes) -> Result<(ExecuteRequest, Bytes), Problem> {
    let service = Arc::clone(service);
    let parsed = offload(body.len(), move || (request::parse(&body, &service.ceilings), body)).await;
    parsed.0.map(|request| (request, parsed.1)).map_err(Problem::Validation)
}

/// Reads a body within bounds of size and time; what it takes of the memory for bodies is held until dropped.
pub(super) async fn read_body(service: &Service, request: Request) -> Result<(BytesMut, Held), Problem> {
    let most = service.config.max_body_bytes;
    let headers = request.headers();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::UnsupportedMediaType);
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(Problem::PayloadTooLarge(most));
    }
    let deadline = tokio::time::Instant::now() + BODY_TIME;
    let (mut body, mut bytes, mut held) = (request.into_body(), BytesMut::new(), Vec::new());
    loop {
        let until = deadline.min(tokio::time::Instant::now() + BODY_PAUSE);
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return Err(Problem::RequestTimeout),
            Ok(None) => return Ok((bytes, held)),
            // The client went away in the middle of its body; nobody reads the answer.
            Ok(Some(Err(_))) => return Err(Problem::Validation(vec![Violation::new("body", "was cut off")])),
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
