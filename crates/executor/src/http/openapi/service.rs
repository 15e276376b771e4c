//! What the service says about itself, and the shape of every error.

#![expect(dead_code, reason = "their form is all that matters of them")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::answers::Language;

/// A request that was not carried out, and why.
#[derive(ToSchema)]
pub struct Error {
    /// `Executor.` and what went wrong, for programs.
    error_code: String,
    /// What went wrong, for people.
    description: String,
    /// More about it, or null.
    #[schema(required)]
    error_detail: Option<ErrorDetail>,
    /// What to do about it.
    solution: String,
    /// The request's id, also in `x-request-id`; the service's log knows it.
    request_id: String,
}

/// More about an error: of `Executor.ValidationError` every violation, of others a sentence.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ErrorDetail {
    Violations(Vec<Violation>),
    Sentence(String),
}

/// One thing that is wrong with a request.
#[derive(ToSchema)]
pub struct Violation {
    /// The field, with dots to what is inside; `body` for all of it.
    field: String,
    /// What is wrong and what would be right.
    message: String,
}

/// What this is, and where to go on.
#[derive(ToSchema)]
pub struct Index {
    /// Always `sandbox-executor`.
    service: String,
    /// The service's version.
    version: String,
    /// Paths, by what is there.
    links: BTreeMap<String, String>,
}

/// Whether code can be run right now.
#[derive(ToSchema)]
pub struct Health {
    status: HealthStatus,
    /// What is wrong; there if something is.
    #[schema(required = false)]
    reason: String,
    /// The service's version.
    version: String,
    /// Not there while the service waits for room on a disk to start.
    #[schema(required = false)]
    isolation: Isolation,
    /// As `isolation`.
    #[schema(required = false)]
    isolation_details: IsolationSummary,
    platform: Platform,
    /// Since the service started, seconds.
    uptime_seconds: f64,
    /// Executions that run now.
    active_executions: u64,
}

/// In a word.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum HealthStatus {
    Healthy,
    Unhealthy,
}

/// How programs are kept apart.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Isolation {
    Native,
    Bubblewrap,
    Seatbelt,
    None,
}

/// The operating system.
#[derive(ToSchema)]
pub enum Platform {
    Linux,
    #[schema(rename = "macOS")]
    MacOs,
}

/// How programs are kept apart, in more words.
#[derive(ToSchema)]
pub struct IsolationSummary {
    /// As whom programs run.
    mode: String,
    /// Why they are kept apart in this way.
    reason: String,
    enforcement: Enforcement,
}

/// How programs are kept apart, and what was tried.
#[derive(ToSchema)]
pub struct IsolationDetails {
    /// As whom programs run.
    mode: String,
    /// Why they are kept apart in this way.
    reason: String,
    enforcement: Enforcement,
    /// Ways that do not work here.
    refused: Vec<RefusedIsolation>,
    /// What sandboxes have to do without here, in sentences.
    lacks: Vec<String>,
}

/// A way to keep programs apart that does not work here.
#[derive(ToSchema)]
pub struct RefusedIsolation {
    isolation: Isolation,
    /// Why.
    reason: String,
}

/// What of the limits the kernel enforces here: `enforced`, `best effort` or `not enforced`.
#[derive(ToSchema)]
pub struct Enforcement {
    /// Memory of all processes of an execution together.
    memory: String,
    /// Processes and threads.
    processes: String,
    /// Processors.
    cpu: String,
    /// Who holds workspaces to what they may hold: `project quota` is the file system, `watched by the service` this service.
    disk: String,
    /// Version of Landlock that the kernel has; 0: none.
    landlock_abi: i64,
}

/// What the service is made of, and how busy it is.
#[derive(ToSchema)]
pub struct Info {
    /// The service's version.
    version: String,
    platform: Platform,
    isolation: Isolation,
    /// Of the program that isolates, where it is one of its own.
    #[schema(required)]
    isolation_version: Option<String>,
    isolation_details: IsolationDetails,
    /// Folder that holds the workspaces.
    workspace_path: String,
    /// Executions that run now.
    active_executions: u64,
    /// Executions that wait for a slot.
    queued_executions: u64,
    /// Slots.
    max_concurrent_executions: u64,
    runtimes: Vec<Runtime>,
    /// Null where nothing is reported (`CONTROL_PLANE_URL`).
    #[schema(required)]
    control_plane: Option<ControlPlane>,
    packages: Packages,
    limits: ServiceLimits,
}

/// A language that can be run here.
#[derive(ToSchema)]
pub struct Runtime {
    language: Language,
    /// The interpreter's version.
    version: String,
    /// Whether an execution finds something made ahead.
    warm: bool,
}

/// The control plane that is reported to.
#[derive(ToSchema)]
pub struct ControlPlane {
    /// Its address.
    url: String,
    /// Whether the last call got an answer.
    reachable: bool,
    /// Results that wait to be sent.
    pending_reports: u64,
    /// Results that it refused: see `outbox retry`.
    put_aside: u64,
    /// Age of the oldest that waits, seconds.
    #[schema(required)]
    oldest_pending_seconds: Option<u64>,
}

/// What is installed for sessions.
#[derive(ToSchema)]
pub struct Packages {
    /// Addresses of package indexes that a request may name, without passwords.
    indexes: Vec<String>,
    /// Sets of packages.
    layers: u64,
    /// What they take of the disk, MiB.
    size_mb: u64,
    /// Sessions that have one.
    sessions: u64,
}

/// The most that an execution may use or ask for.
#[derive(ToSchema)]
pub struct ServiceLimits {
    /// Memory of one execution, MiB.
    memory_mb: u64,
    /// Processors of one execution.
    cpu_cores: f64,
    /// Processes and threads of one execution.
    processes: u64,
    /// What a workspace may hold, MiB.
    disk_mb: u64,
    /// A file, MiB.
    file_size_mb: u64,
    /// Kept of each of stdout and stderr, bytes.
    output_bytes: u64,
    /// Code, bytes.
    code_bytes: u64,
    /// A request's body, bytes.
    body_bytes: u64,
    /// Timeout unless asked for otherwise, seconds.
    execution_time: u64,
    /// Largest timeout, seconds.
    timeout: u64,
    enforcement: Enforcement,
    /// Why limits are not enforced here, in sentences.
    not_enforced_because: Vec<String>,
}

/// This document: OpenAPI 3.1.
#[derive(ToSchema)]
#[schema(value_type = Object)]
pub struct Document(Value);
