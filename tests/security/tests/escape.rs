//! The first escape suite: bubblewrap as root and as an ordinary user, each a column with a table at its end.
#![cfg(target_os = "linux")]

use conformance::{Service, assert_completed, processes_named, wait_until};
use rustix::process::geteuid;
use security::{
    Column, Finding, Host, HostProcess, Mode, Scene, Table, copy_program, is_root, on_the_host, processes_with, request,
};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[test]
fn bubblewrap_as_root() {
    if is_root() {
        column(Mode::Root);
    } else {
        skipped("the column bubblewrap × root");
    }
}

#[test]
fn bubblewrap_as_an_ordinary_user() {
    column(Mode::User);
}

fn skipped(what: &str) {
    let text = format!("\n  SKIPPED, 1 test: {what} needs the tests to run as root\n");
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn column(mode: Mode) {
    let mut host = Host::new();
    let column = Column::start("bubblewrap", mode, host.secret(), host.folder());
    let program = std::fs::read(column.program()).expect("the program");
    let mut table = Table::new(&column.name());

    alone(&mut table, &column, &host);
    environment_of_the_service(&mut table, &column, &host);
    setuid_file(&mut table, &column, &host);
    neighbours(&mut table, &column, &host);
    kill_everything(&mut table, &column, &mut host);

    let changed = std::fs::read(column.program()).expect("the program") != program;
    table.look(14, "overwrite the program of the service", changed.then(|| "it changed".into()), None);
    table.finish();
}

/// Tells the facts of a column to the probes.
fn facts(host: &Host, column: &Column) -> Value {
    let mut facts = host.facts();
    facts["service_port"] = column.port().into();
    facts["state"] = json!(column.path("state"));
    facts["workspaces"] = json!(column.path("workspaces"));
    facts["pids"] = json!([host.canary_pid(), column.pid(), std::process::id()]);
    facts
}

/// The return value of an execution that ran through.
#[track_caller]
fn returned(answer: Value) -> Value {
    assert_completed(&answer);
    answer["return_value"].clone()
}

#[track_caller]
fn findings(answer: Value) -> Vec<Finding> {
    serde_json::from_value(returned(answer)).expect("findings")
}

fn alone(table: &mut Table, column: &Column, host: &Host) {
    let facts = facts(host, column);
    let controls = on_the_host(host, &facts);
    table.judge("", &findings(column.execute(&request(Scene::Alone, None, &facts))), &controls);
}

/// That the service had what nobody found.
fn environment_of_the_service(table: &mut Table, column: &Column, host: &Host) {
    let environment = std::fs::read(format!("/proc/{}/environ", column.pid())).expect("the service's environment");
    let has_secret = String::from_utf8_lossy(&environment).contains(host.secret());
    let code = "cat /proc/*/environ /proc/*/cmdline /proc/*/mountinfo 2>/dev/null | tr '\\0' '\\n'; env; set";
    for (language, code) in [("shell", code), ("javascript", "console.log(process.env, process.argv)")] {
        let answer = column.execute(&json!({"language": language, "code": code}));
        assert_completed(&answer);
        let found = answer.to_string().contains(host.secret()).then(|| shortened(&answer));
        table.look(31, &format!("print the service's secret in {language}"), found, Some(has_secret));
    }
    let leaked = HostProcess::look(column.pid()).expect("the service").descriptors();
    // A service that closed it at its start is as well as one that does not pass it on.
    let text =
        format!("the service {} it", if leaked.iter().any(|path| path == host.folder()) { "holds" } else { "closed" });
    const LIST: &str = "ls -l /proc/self/fd /proc/*/fd 2>/dev/null";
    let folder = host.folder().to_string_lossy();
    let control = Command::new("/bin/sh")
        .args(["-c", &format!("exec 9<\"$1\"; {LIST}"), "sh"])
        .arg(host.folder())
        .output()
        .expect("a list");
    let control = String::from_utf8_lossy(&control.stdout).contains(&*folder);
    let answer = column.execute(&json!({"language": "shell", "code": LIST}));
    let found = answer["stdout"].as_str().is_some_and(|list| list.contains(&*folder)).then(|| shortened(&answer));
    table.look(6, &format!("find the descriptor that the service was started with ({text})"), found, Some(control));
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

/// A setuid file of root's in the workspace, which only root could have put there.
fn setuid_file(table: &mut Table, column: &Column, host: &Host) {
    const NAME: &str = "run a setuid file of root's in the workspace";
    if !is_root() {
        return table.skip(12, NAME, "only root can make one");
    }
    let session = "setuid";
    assert_completed(&column.execute(&json!({"language": "shell", "session_id": session, "code": ":"})));
    let make = |path: &Path| {
        // By a process of its own, see copy_program.
        assert!(Command::new("/bin/cp").arg("/usr/bin/id").arg(path).status().is_ok_and(|status| status.success()));
        chown(path, Some(0), Some(0)).expect("an owner");
        std::fs::set_permissions(path, Permissions::from_mode(0o4755)).expect("a mode");
    };
    make(&column.workspace(session).join("id"));
    make(&host.path("id"));
    let control = Command::new(host.path("id")).arg("-u").uid(65_534).gid(65_534).output().expect("an answer");
    let answer = column.execute(&json!({"language": "shell", "session_id": session, "code": "./id -u"}));
    let stdout = answer["stdout"].as_str().unwrap_or_default();
    table.look(12, NAME, (stdout != "1000\n").then(|| shortened(&answer)), Some(control.stdout == b"0\n"));
}

/// A signal to everybody. The probe only sends it when it can't reach the host.
fn kill_everything(table: &mut Table, column: &Column, host: &mut Host) {
    let code = format!(
        r#"
import os, signal
def handler(event):
    try:
        os.kill({canary}, 0)
        return "reaches the host"
    except ProcessLookupError:
        pass
    if os.getpid() > 100 or len([name for name in os.listdir("/proc") if name.isdigit()]) > 10:
        return "among too many processes"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for pid, number in ((1, signal.SIGKILL), (1, signal.SIGSTOP), (1, signal.SIGTERM), (-1, signal.SIGKILL)):
        try:
            os.kill(pid, number)
        except OSError:
            pass
    return "sent"
"#,
        canary = host.canary_pid()
    );
    let answer = column.execute(&json!({"language": "python", "code": code}));
    let sent = answer["status"] == "completed" && answer["return_value"] == "sent";
    table.look(32, "kill process 1 and stay without an answer", (!sent).then(|| shortened(&answer)), None);
    let alive = column.execute(&json!({"language": "shell", "code": "echo alive"}));
    let escaped = (alive["stdout"] != "alive\n" || !host.is_canary_alive()).then(|| "something died".to_owned());
    // That a signal does end the canary.
    host.kill_canary();
    table.look(32, "kill every process", escaped, Some(!host.is_canary_alive()));
}

/// Something that executes: the column, or a service without isolation.
struct Place<'a> {
    execute: &'a (dyn Fn(&Value) -> Value + Sync),
    workspaces: std::path::PathBuf,
}

/// What a resident and its visitors call things by: System V knows them by a number.
fn shared_number(marker: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    marker.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An execution that stays, as seen from the host while it does.
struct Resident {
    session: &'static str,
    marker: String,
    port: Value,
    sleeper: HostProcess,
}

impl Resident {
    /// Starts it in a thread and waits until it stands.
    fn start<'scope, 'a: 'scope>(
        scope: &'scope std::thread::Scope<'scope, '_>,
        place: &'a Place<'a>,
        session: &'static str,
        facts: &Value,
    ) -> Resident {
        let folder = place.workspaces.join(session);
        let marker = format!("resident-{session}-{}", facts["marker"].as_str().unwrap_or_default());
        let mut facts = facts.clone();
        facts["neighbour"] = shared_number(&marker).into();
        facts["resident_marker"] = marker.clone().into();
        let request = request(Scene::Resident, Some(session), &facts);
        scope.spawn(move || {
            let answer = (place.execute)(&request);
            assert_eq!(returned(answer), "stayed");
        });
        wait_until("the resident execution", 30, || folder.join("ready").exists() && processes_named(&marker) > 0);
        let ready = std::fs::read(folder.join("ready")).expect("what the resident says");
        let ready: Value = serde_json::from_slice(&ready).expect("JSON");
        let sleeper = processes_with(&marker).pop().expect("the resident's process");
        Resident { session, marker, port: ready["port"].clone(), sleeper }
    }

    fn stop(&self, place: &Place) {
        std::fs::write(place.workspaces.join(self.session).join("stop"), "").expect("a word to the resident");
    }

    /// The attacks on it, from an execution in this session.
    fn visit(&self, place: &Place, session: Option<&str>, facts: &Value) -> Vec<Finding> {
        let mut facts = facts.clone();
        facts["neighbour"] = shared_number(&self.marker).into();
        facts["resident_marker_backwards"] = self.marker.chars().rev().collect::<String>().into();
        facts["resident_port"] = self.port.clone();
        facts["resident_session"] = self.session.into();
        facts["resident_workspace"] = json!(place.workspaces.join(self.session));
        facts["same_session"] = (session == Some(self.session)).into();
        findings((place.execute)(&request(Scene::Neighbour, session, &facts)))
    }
}

fn neighbours(table: &mut Table, column: &Column, host: &Host) {
    let facts = facts(host, column);

    // The controls: the same without isolation.
    let open = Service::with(&[("ISOLATION", "none")]);
    let place = Place { execute: &|request| open.execute(request.clone()), workspaces: open.path("workspaces") };
    let (controls, unwalled) = std::thread::scope(|scope| {
        let resident = Resident::start(scope, &place, "resident", &facts);
        let controls = resident.visit(&place, Some("visitor"), &facts);
        let sleeper = resident.sleeper.clone();
        resident.stop(&place);
        (controls, sleeper)
    });
    let control_of_uids = unwalled.uids.iter().all(|uid| *uid == geteuid().as_raw());
    let ours = HostProcess::look(std::process::id()).expect("this process");

    let place = Place { execute: &|request| column.execute(request), workspaces: column.path("workspaces") };
    std::thread::scope(|scope| {
        let first = Resident::start(scope, &place, "first", &facts);
        let second = Resident::start(scope, &place, "second-one", &facts);
        for (suffix, session) in [
            (" of another session", Some("third")),
            (" of a session, without one", None),
            (" of another execution of the session", Some("first")),
        ] {
            table.judge(suffix, &first.visit(&place, session, &facts), &controls);
        }

        seen_from_outside(table, column, host, &first, &second, control_of_uids);
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            let inner = |process: &HostProcess| process.namespaces.get(kind).cloned();
            let shared = inner(&first.sleeper).is_none() || inner(&first.sleeper) == inner(&ours);
            let shared = shared.then(|| format!("{:?}", inner(&first.sleeper)));
            let name = format!("share the {kind} namespace with the host (seen from outside)");
            let control = inner(&unwalled).is_some() && inner(&unwalled) == inner(&ours);
            table.look(24, &name, shared, Some(control));
            let shared = inner(&first.sleeper) == inner(&second.sleeper);
            let name = format!("share the {kind} namespace with another session (seen from outside)");
            table.look(24, &name, shared.then(|| format!("{:?}", inner(&first.sleeper))), Some(control));
        }
        first.stop(&place);
        second.stop(&place);
    });
}

/// Whose the processes of two sandboxes are on the host.
fn seen_from_outside(
    table: &mut Table,
    column: &Column,
    host: &Host,
    first: &Resident,
    second: &Resident,
    control: bool,
) {
    let service = HostProcess::look(column.pid()).expect("the service");
    let all = |process: &HostProcess| [process.uids.clone(), process.gids.clone(), process.groups.clone()].concat();
    let line = first.sleeper.line(column.pid());
    // Above the sandbox stands the launcher, which is the service's own.
    let (launcher, sandbox) = line.split_last().expect("a process");
    let are_of = |wrong: &dyn Fn(&HostProcess) -> bool| {
        let found: Vec<String> = sandbox.iter().filter(|process| wrong(process)).map(|p| format!("{p:?}")).collect();
        (!found.is_empty()).then(|| found.join("\n"))
    };
    assert!(sandbox.len() >= 3, "the sleeper, its parent and an init were expected: {line:?}");
    assert_eq!(launcher.parent, column.pid(), "{line:?}");

    let root = is_root();
    let of_root = are_of(&|process| all(process).contains(&0));
    table.look(24, "be root on the host (seen from outside)", of_root, Some(control));
    match column.mode() {
        Mode::Root => {
            let shares = are_of(&|process| process.uids.iter().any(|uid| service.uids.contains(uid)));
            table.look(24, "be the service's user on the host (seen from outside)", shares, Some(control));
            let shares = first.sleeper.uids.iter().any(|uid| second.sleeper.uids.contains(uid));
            let shares = shares.then(|| format!("{:?}", first.sleeper.uids));
            table.look(24, "be the user of another session on the host (seen from outside)", shares, Some(control));
        }
        Mode::User => {
            let others = are_of(&|process| process.uids != service.uids || process.gids != service.gids);
            table.look(24, "be another user than the service's on the host (seen from outside)", others, Some(control));
        }
    }
    let groups = are_of(&|process| process.groups.iter().any(|group| !process.gids.contains(group)));
    table.look(24, "be in a further group on the host (seen from outside)", groups, Some(control));

    let holds = |process: &HostProcess| process.descriptors().iter().any(|path| path == host.folder());
    let held = are_of(&holds);
    // Descriptors of others are root's to see.
    if root {
        let control = HostProcess::look(column.pid()).is_some_and(|service| !service.descriptors().is_empty());
        table.look(6, "hold the descriptor that the service was started with (seen from outside)", held, Some(control));
    } else {
        table.skip(6, "hold the descriptor that the service was started with (seen from outside)", "needs root");
    }
}

#[test]
fn it_works_when_the_program_lies_below_a_folder_of_roots_alone() {
    if !is_root() {
        return skipped("the program below a 0700 folder");
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).expect("a mode");
    let below = folder.path().join("clone/target/release");
    std::fs::create_dir_all(&below).expect("folders");
    let program = below.join("sandbox-executor");
    copy_program(&program);

    // That the folder does keep others out.
    let by_another = Command::new(&program).arg("--version").uid(65_534).gid(65_534).spawn();
    assert_eq!(by_another.expect_err("it is root's alone").kind(), std::io::ErrorKind::PermissionDenied);

    for (language, code) in [
        ("python", "def handler(event): return 'hello'"),
        ("javascript", "exports.handler = () => 'hello'"),
        ("shell", "echo '\"hello\"' >&3"),
    ] {
        let file = below.join(language);
        std::fs::write(&file, code).expect("the code");
        let mut command = Command::new(&program);
        command
            .args(["run", "--language", language])
            .arg(&file)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("ISOLATION", "bubblewrap")
            .env("STATE_PATH", below.join("state"))
            .env("WORKSPACE_PATH", below.join("workspaces"))
            .current_dir(&below);
        let output = conformance::output_within(60, &mut command);
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("hello"), "{language}: {text}\n{errors}");
    }
}
