//! The launcher: a small process of one thread that forks what sandboxes are made of.
//!
//! The service has many threads, and a forked child of such a process must not run ordinary code. So the service
//! re-executes itself once, early; this process takes orders over a [`channel`](crate::channel) and makes children of two
//! kinds: one in new namespaces that becomes the init of a sandbox itself ([`crate::native`]), and one that executes a
//! program (bubblewrap), after the workspace is bound by descriptor in a mount namespace of its own and the execution's host
//! identity is taken. It also is the parent whose death ends every sandbox: when the service goes, the channel ends, the
//! launcher leaves, and PR_SET_PDEATHSIG takes the rest (PR_SET_PDEATHSIG(2const)).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::channel::{self, AsyncChannel};
use crate::error::{SandboxError, Stage};
use crate::failure::{Failure, NAMESPACES_STEP};
use crate::init::{EXECUTABLE_FD, HIGH_FD, Report};
use crate::limits::Cgroups;
use crate::native::child::{self, Seed};
use crate::native::mounts::Material;
use crate::plan::{HOSTNAME, Mount, SandboxPlan};
use crate::policy::Identity;
use crate::sys;

/// How long the launcher leaves the processors to what it has just made before it prepares for the next.
const BREATH: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

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
    /// How many namespaces to go to travel with it, see [`Seed::lent`].
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
        /// See [`Seed::takes_forks`].
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
    /// The namespaces to go to, see [`Seed::lent`].
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

/// The launcher process itself; its channel is standard input. Returns its exit code.
pub fn main() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("launcher: {error}");
            1
        }
    }
}

fn serve() -> io::Result<()> {
    sys::promise_one_thread()?;
    sys::give_up_favours();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // What bubblewrap leaves behind when it is killed is collected here. The next in line is a container's first process, which may be
    // the service, and that collects nobody but this one.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // A terminal's Ctrl-C must reach the service alone, which then ends its executions in order.
    rustix::process::setsid().ok();
    let channel = sys::inherited_fd(0).ok_or(io::ErrorKind::NotConnected)?;
    // Never a descriptor that whoever started the service left open.
    sys::close_on_exec_from(3)?;
    let children = sys::child_signal_fd()?;
    let Some(welcome) = channel::receive::<Welcome>(channel.as_fd())? else { return Ok(()) };
    let entered = crate::limits::enter(&welcome.fds).err().map(|error| Failure::new("cgroup", error));
    channel::send(channel.as_fd(), &Spawned { number: 0, failed: entered }, &[])?;
    // Here, for all the inits that are copies of this process.
    crate::filter::seccomp::native();
    child::settings_are_read_only();
    let mut network = Network::default();
    loop {
        let mut waiting = [PollFd::new(&channel, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        match rustix::event::poll(&mut waiting, network.is_to_be_made().then_some(&BREATH)) {
            Ok(0) => network.make(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (order, ended) = (!waiting[0].revents().is_empty(), !waiting[1].revents().is_empty());
        if order {
            let Some(packet) = channel::receive::<Spawn>(channel.as_fd())? else { return Ok(()) };
            let number = packet.message.number;
            match launch(&packet.message, &packet.fds, &mut network) {
                Ok(pidfd) => channel::send(channel.as_fd(), &Spawned { number, failed: None }, &[pidfd.as_fd()])?,
                Err(failure) => channel::send(channel.as_fd(), &Spawned { number, failed: Some(failure) }, &[])?,
            }
        }
        if ended {
            rustix::io::read(&children, &mut [0u8; 128]).ok();
            while let sys::Reaped::Child(..) = sys::reap(false) {}
        }
    }
}

/// The network of the next sandbox. Making a network namespace takes the kernel half a millisecond, so the launcher always stands
/// in a fresh one, which its next child inherits; it moves on to another when the child has had time to build its sandbox.
#[derive(Default)]
struct Network {
    /// Whether any was ever asked for: nothing else of the launcher's minds where it is.
    wanted: bool,
    is_fresh: bool,
}

impl Network {
    /// Makes sure that the namespace that this process is in can be handed on: nothing in it but its loopback, which is up, and nobody
    /// else (network_namespaces(7)).
    fn refresh(&mut self) -> io::Result<()> {
        self.wanted = true;
        if !self.is_fresh {
            sys::unshare(libc::CLONE_NEWNET)?;
            sys::bring_loopback_up()?;
            self.is_fresh = true;
        }
        Ok(())
    }

    /// Makes sure that this process is where the service is: it has given a network to no child.
    fn is_the_hosts(&self) -> io::Result<()> {
        if self.wanted { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    /// For a child that is to be in this one.
    fn hand_on(&mut self) -> io::Result<()> {
        self.refresh()?;
        self.is_fresh = false;
        Ok(())
    }

    fn is_to_be_made(&self) -> bool {
        self.wanted && !self.is_fresh
    }

    /// Ahead of the next order. Where that fails, the order meets the same and says so.
    fn make(&mut self) {
        self.wanted = self.refresh().is_ok();
    }
}

/// Starts a child; gives its pidfd.
fn launch(spawn: &Spawn, fds: &[OwnedFd], network: &mut Network) -> Result<OwnedFd, Failure> {
    let malformed = || Failure::new("order", io::Error::from_raw_os_error(libc::EPROTO));
    let [stderr, rest @ ..] = fds else { return Err(malformed()) };
    let (folders, rest) = rest.split_at_checked(spawn.folders).ok_or_else(malformed)?;
    let (cgroup, rest) = rest.split_at_checked(usize::from(spawn.cgroup)).ok_or_else(malformed)?;
    let (lent, placed) = rest.split_at_checked(spawn.lent).ok_or_else(malformed)?;
    let control = placed.first().ok_or_else(malformed)?;
    match &spawn.body {
        Body::Program { argv, bind } => launch_program(|| {
            // A copy above all numbers that are about to be filled.
            if let Ok(control) = rustix::io::fcntl_dupfd_cloexec(control, HIGH_FD) {
                let failure = become_program(argv, bind, spawn.identity, stderr, folders, placed);
                channel::send(control.as_fd(), &Report::Failed(failure), &[]).ok();
            }
        }),
        Body::Zygote { argv, env, mounts } => launch_program(|| {
            if let Ok(control) = rustix::io::fcntl_dupfd_cloexec(control, HIGH_FD) {
                let failure = become_zygote(argv, env, mounts, spawn.identity, stderr, folders, placed);
                channel::send(control.as_fd(), &Report::Failed(failure), &[]).ok();
            }
        }),
        Body::Init { plan, hide_processes, takes_forks } => {
            let [workspace, etc, packages @ ..] = folders else { return Err(malformed()) };
            let networked = match (spawn.identity, lent) {
                (Some(_), []) if plan.host_network => network.is_the_hosts(),
                (Some(_), []) => network.hand_on(),
                (Some(_), [_, ..]) if plan.host_network => return Err(malformed()),
                // It makes its own, or goes to another.
                (None, _) | (_, [_, ..]) => Ok(()),
            };
            networked.map_err(|error| Failure::new(NAMESPACES_STEP, error))?;
            let launcher_ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let seed = Seed {
                plan,
                identity: spawn.identity,
                launcher_ids,
                hide_processes: *hide_processes,
                takes_forks: *takes_forks,
                workspace,
                etc,
                packages: packages.first(),
                lent,
                stderr,
                control,
            };
            launch_init(&seed, cgroup.first())
        }
    }
}

fn launch_program(become_it: impl FnOnce()) -> Result<OwnedFd, Failure> {
    let failed = |error: io::Error| Failure::new("fork", error);
    match sys::fork().map_err(failed)? {
        sys::Forked::Parent(pid) => {
            let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|error| failed(error.into()))
        }
        sys::Forked::Child => {
            become_it();
            sys::exit_now(125)
        }
    }
}

fn launch_init(seed: &Seed<'_>, cgroup: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    match sys::clone_into(seed.namespaces(), cgroup.map(AsFd::as_fd)) {
        Ok(sys::Cloned::Parent(pidfd)) => Ok(pidfd),
        Ok(sys::Cloned::Child) => sys::exit_now(child::main(seed)),
        Err(error) => Err(Failure::new(NAMESPACES_STEP, error)),
    }
}

/// Turns the forked child into the program; returns only what went wrong.
fn become_program(
    argv: &[String],
    bind: &[PathBuf],
    identity: Option<(u32, u32)>,
    stderr: &OwnedFd,
    folders: &[OwnedFd],
    placed: &[OwnedFd],
) -> Failure {
    let stage = |stage: &str, error: io::Error| Failure::new(stage, error);
    let parent = std::os::unix::process::parent_id();
    if let Err(error) = bind_folders(folders, bind) {
        return stage("bind-folders", error);
    }
    if let Some((uid, gid)) = identity
        && let Err(error) = sys::become_user(uid, gid)
    {
        return stage("identity", error);
    }
    // After the change of user, which clears it.
    if let Err(error) = die_with(parent) {
        return stage("parent-death-signal", error);
    }
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let Ok(argv) = strings(argv) else {
        return stage("arguments", io::Error::from_raw_os_error(libc::EINVAL));
    };
    let null = std::fs::File::options().write(true).open("/dev/null").map(OwnedFd::from);
    let placed: Vec<BorrowedFd<'_>> = placed.iter().map(AsFd::as_fd).collect();
    if let Err(error) = null.and_then(|null| place_descriptors(stderr, &placed, &null)) {
        return stage("descriptors", error);
    }
    sys::reset_signals();
    stage("execute", sys::execve(&argv[0], &argv, &[]))
}

/// What a zygote keeps of root's capabilities: to enter sandboxes and become their users (setns(2), setresuid(2)).
const ZYGOTE_CAPABILITIES: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT).union(CapabilitySet::SETUID).union(CapabilitySet::SETGID);

/// Turns the forked child into a zygote; returns only what went wrong. As root it becomes an ordinary user with a few capabilities,
/// and sees and reaches what a sandbox does.
fn become_zygote(
    argv: &[String],
    env: &[(String, String)],
    mounts: &[Mount],
    identity: Option<(u32, u32)>,
    stderr: &OwnedFd,
    folders: &[OwnedFd],
    placed: &[OwnedFd],
) -> Failure {
    let steps = || -> Result<std::convert::Infallible, Failure> {
        let fail = |stage: &'static str| move |error: io::Error| Failure::new(stage, error);
        let nul = |_| Failure::new("arguments", io::Error::from_raw_os_error(libc::EINVAL));
        let argv = argv.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>().map_err(nul)?;
        let variables = env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let env = variables.collect::<Result<Vec<_>, _>>().map_err(nul)?;
        let parent = std::os::unix::process::parent_id();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let placed: Vec<BorrowedFd<'_>> = placed.iter().map(AsFd::as_fd).collect();
        if let (Some((uid, gid)), [etc]) = (identity, folders) {
            let apart = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
            sys::unshare(apart).map_err(fail(NAMESPACES_STEP))?;
            rustix::system::sethostname(HOSTNAME.as_bytes()).map_err(|error| Failure::new("hostname", error))?;
            let (workspace, etc) = (etc.as_fd(), etc.as_fd());
            let material =
                Material { workspace, etc, packages: None, owner: None, hide_processes: false, keep_proc: false };
            crate::native::mounts::build(mounts, &material)?;
            keep_capabilities(uid, gid).map_err(fail("identity"))?;
        }
        // After the change of user, which clears it.
        die_with(parent).map_err(fail("parent-death-signal"))?;
        place_descriptors(stderr, &placed, stderr).map_err(fail("descriptors"))?;
        sys::reset_signals();
        rustix::thread::set_no_new_privs(true).map_err(|error| Failure::new("no-new-privs", error))?;
        sys::install_seccomp(&crate::filter::seccomp::zygote()).map_err(fail("seccomp"))?;
        Err(Failure::new("execute", sys::execve(&argv[0], &argv, &env)))
    };
    match steps() {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Becomes the user and keeps [`ZYGOTE_CAPABILITIES`] across the exec (capabilities(7), "Ambient").
fn keep_capabilities(uid: u32, gid: u32) -> io::Result<()> {
    let kept = ZYGOTE_CAPABILITIES;
    rustix::thread::set_keep_capabilities(true)?;
    sys::become_user(uid, gid)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Standard input from nowhere, output to `stdout`, stderr to its pipe, the rest from 3 up; everything above closes at exec.
/// Standard input is a pipe that nobody writes to.
fn place_descriptors(stderr: &OwnedFd, placed: &[BorrowedFd<'_>], stdout: &OwnedFd) -> io::Result<()> {
    let (nothing, _) = sys::pipe()?;
    // First all out of the way of the numbers that are to be filled.
    let high = [nothing.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .chain(placed.iter().copied())
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, HIGH_FD))
        .collect::<Result<Vec<_>, _>>()?;
    for (number, fd) in high.iter().enumerate() {
        sys::place_fd(fd.as_raw_fd(), number as i32)?;
    }
    sys::close_on_exec_from(high.len() as i32)
}

/// Binds the folders behind the descriptors: what was opened and checked is what is bound, whoever renames things meanwhile.
/// The copies of their mounts are taken before the namespace is left that the descriptors belong to (open_tree(2)).
fn bind_folders(folders: &[OwnedFd], targets: &[PathBuf]) -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};
    if targets.is_empty() {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let copies = folders.iter().map(|folder| open_tree(folder, "", flags)).collect::<Result<Vec<_>, _>>()?;
    sys::unshare(libc::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for (copy, target) in copies.iter().zip(targets) {
        move_mount(copy, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Dies when the parent does; at once if it is gone already.
///
/// # Errors
/// prctl(2)'s own, `ESRCH` when the parent is gone.
pub(crate) fn die_with(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// The identity as it crosses the channel.
pub(crate) fn ids(identity: Option<Identity>) -> Option<(u32, u32)> {
    identity.map(|identity| (identity.uid, identity.gid))
}
