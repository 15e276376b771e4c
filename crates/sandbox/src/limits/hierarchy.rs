//! Where the cgroups of this process are: the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)) and of
//! `/proc/self/cgroup` (cgroups(7)), parsed, and the one folder per hierarchy under which executions get their groups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, mkdirat, unlinkat};
use rustix::io::Errno;

use super::file;

/// What one kernel controller does for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    /// Its name in `/proc/self/cgroup`, in mount options and in `cgroup.controllers`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
        }
    }

    /// What is missing without it, as the beginning of a sentence.
    pub(super) fn loss(self) -> &'static str {
        match self {
            Controller::Memory => "The memory of an execution as a whole is not limited",
            Controller::Pids => "The number of processes is not limited by a cgroup",
            Controller::Cpu => "The share of CPU is not limited",
        }
    }
}

/// One write of a limit: which file of the group, which value, and what to make of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    pub(super) value: String,
    pub(super) refusal: Refusal,
}

impl Write {
    pub(super) fn new(controller: Controller, file: &'static str, value: String, refusal: Refusal) -> Write {
        Write { controller, file, value, refusal }
    }
}

/// Which errors of a [`Write`] leave the limit in force all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// None: the group is not made.
    Fails,
    /// The file does not exist: this kernel has not the thing that it limits.
    MayLack,
    /// EINVAL: a group above has a tighter bound, which holds for this group too.
    MayBeTighterAbove,
}

impl Refusal {
    pub(super) fn tolerates(self, error: &io::Error) -> bool {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match self {
            Refusal::Fails => false,
            Refusal::MayLack => errno == Some(Errno::NOENT),
            Refusal::MayBeTighterAbove => errno == Some(Errno::INVAL),
        }
    }
}

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The group that the mount shows as its top.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    pub(super) is_v2: bool,
    /// Version 1: its mount options, the names of its controllers among them.
    options: Vec<String>,
}

impl Mount {
    pub(super) fn has(&self, controller: Controller) -> bool {
        !self.is_v2 && self.options.iter().any(|option| option == controller.name())
    }

    /// The folder of `group`; `None` if the mount does not reach it.
    pub(super) fn directory(&self, group: &str) -> Option<PathBuf> {
        // A group outside of the process's cgroup namespace reads as `/../…`: there is no way there from this mount.
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        let reachable = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        reachable.then(|| if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }
}

/// The cgroup mounts in the text of `/proc/self/mountinfo`.
pub(super) fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (unescaped(before.next()?), unescaped(before.next()?));
    let mut after = after.split(' ');
    let is_v2 = match after.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = after.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
    Some(Mount { root: root.into(), point: point.into(), is_v2, options })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// The process's group, from the text of `/proc/self/cgroup`: with that version 1 controller, or of version 2.
pub(super) fn own_group(text: &str, controller: Option<Controller>) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match controller {
            Some(wanted) => controllers.split(',').any(|name| name == wanted.name()),
            None => id == "0" && controllers.is_empty(),
        };
        matches.then_some(group)
    })
}

/// The process ids in the text of `cgroup.procs`; 0 stands for one of another pid namespace.
pub(super) fn pids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// The instance's group in one hierarchy; the groups of executions are made in it.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// What we use of this hierarchy.
    pub(super) controllers: Vec<Controller>,
    /// For messages.
    pub(super) path: PathBuf,
    directory: OwnedFd,
}

impl Hierarchy {
    /// Makes the folder `path` if it does not exist and opens it. It is locked for as long as this value lives (flock(2)), which
    /// tells it from one that a killed service left behind.
    pub(super) fn open(path: PathBuf, controllers: Vec<Controller>) -> io::Result<Hierarchy> {
        loop {
            match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let directory = file::open_directory(&path)?;
            rustix::fs::flock(&directory, FlockOperation::LockShared)?;
            // Another service may have taken it for an abandoned one before it was locked.
            if path.exists() {
                return Ok(Hierarchy { controllers, path, directory });
            }
        }
    }

    /// Removes groups beside this one whose names begin with `prefix`, that nobody holds and that have no processes: their services
    /// were killed, and their instances never started again. What can't be removed stays.
    pub(super) fn remove_abandoned(&self, prefix: &str) {
        let Some(place) = self.path.parent() else { return };
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        let others = entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
            name.starts_with(prefix) && *path != self.path
        });
        others.for_each(|path| drop(remove_if_abandoned(&path)));
    }

    pub(super) fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(super) fn make(&self, group: &str) -> io::Result<()> {
        Ok(mkdirat(&self.directory, group, Mode::from_raw_mode(0o755))?)
    }

    /// One try; EBUSY as long as the group has a process.
    pub(super) fn unmake(&self, group: &str) -> io::Result<()> {
        match unlinkat(&self.directory, group, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn write(&self, group: &str, file: &str, value: &str) -> io::Result<()> {
        file::write_at(self.directory(), &format!("{group}/{file}"), value)
    }

    pub(super) fn read(&self, group: &str, file: &str) -> io::Result<String> {
        file::read_at(self.directory(), &format!("{group}/{file}"))
    }

    /// Carries one write out.
    pub(super) fn carry_out(&self, group: &str, write: &Write) -> io::Result<()> {
        match self.write(group, write.file, &write.value) {
            Err(error) if write.refusal.tolerates(&error) => Ok(()),
            done => done,
        }
    }

    /// Names of the groups in the instance's group.
    pub(super) fn groups(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes the instance's group itself, if it is empty. Returns whether trying again is of no use.
    pub(super) fn close(&self) -> bool {
        let removed = rustix::fs::rmdir(&self.path);
        if let Err(error) = removed {
            tracing::debug!(path = %self.path.display(), %error, "the instance's cgroup stays");
        }
        removed != Err(Errno::BUSY)
    }
}

/// A group with its children, if nobody holds it. rmdir(2) refuses those with processes.
fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    let directory = file::open_directory(path)?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    let group = Hierarchy { controllers: Vec::new(), path: path.to_owned(), directory };
    for child in group.groups()? {
        group.unmake(&child)?;
    }
    Ok(rustix::fs::rmdir(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro,nosuid shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/me\\040mory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
broken line
";
    const OWN: &str = "9:name=systemd:/\n4:memory:/a:b/c\n2:cpu,cpuacct:/docker/ab/x\n0::/user.slice\n";

    #[test]
    fn mounts_are_read_with_optional_fields_and_escapes() {
        let mounts = mounts(MOUNTS);
        assert_eq!(mounts.len(), 3);
        assert!(mounts[0].has(Controller::Cpu));
        assert!(!mounts[0].has(Controller::Memory));
        assert_eq!(mounts[0].root, Path::new("/docker/ab"));
        assert_eq!(mounts[1].point, Path::new("/sys/fs/cgroup/me mory"));
        assert!(mounts[2].is_v2 && !mounts[2].has(Controller::Memory));
    }

    #[test]
    fn the_own_group_is_found_by_whole_controller_name() {
        assert_eq!(own_group(OWN, Some(Controller::Memory)), Some("/a:b/c"));
        assert_eq!(own_group(OWN, Some(Controller::Cpu)), Some("/docker/ab/x"));
        assert_eq!(own_group(OWN, Some(Controller::Pids)), None);
        assert_eq!(own_group(OWN, None), Some("/user.slice"));
        assert_eq!(own_group("1:memory:/x\n", None), None);
    }

    #[test]
    fn a_group_is_reached_through_its_mount_only() {
        let mounts = mounts(MOUNTS);
        let directory = |mount: usize, group| mounts[mount].directory(group);
        assert_eq!(directory(0, "/docker/ab"), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(directory(0, "/docker/ab/x"), Some("/sys/fs/cgroup/cpu,cpuacct/x".into()));
        assert_eq!(directory(0, "/docker/cd"), None);
        assert_eq!(directory(2, "/"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(directory(2, "/../other"), None);
    }

    #[test]
    fn processes_of_another_namespace_read_as_zero() {
        assert_eq!(pids("12\n0\n7\n"), [12, 0, 7]);
        assert!(pids("").is_empty());
    }

    #[test]
    fn a_refusal_is_tolerated_for_its_one_reason() {
        let error = |errno: Errno| io::Error::from(errno);
        assert!(!Refusal::Fails.tolerates(&error(Errno::NOENT)));
        assert!(Refusal::MayLack.tolerates(&error(Errno::NOENT)));
        assert!(!Refusal::MayLack.tolerates(&error(Errno::INVAL)));
        assert!(Refusal::MayBeTighterAbove.tolerates(&error(Errno::INVAL)));
        assert!(!Refusal::MayBeTighterAbove.tolerates(&error(Errno::ACCESS)));
    }
}
