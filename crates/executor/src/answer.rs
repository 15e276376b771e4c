//! The answer to `POST /execute`: of an execution that ran, or of one that has an end all the same.

use std::time::Duration;

use runtime::Verdict;
use runtime::verdict::{Failure, Kind, Status};
use sandbox::Remains;
use sandbox::outcome::{Captured, Outcome};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::admission::request::ExecuteRequest;
use crate::store::Record;
use crate::workspace::Workspace;
use crate::workspace::artifact::Artifact;
use crate::workspace::inline::Collected;
use crate::workspace::sessions::Stay;
use crate::workspace::tenancy::Left;

const MIB: f64 = (1024 * 1024) as f64;

/// The answer to `POST /execute`.
#[derive(Serialize)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Answer {
    pub execution_id: String,
    pub session_id: Option<String>,
    pub status: Status,
    pub message: &'static str,
    pub exit_code: Option<i32>,
    pub signal: Option<&'static str>,
    pub stdout: String,
    pub stderr: String,
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    pub return_value: Option<Box<RawValue>>,
    pub error: Option<Failure>,
    pub execution_time: f64,
    pub metrics: Metrics,
    pub artifacts: Vec<Artifact>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub artifacts_truncated: bool,
    #[serde(flatten)]
    pub outputs: Option<Collected>,
    #[serde(skip)]
    pub leftovers: Option<Leftovers>,
}

/// What is to be cleared away once the answer is out: by dropping it.
pub struct Leftovers {
    pub(crate) _remains: Remains,
    pub(crate) _workspace: Workspace,
    pub(crate) _stay: Option<Stay>,
}

/// What it cost: the program's own figures, and what it waited for.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Metrics {
    pub duration_ms: f64,
    pub cpu_time_ms: f64,
    pub peak_memory_mb: f64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    pub queue_ms: f64,
    pub startup_ms: f64,
}

impl Answer {
    /// Of an execution that ran.
    pub fn new(
        request: &ExecuteRequest,
        outcome: &Outcome,
        verdict: Verdict,
        metrics: Metrics,
        left: Left,
        leftovers: Leftovers,
    ) -> Self {
        Self {
            execution_id: request.execution_id.clone(),
            session_id: request.session_id.clone(),
            status: verdict.status,
            message: message(verdict.status),
            exit_code: verdict.exit_code,
            signal: verdict.signal,
            stdout: text(&outcome.stdout),
            stderr: text(&outcome.stderr),
            stdout_truncated: outcome.stdout.truncated(),
            stderr_truncated: outcome.stderr.truncated(),
            return_value: verdict.return_value,
            error: verdict.error,
            execution_time: outcome.duration.as_secs_f64(),
            metrics,
            artifacts: left.artifacts,
            artifacts_truncated: left.artifacts_truncated,
            outputs: left.outputs,
            leftovers: Some(leftovers),
        }
    }

    /// Of an execution without a run that could be told of.
    pub fn without_run(record: &Record, status: Status, kind: Kind, why: impl Into<String>) -> Self {
        Self {
            execution_id: record.id.clone(),
            session_id: record.session_id.clone(),
            status,
            message: message(status),
            exit_code: None,
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
            stdout_truncated: false,
            stderr_truncated: false,
            return_value: None,
            error: Some(Failure { kind, name: None, message: why.into(), traceback: None }),
            execution_time: 0.0,
            metrics: Metrics::default(),
            artifacts: Vec::new(),
            artifacts_truncated: false,
            outputs: None,
            leftovers: None,
        }
    }

    /// Bytes that files and what is told of them take in JSON, more or less.
    pub fn files_weight(&self) -> usize {
        let outputs = self.outputs.iter().flat_map(|collected| &collected.files);
        outputs.map(|(path, content)| path.len() + content.len()).sum::<usize>() + self.artifacts.len() * 512
    }

    /// The executor went down under it. What the program wrote and used until then stays.
    pub fn crashed(self) -> Self {
        let error = Failure { kind: Kind::Sandbox, name: None, message: WENT_DOWN.to_owned(), traceback: None };
        let status = Status::Crashed;
        Self { status, message: self::message(status), error: Some(error), ..self }
    }
}

impl Metrics {
    /// Of a program that ended so, after it had waited for its turn and then for its start.
    pub fn new(outcome: &Outcome, waited: Duration, startup: Duration) -> Self {
        Self {
            duration_ms: milliseconds(outcome.duration),
            cpu_time_ms: milliseconds(outcome.usage.cpu_time),
            peak_memory_mb: outcome.usage.peak_memory_bytes as f64 / MIB,
            io_read_bytes: outcome.usage.io_read_bytes,
            io_write_bytes: outcome.usage.io_write_bytes,
            queue_ms: milliseconds(waited),
            startup_ms: milliseconds(startup),
        }
    }
}

/// Why one has crashed.
pub const WENT_DOWN: &str = "The executor went down while the execution ran";

/// What a status is called in a sentence.
pub fn message(status: Status) -> &'static str {
    match status {
        Status::Completed => "Execution completed",
        Status::Failed => "Execution failed",
        Status::Timeout => "Execution timeout",
        Status::Cancelled => "Execution cancelled",
        Status::Crashed => "Execution crashed",
    }
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What was kept as text: what is not UTF-8 becomes U+FFFD, and a character that the cut went through is left out.
fn text(captured: &Captured) -> String {
    let mut kept = captured.kept.as_slice();
    if captured.truncated()
        && let Some(chunk) = kept.utf8_chunks().last()
        && let cut = chunk.invalid().len()
        && cut > 0
        && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none())
    {
        kept = &kept[..kept.len() - cut];
    }
    String::from_utf8_lossy(kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], total: u64) -> String {
        text(&Captured { kept: bytes.to_vec(), total })
    }

    #[test]
    fn a_cut_leaves_whole_characters_and_bad_bytes_are_replaced() {
        assert_eq!(cut("aé".as_bytes(), 3), "aé");
        assert_eq!(cut(&"aé".as_bytes()[..2], 3), "a");
        assert_eq!(cut(&"a€".as_bytes()[..3], 9), "a");
        assert_eq!(cut(b"a\xff", 2), "a\u{fffd}");
        assert_eq!(cut(b"a\xff", 9), "a\u{fffd}");
        assert_eq!(cut(b"\xe2\x82", 2), "\u{fffd}");
    }
}
