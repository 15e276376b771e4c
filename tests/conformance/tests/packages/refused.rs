//! What may not be asked for, and what pip is not made to do by it.

use crate::{Index, body, layers, post, sync, version};
use conformance::Service;
use serde_json::{Value, json};

#[test]
fn nothing_but_packages_with_a_version_reaches_pip() {
    let index = Index::new();
    index.add_module("good", "1.0");
    let service = index.service(&[]);
    let evil = Index::new();
    evil.add_module("good", "6.6.6");
    let url = evil.url();
    let attacks = [
        "good".to_owned(),
        format!("--index-url={url}"),
        format!("--extra-index-url {url}"),
        format!("good==1.0 --index-url {url}"),
        format!("good==1.0\n--index-url {url}"),
        format!("--find-links={url}/good/"),
        "-r /etc/passwd".into(),
        "-c /etc/passwd".into(),
        "-e .".into(),
        "--target=/tmp".into(),
        "--no-binary=:all:".into(),
        "../x".into(),
        "/workspace".into(),
        ".".into(),
        "good.whl".into(),
        format!("{url}/good/good-6.6.6-py3-none-any.whl"),
        format!("good @ {url}/good/good-6.6.6-py3-none-any.whl"),
        "pkg @ file:///etc/passwd".into(),
        "git+https://127.0.0.1/x".into(),
        "pkg @ git+file:///x".into(),
        "x; os.system('id')".into(),
        "x==1; os.system('id')".into(),
        "good==1.0; python_version > '3'".into(),
        "$(id)==1".into(),
        "good==1.0 # comment".into(),
        "good==1.0\0".into(),
        "ɡood==1.0".into(),
    ];
    for attack in &attacks {
        let refused = post(&service, &body("s", &[attack], "replace")).assert_error(400, "Executor.ValidationError");
        assert_eq!(refused["error_detail"][0]["field"], "dependencies.0", "{attack:?}: {refused}");
    }
    let all: Vec<&str> = attacks.iter().map(String::as_str).chain(["good==1.0"]).collect();
    let refused = post(&service, &body("s", &all, "replace")).assert_error(400, "Executor.ValidationError");
    assert_eq!(refused["error_detail"].as_array().map(Vec::len), Some(attacks.len()), "{refused}");
    assert_eq!((index.requests(), evil.requests()), (Vec::new(), Vec::new()));
    assert_eq!(layers(&service.path("state")), [""; 0]);
    // That the index can be used, and what would have come of the other one.
    assert_eq!(sync(&service, "s", &["good==1.0"], "replace"), ["good 1.0"]);
    assert_eq!(sync(&evil.service(&[]), "s", &["good>=1"], "replace"), ["good 6.6.6"]);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let service = Service::with(&[]);
    let wrong = json!({"session_id": "../x", "language_runtime": "ruby", "dependencies": ["a", 7], "sync_mode": "add",
        "python_package_index_url": "https://me:secret@elsewhere.example/simple", "more": 1});
    let refused = post(&service, &wrong).assert_error(400, "Executor.ValidationError");
    let fields: Vec<&str> =
        refused["error_detail"].as_array().into_iter().flatten().filter_map(|one| one["field"].as_str()).collect();
    let expected = [
        "session_id",
        "python_package_index_url",
        "language_runtime",
        "dependencies.0",
        "dependencies.1",
        "sync_mode",
        "more",
    ];
    assert_eq!(fields, expected);
    assert!(!refused.to_string().contains("secret") && !service.log().contains("secret"));
    for (body, field) in
        [(json!([]), "body"), (json!({"dependencies": []}), "session_id"), (json!({"session_id": "s"}), "dependencies")]
    {
        let refused = post(&service, &body).assert_error(400, "Executor.ValidationError");
        assert_eq!(refused["error_detail"][0]["field"], field);
    }
    service.get("/internal/session-config/sync").assert_error(405, "Executor.MethodNotAllowed");
    let many: Vec<String> = (0..300).map(|number| format!("a{number}==1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    post(&service, &body("s", &many, "replace")).assert_error(400, "Executor.ValidationError");
}

#[test]
fn only_an_allowed_index_is_asked() {
    let (first, second, other) = (Index::new(), Index::new(), Index::new());
    for (index, version) in [(&first, "1.0"), (&second, "2.0"), (&other, "3.0")] {
        index.add_module("one", version);
    }
    let allowed = format!("{},{}/", first.url(), second.url());
    let service = Service::with(&[("ALLOWED_INDEX_URLS", &allowed)]);
    let ask = |url: Value| {
        let mut body = body("s", &["one>=1"], "replace");
        body["python_package_index_url"] = url;
        post(&service, &body)
    };
    for url in [Value::Null, json!(""), json!(first.url())] {
        assert_eq!(ask(url).status, 200);
        assert_eq!(version(&service, "s", "one"), "1.0");
    }
    assert_eq!(ask(json!(second.url())).status, 200);
    assert_eq!(version(&service, "s", "one"), "2.0");
    let around = [
        other.url(),
        format!("{}@127.0.0.1:{}", first.url(), other.port),
        format!("{}/../", other.url()),
        first.url().replace("http", "https"),
        format!("{}/one", first.url()),
        format!("{} --index-url {}", first.url(), other.url()),
        "file:///".into(),
        "/etc".into(),
    ];
    for url in around {
        let refused = ask(json!(url)).assert_error(400, "Executor.ValidationError");
        assert_eq!(refused["error_detail"][0]["field"], "python_package_index_url", "{url}");
    }
    assert_eq!(other.requests(), [""; 0]);
    assert_eq!(version(&service, "s", "one"), "2.0");
}

#[test]
fn a_password_of_an_index_is_used_and_never_shown() {
    let index = Index::with("me:s3cr@t-w0rd", 0.0);
    index.add_module("one", "1.0");
    let with = |password: &str| index.url().replace("//", &format!("//me:{password}@"));
    let service = Service::with(&[("ALLOWED_INDEX_URLS", &with("s3cr%40t-w0rd")), ("LOG_LEVEL", "DEBUG")]);
    let mut request = body("s", &["one==1.0"], "replace");
    request["python_package_index_url"] = json!(index.url());
    assert_eq!(post(&service, &request).status, 200);
    let failed = post(&service, &body("s", &["two==1.0"], "replace"));
    failed.assert_error(422, "Executor.DependencyInstallError");
    let info = service.get("/info");
    assert!(info.text().contains("[redacted]@127.0.0.1"), "{}", info.text());
    let log = service.log();
    assert!(log.contains("[redacted]@127.0.0.1") && log.contains("pip: "), "{log}");
    let variables = crate::run(&service, "s", "shell", "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true");
    for text in [failed.text(), info.text(), &log, &variables] {
        assert!(!text.contains("s3cr"), "{text}");
    }
    // Nor where it is wrong.
    let service = Service::with(&[("ALLOWED_INDEX_URLS", &with("wr0ng-w0rd")), ("LOG_LEVEL", "DEBUG")]);
    let refused = post(&service, &body("s", &["one==1.0"], "replace"));
    refused.assert_error(422, "Executor.DependencyInstallError");
    assert!(!format!("{}{}", refused.text(), service.log()).contains("wr0ng"), "{}", refused.text());
}
