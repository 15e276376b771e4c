//! Upload, list, download, remove.

use crate::{head, list, shell, unique, url};
use conformance::{Service, skipped};
use serde_json::json;
use std::io::{Read, Write};

#[test]
fn what_is_uploaded_is_the_programs_and_what_it_makes_can_be_downloaded() {
    let service = Service::start();
    let session = unique("round-trip");
    let put = service.request("PUT", &url(&session, "in/deep/data.txt"), &[], b"one\n");
    assert_eq!((put.status, put.body.len()), (201, 0), "{put:?}");
    assert_eq!(put.header("location"), Some(url(&session, "in/deep/data.txt").as_str()));
    let code = "cat in/deep/data.txt; echo two >> in/deep/data.txt; mkdir -p in/new; mv in/deep/data.txt in/new/; rmdir in/deep; id -u";
    let answer = shell(&service, &session, code);
    assert_eq!(answer["stdout"], "one\n1000\n");
    let got = service.get(&url(&session, "in/new/data.txt"));
    assert_eq!((got.status, got.body.as_slice()), (200, &b"one\ntwo\n"[..]));
    assert_eq!(got.header("content-type"), Some("text/plain"));
    let (status, text) = head(&service, &url(&session, "in/new/data.txt"));
    assert!(status == 200 && text.contains("\r\ncontent-length: 8\r\n"), "{status} {text}");

    let again = service.request("PUT", &url(&session, "in/new/data.txt"), &[], b"three");
    assert_eq!((again.status, again.body.len()), (204, 0));
    assert_eq!(service.get(&url(&session, "in/new/data.txt")).body, b"three");
    assert_eq!(list(&service, &session), ["in/new/data.txt"]);
    assert_eq!(service.request("DELETE", &url(&session, "in/new/data.txt"), &[], b"").status, 204);
    service.get(&url(&session, "in/new/data.txt")).assert_error(404, "Executor.NotFound");
    assert!(list(&service, &session).is_empty());
}

#[test]
fn a_list_comes_in_pages_and_says_what_each_file_is() {
    let service = Service::start();
    let session = unique("pages");
    shell(
        &service,
        &session,
        "mkdir d .h; for n in 1 2 3 4 5 6 7; do echo $n > d/$n; done; echo x > .h/x; printf 12345 > e; touch -d 2001-02-03 e",
    );
    let (mut paths, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = service.get(&format!("/sessions/{session}/files?limit=2{cursor}")).json();
        paths.extend(
            page["files"].as_array().expect("files").iter().map(|file| file["path"].as_str().unwrap_or("").to_owned()),
        );
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paths, [".h/x", "d/1", "d/2", "d/3", "d/4", "d/5", "d/6", "d/7", "e"]);
    assert_eq!(pages, 5);
    let all = service.get(&format!("/sessions/{session}/files")).json();
    let last = &all["files"][8];
    assert_eq!(conformance::keys(last), ["modified_at", "path", "size"]);
    assert_eq!((&last["size"], last["modified_at"].as_str()), (&json!(5), Some("2001-02-03T00:00:00.000000Z")));
    for bad in ["limit=0", "limit=x", "limit=10001", "cursor=/x", "cursor=.."] {
        service.get(&format!("/sessions/{session}/files?{bad}")).assert_error(400, "Executor.ValidationError");
    }
    service.get(&format!("/sessions/{session}x/files")).assert_error(404, "Executor.NotFound");
}

#[test]
fn what_names_no_file_is_refused_whatever_is_done_with_it() {
    let service = Service::start();
    let session = unique("names");
    // What links lead to is the test's own: one that is followed costs nothing else.
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("file"), "outside").expect("a file");
    let code = format!(
        "ln -s {0}/file link; ln -s {0} root; ln -s . here; mkdir folder; mkfifo fifo; echo x > file; \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
        outside.path().display()
    );
    shell(&service, &session, &code);
    let long = "a".repeat(256);
    let bad = [
        "",
        "/nowhere/x",
        "../x",
        "a/../b",
        "..",
        "%2e%2e/x",
        "..%2fx",
        "a%00b",
        "folder/",
        ".",
        "%2Fnowhere",
        "./",
        &long,
    ];
    for path in bad {
        assert_eq!(head(&service, &url(&session, path)).0, 400, "HEAD {path:?}");
        for method in ["GET", "PUT", "DELETE"] {
            let body =
                service.request(method, &url(&session, path), &[], b"").assert_error(400, "Executor.ValidationError");
            assert_eq!(body["error_detail"][0]["field"], "path", "{method} {path:?}");
        }
    }
    let absent = ["link", "root/file", "here/file", "fifo", "socket", "none", "none/x"];
    for path in absent {
        for method in ["GET", "DELETE"] {
            service.request(method, &url(&session, path), &[], b"").assert_error(404, "Executor.NotFound");
        }
    }
    for path in ["link", "root/x", "here/x", "fifo", "socket"] {
        service.request("PUT", &url(&session, path), &[], b"x").assert_error(404, "Executor.NotFound");
    }
    service.get(&url(&session, "folder")).assert_error(404, "Executor.NotFound");
    for (method, path) in [("PUT", "folder"), ("DELETE", "folder"), ("PUT", "file/x")] {
        service.request(method, &url(&session, path), &[], b"x").assert_error(409, "Executor.Conflict");
    }
    // That each of them is there, and that what is behind the links is as it was.
    let code = "test -L link -a -L root -a -L here -a -p fifo -a -S socket -a -d folder && cat file";
    assert_eq!(shell(&service, &session, code)["stdout"], "x\n");
    assert_eq!(std::fs::read_to_string(outside.path().join("file")).expect("a file"), "outside");
    for id in ["..", "%2e%2e", ".hidden", "a%2fb", "%00", &"x".repeat(200)] {
        let response = service.get(&format!("/sessions/{id}/files/x"));
        response.assert_error(400, "Executor.ValidationError");
        service.request("DELETE", &format!("/sessions/{id}"), &[], b"").assert_error(400, "Executor.ValidationError");
    }
    service.request("POST", &url(&session, "file"), &[], b"").assert_error(405, "Executor.MethodNotAllowed");
}

#[test]
fn a_name_may_be_of_any_bytes_and_is_decoded_once() {
    let service = Service::start();
    let session = unique("bytes");
    for (path, content) in
        [("a%20b%2Bc", "space"), ("%25ff", "percent"), ("%ff%0a", "bytes"), ("%C3%A9", "utf-8"), ("q%3Fx%23y", "query")]
    {
        assert_eq!(service.request("PUT", &url(&session, path), &[], content.as_bytes()).status, 201, "{path}");
        assert_eq!(service.get(&url(&session, path)).text(), content);
    }
    let names = shell(&service, &session, "LC_ALL=C ls -b");
    assert_eq!(names["stdout"], "%ff\na\\ b+c\nq?x#y\n\\303\\251\n\\377\\n\n");
    let listed = service.get(&format!("/sessions/{session}/files")).json();
    let odd: Vec<_> =
        listed["files"].as_array().expect("files").iter().filter(|file| !file["path_encoded"].is_null()).collect();
    assert_eq!(odd.len(), 1);
    let encoded = odd[0]["path_encoded"].as_str().expect("a path");
    assert_eq!((encoded, &odd[0]["path"]), ("%FF%0A", &json!("\u{fffd}\n")));
    let got = service.get(&url(&session, encoded));
    assert_eq!(got.text(), "bytes");
    let header = got.header("content-disposition").expect("a header");
    assert_eq!(header, "attachment; filename=\"__\"; filename*=UTF-8''%EF%BF%BD%0A");
}

#[test]
fn what_is_downloaded_is_no_page_of_the_service() {
    let service = Service::start();
    let session = unique("page");
    let name = "%22%0d%0aSet-Cookie:%20a=b%3b.html";
    service.request("PUT", &url(&session, name), &[], b"<html><script>alert(1)</script>");
    let got = service.get(&url(&session, name));
    assert_eq!(got.status, 200);
    assert_eq!(got.header("set-cookie"), None);
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(got.header("content-security-policy"), Some("sandbox; default-src 'none'"));
    assert!(
        got.header("content-disposition")
            .is_some_and(|value| value.starts_with("attachment; filename=\"___Set-Cookie_ a_b_.html\""))
    );
}

#[test]
fn conditions_and_ranges_are_those_of_http() {
    let service = Service::start();
    let session = unique("conditions");
    let path = url(&session, "file");
    let put = |headers: &[(&str, &str)], body: &[u8]| service.request("PUT", &path, headers, body);
    put(&[("If-Match", "*")], b"x").assert_error(412, "Executor.PreconditionFailed");
    assert_eq!(put(&[("If-None-Match", "*")], b"0123456789").status, 201);
    put(&[("If-None-Match", "*")], b"x").assert_error(412, "Executor.PreconditionFailed");
    let get = |headers: &[(&str, &str)]| service.request("GET", &path, headers, b"");
    let first = get(&[]);
    let tag = first.header("etag").expect("a tag").to_owned();
    assert_eq!(get(&[("If-None-Match", &tag)]).status, 304);
    assert_eq!(get(&[("If-None-Match", "\"other\"")]).status, 200);
    get(&[("If-Match", "\"other\"")]).assert_error(412, "Executor.PreconditionFailed");
    for (range, content, told) in
        [("bytes=0-3", "0123", "bytes 0-3/10"), ("bytes=7-", "789", "bytes 7-9/10"), ("bytes=-2", "89", "bytes 8-9/10")]
    {
        let part = get(&[("Range", range)]);
        assert_eq!((part.status, part.text(), part.header("content-range")), (206, content, Some(told)));
        assert_eq!(get(&[("Range", range), ("If-Range", &tag)]).status, 206);
        assert_eq!(get(&[("Range", range), ("If-Range", "\"other\"")]).text(), "0123456789");
    }
    let beyond = get(&[("Range", "bytes=10-")]);
    beyond.assert_error(416, "Executor.RangeNotSatisfiable");
    assert_eq!(beyond.header("content-range"), Some("bytes */10"));
    // Whatever changes a file changes its tag, also when it keeps its size and its program sets the time back.
    shell(&service, &session, "touch -r file t; printf 9876543210 > file; touch -r t file");
    assert_ne!(get(&[]).header("etag"), Some(tag.as_str()));
    put(&[("If-Match", &tag)], b"x").assert_error(412, "Executor.PreconditionFailed");
    let tag = get(&[]).header("etag").expect("a tag").to_owned();
    let changed = put(&[("If-Match", &tag)], b"new");
    assert_eq!(changed.status, 204);
    assert_eq!(get(&[("If-None-Match", changed.header("etag").expect("a tag"))]).status, 304);
    service.request("DELETE", &path, &[("If-Match", &tag)], b"").assert_error(412, "Executor.PreconditionFailed");
    put(&[("Content-Range", "bytes 0-1/10")], b"xx").assert_error(400, "Executor.ValidationError");
    put(&[("Content-Encoding", "gzip")], b"xx").assert_error(415, "Executor.UnsupportedMediaType");
    assert_eq!(get(&[]).text(), "new");
}

#[test]
fn a_condition_that_does_not_hold_or_can_not_be_read_changes_nothing() {
    let service = Service::start();
    let session = unique("conditions");
    let path = url(&session, "file");
    assert_eq!(service.request("PUT", &path, &[], b"first").status, 201);
    let tag = service.get(&path).header("etag").expect("a tag").to_owned();
    let refused: [&[(&str, &str)]; 5] = [
        &[("If-Match", "\"\u{e9}\"")],
        &[("If-Match", "\"other\"")],
        &[("If-None-Match", &tag)],
        &[("If-None-Match", "\"other\""), ("If-None-Match", &tag)],
        &[("If-None-Match", "*")],
    ];
    for headers in refused {
        for method in ["PUT", "DELETE"] {
            let status = service.request(method, &path, headers, b"second").status;
            assert_eq!(status, 412, "{method} {headers:?}");
        }
    }
    assert_eq!(service.get(&path).text(), "first");
    let two = [("If-Match", "\"other\""), ("If-Match", tag.as_str())];
    assert_eq!(service.request("PUT", &path, &two, b"second").status, 204);
    assert_eq!(service.request("PUT", &path, &[("If-None-Match", &tag)], b"third").status, 204);
    assert_eq!(service.get(&path).text(), "third");
}

#[test]
fn an_upload_appears_whole_or_not_at_all() {
    let service = Service::with(&[]);
    let session = unique("whole");
    assert_eq!(service.request("PUT", &url(&session, "file"), &[], b"before").status, 201);
    let half = service.request_bytes("PUT", &url(&session, "file"), &[("Content-Length", "1000")], b"");
    let mut stream = service.connect();
    stream.write_all(&half).expect("a head");
    stream.write_all(&[b'x'; 500]).expect("half of a body");
    std::thread::sleep(std::time::Duration::from_millis(100));
    // Neither the old file nor the list nor a program sees anything of it.
    assert_eq!(service.get(&url(&session, "file")).text(), "before");
    assert_eq!(shell(&service, &session, "ls -A; cat file")["stdout"], "file\nbefore");
    drop(stream);
    let staged = || {
        std::fs::read_dir(service.path("workspaces"))
            .expect("a folder")
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("put-"))
            .count()
    };
    conformance::wait_until("what was uploaded is removed", 5, || staged() == 0);
    assert_eq!(service.get(&url(&session, "file")).text(), "before");
    // A body of unknown length.
    let chunked = service.request_bytes(
        "PUT",
        &url(&session, "new"),
        &[("Transfer-Encoding", "chunked"), ("Content-Length", "")],
        b"",
    );
    let text = String::from_utf8(chunked).expect("text").replace("Content-Length: \r\n", "");
    let response = service.raw(&[text.as_bytes(), b"4\r\nwhol\r\n1\r\ne\r\n0\r\n\r\n"].concat()).expect("a response");
    assert_eq!(response.status, 201);
    assert_eq!(service.get(&url(&session, "new")).text(), "whole");
}

/// A head of an upload that does not say how long it is, and a MiB of it.
fn chunked(service: &Service, path: &str) -> (String, Vec<u8>) {
    let address = service.address();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n");
    (head, [b"100000\r\n", vec![b'x'; 1 << 20].as_slice(), b"\r\n"].concat())
}

#[test]
fn a_file_is_no_larger_than_files_may_be_however_it_comes() {
    let service = Service::with(&[("MAX_FILE_SIZE_MB", "2")]);
    let (session, most) = (unique("size"), vec![b'x'; 2 << 20]);
    let refused = |response: &conformance::Response| {
        response.assert_error(413, "Executor.PayloadTooLarge");
        assert!(response.text().contains("MAX_FILE_SIZE_MB"), "{}", response.text());
    };
    // Said beforehand: refused without waiting for it. Not said: as soon as it is too much.
    let head = service.request_bytes("PUT", &url(&session, "f"), &[("Content-Length", "2097153")], b"");
    refused(&service.raw(&head).expect("a response"));
    let (head, chunk) = chunked(&service, &url(&session, "f"));
    let mut stream = service.connect();
    stream.write_all(head.as_bytes()).expect("a head");
    for _ in 0..3 {
        stream.write_all(&chunk).ok();
    }
    refused(&conformance::read_response(&mut stream).expect("a response"));
    // As base64: the 2 MiB, and a byte more.
    let bring = |end: &str| {
        let content = "eHh4".repeat(699_050) + end;
        json!({"language": "shell", "code": "wc -c < f", "session_id": session, "files": {"f": content}})
    };
    let response = service.post(bring("eHh4").to_string());
    response.assert_error(400, "Executor.ValidationError");
    assert!(response.text().contains("files.f") && response.text().contains("MAX_FILE_SIZE_MB"), "{}", response.text());
    // That it is the size.
    assert_eq!(service.request("PUT", &url(&session, "f"), &[], &most).status, 201);
    assert_eq!(service.execute(bring("eHg="))["stdout"], "2097152\n");
}

#[test]
fn of_an_upload_that_came_to_nothing_no_session_is_left() {
    let service = Service::with(&[("MAX_DISK_MB", "4"), ("MAX_FILE_SIZE_MB", "2")]);
    let sessions = || service.get("/sessions").json()["sessions"].as_array().map_or(9, Vec::len);
    let said = |path: &str, length: &str| {
        service.raw(&service.request_bytes("PUT", path, &[("Content-Length", length)], b"")).expect("a response").status
    };
    assert_eq!(said(&url("large", "f"), "3000000"), 413);
    for (session, chunks, status) in [("chunks", 3, 413), ("room", 6, 507)] {
        let service = match session {
            "room" => &service.beside(&[("MAX_DISK_MB", "4")]),
            _ => &service,
        };
        let (head, chunk) = chunked(service, &url(session, "f"));
        let mut stream = service.connect();
        stream.write_all(head.as_bytes()).expect("a head");
        for _ in 0..chunks {
            stream.write_all(&chunk).ok();
        }
        assert_eq!(conformance::read_response(&mut stream).expect("a response").status, status);
        assert_eq!(service.get("/sessions").json(), json!({"sessions": []}), "{session}");
    }
    // Folders were made on the way.
    let tag = [("If-Match", "\"tag\"")];
    assert_eq!(service.request("PUT", &url("condition", "a/b/f"), &tag, b"x").status, 412);
    assert_eq!(sessions(), 0);
    // A client that goes away in the middle.
    let half = service.request_bytes("PUT", &url("half", "f"), &[("Content-Length", "1000")], b"");
    let mut stream = service.connect();
    stream.write_all(&[half.as_slice(), b"half"].concat()).expect("half of a body");
    conformance::wait_until("the session is there", 5, || sessions() == 1);
    drop(stream);
    conformance::wait_until("the session is gone", 5, || sessions() == 0);
    let left = std::fs::read_dir(service.path("workspaces")).expect("a folder").flatten();
    assert_eq!(left.filter(|entry| !entry.file_name().to_string_lossy().starts_with(".run-")).count(), 0);
    // One in which somebody was stays, with what there is in it; one of which something came as well.
    let mut stream = service.connect();
    stream
        .write_all(
            &[service.request_bytes("PUT", &url("used", "f"), &[("Content-Length", "9")], b""), b"half".to_vec()]
                .concat(),
        )
        .expect("half of a body");
    conformance::wait_until("the session is there", 5, || sessions() == 1);
    shell(&service, "used", "true");
    drop(stream);
    assert_eq!(service.request("PUT", &url("kept", "f"), &[], b"x").status, 201);
    assert_eq!(service.request("PUT", &url("kept", "f"), &tag, b"x").status, 412);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(sessions(), 2);
}

/// How much of a gibibyte passes in each direction while the service holds little.
fn large(bytes: u64) {
    let service = Service::with(&[("MAX_DISK_MB", "2048"), ("MAX_FILE_SIZE_MB", "1024")]);
    let session = unique("large");
    let mut stream = service.connect();
    let head = service.request_bytes("PUT", &url(&session, "large"), &[("Content-Length", &bytes.to_string())], b"");
    stream.write_all(&head).expect("a head");
    let block = vec![b'x'; 1 << 20];
    for _ in 0..bytes >> 20 {
        stream.write_all(&block).expect("a block");
    }
    assert_eq!(conformance::read_response(&mut stream).expect("a response").status, 201);
    let mut stream = service.connect();
    stream.write_all(&service.request_bytes("GET", &url(&session, "large"), &[], b"")).expect("a request");
    let (mut received, mut block) = (0, vec![0; 1 << 20]);
    loop {
        match stream.read(&mut block).expect("a block") {
            0 => break,
            count => received += count as u64,
        }
    }
    assert!(received > bytes && received < bytes + 4096, "{received}");
    let most = service.memory_kb("VmHWM");
    assert!(most < 40 << 10, "the service held {most} kB");
}

#[test]
fn a_large_file_is_never_held_in_memory() {
    large(256 << 20);
}

#[test]
#[ignore = "writes a gibibyte: make soak"]
fn a_gibibyte_is_never_held_in_memory() {
    large(1 << 30);
}

#[test]
fn a_file_that_changes_while_it_is_downloaded_is_bounded() {
    let service = Service::start();
    if !service.is_ours() {
        return skipped("a file that changes while it is downloaded", "the service is elsewhere");
    }
    let session = unique("changing");
    shell(&service, &session, "head -c 20000000 /dev/zero > file");
    let start = |path: &str| {
        let mut stream = service.connect();
        stream.write_all(&service.request_bytes("GET", &url(&session, path), &[], b"")).expect("a request");
        let mut first = [0; 1000];
        stream.read_exact(&mut first).expect("its beginning");
        stream
    };
    let received = |mut stream: std::net::TcpStream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(|_| rest.len() + 1000)
    };
    let grows = start("file");
    shell(&service, &session, "head -c 20000000 /dev/zero >> file");
    let length = received(grows).expect("all of it");
    assert!((20_000_000..20_001_000).contains(&length), "{length}");
    let shrinks = start("file");
    shell(&service, &session, ": > file");
    assert!(received(shrinks).is_ok_and(|length| length < 40_000_000), "it ends");
    shell(&service, &session, "head -c 20000000 /dev/zero > file");
    let goes = start("file");
    assert_eq!(service.request("DELETE", &format!("/sessions/{session}"), &[], b"").status, 204);
    let length = received(goes).expect("all of it");
    assert!((20_000_000..20_001_000).contains(&length), "{length}");
}
