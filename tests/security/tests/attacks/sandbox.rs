//! What one execution tries on the host, the kernel and its own first process.

use crate::{facts, findings, shortened};
use conformance::assert_completed;
use security::{Column, Host, HostProcess, Scene, Table, is_root, on_the_host, request};
use serde_json::json;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    let program = std::fs::read(column.program()).expect("the program");
    alone(table, column, host);
    environment_of_the_service(table, column, host);
    setuid_file(table, column, host);
    kill_everything(table, column, host);
    let changed = std::fs::read(column.program()).expect("the program") != program;
    table.look(14, "overwrite the program of the service", changed.then(|| "it changed".into()), None);
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
