//! Failures of ours: the sandbox could not be set up or kept. What a program did is never one (see [`crate::outcome`]).

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
pub struct SandboxError {
    /// Where it happened.
    pub stage: Stage,
    /// What was seen, for the log and for an operator.
    pub detail: String,
    /// The system call's own word, part of what is displayed.
    pub cause: Option<io::Error>,
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.stage, self.detail)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl SandboxError {
    /// A failure with an explanation and no deeper cause.
    pub fn new(stage: Stage, detail: impl Into<String>) -> Self {
        Self { stage, detail: detail.into(), cause: None }
    }

    /// A failed system call.
    pub fn io(stage: Stage, detail: impl fmt::Display, cause: io::Error) -> Self {
        Self { stage, detail: detail.to_string(), cause: Some(cause) }
    }
}
