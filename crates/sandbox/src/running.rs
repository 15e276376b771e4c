//! From a sandbox that stands to an [`Outcome`]: starts the program through the init, watches over deadline, memory and
//! the caller's will, and answers only when nothing of the execution is alive.
//!
//! A program may be started ahead of its request ([`Started`]): it then waits for what it is to do at a descriptor of its
//! own, and its time counts from [`Started::begin`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::capture::Chunk;
use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::init::{Access, Ended, FileSpec, Order, ProgramSpec, Report, Watched};
use crate::limits::Cgroup;
use crate::limits::Rlimits;
use crate::outcome::{End, Outcome, Usage};
use crate::pipes::Pipes;
use crate::policy::{Identity, Limits};
pub use crate::program::{Layout, Program};
use crate::walls::{Namespaces, Site, Walls};
use crate::zygote::{Placement, Zygote};

/// How long an init has to kill and account for everything before more is done to have it end.
const KILL_GRACE: Duration = Duration::from_millis(80);
/// How long it has then, where its own end would end nothing sooner: the kernel takes its time with large memory, and what it has
/// counted would be lost.
const COUNT_GRACE: Duration = Duration::from_secs(2);
/// How long an init has to tell why a program ended that should wait.
const WHY_WITHIN: Duration = Duration::from_secs(1);

/// A sandbox that stands: its init waits for the program.
pub struct Prepared {
    pub(crate) control: AsyncChannel,
    pub(crate) tree: ProcessTree,
    pub(crate) cgroup: Option<Cgroup>,
    /// Whether the init itself was born in the group, rather than only the program entering it.
    pub(crate) born_inside: bool,
    /// What the group had used before the program's time began.
    pub(crate) used_before: Duration,
    /// Its namespaces, for a zygote; `None` where none can enter them.
    pub(crate) namespaces: Option<Namespaces>,
    /// What it was made for, if what it leaves may serve the next of its session.
    pub(crate) site: Option<Site>,
    /// Whom the program is on the host; `None` where that is the service's own user.
    pub(crate) identity: Option<Identity>,
    /// Whether the cgroup bounds memory; otherwise the init measures.
    pub(crate) memory_enforced: bool,
    pub(crate) limits: Limits,
    pub(crate) layout: Layout,
    pub(crate) access: Option<Access>,
    pub(crate) memory_folders: Vec<String>,
    /// What it has to do without.
    pub(crate) lacks: Vec<String>,
    /// Folders of the host that go with the sandbox.
    pub(crate) folders: Option<tempfile::TempDir>,
}

/// What is left of a sandbox when nothing of its program is: processes of ours, namespaces, a cgroup. To be dropped when
/// nobody waits for the answer any more, since taking it apart costs the kernel more than a millisecond.
pub struct Remains {
    cgroup: Option<Cgroup>,
    control: AsyncChannel,
    tree: ProcessTree,
    folders: Option<tempfile::TempDir>,
    walls: Option<Arc<Walls>>,
}

impl Remains {
    /// What the next sandbox of the same session may be made with, once.
    pub fn take_walls(&mut self) -> Option<Arc<Walls>> {
        self.walls.take()
    }

    /// To be told when a descriptor of it may be in the hands of somebody who is still alive. A TCP or UDP socket is charged to the
    /// group that it was made in for as long as it is used, so that group is nobody else's then.
    pub fn was_not_alone(&mut self) {
        self.cgroup.iter_mut().for_each(Cgroup::occupy);
    }

    /// Takes it apart and waits until that is done.
    ///
    /// # Errors
    /// When its end can't be waited for.
    pub async fn cleared(self) -> io::Result<()> {
        let Self { cgroup, control, tree, folders, walls } = self;
        tree.kill();
        tree.dead().await?;
        drop((control, tree, folders, walls));
        // Nothing of it is alive, so there is nothing to wait for.
        cgroup.map_or(Ok(()), Cgroup::remove)
    }
}

/// The two processes whose end is everybody's: the init, and the program that built its sandbox.
pub(crate) struct ProcessTree {
    pub(crate) init: AsyncFd<OwnedFd>,
    pub(crate) builder: OwnedFd,
    /// Whether the init's end is the end of all others. Without a pid namespace it must live to find and kill them.
    pub(crate) own_namespace: bool,
}

impl ProcessTree {
    /// Kills the whole tree. Safe to repeat: a pidfd never means another process.
    fn kill(&self) {
        for fd in [self.init.get_ref().as_fd(), self.builder.as_fd()] {
            rustix::process::pidfd_send_signal(fd, Signal::KILL).ok();
        }
    }

    /// Until the init is dead, which the kernel lets happen only after everything else in its pid namespace is
    /// (pid_namespaces(7)).
    async fn dead(&self) -> io::Result<()> {
        self.init.readable().await.map(drop)
    }
}

impl Drop for ProcessTree {
    /// Where the init has to do it, the end of its channel tells it to.
    fn drop(&mut self) {
        if self.own_namespace {
            self.kill();
        }
    }
}

impl Prepared {
    /// Where things are inside.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What this sandbox has to do without because the host does not allow it, as sentences; for example /proc.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Runs the program to its end. `live` gets output as it comes; the run is cancelled when `cancelled` resolves.
    ///
    /// Dropping the returned future kills everything.
    ///
    /// # Errors
    /// When the program could not be started or watched over; how it ended itself is the [`Outcome`].
    pub async fn run(
        self,
        program: Program,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        self.start(program).await?.finish(live, cancelled).await
    }

    /// Starts the program; its time begins.
    ///
    /// # Errors
    /// When the order can't be given. That the init could not carry it out is told by [`Started::finish`].
    pub async fn start(mut self, program: Program) -> Result<Started, SandboxError> {
        let (pipes, ends) = Pipes::new(program.result_bytes).map_err(no_order)?;
        let entered = self.cgroup.as_ref().filter(|_| !self.born_inside);
        let entrances = entered.map_or(Ok(Vec::new()), Cgroup::entrances);
        let entrances = entrances.map_err(|error| SandboxError::io(Stage::Limits, "opening the cgroup", error))?;
        let spec = self.spec(&program, entrances.len());
        let spec = serde_json::to_vec(&spec).map_err(|error| no_order(error.into()))?;
        let spec = channel::sealed("program", &[&spec]).map_err(no_order)?;
        let fds: Vec<BorrowedFd<'_>> = [&spec, &program.stdin]
            .into_iter()
            .chain(&ends)
            .chain(&program.descriptors)
            .chain(program.files.iter().map(|(_, content)| content))
            .chain(&entrances)
            .map(AsFd::as_fd)
            .collect();
        let started = Instant::now();
        self.control.send(&Order::Start, &fds).await.map_err(no_order)?;
        self.forget_namespaces();
        Ok(Started { sandbox: self, pipes, started })
    }

    /// Has a zygote fork the program into this sandbox: it gets `stdin`, its output pipes and `descriptors`, from 4 up.
    ///
    /// # Errors
    /// As of [`Self::start`]; `Unsupported` where [`Self::takes_forks`] says no.
    pub async fn start_from(
        mut self,
        zygote: &Zygote,
        stdin: OwnedFd,
        descriptors: Vec<OwnedFd>,
        result_bytes: u64,
    ) -> Result<Started, SandboxError> {
        let Some(namespaces) = &self.namespaces else { return Err(no_order(io::ErrorKind::Unsupported.into())) };
        let (pipes, ends) = Pipes::new(result_bytes).map_err(no_order)?;
        let entrances = self.cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::entrances);
        let entrances = entrances.map_err(|error| SandboxError::io(Stage::Limits, "opening the cgroup", error))?;
        let (door, knocking) = channel::pair().map_err(no_order)?;
        rustix::net::sockopt::set_socket_passcred(&door, true).map_err(|error| no_order(error.into()))?;
        self.control.send(&Order::Adopt(self.watched()), &[door.as_fd()]).await.map_err(no_order)?;
        let standard: Vec<OwnedFd> = [stdin].into_iter().chain(ends).chain(descriptors).collect();
        let place = Placement {
            namespaces,
            identity: self.identity,
            entrances: &entrances,
            descriptors: &standard,
            rlimits: Rlimits::for_limits(&self.limits, self.data_bytes(true)),
        };
        let started = Instant::now();
        zygote.place(place, knocking).await?;
        self.forget_namespaces();
        Ok(Started { sandbox: self, pipes, started })
    }

    /// Whether its init still waits.
    pub fn is_waiting(&self) -> bool {
        self.control.is_quiet()
    }

    /// Puts other limits in force; of what the sandbox was made for only the processes, the share of CPU, the time and the output
    /// may differ.
    ///
    /// # Errors
    /// Stage [`Stage::Limits`]: the cgroup can't be changed.
    pub fn limit(&mut self, limits: &Limits) -> Result<(), SandboxError> {
        if let Some(cgroup) = self.cgroup.as_mut().filter(|_| !self.limits.same_group(limits)) {
            // The init is one of its processes where it was born in it.
            let processes = limits.processes.saturating_add(u32::from(self.born_inside));
            let changed = cgroup.limit(&Limits { processes, ..limits.clone() });
            changed.map_err(|error| SandboxError::io(Stage::Limits, "changing the cgroup", error))?;
        }
        self.limits = limits.clone();
        Ok(())
    }

    /// Whether a zygote can fork into it.
    pub fn takes_forks(&self) -> bool {
        self.namespaces.is_some()
    }

    /// With the program on its way they are descriptors of no use, but for what [`Remains::take_walls`] gives.
    fn forget_namespaces(&mut self) {
        self.namespaces = self.namespaces.take().filter(|_| self.site.is_some()).and_then(Namespaces::of_walls);
    }

    fn spec(&self, program: &Program, cgroup_entrances: usize) -> ProgramSpec {
        let mut working_directory = self.layout.workspace.clone();
        if !program.working_directory.is_empty() {
            working_directory = format!("{working_directory}/{}", program.working_directory);
        }
        let file = |(name, _): &(String, OwnedFd)| FileSpec { path: format!("{}/{name}", self.layout.files) };
        ProgramSpec {
            argv: program.argv.clone(),
            env: program.env.clone(),
            working_directory,
            descriptors: 4 + program.descriptors.len(),
            files: program.files.iter().map(file).collect(),
            rlimits: Rlimits::for_limits(&self.limits, self.data_bytes(program.bears_rlimit)),
            cgroup_entrances,
            access: self.access.clone(),
            watched: self.watched(),
        }
    }

    fn data_bytes(&self, bears_rlimit: bool) -> Option<u64> {
        (!self.memory_enforced && bears_rlimit).then_some(self.limits.memory_bytes)
    }

    fn watched(&self) -> Watched {
        Watched {
            workspace: self.layout.workspace.clone(),
            memory_folders: self.memory_folders.clone(),
            sampled_memory_bytes: (!self.memory_enforced).then_some(self.limits.memory_bytes),
        }
    }
}

fn no_order(error: io::Error) -> SandboxError {
    SandboxError::io(Stage::Program, "the order to start could not be sent", error)
}

/// A sandbox with its program in it. Dropping it kills everything.
pub struct Started {
    sandbox: Prepared,
    pipes: Pipes,
    started: Instant,
}

impl Started {
    /// Until a program that was started ahead says [`crate::pipes::AHEAD`].
    ///
    /// # Errors
    /// It ended before, or said something else.
    pub async fn arrived(&mut self) -> Result<(), SandboxError> {
        let report = tokio::select! {
            biased;
            arrived = self.pipes.arrived() => match arrived {
                Ok(()) => None,
                // Its end shows in the pipe before the init tells of it.
                Err(_) => Some(tokio::time::timeout(WHY_WITHIN, self.sandbox.control.receive::<Report>()).await.ok()),
            },
            report = self.sandbox.control.receive::<Report>() => Some(Some(report)),
        };
        if let Some(report) = report {
            return Err(self.too_early(report));
        }
        // What it used until now is not the run's.
        self.sandbox.control.send(&Order::Ahead, &[]).await.map_err(no_order)?;
        if let Some(used) = self.sandbox.cgroup.as_ref().and_then(Cgroup::cpu_time) {
            self.sandbox.used_before = used;
        }
        Ok(())
    }

    /// Why it ended before it was ready, by the init's report if there is one, and by what it said itself.
    fn too_early(&self, report: Option<io::Result<Option<channel::Packet<Report>>>>) -> SandboxError {
        let how = match report.map(|report| self.sandbox.understand(report)) {
            Some(Err(error)) => return error,
            Some(Ok(ended)) if ended.out_of_memory => "out of memory, see MAX_MEMORY_MB".to_owned(),
            Some(Ok(ended)) => ExitStatus::from_raw(ended.status).to_string(),
            None => "how can't be told".to_owned(),
        };
        self.pipes.too_early(&how)
    }

    /// Whether it still waits, as far as can be told.
    pub fn is_waiting(&self) -> bool {
        self.sandbox.is_waiting()
    }

    /// From here on the program's time counts, and these limits hold, see [`Prepared::limit`].
    ///
    /// # Errors
    /// As of [`Prepared::limit`].
    pub fn begin(&mut self, limits: &Limits) -> Result<(), SandboxError> {
        self.sandbox.limit(limits)?;
        self.started = Instant::now();
        Ok(())
    }

    /// Until its end. `live` gets output as it comes; the run is cancelled when `cancelled` resolves.
    ///
    /// Dropping the returned future kills everything.
    ///
    /// # Errors
    /// When the program could not be started or watched over; how it ended itself is the [`Outcome`].
    pub async fn finish(
        self,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        let Self { mut sandbox, pipes, started } = self;
        // Not of the stage of a program that did not start: this one may have.
        let unread = |error| SandboxError::io(Stage::Supervise, "reading what the program writes", error);
        let drained = pipes.drain(sandbox.limits.output_bytes, live).map_err(unread)?;
        let (verdict, ended) = sandbox.watch(started, cancelled).await?;
        let has_accounted = ended.is_some();
        let ended = match ended {
            // The init has collected every process and leaves itself; its own end is not the program's to wait for.
            Some(ended) => ended,
            None => {
                let failed = |error| SandboxError::io(Stage::Supervise, "waiting for the end", error);
                sandbox.tree.dead().await.map_err(failed)?;
                Ended::default()
            }
        };
        let duration = started.elapsed();
        // Nothing of ours holds the pipes' other ends any more.
        let [stdout, stderr, result] = drained.finish().await;

        let out_of_memory = ended.out_of_memory || sandbox.cgroup.as_ref().is_some_and(Cgroup::oom_killed);
        let end = match verdict {
            Some(end) => end,
            None if out_of_memory => End::OutOfMemory,
            None => End::from_wait_status(ended.status),
        };
        let usage = sandbox.usage(&ended);
        let memory_enforced = sandbox.memory_enforced;
        let full = ended.full;
        let outcome = Outcome { end, stdout, stderr, result, usage, memory_enforced, full, duration };
        let mut cgroup = sandbox.cgroup.take();
        if let Some(cgroup) = cgroup.as_mut().filter(|_| sandbox.tree.own_namespace && has_accounted) {
            cgroup.vacate();
        }
        let Prepared { control, tree, folders, namespaces, site, lacks, .. } = sandbox;
        let site = site.filter(|_| ended.left_nothing && lacks.is_empty());
        let walls = namespaces.and_then(|namespaces| namespaces.into_walls(site));
        Ok((outcome, Remains { cgroup, control, tree, folders, walls }))
    }
}

impl Prepared {
    /// Until the program has ended by itself (no verdict) or was killed for a reason of ours. With the init's word that
    /// nothing else is alive, if it could still give it.
    async fn watch(
        &mut self,
        started: Instant,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Option<End>, Option<Ended>), SandboxError> {
        let oom_watch = self.cgroup.as_ref().and_then(Cgroup::oom_watch);
        let out_of_memory = async {
            match oom_watch {
                Some(watch) => watch.wait().await,
                None => std::future::pending().await,
            }
        };
        let verdict = tokio::select! {
            biased;
            report = self.control.receive::<Report>() => match self.understand(report) {
                // It kills the whole group, the init as well where it is one of it (memory.oom.group).
                Err(_) if self.cgroup.as_ref().is_some_and(Cgroup::oom_killed) => End::OutOfMemory,
                understood => return understood.map(|ended| (None, Some(ended))),
            },
            () = tokio::time::sleep_until((started + self.limits.timeout).into()) => End::TimedOut,
            () = out_of_memory => End::OutOfMemory,
            () = cancelled => End::Cancelled,
        };
        self.control.send(&Order::Kill, &[]).await.ok();
        let mut ended = self.last_word(KILL_GRACE).await;
        if ended.is_none() && self.tree.own_namespace {
            self.cgroup.iter_mut().for_each(Cgroup::hasten);
            ended = self.last_word(COUNT_GRACE).await;
        }
        if ended.is_none() {
            if let Some(cgroup) = self.cgroup.as_ref().filter(|_| !self.tree.own_namespace) {
                cgroup.kill().ok();
            }
            self.tree.kill();
        }
        Ok((Some(verdict), ended))
    }

    /// What an init that was told to kill everything says in this time; `None` where it can't any more.
    async fn last_word(&self, within: Duration) -> Option<Ended> {
        let report = tokio::time::timeout(within, self.control.receive::<Report>()).await;
        report.ok().and_then(|report| self.understand(report).ok())
    }

    fn understand(&self, report: io::Result<Option<channel::Packet<Report>>>) -> Result<Ended, SandboxError> {
        match report.map(|packet| packet.map(|packet| packet.message)) {
            Ok(Some(Report::Ended(ended))) => Ok(ended),
            Ok(Some(Report::Failed(failure))) => Err(failure.into_error(Stage::Program, None)),
            Ok(Some(Report::Ready { .. }) | None) => {
                Err(SandboxError::new(Stage::Supervise, "the sandbox's first process ended unexpectedly"))
            }
            Err(error) => Err(SandboxError::io(Stage::Supervise, "the sandbox's first process is out of reach", error)),
        }
    }

    /// The group's own numbers where there is a group; the init's where not.
    fn usage(&self, ended: &Ended) -> Usage {
        let group = self.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default();
        Usage {
            cpu_time: group
                .cpu_time
                .map(|time| time.saturating_sub(self.used_before))
                .unwrap_or(Duration::from_micros(ended.cpu_us)),
            peak_memory_bytes: group.peak_memory_bytes.unwrap_or(ended.peak_memory_bytes),
            io_read_bytes: ended.io_read_bytes,
            io_write_bytes: ended.io_write_bytes,
        }
    }
}
