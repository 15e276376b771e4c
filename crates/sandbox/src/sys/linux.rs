//! What only Linux has: namespaces, pidfds, filters, the launcher's and the init's way of making and collecting processes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::check;
use crate::filter::seccomp::Instruction;

/// Which side of a [`fork`] the caller is on.
pub enum Forked {
    /// The new process.
    Child,
    /// The old one; the new one's pid.
    Parent(i32),
}

/// Which side of a [`clone_into`] the caller is on.
pub enum Cloned {
    /// The new process.
    Child,
    /// The old one; the new one's pidfd.
    Parent(OwnedFd),
}

/// Whether this process promised to have one thread for good.
static ONE_THREAD: AtomicBool = AtomicBool::new(false);

/// For a launcher or an init, at its start: looks that it has one thread. It must start no other: then it may [`fork`], and so may
/// its children, also where there is no `/proc` to look at.
///
/// # Errors
/// `EINVAL` when there are more.
pub fn promise_one_thread() -> io::Result<()> {
    has_one_thread()?;
    ONE_THREAD.store(true, Ordering::Relaxed);
    Ok(())
}

fn has_one_thread() -> io::Result<()> {
    let seen = || std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if ONE_THREAD.load(Ordering::Relaxed) || seen() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

/// fork(2) for single-threaded processes.
///
/// # Errors
/// The system call's own; `EINVAL` unless the process has one thread.
pub fn fork() -> io::Result<Forked> {
    has_one_thread()?;
    // SAFETY: this process has one thread (checked above), so no lock can be held by another one and the
    // child may go on running ordinary code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// clone3(2) into new namespaces, for single-threaded processes: like [`fork`], and the child is in the namespaces of `flags`
/// (`CLONE_NEW*`) and in the cgroup behind the descriptor (version 2, Linux 5.7) from its birth. The parent gets the child's pidfd.
///
/// # Errors
/// The system call's own; `EINVAL` unless the process has one thread.
pub fn clone_into(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    has_one_thread()?;
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero arguments are valid: no stack of its own means a copy of this one, as with fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has a copy of the memory, and this process has one thread (checked above), so no lock
    // can be held by another one and the child may go on running ordinary code. The C library's idea of the thread's id is
    // stale in the child; what relies on it (abort, raise, recursive locks of threads) is not used before it forks itself.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel put a new descriptor there that nobody else knows of.
        _ => Ok(Cloned::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Ends the process at once, without running destructors or exit handlers (_exit(2)).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// Takes ownership of a low descriptor number (0 to 63) that this process was started with; `None` if it is not open or was
/// taken before.
pub fn inherited_fd(number: RawFd) -> Option<OwnedFd> {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    let bit = u32::try_from(number).ok().and_then(|number| 1_u64.checked_shl(number))?;
    if TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return None;
    }
    // SAFETY: F_GETFD only asks about the number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, it was there before anything of ours opened one, and it is taken once (above).
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from `first` up close-on-exec (close_range(2), Linux 5.11).
///
/// # Errors
/// The system call's own.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: sets a flag on descriptors, closes none.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result as libc::c_int).map(drop)
}

/// Gives up every supplementary group and becomes `uid`:`gid` for good (setgroups(2), setresgid(2), setresuid(2)).
/// For the whole process: the C library changes all threads alike.
///
/// # Errors
/// The first failing system call's own.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: setgroups reads no memory for a count of 0; the others take plain numbers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// A descriptor that becomes readable when a child has ended (signalfd(2) on SIGCHLD, which is blocked for the process).
///
/// # Errors
/// The system call's own.
pub fn child_signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a new descriptor or -1.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Blocks every signal that can be, for [`next_signal`] to take.
pub fn block_signals() {
    // SAFETY: the set is filled before use, and blocking installs no code.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

/// Waits for one of the signals that [`block_signals`] blocked (sigwaitinfo(2)).
pub fn next_signal() -> i32 {
    loop {
        // SAFETY: the set is filled before use; nobody wants to know more of the signal than its number.
        let signal = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigwaitinfo(&all, std::ptr::null_mut())
        };
        if signal > 0 {
            return signal;
        }
    }
}

/// Sends a child a signal that was meant for it (kill(2)).
pub fn hand_on(child: i32, signal: i32) {
    // SAFETY: sends a signal; the child has not been collected, so the number is still its own.
    unsafe { libc::kill(child, signal) };
}

/// What [`reap`] found.
pub enum Reaped {
    /// This child ended with this wait status (wait(2)).
    Child(i32, i32),
    /// Children are there, none has ended.
    NoneYet,
    /// There is no child.
    NoChild,
}

/// Collects one ended child (waitpid(2)); waits for it when `block` is set.
pub fn reap(block: bool) -> Reaped {
    let mut status = 0;
    loop {
        // SAFETY: status is a valid place for an int. __WALL also collects children made by clone without SIGCHLD.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | if block { 0 } else { libc::WNOHANG }) };
        match pid {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            -1 => return Reaped::NoChild,
            0 => return Reaped::NoneYet,
            pid => return Reaped::Child(pid, status),
        }
    }
}

/// CPU time in microseconds and the largest resident set in bytes of the children collected so far (getrusage(2)).
pub fn children_usage() -> (u64, u64) {
    // SAFETY: an all-zero rusage is valid, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    (micros(usage.ru_utime) + micros(usage.ru_stime), usage.ru_maxrss as u64 * 1024)
}

/// User and system time of this process so far, microseconds; 0 if there is none (clock_getcpuclockid(3)).
pub fn cpu_time_us(pid: i32) -> u64 {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both write to the places given, which live through the calls.
    let known = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
    };
    if known { time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000 } else { 0 }
}

/// Bytes in memory of the System V segments of this ipc namespace, mapped or not (SHM_INFO of shmctl(2)).
pub fn system_v_bytes() -> u64 {
    // Not in the libc crate for each C library: struct shm_info of linux/shm.h.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        used_ids: libc::c_int,
        pages: libc::c_ulong,
        resident_pages: libc::c_ulong,
        swapped_pages: libc::c_ulong,
        swap_attempts: libc::c_ulong,
        swap_successes: libc::c_ulong,
    }
    const SHM_INFO: libc::c_int = 14;
    let mut info = Info::default();
    // SAFETY: with this command the kernel writes one such structure to the place given, and looks at no segment; sysconf only
    // tells a number.
    let (result, page_size) =
        unsafe { (libc::syscall(libc::SYS_shmctl, 0, SHM_INFO, &raw mut info), libc::sysconf(libc::_SC_PAGESIZE)) };
    if result < 0 { 0 } else { info.resident_pages * page_size as u64 }
}

/// Kills every process that this one may signal, itself excepted, and does so only in a pid namespace's init:
/// elsewhere `kill(-1)` would reach far beyond the sandbox (kill(2)).
pub fn kill_all_in_pid_namespace() {
    if std::process::id() == 1 {
        // SAFETY: sends a signal; as pid 1 the reach is this namespace.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Installs a seccomp filter on this thread, for it and all it starts (seccomp(2)); needs `no_new_privs`.
///
/// # Errors
/// The system call's own.
pub fn install_seccomp(program: &[Instruction]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    // SAFETY: Instruction has the layout of struct sock_filter (repr(C), tested); the kernel copies `len` of them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result as libc::c_int).map(drop)
}

/// Gives up what a favoured service must not hand on to strangers' programs, where it has it: a real-time or deadline policy
/// (sched(7)), a nice value below 0, protection from the host's lack of memory (proc_pid_oom_score_adj(5)). Best effort.
pub fn give_up_favours() {
    let usual = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].map(libc::c_long::from);
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is this process, and the parameters are read through the call. Not by the C library, not each of which has them.
    unsafe {
        let policy = libc::syscall(libc::SYS_sched_getscheduler, 0);
        if !usual.contains(&(policy & !libc::c_long::from(libc::SCHED_RESET_ON_FORK))) {
            libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const ordinary);
        }
    }
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < 0) {
        rustix::process::setpriority_process(None, 0).ok();
    }
    let protection = "/proc/self/oom_score_adj";
    if std::fs::read_to_string(protection).is_ok_and(|text| text.starts_with('-')) {
        std::fs::write(protection, "0").ok();
    }
}

/// Gives this process new namespaces of these kinds, `CLONE_NEW*` (unshare(2)).
///
/// # Errors
/// The system call's own; `EPERM` without CAP_SYS_ADMIN.
pub fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: namespaces change what names mean, not the sharing of descriptors or memory; CLONE_FILES, which would, is no
    // bit of these.
    check(unsafe { libc::unshare(namespaces & !libc::CLONE_FILES) }).map(drop)
}

/// Adds attributes (`MOUNT_ATTR_*`) to the mount behind this descriptor, and to all below it if `recursive` (mount_setattr(2),
/// Linux 5.12).
///
/// # Errors
/// The system call's own.
pub fn mount_setattr(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string and the structure is read for the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result as libc::c_int).map(drop)
}

/// Brings the loopback interface of this network namespace up (netdevice(7)).
///
/// # Errors
/// The system calls' own; `EPERM` without CAP_NET_ADMIN.
pub fn bring_loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is valid; the name fits, with the zero after it; both requests read and write one ifreq, whose
    // union holds the flags that the first of them put there.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
            *place = byte as libc::c_char;
        }
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)).map(drop)
    }
}

/// Closes every descriptor from `first` up to the one before `end`, or all from `first` up (close_range(2), Linux 5.9).
///
/// For a process that lets go of whatever owned them: it must not come to their drops, which would close other files of the
/// same numbers.
///
/// # Errors
/// The system call's own.
pub fn close_range(first: RawFd, end: Option<RawFd>) -> io::Result<()> {
    let last = end.map_or(libc::c_uint::MAX, |end| (end - 1) as libc::c_uint);
    // SAFETY: touches the descriptor table alone; that no owner is used any more is the caller's promise (above).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last, 0) };
    check(result as libc::c_int).map(drop)
}

/// Registers a descriptor that is wholly ours with the async runtime, for these interests (epoll(7)).
///
/// # Errors
/// The runtime's, for example for a descriptor that epoll can't watch.
pub fn watch(fd: OwnedFd, interest: tokio::io::Interest) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd gives the same open descriptor for as long as it lives, and AsyncFd owns it from here on.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }?)
}

/// The kernel's Landlock ABI; 0 if it has none or it is switched off (landlock_create_ruleset(2)).
pub fn landlock_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    let (nothing, size) = (std::ptr::null::<libc::c_void>(), 0_usize);
    // SAFETY: with this flag the call reads no memory and makes nothing: it tells a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, size, LANDLOCK_CREATE_RULESET_VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// The path that an open folder has now (proc_pid_fd(5)).
///
/// # Errors
/// The system call's own.
pub fn path_of(folder: &OwnedFd) -> io::Result<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// A pipe (pipe2(2)); neither end survives an exec.
///
/// # Errors
/// The system call's own.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}
