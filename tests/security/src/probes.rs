//! The probes: their text, and running them in a sandbox or as a control on the host.

use crate::column::INHERITED_FD;
use crate::host::Host;
use conformance::output_within;
use serde::Deserialize;
use serde_json::{Value, json};
use std::process::Command;

const TEXT: [&str; 7] = [
    include_str!("../probes/frame.py"),
    include_str!("../probes/files.py"),
    include_str!("../probes/processes.py"),
    include_str!("../probes/network.py"),
    include_str!("../probes/kernel.py"),
    include_str!("../probes/neighbours.py"),
    include_str!("../probes/surface.py"),
];

/// Which of the probes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// Those that one execution tries on the host.
    Alone,
    /// The one that leaves things for another execution to find, and stays.
    Resident,
    /// Those that look for what another execution left.
    Neighbour,
}

/// What came of one attack.
#[derive(Debug, Clone, Deserialize)]
pub struct Finding {
    /// In the catalogue.
    pub number: u32,
    /// What was tried.
    pub name: String,
    /// What should keep it away.
    pub denied: Vec<String>,
    /// What a control says when this host has nothing of that kind.
    pub missing: Vec<String>,
    /// Why it is documented, not prevented, where it gets through.
    pub known: Option<String>,
    /// Whether it got what it was after.
    pub reached: bool,
    /// What it got, or what kept it away.
    pub detail: String,
}

fn text() -> String {
    TEXT.join("\n\n")
}

fn event(scene: Scene, facts: &Value, own: &Value) -> Value {
    let mut host = facts.as_object().expect("facts are an object").clone();
    host.extend(own.as_object().expect("facts are an object").clone());
    let scene = match scene {
        Scene::Alone => "alone",
        Scene::Resident => "resident",
        Scene::Neighbour => "neighbour",
    };
    json!({"scene": scene, "control": host["control"], "host": host, "__timeout": 90})
}

/// A request to `/execute` that runs them in a sandbox.
pub fn request(scene: Scene, session: Option<&str>, facts: &Value) -> Value {
    let own = json!({
        "control": false,
        "victim": 1,
        "scratch": "/workspace",
        "memory_bytes": 512 << 20,
    });
    let mut request = json!({"language": "python", "code": text(), "event": event(scene, facts, &own)});
    if let Some(session) = session {
        request["session_id"] = session.into();
    }
    request
}

/// Runs the controls on the host, in a process that has the same descriptor left open as the service.
#[track_caller]
pub fn on_the_host(host: &Host, facts: &Value) -> Vec<Finding> {
    let own = json!({
        "control": true,
        "victim": host.canary_pid(),
        "scratch": host.folder(),
        "memory_bytes": 512 << 20,
    });
    let program = host.path("probes.py");
    let main = "print(json.dumps(handler(json.load(sys.stdin))))\n";
    std::fs::write(&program, format!("{}\n\n{main}", text())).expect("the probes");
    let input = host.path("event.json");
    std::fs::write(&input, event(Scene::Alone, facts, &own).to_string()).expect("the event");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("exec {INHERITED_FD}<\"$1\" <\"$2\" && exec /usr/bin/python3 -I \"$3\""), "sh"])
        .args([host.folder(), &input, &program])
        .env("CANARY_OF_THE_TEST", host.secret())
        .current_dir(host.folder());
    let output = output_within(100, &mut command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the controls did not run: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}
