//! The host's way into a workspace. A stranger's programs change it while we look, so no path is trusted for what it was a moment
//! ago: the kernel resolves each beneath the opened workspace, without following a link of any kind (openat2(2)), and what was
//! opened is looked at before it is used. Where there is no openat2 (macOS, Linux before 5.6, some containers) folders are entered one
//! by one without following links, which comes to the same since no `..` is ever taken.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// How a folder is opened.
pub const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How a file is opened to be read: a FIFO or a device in its place neither blocks nor becomes our terminal.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens what a path leads to beneath a folder; the empty path is the folder itself.
///
/// # Errors
/// As the system said: `LOOP` for a link anywhere on the way.
pub fn open(folder: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags as Resolve;
        let resolve = Resolve::BENEATH | Resolve::NO_SYMLINKS | Resolve::NO_MAGICLINKS;
        // That flag alone would have a link in a folder's place told as what it is not, as no folder.
        let flags = flags.difference(OFlags::NOFOLLOW);
        match rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve) {
            // Unknown to the kernel, or kept from us by a filter that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => {}
            opened => return opened,
        }
    }
    step_by_step(folder.as_fd(), path, flags)
}

fn step_by_step(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).peekable();
    let mut entered: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        if part == b".." {
            return Err(Errno::XDEV);
        }
        let here = entered.as_ref().map_or(folder, AsFd::as_fd);
        let next = rustix::fs::openat(here, part, if parts.peek().is_some() { FOLDER } else { flags }, Mode::empty());
        let next = next.map_err(|error| match look(here, part) {
            Ok(state) if FileType::from_raw_mode(state.st_mode) == FileType::Symlink => Errno::LOOP,
            _ => error,
        })?;
        if parts.peek().is_none() {
            return Ok(next);
        }
        entered = Some(next);
    }
    Err(Errno::NOENT)
}

/// Opens a regular file to be read, and tells what it is. Nothing is there where there is a folder, a link or a special file.
///
/// # Errors
/// `NotFound`, or as the system said.
pub fn open_file(folder: impl AsFd, path: &[u8]) -> io::Result<(File, Stat)> {
    let file = open(folder, path, FILE).map_err(absent)?;
    let state = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(state.st_mode) {
        FileType::RegularFile => Ok((file.into(), state)),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// What is under this name in an opened folder; a link is told as a link.
///
/// # Errors
/// As the system said.
pub fn look(folder: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// That a file can't be got at, by a link in the way, a part that is no folder, or rights that its owner took, is told like its absence.
pub fn absent(error: Errno) -> io::Error {
    match error {
        // A socket can't be opened, and says so in its own way.
        Errno::LOOP
        | Errno::NOTDIR
        | Errno::XDEV
        | Errno::NXIO
        | Errno::NODEV
        | Errno::ACCESS
        | Errno::PERM
        | Errno::NAMETOOLONG => io::ErrorKind::NotFound.into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_way_leads_out_or_through_a_link() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        std::fs::create_dir_all(root.join("in/deep")).unwrap();
        std::fs::write(home.path().join("outside"), "outside").unwrap();
        std::fs::write(root.join("in/deep/file"), "inside").unwrap();
        symlink("../outside", root.join("up")).unwrap();
        symlink(home.path(), root.join("away")).unwrap();
        symlink("in", root.join("within")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let folder = rustix::fs::open(&root, FOLDER, Mode::empty()).unwrap();
        type Way = fn(BorrowedFd<'_>, &[u8]) -> Result<OwnedFd, Errno>;
        let ways: [Way; 2] = [|folder, path| open(folder, path, FILE), |folder, path| step_by_step(folder, path, FILE)];
        for way in ways {
            assert!(way(folder.as_fd(), b"in/deep/file").is_ok());
            for bad in
                ["up", "away/outside", "within/deep/file", "loop", "../outside", "in/../../outside", "magic/etc/passwd"]
            {
                assert!(way(folder.as_fd(), bad.as_bytes()).is_err(), "{bad}");
            }
            assert_eq!(way(folder.as_fd(), b"away").unwrap_err(), Errno::LOOP);
        }
        // That a reader who goes by the path alone does get there.
        assert_eq!(std::fs::read_to_string(root.join("away/outside")).unwrap(), "outside");
        assert_eq!(std::fs::read_to_string(root.join("up")).unwrap(), "outside");
    }

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_blocks() {
        let home = tempfile::tempdir().unwrap();
        let folder = rustix::fs::open(home.path(), FOLDER, Mode::empty()).unwrap();
        std::fs::create_dir(home.path().join("folder")).unwrap();
        std::fs::write(home.path().join("file"), "text").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(home.path().join("fifo")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(home.path().join("socket")).unwrap();
        for (name, there) in
            [("file", true), ("folder", false), ("fifo", false), ("socket", false), ("none", false), ("file/x", false)]
        {
            let opened = open_file(&folder, name.as_bytes());
            assert_eq!(opened.is_ok(), there, "{name}");
            assert!(opened.is_ok() || opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound), "{name}");
        }
    }
}
