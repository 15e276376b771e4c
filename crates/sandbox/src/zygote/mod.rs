//! The zygote: an interpreter that has started once and forks into standing sandboxes on order, so that a run pays for a fork
//! instead of a start.
//!
//! It is a program of some language that keeps to the protocol below; what it is made of is the caller's. The launcher starts
//! it under a seccomp filter that allows what the filter of programs does and the few calls that a fork of it needs to enter a
//! sandbox. Where the service is root it is an ordinary user of its own with four capabilities ([`crate::launcher`]), in
//! namespaces of its own that show no more than a sandbox does; otherwise it is the service's user, without any. Nothing of a
//! request ever reaches it: its forks get theirs through pipes, when they have given up everything ([`steps`]).
//!
//! It starts with descriptor 3, its end of a [`channel`], and 4, its source. The service sends a [`Setup`], and it answers with a [`Ready`]. Each packet after that is an [`Order`] with
//! descriptors beside it, in the order of [`Order::fds`]. For each it forks a process that
//!
//! 1. carries the steps out, in order, by the machine code of [`crate::sys::calls`]: it becomes a child of the sandbox's init, as
//!    a fork does whose parent, itself in that pid namespace, is gone (pid_namespaces(7)), enters the sandbox, and gives up
//!    everything; the parent in between shares the zygote's memory, and the zygote waits for its end (vfork(2));
//! 2. thereby has sent `{"Ok":null}` through the *door*, by which the init knows it; or sends there
//!    `{"Err":{"stage":…,"index":…,"errno":…}}` and ends;
//! 3. says [`crate::pipes::AHEAD`] on descriptor 3 and waits for its request on descriptor 4.

pub(crate) mod steps;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::capture::Capture;
use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::filter::seccomp;
use crate::init::Report;
use crate::launcher::{self, Body, Spawn, SpawnFds};
use crate::limits::Rlimits;
use crate::native::Native;
use crate::policy::{Identity, Network};
use crate::prepare::Ground;
use crate::walls::Namespaces;
use steps::Step;

/// Kept of what a zygote says while it starts.
const DIAGNOSTICS_BYTES: u64 = 16 * 1024;

/// What a zygote is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Program and arguments; the first is an absolute path.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// What it reads from descriptor 4.
    pub source: String,
    /// For it to know what to do before it is ready.
    pub arguments: Vec<String>,
    /// Folders beside the system's that it has to see.
    pub read_only: Vec<std::path::PathBuf>,
    /// How long all that may take.
    pub ready_within: Duration,
}

/// The first message to a zygote.
#[derive(Debug, Serialize)]
struct Setup<'a> {
    arguments: &'a [String],
    /// What carries a list of system calls out.
    code: &'a [u8],
    steps: Vec<Step>,
}

/// The answer.
#[derive(Debug, Deserialize)]
struct Ready {
    /// What could not be done of what was asked for, as sentences.
    lacks: Vec<String>,
}

/// What to fork into: the numbers that the steps are given by name.
#[derive(Debug, Serialize)]
struct Order {
    /// Names of the descriptors beside it.
    fds: Vec<String>,
    uid: u32,
    gid: u32,
    rlimits: Vec<(u32, Vec<u64>)>,
}

/// Where a fork goes and what it gets.
pub(crate) struct Placement<'a> {
    pub namespaces: &'a Namespaces,
    pub identity: Option<Identity>,
    pub entrances: &'a [OwnedFd],
    /// What become 0, 1, 2, ….
    pub descriptors: &'a [OwnedFd],
    pub rlimits: Rlimits,
}

/// Whether forks of this program can be let into sandboxes.
///
/// Its file stays in reach of each by `/proc/self/exe`, and mounted as the zygote found it. With an identity that is read-only. Without
/// one it is as the host has it, and a program, which is the service's user then, could change the mode of a file of that user.
///
/// # Errors
/// Stage [`Stage::Launch`]: they can't, and why.
pub fn check(program: &Path, identity: Option<Identity>) -> Result<(), SandboxError> {
    let failed = |error| SandboxError::io(Stage::Launch, program.display(), error);
    if identity.is_some() {
        return Ok(());
    }
    let is_ours = std::fs::metadata(program).map_err(failed)?.uid() == rustix::process::geteuid().as_raw();
    if is_ours || rustix::fs::access(program, rustix::fs::Access::WRITE_OK).is_ok() {
        let why = "the service's user can change it, and so could each program that is forked from it";
        return Err(SandboxError::new(Stage::Launch, format!("{}: {why}", program.display())));
    }
    Ok(())
}

fn no_code() -> SandboxError {
    SandboxError::new(Stage::Launch, "forks can't enter sandboxes on this kind of processor")
}

/// A running zygote. Cheap to clone; with the last its channel ends, and it leaves when it has done what was ordered.
#[derive(Clone)]
pub struct Zygote(Arc<Process>);

struct Process {
    // One packet at a time.
    channel: Mutex<AsyncChannel>,
    pidfd: OwnedFd,
    diagnostics: Capture,
}

impl Zygote {
    /// Starts one and waits until it is ready; tells what it lacks. `identity` is whom it is to be where the service is root.
    ///
    /// # Errors
    /// It could not be started or was not ready in time; what it said is in the detail.
    pub async fn start(
        ground: &Ground,
        native: &Native,
        recipe: &Recipe,
        identity: Option<Identity>,
    ) -> Result<(Self, Vec<String>), SandboxError> {
        check(Path::new(recipe.argv.first().map_or("", String::as_str)), identity)?;
        let failed = |error| SandboxError::io(Stage::Launch, "descriptors for the zygote", error);
        let (ours, theirs) = channel::pair().map_err(failed)?;
        let channel = AsyncChannel::new(ours).map_err(failed)?;
        let (diagnostics, stderr) = Capture::start(DIAGNOSTICS_BYTES, None).map_err(failed)?;
        let source = channel::sealed("zygote", &[recipe.source.as_bytes()]).map_err(failed)?;
        let etc = native.etc()?;
        let spawn = Spawn {
            number: 0,
            body: Body::Zygote {
                argv: recipe.argv.clone(),
                env: recipe.env.clone(),
                mounts: native.system_mounts(&recipe.read_only),
            },
            identity: launcher::ids(identity),
            folders: 1,
            cgroup: false,
            lent: 0,
        };
        let (folders, data) = ([etc.as_fd()], [source]);
        let fds = SpawnFds {
            control: theirs.as_fd(),
            stderr: stderr.as_fd(),
            folders: &folders,
            cgroup: None,
            lent: &[],
            data: &data,
        };
        let pidfd = ground.launcher(Network::None)?.spawn(&spawn, fds).await?;
        drop((theirs, stderr));
        let process = Process { channel: Mutex::new(channel), pidfd, diagnostics };
        let is_root = identity.is_some();
        let setup = Setup {
            arguments: &recipe.arguments,
            code: crate::sys::calls::code().ok_or_else(no_code)?,
            steps: steps::all(is_root, &seccomp::fork()),
        };
        match tokio::time::timeout(recipe.ready_within, process.set_up(&setup)).await {
            Ok(Ok(lacks)) => Ok((Self(Arc::new(process)), lacks)),
            Ok(Err(error)) => Err(process.with_last_words(error).await),
            Err(_) => {
                rustix::process::pidfd_send_signal(&process.pidfd, Signal::KILL).ok();
                let seconds = recipe.ready_within.as_secs();
                Err(SandboxError::new(Stage::Launch, format!("it was not ready within {seconds} s")))
            }
        }
    }

    /// Orders a fork. Whether it came is for the other end of the door to tell.
    ///
    /// # Errors
    /// Stage [`Stage::Launch`]: the zygote is gone.
    pub(crate) async fn place(&self, place: Placement<'_>, door: OwnedFd) -> Result<(), SandboxError> {
        let (mut names, mut fds): (Vec<String>, Vec<BorrowedFd<'_>>) = place.namespaces.named().unzip();
        let mut add = |name: String, fd| {
            names.push(name);
            fds.push(fd);
        };
        add("door".into(), door.as_fd());
        for (number, fd) in place.entrances.iter().enumerate() {
            add(format!("entrance{number}"), fd.as_fd());
        }
        for (number, fd) in place.descriptors.iter().enumerate() {
            add(format!("fd{number}"), fd.as_fd());
        }
        let (uid, gid) = launcher::ids(place.identity).unwrap_or_default();
        let rlimits = place.rlimits.numbers();
        let rlimits = rlimits.into_iter().map(|(resource, value)| (resource, value.into_iter().collect())).collect();
        let order = Order { fds: names, uid, gid, rlimits };
        let channel = self.0.channel.lock().await;
        let gone = |error| SandboxError::io(Stage::Launch, "the zygote is gone", error);
        channel.send(&order, &fds).await.map_err(gone)
    }
}

impl Zygote {
    /// The last line that it printed; it prints nothing but what is wrong.
    pub fn last_word(&self) -> String {
        self.0.last_word()
    }

    /// Ends it at once, whatever it is at; its forks go on.
    pub fn kill(&self) {
        rustix::process::pidfd_send_signal(&self.0.pidfd, Signal::KILL).ok();
    }
}

impl Process {
    fn last_word(&self) -> String {
        let said = self.diagnostics.so_far();
        String::from_utf8_lossy(&said).trim().lines().last().unwrap_or_default().to_owned()
    }

    async fn set_up(&self, setup: &Setup<'_>) -> Result<Vec<String>, SandboxError> {
        let failed = |error| SandboxError::io(Stage::Launch, "setting it up", error);
        let channel = self.channel.lock().await;
        // What keeps it from starting is told by the launcher's child in its own words.
        channel.send(setup, &[]).await.map_err(failed)?;
        let answer = channel.receive::<serde_json::Value>().await.map_err(failed)?;
        let answer = answer.ok_or_else(|| failed(io::ErrorKind::ConnectionAborted.into()))?.message;
        if let Ok(Report::Failed(failure)) = serde_json::from_value(answer.clone()) {
            return Err(failure.into_error(Stage::Launch, None));
        }
        let ready: Ready = serde_json::from_value(answer).map_err(|error| failed(error.into()))?;
        Ok(ready.lacks)
    }

    /// With what it printed, which tells more.
    async fn with_last_words(self, error: SandboxError) -> SandboxError {
        rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        let last = self.last_word();
        if last.is_empty() { error } else { SandboxError::new(error.stage, format!("{}: {last}", error.detail)) }
    }
}
