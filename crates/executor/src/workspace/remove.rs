//! Removing a tree that a stranger made: folders of mode 000, ten thousand levels, links anywhere. Nothing is followed,
//! and neither stack nor descriptors grow with the depth: folders met on the way are moved up and emptied in turn.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

/// Removes the folder at `path` and everything in it, or the file.
///
/// # Errors
/// The first that could not be got around.
pub fn tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        // A file that was on its way into a workspace.
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(rustix::fs::unlink(path)?),
        Err(rustix::io::Errno::ACCESS) => {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            rustix::fs::open(path, flags, Mode::empty())?
        }
        Err(error) => return Err(error.into()),
    };
    rustix::fs::fchmod(&top, Mode::RWXU)?;
    let mut moved = Moved::default();
    empty(&top, &top, &mut moved)?;
    // Every folder that was below is now right here, or gone. What was moved is known by name: listing a folder that changes
    // all the time takes a file system a hundred times as long as the rest.
    while let Some(name) = moved.names.pop().map_or_else(|| next_folder(&top), |name| Ok(Some(name)))? {
        let folder = open_folder(&top, &name)?;
        empty(&folder, &top, &mut moved)?;
        rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlink(path).or_else(|_| rustix::fs::rmdir(path))?;
    Ok(())
}

/// Folders that were moved up and are not yet removed.
#[derive(Default)]
struct Moved {
    count: u64,
    names: Vec<CString>,
}

/// Removes the files in `folder` and moves its folders to `top`.
fn empty(folder: &OwnedFd, top: &OwnedFd, moved: &mut Moved) -> io::Result<()> {
    let is_top = std::ptr::eq(folder, top);
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) if is_top => {}
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
                // Its parent is written into it, so it has to be writable.
                drop(open_folder(folder, name)?);
                loop {
                    moved.count += 1;
                    let new = CString::new(format!(".moved-{}", moved.count))?;
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(folder, name, top, &new, flags) {
                        Err(rustix::io::Errno::EXIST) => {}
                        result => {
                            result?;
                            moved.names.push(new);
                            break;
                        }
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn next_folder(top: &OwnedFd) -> io::Result<Option<CString>> {
    for entry in Dir::read_from(top)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(Some(entry.file_name().to_owned()));
        }
    }
    Ok(None)
}

/// Opens a folder and makes it ours to work in.
fn open_folder(parent: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::ACCESS) => {
            make_ours(parent, name)?;
            rustix::fs::openat(parent, name, flags, Mode::empty())?
        }
        result => result?,
    };
    rustix::fs::fchmod(&folder, Mode::RWXU)?;
    Ok(folder)
}

/// Gives us all rights to a folder that can't be opened, never to what a link in its place leads to.
#[cfg(target_os = "linux")]
pub(super) fn make_ours(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let path = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&path);
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{number}"), Mode::RWXU)?)
}

/// As above; there is no `/proc`, and the system call takes the flag that Linux only knows since 6.6.
#[cfg(not(target_os = "linux"))]
pub(super) fn make_ours(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn whatever_a_program_left_goes_and_what_it_points_at_stays() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "kept").unwrap();
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("run");
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("a/link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("link")).unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        std::fs::write(root.join(".moved-1"), "x").unwrap();
        std::fs::create_dir(root.join(".moved-2")).unwrap();
        std::fs::set_permissions(root.join("a/b/c"), PermissionsExt::from_mode(0o000)).unwrap();
        std::fs::set_permissions(root.join("a/b"), PermissionsExt::from_mode(0o000)).unwrap();
        tree(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(std::fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
        tree(&root).unwrap();
    }

    /// One who looks before he enters, and goes by the path.
    fn remove_by_path(path: &std::path::Path) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.symlink_metadata().is_ok_and(|state| state.is_dir()) {
                remove_by_path(&path);
                std::fs::remove_dir(&path).ok();
            } else {
                std::fs::remove_file(&path).ok();
            }
        }
    }

    #[test]
    fn what_is_swapped_for_a_link_meanwhile_is_not_entered() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use std::sync::atomic::{AtomicBool, Ordering};
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let lay_out = || {
            std::fs::create_dir_all(path("outside")).unwrap();
            std::fs::write(path("outside/file"), "kept").unwrap();
            for folder in 0..20 {
                std::fs::create_dir_all(path("run/folder")).ok();
                std::fs::create_dir_all(path(&format!("run/folder/{folder}"))).ok();
                std::fs::write(path(&format!("run/folder/{folder}/file")), "x").ok();
            }
            std::os::unix::fs::symlink(path("outside"), path("run/link")).ok();
        };
        let is_over = AtomicBool::new(false);
        let swap = || {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, path("run/folder"), CWD, path("run/link"), RenameFlags::EXCHANGE).ok();
            }
        };
        let lost = |remove: &dyn Fn(), rounds: usize| {
            (0..rounds).any(|_| {
                lay_out();
                remove();
                !path("outside/file").exists()
            })
        };
        let led_out = std::thread::scope(|scope| {
            scope.spawn(swap);
            let ours = lost(&|| drop(tree(&path("run"))), 1000);
            let by_path = lost(&|| remove_by_path(&path("run")), 20_000);
            is_over.store(true, Ordering::Relaxed);
            (ours, by_path)
        });
        assert_eq!(led_out, (false, true), "ours, and one who goes by the path");
    }

    #[test]
    fn ten_thousand_levels_go() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("run");
        std::fs::create_dir(&root).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
            folder = rustix::fs::openat(&folder, "d", flags, Mode::empty()).unwrap();
        }
        tree(&root).unwrap();
        assert!(!root.exists());
    }
}
