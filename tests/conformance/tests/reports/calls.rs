//! Each call as the contract has it, when everything goes well.

use crate::{TOKEN, reporting, run};
use conformance::control_plane::{Call, Kind, Reply};
use conformance::{ControlPlane, keys, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[track_caller]
fn assert_head(call: &Call) {
    assert_eq!(call.method, "POST");
    assert_eq!(call.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(call.header("content-length"), Some(call.body.len().to_string().as_str()));
    assert_eq!(call.header("transfer-encoding"), None);
    let key = (call.kind == Kind::Result).then_some(call.execution.as_str());
    assert_eq!(call.header("idempotency-key"), key);
}

#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().expect("a time");
    assert!(text.len() == 24 && text.starts_with("20") && text.ends_with('Z') && &text[10..11] == "T", "{text}");
}

#[test]
fn from_the_start_to_the_end_in_order() {
    let plane = ControlPlane::start();
    let mut service = reporting(&plane, &[("CONTAINER_ID", "container-1"), ("POD_NAME", "pod-1")]);
    plane.wait_for(Kind::Ready, 1, 10);
    assert_eq!(run(&service, "exec_001", "echo out; echo err >&2; echo '{\"n\":1}' >&3")["status"], "completed");
    let result = plane.result_of("exec_001", 10);
    service.signal(Signal::TERM);
    assert_eq!(service.wait(10).code(), Some(143));

    let calls = plane.calls();
    let kinds: Vec<Kind> = calls.iter().map(|call| call.kind).collect();
    assert_eq!(kinds, [Kind::Ready, Kind::Heartbeat, Kind::Result, Kind::Exited]);
    calls.iter().for_each(assert_head);
    let paths: Vec<&str> = calls.iter().map(|call| call.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/api/v1/internal/containers/ready",
            "/api/v1/internal/executions/exec_001/heartbeat",
            "/api/v1/internal/executions/exec_001/result",
            "/api/v1/internal/containers/exited",
        ]
    );

    let port: u16 = service.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let ready = calls[0].json();
    assert_eq!(keys(&ready), ["container_id", "event_type", "executor_port", "pod_name", "ready_at"]);
    assert_time(&ready["ready_at"]);
    let heartbeat = calls[1].json();
    assert_eq!(heartbeat["progress"], json!({"status": "running"}));
    assert_eq!(keys(&heartbeat), ["progress", "timestamp"]);
    assert_time(&heartbeat["timestamp"]);
    let fields = ["artifacts", "execution_time", "exit_code", "metrics", "return_value", "status", "stderr", "stdout"];
    assert_eq!(keys(&result), fields);
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("success"), &json!(0)));
    assert_eq!((&result["stdout"], &result["stderr"]), (&json!("out\n"), &json!("err\n")));
    assert_eq!((&result["return_value"], &result["artifacts"]), (&json!({"n": 1}), &json!([])));
    assert!(result["execution_time"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{result}");
    assert!(result["metrics"]["duration_ms"].is_number(), "{result}");
    let exited = calls[3].json();
    let fields = ["container_id", "event_type", "executor_port", "exit_code", "exit_reason", "exited_at", "pod_name"];
    assert_eq!(keys(&exited), fields);
    assert_eq!((&exited["exit_code"], &exited["exit_reason"]), (&json!(143), &json!("sigterm")));
    assert_time(&exited["exited_at"]);
    for (event, name) in [(&ready, "ready"), (&exited, "exited")] {
        assert_eq!(event["event_type"], name);
        assert_eq!((&event["container_id"], &event["pod_name"]), (&json!("container-1"), &json!("pod-1")));
        assert_eq!(event["executor_port"], json!(port));
    }
}

#[test]
fn without_a_token_none_is_sent_and_the_host_is_who_reports() {
    let plane = ControlPlane::start();
    let url = plane.url();
    let _service = conformance::Service::with(&[("CONTROL_PLANE_URL", &url)]);
    let ready = plane.wait_for(Kind::Ready, 1, 10).remove(0);
    assert_eq!(ready.header("authorization"), None);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!((&ready.json()["container_id"], &ready.json()["pod_name"]), (&json!(host), &json!(host)));
}

#[test]
fn every_end_has_its_status_and_a_number() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[]);
    let memory = "x = []\nwhile len(x) < 300: x.append(bytearray(1024 * 1024))";
    let ends = [
        ("ok", json!({"language": "shell", "code": "true"}), "success", 0),
        ("exit", json!({"language": "shell", "code": "exit 3"}), "failed", 3),
        ("exception", json!({"language": "python", "code": "raise ValueError('no')"}), "failed", 1),
        ("no_handler", json!({"language": "python", "code": "1", "mode": "handler"}), "failed", 1),
        ("signal", json!({"language": "shell", "code": "kill -SEGV $$"}), "failed", 139),
        ("timeout", json!({"language": "shell", "code": "echo before; sleep 30", "timeout": 1}), "timeout", 124),
        ("memory", json!({"language": "python", "code": memory, "limits": {"memory_mb": 64}}), "failed", 137),
        ("nan", json!({"language": "python", "code": "def handler(event): return float('nan')"}), "failed", 1),
    ];
    for (id, mut request, _, _) in ends.clone() {
        request["execution_id"] = id.into();
        service.execute(request);
    }
    for (id, _, status, exit_code) in ends {
        let result = plane.result_of(id, 10);
        assert_eq!((&result["status"], &result["exit_code"]), (&json!(status), &json!(exit_code)), "{id}: {result}");
        assert!(result["stdout"].is_string() && result["stderr"].is_string(), "{id}: {result}");
        let kinds: Vec<Kind> = plane.of_execution(id).iter().map(|call| call.kind).collect();
        assert!(kinds.starts_with(&[Kind::Heartbeat]) && kinds.ends_with(&[Kind::Result]), "{id}: {kinds:?}");
    }
    assert_eq!(plane.result_of("timeout", 1)["stdout"], "before\n");
    assert!(plane.result_of("nan", 1)["return_value"].is_null());
}

#[test]
fn values_pass_as_the_json_that_they_are() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[]);
    let code = "def handler(event):\n    print('\\x00\\x1b\\u2028 \\\\ \"')\n    return [10**30, 1.10, 'ä\\U0001f600', {}, None]";
    service.execute(json!({"language": "python", "execution_id": "values", "code": code}));
    plane.result_of("values", 10);
    let calls = plane.of_execution("values");
    let text = calls.last().expect("a call").text();
    assert!(text.contains("1000000000000000000000000000000"), "{text}");
    let stdout = calls.last().expect("a call").json()["stdout"].clone();
    assert_eq!(stdout, "\u{0}\u{1b}\u{2028} \\ \"\n");
}

#[test]
fn artifacts_are_a_list_of_paths() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[]);
    let answer = run(&service, "files", "mkdir output; echo 1 > output/a.csv; echo 2 > 'b c.txt'");
    assert_eq!(answer["artifacts"].as_array().map(Vec::len), Some(2), "{answer}");
    let mut paths = plane.result_of("files", 10)["artifacts"].as_array().cloned().expect("a list");
    paths.sort_by_key(ToString::to_string);
    assert_eq!(paths, [json!("b c.txt"), json!("output/a.csv")]);
}

#[test]
fn large_results_pass_whole() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[]);
    let code = "import sys\nsys.stdout.write('\\x01' * 3_000_000)\ndef handler(event): return 'x' * 5_000_000";
    service.execute(json!({"language": "python", "execution_id": "large", "code": code}));
    let result = plane.result_of("large", 20);
    assert_eq!(result["stdout"].as_str().map(str::len), Some(3_000_000));
    assert_eq!(result["return_value"].as_str().map(str::len), Some(5_000_000));
}

#[test]
fn a_running_execution_beats_at_its_interval_and_not_behind_its_end() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[("HEARTBEAT_INTERVAL", "1")]);
    plane.wait_for(Kind::Ready, 1, 10);
    let start = Instant::now();
    run(&service, "long", "sleep 3.4");
    plane.result_of("long", 10);
    std::thread::sleep(Duration::from_millis(1500));
    let calls = plane.of_execution("long");
    let beats: Vec<f64> = calls
        .iter()
        .filter(|call| call.kind == Kind::Heartbeat)
        .map(|call| call.came.duration_since(start).as_secs_f64())
        .collect();
    assert!((4..=5).contains(&beats.len()), "{beats:?}");
    assert!(beats[0] < 0.8, "at the start: {beats:?}");
    assert!(beats.windows(2).all(|pair| pair[1] - pair[0] > 0.5), "{beats:?}");
    assert_eq!(calls.last().map(|call| call.kind), Some(Kind::Result));
}

#[test]
fn the_end_is_told_when_the_grace_is_over_and_so_is_what_it_ended() {
    for (signal, reason) in [(Signal::TERM, "sigterm"), (Signal::INT, "sigint")] {
        let plane = ControlPlane::start();
        let mut service = reporting(&plane, &[("SHUTDOWN_GRACE", "1")]);
        plane.wait_for(Kind::Ready, 1, 10);
        let request = json!({"language": "shell", "code": "sleep 30", "execution_id": "cut"}).to_string();
        let bytes = service.request_bytes("POST", "/execute", &[], request.as_bytes());
        let mut stream = service.connect();
        std::io::Write::write_all(&mut stream, &bytes).expect("a request");
        plane.wait_for(Kind::Heartbeat, 1, 10);
        let start = Instant::now();
        service.signal(signal);
        assert_eq!(service.wait(10).code(), Some(143));
        let exited = plane.wait_for(Kind::Exited, 1, 1).remove(0);
        let after = exited.came.duration_since(start).as_secs_f64();
        assert!((0.9..3.0).contains(&after), "{after}");
        assert_eq!(exited.json()["exit_reason"], reason);
        // What the end of the service ended is told before it.
        let result = plane.result_of("cut", 1);
        assert_eq!((&result["status"], &result["exit_code"]), (&json!("crashed"), &json!(137)), "{result}");
        assert_eq!(plane.calls().last().map(|call| call.kind), Some(Kind::Exited));
    }
}

#[test]
fn one_that_is_cancelled_is_reported_as_failed() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[]);
    std::thread::scope(|scope| {
        scope.spawn(|| service.post(json!({"language": "shell", "code": "sleep 30", "execution_id": "c"}).to_string()));
        plane.wait_for(Kind::Heartbeat, 1, 10);
        assert_eq!(service.request("DELETE", "/executions/c", &[], b"").status, 200);
    });
    let result = plane.result_of("c", 10);
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("failed"), &json!(137)), "{result}");
}

#[test]
fn in_async_mode_the_result_goes_to_the_control_plane_alone() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[("EXECUTE_MODE", "async")]);
    let request = json!({"language": "shell", "code": "sleep 0.5; echo done", "execution_id": "later"});
    let answer = service.execute(request);
    assert_eq!(answer, json!({"execution_id": "later", "status": "PENDING", "message": "Execution submitted"}));
    let result = plane.result_of("later", 10);
    assert_eq!((&result["status"], &result["stdout"]), (&json!("success"), &json!("done\n")));
    let kinds: Vec<Kind> = plane.of_execution("later").iter().map(|call| call.kind).collect();
    assert_eq!(kinds, [Kind::Heartbeat, Kind::Result]);
}

#[test]
fn a_repeated_request_is_reported_once() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[]);
    let first = run(&service, "again", "date +%N");
    assert_eq!(run(&service, "again", "date +%N"), first);
    plane.result_of("again", 10);
    run(&service, "other", "true");
    plane.result_of("other", 10);
    assert_eq!(plane.of_execution("again").len(), 2);
}

#[test]
fn what_the_control_plane_does_with_idle_connections_loses_nothing() {
    let plane = ControlPlane::start();
    plane.close_idle_after(Duration::from_millis(300));
    let service = reporting(&plane, &[]);
    for number in 0..5 {
        let id = format!("idle-{number}");
        run(&service, &id, "true");
        plane.result_of(&id, 10);
        std::thread::sleep(Duration::from_millis(500));
    }
    wait_until("nothing waits", 10, || crate::info(&service)["pending_reports"] == 0);
    assert!(!service.log().contains("Failed to"), "{}", service.log());
}

#[test]
fn it_goes_straight_there_through_no_proxy_and_after_no_redirect() {
    let (plane, other) = (ControlPlane::start(), ControlPlane::start());
    let url = other.url();
    let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, url.as_str()));
    let service = reporting(&plane, &proxies);
    run(&service, "straight", "true");
    plane.result_of("straight", 10);
    let target = format!("{url}/api/v1/internal/executions/moved/result");
    plane.behave(crate::results(move |_| Reply::With(307, "Location", target.clone())));
    run(&service, "moved", "true");
    wait_until("a second attempt", 10, || plane.of_execution("moved").len() >= 3);
    assert_eq!(other.count(), 0);
    // The other one can be called: what was not followed there could have been.
    let _service = reporting(&other, &[]);
    other.wait_for(Kind::Ready, 1, 10);
}
