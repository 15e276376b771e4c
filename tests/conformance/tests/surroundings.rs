//! What a program finds around it: its environment, its input, its workspace and its session.

use conformance::{Service, assert_completed, keys};
use serde_json::{Value, json};

const PRINT_ENVIRONMENT: [(&str, &str); 3] = [
    ("python", "import os\ndef handler(event): return dict(os.environ)"),
    ("javascript", "exports.handler = () => ({ ...process.env });"),
    ("shell", "env -0 | while IFS= read -r -d '' line; do printf '%s\\n' \"${line%%=*}\"; done"),
];

fn names(answer: &Value) -> Vec<String> {
    assert_completed(answer);
    let mut names: Vec<String> = match &answer["return_value"] {
        Value::Null => answer["stdout"].as_str().expect("text").lines().map(str::to_owned).collect(),
        value => keys(value).into_iter().map(str::to_owned).collect(),
    };
    // What a shell sets for its children itself.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()));
    names.sort();
    names
}

#[test]
fn the_environment_is_exactly_the_promised_one() {
    let service = Service::start();
    for (language, code) in PRINT_ENVIRONMENT {
        let answer = service.run(language, code);
        let mut expected = vec!["HOME", "LANG", "PATH", "TMPDIR"];
        if language == "shell" {
            expected.splice(0..0, ["EVENT_FILE", "EVENT_JSON"]);
        }
        assert_eq!(names(&answer), expected, "{language}");
    }
    let answer = service.run(PRINT_ENVIRONMENT[0].0, PRINT_ENVIRONMENT[0].1);
    assert_eq!(answer["return_value"]["HOME"], "/tmp");
    assert_eq!(answer["return_value"]["TMPDIR"], "/tmp");
}

#[test]
fn the_services_environment_is_not_the_programs() {
    let service = Service::with(&[
        ("CANARY_OF_THE_TEST", "canary-value-1"),
        ("EXECUTOR_API_TOKEN", "canary-value-2"),
        ("INTERNAL_API_TOKEN", "canary-value-3"),
    ]);
    for (language, code) in [
        ("shell", "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'"),
        ("python", "import os\nprint(os.environ)"),
        ("javascript", "console.log(process.env)"),
    ] {
        let answer = service.run(language, code);
        assert!(!answer.to_string().contains("canary-value"), "{answer}");
    }
}

#[test]
fn env_vars_are_visible_to_the_program() {
    let service = Service::start();
    let value = "with 'quotes' = \"and\" $HOME\nlines ü";
    for (language, code) in [
        ("python", "import os\ndef handler(event): return [os.environ['OWN_1'], os.environ['_empty']]"),
        ("javascript", "exports.handler = () => [process.env.OWN_1, process.env._empty];"),
        ("shell", "printf %s \"$OWN_1\"; [ \"${_empty-unset}\" = '' ] || exit 1"),
    ] {
        let answer = service.execute(json!({
            "language": language, "code": code, "env_vars": {"OWN_1": value, "_empty": ""}
        }));
        assert_completed(&answer);
        if language == "shell" {
            assert_eq!(answer["stdout"], value);
        } else {
            assert_eq!(answer["return_value"], json!([value, ""]), "{language}");
        }
    }
}

#[test]
fn variables_that_an_interpreter_reads_at_its_start_take_effect() {
    let service = Service::start();
    let run = |language: &str, code: &str, variables: Value| {
        let answer = service.execute(json!({"language": language, "code": code, "env_vars": variables}));
        assert_completed(&answer);
        answer["stdout"].as_str().expect("text").trim().to_owned()
    };
    let hash = || run("python", "print(hash('seeded'))", json!({"PYTHONHASHSEED": "1"}));
    assert_eq!(hash(), hash());
    let zone = "import time\nprint(time.tzname[0])";
    assert_eq!(run("python", zone, json!({"TZ": "OWN-3"})), "OWN");
    let limit = "console.log(Error.stackTraceLimit)";
    let options = json!({"NODE_OPTIONS": "--stack-trace-limit=33"});
    assert_eq!(run("javascript", limit, options), "33");
    assert_eq!(run("shell", "date -d @0 +%H", json!({"TZ": "OWN-3"})), "03");
}

#[test]
fn env_vars_reach_nothing_but_the_program() {
    let service = Service::start();
    for (language, code) in [("python", "print('fine')"), ("javascript", "console.log('fine')"), ("shell", "echo fine")]
    {
        let answer = service.execute(json!({
            "language": language, "code": code,
            "env_vars": {"LD_PRELOAD": "/workspace/none.so", "LD_LIBRARY_PATH": "/workspace",
                "PATH": "/nowhere", "HOME": "/elsewhere", "BASH_ENV": "/workspace/none"}
        }));
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "fine\n", "{language}");
    }
    service.assert_alive();
}

#[test]
fn stdin_is_what_was_given_and_else_empty() {
    let service = Service::start();
    let text = "line 1\nü €\n\0no newline at the end";
    let long = "0123456789".repeat(200_000);
    for (language, code) in [
        ("python", "import sys\nsys.stdout.write(sys.stdin.read() + '|')"),
        ("javascript", "process.stdout.write(require('fs').readFileSync(0, 'utf8') + '|')"),
        ("shell", "cat; printf '|'"),
    ] {
        for stdin in [text, "", &long] {
            let answer = service.execute(json!({"language": language, "code": code, "stdin": stdin}));
            assert_completed(&answer);
            assert_eq!(answer["stdout"], format!("{stdin}|"), "{language}");
        }
        let answer = service.run(language, code);
        assert_eq!(answer["stdout"], "|", "{language}");
    }
}

#[test]
fn stdin_that_nobody_reads_does_no_harm() {
    let service = Service::start();
    let answer = service.execute(json!({
        "language": "shell", "code": "echo done", "stdin": "x".repeat(5_000_000)
    }));
    assert_completed(&answer);
    assert_eq!(answer["stdout"], "done\n");
}

const PRINT_FOLDER: [(&str, &str); 3] =
    [("python", "import os\nprint(os.getcwd())"), ("javascript", "console.log(process.cwd())"), ("shell", "pwd")];

#[test]
fn the_working_directory_is_the_workspace_or_a_folder_in_it() {
    let service = Service::start();
    for (language, code) in PRINT_FOLDER {
        let answer = service.run(language, code);
        assert_eq!(answer["stdout"], "/workspace\n", "{language}");
        for (folder, expected) in
            [("data/in", "/workspace/data/in\n"), (".", "/workspace\n"), ("mit leer ü/", "/workspace/mit leer ü\n")]
        {
            let answer = service.execute(json!({
                "language": language, "code": code, "working_directory": folder
            }));
            assert_completed(&answer);
            assert_eq!(answer["stdout"], expected, "{language}");
        }
    }
}

#[test]
fn a_working_directory_can_not_lead_out_over_a_link() {
    let service = Service::start();
    let session = format!("session_link_{}", std::process::id());
    let made = service.execute(json!({
        "language": "shell", "session_id": session, "code": "ln -s / out; ln -s /etc etc"
    }));
    assert_completed(&made);
    for folder in ["out", "etc", "out/tmp"] {
        let response = service.post(
            json!({"language": "shell", "session_id": session, "code": "pwd -P",
                "working_directory": folder})
            .to_string(),
        );
        let text = response.text();
        assert!(response.status == 400 || text.contains("\"status\":\"failed\""), "{text}");
    }
    service.assert_alive();
}

#[test]
fn files_stay_within_their_session() {
    let service = Service::start();
    let unique = std::process::id();
    let list = |session: Option<&str>| {
        let mut request = json!({"language": "shell", "code": "cat note 2>/dev/null; ls -A"});
        if let Some(session) = session {
            request["session_id"] = json!(format!("{session}_{unique}"));
        }
        let answer = service.execute(request);
        assert_completed(&answer);
        answer["stdout"].as_str().expect("text").to_owned()
    };
    let write = |language: &str, code: &str| {
        assert_completed(&service.execute(json!({
            "language": language, "code": code, "session_id": format!("first_{unique}")
        })));
    };
    assert_eq!(list(Some("first")), "");
    write("python", "open('note', 'w').write('one\\n')");
    assert_eq!(list(Some("first")), "one\nnote\n");
    write("javascript", "require('fs').appendFileSync('note', 'two\\n')");
    assert_eq!(list(Some("first")), "one\ntwo\nnote\n");
    assert_eq!(list(Some("second")), "");
    assert_eq!(list(Some("FIRST")), "");
    assert_eq!(list(None), "");
}

#[test]
fn a_session_less_workspace_is_removed_afterwards() {
    let service = Service::start();
    let write = "mkdir -p a/b && echo x > a/b/c && chmod 000 a/b a && ls -A";
    let answer = service.run("shell", write);
    assert_completed(&answer);
    assert_eq!(answer["stdout"], "a\n");
    assert_eq!(service.run("shell", "ls -A")["stdout"], "");
    if service.is_ours() {
        conformance::wait_until("the workspace root is empty", 5, || {
            let left: Vec<_> = walk(&service.path("workspaces"));
            !left.iter().any(|name| name == "a" || name == "c")
        });
    }
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(walk(&entry.path()));
        }
    }
    names
}

#[test]
fn private_folders_stay_with_their_execution() {
    let service = Service::start();
    let session = format!("session_private_{}", std::process::id());
    let code = "ls /tmp/left /dev/shm/left; echo x > /tmp/left && echo x > /dev/shm/left && echo written";
    for _ in 0..2 {
        let answer = service.execute(json!({"language": "shell", "code": code, "session_id": session}));
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "written\n");
    }
}

#[test]
fn no_files_of_ours_are_in_the_workspace() {
    let service = Service::start();
    for (language, code) in [
        ("python", "import os\nprint(os.listdir('/workspace'))"),
        ("python", "import os\ndef handler(event): print(os.listdir('/workspace'))"),
        ("javascript", "console.log('[' + require('fs').readdirSync('/workspace') + ']')"),
        (
            "javascript",
            "import fs from 'fs'; export const handler = () => console.log('[' + fs.readdirSync('/workspace') + ']');",
        ),
        ("shell", "echo \"[$(ls -A /workspace)]\""),
    ] {
        let session = format!("session_clean_{language}_{}", std::process::id());
        for _ in 0..2 {
            let answer = service.execute(json!({
                "language": language, "code": code, "session_id": session, "event": {"a": 1},
                "stdin": "x"
            }));
            assert_completed(&answer);
            assert_eq!(answer["stdout"], "[]\n", "{code}");
        }
    }
}

#[test]
fn session_folders_are_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = conformance::Home::new();
    let root = home.path("workspaces");
    std::fs::create_dir(&root).expect("the workspace root");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).expect("a mode");
    let service = Service::at(home, &[]);
    assert_completed(&service.execute(json!({
        "language": "shell", "code": "echo x > kept", "session_id": "session_mode"
    })));
    let kept = find(&root, "kept").expect("the session's file");
    let closed = kept
        .ancestors()
        .skip(1)
        .take_while(|folder| *folder != root)
        .any(|folder| folder.metadata().expect("its mode").permissions().mode() & 0o777 == 0o700);
    assert!(closed, "no 0700 folder above {}", kept.display());
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if let Some(found) = find(&entry.path(), name) {
            return Some(found);
        }
    }
    None
}

#[test]
fn there_is_no_network_but_its_own_loopback() {
    let service = Service::start();
    let port = service.address().rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(80);
    let code = format!(
        r#"
import socket
def attempt(address):
    try:
        socket.create_connection(address, 2).close()
        return "connected"
    except OSError:
        return "refused"
server = socket.create_server(("127.0.0.1", 0))
print(attempt(server.getsockname()), attempt(("127.0.0.1", {port})), attempt(("1.1.1.1", 443)))
"#
    );
    let answer = service.run("python", &code);
    assert_completed(&answer);
    assert_eq!(answer["stdout"], "connected refused refused\n");
}
