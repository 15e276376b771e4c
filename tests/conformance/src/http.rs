//! The smallest HTTP/1.1 client: a response is read from a socket, whatever was sent before.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read};

/// A response as it came.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, with their values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, chunks already joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a response is UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        // An answer wraps a value that may itself be as deep as a request.
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        reader.disable_recursion_limit();
        serde::Deserialize::deserialize(&mut reader).unwrap_or_else(|error| {
            panic!("status {}, not JSON ({error}): {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    /// Asserts an error of the contract's shape, with this status and code, and gives its body.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        let body = self.json();
        assert_eq!(body["error_code"], code, "{text}");
        assert_eq!(crate::keys(&body), ["description", "error_code", "error_detail", "request_id", "solution"]);
        for field in ["description", "solution", "request_id"] {
            assert!(body[field].as_str().is_some_and(|value| !value.is_empty()), "{field} says nothing: {text}");
        }
        assert_eq!(self.header("x-request-id"), body["request_id"].as_str(), "{text}");
        for inner in ["panicked", ".rs:", "src/", "backtrace", "RUST_"] {
            assert!(!text.contains(inner), "shows {inner:?}: {text}");
        }
        body
    }
}

/// Reads one response. `UnexpectedEof` when the other side closed without one.
pub fn read_response(stream: impl Read) -> io::Result<Response> {
    let mut reader = BufReader::new(stream);
    let status_line = read_line(&mut reader)?;
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other(format!("not a status line: {status_line:?}")))?;

    let mut headers = Vec::new();
    loop {
        let line = read_line(&mut reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("not a header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };

    let length = response.header("content-length").and_then(|value| value.parse::<u64>().ok());
    if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = read_line(&mut reader)?;
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            (&mut reader).take(size).read_to_end(&mut response.body)?;
            read_line(&mut reader)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        (&mut reader).take(length).read_to_end(&mut response.body)?;
        if (response.body.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    } else if status >= 200 && status != 204 {
        reader.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
