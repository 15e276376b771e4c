//! One answer of every kind of every operation, judged by the document: what is good and each thing that can be wrong. What is
//! declared and can't be brought about here is named, with the reason.

use crate::document::Document;
use crate::index::Index;
use conformance::{ControlPlane, Response, Service, assert_failed, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;

/// Answers that no test here brings about.
const NOT_TRIED: [(&str, &str); 10] = [
    ("* 500", "a fault of the service's own; its shape is that of every problem"),
    ("sync_packages 503", "more wait for an installer than may, or the service goes down: refused as executions are"),
    ("cancel 503", "the service goes down: durability.rs"),
    ("execution 503", "the service goes down: durability.rs"),
    ("cancel 507", "the disk is full when an execution is looked for: read in the same place as for `execute`"),
    ("execution 507", "as above"),
    ("executions 507", "as above"),
    ("sync_packages 409", "the session is removed while packages are installed: packages/sessions.rs"),
    ("sync_packages 507", "packages beyond their room: packages/bounds.rs"),
    ("remove_session 409", "what goes on in a session does not end: files/sessions.rs"),
];

/// Operations with a body that may not come.
const STALLED: [(&str, &str); 3] =
    [("execute", "/execute"), ("sync_packages", "/internal/session-config/sync"), ("upload", "/sessions/slow/files/a")];

struct Judged<'a> {
    service: &'a Service,
    document: &'a Document,
}

impl Judged<'_> {
    /// One exchange; its status must be this one, and what the document says of it must be true.
    #[track_caller]
    fn ask(&self, id: &str, status: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let (_, method, _) = self.document.operations().into_iter().find(|one| one.0 == id).expect("an operation");
        let response = self.service.request(&method, path, headers, body);
        assert_eq!(response.status, status, "{id} {path}: {}", String::from_utf8_lossy(&response.body));
        self.document.judge(id, &response);
        response
    }

    #[track_caller]
    fn get(&self, id: &str, status: u16, path: &str) -> Response {
        self.ask(id, status, path, &[], b"")
    }

    #[track_caller]
    fn execute(&self, status: u16, request: &Value) -> Value {
        self.ask("execute", status, "/execute", &[], request.to_string().as_bytes()).json()
    }

    /// A body that does not come.
    #[track_caller]
    fn stall(&self, id: &str, path: &str) {
        let (_, method, _) = self.document.operations().into_iter().find(|one| one.0 == id).expect("an operation");
        let bytes = self.service.request_bytes(&method, path, &[("Content-Length", "100")], b"{");
        let mut stream = self.service.connect();
        stream.write_all(&bytes).expect("a part");
        let response = conformance::read_response(&stream).expect("an answer");
        assert_eq!(response.status, 408);
        self.document.judge(id, &response);
    }
}

#[test]
fn every_answer_is_as_the_document_says() {
    let index = Index::new();
    index.add_module("six", "1.16.0");
    let service = index.service(&[
        ("EXECUTOR_API_TOKEN", "canary-token"),
        ("MAX_BODY_BYTES", "3000000"),
        ("MAX_DISK_MB", "1"),
        ("MAX_FILE_SIZE_MB", "2"),
        ("MAX_CONCURRENT_EXECUTIONS", "1"),
        ("MAX_QUEUED_EXECUTIONS", "1"),
    ]);
    let document = Document::of(&service);
    let judged = Judged { service: &service, document: &document };
    gate(&judged);
    about(&judged);
    std::thread::scope(|scope| {
        scope.spawn(|| stalls(&service));
        executions(&judged);
        files(&judged);
        sessions(&judged);
        packages(&judged);
    });
    std::fs::remove_dir_all(service.path("workspaces")).expect("the workspace root goes");
    wait_until("/health is unhealthy", 15, || service.get("/health").status == 503);
    judged.get("health", 503, "/health");

    let mut unseen = document.unseen();
    unseen.retain(|one| !STALLED.iter().any(|(id, _)| *one == format!("{id} 408")));
    let named: BTreeSet<String> = NOT_TRIED.iter().map(|(one, _)| (*one).to_owned()).collect();
    let missing: Vec<&String> = unseen.iter().filter(|one| !one.ends_with(" 500") && !named.contains(*one)).collect();
    assert!(missing.is_empty(), "declared and never seen: {missing:?}");
    let seen: Vec<&String> = named.iter().filter(|one| !one.starts_with('*') && !unseen.contains(*one)).collect();
    assert!(seen.is_empty(), "said not to be tried, and seen: {seen:?}");
}

/// Those who get no further than the gate.
fn gate(judged: &Judged<'_>) {
    for (id, _, path) in judged.document.operations() {
        let path = path.replace("{id}", "none").replace("{path}", "none");
        if id != "health" {
            judged.ask(&id, 401, &path, &[("Authorization", "Bearer another")], b"");
        }
        judged.ask(&id, 403, &path, &[("Origin", "http://evil.example")], b"");
    }
}

fn about(judged: &Judged<'_>) {
    for (id, path) in
        [("index", "/"), ("health", "/health"), ("info", "/info"), ("metrics", "/metrics"), ("docs", "/docs")]
    {
        judged.get(id, 200, path);
    }
    judged.get("openapi", 200, "/openapi.json");
}

fn executions(judged: &Judged<'_>) {
    let shell = |code: &str| json!({"language": "shell", "code": code});
    let made = judged
        .execute(200, &json!({"language": "shell", "code": "echo x > made; echo '[1]' >&3", "execution_id": "one"}));
    assert_eq!(made["artifacts"][0]["path"], "made");
    let python = json!({"language": "python", "code": "def handler(event):\n    raise KeyError('x')"});
    assert_failed(&judged.execute(200, &python), "exception");
    assert_failed(&judged.execute(200, &shell("kill -SEGV $$")), "signal");
    assert_failed(&judged.execute(200, &json!({"language": "shell", "code": "sleep 9", "timeout": 1})), "timeout");
    assert_failed(&judged.execute(200, &shell("exit 3")), "exit");
    let odd = judged.execute(200, &shell("printf x > $'a\\xff'"));
    assert!(odd["artifacts"][0]["path_encoded"].is_string(), "{odd}");

    judged.execute(400, &json!({"language": "ruby", "extra": 1}));
    judged.execute(409, &json!({"language": "shell", "code": "echo other", "execution_id": "one"}));
    judged.ask("execute", 413, "/execute", &[], &vec![b' '; 3_000_001]);
    judged.ask("execute", 415, "/execute", &[("Content-Encoding", "gzip")], b"{}");
    let large = "A".repeat(2_000_000);
    judged.execute(507, &json!({"language": "shell", "code": ":", "files": {"large": large}}));

    let later = |id: &str, code: &str| {
        let body = json!({"language": "shell", "code": code, "execution_id": id}).to_string();
        judged.ask("execute", 202, "/execute", &[("Prefer", "respond-async")], body.as_bytes());
    };
    later("runs", "sleep 60");
    wait_until("it runs", 10, || judged.service.get("/executions/runs").json()["status"] == "running");
    later("waits", ":");
    judged.execute(503, &shell(":"));
    judged.get("info", 200, "/info");
    for (id, status) in [("runs", "running"), ("waits", "pending")] {
        assert_eq!(judged.get("execution", 200, &format!("/executions/{id}")).json()["status"], status);
    }
    judged.get("executions", 200, "/executions?limit=2");
    judged.get("executions", 200, "/executions");
    judged.get("executions", 400, "/executions?limit=none");
    judged.get("cancel", 200, "/executions/runs");
    judged.get("cancel", 404, "/executions/none");
    judged.get("cancel", 404, "/executions/%ff");
    judged.get("cancel", 409, "/executions/one");
    judged.get("execution", 200, "/executions/one");
    judged.get("execution", 200, "/executions/runs");
    judged.get("execution", 404, "/executions/none");
    judged.get("execution", 404, "/executions/%ff");
}

fn files(judged: &Judged<'_>) {
    let file = "/sessions/files/files/folder/a.txt";
    judged.ask("upload", 201, file, &[], b"0123456789");
    let tag = judged.ask("upload", 204, file, &[], b"0123456789").header("etag").expect("a tag").to_owned();
    judged.ask("upload", 400, "/sessions/files/files/a/%2e%2e/b", &[], b"");
    judged.ask("upload", 409, "/sessions/files/files/folder", &[], b"");
    judged.ask("upload", 412, file, &[("If-None-Match", "*")], b"");
    judged.ask("upload", 415, file, &[("Content-Encoding", "gzip")], b"");
    judged.ask("upload", 413, "/sessions/files/files/large", &[], &vec![0; 2_100_000]);
    judged.ask("upload", 507, "/sessions/files/files/large", &[], &vec![0; 2_000_000]);
    judged.execute(
        200,
        &json!({"language": "shell", "session_id": "files", "code": "ln -s folder link; printf x > $'a\\xff'"}),
    );
    judged.ask("upload", 404, "/sessions/files/files/link/b", &[], b"");
    judged.get("files", 200, "/sessions/files/files?limit=1");
    assert!(judged.get("files", 200, "/sessions/files/files").text().contains("path_encoded"));
    judged.get("files", 400, "/sessions/files/files?limit=0");
    judged.get("files", 404, "/sessions/none/files");
    judged.get("download", 200, file);
    judged.ask("download", 206, file, &[("Range", "bytes=2-4")], b"");
    judged.ask("download", 304, file, &[("If-None-Match", &tag)], b"");
    judged.get("download", 400, "/sessions/files/files/a/%2e%2e/b");
    judged.get("download", 404, "/sessions/files/files/none");
    judged.ask("download", 412, file, &[("If-Match", "\"another\"")], b"");
    judged.ask("download", 416, file, &[("Range", "bytes=99-")], b"");
    judged.ask("remove_file", 400, "/sessions/files/files/a/%2e%2e/b", &[], b"");
    judged.ask("remove_file", 404, "/sessions/files/files/none", &[], b"");
    judged.ask("remove_file", 409, "/sessions/files/files/folder", &[], b"");
    judged.ask("remove_file", 412, file, &[("If-Match", "\"another\"")], b"");
    judged.ask("remove_file", 204, file, &[], b"");
}

fn sessions(judged: &Judged<'_>) {
    judged.service.request("PUT", "/sessions/another/files/a", &[], b"");
    judged.get("sessions", 200, "/sessions?limit=1");
    judged.get("sessions", 200, "/sessions");
    judged.get("sessions", 400, "/sessions?limit=0");
    judged.ask("remove_session", 204, "/sessions/files", &[], b"");
    judged.ask("remove_session", 404, "/sessions/files", &[], b"");
    judged.ask("remove_session", 400, "/sessions/-x", &[], b"");
}

fn packages(judged: &Judged<'_>) {
    let path = "/internal/session-config/sync";
    let ask = |status: u16, dependencies: Value| {
        let body = json!({"session_id": "packages", "dependencies": dependencies}).to_string();
        judged.ask("sync_packages", status, path, &[], body.as_bytes()).json()
    };
    assert_eq!(ask(200, json!(["six==1.16.0"]))["installed_dependencies"][0]["name"], "six");
    ask(200, json!([]));
    ask(400, json!(["six @ file:///etc"]));
    ask(422, json!(["none-such==1.0"]));
    judged.ask("sync_packages", 413, path, &[], &vec![b' '; 3_000_001]);
    judged.ask("sync_packages", 415, path, &[("Content-Encoding", "gzip")], b"{}");
    judged.get("info", 200, "/info");
}

/// Each waits for ten seconds, all of them at once, each with a document of its own.
fn stalls(service: &Service) {
    std::thread::scope(|scope| {
        for (id, path) in STALLED {
            scope.spawn(move || {
                let document = Document::of(service);
                Judged { service, document: &document }.stall(id, path);
            });
        }
    });
}

#[test]
fn what_the_control_plane_expects_is_in_the_document_too() {
    let plane = ControlPlane::start();
    let service = Service::with(&[("EXECUTE_MODE", "async"), ("CONTROL_PLANE_URL", &plane.url())]);
    let document = Document::of(&service);
    let judged = Judged { service: &service, document: &document };
    let taken = judged.execute(200, &json!({"language": "shell", "code": ":", "execution_id": "taken"}));
    assert_eq!(taken["status"], "PENDING");
    plane.result_of("taken", 10);
    assert!(judged.get("info", 200, "/info").json()["control_plane"].is_object());
}
