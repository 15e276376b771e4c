//! The first process of a container: it collects the dead and hands signals on; the program is its child.
//!
//! Whatever loses its parent in a pid namespace becomes a child of the first process (pid_namespaces(7)), also what people start by
//! `docker exec` and leave behind. The program waits for its own children only and, with many threads, can't tell others from them
//! without taking away their ends. So it is not the first process itself, and no other init is needed in front of it.

use std::io;

use crate::sys::{self, Forked, Reaped};

/// Where this is the first process of a pid namespace, makes the program its child: returns there with `None`, as everywhere else, and
/// here with the program's exit code when that has ended. To be called while there is one thread.
///
/// # Errors
/// There can be no child.
pub fn stand_in_front() -> io::Result<Option<u8>> {
    if std::process::id() != 1 {
        return Ok(None);
    }
    // SIGCHLD that is ignored would collect the program as well.
    sys::expect_signals();
    sys::block_signals();
    match sys::fork()? {
        // It lets them through again, as every program does at its start.
        Forked::Child => Ok(None),
        Forked::Parent(program) => Ok(Some(stand(program))),
    }
}

/// Until the program ends. Then the kernel ends all others in the namespace.
fn stand(program: i32) -> u8 {
    loop {
        let signal = sys::next_signal();
        if signal != libc::SIGCHLD {
            sys::hand_on(program, signal);
            continue;
        }
        while let Reaped::Child(pid, status) = sys::reap(false) {
            if pid == program {
                return exit_code(status);
            }
        }
    }
}

/// As a shell tells it.
fn exit_code(status: i32) -> u8 {
    let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_a_shell_does() {
        assert_eq!(exit_code(143 << 8), 143);
        assert_eq!(exit_code(libc::SIGKILL), 137);
        assert_eq!(exit_code(0), 0);
    }
}
