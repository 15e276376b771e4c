//! Clients and programs that do what they should not: nobody else gets to feel it.

use conformance::{Home, Service, assert_completed, read_response, skipped, wait_until};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

#[test]
fn first_requests_of_one_session_at_once_all_succeed() {
    let service = Service::start();
    for round in 0..12 {
        let session = format!("session-race-{}-{round}", std::process::id());
        let request = json!({"language": "shell", "code": "echo $RANDOM >> all", "session_id": session});
        let answers = std::thread::scope(|scope| {
            let tasks: Vec<_> = (0..8).map(|_| scope.spawn(|| service.execute(request.clone()))).collect();
            tasks.into_iter().map(|task| task.join().expect("an answer")).collect::<Vec<Value>>()
        });
        answers.iter().for_each(|answer| assert_completed(answer));
        let count = service.execute(json!({"language": "shell", "code": "wc -l < all", "session_id": session}));
        assert_eq!(count["stdout"], "8\n");
    }
}

#[test]
fn clients_that_leave_half_way_do_no_harm_to_others() {
    let service = Service::with(&[]);
    // Until the start's own sandbox proves nothing any more, so that asking for health makes new ones.
    std::thread::sleep(Duration::from_secs(11));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| service.run("shell", "sleep 4; echo unharmed"));
        let until = Instant::now() + Duration::from_secs(3);
        let mut pause = 0;
        while Instant::now() < until {
            let request = service.request_bytes("GET", "/health", &[], b"");
            service.connect().write_all(&request).expect("a request");
            let abandoned = service.request_bytes("POST", "/execute", &[], br#"{"language":"shell","code":":"}"#);
            let mut stream = service.connect();
            stream.write_all(&abandoned).expect("a request");
            pause = (pause + 1) % 5;
            std::thread::sleep(Duration::from_millis(pause * 3));
        }
        let answer = running.join().expect("an answer");
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "unharmed\n");
    });
    service.assert_alive();
    wait_until("all is idle", 10, || service.get("/info").json()["active_executions"] == 0);
}

#[test]
fn clients_that_do_not_read_hold_bounded_memory() {
    let service = Service::with(&[("MAX_CONCURRENT_EXECUTIONS", "12")]);
    if !service.is_ours() {
        eprintln!("SKIPPED: the memory of a service elsewhere can't be seen");
        return;
    }
    // Together more than may be held, and less than is kept of results.
    let request = sixty_megabytes(&service);
    let mut streams: Vec<_> = (0..12).map(|_| service.connect()).collect();
    for stream in &mut streams {
        stream.write_all(&request).expect("a request");
    }
    let ended = || service.get("/executions?status=completed").json()["executions"].as_array().map_or(0, Vec::len);
    wait_until("all have run", 60, || ended() == streams.len());
    let most = service.memory_kb("VmHWM");
    assert!(most < 650_000, "{most} kB");
    service.assert_healthy_within(Duration::from_secs(1));
    // The control: whoever reads gets it all.
    let reader = streams.swap_remove(0);
    drop(streams);
    let response = read_response(&reader).expect("an answer");
    assert_eq!(response.json()["stdout"].as_str().map(str::len), Some(10 << 20));
}

#[test]
fn clients_that_do_not_read_hold_up_nobody() {
    let service = Service::with(&[]);
    let request = sixty_megabytes(&service);
    let mut streams: Vec<_> = (0..6).map(|_| service.connect()).collect();
    for stream in &mut streams {
        stream.write_all(&request).expect("a request");
    }
    let ended = || service.get("/executions?status=completed").json()["executions"].as_array().map_or(0, Vec::len);
    wait_until("most have run", 60, || ended() >= 4);
    // Neither those whose answers are small, nor those whose are as large, nor who asks for one later.
    let start = Instant::now();
    for bytes in [1, 10_000, 1_000_000, 10 << 20] {
        let id = format!("neighbour-{}-{bytes}", std::process::id());
        let code = format!("print('\\x01' * {bytes})");
        let answer = service.post(json!({"language": "python", "code": code, "execution_id": id}).to_string());
        assert_eq!((answer.status, answer.body.len() > 6 * bytes), (200, true), "{} bytes", answer.body.len());
        assert!(service.get(&format!("/executions/{id}")).body == answer.body);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

/// A request whose answer is that large: every byte of its output takes six as JSON.
fn sixty_megabytes(service: &Service) -> Vec<u8> {
    let code = "import sys\nsys.stdout.write('\\x01' * (10 << 20))";
    let body = json!({"language": "python", "code": code}).to_string();
    service.request_bytes("POST", "/execute", &[], body.as_bytes())
}

#[test]
fn connections_that_come_at_once_wait_for_no_second_try() {
    const AT_ONCE: u32 = 400;
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    if most.trim().parse::<u32>().unwrap_or(128) < AT_ONCE {
        return skipped("connections that come at once", "the kernel lets fewer wait (net.core.somaxconn)");
    }
    let service = Service::with(&[]);
    let address = service.address().parse().expect("an address");
    // It accepts none of them, so that all have to wait in the kernel.
    service.signal(Signal::STOP);
    let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(900));
    let connections: Result<Vec<_>, _> = (0..AT_ONCE).map(connect).collect();
    service.signal(Signal::CONT);
    connections.expect("each at its first try");
    service.assert_alive();
}

#[test]
fn the_usual_limit_of_open_files_is_enough() {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: before.maximum }).expect("a lower limit");
    let service = Service::with(&[]);
    let completed = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..150).map(|_| scope.spawn(|| service.run("shell", "sleep 0.2"))).collect();
        tasks.into_iter().map(|task| task.join().expect("an answer")).collect::<Vec<Value>>()
    });
    completed.iter().for_each(|answer| assert_completed(answer));
}

#[test]
fn connections_that_ask_nothing_leave_room_for_those_that_do() {
    // A quarter of these is for connections.
    let few = ["sh", "-c", "ulimit -n 1024; exec \"$@\"", "sh"];
    let service = Service::started_by(&few, Home::new(), &[("EXECUTOR_API_TOKEN", "canary-token")]);
    let idle: Vec<_> = (0..400)
        .map(|number| {
            let mut stream = service.connect();
            stream.write_all(&b"GET /health HTT"[..number % 15]).expect("a part");
            stream
        })
        .collect();
    // The control: they did take every place there is, so that this one has to wait.
    let start = Instant::now();
    assert_eq!(service.get("/health").status, 200);
    let waited = start.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(6)).contains(&waited), "{waited:?}");
    drop(idle);
    service.assert_alive();
}

#[test]
fn a_launcher_that_was_killed_is_replaced() {
    let service = Service::with(&[]);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", service.pid())).expect("children");
    let launcher: i32 = children.split_whitespace().next().expect("a launcher").parse().expect("its pid");
    let pid = rustix::process::Pid::from_raw(launcher).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    // Its sandboxes die with it, a moment later: what ran in one is lost, what was made ahead is not used any more.
    std::thread::sleep(Duration::from_millis(300));
    for language in ["shell", "python", "shell"] {
        assert_completed(&service.run(language, if language == "shell" { ":" } else { "0" }));
    }
    let status = std::fs::read_to_string(format!("/proc/{launcher}/status"));
    assert!(status.is_err(), "the old one is still there: {status:?}");
}
