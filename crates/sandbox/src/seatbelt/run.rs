//! From a profile and a program to an [`Outcome`], with what every POSIX system has: pipes, process groups, rlimits, signals,
//! and the table of processes. No launcher, no init, no cgroup.
//!
//! What that can't do, and Linux can: memory is measured, not bounded; the share of CPU is not bounded; a process that
//! leaves its group and its parents behind between two looks is found by its sandbox only ([`super::processes`]); and when
//! the service is killed with SIGKILL, its programs go on until they write to a closed pipe or reach `RLIMIT_CPU`.
//! For a developer's own machine.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::processes::{self, Marks, Processes};
use super::start::{HIGH_FD, Heard, StartOrder, StartRlimits};
use crate::capture::{Capture, Chunk};
use crate::channel;
use crate::error::{SandboxError, Stage};
use crate::outcome::{End, FullFolder, Outcome, Usage};
use crate::pipes::Pipes;
use crate::policy::Limits;
use crate::program::{Layout, Program};
use crate::sys::spawn::{self, Collected};

/// How often the table of processes is read and memory is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// How long killed processes may take to be gone before it is given up on them.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// How long the pipes may stay open once everything is dead.
const DRAIN_GRACE: Duration = Duration::from_millis(200);
/// Kept of what sandbox-exec and the starter say.
const DIAGNOSTICS_BYTES: u64 = 16 * 1024;

/// Everything that a program is started with. Nothing runs yet: there is no sandbox to build ahead.
pub struct Prepared {
    pub(super) command: Vec<String>,
    pub(super) layout: Layout,
    pub(super) limits: Limits,
    pub(super) marks: Option<Marks>,
    pub(super) folders: tempfile::TempDir,
}

/// What is left when nothing of a program is: its folders, removed when this is dropped.
pub struct Remains {
    _folders: tempfile::TempDir,
}

impl Prepared {
    /// Where things are for the program.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Gives it other limits.
    pub fn limit(&mut self, limits: &Limits) {
        self.limits = limits.clone();
    }

    /// Starts the program; its time begins.
    ///
    /// # Errors
    /// When it could not be started; some of what keeps it from that is told by [`Started::finish`].
    pub async fn start(self, mut program: Program) -> Result<Started, SandboxError> {
        let failed = |error| SandboxError::io(Stage::Launch, "descriptors for the sandbox", error);
        let files = std::mem::take(&mut program.files);
        let folder = PathBuf::from(&self.layout.files);
        let written = tokio::task::spawn_blocking(move || write_files(&folder, files)).await;
        written
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| SandboxError::io(Stage::Program, "files for the program", error))?;

        let (pipes, ends) = Pipes::new(program.result_bytes).map_err(failed)?;
        let (diagnostics, diagnostics_end) = Capture::start(DIAGNOSTICS_BYTES, None).map_err(failed)?;
        // Under numbers that are known before the process is there and that it keeps: no dup2(2) may hit a descriptor of the
        // standard library's between fork and exec.
        let inherited = [&program.stdin].into_iter().chain(&ends).chain(&program.descriptors);
        let inherited: Vec<OwnedFd> = inherited
            .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, HIGH_FD))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(error.into()))?;
        let order = serde_json::to_vec(&self.order(&program, &inherited)).map_err(|error| failed(error.into()))?;
        let order = channel::sealed("order", &[&order]).map_err(failed)?;

        let started = Instant::now();
        let leader = Leader::start(&self.command, order, diagnostics_end, &inherited, self.marks.clone())?;
        Ok(Started { prepared: self, leader, pipes, diagnostics, started })
    }

    fn order(&self, program: &Program, inherited: &[OwnedFd]) -> StartOrder {
        // On macOS the limit is the user's, not the sandbox's; elsewhere threads count too, which nobody knows the number of.
        let others = cfg!(target_os = "macos").then(processes::count);
        StartOrder {
            argv: program.argv.clone(),
            env: program.env.clone(),
            workspace: self.layout.workspace.clone(),
            working_directory: program.working_directory.clone(),
            descriptors: inherited.iter().map(AsRawFd::as_raw_fd).collect(),
            rlimits: StartRlimits::for_limits(&self.limits, others),
        }
    }
}

/// A program that runs, or, started ahead, waits for its request. Dropping it kills everything.
pub struct Started {
    prepared: Prepared,
    leader: Leader,
    pipes: Pipes,
    diagnostics: Capture,
    started: Instant,
}

impl Started {
    /// Until a program that was started ahead says [`crate::pipes::AHEAD`].
    ///
    /// # Errors
    /// It ended before, or said something else.
    pub async fn arrived(&mut self) -> Result<(), SandboxError> {
        self.pipes.arrived().await.map_err(|error| self.pipes.too_early(&error.to_string()))
    }

    /// Whether it still waits.
    pub fn is_waiting(&self) -> bool {
        self.leader.lives()
    }

    /// From here on the program's time counts, and these limits hold.
    pub fn begin(&mut self, limits: &Limits) {
        self.prepared.limit(limits);
        self.started = Instant::now();
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
        let Self { prepared, mut leader, pipes, diagnostics, started } = self;
        let failed = |error| SandboxError::io(Stage::Launch, "descriptors for the sandbox", error);
        let drained = pipes.drain(prepared.limits.output_bytes, live).map_err(failed)?;
        let mut peak_memory_bytes = 0;
        let verdict = tokio::select! {
            biased;
            ended = leader.ended() => ended.map(|()| None),
            () = tokio::time::sleep_until((started + prepared.limits.timeout).into()) => Ok(Some(End::TimedOut)),
            () = cancelled => Ok(Some(End::Cancelled)),
            () = out_of_memory(&leader.processes, prepared.limits.memory_bytes, &mut peak_memory_bytes) => {
                Ok(Some(End::OutOfMemory))
            }
        };
        let supervise = |error| SandboxError::io(Stage::Supervise, "waiting for the program", error);
        let verdict = verdict.map_err(supervise)?;
        let collected = leader.finish().await.map_err(supervise)?;
        let duration = started.elapsed();

        let ([stdout, stderr, result], diagnostics) = tokio::join!(drained.finish(), diagnostics.finish(DRAIN_GRACE));
        match Heard::in_text(&diagnostics.kept) {
            Heard::Started => {}
            Heard::Failed(failure) => return Err(failure.into_error(Stage::Program, None)),
            // Killed before it came to a word, for a reason of ours.
            Heard::Nothing(_) if verdict.is_some() => {}
            Heard::Nothing(said) => return Err(never_started(collected.status, &said)),
        }
        let usage = Usage {
            cpu_time: collected.cpu_time,
            peak_memory_bytes: peak_memory_bytes.max(collected.peak_memory_bytes),
            // macOS counts these for each process only as long as it lives.
            io_read_bytes: 0,
            io_write_bytes: 0,
        };
        let end = verdict.unwrap_or_else(|| End::from_wait_status(collected.status));
        let full = if collected.status == 0 { None } else { FullFolder::of(&prepared.layout.workspace) };
        let outcome = Outcome { end, stdout, stderr, result, usage, memory_enforced: false, full, duration };
        Ok((outcome, Remains { _folders: prepared.folders }))
    }
}

/// New files, never ones that are there already or behind a link (open(2), O_EXCL).
fn write_files(folder: &Path, files: Vec<(String, OwnedFd)>) -> io::Result<()> {
    for (name, content) in files {
        let mut target = std::fs::File::options().write(true).create_new(true).mode(0o444).open(folder.join(name))?;
        io::copy(&mut std::fs::File::from(content), &mut target)?;
    }
    Ok(())
}

fn never_started(status: i32, said: &str) -> SandboxError {
    let said = if said.is_empty() { "it ended without a word" } else { said };
    let how = match End::from_wait_status(status) {
        // What dyld does to a program that may not read what it is made of.
        End::Signalled(libc::SIGABRT) => " (SIGABRT: does the profile let it read its libraries?)",
        _ => "",
    };
    SandboxError::new(Stage::Namespaces, format!("sandbox-exec: {said}{how}"))
}

/// Until more memory is in use than allowed. The peak is kept for when something else comes first.
async fn out_of_memory(processes: &std::sync::Mutex<Processes>, limit_bytes: u64, peak_bytes: &mut u64) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let used = locked(processes).memory_bytes();
        *peak_bytes = (*peak_bytes).max(used);
        if used > limit_bytes {
            return;
        }
    }
}

fn locked(processes: &std::sync::Mutex<Processes>) -> std::sync::MutexGuard<'_, Processes> {
    processes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The first process of an execution, and with it all others. Dropping it kills them.
struct Leader {
    pid: i32,
    processes: std::sync::Mutex<Processes>,
    collected: bool,
}

impl Leader {
    fn start(
        command: &[String],
        order: OwnedFd,
        diagnostics: OwnedFd,
        inherited: &[OwnedFd],
        marks: Option<Marks>,
    ) -> Result<Self, SandboxError> {
        let pid = spawn::spawn_session(command, order, diagnostics, inherited)
            .map_err(|error| SandboxError::io(Stage::Launch, &command[0], error))?;
        Ok(Self { pid, processes: Processes::of_group(pid, marks).into(), collected: false })
    }

    /// Until it has ended. It is not collected: its pid and its group stay its own, so that they can be killed.
    async fn ended(&self) -> io::Result<()> {
        // Before the first question, so that no end is missed.
        let mut children = signal(SignalKind::child())?;
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::NotFound)?;
        loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(pid), options) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            children.recv().await;
        }
    }

    /// Whether it has not ended.
    fn lives(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Pid::from_raw(self.pid).is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }

    /// Kills what is alive, waits until it is gone, and collects the first process.
    async fn finish(&mut self) -> io::Result<Collected> {
        let patience = tokio::time::Instant::now() + KILL_PATIENCE;
        while locked(&self.processes).kill() && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::timeout_at(patience + KILL_PATIENCE, self.ended())
            .await
            .map_err(|_| io::Error::other("a killed process does not end"))??;
        // Nothing can have come to it since: who could have started something was dead.
        let collected = spawn::collect(self.pid)?.ok_or_else(|| io::Error::other("it has ended and has not"))?;
        self.collected = true;
        Ok(collected)
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut rounds = 0;
        while !self.collected && rounds < 50 {
            locked(&self.processes).kill();
            self.collected = !matches!(spawn::collect(self.pid), Ok(None));
            std::thread::sleep(Duration::from_millis(2));
            rounds += 1;
        }
    }
}

#[cfg(test)]
impl Prepared {
    /// As of [`crate::Prepared::run`].
    pub async fn run(
        self,
        program: Program,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        self.start(program).await?.finish(live, cancelled).await
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
pub(super) mod tests;
