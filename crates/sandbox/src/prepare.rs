//! What every adapter does alike: start the processes of a sandbox, wait until its init says that it stands, and put it
//! under the execution's limits before anything of the request is in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::PidfdFlags;
use tokio::io::Interest;

use crate::capture::Capture;
use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::init::Report;
use crate::launcher::{self, Body, Launcher, Spawn, SpawnFds};
use crate::limits::{Cgroup, Cgroups};
use crate::native::mounts;
use crate::plan::SandboxPlan;
use crate::policy::{Limits, Network, Policy};
use crate::running::{Layout, Prepared, ProcessTree};
use crate::walls::{Namespaces, Site, Walls};

/// How long a sandbox may take to stand up before that counts as a failure.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What may be wrong when nothing was said.
const SILENT: &str = "it ended without a word: is a limit of the service too low (ulimit -n, ulimit -u)?";

/// What all sandboxes of a service are made with. Cheap to clone.
#[derive(Clone)]
pub struct Ground {
    /// Groups for limits, as far as this host lets us have them.
    pub cgroups: Arc<Cgroups>,
    instance: Arc<Instance>,
}

/// The launchers, which are in the instance's own group, and that group, which goes with the last that could make one in it.
struct Instance {
    launcher: Option<Launcher>,
    /// The one for sandboxes that are in the host's network.
    online: Option<Launcher>,
    cgroups: Cgroups,
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop((self.launcher.take(), self.online.take()));
        self.cgroups.clone().close();
    }
}

impl Ground {
    /// Of the groups of this instance, with a launcher in them.
    ///
    /// # Errors
    /// As of [`Launcher::start`].
    pub async fn new(cgroups: Cgroups) -> io::Result<Self> {
        let launcher = Launcher::start(&cgroups).await?;
        let online = Some(launcher.another());
        let instance = Arc::new(Instance { launcher: Some(launcher), online, cgroups: cgroups.clone() });
        Ok(Self { cgroups: Arc::new(cgroups), instance })
    }

    /// Forks for us.
    pub(crate) fn launcher(&self, network: Network) -> Result<&Launcher, SandboxError> {
        let gone = || SandboxError::new(Stage::Launch, "the launcher is gone");
        let launcher = match network {
            Network::None => &self.instance.launcher,
            Network::Host => &self.instance.online,
        };
        launcher.as_ref().ok_or_else(gone)
    }
}

/// What an adapter starts, and what its sandbox looks like from inside.
pub(crate) struct Construction {
    pub body: Body,
    pub data: Vec<OwnedFd>,
    pub etc: Option<OwnedFd>,
    pub layout: Layout,
    /// `None` where nothing is isolated.
    pub plan: Option<SandboxPlan>,
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
    let cgroup = Birth::of(ground, policy, &construction.body)?;
    let folders: Vec<BorrowedFd<'_>> =
        [Some(&*policy.workspace), construction.etc.as_ref(), policy.packages.as_deref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
    let folders = match &construction.body {
        Body::Program { bind, .. } => &folders[..bind.len().min(folders.len())],
        Body::Init { .. } | Body::Zygote { .. } => &folders,
    };
    let builds_itself = matches!(construction.body, Body::Init { .. });
    let site = construction.plan.as_ref().filter(|_| builds_itself && policy.in_session);
    let site = site.map(|plan| Site::of(policy, plan)).transpose().map_err(setup)?;
    let walls = policy.walls.as_ref().filter(|_| builds_itself);
    let lent = walls.map_or_else(Vec::new, |walls| walls.lent(site.as_ref()));
    let mut body = construction.body;
    if let Body::Init { plan, .. } = &mut body
        && lent.len() == Walls::ENTERED
    {
        plan.mounts.retain(mounts::is_one_executions);
    }
    let spawn = Spawn {
        number: 0,
        body,
        identity: launcher::ids(policy.identity),
        folders: folders.len(),
        cgroup: cgroup.folder().is_some(),
        lent: lent.len(),
    };
    let fds = SpawnFds {
        control: theirs.as_fd(),
        stderr: stderr.as_fd(),
        folders,
        cgroup: cgroup.folder(),
        lent: &lent,
        data: &construction.data,
    };
    let builder = ground.launcher(policy.network)?.spawn(&spawn, fds).await?;
    drop((theirs, stderr, construction.data));
    // Killed with everything below it if anything from here on fails.
    let builder = KillOnDrop(Some(builder));

    let walls = walls.filter(|_| lent.len() == Walls::ENTERED).cloned();
    // A failure names a mount by its number.
    let named = construction.plan.as_ref().filter(|_| walls.is_none());
    // Where it is not there yet: while the sandbox is being built, on another core.
    let born_inside = cgroup.folder().is_some();
    let cgroup = cgroup.finish(ground, policy)?;
    let (init, lacks, namespaces) = tokio::time::timeout(READY_WITHIN, ready(&control, diagnostics, named, walls))
        .await
        .map_err(|_| SandboxError::new(Stage::Namespaces, "the sandbox did not stand up in time"))??;
    let tree = ProcessTree {
        init: crate::sys::watch(pidfd(init, &control)?, Interest::READABLE).map_err(setup)?,
        builder: builder.keep().ok_or_else(|| setup(io::ErrorKind::NotFound.into()))?,
        own_namespace: construction.plan.is_some(),
    };
    let (access, memory_folders) =
        construction.plan.map_or((None, Vec::new()), |plan| (Some(plan.access), plan.memory_folders));
    let used_before = if born_inside { cgroup.cpu_time().unwrap_or_default() } else { Duration::ZERO };
    Ok(Prepared {
        control,
        tree,
        born_inside,
        used_before,
        namespaces,
        site,
        identity: policy.identity,
        memory_enforced: ground.cgroups.memory(),
        cgroup: Some(cgroup),
        limits: policy.limits.clone(),
        layout: construction.layout,
        access,
        memory_folders,
        lacks,
        folders: construction.folders,
    })
}

/// When a sandbox's cgroup is made.
enum Birth {
    /// Before its init, which is born in it: version 2, where moving into a group takes long.
    Before(Cgroup, OwnedFd),
    /// Beside it: the program moves into it by itself.
    Beside,
}

impl Birth {
    fn of(ground: &Ground, policy: &Policy, body: &Body) -> Result<Self, SandboxError> {
        if !matches!(body, Body::Init { .. }) || !ground.cgroups.has_births() {
            return Ok(Self::Beside);
        }
        // The init is one of its processes.
        let limits = Limits { processes: policy.limits.processes.saturating_add(1), ..policy.limits.clone() };
        let cgroup = ground.cgroups.create(&policy.name, &limits).map_err(no_cgroup)?;
        let folder = cgroup.birthplace().map_err(no_cgroup)?;
        Ok(Self::Before(cgroup, folder))
    }

    fn folder(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Before(_, folder) => Some(folder.as_fd()),
            Self::Beside => None,
        }
    }

    fn finish(self, ground: &Ground, policy: &Policy) -> Result<Cgroup, SandboxError> {
        match self {
            Self::Before(cgroup, _) => Ok(cgroup),
            Self::Beside => ground.cgroups.create(&policy.name, &policy.limits).map_err(no_cgroup),
        }
    }
}

fn no_cgroup(error: io::Error) -> SandboxError {
    SandboxError::io(Stage::Limits, "creating the execution's cgroup", error)
}

/// The init's pid, from the credentials that the kernel put beside its first message, what the sandbox has to do without, and its
/// namespaces, if it gives them.
async fn ready(
    control: &AsyncChannel,
    diagnostics: Capture,
    plan: Option<&SandboxPlan>,
    walls: Option<Arc<Walls>>,
) -> Result<(rustix::process::Pid, Vec<String>, Option<Namespaces>), SandboxError> {
    match control.receive::<Report>().await {
        Ok(Some(packet)) => match (packet.message, packet.pid) {
            (Report::Ready { lacks, namespaces }, Some(pid)) => {
                Ok((pid, lacks, Namespaces::received(&namespaces, packet.fds, walls)))
            }
            (Report::Failed(failure), _) => Err(failure.into_error(Stage::Namespaces, plan)),
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

/// The path of an open folder, for what can't be told by descriptor.
pub(crate) fn path_of(folder: &OwnedFd) -> Result<String, SandboxError> {
    crate::sys::path_of(folder)
        .map_err(|error| SandboxError::io(Stage::Launch, "the workspace's path", error))?
        .into_os_string()
        .into_string()
        .map_err(|path| SandboxError::new(Stage::Launch, format!("the workspace's path is not UTF-8: {path:?}")))
}
