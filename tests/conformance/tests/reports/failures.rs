//! What happens when the control plane does not take a call.

use crate::{TOKEN, info, reporting, reporting_at, results, run};
use conformance::control_plane::{Call, Kind, Reply};
use conformance::{ControlPlane, wait_until};
use serde_json::json;
use std::time::{Duration, Instant};

/// Fails the first so many calls for the result of an execution in this way.
fn first(count: usize, reply: Reply) -> impl FnMut(&Call) -> Reply + Send + 'static {
    let mut failed = 0;
    results(move |_| {
        failed += 1;
        if failed <= count { reply.clone() } else { Reply::Status(200) }
    })
}

/// When the calls for the result of this execution came, in seconds from the first.
fn times(plane: &ControlPlane, id: &str) -> Vec<f64> {
    let calls: Vec<Call> = plane.of_execution(id).into_iter().filter(|call| call.kind == Kind::Result).collect();
    calls.iter().map(|call| call.came.duration_since(calls[0].came).as_secs_f64()).collect()
}

#[test]
fn a_refused_connection_is_told_as_the_document_has_it() {
    let mut plane = ControlPlane::start();
    plane.close();
    let service = reporting(&plane, &[("LOG_LEVEL", "DEBUG")]);
    assert_eq!(run(&service, "exec_001", "true")["status"], "completed");
    let lines = [
        "[WARNING] Failed to callback Control Plane: Connection refused (ready)",
        "[WARNING] Failed to callback Control Plane: Connection refused (heartbeat, execution: exec_001)",
        "[ERROR] Failed to report result: Connection refused (execution: exec_001, attempt: 1)",
        "[ERROR] Failed to report result: Connection refused (execution: exec_001, attempt: 2)",
    ];
    for line in lines {
        wait_until(line, 10, || service.log().lines().any(|logged| logged.ends_with(line)));
    }
    assert_eq!(info(&service)["reachable"], false);
    plane.open();
    plane.result_of("exec_001", 20);
    plane.wait_for(Kind::Ready, 1, 20);
    wait_until("it is reachable", 10, || info(&service)["reachable"] == true);
    assert!(service.log().contains("[INFO] Result reported: exec_001 (attempt: "));
    // Ready and heartbeats are told once; nothing was made up for afterwards.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((plane.of_kind(Kind::Ready).len(), plane.of_kind(Kind::Heartbeat).len()), (1, 0));
    assert!(!service.log().contains(TOKEN));
}

#[test]
fn ready_is_told_again_until_it_is_taken() {
    let plane = ControlPlane::start();
    let mut count = 0;
    plane.behave(move |_| {
        count += 1;
        Reply::Status(match count {
            1 => 503,
            2 => 422,
            _ => 200,
        })
    });
    let _service = reporting(&plane, &[]);
    let calls = plane.wait_for(Kind::Ready, 3, 20);
    let gap = |later: usize| calls[later].came.duration_since(calls[later - 1].came).as_secs_f64();
    assert!((0.85..2.0).contains(&gap(1)) && (1.7..4.0).contains(&gap(2)), "{} {}", gap(1), gap(2));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(plane.of_kind(Kind::Ready).len(), 3);
}

#[test]
fn what_may_be_taken_later_is_tried_again_each_time_later() {
    let replies = [
        Reply::Status(401),
        Reply::Status(404),
        Reply::Status(408),
        Reply::Status(429),
        Reply::Status(500),
        Reply::Status(503),
        Reply::Cut,
        Reply::CutWithinHead,
        Reply::CutWithinBody(502),
    ];
    // One after the other: a success beside them is none of their business, and each has a control plane of its own.
    std::thread::scope(|scope| {
        for reply in replies {
            scope.spawn(move || {
                let plane = ControlPlane::start();
                plane.behave(first(2, reply.clone()));
                let service = reporting(&plane, &[]);
                run(&service, "e", "echo once");
                assert_eq!(plane.result_of("e", 20)["stdout"], "once\n");
                let times = times(&plane, "e");
                assert_eq!(times.len(), 3, "{reply:?}: {times:?}");
                assert!((0.85..1.9).contains(&times[1]) && (2.6..4.5).contains(&times[2]), "{reply:?}: {times:?}");
                wait_until("it has left", 10, || info(&service)["pending_reports"] == 0);
            });
        }
    });
}

#[test]
fn a_body_that_is_cut_behind_a_status_that_takes_it_changes_nothing() {
    let plane = ControlPlane::start();
    plane.behave(first(1, Reply::CutWithinBody(200)));
    let service = reporting(&plane, &[]);
    run(&service, "e", "true");
    wait_until("it has left", 10, || info(&service)["pending_reports"] == 0 && plane.of_execution("e").len() == 2);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(plane.of_execution("e").len(), 2);
}

#[test]
fn a_time_that_the_control_plane_names_is_kept_to() {
    let plane = ControlPlane::start();
    plane.behave(first(1, Reply::With(429, "Retry-After", "4".into())));
    let service = reporting(&plane, &[]);
    run(&service, "asked", "true");
    plane.result_of("asked", 20);
    // Others go meanwhile, and their success does not make it come sooner.
    run(&service, "other", "true");
    plane.result_of("other", 10);
    let times = times(&plane, "asked");
    assert!((3.9..6.0).contains(&times[1]), "{times:?}");
}

#[test]
fn results_do_not_wait_for_each_other() {
    let plane = ControlPlane::start();
    plane.behave(results(|call| match call.execution.as_str() {
        "stalled" => Reply::Stall,
        "refused" => Reply::Status(500),
        _ => Reply::Status(200),
    }));
    let service = reporting(&plane, &[]);
    for id in ["stalled", "refused"] {
        run(&service, id, "true");
    }
    for number in 0..20 {
        let (id, start) = (format!("e{number}"), Instant::now());
        run(&service, &id, "true");
        plane.result_of(&id, 10);
        assert!(start.elapsed() < Duration::from_secs(1), "{id}: {:?}", start.elapsed());
    }
    wait_until("the others wait", 10, || info(&service)["pending_reports"] == 2);
    // And a stalled call ends by itself, and is one of those that are tried again.
    let line = "Failed to report result: No answer within 10 s (execution: stalled, attempt: 1)";
    wait_until(line, 20, || service.log().contains(line));
}

#[test]
fn a_control_plane_that_stalls_delays_no_execution() {
    let mut plane = ControlPlane::start();
    plane.behave(|_| Reply::Stall);
    let service = reporting(&plane, &[("HEARTBEAT_INTERVAL", "1")]);
    run(&service, "first", "true");
    let start = Instant::now();
    for number in 0..100 {
        run(&service, &format!("e{number}"), "true");
    }
    let with_stall = start.elapsed();
    assert!(with_stall < Duration::from_secs(10), "{with_stall:?}");
    service.assert_healthy_within(Duration::from_secs(1));
    // Calls do not pile up: heartbeats and results that are under way have bounds, and ready is one.
    let open = plane.calls().iter().filter(|call| call.answered.is_none()).count();
    assert!((1..=40).contains(&open), "{open}");
    // None of their results overtakes its heartbeat.
    plane.behave(|_| Reply::Status(200));
    plane.close();
    plane.open();
    wait_until("all results", 60, || info(&service)["pending_reports"] == 0);
    for number in 0..100 {
        let kinds: Vec<Kind> = plane.of_execution(&format!("e{number}")).iter().map(|call| call.kind).collect();
        let first_result = kinds.iter().position(|kind| *kind == Kind::Result).expect("a result");
        assert!(!kinds[first_result..].contains(&Kind::Heartbeat), "{kinds:?}");
    }
}

#[test]
fn a_thousand_wait_in_little_memory_and_go_in_order_when_it_returns() {
    const COUNT: usize = 1000;
    let mut plane = ControlPlane::start();
    let service = reporting(&plane, &[("WARM_PYTHON", "0"), ("WARM_NODE", "0")]);
    run(&service, "before", "true");
    plane.result_of("before", 10);
    plane.close();
    let execute_some = |from: usize, to: usize| {
        for number in from..to {
            run(&service, &format!("w{number:04}"), "head -c 20000 /dev/zero | tr '\\0' x");
        }
    };
    execute_some(0, 200);
    let early_kib = service.memory_kb("VmRSS");
    execute_some(200, COUNT);
    let last = "Connection refused (execution: w0999, attempt: 1)";
    wait_until(last, 10, || service.log().contains(last));
    let late_kib = service.memory_kb("VmRSS");
    assert_eq!(info(&service)["pending_reports"], COUNT);
    assert!(info(&service)["oldest_pending_seconds"].as_u64().is_some_and(|seconds| seconds < 300));
    // 800 more of 20 kB each would be 16 MB if they were held.
    assert!(late_kib < early_kib + 6 * 1024, "{early_kib} kB, then {late_kib} kB");
    plane.forget();
    plane.open();
    let opened = Instant::now();
    wait_until("all of them", 60, || info(&service)["pending_reports"] == 0);
    assert!(opened.elapsed() < Duration::from_secs(45), "{:?}", opened.elapsed());
    let ids: Vec<String> = plane.of_kind(Kind::Result).into_iter().map(|call| call.execution).collect();
    assert_eq!(ids.len(), COUNT, "each once");
    // Before it is known that it answers, some come at their own time; then all from the oldest on, a few side by side.
    let sweep = ids.iter().position(|id| id == "w0000").expect("the oldest");
    assert!(sweep < 100, "{sweep}");
    for (place, id) in ids.iter().enumerate().skip(sweep) {
        let behind = ids[place..].iter().filter(|other| *other < id).count();
        assert!(behind <= 20, "{id} before {behind} older ones");
    }
}

#[test]
fn an_outage_ends_for_all_at_once() {
    let mut plane = ControlPlane::start();
    plane.close();
    let service = reporting(&plane, &[]);
    for number in 0..20 {
        run(&service, &format!("e{number}"), "true");
    }
    // Into the longer delays.
    std::thread::sleep(Duration::from_secs(8));
    plane.open();
    plane.wait_for(Kind::Result, 1, 20);
    let start = Instant::now();
    wait_until("all of them", 10, || info(&service)["pending_reports"] == 0);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(plane.of_kind(Kind::Result).len(), 20, "each once");
}

#[test]
fn without_a_control_plane_nothing_is_kept_for_one() {
    let plane = ControlPlane::start();
    let service = conformance::Service::with(&[("INTERNAL_API_TOKEN", TOKEN)]);
    run(&service, "e", "true");
    assert_eq!(service.get("/info").json()["control_plane"], json!(null));
    let home = service.stopped();
    let service = reporting_at(home, &plane, &[]);
    plane.wait_for(Kind::Ready, 1, 10);
    assert_eq!(info(&service)["pending_reports"], 0);
    assert_eq!(plane.count(), 1);
}
