//! What every adapter does alike: start the processes of a sandbox, wait until its init says that it stands, and put it
//! under the execution's limits before anything of the request is in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::PidfdFlags;
use tokio::io::Interest;

use crate::capture::Capture;
use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::init::{Access, Report};
use crate::launcher::{self, Launcher, Spawn, SpawnFds};
use crate::limits::Cgroups;
use crate::policy::Policy;
use crate::running::{Layout, Prepared, ProcessTree};

/// How long a sandbox may take to stand up before that counts as a failure.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What may be wrong when nothing was said.
const SILENT: &str = "it ended without a word: is a limit of the service too low (ulimit -n, ulimit -u)?";

/// What all sandboxes of a service are made with.
#[derive(Clone)]
pub struct Ground {
    /// Forks for us.
    pub launcher: Launcher,
    /// Groups for limits, as far as this host lets us have them.
    pub cgroups: Arc<Cgroups>,
    entrances: Arc<Vec<OwnedFd>>,
}

impl Ground {
    /// Of a launcher and the groups of this instance.
    ///
    /// # Errors
    /// When the groups can't be opened.
    pub fn new(launcher: Launcher, cgroups: Cgroups) -> io::Result<Self> {
        let entrances = Arc::new(cgroups.entrances()?);
        Ok(Self { launcher, cgroups: Arc::new(cgroups), entrances })
    }
}

/// What an adapter starts, and what its sandbox looks like from inside.
pub(crate) struct Construction {
    pub argv: Vec<String>,
    pub data: Vec<OwnedFd>,
    /// Where the workspace, and `etc` after it, are bound first; nowhere if empty.
    pub bind: Vec<PathBuf>,
    pub etc: Option<OwnedFd>,
    pub layout: Layout,
    pub access: Option<Access>,
    pub memory_folders: Vec<String>,
    pub folders: Option<tempfile::TempDir>,
}

/// Builds it and waits until it stands.
pub(crate) async fn prepare(
    ground: &Ground,
    policy: &Policy,
    construction: Construction,
) -> Result<Prepared, SandboxError> {
    let setup = |error| SandboxError::io(Stage::Launch, "descriptors for the sandbox", error);
    let (ours, theirs) = channel::pair().map_err(setup)?;
    rustix::net::sockopt::set_socket_passcred(&ours, true).map_err(|error| setup(error.into()))?;
    let control = AsyncChannel::new(ours).map_err(setup)?;
    let (diagnostics, stderr) = Capture::start(4096, None).map_err(setup)?;
    let spawn = Spawn {
        number: 0,
        argv: construction.argv,
        identity: launcher::ids(policy.identity),
        cgroup_entrances: ground.entrances.len(),
        bind: construction.bind,
    };
    let folders: Vec<BorrowedFd<'_>> =
        [Some(policy.workspace.as_fd()), construction.etc.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect();
    let folders = &folders[..spawn.bind.len().min(folders.len())];
    let fds = SpawnFds {
        control: theirs.as_fd(),
        stderr: stderr.as_fd(),
        folders,
        entrances: &ground.entrances,
        data: &construction.data,
    };
    let builder = ground.launcher.spawn(&spawn, fds).await?;
    drop((theirs, stderr, construction.data));
    // Killed with everything below it if anything from here on fails.
    let builder = KillOnDrop(Some(builder));

    // While the sandbox is being built, on another core.
    let cgroup = ground
        .cgroups
        .create(&policy.name, &policy.limits)
        .map_err(|error| SandboxError::io(Stage::Limits, "creating the execution's cgroup", error))?;
    let init = tokio::time::timeout(READY_WITHIN, ready(&control, diagnostics))
        .await
        .map_err(|_| SandboxError::new(Stage::Namespaces, "the sandbox did not stand up in time"))??;
    let tree = ProcessTree {
        init: crate::sys::watch(pidfd(init, &control)?, Interest::READABLE).map_err(setup)?,
        builder: builder.keep().ok_or_else(|| setup(io::ErrorKind::NotFound.into()))?,
        own_namespace: construction.access.is_some(),
    };
    Ok(Prepared {
        control,
        tree,
        memory_enforced: ground.cgroups.memory(),
        cgroup: Some(cgroup),
        limits: policy.limits.clone(),
        layout: construction.layout,
        access: construction.access,
        memory_folders: construction.memory_folders,
        folders: construction.folders,
    })
}

/// The init's pid, from the credentials that the kernel put beside its first message.
async fn ready(control: &AsyncChannel, diagnostics: Capture) -> Result<rustix::process::Pid, SandboxError> {
    match control.receive::<Report>().await {
        Ok(Some(packet)) => match (packet.message, packet.pid) {
            (Report::Ready, Some(pid)) => Ok(pid),
            (Report::Failed(failure), _) => Err(SandboxError::failure(Stage::Namespaces, &failure)),
            _ => Err(SandboxError::new(Stage::Namespaces, "unexpected message from the sandbox")),
        },
        Ok(None) => {
            let said =
                String::from_utf8_lossy(&diagnostics.finish(Duration::from_secs(1)).await.kept).trim().to_owned();
            let said = if said.is_empty() { SILENT.to_owned() } else { said };
            Err(SandboxError::new(Stage::Namespaces, said))
        }
        Err(error) => Err(SandboxError::io(Stage::Namespaces, "waiting for the sandbox", error)),
    }
}

/// The init waits for its order on the channel, so a channel that is still connected after the pidfd was opened proves
/// that the pid was not used anew in between.
fn pidfd(pid: rustix::process::Pid, control: &AsyncChannel) -> Result<OwnedFd, SandboxError> {
    let gone = |error| SandboxError::io(Stage::Supervise, "the sandbox's first process is gone", error);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| gone(error.into()))?;
    if control.is_connected() { Ok(pidfd) } else { Err(gone(io::ErrorKind::BrokenPipe.into())) }
}

struct KillOnDrop(Option<OwnedFd>);

impl KillOnDrop {
    fn keep(mut self) -> Option<OwnedFd> {
        self.0.take()
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL).ok();
        }
    }
}

/// The path of an open folder, for what can't be told by descriptor (proc_pid_fd(5)).
pub(crate) fn path_of(folder: &OwnedFd) -> Result<String, SandboxError> {
    std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
        .map_err(|error| SandboxError::io(Stage::Launch, "the workspace's path", error))?
        .into_os_string()
        .into_string()
        .map_err(|path| SandboxError::new(Stage::Launch, format!("the workspace's path is not UTF-8: {path:?}")))
}
