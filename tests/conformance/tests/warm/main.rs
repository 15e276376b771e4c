//! What preparing interpreters ahead must not change: no run finds anything of another, no two draw the same randomness, a
//! warm run shows what a cold one does, and a pool that is empty, broken or killed costs time and never an answer.
//!
//! All of it holds where nothing is warm as well, and is tested there too; what can only be seen where something is says so
//! when it is left out.
#![cfg(target_os = "linux")]

mod client;
mod difference;
mod equal;
mod leaks;
mod pool;
mod randomness;
mod walls;

use conformance::{Service, patience, skipped};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A service that prepares no interpreter.
const COLD: [(&str, &str); 2] = [("WARM_PYTHON", "0"), ("WARM_NODE", "0")];

/// A service that has just started has nothing ready yet.
const READY_WITHIN_S: u64 = 5;

/// Whether the service says that it prepares this language's interpreters.
fn is_warm(service: &Service, language: &str) -> bool {
    let deadline = Instant::now() + patience(READY_WITHIN_S);
    loop {
        let info = service.get("/info").json();
        let runtimes = info["runtimes"].as_array().expect("a list of runtimes");
        if runtimes.iter().any(|runtime| runtime["language"] == language && runtime["warm"] == true) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The same, and says so if not, for a test that shows nothing without.
fn needs_warm(test: &str, service: &Service, languages: &[&str]) -> bool {
    let cold: Vec<&str> = languages.iter().copied().filter(|language| !is_warm(service, language)).collect();
    if !cold.is_empty() {
        skipped(test, &format!("/info says that these are not warm here: {}", cold.join(", ")));
    }
    cold.is_empty()
}

/// What an answer says of how a run ended, and what it printed and returned.
const OUTCOME: [&str; 9] = [
    "status",
    "exit_code",
    "signal",
    "stdout",
    "stderr",
    "stdout_truncated",
    "stderr_truncated",
    "return_value",
    "error",
];

/// That part of an answer which is the same for the same run.
fn outcome(answer: &Value) -> Value {
    OUTCOME.iter().map(|name| ((*name).to_owned(), answer[*name].clone())).collect()
}
