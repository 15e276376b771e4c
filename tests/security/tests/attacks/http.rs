//! Clients that mean harm, on a service of the column's own kind that is small enough to be filled.

use crate::shortened;
use conformance::{Service, process, processes_named, wait_until};
use security::{Column, Control, Host, Table};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

const TOKEN: &str = "a-token-of-the-test";
const HELLO: &str = r#"{"language":"shell","code":"echo hello"}"#;
/// Memory that a flood of clients may cost.
const FLOOD_KIB: u64 = 100 << 10;

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    requests(table, column.client());
    heads(table, column.client());
    packed(table, column.client());
    slow(table, column.client());
    repeated(table, column.client());
    variables(table, column);
    gone(table, column, host);
    small_service(table, column, host);
}

/// Requests that must be refused, each beside one of the same kind that must not be.
fn requests(table: &mut Table, client: &Service) {
    let with = |field: &str, value: &str| format!(r#"{{"language":"shell","code":":","{field}":{value}}}"#);
    let deep = |depth: usize| with("event", &format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)));
    let long = format!("\"{}\"", "x".repeat(10_000));
    let cases: Vec<(u32, &str, Vec<String>, String)> = vec![
        (124, "nest a hundred thousand lists", vec![deep(100_000), "[".repeat(100_000)], deep(100)),
        (
            127,
            "name a session that is a path",
            ["\"../../x\"", "\"..\"", "\".\"", "\"/etc\"", "\"a/b\"", "\"%2e%2e\"", "\"a\\u0000b\"", "\"\"", &long]
                .map(|id| with("session_id", id))
                .to_vec(),
            with("session_id", "\"a.b\""),
        ),
        (
            128,
            "put line feeds into an id",
            vec![with("execution_id", r#""a\r\nSet-Cookie: b""#), with("session_id", r#""a\n""#)],
            with("session_id", "\"a-b\""),
        ),
        (
            129,
            "send what is no JSON",
            vec![
                with("event", r#"{"a":NaN}"#),
                with("event", r#"{"a":1e999}"#),
                with("event", r#"{"a":1,"a":2}"#),
                with("code", "\"echo twice\""),
            ],
            with("event", r#"{"a":1e99}"#),
        ),
        (
            130,
            "ask for a time that is none",
            ["0", "-1", "1000000000000000000", "1.5", "\"1\"", "true", "99999"]
                .map(|value| with("timeout", value))
                .to_vec(),
            with("timeout", "1"),
        ),
        (
            131,
            "set a variable whose name is none",
            [
                r#"{"A=B":"x"}"#,
                r#"{"":"x"}"#,
                r#"{"A\u0000":"x"}"#,
                r#"{"A":"x\u0000y"}"#,
                r#"{"1A":"x"}"#,
                r#"{"A":1}"#,
            ]
            .map(|value| with("env_vars", value))
            .to_vec(),
            with("env_vars", r#"{"A_1":"x=y"}"#),
        ),
        (
            132,
            "name an address to call back",
            ["callback_url", "webhook", "result_url"]
                .map(|field| with(field, "\"http://169.254.169.254/latest/meta-data\""))
                .to_vec(),
            HELLO.to_owned(),
        ),
        (
            91,
            "exhaust the reader of requests",
            vec![
                with("execution_id", &format!("\"{}!\"", "a".repeat(200_000))),
                with("limits", &format!("{{\"memory_mb\":1{}}}", "0".repeat(100_000))),
                format!("{{{}}}", vec!["\"x\":1"; 50_000].join(",")),
            ],
            with("execution_id", "\"short.enough\""),
        ),
    ];
    for (number, name, refused, taken) in cases {
        let start = Instant::now();
        let wrong = refused.iter().find_map(|body| {
            let response = client.post(body);
            let short: String = body.chars().take(100).collect();
            (response.status != 400).then(|| format!("{} for {short}", response.status))
        });
        let slow = (start.elapsed() > Duration::from_secs(3)).then(|| format!("it took {:?}", start.elapsed()));
        table.contain(number, name, wrong.or(slow), taken_by(client, &taken));
    }
    let body = b"{\"language\":\"shell\",\"code\":\"\xff\xfe\"}";
    let status = client.post(body).status;
    let wrong = (status != 400).then(|| format!("status {status}"));
    table.contain(129, "send what is no text", wrong, taken_by(client, HELLO));
}

fn taken_by(client: &Service, body: &str) -> Control {
    match client.post(body).status {
        200 => Control::Passed,
        status => Control::Failed(format!("status {status}")),
    }
}

/// Lengths that lie, and line feeds in a header.
fn heads(table: &mut Table, client: &Service) {
    let control = || taken_by(client, HELLO);
    let huge = client.request_bytes("POST", "/execute", &[("Content-Length", "99999999999")], b"{");
    let status = client.raw(&huge).map(|response| response.status);
    let wrong = (!matches!(status, Ok(413))).then(|| format!("{status:?}"));
    table.contain(123, "announce a hundred gigabytes", wrong, control());
    let short = client.request_bytes("POST", "/execute", &[("Content-Length", "10")], HELLO.as_bytes());
    let status = client.raw(&short).map(|response| response.status);
    let wrong = (!matches!(status, Ok(400))).then(|| format!("{status:?}"));
    table.contain(123, "announce less than is sent", wrong, control());
    let host = client.address();
    for (name, bytes) in [
        (
            "announce two lengths",
            format!("POST /execute HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{HELLO}"),
        ),
        (
            "announce a length and chunks",
            format!(
                "POST /execute HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n28\r\n{HELLO}\r\n0\r\n\r\nGET /info HTTP/1.1\r\nHost: {host}\r\n\r\n"
            ),
        ),
    ] {
        // Either a refusal, or one answer and the end of the connection.
        let mut stream = client.connect();
        let _ = stream.write_all(bytes.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut text);
        let text = String::from_utf8_lossy(&text);
        let smuggled = text.matches("HTTP/1.1 ").count() > 1;
        table.contain(123, name, smuggled.then(|| text.chars().take(300).collect()), control());
    }
    let response = client.request("GET", "/health", &[("x-request-id", "a\rb: c"), ("x-more", "y")], b"");
    let injected =
        response.header("b").is_some() || response.header("x-request-id").is_some_and(|id| id.contains('\r'));
    let named = client.request("GET", "/health", &[("x-request-id", "mine-1")], b"");
    let control = match named.header("x-request-id") {
        Some("mine-1") => Control::Passed,
        other => Control::Failed(format!("{other:?}")),
    };
    table.contain(128, "put a header into the answer", injected.then(|| format!("{:?}", response.headers)), control);
}

/// A small body that would unpack into a large one.
fn packed(table: &mut Table, client: &Service) {
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 5000]].concat();
        let response = client.request("POST", "/execute", &[("Content-Encoding", encoding)], &bomb);
        let taken = !(400..=431).contains(&response.status);
        let name = format!("send a packed body ({encoding})");
        table.contain(91, &name, taken.then(|| format!("status {}", response.status)), taken_by(client, HELLO));
    }
}

/// Connections that say something and no more.
fn slow(table: &mut Table, client: &Service) {
    let halves: [&[u8]; 3] =
        [b"", b"POST /execute HTTP/1.1\r\nHost: a", b"POST /execute HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"];
    let mut held: Vec<_> = (0..150).map(|_| client.connect()).collect();
    for (number, stream) in held.iter_mut().enumerate() {
        let _ = stream.write_all(halves[number % halves.len()]);
    }
    let start = Instant::now();
    let control = taken_by(client, HELLO);
    let wrong = match control {
        Control::Passed if start.elapsed() < Duration::from_secs(1) => None,
        _ => Some(format!("another client waited {:?}: {control:?}", start.elapsed())),
    };
    let why = "that they are cut off is in tests/conformance/tests/bad_requests.rs";
    table.contain(125, "hold others up by a hundred and fifty half requests", wrong, Control::None(why));
}

/// The same execution twice, at once and afterwards.
fn repeated(table: &mut Table, client: &Service) {
    const NAME: &str = "run one execution twice";
    let request =
        |code: &str| json!({"language": "shell", "execution_id": "twice", "session_id": "twice", "code": code});
    let code = "echo ran >> runs; sleep 0.3; echo done";
    let answers = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..4).map(|_| scope.spawn(|| client.post(request(code).to_string()))).collect();
        tasks.into_iter().map(|task| task.join().expect("an answer").status).collect::<Vec<_>>()
    });
    let other = client.post(request("echo another").to_string());
    let runs = client.execute(json!({"language": "shell", "session_id": "twice", "code": "wc -l < runs"}));
    let wrong = runs["stdout"] != "1\n" || other.status != 409;
    let wrong = wrong.then(|| format!("{answers:?}, then {}; ran {}", other.status, runs["stdout"]));
    table.contain(126, NAME, wrong, taken_by(client, HELLO));
}

/// Variables that a loader reads: the program's own affair.
fn variables(table: &mut Table, column: &Column) {
    let code = "echo $LD_PRELOAD; cat /proc/1/environ 2>/dev/null | tr '\\0' '\\n'";
    let variables = json!({"LD_PRELOAD": "/workspace/canary.so", "LD_AUDIT": "/workspace/canary.so", "BASH_ENV": "/workspace/canary.sh"});
    let answer = column.execute(&json!({"language": "shell", "code": code, "env_vars": variables}));
    let seen = answer["stdout"] == "/workspace/canary.so\n" && answer["status"] == "completed";
    let control = if seen { Control::Passed } else { Control::Failed(shortened(&answer)) };
    let log = std::fs::read_to_string(column.path("service.log")).unwrap_or_default();
    let leaked = log.contains("canary.so").then(|| "the service's own loader read it".to_owned());
    table.contain(131, "have the loader of the service read a variable", leaked, control);
}

/// A client that leaves takes its execution along.
fn gone(table: &mut Table, column: &Column, host: &Host) {
    let marker = format!("left-alone-{}", host.secret());
    let code = format!("bash -c 'sleep 50; :' {marker} & sleep 50");
    // Nobody asked for an end with the client's, so it ends at its time.
    let body = json!({"language": "shell", "code": code, "timeout": 2}).to_string();
    let client = column.client();
    let mut stream = client.connect();
    stream.write_all(&client.request_bytes("POST", "/execute", &[], body.as_bytes())).expect("a request");
    wait_until("the execution", 10, || processes_named(&marker) > 0);
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(4);
    let is_there = || processes_named(&marker) > 0 || !column.sandboxes().is_empty();
    while is_there() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = is_there().then(|| format!("{:?}", column.sandboxes()));
    table.contain(134, "leave an execution behind by going away", left, Control::Passed);
}

/// A service with a token, one place and a queue of two; it is filled, then killed, then started again.
fn small_service(table: &mut Table, column: &Column, host: &Host) {
    let settings = [
        ("EXECUTOR_API_TOKEN", TOKEN),
        ("MAX_CONCURRENT_EXECUTIONS", "1"),
        ("MAX_QUEUED_EXECUTIONS", "2"),
        ("MAX_BODY_BYTES", "100000"),
    ];
    let start = |home| Column::start_in(home, column.adapter(), column.mode(), host.folder(), &settings);
    let small = start(conformance::Home::new()).expect("the adapter was there before");
    let client = small.client();

    let over = client.post(" ".repeat(100_001)).status;
    table.contain(
        123,
        "send more than is allowed",
        (over != 413).then(|| format!("status {over}")),
        taken_by(client, HELLO),
    );
    for (name, value) in
        [("no", ""), ("a wrong", "Bearer wrong"), ("half a", "Bearer a-token"), ("a basic", "Basic YTpi")]
    {
        let headers = [("Authorization", value)];
        let status = client.request("POST", "/execute", &headers, HELLO.as_bytes()).status;
        let wrong = (status != 401).then(|| format!("status {status}"));
        table.contain(133, &format!("execute with {name} token"), wrong, taken_by(client, HELLO));
    }

    let before = process::resident_kib(small.pid()).unwrap_or_default();
    let slow = json!({"language": "shell", "code": format!("sleep 0.3 # {}", "x".repeat(90_000))}).to_string();
    let statuses = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..60).map(|_| scope.spawn(|| client.post(&slow).status)).collect();
        tasks.into_iter().map(|task| task.join().expect("an answer")).collect::<Vec<_>>()
    });
    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    let grown = process::resident_kib(small.pid()).unwrap_or_default().saturating_sub(before);
    let wrong = count(503) < 50 || count(200) + count(503) != 60 || grown > FLOOD_KIB;
    let wrong = wrong.then(|| format!("{} of 60 refused, {grown} kB more", count(503)));
    let control = if count(200) >= 1 { Control::Passed } else { Control::Failed(format!("{statuses:?}")) };
    table.contain(135, "fill the queue", wrong, control);
    killed(table, small, host, start);
}

/// Nothing outlives the service, and the next one finds nothing left.
fn killed(table: &mut Table, small: Column, host: &Host, start: impl Fn(conformance::Home) -> Result<Column, String>) {
    let marker = format!("outlives-{}", host.secret());
    let code = format!("(trap '' TERM HUP; exec setsid bash -c 'sleep 50; :' {marker}) & sleep 50");
    let body = json!({"language": "shell", "code": code}).to_string();
    let mut stream = small.client().connect();
    stream.write_all(&small.client().request_bytes("POST", "/execute", &[], body.as_bytes())).expect("a request");
    wait_until("the execution", 10, || processes_named(&marker) > 0);
    let instance = std::fs::read_to_string(small.path("state").join("instance")).unwrap_or_default();
    let instance = instance.trim();
    let home = small.kill();
    let deadline = Instant::now() + Duration::from_secs(3);
    while processes_named(&marker) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = (processes_named(&marker) > 0).then(|| "it is still there".to_owned());
    table.contain(136, "outlive a service that was killed", left, Control::Passed);
    let groups = || process::control_groups(instance);
    let left_behind = groups();
    let again = start(home).expect("the adapter was there before");
    // The instance's own group, and in version 2 those of the service and of what builds sandboxes.
    let found: Vec<String> =
        groups().into_iter().filter(|path| left_behind.contains(path) && is_of_an_execution(path, instance)).collect();
    let control = match left_behind.iter().any(|path| is_of_an_execution(path, instance)) {
        true => Control::Passed,
        false => Control::None("the service that was killed left no control group"),
    };
    let found = (!found.is_empty()).then(|| format!("{found:?}"));
    table.contain(136, "leave a control group to the next service", found, control);
    let answer: Value = again.execute(&serde_json::from_str(HELLO).expect("a request"));
    let wrong = (answer["stdout"] != "hello\n").then(|| shortened(&answer));
    table.contain(136, "keep the next service from working", wrong, Control::Passed);
}

fn is_of_an_execution(path: &str, instance: &str) -> bool {
    let below = path.split_once(&format!("sandbox-executor-{instance}/")).map(|(_, name)| name);
    below.is_some_and(|name| !["service", "builders", "probe"].contains(&name))
}
