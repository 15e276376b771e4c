//! That nothing accepted is lost: across ends of the service of every kind, under a control plane of every kind.

use crate::{info, reporting, reporting_at, results, run};
use conformance::control_plane::{Call, Kind, Reply};
use conformance::{ControlPlane, Home, Service, wait_until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KILLS: usize = 10;
const KILLS_OF_SOAK: usize = 200;
const CLIENTS: usize = 4;

#[test]
fn a_result_survives_every_end_and_is_the_same_each_time() {
    let plane = ControlPlane::start();
    plane.behave(results(|_| Reply::Status(503)));
    let mut service = reporting(&plane, &[]);
    run(&service, "survivor", "date +%N");
    plane.wait_for(Kind::Result, 1, 10);
    for kill in [true, false] {
        let home = if kill { service.killed() } else { service.stopped() };
        let before = plane.of_kind(Kind::Result).len();
        service = reporting_at(home, &plane, &[]);
        plane.wait_for(Kind::Result, before + 1, 10);
    }
    plane.behave(|_| Reply::Status(200));
    plane.result_of("survivor", 20);
    let bodies: BTreeSet<Vec<u8>> = plane.of_kind(Kind::Result).into_iter().map(|call| call.body).collect();
    assert_eq!(bodies.len(), 1);
    // What it has taken does not come back.
    wait_until("it has left", 10, || info(&service)["pending_reports"] == 0);
    let (home, count) = (service.killed(), plane.of_kind(Kind::Result).len());
    let _service = reporting_at(home, &plane, &[]);
    plane.wait_for(Kind::Ready, 4, 10);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(plane.of_kind(Kind::Result).len(), count);
}

#[test]
fn one_that_the_service_did_not_live_to_finish_is_reported_crashed() {
    let plane = ControlPlane::start();
    let service = reporting(&plane, &[("EXECUTE_MODE", "async")]);
    assert_eq!(
        service.execute(json!({"language": "shell", "code": "sleep 30", "execution_id": "c"}))["status"],
        "PENDING"
    );
    plane.wait_for(Kind::Heartbeat, 1, 10);
    let _service = reporting_at(service.killed(), &plane, &[]);
    let result = plane.result_of("c", 10);
    assert_eq!((&result["status"], &result["exit_code"]), (&json!("crashed"), &json!(137)), "{result}");
}

#[test]
#[ignore = "a minute; make soak"]
fn a_hundred_thousand_that_wait_take_little_memory_and_all_arrive_in_order() {
    const COUNT: usize = 100_000;
    let mut plane = ControlPlane::start();
    plane.close();
    let settings = [("WARM_PYTHON", "0"), ("WARM_NODE", "0")];
    let service = reporting(&plane, &settings);
    run(&service, "original", "head -c 2000 /dev/zero | tr '\\0' x");
    wait_until("it waits", 10, || info(&service)["pending_reports"] == 1);
    let few_kib = service.memory_kb("VmHWM");
    let home = service.stopped();
    let mut copy = std::process::Command::new("python3");
    copy.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/programs/backlog.py"));
    copy.arg(home.path("state/executions.db")).arg(COUNT.to_string());
    let copied = conformance::output_within(120, &mut copy);
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));

    let service = reporting_at(home, &plane, &settings);
    assert_eq!(info(&service)["pending_reports"], COUNT);
    // An outage of some length, with executions in it.
    std::thread::sleep(Duration::from_secs(15));
    run(&service, "new", "true");
    plane.open();
    // The new one does not wait for the old ones.
    plane.result_of("new", 30);
    wait_until("all of them", 600, || info(&service)["pending_reports"] == 0);
    let many_kib = service.memory_kb("VmHWM");
    assert!(many_kib < few_kib + 16 * 1024, "{few_kib} kB with one, {many_kib} kB with {COUNT}");
    let calls = plane.of_kind(Kind::Result);
    let ids: BTreeSet<&str> = calls.iter().map(|call| call.execution.as_str()).collect();
    assert_eq!((calls.len(), ids.len()), (COUNT + 1, COUNT + 1), "each once");
    let order: Vec<&str> =
        calls.iter().map(|call| call.execution.as_str()).filter(|id| id.starts_with("copy-")).collect();
    let sweep = order.iter().position(|id| *id == "copy-000001").expect("the oldest copy");
    assert!(sweep < 1100, "{sweep} overtook it");
    let mut newest = "";
    let late = order[sweep..].iter().filter(|id| {
        newest = newest.max(id);
        // Within the few that are on their way side by side.
        **id < newest && number(newest) - number(id) > 32
    });
    assert_eq!(late.count(), 0);
}

fn number(id: &str) -> i64 {
    id.rsplit('-').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Numbers that nobody foresees but who knows the seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

fn misbehaving(mut dice: Dice) -> impl FnMut(&Call) -> Reply + Send + 'static {
    move |_| match dice.throw(12) {
        0 => Reply::Status(500),
        1 => Reply::Status(503),
        2 => Reply::Status(401),
        3 => Reply::With(429, "Retry-After", "1".into()),
        4 => Reply::Cut,
        5 => Reply::CutWithinHead,
        6 => Reply::CutWithinBody(200),
        7 => Reply::Late(Duration::from_millis(200), 200),
        8 => Reply::Status(409),
        _ => Reply::Status(200),
    }
}

#[test]
fn kills_under_load_lose_nothing() {
    kills(KILLS);
}

#[test]
#[ignore = "some ten minutes; make soak"]
fn many_kills_under_load_lose_nothing() {
    kills(KILLS_OF_SOAK);
}

/// Every execution leaves a line in a session's file when it runs; the service is killed again and again; in the end each that was
/// acknowledged has been reported, with one content, and none has run twice.
fn kills(count: usize) {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let plane = ControlPlane::start();
    plane.behave(misbehaving(Dice(seed + 1)));
    let acknowledged = Mutex::new(BTreeSet::new());
    let next = AtomicUsize::new(0);
    let settings = [
        ("EXECUTE_MODE", "async"),
        ("HEARTBEAT_INTERVAL", "1"),
        ("MAX_CONCURRENT_EXECUTIONS", "4"),
        ("MAX_QUEUED_EXECUTIONS", "20"),
    ];
    let mut home = Home::new();
    for _ in 0..count {
        let service = reporting_at(home, &plane, &settings);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| load(&service, &next, &acknowledged, &stop));
            }
            std::thread::sleep(Duration::from_millis(300 + dice.throw(900)));
            service.signal(rustix::process::Signal::KILL);
            stop.store(true, Ordering::Release);
        });
        home = service.killed();
    }
    let service = reporting_at(home, &plane, &settings);
    plane.behave(|_| Reply::Status(200));
    let acknowledged = acknowledged.into_inner().expect("nobody panicked");
    assert!(acknowledged.len() >= count, "too few to tell: {}", acknowledged.len());
    let reported = || -> BTreeSet<String> {
        let calls = plane.of_kind(Kind::Result).into_iter().filter(Call::is_taken);
        calls.map(|call| call.execution).collect()
    };
    let end = Instant::now() + conformance::patience(120);
    loop {
        let missing: Vec<String> = acknowledged.difference(&reported()).cloned().collect();
        if missing.is_empty() && info(&service)["pending_reports"] == 0 {
            break;
        }
        assert!(Instant::now() < end, "{} of {} are not reported: {missing:?}", missing.len(), acknowledged.len());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(info(&service)["put_aside"], 0);
    let mut contents: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for call in plane.of_kind(Kind::Result) {
        contents.entry(call.execution).or_default().insert(call.body);
    }
    let differing: Vec<&String> = contents.iter().filter(|(_, bodies)| bodies.len() > 1).map(|(id, _)| id).collect();
    assert!(differing.is_empty(), "reported with different contents: {differing:?}");
    let statuses: BTreeSet<String> = contents.values().flatten().map(|body| status(body)).collect();
    assert!(statuses.contains("success"), "{statuses:?}");
    let ran = lines(&service);
    let distinct: BTreeSet<&String> = ran.iter().collect();
    assert_eq!(distinct.len(), ran.len(), "none runs twice");
    assert!(!ran.is_empty());
    println!("{} acknowledged, {} ran, {statuses:?}", acknowledged.len(), ran.len());
}

fn status(body: &[u8]) -> String {
    serde_json::from_slice::<Value>(body).expect("a result")["status"].as_str().unwrap_or_default().to_owned()
}

/// Sends executions until it is told to stop or the service is gone.
fn load(service: &Service, next: &AtomicUsize, acknowledged: &Mutex<BTreeSet<String>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let id = format!("k{}", next.fetch_add(1, Ordering::Relaxed));
        let code = format!("echo {id} >> ran; sleep 0.0{}; echo {id}", id.len() % 5);
        let body = json!({"language": "shell", "code": code, "execution_id": id, "session_id": "kills"}).to_string();
        let bytes = service.request_bytes("POST", "/execute", &[], body.as_bytes());
        let Ok(mut stream) = std::net::TcpStream::connect(service.address()) else { return };
        if stream.write_all(&bytes).is_err() {
            return;
        }
        match conformance::read_response(&stream) {
            Ok(answer) if answer.status == 200 => {
                acknowledged.lock().expect("nobody panicked").insert(id);
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body));
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(_) => return,
        }
    }
}

/// What the executions wrote when they ran.
fn lines(service: &Service) -> Vec<String> {
    let file = find(&service.path("workspaces")).expect("the session's file");
    std::fs::read_to_string(file).expect("a text").lines().map(str::to_owned).collect()
}

fn find(folder: &Path) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path) } else { path.ends_with("ran").then_some(path) }
    })
}
