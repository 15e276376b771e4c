//! The launcher: a small process of one thread that forks what sandboxes are made of.
//!
//! The service has many threads, and a forked child of such a process must not run ordinary code. So the service
//! re-executes itself once, early; this process takes orders over a [`channel`](crate::channel) and makes children of two
//! kinds: one in new namespaces that becomes the init of a sandbox itself ([`crate::native`]), and one that executes a
//! program (bubblewrap), after the workspace is bound by descriptor in a mount namespace of its own and the execution's host
//! identity is taken. It also is the parent whose death ends every sandbox: when the service goes, the channel ends, the
//! launcher leaves, and PR_SET_PDEATHSIG takes the rest (PR_SET_PDEATHSIG(2const)).

mod process;
mod program;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::failure::Failure;
use crate::init::EXECUTABLE_FD;
use crate::limits::Cgroups;
use crate::plan::{Mount, SandboxPlan};
use crate::policy::Identity;

pub use self::process::main;

/// First argument of a process that is to be a launcher.
pub const LAUNCHER_ARGUMENT: &str = "launcher";
/// First number of the descriptors in [`SpawnFds::data`].
pub const DATA_FD: i32 = EXECUTABLE_FD + 1;

/// The first message: with it travel the ways into the instance's cgroup ([`crate::limits::enter`]), which the launcher enters for
/// all that it makes.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome;

/// What to start. Beside it travel, in this order: the pipe for its stderr, the opened workspace, `etc` and packages as far as it says
/// so, the cgroup to be born in and the namespaces to go to if it says so, its end of the control channel; and for a program our
/// executable and its data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// Number of the order; the answer bears it too.
    pub number: u64,
    /// What becomes of the child.
    pub body: Body,
    /// Host uid and gid to become.
    pub identity: Option<(u32, u32)>,
    /// How many of the workspace, `etc` and the packages travel with it.
    pub folders: usize,
    /// Whether a cgroup to be born in travels with it (version 2).
    pub cgroup: bool,
    /// How many namespaces to go to travel with it, see [`crate::native::child::Seed::lent`].
    pub lent: usize,
}

/// What becomes of the child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Body {
    /// It executes a program, which gets descriptors 3 (control channel), 4 (our executable), 5, … (data).
    Program {
        /// Program and arguments; the first is an absolute path.
        argv: Vec<String>,
        /// Where the folders are bound first, in a mount namespace of the child's own.
        bind: Vec<PathBuf>,
    },
    /// It builds a sandbox around itself and is its init.
    Init {
        /// What it builds.
        plan: SandboxPlan,
        /// See [`crate::native::mounts::Material::hide_processes`].
        hide_processes: bool,
        /// See [`crate::native::child::Seed::takes_forks`].
        takes_forks: bool,
    },
    /// It executes a program that is a zygote ([`crate::zygote`]).
    Zygote {
        /// Program and arguments; the first is an absolute path.
        argv: Vec<String>,
        /// Its environment.
        env: Vec<(String, String)>,
        /// What it sees, where it has an identity of its own and so a mount namespace.
        mounts: Vec<Mount>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Spawned {
    number: u64,
    /// What failed; the child's pidfd travels beside the answer if nothing did.
    failed: Option<Failure>,
}

/// The running launcher and the way to it.
struct Connection {
    channel: AsyncChannel,
    process: Child,
    next_number: u64,
}

impl Drop for Connection {
    /// The launcher ends with its channel; somebody has to collect it.
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The launcher as the service sees it. Cheap to clone; starts the process anew when it has died.
#[derive(Clone)]
pub struct Launcher {
    /// Our own executable, sealed in memory: nothing in a sandbox can write to it, and it can be executed from
    /// there whatever the permissions of the folder that the binary lies in.
    executable: Arc<OwnedFd>,
    /// Ways into the instance's cgroup.
    entrances: Arc<Vec<OwnedFd>>,
    connection: Arc<Mutex<Option<Connection>>>,
}

/// The descriptors a launched process gets.
pub struct SpawnFds<'a> {
    /// Its end of the control channel.
    pub control: BorrowedFd<'a>,
    /// Where its stderr goes.
    pub stderr: BorrowedFd<'a>,
    /// The workspace, `etc` and the packages, as far as it needs them.
    pub folders: &'a [BorrowedFd<'a>],
    /// The cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The namespaces to go to, see [`crate::native::child::Seed::lent`].
    pub lent: &'a [BorrowedFd<'a>],
    /// Files it reads, from [`DATA_FD`] up.
    pub data: &'a [OwnedFd],
}

impl Launcher {
    /// Copies the running executable into memory and starts the launcher process, in the instance's group of `cgroups`.
    ///
    /// # Errors
    /// When the executable can't be read, the group can't be entered or the process can't be started.
    pub async fn start(cgroups: &Cgroups) -> io::Result<Self> {
        let executable = channel::sealed("sandbox-executor", &[&std::fs::read("/proc/self/exe")?])?;
        let entrances = Arc::new(cgroups.entrances()?);
        let connection = start_process(&entrances).await?;
        Ok(Self { executable: Arc::new(executable), entrances, connection: Arc::new(Mutex::new(Some(connection))) })
    }

    /// One more, which starts when it is first needed. A launcher that has made sandboxes with a network of their own is not in the
    /// host's any more, and where the service is root in a user namespace alone, nothing could bring it back (setns(2)).
    #[must_use]
    pub fn another(&self) -> Self {
        let (executable, entrances) = (Arc::clone(&self.executable), Arc::clone(&self.entrances));
        Self { executable, entrances, connection: Arc::default() }
    }

    /// Forks and executes; returns the new process's pidfd. That it could not become what was asked for is
    /// reported over its control channel.
    ///
    /// # Errors
    /// Stage [`Stage::Launch`] when the launcher can't be reached or can't fork.
    pub async fn spawn(&self, spawn: &Spawn, fds: SpawnFds<'_>) -> Result<OwnedFd, SandboxError> {
        let failed = |source| SandboxError::io(Stage::Launch, "the launcher process did not answer", source);
        let mut connection = self.connection.lock().await;
        for last_try in [false, true] {
            if connection.is_none() {
                *connection = Some(start_process(&self.entrances).await.map_err(failed)?);
            }
            let Some(connected) = connection.as_mut() else { continue };
            match connected.request(spawn, &self.executable, &fds).await {
                Ok(Ok(pidfd)) => return Ok(pidfd),
                Ok(Err(failure)) => return Err(failure.into_error(Stage::Namespaces, None)),
                // A launcher that died is replaced; its sandboxes died with it.
                Err(error) if is_gone(&error) => {
                    *connection = None;
                    // An order that it had taken may have come to a process that used the channel: it is not given twice.
                    if last_try || error.kind() == io::ErrorKind::ConnectionAborted {
                        return Err(failed(error));
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::ErrorKind::BrokenPipe.into()))
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted)
}

impl Connection {
    /// Sends an order and waits for its answer. May be dropped half-way: an answer that nobody waited for is recognised by its
    /// number, and its child killed.
    async fn request(
        &mut self,
        spawn: &Spawn,
        executable: &OwnedFd,
        fds: &SpawnFds<'_>,
    ) -> io::Result<Result<OwnedFd, Failure>> {
        let number = self.next_number;
        self.next_number += 1;
        let mut all = vec![fds.stderr];
        all.extend(fds.folders);
        all.extend(fds.cgroup);
        all.extend(fds.lent);
        all.push(fds.control);
        if let Body::Program { .. } = spawn.body {
            all.push(executable.as_fd());
        }
        all.extend(fds.data.iter().map(AsFd::as_fd));
        self.channel.send(&Spawn { number, ..spawn.clone() }, &all).await?;
        loop {
            let answer = self.channel.receive::<Spawned>().await?.ok_or(io::ErrorKind::ConnectionAborted)?;
            let pidfd = answer.fds.into_iter().next();
            match (answer.message, pidfd) {
                (Spawned { number: other, .. }, pidfd) if other != number => {
                    if let Some(pidfd) = pidfd {
                        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).ok();
                    }
                }
                (Spawned { failed: Some(failure), .. }, _) => return Ok(Err(failure)),
                (Spawned { failed: None, .. }, Some(pidfd)) => return Ok(Ok(pidfd)),
                (Spawned { failed: None, .. }, None) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

async fn start_process(entrances: &[OwnedFd]) -> io::Result<Connection> {
    let (ours, theirs) = channel::pair()?;
    let process = Command::new("/proc/self/exe")
        .arg(LAUNCHER_ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    // Ended by its drop if anything from here on fails.
    let connection = Connection { channel: AsyncChannel::new(ours)?, process, next_number: 1 };
    let entrances: Vec<BorrowedFd<'_>> = entrances.iter().map(AsFd::as_fd).collect();
    connection.channel.send(&Welcome, &entrances).await?;
    match connection.channel.receive::<Spawned>().await?.map(|answer| answer.message.failed) {
        Some(None) => Ok(connection),
        Some(Some(failure)) => Err(io::Error::from_raw_os_error(failure.errno)),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// The identity as it crosses the channel.
pub(crate) fn ids(identity: Option<Identity>) -> Option<(u32, u32)> {
    identity.map(|identity| (identity.uid, identity.gid))
}
