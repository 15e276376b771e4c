//! The child of the launcher that becomes the init of a sandbox: from fresh namespaces to a process that owns nothing.
//!
//! The order is the policy. Everything that takes rights (cgroup, network, mounts) happens first, in the user namespace that
//! owns the new namespaces; then the child becomes the execution's user, enters one more user namespace, which owns nothing
//! (user_namespaces(7)), and gives up every capability there, for good. So even a program that won all capabilities of its
//! user namespace could neither mount nor configure the network. The child then is the init, without another exec: there is
//! nothing to load, and its memory is a copy of the launcher's, which never holds a byte of a request.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitiesSecureBits as SecureBits, CapabilitySet, CapabilitySets};

use super::mounts::{self, Material};
use crate::channel;
use crate::init::{self, Failure, Report, Stand};
use crate::plan::{HOSTNAME, INNER_ID, SandboxPlan};
use crate::sys;
use crate::walls::Namespaces;

/// Namespaces of a new sandbox. That of the network the launcher has made ahead where it may; that of cgroups follows when the child
/// is in its group, which becomes its top.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// How many user namespaces there may be below the one of whoever writes it (namespaces(7)).
const LIMIT: &str = "sys/user/max_user_namespaces";

/// What a child is made with.
pub struct Seed<'a> {
    /// What it builds.
    pub plan: &'a SandboxPlan,
    /// Host uid and gid to become; `None` where the launcher is an ordinary user, whose own they stay.
    pub identity: Option<(u32, u32)>,
    /// The launcher's uid and gid.
    pub launcher_ids: (u32, u32),
    /// See [`Material::hide_processes`].
    pub hide_processes: bool,
    /// Whether to hand its namespaces out, for a zygote.
    pub takes_forks: bool,
    /// The workspace.
    pub workspace: &'a OwnedFd,
    /// What stands for `/etc`.
    pub etc: &'a OwnedFd,
    /// The folder of installed packages, where the plan has one.
    pub packages: Option<&'a OwnedFd>,
    /// Namespaces of the sandbox before it that it goes to: none, that of the network, or those that [`crate::walls::Walls`] names.
    pub lent: &'a [OwnedFd],
    /// Where it says what went wrong beside the channel.
    pub stderr: &'a OwnedFd,
    /// The init's end of the control channel.
    pub control: &'a OwnedFd,
}

impl<'a> Seed<'a> {
    /// What the child is cloned into, `CLONE_NEW*`. Where the launcher is an ordinary user, a user namespace owns the others, that of
    /// the network, too, unless it is to stay in the host's.
    pub fn namespaces(&self) -> u64 {
        if self.walls().is_some() {
            return (libc::CLONE_NEWPID | libc::CLONE_NEWIPC) as u64;
        }
        let own = match (self.identity, self.plan.host_network) {
            (Some(_), _) => 0,
            (None, false) => libc::CLONE_NEWUSER | libc::CLONE_NEWNET,
            (None, true) => libc::CLONE_NEWUSER,
        };
        (NAMESPACES | own) as u64
    }

    /// The mounts, the host name and the user that it goes to, if it builds none.
    fn walls(&self) -> Option<[&'a OwnedFd; 3]> {
        match self.lent {
            [_network, mounts, name, user] => Some([mounts, name, user]),
            _ => None,
        }
    }
}

/// Sets everything up and is the init until its end; returns its exit code.
pub fn main(seed: &Seed<'_>) -> i32 {
    match become_init(seed) {
        Ok(stand) => init::run(seed.control, stand),
        Err(failure) => {
            channel::send(seed.control.as_fd(), &Report::Failed(failure), &[]).ok();
            125
        }
    }
}

/// What the init stands on then.
fn become_init(seed: &Seed<'_>) -> Result<Stand, Failure> {
    let fail = |step: &'static str| move |error: io::Error| Failure::new(step, error);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let host_proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let host_proc = host_proc.map_err(|error| Failure::new("host-proc", error))?;
    if seed.identity.is_none() {
        map_ids(&host_proc, seed.launcher_ids).map_err(fail("id-map"))?;
    }
    sys::unshare(libc::CLONE_NEWCGROUP).map_err(fail("cgroup-namespace"))?;
    if let Some(network) = seed.lent.first() {
        enter(network)?;
    }
    if seed.identity.is_none() && !seed.plan.host_network {
        sys::bring_loopback_up().map_err(fail("network"))?;
    }
    let can_set = !settings_are_read_only();
    let material = Material {
        workspace: seed.workspace.as_fd(),
        etc: seed.etc.as_fd(),
        packages: seed.packages.map(AsFd::as_fd),
        owner: seed.identity,
        hide_processes: seed.hide_processes,
        keep_proc: !can_set,
    };
    let tree = match seed.walls() {
        Some([mounts, name, _]) => {
            enter(name)?;
            enter(mounts)?;
            mounts::renew(&seed.plan.mounts, &material)?
        }
        None => {
            rustix::system::sethostname(HOSTNAME.as_bytes()).map_err(|error| Failure::new("hostname", error))?;
            mounts::build(&seed.plan.mounts, &material)?
        }
    };
    if let Some((uid, gid)) = seed.identity {
        become_user_with_capabilities(uid, gid).map_err(fail("identity"))?;
    }
    let mut namespaces = Vec::new();
    // The one that owns the others, where that is not the service's own.
    if seed.takes_forks && seed.identity.is_none() {
        namespaces.push((Namespaces::OWNER, namespace(&host_proc, "user").map_err(fail("open-namespaces"))?));
    }
    match seed.walls() {
        Some([.., user]) => enter(user)?,
        None => {
            sys::unshare(libc::CLONE_NEWUSER).map_err(fail("user-namespace"))?;
            map_ids(&host_proc, seed.identity.unwrap_or((INNER_ID, INNER_ID))).map_err(fail("id-map"))?;
            // Lets no user namespace be made below this one (namespaces(7)). The filter refuses the calls as well.
            if can_set || tree.proc.is_some() {
                write(tree.proc.as_ref().unwrap_or(&host_proc), LIMIT, "0").map_err(fail("user-namespace-limit"))?;
            }
        }
    }
    give_up_capabilities().map_err(|error| Failure::new("capabilities", error))?;
    rustix::process::setsid().map_err(|error| Failure::new("session", error))?;
    drop(tree.proc);
    if seed.takes_forks {
        let names: &[&'static str] = if seed.walls().is_some() { &Namespaces::NEW } else { &Namespaces::NAMES };
        for name in names {
            namespaces.push((*name, namespace(&host_proc, name).map_err(fail("open-namespaces"))?));
        }
        if seed.walls().is_none() {
            namespaces.extend(init::ruleset(&seed.plan.access)?.map(|rules| (Namespaces::RULESET, rules)));
        }
    }
    let outer_proc = (!tree.has_proc).then_some(host_proc);
    let kept = [seed.control].into_iter().chain(namespaces.iter().map(|(_, fd)| fd)).chain(&outer_proc);
    keep_only(kept.map(AsRawFd::as_raw_fd).collect(), seed.stderr).map_err(fail("descriptors"))?;
    Ok(Stand { lacks: tree.lacks, outer_proc, namespaces })
}

/// Whether the kernel's settings in the launcher's `/proc` are, as often in a container. Asked once, in the launcher; of the mount, since
/// access(2) would tell an ordinary user first that the file is root's.
pub fn settings_are_read_only() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let ask = || rustix::fs::statvfs(format!("/proc/{LIMIT}"));
    *ANSWER.get_or_init(|| ask().is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY)))
}

/// Goes to a namespace, whichever kind it is of (setns(2)).
fn enter(namespace: &OwnedFd) -> Result<(), Failure> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), None)
        .map_err(|error| Failure::new("enter-namespace", error))
}

/// One of the namespaces that this process is in (namespaces(7)).
fn namespace(proc: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let path = format!("self/ns/{name}");
    Ok(rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Maps the program's ids to these of the user namespace above, where they are this process's own (user_namespaces(7)).
fn map_ids(proc: &OwnedFd, (uid, gid): (u32, u32)) -> io::Result<()> {
    // The files of a process that is not dumpable, as one is not whose ids have changed, belong to root (proc(5)).
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    write(proc, "self/setgroups", "deny")?;
    write(proc, "self/gid_map", &format!("{INNER_ID} {gid} 1\n"))?;
    write(proc, "self/uid_map", &format!("{INNER_ID} {uid} 1\n"))
}

fn write(folder: &OwnedFd, path: &str, text: &str) -> io::Result<()> {
    let file = rustix::fs::openat(folder, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// Becomes the user, without losing what it takes to make one more user namespace where ordinary users may not
/// (capabilities(7), "Effect of user ID changes on capabilities").
fn become_user_with_capabilities(uid: u32, gid: u32) -> io::Result<()> {
    rustix::thread::set_keep_capabilities(true)?;
    sys::become_user(uid, gid)?;
    let kept = rustix::thread::capabilities(None)?;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?)
}

/// Empties every set, and sees to it that no exec fills one again (capabilities(7)).
fn give_up_capabilities() -> rustix::io::Result<()> {
    let locked = SecureBits::NO_ROOT_LOCKED
        | SecureBits::NO_SETUID_FIXUP_LOCKED
        | SecureBits::KEEP_CAPS_LOCKED
        | SecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    let on = SecureBits::NO_ROOT | SecureBits::NO_SETUID_FIXUP | SecureBits::NO_CAP_AMBIENT_RAISE;
    rustix::thread::set_capabilities_secure_bits(on | locked)?;
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Closes every descriptor but these and the standard ones, which become nothing and `stderr`; the launcher's own above all, whose
/// owners are never looked at again: the process ends without going back to them.
fn keep_only(mut kept: Vec<RawFd>, stderr: &OwnedFd) -> io::Result<()> {
    const STANDARD: RawFd = 3;
    let null = OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null")?);
    for (number, fd) in [&null, &null, stderr].into_iter().enumerate() {
        sys::place_fd(fd.as_raw_fd(), number as RawFd)?;
    }
    drop(null);
    kept.sort_unstable();
    let mut first = STANDARD;
    for number in kept {
        match number - first {
            ..0 => return Err(io::ErrorKind::InvalidInput.into()),
            0 => {}
            _ => sys::close_range(first, Some(number))?,
        }
        first = number + 1;
    }
    sys::close_range(first, None)
}
