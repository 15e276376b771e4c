//! Which isolation a service takes and what it says of it, in the situations that hosts and containers put it into.
//!
//! A situation is made for one process: by a mount namespace of the test's own, a system call filter, another user.
#![cfg(target_os = "linux")]

use conformance::process::{below, private_workspaces};
use conformance::{Home, Service, assert_completed, is_root, output_within, started_by, with_few_pid_namespaces};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;
use std::time::Duration;

/// An ordinary user that owns nothing: nobody, since newuidmap(1) wants one that has a name.
const SOMEBODY: u32 = 65_534;
const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/under_seccomp.py");

/// A service of an ordinary user, after this script in a mount namespace of its own.
fn of_somebody(script: &str, environment: &[(&str, &str)]) -> Service {
    let home = Home::new();
    chown(home.path(""), Some(SOMEBODY), Some(SOMEBODY)).expect("the user's home");
    let id = SOMEBODY.to_string();
    let script = format!("set -e\n{script}\nexec setpriv --reuid {id} --regid {id} --clear-groups \"$@\"");
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    Service::started_by(&outer, home, environment)
}

fn details(service: &Service) -> Value {
    service.get("/info").json()["isolation_details"].clone()
}

#[test]
fn the_first_choice_is_our_own_namespaces() {
    let service = Service::with(&[("ISOLATION", "auto")]);
    let health = service.get("/health").json();
    assert_eq!(health["isolation"], "native", "{health}");
    assert!(health["isolation_details"]["reason"].as_str().is_some_and(|why| why.contains("first choice")), "{health}");
    assert_eq!(details(&service)["refused"], json!([]));
    assert!(service.log().contains("[INFO] Isolation: native"), "{}", service.log());
}

#[test]
fn what_can_not_be_used_is_logged_and_the_next_is_taken() {
    if !is_root("what_can_not_be_used_is_logged_and_the_next_is_taken") {
        return;
    }
    let outer = ["/usr/bin/python3", "-I", FILTER, "refuse-clone3"];
    let service = Service::started_by(&outer, Home::new(), &[("ISOLATION", "auto")]);
    assert_eq!(service.get("/health").json()["isolation"], "bubblewrap");
    let refused = details(&service)["refused"].clone();
    assert_eq!(refused[0]["isolation"], "native", "{refused}");
    assert!(refused[0]["reason"].as_str().is_some_and(|why| why.contains("clone3")), "{refused}");
    let log = service.log();
    assert!(log.contains("[ERROR] Isolation setup failed: native: "), "{log}");
    assert!(log.contains("[INFO] Falling back to bubblewrap"), "{log}");
    assert_completed(&service.run("shell", "true"));
}

#[test]
fn where_nothing_isolates_nothing_starts() {
    if !is_root("where_nothing_isolates_nothing_starts") {
        return;
    }
    for wanted in ["auto", "native", "bubblewrap"] {
        let home = Home::new();
        let mut command = home.command();
        command.arg("serve").env("ISOLATION", wanted).env("EXECUTOR_PORT", "0");
        let mut command = started_by(&["/usr/bin/python3", "-I", FILTER, "refuse-namespaces"], &command);
        let output = output_within(60, &mut command);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{wanted}: {errors}");
        assert!(errors.contains("Isolation setup failed: "), "{wanted}: {errors}");
        assert!(errors.contains("sandbox-executor doctor"), "{wanted}: {errors}");
        assert!(!errors.contains("Listening on"), "{wanted}: {errors}");
        // In the document's words, with its fix.
        if wanted == "native" {
            assert!(errors.contains("No permissions to create new namespace"), "{errors}");
            assert!(errors.contains("docker run --privileged"), "{errors}");
        }
    }
}

#[test]
fn without_bubblewrap_the_others_are_left() {
    let service = Service::with(&[("ISOLATION", "auto"), ("DISABLE_BWRAP", "true")]);
    assert_eq!(service.get("/health").json()["isolation"], "native");
}

#[test]
fn an_ordinary_user_has_one_host_uid_for_all_and_is_told() {
    if !is_root("an_ordinary_user_has_one_host_uid_for_all_and_is_told") {
        return;
    }
    let service = of_somebody(":", &[("ISOLATION", "native")]);
    let mode = details(&service)["mode"].clone();
    assert!(mode.as_str().is_some_and(|mode| mode.starts_with("ordinary user")), "{mode}");
    assert!(service.log().contains("there are no subordinate ids to use"), "{}", service.log());
    assert_eq!(owners(&service), BTreeSet::from([SOMEBODY]));
}

#[test]
fn an_ordinary_user_with_subordinate_ids_has_one_for_each_session() {
    const TEST: &str = "an_ordinary_user_with_subordinate_ids_has_one_for_each_session";
    if !is_root(TEST) {
        return;
    }
    const FIRST: u32 = 700_000;
    let folder = tempfile::tempdir().expect("a folder");
    let table = folder.path().join("subid");
    std::fs::write(&table, format!("{SOMEBODY}:{FIRST}:65536\n")).expect("a table");
    let script = format!("mount --bind {0} /etc/subuid\nmount --bind {0} /etc/subgid", table.to_str().expect("a path"));
    for isolation in ["native", "bubblewrap"] {
        let service = of_somebody(&script, &[("ISOLATION", isolation)]);
        let mode = details(&service)["mode"].clone();
        assert!(mode.as_str().is_some_and(|mode| mode.starts_with("root of a user namespace")), "{mode}");
        let owners = owners(&service);
        assert_eq!(owners.len(), 3, "{isolation}: {owners:?}");
        assert!(owners.iter().all(|uid| (FIRST..FIRST + 65_536).contains(uid)), "{isolation}: {owners:?}");
        // Also what the program made can be removed again, by whom it does not belong to.
        let answer = service.run("shell", "mkdir -m 0 locked; id -u; cat /proc/self/setgroups");
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "1000\ndeny\n", "{isolation}");
        let private = || {
            let names = std::fs::read_dir(service.path("workspaces")).expect("the workspaces").flatten();
            names.filter(|entry| entry.path().join("locked").exists()).count()
        };
        conformance::wait_until("the private workspace is gone", 10, || private() == 0);
    }
}

/// To whom the workspaces of three sessions belong on the host.
fn owners(service: &Service) -> BTreeSet<u32> {
    let owner = |session: &str| {
        assert_completed(&service.execute(json!({"language": "shell", "code": "echo > file", "session_id": session})));
        let metadata = std::fs::metadata(service.path("workspaces").join(session).join("file"));
        metadata.expect("the session's file").uid()
    };
    ["one", "two", "three"].map(owner).into()
}

#[test]
fn where_parts_of_proc_are_hidden_there_is_none_inside() {
    if !is_root("where_parts_of_proc_are_hidden_there_is_none_inside") {
        return;
    }
    // As a container engine does; an ordinary user's new /proc would show them.
    let service = of_somebody("mount -t tmpfs none /proc/irq", &[("ISOLATION", "auto")]);
    assert_eq!(service.get("/health").json()["isolation"], "native");
    let lacks = details(&service)["lacks"].clone();
    assert!(lacks[0].as_str().is_some_and(|lack| lack.contains("Sandboxes have no /proc")), "{lacks}");
    assert!(service.log().contains("procMount: Unmasked"), "{}", service.log());
    for (language, code) in [
        ("python", "import os, subprocess\nassert not os.listdir('/proc')\nsubprocess.run(['true'], check=True)"),
        ("javascript", "require('child_process').execSync('true')"),
        ("shell", "test -z \"$(ls /proc)\""),
    ] {
        assert_completed(&service.run(language, code));
    }
    // Its memory is measured all the same, that of all processes together.
    let many = r"
import os, time
for _ in range(8):
    if os.fork() == 0:
        data = b'x' * (40 << 20)
        time.sleep(20)
time.sleep(20)";
    let request =
        |memory_mb: u64| json!({"language": "python", "code": many, "limits": {"memory_mb": memory_mb}, "timeout": 3});
    conformance::assert_failed(&service.execute(request(128)), "out_of_memory");
    // The control: with enough of it only time runs out.
    assert_eq!(service.execute(request(500))["status"], "timeout");
    // The control: where nothing is hidden there is one.
    let service = of_somebody(":", &[("ISOLATION", "auto")]);
    assert_eq!(details(&service)["lacks"], json!([]));
    assert_completed(&service.run("shell", "test -n \"$(ls /proc)\""));

    // An engine also makes the kernel's settings read-only, and with them how many user namespaces there may be.
    let engine = "mount -t tmpfs none /proc/irq; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys";
    let service = of_somebody(engine, &[("ISOLATION", "native")]);
    assert_completed(&service.run("shell", "test -z \"$(ls /proc)\""));
}

#[test]
fn a_full_workspace_disk_is_what_it_is_called() {
    if !is_root("a_full_workspace_disk_is_what_it_is_called") {
        return;
    }
    let home = Home::new();
    let workspaces = home.path("workspaces");
    std::fs::create_dir(&workspaces).expect("a folder");
    let script = format!("set -e\nmount -t tmpfs -o size=40m none {}\nexec \"$@\"", workspaces.display());
    let outer = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let service = Service::started_by(&outer, home, &[]);
    for (language, code) in [
        ("shell", "head -c 50000000 /dev/zero > big"),
        ("python", "open('big', 'wb').write(b'x' * 50_000_000)"),
        ("javascript", "require('fs').writeFileSync('big', Buffer.alloc(50_000_000))"),
    ] {
        let answer = service.run(language, code);
        conformance::assert_failed(&answer, "disk_full");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("No space left in the workspace: its disk of 40 MB is full"), "{answer}");
        // The control: when what filled it has been cleared away, a failure is another one.
        conformance::wait_until("there is room again", 10, || {
            service.run("shell", "head -c 30000000 /dev/zero > fits && exit 3")["error"]["kind"] == "exit"
        });
        // And what that wrote, too.
        let free = "test $(df --output=avail -B1 . | tail -n 1) -gt 39000000";
        conformance::wait_until("all of it is free", 10, || service.run("shell", free)["exit_code"] == 0);
    }
}

#[test]
fn two_services_share_no_host_uid() {
    if !is_root("two_services_share_no_host_uid") {
        return;
    }
    let (one, other) = (Service::with(&[]), Service::with(&[]));
    assert!(owners(&one).is_disjoint(&owners(&other)));
}

#[test]
fn without_isolation_every_voice_says_so() {
    let service = Service::with(&[("ISOLATION", "none")]);
    assert_completed(&service.run("shell", "true"));
    for route in ["/health", "/info"] {
        let answer = service.get(route).json();
        assert_eq!(answer["isolation"], "none", "{route}");
        assert_eq!(answer["isolation_details"]["mode"], "nothing is isolated", "{route}");
    }
    let log = service.log();
    let starts = log.lines().filter(|line| line.contains("Isolation:") || line.contains("Listening on"));
    let starts = starts.chain(log.lines().filter(|line| line.contains("Starting execution")));
    let (mut seen, mut silent) = (0, Vec::new());
    for line in starts {
        seen += 1;
        if !line.contains("nothing is isolated") {
            silent.push(line);
        }
    }
    assert!(seen >= 3 && silent.is_empty(), "{silent:?}\n{log}");
    let doctor = Command::new(conformance::binary()).arg("doctor").env("ISOLATION", "none").output().expect("doctor");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("nothing is isolated"));
}

/// A service that this shell script executes as its last argument.
fn after(script: &str, environment: &[(&str, &str)]) -> Service {
    Service::started_by(&["sh", "-c", &format!("{script}; exec \"$@\"",), "sh"], Home::new(), environment)
}

/// A service that Python starts after these statements.
fn after_python(statements: &str) -> Service {
    let program = format!("import os, signal, sys\n{statements}\nos.execv(sys.argv[1], sys.argv[1:])");
    Service::started_by(&["/usr/bin/python3", "-I", "-c", &program], Home::new(), &[])
}

#[test]
fn whatever_umask_it_was_started_with_programs_can_read_their_etc() {
    let service = after("umask 077", &[]);
    assert_completed(&service.run("shell", "set -e; id -un; cat /etc/group; ls -R /etc > /dev/null"));
    assert_completed(&service.run("python", "import getpass\nassert getpass.getuser() == 'sandbox'"));
}

#[test]
fn whatever_signals_it_was_started_with_it_works_and_stops() {
    for statements in [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))",
        "[signal.signal(number, signal.SIG_IGN) for number in range(1, 32) if number not in (9, 19)]",
    ] {
        let mut service = after_python(statements);
        assert_completed(&service.run("shell", "sleep 0 & wait; ! grep SigBlk:.*[1-9a-f] /proc/self/status"));
        assert_completed(&service.run("javascript", "require('child_process').execSync('true')"));
        service.signal(Signal::TERM);
        let status = service.wait(5);
        assert_eq!(status.code(), Some(143), "{statements}: {status}\n{}", service.log());
    }
}

#[test]
fn what_favours_it_was_started_with_are_not_the_programs() {
    if !is_root("what_favours_it_was_started_with_are_not_the_programs") {
        return;
    }
    let code = "import os\nassert os.sched_getscheduler(0) == os.SCHED_OTHER and os.nice(0) == 0, os.nice(0)";
    for favour in ["os.nice(-5)", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"] {
        for isolation in ["native", "bubblewrap"] {
            let statements = format!("{favour}\nos.environ['ISOLATION'] = '{isolation}'");
            assert_completed(&after_python(&statements).run("python", code));
        }
    }
}

#[test]
fn where_descriptors_are_few_executions_wait_and_none_fails() {
    let service = after("ulimit -n 128", &[("WARM_PYTHON", "1"), ("WARM_NODE", "1")]);
    let one = || service.run("python", "import time\ntime.sleep(0.1)\ndef handler(event): return 1");
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..40).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|each| each.join().expect("an answer")).collect()
    });
    for answer in &answers {
        assert_completed(answer);
        assert_eq!(answer["return_value"], 1, "{answer}");
    }
    assert!(service.log().contains("3 run at a time"), "{}", service.log());
    assert_eq!(service.get("/info").json()["max_concurrent_executions"], 3);
    let workspaces = service.path("workspaces");
    // What stays is the sandboxes' /etc, and the workspaces of what stands ready: one of each language.
    conformance::wait_until("no private workspace is left", 10, || private_workspaces(&workspaces).len() <= 4);
}

#[test]
fn what_is_made_ahead_and_kept_for_sessions_takes_no_descriptors_from_executions() {
    const SESSIONS: usize = 150;
    let service = after("ulimit -n 512", &[("WARM_PYTHON", "8"), ("WARM_NODE", "8")]);
    for number in 0..SESSIONS {
        assert_completed(
            &service.execute(json!({"session_id": format!("s-{number}"), "language": "shell", "code": ":"})),
        );
    }
    let one = || service.run("python", "import time\ntime.sleep(0.5)");
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..60).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|each| each.join().expect("an answer")).collect()
    });
    answers.iter().for_each(assert_completed);
    assert!(!service.log().contains("Too many open files"), "{}", service.log());
}

#[test]
#[cfg(target_arch = "x86_64")] // Where there are forks.
fn what_anybody_laid_into_tmp_is_no_package_of_ours() {
    if !is_root("what_anybody_laid_into_tmp_is_no_package_of_ours") {
        return;
    }
    // What Python takes from $HOME at its start, which is /tmp for programs; the last line is the control.
    let script = "mkdir -p /tmp/.local
        mount -t tmpfs none /tmp/.local
        folder=$(HOME=/tmp /usr/bin/python3 -m site --user-site)
        mkdir -p \"$folder\"
        echo 'import sys; sys.laid = True' > \"$folder\"/laid.pth
        HOME=/tmp /usr/bin/python3 -c 'import sys; sys.laid'";
    let service = of_somebody(script, &[("PYTHON_PATH", "/usr/bin/python3"), ("ISOLATION", "native")]);
    service.wait_for_forks();
    let look = "import sys\ndef handler(event): return hasattr(sys, 'laid') or [each for each in sys.path if '.local' in each]";
    for _ in 0..3 {
        assert_eq!(service.run("python", look)["return_value"], json!([]));
    }
    std::fs::remove_dir("/tmp/.local").ok();
}

#[test]
#[cfg(target_arch = "x86_64")] // Where there are forks.
fn files_that_a_program_leaves_open_are_written_whole() {
    let service = Service::with(&[("ISOLATION", "native")]);
    service.wait_for_forks();
    let code = "files = [open(str(number), 'w') for number in range(20)]\nfor file in files: file.write('unflushed')";
    let sizes = "import os\ndef handler(event): return {os.path.getsize(str(number)) for number in range(20)} == {9}";
    for _ in 0..3 {
        assert_completed(&service.execute(json!({"language": "python", "session_id": "open", "code": code})));
        let answer = service.execute(json!({"language": "python", "session_id": "open", "code": sizes}));
        assert_eq!(answer["return_value"], true, "{answer}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")] // Where there are forks.
fn a_module_of_the_workspace_goes_before_one_that_only_forks_have_loaded() {
    let service = Service::with(&[("ISOLATION", "native")]);
    service.wait_for_forks();
    for name in ["json", "socket", "struct", "threading", "statistics"] {
        let execute = |code: String| service.execute(json!({"language": "python", "session_id": name, "code": code}));
        assert_completed(&execute(format!("open('{name}.py', 'w').write('MINE = True')")));
        let answer = execute(format!("import {name}\ndef handler(event): return {name}.MINE"));
        assert_eq!(answer["return_value"], true, "{answer}");
    }
}

#[test]
fn an_ordinary_users_own_interpreter_stays_as_it_is() {
    if !is_root("an_ordinary_users_own_interpreter_stays_as_it_is") {
        return;
    }
    let folder =
        tempfile::Builder::new().prefix("own-python-").tempdir_in("/opt").expect("a folder that sandboxes see");
    let python = folder.path().join("bin/python3");
    std::fs::create_dir(folder.path().join("bin")).expect("a folder");
    std::fs::copy("/usr/bin/python3", &python).expect("an interpreter of the user's own");
    // It finds its library by this, as in a virtual environment.
    std::fs::write(folder.path().join("pyvenv.cfg"), "home = /usr/bin\n").expect("its configuration");
    for path in [folder.path(), &folder.path().join("bin"), &python] {
        chown(path, Some(SOMEBODY), Some(SOMEBODY)).expect("theirs");
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("for all to read");
    }
    let service = of_somebody("", &[("PYTHON_PATH", &python.to_string_lossy()), ("ISOLATION", "native")]);
    conformance::wait_until("it is said", 10, || service.log().contains("No Python is forked"));
    let change = "import os\ndef handler(event):\n    try: os.chmod('/proc/self/exe', 0o4755)\n    except OSError as error: \
        return error.strerror";
    for _ in 0..3 {
        assert_eq!(service.run("python", change)["return_value"], "Read-only file system");
    }
    assert_eq!(std::fs::metadata(&python).expect("it").mode() & 0o7777, 0o755);
    let unisolated = of_somebody("", &[("PYTHON_PATH", &python.to_string_lossy()), ("ISOLATION", "none")]);
    assert_eq!(unisolated.run("python", change)["return_value"], Value::Null);
    assert_eq!(std::fs::metadata(&python).expect("it").mode() & 0o7777, 0o4755);
}

#[test]
fn an_interpreter_that_no_sandbox_could_see_is_refused_at_the_start() {
    let home = Home::new();
    let bin = home.path("bin");
    std::fs::create_dir(&bin).expect("a folder");
    conformance::copy_program("/usr/bin/bash".as_ref(), &bin.join("bash"));
    let mut command = home.command();
    command.arg("serve").env("EXECUTOR_PORT", "0").env("SHELL_PATH", bin.join("bash"));
    let output = output_within(60, &mut command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("SHELL_PATH is not usable: ") && errors.contains("have a /tmp of their own"), "{errors}");
    // The control: where nothing lies over it, it is used.
    let service =
        Service::at(home, &[("ISOLATION", "none"), ("SHELL_PATH", bin.join("bash").to_str().expect("a path"))]);
    assert_completed(&service.run("shell", "true"));
}

#[test]
fn a_session_whose_folder_was_shut_or_opened_is_its_own_again() {
    let service = Service::with(&[]);
    check_modes(&service);
    if is_root("a_session_whose_folder_was_shut_or_opened_is_its_own_again as an ordinary user") {
        check_modes(&of_somebody(":", &[]));
    }
}

fn check_modes(service: &Service) {
    for mode in ["0", "777"] {
        let session = format!("mode-{mode}");
        let run = |code: &str| service.execute(json!({"language": "shell", "code": code, "session_id": session}));
        assert_completed(&run(&format!("echo kept > file; chmod {mode} .")));
        assert_eq!(run("cat file; stat -c %a .")["stdout"], "kept\n700\n", "{mode}");
    }
}

#[test]
fn no_two_sandboxes_share_a_network_also_where_making_one_fails_in_between() {
    if !is_root("no_two_sandboxes_share_a_network_also_where_making_one_fails_in_between") {
        return;
    }
    let few = with_few_pid_namespaces(6);
    let outer = ["/usr/bin/python3", "-I", "-c", &few];
    // What stands ready would take namespaces of the few.
    let settings = [("ISOLATION", "native"), ("WARM_PYTHON", "0"), ("WARM_NODE", "0")];
    let service = Service::started_by(&outer, Home::new(), &settings);
    // Each takes the same port of its loopback, which only one in a network can.
    let code = "import socket, time\nsocket.create_server(('127.0.0.1', 7777))\ntime.sleep(0.5)\n";
    let request = json!({"language": "python", "code": code}).to_string();
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..3 {
        let answers = std::thread::scope(|scope| {
            let running: Vec<_> = (0..12).map(|_| scope.spawn(|| service.post(&request))).collect();
            running.into_iter().map(|each| each.join().expect("an answer")).collect::<Vec<_>>()
        });
        for answer in answers {
            if answer.status == 200 {
                assert_completed(&answer.json());
                ran += 1;
            } else {
                answer.assert_error(503, "Executor.IsolationUnavailable");
                refused += 1;
            }
        }
    }
    assert!(ran > 3 && refused > 3, "{ran} ran, {refused} could not be made: the situation is another one");
    assert!(service.log().contains("user.max_*_namespaces"), "{}", service.log());
    service.assert_alive();
}

#[test]
fn what_is_mapped_of_a_memory_file_system_counts_once_without_cgroups_too() {
    if !is_root("what_is_mapped_of_a_memory_file_system_counts_once_without_cgroups_too") {
        return;
    }
    let service = of_somebody(":", &[]);
    let code = "
import mmap, time
with open('/dev/shm/big', 'w+b') as file:
    file.truncate(40 << 20)
    place = mmap.mmap(file.fileno(), 40 << 20)
for page in range(0, 40 << 20, 4096): place[page] = 1
time.sleep(0.2)";
    let within = |memory_mb: u64| {
        service.execute(json!({"language": "python", "code": code, "limits": {"memory_mb": memory_mb}}))
    };
    assert_completed(&within(64));
    // The control: that it counts.
    conformance::assert_failed(&within(41), "out_of_memory");
}

#[test]
fn as_the_first_process_of_a_container_it_leaves_no_dead_uncollected() {
    if !is_root("as_the_first_process_of_a_container_it_leaves_no_dead_uncollected") {
        return;
    }
    let outer = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];
    for isolation in ["native", "bubblewrap"] {
        let service = Service::started_by(&outer, Home::new(), &[("ISOLATION", isolation)]);
        for _ in 0..10 {
            assert_completed(&service.run("shell", "sleep 100 & (setsid sleep 100 &)"));
        }
        let dead = || below(service.pid()).into_iter().filter(|process| process.ends_with('Z')).count();
        conformance::wait_until("all dead are collected", 10, || dead() == 0);
        // What somebody else started there and left behind is its child, too.
        let inside = below(service.pid()).into_iter().find(|process| process.contains("(sandbox-execut"));
        let inside = inside.and_then(|process| Some(process.split_once(' ')?.0.to_owned())).expect("the first process");
        let left = "(sleep 0.3; exit 3) & exec true";
        let entered = ["--target", &inside, "--pid", "--mount", "sh", "-c", left];
        assert!(Command::new("nsenter").args(entered).status().expect("nsenter").success());
        std::thread::sleep(Duration::from_millis(600));
        conformance::wait_until("what was left behind is collected", 10, || dead() == 0);
        // What the test started hears of no signal to stop.
        let service_itself = below(service.pid()).into_iter().find(|process| process.contains("(sandbox-execut"));
        let pid = service_itself.and_then(|process| Pid::from_raw(process.split_once(' ')?.0.parse().ok()?));
        kill_process(pid.expect("the service"), Signal::TERM).expect("it is there");
    }
}
