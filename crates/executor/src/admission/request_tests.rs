use super::*;
use proptest::prelude::*;
use serde_json::json;

fn ceilings() -> Ceilings {
    Ceilings {
        code_bytes: 1000,
        default_timeout: Duration::from_secs(300),
        max_timeout: Duration::from_secs(3600),
        limits: RequestedLimits { memory_mb: 512, cpu_cores: 1.0, processes: 128, output_bytes: 1000 },
    }
}

fn judge(body: &str) -> Result<ExecuteRequest, Vec<Violation>> {
    parse(body.as_bytes(), &ceilings())
}

fn fields_violated(body: serde_json::Value) -> Vec<String> {
    judge(&body.to_string()).unwrap_err().into_iter().map(|violation| violation.field).collect()
}

#[test]
fn the_least_request_gets_every_default() {
    let request = judge(r#"{"code":"1","language":"python3"}"#).unwrap();
    assert!(is_id(&request.execution_id) && request.execution_id.starts_with("exec_2"), "{}", request.execution_id);
    assert_eq!(request.execution_id.len(), "exec_YYYYMMDD_".len() + 16);
    assert_eq!((request.session_id, request.language, request.mode), (None, Language::Python, Mode::Auto));
    assert_eq!((request.timeout, request.event.get()), (Duration::from_secs(300), "{}"));
    assert_eq!(request.limits, ceilings().limits);
}

#[test]
fn the_event_passes_as_written_and_its_timeout_goes_first() {
    let event = r#"{"n":1000000000000000000000000000000, "__timeout":7}"#;
    let request = judge(&format!(r#"{{"code":"1","language":"sh","timeout":9,"event":{event}}}"#)).unwrap();
    assert_eq!(request.event.get(), event);
    assert_eq!(request.timeout, Duration::from_secs(7));
}

#[test]
fn all_violations_come_at_once() {
    let fields = fields_violated(json!({
        "code": "", "language": "cobol", "timeout": 0, "event": [], "execution_id": "../x", "session_id": ".",
        "env_vars": {"A=B": "", "C": 1, "D": "\u{0}"}, "stdin": 1, "working_directory": "../x", "mode": "maybe",
        "limits": {"memory_mb": 513, "cpu_cores": 2, "processes": 0, "output_bytes": -1, "speed": 1}, "colour": "red",
    }));
    let expected = "code language execution_id session_id timeout event env_vars.A=B env_vars.C env_vars.D stdin \
        working_directory mode limits.cpu_cores limits.memory_mb limits.output_bytes limits.processes limits.speed colour";
    assert_eq!(fields.join(" "), expected);
}

#[test]
fn timeouts_are_integers_in_range() {
    for bad in ["0", "-1", "1e18", "1.5", "1.0", "\"5\"", "true", "3601", "99999999999999999999999"] {
        let body = format!(r#"{{"code":"1","language":"sh","timeout":{bad}}}"#);
        assert_eq!(judge(&body).unwrap_err()[0].field, "timeout", "{bad}");
        let body = format!(r#"{{"code":"1","language":"sh","event":{{"__timeout":{bad}}}}}"#);
        assert_eq!(judge(&body).unwrap_err()[0].field, "event.__timeout", "{bad}");
    }
}

#[test]
fn a_body_that_is_no_strict_json_object_is_one_violation() {
    let deep = format!(r#"{{"code":"1","language":"sh","event":{{"a":{}1{}}}}}"#, "[".repeat(127), "]".repeat(127));
    let bad = ["", "[]", "1", "{", r#"{"code":NaN}"#, r#"{"code":"a","code":"b"}"#, r#"{"event":{"x":1e999}}"#, &deep];
    for body in bad {
        assert_eq!(judge(body).unwrap_err()[0].field, "body", "{body}");
    }
    assert_eq!(parse(b"{\"code\":\"\xff\"}", &ceilings()).unwrap_err()[0].field, "body");
}

#[test]
fn null_counts_as_absent_and_what_is_required_must_be_there() {
    let nulls = r#"{"code":"1","language":"sh","timeout":null,"event":null,"session_id":null,"limits":null}"#;
    assert!(judge(nulls).is_ok());
    assert_eq!(fields_violated(json!({"code": null})), ["code", "language"]);
}

#[test]
fn a_working_directory_is_made_plain() {
    for (given, plain) in [("a/b", "a/b"), ("./a//b/", "a/b"), (".", ""), ("", "")] {
        let body = json!({"code": "1", "language": "sh", "working_directory": given}).to_string();
        assert_eq!(judge(&body).unwrap().working_directory, plain);
    }
    for bad in ["/etc", "a/../b", "..", "a\u{0}"] {
        let body = json!({"code": "1", "language": "sh", "working_directory": bad});
        assert_eq!(fields_violated(body), ["working_directory"]);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body, &ceilings());
    }

    #[test]
    fn no_member_makes_it_panic(
        name in "(code|language|timeout|event|limits|env_vars|mode|stdin|x)",
        value in "[\\[\\]{}\":,0-9a-z.\\-]{0,30}",
    ) {
        let _ = judge(&format!(r#"{{"code":"1","language":"sh","{name}":{value}}}"#));
    }

    #[test]
    fn an_id_is_safe_as_a_file_name(text in "[a-zA-Z0-9./_\\-\\x00]{0,140}") {
        if is_id(&text) {
            prop_assert!(!text.contains(['/', '\0']) && !text.starts_with('.') && !text.is_empty() && text.len() <= 128);
        }
    }
}
