use super::property::ceilings;
use super::*;
use proptest::prelude::*;
use serde_json::json;

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

#[test]
fn every_seed_of_the_fuzzer_is_judged_right() {
    let seeds = |target: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let seeds = std::fs::read_dir(folder).expect("the seeds are committed");
        seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a readable seed"))
    };
    let accepted: Vec<_> = seeds("request").map(|body| property::holds(&body)).collect();
    assert!(accepted.contains(&true) && accepted.contains(&false), "{accepted:?}");
    let names: Vec<_> = seeds("names").map(|text| property::names_hold(&String::from_utf8_lossy(&text))).collect();
    for expected in [(true, true), (false, true), (false, false)] {
        assert!(names.contains(&expected), "no seed of {expected:?}");
    }
}

/// A member that is often right, and then often at its bound.
fn any_member() -> impl Strategy<Value = (&'static str, String)> {
    let id = r#""[a-zA-Z0-9._/-]{1,12}""#;
    let (memory, processes) = (r#""memory_mb":(1|512|513)"#, r#""processes":(1|128|129)"#);
    let (output, cores) = (r#""output_bytes":(0|1000|1001)"#, r#""cpu_cores":(0\.5|1|1\.01)"#);
    let disk = r#""disk_mb":(0|1|1024|1025)"#;
    let path = r#""(/|\./|\.\./)?[ab](/|//|/\.\./)?[ab]?/?""#;
    let members = [
        ("files", format!(r#"\{{({path}:"(aGk=|aGk|!)?"(,"a\.?b?":"")?)?\}}"#)),
        ("outputs", format!(r#"\[({path}(,"[\[*?{{a]{{1,3}}")?)?\]"#)),
        ("timeout", "(1|300|3600|3601|0)".to_owned()),
        ("event", r#"\{("__timeout":(1|60|3601|null))?\}"#.to_owned()),
        ("env_vars", r#"\{("[A-Z_][A-Z0-9]{0,3}=?":"[a-z]{0,3}(\\u0000)?")?\}"#.to_owned()),
        ("execution_id", id.to_owned()),
        ("session_id", id.to_owned()),
        ("stdin", r#""[ -!#-\[\]-~]{0,8}""#.to_owned()),
        ("working_directory", r#""/?[a-z./%]{0,8}""#.to_owned()),
        ("mode", r#""(auto|handler|script|maybe)""#.to_owned()),
        ("limits", format!(r#"\{{({memory}|{processes}|{output}|{cores}|{disk}|"speed":1)\}}"#)),
        ("colour", "1".to_owned()),
    ];
    let members = members.map(|(name, pattern)| {
        let good = prop::string::string_regex(&pattern).expect("a pattern");
        let value = prop_oneof![8 => good, 1 => r#"[\[\]{}":,0-9a-z.\-]{0,12}"#, 1 => Just("null".to_owned())];
        (Just(name), value)
    });
    prop::strategy::Union::new(members)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_bytes_are_judged_right(body in prop::collection::vec(any::<u8>(), 0..200)) {
        property::holds(&body);
    }

    #[test]
    fn any_members_are_judged_right(
        code in "\"[a-z\\\\n]{0,8}\"",
        language in "\"(python3?|node|nodejs|javascript|shell|bash|sh|cobol)\"",
        members in prop::collection::vec(any_member(), 0..6),
    ) {
        // Each once: a key twice refuses the whole body.
        let members: std::collections::BTreeMap<_, _> = members.into_iter().collect();
        let members: String = members.iter().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
        property::holds(format!(r#"{{"code":{code},"language":{language}{members}}}"#).as_bytes());
    }

    #[test]
    fn any_text_is_judged_right_as_a_name(
        text in r"(\.{0,3}|%2e|/|[a-zA-Z0-9_\-\x00é]{0,140}){0,12}",
        long in ".{0,4}",
    ) {
        property::names_hold(&text);
        property::names_hold(&long);
        property::names_hold(&long.repeat(2560));
    }
}
