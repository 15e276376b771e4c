//! Nothing that was accepted is lost: the service is killed, stopped, started again, finds its disk full, its file damaged.

use conformance::{
    Home, Service, assert_completed, is_root, output_within, process, processes_named, read_response, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// State and workspaces that outlive the services that use them.
struct Kept {
    home: Home,
    settings: Vec<(&'static str, String)>,
}

impl Kept {
    fn new(more: &[(&'static str, &str)]) -> Self {
        let home = Home::new();
        let path = |name| home.path(name).to_str().expect("text").to_owned();
        let mut settings = vec![("STATE_PATH", path("kept")), ("WORKSPACE_PATH", path("spaces"))];
        settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Self { home, settings }
    }

    #[track_caller]
    fn start(&self) -> Service {
        let settings: Vec<(&str, &str)> = self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Service::with(&settings)
    }

    fn database(&self) -> PathBuf {
        self.home.path("kept/executions.db")
    }

    /// Every line that programs of this session wrote, and how often.
    fn lines(&self, session: &str) -> HashMap<String, usize> {
        let path = self.home.path("spaces").join(session).join("ran");
        let mut lines = HashMap::new();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        lines
    }

    /// That the file and its log are whole, by SQLite's own word on a copy.
    #[track_caller]
    fn assert_whole(&self) {
        let copy = self.home.path("copy");
        std::fs::create_dir_all(&copy).expect("a folder");
        for name in ["executions.db", "executions.db-wal"] {
            std::fs::remove_file(copy.join(name)).ok();
            std::fs::copy(self.home.path("kept").join(name), copy.join(name)).ok();
        }
        assert_eq!(sql(&copy.join("executions.db"), "PRAGMA integrity_check"), "ok");
    }
}

/// The first value that a query gives.
#[track_caller]
fn sql(database: &std::path::Path, query: &str) -> String {
    sql_by(Command::new("/usr/bin/python3"), database, query)
}

/// The same, where the service with this pid sees the file.
#[track_caller]
fn sql_beside(service: &Service, query: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &service.pid().to_string(), "/usr/bin/python3"]);
    sql_by(command, &service.path("state/executions.db"), query)
}

#[track_caller]
fn sql_by(mut python: Command, database: &std::path::Path, query: &str) -> String {
    let program =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1], timeout=10).execute(sys.argv[2]).fetchone()[0])";
    let output = output_within(60, python.args(["-c", program]).arg(database).arg(query));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn leaves_a_line(id: &str, session: &str, then: &str) -> Value {
    let code = format!("echo {id} >> ran; {then}");
    json!({"language": "shell", "code": code, "execution_id": id, "session_id": session})
}

#[track_caller]
fn accepted(service: &Service, request: &Value) {
    let response = submit(service, request);
    assert_eq!(response.status, 202, "{}", response.text());
}

#[track_caller]
fn submit(service: &Service, request: &Value) -> conformance::Response {
    service.request("POST", "/execute", &[("Prefer", "respond-async")], request.to_string().as_bytes())
}

#[track_caller]
fn result(service: &Service, id: &str) -> Value {
    let response = service.get(&format!("/executions/{id}"));
    assert_eq!(response.status, 200, "{id}: {}", response.text());
    response.json()
}

fn is_over(service: &Service) -> bool {
    let info = service.get("/info").json();
    info["active_executions"] == 0 && info["queued_executions"] == 0
}

/// A connection that carries many requests.
struct Client(TcpStream);

impl Client {
    /// The status and body of the answer; `None` when there is none.
    fn post(&mut self, service: &Service, headers: &[(&str, &str)], body: &Value) -> Option<(u16, Vec<u8>)> {
        let bytes = service.request_bytes("POST", "/execute", headers, body.to_string().as_bytes());
        let text = String::from_utf8(bytes).expect("text").replace("Connection: close\r\n", "");
        self.0.write_all(text.as_bytes()).ok()?;
        let response = read_response(&self.0).ok()?;
        Some((response.status, response.body))
    }
}

// --- killed ---

#[test]
fn nothing_accepted_is_lost_or_runs_twice_however_often_the_service_is_killed() {
    killed(10);
}

#[test]
#[ignore = "some minutes"]
fn nothing_accepted_is_lost_or_runs_twice_in_two_hundred_kills() {
    killed(200);
}

/// Kills the service at moments of no pattern while clients send all kinds of requests; in the end everything that was acknowledged
/// is there, once.
fn killed(kills: usize) {
    let kept = Kept::new(&[("MAX_CONCURRENT_EXECUTIONS", "8"), ("MAX_QUEUED_EXECUTIONS", "100000")]);
    let (acknowledged, answered) = (Mutex::new(Vec::new()), Mutex::new(HashMap::new()));
    let number = AtomicUsize::new(0);
    let mut moment = 17_u64;
    for _ in 0..kills {
        let mut service = kept.start();
        let stop = AtomicBool::new(false);
        moment = (moment * 48_271) % 2_147_483_647;
        std::thread::scope(|scope| {
            for client in 0..4 {
                let (service, stop, number, acknowledged, answered) =
                    (&service, &stop, &number, &acknowledged, &answered);
                scope.spawn(move || {
                    let mut connection = Client(service.connect());
                    while !stop.load(Ordering::Relaxed) {
                        let id = format!("e{}", number.fetch_add(1, Ordering::Relaxed));
                        let request = leaves_a_line(&id, "s", if client == 0 { "sleep 0.1" } else { "sleep 0.01" });
                        let waits = client >= 2;
                        let headers: &[_] = if waits { &[] } else { &[("Prefer", "respond-async")] };
                        match connection.post(service, headers, &request) {
                            Some((202, _)) => acknowledged.lock().expect("a lock").push(id),
                            Some((200, body)) => drop(answered.lock().expect("a lock").insert(id, body)),
                            Some((status, body)) => panic!("{status}: {}", String::from_utf8_lossy(&body)),
                            None => break,
                        }
                        // No more than can be run, or those that wait for their results would stand behind all of it.
                        std::thread::sleep(Duration::from_millis(if waits { 1 } else { 30 }));
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(60 + moment % 500));
            service.signal(Signal::KILL);
            stop.store(true, Ordering::Relaxed);
        });
        service.wait(5);
        kept.assert_whole();
    }
    let service = kept.start();
    wait_until("everything has ended", 300, || is_over(&service));
    let (acknowledged, answered) = (acknowledged.into_inner().expect("a lock"), answered.into_inner().expect("a lock"));
    let lines = kept.lines("s");
    let mut crashed = 0;
    for id in &acknowledged {
        let result = result(&service, id);
        let times = lines.get(id).copied().unwrap_or_default();
        match result["status"].as_str() {
            Some("completed") => assert_eq!(times, 1, "{id}: {result}"),
            Some("crashed") => {
                crashed += 1;
                assert!(times <= 1, "{id} ran {times} times");
                assert_eq!(result["error"]["kind"], "sandbox");
            }
            _ => panic!("{id}: {result}"),
        }
    }
    for (id, body) in &answered {
        assert_eq!(&service.get(&format!("/executions/{id}")).body, body, "{id}");
    }
    assert!(lines.values().all(|times| *times == 1), "no program ran twice");
    // The controls: something was under way at the kills, and something was not.
    assert!(acknowledged.len() > kills && answered.len() > kills / 4, "{} and {}", acknowledged.len(), answered.len());
    assert!(crashed > 0 && crashed < acknowledged.len(), "{crashed} of {} crashed", acknowledged.len());
    let twice = sql(&kept.database(), "SELECT count(*) - count(DISTINCT id) FROM executions");
    assert_eq!(twice, "0");
    let without =
        sql(&kept.database(), "SELECT count(*) FROM executions LEFT JOIN results USING (seq) WHERE body IS NULL");
    assert_eq!(without, "0", "each has a result");
}

#[test]
fn after_a_kill_what_ran_is_crashed_and_what_waited_runs_in_order() {
    let kept = Kept::new(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "10")]);
    let mut service = kept.start();
    accepted(&service, &leaves_a_line("running", "s", "sleep 60"));
    wait_until("it runs", 20, || kept.lines("s").len() == 1);
    for number in 0..10 {
        accepted(&service, &leaves_a_line(&format!("waiting-{number}"), "s", ":"));
    }
    service.signal(Signal::KILL);
    service.wait(5);
    // The settings may be others by then; what was accepted has a place.
    let kept = Kept {
        settings: kept.settings.into_iter().filter(|(name, _)| *name != "MAX_QUEUED_EXECUTIONS").collect(),
        ..kept
    };
    let service = kept.start();
    wait_until("everything has ended", 30, || is_over(&service));
    let crashed = result(&service, "running");
    assert_eq!((&crashed["status"], &crashed["error"]["kind"]), (&json!("crashed"), &json!("sandbox")));
    assert!(crashed["error"]["message"].as_str().is_some_and(|message| message.contains("went down")), "{crashed}");
    let order = std::fs::read_to_string(kept.home.path("spaces/s/ran")).expect("lines");
    let expected = (0..10).map(|number| format!("waiting-{number}\n")).collect::<String>();
    assert_eq!(order, format!("running\n{expected}"));
    let log = service.log();
    assert!(log.contains("left 1 running executions, which are crashed, and 10 waiting ones"), "{log}");
}

#[test]
fn what_a_killed_service_left_of_its_sandboxes_is_swept_by_the_next() {
    let kept = Kept::new(&[]);
    let mut service = kept.start();
    let marker = format!("conformance-left-{}", std::process::id());
    for number in 0..3 {
        let code = format!("exec -a {marker} sleep 60");
        accepted(&service, &json!({"language": "shell", "code": code, "execution_id": format!("left-{number}")}));
    }
    wait_until("they run", 20, || processes_named(&marker) == 3);
    let instance = std::fs::read_to_string(kept.home.path("kept/instance")).expect("its name");
    // The control: there is something to sweep.
    let left = process::private_workspaces(&kept.home.path("spaces"));
    assert!(left.len() >= 3 && left.iter().all(|name| name.contains(&instance)), "{left:?}");
    let has_groups = !process::control_groups(&instance).is_empty();
    // Another service beside it, with its own state but in the same workspace root, is not touched by any of it.
    let other = Home::new();
    let spaces = kept.home.path("spaces").to_str().expect("text").to_owned();
    let other = Service::at(other, &[("WORKSPACE_PATH", &spaces)]);
    let other_instance = std::fs::read_to_string(other.path("state/instance")).expect("its name");
    assert_ne!(instance, other_instance);
    accepted(&other, &json!({"language": "shell", "code": "sleep 3; ls -d /workspace", "execution_id": "unharmed"}));
    service.signal(Signal::KILL);
    service.wait(5);
    wait_until("they are gone", 5, || processes_named(&marker) == 0);
    let service = kept.start();
    wait_until("they are crashed", 10, || {
        (0..3).all(|number| result(&service, &format!("left-{number}"))["status"] == "crashed")
    });
    let still = process::private_workspaces(&kept.home.path("spaces"));
    assert!(left.iter().all(|name| !still.contains(name)), "{left:?} and {still:?}");
    let log = service.log();
    assert!(log.contains("private workspaces: removed"), "{log}");
    assert!(!has_groups || log.contains("control groups: removed"), "{log}");
    assert!(log.contains("left 3 running executions, which are crashed, and 0 waiting"), "{log}");
    wait_until("the other's went on", 10, || result(&other, "unharmed")["status"] == "completed");
    service.assert_alive();
    other.assert_alive();
}

// --- stopped ---

#[test]
fn a_stop_ends_what_runs_as_crashed_and_keeps_what_waits() {
    let kept = Kept::new(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("SHUTDOWN_GRACE", "1")]);
    let mut service = kept.start();
    let address = service.address().to_owned();
    accepted(&service, &leaves_a_line("running", "s", "echo so far; sleep 60"));
    wait_until("it runs", 20, || kept.lines("s").len() == 1);
    accepted(&service, &leaves_a_line("waiting", "s", ":"));
    let body = leaves_a_line("not-accepted", "s", ":").to_string();
    let bytes = service.request_bytes("POST", "/execute", &[], body.as_bytes());
    let mut queued = service.connect();
    queued.write_all(&bytes).expect("the request is sent");
    wait_until("it waits too", 10, || service.get("/info").json()["queued_executions"] == 2);
    service.signal(Signal::TERM);
    let refused = read_response(&queued).expect("an answer");
    refused.assert_error(503, "Executor.ShuttingDown");
    // During the grace nothing new comes in, and results can be had.
    let late = Service::elsewhere(&address, None);
    submit(&late, &leaves_a_line("late", "s", ":")).assert_error(503, "Executor.ShuttingDown");
    assert_eq!(result(&late, "running")["status"], "running");
    assert_eq!(service.wait(8).code(), Some(143));
    kept.assert_whole();
    let service = kept.start();
    wait_until("what waited has run", 20, || result(&service, "waiting")["status"] == "completed");
    let crashed = result(&service, "running");
    assert_eq!(crashed["status"], "crashed", "{crashed}");
    assert_eq!(crashed["stdout"], "so far\n", "what it wrote until then is kept");
    service.get("/executions/late").assert_error(404, "Executor.NotFound");
    service.get("/executions/not-accepted").assert_error(404, "Executor.NotFound");
    assert_eq!(kept.lines("s").len(), 2);
}

#[test]
fn what_waits_for_the_next_start_can_be_looked_at_and_cancelled_during_the_grace() {
    let kept = Kept::new(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("SHUTDOWN_GRACE", "4")]);
    let mut service = kept.start();
    let address = service.address().to_owned();
    accepted(&service, &leaves_a_line("running", "s", "sleep 60"));
    wait_until("it runs", 20, || kept.lines("s").len() == 1);
    for id in ["waiting", "unwanted"] {
        accepted(&service, &leaves_a_line(id, "s", ":"));
    }
    service.signal(Signal::TERM);
    wait_until("it shuts down", 3, || service.log().contains("Shutting down"));
    let late = Service::elsewhere(&address, None);
    assert_eq!(result(&late, "waiting")["status"], "pending");
    let pending = late.get("/executions?status=pending").json();
    assert_eq!(pending["executions"].as_array().map(Vec::len), Some(2), "{pending}");
    assert_eq!(late.request("DELETE", "/executions/unwanted", &[], b"").status, 200);
    assert_eq!(service.wait(8).code(), Some(143));
    let service = kept.start();
    wait_until("what waited has run", 20, || result(&service, "waiting")["status"] == "completed");
    assert_eq!(result(&service, "unwanted")["status"], "cancelled");
    assert_eq!(kept.lines("s").get("unwanted"), None);
}

#[test]
fn a_state_that_was_removed_under_the_service_is_no_place_to_promise_anything() {
    let service = Service::with(&[]);
    accepted(&service, &leaves_a_line("first", "s", ":"));
    wait_until("it has ended", 20, || result(&service, "first")["status"] == "completed");
    std::fs::remove_dir_all(service.path("state")).expect("the state goes");
    wait_until("it is noticed", 5, || service.get("/health").status == 503);
    submit(&service, &leaves_a_line("second", "s", ":")).assert_error(500, "Executor.InternalError");
    let reason = service.get("/health").json()["reason"].to_string();
    assert!(reason.contains("STATE_PATH") && reason.contains("removed"), "{reason}");
}

#[test]
fn a_stop_without_grace_loses_nothing_that_waits() {
    let kept = Kept::new(&[("MAX_CONCURRENT_EXECUTIONS", "2")]);
    for round in 0..3 {
        let mut service = kept.start();
        for number in 0..40 {
            accepted(&service, &leaves_a_line(&format!("{round}-{number}"), "s", "sleep 0.05"));
        }
        service.signal(Signal::TERM);
        assert_eq!(service.wait(8).code(), Some(143));
    }
    let service = kept.start();
    wait_until("everything has ended", 60, || is_over(&service));
    let mut statuses = HashMap::new();
    for (round, number) in (0..3).flat_map(|round| (0..40).map(move |number| (round, number))) {
        let id = format!("{round}-{number}");
        let status = result(&service, &id)["status"].as_str().expect("a status").to_owned();
        assert!(status == "crashed" || kept.lines("s").get(&id) == Some(&1), "{id} is {status}");
        *statuses.entry(status).or_insert(0) += 1;
    }
    // At most two ran at each stop.
    assert!(statuses.get("crashed").is_none_or(|crashed| *crashed <= 6), "{statuses:?}");
    assert!(statuses.keys().all(|status| status == "crashed" || status == "completed"), "{statuses:?}");
}

#[test]
fn a_client_that_waits_when_the_service_stops_is_told_what_became_of_it() {
    let mut service = Service::with(&[]);
    let code = "echo so far; touch started; sleep 60";
    let body = json!({"language": "shell", "code": code, "session_id": "s"}).to_string();
    let mut stream = service.connect();
    stream.write_all(&service.request_bytes("POST", "/execute", &[], body.as_bytes())).expect("the request is sent");
    wait_until("it runs", 20, || service.path("workspaces/s/started").exists());
    service.signal(Signal::TERM);
    let result = read_response(&stream).expect("an answer").json();
    assert_eq!((&result["status"], &result["error"]["kind"]), (&json!("crashed"), &json!("sandbox")), "{result}");
    assert_eq!(service.wait(5).code(), Some(143));
}

// --- no room ---

/// A service whose folder of this name is a disk of so many megabytes, which can be looked at and filled from here.
fn on_a_small_disk(folder: &str, megabytes: u32) -> (Service, PathBuf) {
    let home = Home::new();
    let path = home.path(folder);
    std::fs::create_dir_all(&path).expect("a folder");
    let script = format!("set -e\nmount -t tmpfs -o size={megabytes}m none {}\nexec \"$@\"", path.display());
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let service = Service::started_by(&outer, home, &[]);
    let seen = PathBuf::from(format!("/proc/{}/root{}", service.pid(), path.display()));
    (service, seen)
}

fn fill(folder: &std::path::Path) {
    let mut file = std::fs::File::create(folder.join("filler")).expect("a file");
    // To the last byte: smaller and smaller pieces.
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn a_full_disk_of_the_state_refuses_new_executions_and_loses_none() {
    if !is_root("a_full_disk_of_the_state_refuses_new_executions_and_loses_none") {
        return;
    }
    let (service, state) = on_a_small_disk("state", 48);
    let before = service.execute(leaves_a_line("before", "s", ":"));
    let large = "head -c 300000 /dev/zero | tr '\\0' x";
    accepted(&service, &leaves_a_line("under-way", "s", &format!("while ! [ -e go ]; do sleep 0.02; done; {large}")));
    wait_until("it runs", 20, || result(&service, "under-way")["status"] == "running");
    fill(&state);
    let full = |response: conformance::Response| {
        let body = response.assert_error(507, "Executor.InsufficientStorage");
        assert!(body["solution"].as_str().is_some_and(|text| text.contains("STATE_PATH")), "{body}");
    };
    let refused = leaves_a_line("refused", "s", ":");
    wait_until("it is noticed", 5, || service.post(refused.to_string()).status == 507);
    full(service.post(refused.to_string()));
    full(submit(&service, &refused));
    full(service.post(json!({"language": "shell", "code": ":"}).to_string()));
    let health = service.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("unhealthy")));
    assert!(health.json()["reason"].as_str().is_some_and(|reason| reason.contains("STATE_PATH")), "{}", health.text());
    // What runs ends, and its result is there, though it can't be written.
    std::fs::write(service.path("workspaces/s/go"), "").expect("a word to the program");
    wait_until("it has ended", 20, || result(&service, "under-way")["status"] == "completed");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(sql_beside(&service, "SELECT status FROM executions WHERE id = 'under-way'"), "running");
    assert_eq!(result(&service, "before"), before, "what was written can be read");
    std::fs::remove_file(state.join("filler")).expect("room again");
    wait_until("it is well again", 10, || service.get("/health").status == 200);
    wait_until("the result is written", 10, || {
        sql_beside(&service, "SELECT status FROM executions WHERE id = 'under-way'") == "completed"
    });
    assert_eq!(result(&service, "under-way")["stdout"].as_str().map(str::len), Some(300_000));
    assert_completed(&service.execute(refused));
    assert_eq!(sql_beside(&service, "PRAGMA integrity_check"), "ok");
    let log = service.log();
    assert!(log.contains("[ERROR] STATE_PATH = ") && log.contains("can be written again"), "{log}");
}

#[test]
fn what_ended_on_a_full_disk_is_answered_in_full_whoever_asks_again() {
    if !is_root("what_ended_on_a_full_disk_is_answered_in_full_whoever_asks_again") {
        return;
    }
    let (service, state) = on_a_small_disk("state", 48);
    let large = "head -c 300000 /dev/zero | tr '\\0' x; exit 3";
    let request = leaves_a_line("ends", "s", &format!("while ! [ -e go ]; do sleep 0.02; done; {large}"));
    accepted(&service, &request);
    wait_until("it runs", 20, || service.path("workspaces/s/ran").exists());
    fill(&state);
    std::fs::write(service.path("workspaces/s/go"), "").expect("a word to the program");
    wait_until("it has ended", 20, || result(&service, "ends")["status"] == "failed");
    let again = submit(&service, &request);
    assert!(again.status == 200 && again.json() == result(&service, "ends"), "{}", again.status);
    let row = service.get("/executions?limit=1").json()["executions"][0].clone();
    assert_eq!((&row["exit_code"], &row["execution_time"]), (&json!(3), &again.json()["execution_time"]), "{row}");
}

#[test]
fn a_full_disk_of_the_workspaces_refuses_new_ones_and_is_noticed_when_it_has_room_again() {
    if !is_root("a_full_disk_of_the_workspaces_refuses_new_ones_and_is_noticed_when_it_has_room_again") {
        return;
    }
    let (service, workspaces) = on_a_small_disk("workspaces", 48);
    assert_completed(&service.execute(leaves_a_line("before", "s", ":")));
    fill(&workspaces);
    // tmpfs makes folders without room as long as it has inodes, so those go too.
    let request = json!({"language": "shell", "code": "echo text > file", "session_id": "new"});
    let failed = service.post(request.to_string());
    if failed.status == 200 {
        assert_eq!(failed.json()["error"]["kind"], "disk_full", "{}", failed.text());
    } else {
        failed.assert_error(507, "Executor.InsufficientStorage");
    }
    let health = service.get("/health");
    assert!(health.status == 503 && health.text().contains("full"), "{}", health.text());
    std::fs::remove_file(workspaces.join("filler")).expect("room again");
    wait_until("it is well again", 10, || service.get("/health").status == 200);
    assert_completed(&service.execute(leaves_a_line("after", "new", ":")));
    assert_eq!(result(&service, "before")["status"], "completed");
}

/// Where there is no room to start.
fn waits_for_room_to_start(variable: &str, folder: &str) {
    let home = Home::new();
    let path = home.path(folder);
    std::fs::create_dir_all(&path).expect("a folder");
    let disk = path.display();
    let script = format!(
        "set -e\nmount -t tmpfs -o size=48m none {disk}\n! head -c 64M /dev/zero >{disk}/filler 2>/dev/null\nexec \"$@\""
    );
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let start = |home| Service::started_by(&outer, home, &[("EXECUTOR_PORT", &port.to_string())]);
    let service = start(home);
    let (health, told) = (service.get("/health"), service.path(folder).display().to_string());
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("unhealthy")));
    let reason = health.json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("full") && reason.contains(variable) && reason.contains(&told), "{reason}");
    let refused = service.post(json!({"language": "shell", "code": ":"}).to_string());
    let body = refused.assert_error(507, "Executor.InsufficientStorage");
    assert!(body["solution"].as_str().is_some_and(|text| text.contains(variable)), "{body}");
    let log = service.log();
    let line = log.lines().find(|line| line.contains("[ERROR]")).unwrap_or_default();
    assert!(line.contains(&format!("{variable} = {told}: no space left")) && line.contains("make room"), "{log}");
    assert_eq!(log.matches("[ERROR]").count(), 1, "{log}");
    std::fs::remove_file(format!("/proc/{}/root{told}/filler", service.pid())).expect("room again");
    wait_until("it starts", 30, || service.log().contains("Listening on"));
    assert_eq!(service.get("/health").status, 200);
    assert_completed(&service.execute(leaves_a_line("after", "s", ":")));
    // Who stops it while it waits has it end.
    let mut service = start(service.stopped());
    assert_eq!(service.get("/health").status, 503);
    service.signal(Signal::TERM);
    assert_eq!(service.wait(10).code(), Some(143), "{}", service.log());
}

#[test]
fn on_a_full_disk_of_the_state_a_start_waits_and_says_so() {
    if is_root("on_a_full_disk_of_the_state_a_start_waits_and_says_so") {
        waits_for_room_to_start("STATE_PATH", "state");
    }
}

#[test]
fn on_a_full_disk_of_the_workspaces_a_start_waits_and_says_so() {
    if is_root("on_a_full_disk_of_the_workspaces_a_start_waits_and_says_so") {
        waits_for_room_to_start("WORKSPACE_PATH", "workspaces");
    }
}

// --- the file ---

#[test]
fn a_damaged_or_foreign_file_stops_the_start_in_one_line_and_is_not_touched() {
    let kept = Kept::new(&[]);
    let mut service = kept.start();
    for number in 0..50 {
        assert_completed(&service.execute(leaves_a_line(&format!("e{number}"), "s", ":")));
    }
    service.signal(Signal::TERM);
    service.wait(5);
    let good = std::fs::read(kept.database()).expect("the file");
    let damaged = [good[..good.len() / 2].to_vec(), {
        let mut bytes = good.clone();
        bytes[8192..].fill(0x5a);
        bytes
    }];
    let foreign = [b"a file of somebody else\n".to_vec(), Vec::new()];
    for (bytes, word) in
        damaged.iter().map(|bytes| (bytes, "damaged")).chain(foreign.iter().map(|bytes| (bytes, "is not a database")))
    {
        std::fs::write(kept.database(), bytes).expect("another file");
        let mut command = kept.home.command();
        command.arg("serve").env("EXECUTOR_PORT", "0").envs(kept.settings.iter().map(|(name, value)| (name, value)));
        let output = output_within(20, &mut command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("[ERROR]")).collect();
        assert!(!output.status.success() && lines.len() == 1, "{stderr}");
        let named = lines[0].contains(kept.database().to_str().expect("text")) && lines[0].contains(word);
        assert!(named && lines[0].contains("move it"), "{}", lines[0]);
        assert_eq!(&std::fs::read(kept.database()).expect("the file"), bytes, "it was touched");
    }
    // The control.
    std::fs::write(kept.database(), good).expect("the file as it was");
    assert_eq!(result(&kept.start(), "e49")["status"], "completed");
}

// --- the rate of acceptance ---

#[test]
fn a_thousand_submissions_by_many_clients_share_the_syncs_of_the_disk() {
    const CLIENTS: usize = 32;
    const SUBMISSIONS: usize = 1000;
    let service = Service::alone(&[("MAX_CONCURRENT_EXECUTIONS", "1"), ("MAX_QUEUED_EXECUTIONS", "2000")]);
    accepted(&service, &leaves_a_line("first", "s", "while ! [ -e go ]; do sleep 0.02; done"));
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = Client(service.connect());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SUBMISSIONS {
                        break;
                    }
                    let request = json!({"language": "shell", "code": ":", "execution_id": format!("e{number}")});
                    let answer = connection.post(&service, &[("Prefer", "respond-async")], &request);
                    assert_eq!(answer.map(|(status, _)| status), Some(202));
                }
            });
        }
    });
    let each = start.elapsed() / SUBMISSIONS as u32;
    // One at a time: a plain file that is written and synced for each.
    let path = service.path("state/floor");
    let mut file = std::fs::File::create(&path).expect("a file");
    let start = Instant::now();
    for _ in 0..200 {
        file.write_all(&[1; 4096]).and_then(|()| file.sync_data()).expect("a sync");
    }
    let sync = start.elapsed() / 200;
    eprintln!("accepting one took {each:?}, a sync alone takes {sync:?}");
    // On a disk whose syncs take next to nothing, the clients themselves are what takes time.
    let bound = (sync / 5).max(Duration::from_millis(2));
    assert!(each < bound, "{each:?} for each, a sync takes {sync:?}");
    let info = service.get("/info").json();
    assert_eq!(info["queued_executions"], SUBMISSIONS);
}
