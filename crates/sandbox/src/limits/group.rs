//! The group of one execution: made, entered, read, killed and removed the same way in both versions.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::hierarchy::{Controller, pids};
use super::{MAX_CPU_QUOTA_US, OomWatch, Shared, Version, file, spare};
use crate::policy::Limits;

/// How long [`Cgroup::kill`] waits for the processes to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// How long [`Cgroup::remove`] goes on trying while the kernel still says EBUSY.
const REMOVE_PATIENCE: Duration = Duration::from_millis(500);
/// The first pause between two tries; each is twice the one before, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// What an execution used, as its group counts it. `None` where this host does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// User and system time of all processes that were ever in the group (`usage_usec` of `cpu.stat`, version 2).
    pub cpu_time: Option<Duration>,
    /// Most memory charged at one time, page cache and tmpfs included, bytes (`memory.max_usage_in_bytes`;
    /// `memory.peak`, Linux 5.19). Swap is ruled out, so this is all of it.
    pub peak_memory_bytes: Option<u64>,
}

/// The cgroup of one execution. A drop kills what is in it and removes it; one that is vacant may serve another execution.
#[derive(Debug)]
pub struct Cgroup {
    shared: Arc<Shared>,
    name: String,
    /// In force, where all could be written.
    limits: Option<Limits>,
    vacant: bool,
    removed: bool,
}

impl Cgroup {
    /// A group that is there already.
    pub(super) fn existing(shared: Arc<Shared>, name: String) -> Cgroup {
        Cgroup { shared, name, limits: None, vacant: false, removed: false }
    }

    /// One that is kept from another execution, with these limits in force.
    pub(super) fn again(shared: Arc<Shared>, name: String, limits: Limits) -> Cgroup {
        Cgroup { shared, name, limits: Some(limits), vacant: false, removed: false }
    }

    pub(super) fn create(shared: Arc<Shared>, name: &str, limits: &Limits) -> io::Result<Cgroup> {
        for (index, hierarchy) in shared.hierarchies.iter().enumerate() {
            if let Err(error) = hierarchy.make(name) {
                for made in &shared.hierarchies[..index] {
                    let _ = made.unmake(name);
                }
                return Err(file::during(format!("making {}/{name}", hierarchy.path.display()), &error));
            }
        }
        // From here on a drop removes it.
        let mut group = Cgroup::existing(shared, name.to_owned());
        group.limit(limits)?;
        Ok(group)
    }

    /// Puts these limits in force.
    ///
    /// # Errors
    /// That of writing one; some may then be in force.
    pub fn limit(&mut self, limits: &Limits) -> io::Result<()> {
        let (plan, name) = (self.shared.version.plan(), &self.name);
        self.limits = None;
        for hierarchy in &self.shared.hierarchies {
            for write in plan(limits, &hierarchy.controllers) {
                hierarchy.carry_out(name, &write).map_err(|error| {
                    let place = format!("{}/{name}/{}", hierarchy.path.display(), write.file);
                    file::during(format!("writing {} to {place}", write.value), &error)
                })?;
            }
        }
        self.limits = Some(limits.clone());
        Ok(())
    }

    /// To be told when everything that was in the group has ended and nothing can enter it any more.
    pub fn vacate(&mut self) {
        self.vacant = true;
    }

    /// To be told when something that is charged to it is in use nevertheless: it is removed then.
    pub fn occupy(&mut self) {
        self.vacant = false;
    }

    /// Leaves it to another execution; whether it could be.
    fn keep(&self) -> bool {
        let limits = self.limits.as_ref().filter(|_| self.vacant);
        limits.is_some_and(|limits| {
            spare::renew(self, &self.shared, limits) && self.shared.spares.keep(&self.name, limits)
        })
    }

    /// The execution's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves a process, with all its threads, into the group (`cgroup.procs`, Documentation/admin-guide/cgroup-v1/
    /// cgroups.rst and cgroup-v2.rst). Memory it used before stays charged where it was; later children are born inside.
    ///
    /// This is the slow way: the first such write after a pause waits for an RCU grace period (8 ms, at times 25 ms, on
    /// a small machine with Linux 6.18), because every fork and exit on the host is held off meanwhile. Where the process is ours
    /// from its birth use [`Cgroup::entrances`] instead.
    ///
    /// # Errors
    /// ESRCH if there is no such process; the error of opening or writing `cgroup.procs`. It may then have been moved in
    /// some hierarchies.
    pub fn attach(&self, pid: Pid) -> io::Result<()> {
        let value = pid.as_raw_nonzero().to_string();
        self.shared.hierarchies.iter().try_for_each(|hierarchy| hierarchy.write(&self.name, "cgroup.procs", &value))
    }

    /// Files, one per hierarchy, through which a process moves itself into the group with [`enter`]. The permission is
    /// that of the one who opened them, so a process that gave up its rights can use them. They are close-on-exec.
    ///
    /// In version 1 (`tasks`) this moves the calling thread only and waits for nothing: some 35 µs for four hierarchies. In
    /// version 2 (`cgroup.procs`) it is as slow as [`Cgroup::attach`].
    ///
    /// # Errors
    /// That of opening them.
    pub fn entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let name = match self.shared.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        let path = format!("{}/{name}", self.name);
        self.shared.hierarchies.iter().map(|hierarchy| file::open_to_write(hierarchy.directory(), &path)).collect()
    }

    /// The group's folder, to make a process in (clone3(2), CLONE_INTO_CGROUP). Nothing has to move then, and nobody to wait.
    ///
    /// # Errors
    /// That of opening it; `Unsupported` in version 1.
    pub fn birthplace(&self) -> io::Result<OwnedFd> {
        match (self.shared.version, self.shared.hierarchies.first()) {
            (Version::V2, Some(hierarchy)) => file::open_directory_at(hierarchy.directory(), &self.name),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A source that tells when the kernel kills a process of the group for want of memory. `None` if memory is not
    /// limited or its counter cannot be opened.
    pub fn oom_watch(&self) -> Option<OomWatch> {
        let memory = self.shared.with(Controller::Memory)?;
        match OomWatch::open(self.shared.version, memory.directory(), &self.name) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(group = self.name, %error, "can't watch a cgroup for lack of memory");
                None
            }
        }
    }

    /// Whether the kernel has killed a process of the group for want of memory (`oom_kill` of `memory.oom_control`,
    /// `oom_kill` and `oom_group_kill` of `memory.events`). The kernel counts before it kills, so once the death of the
    /// process is known the answer is final. `false` if memory is not limited.
    pub fn oom_killed(&self) -> bool {
        self.shared
            .with(Controller::Memory)
            .and_then(|memory| memory.read(&self.name, super::oom::counter_file(self.shared.version)).ok())
            .is_some_and(|text| super::oom::killed(&text))
    }

    /// What the group used so far.
    pub fn usage(&self) -> CgroupUsage {
        let peak = match self.shared.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        let memory = self.shared.with(Controller::Memory);
        let peak = memory.and_then(|hierarchy| hierarchy.read(&self.name, peak).ok());
        CgroupUsage { cpu_time: self.cpu_time(), peak_memory_bytes: peak.and_then(|text| text.trim().parse().ok()) }
    }

    /// CPU time so far. Every group of version 2 counts it, with or without the controller; of version 1 it is not asked.
    pub fn cpu_time(&self) -> Option<Duration> {
        let hierarchy = self.shared.hierarchies.first().filter(|_| self.shared.version == Version::V2)?;
        let text = hierarchy.read(&self.name, "cpu.stat").ok()?;
        file::keyed_number(&text, "usage_usec").map(Duration::from_micros)
    }

    /// Kills every process of the group with SIGKILL and waits until it has none: at once by `cgroup.kill` (version 2,
    /// Linux 5.14), else one by one, with `pids.max` at 0 so that they can't multiply faster than they die. The group
    /// is of no further use. Blocks, for 2 seconds at most.
    ///
    /// # Errors
    /// `TimedOut` if a process does not die, or the error of reading or killing.
    pub fn kill(&self) -> io::Result<()> {
        self.kill_until(Instant::now() + KILL_PATIENCE)
    }

    pub(super) fn kill_until(&self, deadline: Instant) -> io::Result<()> {
        self.give_way();
        for hierarchy in &self.shared.hierarchies {
            if self.shared.version == Version::V2 {
                // Before Linux 5.14 there is no such file; the loop below does it then.
                let _ = hierarchy.write(&self.name, "cgroup.kill", "1");
            }
            let mut pause = FIRST_PAUSE;
            loop {
                let text = match hierarchy.read(&self.name, "cgroup.procs") {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    other => other?,
                };
                let left = pids(&text);
                if left.is_empty() {
                    break;
                }
                if Instant::now() >= deadline {
                    let place = hierarchy.path.join(&self.name);
                    let problem = format!("processes {left:?} of the cgroup {} do not die", place.display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
                }
                left.into_iter().try_for_each(end)?;
                sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        Ok(())
    }

    /// Lets what is being killed die as fast as it can. The group serves no other execution then.
    pub fn hasten(&mut self) {
        self.limits = None;
        self.give_way();
    }

    /// Lets nothing new be born, and lifts the share of CPU: until Linux 6.18 a process held up by it could not even
    /// die before its next period. Best effort, and not back to "unlimited": that would make the kernel rewrite its own
    /// code each time the last limited group is gone.
    fn give_way(&self) {
        let write = |controller, file, value: &str| {
            if let Some(hierarchy) = self.shared.with(controller) {
                let _ = hierarchy.write(&self.name, file, value);
            }
        };
        write(Controller::Pids, "pids.max", "0");
        match self.shared.version {
            Version::V1 => write(Controller::Cpu, "cpu.cfs_quota_us", &MAX_CPU_QUOTA_US.to_string()),
            Version::V2 => write(Controller::Cpu, "cpu.max", &MAX_CPU_QUOTA_US.to_string()),
        }
    }

    /// Removes the group in all hierarchies. The last process must have ended; the kernel may say EBUSY for a moment
    /// after that, so it is tried for half a second with short pauses. Blocks: call it on a thread that may.
    ///
    /// # Errors
    /// EBUSY if there are processes in it still, or another error of rmdir(2). Every hierarchy is tried.
    pub fn remove(mut self) -> io::Result<()> {
        self.removed = true;
        let deadline = Instant::now() + REMOVE_PATIENCE;
        let mut removed = Ok(());
        for hierarchy in &self.shared.hierarchies {
            let mut pause = FIRST_PAUSE;
            loop {
                match hierarchy.unmake(&self.name) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                        sleep(pause);
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    Err(error) => {
                        let place = hierarchy.path.join(&self.name);
                        removed = Err(file::during(format!("removing {}", place.display()), &error));
                        break;
                    }
                }
            }
        }
        removed
    }
}

#[cfg(test)]
impl Cgroup {
    /// Leaves the group behind, as a killed service does.
    pub(super) fn forget(&mut self) {
        self.removed = true;
    }
}

impl Drop for Cgroup {
    /// Kills what is still in it and removes it, on a thread that may block where there is a runtime that has some.
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        self.removed = true;
        let (name, limits) = (std::mem::take(&mut self.name), self.limits.take());
        let group = Cgroup { shared: Arc::clone(&self.shared), name, limits, vacant: self.vacant, removed: false };
        let clearing = Clearing(Some(group));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(clearing))),
            Err(_) => drop(clearing),
        }
    }
}

/// A group to be cleared away by whoever drops this: a runtime that ends drops what it was given without running it.
struct Clearing(Option<Cgroup>);

impl Drop for Clearing {
    fn drop(&mut self) {
        let Some(mut group) = self.0.take() else { return };
        // As a rule nothing is left to be killed, and the kernel refuses where something is.
        let is_gone =
            |group: &Cgroup| group.shared.hierarchies.iter().all(|hierarchy| hierarchy.unmake(&group.name).is_ok());
        let is_cleared = group.keep() || is_gone(&group);
        // Once is enough, also where it fails.
        group.removed = true;
        if is_cleared {
            return;
        }
        let path = group.name.clone();
        if let Err(error) = group.kill().and_then(|()| group.remove()) {
            tracing::warn!("A cgroup stays: {path} ({error})");
        }
    }
}

/// Kills one process of a group, which may just have ended.
fn end(pid: i32) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else {
        let problem = "a process of another pid namespace is in the cgroup and can't be killed from here";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    };
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Moves the caller into the group whose [`Cgroup::entrances`] these are. The caller has one thread, as a process just
/// made by clone(2) from a launcher has: version 1 moves no other. Allocates nothing, so it may be called between clone
/// and exec.
///
/// # Errors
/// That of write(2).
pub fn enter<F: AsFd>(entrances: &[F]) -> io::Result<()> {
    // 0 is the writer itself.
    entrances.iter().try_for_each(|entrance| rustix::io::write(entrance, b"0").map(drop)).map_err(io::Error::from)
}
