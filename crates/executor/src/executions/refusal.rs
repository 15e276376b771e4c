//! What callers get to know of a failure, and what goes to the log instead.

use sandbox::error::Stage;

use crate::admission::fields::Violation;
use crate::admission::queue::Refused;
use crate::http::problem::Problem;
use crate::pipeline::Failed;
use crate::store::StoreError;
use crate::workspace::tenancy::Unready;

/// Of the queue.
pub(super) fn problem_of_queue(refused: Refused) -> Problem {
    match refused {
        Refused::Full => Problem::QueueFull,
        Refused::Closed => Problem::ShuttingDown,
    }
}

/// Of the store.
pub(super) fn problem_of_store(error: &StoreError) -> Problem {
    match error {
        StoreError::Full => Problem::NoRoomForState,
        StoreError::Failed(why) => {
            tracing::error!("The store can't be used: {why}");
            Problem::Internal
        }
    }
}

/// What the caller gets to know; the log gets the rest under the request's id.
pub(super) fn problem_of(failed: &Failed) -> Problem {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match failed {
        Failed::Language(reason) => Problem::Validation(vec![Violation::new("language", reason)]),
        Failed::WorkingDirectory(reason) => Problem::Validation(vec![Violation::new("working_directory", reason)]),
        Failed::Unready(Unready::Files(violations)) => Problem::Validation(violations.clone()),
        Failed::Unready(Unready::NoRoom(most)) => Problem::QuotaExceeded(*most),
        Failed::Unready(Unready::System(error)) | Failed::Workspace(error)
            if matches!(error.kind(), StorageFull | QuotaExceeded) =>
        {
            Problem::InsufficientStorage
        }
        Failed::Record(StoreError::Full) => Problem::NoRoomForState,
        Failed::Sandbox(error) if matches!(error.stage, Stage::Launch | Stage::Namespaces | Stage::Limits) => {
            Problem::IsolationUnavailable("the sandbox could not be set up".into())
        }
        Failed::Workspace(_)
        | Failed::Unready(_)
        | Failed::Packages(_)
        | Failed::Sandbox(_)
        | Failed::Midway(_)
        | Failed::Record(_) => Problem::Internal,
    }
}

/// The same in the result of an execution that has to have one, without internals.
pub(super) fn reason_of(error: &Failed) -> String {
    match problem_of(error) {
        Problem::Validation(violations) => {
            violations.into_iter().map(|violation| violation.message).collect::<Vec<_>>().join("; ")
        }
        problem @ (Problem::InsufficientStorage | Problem::NoRoomForState | Problem::QuotaExceeded(_)) => {
            problem.description().to_owned()
        }
        Problem::IsolationUnavailable(reason) => format!("Code can't be run in isolation: {reason}"),
        _ => "The sandbox failed; the service's log says why".to_owned(),
    }
}

/// The whole of it, for whoever runs the service.
pub(super) fn log_failed(failed: &Failed, problem: &Problem, request_id: &str, execution_id: &str) {
    let what = match problem {
        Problem::Validation(_) | Problem::QuotaExceeded(_) => return,
        Problem::IsolationUnavailable(_) => "Isolation setup failed",
        _ => "Execution could not be run",
    };
    tracing::error!(request_id, execution_id, "{what}: {failed} (execution: {execution_id}, request: {request_id})");
}
