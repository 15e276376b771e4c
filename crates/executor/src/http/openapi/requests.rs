//! Bodies that clients send. They are read field by field in [`crate::admission`] and [`crate::packages::request`], so that all that
//! is wrong is told at once; what is declared here is held against that by sending every example, and by sending what is not allowed.

#![expect(dead_code, reason = "their form is all that matters of them")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// What to run, and within what.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// The code. At most `MAX_CODE_BYTES` bytes of UTF-8 (`limits.code_bytes` in `/info`), without NUL.
    #[schema(min_length = 1, pattern = "^[^\\x00]*$")]
    code: String,
    /// Its language; `python3`, `node`, `nodejs`, `bash` and `sh` are other names.
    language: LanguageName,
    /// The execution's id. Sent again with the same body it is not run again: the answer is the one result. Made up if absent.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    execution_id: Option<String>,
    /// The session whose workspace it runs in. Absent: a workspace of its own, removed afterwards.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    session_id: Option<String>,
    /// Seconds until it is ended, from 1 to `MAX_TIMEOUT`; `MAX_EXECUTION_TIME` if absent.
    #[schema(minimum = 1)]
    timeout: Option<u64>,
    /// What the handler gets, as it is written here: 10^30 stays 10^30. `__timeout` in it, in seconds, takes precedence over `timeout`.
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    event: Option<Value>,
    /// Variables added to the program's clean environment; names of A-Z, a-z, 0-9 and `_`, values without NUL, 128 KiB each, 1 MiB in all.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    env_vars: Option<BTreeMap<String, String>>,
    /// Standard input; empty if absent.
    stdin: Option<String>,
    /// Files to write into the workspace before the run: content as base64, by relative path; at most 1000.
    files: Option<BTreeMap<String, String>>,
    /// Patterns of files that come back with the answer: `*` stays in a folder, `**` does not.
    #[schema(max_items = 100)]
    outputs: Option<Vec<String>>,
    /// Folder to run in, relative to the workspace, made if absent; no `..`.
    #[schema(max_length = 1024)]
    working_directory: Option<String>,
    /// What to do with a handler.
    mode: Option<Mode>,
    /// Lower limits than the service's own.
    limits: Option<RequestLimits>,
}

/// A language, or another name of it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum LanguageName {
    Python,
    Python3,
    Javascript,
    Node,
    Nodejs,
    Shell,
    Bash,
    Sh,
}

/// `auto`: call `handler` if the code defines one, else the code is a script; `handler`: it has to define one; `script`: never call it.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Mode {
    Auto,
    Handler,
    Script,
}

/// What one execution may use; each at most what `limits` in `/info` says.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestLimits {
    /// Memory of all its processes together, MiB.
    #[schema(minimum = 1)]
    memory_mb: Option<u64>,
    /// Processors.
    #[schema(minimum = 0.01)]
    cpu_cores: Option<f64>,
    /// Processes and threads.
    #[schema(minimum = 1)]
    processes: Option<u32>,
    /// What the workspace may hold, MiB.
    #[schema(minimum = 1)]
    disk_mb: Option<u64>,
    /// Bytes kept of each of stdout and stderr.
    #[schema(minimum = 0)]
    output_bytes: Option<u64>,
}

/// The packages that a session is to have.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// The session; it need not be there yet.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    session_id: String,
    /// `python`, with or without a version; which one there is, is the service's to say.
    #[schema(pattern = "^python[0-9._-]*$")]
    language_runtime: Option<String>,
    /// A package index of `ALLOWED_INDEX_URLS`; empty or absent: the first of them.
    python_package_index_url: Option<String>,
    /// Packages, each with a version (PEP 508); no options, paths or addresses.
    dependencies: Vec<String>,
    /// `replace` (default): these and no others; `merge`: these beside those it has.
    sync_mode: Option<SyncMode>,
}

/// What becomes of the packages that the session has.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum SyncMode {
    Replace,
    Merge,
}
