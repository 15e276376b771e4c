//! Two executions at once, and what the next one finds.

use crate::{facts, findings, returned, shortened};
use conformance::{Service, assert_completed, processes_named, wait_until};
use rustix::process::geteuid;
use security::{Column, Finding, Host, HostProcess, Mode, Scene, Table, is_root, processes_with, request};
use serde_json::{Value, json};
use std::process::Command;

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    at_once(table, column, host);
    planted_for_the_next(table, column);
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

fn at_once(table: &mut Table, column: &Column, host: &Host) {
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

/// Files that an interpreter reads at its start, where somebody makes it look there: nobody does.
fn planted_for_the_next(table: &mut Table, column: &Column) {
    const PLANT: &str = r#"
for name in sitecustomize usercustomize json encodings codecs site; do
    echo 'import sys; sys.stderr.write("PLANTED\n")' > $name.py
done
mkdir -p node_modules/fs .local/lib
echo 'console.error("PLANTED")' | tee index.js node_modules/fs/index.js preload.js > /dev/null
echo 'node-options=--require ./preload.js' > .npmrc
echo 'NODE_OPTIONS=--require ./preload.js' > .env
for name in .bashrc .bash_profile .profile .inputrc .node_repl_history; do echo 'echo PLANTED' > $name; done
"#;
    let session = "planted";
    assert_completed(&column.execute(&json!({"language": "shell", "session_id": session, "code": PLANT})));
    let folder = column.workspace(session);
    let control = Command::new("/usr/bin/python3").args(["-c", ""]).env("PYTHONPATH", &folder).output();
    let control = control.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("PLANTED"));
    for (language, code) in [
        ("python", "def handler(event): return 1"),
        ("javascript", "exports.handler = () => 1"),
        ("shell", "echo 1 >&3"),
    ] {
        let answer = column.execute(&json!({"language": language, "session_id": session, "code": code}));
        let planted = answer.to_string().contains("PLANTED") || answer["return_value"] != 1;
        let name = format!("have a file of the workspace read by the start of {language}");
        table.look(102, &name, planted.then(|| shortened(&answer)), Some(control));
    }
}
