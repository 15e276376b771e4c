//! Routes, and the gate before them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::BytesMut;
use http_body_util::BodyExt;
use runtime::Language;
use sandbox::error::Stage;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer;
use super::problem::{Answer, Problem};
use crate::admission::queue::{Queue, Refused};
use crate::admission::request::{self, Ceilings, ExecuteRequest, Violation, is_id};
use crate::config::{Config, HostRule};
use crate::offload::offload;
use crate::pipeline::{self, Executor, Failed};
use crate::workspace::random;
use crate::workspace::tenancy::Unready;

/// Longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Longest time for a whole body.
const BODY_TIME: Duration = Duration::from_secs(60);
/// A sandbox that stood up this recently proves that sandboxes stand up.
const PROOF_LASTS: Duration = Duration::from_secs(10);
/// Less room than this counts as a full disk.
const LEAST_FREE_BYTES: u64 = 16 * 1024 * 1024;
/// How long clearing away waits, so that it does not take the CPU from sending the answer.
const ANSWER_FIRST: Duration = Duration::from_millis(2);
/// Bodies and answers are counted in this unit.
const KIB: usize = 1024;
/// What answers may hold that clients have not taken yet.
const ANSWERS_KIB: usize = 256 * 1024;

/// The service as the routes see it.
pub struct Service {
    /// The configuration.
    pub config: Config,
    /// What runs code.
    pub executor: Arc<Executor>,
    /// Who may run when.
    pub queue: Arc<Queue>,
    ceilings: Ceilings,
    host_rule: HostRule,
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    started: Instant,
}

impl Service {
    /// A service that has not run anything yet.
    pub fn new(config: Config, executor: Arc<Executor>) -> Self {
        let queue = Arc::new(Queue::new(config.max_concurrent_executions, config.max_queued_executions));
        // Eight of the largest bodies, or as many smaller ones, are held in memory at a time.
        let bodies = (config.max_body_bytes as usize).saturating_mul(8) / KIB;
        Self {
            ceilings: Ceilings::of(&config),
            host_rule: config.host_rule(),
            bodies: Arc::new(Semaphore::new(bodies.min(Semaphore::MAX_PERMITS))),
            answers: Arc::new(Semaphore::new(ANSWERS_KIB)),
            started: Instant::now(),
            queue,
            executor,
            config,
        }
    }
}

/// All routes.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/info", get(info))
        .route("/execute", post(execute))
        .merge(super::sessions::router())
        .merge(super::files::router())
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&service), gate))
        .with_state(service)
}

/// A problem on its way out; the gate knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives every request an id, and lets only those in that may come.
async fn gate(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match admit(&service, &request) {
        Err(problem) => problem.into_response(),
        Ok(()) if origin.is_some() && request.method() == Method::OPTIONS => preflight(),
        Ok(()) => {
            request.extensions_mut().insert(RequestId(id.clone()));
            next.run(request).await
        }
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = Answer(problem, id.clone()).into_response();
        response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    }
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&id).ok().map(|id| (header::HeaderName::from_static("x-request-id"), id)));
    if let Some(origin) = origin.filter(|origin| is_listed(&service, origin)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "x-request-id, retry-after, etag, location, accept-ranges, content-range, content-disposition",
            ),
        );
    }
    response
}

#[derive(Clone)]
struct RequestId(String);

/// The client's id if it has the form of one, otherwise one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(|id| is_id(id));
    given.map_or_else(|| format!("req-{:016x}", random()), str::to_owned)
}

fn is_listed(service: &Service, origin: &HeaderValue) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    service.config.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
}

fn admit(service: &Service, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().authority().map(|authority| authority.as_str()));
    if service.host_rule != HostRule::Any && !host.is_some_and(|host| service.host_rule.allows(host)) {
        return Err(Problem::ForbiddenHost);
    }
    if headers.get_all(header::ORIGIN).iter().any(|origin| !is_listed(service, origin)) {
        return Err(Problem::ForbiddenOrigin);
    }
    let is_preflight = request.method() == Method::OPTIONS && headers.contains_key(header::ORIGIN);
    if let Some(token) = &service.config.api_token
        && request.uri().path() != "/health"
        && !is_preflight
    {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(b"bearer ") || !bool::from(given.ct_eq(token.expose().as_bytes())) {
            return Err(Problem::Unauthorized);
        }
    }
    Ok(())
}

/// The answer to a browser that asks whether it may ask.
fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-request-id, range, if-match, if-none-match, if-range",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (axum::http::StatusCode::NO_CONTENT, headers).into_response()
}

async fn index() -> Json<Value> {
    Json(json!({
        "service": "sandbox-executor",
        "version": env!("CARGO_PKG_VERSION"),
        "links": {"health": "/health", "info": "/info", "execute": "/execute", "sessions": "/sessions"},
    }))
}

async fn health(State(service): State<Arc<Service>>) -> Response {
    let reason = unhealthy(&service).await;
    let mut body = json!({
        "status": if reason.is_none() { "healthy" } else { "unhealthy" },
        "version": env!("CARGO_PKG_VERSION"),
        "isolation": service.executor.isolation.name(),
        "isolation_details": isolation_details(&service.executor),
        "platform": platform(),
        "uptime_seconds": service.started.elapsed().as_secs_f64().floor(),
        "active_executions": service.queue.running(),
    });
    let Some(reason) = reason else { return Json(body).into_response() };
    body["reason"] = json!(reason);
    (axum::http::StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], Json(body)).into_response()
}

/// Why code could not be run right now.
async fn unhealthy(service: &Service) -> Option<String> {
    let executor = &service.executor;
    if let Err(error) = executor.workspaces.check_writable() {
        return Some(format!("the workspace {} is not writable: {error}", executor.workspaces.path().display()));
    }
    match executor.workspaces.free_bytes() {
        Ok(free) if free < LEAST_FREE_BYTES => return Some(format!("the workspace's disk is full: {free} bytes left")),
        Ok(_) => {}
        Err(error) => return Some(format!("the workspace's disk can't be asked for its room: {error}")),
    }
    // In a task of its own: a client that goes away must not leave a sandbox half made.
    let (executor, config) = (Arc::clone(executor), service.config.clone());
    let proof = tokio::spawn(async move { executor.proof(&config, PROOF_LASTS).await });
    proof.await.unwrap_or_else(|error| Err(error.to_string())).err()
}

async fn info(State(service): State<Arc<Service>>) -> Json<Value> {
    let executor = &service.executor;
    let runtimes: Vec<Value> = Language::ALL
        .iter()
        .filter_map(|language| executor.interpreters.get(language)?.as_ref().ok())
        .map(|interpreter| json!({"language": interpreter.language, "version": interpreter.version, "warm": executor.is_warm(interpreter.language)}))
        .collect();
    let config = &service.config;
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "platform": platform(),
        "isolation": executor.isolation.name(),
        "isolation_version": executor.isolation.version(),
        "isolation_details": all_isolation_details(executor),
        "workspace_path": executor.workspaces.path(),
        "active_executions": service.queue.running(),
        "queued_executions": service.queue.waiting(),
        "max_concurrent_executions": config.max_concurrent_executions,
        "runtimes": runtimes,
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

async fn execute(State(service): State<Arc<Service>>, request: Request) -> Result<Response, Problem> {
    let request_id = request.extensions().get::<RequestId>().cloned().map(|id| id.0).unwrap_or_default();
    let (body, held) = read_body(&service, request).await?;
    let parsed = parse(&service, body).await?;
    let slot = service.queue.admit().await.map_err(|refused| match refused {
        Refused::Full => Problem::QueueFull,
        Refused::Closed => Problem::ShuttingDown,
    })?;
    let (execution_id, disk_mb) = (parsed.execution_id.clone(), parsed.limits.disk_mb);
    // A task of its own: what has started ends in order, also when the client does not wait for it.
    let run = tokio::spawn(async move {
        let answer = service.executor.execute(parsed, slot.waited).await;
        let response = match answer {
            Ok(answer) => Ok(respond(&service, answer).await),
            Err(failed) => Err(problem_of(&failed, disk_mb, &request_id, &execution_id)),
        };
        drop((slot, held));
        response
    });
    run.await.unwrap_or_else(|error| {
        tracing::error!("Execution ended in a fault of ours: {error}");
        Err(Problem::Internal)
    })
}

/// The response that holds its share of the memory for answers. The slot is kept until there is some.
async fn respond(service: &Service, answer: pipeline::Answer) -> Response {
    if answer.status == runtime::verdict::Status::Cancelled && service.executor.stop.is_cancelled() {
        return Problem::ShuttingDown.into_response();
    }
    let value = answer.return_value.as_ref().map_or(0, |value| value.get().len());
    let value = value + answer.files_weight();
    let size = answer.stdout.len() + answer.stderr.len() + value;
    let (answer, weight) = offload(size, move || {
        let weight = answer::json_weight(&answer.stdout) + answer::json_weight(&answer.stderr);
        (answer, weight)
    })
    .await;
    // Before it is made, so that no more is made than may be held.
    let share = ((weight + value) / KIB).min(ANSWERS_KIB) as u32;
    let held = Arc::clone(&service.answers).acquire_many_owned(share).await.ok();
    let (bytes, leftovers) = offload(size, move || {
        let mut bytes = Vec::with_capacity(weight + value + KIB);
        (serde_json::to_writer(&mut bytes, &answer).map(|()| bytes), answer.leftovers)
    })
    .await;
    tokio::spawn(async move {
        tokio::time::sleep(ANSWER_FIRST).await;
        drop(leftovers);
    });
    bytes.map_or_else(|_| Problem::Internal.into_response(), |bytes| answer::json(bytes, held))
}

async fn parse(service: &Arc<Service>, body: BytesMut) -> Result<ExecuteRequest, Problem> {
    let service = Arc::clone(service);
    offload(body.len(), move || request::parse(&body, &service.ceilings)).await.map_err(Problem::Validation)
}

/// What the caller gets to know; the log gets the rest under the request's id.
fn problem_of(failed: &Failed, disk_mb: u64, request_id: &str, execution_id: &str) -> Problem {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let problem = match failed {
        Failed::Language(reason) => Problem::Validation(vec![Violation::new("language", reason)]),
        Failed::WorkingDirectory(reason) => Problem::Validation(vec![Violation::new("working_directory", reason)]),
        Failed::Unready(Unready::Files(violations)) => Problem::Validation(violations.clone()),
        Failed::Unready(Unready::NoRoom) => Problem::QuotaExceeded(disk_mb),
        Failed::Unready(Unready::System(error)) | Failed::Workspace(error)
            if matches!(error.kind(), StorageFull | QuotaExceeded) =>
        {
            Problem::InsufficientStorage
        }
        Failed::Sandbox(error) if matches!(error.stage, Stage::Launch | Stage::Namespaces | Stage::Limits) => {
            Problem::IsolationUnavailable("the sandbox could not be set up".into())
        }
        Failed::Workspace(_) | Failed::Unready(_) | Failed::Sandbox(_) => Problem::Internal,
    };
    let what = match problem {
        Problem::Validation(_) | Problem::QuotaExceeded(_) => return problem,
        Problem::IsolationUnavailable(_) => "Isolation setup failed",
        _ => "Execution could not be run",
    };
    tracing::error!(request_id, execution_id, "{what}: {failed} (execution: {execution_id}, request: {request_id})");
    problem
}

/// Reads a body within bounds of size and time; what it takes of the memory for bodies is held until dropped.
async fn read_body(service: &Service, request: Request) -> Result<(BytesMut, Vec<OwnedSemaphorePermit>), Problem> {
    let most = service.config.max_body_bytes;
    let headers = request.headers();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::UnsupportedMediaType);
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(Problem::PayloadTooLarge(most));
    }
    let deadline = tokio::time::Instant::now() + BODY_TIME;
    let (mut body, mut bytes, mut held) = (request.into_body(), BytesMut::new(), Vec::new());
    loop {
        let until = deadline.min(tokio::time::Instant::now() + BODY_PAUSE);
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return Err(Problem::RequestTimeout),
            Ok(None) => return Ok((bytes, held)),
            // The client went away in the middle of its body; nobody reads the answer.
            Ok(Some(Err(_))) => return Err(Problem::Validation(vec![Violation::new("body", "was cut off")])),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() as u64 + data.len() as u64 > most {
            return Err(Problem::PayloadTooLarge(most));
        }
        bytes.extend_from_slice(&data);
        let counted: usize = held.iter().map(OwnedSemaphorePermit::num_permits).sum();
        let missing = (bytes.len() / KIB).saturating_sub(counted);
        if missing > 0 {
            let permits =
                Arc::clone(&service.bodies).try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
            held.push(permits.map_err(|_| Problem::QueueFull)?);
        }
    }
}
