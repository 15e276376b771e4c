//! The launcher process itself: it takes orders, forks, and makes the network of the next sandbox ahead of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::program::{become_program, become_zygote};
use super::{Body, Spawn, Spawned, Welcome};
use crate::channel;
use crate::failure::{Failure, NAMESPACES_STEP};
use crate::init::{HIGH_FD, Report};
use crate::native::child::{self, Seed};
use crate::sys;

/// How long the launcher leaves the processors to what it has just made before it prepares for the next.
const BREATH: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Runs it; its channel is standard input. Returns its exit code.
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
