//! What the control plane is told, as pure functions: from the answer as it is stored to the platform's shape of a result.
//!
//! Values pass as the JSON that they are, so that 10^30 stays 10^30 and ten megabytes of output are not decoded. The platform wants
//! a number for every end of a program, as a shell has it: 128+n for signal n, 124 for a timeout, 137 for what was killed.

use runtime::verdict::signal_number;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::timestamp::milliseconds;

/// Exit status of a process that was killed: 128 + SIGKILL.
const KILLED: i32 = 137;
/// As `timeout(1)` has it.
const TIMED_OUT: i32 = 124;
/// The sandbox's own failure, as the command `run` has it.
const SANDBOX_FAILED: i32 = 125;
/// Exit status after a signal to stop, as the container platform has it: 128 + SIGTERM.
const STOPPED: i32 = 143;

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The container's name for the control plane.
    pub container_id: String,
    /// The pod's.
    pub pod_name: String,
    /// Where the service listens.
    pub port: u16,
}

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitReason {
    /// SIGTERM.
    Sigterm,
    /// SIGINT.
    Sigint,
}

/// A stored answer, as far as it is reported.
#[derive(Deserialize)]
struct Stored<'a> {
    status: &'a str,
    exit_code: Option<i32>,
    signal: Option<&'a str>,
    #[serde(borrow)]
    stdout: &'a RawValue,
    #[serde(borrow)]
    stderr: &'a RawValue,
    #[serde(borrow)]
    return_value: &'a RawValue,
    error: Option<Failure<'a>>,
    #[serde(borrow)]
    execution_time: &'a RawValue,
    #[serde(borrow)]
    metrics: &'a RawValue,
    #[serde(borrow, default)]
    artifacts: Vec<Artifact<'a>>,
}

#[derive(Deserialize)]
struct Failure<'a> {
    kind: &'a str,
}

#[derive(Deserialize)]
struct Artifact<'a> {
    #[serde(borrow)]
    path: &'a RawValue,
}

#[derive(Serialize)]
struct ResultBody<'a> {
    status: &'static str,
    stdout: &'a RawValue,
    stderr: &'a RawValue,
    exit_code: i32,
    execution_time: &'a RawValue,
    return_value: &'a RawValue,
    metrics: &'a RawValue,
    artifacts: Vec<&'a RawValue>,
}

/// The result of an execution, from its answer.
///
/// # Errors
/// It is not an answer of ours.
pub fn result(answer: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let stored: Stored<'_> = serde_json::from_slice(answer)?;
    let body = ResultBody {
        status: match stored.status {
            "completed" => "success",
            "timeout" => "timeout",
            "crashed" => "crashed",
            _ => "failed",
        },
        stdout: stored.stdout,
        stderr: stored.stderr,
        exit_code: exit_code(&stored),
        execution_time: stored.execution_time,
        return_value: stored.return_value,
        metrics: stored.metrics,
        artifacts: stored.artifacts.iter().map(|artifact| artifact.path).collect(),
    };
    let mut bytes = Vec::with_capacity(answer.len());
    serde_json::to_writer(&mut bytes, &body)?;
    Ok(bytes)
}

fn exit_code(stored: &Stored<'_>) -> i32 {
    let kind = stored.error.as_ref().map(|error| error.kind);
    match (stored.status, kind) {
        ("timeout", _) => TIMED_OUT,
        ("crashed" | "cancelled", _) | (_, Some("out_of_memory" | "cancelled")) => KILLED,
        (_, Some("sandbox")) => SANDBOX_FAILED,
        _ => {
            let by_signal = || Some(128 + signal_number(stored.signal?)?);
            stored.exit_code.or_else(by_signal).unwrap_or(1)
        }
    }
}

/// A sign of life of an execution.
pub fn heartbeat(now: OffsetDateTime) -> Vec<u8> {
    format!(r#"{{"timestamp":"{}","progress":{{"status":"running"}}}}"#, milliseconds(now)).into_bytes()
}

/// That the port answers.
pub fn ready(identity: &Identity, now: OffsetDateTime) -> Vec<u8> {
    let Identity { container_id, pod_name, port } = identity;
    let body = serde_json::json!({
        "event_type": "ready", "container_id": container_id, "pod_name": pod_name, "executor_port": port,
        "ready_at": milliseconds(now),
    });
    body.to_string().into_bytes()
}

/// That the process ends.
pub fn exited(identity: &Identity, reason: ExitReason, now: OffsetDateTime) -> Vec<u8> {
    let Identity { container_id, pod_name, port } = identity;
    let body = serde_json::json!({
        "event_type": "exited", "container_id": container_id, "pod_name": pod_name, "executor_port": port,
        "exit_code": STOPPED, "exit_reason": reason, "exited_at": milliseconds(now),
    });
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-09 11:00:00.0785 +1);

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn a_result_passes_as_the_json_that_it_is() {
        let answer = r#"{"execution_id":"exec_001","session_id":null,"status":"completed","message":"Execution completed",
            "exit_code":0,"signal":null,"stdout":"\u0041\n\ud83d\ude00","stderr":"","stdout_truncated":false,"stderr_truncated":false,
            "return_value":{"n":1000000000000000000000000000000, "x": 1.10},"error":null,"execution_time":0.0123,
            "metrics":{"duration_ms":12.3,"peak_memory_mb":1e1},
            "artifacts":[{"path":"output/\u00e4.csv","size":1024,"mime_type":"text/csv"},{"path":"b","size":0}]}"#;
        insta::assert_snapshot!(text(result(answer.as_bytes()).unwrap()), @r#"{"status":"success","stdout":"\u0041\n\ud83d\ude00","stderr":"","exit_code":0,"execution_time":0.0123,"return_value":{"n":1000000000000000000000000000000, "x": 1.10},"metrics":{"duration_ms":12.3,"peak_memory_mb":1e1},"artifacts":["output/\u00e4.csv","b"]}"#);
    }

    #[test]
    fn every_end_has_the_platforms_status_and_a_number() {
        let ends = [
            ("completed", json!(0), Value::Null, Value::Null),
            ("failed", json!(3), Value::Null, json!("exit")),
            ("failed", json!(1), Value::Null, json!("exception")),
            ("failed", json!(1), Value::Null, json!("handler_missing")),
            ("failed", Value::Null, json!("SIGSEGV"), json!("signal")),
            ("failed", Value::Null, json!("SIGRT"), json!("signal")),
            ("failed", Value::Null, json!("SIGKILL"), json!("out_of_memory")),
            ("failed", Value::Null, Value::Null, json!("out_of_memory")),
            ("failed", json!(1), Value::Null, json!("disk_full")),
            ("failed", Value::Null, Value::Null, json!("sandbox")),
            ("failed", Value::Null, Value::Null, json!("something new")),
            ("timeout", Value::Null, json!("SIGKILL"), json!("timeout")),
            ("cancelled", Value::Null, json!("SIGKILL"), json!("cancelled")),
            ("crashed", Value::Null, Value::Null, json!("sandbox")),
        ];
        let lines = ends.map(|(status, code, signal, kind)| {
            let error = if kind.is_null() { Value::Null } else { json!({"kind": kind, "name": null, "message": "m"}) };
            let answer = json!({
                "status": status, "exit_code": code, "signal": signal, "error": error, "stdout": "", "stderr": "",
                "return_value": null, "execution_time": 1.5, "metrics": {},
            });
            let body: Value = serde_json::from_slice(&result(answer.to_string().as_bytes()).unwrap()).unwrap();
            assert_eq!(body["artifacts"], json!([]));
            format!("{status} {kind} {signal} -> {} {}", body["status"], body["exit_code"])
        });
        insta::assert_snapshot!(lines.join("\n"), @r#"
        completed null null -> "success" 0
        failed "exit" null -> "failed" 3
        failed "exception" null -> "failed" 1
        failed "handler_missing" null -> "failed" 1
        failed "signal" "SIGSEGV" -> "failed" 139
        failed "signal" "SIGRT" -> "failed" 162
        failed "out_of_memory" "SIGKILL" -> "failed" 137
        failed "out_of_memory" null -> "failed" 137
        failed "disk_full" null -> "failed" 1
        failed "sandbox" null -> "failed" 125
        failed "something new" null -> "failed" 1
        timeout "timeout" "SIGKILL" -> "timeout" 124
        cancelled "cancelled" "SIGKILL" -> "failed" 137
        crashed "sandbox" null -> "crashed" 137
        "#);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for no_answer in ["", "{}", "[]", r#"{"status":"completed"}"#] {
            assert!(result(no_answer.as_bytes()).is_err(), "{no_answer}");
        }
    }

    #[test]
    fn events_are_the_platforms() {
        let identity = Identity { container_id: "c\"1".into(), pod_name: "p".into(), port: 8080 };
        insta::assert_snapshot!(text(heartbeat(NOW)), @r#"{"timestamp":"2026-01-09T10:00:00.078Z","progress":{"status":"running"}}"#);
        insta::assert_snapshot!(text(ready(&identity, NOW)), @r#"{"container_id":"c\"1","event_type":"ready","executor_port":8080,"pod_name":"p","ready_at":"2026-01-09T10:00:00.078Z"}"#);
        insta::assert_snapshot!(text(exited(&identity, ExitReason::Sigint, NOW)), @r#"{"container_id":"c\"1","event_type":"exited","executor_port":8080,"exit_code":143,"exit_reason":"sigint","exited_at":"2026-01-09T10:00:00.078Z","pod_name":"p"}"#);
    }
}
