//! Packages of sessions: what may be asked for, how it is installed, who sees it, and that nobody's code has a say in it.
//!
//! Most tests bring an index of their own on the loopback, with packages that they make themselves; `real` uses the one that pip is
//! configured with here.

mod apart;
mod bounds;
mod hostile;
mod index;
mod real;
mod refused;
mod sessions;

use conformance::{Response, Service, assert_completed};
use index::{Index, PYTHON};
use serde_json::{Value, json};
use std::path::Path;

fn body(session: &str, dependencies: &[&str], mode: &str) -> Value {
    json!({"session_id": session, "language_runtime": "python3", "dependencies": dependencies, "sync_mode": mode})
}

#[track_caller]
fn post(service: &Service, body: &Value) -> Response {
    service.request("POST", "/internal/session-config/sync", &[], body.to_string().as_bytes())
}

/// A sync that has to succeed: `name version` of what is installed then.
#[track_caller]
fn sync(service: &Service, session: &str, dependencies: &[&str], mode: &str) -> Vec<String> {
    let response = post(service, &body(session, dependencies, mode));
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    assert_eq!((&answer["status"], &answer["error"]), (&json!("completed"), &Value::Null));
    let installed = answer["installed_dependencies"].as_array().cloned().unwrap_or_default();
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    installed.iter().map(|one| format!("{} {}", text(one, "name"), text(one, "version"))).collect()
}

/// Runs code in a session; it has to complete. What it printed.
#[track_caller]
fn run(service: &Service, session: &str, language: &str, code: &str) -> String {
    let answer = service.execute(json!({"session_id": session, "language": language, "code": code}));
    assert_completed(&answer);
    answer["stdout"].as_str().unwrap_or_default().trim().to_owned()
}

/// Which version of a module an execution imports; `none` where there is none.
#[track_caller]
fn version(service: &Service, session: &str, module: &str) -> String {
    let code = format!("try:\n  import {module}; print({module}.version)\nexcept ImportError: print('none')");
    run(service, session, "python", &code)
}

/// Layers, finished or not, in the service's state folder.
fn layers(state: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state.join("layers")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
