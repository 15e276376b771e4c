//! A plan's mounts by system calls: a new tree is built on a tmpfs and becomes the root (pivot_root(2)); of the old one
//! nothing stays.
//!
//! What is bound is copied (open_tree(2)) and restricted before it is attached (mount_setattr(2), Linux 5.12), so
//! that no name can be swapped in between and no writable moment exists. Flags are only ever added, which also a user
//! namespace may do whose mounts came with locked flags (mount_namespaces(7)). Paths in the new tree are ours alone: it
//! is empty at the start and the workspace, the one part with foreign content, is attached last.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::failure::{Failure, MOUNT_STEP};
use crate::plan::{FILES, Mount, Source, inodes};
use crate::sys;

/// Where the new root stands until it is the root: a folder that every host of ours has, and that nothing is bound from.
const STAGING: &str = "/proc";
/// What it means when there is no /proc inside.
const NO_PROC: &str = "Sandboxes have no /proc: parts of it are hidden from this container, and a new one can't be mounted \
    then; Docker: --security-opt systempaths=unconfined, Kubernetes: procMount: Unmasked";
/// Room in the root itself: it holds folders and links.
const ROOT_BYTES: u64 = 65_536;

const BASE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
/// The same two for a file system that is made here (mount(2)).
const NEW_BASE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const NEW_NO_EXEC: MountFlags = NEW_BASE.union(MountFlags::NOEXEC);

/// What a tree is built with beside its plan.
pub struct Material<'a> {
    /// The opened workspace.
    pub workspace: BorrowedFd<'a>,
    /// The folder that stands for `/etc`.
    pub etc: BorrowedFd<'a>,
    /// The folder of installed packages, where the plan has one.
    pub packages: Option<BorrowedFd<'a>>,
    /// Whom the folder for our files belongs to, as this user namespace numbers it.
    pub owner: Option<(u32, u32)>,
    /// Whether a process sees only those in `/proc` that it could trace: the init, which nobody may, is not there then.
    pub hide_processes: bool,
    /// Whether [`Tree::proc`] is wanted. It costs an RCU grace period when it is closed.
    pub keep_proc: bool,
}

/// What there is beside the tree itself.
pub struct Tree {
    /// `/proc` of this pid namespace, writable and attached nowhere, where it was asked for and can be mounted.
    pub proc: Option<OwnedFd>,
    /// Whether `/proc` could be mounted.
    pub has_proc: bool,
    /// What could not be had, as sentences.
    pub lacks: Vec<String>,
}

/// Builds the tree and makes it the root and the working directory. For a process with a mount namespace of its own.
///
/// # Errors
/// The step, for [`MOUNT_STEP`] with the number of the mount.
pub fn build(mounts: &[Mount], material: &Material<'_>) -> Result<Tree, Failure> {
    let fail = |step: &'static str| move |error: Errno| Failure::new(step, error);
    // Whatever is done here must not be seen elsewhere.
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", all).map_err(fail("private-mounts"))?;
    // The sources lie below the old root, wherever they are looked up from.
    let copies: Vec<Option<OwnedFd>> = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| copy_of_source(mount, material).map_err(|error| Failure::at(MOUNT_STEP, index, error)))
        .collect::<Result<_, _>>()?;

    let root = Path::new(STAGING);
    mount_tmpfs(root, ROOT_BYTES, 0o755, NEW_NO_EXEC).map_err(fail("root"))?;
    rustix::process::chdir(root).map_err(fail("root"))?;
    let mut builder = Builder { material, tree: Tree { proc: None, has_proc: false, lacks: Vec::new() } };
    for (index, (mount, copy)) in mounts.iter().zip(copies).enumerate() {
        builder.carry_out(mount, copy).map_err(|error| Failure::at(MOUNT_STEP, index, error))?;
    }
    make_read_only(Path::new(".")).map_err(|error| Failure::new("root", error))?;
    // The old root comes to lie over the new one and is taken away (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".").map_err(fail("pivot-root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(fail("old-root"))?;
    rustix::process::chdir("/").map_err(fail("root"))?;
    Ok(builder.tree)
}

/// Makes anew what of a tree is one execution's alone, these mounts ([`is_one_executions`]). For a process in the mount namespace of
/// the one before.
///
/// # Errors
/// As of [`build`].
pub fn renew(mounts: &[Mount], material: &Material<'_>) -> Result<Tree, Failure> {
    let fail = |error: Errno| Failure::new("old-mounts", error);
    let mut builder = Builder { material, tree: Tree { proc: None, has_proc: true, lacks: Vec::new() } };
    rustix::mount::unmount(FILES, UnmountFlags::DETACH).map_err(fail)?;
    for (index, mount) in mounts.iter().enumerate() {
        let made = match mount {
            Mount::Proc => builder.renew_proc(),
            _ => copy_of_source(mount, material).and_then(|copy| builder.carry_out(mount, copy)),
        };
        made.map_err(|error| Failure::at(MOUNT_STEP, index, error))?;
    }
    Ok(builder.tree)
}

/// Whether it is never that of the next: `/proc` and the folder for our files.
pub fn is_one_executions(mount: &Mount) -> bool {
    match mount {
        Mount::Proc => true,
        Mount::HiddenFile { path }
        | Mount::HiddenFolder { path }
        | Mount::ReadOnly { path }
        | Mount::Memory { path, .. } => path == FILES || Path::new(path).starts_with("/proc"),
        _ => false,
    }
}

/// The mount that a bind is made of, detached, with whatever is mounted below it: in a user namespace nothing can be copied
/// without what covers parts of it (mount_namespaces(7)).
fn copy_of_source(mount: &Mount, material: &Material<'_>) -> io::Result<Option<OwnedFd>> {
    // Without NODEV: it is what a device is for.
    let device = MountAttrFlags::MOUNT_ATTR_NOSUID | NO_EXEC | READ_ONLY;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let (source, attributes) = match mount {
        Mount::Bind { source, .. } => (source, BASE | READ_ONLY),
        Mount::BindWritable { source, .. } => (source, BASE),
        Mount::Device { path } => (&Source::Path(path.clone()), device),
        Mount::HiddenFile { .. } => (&Source::Path("/dev/null".into()), device),
        _ => return Ok(None),
    };
    let copy = match source {
        Source::Path(path) => rustix::mount::open_tree(CWD, path, flags)?,
        Source::Workspace => copy_of_folder(material.workspace, flags)?,
        Source::Etc => copy_of_folder(material.etc, flags)?,
        Source::Packages => copy_of_folder(material.packages.ok_or(io::ErrorKind::NotFound)?, flags)?,
    };
    if matches!(mount, Mount::HiddenFile { .. }) && !is_null(&copy)? {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    sys::mount_setattr(copy.as_fd(), attributes.bits().into(), true)?;
    Ok(Some(copy))
}

/// The descriptor belongs to the mount namespace that it was opened in, of which nothing can be copied here. So the folder is
/// opened anew by its name, and has to be the same.
fn copy_of_folder(folder: BorrowedFd<'_>, flags: OpenTreeFlags) -> io::Result<OwnedFd> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", folder.as_raw_fd()), Vec::new())?;
    let again = rustix::fs::open(
        path.as_c_str(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let (one, other) = (rustix::fs::fstat(folder)?, rustix::fs::fstat(&again)?);
    if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    Ok(rustix::mount::open_tree(&again, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// Whether it is `/dev/null` for sure: a mask made of something else would show that (runc, CVE-2025-31133).
fn is_null(file: &OwnedFd) -> io::Result<bool> {
    let state = rustix::fs::fstat(file)?;
    let kind = rustix::fs::FileType::from_raw_mode(state.st_mode);
    Ok(kind == rustix::fs::FileType::CharacterDevice && state.st_rdev == rustix::fs::makedev(1, 3))
}

struct Builder<'a> {
    material: &'a Material<'a>,
    tree: Tree,
}

impl Builder<'_> {
    /// One step. The working directory is the new root.
    fn carry_out(&mut self, mount: &Mount, copy: Option<OwnedFd>) -> io::Result<()> {
        match mount {
            Mount::Bind { path, .. } | Mount::BindWritable { path, .. } | Mount::Device { path } => {
                let copy = copy.ok_or(io::ErrorKind::NotFound)?;
                make_target(&copy, path)?;
                attach(&copy, below(path))
            }
            Mount::Link { target, path } => Ok(rustix::fs::symlink(target, below(path))?),
            Mount::Memory { path, mode, size_bytes, executable } => {
                make_folder(path)?;
                mount_tmpfs(below(path), *size_bytes, *mode, if *executable { NEW_BASE } else { NEW_NO_EXEC })?;
                match self.material.owner.filter(|_| path == FILES) {
                    // Not by an option of the mount, which would tell the program its uid on the host.
                    Some((uid, gid)) => std::os::unix::fs::chown(below(path), Some(uid), Some(gid)),
                    None => Ok(()),
                }
            }
            Mount::Proc => self.mount_proc(),
            Mount::HiddenFile { path } => present(attach(&copy.ok_or(io::ErrorKind::NotFound)?, below(path))),
            Mount::HiddenFolder { path } => {
                let nothing = mount_tmpfs(below(path), 4096, 0o555, NEW_NO_EXEC | MountFlags::RDONLY);
                present(nothing.map_err(io::Error::from))
            }
            // There is none to change anything in.
            Mount::ReadOnly { path } if path == "/proc" && !self.tree.has_proc => Ok(()),
            Mount::ReadOnly { path } => make_read_only(below(path)),
        }
    }

    /// In a user namespace the kernel refuses a new /proc where parts of the present one are hidden, as containers have it:
    /// it would show them. Then, a newer kernel may still allow one of processes alone; otherwise there is none, rather than
    /// the container's own.
    fn mount_proc(&mut self) -> io::Result<()> {
        make_folder("/proc")?;
        match self.new_proc("proc") {
            Ok(()) => self.tree.has_proc = true,
            Err(Errno::PERM | Errno::ACCESS) => {
                self.tree.lacks.push(NO_PROC.to_owned());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if self.material.keep_proc {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            self.tree.proc = Some(rustix::mount::open_tree(CWD, "proc", flags)?);
        }
        Ok(())
    }

    /// In a user namespace there has to be one in sight while another is made: so it is made where our files are to be.
    fn renew_proc(&self) -> io::Result<()> {
        self.new_proc(below(FILES))?;
        rustix::mount::unmount("/proc", UnmountFlags::DETACH)?;
        Ok(rustix::mount::mount_move(below(FILES), "proc")?)
    }

    fn new_proc<P: rustix::path::Arg + Copy>(&self, path: P) -> rustix::io::Result<()> {
        let options = if self.material.hide_processes {
            [c"hidepid=invisible", c"hidepid=invisible,subset=pid"]
        } else {
            [c"", c"subset=pid"]
        };
        let mount = |options| rustix::mount::mount("proc", path, "proc", NEW_NO_EXEC, options);
        mount(options[0]).or_else(|_| mount(options[1]))
    }
}

/// A kernel file that this /proc does not have needs no mask.
fn present(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The path in the new root, from there.
fn below(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}

/// A folder with those above it.
fn make_folder(path: &str) -> io::Result<()> {
    std::fs::create_dir_all(below(path))
}

/// Something to attach the copy to: a folder to a folder, anything else to a file.
fn make_target(copy: &OwnedFd, path: &str) -> io::Result<()> {
    let state = rustix::fs::fstat(copy)?;
    if rustix::fs::FileType::from_raw_mode(state.st_mode) == rustix::fs::FileType::Directory {
        return make_folder(path);
    }
    let make =
        || rustix::fs::mknodat(CWD, below(path), rustix::fs::FileType::RegularFile, Mode::from_raw_mode(0o644), 0);
    match make() {
        Err(Errno::NOENT) => {
            below(path).parent().map_or(Ok(()), std::fs::create_dir_all)?;
            Ok(make()?)
        }
        made => Ok(made?),
    }
}

fn attach(mount: &OwnedFd, path: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// A new tmpfs here (tmpfs(5)).
fn mount_tmpfs(path: &Path, size_bytes: u64, mode: u32, flags: MountFlags) -> rustix::io::Result<()> {
    let options = format!("size={size_bytes},nr_inodes={},mode={mode:o}", inodes(size_bytes));
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
}

/// The mount here, not those below it.
fn make_read_only(path: &Path) -> io::Result<()> {
    let top = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    sys::mount_setattr(top.as_fd(), READ_ONLY.bits().into(), false)
}
