//! Starting and collecting a child without pidfd, for hosts that have none.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Starts a program in a session and process group of its own, with an empty environment. It reads `stdin`, writes errors to
/// `stderr`, and finds `inherited` open under the numbers that they have here. Returns its pid, which is also its group's.
///
/// # Errors
/// fork(2)'s or execve(2)'s own.
pub fn spawn_session(argv: &[String], stdin: OwnedFd, stderr: OwnedFd, inherited: &[OwnedFd]) -> io::Result<i32> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let numbers: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdin(stdin).stdout(Stdio::null()).stderr(stderr);
    // SAFETY: between fork and exec only setsid and fcntl are called, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            super::check(libc::setsid())?;
            for number in &numbers {
                super::check(libc::fcntl(*number, libc::F_SETFD, 0))?;
            }
            Ok(())
        });
    }
    Ok(command.spawn()?.id() as i32)
}

/// A child that was collected.
#[derive(Debug, Clone, Copy)]
pub struct Collected {
    /// Its wait status (wait(2)).
    pub status: i32,
    /// User and system time, with that of the children that it has collected itself.
    pub cpu_time: Duration,
    /// Largest resident set of one of them, bytes.
    pub peak_memory_bytes: u64,
}

/// Collects this child if it has ended (wait4(2)).
///
/// # Errors
/// `ECHILD` when it is no child, or was collected before.
pub fn collect(pid: i32) -> io::Result<Option<Collected>> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid; both places live through the call.
    let (found, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (super::check(libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage))?, usage)
    };
    if found == 0 {
        return Ok(None);
    }
    let time = |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    // macOS counts bytes, others KiB (getrusage(2)).
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Ok(Some(Collected {
        status,
        cpu_time: time(usage.ru_utime) + time(usage.ru_stime),
        peak_memory_bytes: usage.ru_maxrss as u64 * unit,
    }))
}
