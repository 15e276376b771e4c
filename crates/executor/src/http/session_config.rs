//! `POST /internal/session-config/sync`: the packages of a session.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Json;
use axum::routing::post;
use sandbox::Isolation;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::body::read_body;
use super::openapi::answers::SyncAnswer;
use super::openapi::requests::SyncRequest;
use super::problem::Problem;
use super::routes::{RequestId, Service};
use crate::packages::{Failure, Layer, request};
use crate::timestamp;

/// Its route.
pub fn router() -> Router<Arc<Service>> {
    Router::new().route("/internal/session-config/sync", post(sync))
}

/// What there is then.
#[derive(Serialize)]
pub struct Synced {
    status: &'static str,
    installed_dependencies: Vec<Dependency>,
    error: Value,
    started_at: String,
    completed_at: String,
}

/// One package.
#[derive(Serialize)]
pub struct Dependency {
    name: String,
    version: String,
    install_location: String,
    install_time: String,
    is_from_template: bool,
}

/// Install the Python packages of a session.
///
/// Waits until they are there. Whatever fails, the session has what it had.
#[utoipa::path(post, path = "/internal/session-config/sync", operation_id = "sync_packages", tag = "packages",
    request_body(content = SyncRequest, examples(
        ("packages" = (summary = "These packages and no others", value = json!({
            "session_id": "report", "language_runtime": "python3.11", "dependencies": ["six==1.16.0"], "sync_mode": "replace"}))),
        ("none" = (summary = "No packages any more", value = json!({"session_id": "report", "dependencies": []}))))),
    responses((status = 200, description = "They are there", body = SyncAnswer)))]
pub async fn sync(State(service): State<Arc<Service>>, request: Request) -> Result<Json<Synced>, Problem> {
    let request_id = request.extensions().get::<RequestId>().cloned().map(|id| id.0).unwrap_or_default();
    let (body, _held) = read_body(&service, request).await?;
    let executor = Arc::clone(&service.executions.executor);
    let sync = request::parse(&body, executor.packages.indexes()).map_err(Problem::Validation)?;
    let (started_at, session_id) = (timestamp::microseconds(OffsetDateTime::now_utc()), sync.session_id.clone());
    // In a task of its own: a client that goes away finds it done when it asks again.
    let done = tokio::spawn(async move { executor.sync_packages(sync).await }).await;
    let done = done.unwrap_or_else(|error| Err(Failure::Internal(error.to_string())));
    let layer = done.map_err(|failure| {
        if matches!(failure, Failure::Internal(_) | Failure::Isolation(_)) {
            tracing::error!(session_id, "Packages of a session: {failure} (request: {request_id})");
        }
        problem_of(failure)
    })?;
    let isolation = &service.executions.executor.isolation;
    let installed_dependencies = layer.map(|layer| dependencies(&layer, isolation)).unwrap_or_default();
    let completed_at = timestamp::microseconds(OffsetDateTime::now_utc());
    Ok(Json(Synced { status: "completed", installed_dependencies, error: Value::Null, started_at, completed_at }))
}

fn dependencies(layer: &Layer, isolation: &Isolation) -> Vec<Dependency> {
    let location = isolation.packages().map_or_else(|| layer.packages(), PathBuf::from);
    let dependency = |one: &crate::packages::Installed| Dependency {
        name: one.name.clone(),
        version: one.version.clone(),
        install_location: location.display().to_string(),
        install_time: layer.record.installed_at.clone(),
        is_from_template: false,
    };
    layer.record.installed.iter().map(dependency).collect()
}

fn problem_of(failure: Failure) -> Problem {
    match failure {
        Failure::Install(lines) => Problem::DependencyInstall(lines),
        Failure::NoPython(why) => Problem::DependencyInstall(format!("There is no Python here: {why}")),
        Failure::NoRoom => Problem::NoRoomForPackages,
        Failure::Busy => Problem::QueueFull,
        Failure::Removed => Problem::FilesConflict("the session was removed meanwhile"),
        Failure::Stopping => Problem::ShuttingDown,
        Failure::Isolation(_) => Problem::IsolationUnavailable("the sandbox could not be set up".into()),
        Failure::Internal(_) => Problem::Internal,
    }
}
