//! Sessions over HTTP: list, remove.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Json;
use axum::routing::{delete, get};
use serde::Serialize;

use super::files::{blocking, failed};
use super::openapi::answers::SessionPage;
use super::problem::Problem;
use super::query::{limit, session_id, strange, value};
use super::routes::Service;
use crate::workspace::expiry::{Ended, Session};

/// Sessions on a page, unless asked for another number, and at most: what each holds has to be counted.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// Its routes.
pub fn router() -> Router<Arc<Service>> {
    Router::new().route("/sessions", get(list)).route("/sessions/{id}", delete(remove))
}

/// A page of sessions, as it is told.
#[derive(Serialize)]
pub struct Listing {
    sessions: Vec<Session>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Sessions, by id.
#[utoipa::path(get, path = "/sessions", operation_id = "sessions", tag = "sessions",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Sessions on a page; 100 unless asked for"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before")),
    responses((status = 200, description = "A page of them", body = SessionPage)))]
pub async fn list(State(service): State<Arc<Service>>, uri: Uri) -> Result<Json<Listing>, Problem> {
    let cursor = value(&uri, "cursor").map(session_id).transpose().map_err(|mut violation| {
        violation.field = "cursor".into();
        violation
    });
    let strange = strange(&uri, &["limit", "cursor"]);
    let (limit, cursor) = match (limit(&uri, PAGE, LARGEST_PAGE), cursor) {
        (Ok(limit), Ok(cursor)) if strange.is_empty() => (limit, cursor.unwrap_or_default()),
        (limit, cursor) => {
            let wrong = limit.err().into_iter().chain(cursor.err());
            return Err(Problem::Validation(wrong.chain(strange).collect()));
        }
    };
    let workspaces = Arc::clone(&service.executions.executor.workspaces);
    let listed = blocking(move || {
        let ids = workspaces.session_ids(&cursor)?;
        let next = (ids.len() > limit).then(|| ids[limit - 1].clone());
        let sessions: Vec<_> = ids.iter().take(limit).filter_map(|id| workspaces.describe(id)).collect();
        Ok((sessions, next))
    });
    let (sessions, next_cursor) = listed.await?.map_err(|error| failed("listing sessions", &error))?;
    Ok(Json(Listing { sessions, next_cursor }))
}

/// Remove a session with its workspace.
///
/// What runs in it is cancelled first.
#[utoipa::path(delete, path = "/sessions/{id}", operation_id = "remove_session", tag = "sessions",
    params(("id" = String, Path, description = "The session's id")),
    responses((status = 204, description = "It is gone")))]
pub async fn remove(State(service): State<Arc<Service>>, uri: Uri) -> Result<StatusCode, Problem> {
    let id = uri.path().strip_prefix("/sessions/").unwrap_or_default();
    let id = session_id(id).map_err(|violation| Problem::Validation(vec![violation]))?;
    // In a task of its own: a client that goes away must not leave a session half removed.
    let executor = Arc::clone(&service.executions.executor);
    let ended = tokio::spawn(async move { executor.end_session(&id).await }).await;
    match ended.map_err(|_| Problem::Internal)?.map_err(|error| failed("removing a session", &error))? {
        Ended::Gone => Ok(StatusCode::NO_CONTENT),
        Ended::None => Err(Problem::FileNotFound),
        Ended::Busy => Err(Problem::FilesConflict("what goes on in the session does not end")),
    }
}
