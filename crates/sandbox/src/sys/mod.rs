//! The only unsafe code of the project: system calls that no safe crate offers, each behind a function that
//! a caller cannot misuse without reading its doc. Everything else goes through rustix.
//!
//! [`fork`] and [`clone_into`] may only be called by a process with one thread (the launcher, the init): between fork and exec
//! the child runs ordinary code, which is sound only when no other thread can hold a lock (fork(2)).

#[cfg(target_os = "linux")]
pub mod calls;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
pub mod project;
#[cfg(target_os = "linux")]
mod refused;
pub mod spawn;

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;

#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(target_os = "macos")]
pub use macos::*;
#[cfg(target_os = "linux")]
pub use refused::refused_calls;

/// execve(2). Returns only when it failed.
pub fn execve(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers =
        |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and point at NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Makes descriptor `number` a duplicate of `fd` that stays open across exec (dup2(2)).
///
/// # Errors
/// The system call's own.
pub fn place_fd(fd: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 touches only the descriptor table; the callers use it right before exec, on numbers that
    // no OwnedFd of theirs holds.
    check(unsafe { libc::dup2(fd, number) }).map(drop)
}

/// Sets every signal to its default action and unblocks all: what a fresh program expects. (Rust ignores SIGPIPE
/// and an ignored signal stays so across exec.)
pub fn reset_signals() {
    // SAFETY: sigaction with SIG_DFL and sigprocmask with an empty set install no code; numbers that cannot be
    // changed (SIGKILL, SIGSTOP) just fail.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Undoes what whoever started this process may have left it with, which an exec hands on (signal(7)): SIGCHLD ignored, so that the
/// kernel collects children before we do, or signals blocked, so that none could stop us. Others that are ignored stay so, as
/// nohup(1) means it.
pub fn expect_signals() {
    // SAFETY: sigaction with SIG_DFL and sigprocmask with an empty set install no code.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGCHLD, &default, std::ptr::null_mut());
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Tells the allocator to keep little: one arena, and large blocks given back at once (mallopt(3)). Output and answers of
/// executions come and go in megabytes, and glibc would keep some of them for each thread.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers in the allocator; called while there is one thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
    }
}

/// Has the C library of a static binary look names up by what is in it, `/etc/hosts` and DNS, whatever else `/etc/nsswitch.conf`
/// lists: it would load those modules, and with them the host's own C library, which need not be of this version (nss(5)).
pub fn look_up_names_without_modules() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const libc::c_char, sources: *const libc::c_char) -> libc::c_int;
        }
        // SAFETY: both are NUL-terminated and live as long as the program; called while there is one thread.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
