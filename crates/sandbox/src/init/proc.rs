//! `/proc` as the init has it: the sandbox's own, or, where a sandbox has to do without (see [`crate::native::mounts`]), the
//! folder of the one outside. That numbers processes as its own pid namespace does; which are the sandbox's is found by
//! descent, since in a pid namespace whatever is orphaned becomes a child of the init.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

/// An opened `/proc`.
pub struct Proc {
    folder: OwnedFd,
    is_outside: bool,
}

impl Proc {
    /// The one that is mounted here.
    ///
    /// # Errors
    /// That of opening it.
    pub fn here() -> io::Result<Self> {
        let folder = rustix::fs::openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { folder, is_outside: false })
    }

    /// The one outside.
    pub fn outside(folder: OwnedFd) -> Self {
        Self { folder, is_outside: true }
    }

    fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.folder, path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())?)
    }

    /// A file of this process.
    pub fn own(&self, name: &str) -> io::Result<File> {
        self.open(&format!("self/{name}"), OFlags::empty()).map(File::from)
    }

    /// The text of a file of a process; `None` when that is gone.
    pub fn text(&self, pid: i32, name: &str) -> Option<String> {
        let mut text = String::new();
        let mut file = File::from(self.open(&format!("{pid}/{name}"), OFlags::empty()).ok()?);
        file.read_to_string(&mut text).ok().map(|_| text)
    }

    /// All processes that can be seen in it; of the one outside, those below this process.
    pub fn pids(&self) -> Vec<i32> {
        if self.is_outside { self.descendants() } else { self.numbers(".") }
    }

    /// The numbers among the names in a folder.
    fn numbers(&self, folder: &str) -> Vec<i32> {
        let opened = self.open(folder, OFlags::DIRECTORY).and_then(|folder| Ok(rustix::fs::Dir::read_from(folder)?));
        let names = opened.into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect()
    }

    /// By the lists of children of each thread (proc_pid_task(5), CONFIG_PROC_CHILDREN).
    fn descendants(&self) -> Vec<i32> {
        let own = rustix::fs::readlinkat(&self.folder, "self", Vec::new());
        let mut found: Vec<i32> = own.ok().and_then(|name| name.to_str().ok()?.parse().ok()).into_iter().collect();
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            for thread in self.numbers(&format!("{pid}/task")) {
                let children = self.text(pid, &format!("task/{thread}/children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
            }
            next += 1;
        }
        found.split_off(found.len().min(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_from_outside_and_nobody_else() {
        let outside = Proc::outside(Proc::here().unwrap().folder);
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 20 & wait"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut grandchild = Vec::new();
        for _ in 0..200 {
            let below = outside.pids();
            assert!(!below.contains(&1) && !below.contains(&(std::process::id() as i32)), "{below:?}");
            grandchild =
                below.into_iter().filter(|each| outside.text(*each, "comm").as_deref() == Some("sleep\n")).collect();
            if outside.pids().contains(&pid) && grandchild.len() == 1 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(grandchild.len(), 1);
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(grandchild[0]).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        child.wait().unwrap();
        assert_eq!(outside.text(pid, "comm"), None);
    }
}
