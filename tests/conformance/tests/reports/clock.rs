//! A wall clock that jumps: nothing is lost, put in another order or timed by it.

use crate::{TOKEN, info, results, run};
use conformance::control_plane::{Kind, Reply};
use conformance::{ControlPlane, Home, Service, assert_completed, wait_until};
use serde_json::Value;
use std::path::Path;

/// Debian's faketime: the service's wall clock is what a file says, its monotonic one is left alone.
const PRELOAD: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn a_clock_that_jumps_loses_nothing() {
    if !Path::new(PRELOAD).exists() {
        return conformance::skipped("a_clock_that_jumps_loses_nothing", "libfaketime is not installed here");
    }
    let plane = ControlPlane::start();
    plane.behave(results(|_| Reply::Status(503)));
    let home = Home::new();
    let clock = home.write("clock", "+0d\n");
    let variables = [
        format!("LD_PRELOAD={PRELOAD}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let outer: Vec<&str> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
    let url = plane.url();
    let settings = [("CONTROL_PLANE_URL", url.as_str()), ("INTERNAL_API_TOKEN", TOKEN), ("RESULT_RETENTION", "3600")];
    let service = Service::started_by(&outer, home, &settings);
    let mut ids = Vec::new();
    for (number, jump) in ["+0d", "+400d", "-400d", "+0d"].into_iter().enumerate() {
        std::fs::write(&clock, format!("{jump}\n")).expect("the clock's file");
        let id = format!("jump-{number}");
        // The clock jumps back under it while it runs.
        let answer = run(&service, &id, "sleep 0.2; date +%N");
        assert_completed(&answer);
        let seconds = answer["execution_time"].as_f64().unwrap_or(-1.0);
        assert!((0.2..20.0).contains(&seconds), "{answer}");
        ids.push((id, answer));
    }
    // The control: the service saw the jumps.
    let years: std::collections::BTreeSet<String> = service
        .log()
        .lines()
        .filter(|line| line.contains("Execution completed"))
        .map(|line| line[..4].into())
        .collect();
    assert!(years.len() >= 2, "{years:?}");
    // In the order in which they came, and none expired.
    let listed: Value = service.get("/executions").json();
    let listed: Vec<&str> = listed["executions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["execution_id"].as_str())
        .collect();
    assert_eq!(listed, ["jump-3", "jump-2", "jump-1", "jump-0"]);
    for (id, answer) in &ids {
        assert_eq!(&service.get(&format!("/executions/{id}")).json(), answer);
    }
    // And those that wait to be reported do so by no clock on the wall.
    std::fs::write(&clock, "-800d\n").expect("the clock's file");
    plane.wait_for(Kind::Result, 8, 60);
    plane.behave(|_| Reply::Status(200));
    for (id, answer) in &ids {
        assert_eq!(plane.result_of(id, 60)["stdout"], answer["stdout"]);
    }
    wait_until("all of it is reported", 10, || info(&service)["pending_reports"] == 0);
}
