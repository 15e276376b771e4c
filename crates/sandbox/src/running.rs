//! From a sandbox that stands to an [`Outcome`]: starts the program through the init, watches over deadline, memory and
//! the caller's will, and answers only when nothing of the execution is alive.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::capture::{Capture, Chunk, Stream};
use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::init::{Access, Ended, FileSpec, Order, ProgramSpec, Report};
use crate::limits::Cgroup;
use crate::limits::Rlimits;
use crate::outcome::{End, Outcome, Usage};
use crate::policy::Limits;
pub use crate::program::{Layout, Program};

/// How long an init has to kill and account for everything before it is killed itself.
const KILL_GRACE: Duration = Duration::from_millis(80);
/// How long the pipes may stay open once everything is dead.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// A sandbox that stands: its init waits for the program.
pub struct Prepared {
    pub(crate) control: AsyncChannel,
    pub(crate) tree: ProcessTree,
    pub(crate) cgroup: Option<Cgroup>,
    /// What the group had used when the sandbox stood, where the init itself was born in it; `None` where only the program enters
    /// it.
    pub(crate) used_by_init: Option<Duration>,
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
}

impl Remains {
    /// Takes it apart and waits until that is done.
    ///
    /// # Errors
    /// When its end can't be waited for.
    pub async fn cleared(self) -> io::Result<()> {
        let Self { cgroup, control, tree, folders } = self;
        tree.kill();
        tree.dead().await?;
        drop((control, tree, folders));
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
        mut self,
        program: Program,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        let failed = |error| SandboxError::io(Stage::Program, "the order to start could not be sent", error);
        let keep = self.limits.output_bytes;
        let watched_live = live.is_some();
        let live_stdout = live.clone().map(|sender| (Stream::Stdout, sender));
        let live_stderr = live.map(|sender| (Stream::Stderr, sender));
        let (stdout, stdout_end) = Capture::start(keep, live_stdout).map_err(failed)?;
        let (stderr, stderr_end) = Capture::start(keep, live_stderr).map_err(failed)?;
        let (result, result_end) = Capture::start(program.result_bytes, None).map_err(failed)?;
        let entered = self.cgroup.as_ref().filter(|_| self.used_by_init.is_none());
        let entrances = entered.map_or(Ok(Vec::new()), Cgroup::entrances);
        let entrances = entrances.map_err(|error| SandboxError::io(Stage::Limits, "opening the cgroup", error))?;
        let spec = self.spec(&program, entrances.len());
        let spec = serde_json::to_vec(&spec).map_err(|error| failed(error.into()))?;
        let spec = channel::sealed("program", &[&spec]).map_err(failed)?;
        let fds: Vec<BorrowedFd<'_>> = [&spec, &program.stdin, &stdout_end, &stderr_end, &result_end]
            .into_iter()
            .chain(&program.descriptors)
            .chain(program.files.iter().map(|(_, content)| content))
            .chain(&entrances)
            .map(AsFd::as_fd)
            .collect();
        let started = Instant::now();
        self.control.send(&Order::Start, &fds).await.map_err(failed)?;
        drop((program, entrances, spec, stdout_end, stderr_end, result_end));

        let (verdict, ended) = self.watch(started, cancelled).await?;
        let ended = match ended {
            // The init has collected every process and leaves itself; its own end is not the program's to wait for.
            Some(ended) => ended,
            None => {
                let failed = |error| SandboxError::io(Stage::Supervise, "waiting for the end", error);
                self.tree.dead().await.map_err(failed)?;
                Ended::default()
            }
        };
        let duration = started.elapsed();
        // Nothing of ours holds the pipes any more. A program may have handed an end to another execution of its session, which
        // is no reason to wait; a live reader may take its time with what is left.
        let grace = if watched_live { Duration::MAX } else { DRAIN_GRACE };
        let (stdout, stderr, result) = tokio::join!(stdout.finish(grace), stderr.finish(grace), result.finish(grace));

        let out_of_memory = ended.out_of_memory || self.cgroup.as_ref().is_some_and(Cgroup::oom_killed);
        let end = match verdict {
            Some(end) => end,
            None if out_of_memory => End::OutOfMemory,
            None => End::from_wait_status(ended.status),
        };
        let usage = self.usage(&ended);
        let memory_enforced = self.memory_enforced;
        let full = ended.full;
        let outcome = Outcome { end, stdout, stderr, result, usage, memory_enforced, full, duration };
        let cgroup = self.cgroup.take();
        Ok((outcome, Remains { cgroup, control: self.control, tree: self.tree, folders: self.folders }))
    }

    /// Until the program has ended by itself (no verdict) or was killed for a reason of ours. With the init's word that
    /// nothing else is alive, if it could still give it.
    async fn watch(
        &self,
        started: Instant,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Option<End>, Option<Ended>), SandboxError> {
        let out_of_memory = async {
            match self.cgroup.as_ref().and_then(Cgroup::oom_watch) {
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
        let report = tokio::time::timeout(KILL_GRACE, self.control.receive::<Report>()).await;
        let ended = report.ok().and_then(|report| self.understand(report).ok());
        if ended.is_none() {
            if let Some(cgroup) = self.cgroup.as_ref().filter(|_| !self.tree.own_namespace) {
                cgroup.kill().ok();
            }
            self.tree.kill();
        }
        Ok((Some(verdict), ended))
    }

    fn understand(&self, report: io::Result<Option<channel::Packet<Report>>>) -> Result<Ended, SandboxError> {
        match report.map(|packet| packet.map(|packet| packet.message)) {
            Ok(Some(Report::Ended(ended))) => Ok(ended),
            Ok(Some(Report::Failed(failure))) => Err(failure.into_error(Stage::Program, None)),
            Ok(Some(Report::Ready(_)) | None) => {
                Err(SandboxError::new(Stage::Supervise, "the sandbox's first process ended unexpectedly"))
            }
            Err(error) => Err(SandboxError::io(Stage::Supervise, "the sandbox's first process is out of reach", error)),
        }
    }

    fn spec(&self, program: &Program, cgroup_entrances: usize) -> ProgramSpec {
        let data_bytes = (!self.memory_enforced && program.bears_rlimit).then_some(self.limits.memory_bytes);
        let mut working_directory = self.layout.workspace.clone();
        if !program.working_directory.is_empty() {
            working_directory = format!("{working_directory}/{}", program.working_directory);
        }
        let file = |(name, _): &(String, OwnedFd)| FileSpec { path: format!("{}/{name}", self.layout.files) };
        ProgramSpec {
            argv: program.argv.clone(),
            env: program.env.clone(),
            workspace: self.layout.workspace.clone(),
            working_directory,
            descriptors: 4 + program.descriptors.len(),
            files: program.files.iter().map(file).collect(),
            rlimits: Rlimits::for_limits(&self.limits, data_bytes),
            cgroup_entrances,
            access: self.access.clone(),
            memory_folders: self.memory_folders.clone(),
            sampled_memory_bytes: (!self.memory_enforced).then_some(self.limits.memory_bytes),
        }
    }

    /// The group's own numbers where there is a group; the init's where not.
    fn usage(&self, ended: &Ended) -> Usage {
        let group = self.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default();
        Usage {
            cpu_time: group
                .cpu_time
                .map(|time| time.saturating_sub(self.used_by_init.unwrap_or_default()))
                .unwrap_or(Duration::from_micros(ended.cpu_us)),
            peak_memory_bytes: group.peak_memory_bytes.unwrap_or(ended.peak_memory_bytes),
            io_read_bytes: ended.io_read_bytes,
            io_write_bytes: ended.io_write_bytes,
        }
    }
}
