//! What the port answers while the service waits for something that it can't start without: `/health` tells what, everything else is
//! refused for this reason.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::about::platform;
use super::problem::{Answer, Problem};
use super::routes::{REQUEST_ID, names_host, request_id};
use crate::config::{Config, HostRule};

struct Waiting {
    host_rule: HostRule,
    reason: String,
    problem: Problem,
    since: Instant,
}

/// One route for all.
pub fn router(config: &Config, reason: String, problem: Problem) -> Router {
    let waiting = Waiting { host_rule: config.host_rule(), reason, problem, since: Instant::now() };
    Router::new().fallback(answer).with_state(Arc::new(waiting))
}

async fn answer(State(waiting): State<Arc<Waiting>>, request: Request) -> Response {
    let id = request_id(request.headers());
    let mut response = if !names_host(&waiting.host_rule, &request) {
        Answer(Problem::ForbiddenHost, id.clone()).into_response()
    } else if request.uri().path() == "/health" {
        let body = json!({
            "status": "unhealthy",
            "reason": waiting.reason,
            "version": env!("CARGO_PKG_VERSION"),
            "platform": platform(),
            "uptime_seconds": waiting.since.elapsed().as_secs_f64().floor(),
            "active_executions": 0,
        });
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], Json(body)).into_response()
    } else {
        Answer(waiting.problem.clone(), id.clone()).into_response()
    };
    response.headers_mut().extend(HeaderValue::from_str(&id).ok().map(|id| (REQUEST_ID, id)));
    response
}
