//! `ISOLATION=none`: only when asked for, and it says so.

use conformance::{Service, assert_completed, assert_failed};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn nothing_is_isolated_and_everything_says_so() {
    let service = Service::with(&[("ISOLATION", "none")]);
    assert_eq!(service.get("/health").json()["isolation"], "none");
    assert_eq!(service.get("/info").json()["isolation"], "none");
    assert!(service.log().contains("nothing is isolated"), "{}", service.log());
    // The host's files are there, which is what the tests of isolation compare with.
    let answer = service.run("shell", "test -d /proc/1 && test -e /etc/passwd && pwd");
    assert_completed(&answer);
    assert_ne!(answer["stdout"], "/workspace\n");
}

#[test]
fn all_languages_run_under_the_same_supervision() {
    let service = Service::with(&[("ISOLATION", "none")]);
    for (language, code) in [
        ("python", "def handler(event): return event['name']"),
        ("javascript", "exports.handler = (event) => event.name"),
        ("shell", "printf '\"Alice\"' >&3"),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "event": {"name": "Alice"}}));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], "Alice", "{language}");
    }
    let answer = service.execute(json!({"language": "python", "code": "x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1", "limits": {"memory_mb": 64}}));
    assert_failed(&answer, "out_of_memory");
}

#[test]
fn daemons_end_with_the_execution_here_too() {
    let service = Service::with(&[("ISOLATION", "none")]);
    let marker = format!("unisolated-daemon-{}", std::process::id());
    let code = format!("(trap '' TERM HUP; setsid bash -c 'exec -a {marker} sleep 60' & ) ; sleep 0.3; echo done");
    let start = Instant::now();
    let answer = service.run("shell", &code);
    assert_completed(&answer);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(conformance::processes_named(&marker), 0);
}
