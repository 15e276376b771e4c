//! Run one program in isolation: a [`policy::Policy`] becomes a [`Prepared`] sandbox, a [`program::Program`] in it becomes an
//! [`outcome::Outcome`]. Knows no HTTP, no language, no control plane.
//!
//! A binary that uses this library calls [`dispatch`] first thing in `main`: the library re-executes the
//! binary as its launcher and as the init of each sandbox (on macOS as what starts inside).

#![deny(unsafe_code)]

pub mod capture;
pub mod error;
pub mod failure;
mod isolation;
pub mod outcome;
pub mod pipes;
pub mod policy;
pub mod program;
pub mod seatbelt;
#[allow(unsafe_code)]
mod sys;

// What only Linux has, and what stands in its place elsewhere.
#[cfg(not(target_os = "linux"))]
mod absent;
#[cfg(target_os = "linux")]
pub mod bubblewrap;
#[cfg(target_os = "linux")]
pub mod channel;
#[cfg(target_os = "linux")]
mod etc;
#[cfg(target_os = "linux")]
pub mod filter;
#[cfg(target_os = "linux")]
mod first;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod launcher;
#[cfg(target_os = "linux")]
pub mod limits;
#[cfg(target_os = "linux")]
pub mod native;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
pub mod prepare;
#[cfg(target_os = "linux")]
pub mod running;
#[cfg(target_os = "linux")]
pub mod subordinate;
#[cfg(target_os = "linux")]
mod unisolated;
#[cfg(target_os = "linux")]
pub mod walls;
#[cfg(target_os = "linux")]
pub mod zygote;

#[cfg(not(target_os = "linux"))]
use absent::plan;
#[cfg(not(target_os = "linux"))]
pub use absent::{bubblewrap, channel, limits, native, prepare, project, running, subordinate, walls, zygote};
pub use isolation::{Isolation, Prepared, Remains, Started};
pub use plan::covered_by;
#[cfg(target_os = "linux")]
pub use sys::project;
pub use sys::{expect_signals, keep_little_memory, landlock_abi, look_up_names_without_modules, refused_calls};

/// See [`first::stand_in_front`]; elsewhere than on Linux there is no such process.
///
/// # Errors
/// There can be no child.
pub fn stand_in_front() -> std::io::Result<Option<u8>> {
    #[cfg(target_os = "linux")]
    return first::stand_in_front();
    #[cfg(not(target_os = "linux"))]
    Ok(None)
}

/// Runs the launcher or an init when this process was started as one; returns its exit code, or `None` when the process
/// is the program's own. To be called before anything else, while there is one thread.
pub fn dispatch(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Option<i32> {
    let mut arguments = arguments.into_iter().skip(1);
    let (first, second) = (arguments.next(), arguments.next());
    match first.as_deref().and_then(|word| word.to_str()) {
        Some(seatbelt::STARTER_ARGUMENT) if second.is_none() => Some(seatbelt::starter()),
        #[cfg(target_os = "linux")]
        Some(launcher::LAUNCHER_ARGUMENT) if second.is_none() => Some(launcher::main()),
        #[cfg(target_os = "linux")]
        Some(init::INIT_ARGUMENT) if second.is_none() => Some(init::main()),
        _ => None,
    }
}
