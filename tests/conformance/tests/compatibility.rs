//! Real programs under the whole filter: what people run works, and works right. Each is a file in `programs/` that gives
//! facts, here are the facts that it must give; nothing may show on stderr. What is known not to work is in
//! `docs/compatibility.md`.

use conformance::{Service, assert_completed, binary, output_within, shortened};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

macro_rules! program {
    ($name:literal) => {
        include_str!(concat!("../programs/", $name))
    };
}

/// Runs a program and gives its answer.
#[track_caller]
fn answer_of(service: &Service, request: &Value) -> Value {
    let mut whole = json!({"timeout": 90});
    whole.as_object_mut().expect("an object").extend(request.as_object().expect("an object").clone());
    let answer = service.execute(whole);
    assert_completed(&answer);
    assert_eq!(answer["stderr"], "", "{}", shortened(&answer));
    answer
}

/// What a program's handler returns.
#[track_caller]
fn facts(language: &str, code: &str) -> Value {
    answer_of(&Service::start(), &json!({"language": language, "code": code}))["return_value"].clone()
}

/// The lines that a script prints.
#[track_caller]
fn lines(code: &str) -> Vec<String> {
    let answer = answer_of(&Service::start(), &json!({"language": "shell", "code": code}));
    answer["stdout"].as_str().expect("text").lines().map(str::to_owned).collect()
}

/// Compares member by member, so that a failure shows the one that is wrong.
#[track_caller]
fn assert_facts(facts: &Value, expected: &Value) {
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&facts[name], value, "{name}");
    }
    assert_eq!(conformance::keys(facts), conformance::keys(expected));
}

#[test]
fn python_threads() {
    let expected = json!({"pool": 328_350, "lock": 8000, "pipeline": true, "together": true, "condition": "made"});
    assert_facts(&facts("python", program!("threads.py")), &expected);
}

#[test]
fn python_processes() {
    let method = json!({
        "exit_codes": [0, 0], "counter": 400, "echo": [1, "two"], "file": "/workspace/main.py", "squares": 285
    });
    let expected = json!({
        "fork": method,
        "spawn": method,
        "forkserver": method,
        "nested": "far",
        "failing": true,
        "memory": "hello",
        "manager": [{"key": "value"}, [1]],
        "semaphore": [true, true, false],
        "queue": 2_000_000,
        "executor": [9, 16],
        "names_of_ours": [],
        "left_in_shm": [],
    });
    assert_facts(&facts("python", program!("processes.py")), &expected);
}

#[test]
fn python_asyncio() {
    let expected = json!({
        "child": ["THROUGH A PIPE", 0, 7],
        "killed": -9,
        "tcp": [20, true],
        "tcp6": [20, true],
        "unix": ["ONE", "TWO"],
        "unix_in_workspace": ["ONE", "TWO"],
        "udp": "datagram",
        "signal": true,
        "executor": 285,
    });
    assert_facts(&facts("python", program!("asynchronous.py")), &expected);
}

#[test]
fn python_storage() {
    let sqlite = json!(["wal", 200, 19_900, 200, 100, "ok"]);
    let expected = json!({
        "sqlite": sqlite,
        "sqlite_in_tmp": sqlite,
        "archives": {"tar": true, "mode": "0o640", "zip": 8000, "gzip": true, "lzma": true},
        "copies": [1_000_000_000, "0o640", false, true],
        "temporary": ["/tmp", 100, "nameless"],
        "maps": ["hello", "by child!"],
        "locks": true,
    });
    assert_facts(&facts("python", program!("storage.py")), &expected);
}

#[test]
fn python_network() {
    let unreachable = json!(["OSError", "Network is unreachable", true]);
    let unknown = json!(["gaierror", "Temporary failure in name resolution", true]);
    let expected = json!({
        "web": [20, true],
        "out": {
            "name": unknown,
            "lookup": unknown,
            "address": unreachable,
            "address6": unreachable,
            "datagram": unreachable,
            "nobody": ["ConnectionRefusedError", "Connection refused", true],
        },
        "tls": ["CERT_REQUIRED", true, 22],
        "pairs": ["descriptor", true],
        "names": ["sandbox", "127.0.0.1", "127.0.0.1"],
    });
    assert_facts(&facts("python", program!("network.py")), &expected);
}

#[test]
fn python_system() {
    let no_terminal = "Inappropriate ioctl for device";
    let expected = json!({
        "children": {
            "piped": ["c", "b", "a"],
            "shell": ["43\n", 3],
            "timed_out": true,
            "group": [true, -15],
            "own": "3\n",
            "absent": "No such file or directory",
        },
        "signals": ["SIGALRM", "SIGALRM", "SIGALRM", "SIGUSR2", 9],
        "limits": [1024, 256, false, true],
        "cpus": [true, 1],
        "users": ["sandbox", "/tmp", 1000, 1000, "Linux", "sandbox"],
        "zones": ["2026-01-01T20:00:00+08:00", "07:00 EST"],
        "locales": ["UTF-8", "utf-8", "utf-8", "1234"],
        "c_libraries": [1.0, [1, 2, 3, 4, 5], true],
        // Python itself says "out of pty devices" without an errno.
        "terminal": [[null, null, "No such file or directory", no_terminal, no_terminal], false, true],
        "kernel": ["EpollSelector", [true], "in memory", 2, 16, 4, 32],
        "proc": [true, true, true, true, true, 5],
    });
    assert_facts(&facts("python", program!("system.py")), &expected);
}

#[test]
fn python_packaging() {
    let expected = json!({
        "version": ["pip"],
        "download": ["base-1.5-py3-none-any.whl", "middle-1.0-py3-none-any.whl", "top-1.0-py3-none-any.whl"],
        "install": ["done", ["1.0", "1.0", "1.5"]],
        "conflict": [1, true],
        "environment": [0, ["/workspace/env", "True"], "middle 1.0\n"],
        "compiled": [0, 0, 20],
    });
    assert_facts(&facts("python", program!("packaging.py")), &expected);
}

/// numpy and pandas as pip installs them, in a session's workspace.
#[test]
fn python_numpy_and_pandas() {
    let service = Service::start();
    if !service.is_ours() {
        return skip("packages are laid into a workspace, and the one at CONFORMANCE_URL is out of reach");
    }
    let session = json!({"language": "python", "session_id": "science"});
    let ask = with(&session, json!({"code": "import sys\ndef handler(event): return sys.executable"}));
    let python = answer_of(&service, &ask)["return_value"].as_str().expect("a path").to_owned();
    let Some(packages) = packages(&python) else {
        return skip("the package index can't be reached, so there is no numpy and no pandas");
    };
    let target = service.path("workspaces").join("science/packages");
    let copied = output_within(60, Command::new("cp").arg("-r").arg(packages).arg(target));
    assert!(copied.status.success(), "{copied:?}");

    let expected = json!({
        "product": true,
        "inverse": 36,
        "svd": true,
        "fft": true,
        "sorted": true,
        "mapped": 64_000_000.0,
        "several_threads": true,
    });
    let arrays = json!({
        "code": program!("arrays.py"),
        "env_vars": {"PYTHONPATH": "/workspace/packages", "OPENBLAS_NUM_THREADS": "4"}
    });
    assert_facts(&answer_of(&service, &with(&session, arrays))["return_value"], &expected);

    let expected = json!({
        "groups": {"a": 5.5, "b": 2.0, "c": 8.0},
        "months": [1.5, 14.0 / 3.0],
        "towns": ["Berlin", "上海", "Berlin", "none"],
        "back": [4, 1],
        "zone": "2026-01-31 08:00:00+08:00",
        "sql": 15.5,
        "rolling": [3.5, 6.0, 12.0],
    });
    let tables = json!({"code": program!("tables.py"), "env_vars": {"PYTHONPATH": "/workspace/packages"}});
    assert_facts(&answer_of(&service, &with(&session, tables))["return_value"], &expected);
}

fn with(one: &Value, other: Value) -> Value {
    let mut both = one.as_object().expect("an object").clone();
    both.extend(other.as_object().expect("an object").clone());
    both.into()
}

/// Says it where it is read: what a passing test prints in the usual way, nobody sees.
fn skip(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: 2 programs, arrays.py and tables.py: {why}").expect("stderr");
}

/// A folder with numpy and pandas for this interpreter, filled once. `None` when the index can't be reached.
#[track_caller]
fn packages(python: &str) -> Option<PathBuf> {
    let tag = "import sys, platform; print(f'{sys.implementation.cache_tag}-{platform.machine()}')";
    let tag = succeeded(output_within(20, Command::new(python).args(["-I", "-c", tag])));
    let cache = binary().parent()?.parent()?.join("compatibility");
    let folder = cache.join(tag.trim());
    if folder.exists() {
        return Some(folder);
    }
    std::fs::create_dir_all(&cache).expect("a folder for packages");
    // It gets its name when it is whole.
    let unfinished = tempfile::TempDir::new_in(&cache).expect("a folder for packages");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"])
        .args(["--no-compile", "--retries", "1", "--timeout", "20", "--target"])
        .arg(unfinished.path().join("site"))
        .args(["numpy", "pandas"]);
    let output = output_within(300, &mut pip);
    // What pip says when it hears nothing from an index; that it is asked again shows only then.
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("Retrying (Retry(") {
        return None;
    }
    succeeded(output);
    let renamed = std::fs::rename(unfinished.path().join("site"), &folder);
    assert!(renamed.is_ok() || Path::new(&folder).exists(), "{renamed:?}");
    Some(folder)
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn javascript_threads() {
    let expected = json!({
        "shared": {"count": 40_000, "done": 4, "wait": "timed-out", "messages": [1 << 20, 1 << 20, 1 << 20, 1 << 20]},
        "failing": "TypeError: in a thread",
        "channel": [0, 1000, "one"],
        "wasm": [704_982_704, 1, 7, true],
        "buffers": [200 << 20, 0x6162, "c3a9ff"],
    });
    assert_facts(&facts("javascript", program!("threads.cjs")), &expected);
}

#[test]
fn javascript_that_starts_itself_again() {
    let expected = json!({
        "forked": 11,
        "greeting": "from a worker",
        "threads": [[3, "/workspace/main.mjs"], [7, "/workspace/main.mjs"]],
        "failing": "TypeError",
    });
    assert_facts(&facts("javascript", program!("self.cjs")), &expected);
    assert_eq!(facts("javascript", program!("self.mjs")), 4);
}

#[test]
fn javascript_network() {
    let [unreachable, refused, unknown] = ["ENETUNREACH", "ECONNREFUSED", "EAI_AGAIN"].map(|code| json!([code, true]));
    let mac = "00:00:00:00:00:00";
    let expected = json!({
        "web": [20, true, "GET"],
        "echo": ["there and back", "there and back", "there and back"],
        "datagram": "datagram",
        "out": {
            "fetch": unknown,
            "lookup": unknown,
            "address": unreachable,
            "address6": unreachable,
            "resolve": refused,
            "nobody": refused,
        },
        "interfaces": {"lo": [
            {"address": "127.0.0.1", "netmask": "255.0.0.0", "family": "IPv4", "mac": mac, "internal": true,
                "cidr": "127.0.0.1/8"},
            {"address": "::1", "netmask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "family": "IPv6", "mac": mac,
                "internal": true, "cidr": "::1/128", "scopeid": 0},
        ]},
        "tls": "SecureContext",
    });
    assert_facts(&facts("javascript", program!("network.cjs")), &expected);
}

#[test]
fn javascript_system() {
    let expected = json!({
        "children": {
            "sorted": "a\nb\n",
            "failure": [5, "wrong\n"],
            "shouted": "BY SPAWN",
            "signal": "SIGTERM",
            "absent": "ENOENT",
            "doubled": 42,
            "code": 0,
        },
        "workers": true,
        "files": [true, ["b", "b/c", "b/file.gz", "file", "link"], false, ["one", "two"]],
        "watched": "new",
        // The first bytes of the published answers for "abc" and for RFC 7914's second vector.
        "cryptography": ["ba7816bf", true, "fdbabe1c", 36],
        "contexts": [[1, 2, 3], true, 3, "AbortError"],
        "modules": [42, "file:///workspace/module.mjs", [1], "/workspace/common.cjs", "function"],
        "surroundings": [true, "sandbox", "sandbox", "/tmp", "/tmp", true, 3, false, "1.234,5",
            "1/1/1970, 8:00:00 AM"],
    });
    assert_facts(&facts("javascript", program!("system.cjs")), &expected);
}

#[test]
fn shell_scripts() {
    let lines = lines(program!("shell.sh"));
    let wrong: Vec<&String> = lines.iter().filter(|line| !line.ends_with(": right")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let checks = program!("shell.sh").matches("check ").count() - program!("shell.sh").matches("`check ").count();
    assert_eq!(lines.len(), checks, "every check has its line");
}

#[test]
fn git_keeps_history() {
    let service = Service::start();
    let session = format!("history-{}", std::process::id());
    let request = json!({"language": "shell", "code": program!("history.sh"), "session_id": session});
    let answer = answer_of(&service, &request);
    let expected = [
        "conflict: file",
        "merged: 4 commits, 2 parents",
        "rebased: topic,merged",
        "stashed: 0",
        "popped:  M file",
        "worktrees: 2",
        "cloned: topic",
        "pushed: v1",
        "loose objects: 0",
        "bisected: 37",
        "archived: file many other",
        "Could not resolve host: example.com",
    ];
    assert_eq!(answer["stdout"].as_str().expect("text").lines().collect::<Vec<_>>(), expected);
    // Another execution of the session owns the repository too: git does not call it somebody else's.
    let again = json!({"language": "shell", "code": "git -C project rev-list --count v1", "session_id": session});
    assert_eq!(answer_of(&service, &again)["stdout"], "5\n");
}

#[test]
fn programs_are_compiled_and_run() {
    assert_eq!(lines(program!("compiled.sh")), ["80000 42 5 1.414", "80000 42 5 1.414", "made by 0"]);
}

/// The table of `docs/compatibility.md`: nothing of it hangs, and each says why it can't be had.
#[test]
fn what_does_not_work_fails_at_once_and_says_why() {
    let service = Service::start();
    let ask = json!({"language": "javascript", "code": "exports.handler = () => process.execPath"});
    let node = answer_of(&service, &ask)["return_value"].clone();
    let request = json!({"language": "python", "code": program!("limits.py"), "event": {"node": node}});
    let refused = json!(["EPERM", true]);
    let expected = json!({
        "interfaces": ["EAFNOSUPPORT", true],
        "interfaces_of_another_node": ["SystemError [ERR_SYSTEM_ERROR]: A system error occurred: \
            uv_interface_addresses returned Unknown system error 97 (Unknown system error 97)", true],
        "namespaces": ["unshare: unshare failed: Operation not permitted", true],
        "ping": refused,
        "debugger": refused,
        "device": refused,
        "priority": refused,
        "real_time": refused,
        "owner": ["EINVAL", true],
        "devices": ["ENOENT", true],
        "executable_in_shm": ["EACCES", true],
    });
    assert_facts(&answer_of(&service, &request)["return_value"], &expected);
}
