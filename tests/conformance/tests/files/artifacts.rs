//! What an execution made or changed.

use crate::{artifacts, shell, unique, url};
use conformance::{Service, assert_completed, keys};
use serde_json::json;

#[test]
fn an_answer_names_what_was_made_and_nothing_else() {
    let service = Service::start();
    let code = r#"
import os, json, socket
os.makedirs("output/deep"); os.makedirs(".cache"); os.makedirs("__pycache__")
open("output/result.csv", "w").write("a,b\n1,2\n")
open("output/deep/plot.png", "wb").write(b"\x89PNG\r\n\x1a\n" + bytes(20))
open("report.html", "w").write("<html><p>x</p>")
open(b"odd-\xff", "w").write("odd")
for hidden in (".hidden", ".cache/x", "__pycache__/x.pyc", "module.pyc", "x.tmp"): open(hidden, "w")
os.symlink("/etc/passwd", "link"); os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
"#;
    let answer = service.run("python", code);
    assert_completed(&answer);
    let all = answer["artifacts"].as_array().expect("artifacts");
    assert_eq!(artifacts(&answer), ["odd-\u{fffd}", "output/deep/plot.png", "output/result.csv", "report.html"]);
    assert!(answer.get("artifacts_truncated").is_none());
    assert_eq!(all[0]["path_encoded"], "odd-%FF");
    let csv = &all[2];
    assert_eq!(keys(csv), ["checksum", "created_at", "mime_type", "path", "size", "type"]);
    assert_eq!((&csv["size"], &csv["mime_type"], &csv["type"]), (&json!(8), &json!("text/csv"), &json!("output")));
    let sum = "sha256:492d5ea496056f1a6a6592241032fab764c321596317930b4fa0e1e8bc3b7470";
    assert_eq!(csv["checksum"], sum, "printf 'a,b\\n1,2\\n' | sha256sum");
    assert!(csv["created_at"].as_str().is_some_and(|time| time.ends_with('Z') && time.starts_with("20")));
    assert_eq!((&all[1]["mime_type"], &all[3]["mime_type"]), (&json!("image/png"), &json!("text/html")));
    // An execution that makes nothing, and one in another language, and one that fails.
    assert_eq!(service.run("shell", "echo nothing")["artifacts"], json!([]));
    let script = "require('fs').writeFileSync('data.json', '{}'); process.exit(3)";
    let failed = service.run("javascript", script);
    assert_eq!(
        (artifacts(&failed), &failed["artifacts"][0]["mime_type"]),
        (vec!["data.json"], &json!("application/json"))
    );
}

#[test]
fn what_was_there_before_is_no_artifact() {
    let service = Service::start();
    let session = unique("before");
    service.request("PUT", &url(&session, "uploaded.txt"), &[], b"text");
    let first = shell(&service, &session, "echo 1 > one; echo 2 > two; echo 3 > three");
    assert_eq!(artifacts(&first), ["one", "three", "two"]);
    let nothing = shell(&service, &session, "cat one two uploaded.txt; ls -l");
    assert_eq!(nothing["artifacts"], json!([]));
    // Changed in place, replaced, given another name, with the time set back, removed again.
    let code =
        "echo 1 >> one; echo x > .new; mv .new two; mv three four; echo x > gone; rm gone; touch -d 2001-01-01 one";
    assert_eq!(artifacts(&shell(&service, &session, code)), ["four", "one", "two"]);
    assert_eq!(shell(&service, &session, "true")["artifacts"], json!([]));
    let mapped = "import mmap\nf = open('one', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0] = 65";
    let answer = service.execute(json!({"language": "python", "code": mapped, "session_id": session}));
    assert_eq!(artifacts(&answer), ["one"]);
}

#[test]
fn in_a_large_workspace_too_it_is_what_changed() {
    let service = Service::start();
    let session = unique("large");
    shell(&service, &session, "mkdir -p a/b c; for n in $(seq 400); do echo $n > a/b/$n; done; echo x > c/x");
    // From the second on it is watched.
    for round in 0..4 {
        assert_eq!(shell(&service, &session, "cat a/b/7 > /dev/null")["artifacts"], json!([]), "{round}");
        assert_eq!(
            artifacts(&shell(&service, &session, "echo y >> a/b/7; echo z > c/new")),
            ["a/b/7", "c/new"],
            "{round}"
        );
        assert_eq!(
            artifacts(&shell(&service, &session, "mkdir -p e/f; echo z > e/f/g; mv c/x c/y; mv c/y c/x")),
            ["c/x", "e/f/g"],
            "{round}"
        );
        let mapped = "import mmap\nf = open('a/b/9', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[0] = 65";
        let answer = service.execute(json!({"language": "python", "code": mapped, "session_id": session}));
        assert_eq!(artifacts(&answer), ["a/b/9"], "{round}");
        shell(&service, &session, "rm -r e c/new");
    }
}

#[test]
fn what_comes_of_a_large_mess_is_bounded() {
    let service = Service::start();
    let many = service.run("shell", "for n in $(seq 1500); do : > $n; done");
    assert_completed(&many);
    assert_eq!((artifacts(&many).len(), &many["artifacts_truncated"]), (1000, &json!(true)));
    let code = "import os\nopen('sparse', 'w').truncate(90 << 20)\nfor n in range(300):\n os.mkdir('d'); os.chdir('d')\nopen('deep', 'w')";
    let deep = service.run("python", code);
    assert_completed(&deep);
    assert_eq!((artifacts(&deep), &deep["artifacts_truncated"]), (vec!["sparse"], &json!(true)));
    assert!(deep["artifacts"][0]["checksum"].is_string());
}

#[test]
fn a_program_that_was_stopped_leaves_its_artifacts() {
    let service = Service::start();
    let answer =
        service.execute(json!({"language": "shell", "code": "echo partial > log.txt; sleep 60", "timeout": 1}));
    assert_eq!((&answer["status"], artifacts(&answer)), (&json!("timeout"), vec!["log.txt"]));
}
