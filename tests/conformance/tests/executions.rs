//! Executions as things with an id: their results, running one once however often it is sent, not waiting for it, ending it.

use conformance::{Home, Response, Service, assert_completed, is_root, keys, processes_named, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// Sends a request that is not waited for.
#[track_caller]
fn submit(service: &Service, request: &Value) -> Response {
    service.request("POST", "/execute", &[("Prefer", "respond-async")], request.to_string().as_bytes())
}

#[track_caller]
fn accepted(service: &Service, request: &Value) {
    let response = submit(service, request);
    assert_eq!(response.status, 202, "{}", response.text());
}

#[track_caller]
fn status(service: &Service, id: &str) -> String {
    let response = service.get(&format!("/executions/{id}"));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["status"].as_str().expect("a status").to_owned()
}

#[track_caller]
fn wait_for_status(service: &Service, id: &str, wanted: &str) {
    wait_until(&format!("{id} is {wanted}"), 20, || status(service, id) == wanted);
}

/// A program that leaves a line of its own in its session's workspace, and then does something.
fn leaves_a_line(id: &str, session: &str, then: &str) -> Value {
    let code = format!("echo {id} >> ran; {then}");
    json!({"language": "shell", "code": code, "execution_id": id, "session_id": session})
}

fn lines(service: &Service, session: &str) -> Vec<String> {
    let text = std::fs::read_to_string(service.path("workspaces").join(session).join("ran")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

const UNTIL_GO: &str = "while ! [ -e go ]; do sleep 0.02; done";

fn let_go(service: &Service, session: &str) {
    std::fs::write(service.path("workspaces").join(session).join("go"), "").expect("a word to the program");
}

// --- results ---

#[test]
fn a_result_can_be_fetched_as_it_was_answered() {
    let service = Service::start();
    for request in [
        json!({"language": "python", "code": "print('é\\x00\\x7f')\ndef handler(event): return event", "event": {"a": 1e2}}),
        json!({"language": "shell", "code": "echo out; echo err >&2; exit 3"}),
        json!({"language": "shell", "code": "sleep 9", "timeout": 1}),
    ] {
        let answer = service.post(request.to_string());
        assert_eq!(answer.status, 200);
        let id = answer.json()["execution_id"].as_str().expect("an id").to_owned();
        let again = service.get(&format!("/executions/{id}"));
        assert_eq!((again.status, again.text()), (200, answer.text()));
        assert_eq!(again.header("content-type"), Some("application/json"));
    }
    service.get("/executions/nobody").assert_error(404, "Executor.NotFound");
    service.get("/executions/no%20id").assert_error(404, "Executor.NotFound");
    service.request("PUT", "/executions/x", &[], b"").assert_error(405, "Executor.MethodNotAllowed");
}

#[test]
fn one_that_has_not_ended_tells_how_far_it_is() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    accepted(&service, &leaves_a_line("first", "s", UNTIL_GO));
    wait_until("the first runs", 20, || lines(&service, "s").len() == 1);
    accepted(&service, &leaves_a_line("second", "s", ":"));
    let members =
        ["created_at", "execution_id", "execution_time", "message", "metrics", "session_id", "started_at", "status"];
    let pending = service.get("/executions/second").json();
    assert_eq!(keys(&pending), members);
    assert_eq!((&pending["status"], &pending["started_at"]), (&json!("pending"), &Value::Null));
    assert_eq!((pending["execution_time"].as_f64(), pending["session_id"].as_str()), (Some(0.0), Some("s")));
    std::thread::sleep(Duration::from_millis(300));
    let running = service.get("/executions/first").json();
    assert_eq!(keys(&running), members);
    assert_eq!(running["status"], "running");
    let elapsed = running["execution_time"].as_f64().expect("seconds");
    assert!((0.3..60.0).contains(&elapsed), "{running}");
    let duration_ms = running["metrics"]["duration_ms"].as_f64().expect("milliseconds");
    assert!((duration_ms - elapsed * 1000.0).abs() < 1.0, "{running}");
    for time in ["created_at", "started_at"] {
        assert!(running[time].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{running}");
    }
    let_go(&service, "s");
    wait_for_status(&service, "second", "completed");
    assert_eq!(lines(&service, "s"), ["first", "second"]);
}

#[test]
fn a_result_is_kept_for_its_time_and_then_its_id_is_free() {
    let service = Service::with(&[("RESULT_RETENTION", "2")]);
    let first = service.execute(leaves_a_line("kept", "s", ":"));
    assert_completed(&first);
    assert_eq!(service.get("/executions/kept").json(), first);
    wait_until("it is gone", 20, || service.get("/executions/kept").status == 404);
    assert_completed(&service.execute(leaves_a_line("kept", "s", "true")));
    assert_eq!(lines(&service, "s").len(), 2);
}

// --- the same id again ---

#[test]
fn the_same_request_again_is_answered_with_the_one_result() {
    let service = Service::with(&[]);
    let request = leaves_a_line("once", "s", "date +%s%N");
    let first = service.post(request.to_string());
    let again = service.post(request.to_string());
    assert_eq!((again.status, again.text()), (200, first.text()));
    // As a client would write it that keeps no order.
    let reordered = format!(
        "{{ \"session_id\" : \"s\",\n \"code\":{}, \"stdin\": null, \"execution_id\":\"once\",\"language\":\"shell\"}}",
        request["code"]
    );
    assert_eq!(service.post(reordered).text(), first.text());
    assert_eq!(submit(&service, &request).text(), first.text(), "there is nothing to wait for");
    for other in [
        leaves_a_line("once", "s", "date +%s"),
        leaves_a_line("once", "t", "date +%s%N"),
        json!({"language": "shell", "code": request["code"], "execution_id": "once", "session_id": "s", "timeout": 9}),
    ] {
        service.post(other.to_string()).assert_error(409, "Executor.Conflict");
        submit(&service, &other).assert_error(409, "Executor.Conflict");
    }
    assert_eq!(lines(&service, "s"), ["once"]);
}

#[test]
fn the_same_request_from_many_at_once_runs_once() {
    let service = Service::with(&[]);
    for round in 0..5 {
        let id = format!("round-{round}");
        let request = leaves_a_line(&id, "s", "sleep 0.2; date +%s%N");
        let other = leaves_a_line(&id, "s", "sleep 0.2; date");
        let (answers, conflicts) = std::thread::scope(|scope| {
            let same: Vec<_> = (0..12).map(|_| scope.spawn(|| service.post(request.to_string()))).collect();
            wait_until("it runs", 10, || lines(&service, "s").len() == round + 1);
            let others: Vec<_> = (0..3).map(|_| scope.spawn(|| service.post(other.to_string()))).collect();
            let join = |tasks: Vec<std::thread::ScopedJoinHandle<'_, Response>>| {
                tasks.into_iter().map(|task| task.join().expect("an answer")).collect::<Vec<_>>()
            };
            (join(same), join(others))
        });
        conflicts.iter().for_each(|response| drop(response.assert_error(409, "Executor.Conflict")));
        assert_completed(&answers[0].json());
        assert!(answers.iter().all(|answer| answer.text() == answers[0].text()));
        assert_eq!(lines(&service, "s").len(), round + 1);
    }
}

#[test]
fn the_same_request_after_a_restart_is_answered_with_the_one_result() {
    let home = Home::new();
    let paths = [home.path("kept"), home.path("spaces")].map(|path| path.to_str().expect("text").to_owned());
    let settings = [("STATE_PATH", paths[0].as_str()), ("WORKSPACE_PATH", paths[1].as_str())];
    let request = leaves_a_line("over", "s", "date +%s%N");
    let mut first = None;
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        let mut service = Service::with(&settings);
        let answer = service.post(request.to_string());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), first.get_or_insert_with(|| answer.text().to_owned()).as_str());
        let other = leaves_a_line("over", "s", "date");
        service.post(other.to_string()).assert_error(409, "Executor.Conflict");
        service.signal(signal);
        service.wait(10);
    }
    let ran = std::fs::read_to_string(home.path("spaces/s/ran")).expect("it ran");
    assert_eq!(ran, "over\n");
}

#[test]
fn whoever_waits_with_one_that_leaves_the_queue_takes_its_place() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    let request = leaves_a_line("shared", "s", ":").to_string();
    std::thread::scope(|scope| {
        accepted(&service, &leaves_a_line("first", "s", UNTIL_GO));
        wait_until("the first runs", 20, || lines(&service, "s").len() == 1);
        let bytes = service.request_bytes("POST", "/execute", &[], request.as_bytes());
        let mut leaver = service.connect();
        leaver.write_all(&bytes).expect("the request is sent");
        wait_until("it waits", 10, || service.get("/info").json()["queued_executions"] == 1);
        let stays = scope.spawn(|| service.post(&request));
        std::thread::sleep(Duration::from_millis(200));
        drop(leaver);
        std::thread::sleep(Duration::from_millis(200));
        let_go(&service, "s");
        assert_completed(&stays.join().expect("an answer").json());
    });
    assert_eq!(lines(&service, "s"), ["first", "shared"]);
}

#[test]
fn what_was_refused_before_it_ran_can_be_sent_again() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "0")]);
    assert_completed(&service.execute(json!({"language": "shell", "code": "echo > file", "session_id": "s"})));
    let mut request = leaves_a_line("again", "s", ":");
    request["working_directory"] = json!("file/below");
    service.post(request.to_string()).assert_error(400, "Executor.ValidationError");
    service.get("/executions/again").assert_error(404, "Executor.NotFound");
    accepted(&service, &leaves_a_line("first", "s", UNTIL_GO));
    wait_until("the first runs", 20, || lines(&service, "s").len() == 1);
    request["working_directory"] = json!(".");
    service.post(request.to_string()).assert_error(503, "Executor.QueueFull");
    submit(&service, &request).assert_error(503, "Executor.QueueFull");
    service.get("/executions/again").assert_error(404, "Executor.NotFound");
    let_go(&service, "s");
    wait_for_status(&service, "first", "completed");
    assert_completed(&service.execute(request));
    assert_eq!(lines(&service, "s"), ["first", "again"]);
}

#[test]
fn one_that_a_fault_of_the_service_ended_has_a_result_and_does_not_run_again() {
    let service = Service::with(&[]);
    let request = leaves_a_line("broken", "s", "sleep 30").to_string();
    let launcher = conformance::process::launcher(service.pid()).expect("a launcher");
    let answer = std::thread::scope(|scope| {
        let run = scope.spawn(|| service.post(&request));
        wait_until("it runs", 20, || lines(&service, "s").len() == 1);
        let pid = rustix::process::Pid::from_raw(launcher as i32).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("killed");
        run.join().expect("an answer")
    });
    let result = answer.json();
    assert_eq!((answer.status, &result["status"]), (200, &json!("failed")), "{}", answer.text());
    assert_eq!(result["error"]["kind"], "sandbox");
    assert_eq!(service.post(&request).text(), answer.text());
    assert_eq!(service.get("/executions/broken").text(), answer.text());
    assert_eq!(lines(&service, "s"), ["broken"]);
    // What was made ahead died with the launcher, a moment later.
    std::thread::sleep(Duration::from_millis(300));
    service.assert_alive();
}

// --- not waiting ---

#[test]
fn an_accepted_execution_says_where_its_result_will_be() {
    let service = Service::start();
    let response = submit(&service, &json!({"language": "shell", "code": "echo later"}));
    assert_eq!(response.status, 202);
    assert_eq!(response.header("preference-applied"), Some("respond-async"));
    let body = response.json();
    assert_eq!(keys(&body), ["execution_id", "message", "status"]);
    assert_eq!(body["status"], "pending");
    let location = response.header("location").expect("Location").to_owned();
    assert_eq!(location, format!("/executions/{}", body["execution_id"].as_str().expect("an id")));
    wait_until("it completes", 20, || service.get(&location).json()["status"] == "completed");
    assert_eq!(service.get(&location).json()["stdout"], "later\n");
    // Other preferences are none of ours.
    let body = json!({"language": "shell", "code": ":"}).to_string();
    let waited = service.request("POST", "/execute", &[("Prefer", "return=minimal, wait=10")], body.as_bytes());
    assert_completed(&waited.json());
    let both = service.request("POST", "/execute", &[("Prefer", "wait=10, Respond-Async; a=b")], body.as_bytes());
    assert_eq!(both.status, 202);
}

#[test]
fn the_mode_of_the_control_plane_answers_at_once_with_its_words() {
    let service = Service::with(&[("EXECUTE_MODE", "async")]);
    let request = leaves_a_line("submitted", "s", "sleep 0.3");
    for _ in 0..2 {
        let response = service.post(request.to_string());
        assert_eq!(response.status, 200);
        let expected = json!({"execution_id": "submitted", "status": "PENDING", "message": "Execution submitted"});
        assert_eq!(response.json(), expected);
    }
    service.post(leaves_a_line("submitted", "s", ":").to_string()).assert_error(409, "Executor.Conflict");
    service.post("{}").assert_error(400, "Executor.ValidationError");
    wait_for_status(&service, "submitted", "completed");
    assert_eq!(service.post(request.to_string()).json()["status"], "PENDING");
    assert_eq!(lines(&service, "s"), ["submitted"]);
}

#[test]
fn what_can_not_run_here_is_not_accepted() {
    if !is_root("what_can_not_run_here_is_not_accepted") {
        return;
    }
    let script = "set -e\nfor node in /usr/bin/node /usr/bin/nodejs /usr/local/bin/node; do \
                  [ ! -e $node ] || mount --bind /dev/null $(readlink -f $node); done\nexec \"$@\"";
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"];
    let service = Service::started_by(&outer, Home::new(), &[]);
    let request = json!({"language": "javascript", "code": "1", "execution_id": "no-node"});
    let body = submit(&service, &request).assert_error(400, "Executor.ValidationError");
    assert_eq!(body["error_detail"][0]["field"], "language");
    submit(&service, &json!({"language": "shell"})).assert_error(400, "Executor.ValidationError");
    assert_eq!(service.get("/executions").json()["executions"], json!([]));
    accepted(&service, &json!({"language": "shell", "code": ":"}));
}

#[test]
fn accepted_executions_run_in_the_order_of_acceptance_and_count_in_the_queue() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "12")]);
    accepted(&service, &leaves_a_line("0", "s", UNTIL_GO));
    wait_until("the first runs", 20, || lines(&service, "s").len() == 1);
    for number in 1..=12 {
        accepted(&service, &leaves_a_line(&number.to_string(), "s", ":"));
    }
    assert_eq!(service.get("/info").json()["queued_executions"], 12);
    submit(&service, &leaves_a_line("13", "s", ":")).assert_error(503, "Executor.QueueFull");
    service.get("/executions/13").assert_error(404, "Executor.NotFound");
    service.post(leaves_a_line("13", "s", ":").to_string()).assert_error(503, "Executor.QueueFull");
    let_go(&service, "s");
    wait_for_status(&service, "12", "completed");
    let expected: Vec<String> = (0..=12).map(|number| number.to_string()).collect();
    assert_eq!(lines(&service, "s"), expected);
}

#[test]
fn requests_that_wait_take_no_memory() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    accepted(&service, &leaves_a_line("first", "s", UNTIL_GO));
    wait_until("the first runs", 20, || lines(&service, "s").len() == 1);
    let before = service.memory_kb("VmRSS");
    let padding = "x".repeat(4 << 20);
    for number in 0..50 {
        let mut request = leaves_a_line(&format!("large-{number}"), "s", ":");
        request["event"] = json!({"padding": padding});
        accepted(&service, &request);
    }
    // 200 MiB wait; a part of one may still be in the allocator's hands.
    let after = service.memory_kb("VmRSS");
    assert!(after < before + 80_000, "{before} kB before, {after} kB after");
    let_go(&service, "s");
    wait_until("all of them have ended", 120, || status(&service, "large-49") == "completed");
    assert_eq!(lines(&service, "s").len(), 51);
}

// --- the end of one ---

#[test]
fn a_running_execution_is_dead_when_its_cancelling_is_answered() {
    let service = Service::with(&[]);
    let marker = format!("conformance-cancel-{}", std::process::id());
    let then = format!(
        "echo before; trap '' TERM HUP; (setsid bash -c 'exec -a {marker} sleep 60' &) ; exec -a {marker} sleep 60"
    );
    let request = leaves_a_line("to-cancel", "s", &then);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| service.post(request.to_string()));
        wait_until("both of its processes are there", 20, || processes_named(&marker) >= 2);
        let start = Instant::now();
        let response = service.request("DELETE", "/executions/to-cancel", &[], b"");
        assert_eq!(processes_named(&marker), 0, "nothing of it is alive");
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(response.json()["status"], "cancelled");
        let answer = waiting.join().expect("an answer");
        let result = answer.json();
        assert_eq!((answer.status, &result["status"]), (200, &json!("cancelled")));
        assert_eq!(result["error"]["kind"], "cancelled");
        assert_eq!((&result["stdout"], &result["exit_code"]), (&json!("before\n"), &Value::Null));
        assert_eq!(service.get("/executions/to-cancel").text(), answer.text());
        assert_eq!(service.post(request.to_string()).text(), answer.text(), "the same again is the one result");
    });
    service.request("DELETE", "/executions/to-cancel", &[], b"").assert_error(409, "Executor.Conflict");
    service.request("DELETE", "/executions/nobody", &[], b"").assert_error(404, "Executor.NotFound");
    service.assert_alive();
}

#[test]
fn one_that_is_cancelled_while_it_waits_never_runs() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "1")]);
    accepted(&service, &leaves_a_line("first", "s", UNTIL_GO));
    wait_until("the first runs", 20, || lines(&service, "s").len() == 1);
    accepted(&service, &leaves_a_line("later", "s", ":"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| service.execute(leaves_a_line("waited-for", "s", ":")));
        wait_until("both wait", 10, || service.get("/info").json()["queued_executions"] == 2);
        for id in ["later", "waited-for"] {
            assert_eq!(service.request("DELETE", &format!("/executions/{id}"), &[], b"").status, 200);
            assert_eq!(status(&service, id), "cancelled");
        }
        assert_eq!(waiting.join().expect("an answer")["error"]["kind"], "cancelled");
    });
    assert_eq!(service.get("/info").json()["queued_executions"], 0, "their places are free");
    let_go(&service, "s");
    wait_for_status(&service, "first", "completed");
    assert_completed(&service.execute(leaves_a_line("last", "s", ":")));
    assert_eq!(lines(&service, "s"), ["first", "last"]);
}

// --- lists ---

#[track_caller]
fn page(service: &Service, query: &str) -> (Vec<String>, Option<String>) {
    let response = service.get(&format!("/executions{query}"));
    assert_eq!(response.status, 200, "{}", response.text());
    let page = response.json();
    assert_eq!(keys(&page), ["executions", "next_cursor"]);
    let ids = page["executions"].as_array().expect("a list").iter();
    let ids = ids.map(|row| row["execution_id"].as_str().expect("an id").to_owned()).collect();
    (ids, page["next_cursor"].as_str().map(str::to_owned))
}

#[test]
fn lists_are_newest_first_filtered_and_in_pages() {
    let service = Service::with(&[]);
    for number in 0..7 {
        let session = if number % 2 == 0 { "even" } else { "odd" };
        let then = if number < 5 { ":" } else { "exit 1" };
        service.execute(leaves_a_line(&format!("e{number}"), session, then));
    }
    accepted(&service, &leaves_a_line("running", "odd", "sleep 60"));
    wait_for_status(&service, "running", "running");
    let all = ["running", "e6", "e5", "e4", "e3", "e2", "e1", "e0"];
    assert_eq!(page(&service, "").0, all);
    let (mut walked, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let (ids, next) = page(&service, &query);
        walked.push(ids.len());
        match next {
            Some(cursor) => query = format!("?limit=3&cursor={cursor}"),
            None => break,
        }
        // What comes meanwhile is before all of it.
        service.execute(json!({"language": "shell", "code": ":"}));
    }
    assert_eq!(walked, [3, 3, 2]);
    assert_eq!(page(&service, "?session_id=odd").0, ["running", "e5", "e3", "e1"]);
    assert_eq!(page(&service, "?session_id=odd&status=failed").0, ["e5"]);
    assert_eq!(page(&service, "?status=running").0, ["running"]);
    assert_eq!(page(&service, "?session_id=even&status=completed&limit=2").0, ["e4", "e2"]);
    assert_eq!(page(&service, "?session_id=nobody").0, Vec::<String>::new());
    let row = service.get("/executions?status=failed&limit=1").json()["executions"][0].clone();
    let members = [
        "created_at",
        "execution_id",
        "execution_time",
        "exit_code",
        "finished_at",
        "language",
        "session_id",
        "started_at",
        "status",
    ];
    assert_eq!(keys(&row), members);
    assert_eq!((row["exit_code"].as_i64(), row["language"].as_str()), (Some(1), Some("shell")));
    let body = service
        .get("/executions?limit=0&status=done&session_id=..%2Fx&cursor=zz&offset=1")
        .assert_error(400, "Executor.ValidationError");
    let fields: Vec<&str> =
        body["error_detail"].as_array().expect("a list").iter().filter_map(|one| one["field"].as_str()).collect();
    assert_eq!(fields, ["limit", "status", "session_id", "cursor", "offset"]);
}

#[test]
fn a_list_has_the_end_of_what_was_just_answered() {
    let service = Service::with(&[]);
    for request in [
        json!({"language": "shell", "code": "exit 3"}),
        json!({"language": "shell", "code": "exit 3", "execution_id": "named"}),
    ] {
        let answer = service.execute(request);
        let row = service.get("/executions?limit=1").json()["executions"][0].clone();
        assert_eq!((&row["execution_id"], &row["status"]), (&answer["execution_id"], &json!("failed")), "{row}");
        assert_eq!((&row["exit_code"], &row["execution_time"]), (&json!(3), &answer["execution_time"]), "{row}");
        assert!(row["finished_at"].is_string(), "{row}");
    }
}

#[test]
fn a_list_is_quick_beside_large_results() {
    let service = Service::with(&[]);
    for _ in 0..20 {
        service.execute(json!({"language": "shell", "code": "head -c 5000000 /dev/zero | tr '\\0' x"}));
    }
    let start = Instant::now();
    assert_eq!(page(&service, "").0.len(), 20);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(service.get("/executions").body.len() < 20_000);
}
