//! Taking over what an installer left: from the workspace of a program that nobody trusts into a folder of the service's own.
//!
//! Every byte is copied, beneath the opened workspace ([`crate::workspace::beneath`]) and within bounds: no file of ours has another
//! name elsewhere, an owner, an attribute or a mode that a stranger chose. There are regular files, folders and links that stay
//! inside; anything else is the end of it. Nobody may write to any of it afterwards.

use std::fs::{File, Permissions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use crate::workspace::beneath;
use crate::workspace::path::name_of;
use crate::workspace::usage::Usage;
use crate::workspace::walk::{Folder, Met, Visitor, walk};

/// Levels of folders, and bytes of a path, at most.
const DEEPEST: usize = 64;
const LONGEST_PATH: usize = 2048;
const READ_ONLY: u32 = 0o444;
const READ_ONLY_PROGRAM: u32 = 0o555;
const READ_ONLY_FOLDER: u32 = 0o555;
/// Blocks of a file system, for what even an empty file takes.
const BLOCK_BYTES: u64 = 4096;

/// What can't be taken over.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// What was left is not what packages are made of; what it is.
    #[error("{0}")]
    Strange(String),
    /// It is more than that.
    #[error("the packages are larger than {} MB (MAX_PACKAGES_MB)", .0.bytes >> 20)]
    TooLarge(Usage),
    /// As the system said.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Copies all that is in a folder beneath the workspace into a new one of ours; what it takes of the disk. Where there is nothing, the
/// new one is empty.
///
/// # Errors
/// As of [`Refused`]; what was copied until then is left for the caller to remove.
pub fn take_over(workspace: &OwnedFd, name: &str, target: &Path, line: Usage) -> Result<Usage, Refused> {
    std::fs::create_dir(target)?;
    let root = match beneath::open(workspace, name.as_bytes(), beneath::FOLDER) {
        Err(rustix::io::Errno::NOENT) => None,
        opened => Some(Arc::new(opened.map_err(io::Error::from)?)),
    };
    let mut copy = Copy { target, folder: None, line, taken: Usage::default(), folders: Vec::new(), refused: None };
    if let Some(root) = root {
        let whole = walk(&root, &mut copy);
        if let Some(refused) = copy.refused.take() {
            return Err(refused);
        }
        if !whole {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
    }
    // Those inside first: afterwards nothing can be made in them.
    copy.folders.push(target.to_owned());
    for folder in copy.folders.iter().rev() {
        std::fs::set_permissions(folder, Permissions::from_mode(READ_ONLY_FOLDER))?;
    }
    Ok(copy.taken)
}

struct Copy<'a> {
    target: &'a Path,
    /// The folder whose parts come now.
    folder: Option<OwnedFd>,
    line: Usage,
    taken: Usage,
    folders: Vec<PathBuf>,
    refused: Option<Refused>,
}

impl Copy<'_> {
    fn refuse<T>(&mut self, refused: Refused) -> ControlFlow<(), T> {
        self.refused = Some(refused);
        ControlFlow::Break(())
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.target.join(Path::new(std::ffi::OsStr::from_bytes(path)))
    }

    fn count(&mut self, bytes: u64) -> Result<(), Refused> {
        self.taken.files += 1;
        self.taken.bytes += bytes.div_ceil(BLOCK_BYTES).max(1) * BLOCK_BYTES;
        if self.taken.exceeds(&self.line) { Err(Refused::TooLarge(self.line)) } else { Ok(()) }
    }

    fn take(&mut self, met: &Met<'_>) -> Result<(), Refused> {
        let strange = |what: &str| {
            let path = String::from_utf8_lossy(met.path).escape_debug().to_string();
            Err(Refused::Strange(format!("{what}: {path}")))
        };
        match FileType::from_raw_mode(met.state.st_mode) {
            _ if met.path.len() > LONGEST_PATH => strange("a path is too long"),
            _ if met.state.st_mode & 0o6000 != 0 => strange("a file has the mode of another user's program"),
            FileType::RegularFile => {
                let (file, state) = self.open(met.path)?;
                self.count(u64::try_from(state.st_size).unwrap_or(u64::MAX / 2))?;
                Ok(copy_file(file, &state, &self.place(met.path))?)
            }
            FileType::Symlink => {
                self.count(0)?;
                let target = self.read_link(met.path)?;
                if !stays_inside(met.path, &target) {
                    return strange("a link leads out");
                }
                Ok(std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), self.place(met.path))?)
            }
            _ => strange("something is neither file, folder nor link"),
        }
    }

    fn here(&self) -> io::Result<BorrowedFd<'_>> {
        self.folder.as_ref().map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open(&self, path: &[u8]) -> io::Result<(File, Stat)> {
        beneath::open_file(self.here()?, name_of(path))
    }

    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.here()?, name_of(path), Vec::new())?.into_bytes())
    }
}

impl Visitor for Copy<'_> {
    fn folder(&mut self, met: &Met<'_>, depth: usize) -> ControlFlow<(), Folder> {
        if depth > DEEPEST || met.path.len() > LONGEST_PATH {
            return self.refuse(Refused::Strange("folders are nested too deeply".into()));
        }
        let place = self.place(met.path);
        if let Err(refused) = self.count(0).and_then(|()| Ok(std::fs::create_dir(&place)?)) {
            return self.refuse(refused);
        }
        self.folders.push(place);
        ControlFlow::Continue(Folder::Enter)
    }

    fn other(&mut self, met: &Met<'_>) -> ControlFlow<()> {
        match self.take(met) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refused) => self.refuse(refused),
        }
    }

    fn entered(&mut self, _path: &[u8], folder: BorrowedFd<'_>) -> ControlFlow<()> {
        match folder.try_clone_to_owned() {
            Ok(folder) => {
                self.folder = Some(folder);
                ControlFlow::Continue(())
            }
            Err(error) => self.refuse(error.into()),
        }
    }
}

/// Copies what was opened, as much as it was said to hold.
fn copy_file(file: File, state: &Stat, place: &Path) -> io::Result<()> {
    let mode = if state.st_mode & 0o111 == 0 { READ_ONLY } else { READ_ONLY_PROGRAM };
    let mut copy = File::options().write(true).create_new(true).mode(0o600).open(place)?;
    let size = u64::try_from(state.st_size).unwrap_or_default();
    io::copy(&mut io::Read::take(&file, size), &mut copy)?;
    // As it was: whatever an interpreter compiles later is compared by it.
    let modified = u64::try_from(file.metadata()?.mtime()).unwrap_or_default();
    copy.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(modified))?;
    copy.set_permissions(Permissions::from_mode(mode))
}

/// Whether a link in a folder that was reached through no link leads to something below the top: up first, as far as there is, then
/// down. Down again after up again might lead anywhere, through another link.
fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let parts: Vec<&[u8]> = target.split(|byte| *byte == b'/').filter(|part| *part != b".").collect();
    let up = parts.iter().take_while(|part| **part == b"..").count();
    !target.is_empty()
        && target.first() != Some(&b'/')
        && target.len() <= LONGEST_PATH
        && up <= depth
        && parts[up..].iter().all(|part| *part != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::os::unix::fs::symlink;

    const LINE: Usage = Usage { bytes: 1 << 20, files: 100 };

    type Make = Box<dyn Fn(&Trial)>;

    struct Trial {
        home: tempfile::TempDir,
    }

    impl Trial {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(home.path().join("work/packages/deep/er")).unwrap();
            std::fs::write(home.path().join("secret"), "secret").unwrap();
            Self { home }
        }

        fn from(&self, name: &str) -> PathBuf {
            self.home.path().join("work/packages").join(name)
        }

        fn to(&self, name: &str) -> PathBuf {
            self.home.path().join("taken").join(name)
        }

        fn take_over(&self) -> Result<Usage, Refused> {
            let folder = rustix::fs::open(self.home.path().join("work"), beneath::FOLDER, Mode::empty()).unwrap();
            take_over(&folder, "packages", &self.to(""), LINE)
        }
    }

    #[test]
    fn files_folders_and_links_inside_come_along_and_nobody_may_write_to_them() {
        let trial = Trial::new();
        std::fs::write(trial.from("a.py"), "a = 1").unwrap();
        std::fs::write(trial.from("deep/er/b"), "b").unwrap();
        std::fs::set_permissions(trial.from("deep/er/b"), Permissions::from_mode(0o777)).unwrap();
        symlink("../../a.py", trial.from("deep/er/up")).unwrap();
        symlink("deep/er", trial.from("short")).unwrap();
        std::fs::hard_link(trial.from("a.py"), trial.home.path().join("other-name")).unwrap();
        let taken = trial.take_over().unwrap();
        assert_eq!(taken, Usage { bytes: 6 * BLOCK_BYTES, files: 6 });
        let mode = |name: &str| std::fs::metadata(trial.to(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode(""), mode("deep"), mode("a.py"), mode("deep/er/b")), (0o555, 0o555, 0o444, 0o555));
        assert_eq!(std::fs::read_to_string(trial.to("deep/er/up")).unwrap(), "a = 1");
        // Another name of it elsewhere is not a name of ours.
        std::fs::write(trial.home.path().join("other-name"), "poison").unwrap();
        assert_eq!(std::fs::read_to_string(trial.to("a.py")).unwrap(), "a = 1");
        let modified = |path: PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        let (from, to) = (modified(trial.from("deep/er/b")), modified(trial.to("deep/er/b")));
        assert!(from.duration_since(to).unwrap() < Duration::from_secs(1));
    }

    #[test]
    fn nothing_installed_is_an_empty_folder() {
        let trial = Trial::new();
        std::fs::remove_dir_all(trial.from("")).unwrap();
        assert_eq!(trial.take_over().unwrap(), Usage::default());
        assert_eq!(std::fs::read_dir(trial.to("")).unwrap().count(), 0);
    }

    #[test]
    fn whatever_is_no_package_is_the_end_of_it() {
        let secret = |trial: &Trial| trial.home.path().join("secret").to_str().unwrap().to_owned();
        let bad: [(&str, Make); 9] = [
            ("leads out", Box::new(|trial| symlink("/etc/passwd", trial.from("x")).unwrap())),
            ("leads out", Box::new(move |trial| symlink(secret(trial), trial.from("x")).unwrap())),
            ("leads out", Box::new(|trial| symlink("../../secret", trial.from("x")).unwrap())),
            ("leads out", Box::new(|trial| symlink("er/../../../secret", trial.from("deep/x")).unwrap())),
            (
                "neither",
                Box::new(|trial| {
                    assert!(std::process::Command::new("mkfifo").arg(trial.from("x")).status().unwrap().success());
                }),
            ),
            ("neither", Box::new(|trial| drop(std::os::unix::net::UnixListener::bind(trial.from("x")).unwrap()))),
            (
                "another user's",
                Box::new(|trial| {
                    std::fs::write(trial.from("x"), "x").unwrap();
                    std::fs::set_permissions(trial.from("x"), Permissions::from_mode(0o4755)).unwrap();
                }),
            ),
            ("larger", Box::new(|trial| File::create(trial.from("x")).unwrap().set_len(1 << 40).unwrap())),
            ("deeply", Box::new(|trial| std::fs::create_dir_all(trial.from(&"d/".repeat(80))).unwrap())),
        ];
        for (why, make) in bad {
            let trial = Trial::new();
            make(&trial);
            let refused = trial.take_over().expect_err(why).to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(!trial.to("x").exists() && !trial.to("deep/x").exists());
        }
        let trial = Trial::new();
        for number in 0..LINE.files {
            std::fs::write(trial.from(&number.to_string()), "").unwrap();
        }
        assert!(matches!(trial.take_over(), Err(Refused::TooLarge(_))));
    }

    #[test]
    fn a_folder_that_is_a_link_is_not_entered() {
        let trial = Trial::new();
        std::fs::remove_dir_all(trial.from("")).unwrap();
        symlink("/etc", trial.home.path().join("work/packages")).unwrap();
        assert!(matches!(trial.take_over(), Err(Refused::System(_))));
    }

    #[test]
    fn links_are_judged_by_where_they_lead() {
        for (path, target, inside) in [
            ("a", "b", true),
            ("a", "./b/c", true),
            ("x/a", "../b", true),
            ("x/a", "../../b", false),
            ("a", "..", false),
            ("a", "b/../../c", false),
            ("a", "b/../c", false),
            ("a", "/b", false),
            ("a", "", false),
        ] {
            assert_eq!(stays_inside(path.as_bytes(), target.as_bytes()), inside, "{path} -> {target}");
        }
    }
}
