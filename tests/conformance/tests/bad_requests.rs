//! Requests that are wrong in every way: each gets its status and code, and the service goes on.

use conformance::{Response, Service, assert_completed, read_response};
use serde_json::{Value, json};
use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Asserts a 400 with a well-formed list of violations, and gives the list.
#[track_caller]
fn violations(response: &Response) -> Vec<(String, String)> {
    let body = response.assert_error(400, "Executor.ValidationError");
    let list = body["error_detail"].as_array().unwrap_or_else(|| panic!("error_detail is a list: {body}"));
    assert!(!list.is_empty(), "{body}");
    list.iter()
        .map(|violation| {
            assert_eq!(conformance::keys(violation), ["field", "message"], "{body}");
            let text = |name: &str| violation[name].as_str().expect("text").to_owned();
            assert!(!text("message").is_empty(), "{body}");
            (text("field"), text("message"))
        })
        .collect()
}

/// A good request with these members changed or added.
fn changed(changes: Value) -> String {
    let mut request = json!({"language": "shell", "code": "echo ran"});
    for (name, value) in changes.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request.to_string()
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let service = Service::start();
    let deep_lists =
        format!(r#"{{"language":"shell","code":":","event":{{"a":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep_objects =
        format!(r#"{{"language":"shell","code":":","event":{}1{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let unclosed = "[".repeat(100_000);
    let with_event = |event: &str| format!(r#"{{"language":"shell","code":":","event":{event}}}"#);
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("empty", b"".to_vec()),
        ("white space", b" \r\n\t".to_vec()),
        ("an open brace", b"{".to_vec()),
        ("plain text", b"print('hello')".to_vec()),
        ("a list", b"[]".to_vec()),
        ("null", b"null".to_vec()),
        ("a string", b"\"text\"".to_vec()),
        ("a number", b"42".to_vec()),
        ("a form", b"language=shell&code=echo".to_vec()),
        ("cut off", br#"{"language":"shell","code":"ec"#.to_vec()),
        ("a trailing comma", br#"{"language":"shell","code":":",}"#.to_vec()),
        ("single quotes", b"{'language':'shell','code':':'}".to_vec()),
        ("a comment", br#"{"language":"shell",/* why */"code":":"}"#.to_vec()),
        ("two values", br#"{"language":"shell","code":":"} {}"#.to_vec()),
        ("text behind it", br#"{"language":"shell","code":":"} echo"#.to_vec()),
        ("NaN", with_event(r#"{"a":NaN}"#).into()),
        ("Infinity", with_event(r#"{"a":Infinity}"#).into()),
        ("-Infinity", with_event(r#"{"a":-Infinity}"#).into()),
        ("1e999", with_event(r#"{"a":1e999}"#).into()),
        ("-1e999", with_event(r#"{"a":-1e999}"#).into()),
        ("a hexadecimal", with_event(r#"{"a":0x10}"#).into()),
        ("a leading zero", with_event(r#"{"a":010}"#).into()),
        ("a lone surrogate", br#"{"language":"shell","code":"\ud800"}"#.to_vec()),
        ("a raw line feed in a string", b"{\"language\":\"shell\",\"code\":\"a\nb\"}".to_vec()),
        ("invalid UTF-8 in code", b"{\"language\":\"shell\",\"code\":\"\xff\xfe\"}".to_vec()),
        ("invalid UTF-8 in the event", b"{\"language\":\"shell\",\"code\":\":\",\"event\":{\"a\":\"\xc3\"}}".to_vec()),
        ("an overlong encoding", b"{\"language\":\"shell\",\"code\":\"\xc0\xaf\"}".to_vec()),
        ("UTF-16", "{\"code\":\":\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("code twice", br#"{"language":"shell","code":":","code":"echo ran"}"#.to_vec()),
        ("code twice, once escaped", br#"{"language":"shell","code":":","c\u006fde":"echo ran"}"#.to_vec()),
        ("a key twice in the event", with_event(r#"{"a":1,"a":2}"#).into()),
        ("a key twice far inside", with_event(r#"{"a":[{"b":{"c":1,"d":2,"c":3}}]}"#).into()),
        ("a variable twice", br#"{"language":"shell","code":":","env_vars":{"A":"1","A":"2"}}"#.to_vec()),
        ("a limit twice", br#"{"language":"shell","code":":","limits":{"memory_mb":64,"memory_mb":65}}"#.to_vec()),
        ("100,000 deep lists", deep_lists.into()),
        ("100,000 deep objects", deep_objects.into()),
        ("100,000 open brackets", unclosed.into()),
        ("129 deep", nested(129).into()),
    ];
    for (name, body) in bodies {
        println!("{name}");
        violations(&service.post(body));
    }
    service.assert_alive();
}

/// A request whose JSON is so many levels deep, the request itself being the first.
fn nested(depth: usize) -> String {
    format!(
        r#"{{"language":"python","code":"def handler(event): return event","event":{{"a":{}{}}}}}"#,
        "[".repeat(depth - 2),
        "]".repeat(depth - 2)
    )
}

#[test]
fn json_may_be_128_levels_deep() {
    let response = Service::start().post(nested(128));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_completed(&response.json());
}

#[test]
fn a_wrong_field_is_refused_by_name() {
    let service = Service::start();
    let long = "x".repeat(10_240);
    let too_long = "x".repeat(129);
    let mut cases: Vec<(&str, Value)> = vec![
        ("code", json!({"code": ""})),
        ("code", json!({"code": null})),
        ("code", json!({"code": 5})),
        ("code", json!({"code": ["echo"]})),
        ("code", json!({"code": {"a": 1}})),
        ("code", json!({"code": "x".repeat((1 << 20) + 1)})),
        ("language", json!({"language": "ruby"})),
        ("language", json!({"language": ""})),
        ("language", json!({"language": null})),
        ("language", json!({"language": 5})),
        ("language", json!({"language": "python\u{0}"})),
        ("timeout", json!({"timeout": 0})),
        ("timeout", json!({"timeout": -1})),
        ("timeout", json!({"timeout": 1.5})),
        ("timeout", json!({"timeout": 1e18})),
        ("timeout", json!({"timeout": 3601})),
        ("timeout", json!({"timeout": u64::MAX})),
        ("timeout", json!({"timeout": "5"})),
        ("timeout", json!({"timeout": true})),
        ("timeout", json!({"timeout": [5]})),
        ("event", json!({"event": "text"})),
        ("event", json!({"event": [1]})),
        ("event", json!({"event": 5})),
        ("__timeout", json!({"event": {"__timeout": 0}})),
        ("__timeout", json!({"event": {"__timeout": -1}})),
        ("__timeout", json!({"event": {"__timeout": 1.5}})),
        ("__timeout", json!({"event": {"__timeout": "5"}})),
        ("__timeout", json!({"event": {"__timeout": 3601}})),
        ("env_vars", json!({"env_vars": []})),
        ("env_vars", json!({"env_vars": "A=1"})),
        ("env_vars", json!({"env_vars": {"A": 5}})),
        ("env_vars", json!({"env_vars": {"A": null}})),
        ("env_vars", json!({"env_vars": {"A=B": "x"}})),
        ("env_vars", json!({"env_vars": {"": "x"}})),
        ("env_vars", json!({"env_vars": {"1A": "x"}})),
        ("env_vars", json!({"env_vars": {"A B": "x"}})),
        ("env_vars", json!({"env_vars": {"A-B": "x"}})),
        ("env_vars", json!({"env_vars": {"É": "x"}})),
        ("env_vars", json!({"env_vars": {"A\n": "x"}})),
        ("env_vars", json!({"env_vars": {"A\u{0}": "x"}})),
        ("env_vars", json!({"env_vars": {"A": "a\u{0}b"}})),
        ("stdin", json!({"stdin": 5})),
        ("stdin", json!({"stdin": ["x"]})),
        ("working_directory", json!({"working_directory": 5})),
        ("working_directory", json!({"working_directory": "../x"})),
        ("working_directory", json!({"working_directory": "a/../../b"})),
        ("working_directory", json!({"working_directory": "a/.."})),
        ("working_directory", json!({"working_directory": "/etc"})),
        ("working_directory", json!({"working_directory": "a\u{0}b"})),
        ("mode", json!({"mode": "fast"})),
        ("mode", json!({"mode": ""})),
        ("mode", json!({"mode": 5})),
        ("limits", json!({"limits": []})),
        ("limits", json!({"limits": 5})),
        ("memory_mb", json!({"limits": {"memory_mb": 0}})),
        ("memory_mb", json!({"limits": {"memory_mb": -1}})),
        ("memory_mb", json!({"limits": {"memory_mb": "64"}})),
        ("memory_mb", json!({"limits": {"memory_mb": 513}})),
        ("memory_mb", json!({"limits": {"memory_mb": u64::MAX}})),
        ("cpu_cores", json!({"limits": {"cpu_cores": 0}})),
        ("cpu_cores", json!({"limits": {"cpu_cores": -0.5}})),
        ("cpu_cores", json!({"limits": {"cpu_cores": 2}})),
        ("cpu_cores", json!({"limits": {"cpu_cores": "1"}})),
        ("processes", json!({"limits": {"processes": 0}})),
        ("processes", json!({"limits": {"processes": 129}})),
        ("processes", json!({"limits": {"processes": 1.5}})),
        ("output_bytes", json!({"limits": {"output_bytes": -1}})),
        ("output_bytes", json!({"limits": {"output_bytes": 10_485_761}})),
        ("colour", json!({"colour": "red"})),
        ("Code", json!({"Code": "x"})),
        ("colour", json!({"limits": {"colour": 1}})),
        ("__proto__", json!({"__proto__": {}})),
    ];
    for field in ["execution_id", "session_id"] {
        for id in [
            json!(""),
            json!("../x"),
            json!(".."),
            json!(".hidden"),
            json!("-x"),
            json!("_x"),
            json!("a/b"),
            json!("a\\b"),
            json!("%2e%2e"),
            json!("%2e%2e%2fx"),
            json!("a b"),
            json!("a\u{0}b"),
            json!("a\nb"),
            json!("é"),
            json!(long),
            json!(too_long),
            json!(5),
            json!(["x"]),
        ] {
            cases.push((field, json!({field: id})));
        }
    }
    for (field, changes) in cases {
        let body = changed(changes);
        println!("{field}: {}", body.chars().take(150).collect::<String>());
        let list = violations(&service.post(body));
        let named = list.iter().any(|(name, message)| name.contains(field) || message.contains(field));
        assert!(named, "{field} is not named in {list:?}");
    }
    service.assert_alive();
}

#[test]
fn what_is_required_is_missed_by_name() {
    let service = Service::start();
    for (body, fields) in [
        (json!({}), &["code", "language"][..]),
        (json!({"language": "python"}), &["code"]),
        (json!({"code": "print(1)"}), &["language"]),
        (json!({"timeout": 5, "event": {}}), &["code", "language"]),
    ] {
        let list = violations(&service.post(body.to_string()));
        for field in fields {
            assert!(list.iter().any(|(name, _)| name == field), "{list:?}");
        }
        assert_eq!(list.len(), fields.len(), "{list:?}");
    }
}

#[test]
fn all_violations_come_in_one_answer() {
    let list = violations(
        &Service::start().post(
            json!({
                "code": "", "language": "ruby", "timeout": 0, "session_id": "../x", "execution_id": 5,
                "env_vars": {"A=B": "", "1": ""}, "mode": "fast", "working_directory": "/etc",
                "limits": {"memory_mb": 1_000_000, "colour": 1}, "colour": "red", "event": {"__timeout": "x"}
            })
            .to_string(),
        ),
    );
    let text = format!("{list:?}");
    for field in [
        "code",
        "language",
        "timeout",
        "session_id",
        "execution_id",
        "env_vars",
        "mode",
        "working_directory",
        "memory_mb",
        "colour",
        "__timeout",
    ] {
        assert!(text.contains(field), "{field} is not named in {text}");
    }
    assert!(list.len() >= 12, "{list:?}");
}

#[test]
fn ids_and_limits_at_their_bounds_are_taken() {
    let service = Service::start();
    let longest = format!("a{}", "b".repeat(127));
    for changes in [
        json!({"session_id": longest}),
        json!({"session_id": "0"}),
        json!({"session_id": "a.b_c-D..e"}),
        json!({"timeout": 3600}),
        json!({"timeout": 1}),
        json!({"event": {"__timeout": 3600}}),
        json!({"limits": {"memory_mb": 512, "cpu_cores": 1, "processes": 128, "output_bytes": 10_485_760}}),
        json!({"limits": {"cpu_cores": 0.5}}),
        json!({"limits": {}}),
        json!({"env_vars": {}}),
        json!({"env_vars": {"_a1": "x", "A": ""}}),
        json!({"mode": "auto"}),
        json!({"code": "echo ran"}),
    ] {
        let response = service.post(changed(changes.clone()));
        assert_eq!(response.status, 200, "{changes}: {}", response.text());
        assert_eq!(response.json()["stdout"], "ran\n", "{changes}");
    }
    let longest = format!("{}{longest}", std::process::id())[..128].to_owned();
    let answer = service.execute(json!({"language": "shell", "code": ":", "execution_id": longest}));
    assert_eq!(answer["execution_id"], longest);
}

#[test]
fn configured_bounds_of_a_request_hold() {
    let service = Service::with(&[
        ("MAX_BODY_BYTES", "2000"),
        ("MAX_CODE_BYTES", "100"),
        ("MAX_TIMEOUT", "10"),
        ("MAX_EXECUTION_TIME", "5"),
        ("MAX_MEMORY_MB", "128"),
    ]);
    let code = |size: usize| format!("{:#<size$}", "echo ran ");
    assert_eq!(service.post(changed(json!({"code": code(100)}))).status, 200);
    violations(&service.post(changed(json!({"code": code(101)}))));
    let umlauts = format!("# {}", "ü".repeat(50));
    violations(&service.post(changed(json!({"code": umlauts}))));
    violations(&service.post(changed(json!({"timeout": 11}))));
    violations(&service.post(changed(json!({"event": {"__timeout": 11}}))));
    violations(&service.post(changed(json!({"limits": {"memory_mb": 129}}))));

    let body = |size: usize| {
        let body = changed(json!({}));
        let padding = " ".repeat(size - body.len());
        body + &padding
    };
    assert_eq!(service.post(body(2000)).status, 200);
    for size in [2001, 10_000, 5_000_000] {
        service.post(body(size)).assert_error(413, "Executor.PayloadTooLarge");
    }
    service.assert_alive();
}

#[test]
fn a_body_over_the_bound_is_refused_before_it_is_sent() {
    let service = Service::with(&[("MAX_BODY_BYTES", "2000")]);
    for length in ["2001", "1000000000000", "9000000000000000000"] {
        let mut stream = service.connect();
        write!(stream, "POST /execute HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n{{", service.address())
            .expect("the head is sent");
        let start = Instant::now();
        let response = read_response(&stream).expect("an answer");
        response.assert_error(413, "Executor.PayloadTooLarge");
        assert!(start.elapsed() < Duration::from_secs(3), "{length}");
    }
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
    let request = format!(
        "POST /execute HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        service.address(),
        chunk.repeat(3)
    );
    let response = service.raw(request.as_bytes()).expect("an answer");
    response.assert_error(413, "Executor.PayloadTooLarge");
    service.assert_alive();
}

#[test]
fn a_chunked_body_is_as_good_as_any() {
    let service = Service::start();
    let body = changed(json!({}));
    let (first, second) = body.split_at(7);
    let request =
        service.request_bytes("POST", "/execute", &[("Transfer-Encoding", "chunked"), ("Content-Length", "")], b"");
    let request = String::from_utf8(request).expect("text").replace("Content-Length: \r\n", "");
    let response = service
        .raw(format!("{request}{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len()).as_bytes())
        .expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["stdout"], "ran\n");
}

#[test]
fn the_documents_curl_lines_work_without_a_json_content_type() {
    let service = Service::start();
    let body = changed(json!({}));
    for headers in [
        &[][..],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/json; charset=utf-8")],
        &[("Content-Type", "")],
        &[("Accept", "*/*"), ("User-Agent", "curl/8.0")],
    ] {
        let response = service.request("POST", "/execute", headers, body.as_bytes());
        assert_eq!(response.status, 200, "{headers:?}: {}", response.text());
        assert_eq!(response.json()["stdout"], "ran\n");
    }
}

#[test]
fn a_client_that_asks_before_it_sends_the_body_is_told_to_go_on() {
    let service = Service::start();
    let body = changed(json!({}));
    let bytes = service.request_bytes("POST", "/execute", &[("Expect", "100-continue")], body.as_bytes());
    let (head, body) = bytes.split_at(bytes.len() - body.len());
    let mut stream = service.connect();
    stream.write_all(head).expect("the head is sent");
    assert_eq!(read_response(&stream).expect("an answer").status, 100);
    stream.write_all(body).expect("the body is sent");
    assert_eq!(read_response(&stream).expect("an answer").status, 200);
}

#[test]
fn a_malformed_request_gets_400_or_an_end() {
    let service = Service::start();
    let host = format!("Host: {}", service.address());
    let long = "x".repeat(2_000_000);
    let cases = [
        ("binary", "\0\u{1}\u{2}\r\n\r\n".to_owned()),
        ("not HTTP", "hello there\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{1}\0\r\n\r\n".to_owned()),
        ("no version", format!("GET /health\r\n{host}\r\n\r\n")),
        ("a wrong version", format!("GET /health HTTP/9.9\r\n{host}\r\n\r\n")),
        ("a space in the path", format!("GET /he alth HTTP/1.1\r\n{host}\r\n\r\n")),
        ("no colon", format!("GET /health HTTP/1.1\r\n{host}\r\nnonsense\r\n\r\n")),
        ("a header name with a space", format!("GET /health HTTP/1.1\r\n{host}\r\na b: c\r\n\r\n")),
        ("a NUL in a header", format!("GET /health HTTP/1.1\r\n{host}\r\na: b\0c\r\n\r\n")),
        ("a huge header", format!("GET /health HTTP/1.1\r\n{host}\r\na: {long}\r\n\r\n")),
        ("a huge path", format!("GET /{long} HTTP/1.1\r\n{host}\r\n\r\n")),
        ("a length that is text", format!("POST /execute HTTP/1.1\r\n{host}\r\nContent-Length: abc\r\n\r\n{{}}")),
        ("a negative length", format!("POST /execute HTTP/1.1\r\n{host}\r\nContent-Length: -1\r\n\r\n{{}}")),
        (
            "a length over 64 bits",
            format!("POST /execute HTTP/1.1\r\n{host}\r\nContent-Length: 99999999999999999999999\r\n\r\n{{}}"),
        ),
        (
            "two lengths",
            format!("POST /execute HTTP/1.1\r\n{host}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
        ),
        (
            "a chunk of no size",
            format!("POST /execute HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{{}}\r\n0\r\n\r\n"),
        ),
        ("a cut chunk", format!("POST /execute HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{{}}")),
        ("a truncated body", format!("POST /execute HTTP/1.1\r\n{host}\r\nContent-Length: 500\r\n\r\n{{\"code\":")),
    ];
    for (name, bytes) in cases {
        println!("{name}");
        let start = Instant::now();
        if let Ok(response) = service.raw_to_its_end(bytes.as_bytes()) {
            assert!(
                (400..=431).contains(&response.status) || response.status == 505,
                "{name}: {} {}",
                response.status,
                response.text()
            );
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{name}");
    }
    let many: String = (0..5000).map(|n| format!("x-{n}: y\r\n")).collect();
    if let Ok(response) = service.raw(format!("GET /health HTTP/1.1\r\n{host}\r\n{many}\r\n").as_bytes()) {
        assert!((400..=431).contains(&response.status), "{}", response.status);
    }
    service.assert_alive();
}

#[test]
fn a_length_that_is_too_small_cuts_the_body_there() {
    let service = Service::start();
    let body = changed(json!({}));
    let mut bytes = service.request_bytes("POST", "/execute", &[("Content-Length", "10")], b"");
    bytes.extend(body.as_bytes());
    violations(&service.raw(&bytes).expect("an answer"));
    service.assert_alive();
}

#[test]
fn a_head_that_comes_slowly_is_cut_off() {
    let service = Service::start();
    let mut stream = service.connect();
    let start = Instant::now();
    stream
        .write_all(format!("GET /health HTTP/1.1\r\nHost: {}\r\nx-slow: ", service.address()).as_bytes())
        .expect("the beginning is sent");
    let mut reader = stream.try_clone().expect("a second handle");
    let answer = std::thread::spawn(move || read_response(&mut reader));
    while !answer.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(20), "still open");
        let _ = stream.write_all(b"a");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(start.elapsed() > Duration::from_secs(3), "no patience at all");
    if let Ok(response) = answer.join().expect("the reader") {
        assert!([400, 408].contains(&response.status), "{}", response.status);
    }
    service.assert_alive();
}

#[test]
fn a_body_that_stops_coming_is_cut_off() {
    let service = Service::start();
    let body = changed(json!({}));
    let bytes = service.request_bytes("POST", "/execute", &[], body.as_bytes());
    let mut stream = service.connect();
    stream.write_all(&bytes[..bytes.len() - 5]).expect("most of it is sent");
    let start = Instant::now();
    if let Ok(response) = read_response(&stream) {
        assert_eq!(response.status, 408, "{}", response.text());
    }
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    assert!(elapsed > Duration::from_secs(3), "no patience at all: {elapsed:?}");
    service.assert_alive();
}

#[test]
#[ignore = "takes over a minute"]
fn a_body_that_drips_is_cut_off() {
    let service = Service::start();
    let body = changed(json!({"code": format!("# {}", "x".repeat(1000))}));
    let bytes = service.request_bytes("POST", "/execute", &[], body.as_bytes());
    let mut stream = service.connect();
    let mut reader = stream.try_clone().expect("a second handle");
    let answer = std::thread::spawn(move || read_response(&mut reader));
    let start = Instant::now();
    for byte in bytes {
        if answer.is_finished() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(75), "still open");
        let _ = stream.write_all(&[byte]);
        std::thread::sleep(Duration::from_millis(500));
    }
    if let Ok(response) = answer.join().expect("the reader") {
        assert_eq!(response.status, 408, "{}", response.text());
    }
    service.assert_alive();
}

#[test]
fn slow_clients_do_not_hold_the_others_up() {
    let service = Service::start();
    let slow: Vec<_> = (0..200)
        .map(|n| {
            let mut stream = service.connect();
            let part: &[u8] = if n % 2 == 0 {
                b"POST /execute HTTP/1.1\r\n"
            } else {
                b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            };
            stream.write_all(part).expect("a part is sent");
            stream
        })
        .collect();
    let start = Instant::now();
    service.assert_alive();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(slow);
    service.assert_alive();
}

#[test]
fn a_client_that_leaves_at_once_does_no_harm() {
    let service = Service::start();
    for _ in 0..50 {
        drop(service.connect());
        let mut stream = service.connect();
        let bytes = service.request_bytes("POST", "/execute", &[], changed(json!({})).as_bytes());
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Both);
    }
    service.assert_alive();
}

#[test]
fn unknown_paths_and_methods_are_told_in_the_same_shape() {
    let service = Service::start();
    for path in ["/nothing", "/execute/", "/executes", "/../etc/passwd", "/%2e%2e/etc/passwd", "/%00", "/health/x"] {
        service.get(path).assert_error(404, "Executor.NotFound");
    }
    for (method, path, allowed) in [
        ("GET", "/execute", "POST"),
        ("PUT", "/execute", "POST"),
        ("DELETE", "/execute", "POST"),
        ("POST", "/health", "GET"),
        ("DELETE", "/info", "GET"),
        ("PATCH", "/", "GET"),
        ("NONSENSE", "/health", "GET"),
    ] {
        let response = service.request(method, path, &[], b"");
        response.assert_error(405, "Executor.MethodNotAllowed");
        let allow = response.header("allow").unwrap_or_default();
        assert!(allow.split(',').any(|name| name.trim() == allowed), "{method} {path}: Allow: {allow:?}");
    }
}

#[test]
fn every_response_has_a_request_id() {
    let service = Service::start();
    let get = |path: &str, id: Option<&str>| {
        let headers: Vec<_> = id.into_iter().map(|id| ("X-Request-Id", id)).collect();
        let response = service.request("GET", path, &headers, b"");
        response.header("x-request-id").expect("a request id").to_owned()
    };
    let well_formed = |id: &str| {
        id.len() <= 128
            && id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    for path in ["/", "/health", "/info", "/nothing", "/execute"] {
        assert_eq!(get(path, Some("abc-123.X_9")), "abc-123.X_9", "{path}");
        let (first, second) = (get(path, None), get(path, None));
        assert!(well_formed(&first), "{first}");
        assert_ne!(first, second, "{path}");
        for bad in ["../x", "a b", "<script>", "-a", &"x".repeat(129), ""] {
            let id = get(path, Some(bad));
            assert!(id != bad && well_formed(&id), "{path}: {bad} gave {id}");
        }
    }
    let body = changed(json!({}));
    let response = service.request("POST", "/execute", &[("x-request-id", "mine")], body.as_bytes());
    assert_eq!(response.header("x-request-id"), Some("mine"));
    let response = service.request("POST", "/execute", &[("x-request-id", "mine")], b"{");
    assert_eq!(response.assert_error(400, "Executor.ValidationError")["request_id"], "mine");
}

#[test]
fn a_token_is_asked_for_everywhere_but_at_health() {
    let token = "correct-horse-battery";
    let service = Service::with(&[("EXECUTOR_API_TOKEN", token)]);
    let mut bodies = Vec::new();
    let body = changed(json!({}));
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer correct-horse-batter",
        "Bearer correct-horse-batteryy",
        "Bearer CORRECT-HORSE-BATTERY",
        "Basic correct-horse-battery",
        "correct-horse-battery",
        "Bearer correct-horse-battery, Bearer x",
        "Bearer \u{fc}",
    ] {
        for (method, path) in
            [("POST", "/execute"), ("GET", "/info"), ("GET", "/"), ("GET", "/nothing"), ("GET", "/execute")]
        {
            let headers = [("Authorization", authorization)];
            let response = service.request(method, path, &headers, body.as_bytes());
            let mut error = response.assert_error(401, "Executor.Unauthorized");
            error["request_id"] = Value::Null;
            bodies.push(error);
        }
        let response = service.request("GET", "/health", &[("Authorization", authorization)], b"");
        assert_eq!(response.status, 200, "{authorization}");
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the error is always the same: {bodies:?}");

    // Refused before the body is looked at.
    let headers = [("Authorization", "Bearer wrong"), ("Content-Length", "1000000000000")];
    let response = service.request("POST", "/execute", &headers, b"{");
    response.assert_error(401, "Executor.Unauthorized");

    assert_eq!(service.get("/info").status, 200);
    service.assert_alive();
    assert!(!service.log().contains(token), "the token is in the log");
}

#[test]
fn a_foreign_origin_is_refused() {
    let service = Service::start();
    let body = changed(json!({}));
    for origin in ["http://evil.example", "null", "http://localhost", "https://127.0.0.1"] {
        for (method, path) in [("POST", "/execute"), ("GET", "/info"), ("OPTIONS", "/execute")] {
            let response = service.request(method, path, &[("Origin", origin)], body.as_bytes());
            response.assert_error(403, "Executor.ForbiddenOrigin");
            assert_eq!(response.header("access-control-allow-origin"), None);
        }
    }
    service.assert_alive();
}

#[test]
fn a_listed_origin_may_call() {
    let service = Service::with(&[
        ("ALLOWED_ORIGINS", "https://app.example,http://localhost:3000"),
        ("EXECUTOR_API_TOKEN", "token"),
    ]);
    let body = changed(json!({}));
    for origin in ["https://app.example", "http://localhost:3000"] {
        let response = service.request("POST", "/execute", &[("Origin", origin)], body.as_bytes());
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));

        // A browser asks first, and sends no token when it does.
        let response = service.request(
            "OPTIONS",
            "/execute",
            &[
                ("Authorization", ""),
                ("Origin", origin),
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", "authorization,content-type"),
            ],
            b"",
        );
        assert!((200..300).contains(&response.status), "{}", response.status);
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));
        let allowed = |name: &str| response.header(name).unwrap_or_default().to_lowercase();
        assert!(allowed("access-control-allow-methods").contains("post"));
        let headers = allowed("access-control-allow-headers");
        assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    }
    for origin in ["https://app.example.evil", "http://app.example", "https://app.example:444", "https://APP.example/x"]
    {
        let response = service.request("POST", "/execute", &[("Origin", origin)], body.as_bytes());
        response.assert_error(403, "Executor.ForbiddenOrigin");
    }
}

#[test]
fn a_foreign_host_is_refused_on_loopback() {
    let service = Service::with(&[]);
    let port = service.address().rsplit(':').next().expect("a port").to_owned();
    let status = |host: &str| service.request("GET", "/info", &[("Host", host)], b"").status;
    for name in ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"] {
        assert_eq!(status(name), 200, "{name}");
        assert_eq!(status(&format!("{name}:{port}")), 200, "{name}");
    }
    let body = changed(json!({}));
    for host in [
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "[::2]",
        "0.0.0.0",
    ] {
        for host in [host.to_owned(), format!("{host}:{port}")] {
            let response = service.request("POST", "/execute", &[("Host", &host)], body.as_bytes());
            response.assert_error(403, "Executor.ForbiddenHost");
        }
    }
    let raw = |head: &str| service.raw(format!("{head}\r\n\r\n").as_bytes()).expect("an answer").status;
    assert_eq!(raw("GET http://localhost/info HTTP/1.1\r\nHost: localhost"), 200);
    assert_eq!(raw("GET /info HTTP/1.1\r\nHost: localhost\r\nHost: evil.example"), 403);
    assert_eq!(raw("GET /info HTTP/1.1\r\nHost: evil.example\r\nHost: localhost"), 403);
    assert_eq!(raw("GET http://evil.example/info HTTP/1.1\r\nHost: localhost"), 403);
    let nameless = raw("GET /info HTTP/1.1");
    assert!([400, 403].contains(&nameless), "{nameless}");
}

#[test]
fn the_hosts_that_are_allowed_can_be_set() {
    let service = Service::with(&[("ALLOWED_HOSTS", "sandbox.example,other.example")]);
    let status = |host: &str| service.request("GET", "/info", &[("Host", host)], b"").status;
    assert_eq!(status("sandbox.example"), 200);
    assert_eq!(status("other.example:8080"), 200);
    assert_eq!(status("evil.example"), 403);

    let service = Service::with(&[("EXECUTOR_API_TOKEN", "token")]);
    let response = service.request("GET", "/info", &[("Host", "any.example")], b"");
    assert_eq!(response.status, 200, "with a token any host may be named");
}
