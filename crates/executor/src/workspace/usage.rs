//! What a workspace holds, as its file system counts it: blocks, not lengths, and a file of several names once. What programs
//! have deleted and still hold open counts for as long as they do.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::projects;
use super::walk::{Folder, Met, Visitor, walk};

/// st_blocks is in units of this (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Bytes on the disk, and files and folders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Files, folders, links, all that takes an inode.
    pub files: u64,
}

impl Usage {
    /// Whether it is more than that, in either.
    pub fn exceeds(&self, line: &Self) -> bool {
        self.bytes > line.bytes || self.files > line.files
    }

    /// The larger of the two, in each.
    pub fn max(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), files: self.files.max(other.files) }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }

    /// What is left of it beside that.
    pub fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), files: self.files.saturating_sub(other.files) }
    }

    /// With this file or folder as well.
    pub fn add(&mut self, state: &Stat) {
        self.bytes = self.bytes.saturating_add(bytes_on_disk(state));
        self.files += 1;
    }
}

/// What a file takes of its disk.
#[allow(clippy::unnecessary_cast)] // Its type differs between systems.
pub fn bytes_on_disk(state: &Stat) -> u64 {
    (state.st_blocks as u64).saturating_mul(BLOCK_BYTES)
}

/// Who is asked what a workspace holds: its file system, which has kept count, or all of its files.
#[derive(Debug, Clone)]
pub struct Meter {
    /// The workspace.
    pub folder: Arc<OwnedFd>,
    /// The project that it is, where it is one.
    pub project: Option<u32>,
}

impl Meter {
    /// What is in it. Where nobody keeps count it is not counted beyond `line`, and what has no name only by [`Self::read_all`].
    pub fn read(&self, line: Option<Usage>) -> Usage {
        self.kept().unwrap_or_else(|| measure(&self.folder, line))
    }

    /// The same with what is in it without a name. Where the former is more than `enough`, nobody asks for the latter.
    pub fn read_all(&self, enough: Option<Usage>) -> Usage {
        let named = match self.kept() {
            Some(all) => return all,
            None => measure(&self.folder, enough),
        };
        if enough.is_some_and(|enough| named.exceeds(&enough)) {
            return named;
        }
        let nameless = nameless(&self.folder);
        named.and(nameless)
    }

    /// Whether reading it costs nothing.
    pub fn is_kept(&self) -> bool {
        self.project.is_some()
    }

    fn kept(&self) -> Option<Usage> {
        projects::held(&self.folder, self.project?).ok()
    }
}

/// Counts what is in a workspace, and stops when it is more than `line`: nobody asks by how much.
pub fn measure(root: &Arc<OwnedFd>, line: Option<Usage>) -> Usage {
    let mut counter = Counter { usage: Usage::default(), line, several_names: HashSet::new() };
    walk(root, &mut counter);
    counter.usage
}

struct Counter {
    usage: Usage,
    line: Option<Usage>,
    several_names: HashSet<u64>,
}

impl Counter {
    fn count(&mut self, state: &Stat) -> ControlFlow<()> {
        self.usage.add(state);
        match &self.line {
            Some(line) if self.usage.exceeds(line) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Visitor for Counter {
    fn folder(&mut self, met: &Met<'_>, _: usize) -> ControlFlow<(), Folder> {
        self.count(met.state)?;
        ControlFlow::Continue(Folder::Enter)
    }

    fn other(&mut self, met: &Met<'_>) -> ControlFlow<()> {
        if met.state.st_nlink > 1 && !self.several_names.insert(met.state.st_ino) {
            return ControlFlow::Continue(());
        }
        self.count(met.state)
    }
}

/// What programs in this workspace hold open or mapped of its file system that has no name any more. Where this process may not look
/// at theirs it is nothing.
#[cfg(target_os = "linux")]
pub fn nameless(root: &OwnedFd) -> Usage {
    let mut usage = Usage::default();
    let Ok(own) = rustix::fs::fstat(root) else { return usage };
    let mut seen = HashSet::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = process.path();
        // Whose workspace it is: programs see it there.
        let Ok(workspace) = rustix::fs::stat(process.join("root/workspace")) else { continue };
        if (workspace.st_dev, workspace.st_ino) != (own.st_dev, own.st_ino) {
            continue;
        }
        for table in ["fd", "map_files"] {
            for entry in std::fs::read_dir(process.join(table)).into_iter().flatten().flatten() {
                // A link of the kernel's to what is open: it opens nothing, and its name does not matter.
                let Ok(state) = rustix::fs::stat(entry.path()) else { continue };
                let is_file = FileType::from_raw_mode(state.st_mode) == FileType::RegularFile;
                if is_file && state.st_nlink == 0 && state.st_dev == own.st_dev && seen.insert(state.st_ino) {
                    usage.add(&state);
                }
            }
        }
    }
    usage
}

/// There is no table of processes to look at.
#[cfg(not(target_os = "linux"))]
pub fn nameless(_root: &OwnedFd) -> Usage {
    Usage::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::beneath::FOLDER;
    use rustix::fs::Mode;

    #[test]
    fn blocks_count_and_names_do_not() {
        let home = tempfile::tempdir().unwrap();
        let root = Arc::new(rustix::fs::open(home.path(), FOLDER, Mode::empty()).unwrap());
        assert_eq!(measure(&root, None), Usage::default());
        std::fs::write(home.path().join("one"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(home.path().join("one"), home.path().join("two")).unwrap();
        std::fs::File::create(home.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", home.path().join("link")).unwrap();
        let usage = measure(&root, None);
        assert_eq!(usage.files, 3);
        assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
        let line = Usage { bytes: 100, files: 100 };
        assert!(measure(&root, Some(line)).exceeds(&line));
    }
}
