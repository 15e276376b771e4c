//! Run one program in isolation: a [`policy::Policy`] becomes a [`running::Prepared`] sandbox, a
//! [`running::Program`] in it becomes an [`outcome::Outcome`]. Knows no HTTP, no language, no control plane.
//!
//! A binary that uses this library calls [`dispatch`] first thing in `main`: the library re-executes the
//! binary as its launcher and as the init of each sandbox.

#![deny(unsafe_code)]

pub mod bubblewrap;
pub mod capture;
pub mod channel;
pub mod error;
mod etc;
pub mod failure;
pub mod filter;
mod init;
mod isolation;
mod launcher;
pub mod limits;
pub mod native;
pub mod outcome;
mod plan;
pub mod policy;
pub mod prepare;
pub mod running;
pub mod subordinate;
pub mod seatbelt;
#[allow(unsafe_code)]
mod sys;
mod unisolated;

pub use isolation::Isolation;
pub use launcher::Launcher;
pub use sys::{keep_little_memory, landlock_abi};

/// Runs the launcher or an init when this process was started as one; returns its exit code, or `None` when the process
/// is the program's own. To be called before anything else, while there is one thread.
pub fn dispatch(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Option<i32> {
    let mut arguments = arguments.into_iter().skip(1);
    let (first, second) = (arguments.next(), arguments.next());
    match first.as_deref().and_then(|word| word.to_str()) {
        Some(launcher::LAUNCHER_ARGUMENT) if second.is_none() => Some(launcher::main()),
        Some(seatbelt::STARTER_ARGUMENT) if second.is_none() => Some(seatbelt::starter()),
        Some(init::INIT_ARGUMENT) if second.is_none() => Some(init::main()),
        _ => None,
    }
}
