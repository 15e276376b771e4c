//! The service around an execution: its routes, its log, its queue, its start and its end.

use conformance::{Home, Service, assert_completed, assert_failed, keys, output_within, processes_named, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

fn count(info: &Value, field: &str) -> u64 {
    info[field].as_u64().unwrap_or_else(|| panic!("{field}: {info}"))
}

#[test]
fn the_root_says_what_this_is() {
    let service = Service::start();
    let response = service.get("/");
    assert_eq!(response.status, 200);
    let text = response.text();
    assert!(text.contains("sandbox-executor"), "{text}");
    let version = service.get("/info").json()["version"].clone();
    assert_eq!(response.json()["version"], version);
    assert!(text.contains("/execute"), "links to what can be done: {text}");
}

#[test]
fn health_has_exactly_the_fields_of_the_contract() {
    let service = Service::start();
    let response = service.get("/health");
    assert_eq!(response.status, 200);
    let health = response.json();
    let expected =
        ["active_executions", "isolation", "isolation_details", "platform", "status", "uptime_seconds", "version"];
    assert_eq!(keys(&health), expected);
    assert_eq!(keys(&health["isolation_details"]), ["enforcement", "mode", "reason"]);
    assert_eq!(health["status"], "healthy");
    assert!(["Linux", "macOS"].contains(&health["platform"].as_str().expect("text")));
    assert!(["native", "bubblewrap", "seatbelt", "none"].contains(&health["isolation"].as_str().expect("text")));
    assert!(health["uptime_seconds"].as_f64().expect("a number") >= 0.0);
    if service.is_ours() {
        assert_eq!(health["active_executions"], 0);
    }
}

#[test]
fn health_tries_the_workspace() {
    // What is made ahead would make a folder in the one that goes.
    let service = Service::with(&[("WARM_PYTHON", "0"), ("WARM_NODE", "0")]);
    assert_eq!(service.get("/health").status, 200);
    std::fs::remove_dir_all(service.path("workspaces")).expect("the workspace root goes");
    wait_until("/health is unhealthy", 15, || service.get("/health").status == 503);
    let health = service.get("/health").json();
    assert_eq!(health["status"], "unhealthy");
    assert!(health["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{health}");
}

#[test]
fn info_has_the_fields_of_the_contract() {
    let service = Service::with(&[
        ("INTERNAL_API_TOKEN", "canary-of-info"),
        ("MAX_MEMORY_MB", "300"),
        ("MAX_CONCURRENT_EXECUTIONS", "7"),
    ]);
    let response = service.get("/info");
    assert_eq!(response.status, 200);
    assert!(!response.text().contains("canary-of-info"));
    let info = response.json();
    let fields: Vec<&str> = keys(&info).into_iter().filter(|name| *name != "control_plane").collect();
    assert_eq!(
        fields,
        [
            "active_executions",
            "isolation",
            "isolation_details",
            "isolation_version",
            "limits",
            "max_concurrent_executions",
            "packages",
            "platform",
            "queued_executions",
            "runtimes",
            "version",
            "workspace_path"
        ]
    );
    assert_eq!(keys(&info["isolation_details"]), ["enforcement", "lacks", "mode", "reason", "refused"]);
    assert_eq!(info["max_concurrent_executions"], 7);
    assert_eq!(count(&info, "active_executions"), 0);
    assert_eq!(count(&info, "queued_executions"), 0);
    assert_eq!(info["limits"]["memory_mb"], 300);
    assert_eq!(info["workspace_path"].as_str(), service.path("workspaces").to_str());
    let mut languages: Vec<&str> = info["runtimes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|runtime| {
            let version = runtime["version"].as_str().expect("a version");
            assert!(version.contains(|c: char| c.is_ascii_digit()), "{runtime}");
            runtime["language"].as_str().expect("a language")
        })
        .collect();
    languages.sort_unstable();
    assert_eq!(languages, ["javascript", "python", "shell"]);
}

#[test]
fn an_execution_is_counted_while_it_runs() {
    let service = Service::with(&[]);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| service.run("shell", "sleep 1"));
        wait_until("/info counts it", 5, || count(&service.get("/info").json(), "active_executions") == 1);
        assert_eq!(count(&service.get("/health").json(), "active_executions"), 1);
        assert_completed(&run.join().expect("an answer"));
    });
    assert_eq!(count(&service.get("/info").json(), "active_executions"), 0);
}

#[test]
fn one_connection_carries_many_requests() {
    let service = Service::start();
    let stream = service.connect();
    for id in ["first", "second", "third"] {
        let bytes = service.request_bytes("GET", "/health", &[("x-request-id", id)], b"");
        let text = String::from_utf8(bytes).expect("text");
        (&stream).write_all(text.replace("Connection: close\r\n", "").as_bytes()).expect("the request is sent");
        let response = conformance::read_response(&stream).expect("an answer");
        assert_eq!(response.header("x-request-id"), Some(id));
    }
}

// --- the log ---

/// The lines that end in this message, each checked for the form `TIMESTAMP [LEVEL] message`.
fn lines_with<'a>(log: &'a str, message: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(message)).collect();
    for line in &lines {
        let timestamp = line.split(' ').next().unwrap_or_default();
        assert!(
            timestamp.len() == 24
                && timestamp.ends_with('Z')
                && timestamp.as_bytes()[10] == b'T'
                && timestamp.as_bytes()[19] == b'.',
            "{line}"
        );
    }
    lines
}

#[test]
fn the_log_has_the_documents_patterns() {
    let service = Service::with(&[]);
    let run = |id: &str, code: &str| {
        service.execute(json!({
            "language": "shell", "code": code, "timeout": 1,
            "execution_id": id, "session_id": "session_log"
        }))
    };
    assert_completed(&run("exec_001", ":"));
    assert_failed(&run("exec_002", "sleep 9"), "timeout");
    let log = service.log();
    for (message, lines) in [
        ("[INFO] Starting execution: exec_001 (language: shell, session: session_log)", 1),
        ("[INFO] Execution completed: exec_001 (duration: ", 1),
        ("[INFO] Starting execution: exec_002 (language: shell, session: session_log)", 1),
        ("[ERROR] Execution timeout: exec_002 (timeout: 1s)", 1),
        ("[INFO] Process killed: exec_002", 1),
    ] {
        assert_eq!(lines_with(&log, message).len(), lines, "{message}");
    }
    let completed = lines_with(&log, "Execution completed: exec_001")[0];
    let duration = completed.split("(duration: ").nth(1).and_then(|rest| rest.split("ms)").next()).unwrap_or_default();
    assert!(duration.parse::<u32>().is_ok(), "{completed}");
}

#[test]
fn nothing_of_a_users_data_is_logged() {
    for format in ["text", "json"] {
        let service = Service::with(&[("LOG_FORMAT", format), ("INTERNAL_API_TOKEN", "canary-0")]);
        service.execute(json!({
            "language": "python", "event": {"a": "canary-1"}, "env_vars": {"A": "canary-2"},
            "stdin": "canary-3", "code": "print('canary-4')\nraise ValueError('canary-5')"
        }));
        service.post("{\"code\": \"canary-6\"");
        service.post(json!({"code": "canary-7", "language": "canary-8"}).to_string());
        let log = service.log();
        assert!(log.contains("Starting execution"), "{log}");
        assert!(!log.contains("canary"), "{log}");
    }
}

#[test]
fn the_log_can_be_json() {
    let service = Service::with(&[("LOG_FORMAT", "json")]);
    service.execute(json!({
        "language": "shell", "code": ":", "execution_id": "exec_json", "session_id": "session_json"
    }));
    let log = service.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{line}");
        }
    }
    let line = |message: &str| {
        lines
            .iter()
            .find(|line| line["message"].as_str().expect("text").starts_with(message))
            .unwrap_or_else(|| panic!("no line {message:?} in {log}"))
    };
    for message in ["Starting execution", "Execution completed"] {
        assert_eq!(line(message)["execution_id"], "exec_json");
        assert_eq!(line(message)["session_id"], "session_json");
        assert_eq!(line(message)["level"], "INFO");
    }
    assert!(line("Execution completed")["duration_ms"].is_number());
}

#[test]
fn the_log_level_is_kept() {
    let port = free_port();
    for level in ["WARNING", "ERROR"] {
        let service = Service::with(&[("LOG_LEVEL", level), ("EXECUTOR_PORT", &port)]);
        service.execute(json!({"language": "shell", "code": "sleep 9", "timeout": 1}));
        let log = service.log();
        assert!(!log.contains("[INFO]") && !log.contains("[DEBUG]"), "{log}");
        assert!(log.contains("[ERROR] Execution timeout"), "{log}");
    }
    let service = Service::with(&[("LOG_LEVEL", "DEBUG")]);
    service.run("shell", ":");
    assert!(service.log().contains("[INFO] Starting execution"));
}

/// A port that was free a moment ago.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port().to_string()
}

#[test]
fn the_log_file_is_opened_anew_on_sighup() {
    let home = Home::new();
    let file = home.path("executor.log");
    let moved = home.path("executor.log.1");
    let service = Service::at(home, &[("LOG_FILE", file.to_str().expect("text"))]);
    let run = |id: &str| {
        service.execute(json!({"language": "shell", "code": ":", "execution_id": id}));
    };
    let has = |path: &std::path::Path, id: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("Starting execution: {id}")))
    };
    run("exec_before");
    wait_until("the file has the first", 5, || has(&file, "exec_before"));
    std::fs::rename(&file, &moved).expect("the file is moved away");
    run("exec_between");
    wait_until("the old file has the second", 5, || has(&moved, "exec_between"));
    service.signal(Signal::HUP);
    wait_until("the file is there again", 5, || file.exists());
    run("exec_after");
    wait_until("the new file has the third", 5, || has(&file, "exec_after"));
    assert!(!has(&moved, "exec_after"));
    let log = service.log();
    assert!(log.contains("exec_before") && log.contains("exec_after"));
}

// --- the queue ---

/// Has the service run something until it is let go, and waits until it does.
fn occupy<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    service: &'scope Service,
) -> std::thread::ScopedJoinHandle<'scope, Value> {
    let code = "while ! [ -e go ]; do sleep 0.02; done";
    let request = json!({"language": "shell", "code": code, "session_id": "occupied", "timeout": 60});
    let running = scope.spawn(move || service.execute(request));
    let folder = service.path("workspaces/occupied");
    wait_until("the first runs", 5, || {
        count(&service.get("/info").json(), "active_executions") == 1 && folder.exists()
    });
    running
}

fn let_go(service: &Service) {
    std::fs::write(service.path("workspaces/occupied/go"), "").expect("a word to the first");
}

#[test]
fn a_full_queue_is_told_with_a_time_to_come_back() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "1")]);
    std::thread::scope(|scope| {
        let running = occupy(scope, &service);
        let waiting = scope.spawn(|| service.run("shell", "echo second"));
        wait_until("the second waits", 5, || count(&service.get("/info").json(), "queued_executions") == 1);
        let start = Instant::now();
        let response = service.post(json!({"language": "shell", "code": ":"}).to_string());
        response.assert_error(503, "Executor.QueueFull");
        assert!(start.elapsed() < Duration::from_secs(1), "told at once");
        let after = response.header("retry-after").expect("Retry-After");
        assert!(after.parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{after}");
        assert_eq!(service.get("/health").status, 200);
        std::thread::sleep(Duration::from_millis(500));

        let_go(&service);
        assert_completed(&running.join().expect("an answer"));
        let second = waiting.join().expect("an answer");
        assert_eq!(second["stdout"], "second\n");
        let queued = second["metrics"]["queue_ms"].as_f64().expect("a number");
        assert!(queued > 300.0, "{queued} ms in the queue");
        let seconds = second["execution_time"].as_f64().expect("a number");
        assert!(seconds < 1.5, "waiting is no execution time: {seconds}");
    });
    service.assert_alive();
}

#[test]
fn who_comes_first_is_served_first() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    std::thread::scope(|scope| {
        let first = occupy(scope, &service);
        let mut waiting = Vec::new();
        for position in 1..=5 {
            waiting.push(scope.spawn(|| service.run("shell", "date +%s%N >&3")));
            wait_until("it waits", 5, || count(&service.get("/info").json(), "queued_executions") == position);
        }
        let_go(&service);
        assert_completed(&first.join().expect("an answer"));
        let times: Vec<u64> = waiting
            .into_iter()
            .map(|run| run.join().expect("an answer")["return_value"].as_u64().expect("a time"))
            .collect();
        assert!(times.is_sorted(), "{times:?}");
    });
}

#[test]
fn a_client_that_leaves_frees_its_place_in_the_queue() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "1")]);
    std::thread::scope(|scope| {
        let running = occupy(scope, &service);
        let body = json!({"language": "shell", "code": ":", "execution_id": "exec_left"});
        let bytes = service.request_bytes("POST", "/execute", &[], body.to_string().as_bytes());
        let mut stream = service.connect();
        stream.write_all(&bytes).expect("the request is sent");
        wait_until("the second waits", 5, || count(&service.get("/info").json(), "queued_executions") == 1);
        drop(stream);
        wait_until("its place is free", 10, || count(&service.get("/info").json(), "queued_executions") == 0);
        let third = scope.spawn(|| service.run("shell", "echo third"));
        wait_until("the third waits", 5, || count(&service.get("/info").json(), "queued_executions") == 1);
        let_go(&service);
        assert_eq!(third.join().expect("an answer")["stdout"], "third\n");
        assert_completed(&running.join().expect("an answer"));
    });
    assert!(!service.log().contains("Starting execution: exec_left"));
}

// --- start and end ---

#[test]
fn a_second_service_on_the_same_state_stops() {
    let service = Service::with(&[]);
    let other = Home::new();
    let state = service.path("state");
    let start = Instant::now();
    let output = output_within(10, other.command().arg("serve").env("EXECUTOR_PORT", "0").env("STATE_PATH", &state));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("STATE_PATH") || stderr.contains(state.to_str().expect("text")), "{stderr}");
    service.assert_alive();
}

#[test]
fn two_services_with_their_own_state_run_side_by_side() {
    let (first, second) = (Service::with(&[]), Service::with(&[]));
    first.assert_alive();
    second.assert_alive();
}

#[test]
fn a_state_folder_is_free_again_after_its_service() {
    let home = Home::new();
    let state = home.path("kept-state");
    let state = state.to_str().expect("text").to_owned();
    let mut service = Service::with(&[("STATE_PATH", &state)]);
    service.signal(Signal::KILL);
    service.wait(5);
    Service::with(&[("STATE_PATH", &state)]).assert_alive();
}

#[test]
fn sigterm_ends_with_status_143_and_takes_every_execution_along() {
    let mut service = Service::with(&[]);
    let marker = format!("conformance-term-{}", std::process::id());
    let code = format!("exec -a {marker} sleep 60");
    let bytes = service.request_bytes(
        "POST",
        "/execute",
        &[],
        json!({"language": "shell", "code": code}).to_string().as_bytes(),
    );
    let mut stream = service.connect();
    stream.write_all(&bytes).expect("the request is sent");
    wait_until("the program runs", 10, || processes_named(&marker) > 0);
    service.signal(Signal::TERM);
    assert_eq!(service.wait(5).code(), Some(143));
    wait_until("the program is gone", 2, || processes_named(&marker) == 0);
}

#[test]
fn nothing_outlives_a_service_that_was_killed() {
    let mut service = Service::with(&[]);
    let marker = format!("conformance-kill-{}", std::process::id());
    let code = format!("trap '' TERM HUP; setsid bash -c 'exec -a {marker} sleep 60' & sleep 60");
    let bytes = service.request_bytes(
        "POST",
        "/execute",
        &[],
        json!({"language": "shell", "code": code}).to_string().as_bytes(),
    );
    let mut stream = service.connect();
    stream.write_all(&bytes).expect("the request is sent");
    wait_until("the program runs", 10, || processes_named(&marker) > 0);
    service.signal(Signal::KILL);
    service.wait(5);
    wait_until("the program is gone", 5, || processes_named(&marker) == 0);
}

#[test]
fn the_grace_lets_running_executions_end() {
    let mut service = Service::with(&[("SHUTDOWN_GRACE", "10")]);
    let body = json!({"language": "shell", "code": "sleep 1.5; echo end"}).to_string();
    let bytes = service.request_bytes("POST", "/execute", &[], body.as_bytes());
    let mut stream = service.connect();
    stream.write_all(&bytes).expect("the request is sent");
    wait_until("it runs", 5, || count(&service.get("/info").json(), "active_executions") == 1);
    service.signal(Signal::TERM);
    let response = conformance::read_response(&stream).expect("an answer");
    assert_eq!(response.json()["stdout"], "end\n");
    assert_eq!(service.wait(5).code(), Some(143));
}
