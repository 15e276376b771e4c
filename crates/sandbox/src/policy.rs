//! What one execution may see and use. Plain data: adapters turn a [`Policy`] into their own plan and
//! never look anywhere else, so that what a program was allowed can be read off one value.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{SandboxError, Stage};
use crate::walls::Walls;

/// What the program may use. Every bound counts all processes of the execution together, unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Wall-clock time from the program's start to its forced end.
    pub timeout: Duration,
    /// Memory in bytes, `/tmp` and `/dev/shm` included.
    pub memory_bytes: u64,
    /// CPU time per wall-clock time; 1.5 is one core and a half.
    pub cpu_cores: f64,
    /// Processes and threads.
    pub processes: u32,
    /// Size of one file in bytes (`RLIMIT_FSIZE`, setrlimit(2)).
    pub file_size_bytes: u64,
    /// Bytes kept of each of stdout and stderr; the rest is drained and counted.
    pub output_bytes: u64,
}

impl Limits {
    /// Whether a cgroup for the one is also one for the other.
    #[cfg(target_os = "linux")]
    pub(crate) fn same_group(&self, other: &Self) -> bool {
        (self.memory_bytes, self.cpu_cores, self.processes) == (other.memory_bytes, other.cpu_cores, other.processes)
    }
}

/// The user and group on the host that the program's processes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Host user id. Never 0 and never the service's own where the service is root.
    pub uid: u32,
    /// Host group id.
    pub gid: u32,
}

/// What a program reaches beside itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// A loopback of its own, and nobody else on it.
    #[default]
    None,
    /// All that the host reaches, the host's own loopback included. For programs of ours that fetch something, never for a user's.
    Host,
}

/// A folder of the host that the program sees read-only under the same path.
pub type ReadOnlyFolder = PathBuf;

/// Everything an adapter needs to build a sandbox for one execution.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Name of the execution's cgroup and of its log lines; of the characters `[A-Za-z0-9._-]`.
    pub name: String,
    /// Switch to this identity before anything of the sandbox is set up; `None` keeps the service's own
    /// (only possible, and only right, where the service is not root).
    pub identity: Option<Identity>,
    /// The opened workspace folder. It is bound by descriptor, so that nobody can swap it by name.
    pub workspace: Arc<OwnedFd>,
    /// Folders beside `/usr` that hold interpreters.
    pub read_only: Vec<ReadOnlyFolder>,
    /// An opened folder of installed packages, which the program sees read-only at [`Layout::packages`](crate::program::Layout). Bound
    /// by descriptor as the workspace is.
    pub packages: Option<Arc<OwnedFd>>,
    /// What it reaches.
    pub network: Network,
    /// Room for files of ours beside the workspace, bytes: code, event, bootstrap.
    pub files_bytes: u64,
    /// Whether a zygote is to be able to fork into it, where the adapter has that.
    pub takes_forks: bool,
    /// Whether what it leaves may serve the next sandbox of its session.
    pub in_session: bool,
    /// What the sandbox before it in its session left, where the adapter can use it and nobody else does.
    pub walls: Option<Arc<Walls>>,
    /// What it may use.
    pub limits: Limits,
}

impl Policy {
    /// Fails where the program would have rights of the host's root: nothing in a sandbox ever does.
    ///
    /// # Errors
    /// Stage [`Stage::Launch`]: the service is root and the identity is missing or root's.
    pub(crate) fn refuse_root(&self) -> Result<(), SandboxError> {
        let harmless = |identity: Identity| identity.uid != 0 && identity.gid != 0;
        if rustix::process::geteuid().is_root() && !self.identity.is_some_and(harmless) {
            let detail = "a sandbox made by root needs a uid and a gid that are not root's";
            return Err(SandboxError::new(Stage::Launch, detail));
        }
        Ok(())
    }
}
