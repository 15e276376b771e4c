//! Which of the calls that sandboxes are made with a filter on this process refuses (seccomp(2)).
//!
//! Each is made in a form in which the kernel does nothing and, whoever asks, complains of an argument before it asks for a right:
//! that it is not permitted, or not there, is then a filter's word. Of calls that ask for the right first nothing can be told so.

use std::io;

const NOTHING: libc::c_long = 0;
const NO_FILE: libc::c_long = -1;

/// The names of those that are refused.
pub fn refused_calls() -> Vec<&'static str> {
    let calls: [(&str, libc::c_long, [libc::c_long; 5]); 6] = [
        ("clone3", libc::SYS_clone3, [NOTHING; 5]),
        ("unshare", libc::SYS_unshare, [NOTHING; 5]),
        ("setns", libc::SYS_setns, [NO_FILE, NOTHING, NOTHING, NOTHING, NOTHING]),
        ("mount", libc::SYS_mount, [NOTHING; 5]),
        ("open_tree", libc::SYS_open_tree, [NO_FILE, NOTHING, NOTHING, NOTHING, NOTHING]),
        ("mount_setattr", libc::SYS_mount_setattr, [NO_FILE, NOTHING, NOTHING, NOTHING, NOTHING]),
    ];
    let refused = calls.into_iter().filter(|(_, number, arguments)| {
        let [a, b, c, d, e] = *arguments;
        // SAFETY: every pointer is null, every descriptor -1, every size and set of flags 0: nothing is read, written or changed.
        let result = unsafe { libc::syscall(*number, a, b, c, d, e) };
        let error = io::Error::last_os_error().raw_os_error();
        result < 0 && matches!(error, Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
    });
    refused.map(|(name, ..)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_filter_nobody_is_refused_whatever_the_rights() {
        assert_eq!(refused_calls(), Vec::<&str>::new());
        std::thread::spawn(|| {
            let none = rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).expect("fewer");
            assert_eq!(refused_calls(), Vec::<&str>::new());
        })
        .join()
        .expect("the thread");
    }
}
