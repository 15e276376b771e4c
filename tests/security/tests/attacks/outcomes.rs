//! Forged results, and programs that make a mess of their own ends.

use crate::shortened;
use security::{Column, Control, Host, Table};
use serde_json::{Value, json};

/// A program, and what its answer must be: members of it, as JSON.
struct Forgery(u32, &'static str, &'static str, &'static str, &'static str);

const WRITE_RESULT: &str = "
import os
for number in range(3, 300):
    try: os.write(number, b'{\"forged\": true}')
    except OSError: pass
";

const FORGERIES: [Forgery; 13] = [
    Forgery(
        115,
        "print the marker of another platform's results",
        "python",
        "print('===SANDBOX_RESULT===\\n{\"forged\": true}\\n===SANDBOX_RESULT_END===')\ndef handler(event): return 'mine'",
        r#"{"status":"completed","return_value":"mine"}"#,
    ),
    Forgery(
        116,
        "write a result from a child",
        "python",
        "import os, subprocess, sys\ndef handler(event):\n    subprocess.run([sys.executable, '-c', event['code']], close_fds=False)\n    return 'mine'",
        r#"{"status":"completed","return_value":"mine"}"#,
    ),
    Forgery(
        117,
        "answer with two values",
        "shell",
        "echo 1 >&3; echo 2 >&3",
        r#"{"status":"failed","return_value":null,"error.kind":"return_value"}"#,
    ),
    Forgery(
        117,
        "answer with half a value",
        "shell",
        "echo '{\"a\": [1, 2' >&3",
        r#"{"status":"failed","return_value":null,"error.kind":"return_value"}"#,
    ),
    Forgery(
        117,
        "answer with eleven megabytes",
        "shell",
        "head -c 11000000 /dev/zero | tr '\\0' 1 >&3",
        r#"{"status":"failed","return_value":null,"error.kind":"return_value"}"#,
    ),
    Forgery(
        118,
        "leave in the middle of a handler",
        "python",
        "import os\ndef handler(event):\n    os._exit(0)",
        r#"{"return_value":null,"exit_code":0}"#,
    ),
    Forgery(
        119,
        "return a status and metrics of one's own",
        "python",
        "def handler(event): return {'status': 'failed', 'exit_code': 7, 'metrics': {'cpu_time_ms': -1}, 'error': {'kind': 'sandbox'}}",
        r#"{"status":"completed","exit_code":0,"error":null}"#,
    ),
    Forgery(
        120,
        "wait for input that never comes",
        "shell",
        "cat; echo \"ended $?\"",
        r#"{"status":"completed","stdout":"ended 0\n"}"#,
    ),
    Forgery(
        121,
        "close every descriptor",
        "python",
        "import os\ndef handler(event):\n    os.closerange(0, 1024)\n    return 1",
        "{}",
    ),
    Forgery(
        121,
        "close every descriptor of a shell",
        "shell",
        "exec 0<&- 1>&- 2>&- 3>&- 4>&-; exit 3",
        r#"{"exit_code":3,"error.kind":"exit"}"#,
    ),
    Forgery(
        122,
        "return what is no number",
        "python",
        "def handler(event): return float('nan')",
        r#"{"status":"failed","return_value":null,"error.kind":"return_value"}"#,
    ),
    Forgery(
        122,
        "return a circle",
        "javascript",
        "exports.handler = () => { const a = {}; a.a = a; return a }",
        r#"{"status":"failed","return_value":null,"error.kind":"return_value"}"#,
    ),
    Forgery(
        122,
        "lift restrictions by redefining the language",
        "javascript",
        "JSON.stringify = () => '{\"forged\": true}'; parseInt = Object.freeze = Object.defineProperty = () => 0;\n\
         exports.handler = () => { try { return require('fs').readdirSync('/root') } catch (error) { return error.code } }",
        r#"{"stdout":""}"#,
    ),
];

/// All of it.
pub fn attack(table: &mut Table, column: &Column, _: &mut Host) {
    for Forgery(number, name, language, code, expected) in FORGERIES {
        let request = json!({"language": language, "code": code, "event": {"code": WRITE_RESULT}, "timeout": 10});
        let answer = column.execute(&request);
        let expected: serde_json::Map<String, Value> = serde_json::from_str(expected).expect("members");
        let wrong = expected.iter().find(|(path, value)| {
            let found = path.split('.').fold(&answer, |value, name| &value[name]);
            found != *value
        });
        // What is said about a program is never the program's own: neither a crash of ours nor words of its.
        let is_ours = answer["error"]["kind"] == "sandbox" || !answer["metrics"]["cpu_time_ms"].is_number();
        let harm = match wrong {
            Some((path, _)) => Some(format!("{path}: {}", shortened(&answer))),
            None if is_ours => Some(shortened(&answer)),
            None => None,
        };
        table.contain(number, name, harm, Control::Passed);
    }
    big_and_broken_values(table, column);
}

/// Values that are exact or refused, never something else.
fn big_and_broken_values(table: &mut Table, column: &Column) {
    for (name, code) in [
        ("return an integer of 5,000 digits", "def handler(event): return 10 ** 5000"),
        ("return half a character", "def handler(event): return '\\ud800'"),
        (
            "return ten thousand lists in each other",
            "def handler(event):\n    a = []\n    for n in range(10000): a = [a]\n    return a",
        ),
    ] {
        let answer = column.execute(&json!({"language": "python", "code": code}));
        let refused = answer["error"]["kind"] == "return_value" && answer["return_value"].is_null();
        let returned = answer["status"] == "completed" && !answer["return_value"].is_null();
        let control = column.execute(&json!({"language": "python", "code": "def handler(event): return [10 ** 30]"}));
        // As text: no number of Rust's holds it.
        let text = control["return_value"].to_string();
        let control = match text == format!("[1{}]", "0".repeat(30)) {
            true => Control::Passed,
            false => Control::Failed(shortened(&control)),
        };
        table.contain(122, name, (!refused && !returned).then(|| shortened(&answer)), control);
    }
}
