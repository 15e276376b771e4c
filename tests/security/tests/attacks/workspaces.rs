//! What a program leaves in its workspace for the host to stumble over.

use crate::shortened;
use conformance::{assert_completed, patience};
use security::{Column, Control, Host, Table};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Removing what was left may take so long: a disk that others are busy with needs a millisecond and more for each name.
const REMOVED_WITHIN_S: u64 = 10;
const CANARY: &str = "a file of the host\n";

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    links_in_the_way(table, column, host);
    working_directories(table, column);
    left_to_remove(table, column);
    swapped_while_it_is_removed(table, column, host);
}

fn unchanged(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text == CANARY)
}

/// Links under every name that the service or a runtime might write to.
fn links_in_the_way(table: &mut Table, column: &Column, host: &Host) {
    let canary = host.path("canary");
    let session = "links";
    let code = format!(
        "for name in main.py main.js main.sh user_code.js user_code.py code event event.json result result.json output \
         bootstrap.py bootstrap.pyc bootstrap.cjs stdin stdout stderr .sandbox .lock lock session.json; do \
         ln -s {0} $name; done; ln -s {0} __pycache__; ls -A | wc -l",
        canary.display()
    );
    let planted = column.execute(&json!({"language": "shell", "session_id": session, "code": code}));
    assert_completed(&planted);
    for (language, code) in [
        ("python", "print(1)\ndef handler(event): return event"),
        ("javascript", "exports.handler = (event) => event"),
        ("shell", "echo '{}' >&3"),
    ] {
        let request =
            json!({"language": language, "session_id": session, "code": code, "event": {"a": 1}, "stdin": "text"});
        let answer = column.execute(&request);
        let harm = match answer["status"] == "completed" {
            true => (!unchanged(&canary)).then(|| "the file of the host was written to".to_owned()),
            false => Some(shortened(&answer)),
        };
        // That such a link leads whoever follows it to the file.
        let followed = std::fs::canonicalize(column.workspace(session).join("result.json"));
        let control = followed.is_ok_and(|path| path == canary.canonicalize().unwrap_or_default());
        table.look(105, &format!("have a link followed by the start of {language}"), harm, Some(control));
    }
}

/// A working directory that is a link, or no folder.
fn working_directories(table: &mut Table, column: &Column) {
    let session = "directories";
    let code = "ln -s /etc out; ln -s /tmp/../workspace/.. up; mkfifo pipe; touch file; mkdir inside; ln -s loop loop";
    assert_completed(&column.execute(&json!({"language": "shell", "session_id": session, "code": code})));
    let pwd = |folder: &str| {
        let request =
            json!({"language": "shell", "session_id": session, "code": "pwd -P", "working_directory": folder});
        let response = column.client().post(request.to_string());
        (response.status, response.json()["stdout"].as_str().unwrap_or_default().to_owned())
    };
    let control = pwd("inside") == (200, "/workspace/inside\n".into());
    for folder in ["out", "out/new", "up", "up/etc", "pipe", "file", "file/x", "loop", "loop/x"] {
        let start = Instant::now();
        let (status, stdout) = pwd(folder);
        let escaped = !(200..500).contains(&status) || !stdout.is_empty() || start.elapsed() > Duration::from_secs(2);
        let name = format!("start in a folder that is none of the workspace's ({folder})");
        table.look(105, &name, escaped.then(|| format!("status {status}, {stdout:?}")), Some(control));
    }
}

/// Workspaces of executions without a session are removed whatever is in them.
fn left_to_remove(table: &mut Table, column: &Column) {
    const MODES: &str =
        "mkdir -p a/b/c d/e; touch a/b/f d/e/f; chmod 000 a/b/f a/b/c a/b a d/e; chmod 500 d; chmod 000 .";
    const NAMES: &str = "mkdir -- -rf $'new\\nline' $'\\xff' \"$(printf '%0255d' 0)\"; touch -- -r '*' '?' ' '; \
                         mkfifo fifo; ln -s / root; ln -s /etc/passwd passwd; ln file hard 2>/dev/null; \
                         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'";
    // A thousand names, again and again: how many new ones it would come to until it is ended is up to the machine.
    const LIVE: &str = "for n in 1 2 3 4; do (trap '' TERM; while :; do name=$((RANDOM % 128)); \
                        mkdir -p d$n/$name; touch d$n/f$name; done) & done; sleep 0.3";
    for (number, name, code) in [
        (112, "have folders of mode 000 stay", MODES),
        (112, "have names and kinds of files stay that are hard to remove", NAMES),
        (114, "go on making files while they are removed", LIVE),
    ] {
        let answer = column.execute(&json!({"language": "shell", "code": format!("{code}\necho done"), "timeout": 10}));
        let ran = answer["stdout"].as_str().is_some_and(|text| text.ends_with("done\n"));
        let harm = match left_after(column) {
            _ if !ran => Some(shortened(&answer)),
            Some(left) => Some(left),
            None => None,
        };
        // It did make them: it came to its end.
        table.contain(number, name, harm, Control::Passed);
    }
}

fn left_after(column: &Column) -> Option<String> {
    let deadline = Instant::now() + patience(REMOVED_WITHIN_S);
    while !column.private_workspaces().is_empty() {
        if Instant::now() > deadline {
            return Some(format!("still there: {:?}", column.private_workspaces()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// A program that swaps a folder for a link outside, again and again, until it is killed and its workspace removed: what
/// the link leads to stays.
fn swapped_while_it_is_removed(table: &mut Table, column: &Column, host: &Host) {
    let outside: PathBuf = host.path("outside");
    let code = format!(
        r#"
import os, sys
for n in range(3):
    if os.fork() == 0: break
folder = "f%d" % os.getpid()
while True:
    try:
        os.makedirs(folder + "/a/b", exist_ok=True)
        open(folder + "/a/b/canary", "w").close()
        os.rename(folder, folder + "-away")
        os.symlink("{}", folder)
        os.unlink(folder)
        os.rename(folder + "-away", folder)
    except OSError: pass
"#,
        outside.display()
    );
    let mut lost = None;
    for _ in 0..2 {
        std::fs::create_dir_all(outside.join("a/b")).expect("a folder");
        std::fs::write(outside.join("a/b/canary"), CANARY).expect("a canary");
        if crate::is_root() {
            // As far as modes go, whoever removes may remove this as well.
            for folder in ["", "a", "a/b"] {
                let path = outside.join(folder);
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
            }
        }
        column.execute(&json!({"language": "python", "code": code, "timeout": 1}));
        lost = lost.or_else(|| left_after(column)).or_else(|| {
            (!unchanged(&outside.join("a/b/canary"))).then(|| "what the link led to was removed".to_owned())
        });
    }
    table.contain(
        114,
        "have the host follow a link while it removes",
        lost,
        Control::None("the race itself can't be won on purpose"),
    );
}
