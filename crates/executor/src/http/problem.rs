//! Errors as callers see them: one shape, one table, the solution a thing to do. What went wrong inside is in the log
//! under the request's id and never in the answer.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::admission::fields::Violation;

/// Seconds after which to try again when there was no room.
const RETRY_AFTER: &str = "1";

/// A request that was not executed, and why.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    /// The request breaks the rules in these places.
    Validation(Vec<Violation>),
    /// No token, or another one.
    Unauthorized,
    /// From a web page of somebody else.
    ForbiddenOrigin,
    /// To a name that is not ours.
    ForbiddenHost,
    /// No such path.
    NotFound,
    /// No such session, or no such file in it.
    FileNotFound,
    /// What is there does not allow it; what that is.
    FilesConflict(&'static str),
    /// A condition of the request's headers does not hold.
    PreconditionFailed,
    /// The part of a file that was asked for is not in it; its size.
    RangeNotSatisfiable(u64),
    /// The workspace would hold more than this many MiB.
    QuotaExceeded(u64),
    /// The path has other methods.
    MethodNotAllowed,
    /// The client stopped sending.
    RequestTimeout,
    /// The body is too large; the most that is allowed.
    PayloadTooLarge(u64),
    /// The file is too large; the most that is allowed, in MiB.
    FileTooLarge(u64),
    /// A body in an encoding that is not read.
    UnsupportedMediaType,
    /// All slots and all places to wait are taken.
    QueueFull,
    /// The service is going down.
    ShuttingDown,
    /// The sandbox could not be set up; what is wrong in the words of the documents.
    IsolationUnavailable(String),
    /// There is no room on the disk.
    InsufficientStorage,
    /// There is no room on the disk for results.
    NoRoomForState,
    /// Packages could not be installed; what pip said last.
    DependencyInstall(String),
    /// There is no room for packages.
    NoRoomForPackages,
    /// The execution's id is another request's, or what is asked for is over.
    Conflict(&'static str, &'static str),
    /// Our fault; the log knows more.
    Internal,
}

/// Status, code, description and solution of a problem.
struct Row(StatusCode, &'static str, &'static str, &'static str);

impl Problem {
    fn row(&self) -> Row {
        use StatusCode as S;
        match self {
            Self::Validation(_) => Row(
                S::BAD_REQUEST,
                "ValidationError",
                "The request is not valid",
                "Correct the fields named in error_detail and send the request again",
            ),
            Self::Unauthorized => Row(
                S::UNAUTHORIZED,
                "Unauthorized",
                "A token is needed",
                "Send the header `Authorization: Bearer <token>` with the value of EXECUTOR_API_TOKEN",
            ),
            Self::ForbiddenOrigin => Row(
                S::FORBIDDEN,
                "ForbiddenOrigin",
                "Requests from this origin are not accepted",
                "Add the web page's origin to ALLOWED_ORIGINS",
            ),
            Self::ForbiddenHost => Row(
                S::FORBIDDEN,
                "ForbiddenHost",
                "Requests to this host name are not accepted",
                "Address the service as localhost or 127.0.0.1, add the name to ALLOWED_HOSTS, or set EXECUTOR_API_TOKEN",
            ),
            Self::NotFound => Row(S::NOT_FOUND, "NotFound", "No such route or resource", "GET / lists what there is"),
            Self::FileNotFound => Row(
                S::NOT_FOUND,
                "NotFound",
                "There is no such session, or no such file in it",
                "GET /sessions lists sessions, GET /sessions/{id}/files the files of one; links, folders and special files are none",
            ),
            Self::FilesConflict(_) => Row(
                S::CONFLICT,
                "Conflict",
                "What is there does not allow this",
                "See error_detail, look at what is there, and try again",
            ),
            Self::PreconditionFailed => Row(
                S::PRECONDITION_FAILED,
                "PreconditionFailed",
                "The file is not in the state that If-Match or If-None-Match names",
                "GET the file for its present ETag and send the request again",
            ),
            Self::RangeNotSatisfiable(_) => Row(
                S::RANGE_NOT_SATISFIABLE,
                "RangeNotSatisfiable",
                "The file does not have the part that was asked for",
                "Ask for a part within the size that error_detail names",
            ),
            Self::QuotaExceeded(_) => Row(
                S::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                "The session's workspace would hold more than it may",
                "Remove files of the session, or raise MAX_DISK_MB",
            ),
            Self::MethodNotAllowed => Row(
                S::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "This path does not have that method",
                "Use a method that the Allow header names",
            ),
            Self::RequestTimeout => Row(
                S::REQUEST_TIMEOUT,
                "RequestTimeout",
                "The request's body did not come in time",
                "Send the body without pauses; check the network in between",
            ),
            Self::PayloadTooLarge(_) => Row(
                S::PAYLOAD_TOO_LARGE,
                "PayloadTooLarge",
                "The request's body is too large",
                "Send less, or raise MAX_BODY_BYTES",
            ),
            Self::FileTooLarge(_) => Row(
                S::PAYLOAD_TOO_LARGE,
                "PayloadTooLarge",
                "The file is too large",
                "Send it in several files, or raise MAX_FILE_SIZE_MB",
            ),
            Self::UnsupportedMediaType => Row(
                S::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "The request's body is encoded in a way that is not read here",
                "Send plain JSON without a Content-Encoding",
            ),
            Self::QueueFull => Row(
                S::SERVICE_UNAVAILABLE,
                "QueueFull",
                "Too many executions are running and waiting",
                "Try again later, or raise MAX_CONCURRENT_EXECUTIONS or MAX_QUEUED_EXECUTIONS",
            ),
            Self::ShuttingDown => Row(
                S::SERVICE_UNAVAILABLE,
                "ShuttingDown",
                "The service is shutting down",
                "Send the request again once the service is back, or to another instance",
            ),
            Self::IsolationUnavailable(_) => Row(
                S::SERVICE_UNAVAILABLE,
                "IsolationUnavailable",
                "Code can't be run in isolation here at the moment",
                "Run `sandbox-executor doctor` on the service's machine: it names the cause and the fix",
            ),
            Self::InsufficientStorage => Row(
                S::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                "There is no room left for workspaces",
                "Make room on the disk that holds WORKSPACE_PATH: remove old sessions there or move it to a larger disk",
            ),
            Self::NoRoomForState => Row(
                S::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                "There is no room left for results",
                "Make room on the disk that holds STATE_PATH, or move it to a larger disk; it is noticed by itself",
            ),
            Self::DependencyInstall(_) => Row(
                S::UNPROCESSABLE_ENTITY,
                "DependencyInstallError",
                "The packages could not be installed; the session has those that it had before",
                "Correct what error_detail names: a package or a version that the index has not, versions that exclude one another, \
                 or an index that does not answer",
            ),
            Self::NoRoomForPackages => Row(
                S::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                "There is no room left for packages",
                "Remove sessions whose packages nobody needs, raise MAX_PACKAGES_MB, or make room on the disk that holds STATE_PATH",
            ),
            Self::Conflict(description, solution) => Row(S::CONFLICT, "Conflict", description, solution),
            Self::Internal => Row(
                S::INTERNAL_SERVER_ERROR,
                "InternalError",
                "Something went wrong inside the service",
                "Look for the request_id in the service's log; run `sandbox-executor doctor` on its machine",
            ),
        }
    }

    /// The execution's id is another request's.
    pub const ANOTHER_REQUEST: Self = Self::Conflict(
        "This execution_id belongs to a request with another body",
        "Send the request as it was sent first to get its result, or use a new execution_id",
    );

    /// The execution has ended.
    pub const HAS_ENDED: Self = Self::Conflict(
        "The execution has ended already",
        "GET /executions/{id} has its result; there is nothing to cancel",
    );

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// Its `error_code`, less what is in front of all of them.
    pub fn code(&self) -> &'static str {
        self.row().1
    }

    /// What it is, in a sentence.
    pub fn description(&self) -> &'static str {
        self.row().2
    }

    /// The answer's body.
    pub fn body(&self, request_id: String) -> Body {
        let Row(_, code, description, solution) = self.row();
        Body { error_code: format!("Executor.{code}"), description, error_detail: self.detail(), solution, request_id }
    }

    fn detail(&self) -> Value {
        match self {
            Self::Validation(violations) => json!(violations),
            Self::PayloadTooLarge(most) => json!(format!("at most {most} bytes are allowed")),
            Self::FileTooLarge(most) => json!(format!("at most {most} MB are allowed (MAX_FILE_SIZE_MB)")),
            Self::FilesConflict(what) => json!(what),
            Self::DependencyInstall(lines) => json!(lines),
            Self::RangeNotSatisfiable(size) => json!(format!("the file has {size} bytes")),
            Self::QuotaExceeded(most) => json!(format!("at most {most} MB are allowed (MAX_DISK_MB)")),
            Self::IsolationUnavailable(reason) => json!(reason),
            _ => Value::Null,
        }
    }

    /// Whether the rest of the connection can't be made sense of after this.
    fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::RequestTimeout
                | Self::PayloadTooLarge(_)
                | Self::FileTooLarge(_)
                | Self::QuotaExceeded(_)
                | Self::InsufficientStorage
        )
    }
}

/// The body of an answer that tells of a problem.
#[derive(Serialize)]
pub struct Body {
    error_code: String,
    description: &'static str,
    error_detail: Value,
    solution: &'static str,
    request_id: String,
}

/// A problem with the id of the request that had it.
#[derive(Debug)]
pub struct Answer(pub Problem, pub String);

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self(problem, request_id) = self;
        let status = problem.status();
        let mut response = (status, Json(problem.body(request_id))).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Problem::RangeNotSatisfiable(size) = &problem {
            headers.extend(
                HeaderValue::from_str(&format!("bytes */{size}")).ok().map(|range| (header::CONTENT_RANGE, range)),
            );
        }
        if problem.ends_connection() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
