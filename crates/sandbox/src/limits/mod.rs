//! Limits that the kernel enforces: cgroups for an execution as a whole, rlimits for each of its processes.
//!
//! [`Cgroups`] finds out once, at the start of the service, what it can really use; every execution then gets a
//! [`Cgroup`] of its own, `<group of the service>/sandbox-executor-<instance>/<execution>`. Both versions of the kernel
//! interface do the same things under different names: what goes into which file is a pure plan (`cgroup_v1`,
//! `cgroup_v2`), carried out by one short interpreter (`group`). A limit that cannot be enforced is named, with the
//! reason ([`Cgroups::unavailable`]); whether to go on without it is the caller's decision.
//!
//! The group is on the path of each execution, so it costs few system calls: groups are made and written relative to
//! one open folder per hierarchy. See [`Cgroup::attach`] for the one step that can take long, and how to avoid it.

mod cgroup_v1;
mod cgroup_v2;
mod detect;
mod file;
mod group;
mod hierarchy;
mod oom;
mod rlimit;
mod spare;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use group::{Cgroup, CgroupUsage, enter};
pub use oom::OomWatch;
pub use rlimit::Rlimits;

use crate::policy::Limits;
use detect::{Detected, Plan};
use hierarchy::{Controller, Hierarchy};
use spare::Spares;

/// Beginning of the name of an instance's group.
const GROUP_PREFIX: &str = "sandbox-executor-";
/// Version 2: where the service itself is, in the instance's group.
const SERVICE_GROUP: &str = "service";
/// Version 2: where sandboxes are built if the service has no leaf that they could be built in.
const BUILDERS_GROUP: &str = "builders";
/// The group of the test at the start, in the instance's group.
const PROBE_GROUP: &str = "probe";
/// No names of executions.
const RESERVED: [&str; 3] = [SERVICE_GROUP, BUILDERS_GROUP, PROBE_GROUP];

/// The period over which the share of CPU is measured, microseconds: the kernel's own default, 100 ms. An execution
/// that needs less CPU time than `cpu_cores` × 100 ms, as most do, is then never held up at all; a period of 20 ms would
/// stop it after a fifth of that. The price is paid by long ones with more threads than cores granted: they can stand
/// still for up to a period at a time. The total they get is the same.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses less (Documentation/scheduler/sched-bwc.rst).
const MIN_CPU_QUOTA_US: u64 = 1_000;
/// Beyond any machine, within what the kernel accepts.
const MAX_CPU_QUOTA_US: u64 = 10_000 * CPU_PERIOD_US;

/// How long [`Cgroups::sweep`] waits for killed processes to be gone.
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);
/// How long [`Cgroups::close`] waits for the same.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// CPU time per period in microseconds.
fn cpu_quota_us(cores: f64) -> u64 {
    // A float converts with saturation, and what is no number becomes 0.
    ((cores * CPU_PERIOD_US as f64).round() as u64).clamp(MIN_CPU_QUOTA_US, MAX_CPU_QUOTA_US)
}

/// Version of the kernel's cgroup interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn plan(self) -> Plan {
        match self {
            Version::V1 => cgroup_v1::plan,
            Version::V2 => cgroup_v2::plan,
        }
    }
}

/// What this process can do with cgroups. Cheap to clone: the clones share their open folders.
#[derive(Debug, Clone)]
pub struct Cgroups {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    version: Version,
    /// Without those that are of no use.
    hierarchies: Vec<Hierarchy>,
    unavailable: Vec<String>,
    spares: Spares,
}

impl Shared {
    fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
    }
}

impl Cgroups {
    /// Finds the controllers memory, pids and cpu that this process can use, by making a group
    /// below its own and writing limits into it. `instance` tells several services on one host apart: a short hex
    /// string. Never fails: what cannot be used is in [`Cgroups::unavailable`].
    ///
    /// Version 2 is used if it gives this process the memory controller, or if there is nothing else. Then the service
    /// may have to move itself, with all its threads, into the leaf `sandbox-executor-<instance>/service`
    /// (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"). So call this at the start, before
    /// any child process exists: a child would be in the way.
    ///
    /// Version 1 makes the instance's group below the process's own group, or at the top of the mount if only that is
    /// possible (Documentation/admin-guide/cgroup-v1/cgroups.rst).
    ///
    /// Blocks for some milliseconds.
    pub fn detect(instance: &str) -> Cgroups {
        let nothing = |why: String| Detected { hierarchies: Vec::new(), unavailable: vec![why] };
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map_err(|error| format!("No limits by cgroups: reading {path} failed: {error}; mount /proc"))
        };
        let (version, detected) = match (read("/proc/self/mountinfo"), read("/proc/self/cgroup")) {
            _ if !valid_name(instance) => {
                (Version::V2, nothing(format!("No limits by cgroups: {instance:?} can't be part of a group's name")))
            }
            (Ok(mountinfo), Ok(own)) => detect_in(instance, &mountinfo, &own),
            (Err(why), _) | (_, Err(why)) => (Version::V2, nothing(why)),
        };
        let Detected { hierarchies, unavailable } = detected;
        Cgroups { shared: Arc::new(Shared { version, hierarchies, unavailable, spares: Spares::default() }) }
    }

    /// Whether the memory of an execution is limited as a whole.
    pub fn memory(&self) -> bool {
        self.shared.with(Controller::Memory).is_some()
    }

    /// Whether the number of its processes and threads is limited.
    pub fn pids(&self) -> bool {
        self.shared.with(Controller::Pids).is_some()
    }

    /// Whether its share of CPU is limited.
    pub fn cpu(&self) -> bool {
        self.shared.with(Controller::Cpu).is_some()
    }

    /// Version of the kernel's interface in use, 1 or 2; `None` if nothing can be used.
    pub fn version(&self) -> Option<u8> {
        let number = match self.shared.version {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        (!self.shared.hierarchies.is_empty()).then_some(number)
    }

    /// One sentence for each thing that cannot be enforced or counted: what, the file and the error that show it, and
    /// what to do about it. Empty if all is well.
    pub fn unavailable(&self) -> Vec<String> {
        self.shared.unavailable.clone()
    }

    /// Removes the groups that an earlier service of this instance left behind when it was killed, and kills the
    /// processes still in them. Call it at the start, before the first [`Cgroups::create`]: it ends every execution of
    /// this instance. Empty groups of other instances that were killed and never came back go as well. Returns how many groups
    /// of this instance were removed; 0 if there was nothing to do.
    ///
    /// Blocks; for each group at most some seconds.
    ///
    /// # Errors
    /// The last failure, after everything else was tried: `TimedOut` if processes of a group do not die, or the
    /// error of reading or removing a group.
    pub fn sweep(&self) -> io::Result<usize> {
        let mut names = std::collections::BTreeSet::new();
        let mut swept = Ok(());
        for hierarchy in &self.shared.hierarchies {
            match hierarchy.groups() {
                Ok(groups) => names.extend(groups.into_iter().filter(|name| name != SERVICE_GROUP)),
                Err(error) => swept = Err(file::during(format!("listing {}", hierarchy.path.display()), &error)),
            }
        }
        self.shared.hierarchies.iter().for_each(|one| one.remove_abandoned(GROUP_PREFIX));
        let mut count = 0;
        for name in names {
            let group = Cgroup::existing(Arc::clone(&self.shared), name);
            match group.kill_until(Instant::now() + SWEEP_PATIENCE).and_then(|()| group.remove()) {
                Ok(()) => count += 1,
                Err(error) => swept = Err(error),
            }
        }
        swept.map(|()| count)
    }

    /// Makes the group of one execution and writes its limits, or takes one that another execution has left as new
    /// ([`Cgroup::vacate`]), under the name that this has. `name` consists of `[A-Za-z0-9._-]`, at most 128
    /// characters, and is of no other execution at the time. Where nothing can be used the group is an empty value that
    /// does nothing.
    ///
    /// - memory: `memory_bytes`, no swap (`memory.limit_in_bytes` and `memory.memsw.limit_in_bytes`; `memory.max` and
    ///   `memory.swap.max`); in version 2 an execution out of memory is killed as a whole (`memory.oom.group`)
    /// - processes and threads: `processes` (`pids.max`)
    /// - CPU: `cpu_cores`, at least 0.01, over periods of 100 ms (`cpu.cfs_quota_us`, `cpu.max`)
    ///
    /// Documentation/admin-guide/cgroup-v1/{memory,pids}.rst, Documentation/admin-guide/cgroup-v2.rst.
    ///
    /// # Errors
    /// `InvalidInput` for the name, `AlreadyExists` if there is such a group, or the error of making or writing it;
    /// nothing of it is left then.
    pub fn create(&self, name: &str, limits: &Limits) -> io::Result<Cgroup> {
        if !valid_name(name) || RESERVED.contains(&name) {
            let problem = format!("{name:?} can't be the name of a cgroup: use 1 to 128 of [A-Za-z0-9._-]");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        match self.shared.spares.take(limits) {
            Some((name, limits)) => Ok(Cgroup::again(Arc::clone(&self.shared), name, limits)),
            None => Cgroup::create(Arc::clone(&self.shared), name, limits),
        }
    }

    /// Files through which the launcher, and with it all that it makes, moves out of the service's own group with [`enter`]: what
    /// a program sees of its group, in a cgroup namespace of its own, then has no name of the host's groups in it
    /// (cgroup_namespaces(7)).
    ///
    /// In version 1 they lead into the instance's group. In version 2 that can't hold processes. Where the service moved into a
    /// leaf of it, its children are there from birth and nothing is needed; where it stayed at the top of the system they lead
    /// into a leaf of their own. That move waits as [`Cgroup::attach`] does, once for each launcher.
    ///
    /// # Errors
    /// That of making or opening them.
    pub fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let hierarchies = self.shared.hierarchies.iter();
        match self.shared.version {
            Version::V1 => hierarchies.map(|one| file::open_to_write(one.directory(), "tasks")).collect(),
            Version::V2 => {
                hierarchies.filter(|one| cgroup_v2::is_below_top(&one.path)).map(builders_entrance).collect()
            }
        }
    }

    /// Whether processes can be born in a group (clone3(2), CLONE_INTO_CGROUP): version 2.
    pub fn has_births(&self) -> bool {
        self.version() == Some(2)
    }

    /// Removes the instance's own groups where they are empty: for the end of the service, after the last execution.
    /// Best effort; what stays is an empty group, which the next start of the instance uses again.
    ///
    /// In version 1 what builds a sandbox is in the instance's own group, and may have been killed a moment ago only:
    /// that is waited for. In version 2 this process itself is in it, and nothing can be removed.
    pub fn close(self) {
        for name in self.shared.spares.close() {
            let _ = Cgroup::existing(Arc::clone(&self.shared), name).remove();
        }
        if self.shared.version == Version::V2 {
            // What was built there has been told to end.
            let _ = Cgroup::existing(Arc::clone(&self.shared), BUILDERS_GROUP.to_owned()).remove();
        }
        let deadline =
            Instant::now() + if self.shared.version == Version::V1 { CLOSE_PATIENCE } else { Duration::ZERO };
        for hierarchy in &self.shared.hierarchies {
            while !hierarchy.close() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn builders_entrance(hierarchy: &Hierarchy) -> io::Result<OwnedFd> {
    match hierarchy.make(BUILDERS_GROUP) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => file::open_to_write(hierarchy.directory(), &format!("{BUILDERS_GROUP}/cgroup.procs")),
    }
}

fn detect_in(instance: &str, mountinfo: &str, own: &str) -> (Version, Detected) {
    let mounts = hierarchy::mounts(mountinfo);
    let group = format!("{GROUP_PREFIX}{instance}");
    if cgroup_v2::in_use(&mounts, own) {
        (Version::V2, cgroup_v2::detect(&group, &mounts, own))
    } else {
        (Version::V1, cgroup_v1::detect(&group, &mounts, own))
    }
}

fn valid_name(name: &str) -> bool {
    let characters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    characters && (1..=128).contains(&name.len()) && name != "." && name != ".."
}
