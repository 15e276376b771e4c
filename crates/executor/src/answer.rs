//! The answer to `POST /execute`: of an execution that ran, or of one that has an end all the same.

use std::time::Duration;

use runtime::verdict::{Failure, Kind, Status};
use sandbox::Remains;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::Record;
use crate::workspace::Workspace;
use crate::workspace::artifact::Artifact;
use crate::workspace::inline::Collected;
use crate::workspace::sessions::Stay;

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
