//! How much a workspace may hold.

use crate::{list, shell, unique, url};
use conformance::{Service, assert_completed, assert_failed, skipped};
use serde_json::{Value, json};
use std::io::Write;

pub fn in_session(service: &Service, session: &str, language: &str, code: &str) -> Value {
    service.execute(json!({"language": language, "code": code, "session_id": session, "timeout": 20}))
}

#[test]
fn a_program_that_writes_too_much_is_stopped_soon() {
    let service = Service::start();
    let write = "import sys\nfor n in range(400):\n  open(f'f{n}', 'wb').write(bytes(1 << 20))\nprint('got through')";
    for disk_mb in [5, 30] {
        let answer = service.execute(json!({"language": "python", "code": write, "limits": {"disk_mb": disk_mb}}));
        assert_failed(&answer, "disk_full");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("MAX_DISK_MB")), "{answer}");
        assert_eq!(answer["stdout"], "", "{answer}");
    }
    // Slowly, in one file; and in pieces, each too short to be looked at while it runs.
    let slow = "import time\nf = open('f', 'ab')\nwhile True:\n  f.write(bytes(1 << 20)); f.flush(); time.sleep(0.02)";
    let answer = service.execute(json!({"language": "python", "code": slow, "limits": {"disk_mb": 20}, "timeout": 20}));
    assert_failed(&answer, "disk_full");
    let session = unique("pieces");
    let piece = json!({"language": "shell", "code": "head -c 4000000 /dev/zero > f$(ls | wc -l)", "session_id": session, "limits": {"disk_mb": 20}});
    let ends: Vec<Value> = (0..8).map(|_| service.execute(piece.clone())["error"]["kind"].clone()).collect();
    assert_eq!(ends[..5].iter().filter(|end| end.is_null()).count(), 5, "{ends:?}");
    assert!(ends[5..].iter().all(|end| end == "disk_full"), "{ends:?}");
    // That it is the limit which stops it.
    let enough =
        service.execute(json!({"language": "python", "code": write.replace("400", "40"), "limits": {"disk_mb": 60}}));
    assert_completed(&enough);
    service
        .post(json!({"language": "shell", "code": ":", "limits": {"disk_mb": 1025}}).to_string())
        .assert_error(400, "Executor.ValidationError");
}

/// What each way of taking 8 MB in one call answers, and how many blocks the file has in the end.
const AT_ONCE: &str = r"
import ctypes, fcntl, json, os, struct

size = 8 << 20
libc = ctypes.CDLL(None, use_errno=True)
answers = {}
file = os.open('taken', os.O_CREAT | os.O_RDWR | os.O_TRUNC)
for mode in 0, 1, 0x10, 0x11:  # As it is, KEEP_SIZE, ZERO_RANGE, both.
    failed = libc.fallocate(file, mode, ctypes.c_long(0), ctypes.c_long(size))
    answers[f'fallocate {mode:#x}'] = ctypes.get_errno() if failed else 0
for name, request in ('RESVSP', 0x40305828), ('RESVSP64', 0x4030582a), ('ZERO_RANGE', 0x40305839):
    try:
        fcntl.ioctl(file, request, struct.pack('hhqqiI4i', 0, 0, 0, size, 0, 0, 0, 0, 0, 0))
        answers[name] = 0
    except OSError as error:
        answers[name] = error.errno
blocks = os.fstat(file).st_blocks
try:
    # An extent size hint of 1 GB, which XFS gives to each first byte of an empty file.
    fcntl.ioctl(os.open('hinted', os.O_CREAT | os.O_RDWR), 0x401c5820, struct.pack('5I8x', 0x800, 1 << 30, 0, 0, 0))
    answers['FSSETXATTR'] = 0
except OSError as error:
    answers['FSSETXATTR'] = error.errno
print(json.dumps([answers, blocks]))
";

#[test]
fn no_call_takes_room_without_writing_it() {
    let service = Service::start();
    let found = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("what it found");
    let outside = std::process::Command::new("python3")
        .args(["-c", AT_ONCE])
        .current_dir(service.path("workspaces"))
        .output()
        .expect("the same program outside");
    let outside = found(&outside.stdout);
    let answer = service.execute(json!({"language": "python", "code": AT_ONCE}));
    assert_completed(&answer);
    let inside = found(answer["stdout"].as_str().expect("a text").as_bytes());
    let answers: Vec<&Value> = inside[0].as_object().expect("answers").values().collect();
    assert!(answers.len() == 8 && answers.iter().all(|errno| **errno == 95), "{inside}");
    assert_eq!(inside[1], 0, "{inside}");
    if outside[1].as_u64() < Some(16_384) {
        skipped("no_call_takes_room_without_writing_it", &format!("it is no call of this file system's: {outside}"));
    }
    // The C library writes instead, and room can be given back.
    let instead = "import ctypes, os\nf = os.open('f', os.O_CREAT | os.O_RDWR)\nos.posix_fallocate(f, 0, 4 << 20)\nos.fsync(f)\nprint(os.fstat(f).st_size, os.fstat(f).st_blocks > 0)\nassert ctypes.CDLL(None).fallocate(f, 3, ctypes.c_long(0), ctypes.c_long(4 << 20)) == 0\nprint(os.fstat(f).st_size, os.fstat(f).st_blocks)";
    let answer = service.execute(json!({"language": "python", "code": instead}));
    assert_completed(&answer);
    assert_eq!(answer["stdout"], "4194304 True\n4194304 0\n", "{answer}");
    // However it tries, it does not get beyond what a file may be.
    let far = "import os\nos.posix_fallocate(os.open('f', os.O_CREAT | os.O_RDWR), 0, 3 << 30)\nprint('got through')";
    let answer = service.execute(json!({"language": "python", "code": far, "timeout": 60}));
    assert!(answer["status"] == "failed" && answer["stdout"] == "", "{answer}");
}

#[test]
fn files_count_too_and_so_does_what_has_no_name() {
    let service = Service::start();
    let many = "import os\nfor n in range(100000):\n  os.close(os.open(f'f{n}', os.O_CREAT))\nprint('got through')";
    let answer = service.execute(json!({"language": "python", "code": many, "limits": {"disk_mb": 8}, "timeout": 60}));
    assert_failed(&answer, "disk_full");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("files")), "{answer}");
    let nameless = "import os, time\nf = open('f', 'wb'); os.unlink('f')\nwhile f.tell() < 90 << 20:\n  f.write(bytes(1 << 20)); f.flush(); time.sleep(0.01)\ntime.sleep(4)\nprint('got through')";
    let answer =
        service.execute(json!({"language": "python", "code": nameless, "limits": {"disk_mb": 20}, "timeout": 20}));
    assert_failed(&answer, "disk_full");
}

#[test]
fn what_takes_no_room_does_not_count() {
    let service = Service::start();
    let code = "import os, time\nfor n in range(20):\n  open(f's{n}', 'w').truncate(90 << 20)\nopen('f', 'wb').write(bytes(4 << 20))\nfor n in range(20):\n  os.link('f', f'l{n}')\ntime.sleep(0.5)";
    let answer = service.execute(json!({"language": "python", "code": code, "limits": {"disk_mb": 10}}));
    assert_completed(&answer);
}

#[test]
fn a_workspace_over_the_line_can_be_read_and_cleared() {
    let service = Service::with(&[("MAX_DISK_MB", "10")]);
    let session = unique("over");
    let answer =
        in_session(&service, &session, "python", "import time\nwhile True: open('big', 'ab').write(bytes(1 << 20))");
    assert_failed(&answer, "disk_full");
    assert_completed(&in_session(&service, &session, "shell", "cat big | wc -c; sleep 0.4"));
    for code in ["head -c 3000000 /dev/zero > more", "head -c 3000000 /dev/zero > more2; sleep 5"] {
        assert_failed(&in_session(&service, &session, "shell", code), "disk_full");
    }
    service.request("PUT", &url(&session, "x"), &[], b"x").assert_error(507, "Executor.InsufficientStorage");
    let bring = json!({"language": "shell", "code": ":", "session_id": session, "files": {"x": "eA=="}});
    service.post(bring.to_string()).assert_error(507, "Executor.InsufficientStorage");
    assert_completed(&in_session(&service, &session, "shell", "rm big more*"));
    assert_completed(&in_session(&service, &session, "shell", "head -c 3000000 /dev/zero > more; sleep 0.4"));
    assert_eq!(service.request("PUT", &url(&session, "x"), &[], b"x").status, 201);
}

#[test]
fn an_upload_that_does_not_fit_is_refused_before_it_is_stored() {
    let service = Service::with(&[("MAX_DISK_MB", "4")]);
    let session = unique("fits");
    // Said beforehand: refused without waiting for it.
    let head = service.request_bytes("PUT", &url(&session, "big"), &[("Content-Length", "5000000")], b"");
    service.raw(&head).expect("a response").assert_error(507, "Executor.InsufficientStorage");
    // Not said beforehand: as soon as it is too much.
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        url(&session, "big"),
        service.address()
    );
    let mut stream = service.connect();
    stream.write_all(head.as_bytes()).expect("a head");
    let chunk = [b"100000\r\n", vec![b'x'; 1 << 20].as_slice(), b"\r\n"].concat();
    for _ in 0..8 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    if let Ok(response) = conformance::read_response(&mut stream) {
        response.assert_error(507, "Executor.InsufficientStorage");
    }
    assert_eq!(service.get(&format!("/sessions/{session}/files")).status, 404);
    let left = std::fs::read_dir(service.path("workspaces")).expect("a folder").flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().contains("put-")).count(), 0);
    // What is there counts, what it takes the place of does not.
    let three = vec![b'x'; 3 << 20];
    assert_eq!(service.request("PUT", &url(&session, "one"), &[], &three).status, 201);
    service.request("PUT", &url(&session, "two"), &[], &three).assert_error(507, "Executor.InsufficientStorage");
    assert_eq!(service.request("PUT", &url(&session, "one"), &[], &three).status, 204);
    shell(&service, &session, "rm one");
    assert_eq!(service.request("PUT", &url(&session, "two"), &[], &three).status, 201);
    assert_eq!(service.request("DELETE", &url(&session, "two"), &[], b"").status, 204);
    assert_eq!(service.request("PUT", &url(&session, "three"), &[], &three).status, 201);
    // MAX_BODY_BYTES is for what is held in memory.
    let service = Service::with(&[("MAX_BODY_BYTES", "1024")]);
    assert_eq!(service.request("PUT", &url(&session, "one"), &[], &three).status, 201);
}

#[test]
fn uploads_at_once_share_the_room() {
    let service = Service::with(&[("MAX_DISK_MB", "10")]);
    let session = unique("at-once");
    let body = vec![b'x'; 3 << 20];
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let put = |number: u32| service.request("PUT", &url(&session, &format!("f{number}")), &[], &body).status;
        let tasks: Vec<_> = (0..8).map(|number| scope.spawn(move || put(number))).collect();
        tasks.into_iter().map(|task| task.join().expect("a status")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 3, "{statuses:?}");
    assert_eq!(list(&service, &session).len(), 3);
}

#[test]
fn many_who_each_cross_the_line_do_not_get_any_far() {
    let service = Service::with(&[("MAX_DISK_MB", "8")]);
    let session = unique("further");
    let runs = |number: u32| {
        let code = format!("head -c 60000000 /dev/zero > f{number}");
        let request = json!({"language": "shell", "code": code, "session_id": session});
        let response = service.post(request.to_string());
        if response.status != 200 {
            response.assert_error(507, "Executor.InsufficientStorage");
        }
        response.status == 200
    };
    // Five, were none of them stopped on the way.
    let ran = (0..100).take_while(|number| runs(*number)).count();
    assert!((3..100).contains(&ran) && !runs(100), "{ran}");
    for file in &list(&service, &session) {
        assert_eq!(service.request("DELETE", &url(&session, file), &[], b"").status, 204);
    }
    assert_completed(&in_session(&service, &session, "shell", "ls"));
}

#[test]
fn folders_on_the_way_of_an_upload_count() {
    let service = Service::with(&[("MAX_DISK_MB", "4")]);
    let session = unique("deep");
    let put = |top: u32| {
        let path = format!("{top}/{}f", "d/".repeat(400));
        service.request("PUT", &url(&session, &path), &[], b"x").status
    };
    assert_eq!((0..4).map(put).collect::<Vec<u16>>(), [201, 201, 201, 507]);
    let sessions = service.get("/sessions").json();
    let counted = sessions["sessions"].as_array().into_iter().flatten().find(|one| one["session_id"] == session);
    assert_eq!(counted.expect("the session")["file_count"], 3 * (1 + 400 + 1));
}

#[test]
fn what_is_hollow_makes_no_room() {
    let service = Service::with(&[("MAX_DISK_MB", "10")]);
    let session = unique("hollow");
    shell(&service, &session, "truncate -s 90M hollow; head -c 6000000 /dev/zero > full");
    let body = vec![b'x'; 9_000_000];
    service.request("PUT", &url(&session, "hollow"), &[], &body).assert_error(507, "Executor.InsufficientStorage");
    assert_eq!(service.request("PUT", &url(&session, "full"), &[], &body).status, 204);
}
