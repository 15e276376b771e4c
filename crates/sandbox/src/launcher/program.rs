//! How a forked child of the launcher becomes a program, which is bubblewrap or ours, or a zygote.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::failure::{Failure, NAMESPACES_STEP};
use crate::init::HIGH_FD;
use crate::native::mounts::Material;
use crate::plan::{HOSTNAME, Mount};
use crate::sys;

/// Turns the forked child into the program; returns only what went wrong.
pub(super) fn become_program(
    argv: &[String],
    bind: &[PathBuf],
    identity: Option<(u32, u32)>,
    stderr: &OwnedFd,
    folders: &[OwnedFd],
    placed: &[OwnedFd],
) -> Failure {
    let stage = |stage: &str, error: io::Error| Failure::new(stage, error);
    let parent = std::os::unix::process::parent_id();
    if let Err(error) = bind_folders(folders, bind) {
        return stage("bind-folders", error);
    }
    if let Some((uid, gid)) = identity
        && let Err(error) = sys::become_user(uid, gid)
    {
        return stage("identity", error);
    }
    // After the change of user, which clears it.
    if let Err(error) = die_with(parent) {
        return stage("parent-death-signal", error);
    }
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let Ok(argv) = strings(argv) else {
        return stage("arguments", io::Error::from_raw_os_error(libc::EINVAL));
    };
    let null = std::fs::File::options().write(true).open("/dev/null").map(OwnedFd::from);
    let placed: Vec<BorrowedFd<'_>> = placed.iter().map(AsFd::as_fd).collect();
    if let Err(error) = null.and_then(|null| place_descriptors(stderr, &placed, &null)) {
        return stage("descriptors", error);
    }
    sys::reset_signals();
    stage("execute", sys::execve(&argv[0], &argv, &[]))
}

/// What a zygote keeps of root's capabilities: to enter sandboxes and become their users (setns(2), setresuid(2)).
const ZYGOTE_CAPABILITIES: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT).union(CapabilitySet::SETUID).union(CapabilitySet::SETGID);

/// Turns the forked child into a zygote; returns only what went wrong. As root it becomes an ordinary user with a few capabilities,
/// and sees and reaches what a sandbox does.
pub(super) fn become_zygote(
    argv: &[String],
    env: &[(String, String)],
    mounts: &[Mount],
    identity: Option<(u32, u32)>,
    stderr: &OwnedFd,
    folders: &[OwnedFd],
    placed: &[OwnedFd],
) -> Failure {
    let steps = || -> Result<std::convert::Infallible, Failure> {
        let fail = |stage: &'static str| move |error: io::Error| Failure::new(stage, error);
        let nul = |_| Failure::new("arguments", io::Error::from_raw_os_error(libc::EINVAL));
        let argv = argv.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>().map_err(nul)?;
        let variables = env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let env = variables.collect::<Result<Vec<_>, _>>().map_err(nul)?;
        let parent = std::os::unix::process::parent_id();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let placed: Vec<BorrowedFd<'_>> = placed.iter().map(AsFd::as_fd).collect();
        if let (Some((uid, gid)), [etc]) = (identity, folders) {
            let apart = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
            sys::unshare(apart).map_err(fail(NAMESPACES_STEP))?;
            rustix::system::sethostname(HOSTNAME.as_bytes()).map_err(|error| Failure::new("hostname", error))?;
            let (workspace, etc) = (etc.as_fd(), etc.as_fd());
            let material =
                Material { workspace, etc, packages: None, owner: None, hide_processes: false, keep_proc: false };
            crate::native::mounts::build(mounts, &material)?;
            keep_capabilities(uid, gid).map_err(fail("identity"))?;
        }
        // After the change of user, which clears it.
        die_with(parent).map_err(fail("parent-death-signal"))?;
        place_descriptors(stderr, &placed, stderr).map_err(fail("descriptors"))?;
        sys::reset_signals();
        rustix::thread::set_no_new_privs(true).map_err(|error| Failure::new("no-new-privs", error))?;
        sys::install_seccomp(&crate::filter::seccomp::zygote()).map_err(fail("seccomp"))?;
        Err(Failure::new("execute", sys::execve(&argv[0], &argv, &env)))
    };
    match steps() {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Becomes the user and keeps [`ZYGOTE_CAPABILITIES`] across the exec (capabilities(7), "Ambient").
fn keep_capabilities(uid: u32, gid: u32) -> io::Result<()> {
    let kept = ZYGOTE_CAPABILITIES;
    rustix::thread::set_keep_capabilities(true)?;
    sys::become_user(uid, gid)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Standard input from nowhere, output to `stdout`, stderr to its pipe, the rest from 3 up; everything above closes at exec.
/// Standard input is a pipe that nobody writes to.
fn place_descriptors(stderr: &OwnedFd, placed: &[BorrowedFd<'_>], stdout: &OwnedFd) -> io::Result<()> {
    let (nothing, _) = sys::pipe()?;
    // First all out of the way of the numbers that are to be filled.
    let high = [nothing.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .chain(placed.iter().copied())
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, HIGH_FD))
        .collect::<Result<Vec<_>, _>>()?;
    for (number, fd) in high.iter().enumerate() {
        sys::place_fd(fd.as_raw_fd(), number as i32)?;
    }
    sys::close_on_exec_from(high.len() as i32)
}

/// Binds the folders behind the descriptors: what was opened and checked is what is bound, whoever renames things meanwhile.
/// The copies of their mounts are taken before the namespace is left that the descriptors belong to (open_tree(2)).
fn bind_folders(folders: &[OwnedFd], targets: &[PathBuf]) -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};
    if targets.is_empty() {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let copies = folders.iter().map(|folder| open_tree(folder, "", flags)).collect::<Result<Vec<_>, _>>()?;
    sys::unshare(libc::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for (copy, target) in copies.iter().zip(targets) {
        move_mount(copy, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Dies when the parent does; at once if it is gone already.
///
/// # Errors
/// prctl(2)'s own, `ESRCH` when the parent is gone.
fn die_with(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}
