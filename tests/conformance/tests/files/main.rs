//! Sessions, their files over HTTP, what executions leave, and how much they may.

mod artifacts;
mod inline;
mod projects;
mod quota;
mod sessions;
mod speed;
mod transfer;

use conformance::Service;
use serde_json::{Value, json};
use std::io::{Read, Write};

/// Runs shell code in a session; it has to complete.
#[track_caller]
fn shell(service: &Service, session: &str, code: &str) -> Value {
    let answer = service.execute(json!({"language": "shell", "code": code, "session_id": session}));
    conformance::assert_completed(&answer);
    answer
}

/// A name that no other test's session has.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn url(session: &str, path: &str) -> String {
    format!("/sessions/{session}/files/{path}")
}

/// `HEAD`: the status, and the head as it came, in lower case.
fn head(service: &Service, path: &str) -> (u16, String) {
    let mut stream = service.connect();
    stream.write_all(&service.request_bytes("HEAD", path, &[("Content-Length", "0")], b"")).expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a head");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    assert_eq!(body, "");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase())
}

/// The paths of a session's files.
#[track_caller]
fn list(service: &Service, session: &str) -> Vec<String> {
    let response = service.get(&format!("/sessions/{session}/files?limit=10000"));
    assert_eq!(response.status, 200, "{}", response.text());
    let files = response.json()["files"].as_array().cloned().unwrap_or_default();
    files.iter().map(|file| file["path"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The paths of an answer's artifacts.
fn artifacts(answer: &Value) -> Vec<&str> {
    let all = answer["artifacts"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|artifact| artifact["path"].as_str()).collect()
}
