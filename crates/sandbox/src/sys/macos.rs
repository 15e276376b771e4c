//! What only macOS has: the table of processes by libproc, what the kernel says about a process's sandbox, and other ways to
//! what Linux does in one call.

use std::ffi::{CString, OsString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::FdFlags;

use super::check;

use crate::seatbelt::Process;

/// `PROC_UID_ONLY` of sys/proc_info.h: list the processes of one user.
const PROC_UID_ONLY: u32 = 4;
/// `SZOMB` of sys/proc.h.
const ZOMBIE: u32 = 5;
/// `SANDBOX_FILTER_PATH`: the operation is on a path, which is the argument that follows.
const SANDBOX_FILTER_PATH: c_int = 1;

unsafe extern "C" {
    /// Of libsystem_sandbox, part of libSystem; declared as WebKit and Chromium declare it. 0: the process's sandbox allows the
    /// operation (or there is none), 1: it does not.
    fn sandbox_check(pid: libc::pid_t, operation: *const c_char, filter: c_int, ...) -> c_int;
    /// Added to a filter: ask, but do not put a denial into the system's log.
    static SANDBOX_CHECK_NO_REPORT: c_int;
}

/// All processes of this user that are not dead.
pub fn table() -> Vec<Process> {
    pids().into_iter().filter_map(process).collect()
}

fn pids() -> Vec<i32> {
    let uid = rustix::process::geteuid().as_raw();
    let size = size_of::<c_int>();
    // SAFETY: with no buffer the call only tells how many bytes there are.
    let bytes = unsafe { libc::proc_listpids(PROC_UID_ONLY, uid, std::ptr::null_mut(), 0) };
    // Some may start meanwhile.
    let mut pids: Vec<c_int> = vec![0; usize::try_from(bytes).unwrap_or(0) / size + 64];
    // SAFETY: the buffer is as long as is said.
    let bytes =
        unsafe { libc::proc_listpids(PROC_UID_ONLY, uid, pids.as_mut_ptr().cast(), (pids.len() * size) as c_int) };
    pids.truncate(usize::try_from(bytes).unwrap_or(0) / size);
    pids.retain(|pid| *pid > 0);
    pids
}

fn process(pid: i32) -> Option<Process> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = size_of::<libc::proc_bsdinfo>() as c_int;
    // SAFETY: the buffer has the size that is said, and is a plain structure for which zeroes are valid.
    let info = unsafe {
        if libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size) != size {
            return None;
        }
        info.assume_init()
    };
    (info.pbi_status != ZOMBIE).then_some(Process {
        pid,
        parent: info.pbi_ppid as i32,
        group: info.pbi_pgid as i32,
        started: info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec,
    })
}

/// Its physical footprint, which is what Activity Monitor shows: memory that is its own, compressed too.
pub fn memory_bytes(pid: i32) -> u64 {
    let mut usage = MaybeUninit::<libc::rusage_info_v4>::zeroed();
    // SAFETY: the buffer is the structure of this flavor, for which zeroes are valid.
    unsafe {
        if libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V4, usage.as_mut_ptr().cast()) != 0 {
            return 0;
        }
        usage.assume_init().ri_phys_footprint
    }
}

/// Whether it is under a profile that lets it write to the one folder and not to the other. Both must be there.
pub fn is_confined(pid: i32, writable: &Path, read_only: &Path) -> bool {
    may_write(pid, writable) == Some(true) && may_write(pid, read_only) == Some(false)
}

fn may_write(pid: i32, path: &Path) -> Option<bool> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: both strings end with NUL and outlive the call; with this filter one path follows.
    let answer = unsafe {
        let filter = SANDBOX_FILTER_PATH | SANDBOX_CHECK_NO_REPORT;
        sandbox_check(pid, c"file-write-data".as_ptr(), filter, path.as_ptr())
    };
    match answer {
        0 => Some(true),
        1 => Some(false),
        _ => None,
    }
}

/// The path that an open folder has now (F_GETPATH of fcntl(2)).
///
/// # Errors
/// The system call's own.
pub fn path_of(folder: &OwnedFd) -> io::Result<PathBuf> {
    Ok(OsString::from_vec(rustix::fs::getpath(folder)?.into_bytes()).into())
}

/// A pipe; neither end survives an exec. Here that takes two calls, and what another thread starts between them inherits the ends:
/// whoever becomes a program closes what is not its own ([`close_on_exec_from`]).
///
/// # Errors
/// The system calls' own.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe()?;
    for end in [&reader, &writer] {
        rustix::io::fcntl_setfd(end, FdFlags::CLOEXEC)?;
    }
    Ok((reader, writer))
}

/// Marks every descriptor from `first` up close-on-exec, as `/dev/fd` lists them.
///
/// # Errors
/// When they can't be listed.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    for entry in std::fs::read_dir("/dev/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|number: &RawFd| *number >= first) {
            // SAFETY: sets a flag on a descriptor, closes none. The one that lists is among them and gone afterwards.
            check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).ok();
        }
    }
    Ok(())
}

/// macOS has none.
pub fn landlock_abi() -> u32 {
    0
}

/// macOS has no such filter.
pub fn refused_calls() -> Vec<&'static str> {
    Vec::new()
}
