//! Landlock: which paths the program may use and how, whatever the mounts and modes say.
//!
//! Follows the kernel's userspace-api/landlock.rst and landlock(7). Every file-system right the
//! newest known ABI has is handled, so a right no rule grants is refused everywhere; the right to
//! make device nodes is granted nowhere. Signals and abstract sockets are confined to the domain.
//! Network rights stay unhandled: the network namespace already decides who can be reached, and
//! refusing bind and connect by port would break loopback inside it. An older kernel enforces what
//! it can, and what it could is reported, since Landlock is a second wall here and hosts without
//! it are common.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

#[cfg(test)]
mod tests;

/// The newest ABI whose rights are known here (Linux 7.2).
const NEWEST: ABI = ABI::V10;

/// The paths a program may use. A rule on a folder holds for all below it, rules add up, and a
/// path that does not exist is skipped, since it grants nothing.
///
/// Symbolic links are followed when the rules are applied, so every path here is one that no
/// earlier program could have replaced: a mount point or a file of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Read, list and execute: the system and installed packages.
    pub read_exec: Vec<PathBuf>,
    /// Read and list.
    pub read_only: Vec<PathBuf>,
    /// Everything but device nodes and device ioctls: the workspace.
    pub write: Vec<PathBuf>,
    /// The same without execution: shared memory.
    pub write_noexec: Vec<PathBuf>,
    /// Device files: read, write and ioctl.
    pub devices: Vec<PathBuf>,
}

/// What the kernel enforces from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Achieved {
    /// The Landlock ABI in use: the older of the kernel's and the newest known here; 0 if the
    /// kernel has no Landlock or it is disabled, and nothing is enforced.
    pub abi: u32,
    /// Whether all that was asked for is enforced, not only what this ABI has.
    pub complete: bool,
}

/// The kernel has Landlock and refused the rules, which means a mistake in them or too many
/// layers.
#[derive(Debug, thiserror::Error)]
#[error("Landlock refused the rules")]
pub struct LandlockError(#[from] RulesetError);

impl LandlockError {
    /// The error number of the call that failed, if it was a call.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            cause = error.source();
        }
        None
    }
}

/// Restricts the calling thread and all it starts, for good; sets no_new_privs, see
/// landlock_restrict_self(2).
///
/// Best effort: a kernel with an older ABI enforces the part it knows. Meant for a process with
/// one thread, after its mounts are made and before its seccomp filter: a domain forbids mounting.
pub fn restrict(rules: &Rules) -> Result<Achieved, LandlockError> {
    let status = created(rules)?.restrict_self()?;
    Ok(Achieved {
        abi: match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        },
        complete: status.ruleset == RulesetStatus::FullyEnforced,
    })
}

/// The same as a descriptor that another process restricts itself with; `None` where the kernel has no Landlock.
pub fn ruleset(rules: &Rules) -> Result<Option<OwnedFd>, LandlockError> {
    Ok(created(rules)?.into())
}

fn created(rules: &Rules) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&rules.read_exec, read | AccessFs::Execute))?
        .add_rules(path_beneath_rules(&rules.read_only, read))?
        .add_rules(path_beneath_rules(&rules.write, writable() | AccessFs::Execute))?
        .add_rules(path_beneath_rules(&rules.write_noexec, writable()))?
        .add_rules(path_beneath_rules(&rules.devices, device()))
}

/// Read and change files and folders, FIFOs and sockets included (programs use them), devices not.
fn writable() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | Refer
        | MakeReg | MakeDir | MakeSym | MakeFifo | MakeSock | ResolveUnix
    })
}

fn device() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev})
}
