//! Routes, and the gate before them.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::problem::{Answer, Problem};
use super::{about, body, execute, executions};
use crate::admission::request::{Ceilings, is_id};
use crate::config::{Config, HostRule};
use crate::executions::Executions;
use crate::telemetry::metrics;
use crate::workspace::random;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The service as the routes see it.
pub struct Service {
    /// The configuration.
    pub config: Config,
    /// What runs code, and what it ran.
    pub executions: Arc<Executions>,
    /// What a request may not exceed.
    pub ceilings: Ceilings,
    /// Memory for bodies.
    pub bodies: Arc<Semaphore>,
    /// When it started.
    pub started: Instant,
    host_rule: HostRule,
}

impl Service {
    /// A service of these executions.
    pub fn new(config: Config, executions: Arc<Executions>) -> Self {
        Self {
            ceilings: Ceilings::of(&config),
            host_rule: config.host_rule(),
            bodies: Arc::new(body::memory(config.max_body_bytes)),
            started: Instant::now(),
            executions,
            config,
        }
    }
}

/// All routes.
pub fn router(service: Arc<Service>) -> Router {
    routes()
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&service), gate))
        .with_state(service)
}

/// What is at them. What the document has of each stands at its handler, see [`super::openapi`].
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/", get(about::index))
        .route("/health", get(about::health))
        .route("/info", get(about::info))
        .route("/metrics", get(about::metrics))
        .route("/execute", post(execute::execute))
        .route("/executions", get(executions::list))
        .route("/executions/{id}", get(executions::one).delete(executions::cancel))
        .merge(super::sessions::router())
        .merge(super::files::router())
        .merge(super::session_config::router())
        .merge(super::docs::router())
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
    let route = request.extensions().get::<MatchedPath>().cloned();
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
        metrics::refused(problem.code());
        let allow = response.headers_mut().remove(header::ALLOW);
        response = Answer(problem, id.clone()).into_response();
        response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    }
    metrics::answered(route.as_ref().map(MatchedPath::as_str), response.status().as_u16());
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&id).ok().map(|id| (REQUEST_ID, id)));
    if let Some(origin) = origin.filter(|origin| is_listed(&service, origin)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "x-request-id, retry-after, location, preference-applied, etag, accept-ranges, content-range, content-disposition",
            ),
        );
    }
    response
}

/// The id of a request, for the log.
#[derive(Clone)]
pub struct RequestId(pub String);

/// The client's id if it has the form of one, otherwise one of ours.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_id(id));
    given.map_or_else(|| format!("req-{:016x}", random()), str::to_owned)
}

fn is_listed(service: &Service, origin: &HeaderValue) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    service.config.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
}

/// Whether the request is for a host that may be meant: each that it names, if it names several, since who stands in front may go by
/// any of them (RFC 9112, 3.2).
pub(super) fn names_host(rule: &HostRule, request: &Request) -> bool {
    let authority = request.uri().authority().map(|authority| Some(authority.as_str()));
    let hosts = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().ok());
    let mut hosts = hosts.chain(authority).peekable();
    *rule == HostRule::Any || (hosts.peek().is_some() && hosts.all(|host| host.is_some_and(|host| rule.allows(host))))
}

fn admit(service: &Service, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    if !names_host(&service.host_rule, request) {
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
            "authorization, content-type, prefer, x-request-id, range, if-match, if-none-match, if-range",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (axum::http::StatusCode::NO_CONTENT, headers).into_response()
}
