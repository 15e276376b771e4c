//! What is run, and where things are for it.

use std::os::fd::OwnedFd;

/// A program to run, with paths as it will see them.
pub struct Program {
    /// Program and arguments; the first is an absolute path.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Folder below the workspace to start in, made where absent; empty for the workspace itself.
    pub working_directory: String,
    /// Standard input.
    pub stdin: OwnedFd,
    /// What the program gets as descriptors 4, 5, … (3 is the result channel).
    pub descriptors: Vec<OwnedFd>,
    /// Files to lay into the sandbox's own folder, outside the workspace: name and content.
    pub files: Vec<(String, OwnedFd)>,
    /// Most bytes kept of what comes over the result channel.
    pub result_bytes: u64,
    /// Whether the program survives `RLIMIT_DATA` when memory has to be bounded without a cgroup.
    pub bears_rlimit: bool,
}

/// Where things are inside a sandbox.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The workspace.
    pub workspace: String,
    /// The folder for files of ours.
    pub files: String,
    /// The folder for the program's own temporary files.
    pub temp: String,
    /// The folder of installed packages, where there is one.
    pub packages: Option<String>,
}
