//! The init: our own first process inside every sandbox, whichever adapter built it.
//!
//! It tells the service that the sandbox stands, waits for the order to start, and then forks the program, puts
//! every restriction in force (descriptors, rlimits, no_new_privs, Landlock, seccomp) and executes it: nothing
//! of a request reaches an interpreter before that. It stays behind as pid 1: collects whatever is orphaned, and
//! when the program ends or the service says so kills everything else, so that its own end means that nothing of
//! the execution is alive (pid_namespaces(7)). It is not dumpable, has an empty environment and holds no secret.

mod proc;
mod program;
mod sampler;
mod tree;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::channel;
pub use crate::failure::Failure;
use crate::limits::Rlimits;
use crate::outcome::FullFolder;
use crate::sys::{self, Reaped};
use proc::Proc;
pub(crate) use program::ruleset;
use sampler::Sampler;
use tree::Tree;

/// First argument of a process that is to be an init.
pub const INIT_ARGUMENT: &str = "init";
/// The init's end of the control channel.
pub const CONTROL_FD: i32 = 3;
/// Our executable, as the init is started from; closed at once.
pub const EXECUTABLE_FD: i32 = 4;

/// Descriptors from here up are never given to a program.
pub(crate) const HIGH_FD: i32 = 64;

/// How often memory is measured where no cgroup bounds it.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// What the service tells an init.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Start the program. Descriptors: the [`ProgramSpec`] as JSON, then what becomes 0, 1, 2, …, then the contents of its
    /// files, then the ways into its cgroup.
    Start,
    /// A zygote forks the program. Descriptor: the init's end of the door by which it comes.
    Adopt(Watched),
    /// The program, which was started ahead, has come to where it waits for its request: what it used so far does not count.
    Ahead,
    /// Kill everything.
    Kill,
}

/// What an init tells the service.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The sandbox stands. Descriptors: its namespaces, where a zygote can enter them.
    Ready {
        /// What it has to do without, as sentences.
        lacks: Vec<String>,
        /// Names of the descriptors, see [`crate::zygote::Namespaces`].
        namespaces: Vec<String>,
    },
    /// A step failed; the program did not run.
    Failed(Failure),
    /// The program has ended and nothing else is alive.
    Ended(Ended),
}

/// How the program ended and what all processes used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ended {
    /// The program's wait status (wait(2)).
    pub status: i32,
    /// The sampler found more memory in use than allowed and killed everything.
    pub out_of_memory: bool,
    /// User and system time, microseconds.
    pub cpu_us: u64,
    /// Largest resident set of one process, or the sampler's largest sum; bytes.
    pub peak_memory_bytes: u64,
    /// `read_bytes` of proc_pid_io(5).
    pub io_read_bytes: u64,
    /// `write_bytes` of proc_pid_io(5).
    pub io_write_bytes: u64,
    /// Where it could write no more, if it ended with a failure.
    pub full: Option<FullFolder>,
    /// Whether its memory file systems are as they were before it.
    pub left_nothing: bool,
}

/// A file that the init writes before the program starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileSpec {
    /// Absolute path inside the sandbox.
    pub path: String,
}

/// What the program may reach, as Landlock rules (landlock(7)); reading is allowed wherever something is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Folders it may execute from.
    pub executable: Vec<String>,
    /// Folders it may also write to.
    pub writable: Vec<String>,
    /// Folders it may write to but not execute from.
    pub writable_noexec: Vec<String>,
    /// Folders of devices that it may use.
    pub devices: Vec<String>,
}

/// What to run, with every path as the program sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgramSpec {
    /// Program and arguments; the first is an absolute path.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Folder to start in, the workspace or one below it; made where absent.
    pub working_directory: String,
    /// How many descriptors, from 0 up, the program gets.
    pub descriptors: usize,
    /// Files to write first, in the order of the descriptors with their contents.
    pub files: Vec<FileSpec>,
    /// How many descriptors lead into the execution's cgroup ([`crate::limits::enter`]).
    pub cgroup_entrances: usize,
    /// Resource limits of setrlimit(2).
    pub rlimits: Rlimits,
    /// Restrict it to this by Landlock and seccomp; `None` only with `ISOLATION=none`.
    pub access: Option<Access>,
    /// How to watch over it.
    pub watched: Watched,
}

/// What the init has to know of a program that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watched {
    /// The workspace.
    pub workspace: String,
    /// Memory file systems, for the sampler.
    pub memory_folders: Vec<String>,
    /// Kill everything when more than this many bytes are in use. Where a cgroup does that, `None`.
    pub sampled_memory_bytes: Option<u64>,
}

/// The init process itself. Returns its exit code, which nobody looks at.
pub fn main() -> i32 {
    let Some(control) = sys::inherited_fd(CONTROL_FD) else { return 125 };
    drop(sys::inherited_fd(EXECUTABLE_FD));
    if let Err(error) = sys::promise_one_thread() {
        channel::send(control.as_fd(), &Report::Failed(Failure::new("one-thread", error)), &[]).ok();
        return 125;
    }
    run(&control, Stand::default())
}

/// What an init stands on that was made to be one.
#[derive(Default)]
pub struct Stand {
    /// What its sandbox has to do without.
    pub lacks: Vec<String>,
    /// The `/proc` outside where it has none of its own.
    pub outer_proc: Option<OwnedFd>,
    /// Its namespaces, for a zygote.
    pub namespaces: Vec<(&'static str, OwnedFd)>,
}

/// The same in a process that was made to be one.
pub fn run(control: &OwnedFd, stand: Stand) -> i32 {
    if let Err(failure) = serve(control, stand) {
        channel::send(control.as_fd(), &Report::Failed(failure), &[]).ok();
        return 125;
    }
    0
}

fn serve(control: &OwnedFd, stand: Stand) -> Result<(), Failure> {
    drop(sys::inherited_fd(2));
    let proc = stand.outer_proc.map_or_else(Proc::here, |folder| Ok(Proc::outside(folder)));
    let proc = proc.map_err(|error| Failure::new("proc", error))?;
    // Opened before the process stops being dumpable, which would give the file to root (proc_pid_io(5)).
    let io_counters = proc.own("io").ok();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| Failure::new("dumpable", error))?;
    let tree = Tree::adopt(proc).map_err(|error| Failure::new("subreaper", error))?;
    // The end of the channel tells it too when the service is gone, but not while it is stopped. Where its own end would not be
    // everybody's, it has to live until it has killed the others.
    rustix::process::set_parent_process_death_signal(tree.ends_with_us().then_some(rustix::process::Signal::KILL))
        .map_err(|error| Failure::new("parent-death-signal", error))?;
    let children = sys::child_signal_fd().map_err(|error| Failure::new("signals", error))?;
    let lost = |error| Failure::new("control", error);
    let (names, fds): (Vec<_>, Vec<_>) =
        stand.namespaces.iter().map(|(name, fd)| ((*name).to_owned(), fd.as_fd())).unzip();
    channel::send(control.as_fd(), &Report::Ready { lacks: stand.lacks, namespaces: names }, &fds).map_err(lost)?;
    drop(stand.namespaces);

    // A channel that ends here is a service that went away or wants this sandbox no more.
    let Some(packet) = channel::receive::<Order>(control.as_fd()).map_err(lost)? else { return Ok(()) };
    let mut io_before = storage_io(io_counters.as_ref());
    let (program, watched) = match packet.message {
        Order::Start => program::start(control, packet.fds)?,
        Order::Adopt(watched) => match program::adopt(control, packet.fds)? {
            Some(program) => (program, watched),
            None => return Ok(()),
        },
        Order::Ahead | Order::Kill => return Ok(()),
    };
    let mut sampler = watched.sampled_memory_bytes.map(|bytes| Sampler::new(bytes, &watched));
    let mut cpu_before_us = 0;
    let began = |cpu_us| {
        cpu_before_us = cpu_us;
        io_before = storage_io(io_counters.as_ref());
    };
    let mut ended = wait(control, &children, program, &tree, sampler.as_mut(), began);
    ended.status = tree.kill(program).unwrap_or(ended.status);
    if ended.status != 0 {
        ended.full =
            watched.memory_folders.iter().chain([&watched.workspace]).find_map(|folder| FullFolder::of(folder));
    }
    ended.left_nothing = watched.memory_folders.iter().all(|folder| is_empty(folder));
    let (cpu_us, largest) = sys::children_usage();
    let io_after = storage_io(io_counters.as_ref());
    ended.cpu_us = cpu_us.saturating_sub(cpu_before_us);
    ended.peak_memory_bytes = largest.max(sampler.map_or(0, |sampler| sampler.peak_bytes()));
    ended.io_read_bytes = io_after.0.saturating_sub(io_before.0);
    ended.io_write_bytes = io_after.1.saturating_sub(io_before.1);
    channel::send(control.as_fd(), &Report::Ended(ended), &[]).map_err(lost)?;
    // Taking the namespaces apart can wait until the service is done with the answer.
    channel::receive::<Order>(control.as_fd()).map(drop).map_err(lost)
}

/// Until the program has ended, the service says kill or is gone, or memory runs out. `began` is called with the CPU time that a
/// program which was started ahead took to come to its request.
fn wait(
    control: &OwnedFd,
    children: &OwnedFd,
    program: i32,
    tree: &Tree,
    mut sampler: Option<&mut Sampler>,
    mut began: impl FnMut(u64),
) -> Ended {
    let interval = Timespec { tv_sec: 0, tv_nsec: SAMPLE_INTERVAL.subsec_nanos().into() };
    let timeout = sampler.is_some().then_some(&interval);
    loop {
        let mut waiting = [PollFd::new(control, PollFlags::IN), PollFd::new(children, PollFlags::IN)];
        rustix::event::poll(&mut waiting, timeout).ok();
        let (order, ended) = (!waiting[0].revents().is_empty(), !waiting[1].revents().is_empty());
        if order {
            // Taken whatever it is: a socket closed with something unread loses our own last word.
            match channel::receive::<Order>(control.as_fd()).ok().flatten().map(|packet| packet.message) {
                Some(Order::Ahead) => began(sys::cpu_time_us(program)),
                _ => return Ended::default(),
            }
        }
        if ended {
            rustix::io::read(children, &mut [0u8; 128]).ok();
            while let Reaped::Child(pid, status) = sys::reap(false) {
                if pid == program {
                    return Ended { status, ..Ended::default() };
                }
            }
        }
        if let Some(sampler) = sampler.as_deref_mut()
            && sampler.exceeded(tree)
        {
            return Ended { out_of_memory: true, ..Ended::default() };
        }
    }
}

/// Whether nothing but its top folder is in the tmpfs mounted here (statvfs(3)).
fn is_empty(folder: &str) -> bool {
    rustix::fs::statvfs(folder)
        .is_ok_and(|state| state.f_bfree == state.f_blocks && state.f_files > 0 && state.f_files - state.f_ffree == 1)
}

/// `read_bytes` and `write_bytes` of this process and all children it has collected (proc_pid_io(5)).
fn storage_io(counters: Option<&std::fs::File>) -> (u64, u64) {
    let mut text = [0; 512];
    let length = counters.and_then(|file| std::os::unix::fs::FileExt::read_at(file, &mut text, 0).ok()).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok()).unwrap_or(0)
    };
    (field("read_bytes"), field("write_bytes"))
}
