//! The pool itself: what is killed, broken or used up costs time and never an answer, and nothing of it stays behind.

use crate::{COLD, needs_warm};
use conformance::process::{control_groups, launcher, private_workspaces};
use conformance::{Home, Service, assert_completed, is_root, patience, skipped, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PROGRAMS: [(&str, &str); 3] = [
    ("python", "def handler(event): return event['n'] * 2"),
    ("javascript", "exports.handler = (event) => event.n * 2"),
    ("shell", "echo $(($(tr -dc 0-9 <<< $EVENT_JSON) * 2)) >&3"),
];
/// So long may a service need until it has prepared all that it keeps.
const SETTLED_WITHIN_S: u64 = 20;

/// A process below the service that is not one of its own: its number and when it began.
type Began = (u32, String);

fn began(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // State is the third field of all; a dead one that waits to be collected is gone.
    (fields.first() != Some(&"Z")).then(|| fields.get(19).map(|time| (*time).to_owned()))?
}

/// What waits below the service, its launcher aside.
fn prepared(service: &Service) -> BTreeSet<Began> {
    let names = conformance::process::below(service.pid()).into_iter();
    let pids = names.filter_map(|name| name.split_once(' ')?.0.parse().ok());
    let launcher = launcher(service.pid());
    pids.filter(|pid| Some(*pid) != launcher).filter_map(|pid: u32| Some((pid, began(pid)?))).collect()
}

fn alive(those: &BTreeSet<Began>) -> Vec<u32> {
    those.iter().filter(|(pid, time)| began(*pid).as_ref() == Some(time)).map(|(pid, _)| *pid).collect()
}

/// What waits once nothing changes any more.
fn settled(service: &Service) -> BTreeSet<Began> {
    let deadline = Instant::now() + patience(SETTLED_WITHIN_S);
    let (mut before, mut same) = (prepared(service), 0);
    while same < 10 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        let now = prepared(service);
        same = if now == before { same + 1 } else { 0 };
        before = now;
    }
    before
}

#[track_caller]
fn assert_right(answer: &Value, number: u64) {
    assert_completed(answer);
    assert_eq!(answer["return_value"], number * 2, "{answer}");
}

fn run(service: &Service, number: u64) {
    for (language, code) in PROGRAMS {
        let request = json!({"language": language, "code": code, "event": {"n": number}, "timeout": 60});
        assert_right(&service.execute(request), number);
    }
}

#[test]
fn what_waits_may_be_killed_one_by_one_or_all_at_once() {
    const TEST: &str = "what_waits_may_be_killed_one_by_one_or_all_at_once";
    let service = Service::with(&[("WARM_PYTHON", "2"), ("WARM_NODE", "1")]);
    if !needs_warm(TEST, &service, &["python", "javascript"]) || !is_root(TEST) {
        return;
    }
    let kill = |pid: u32| {
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
        // It may have ended with one that was killed before it.
        let _ = kill_process(pid, Signal::KILL);
        std::thread::sleep(Duration::from_millis(50));
    };
    let waiting = settled(&service);
    assert!(waiting.len() >= 3, "two of Python and one of Node were expected: {waiting:?}");
    let mut number = 0;
    for (pid, time) in &waiting {
        if began(*pid).as_ref() == Some(time) {
            kill(*pid);
            number += 1;
            run(&service, number);
        }
    }
    for _ in 0..3 {
        for (pid, time) in settled(&service) {
            if began(pid) == Some(time) {
                kill(pid);
            }
        }
        number += 1;
        run(&service, number);
    }
    // And it prepares again.
    wait_until("interpreters wait again", 90, || {
        run(&service, 1);
        settled(&service).len() >= waiting.len()
    });
}

#[test]
fn a_burst_on_an_empty_pool_is_answered_in_full() {
    for warm in ["0", "1"] {
        let service = Service::with(&[("WARM_PYTHON", warm), ("WARM_NODE", warm)]);
        // At once, before anything can be prepared, and again when some of it was used up.
        for _ in 0..2 {
            std::thread::scope(|scope| {
                let runs: Vec<_> = (0..30)
                    .map(|number: u64| {
                        let (language, code) = PROGRAMS[number as usize % 3];
                        let service = &service;
                        let request =
                            json!({"language": language, "code": code, "event": {"n": number}, "timeout": 60});
                        (number, scope.spawn(move || service.execute(request)))
                    })
                    .collect();
                for (number, run) in runs {
                    assert_right(&run.join().expect("an answer"), number);
                }
            });
        }
    }
}

#[test]
fn where_warming_is_off_nothing_waits() {
    let service = Service::with(&COLD);
    run(&service, 1);
    wait_until("nothing is left", 10, || prepared(&service).is_empty());
    assert_eq!(settled(&service), BTreeSet::new());
    let runtimes = service.get("/info").json()["runtimes"].clone();
    for runtime in runtimes.as_array().expect("a list").iter().filter(|each| each["language"] != "shell") {
        assert_eq!(runtime["warm"], false, "{runtimes}");
    }
}

#[test]
fn nothing_of_the_pool_outlives_the_service() {
    for signal in [Signal::TERM, Signal::KILL] {
        let home = Home::new();
        let (state, workspaces) = (home.path("state"), home.path("workspaces"));
        let folders =
            [("STATE_PATH", state.to_str().expect("a path")), ("WORKSPACE_PATH", workspaces.to_str().expect("a path"))];
        let mut service = Service::with(&folders);
        run(&service, 1);
        let waiting = settled(&service);
        let launchers: BTreeSet<Began> = conformance::process::below(service.pid())
            .iter()
            .filter_map(|name| name.split_once(' ')?.0.parse().ok())
            .filter_map(|pid: u32| Some((pid, began(pid)?)))
            .collect();
        if waiting.is_empty() {
            skipped(&format!("nothing_of_the_pool_outlives_the_service, {signal:?}"), "nothing waits here");
        }
        service.signal(signal);
        service.wait(10);
        wait_until("the pool is gone", 10, || alive(&waiting).is_empty() && alive(&launchers).is_empty());
        // The next one prepares nothing, so that all that is there was left.
        let service = Service::with(&[COLD.as_slice(), &folders].concat());
        run(&service, 2);
        let instance = std::fs::read_to_string(state.join("instance")).unwrap_or_default();
        let name = format!("sandbox-executor-{}/", instance.trim());
        let of_executions = || -> Vec<String> {
            let own = ["service", "builders", "probe"];
            let groups = control_groups(instance.trim()).into_iter();
            groups.filter(|path| path.split_once(&name).is_some_and(|(_, rest)| !own.contains(&rest))).collect()
        };
        wait_until("no control group is left", 10, || of_executions().is_empty());
        // What stays is the sandboxes' /etc.
        wait_until("no private workspace is left", 10, || private_workspaces(&workspaces).len() <= 1);
    }
}

/// A module that can't be imported ahead is named once, and executions go on.
#[test]
fn what_can_not_be_imported_ahead_is_named_and_stops_nothing() {
    const TEST: &str = "what_can_not_be_imported_ahead_is_named_and_stops_nothing";
    let service = Service::with(&[("WARM_PYTHON_IMPORTS", "json,no_such_module_of_the_test")]);
    run(&service, 1);
    let is_warm = needs_warm(TEST, &service, &["python"]);
    if is_warm {
        assert_named(&service, "no_such_module_of_the_test");
    }
    if !is_root(TEST) {
        return;
    }
    std::thread::scope(|scope| {
        for (name, text) in [
            ("raises", "raise ValueError('on purpose')"),
            ("exits", "raise SystemExit(3)"),
            ("ends", "import os\nos._exit(3)"),
            ("dies", "import os\nos.kill(os.getpid(), 9)"),
        ] {
            scope.spawn(move || imported_ahead(TEST, name, text, is_warm));
        }
        let text = "import threading, time\nthreading.Thread(target=time.sleep, args=(10000,), daemon=True).start()";
        scope.spawn(move || imported_ahead(TEST, "threads", text, false));
    });
}

#[test]
#[ignore = "it takes as long as the service's patience with a module; `make soak` runs it"]
fn a_module_that_hangs_when_it_is_imported_ahead_stops_nothing() {
    const TEST: &str = "a_module_that_hangs_when_it_is_imported_ahead_stops_nothing";
    if is_root(TEST) {
        let is_warm = needs_warm(TEST, &Service::with(&[]), &["python"]);
        imported_ahead(TEST, "hangs", "import time\ntime.sleep(10000)", is_warm);
    }
}

/// Starts a service that is to import this module ahead. It lies in the system's folder of packages, which the test mounts for
/// this service alone.
fn imported_ahead(test: &str, name: &str, text: &str, is_named: bool) {
    let Some(packages) = packages() else {
        return skipped(test, "Python has no folder of packages that a sandbox sees");
    };
    let home = Home::new();
    let module = format!("module_that_{name}");
    let folder = home.path("packages");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{module}.py")), text).expect("a module");
    std::fs::set_permissions(home.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let bind = format!("set -e\nmount --bind {} {packages}\nexec \"$@\"", folder.display());
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &bind, "sh"];
    let imports = format!("json,{module}");
    let service = Service::started_by(&outer, home, &[("WARM_PYTHON_IMPORTS", &imports)]);
    for number in 0..3 {
        run(&service, number);
    }
    // The control: the module is there for whoever imports it.
    let found = service.run("python", &format!("import importlib.util\nprint(importlib.util.find_spec('{module}'))"));
    assert!(found["stdout"].as_str().is_some_and(|text| text.contains("ModuleSpec")), "{found}");
    if is_named {
        assert_named(&service, &module);
    }
}

/// A folder of Python's packages that exists and that sandboxes see.
fn packages() -> Option<String> {
    let code = "import sys\nprint([path for path in sys.path if path.endswith('dist-packages')][0])";
    let output = std::process::Command::new("/usr/bin/python3").args(["-I", "-c", code]).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    std::path::Path::new(&folder).is_dir().then_some(folder)
}

/// It is said in one line, a warning, with the setting and the module.
#[track_caller]
fn assert_named(service: &Service, module: &str) {
    let lines = |service: &Service| -> Vec<String> {
        let log = service.log();
        let those = log.lines().filter(|line| line.contains("[WARNING]") && line.contains("WARM_PYTHON_IMPORTS"));
        those.filter(|line| line.contains(module)).map(str::to_owned).collect()
    };
    wait_until("the warning", 60, || !lines(service).is_empty());
    std::thread::sleep(Duration::from_secs(2));
    let said = lines(service);
    assert_eq!(said.len(), 1, "{said:?}");
}

/// What the service says of a language in which nothing can be made ahead.
#[track_caller]
fn says_why(service: &Service, language: &str) -> String {
    let begin = format!("Nothing could be made ahead for {language}, executions start cold: ");
    wait_until("it is told", 20, || service.log().contains(&begin));
    let log = service.log();
    log.lines().find_map(|line| line.split_once(&begin)).expect("a line").1.to_owned()
}

#[test]
fn where_forks_may_not_enter_sandboxes_the_log_says_so_and_what_to_do() {
    if !is_root("where_forks_may_not_enter_sandboxes_the_log_says_so_and_what_to_do") {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/under_seccomp.py");
    let outer = ["/usr/bin/python3", script, "refuse-entering"];
    let service = Service::started_by(&outer, Home::new(), &[("ISOLATION", "native")]);
    let why = says_why(&service, "python");
    assert!(why.contains("entering the namespaces of a sandbox that stands (setns): Operation not permitted"), "{why}");
    assert!(why.contains("seccomp=deploy/profiles/seccomp.json"), "{why}");
    // It is slower, and no more.
    assert_completed(&service.run("python", "print(1)"));
}

#[test]
fn an_interpreter_that_ends_before_its_time_is_told_with_its_last_words() {
    if !is_root("an_interpreter_that_ends_before_its_time_is_told_with_its_last_words") {
        return;
    }
    let home = Home::new();
    let node =
        "#!/bin/sh\ncase \"$*\" in *process.versions*) exec node \"$@\" ;; esac\necho 'no such engine' >&2\nexit 3\n";
    let node = home.write("node", node);
    // A temporary folder can't be shown to sandboxes.
    let script = format!(
        "set -e; mount -t tmpfs none /opt; install -D {} /opt/engine/bin/node; chmod 755 /opt; exec \"$@\"",
        node.display()
    );
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let service = Service::started_by(&outer, home, &[("NODE_PATH_BIN", "/opt/engine/bin/node")]);
    let why = says_why(&service, "javascript");
    let told = "a program that was started ahead ended before it was ready (exit status: 3; it said: no such engine)";
    assert!(why.contains(told) && why.contains("doctor"), "{why}");
}
