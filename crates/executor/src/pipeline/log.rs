//! The lines of an execution in the log. Nothing that it was given or has printed is in them.

use std::time::Duration;

use runtime::verdict::Status;
use sandbox::Isolation;

use crate::admission::request::ExecuteRequest;
use crate::answer::Answer;

/// What they are written with.
pub(super) struct Lines {
    id: String,
    session: String,
    language: &'static str,
    timeout: Duration,
}

impl Lines {
    pub(super) fn new(request: &ExecuteRequest) -> Self {
        Self {
            id: request.execution_id.clone(),
            session: request.session_id.clone().unwrap_or_else(|| "none".into()),
            language: request.language.name(),
            timeout: request.timeout,
        }
    }

    pub(super) fn start(&self, isolation: &Isolation) {
        let Self { id, session, language, .. } = self;
        let unisolated = if isolation.is_none() { ", isolation: none, nothing is isolated" } else { "" };
        tracing::info!(
            execution_id = id,
            session_id = session,
            language,
            "Starting execution: {id} (language: {language}, session: {session}{unisolated})"
        );
    }

    pub(super) fn end(&self, answer: &Answer) {
        let Self { id, session, timeout, .. } = self;
        let duration_ms = answer.metrics.duration_ms;
        let rounded = duration_ms.round();
        match (answer.status, &answer.error) {
            (Status::Completed, _) => {
                tracing::info!(
                    execution_id = id,
                    session_id = session,
                    duration_ms,
                    "Execution completed: {id} (duration: {rounded}ms)"
                );
            }
            (Status::Timeout, _) => {
                let seconds = timeout.as_secs();
                tracing::error!(
                    execution_id = id,
                    session_id = session,
                    duration_ms,
                    "Execution timeout: {id} (timeout: {seconds}s)"
                );
                tracing::info!(execution_id = id, session_id = session, "Process killed: {id}");
            }
            (Status::Cancelled, _) => {
                tracing::info!(execution_id = id, session_id = session, duration_ms, "Process killed: {id}");
            }
            (_, error) => {
                let kind = error.as_ref().map(|error| format!("{:?}", error.kind)).unwrap_or_default();
                tracing::info!(
                    execution_id = id,
                    session_id = session,
                    duration_ms,
                    "Execution failed: {id} ({kind}, duration: {rounded}ms)"
                );
            }
        }
    }
}
