//! Races with the host's reader: a program that swaps a file for a link, and a folder for a link, thousands of times a second, while
//! the host reads, writes, lists and collects there a thousand times each. Each is held against a reader who looks first and goes by
//! the path then, as an ordinary one does: it is led out, so the race is there to be won.

use crate::files::{CANARY, holds, send, url};
use crate::shortened;
use security::{Column, Host, Table};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 1000;
/// So long is a naive reader given to be led out.
const CONTROL_WITHIN: Duration = Duration::from_secs(20);
const SESSION: &str = "swaps";
/// Only the host has a file of this name.
const ONLY_OUTSIDE: &str = "only-outside";

/// The program: `file` is a file or a link to the host's, `folder` a folder or a link to the host's, each swapped in place.
fn code(outside: &Path) -> String {
    format!(
        r#"
import ctypes, os, time
outside = {:?}
libc = ctypes.CDLL(None)
def swap(a, b): libc.renameat2(-100, a, -100, b, 2)
open("file", "w").write("inside"); os.symlink(outside + "/canary", ".file")
os.mkdir("folder"); open("folder/canary", "w").write("inside"); os.symlink(outside, ".folder")
open("ready", "w").close()
end = time.monotonic() + 200
n = 0
while time.monotonic() < end:
    for _ in range(50):
        swap(b"file", b".file"); swap(b"folder", b".folder")
    n += 1
    if n % 20 == 0:
        try: open("folder/canary", "x").write("inside")
        except OSError: pass
"#,
        outside.display().to_string()
    )
}

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    let outside = host.path("swapped");
    std::fs::create_dir_all(&outside).expect("a folder");
    std::fs::write(outside.join("canary"), CANARY).expect("a canary");
    std::fs::write(outside.join(ONLY_OUTSIDE), CANARY).expect("a canary");
    let program = json!({"language": "python", "session_id": SESSION, "code": code(&outside), "timeout": 240});
    std::thread::scope(|scope| {
        let running = scope.spawn(|| column.execute(&program));
        conformance::wait_until("it swaps", 20, || send(column, "GET", &url(SESSION, "ready"), b"").status == 200);
        let race = Race { column, outside: &outside, workspace: column.workspace(SESSION) };
        race.read(table);
        race.write(table);
        race.list(table);
        race.collect(table);
        race.remove(table);
        let removed = send(column, "DELETE", &format!("/sessions/{SESSION}"), b"").status;
        let _ = running.join();
        let left =
            (removed != 204 || race.workspace.exists() || !race.is_outside_whole()).then(|| format!("{removed}"));
        table.look(114, "have the end of a session follow what is swapped", left, race.control_of_removing());
    });
}

struct Race<'a> {
    column: &'a Column,
    outside: &'a Path,
    workspace: PathBuf,
}

impl Race<'_> {
    /// Whether what is outside is as it was.
    fn is_outside_whole(&self) -> bool {
        let mut names: Vec<_> =
            std::fs::read_dir(self.outside).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let is_same = |name: &str| std::fs::read_to_string(self.outside.join(name)).is_ok_and(|text| text == CANARY);
        names == ["canary", ONLY_OUTSIDE] && is_same("canary") && is_same(ONLY_OUTSIDE)
    }

    /// Whether one who tries for a while is led out.
    fn led_out(&self, mut attempt: impl FnMut(&Path) -> bool) -> bool {
        let end = Instant::now() + CONTROL_WITHIN;
        while Instant::now() < end {
            if (0..100).any(|_| attempt(&self.workspace)) {
                return true;
            }
        }
        false
    }

    fn read(&self, table: &mut Table) {
        let naive = self.led_out(|root| {
            let file = root.join("file");
            let looks_well = std::fs::symlink_metadata(&file).is_ok_and(|state| state.is_file());
            looks_well && std::fs::read(&file).is_ok_and(|text| text == CANARY.as_bytes())
        });
        let mut seen = [0; 2];
        let mut reached = None;
        for _ in 0..ROUNDS {
            for path in ["file", "folder/canary"] {
                let got = send(self.column, "GET", &url(SESSION, path), b"");
                match got.status {
                    200 => seen[0] += 1,
                    404 => seen[1] += 1,
                    other => reached = Some(format!("{path}: {other}")),
                }
                if holds(&got.body, CANARY) {
                    reached = Some(format!("{path}: the file of the host"));
                }
            }
        }
        // Both states were met, so that it was a race.
        let raced = naive && seen.iter().all(|count| *count > 10);
        table.look(104, "swap for a link while it is downloaded", reached, Some(raced));
    }

    fn write(&self, table: &mut Table) {
        let naive = self.led_out(|root| {
            let looks_well = std::fs::symlink_metadata(root.join("folder")).is_ok_and(|state| state.is_dir());
            let _ = looks_well && std::fs::write(root.join("folder/naive"), "x").is_ok();
            let out = self.outside.join("naive");
            out.exists() && std::fs::remove_file(out).is_ok()
        });
        let mut stored = 0;
        let mut reached = None;
        for round in 0..ROUNDS {
            let put = send(self.column, "PUT", &url(SESSION, "folder/put"), b"from a caller");
            stored += usize::from(matches!(put.status, 201 | 204));
            if !matches!(put.status, 201 | 204 | 404 | 409) {
                reached = Some(format!("round {round}: {} {}", put.status, String::from_utf8_lossy(&put.body)));
            }
            let put = send(self.column, "PUT", &url(SESSION, "file"), b"inside");
            if !matches!(put.status, 201 | 204 | 404) {
                reached = Some(format!("round {round}: {} {}", put.status, String::from_utf8_lossy(&put.body)));
            }
        }
        for _ in 0..50 {
            let request =
                json!({"language": "shell", "code": ":", "session_id": SESSION, "files": {"folder/brought": "eA=="}});
            self.column.client().post(request.to_string());
        }
        let reached =
            reached.or_else(|| (!self.is_outside_whole()).then(|| "something was written outside".to_owned()));
        table.look(104, "swap for a link while it is uploaded", reached, Some(naive && stored > 10 && stored < ROUNDS));
    }

    fn list(&self, table: &mut Table) {
        let naive = self.led_out(|root| {
            let folder = root.join("folder");
            let looks_well = std::fs::symlink_metadata(&folder).is_ok_and(|state| state.is_dir());
            let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            looks_well && names.into_iter().any(|entry| entry.file_name() == ONLY_OUTSIDE)
        });
        let reached = (0..ROUNDS).find_map(|_| {
            let listed = send(self.column, "GET", &format!("/sessions/{SESSION}/files"), b"");
            (listed.status != 200 || holds(&listed.body, ONLY_OUTSIDE))
                .then(|| String::from_utf8_lossy(&listed.body).into_owned())
        });
        table.look(104, "swap for a link while it is listed", reached, Some(naive));
    }

    /// What an execution in the same session tells of its workspace.
    fn collect(&self, table: &mut Table) {
        let naive = self.led_out(|root| {
            let path = root.join("folder/canary");
            let looks_well = std::fs::symlink_metadata(root.join("folder")).is_ok_and(|state| state.is_dir());
            looks_well && std::fs::read(path).is_ok_and(|text| text == CANARY.as_bytes())
        });
        // As base64, and its size.
        let canary = "YSBmaWxlIG9mIHRoZSBob3N0Cg==";
        let code = "touch file folder/canary 2>/dev/null; true";
        let request =
            json!({"language": "shell", "code": code, "session_id": SESSION, "outputs": ["file", "folder/*"]});
        let (mut found, mut reached) = (0, None);
        for _ in 0..ROUNDS {
            let answer = self.column.execute(&request);
            let artifacts = answer["artifacts"].as_array().cloned().unwrap_or_default();
            let is_outside = |artifact: &serde_json::Value| {
                artifact["size"] == CANARY.len()
                    || artifact["path"].as_str().is_some_and(|path| path.contains(ONLY_OUTSIDE))
            };
            found += artifacts.len();
            if answer.to_string().contains(canary)
                || artifacts.iter().any(is_outside)
                || answer["status"] != "completed"
            {
                reached = Some(shortened(&answer));
            }
        }
        table.look(
            104,
            "swap for a link while artifacts and outputs are collected",
            reached,
            Some(naive && found > 10),
        );
    }

    fn remove(&self, table: &mut Table) {
        let mut removed = 0;
        for _ in 0..ROUNDS {
            for path in ["folder/canary", "folder/only-outside", "file"] {
                removed += usize::from(send(self.column, "DELETE", &url(SESSION, path), b"").status == 204);
            }
        }
        let lost = (!self.is_outside_whole()).then(|| "a file of the host is gone".to_owned());
        let naive = self.led_out(|root| {
            let looks_well = std::fs::symlink_metadata(root.join("folder")).is_ok_and(|state| state.is_dir());
            let is_gone = looks_well && std::fs::remove_file(root.join("folder/only-outside")).is_ok();
            is_gone && std::fs::write(self.outside.join(ONLY_OUTSIDE), CANARY).is_ok()
        });
        table.look(104, "swap for a link while it is removed", lost, Some(naive && removed > 0));
    }

    /// That who removes a tree by its paths is led out by a link where it takes one for a folder.
    fn control_of_removing(&self) -> Option<bool> {
        let tree = self.outside.with_file_name("tree");
        std::fs::create_dir_all(&tree).ok()?;
        std::os::unix::fs::symlink(self.outside, tree.join("folder")).ok()?;
        for entry in std::fs::read_dir(tree.join("folder")).ok()?.flatten() {
            std::fs::remove_file(entry.path()).ok()?;
        }
        Some(!self.is_outside_whole())
    }
}
