//! Promises about time, each measured while no other test of this crate has a service running.
//!
//! The bounds are those of the contract or wider: what is too slow here is slow on any machine.

use conformance::{Service, assert_completed, assert_failed};
use serde_json::json;
use std::time::{Duration, Instant};

/// A service with the machine to itself, its first execution behind it.
fn warmed_up() -> Service {
    let service = Service::alone(&[]);
    for (language, code) in [("python", "pass"), ("javascript", ";"), ("shell", ":")] {
        assert_completed(&service.run(language, code));
    }
    service
}

#[test]
fn five_sleeps_of_a_second_take_under_a_second_and_a_half() {
    let service = warmed_up();
    for (language, code) in [
        ("python", "import time\ndef handler(event):\n    time.sleep(1)\n    return 'slept'"),
        ("shell", "sleep 1; echo '\"slept\"' >&3"),
    ] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..5).map(|_| scope.spawn(|| service.run(language, code))).collect();
            for run in runs {
                assert_eq!(run.join().expect("an answer")["return_value"], "slept");
            }
        });
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_millis(1500), "{language}: {elapsed:?}");
    }
}

#[test]
fn a_hundred_and_fifty_requests_at_once_all_succeed() {
    let service = warmed_up();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..150)
            .map(|n| {
                let service = &service;
                scope.spawn(move || {
                    service.execute(json!({
                        "language": "python", "code": "def handler(event): return event['n']",
                        "event": {"n": n}
                    }))
                })
            })
            .collect();
        let asked = Instant::now();
        assert_eq!(service.get("/health").status, 200);
        let waited = asked.elapsed();
        assert!(waited < Duration::from_secs(3), "/health took {waited:?}");
        for (n, run) in runs.into_iter().enumerate() {
            let answer = run.join().expect("an answer");
            assert_completed(&answer);
            assert_eq!(answer["return_value"], n);
        }
    });
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_timeout_fires_in_time() {
    let service = warmed_up();
    for (language, code) in [
        ("python", "while True: pass"),
        ("python", "import time\ntime.sleep(30)"),
        ("javascript", "while (true) {}"),
        ("shell", "trap '' TERM; while :; do sleep 30; done"),
        ("shell", "(setsid sh -c 'trap \"\" TERM; sleep 30') & sleep 30"),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "timeout": 1}));
        assert_failed(&answer, "timeout");
        let seconds = answer["execution_time"].as_f64().expect("a number");
        assert!((0.95..1.25).contains(&seconds), "{code}: {seconds} s");
        let start = Instant::now();
        service.execute(json!({"language": language, "code": code, "timeout": 1}));
        let elapsed = start.elapsed();
        assert!((Duration::from_millis(950)..Duration::from_millis(1300)).contains(&elapsed), "{code}: {elapsed:?}");
    }
}

/// Memory in so many pieces that the kernel takes a while to free it, in four processes that use what CPU they get.
const LONG_IN_DYING: &str = "
import mmap, os
pieces = [mmap.mmap(-1, 4096, prot=1 + n % 2 * 2) for n in range(25000)]
os.fork(), os.fork()
while True: pass
";

#[test]
fn what_is_long_in_dying_is_dead_and_counted() {
    let service = warmed_up();
    for code in ["while True: pass", LONG_IN_DYING] {
        let answer = service.execute(json!({"language": "python", "code": code, "timeout": 2}));
        assert_failed(&answer, "timeout");
        let used = answer["metrics"]["cpu_time_ms"].as_f64().expect("a number");
        assert!(used > 100.0, "{code}: {used} ms of CPU time; {}", answer["error"]["message"]);
    }
}

#[test]
fn a_daemon_does_not_delay_the_answer() {
    let service = warmed_up();
    let fastest = |code: &str| {
        (0..5)
            .map(|_| {
                let start = Instant::now();
                assert_completed(&service.run("shell", code));
                start.elapsed()
            })
            .min()
            .expect("a time")
    };
    let alone = fastest("echo done");
    for code in [
        "sleep 30 & echo done",
        "(trap '' TERM HUP; exec setsid sleep 30) & echo done",
        "(setsid sh -c 'trap \"\" TERM HUP; (trap \"\" TERM; while :; do sleep 1; done) &' &) ; echo done",
        "for n in 1 2 3 4 5 6 7 8 9 10; do setsid sleep 30 & done; echo done",
        "sleep 30 >/dev/null 2>&1 3>&- & echo done",
    ] {
        let elapsed = fastest(code);
        assert!(elapsed < alone + Duration::from_millis(300), "{code}: {elapsed:?}, without a daemon {alone:?}");
    }
}

#[test]
fn the_service_answers_while_a_program_takes_all_it_can() {
    let service = warmed_up();
    std::thread::scope(|scope| {
        let runs: Vec<_> = [
            "while :; do :; done",
            "yes",
            "for n in 1 2 3 4 5 6 7 8 9 10; do (for m in {1..100}; do sleep 30 & done; wait) & done; wait",
            "head -c 1000000000 /dev/zero | tail",
        ]
        .into_iter()
        .map(|code| {
            let service = &service;
            scope.spawn(move || service.execute(json!({"language": "shell", "code": code, "timeout": 3})))
        })
        .collect();
        while !runs.iter().all(|run| run.is_finished()) {
            let asked = Instant::now();
            assert_eq!(service.get("/health").status, 200);
            let waited = asked.elapsed();
            assert!(waited < Duration::from_secs(2), "/health took {waited:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    service.assert_alive();
}
