//! What an execution made or changed, found afterwards: every file that the kernel saw change since a mark.
//!
//! The mark is a change that we make to the workspace's own folder before the start, so it is told by the clock of the file system
//! that tells the files' changes. A program can set a file's times, but not that one. What is new is decided by it alone; where
//! to look is told by [`super::watch`], or is everywhere.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType, Mode, Stat};

use super::artifact::{Artifact, Budget, changed_at};
use super::beneath;
use super::path::name_of;
use super::walk::{Folder, Met, Patience, Visitor, walk};
use super::watch::is_passed_over;

/// Most artifacts of one execution, how deep they are looked for, how long, and how much of them is read.
const MOST: usize = 1000;
const DEEPEST: usize = 64;
const TIME: Duration = Duration::from_secs(1);
const READ_TIME: Duration = Duration::from_secs(2);
const READ_BYTES: u64 = 256 << 20;

/// A moment in the time of a workspace's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(Option<(i64, i64)>);

impl Mark {
    /// Before anything: all that is in a workspace came after it.
    pub const BEGINNING: Self = Self(None);

    /// Now. Linux since 6.13 tells this moment from any before it; earlier kernels count in ticks, and what changed in the same tick
    /// before it counts as changed after it.
    ///
    /// # Errors
    /// As the system said.
    pub fn take(folder: &OwnedFd) -> io::Result<Self> {
        // Asked for before it changes, the kernel makes the next time a fine one, unless a tick has come since the last: that may be
        // as late as what changed just before. So once more: now either it is a fine one, or the tick came after all of that.
        for _ in 0..2 {
            rustix::fs::fstat(folder)?;
            rustix::fs::fchmod(folder, Mode::RWXU)?;
        }
        Ok(Self(Some(changed_at(&rustix::fs::fstat(folder)?))))
    }

    fn is_before(&self, state: &Stat) -> bool {
        self.0.is_none_or(|mark| changed_at(state) >= mark)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Changes {
    /// By path.
    pub artifacts: Vec<Artifact>,
    /// Whether there may be more.
    pub truncated: bool,
    /// How much was looked at.
    pub looked_at: usize,
}

/// Whether nothing at all is in the workspace: the usual end of an execution without a session.
pub fn is_empty(folder: &OwnedFd) -> bool {
    let Ok(list) = Dir::read_from(folder) else { return false };
    list.flatten().all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
}

/// Looks for what changed since the mark: among these paths, or everywhere.
pub fn since(mark: Mark, folder: &Arc<OwnedFd>, hints: Option<Vec<Vec<u8>>>) -> Changes {
    let mut finder = Finder { mark, found: BTreeSet::new(), truncated: false, patience: Patience::new(TIME) };
    match hints {
        Some(paths) => paths.into_iter().for_each(|path| finder.check(folder, path)),
        None => finder.truncated |= !walk(folder, &mut finder),
    }
    let mut changes =
        Changes { artifacts: Vec::new(), truncated: finder.truncated, looked_at: finder.patience.looked_at };
    let mut budget = Budget { bytes: READ_BYTES, until: Instant::now() + READ_TIME };
    changes.artifacts =
        finder.found.into_iter().filter_map(|path| Artifact::read(folder, &path, &mut budget)).collect();
    changes
}

struct Finder {
    mark: Mark,
    found: BTreeSet<Vec<u8>>,
    truncated: bool,
    patience: Patience,
}

impl Finder {
    fn check(&mut self, folder: &Arc<OwnedFd>, path: Vec<u8>) {
        self.patience.looked_at += 1;
        let is_new = |state: &Stat| {
            FileType::from_raw_mode(state.st_mode) == FileType::RegularFile && self.mark.is_before(state)
        };
        if self.found.len() >= MOST {
            self.truncated = true;
        } else if beneath::open_file(folder, &path).is_ok_and(|(_, state)| is_new(&state)) {
            self.found.insert(path);
        }
    }
}

impl Visitor for Finder {
    fn wants(&self, path: &[u8]) -> bool {
        !is_passed_over(name_of(path))
    }

    fn folder(&mut self, _: &Met<'_>, depth: usize) -> ControlFlow<(), Folder> {
        self.patience.goes_on()?;
        if depth >= DEEPEST {
            self.truncated = true;
            return ControlFlow::Continue(Folder::Skip);
        }
        ControlFlow::Continue(Folder::Enter)
    }

    fn other(&mut self, met: &Met<'_>) -> ControlFlow<()> {
        self.patience.goes_on()?;
        if FileType::from_raw_mode(met.state.st_mode) == FileType::RegularFile && self.mark.is_before(met.state) {
            if self.found.len() >= MOST {
                return ControlFlow::Break(());
            }
            self.found.insert(met.path.to_owned());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> Arc<OwnedFd> {
        Arc::new(rustix::fs::open(path, beneath::FOLDER, Mode::empty()).unwrap())
    }

    fn paths(changes: &Changes) -> Vec<&str> {
        changes.artifacts.iter().map(|artifact| artifact.path.path.as_str()).collect()
    }

    #[test]
    fn what_was_there_before_is_not_told_and_what_changed_is() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        for file in ["old", "written", "renamed", "deleted"] {
            std::fs::write(path(file), "before").unwrap();
        }
        let folder = open(home.path());
        let mark = Mark::take(&folder).unwrap();
        assert!(paths(&since(mark, &folder, None)).is_empty() || !fine_times());
        // Also right behind a fine time of another's, however long ago the folder changed.
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(7));
            std::fs::metadata(path("written")).unwrap();
            std::fs::write(path("written"), "again").unwrap();
            std::fs::metadata(path("written")).unwrap();
            std::fs::write(path("written"), "and again").unwrap();
            let mark = Mark::take(&folder).unwrap();
            assert!(paths(&since(mark, &folder, None)).is_empty() || !fine_times());
        }
        let mark = Mark::take(&folder).unwrap();
        // Coarse kernels tell a change from the mark a tick later.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::create_dir_all(path("deep/er")).unwrap();
        std::fs::write(path("deep/er/new"), "new").unwrap();
        std::fs::write(path("written"), "after").unwrap();
        std::fs::rename(path("renamed"), path("another")).unwrap();
        std::fs::remove_file(path("deleted")).unwrap();
        for unwanted in [".hidden", "cache.pyc", "x.tmp", "y~"] {
            std::fs::write(path(unwanted), "x").unwrap();
        }
        for folder in [".git", "__pycache__"] {
            std::fs::create_dir(path(folder)).unwrap();
            std::fs::write(path(folder).join("x"), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        // A program may set the times that it can.
        let old = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        std::fs::File::options().write(true).open(path("written")).unwrap().set_times(old).unwrap();
        let changes = since(mark, &folder, None);
        if fine_times() {
            assert_eq!(paths(&changes), ["another", "deep/er/new", "written"]);
        }
        let sum = "sha256:11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437";
        let new = changes.artifacts.iter().find(|artifact| artifact.path.path == "deep/er/new").unwrap();
        assert_eq!((new.size, new.checksum.as_deref(), new.mime_type.as_str()), (3, Some(sum), "text/plain"));
        let hints = vec![b"old".to_vec(), b"written".to_vec(), b"link".to_vec(), b"fifo".to_vec(), b"gone".to_vec()];
        let hinted = since(mark, &folder, Some(hints));
        assert!(paths(&hinted).contains(&"written") && !paths(&hinted).contains(&"link"));
    }

    /// Whether this kernel's file times are finer than its ticks (Linux 6.13).
    fn fine_times() -> bool {
        let home = tempfile::tempdir().unwrap();
        let folder = open(home.path());
        let marks: Vec<Mark> = (0..20).map(|_| Mark::take(&folder).unwrap()).collect();
        marks.windows(2).all(|pair| pair[0] < pair[1])
    }

    #[test]
    fn twenty_thousand_files_are_looked_at_quickly_and_artifacts_are_bounded() {
        let home = tempfile::tempdir().unwrap();
        for folder in 0..100 {
            let folder = home.path().join(format!("d{folder}"));
            std::fs::create_dir(&folder).unwrap();
            for file in 0..200 {
                std::fs::write(folder.join(format!("f{file}")), "").unwrap();
            }
        }
        let folder = open(home.path());
        std::thread::sleep(Duration::from_millis(20));
        let mark = Mark::take(&folder).unwrap();
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                let start = Instant::now();
                let changes = since(mark, &folder, None);
                assert_eq!((changes.artifacts.len(), changes.looked_at), (0, 20_100));
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        assert!(times[0] < Duration::from_millis(150), "{times:?}");
        let all = since(Mark::BEGINNING, &folder, None);
        assert!(all.truncated && all.artifacts.len() == MOST);
    }

    #[test]
    fn an_empty_workspace_is_known_at_once() {
        let home = tempfile::tempdir().unwrap();
        let folder = open(home.path());
        assert!(is_empty(&folder));
        std::fs::write(home.path().join(".x"), "").unwrap();
        assert!(!is_empty(&folder));
    }
}
