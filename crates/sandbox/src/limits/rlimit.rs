//! Resource limits of each process of a program, getrlimit(2): the second line behind the cgroup, and the only one
//! where there is no cgroup. They are data that crosses to the child, which applies them before it runs the program.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::policy::Limits;

/// The limits that every process of a program starts with, soft and hard alike: it cannot raise them. A process may use
/// each by itself, except for `processes`, `pending_signals` and `message_queue_bytes`, which count the user in the
/// sandbox's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// `RLIMIT_CORE`, bytes. 1: too short for a file, and the one value that also keeps the kernel from starting a
    /// program to pipe the core to (0 does not; fs/coredump.c). A program can still lower it to 0 by itself.
    pub core_bytes: u64,
    /// `RLIMIT_FSIZE`, bytes: size of a file; writing beyond it is SIGXFSZ or EFBIG.
    pub file_size_bytes: u64,
    /// `RLIMIT_NOFILE`: open descriptors of a process; EMFILE beyond.
    pub open_files: u64,
    /// `RLIMIT_NPROC`: processes and threads; EAGAIN beyond. Does not bind the root of the host.
    pub processes: u64,
    /// `RLIMIT_MEMLOCK`, bytes that may be locked into memory.
    pub locked_memory_bytes: u64,
    /// `RLIMIT_MSGQUEUE`, bytes in POSIX message queues.
    pub message_queue_bytes: u64,
    /// `RLIMIT_RTPRIO`: highest real-time priority; 0 is none.
    pub realtime_priority: u64,
    /// `RLIMIT_NICE`: 20 minus the lowest nice value that may be set; 0 is none below the present one.
    pub nice: u64,
    /// `RLIMIT_STACK`, bytes: stack of the first thread, and the default of others; SIGSEGV beyond.
    pub stack_bytes: u64,
    /// `RLIMIT_SIGPENDING`: queued signals and POSIX timers.
    pub pending_signals: u64,
    /// `RLIMIT_DATA`, bytes: private writable memory of a process, in place of the memory controller where that is
    /// missing; ENOMEM beyond. Reserved memory counts as used, so it must be far above what is needed. `None`: not set.
    pub data_bytes: Option<u64>,
}

impl Rlimits {
    /// What a program with `limits` gets. `data_bytes` is for hosts that can't limit memory by a cgroup.
    pub fn for_limits(limits: &Limits, data_bytes: Option<u64>) -> Rlimits {
        Rlimits {
            core_bytes: 1,
            file_size_bytes: limits.file_size_bytes,
            // The usual soft limit, made hard: select(2) works with every descriptor, and programs that close "all"
            // descriptors one by one end soon.
            open_files: 1024,
            // The sandbox's init is of the same user.
            processes: u64::from(limits.processes) + 1,
            locked_memory_bytes: 64 << 10,
            // The kernel's default.
            message_queue_bytes: 819_200,
            realtime_priority: 0,
            nice: 0,
            stack_bytes: 8 << 20,
            // Memory of the kernel that is charged to nobody else; interpreters use a handful.
            pending_signals: 1024,
            data_bytes,
        }
    }

    /// Sets them for the calling process with setrlimit(2). A hard limit that is lower already stays: raising it needs
    /// CAP_SYS_RESOURCE, which a sandbox does not have. Allocates nothing.
    ///
    /// # Errors
    /// That of setrlimit(2), with its errno; the limits before it in the list are set by then.
    pub fn apply(&self) -> io::Result<()> {
        for (resource, value) in self.entries().into_iter().flatten() {
            let value = getrlimit(resource).maximum.map_or(value, |inherited| value.min(inherited));
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
        }
        Ok(())
    }

    /// The resources by number (getrlimit(2)) and the value for each that has one, no higher than what this process could give.
    pub(crate) fn numbers(&self) -> Vec<(u32, Option<u64>)> {
        let most = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let numbers = self
            .entries()
            .into_iter()
            .flatten()
            .map(|(resource, value)| (resource as u32, Some(value.min(most(resource)))));
        let unset = self.data_bytes.is_none().then_some((Resource::Data as u32, None));
        numbers.chain(unset).collect()
    }

    fn entries(&self) -> [Option<(Resource, u64)>; 11] {
        [
            Some((Resource::Core, self.core_bytes)),
            Some((Resource::Fsize, self.file_size_bytes)),
            Some((Resource::Nofile, self.open_files)),
            Some((Resource::Nproc, self.processes)),
            Some((Resource::Memlock, self.locked_memory_bytes)),
            Some((Resource::Msgqueue, self.message_queue_bytes)),
            Some((Resource::Rtprio, self.realtime_priority)),
            Some((Resource::Nice, self.nice)),
            Some((Resource::Stack, self.stack_bytes)),
            Some((Resource::Sigpending, self.pending_signals)),
            self.data_bytes.map(|bytes| (Resource::Data, bytes)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::limits;
    use super::*;

    #[test]
    fn limits_become_rlimits() {
        let rlimits = Rlimits::for_limits(&limits(), None);
        let expected = Rlimits {
            core_bytes: 1,
            file_size_bytes: 10 << 20,
            open_files: 1024,
            processes: 33,
            locked_memory_bytes: 65_536,
            message_queue_bytes: 819_200,
            realtime_priority: 0,
            nice: 0,
            stack_bytes: 8_388_608,
            pending_signals: 1024,
            data_bytes: None,
        };
        assert_eq!(rlimits, expected);
        assert_eq!(rlimits.entries().into_iter().flatten().count(), 10);
        let with_data = Rlimits::for_limits(&limits(), Some(1 << 30));
        assert_eq!(with_data.entries().into_iter().flatten().last(), Some((Resource::Data, 1 << 30)));
    }

    #[test]
    fn they_cross_to_the_child_as_text() {
        let rlimits = Rlimits::for_limits(&limits(), Some(u64::MAX));
        let text = serde_json::to_string(&rlimits).expect("text");
        assert_eq!(serde_json::from_str::<Rlimits>(&text).expect("rlimits"), rlimits);
    }

    /// This very test, run again as a process of its own: limits cannot be taken back.
    #[test]
    fn they_are_applied_and_never_raised() {
        const MARK: &str = "RLIMITS_IN_CHILD";
        #[allow(clippy::disallowed_methods)] // Tells the test from the copy of itself that it starts.
        if std::env::var_os(MARK).is_none() {
            let (_crate, module) = module_path!().split_once("::").expect("a path");
            let child = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", &format!("{module}::they_are_applied_and_never_raised")])
                .env(MARK, "1")
                .output()
                .expect("a child");
            let text = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let lower = Rlimit { current: Some(64), maximum: Some(64) };
        setrlimit(Resource::Nofile, lower).expect("a lower limit");
        let mut rlimits = Rlimits::for_limits(&limits(), Some(8 << 30));
        rlimits.processes = 100_000;
        rlimits.apply().expect("applied");
        assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: Some(64), maximum: Some(64) });
        let file_size = Some(10 << 20);
        assert_eq!(getrlimit(Resource::Fsize), Rlimit { current: file_size, maximum: file_size });
        assert_eq!(getrlimit(Resource::Data).maximum, Some(8 << 30));
        assert!(getrlimit(Resource::Core).maximum.is_some_and(|core| core <= 1));
    }
}
