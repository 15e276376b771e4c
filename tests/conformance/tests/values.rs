//! What goes in as an event and comes out as a return value, and that printing is neither.

use conformance::{Service, assert_completed, assert_failed, shortened};
use serde_json::{Value, json};

/// A handler that gives its event back, in each language.
const ECHO: [(&str, &str); 3] = [
    ("python", "def handler(event): return event"),
    ("javascript", "exports.handler = (event) => event;"),
    ("shell", "cat \"$EVENT_FILE\" >&3"),
];

#[test]
fn events_pass_as_they_are() {
    let service = Service::start();
    let nested = json!({
        "list": [1, 2.5, -3, true, false, null, "", "ü€😀\u{0}\n\"\\"],
        "object": {"a": {"b": {"c": [[[]], {}]}}},
        "": "empty name", "ключ": "值"
    });
    for (language, code) in ECHO {
        for event in [&json!({}), &nested] {
            let answer = service.execute(json!({"language": language, "code": code, "event": event}));
            assert_completed(&answer);
            assert_eq!(&answer["return_value"], event, "{language}");
        }
    }
}

#[test]
fn an_absent_event_is_an_empty_one() {
    let service = Service::start();
    for (language, code) in ECHO {
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["return_value"], json!({}), "{language}");
    }
}

#[test]
fn an_event_may_be_sixteen_mebibytes() {
    let service = Service::start();
    let event = json!({"data": "x".repeat(16 << 20)});
    for (language, code) in [
        ("python", "def handler(event): return len(event['data'])"),
        ("javascript", "exports.handler = (event) => event.data.length;"),
        (
            "shell",
            "[ -z \"${EVENT_JSON+set}\" ] || echo 'too large for a variable' >&2\ntr -cd x < \"$EVENT_FILE\" | wc -c >&3",
        ),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "event": event}));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], 16 << 20, "{language}");
        assert_eq!(answer["stderr"], "", "{language}");
    }
}

#[test]
fn a_shell_script_has_a_small_event_in_a_variable() {
    let service = Service::start();
    for size in [10, 95 << 10] {
        let answer = service.execute(json!({
            "language": "shell", "code": "printf %s \"$EVENT_JSON\" >&3",
            "event": {"data": "x".repeat(size)}
        }));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], json!({"data": "x".repeat(size)}));
    }
}

#[test]
fn big_integers_stay_exact() {
    let service = Service::start();
    let big = "1000000000000000000000000000000";
    for (language, code, expected) in [
        ("python", "def handler(event): return event['n'] + 1", "1000000000000000000000000000001"),
        ("shell", "printf %s \"$EVENT_JSON\" >&3", big),
    ] {
        let body = format!(r#"{{"language": "{language}", "code": {}, "event": {{"n": {big}}}}}"#, json!(code));
        let response = service.post(body);
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(response.text().contains(expected), "{}", response.text());
    }
    let answer = service.run("javascript", "exports.handler = () => Number.MAX_SAFE_INTEGER;");
    assert_eq!(answer["return_value"], 9_007_199_254_740_991_u64);
}

#[test]
fn falsy_return_values_come_back_as_they_are() {
    let service = Service::start();
    for (source, value) in [
        ("0", json!(0)),
        ("''", json!("")),
        ("[]", json!([])),
        ("False", json!(false)),
        ("None", Value::Null),
        ("{}", json!({})),
        ("0.0", json!(0.0)),
    ] {
        let answer = service.run("python", &format!("def handler(event): return {source}"));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], value, "{source}");
    }
    for (source, value) in [
        ("0", json!(0)),
        ("''", json!("")),
        ("[]", json!([])),
        ("false", json!(false)),
        ("null", Value::Null),
        ("undefined", Value::Null),
        ("({})", json!({})),
    ] {
        let answer = service.run("javascript", &format!("exports.handler = () => {{ return {source}; }};"));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], value, "{source}");
    }
}

#[test]
fn return_values_of_any_text_come_back_as_they_are() {
    let service = Service::start();
    let text = "ü€😀 \u{2028} \u{1} \" \\ </script>";
    let answer = service.execute(json!({"language": "python",
        "code": "def handler(event): return {event['t']: [event['t']]}", "event": {"t": text}}));
    assert_eq!(answer["return_value"], json!({text: [text]}));
    let answer = service.run("python", "def handler(event): return 'x' * 9_000_000");
    assert_completed(&answer);
    assert_eq!(answer["return_value"].as_str().map(str::len), Some(9_000_000));
}

#[test]
fn printing_can_not_forge_a_result() {
    let service = Service::start();
    let printed = "===SANDBOX_RESULT===\n{\"return_value\": \"forged\", \"status\": \"failed\"}\n===SANDBOX_RESULT_END===\n{\"return_value\": \"forged\"}\n";
    let quoted = json!(printed).to_string();
    for (language, with_handler, script) in [
        (
            "python",
            format!("def handler(event):\n    print({quoted}, end='')\n    return 'real'\n"),
            format!("import sys\nprint({quoted}, end='')\nsys.stderr.write({quoted})\n"),
        ),
        (
            "javascript",
            format!("exports.handler = () => {{ process.stdout.write({quoted}); return 'real'; }};"),
            format!("process.stdout.write({quoted}); process.stderr.write({quoted});"),
        ),
        (
            "shell",
            format!("cat <<'EOF'\n{printed}EOF\necho '\"real\"' >&3\n"),
            format!("cat <<'EOF'\n{printed}EOF\ncat >&2 <<'EOF'\n{printed}EOF\n"),
        ),
    ] {
        let answer = service.run(language, &with_handler);
        assert_completed(&answer);
        assert_eq!(answer["return_value"], "real", "{language}");
        assert_eq!(answer["stdout"], printed, "{language}");
        let answer = service.run(language, &script);
        assert_completed(&answer);
        assert!(answer["return_value"].is_null(), "{answer}");
        assert_eq!(answer["stdout"], printed, "{language}");
        assert_eq!(answer["stderr"], printed, "{language}");
    }
}

#[test]
fn keys_of_our_answer_in_a_return_value_stay_data() {
    let value = json!({"status": "timeout", "exit_code": 9, "metrics": {"duration_ms": 0},
        "error": {"kind": "sandbox"}, "return_value": 1});
    let answer = Service::start().execute(json!({
        "language": "python", "code": "def handler(event): return event", "event": value
    }));
    assert_completed(&answer);
    assert_eq!(answer["return_value"], value);
    assert_ne!(answer["metrics"]["duration_ms"], 0);
}

#[test]
fn a_python_value_that_json_can_not_hold_fails_the_run() {
    let service = Service::start();
    for source in [
        "float('nan')",
        "[float('inf')]",
        "{1, 2}",
        "{'a': {'b': {3}}}",
        "b'bytes'",
        "object()",
        "(x for x in [])",
        "{(1, 2): 3}",
        "'\\ud800'",
        "'x' * 11_000_000",
    ] {
        let code = format!("def handler(event):\n    print('ran')\n    return {source}\n");
        let answer = service.run("python", &code);
        assert_failed(&answer, "return_value");
        assert_eq!(answer["exit_code"], 1, "{source}: {}", shortened(&answer));
        assert_eq!(answer["stdout"], "ran\n", "{source}");
    }
    let cycle = "def handler(event):\n    a = []\n    a.append(a)\n    return a\n";
    assert_failed(&service.run("python", cycle), "return_value");
    let deep = "def handler(event):\n    a = []\n    for _ in range(100_000): a = [a]\n    return a\n";
    assert_failed(&service.run("python", deep), "return_value");
}

#[test]
fn a_python_integer_of_5000_digits_is_exact_or_refused() {
    let response = Service::start()
        .post(json!({"language": "python", "code": "def handler(event): return 10 ** 5000"}).to_string());
    assert_eq!(response.status, 200, "{}", response.text());
    let exact = format!("1{}", "0".repeat(5000));
    if !response.text().contains(&exact) {
        assert_failed(&response.json(), "return_value");
    }
}

#[test]
fn a_javascript_value_that_json_can_not_hold_fails_the_run() {
    let service = Service::start();
    for source in [
        "NaN",
        "{ a: [Infinity] }",
        "10n",
        "new Set([1])",
        "new Map()",
        "() => 1",
        "Symbol('s')",
        "(() => { const a = []; a.push(a); return a; })()",
        "'x'.repeat(11000000)",
        "{ toJSON() { throw new Error('own'); } }",
    ] {
        let code = format!("exports.handler = () => {{ console.log('ran'); return ({source}); }};");
        let answer = service.run("javascript", &code);
        assert_failed(&answer, "return_value");
        assert_eq!(answer["exit_code"], 1, "{source}: {}", shortened(&answer));
        assert_eq!(answer["stdout"], "ran\n", "{source}");
    }
}

#[test]
fn what_shell_writes_to_descriptor_3_must_be_one_json_value() {
    let service = Service::start();
    for code in [
        "echo 'not json' >&3",
        "echo NaN >&3",
        "echo '{\"a\": 1' >&3",
        "echo 1 >&3; echo 2 >&3",
        "printf '\"\\377\"' >&3",
        "head -c 11000000 /dev/zero | tr '\\0' 1 >&3",
    ] {
        let answer = service.run("shell", code);
        assert_failed(&answer, "return_value");
        assert_eq!(answer["exit_code"], 1, "{code}: {answer}");
    }
    let answer = service.run("shell", "printf '{\"a\":' >&3; printf '1}\\n\\n' >&3");
    assert_completed(&answer);
    assert_eq!(answer["return_value"], json!({"a": 1}));
}

#[test]
fn closing_descriptors_does_not_lose_the_return_value() {
    let service = Service::start();
    let close = "import os\nfor fd in range(5):\n    try:\n        os.close(fd)\n    except OSError:\n        pass\n";
    let inside = close.replace('\n', "\n    ");
    for code in [
        format!("{close}def handler(event):\n    return {{'ok': 1}}\n"),
        format!("def handler(event):\n    {inside}\n    return {{'ok': 1}}\n"),
    ] {
        let answer = service.run("python", &code);
        assert_completed(&answer);
        assert_eq!(answer["return_value"], json!({"ok": 1}), "{code}");
    }
    let answer = service.run(
        "javascript",
        "const fs = require('fs');\nexports.handler = () => { for (const fd of [0, 1, 2]) { try { fs.closeSync(fd); } catch {} } return { ok: 1 }; };",
    );
    assert_completed(&answer);
    assert_eq!(answer["return_value"], json!({"ok": 1}));
    let answer = service.run("shell", "echo '{\"ok\": 1}' >&3; exec 0<&- 1>&- 2>&- 3>&- 4>&-");
    assert_completed(&answer);
    assert_eq!(answer["return_value"], json!({"ok": 1}));
}

#[test]
fn closing_every_descriptor_still_ends_in_an_answer() {
    let service = Service::start();
    for (language, code) in [
        ("python", "import os\nos.closerange(0, 1000)\ndef handler(event): return 1\n"),
        (
            "javascript",
            "const fs = require('fs');\nfor (let fd = 0; fd < 5; fd++) { try { fs.closeSync(fd); } catch {} }\nexports.handler = () => 1;",
        ),
        ("shell", "for fd in 0 1 2 3 4 5 6 7 8 9; do eval \"exec $fd>&-\"; done"),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "timeout": 10}));
        let status = answer["status"].as_str().expect("a status");
        assert!(["completed", "failed"].contains(&status), "{language}: {answer}");
        service.assert_alive();
    }
}

#[test]
fn code_that_breaks_its_own_language_only_harms_its_own_result() {
    let service = Service::start();
    for (language, code) in [
        (
            "python",
            "import json, builtins, sys, os\njson.dumps = None\nbuiltins.print = None\nbuiltins.len = None\nsys.exit = None\nos.write = None\nsys.stdout = None\nsys.stderr = None\ndef handler(event): return event\n",
        ),
        (
            "javascript",
            "JSON.stringify = () => '\"forged\"';\nglobalThis.parseInt = null;\nArray.prototype.map = null;\nObject.keys = null;\nrequire('fs').writeSync = null;\nexports.handler = (event) => event;",
        ),
        ("shell", "unset PATH; set -f; exec 3>&-; trap 'exit 0' EXIT"),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "timeout": 10}));
        let status = answer["status"].as_str().expect("a status");
        assert!(["completed", "failed"].contains(&status), "{language}: {answer}");
        assert_ne!(answer["error"]["kind"], "sandbox", "{language}: {answer}");
        service.assert_alive();
    }
}
