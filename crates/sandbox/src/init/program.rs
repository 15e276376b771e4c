//! From the order to start to the running program: the steps in their order, each named in a failure.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Access, Failure, FileSpec, HIGH_FD, ProgramSpec, Report, Watched};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::channel;
use crate::failure::WORKING_DIRECTORY_STEP;
use crate::filter::{landlock, seccomp};
use crate::limits;
use crate::sys;

/// Writes the files, forks, restricts and executes; returns the program's pid as the init sees it.
pub fn start(control: &OwnedFd, mut fds: Vec<OwnedFd>) -> Result<(i32, Watched), Failure> {
    let malformed = |_| Failure::new("order", io::Error::from_raw_os_error(libc::EPROTO));
    if fds.is_empty() {
        return Err(malformed(()));
    }
    // Read whole: a reader that serde_json drives is asked for one byte at a time.
    let mut bytes = Vec::new();
    File::from(fds.remove(0)).read_to_end(&mut bytes).map_err(|error| Failure::new("order", error))?;
    let spec: ProgramSpec = serde_json::from_slice(&bytes).map_err(|_| malformed(()))?;
    if fds.len() != spec.descriptors + spec.files.len() + spec.cgroup_entrances {
        return Err(malformed(()));
    }
    let entrances = fds.split_off(spec.descriptors + spec.files.len());
    let contents = fds.split_off(spec.descriptors);
    for (index, (file, content)) in spec.files.iter().zip(contents).enumerate() {
        write_file(file, content).map_err(|error| Failure::at("file", index, error))?;
    }
    let filter = seccomp::native();
    match sys::fork().map_err(|error| Failure::new("fork", error))? {
        sys::Forked::Parent(pid) => Ok((pid, spec.watched)),
        sys::Forked::Child => {
            // A copy above all numbers that are about to be filled.
            if let Ok(control) = rustix::io::fcntl_dupfd_cloexec(control, HIGH_FD) {
                let failure = become_program(&spec, &fds, &entrances, filter);
                channel::send(control.as_fd(), &Report::Failed(failure), &[]).ok();
            }
            sys::exit_now(125)
        }
    }
}

/// Waits until a program that a zygote forks is there under every restriction: its pid as the init sees it, which the kernel puts
/// beside what it says (unix(7), SCM_CREDENTIALS). `None` when the service wants it no more.
pub fn adopt(control: &OwnedFd, fds: Vec<OwnedFd>) -> Result<Option<i32>, Failure> {
    let protocol = || Failure::new("order", io::Error::from_raw_os_error(libc::EPROTO));
    let door = fds.into_iter().next().ok_or_else(protocol)?;
    let fail = |error| Failure::new("zygote", error);
    loop {
        let mut waiting = [PollFd::new(&door, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        rustix::event::poll(&mut waiting, None).ok();
        let (came, told) = (!waiting[0].revents().is_empty(), !waiting[1].revents().is_empty());
        if came {
            let gone = || fail(io::ErrorKind::ConnectionAborted.into());
            let packet = channel::receive::<Result<(), Failure>>(door.as_fd()).map_err(fail)?.ok_or_else(gone)?;
            return packet
                .message
                .and_then(|()| packet.pid.map(|pid| Some(pid.as_raw_nonzero().get())).ok_or_else(protocol));
        }
        // It may have come, and been told of, between the two looks at a moment.
        let came_now = || {
            let mut waiting = [PollFd::new(&door, PollFlags::IN)];
            rustix::event::poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        };
        if told && !came_now() {
            return Ok(None);
        }
    }
}

/// A new file, never one that is there already or behind a link (open(2), O_EXCL).
fn write_file(file: &FileSpec, content: OwnedFd) -> io::Result<()> {
    let mut target = File::options().write(true).create_new(true).mode(0o444).open(&file.path)?;
    io::copy(&mut File::from(content), &mut target).map(drop)
}

/// In the child: puts everything in force and executes. Returns only what went wrong.
fn become_program(
    spec: &ProgramSpec,
    fds: &[OwnedFd],
    entrances: &[OwnedFd],
    filter: &[seccomp::Instruction],
) -> Failure {
    let steps = || -> Result<std::convert::Infallible, Failure> {
        let fail = |stage: &'static str| move |error: io::Error| Failure::new(stage, error);
        let nul = |_| Failure::new("arguments", io::Error::from_raw_os_error(libc::EINVAL));
        let argv = spec.argv.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>().map_err(nul)?;
        let variables = spec.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let env = variables.collect::<Result<Vec<_>, _>>().map_err(nul)?;

        rustix::process::setsid().map_err(|error| Failure::new("session", error))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        enter(Path::new(&spec.working_directory), Path::new(&spec.watched.workspace))
            .map_err(fail(WORKING_DIRECTORY_STEP))?;
        // The program alone, and before anything of it: its usage is its own, and the init can't be hit for it.
        limits::enter(entrances).map_err(fail("cgroup"))?;
        spec.rlimits.apply().map_err(fail("rlimits"))?;
        rustix::thread::set_no_new_privs(true).map_err(|error| Failure::new("no-new-privs", error))?;
        if let Some(access) = &spec.access {
            landlock::restrict(&rules(access)).map_err(|error| Failure::new("landlock", errno_of(&error)))?;
        }
        sys::reset_signals();
        let high = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, HIGH_FD)).collect::<Result<Vec<_>, _>>();
        for (number, fd) in high.map_err(|error| Failure::new("descriptors", error))?.iter().enumerate() {
            sys::place_fd(fd.as_raw_fd(), number as i32).map_err(|error| Failure::at("descriptors", number, error))?;
        }
        sys::close_on_exec_from(fds.len() as i32).map_err(fail("descriptors"))?;
        if spec.access.is_some() {
            sys::install_seccomp(filter).map_err(fail("seccomp"))?;
        }
        Err(Failure::new("execute", sys::execve(&argv[0], &argv, &env)))
    };
    match steps() {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Makes the folder where it is absent and goes there, as the program itself could; not over a link out of the workspace.
fn enter(folder: &Path, workspace: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::env::set_current_dir(folder)?;
    if std::env::current_dir()?.starts_with(workspace) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EXDEV))
    }
}

fn errno_of(error: &landlock::LandlockError) -> io::Error {
    io::Error::from_raw_os_error(error.errno().unwrap_or(libc::EIO))
}

/// The rules as a descriptor, for who restricts itself later; `None` where the kernel has no Landlock.
pub(crate) fn ruleset(access: &Access) -> Result<Option<OwnedFd>, Failure> {
    landlock::ruleset(&rules(access)).map_err(|error| Failure::new("landlock", errno_of(&error)))
}

fn rules(access: &Access) -> landlock::Rules {
    let paths = |list: &[String]| list.iter().map(Into::into).collect();
    landlock::Rules {
        read_exec: paths(&access.executable),
        read_only: vec!["/".into()],
        write: paths(&access.writable),
        write_noexec: paths(&access.writable_noexec),
        devices: paths(&access.devices),
    }
}
