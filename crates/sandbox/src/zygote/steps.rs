//! How a fork of a zygote enters a sandbox and gives up everything, as data: system calls in order, for [`crate::sys::calls`]. It is what [`crate::native::child`] and the init do for a program that is executed, in the same order,
//! for a process that is there already: rights are used, then given up; Landlock and the filter come last.

use rustix::process::Resource;
use serde::Serialize;

use crate::failure::ENTER_STEP;
use crate::filter::seccomp::Instruction;
use crate::plan::WORKSPACE;
use crate::sys::calls::{LEND, ORPHAN};
use crate::walls::Namespaces;

/// A system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// What a failure is called.
    pub name: &'static str,
    /// The call.
    pub number: i64,
    pub arguments: Vec<Argument>,
    /// An error that is none: the rest of the steps goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unless_errno: Option<i32>,
    /// Left out where an order does not have what it names.
    pub optional: bool,
}

/// One of its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Argument {
    Number(i64),
    /// A number that comes with each order: a descriptor, `uid`, `gid`; or `thread_id`, the address where the C library keeps the
    /// thread's number.
    Named(&'static str),
    /// The address of these bytes.
    Bytes(Vec<u8>),
    /// The address of a `struct sock_fprog` with these instructions (seccomp(2)).
    Filter(Vec<u8>),
    /// The address of a `struct rlimit` with both limits at the order's value for this resource.
    Limit(u32),
}

use Argument::{Bytes, Filter, Limit, Named, Number};

fn step(name: &'static str, number: libc::c_long, arguments: Vec<Argument>) -> Step {
    // c_long is another width elsewhere.
    #[allow(clippy::useless_conversion)]
    Step { name, number: number.into(), arguments, unless_errno: None, optional: false }
}

impl Step {
    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// clone(2) like fork(2), to end at once: the C library finds the number of its thread where it keeps it.
fn fork() -> Step {
    let flags = libc::SIGCHLD | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    let arguments = vec![Number(flags.into()), Number(0), Number(0), Named("thread_id"), Number(0)];
    Step { number: ORPHAN, ..step("fork", 0, arguments) }
}

/// clone(2) like vfork(2), for one in between that only has to end for its child to become another's: a copy of the memory costs
/// as much as the fork itself.
fn lend(number: i64) -> Step {
    let flags = libc::SIGCHLD | libc::CLONE_VM | libc::CLONE_VFORK;
    let arguments = vec![Number(flags.into()), Number(0), Number(0), Number(0), Number(0)];
    Step { number, ..step("fork", 0, arguments) }
}

fn setns(namespace: &'static str, kind: libc::c_int) -> Step {
    step(ENTER_STEP, libc::SYS_setns, vec![Named(namespace), Number(kind.into())])
}

fn prctl(name: &'static str, option: libc::c_int, second: i64, third: i64) -> Step {
    let arguments = [option.into(), second, third, 0, 0].map(Number).to_vec();
    step(name, libc::SYS_prctl, arguments)
}

/// From the zygote to a program that waits.
pub(crate) fn all(is_root: bool, filter: &[Instruction]) -> Vec<Step> {
    let default_action = Bytes(vec![0; 32]);
    let enter_pids = setns("pid", libc::CLONE_NEWPID);
    let mut steps = Vec::new();
    if is_root {
        // Of its children alone, until the next order.
        steps.push(enter_pids.clone());
    }
    steps.extend([
        lend(LEND),
        // The zygote ignores it. A fork that ends before its parent does would be collected here, and its new parent never know.
        step(
            "signals",
            libc::SYS_rt_sigaction,
            vec![Number(libc::SIGCHLD.into()), default_action, Number(0), Number(8)],
        ),
    ]);
    if !is_root {
        // There it has the capabilities for the others, since its own user made it (user_namespaces(7)). Its children are in the
        // sandbox's pid namespace.
        steps.extend([setns("owner", libc::CLONE_NEWUSER), enter_pids, lend(ORPHAN)]);
    }
    steps.push(fork());
    for entrance in ["entrance0", "entrance1", "entrance2", "entrance3"] {
        let arguments = vec![Named(entrance), Bytes(b"0".to_vec()), Number(1)];
        steps.push(step("cgroup", libc::SYS_write, arguments).optional());
    }
    steps.extend([
        setns("net", libc::CLONE_NEWNET),
        setns("ipc", libc::CLONE_NEWIPC),
        setns("uts", libc::CLONE_NEWUTS),
        setns("cgroup", libc::CLONE_NEWCGROUP),
        // Its root and working directory become those of the sandbox.
        setns("mnt", libc::CLONE_NEWNS),
    ]);
    if is_root {
        steps.extend([
            step("identity", libc::SYS_setgroups, vec![Number(0), Number(0)]),
            step("identity", libc::SYS_setresgid, vec![Named("gid"); 3]),
            step("identity", libc::SYS_setresuid, vec![Named("uid"); 3]),
        ]);
    }
    steps.push(setns("user", libc::CLONE_NEWUSER));
    steps.extend(give_up_capabilities());
    steps.extend([
        step("session", libc::SYS_setsid, Vec::new()),
        step("working-directory", libc::SYS_chdir, vec![Bytes([WORKSPACE.as_bytes(), b"\0"].concat())]),
        step("umask", libc::SYS_umask, vec![Number(0o022)]),
    ]);
    for resource in LIMITED {
        let number = resource as u32;
        let arguments = vec![Number(0), Number(number.into()), Limit(number), Number(0)];
        steps.push(step("rlimits", libc::SYS_prlimit64, arguments).optional());
    }
    steps.extend([
        prctl("no-new-privs", libc::PR_SET_NO_NEW_PRIVS, 1, 0),
        step("landlock", libc::SYS_landlock_restrict_self, vec![Named(Namespaces::RULESET), Number(0)]).optional(),
    ]);
    for (number, name) in ["fd0", "fd1", "fd2", "fd3", "fd4"].into_iter().enumerate() {
        steps.push(step("descriptors", libc::SYS_dup3, vec![Named(name), Number(number as i64), Number(0)]));
    }
    steps.extend([
        step("descriptors", libc::SYS_dup3, vec![Named("door"), Number(DOOR_FD), Number(0)]),
        step("descriptors", libc::SYS_close_range, vec![Number(DOOR_FD + 1), Number(u32::MAX.into()), Number(0)]),
        // As an exec would; before it, nothing of a sandbox was of its user. Its files in /proc are its own again.
        prctl("dumpable", libc::PR_SET_DUMPABLE, 1, 0),
        step("seccomp", libc::SYS_seccomp, vec![Number(1), Number(0), Filter(bytes_of(filter))]),
        step("door", libc::SYS_write, vec![Number(DOOR_FD), Bytes(THERE.to_vec()), Number(THERE.len() as i64)]),
        step("door", libc::SYS_close, vec![Number(DOOR_FD)]),
    ]);
    steps
}

/// What the init is told by the door.
const THERE: &[u8] = b"{\"Ok\":null}";

/// Where the door is when all others are closed.
const DOOR_FD: i64 = 5;

/// Those of [`crate::limits::Rlimits`].
const LIMITED: [Resource; 11] = [
    Resource::Core,
    Resource::Fsize,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Memlock,
    Resource::Msgqueue,
    Resource::Rtprio,
    Resource::Nice,
    Resource::Stack,
    Resource::Sigpending,
    Resource::Data,
];

/// Empties every set that entering the user namespace filled, for good (capabilities(7)).
fn give_up_capabilities() -> Vec<Step> {
    // SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP, SECBIT_NO_CAP_AMBIENT_RAISE, their locks and that of SECBIT_KEEP_CAPS.
    const SECUREBITS: i64 = 0b1110_1111;
    let mut steps = vec![
        prctl("capabilities", libc::PR_SET_SECUREBITS, SECUREBITS, 0),
        prctl("capabilities", libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL.into(), 0),
    ];
    for capability in 0..=last_capability() {
        // Where that is not known, the kernel knows no more of them.
        let step = prctl("capabilities", libc::PR_CAPBSET_DROP, capability, 0);
        steps.push(Step { unless_errno: Some(libc::EINVAL), ..step });
    }
    // _LINUX_CAPABILITY_VERSION_3 and this process; three empty sets in two halves.
    let header = [0x2008_0522_u32.to_le_bytes(), [0; 4]].concat();
    steps.push(step("capabilities", libc::SYS_capset, vec![Bytes(header), Bytes(vec![0; 24])]));
    steps
}

/// The largest number of a capability that this kernel knows (capabilities(7)).
fn last_capability() -> i64 {
    const MOST: i64 = 63;
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(MOST)
}

fn bytes_of(filter: &[Instruction]) -> Vec<u8> {
    let one = |instruction: &Instruction| {
        let Instruction { code, jt, jf, k } = *instruction;
        [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()].concat()
    };
    filter.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(steps: &[Step]) -> String {
        let argument = |argument: &Argument| match argument {
            Number(number) => number.to_string(),
            Named(name) => (*name).to_owned(),
            Bytes(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            Filter(bytes) => format!("filter of {}", if bytes.is_empty() { "none" } else { "some" }),
            Limit(resource) => format!("limit {resource}"),
        };
        let line = |step: &Step| {
            let arguments: Vec<String> = step.arguments.iter().map(argument).collect();
            format!("{} {}({})\n", step.name, step.number, arguments.join(", "))
        };
        steps.iter().map(line).collect()
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_fork_enters_a_sandbox_by_this() {
        insta::assert_snapshot!("root", lines(&all(true, &crate::filter::seccomp::fork())));
        insta::assert_snapshot!("user", lines(&all(false, &[])));
    }

    #[test]
    fn the_filter_comes_last_and_capabilities_go_before_any_restriction_of_paths() {
        let steps = all(true, &crate::filter::seccomp::fork());
        let at = |name: &str| steps.iter().position(|step| step.name == name).unwrap();
        // After it nothing but a word to the init.
        assert_eq!(at("seccomp"), steps.len() - 3);
        assert!(at("identity") < at("capabilities") && at("capabilities") < at("landlock"));
        let names: Vec<u32> = LIMITED.iter().map(|resource| *resource as u32).collect();
        let limits = crate::limits::Rlimits::for_limits(&crate::limits::tests::limits(), Some(1));
        assert_eq!(limits.numbers().iter().map(|(resource, _)| *resource).collect::<Vec<_>>(), names);
    }
}
