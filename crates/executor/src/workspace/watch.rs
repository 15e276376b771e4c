//! Which files of a large workspace may have changed, without a look at all of them.
//!
//! Of each folder the kernel tells what is made, written to or moved in it (inotify(7)); the names are collected and only these are
//! looked at. When that does not suffice (a folder was made or moved, the kernel's queue ran over) the whole workspace is looked at
//! as if nobody had watched. What is told is never more than a hint where to look.

#[cfg(not(target_os = "linux"))]
pub use absent::{Watched, Watcher};
#[cfg(target_os = "linux")]
pub use linux::{Watched, Watcher};

/// Whether a part of this name, and all in it, is no artifact: hidden, or a by-product.
pub fn is_passed_over(name: &[u8]) -> bool {
    name.starts_with(b".")
        || name == b"__pycache__"
        || [&b".pyc"[..], b".tmp", b"~"].iter().any(|end| name.ends_with(end))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{HashMap, HashSet};
    use std::mem::MaybeUninit;
    use std::ops::ControlFlow;
    use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

    use super::is_passed_over;
    use crate::workspace::path::name_of;
    use crate::workspace::walk::{Folder, Met, Visitor, walk};

    /// Folders that are watched in all, and of one workspace: each costs the kernel a kilobyte.
    const MOST_FOLDERS: usize = 8192;
    const MOST_FOLDERS_EACH: usize = 2048;
    /// Names that are collected of one workspace; beyond that it is as quick to look at all.
    const MOST_NAMES: usize = 4096;

    /// By the number that the kernel has for a folder, whose it is and its path.
    type Folders = HashMap<i32, (Arc<Hints>, Vec<u8>)>;

    /// The one queue that the kernel puts its hints into.
    #[derive(Debug)]
    pub struct Watcher {
        queue: OwnedFd,
        watched: Mutex<Folders>,
        /// Moments are counted over all workspaces.
        moments: AtomicU64,
    }

    /// What was told of one workspace.
    #[derive(Debug, Default)]
    struct Hints(Mutex<Told>);

    #[derive(Debug, Default)]
    struct Told {
        /// Paths, each with the number of the moment when it was last told.
        names: HashMap<Vec<u8>, u64>,
        now: u64,
        lost: bool,
    }

    /// A workspace that is watched.
    #[derive(Debug)]
    pub struct Watched {
        hints: Arc<Hints>,
        folders: Vec<i32>,
        watcher: Arc<Watcher>,
        /// Of moments before this it knows nothing.
        begun: u64,
    }

    impl Watcher {
        /// `None` where there is no queue to be had.
        pub fn new() -> Option<Arc<Self>> {
            let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
            Some(Arc::new(Self { queue, watched: Mutex::default(), moments: AtomicU64::new(1) }))
        }

        /// Watches this workspace; `None` where it has too many folders, or the kernel won't.
        pub fn watch(self: &Arc<Self>, root: &Arc<OwnedFd>) -> Option<Watched> {
            let watched = Watched { hints: Arc::default(), folders: Vec::new(), watcher: Arc::clone(self), begun: 0 };
            let mut setup = Setup { watched, failed: false };
            walk(root, &mut setup);
            setup.watched.begun = self.moments.fetch_add(1, Ordering::Relaxed);
            (!setup.failed).then_some(setup.watched)
        }

        /// Takes what the kernel has told and gives it to whom it is of.
        fn sort(&self) {
            let watched = self.lock();
            let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
            let mut reader = inotify::Reader::new(&self.queue, &mut buffer);
            while let Ok(event) = reader.next() {
                let flags = event.events();
                if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                    watched.values().for_each(|(hints, _)| hints.lock().lost = true);
                    continue;
                }
                let Some((hints, folder)) = watched.get(&event.wd()) else { continue };
                let came_or_went = ReadFlags::CREATE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::DELETE;
                match event.file_name().map(std::ffi::CStr::to_bytes) {
                    Some(name) if is_passed_over(name) => {}
                    Some(name) if !flags.contains(ReadFlags::ISDIR) => hints.lock().tell(folder, name),
                    Some(_) if flags.intersects(came_or_went) => hints.lock().lost = true,
                    // Of a folder itself: its rights changed, or it is gone.
                    None if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT) => {
                        hints.lock().lost = true;
                    }
                    Some(_) | None => {}
                }
            }
        }

        fn lock(&self) -> MutexGuard<'_, Folders> {
            self.watched.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Hints {
        fn lock(&self) -> MutexGuard<'_, Told> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Told {
        fn tell(&mut self, folder: &[u8], name: &[u8]) {
            if self.names.len() >= MOST_NAMES {
                (self.lost, self.names) = (true, HashMap::new());
            }
            let path = if folder.is_empty() { name.to_owned() } else { [folder, b"/", name].concat() };
            self.names.insert(path, self.now);
        }
    }

    impl Watched {
        /// A moment: what is told from here on has changed after it. `alone`: nobody will ask about an earlier one.
        pub fn moment(&self, alone: bool) -> u64 {
            self.watcher.sort();
            let mut told = self.hints.lock();
            if alone {
                told.names.clear();
            }
            told.now = self.watcher.moments.fetch_add(1, Ordering::Relaxed);
            told.now
        }

        /// The files that may have changed since that moment; `None` when it could be any.
        pub fn changed_since(&self, moment: u64) -> Option<Vec<Vec<u8>>> {
            self.watcher.sort();
            let told = self.hints.lock();
            let names = told.names.iter().filter(|(_, when)| **when >= moment).map(|(name, _)| name.clone());
            (!told.lost && moment >= self.begun).then(|| names.collect())
        }

        /// Whether it is of no use any more.
        pub fn is_lost(&self) -> bool {
            self.hints.lock().lost
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let mut watched = self.watcher.lock();
            let all: HashSet<i32> = self.folders.drain(..).collect();
            for folder in all {
                // A folder that somebody else has begun to watch since is theirs.
                if watched.get(&folder).is_some_and(|(hints, _)| Arc::ptr_eq(hints, &self.hints)) {
                    watched.remove(&folder);
                    inotify::remove_watch(&self.watcher.queue, folder).ok();
                }
            }
        }
    }

    struct Setup {
        watched: Watched,
        failed: bool,
    }

    impl Visitor for Setup {
        fn wants(&self, path: &[u8]) -> bool {
            !is_passed_over(name_of(path))
        }

        fn folder(&mut self, _: &Met<'_>, _: usize) -> ControlFlow<(), Folder> {
            ControlFlow::Continue(Folder::Enter)
        }

        fn other(&mut self, _: &Met<'_>) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }

        /// Before its parts are read, so that none is missed.
        fn entered(&mut self, path: &[u8], folder: BorrowedFd<'_>) -> ControlFlow<()> {
            let what = WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::ATTRIB
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::ONLYDIR;
            let watcher = Arc::clone(&self.watched.watcher);
            let mut all = watcher.lock();
            let added = if all.len() < MOST_FOLDERS && self.watched.folders.len() < MOST_FOLDERS_EACH {
                inotify::add_watch(&watcher.queue, format!("/proc/self/fd/{}", folder.as_raw_fd()), what).ok()
            } else {
                None
            };
            let Some(added) = added else {
                self.failed = true;
                return ControlFlow::Break(());
            };
            if let Some((before, _)) = all.insert(added, (Arc::clone(&self.watched.hints), path.to_owned())) {
                before.lock().lost = true;
            }
            self.watched.folders.push(added);
            ControlFlow::Continue(())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::workspace::beneath::FOLDER;
        use rustix::fs::Mode;

        #[test]
        fn what_changes_is_told_and_a_folder_that_comes_loses_sight() {
            let home = tempfile::tempdir().unwrap();
            let path = |name: &str| home.path().join(name);
            std::fs::create_dir_all(path("a/b")).unwrap();
            std::fs::write(path("a/b/old"), "x").unwrap();
            std::fs::write(path("a/moved"), "x").unwrap();
            let root = Arc::new(rustix::fs::open(home.path(), FOLDER, Mode::empty()).unwrap());
            let watcher = Watcher::new().unwrap();
            let watched = watcher.watch(&root).unwrap();
            let names = |moment| {
                let mut names = watched.changed_since(moment).unwrap();
                names.sort();
                names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
            };
            let moment = watched.moment(true);
            assert!(names(moment).is_empty());
            std::fs::read(path("a/b/old")).unwrap();
            let rights = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(home.path(), rights).unwrap();
            assert!(names(moment).is_empty());
            std::fs::write(path("a/b/old"), "y").unwrap();
            std::fs::write(path("new"), "y").unwrap();
            std::fs::write(path(".hidden"), "y").unwrap();
            std::fs::rename(path("a/moved"), path("a/b/moved")).unwrap();
            std::fs::create_dir(path("__pycache__")).unwrap();
            assert_eq!(names(moment), ["a/b/moved", "a/b/old", "a/moved", "new"]);
            let later = watched.moment(false);
            assert!(names(later).is_empty());
            assert_eq!(names(moment).len(), 4);
            std::fs::create_dir(path("a/folder")).unwrap();
            assert!(watched.changed_since(later).is_none() && watched.is_lost());
            drop(watched);
            assert!(watcher.lock().is_empty());
        }

        #[test]
        fn a_map_that_was_written_to_is_told_when_it_is_closed() {
            let home = tempfile::tempdir().unwrap();
            std::fs::write(home.path().join("file"), vec![0; 8192]).unwrap();
            let root = Arc::new(rustix::fs::open(home.path(), FOLDER, Mode::empty()).unwrap());
            let watcher = Watcher::new().unwrap();
            let watched = watcher.watch(&root).unwrap();
            let moment = watched.moment(true);
            let code = "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); f.close(); m[0]=1; import os; os._exit(0)";
            let status = std::process::Command::new("/usr/bin/python3")
                .args(["-c", code])
                .arg(home.path().join("file"))
                .status();
            assert!(status.unwrap().success());
            assert_eq!(watched.changed_since(moment).unwrap(), [b"file"]);
        }
    }
}

/// Nothing watches: every workspace is looked at as a whole.
#[cfg(not(target_os = "linux"))]
mod absent {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    /// There is none.
    #[derive(Debug)]
    pub enum Watcher {}

    /// Nothing is.
    #[derive(Debug)]
    pub enum Watched {}

    impl Watcher {
        /// `None`.
        pub fn new() -> Option<Arc<Self>> {
            None
        }

        /// Of nothing.
        pub fn watch(self: &Arc<Self>, _: &Arc<OwnedFd>) -> Option<Watched> {
            match **self {}
        }
    }

    impl Watched {
        /// Of nothing.
        pub fn moment(&self, _: bool) -> u64 {
            match *self {}
        }

        /// Of nothing.
        pub fn changed_since(&self, _: u64) -> Option<Vec<Vec<u8>>> {
            match *self {}
        }

        /// Of nothing.
        pub fn is_lost(&self) -> bool {
            match *self {}
        }
    }
}
