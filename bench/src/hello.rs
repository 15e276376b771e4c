//! What is measured: the same small handler in each language, which greets whom the event names.
//!
//! A [`Hello`] asks for it again and again over one connection, and every answer is checked. The first one is parsed; of all others
//! it is enough that the bytes of its return value are in them.

use crate::Result;
use crate::client::Client;
use conformance::Service;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Duration;

/// A language of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    Python,
    Javascript,
    Shell,
}

impl Language {
    pub const ALL: [Language; 3] = [Language::Python, Language::Javascript, Language::Shell];

    /// As a request names it.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Javascript => "javascript",
            Language::Shell => "shell",
        }
    }

    /// The handler.
    pub fn code(self) -> &'static str {
        match self {
            Language::Python => "def handler(event):\n    return {'message': f\"Hello, {event['name']}!\"}",
            Language::Javascript => "exports.handler = async (event) => ({ message: `Hello, ${event.name}!` });",
            Language::Shell => {
                "name=${EVENT_JSON##*:}; name=${name//[\\\"\\} ]/}\nprintf '{\"message\": \"Hello, %s!\"}' \"$name\" >&3"
            }
        }
    }
}

/// What each handler is given.
pub fn event() -> Value {
    json!({"name": "Alice"})
}

/// What each handler must return.
pub fn greeting() -> Value {
    json!({"message": "Hello, Alice!"})
}

/// One connection, one request, the answer it must get.
pub struct Hello {
    client: Client,
    request: Vec<u8>,
    /// The return value as it is in every right answer.
    proof: Vec<u8>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    return_value: &'a RawValue,
}

impl Hello {
    /// Connects and runs it once.
    pub fn new(service: &Service, language: Language, session: Option<&str>) -> Result<Hello> {
        let mut client = Client::new(service)?;
        let mut body = json!({"language": language.name(), "code": language.code(), "event": event(), "timeout": 60});
        if let Some(session) = session {
            body["session_id"] = session.into();
        }
        let request = client.request(&body);
        let (answer, _) = client.exchange(&request)?;
        let returned = serde_json::from_slice::<Answer>(answer)?.return_value.get();
        let proof = format!("\"return_value\":{returned}").into_bytes();
        if serde_json::from_str::<Value>(returned)? != greeting() || !holds(answer, &proof) {
            return Err(format!("{}: {}", language.name(), String::from_utf8_lossy(answer)).into());
        }
        Ok(Hello { client, request, proof })
    }

    /// Runs it; gives how long the answer took.
    pub fn once(&mut self) -> Result<Duration> {
        let (answer, took) = self.client.exchange(&self.request)?;
        if holds(answer, &self.proof) {
            Ok(took)
        } else {
            Err(format!("another return value: {}", String::from_utf8_lossy(answer)).into())
        }
    }
}

fn holds(answer: &[u8], proof: &[u8]) -> bool {
    answer.windows(proof.len()).any(|window| window == proof)
}
