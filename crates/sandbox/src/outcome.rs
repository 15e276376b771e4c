//! How an execution ended, as a value. A program's fate is never an `Err`: that is kept for failures of ours.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What ended the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It exited by itself with this code.
    Exited(i32),
    /// A signal killed it that we did not send; the number, see signal(7).
    Signalled(i32),
    /// It was killed at its deadline.
    TimedOut,
    /// It was killed because the execution used up its memory.
    OutOfMemory,
    /// It was killed because its caller did not want it any more.
    Cancelled,
}

impl End {
    /// From a wait status (wait(2)).
    pub(crate) fn from_wait_status(status: i32) -> Self {
        let signal = status & 0x7f;
        if signal == 0 { Self::Exited(status >> 8 & 0xff) } else { Self::Signalled(signal) }
    }
}

/// What the program used: its own processes, none of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all its processes.
    pub cpu_time: Duration,
    /// Most memory in use at one time, bytes.
    pub peak_memory_bytes: u64,
    /// Bytes fetched from storage (`read_bytes` of proc_pid_io(5)).
    pub io_read_bytes: u64,
    /// Bytes sent to storage (`write_bytes` of proc_pid_io(5)).
    pub io_write_bytes: u64,
}

/// One captured stream: what was kept and what was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// The first bytes, at most the limit's.
    pub kept: Vec<u8>,
    /// Bytes written in all.
    pub total: u64,
}

impl Captured {
    /// Whether more was written than kept.
    pub fn truncated(&self) -> bool {
        self.total > self.kept.len() as u64
    }
}

/// A folder whose file system had no room left when the program had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullFolder {
    /// As the program sees it.
    pub path: String,
    /// Size of the file system.
    pub size_bytes: u64,
    /// Whether it is files that it can hold no more of, not bytes.
    pub of_files: bool,
}

impl FullFolder {
    /// If the file system of this folder has no room left for ordinary users (statvfs(3)).
    pub(crate) fn of(folder: &str) -> Option<Self> {
        /// Less than this is no room: a file system keeps the last blocks for itself.
        const LEAST_ROOM_BYTES: u64 = 32 * 1024;
        let state = rustix::fs::statvfs(folder).ok()?;
        // Some file systems make files as they need them, and say 0.
        let of_files = state.f_files > 0 && state.f_favail == 0;
        let is_full = of_files || state.f_bavail * state.f_frsize < LEAST_ROOM_BYTES;
        is_full.then(|| Self { path: folder.into(), size_bytes: state.f_blocks * state.f_frsize, of_files })
    }
}

/// Whether nothing but its top folder is in the tmpfs mounted here (statvfs(3)).
pub(crate) fn is_empty(folder: &str) -> bool {
    rustix::fs::statvfs(folder)
        .is_ok_and(|state| state.f_bfree == state.f_blocks && state.f_files > 0 && state.f_files - state.f_ffree == 1)
}

/// How it ended, what it wrote and what it used.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What ended it.
    pub end: End,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// What came over the result descriptor.
    pub result: Captured,
    /// What it used.
    pub usage: Usage,
    /// Whether a cgroup bounded its memory. Otherwise allocations may also have been refused (`RLIMIT_DATA`, setrlimit(2)).
    pub memory_enforced: bool,
    /// Where it could write no more, if it ended with a failure.
    pub full: Option<FullFolder>,
    /// Wall-clock time from the program's start until nothing of it was alive.
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_an_exit_code_or_a_signal() {
        assert_eq!(End::from_wait_status(0), End::Exited(0));
        assert_eq!(End::from_wait_status(3 << 8), End::Exited(3));
        assert_eq!(End::from_wait_status(libc::SIGKILL), End::Signalled(libc::SIGKILL));
        assert_eq!(End::from_wait_status(libc::SIGSEGV | 0x80), End::Signalled(libc::SIGSEGV));
    }
}
