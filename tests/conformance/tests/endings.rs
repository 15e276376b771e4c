//! How an execution ends: its exit code, a signal, the timeout, its memory, its output, its descendants.

use conformance::{Service, assert_completed, assert_failed, processes_named, shortened, wait_until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number: {value}"))
}

#[test]
fn a_programs_exit_code_is_its_own() {
    let service = Service::start();
    for (language, code, exit_code) in [
        ("python", "import sys\nprint('out')\nsys.exit(3)", 3),
        ("python", "import sys\nprint('out')\ndef handler(event): sys.exit(7)", 7),
        ("python", "print('out')\nraise SystemExit('why')", 1),
        ("python", "import os\nprint('out', flush=True)\nos._exit(9)", 9),
        ("javascript", "console.log('out'); process.exit(4)", 4),
        ("javascript", "console.log('out'); process.exitCode = 6", 6),
        ("javascript", "console.log('out'); exports.handler = () => process.exit(8)", 8),
        ("javascript", "import 'fs'; console.log('out'); process.exit(4)", 4),
        ("shell", "echo out; exit 5", 5),
        ("shell", "set -e; echo out; false; echo not here", 1),
        ("shell", "echo out; bash -c 'kill -SEGV $$'; exit $?", 139),
        ("shell", "echo out; exit 255", 255),
    ] {
        let answer = service.run(language, code);
        assert_failed(&answer, "exit");
        assert_eq!(answer["exit_code"], exit_code, "{code}: {answer}");
        assert!(answer["signal"].is_null(), "{answer}");
        assert_eq!(answer["stdout"], "out\n", "{code}");
    }
    let answer = service.run("python", "raise SystemExit('why')");
    assert_eq!(answer["stderr"], "why\n");
}

#[test]
fn exit_code_zero_is_completed() {
    let service = Service::start();
    for (language, code) in [
        ("python", "import sys\nsys.exit(0)"),
        ("python", "import sys\nsys.exit()"),
        ("python", "import sys\ndef handler(event): sys.exit(0)"),
        ("python", "import os\ndef handler(event): os._exit(0)"),
        ("javascript", "process.exit(0)"),
        ("javascript", "exports.handler = () => process.exit(0)"),
        ("shell", "exit 0"),
        ("shell", "false; true"),
    ] {
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert!(answer["return_value"].is_null(), "{code}: {answer}");
    }
}

#[test]
fn a_signal_is_named() {
    let service = Service::start();
    for (language, code, signal) in [
        ("python", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("python", "import os, signal\ndef handler(event): os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("python", "import os\nos.abort()", "SIGABRT"),
        ("javascript", "process.kill(process.pid, 'SIGSEGV')", "SIGSEGV"),
        ("javascript", "process.abort()", "SIGABRT"),
        ("shell", "kill -SEGV $$", "SIGSEGV"),
        ("shell", "kill -TERM $$", "SIGTERM"),
        ("shell", "kill -KILL $$", "SIGKILL"),
    ] {
        let answer = service.run(language, code);
        assert_failed(&answer, "signal");
        assert!(answer["exit_code"].is_null(), "{code}: {answer}");
        assert_eq!(answer["signal"], signal, "{code}: {answer}");
    }
}

#[test]
fn a_timeout_keeps_what_was_printed_until_then() {
    let service = Service::start();
    for (language, code) in [
        ("python", "print('before')\nwhile True: pass"),
        ("python", "import time\ndef handler(event):\n    print('before')\n    time.sleep(60)"),
        (
            "python",
            "import signal, time\nfor s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\nprint('before')\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        ),
        ("javascript", "console.log('before'); while (true) {}"),
        (
            "javascript",
            "exports.handler = () => { console.log('before'); return new Promise(r => setTimeout(r, 60000)); }",
        ),
        ("shell", "echo before; trap '' TERM INT HUP; while :; do sleep 60; done"),
        ("shell", "echo before; kill -STOP $$"),
    ] {
        let start = Instant::now();
        let answer = service.execute(json!({"language": language, "code": code, "timeout": 1}));
        let elapsed = start.elapsed();
        assert_failed(&answer, "timeout");
        assert!(answer["exit_code"].is_null(), "{code}: {answer}");
        assert!(answer["signal"].is_null(), "{code}: {answer}");
        assert_eq!(answer["stdout"], "before\n", "{code}");
        let message = answer["error"]["message"].as_str().expect("text");
        assert!(message.starts_with("Execution timeout") && message.contains('1'), "{message}");
        assert!(elapsed >= Duration::from_secs(1), "{code}: {elapsed:?}");
        assert!(elapsed < Duration::from_secs(4), "{code}: {elapsed:?}");
        let seconds = number(&answer["execution_time"]);
        assert!((0.9..3.0).contains(&seconds), "{code}: {seconds}");
    }
}

#[test]
fn the_timeout_in_the_event_goes_before_the_other() {
    let service = Service::start();
    for (language, code) in [
        ("python", "import time\ntime.sleep(20)"),
        ("javascript", "setTimeout(() => {}, 20000)"),
        ("shell", "sleep 20"),
    ] {
        let start = Instant::now();
        let answer = service.execute(json!({
            "language": language, "code": code, "timeout": 30, "event": {"__timeout": 1}
        }));
        assert_failed(&answer, "timeout");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let answer = service.execute(json!({
        "language": "shell", "code": "sleep 1.5; echo end", "timeout": 1, "event": {"__timeout": 20}
    }));
    assert_completed(&answer);
    assert_eq!(answer["stdout"], "end\n");
}

#[test]
fn the_default_timeout_is_the_configured_one() {
    let service = Service::with(&[("MAX_EXECUTION_TIME", "1")]);
    assert_failed(&service.run("shell", "sleep 20"), "timeout");
}

#[test]
fn running_out_of_memory_is_told_apart() {
    let service = Service::start();
    for (language, code) in [
        ("python", "print('before', flush=True)\nchunks = [b'x' * 10**7 for _ in range(100)]"),
        (
            "python",
            "import os\nprint('before', flush=True)\ndef handler(event):\n    for _ in range(2): os.fork()\n    chunks = [b'x' * 10**6 for _ in range(300)]",
        ),
        ("javascript", "console.log('before'); const a = []; while (a.length < 100) a.push(Buffer.alloc(1e7, 1));"),
        (
            "javascript",
            "console.log('before'); const a = []; while (a.length < 100000) a.push({ n: new Array(1000).fill(1.5) });",
        ),
        ("shell", "echo before; head -c 1000000000 /dev/zero | tail; echo survived"),
    ] {
        let answer = service.execute(json!({
            "language": language, "code": code, "timeout": 60, "limits": {"memory_mb": 128}
        }));
        assert_failed(&answer, "out_of_memory");
        assert!(answer["exit_code"].is_null(), "{code}: {answer}");
        assert_eq!(answer["stdout"], "before\n", "{code}: {answer}");
    }
    service.assert_alive();
}

#[test]
fn the_memory_limit_is_the_configured_one() {
    let service = Service::with(&[("MAX_MEMORY_MB", "96")]);
    let answer = service.run("python", "x = b'x' * (200 << 20)");
    assert_failed(&answer, "out_of_memory");
    let answer = service.run("python", "x = b'x' * (40 << 20)");
    assert_completed(&answer);
}

#[test]
fn the_metrics_are_the_programs_own() {
    let service = Service::start();
    let answer = service.run("python", "x = b'x' * (100 << 20)");
    let peak = number(&answer["metrics"]["peak_memory_mb"]);
    assert!((90.0..250.0).contains(&peak), "{peak} MB");

    let answer = service.run("shell", ":");
    let peak = number(&answer["metrics"]["peak_memory_mb"]);
    assert!((0.1..60.0).contains(&peak), "{peak} MB");

    let busy = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass";
    let cpu = number(&service.run("python", busy)["metrics"]["cpu_time_ms"]);
    assert!((390.0..1500.0).contains(&cpu), "{cpu} ms");

    let child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time\\nend = time.process_time() + 0.4\\nwhile time.process_time() < end: pass'], check=True)";
    let answer = service.run("python", child);
    assert_completed(&answer);
    let cpu = number(&answer["metrics"]["cpu_time_ms"]);
    assert!(cpu >= 390.0, "a child's time counts: {cpu} ms");

    let answer = service.run("shell", "sleep 0.5");
    let metrics = &answer["metrics"];
    let cpu = number(&metrics["cpu_time_ms"]);
    assert!(cpu < 250.0, "sleeping costs nothing: {cpu} ms");
    let duration = number(&metrics["duration_ms"]);
    assert!((490.0..3000.0).contains(&duration), "{duration} ms");
    assert!((duration / 1000.0 - number(&answer["execution_time"])).abs() < 0.5, "{answer}");
}

/// Prints 200 MB, in each language and stream.
const FLOODS: [(&str, &str, &str); 4] = [
    ("shell", "yes | head -c 200000000; echo end >&2", "stdout"),
    ("shell", "yes | tr -d '\\n' | head -c 200000000 >&2", "stderr"),
    ("python", "import sys\nblock = 'y\\n' * 500_000\nfor _ in range(200): sys.stdout.write(block)", "stdout"),
    (
        "javascript",
        "const block = 'y\\n'.repeat(500000); for (let i = 0; i < 200; i++) process.stdout.write(block);",
        "stdout",
    ),
];

#[test]
fn a_flood_of_output_is_drained_counted_and_cut() {
    let service = Service::start();
    for (language, code, stream) in FLOODS {
        let answer = service.execute(json!({"language": language, "code": code, "timeout": 120}));
        assert_completed(&answer);
        let text = answer[stream].as_str().expect("text");
        assert_eq!(text.len(), 10_485_760, "{code}");
        assert!(text.starts_with('y'));
        assert_eq!(answer[format!("{stream}_truncated")], true, "{code}");
        let other = if stream == "stdout" { "stderr" } else { "stdout" };
        assert_eq!(answer[format!("{other}_truncated")], false, "{code}");
    }
    if service.is_ours() {
        let most = service.memory_kb("VmHWM");
        assert!(most < 128 << 10, "the service held {most} kB");
    }
    service.assert_alive();
}

#[test]
fn the_output_bound_is_the_configured_one_or_the_requests() {
    let service = Service::with(&[("MAX_OUTPUT_BYTES", "5000")]);
    let answer = service.run("shell", "yes | head -c 6000; yes n | head -c 5001 >&2");
    assert_completed(&answer);
    assert_eq!(answer["stdout"].as_str().map(str::len), Some(5000));
    assert_eq!(answer["stdout_truncated"], true);
    assert_eq!(answer["stderr"].as_str().map(str::len), Some(5000));
    assert_eq!(answer["stderr_truncated"], true);
    let answer = service.run("shell", "yes | head -c 5000");
    assert_eq!(answer["stdout"].as_str().map(str::len), Some(5000));
    assert_eq!(answer["stdout_truncated"], false);
    let answer = service.execute(json!({
        "language": "shell", "code": "yes | head -c 2000", "limits": {"output_bytes": 1000}
    }));
    assert_completed(&answer);
    assert_eq!(answer["stdout"].as_str().map(str::len), Some(1000));
    assert_eq!(answer["stdout_truncated"], true);
}

#[test]
fn output_is_cut_between_characters() {
    let service = Service::start();
    for (character, bytes, kept) in [("é", 101, 50), ("€", 100, 33), ("😀", 103, 25)] {
        let answer = service.execute(json!({
            "language": "python", "code": format!("print('{character}' * 1000)"),
            "limits": {"output_bytes": bytes}
        }));
        assert_completed(&answer);
        assert_eq!(answer["stdout"], character.repeat(kept), "{bytes} bytes");
        assert_eq!(answer["stdout_truncated"], true);
    }
}

#[test]
fn bytes_that_are_not_utf8_are_replaced() {
    let service = Service::start();
    for (language, code) in [
        ("python", "import os\nos.write(1, b'a\\xff\\xfeb\\x00\\n')"),
        ("javascript", "process.stdout.write(Buffer.from([0x61, 0xff, 0xfe, 0x62, 0, 10]))"),
        ("shell", "printf 'a\\377\\376b\\000\\n'"),
    ] {
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "a\u{fffd}\u{fffd}b\0\n", "{language}");
        assert_eq!(answer["stdout_truncated"], false);
    }
    let answer = service.run("shell", "printf 'end \\303' >&2");
    assert_eq!(answer["stderr"], "end \u{fffd}");
}

#[test]
fn text_of_every_alphabet_is_printed_as_it_is() {
    let service = Service::start();
    let text = "zażółć 你好 🎉";
    for (language, code) in [
        ("python", format!("print('{text}')")),
        ("javascript", format!("console.log('{text}')")),
        ("shell", format!("echo '{text}'")),
    ] {
        let answer = service.run(language, &code);
        assert_eq!(answer["stdout"], format!("{text}\n"), "{language}");
    }
}

/// A daemon that has left its family, ignores every polite signal, keeps stdout and leaves a trace in `beat`.
fn daemon(marker: &str) -> String {
    format!(
        r#"
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/bash", ["{marker}", "-c", "trap '' TERM INT HUP; while :; do echo x >> /workspace/beat; sleep 0.02; done"])
    os._exit(0)
os.wait()
while not os.path.exists("/workspace/beat"): time.sleep(0.01)
print("daemon runs")
"#
    )
}

#[test]
fn daemons_are_gone_when_the_answer_is_sent() {
    let service = Service::start();
    for (ending, last_lines) in [
        ("completed", "def handler(event): return 1\n"),
        ("failed", "raise ValueError()\n"),
        ("timeout", "time.sleep(60)\n"),
        ("failed", "os.kill(os.getpid(), 9)\n"),
    ] {
        let marker = format!("conformance-daemon-{}-{ending}", std::process::id());
        let session = marker.clone();
        let code = format!("{}{last_lines}", daemon(&marker));
        let answer = service.execute(json!({
            "language": "python", "code": code, "session_id": session, "timeout": 3
        }));
        let alive = processes_named(&marker);
        assert_eq!(answer["status"], ending, "{answer}");
        assert_eq!(alive, 0, "after {ending}");
        if last_lines.starts_with("def") {
            assert_eq!(answer["stdout"], "daemon runs\n");
        }
        let answer = service.execute(json!({
            "language": "shell", "session_id": session,
            "code": "wc -c < beat; sleep 0.3; wc -c < beat"
        }));
        let stdout = answer["stdout"].as_str().expect("text");
        let (before, after) = stdout.trim().split_once('\n').expect("two sizes");
        assert_ne!(before, "0", "the daemon ran");
        assert_eq!(before, after, "the daemon is still at work");
    }
}

#[test]
fn a_daemon_is_seen_while_its_execution_runs() {
    let service = Service::start();
    if !service.is_ours() {
        return;
    }
    let marker = format!("conformance-control-{}", std::process::id());
    let code = format!("{}time.sleep(1)\n", daemon(&marker));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| service.run("python", &code));
        wait_until("the daemon shows in /proc", 10, || processes_named(&marker) > 0);
        assert_completed(&run.join().expect("an answer"));
    });
    assert_eq!(processes_named(&marker), 0);
}

#[test]
fn a_child_left_behind_does_not_hold_the_answer() {
    let service = Service::start();
    for (language, code) in [
        ("shell", "sleep 30 & echo done"),
        ("python", "import subprocess\nsubprocess.Popen(['sleep', '30'])\nprint('done')"),
        (
            "javascript",
            "const child = require('child_process').spawn('sleep', ['30'], { detached: true, stdio: 'inherit' }); child.unref(); console.log('done');",
        ),
    ] {
        let start = Instant::now();
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "done\n");
        assert!(start.elapsed() < Duration::from_secs(5), "{language}");
    }
}

#[test]
fn processes_are_limited() {
    let service = Service::start();
    let count = "import os, signal\nn = 0\ntry:\n    for _ in range(300):\n        if os.fork() == 0:\n            signal.pause()\n        n += 1\nexcept OSError as error:\n    print(error.strerror)\nprint(n)\n";
    let answer = service.execute(json!({
        "language": "python", "code": count, "timeout": 20, "limits": {"processes": 16}
    }));
    assert_completed(&answer);
    let stdout = answer["stdout"].as_str().expect("text");
    let (error, forked) = stdout.trim().split_once('\n').expect("two lines");
    assert_eq!(error, "Resource temporarily unavailable");
    let forked: u32 = forked.parse().expect("a number");
    assert!((5..16).contains(&forked), "{forked} children");
}

/// Enough processes to harm a machine's other work, few enough to leave the machine be if nothing stops them.
const BOMB: &str =
    "trap '' TERM; for n in 1 2 3 4 5 6 7 8 9 10; do (for m in {1..100}; do sleep 60 & done; wait) & done; wait";

#[test]
fn a_fork_bomb_is_contained() {
    let service = Service::start();
    std::thread::scope(|scope| {
        let bomb = scope.spawn(|| {
            service.execute(json!({
                "language": "shell", "code": BOMB, "timeout": 3
            }))
        });
        let start = Instant::now();
        assert_eq!(service.get("/health").status, 200);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        let answer = bomb.join().expect("an answer");
        assert!(
            ["timeout", "failed"].contains(&answer["status"].as_str().expect("a status")),
            "{}",
            shortened(&answer)
        );
    });
    service.assert_alive();
}

#[test]
fn a_file_has_a_size_limit() {
    let service = Service::with(&[("MAX_FILE_SIZE_MB", "1")]);
    let answer = service.execute(json!({
        "language": "shell", "session_id": "session_size",
        "code": "head -c 3000000 /dev/zero > big; stat -c %s big; head -c 900000 /dev/zero > small; stat -c %s small"
    }));
    let stdout = answer["stdout"].as_str().expect("text");
    assert_eq!(stdout, "1048576\n900000\n", "{answer}");
    let answer = service.run("python", "open('big', 'wb').write(b'x' * 3_000_000)");
    assert_eq!(answer["status"], "failed", "{answer}");
}

#[test]
fn the_share_of_cpu_is_limited() {
    let service = Service::alone(&[]);
    let enforced = service.get("/info").json()["limits"]["enforcement"]["cpu"] == "enforced";
    if !enforced {
        eprintln!("SKIPPED: this host lets the service limit no CPU, and /info says so");
        return;
    }
    let burn = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass";
    let half = service.execute(json!({"language": "python", "code": burn, "limits": {"cpu_cores": 0.5}}));
    let used = |answer: &Value| number(&answer["metrics"]["cpu_time_ms"]);
    assert!(used(&half) < 1400.0, "{half}");
    // The control: without the lower limit it can have clearly more. A machine that is busy itself gives that now and then; one
    // time shows it.
    let mut whole = (0..10).map(|_| used(&service.run("python", burn)));
    assert!(whole.any(|whole| whole > used(&half) * 1.2), "never more than {half}");
}
