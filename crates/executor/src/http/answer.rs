//! A large answer on its way out: in pieces, within a time, and counted against the memory for answers until it is gone, so
//! that clients that do not read can't make the service hold ever more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

/// How long a client may take for a whole answer.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// Bytes handed to the connection at a time.
const PIECE: usize = 64 * 1024;

/// A JSON answer that holds its share of the memory for answers until it is sent.
pub fn json(bytes: Bytes, held: Option<Arc<OwnedSemaphorePermit>>) -> Response {
    let body = HeldBody { rest: bytes, deadline: Box::pin(sleep(ANSWER_TIME)), _held: held };
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Bytes that a text takes as JSON, at most: a control character takes six (RFC 8259, section 7).
pub fn json_weight(text: &str) -> usize {
    let weight = |byte: u8| match byte {
        0..=0x1f => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(weight).sum()
}

struct HeldBody {
    rest: Bytes,
    deadline: Pin<Box<Sleep>>,
    _held: Option<Arc<OwnedSemaphorePermit>>,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_takes_more_than_its_weight(text in "\\PC{0,20}|[\\x00-\\x7f]{0,40}") {
            prop_assert!(serde_json::to_string(&text).unwrap().len() <= json_weight(&text) + 2);
        }
    }
}
