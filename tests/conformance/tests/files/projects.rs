//! Workspaces as projects of their file system, which then holds them to what they may hold. `make vm-test` has such a file system;
//! elsewhere these are left out, each with a line.

use crate::quota::in_session;
use crate::{list, shell, unique, url};
use conformance::{Service, assert_completed, assert_failed, is_root, skipped};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// A service with these settings, where its file system has quotas of projects.
fn start(test: &str, environment: &[(&str, &str)]) -> Option<Service> {
    if !is_root(test) {
        return None;
    }
    let service = Service::with(environment);
    let by = service.get("/info").json()["limits"]["enforcement"]["disk"].clone();
    if by == "project quota" {
        return Some(service);
    }
    assert_eq!(by, "watched by the service");
    let log = service.log();
    let why = log.lines().find(|line| line.contains("Quota of workspaces")).expect("a line of the log").to_owned();
    skipped(test, &format!("the folder of the tests has no project quota: {why}"));
    None
}

/// A session, as it is listed.
fn session(service: &Service, id: &str) -> Value {
    let all = service.get("/sessions?limit=1000").json()["sessions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["session_id"] == id).unwrap_or_default()
}

/// What a file belongs to, and what that project takes and may.
const PROJECT: &str = "import array, ctypes, fcntl, os, struct, sys
def attributes(path):
  fd = os.open(path, os.O_RDONLY)
  room = array.array('B', bytes(28))
  fcntl.ioctl(fd, 0x801c581f, room)
  return fd, bytearray(room)
def change(path, project, flags):
  fd, room = attributes(path)
  struct.pack_into('I', room, 0, flags(struct.unpack_from('I', room, 0)[0]))
  struct.pack_into('I', room, 12, project(struct.unpack_from('I', room, 12)[0]))
  try: fcntl.ioctl(fd, 0x401c5820, bytes(room))
  except OSError as error: return error.errno
  return 0
def belongs(path):
  fd, room = attributes(path)
  return struct.unpack_from('I', room, 12)[0]
libc = ctypes.CDLL(None, use_errno=True)
def quota(path, project, command=0x800007, place=None):
  room = place or ctypes.create_string_buffer(72)
  fd = os.open(path, os.O_RDONLY)
  if libc.syscall(443, fd, (command << 8 & 0xffffffff) | 2, project, room): return ctypes.get_errno()
  # Blocks that it may have, bytes that it has, files that it may have, files that it has.
  return [struct.unpack_from('Q', room, at)[0] for at in (0, 16, 24, 40)]
";

/// Runs Python on the host, with paths as its arguments; what it printed.
#[track_caller]
fn on_host(code: &str, arguments: &[&Path], uid: Option<u32>) -> String {
    let mut command = match uid {
        None => Command::new("/usr/bin/python3"),
        Some(uid) => {
            let mut command = Command::new("setpriv");
            let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            command.args([user.as_str(), group.as_str(), "--clear-groups", "/usr/bin/python3"]);
            command
        }
    };
    let output = command.arg("-c").arg(format!("{PROJECT}{code}")).args(arguments).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn the_kernel_lets_nothing_beyond_the_line() {
    let Some(service) = start("the_kernel_lets_nothing_beyond_the_line", &[("MAX_DISK_MB", "10")]) else { return };
    let line = 10 << 20;
    let id = unique("line");
    let write = "f = open('big', 'wb', 0)\ntry:\n  while True: f.write(bytes(1 << 16))\nexcept OSError as error: print(error.errno)\nimport os; print(os.fstat(f.fileno()).st_size)\nf.write(bytes(1 << 20)); f.write(b'x')";
    let answer = in_session(&service, &id, "python", write);
    assert_failed(&answer, "disk_full");
    assert_eq!(answer["error"]["name"], "OSError", "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("MAX_DISK_MB")), "{answer}");
    let told = answer["stdout"].as_str().unwrap_or_default().to_owned();
    let words: Vec<u64> = told.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(matches!(words[..], [122 | 28, size] if (line - (1 << 20)..=line).contains(&size)), "{told}");
    let size = session(&service, &id)["size"].as_u64().expect("a size");
    assert!((line - (1 << 20)..=line).contains(&size), "{size}");
    // By shell, and what it can do then: read, and remove.
    assert_failed(&in_session(&service, &id, "shell", "head -c 100000 /dev/zero > more"), "disk_full");
    assert_completed(&in_session(&service, &id, "shell", "wc -c big; rm big more; head -c 3000000 /dev/zero > more"));
    // A program that bears it is none that failed.
    let bears = "try: open('big', 'wb').write(bytes(20 << 20))\nexcept OSError: print('full')";
    assert_completed(&in_session(&service, &id, "python", bears));
    // Files, and what has no name.
    let many = unique("many");
    let code = "import os\nfor n in range(100000): os.close(os.open(f'f{n}', os.O_CREAT))";
    assert_failed(&in_session(&service, &many, "python", code), "disk_full");
    assert!((2400..=2560).contains(&session(&service, &many)["file_count"].as_u64().unwrap_or(0)));
    let nameless = "import os\nf = open('f', 'wb', 0); os.unlink('f')\nfor n in range(90): f.write(bytes(1 << 20))";
    assert_failed(&in_session(&service, &unique("nameless"), "python", nameless), "disk_full");
    // Another session has all of its own, and so has an execution without one.
    let enough = "head -c 9000000 /dev/zero > f";
    assert_completed(&in_session(&service, &unique("other"), "shell", enough));
    assert_completed(&service.run("shell", enough));
    assert_failed(&service.run("shell", "head -c 12000000 /dev/zero > f"), "disk_full");
}

#[test]
fn the_line_is_that_of_the_present_start() {
    let test = "the_line_is_that_of_the_present_start";
    let Some(service) = start(test, &[("MAX_DISK_MB", "10")]) else { return };
    let id = unique("line");
    assert_completed(&in_session(&service, &id, "shell", "head -c 9000000 /dev/zero > f"));
    let service = Service::at(service.stopped(), &[("MAX_DISK_MB", "30")]);
    assert_completed(&in_session(&service, &id, "shell", "head -c 15000000 /dev/zero > g"));
    // Of the killed one a file is left that was on its way into the session.
    let head = service.request_bytes("PUT", &url(&id, "half"), &[("Content-Length", "1000")], b"half");
    let mut stream = service.connect();
    std::io::Write::write_all(&mut stream, &head).expect("half of an upload");
    let staged = || {
        let entries = std::fs::read_dir(service.path("workspaces")).expect("a folder").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().contains("put-")).count()
    };
    conformance::wait_until("it is on its way", 5, || staged() == 1);
    let service = Service::at(service.killed(), &[("MAX_DISK_MB", "4")]);
    assert!(session(&service, &id)["size"].as_u64().is_some_and(|size| size > 24_000_000));
    assert_failed(&in_session(&service, &id, "shell", "echo x > h; head -c 100000 /dev/zero > h"), "disk_full");
    assert_completed(&in_session(&service, &id, "shell", "rm f g h; head -c 3000000 /dev/zero > f"));
    assert_failed(&in_session(&service, &id, "shell", "head -c 3000000 /dev/zero > g"), "disk_full");
}

#[test]
fn what_comes_over_http_belongs_to_the_project() {
    let Some(service) = start("what_comes_over_http_belongs_to_the_project", &[("MAX_DISK_MB", "10")]) else { return };
    let id = unique("uploads");
    let three = vec![b'x'; 3 << 20];
    assert_eq!(service.request("PUT", &url(&id, "a/b/c"), &[], &three).status, 201);
    let brought = json!({"language": "shell", "code": "mv a/b/c d/e", "session_id": id, "files": {"d/x": "eA=="}});
    assert_completed(&service.execute(brought));
    let folder = service.path("workspaces").join(&id);
    let paths: Vec<_> = ["", "a", "a/b", "d", "d/x", "d/e"].iter().map(|path| folder.join(path)).collect();
    let paths: Vec<&Path> = paths.iter().map(std::path::PathBuf::as_path).collect();
    let code = "print(*{belongs(path) - os.stat(path).st_uid for path in sys.argv[1:]})\nprint(*quota(sys.argv[1], belongs(sys.argv[1])))";
    let told = on_host(code, &paths, None);
    let numbers: Vec<u64> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [0, _, bytes, files, 6] if bytes > 3 << 20 && files == 2561), "{told}");
    // Held to the line, also while a program writes; and what is replaced makes room.
    assert_completed(&in_session(&service, &id, "shell", "head -c 5000000 /dev/zero > big"));
    service.request("PUT", &url(&id, "more"), &[], &three).assert_error(507, "Executor.InsufficientStorage");
    assert_eq!(service.request("PUT", &url(&id, "d/e"), &[], &three).status, 204);
}

#[test]
fn of_a_workspace_that_is_gone_nothing_is_held() {
    let Some(service) = start("of_a_workspace_that_is_gone_nothing_is_held", &[]) else { return };
    let id = unique("gone");
    shell(&service, &id, "echo x > f");
    let root = service.path("workspaces");
    let folder = root.join(&id);
    let uid = std::os::unix::fs::MetadataExt::uid(&folder.metadata().expect("a folder"));
    let ask = format!("print(*quota(sys.argv[1], {uid}))");
    let before = on_host(&ask, &[&root], None);
    assert!(before.starts_with("1048580 "), "{before}");
    assert_eq!(service.request("DELETE", &format!("/sessions/{id}"), &[], b"").status, 204);
    assert_eq!(on_host(&ask, &[&root], None), "0 0 0 0");
    // A number in which somebody else has files is nobody's.
    let other = root.parent().expect("a folder").join("others");
    std::fs::create_dir(&other).expect("a folder");
    let take = format!("print(change(sys.argv[1], lambda _: {uid}, lambda flags: flags))");
    assert_eq!(on_host(&take, &[&other], None), "0");
    shell(&service, &id, "echo x > f");
    assert_ne!(std::os::unix::fs::MetadataExt::uid(&folder.metadata().expect("a folder")), uid);
}

#[test]
fn no_program_gets_out_of_its_project() {
    let Some(service) = start("no_program_gets_out_of_its_project", &[("MAX_DISK_MB", "10")]) else { return };
    let id = unique("out");
    let attempts = "open('f', 'w').close()
import json
def take(fd_of):
  try: return fd_of()
  except OSError as error: return error.errno
wide = ctypes.create_string_buffer(struct.pack('QQQQQQQQII', 1 << 40, 0, 0, 1 << 40, 0, 0, 0, 0, 5, 0))
tried = {
  'own': belongs('f'),
  'zero': change('f', lambda _: 0, lambda flags: flags),
  'another': change('f', lambda number: number + 1, lambda flags: flags),
  'folder': change('.', lambda _: 0, lambda flags: flags),
  'inherit': change('.', lambda number: number, lambda flags: flags & ~0x200),
  'limit': quota('.', belongs('.'), 0x800008, wide),
  'same': change('f', lambda number: number, lambda flags: flags),
}
print(json.dumps(tried))
";
    let answer = in_session(&service, &id, "python", &format!("{PROJECT}{attempts}"));
    assert_completed(&answer);
    let tried: Value = serde_json::from_str(answer["stdout"].as_str().unwrap_or_default()).expect("JSON");
    assert!(tried["own"].as_u64().is_some_and(|number| number > 0), "{tried}");
    // By the filter; where it let them through, the user namespace would refuse all but the last (EINVAL).
    for name in ["zero", "another", "folder", "inherit", "same"] {
        assert_eq!(tried[name], 95, "{name}: {tried}");
    }
    // quotactl_fd is none that the filter knows.
    assert!([1, 38].iter().any(|errno| tried["limit"] == *errno), "{tried}");
    assert_eq!(list(&service, &id), ["f"]);
    assert_failed(&in_session(&service, &id, "shell", "head -c 12000000 /dev/zero > g"), "disk_full");
    // The same user does it outside of a sandbox. And what is in no project is counted, as ever.
    let folder = service.path("workspaces").join(&id);
    let uid = std::os::unix::fs::MetadataExt::uid(&folder.metadata().expect("a folder"));
    for above in folder.ancestors().skip(1).take(3) {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(above, open).expect("a folder of the test's");
    }
    let leave = "print(change(sys.argv[1], lambda _: 0, lambda flags: flags & ~0x200))";
    assert_eq!(on_host(leave, &[&folder], Some(uid)), "0");
    let code = "import time\nwhile True:\n  open('big', 'ab').write(bytes(1 << 20)); time.sleep(0.02)";
    let answer = in_session(&service, &id, "python", code);
    assert_failed(&answer, "disk_full");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("held")), "{answer}");
}
