//! Black-box tests of the service: what it answers over HTTP and on the command line, and nothing of its inside.
//!
//! A test starts the real program with a workspace and a state folder of its own, so that tests run side by
//! side. With `CONFORMANCE_URL=http://host:port` (and `CONFORMANCE_TOKEN`) the tests that need no special
//! configuration run against that service instead. `SANDBOX_EXECUTOR` names another binary to test.
//! `CONFORMANCE_PATIENCE=N` waits N times as long for what has to come, on a machine that is slow itself.
//!
//! A program of a test that should be stopped by a limit also ends by itself, at a size that a machine bears:
//! when a limit does not work, a test fails and nothing else does.
//!
//! The HTTP client is a plain socket on purpose: half of the tests send what no HTTP library would send.

#![allow(clippy::disallowed_methods)] // What is tested, and where, is named by the environment.

pub mod control_plane;
mod http;
pub mod process;
mod service;

pub use control_plane::ControlPlane;
pub use http::{Response, read_response};
pub use service::{Home, Service, binary, output_within, started_by, with_few_pid_namespaces};

use serde_json::Value;
use std::time::{Duration, Instant};

/// How long to wait for what has to come: these seconds, or a multiple of them on an emulated machine. It bounds waiting
/// only: no assertion on a time that was measured goes by it.
pub fn patience(seconds: u64) -> Duration {
    let times = std::env::var("CONFORMANCE_PATIENCE").ok().and_then(|text| text.parse::<u32>().ok());
    Duration::from_secs(seconds) * times.unwrap_or(1).max(1)
}

/// Copies a program by a process of its own: while this one has a program open for writing, another thread may fork and hold it
/// open, and then nobody can execute it (execve(2), ETXTBSY).
#[track_caller]
pub fn copy_program(program: &std::path::Path, target: &std::path::Path) {
    let copied = std::process::Command::new("/bin/cp").arg(program).arg(target).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} could not be copied", program.display());
}

/// Says past what the test runner keeps to itself that a test is left out, and why.
pub fn skipped(test: &str, why: &str) {
    let text = format!("\n  SKIPPED, 1 test: {test}: {why}\n");
    std::io::Write::write_all(&mut std::io::stderr().lock(), text.as_bytes()).ok();
}

/// Whether this test can be made: it breaks things for one process only, which takes root. Says so if not.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(test, "it needs the tests to run as root");
    }
    root
}

/// Waits until `condition` holds, and fails the test with `what` when it does not within `seconds`.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(seconds);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {:?}", patience(seconds));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many processes of this host have `marker` in their command line.
pub fn processes_named(marker: &str) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|cmdline| cmdline.windows(marker.len()).any(|window| window == marker.as_bytes()))
        .count()
}

/// The names of an object's members, sorted.
#[track_caller]
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap_or_else(|| panic!("an object was expected: {value}"))
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

/// Asserts that an execution completed: exit code 0, no signal, no error.
#[track_caller]
pub fn assert_completed(answer: &Value) {
    assert_eq!(answer["status"], "completed", "{}", shortened(answer));
    assert_eq!(answer["exit_code"], 0, "{}", shortened(answer));
    assert!(answer["signal"].is_null(), "{}", shortened(answer));
    assert!(answer["error"].is_null(), "{}", shortened(answer));
}

/// Asserts that an execution failed with this kind of error, and that the error says something.
#[track_caller]
pub fn assert_failed(answer: &Value, kind: &str) {
    let status = if kind == "timeout" { "timeout" } else { "failed" };
    assert_eq!(answer["status"], status, "{}", shortened(answer));
    assert_eq!(answer["error"]["kind"], kind, "{}", shortened(answer));
    assert_eq!(keys(&answer["error"]), ["kind", "message", "name", "traceback"], "{}", shortened(answer));
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "an error without a message: {}", shortened(answer));
    assert!(answer["return_value"].is_null(), "a failed run has no return value: {}", shortened(answer));
}

/// A JSON value for a message: whole if short, else its beginning.
pub fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(2000) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
