//! A minute of random system calls from inside sandboxes: the service answers throughout, every execution ends in an
//! answer, nothing of one is left, and the kernel has nothing to say.
//!
//! The program (`calls.py`) makes calls of random numbers with random arguments in forked children. `SEED` repeats a run, as
//! far as the kernel's own timing lets it.

use crate::{Result, need_release_binary, table};
use conformance::{Service, process};
use serde_json::json;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PROGRAM: &str = include_str!("calls.py");
/// So long one execution makes calls.
const EXECUTION_S: u64 = 6;
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
/// So long may it take until nothing of an execution is left.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a kernel says when something in it is wrong. That a program of ours died is no such thing.
const ALARMS: [&str; 8] = [
    "WARNING: CPU",
    "WARNING: at",
    "BUG:",
    "kernel BUG",
    "Oops:",
    "UBSAN:",
    "blocked for more than",
    "rcu_sched self-detected",
];

/// Runs and prints; whether all of it held.
pub fn run(seconds: u64) -> Result<bool> {
    need_release_binary()?;
    let seed = seed();
    let service = Service::with(&[("MAX_PROCESSES", "48")]);
    let isolation = service.get("/health").json()["isolation"].to_string();
    println!("SEED={seed} isolation {isolation}: random system calls for {seconds} s");
    service.assert_alive();
    let before = process::below(service.pid()).len();
    let log_before = kernel_log();

    let (ended, slowest) = (AtomicBool::new(false), AtomicU64::new(0));
    let (rows, wrong) = thread::scope(|scope| {
        scope.spawn(|| ask_for_health(&service, &ended, &slowest));
        let outcome = storm(&service, seed, seconds);
        ended.store(true, Ordering::Relaxed);
        outcome
    });
    table::print(&["execution", "end", "calls", "s"], &rows);

    let mut kept = wrong.is_empty();
    wrong.iter().for_each(|line| println!("BROKEN: {line}"));
    let slowest = Duration::from_micros(slowest.load(Ordering::Relaxed));
    println!("slowest answer about health: {slowest:.1?} (at most {HEALTH_WITHIN:?})");
    kept &= slowest <= HEALTH_WITHIN;
    let deadline = Instant::now() + PATIENCE;
    while process::below(service.pid()).len() > before && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    let left = process::below(service.pid()).len();
    println!("processes below the service: {before} before, {left} after");
    kept &= left <= before;
    kept &= kernel_is_quiet(log_before.as_deref());
    service.assert_alive();
    Ok(kept)
}

#[allow(clippy::disallowed_methods)] // The switch of a repeated run.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(now)
}

/// Executions one after the other; what each was, and what is wrong with any.
fn storm(service: &Service, seed: u64, seconds: u64) -> (Vec<Vec<String>>, Vec<String>) {
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut calls = 0;
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let event = json!({"seed": seed.wrapping_add(number), "seconds": EXECUTION_S, "signals": number % 4 == 3});
        let request = json!({
            "language": "python", "code": PROGRAM, "event": event, "timeout": EXECUTION_S + 4,
            "limits": {"memory_mb": 128},
        });
        let start = Instant::now();
        let response = service.post(request.to_string());
        let took = start.elapsed().as_secs_f64();
        let answer = if response.status == 200 { response.json() } else { json!({}) };
        let end = answer["error"]["kind"].as_str().unwrap_or("completed").to_owned();
        // However the program ended, it is said in terms of the program.
        if response.status != 200 || end == "sandbox" {
            wrong.push(format!("execution {number}: status {}: {}", response.status, conformance::shortened(&answer)));
        }
        let count = answer["return_value"].as_u64().unwrap_or_default();
        calls += count;
        rows.push(vec![format!("{number}"), end, format!("{count}"), format!("{took:.1}")]);
    }
    if calls == 0 {
        wrong.push("no execution came to its end, so that nothing is known of how many calls there were".into());
    }
    (rows, wrong)
}

fn ask_for_health(service: &Service, ended: &AtomicBool, slowest_us: &AtomicU64) {
    while !ended.load(Ordering::Relaxed) {
        let start = Instant::now();
        let is_well = service.get("/health").status == 200;
        let took = if is_well { start.elapsed().as_micros() as u64 } else { u64::MAX };
        slowest_us.fetch_max(took, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(50));
    }
}

/// What the kernel has logged, if this user may know.
fn kernel_log() -> Option<Vec<String>> {
    let output = Command::new("dmesg").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn kernel_is_quiet(before: Option<&[String]>) -> bool {
    let (Some(before), Some(after)) = (before, kernel_log()) else {
        println!("SKIPPED: the kernel's log is not readable here (dmesg)");
        return true;
    };
    let is_alarm = |line: &&String| ALARMS.iter().any(|alarm| line.contains(alarm));
    // Lines carry their time, so that an old one is not taken for new.
    let new: Vec<&String> = after.iter().filter(is_alarm).filter(|line| !before.contains(line)).collect();
    new.iter().for_each(|line| println!("BROKEN: the kernel says: {line}"));
    println!("alarms in the kernel's log: {}", new.len());
    new.is_empty()
}
