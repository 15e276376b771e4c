//! What a program leaves for the host's reader: links, special files, names, trees; and requests that name what they should not.
//!
//! The service may be root here, and an attack that gets through does what it says. So whatever is written to or removed leads to
//! the suite's own canaries alone, by whichever way; files of the machine are at most read.

use crate::shortened;
use conformance::{Response, assert_completed};
use security::{Column, Control, Host, Table, is_root};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// So long may the reader take over anything here; one that blocks takes for ever.
const PROMPT: Duration = Duration::from_secs(5);
pub(crate) const CANARY: &str = "a file of the host\n";

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    links(table, column, host);
    hard_links(table, column, host);
    special_files(table, column);
    names(table, column);
    trees(table, column);
    growing(table, column);
    archive(table, column);
    urls(table, column, host);
}

pub(crate) fn url(session: &str, path: &str) -> String {
    format!("/sessions/{session}/files/{path}")
}

pub(crate) fn send(column: &Column, method: &str, url: &str, body: &[u8]) -> Response {
    column.client().request(method, url, &[], body)
}

#[track_caller]
fn plant(column: &Column, session: &str, language: &str, code: &str) -> Value {
    let answer = column.execute(&json!({"language": language, "session_id": session, "code": code}));
    assert_completed(&answer);
    answer
}

pub(crate) fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Links that lead out, by every way in.
fn links(table: &mut Table, column: &Column, host: &Host) {
    let (session, folder) = ("outward", host.folder());
    let code = format!(
        "ln -s {0}/canary file; ln -s {0} folder; ln -s / root; ln -s .. up; mkdir in; ln -s ../../.. in/up; \
         ln -s /proc/self/root proc; ln -s loop loop; ln -s ping pong; ln -s pong ping; ln -s . here; echo inside > inside",
        folder.display()
    );
    let answer = plant(column, session, "shell", &code);
    let canary = format!("{}/canary", folder.display().to_string().trim_start_matches('/'));
    let paths = ["file", "folder/canary", "up/x", "loop", "ping", "loop/x", "here/inside"].map(str::to_owned);
    let by_root = ["root", "proc", "in/up"].map(|way| format!("{way}/{canary}"));
    let paths = [&paths[..], &by_root].concat();
    let workspace = column.workspace(session);
    // That whoever goes by the path gets there.
    let naive = |path: &str| std::fs::read(workspace.join(path)).is_ok();
    let control = ["file", "folder/canary", "here/inside", &by_root[0], &by_root[1]].into_iter().all(naive);
    for (what, method) in [("read", "GET"), ("overwrite", "PUT"), ("remove", "DELETE")] {
        let reached = paths.iter().find_map(|path| {
            let response = send(column, method, &url(session, path), b"overwritten");
            (response.status != 404).then(|| format!("{method} {path}: {}", response.status))
        });
        let harm = reached.or_else(|| (!unchanged(host)).then(|| "the file of the host is not what it was".into()));
        table.look(103, &format!("have the host {what} by a link"), harm, Some(control));
    }
    let listed = send(column, "GET", &format!("/sessions/{session}/files"), b"");
    let names = listed.json()["files"]
        .as_array()
        .map(|files| files.iter().map(|file| file["path"].clone()).collect::<Vec<_>>());
    let harm = (names != Some(vec![json!("inside")])).then(|| shortened(&listed.json()));
    table.look(103, "have the list follow a link", harm, Some(control));
    let told = (answer["artifacts"].as_array().map(Vec::len) != Some(1)).then(|| shortened(&answer));
    table.look(103, "have a link collected as an artifact", told, Some(control));
    let wanted =
        column.execute(&json!({"language": "shell", "code": ":", "session_id": session, "outputs": ["**/*", "*"]}));
    let told = (wanted["outputs"] != json!({"inside": "aW5zaWRlCg=="})).then(|| shortened(&wanted));
    table.look(103, "have a link sent back as an output", told, Some(control));
    let start = Instant::now();
    let ended = listed.status == 200 && send(column, "GET", &url(session, "loop"), b"").status == 404;
    let looped = (!ended || start.elapsed() > PROMPT).then(|| "it took too long".to_owned());
    let is_loop = std::fs::read(workspace.join("loop")).is_err_and(|error| error.raw_os_error() == Some(40));
    table.look(111, "send the host around a loop of links", looped, Some(is_loop));
}

fn unchanged(host: &Host) -> bool {
    std::fs::read_to_string(host.path("canary")).is_ok_and(|text| text == CANARY)
}

/// A file of somebody else's under a second name in the workspace, which only root could have put there; and the program's own.
fn hard_links(table: &mut Table, column: &Column, host: &Host) {
    let session = "hard";
    plant(column, session, "shell", "echo one > own; ln own second");
    let put = send(column, "PUT", &url(session, "second"), b"two");
    let own = plant(column, session, "shell", "cat own; echo =; cat second");
    let harm = (put.status != 204 || own["stdout"] != "one\n=\ntwo").then(|| shortened(&own));
    table.look(106, "have an upload written through a second name", harm, Some(true));
    const NAME: &str = "have the owner of a hard link changed";
    if !is_root() {
        return table.skip(106, NAME, "only root can make one");
    }
    let victim = host.path("victim");
    std::fs::write(&victim, CANARY).expect("a file");
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let workspace = column.workspace(session);
    for name in ["a", "b", "c"] {
        std::fs::hard_link(&victim, workspace.join(name)).expect("a second name");
    }
    send(column, "PUT", &url(session, "a"), b"x");
    send(column, "DELETE", &url(session, "b"), b"");
    column.execute(&json!({"language": "shell", "code": ":", "session_id": session, "files": {"c": "eA=="}}));
    let state = std::fs::metadata(&victim).expect("the file");
    let is_same = (state.uid(), state.gid(), state.mode() & 0o777) == (0, 0, 0o600)
        && std::fs::read_to_string(&victim).is_ok_and(|text| text == CANARY);
    let harm = (!is_same).then(|| format!("uid {}, mode {:o}", state.uid(), state.mode()));
    // That whoever gives it an owner by its name gives it to the file.
    std::fs::hard_link(&victim, workspace.join("d")).expect("a second name");
    std::os::unix::fs::chown(workspace.join("d"), Some(65_534), None).expect("an owner");
    let control = std::fs::metadata(&victim).is_ok_and(|state| state.uid() == 65_534);
    table.look(106, NAME, harm, Some(control));
}

/// What blocks or does something when it is opened.
fn special_files(table: &mut Table, column: &Column) {
    let session = "special";
    let code = "import os, socket\nos.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('socket'); os.mkdir('d'); os.mkfifo('d/fifo')\nopen('file', 'w').write('x')";
    let start = Instant::now();
    let answer = plant(column, session, "python", code);
    let workspace = column.workspace(session);
    if is_root() {
        let made = std::process::Command::new("mknod").arg(workspace.join("null")).args(["c", "1", "3"]).status();
        assert!(made.is_ok_and(|status| status.success()), "a device can't be made");
    }
    let mut reached: Vec<String> = ["fifo", "socket", "null", "d/fifo", "d"]
        .iter()
        .flat_map(|path| ["GET", "DELETE", "PUT"].map(|method| (method, path)))
        .filter_map(|(method, path)| {
            let status = send(column, method, &url(session, path), b"x").status;
            // A folder is told as one to who wants to change it, and there is no device where nobody could make one.
            let expected = match (method, *path) {
                ("GET", _) => 404,
                (_, "d") => 409,
                ("PUT", "null") if !is_root() => 201,
                ("DELETE", "null") | (_, _) => 404,
            };
            (status != expected).then(|| format!("{method} {path}: {status}"))
        })
        .collect();
    let again = column.execute(&json!({"language": "shell", "code": ":", "session_id": session, "outputs": ["**/*", "*"], "files": {"d/file": "eA=="}}));
    let listed = send(column, "GET", &format!("/sessions/{session}/files"), b"").json();
    if again["outputs"].get("file").is_none() || listed["files"].as_array().is_none_or(|files| files.len() > 3) {
        reached.push(shortened(&again));
    }
    if answer["artifacts"].as_array().map(Vec::len) != Some(1) || start.elapsed() > PROMPT {
        reached.push(format!("after {:?}: {}", start.elapsed(), shortened(&answer)));
    }
    let harm = (!reached.is_empty()).then(|| reached.join("; "));
    table.look(107, "have the host block on a FIFO, a socket, a device", harm, Some(blocks(&workspace.join("fifo"))));
}

/// Whether one who just opens this does not come back until somebody writes to it.
fn blocks(fifo: &Path) -> bool {
    let path = fifo.to_owned();
    let reader = std::thread::spawn(move || std::fs::read(path));
    std::thread::sleep(Duration::from_millis(300));
    let blocked = !reader.is_finished();
    let _ = std::fs::OpenOptions::new().write(true).open(fifo);
    let _ = reader.join();
    blocked
}

/// Names that break a list, a header, a log.
fn names(table: &mut Table, column: &Column) {
    let session = "names";
    let code = r#"
names = [b"a\nb", b"\r\nSet-Cookie: x=y", b"\xff\xfe", b'"quoted"', b"\x1b[31mred", b"back\\slash", b"\xe2\x80\xae.exe", b"%2e%2e%2f", b"?#&", b" ", b"\x7f"]
for name in names: open(name, "wb").write(name)
print(len(names))
"#;
    let answer = plant(column, session, "python", code);
    let listed = send(column, "GET", &format!("/sessions/{session}/files"), b"").json();
    let files = listed["files"].as_array().cloned().unwrap_or_default();
    let mut problems: Vec<String> = Vec::new();
    for file in &files {
        let path = file["path"].as_str().unwrap_or_default();
        let way = match file["path_encoded"].as_str() {
            Some(encoded) => encoded.to_owned(),
            None => path.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        };
        let got = send(column, "GET", &url(session, &way), b"");
        // The file holds its own name.
        let is_right = got.status == 200 && (file["path_encoded"].is_string() || got.body == path.as_bytes());
        if !is_right || got.header("set-cookie").is_some() {
            problems.push(format!("{path:?}: {} {:?}", got.status, got.headers));
        }
    }
    if files.len() != 11 || answer["artifacts"].as_array().map(Vec::len) != Some(11) {
        problems.push(shortened(&listed));
    }
    let made = std::fs::read_dir(column.workspace(session)).map_or(0, Iterator::count);
    let control = if made == 11 { Control::Passed } else { Control::Failed(format!("{made} names")) };
    let harm = (!problems.is_empty()).then(|| problems.join("; "));
    table.contain(108, "break the list of files by names", harm.clone(), control.clone());
    table.contain(128, "put a header into a download by a file's name", harm, control);
}

/// Trees that no path reaches the end of, long names, very many files.
fn trees(table: &mut Table, column: &Column) {
    let session = "trees";
    let code = r#"
import os
os.mkdir("many"); os.mkdir("deep"); os.mkdir("wide")
for n in range(20000): os.close(os.open("many/%d" % n, os.O_CREAT))
for n in range(50): open("wide/" + "%03d" % n + "x" * 252, "w")
os.chdir("deep")
for n in range(600): os.mkdir("d" * 200); os.chdir("d" * 200)
open("end", "w")
"#;
    let start = Instant::now();
    let answer = column.execute(&json!({"language": "python", "session_id": session, "code": code, "timeout": 60}));
    let bounded =
        answer["artifacts"].as_array().is_some_and(|all| all.len() <= 1000) && answer["artifacts_truncated"] == true;
    let (mut count, mut cursor, mut slowest) = (0, String::new(), Duration::ZERO);
    loop {
        let begun = Instant::now();
        let page = send(column, "GET", &format!("/sessions/{session}/files?limit=5000{cursor}"), b"").json();
        slowest = slowest.max(begun.elapsed());
        count += page["files"].as_array().map_or(0, Vec::len);
        match page["next_cursor"].as_str() {
            Some(next) if count < 100_000 => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    column.client().assert_healthy_within(Duration::from_secs(1));
    let removed = send(column, "DELETE", &format!("/sessions/{session}"), b"").status;
    let is_fine = bounded && count == 20_050 && slowest < PROMPT && removed == 204;
    let harm = (!is_fine).then(|| {
        format!(
            "{count} files, a page took {slowest:.1?}, {removed}, {:.1?} in all: {}",
            start.elapsed(),
            shortened(&answer)
        )
    });
    let control = if answer["status"] == "completed" { Control::Passed } else { Control::Failed(shortened(&answer)) };
    table.contain(109, "exhaust the list of files", harm, control);
}

/// A file that grows for as long as somebody reads it.
fn growing(table: &mut Table, column: &Column) {
    let session = "growing";
    let code = "f = open('f', 'ab')\nf.write(bytes(1 << 20)); f.flush(); open('ready', 'w')\nimport time\nwhile f.tell() < 80 << 20: f.write(bytes(1 << 16)); f.flush(); time.sleep(0.001)\ntime.sleep(20)";
    let request = json!({"language": "python", "session_id": session, "code": code, "timeout": 30});
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| column.execute(&request));
        conformance::wait_until("it writes", 20, || send(column, "GET", &url(session, "ready"), b"").status == 200);
        let start = Instant::now();
        let mut wrong = None;
        let mut sizes = Vec::new();
        for _ in 0..20 {
            let got = send(column, "GET", &url(session, "f"), b"");
            sizes.push(got.body.len());
            if got.status != 200 || got.header("content-length") != Some(&got.body.len().to_string()) {
                wrong = Some(format!("{} {:?} but {}", got.status, got.header("content-length"), got.body.len()));
            }
        }
        let late = (start.elapsed() > PROMPT * 2).then(|| format!("20 downloads took {:?}", start.elapsed()));
        let grew = sizes.windows(2).any(|pair| pair[0] < pair[1]);
        send(column, "DELETE", &format!("/sessions/{session}"), b"");
        let _ = writer.join();
        let control = if grew { Control::Passed } else { Control::Failed(format!("it did not grow: {sizes:?}")) };
        table.contain(110, "let a file grow while it is downloaded", wrong.or(late), control);
    });
}

/// An archive stays what it is: nothing here unpacks one.
fn archive(table: &mut Table, column: &Column) {
    let session = "archive";
    let code = "import tarfile, io\nt = tarfile.open('a.tar', 'w')\nfor name in ('../../escaped', '/tmp/escaped', 'link'):\n i = tarfile.TarInfo(name); i.size = 1; t.addfile(i, io.BytesIO(b'x'))\nt.close()";
    plant(column, session, "python", code);
    let tar = send(column, "GET", &url(session, "a.tar"), b"").body;
    let put = send(column, "PUT", &url("unpacked", "a.tar"), &tar);
    let listed = send(column, "GET", "/sessions/unpacked/files", b"").json();
    let is_one = listed["files"].as_array().is_some_and(|files| files.len() == 1) && put.status == 201;
    let harm = (!is_one).then(|| shortened(&listed));
    table.look(113, "upload an archive that leads out", harm, Some(holds(&tar, "../../escaped")));
}

/// URLs that are paths of something else.
fn urls(table: &mut Table, column: &Column, host: &Host) {
    let victim = host.path("victims");
    std::fs::create_dir_all(&victim).expect("a folder");
    std::fs::write(victim.join("file"), CANARY).expect("a file");
    let absolute = victim.join("file").display().to_string();
    let encoded = victim.display().to_string().replace('/', "%2F");
    plant(column, "urls", "shell", "echo x > file; mkdir d; echo x > d/file");
    let control = send(column, "GET", &url("urls", "d%2Ffile"), b"").status == 200;
    let sessions = [
        "..",
        "%2e%2e",
        ".",
        "%2e",
        &encoded,
        "..%2fworkspaces%2furls",
        "a%00",
        "a%0d%0ab",
        "%ff",
        ".run-x",
        "",
        &"x".repeat(10_000),
    ];
    let reached = sessions.iter().find_map(|session| {
        let statuses = ["GET", "PUT", "DELETE"].map(|method| send(column, method, &url(session, "file"), b"x").status);
        let ended = send(column, "DELETE", &format!("/sessions/{session}"), b"").status;
        let is_refused = statuses.iter().chain([&ended]).all(|status| matches!(status, 400 | 404 | 405 | 414 | 431));
        (!is_refused).then(|| format!("{session:?}: {statuses:?}, {ended}"))
    });
    table.look(127, "name a session in a URL that is a path", reached, Some(control));
    let paths = [
        "",
        "/",
        &absolute,
        &format!("/{absolute}"),
        &format!("{encoded}%2Ffile"),
        "..",
        "../urls/file",
        "d/../file",
        "d/../../urls/file",
        "%2e%2e/urls/file",
        "%2e%2e%2furls%2ffile",
        "..%2furls%2ffile",
        "d%2f..%2ffile",
        "file%00",
        "%00",
        "./..",
        "d/..",
        "file/",
        "file/.",
    ];
    let reached = paths.iter().find_map(|path| {
        let statuses = ["GET", "PUT", "DELETE"].map(|method| send(column, method, &url("urls", path), b"x").status);
        statuses.iter().any(|status| *status != 400).then(|| format!("{path:?}: {statuses:?}"))
    });
    let twice = ["%252e%252e/urls/file", "%252e%252e%252furls%252ffile", "d%252ffile"].iter().find_map(|path| {
        let status = send(column, "GET", &url("urls", path), b"").status;
        (status != 404).then(|| format!("{path:?}: {status}"))
    });
    let lost = std::fs::read_to_string(&absolute).ok().is_none_or(|text| text != CANARY);
    let harm = reached.or(twice).or_else(|| lost.then(|| "the file of the host is not what it was".to_owned()));
    table.look(127, "name a file in a URL that is elsewhere", harm, Some(control));
}
