//! Going through a workspace, whatever is in it: any depth, any number, names of any bytes, and all of it changing meanwhile.
//!
//! Folders are opened beneath the workspace one at a time ([`super::beneath`]); of each only the names that are still to be
//! entered are kept. Where the way to a folder is longer than the kernel takes, it goes on from an opened folder on the way. What
//! disappears or becomes something else between two looks is left out.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType, Stat};

use super::beneath;

/// From so long a way on, the rest of it is walked from an opened folder.
const LONG_WAY_BYTES: usize = 1024;

/// What was met.
pub struct Met<'a> {
    /// The path from the workspace.
    pub path: &'a [u8],
    /// What it is.
    pub state: &'a Stat,
}

/// What to do about a folder before it is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// Go through it.
    Enter,
    /// Leave it out.
    Skip,
}

/// How long looking may take.
pub struct Patience {
    until: Instant,
    /// How much was looked at.
    pub looked_at: usize,
}

impl Patience {
    /// So long from now on.
    pub fn new(time: Duration) -> Self {
        Self { until: Instant::now() + time, looked_at: 0 }
    }

    /// One more is looked at, and once in a while the clock.
    pub fn goes_on(&mut self) -> ControlFlow<()> {
        self.looked_at += 1;
        let is_late = self.looked_at.is_multiple_of(256) && Instant::now() > self.until;
        if is_late { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Who goes through a workspace, and what for.
pub trait Visitor {
    /// Whether the parts of each folder come in the order of their bytes. Costs memory for all names of a folder.
    const SORTED: bool = false;

    /// Whether a part of this name is of interest, before it is looked at.
    fn wants(&self, _path: &[u8]) -> bool {
        true
    }

    /// A folder. Nothing that can't be opened is entered.
    fn folder(&mut self, met: &Met<'_>, depth: usize) -> ControlFlow<(), Folder>;

    /// Anything else: regular file, link, special file.
    fn other(&mut self, met: &Met<'_>) -> ControlFlow<()>;

    /// A folder that was entered, opened, before its parts.
    fn entered(&mut self, _path: &[u8], _folder: BorrowedFd<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A folder on the way, with what is still to be done in it.
struct Level {
    /// Length of the path to it.
    path_len: usize,
    /// Where its way begins, and the length of the path to that.
    base: Arc<OwnedFd>,
    base_len: usize,
    /// Opened, while it is the last; kept only where its parts are still to be looked at.
    opened: Option<OwnedFd>,
    /// Names, last first.
    rest: Vec<Vec<u8>>,
}

impl Level {
    /// The way to the end of this path.
    fn way<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        let way = &path[self.base_len..];
        way.strip_prefix(b"/").unwrap_or(way)
    }
}

/// Goes through the folder; whether it came to the end.
pub fn walk<V: Visitor>(root: &Arc<OwnedFd>, visitor: &mut V) -> bool {
    let mut path: Vec<u8> = Vec::new();
    let Ok(folder) = beneath::open(root, b"", beneath::FOLDER) else { return true };
    let first = Level { path_len: 0, base: Arc::clone(root), base_len: 0, opened: None, rest: Vec::new() };
    let mut levels = Vec::new();
    if enter(first, folder, &mut path, visitor, &mut levels).is_break() {
        return false;
    }
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path_len);
        let Some(name) = level.rest.pop() else {
            levels.pop();
            continue;
        };
        if step(&name, &mut path, visitor, &mut levels).is_break() {
            return false;
        }
    }
    true
}

/// Looks at one part of the last level, and enters it if it is a folder.
fn step<V: Visitor>(name: &[u8], path: &mut Vec<u8>, visitor: &mut V, levels: &mut Vec<Level>) -> ControlFlow<()> {
    let depth = levels.len();
    let Some(level) = levels.last_mut() else { return ControlFlow::Break(()) };
    if V::SORTED {
        let opened = match level.opened.take() {
            Some(opened) => Ok(opened),
            None => beneath::open(&level.base, level.way(path), beneath::FOLDER),
        };
        let Ok(folder) = opened else { return ControlFlow::Continue(()) };
        push(path, name);
        let Ok(state) = beneath::look(&folder, name) else {
            level.opened = Some(folder);
            return ControlFlow::Continue(());
        };
        let is_folder = FileType::from_raw_mode(state.st_mode) == FileType::Directory;
        let met = Met { path, state: &state };
        if !is_folder || visitor.folder(&met, depth)? == Folder::Skip {
            if !is_folder {
                visitor.other(&met)?;
            }
            level.opened = Some(folder);
            return ControlFlow::Continue(());
        }
    } else {
        push(path, name);
    }
    let way = level.way(path);
    let Ok(folder) = beneath::open(&level.base, way, beneath::FOLDER) else { return ControlFlow::Continue(()) };
    let (mut base, mut base_len) = (Arc::clone(&level.base), level.base_len);
    if way.len() > LONG_WAY_BYTES {
        let Ok(another) = folder.try_clone() else { return ControlFlow::Continue(()) };
        (base, base_len) = (Arc::new(another), path.len());
    }
    let next = Level { path_len: path.len(), base, base_len, opened: None, rest: Vec::new() };
    enter(next, folder, path, visitor, levels)
}

/// Reads a folder that was opened: tells of what is in it, and keeps what is to be looked at or entered.
fn enter<V: Visitor>(
    mut level: Level,
    folder: OwnedFd,
    path: &mut Vec<u8>,
    visitor: &mut V,
    levels: &mut Vec<Level>,
) -> ControlFlow<()> {
    visitor.entered(path, folder.as_fd())?;
    let depth = levels.len() + 1;
    let Ok(list) = Dir::read_from(&folder) else { return ControlFlow::Continue(()) };
    for entry in list {
        let Ok(entry) = entry else { break };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        path.truncate(level.path_len);
        push(path, name);
        if !visitor.wants(path) {
            continue;
        }
        if V::SORTED {
            level.rest.push(name.to_owned());
            continue;
        }
        let Ok(state) = beneath::look(&folder, name) else { continue };
        let met = Met { path, state: &state };
        if FileType::from_raw_mode(state.st_mode) != FileType::Directory {
            visitor.other(&met)?;
        } else if visitor.folder(&met, depth)? == Folder::Enter {
            level.rest.push(name.to_owned());
        }
    }
    path.truncate(level.path_len);
    if V::SORTED {
        level.rest.sort_unstable_by(|one, other| other.cmp(one));
        level.opened = Some(folder);
    }
    levels.push(level);
    ControlFlow::Continue(())
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    #[derive(Default)]
    struct All<const SORTED: bool> {
        files: Vec<String>,
        deepest: usize,
    }

    impl<const SORTED: bool> Visitor for All<SORTED> {
        const SORTED: bool = SORTED;

        fn folder(&mut self, _: &Met<'_>, depth: usize) -> ControlFlow<(), Folder> {
            self.deepest = self.deepest.max(depth);
            ControlFlow::Continue(Folder::Enter)
        }

        fn other(&mut self, met: &Met<'_>) -> ControlFlow<()> {
            self.files.push(String::from_utf8_lossy(met.path).into_owned());
            ControlFlow::Continue(())
        }
    }

    fn walked<const SORTED: bool>(path: &std::path::Path) -> All<SORTED> {
        let root = Arc::new(rustix::fs::open(path, beneath::FOLDER, Mode::empty()).unwrap());
        let mut all = All::default();
        assert!(walk(&root, &mut all));
        all
    }

    #[test]
    fn everything_is_met_once_and_no_link_is_entered() {
        let home = tempfile::tempdir().unwrap();
        for file in ["b/c/2", "b/c/1", "b/d", "a", "b.txt"] {
            let path = home.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink("/", home.path().join("link")).unwrap();
        assert_eq!(walked::<true>(home.path()).files, ["a", "b/c/1", "b/c/2", "b/d", "b.txt", "link"]);
        let mut any = walked::<false>(home.path()).files;
        any.sort();
        assert_eq!(any, ["a", "b.txt", "b/c/1", "b/c/2", "b/d", "link"]);
    }

    #[test]
    fn ten_thousand_levels_are_walked() {
        let home = tempfile::tempdir().unwrap();
        let mut folder = rustix::fs::open(home.path(), beneath::FOLDER, Mode::empty()).unwrap();
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
            folder = beneath::open(&folder, b"d", beneath::FOLDER).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&folder, "end", flags, Mode::RUSR).unwrap();
        for (files, deepest) in [
            {
                let all = walked::<false>(home.path());
                (all.files, all.deepest)
            },
            {
                let all = walked::<true>(home.path());
                (all.files, all.deepest)
            },
        ] {
            assert_eq!((files.len(), files[0].len(), deepest), (1, 20_003, 10_000));
        }
        super::super::remove::tree(home.path()).unwrap();
    }
}
