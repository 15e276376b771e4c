//! What is put aside, and the command that shows it and brings it back.

use crate::{TOKEN, info, reporting, reporting_at, results, run};
use conformance::control_plane::{Kind, Reply};
use conformance::{ControlPlane, Home, output_within, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs `sandbox-executor outbox …` with the service's folders.
#[track_caller]
fn outbox(state: &std::path::Path, arguments: &[&str]) -> String {
    let home = Home::new();
    let mut command = home.command();
    command.env("STATE_PATH", state).env("INTERNAL_API_TOKEN", TOKEN).arg("outbox").args(arguments);
    let output = output_within(20, &mut command);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{errors}");
    assert!(!format!("{text}{errors}").contains(TOKEN), "{text}{errors}");
    text
}

#[test]
fn what_is_refused_for_good_is_put_aside_told_and_brought_back() {
    let plane = ControlPlane::start();
    let statuses = [400, 405, 410, 413, 415, 422];
    plane.behave(results(move |call| {
        let number = call.execution.strip_prefix("refused-").and_then(|number| number.parse().ok());
        Reply::Status(number.unwrap_or(200))
    }));
    let service = reporting(&plane, &[]);
    for status in statuses {
        run(&service, &format!("refused-{status}"), "true");
    }
    run(&service, "taken", "true");
    plane.result_of("taken", 10);
    wait_until("put aside", 10, || info(&service)["put_aside"] == statuses.len());
    assert_eq!(
        (&info(&service)["pending_reports"], &info(&service)["oldest_pending_seconds"]),
        (&json!(0), &json!(null))
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(plane.of_kind(Kind::Result).len(), statuses.len() + 1, "none is tried again");
    assert!(service.log().contains(
        "[ERROR] Failed to report result: HTTP 422 Unprocessable Entity (execution: refused-422, attempt: 1); put aside: "
    ));

    let state = service.path("state");
    let listed = outbox(&state, &[]);
    assert!(listed.contains("put aside  refused-422  since ") && listed.contains("HTTP 422"), "{listed}");
    assert!(listed.contains("0 waiting, 6 put aside") && listed.contains("outbox retry"), "{listed}");
    let listed: Value = serde_json::from_str(&outbox(&state, &["--json"])).expect("JSON");
    assert_eq!((listed["put_aside"].as_array().map(Vec::len), &listed["waiting"]), (Some(6), &json!([])));
    assert_eq!(listed["put_aside"][0]["attempts"], 1);

    plane.behave(|_| Reply::Status(200));
    let retried: Value = serde_json::from_str(&outbox(&state, &["retry", "--json"])).expect("JSON");
    assert_eq!(retried, json!({"brought_back": 6, "service_running": true}));
    for status in statuses {
        plane.result_of(&format!("refused-{status}"), 10);
    }
    wait_until("nothing is left", 10, || info(&service)["put_aside"] == 0 && info(&service)["pending_reports"] == 0);
    assert_eq!(outbox(&state, &[]), "0 waiting, 0 put aside\n");
}

#[test]
fn without_a_service_they_go_at_the_next_start() {
    let plane = ControlPlane::start();
    plane.behave(results(|_| Reply::Status(422)));
    let service = reporting(&plane, &[]);
    run(&service, "aside", "true");
    wait_until("put aside", 10, || info(&service)["put_aside"] == 1);
    let home = service.stopped();
    let state = home.path("state");
    // A start alone brings nothing back.
    let service = reporting_at(home, &plane, &[]);
    plane.wait_for(Kind::Ready, 2, 10);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(plane.of_kind(Kind::Result).len(), 1);
    let home = service.stopped();
    let retried = outbox(&state, &["retry"]);
    assert_eq!(retried, "1 report to be sent again: they are sent when the service starts\n");
    assert!(outbox(&state, &[]).contains("waiting    aside"));
    plane.behave(|_| Reply::Status(200));
    let _service = reporting_at(home, &plane, &[]);
    plane.result_of("aside", 10);
}

#[test]
fn a_retry_makes_what_waits_due_at_once() {
    let plane = ControlPlane::start();
    plane.behave(results(|_| Reply::With(503, "Retry-After", "1".into())));
    let service = reporting(&plane, &[]);
    run(&service, "waits", "true");
    // Into the longer delays.
    plane.wait_for(Kind::Heartbeat, 1, 10);
    plane.wait_for(Kind::Result, 4, 20);
    let before = plane.of_kind(Kind::Result).len();
    plane.behave(|_| Reply::Status(200));
    assert!(outbox(&service.path("state"), &["retry"]).contains("1 report to be sent again: the running service"));
    wait_until("it goes", 5, || plane.of_kind(Kind::Result).len() > before);
}

#[test]
fn there_is_nothing_where_nothing_was_run() {
    let home = Home::new();
    assert_eq!(outbox(&home.path("state"), &[]), "0 waiting, 0 put aside\n");
    assert_eq!(outbox(&home.path("state"), &["retry"]), "Nothing waits and nothing was put aside\n");
    assert!(!home.path("state").exists());
}

#[test]
fn doctor_tells_what_waits() {
    let plane = ControlPlane::start();
    plane.behave(results(|_| Reply::Status(422)));
    let service = reporting(&plane, &[]);
    let check = |service: &conformance::Service| {
        let home = Home::new();
        let mut command = home.command();
        command.env("STATE_PATH", service.path("state")).env("WORKSPACE_PATH", service.path("workspaces"));
        command.env("EXECUTOR_PORT", "0").args(["doctor", "--json"]);
        let found: Value = serde_json::from_slice(&output_within(60, &mut command).stdout).expect("JSON");
        let checks = found["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|check| check["name"] == "reports").expect("the check")
    };
    run(&service, "aside", "true");
    wait_until("put aside", 10, || info(&service)["put_aside"] == 1);
    let seen = check(&service);
    assert_eq!((&seen["status"], &seen["evidence"]), (&json!("warning"), &json!("0 waiting, 1 put aside")));
    assert!(seen["fix"].as_str().is_some_and(|fix| fix.contains("sandbox-executor outbox retry")), "{seen}");
    plane.behave(|_| Reply::Status(200));
    outbox(&service.path("state"), &["retry"]);
    wait_until("nothing is left", 10, || info(&service)["pending_reports"] == 0 && info(&service)["put_aside"] == 0);
    assert_eq!(check(&service)["status"], "ok");
}
