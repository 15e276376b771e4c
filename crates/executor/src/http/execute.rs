//! `POST /execute`: from a body to an execution, now or later.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use bytes::Bytes;
use serde_json::json;

use super::answer;
use super::body::read_body;
use super::openapi::answers::{Accepted, ExecuteAnswer};
use super::openapi::requests::ExecuteRequest as Form;
use super::problem::Problem;
use super::routes::{RequestId, Service};
use crate::admission::request::{self, ExecuteRequest};
use crate::config::ExecuteMode;
use crate::executions::{Done, Submitted};
use crate::offload::offload;
use crate::store::Status;

/// Run code, and wait for its result or not.
///
/// The answer is 200 also when the code failed: `status` and `error` say how. The body is read as JSON whatever its content type.
/// With `Prefer: respond-async` the execution is on the disk when 202 is answered, and survives a loss of power.
#[utoipa::path(post, path = "/execute", operation_id = "execute", tag = "executions",
    params(("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait for the result")),
    request_body(content = Form, examples(
        ("handler" = (summary = "A handler gets an event", value = json!({
            "language": "python", "event": {"name": "Alice"},
            "code": "def handler(event):\n    return {\"message\": \"Hello, \" + event[\"name\"] + \"!\"}"}))),
        ("javascript" = (summary = "A handler in JavaScript", value = json!({
            "language": "javascript", "event": {"a": 1, "b": 2}, "timeout": 10,
            "code": "exports.handler = async (event) => event.a + event.b;"}))),
        ("files" = (summary = "Files in, files out, in a session", value = json!({
            "language": "shell", "session_id": "report", "code": "sort in.csv > out.csv; cat >&2",
            "files": {"in.csv": "YiwyCmEsMQo="}, "outputs": ["*.csv"], "stdin": "hello", "env_vars": {"LC_ALL": "C"}}))),
        ("limits" = (summary = "Within less than the service allows", value = json!({
            "language": "python", "mode": "script", "execution_id": "job-1", "working_directory": "work",
            "code": "print(sum(range(1000)))", "limits": {
                "memory_mb": 128, "cpu_cores": 0.5, "processes": 16, "disk_mb": 64, "output_bytes": 65536}}))))),
    responses(
        (status = 200, description = "Its result; with `EXECUTE_MODE=async` that it was taken", body = ExecuteAnswer),
        (status = 202, description = "It was accepted", body = Accepted,
            headers(("Location" = String, description = "Where its result will be")))))]
pub async fn execute(State(service): State<Arc<Service>>, request: Request) -> Result<Response, Problem> {
    let request_id = request.extensions().get::<RequestId>().cloned().map(|id| id.0).unwrap_or_default();
    let prefers_later = prefers_respond_async(request.headers());
    let (body, held) = read_body(&service, request).await?;
    let (parsed, body) = parse(&service, body.freeze()).await?;
    if service.config.execute_mode == ExecuteMode::Async {
        let submitted = service.executions.submit(parsed, body).await?;
        return Ok(as_the_control_plane_expects(&submitted));
    }
    if prefers_later {
        let submitted = service.executions.submit(parsed, body).await?;
        return Ok(accepted(submitted));
    }
    drop(body);
    service.executions.run(parsed, request_id, held).await.map(result)
}

/// The answer that an execution has.
pub fn result(done: Done) -> Response {
    answer::json(done.content)
}

/// Whether the client would rather not wait (RFC 7240, section 4.1).
fn prefers_respond_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences
        .flat_map(|value| value.split(','))
        .any(|preference| preference.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("respond-async"))
}

/// 202 and where to look for it; of one that has ended, its result.
fn accepted(submitted: Submitted) -> Response {
    let (id, status) = match submitted {
        Submitted::Accepted(id, status) => (id, status),
        Submitted::Ended(_, done) => return result(done),
    };
    let message = if status == Status::Pending { "Execution accepted" } else { "Execution is under way" };
    let body = json!({"execution_id": id, "status": status.name(), "message": message});
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&format!("/executions/{id}")).ok().map(|path| (header::LOCATION, path)));
    headers.insert(HeaderName::from_static("preference-applied"), HeaderValue::from_static("respond-async"));
    response
}

/// What `EXECUTE_MODE=async` answers to every request that is fine; the result goes to the control plane.
fn as_the_control_plane_expects(submitted: &Submitted) -> Response {
    let id = match submitted {
        Submitted::Accepted(id, _) | Submitted::Ended(id, _) => id,
    };
    Json(json!({"execution_id": id, "status": "PENDING", "message": "Execution submitted"})).into_response()
}

/// The request, and the bytes that it was read from.
async fn parse(service: &Arc<Service>, body: Bytes) -> Result<(ExecuteRequest, Bytes), Problem> {
    let service = Arc::clone(service);
    let parsed = offload(body.len(), move || (request::parse(&body, &service.ceilings), body)).await;
    parsed.0.map(|request| (request, parsed.1)).map_err(Problem::Validation)
}
