//! Handlers, scripts and modules in the three languages, and what an uncaught exception looks like.

use conformance::{Service, assert_completed, assert_failed, keys};
use serde_json::{Value, json};

const PYTHON_HELLO: &str = "def handler(event):\n    return {\"message\": f\"Hello, {event['name']}!\"}\n";
const SHELL_HELLO: &str = r#"name=$(printf %s "$EVENT_JSON" | sed -n 's/.*"name" *: *"\([^"]*\)".*/\1/p')
printf '{"message": "Hello, %s!"}' "$name" >&3
"#;

/// Nothing in a traceback may come from between the service and the user's code.
#[track_caller]
fn assert_nothing_of_ours(text: &str) {
    let lower = text.to_lowercase();
    for ours in [
        "bootstrap",
        "runner",
        "wrapper",
        "<string>",
        "<frozen",
        "evalmachine",
        "/proc/self",
        "/dev/fd",
        "memfd",
        "data:text",
    ] {
        assert!(!lower.contains(ours), "shows {ours:?}: {text}");
    }
}

fn traceback(answer: &Value) -> &str {
    answer["error"]["traceback"].as_str().unwrap_or_else(|| panic!("no traceback: {answer}"))
}

#[test]
fn a_python_handler_says_hello() {
    let answer = Service::start().execute(json!({
        "language": "python", "code": PYTHON_HELLO, "event": {"name": "Alice"}
    }));
    assert_completed(&answer);
    assert_eq!(answer["return_value"], json!({"message": "Hello, Alice!"}));
}

#[test]
fn every_form_of_a_javascript_handler_says_hello() {
    let service = Service::start();
    for code in [
        "module.exports.handler = (event) => ({ message: `Hello, ${event.name}!` });",
        "exports.handler = function (event) { return { message: 'Hello, ' + event.name + '!' }; };",
        "module.exports = { handler(event) { return { message: `Hello, ${event.name}!` }; } };",
        "export const handler = (event) => ({ message: `Hello, ${event.name}!` });",
        "export function handler(event) { return { message: `Hello, ${event.name}!` }; }",
        "export async function handler(event) { return { message: `Hello, ${event.name}!` }; }",
        "function handler(event) { return { message: `Hello, ${event.name}!` }; }",
        "async function handler(event) { return { message: `Hello, ${event.name}!` }; }",
    ] {
        let answer = service.execute(json!({
            "language": "javascript", "code": code, "event": {"name": "Alice"}
        }));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], json!({"message": "Hello, Alice!"}), "{code}");
    }
}

#[test]
fn a_shell_script_says_hello_over_descriptor_3() {
    let answer = Service::start().execute(json!({
        "language": "shell", "code": SHELL_HELLO, "event": {"name": "Alice"}
    }));
    assert_completed(&answer);
    assert_eq!(answer["return_value"], json!({"message": "Hello, Alice!"}));

    let service = Service::start();
    let answer = service.run("shell", "echo '{\"a\": [1, null]}' > /dev/fd/3; echo out");
    assert_completed(&answer);
    assert_eq!(answer["return_value"], json!({"a": [1, null]}));
    assert_eq!(answer["stdout"], "out\n");
}

#[test]
fn a_language_has_its_aliases() {
    let service = Service::start();
    for (language, code) in [
        ("python3", "print('here')"),
        ("node", "console.log('here')"),
        ("nodejs", "console.log('here')"),
        ("bash", "echo here"),
        ("sh", "echo here"),
    ] {
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "here\n", "{language}");
    }
}

#[test]
fn an_answer_has_exactly_the_fields_of_the_contract() {
    let service = Service::start();
    let answer = service.execute(json!({
        "language": "python", "code": PYTHON_HELLO, "event": {"name": "Alice"},
        "execution_id": "exec_fields", "session_id": "session_fields", "timeout": 20
    }));
    assert_eq!(
        keys(&answer),
        [
            "artifacts",
            "error",
            "execution_id",
            "execution_time",
            "exit_code",
            "message",
            "metrics",
            "return_value",
            "session_id",
            "signal",
            "status",
            "stderr",
            "stderr_truncated",
            "stdout",
            "stdout_truncated"
        ]
    );
    assert_eq!(answer["execution_id"], "exec_fields");
    assert_eq!(answer["session_id"], "session_fields");
    assert_eq!(answer["message"], "Execution completed");
    assert_eq!(answer["stdout"], "");
    assert_eq!(answer["stderr"], "");
    assert_eq!(answer["stdout_truncated"], false);
    assert_eq!(answer["stderr_truncated"], false);
    let seconds = answer["execution_time"].as_f64().expect("a number");
    assert!((0.001..10.0).contains(&seconds), "{seconds}");
    let metrics = &answer["metrics"];
    assert_eq!(
        keys(metrics),
        ["cpu_time_ms", "duration_ms", "io_read_bytes", "io_write_bytes", "peak_memory_mb", "queue_ms", "startup_ms"]
    );
    for (name, value) in metrics.as_object().expect("an object") {
        assert!(value.as_f64().is_some_and(|number| number >= 0.0), "{name}: {value}");
    }
}

#[test]
fn an_execution_without_an_id_gets_one() {
    let service = Service::start();
    let first = service.run("shell", ":");
    let second = service.run("shell", ":");
    assert_ne!(first["execution_id"], second["execution_id"]);
    assert!(first["session_id"].is_null(), "{first}");
    let id = first["execution_id"].as_str().expect("an id");
    let (date, random) = id
        .strip_prefix("exec_")
        .and_then(|rest| rest.split_once('_'))
        .unwrap_or_else(|| panic!("not of the form exec_YYYYMMDD_…: {id}"));
    assert!(date.len() == 8 && date.chars().all(|c| c.is_ascii_digit()), "{id}");
    assert!(random.len() == 16 && random.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{id}");
}

#[test]
fn async_handlers_are_awaited() {
    let service = Service::start();
    for (language, code) in [
        ("python", "import asyncio\nasync def handler(event):\n    await asyncio.sleep(0.01)\n    return 'late'\n"),
        ("javascript", "exports.handler = async () => { await new Promise(r => setTimeout(r, 10)); return 'late'; };"),
        ("javascript", "export const handler = () => new Promise(r => setTimeout(() => r('late'), 10));"),
    ] {
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["return_value"], "late", "{code}");
    }
}

#[test]
fn handlers_take_one_parameter_or_two() {
    let service = Service::start();
    for (language, code) in [
        ("python", "def handler(event): return event['n']"),
        ("python", "def handler(event, context): return event['n'] if context else 0"),
        ("python", "handler = lambda event: event['n']"),
        ("python", "async def handler(event, context): return event['n'] if context else 0"),
        ("javascript", "exports.handler = (event) => event.n;"),
        ("javascript", "exports.handler = (event, context) => context ? event.n : 0;"),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "event": {"n": 7}}));
        assert_completed(&answer);
        assert_eq!(answer["return_value"], 7, "{code}");
    }
}

#[test]
fn the_context_is_that_of_a_lambda() {
    let service = Service::start();
    for (language, code) in [
        (
            "python",
            "def handler(event, context):\n    return [context.aws_request_id, context.function_name, context.get_remaining_time_in_millis()]\n",
        ),
        (
            "javascript",
            "exports.handler = (event, context) => [context.awsRequestId, context.functionName, context.getRemainingTimeInMillis()];",
        ),
    ] {
        let id = format!("exec_context_{language}");
        let answer = service.execute(json!({
            "language": language, "code": code, "execution_id": id, "timeout": 20
        }));
        assert_completed(&answer);
        let value = &answer["return_value"];
        assert_eq!(value[0], id.as_str());
        assert!(value[1].as_str().is_some_and(|name| !name.is_empty()), "{value}");
        let remaining = value[2].as_f64().expect("a number");
        assert!((10_000.0..=20_000.0).contains(&remaining), "{value}");
    }
}

#[test]
fn code_without_a_handler_is_a_script() {
    let service = Service::start();
    for (language, code) in [
        ("python", "print('top')\nvalue = 5\n"),
        ("javascript", "console.log('top'); const value = 5;"),
        ("shell", "echo top"),
    ] {
        let answer = service.run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "top\n", "{language}");
        assert!(answer["return_value"].is_null(), "{answer}");
    }
}

#[test]
fn mode_script_never_calls_the_handler() {
    let service = Service::start();
    for (language, code) in [
        ("python", "def handler(event):\n    print('called')\n    return 1\nprint('top', __name__)\n"),
        (
            "javascript",
            "exports.handler = () => { console.log('called'); return 1; };\nconsole.log('top', '__main__');",
        ),
        (
            "javascript",
            "export const handler = () => { console.log('called'); return 1; };\nconsole.log('top', '__main__');",
        ),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "mode": "script"}));
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "top __main__\n", "{code}");
        assert!(answer["return_value"].is_null(), "{answer}");
    }
}

#[test]
fn mode_handler_needs_a_handler() {
    let service = Service::start();
    for (language, code) in [
        ("python", "print('top')"),
        ("javascript", "console.log('top');"),
        ("javascript", "export const other = 1; console.log('top');"),
    ] {
        let answer = service.execute(json!({"language": language, "code": code, "mode": "handler"}));
        assert_failed(&answer, "handler_missing");
        assert_eq!(answer["exit_code"], 1, "{answer}");
        assert_eq!(answer["stdout"], "top\n", "{answer}");
    }
    let answer = service.execute(json!({"language": "python", "code": PYTHON_HELLO, "mode": "handler",
        "event": {"name": "Alice"}}));
    assert_completed(&answer);
}

#[test]
fn javascript_runs_modules_of_both_kinds() {
    let service = Service::start();
    for code in [
        "import { basename } from 'node:path';\nconsole.log(basename('/a/here'));",
        "import fs from 'fs';\nconst value = await Promise.resolve('here');\nconsole.log(value);",
        "const value = await new Promise(r => setTimeout(() => r('here'), 10));\nconsole.log(value);",
        "const { basename } = require('path');\nconsole.log(basename('/a/here'));",
        "const path = await import('node:path');\nconsole.log(path.basename('/a/here'));",
        "setTimeout(() => console.log('here'), 10);",
    ] {
        let answer = service.run("javascript", code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "here\n", "{code}");
    }
}

#[test]
fn modules_in_the_workspace_can_be_imported() {
    let service = Service::start();
    let session = format!("session_modules_{}", std::process::id());
    let run = |language: &str, code: &str| {
        service.execute(json!({"language": language, "code": code, "session_id": session}))
    };
    assert_completed(&run(
        "shell",
        "echo 'value = 41' > helper.py\necho 'exports.value = 41' > helper.js\necho 'export const value = 41' > helper_es.mjs",
    ));
    for (language, code) in [
        ("python", "import helper\nprint(helper.value + 1)"),
        ("javascript", "const helper = require('./helper.js');\nconsole.log(helper.value + 1);"),
        ("javascript", "import { value } from './helper_es.mjs';\nconsole.log(value + 1);"),
    ] {
        let answer = run(language, code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "42\n", "{code}");
    }
}

#[test]
fn a_python_exception_shows_the_users_own_lines() {
    let code = "import json\n\ndef inner(x):\n    return 1 / x\n\ndef handler(event):\n    return inner(0)\n";
    let answer = Service::start().run("python", code);
    assert_failed(&answer, "exception");
    assert_eq!(answer["exit_code"], 1);
    assert!(answer["signal"].is_null());
    assert_eq!(answer["error"]["name"], "ZeroDivisionError");
    assert_eq!(answer["error"]["message"], "division by zero");
    let trace = traceback(&answer);
    for part in [
        "main.py\", line 4, in inner",
        "    return 1 / x",
        "main.py\", line 7, in handler",
        "    return inner(0)",
        "ZeroDivisionError: division by zero",
    ] {
        assert!(trace.contains(part), "lacks {part:?}: {trace}");
    }
    assert_eq!(trace.matches("File \"").count(), 2, "{trace}");
    assert_nothing_of_ours(trace);
    assert_nothing_of_ours(answer["stderr"].as_str().expect("text"));
}

#[test]
fn python_exceptions_of_every_origin_are_told() {
    let service = Service::start();
    for (code, name, parts) in [
        ("x = [1]\nprint('before')\nprint(x[5])\n", "IndexError", &["line 3", "print(x[5])"][..]),
        ("print('fine')\ndef f(:\n    pass\n", "SyntaxError", &["main.py", "line 2", "def f(:"]),
        (
            "async def handler(event):\n    raise KeyError('gone')\n",
            "KeyError",
            &["main.py", "line 2", "raise KeyError('gone')"],
        ),
        (
            "def handler(event):\n    try:\n        int('x')\n    except ValueError as error:\n        raise RuntimeError('outer') from error\n",
            "RuntimeError",
            &["line 3", "ValueError", "direct cause", "line 5", "outer"],
        ),
        ("class Own(Exception):\n    pass\nraise Own('mine')\n", "Own", &["line 3", "mine"]),
    ] {
        let answer = service.run("python", code);
        assert_failed(&answer, "exception");
        assert_eq!(answer["exit_code"], 1, "{answer}");
        assert_eq!(answer["error"]["name"], name, "{answer}");
        let trace = traceback(&answer);
        for part in parts {
            assert!(trace.contains(part), "lacks {part:?}: {trace}");
        }
        assert_nothing_of_ours(trace);
    }
}

/// Warm, and cold by a variable of its own.
fn each_way(service: &Service, code: &str) -> [Value; 2] {
    [json!({}), json!({"PYTHONCOLD": "1"})].map(|variables| {
        service.execute(json!({"language": "python", "code": code, "env_vars": variables, "event": {"n": 1}}))
    })
}

#[test]
fn a_python_program_that_ends_oddly_ends_as_by_the_interpreter() {
    let service = Service::start();
    let bad_text = "class Bad:\n    def __str__(self): raise ValueError('no text')\n";
    let hook = "import sys\ndef hook(*_): raise ValueError('in the hook')\nsys.excepthook = hook\n1 / 0\n";
    let output = "import sys\nclass Bad:\n    def write(self, text): pass\n    def flush(self): raise KeyError('flush')\nsys.stdout = Bad()\n";
    for (code, exit_code, stderr) in [
        ("import sys\nsys.exit(10 ** 30)", 255, ""),
        ("import sys\nsys.exit(2 ** 31 + 5)", 5, ""),
        (&format!("{bad_text}raise SystemExit(Bad())"), 1, ""),
        (hook, 1, "Error in sys.excepthook:\nTraceback (most recent call last):\n  File \"main.py\", line 2, in hook"),
        (output, 0, ""),
    ] {
        for answer in each_way(&service, code) {
            assert_eq!(answer["exit_code"], exit_code, "{code}: {answer}");
            let found = answer["stderr"].as_str().expect("text");
            assert!(if stderr.is_empty() { found.is_empty() } else { found.starts_with(stderr) }, "{code}: {found}");
            assert_nothing_of_ours(found);
        }
    }
}

#[test]
fn python_code_is_read_as_a_file_is() {
    let service = Service::start();
    for code in ["\u{feff}print('here')", "\u{feff}# coding: utf-8\nprint('here')", "print('here', **__annotations__)"]
    {
        for answer in each_way(&service, code) {
            assert_completed(&answer);
            assert_eq!(answer["stdout"], "here\n", "{code}");
        }
    }
}

#[test]
fn a_wrapped_python_handler_gets_what_its_wrapper_takes() {
    let service = Service::start();
    for (takes, passes, handler) in [
        ("*all", "*all", "event"),
        ("*all", "*all", "event, context"),
        ("event", "event, None", "event, context"),
        ("event, context", "event", "event"),
    ] {
        let code = format!(
            "import functools\n\ndef wrap(wrapped):\n    @functools.wraps(wrapped)\n    def wrapper({takes}):\n        return wrapped({passes})\n    return wrapper\n\n@wrap\ndef handler({handler}):\n    return event['n']\n"
        );
        for answer in each_way(&service, &code) {
            assert_completed(&answer);
            assert_eq!(answer["return_value"], 1, "{code}");
        }
    }
}

#[test]
fn a_javascript_exception_shows_the_users_own_lines() {
    let service = Service::start();
    for code in [
        "function inner(o) {\n  return o.missing.field;\n}\nmodule.exports.handler = (event) => {\n  return inner({});\n};\n",
        "function inner(o) {\n  return o.missing.field;\n}\nexport const handler = async (event) => {\n  return inner({});\n};\n",
    ] {
        let answer = service.run("javascript", code);
        assert_failed(&answer, "exception");
        assert_eq!(answer["exit_code"], 1);
        assert_eq!(answer["error"]["name"], "TypeError");
        let message = answer["error"]["message"].as_str().expect("text");
        assert!(message.contains("reading 'field'"), "{message}");
        let trace = traceback(&answer);
        let file = if code.contains("export const") { "main.mjs" } else { "main." };
        assert!(trace.contains(file), "{trace}");
        for part in ["js:2:", "js:5:", "return o.missing.field;"] {
            assert!(trace.contains(part), "lacks {part:?}: {trace}");
        }
        assert_nothing_of_ours(trace);
        assert_nothing_of_ours(answer["stderr"].as_str().expect("text"));
    }
}

#[test]
fn javascript_exceptions_of_every_origin_are_told() {
    let service = Service::start();
    for (code, name, part) in [
        ("const a = 1;\nthrow new RangeError('far');\n", "RangeError", "js:2"),
        ("const a = 1;\nconst b = ;\n", "SyntaxError", "js:2"),
        ("import fs from 'fs';\nconst b = ;\n", "SyntaxError", "js:2"),
        ("exports.handler = async () => {\n  throw new Error('lost');\n};\n", "Error", "js:2:"),
        ("Promise.reject(new Error('lost'));\nsetTimeout(() => {}, 200);\n", "Error", "js:1:"),
        ("setTimeout(() => {\n  throw new Error('lost');\n}, 1);\n", "Error", "js:2:"),
        ("const x = await Promise.reject(new Error('lost'));\n", "Error", "js:1:"),
    ] {
        let answer = service.run("javascript", code);
        assert_failed(&answer, "exception");
        assert_eq!(answer["exit_code"], 1, "{answer}");
        assert_eq!(answer["error"]["name"], name, "{answer}");
        let trace = traceback(&answer);
        assert!(trace.contains("main.") && trace.contains(part), "lacks {part:?}: {trace}");
        assert_nothing_of_ours(trace);
    }
}

#[test]
fn javascript_may_throw_anything() {
    let service = Service::start();
    for thrown in ["'just text'", "null", "undefined", "42", "{ code: 'E_OWN' }"] {
        for code in [format!("throw {thrown};"), format!("exports.handler = async () => {{ throw {thrown}; }};")] {
            let answer = service.run("javascript", &code);
            assert_failed(&answer, "exception");
            assert_eq!(answer["exit_code"], 1, "{answer}");
            if thrown == "'just text'" {
                let message = answer["error"]["message"].as_str().expect("text");
                assert!(message.contains("just text"), "{message}");
            }
        }
    }
}

#[test]
fn a_failing_shell_command_names_the_line() {
    let answer = Service::start().run("shell", "echo before\nno_such_command --here\n");
    assert_failed(&answer, "exit");
    assert_eq!(answer["exit_code"], 127);
    assert_eq!(answer["stdout"], "before\n");
    let stderr = answer["stderr"].as_str().expect("text");
    assert!(stderr.contains("line 2") && stderr.contains("no_such_command"), "{stderr}");
    assert_nothing_of_ours(stderr);
}

#[test]
fn code_may_be_one_mebibyte() {
    let service = Service::start();
    for (language, comment, last) in
        [("python", "#", "print('end')"), ("javascript", "//", "console.log('end')"), ("shell", "#", "echo end")]
    {
        let line = format!("{comment} {}\n", "x".repeat(97 - comment.len()));
        let mut code = line.repeat((1 << 20) / line.len() + 1);
        code.truncate((1 << 20) - last.len() - 1);
        code.push('\n');
        code.push_str(last);
        assert_eq!(code.len(), 1 << 20);
        let answer = service.run(language, &code);
        assert_completed(&answer);
        assert_eq!(answer["stdout"], "end\n", "{language}");
    }
}
