//! What the service says about itself: whether it is well, and what it is made of.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use runtime::Language;
use serde_json::{Value, json};

use super::routes::Service;
use crate::disk::LEAST_FREE_BYTES;
use crate::pipeline::Executor;

/// A sandbox that stood up this recently proves that sandboxes stand up.
const PROOF_LASTS: Duration = Duration::from_secs(10);

pub async fn health(State(service): State<Arc<Service>>) -> Response {
    let executor = &service.executions.executor;
    let reason = unhealthy(&service).await;
    let mut body = json!({
        "status": if reason.is_none() { "healthy" } else { "unhealthy" },
        "version": env!("CARGO_PKG_VERSION"),
        "isolation": executor.isolation.name(),
        "isolation_details": isolation_details(executor),
        "platform": platform(),
        "uptime_seconds": service.started.elapsed().as_secs_f64().floor(),
        "active_executions": service.executions.queue.running(),
    });
    let Some(reason) = reason else { return Json(body).into_response() };
    body["reason"] = json!(reason);
    (axum::http::StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], Json(body)).into_response()
}

/// Why code could not be run right now.
async fn unhealthy(service: &Service) -> Option<String> {
    let executor = &service.executions.executor;
    if let Err(error) = executor.workspaces.check_writable() {
        return Some(format!("the workspace {} is not writable: {error}", executor.workspaces.path().display()));
    }
    match executor.workspaces.free_bytes() {
        Ok(free) if free < LEAST_FREE_BYTES => return Some(format!("the workspace's disk is full: {free} bytes left")),
        Ok(_) => {}
        Err(error) => return Some(format!("the workspace's disk can't be asked for its room: {error}")),
    }
    if let Some(trouble) = service.executions.store.trouble() {
        return Some(trouble);
    }
    // In a task of its own: a client that goes away must not leave a sandbox half made.
    let (executor, config) = (Arc::clone(executor), service.config.clone());
    let proof = tokio::spawn(async move { executor.proof(&config, PROOF_LASTS).await });
    proof.await.unwrap_or_else(|error| Err(error.to_string())).err()
}

pub async fn info(State(service): State<Arc<Service>>) -> Json<Value> {
    let executor = &service.executions.executor;
    let runtimes: Vec<Value> = Language::ALL
        .iter()
        .filter_map(|language| executor.interpreters.get(language)?.as_ref().ok())
        .map(|interpreter| json!({"language": interpreter.language, "version": interpreter.version, "warm": executor.is_warm(interpreter.language)}))
        .collect();
    let config = &service.config;
    let control_plane = match &service.executions.reports {
        Some(reports) => Some(reports.status().await),
        None => None,
    };
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "platform": platform(),
        "isolation": executor.isolation.name(),
        "isolation_version": executor.isolation.version(),
        "isolation_details": all_isolation_details(executor),
        "workspace_path": executor.workspaces.path(),
        "active_executions": service.executions.queue.running(),
        "queued_executions": service.executions.queue.waiting(),
        "max_concurrent_executions": config.max_concurrent_executions,
        "runtimes": runtimes,
        "control_plane": control_plane,
        "packages": packages(executor),
        "limits": {
            "memory_mb": config.max_memory_mb,
            "cpu_cores": config.max_cpu_cores,
            "processes": config.max_processes,
            "disk_mb": config.max_disk_mb,
            "file_size_mb": config.max_file_size_mb,
            "output_bytes": config.max_output_bytes,
            "code_bytes": config.max_code_bytes,
            "body_bytes": config.max_body_bytes,
            "execution_time": config.max_execution_time.as_secs(),
            "timeout": config.max_timeout.as_secs(),
            "enforcement": enforcement(executor),
            "not_enforced_because": executor.ground.cgroups.unavailable(),
        },
    }))
}

/// What is installed for sessions, and where it may come from.
fn packages(executor: &Executor) -> Value {
    let (layers, bytes, sessions) = executor.packages.count();
    let indexes: Vec<String> = executor.packages.indexes().iter().map(ToString::to_string).collect();
    json!({"indexes": indexes, "layers": layers, "size_mb": bytes.div_ceil(1024 * 1024), "sessions": sessions})
}

/// As whom programs run, why they are kept apart in this way, and what is enforced. For anybody: `/health` asks for no token.
fn isolation_details(executor: &Executor) -> Value {
    let mode = match (executor.isolation.is_none(), rustix::process::geteuid().is_root()) {
        (true, _) => "nothing is isolated",
        (false, true) if sandbox::subordinate::is_root_of_a_namespace() => {
            "root of a user namespace: a host uid for each session"
        }
        (false, true) => "root: a host uid for each session",
        (false, false) => "ordinary user: every sandbox has the service's own host uid",
    };
    json!({"mode": mode, "reason": executor.choice.reason, "enforcement": enforcement(executor)})
}

/// The same with what was tried before it, and what sandboxes have to do without.
fn all_isolation_details(executor: &Executor) -> Value {
    let refused = executor.choice.refused.iter().map(|(name, why)| json!({"isolation": name, "reason": why}));
    let mut details = isolation_details(executor);
    details["refused"] = refused.collect();
    details["lacks"] = json!(executor.lacks.get().map(Vec::as_slice).unwrap_or_default());
    details
}

fn enforcement(executor: &Executor) -> Value {
    let cgroups = &executor.ground.cgroups;
    json!({
        "memory": if cgroups.memory() { "enforced" } else { "best effort" },
        "processes": if cgroups.pids() { "enforced" } else { "best effort" },
        "cpu": if cgroups.cpu() { "enforced" } else { "not enforced" },
        "landlock_abi": if executor.isolation.is_none() { 0 } else { sandbox::landlock_abi() },
    })
}

fn platform() -> &'static str {
    if cfg!(target_os = "macos") { "macOS" } else { "Linux" }
}
