//! Bodies that clients get. Those of executions are made where executions end and of stored bytes, others field by field; what is
//! declared here is held against real answers of every route, in which no other field may be and none may be missing.

#![expect(dead_code, clippy::large_enum_variant, reason = "their form is all that matters of them")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// The result of an execution, also of one whose code failed.
#[derive(ToSchema)]
pub struct Execution {
    /// The execution.
    execution_id: String,
    /// Its session, if it belongs to one.
    #[schema(required)]
    session_id: Option<String>,
    status: EndStatus,
    /// The status in a sentence.
    message: String,
    /// The program's own; null after a signal, a timeout, a cancellation, or when memory ran out.
    #[schema(required)]
    exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGSEGV`.
    #[schema(required)]
    signal: Option<String>,
    /// What it wrote to standard output, at most `output_bytes` of it; what is not UTF-8 became U+FFFD.
    stdout: String,
    /// The same of standard error.
    stderr: String,
    /// Whether it wrote more to standard output than was kept.
    stdout_truncated: bool,
    /// Whether it wrote more to standard error than was kept.
    stderr_truncated: bool,
    /// What the handler returned, any JSON as it was written; for shell what was written to file descriptor 3.
    #[schema(required)]
    return_value: Option<Value>,
    /// Why it did not complete; null if it did.
    #[schema(required)]
    error: Option<Failure>,
    /// How long it ran, seconds.
    execution_time: f64,
    metrics: Cost,
    /// Files that it made or changed, by path.
    artifacts: Vec<Artifact>,
    /// There, and true, when there may be more artifacts.
    #[schema(required = false)]
    artifacts_truncated: bool,
    /// The files that the request asked for: content as base64, by path. There if it did.
    #[schema(required = false)]
    outputs: BTreeMap<String, String>,
    /// There, and true, when some outputs were left out: 1000 files and 32 MiB come back at most.
    #[schema(required = false)]
    outputs_truncated: bool,
}

/// How an execution ended: `completed` is exit code 0, `crashed` is that the executor went down under it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum EndStatus {
    Completed,
    Failed,
    Timeout,
    Cancelled,
    Crashed,
}

/// Status of an execution.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum AnyStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Timeout,
    Cancelled,
    Crashed,
}

/// Why an execution did not complete.
#[derive(ToSchema)]
pub struct Failure {
    kind: Kind,
    /// The exception's class, where there is one.
    #[schema(required)]
    name: Option<String>,
    /// What happened.
    message: String,
    /// Where, in the user's code.
    #[schema(required)]
    traceback: Option<String>,
}

/// What kind of failure: the program's own (`exception`, `exit`, `signal`), a limit (`timeout`, `out_of_memory`, `disk_full`), a handler
/// that is missing or returned what JSON can't hold, a cancellation, or a fault of the executor (`sandbox`).
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Kind {
    Exception,
    Exit,
    Signal,
    Timeout,
    OutOfMemory,
    DiskFull,
    HandlerMissing,
    ReturnValue,
    Cancelled,
    Sandbox,
}

/// What an execution took.
#[derive(ToSchema)]
pub struct Cost {
    /// From the program's start to its end, milliseconds.
    duration_ms: f64,
    /// Processor time, milliseconds.
    cpu_time_ms: f64,
    /// Most memory at a time, MiB.
    peak_memory_mb: f64,
    /// Read from disks, bytes.
    io_read_bytes: u64,
    /// Written to disks, bytes.
    io_write_bytes: u64,
    /// Waited for a slot, milliseconds.
    queue_ms: f64,
    /// From the slot to the program's start, milliseconds.
    startup_ms: f64,
}

/// A file that an execution made or changed.
#[derive(ToSchema)]
pub struct Artifact {
    /// Relative to the workspace; what is not UTF-8 became U+FFFD.
    path: String,
    /// The path percent-encoded, where `path` is not all of it.
    #[schema(required = false)]
    path_encoded: String,
    /// Bytes.
    size: u64,
    /// By its content.
    mime_type: String,
    /// Always `output`.
    r#type: String,
    /// When it last changed (RFC 3339).
    created_at: String,
    /// `sha256:` and 64 hexadecimal digits; null where the artifacts are too large together to be read.
    #[schema(required)]
    checksum: Option<String>,
}

/// An execution that has not ended.
#[derive(ToSchema)]
pub struct UnderWay {
    /// The execution.
    execution_id: String,
    /// Its session, if it belongs to one.
    #[schema(required)]
    session_id: Option<String>,
    status: OpenStatus,
    /// The status in a sentence.
    message: String,
    /// When it was accepted (RFC 3339).
    created_at: String,
    /// When it started (RFC 3339).
    #[schema(required)]
    started_at: Option<String>,
    /// How long it has run, seconds.
    execution_time: f64,
    metrics: CostSoFar,
}

/// What it has taken so far.
#[derive(ToSchema)]
pub struct CostSoFar {
    /// Since it started, milliseconds.
    duration_ms: f64,
}

/// Status of an execution that has not ended.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum OpenStatus {
    Pending,
    Running,
}

/// An execution of this id: as it is, or its result.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ExecutionState {
    Ended(Execution),
    Open(UnderWay),
}

/// What `POST /execute` answers: the result, or with `EXECUTE_MODE=async` that it was taken.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ExecuteAnswer {
    Result(Execution),
    Taken(Taken),
}

/// With `EXECUTE_MODE=async`: it is on the disk and will run; the result goes to the control plane.
#[derive(ToSchema)]
pub struct Taken {
    /// The execution.
    execution_id: String,
    /// Always `PENDING`.
    #[schema(pattern = "^PENDING$")]
    status: String,
    /// The same in a sentence.
    message: String,
}

/// To `Prefer: respond-async`: it is on the disk and will run, or runs already.
#[derive(ToSchema)]
pub struct Accepted {
    /// The execution; its path is in `Location` too.
    execution_id: String,
    status: OpenStatus,
    /// The status in a sentence.
    message: String,
}

/// The execution was ended: nothing of it is alive.
#[derive(ToSchema)]
pub struct Cancelled {
    /// The execution.
    execution_id: String,
    /// Always `cancelled`.
    #[schema(pattern = "^cancelled$")]
    status: String,
    /// The same in a sentence.
    message: String,
}

/// Executions, newest first.
#[derive(ToSchema)]
pub struct ExecutionPage {
    executions: Vec<ExecutionSummary>,
    /// For `cursor`, if there are more.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// An execution in a list.
#[derive(ToSchema)]
pub struct ExecutionSummary {
    /// The execution.
    execution_id: String,
    /// Its session, if it belongs to one.
    #[schema(required)]
    session_id: Option<String>,
    language: Language,
    status: AnyStatus,
    /// The program's own, once it has ended.
    #[schema(required)]
    exit_code: Option<i32>,
    /// When it was accepted (RFC 3339).
    created_at: String,
    /// When it started (RFC 3339).
    #[schema(required)]
    started_at: Option<String>,
    /// When it ended (RFC 3339).
    #[schema(required)]
    finished_at: Option<String>,
    /// How long it ran, or has run so far, seconds; null before it starts.
    #[schema(required)]
    execution_time: Option<f64>,
}

/// A language.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Language {
    Python,
    Javascript,
    Shell,
}

/// Sessions, by id.
#[derive(ToSchema)]
pub struct SessionPage {
    sessions: Vec<Session>,
    /// For `cursor`; there if there are more.
    #[schema(required = false)]
    next_cursor: String,
}

/// A session and its workspace.
#[derive(ToSchema)]
pub struct Session {
    /// The session.
    session_id: String,
    /// Bytes on the disk.
    size: u64,
    /// Files and folders.
    file_count: u64,
    /// When it was made (RFC 3339); null where the file system does not know.
    #[schema(required)]
    created_at: Option<String>,
    /// When it was last used (RFC 3339).
    last_used_at: String,
    /// Executions that run in it.
    running: u64,
}

/// Files of a session, by path.
#[derive(ToSchema)]
pub struct FilePage {
    files: Vec<File>,
    /// For `cursor`; there if there are more.
    #[schema(required = false)]
    next_cursor: String,
}

/// A file of a session.
#[derive(ToSchema)]
pub struct File {
    /// Relative to the workspace; what is not UTF-8 became U+FFFD.
    path: String,
    /// The path percent-encoded, where `path` is not all of it.
    #[schema(required = false)]
    path_encoded: String,
    /// Bytes.
    size: u64,
    /// When its content last changed (RFC 3339).
    modified_at: String,
}

/// A file's bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct FileContent(Vec<u8>);

/// The packages that the session has now.
#[derive(ToSchema)]
pub struct SyncAnswer {
    /// Always `completed`.
    #[schema(pattern = "^completed$")]
    status: String,
    installed_dependencies: Vec<Dependency>,
    /// Always null: a failure is an answer with status 422.
    #[schema(required)]
    error: Option<String>,
    /// When the request came (RFC 3339).
    started_at: String,
    /// When all was there (RFC 3339).
    completed_at: String,
}

/// A package.
#[derive(ToSchema)]
pub struct Dependency {
    /// Its name in the index.
    name: String,
    /// Its version.
    version: String,
    /// Where programs of the session find it.
    install_location: String,
    /// When it was installed (RFC 3339).
    install_time: String,
    /// Always false: nothing comes with a template here.
    is_from_template: bool,
}
