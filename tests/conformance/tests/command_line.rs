//! The commands beside `serve`, and what stops a start.

use conformance::{Home, output_within};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn run(home: &Home, arguments: &[&str]) -> Output {
    output_within(60, home.command().arg("run").args(arguments))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

// --- configuration ---

#[test]
fn a_wrong_value_stops_the_start_with_one_line() {
    for (variable, value) in [
        ("EXECUTOR_PORT", "abc"),
        ("EXECUTOR_PORT", "70000"),
        ("EXECUTOR_PORT", "-1"),
        ("EXECUTOR_HOST", "no such host"),
        ("ISOLATION", "magic"),
        ("DISABLE_BWRAP", "perhaps"),
        ("MAX_MEMORY_MB", "lots"),
        ("MAX_MEMORY_MB", "-1"),
        ("MAX_MEMORY_MB", "0"),
        ("MAX_CPU_CORES", "zero"),
        ("MAX_CPU_CORES", "0"),
        ("MAX_PROCESSES", "1.5"),
        ("MAX_PROCESSES", "0"),
        ("MAX_FILE_SIZE_MB", "big"),
        ("MAX_BODY_BYTES", "1GB"),
        ("MAX_OUTPUT_BYTES", "-5"),
        ("MAX_CODE_BYTES", "x"),
        ("MAX_EXECUTION_TIME", "0"),
        ("MAX_EXECUTION_TIME", "soon"),
        ("MAX_TIMEOUT", "0"),
        ("MAX_CONCURRENT_EXECUTIONS", "0"),
        ("MAX_QUEUED_EXECUTIONS", "many"),
        ("SHUTDOWN_GRACE", "-1"),
        ("PYTHON_PATH", "/nonexistent/python3"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("LOG_FILE", "/nonexistent/folder/executor.log"),
    ] {
        let home = Home::new();
        let mut command = home.command();
        command.arg("serve");
        if variable != "EXECUTOR_PORT" {
            command.env("EXECUTOR_PORT", "0");
        }
        let output = output_within(10, command.env(variable, value));
        let error = stderr(&output);
        assert!(!output.status.success(), "{variable}={value}");
        assert_eq!(error.trim().lines().count(), 1, "{variable}={value}: {error}");
        assert!(error.contains(variable) && error.contains(value), "{variable}={value}: {error}");
    }
}

#[test]
fn a_port_in_use_stops_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let home = Home::new();
    let output = output_within(20, home.command().arg("serve").env("EXECUTOR_PORT", &port));
    assert!(!output.status.success());
    assert!(stderr(&output).contains(&port), "{}", stderr(&output));
}

#[test]
fn an_unusable_workspace_stops_the_start_with_its_fix() {
    let home = Home::new();
    let file = home.write("file", "not a folder");
    let unusable = file.join("workspace");
    let output =
        output_within(10, home.command().arg("serve").env("EXECUTOR_PORT", "0").env("WORKSPACE_PATH", &unusable));
    assert!(!output.status.success());
    let error = stderr(&output);
    assert!(error.contains("WORKSPACE_PATH") && error.contains(text(&unusable)), "{error}");
    assert!(
        error.contains("chmod 755") || error.contains("export WORKSPACE_PATH="),
        "the fix of the troubleshooting document: {error}"
    );
}

#[test]
fn isolation_that_can_not_be_had_stops_the_start() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let home = Home::new();
    let output = output_within(20, home.command().arg("serve").env("EXECUTOR_PORT", "0").env("ISOLATION", "seatbelt"));
    assert!(!output.status.success());
    assert!(stderr(&output).to_lowercase().contains("seatbelt"), "{}", stderr(&output));
}

#[test]
fn the_configuration_file_has_no_unknown_keys() {
    let home = Home::new();
    for (content, named) in [
        ("colour = 1\n", "colour"),
        ("max_memory_mb = \"lots\"\n", "max_memory_mb"),
        ("max_memory_mb = \n", "config.toml"),
    ] {
        let file = home.write("config.toml", content);
        let output = output_within(10, home.command().args(["--config", text(&file), "config"]));
        assert!(!output.status.success(), "{content}");
        let error = stderr(&output).to_lowercase();
        assert!(error.contains(named), "{content}: {error}");
    }
    let output = output_within(10, home.command().args(["--config", text(&home.path("absent.toml")), "config"]));
    assert!(!output.status.success());
    assert!(stderr(&output).contains("absent.toml"));
}

#[test]
fn config_prints_every_value_with_its_source_and_no_secret() {
    let home = Home::new();
    let file = home.write("config.toml", "max_memory_mb = 301\nmax_processes = 77\n");
    let output = output_within(
        10,
        home.command()
            .args(["--config", text(&file), "config"])
            .env("MAX_MEMORY_MB", "303")
            .env("EXECUTOR_API_TOKEN", "canary-token-1")
            .env("INTERNAL_API_TOKEN", "canary-token-2"),
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    assert!(!printed.contains("canary-token"), "{printed}");
    let line = |variable: &str| {
        printed
            .lines()
            .find(|line| {
                line.to_uppercase()
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .any(|word| word == variable)
            })
            .unwrap_or_else(|| panic!("{variable} is not in {printed}"))
            .to_lowercase()
    };
    for variable in [
        "EXECUTOR_HOST",
        "EXECUTOR_PORT",
        "EXECUTOR_API_TOKEN",
        "ALLOWED_ORIGINS",
        "ALLOWED_HOSTS",
        "WORKSPACE_PATH",
        "ISOLATION",
        "DISABLE_BWRAP",
        "MAX_MEMORY_MB",
        "MAX_CPU_CORES",
        "MAX_PROCESSES",
        "MAX_FILE_SIZE_MB",
        "MAX_BODY_BYTES",
        "MAX_OUTPUT_BYTES",
        "MAX_CODE_BYTES",
        "MAX_EXECUTION_TIME",
        "MAX_TIMEOUT",
        "MAX_CONCURRENT_EXECUTIONS",
        "MAX_QUEUED_EXECUTIONS",
        "STATE_PATH",
        "SHUTDOWN_GRACE",
        "PYTHON_PATH",
        "NODE_PATH_BIN",
        "SHELL_PATH",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "LOG_FILE",
    ] {
        line(variable);
    }
    let memory = line("MAX_MEMORY_MB");
    assert!(memory.contains("303") && memory.contains("env"), "{memory}");
    let processes = line("MAX_PROCESSES");
    assert!(
        processes.contains("77") && (processes.contains("file") || processes.contains("config.toml")),
        "{processes}"
    );
    let body = line("MAX_BODY_BYTES");
    assert!(body.contains("67108864") && body.contains("default"), "{body}");
}

#[test]
fn health_is_the_running_service_s_own_word() {
    let service = conformance::Service::with(&[("EXECUTOR_API_TOKEN", "a-token-for-health")]);
    let (host, port) = service.address().rsplit_once(':').expect("a port");
    let ask = |port: &str| {
        let home = Home::new();
        output_within(20, home.command().arg("health").env("EXECUTOR_HOST", host).env("EXECUTOR_PORT", port))
    };
    let well = ask(port);
    assert!(well.status.success(), "{}", stderr(&well));
    assert_eq!(stdout(&well), "healthy\n");
    // Whatever it listens on, it is asked over loopback.
    let home = Home::new();
    let all = output_within(20, home.command().args(["health", "--host", "0.0.0.0"]).env("EXECUTOR_PORT", port));
    assert!(all.status.success(), "{}", stdout(&all));

    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let none = ask(&free.port().to_string());
    assert_eq!(none.status.code(), Some(1));
    assert!(stdout(&none).starts_with("unhealthy: no sandbox-executor answers on 127.0.0.1:"), "{}", stdout(&none));
}

#[test]
fn the_version_and_the_help_are_printed() {
    let home = Home::new();
    let output = output_within(10, home.command().arg("--version"));
    assert!(output.status.success());
    assert!(stdout(&output).starts_with("sandbox-executor "), "{}", stdout(&output));
    let output = output_within(10, home.command().arg("--help"));
    assert!(output.status.success());
    for command in ["serve", "run", "doctor", "config", "completions"] {
        assert!(stdout(&output).contains(command), "{command}");
    }
    let output = output_within(10, home.command().arg("nonsense"));
    assert!(!output.status.success());
    assert!(stderr(&output).contains("nonsense"));
}

#[test]
fn completions_are_printed_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = output_within(10, home.command().args(["completions", shell]));
        assert!(output.status.success(), "{shell}");
        assert!(stdout(&output).contains("sandbox-executor"), "{shell}");
    }
    let output = output_within(10, home.command().args(["completions", "nonsense"]));
    assert!(!output.status.success());
    // The other end may be closed before everything is written: `completions bash | head -1`.
    let mut child = home
        .command()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("its end");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

// --- run ---

#[test]
fn run_prints_what_the_handler_returns() {
    let home = Home::new();
    let code = "def handler(event):\n    print('printed')\n    return {'message': f\"Hello, {event['name']}!\"}\n";
    let file = home.write("hello.py", code);
    let event = home.write("event.json", "{\"name\": \"Alice\"}");
    for event in ["{\"name\": \"Alice\"}".to_owned(), format!("@{}", text(&event))] {
        let output = run(&home, &["--event", &event, text(&file)]);
        assert!(output.status.success(), "{}", stderr(&output));
        let printed = stdout(&output);
        assert!(printed.starts_with("printed\n"), "{printed}");
        assert!(printed.contains("Hello, Alice!"), "{printed}");
    }
}

#[test]
fn run_guesses_the_language_from_the_name() {
    let home = Home::new();
    for (name, code) in [
        ("a.py", "print('here')"),
        ("a.js", "console.log('here')"),
        ("a.mjs", "import 'fs'; console.log('here')"),
        ("a.cjs", "require('fs'); console.log('here')"),
        ("a.sh", "echo here"),
    ] {
        let file = home.write(name, code);
        let output = run(&home, &[text(&file)]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert_eq!(stdout(&output), "here\n", "{name}");
    }
    let file = home.write("a.txt", "echo here");
    let output = run(&home, &[text(&file)]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("--language"), "{}", stderr(&output));
    let output = run(&home, &["--language", "shell", text(&file)]);
    assert_eq!(stdout(&output), "here\n");
}

#[test]
fn run_takes_code_from_stdin_and_variables_from_the_line() {
    let home = Home::new();
    let mut child = home
        .command()
        .args(["run", "--language", "python", "--env", "A=b=c", "--env", "D=", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child
        .stdin
        .take()
        .expect("its stdin")
        .write_all(b"import os\nprint(os.environ['A'], '[' + os.environ['D'] + ']')")
        .expect("the code is written");
    let output = child.wait_with_output().expect("its end");
    assert_eq!(stdout(&output), "b=c []\n");
}

#[test]
fn run_exits_as_the_program_did() {
    let home = Home::new();
    for (name, code, exit_code) in [
        ("ok.sh", "true", 0),
        ("exit.py", "import sys; sys.exit(3)", 3),
        ("exit.js", "process.exit(4)", 4),
        ("exit.sh", "exit 5", 5),
        ("raise.py", "raise ValueError('why')", 1),
        ("signal.sh", "kill -SEGV $$", 139),
    ] {
        let file = home.write(name, code);
        let output = run(&home, &[text(&file)]);
        assert_eq!(output.status.code(), Some(exit_code), "{name}: {}", stderr(&output));
        if name == "raise.py" {
            let error = stderr(&output);
            assert!(error.contains("ValueError: why") && error.contains("line 1"), "{error}");
        }
    }
    let file = home.write("sleep.sh", "echo before; sleep 30");
    let start = Instant::now();
    let output = run(&home, &["--timeout", "1", text(&file)]);
    assert_eq!(output.status.code(), Some(124), "{}", stderr(&output));
    assert_eq!(stdout(&output), "before\n");
    assert!(start.elapsed() < Duration::from_secs(10));

    let file = home.write("memory.py", "x = [b'x' * 10**7 for _ in range(100)]");
    let output = output_within(60, home.command().args(["run", text(&file)]).env("MAX_MEMORY_MB", "96"));
    assert_eq!(output.status.code(), Some(137), "{}", stderr(&output));

    if cfg!(target_os = "linux") {
        let file = home.write("any.sh", "echo ran");
        let output = output_within(60, home.command().args(["run", text(&file)]).env("ISOLATION", "seatbelt"));
        assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
        assert!(!stdout(&output).contains("ran"));
    }
}

#[test]
fn run_streams_output_as_it_comes() {
    let home = Home::new();
    let file = home.write("slow.py", "import time\nprint('first')\ntime.sleep(3)\nprint('second')");
    let start = Instant::now();
    let mut child =
        home.command().args(["run", text(&file)]).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut reader = BufReader::new(child.stdout.take().expect("its stdout"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line, "first\n");
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("the rest");
    assert!(rest.starts_with("second\n"), "{rest}");
    assert!(start.elapsed() >= Duration::from_secs(3));
    assert!(child.wait().expect("its end").success());
}

#[test]
fn run_keeps_stdout_and_stderr_apart_and_as_they_are() {
    let home = Home::new();
    let file = home.write("both.sh", "printf 'a\\377b'; printf 'e\\n' >&2");
    let output = run(&home, &[text(&file)]);
    assert!(output.status.success());
    assert!(output.stdout == b"a\xffb" || output.stdout == "a\u{fffd}b".as_bytes());
    assert_eq!(stderr(&output), "e\n", "no log and no spinner when it is no terminal");
}

#[test]
fn run_works_in_a_folder_of_the_user() {
    let home = Home::new();
    let folder = home.path("folder");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("in"), "given\n").expect("a file");
    if rustix::process::geteuid().is_root() {
        // Nothing in a sandbox runs as root, so root's own folder is refused; anybody else's is worked in as he would.
        let file = home.write("no.sh", "true");
        let refused = run(&home, &["--workspace", text(&folder), text(&file)]);
        assert_eq!(refused.status.code(), Some(125));
        assert!(stderr(&refused).contains("chown"), "{}", stderr(&refused));
        std::os::unix::fs::chown(&folder, Some(12_345), Some(12_345)).expect("a new owner");
    }
    let file = home.write("copy.sh", "cat in; cat in in > out");
    let output = run(&home, &["--workspace", text(&folder), text(&file)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "given\n");
    let copied = std::fs::read_to_string(folder.join("out")).expect("the written file");
    assert_eq!(copied, "given\ngiven\n");
}

#[test]
fn run_tells_what_is_wrong_with_its_arguments() {
    let home = Home::new();
    let file = home.write("a.py", "print('ran')");
    let file = text(&file);
    for arguments in [
        &["/nonexistent/a.py"][..],
        &["--event", "{nonsense", file],
        &["--event", "[1]", file],
        &["--event", "@/nonexistent.json", file],
        &["--timeout", "0", file],
        &["--timeout", "soon", file],
        &["--env", "A", file],
        &["--env", "1A=b", file],
        &["--language", "ruby", file],
        &["--workspace", "/nonexistent/folder", file],
        &[],
    ] {
        let output = run(&home, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!stdout(&output).contains("ran"), "{arguments:?}");
        let error = stderr(&output);
        assert!(!error.trim().is_empty() && !error.contains("panicked"), "{arguments:?}: {error}");
    }
}

#[test]
fn run_works_beside_a_running_service() {
    let service = conformance::Service::with(&[]);
    let home = Home::new();
    let file = home.write("a.sh", "echo here");
    let output = output_within(30, home.command().args(["run", text(&file)]).env("STATE_PATH", service.path("state")));
    assert_eq!(stdout(&output), "here\n", "{}", stderr(&output));
    service.assert_alive();
}

// --- doctor ---

fn doctor(home: &Home) -> Command {
    let mut command = home.command();
    command.arg("doctor").env("EXECUTOR_PORT", "0");
    command
}

#[test]
fn doctor_finds_this_machine_well() {
    let home = Home::new();
    let output = output_within(60, &mut doctor(&home));
    let printed = stdout(&output);
    assert!(output.status.success(), "{printed}{}", stderr(&output));
    for subject in ["bwrap", "python", "node", "workspace"] {
        let found = printed.to_lowercase().replace("bubblewrap", "bwrap").contains(subject);
        assert!(found, "{subject} is not in {printed}");
    }
    let output = output_within(60, doctor(&home).arg("--json"));
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report.is_object() || report.is_array(), "{report}");
}

#[test]
fn doctor_finds_what_is_wrong_and_tells_the_fix() {
    let home = Home::new();
    let file = home.write("file", "not a folder");
    let unusable = file.join("workspace");
    for arguments in [&[][..], &["--json"]] {
        let output = output_within(60, doctor(&home).args(arguments).env("WORKSPACE_PATH", &unusable));
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let printed = stdout(&output);
        assert!(printed.contains("WORKSPACE_PATH"), "{printed}");
    }
    if cfg!(target_os = "linux") {
        let output = output_within(60, doctor(&home).env("ISOLATION", "seatbelt"));
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    }
}
