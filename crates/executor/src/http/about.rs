//! What the service says about itself: whether it is well, and what it is made of.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Json, Response};
use runtime::Language;
use serde_json::{Value, json};

use super::files::blocking;
use super::openapi::service::{Health, Index, Info};
use super::routes::Service;
use crate::disk::LEAST_FREE_BYTES;
use crate::pipeline::Executor;
use crate::telemetry::metrics::{self, Standing};

/// A sandbox that stood up this recently proves that sandboxes stand up.
const PROOF_LASTS: Duration = Duration::from_secs(10);

/// What this is, and where to go on.
#[utoipa::path(get, path = "/", operation_id = "index", tag = "service",
    responses((status = 200, description = "What this is", body = Index)))]
pub async fn index() -> Json<Value> {
    Json(json!({
        "service": "sandbox-executor",
        "version": env!("CARGO_PKG_VERSION"),
        "links": {
            "health": "/health", "info": "/info", "metrics": "/metrics", "docs": "/docs", "openapi": "/openapi.json",
            "execute": "/execute", "executions": "/executions", "sessions": "/sessions",
        },
    }))
}

/// Whether code can be run right now.
///
/// It tries what it claims: a sandbox can be made, the workspace can be written, the disk is not full. Needs no token.
#[utoipa::path(get, path = "/health", operation_id = "health", tag = "service", security(()), responses(
    (status = 200, description = "It can", body = Health),
    (status = 503, description = "It can not, and why", body = Health)))]
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

/// What the service is made of, what it allows, and how busy it is.
#[utoipa::path(get, path = "/info", operation_id = "info", tag = "service",
    responses((status = 200, description = "The service", body = Info)))]
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

/// What the service counts, for Prometheus.
///
/// In Prometheus' text format, or in OpenMetrics' to who accepts `application/openmetrics-text`. docs/metrics.md lists all of it.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "service", responses(
    (status = 200, description = "Counters, gauges and histograms", body = String, content_type = "text/plain")))]
pub async fn metrics(State(service): State<Arc<Service>>, headers: HeaderMap) -> Response {
    let (executions, executor) = (&service.executions, Arc::clone(&service.executions.executor));
    let reports = match &executions.reports {
        Some(reports) => Some(reports.status().await).map(|status| [status.pending_reports, status.put_aside]),
        None => None,
    };
    let idle = Language::ALL.map(|language| executor.warm.idle(language));
    let (layers, layer_bytes, _) = executor.packages.count();
    let workspaces = Arc::clone(&executor.workspaces);
    let looked = blocking(move || (workspaces.session_ids("").ok(), workspaces.free_bytes().ok())).await;
    let (sessions, workspace_free_bytes) = looked.unwrap_or_default();
    let (active, queued) = (executions.queue.running(), executions.queue.waiting());
    let standing = Standing {
        executions: [active, queued, service.config.max_concurrent_executions],
        idle,
        reports,
        store: executions.store.kept().await.ok(),
        sessions: sessions.map(|ids| ids.len()),
        workspace_free_bytes,
        packages: [layers as u64, layer_bytes],
    };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (content_type, text) = metrics::text(&standing, accept);
    ([(header::CONTENT_TYPE, content_type), (header::VARY, "accept")], text).into_response()
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
        "disk": if executor.workspaces.are_projects() { "project quota" } else { "watched by the service" },
        "cpu": if cgroups.cpu() { "enforced" } else { "not enforced" },
        "landlock_abi": if executor.isolation.is_none() { 0 } else { sandbox::landlock_abi() },
    })
}

pub(super) fn platform() -> &'static str {
    if cfg!(target_os = "macos") { "macOS" } else { "Linux" }
}
