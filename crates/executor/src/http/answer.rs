//! An answer on its way out: in pieces, within a time. A large one is read from the store as its client takes it, so that clients that
//! do not read neither make the service hold ever more nor have others wait for memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use crate::store::{StoreError, Stored};

/// How long a client may take for a whole answer.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// Bytes handed to the connection at a time, about what it holds anyway. An answer that is no larger needs no store.
pub const PIECE: usize = 256 * 1024;

/// Where an answer is.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory.
    Held {
        /// What is left of it to send.
        rest: Bytes,
        /// Its share of the memory for answers, if that counts.
        _share: Option<Arc<OwnedSemaphorePermit>>,
    },
    /// In the store.
    Stored(Stored),
}

impl Content {
    /// One that is in memory anyway.
    pub fn small(body: impl Into<Bytes>) -> Self {
        Self::Held { rest: body.into(), _share: None }
    }
}

/// A JSON answer.
pub fn json(content: Content) -> Response {
    let left = match &content {
        Content::Held { rest, .. } => rest.len(),
        Content::Stored(stored) => stored.bytes,
    };
    let body = Pieces { content, left, reading: None, deadline: Box::pin(sleep(ANSWER_TIME)) };
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

struct Pieces {
    content: Content,
    left: usize,
    reading: Option<Reading>,
    deadline: Pin<Box<Sleep>>,
}

type Reading = Pin<Box<dyn Future<Output = Result<Bytes, StoreError>> + Send>>;

impl Pieces {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let stored = match &mut self.content {
            Content::Held { rest, .. } => return Poll::Ready(Ok(rest.split_to(rest.len().min(PIECE)))),
            Content::Stored(stored) => stored,
        };
        let reading = self.reading.get_or_insert_with(|| {
            let (stored, from) = (stored.clone(), stored.bytes - self.left);
            Box::pin(async move { stored.piece(from, PIECE).await })
        });
        let piece = ready!(reading.as_mut().poll(context));
        self.reading = None;
        if let Err(error) = &piece {
            tracing::warn!("An answer could not be sent to its end: {error}");
        }
        Poll::Ready(piece.map_err(io::Error::other))
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let piece = ready!(self.poll_piece(context))?;
        self.left -= piece.len();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
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
