//! Projects of a file system, and what files of one may take together: the kernel refuses whatever is more (quotactl(2),
//! ioctl_xfs_fsgetxattr(2)). ext4 and XFS have them where they are mounted so (`prjquota`).
//!
//! Only root of the host itself sets limits. A file's owner may move it to another project, but never from within a user
//! namespace, which every sandbox of root's has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    padding: [u8; 8],
}

/// Of linux/fs.h and linux/dqblk_xfs.h, which the libc crate has not.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
const PRJQUOTA: u32 = 2;
const Q_XGETQSTATV: u32 = 0x5808;
const FS_QSTATV_VERSION1: u8 = 1;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
const QIF_DQBLKSIZE: u64 = 1024;

/// `struct fs_quota_statv`; what stands behind its flags is not used here.
#[repr(C)]
struct State {
    version: u8,
    padding: u8,
    flags: u16,
    rest: [u64; 24],
}

/// What the files of a project take, or may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, folders, all that takes an inode.
    pub files: u64,
}

/// Whether the file system of this folder holds projects to their limits.
///
/// # Errors
/// The system call's own: it knows no projects, or this process may not ask.
pub fn are_enforced(folder: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = State { version: FS_QSTATV_VERSION1, padding: 0, flags: 0, rest: [0; 24] };
    // SAFETY: for this command the kernel writes one fs_quota_statv, which is smaller than the room given.
    unsafe { quotactl(folder, Q_XGETQSTATV, 0, (&raw mut state).cast()) }?;
    Ok(state.flags & FS_QUOTA_PDQ_ENFD != 0)
}

/// The project that a folder hands on to what is made in it; `None` if it hands none on.
///
/// # Errors
/// The system call's own: its file system knows no projects.
pub fn handed_on_by(folder: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let attributes = attributes(folder)?;
    Ok((attributes.flags & FS_XFLAG_PROJINHERIT != 0).then_some(attributes.project))
}

/// Moves a file or a folder to a project; what is made in the folder from now on belongs to it as well.
///
/// # Errors
/// The system call's own; `EDQUOT` or `ENOSPC` where the project would hold more than it may.
pub fn assign(file: BorrowedFd<'_>, project: u32, is_folder: bool) -> io::Result<()> {
    let mut attributes = attributes(file)?;
    attributes.project = project;
    if is_folder {
        attributes.flags |= FS_XFLAG_PROJINHERIT;
    }
    // SAFETY: the kernel reads one fsxattr.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const attributes) }).map(drop)
}

/// What all files of a project may take together, in this folder's file system; `None`: as much as they want.
///
/// # Errors
/// The system call's own.
pub fn limit(folder: BorrowedFd<'_>, project: u32, most: Option<Amount>) -> io::Result<()> {
    // Zero is no limit, so the least is one.
    let (blocks, files) = most.map_or((0, 0), |most| ((most.bytes / QIF_DQBLKSIZE).max(1), most.files.max(1)));
    // SAFETY: an all-zero dqblk is valid.
    let mut limits: libc::dqblk = unsafe { std::mem::zeroed() };
    (limits.dqb_bhardlimit, limits.dqb_ihardlimit, limits.dqb_valid) = (blocks, files, libc::QIF_LIMITS);
    // SAFETY: for this command the kernel reads one dqblk.
    unsafe { quotactl(folder, libc::Q_SETQUOTA as u32, project, (&raw mut limits).cast()) }
}

/// What all files of a project take together in this folder's file system, also those that have no name any more.
///
/// # Errors
/// The system call's own.
pub fn taken(folder: BorrowedFd<'_>, project: u32) -> io::Result<Amount> {
    // SAFETY: an all-zero dqblk is valid, and the kernel writes one.
    unsafe {
        let mut now: libc::dqblk = std::mem::zeroed();
        match quotactl(folder, libc::Q_GETQUOTA as u32, project, (&raw mut now).cast()) {
            Ok(()) => Ok(Amount { bytes: now.dqb_curspace, files: now.dqb_curinodes }),
            // XFS: nothing of it was ever there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Amount { bytes: 0, files: 0 }),
            Err(error) => Err(error),
        }
    }
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one fsxattr.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut attributes) })?;
    Ok(attributes)
}

/// quotactl_fd(2), Linux 5.14, for projects.
///
/// # Safety
/// `place` must be what the command reads or writes.
unsafe fn quotactl(folder: BorrowedFd<'_>, command: u32, project: u32, place: *mut libc::c_void) -> io::Result<()> {
    let command = (command & 0x00ff_ffff) << 8 | PRJQUOTA;
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), command, project, place) };
    check(result as libc::c_int).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!((size_of::<Attributes>(), FS_IOC_FSGETXATTR >> 16 & 0x3fff), (28, 28));
        assert!(size_of::<State>() >= 4 + 4 + 3 * 24 + 4 * 4 + 4 * 8);
        assert_eq!(libc::Q_GETQUOTA as u32, 0x80_0007);
    }

    #[test]
    fn a_file_system_without_projects_says_so() {
        let folder = std::fs::File::open("/proc").unwrap();
        assert!(handed_on_by(folder.as_fd()).is_err());
        assert!(are_enforced(folder.as_fd()).is_err());
        assert!(taken(folder.as_fd(), 7).is_err());
    }
}
