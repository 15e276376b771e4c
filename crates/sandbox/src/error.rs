//! Failures of ours: the sandbox could not be set up or kept. What a program did is never one (see [`crate::outcome`]).

use std::error::Error;
use std::fmt;
use std::io;

/// Where in the life of a sandbox something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Starting processes of ours.
    Launch,
    /// Namespaces and mounts.
    Namespaces,
    /// The execution's cgroup.
    Limits,
    /// The program's start inside.
    Program,
    /// Going to the working directory that the caller named.
    WorkingDirectory,
    /// Watching over it.
    Supervise,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launch => "starting the sandbox process",
            Self::Namespaces => "setting up the isolation",
            Self::Limits => "setting the limits",
            Self::Program => "starting the program",
            Self::WorkingDirectory => "entering the working directory",
            Self::Supervise => "supervising the program",
        })
    }
}

/// A failure of the sandbox: at which stage, what was seen, and what caused it.
#[derive(Debug, thiserror::Error)]
#[error("{stage} failed: {detail}")]
pub struct SandboxError {
    /// Where it happened.
    pub stage: Stage,
    /// What was seen, for the log and for an operator.
    pub detail: String,
    /// The underlying cause.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl SandboxError {
    /// A failure with an explanation and no deeper cause.
    pub fn new(stage: Stage, detail: impl Into<String>) -> Self {
        Self { stage, detail: detail.into(), source: None }
    }

    /// A failed system call.
    pub fn io(stage: Stage, detail: impl fmt::Display, source: io::Error) -> Self {
        Self { stage, detail: format!("{detail}: {source}"), source: Some(Box::new(source)) }
    }
}

impl SandboxError {
    /// A step that failed in a child of ours.
    pub(crate) fn failure(stage: Stage, failure: &crate::init::Failure) -> Self {
        let stage = if failure.stage == crate::init::WORKING_DIRECTORY_STEP { Stage::WorkingDirectory } else { stage };
        let item = failure.index.map(|index| format!(" (item {index})")).unwrap_or_default();
        Self::io(stage, format_args!("{}{item}", failure.stage), io::Error::from_raw_os_error(failure.errno))
    }
}
