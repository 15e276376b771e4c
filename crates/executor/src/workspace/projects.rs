//! Each workspace as a project of its file system, where that has quotas for projects: then the kernel counts, and refuses what is
//! more than the workspace may hold. Elsewhere [`super::quota`] counts and stops who writes.
//!
//! A workspace's project has the number of its host uid: [`super::uids`] keeps those apart between services, and gives none back
//! before nothing of it is left. So only a service that is root of the host has projects. No program gets out of its own: in a user
//! namespace nobody changes a file's project.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Stat;
use sandbox::project::{self, Amount};

use super::quota;
use super::usage::{Usage, bytes_on_disk};

/// Why there are none where the service can't set limits.
pub const NOT_ROOT: &str = "only root of the host itself may set quotas (CAP_SYS_ADMIN)";

/// The projects of the file system that the workspaces are in.
#[derive(Debug)]
pub struct Projects {
    root: Arc<OwnedFd>,
    /// What any workspace may hold.
    pub line: Usage,
}

impl Projects {
    /// Those of this folder, for workspaces that may hold so many MiB.
    ///
    /// # Errors
    /// There are none to be had here, and why.
    pub fn find(root: &Arc<OwnedFd>, disk_mb: u64) -> Result<Self, String> {
        match project::handed_on_by(root.as_fd()) {
            Ok(None) => {}
            Ok(Some(number)) => return Err(format!("the folder is itself in a project, {number}, of somebody else's")),
            Err(_) => return Err("its file system has no projects (ext4 and XFS have)".into()),
        }
        match project::are_enforced(root.as_fd()) {
            Ok(true) => Ok(Self { root: Arc::clone(root), line: quota::line(disk_mb) }),
            Ok(false) => Err("its file system is mounted without quotas of projects (prjquota)".into()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(NOT_ROOT.into()),
            Err(_) => {
                Err("its file system is mounted without quotas of projects (prjquota), or Linux is older than 5.14"
                    .into())
            }
        }
    }

    /// Whether nothing is in this user's project yet.
    ///
    /// # Errors
    /// As the system said.
    pub fn is_free(&self, owner: u32) -> io::Result<bool> {
        Ok(project::taken(self.root.as_fd(), owner)?.files == 0)
    }

    /// Makes a new folder of this user's a project of its own.
    ///
    /// # Errors
    /// As the system said.
    pub fn begin(&self, folder: &OwnedFd, owner: u32) -> io::Result<()> {
        self.limit(folder, owner, self.line)?;
        project::assign(folder.as_fd(), owner, true)
    }

    /// Whether this folder is a project of its user's: those are not that were made when there were no quotas.
    pub fn has(&self, folder: &OwnedFd, owner: u32) -> bool {
        matches!(project::handed_on_by(folder.as_fd()), Ok(Some(number)) if number == owner)
    }

    /// Holds this folder to what any may hold, if it is a project of its user's.
    ///
    /// # Errors
    /// As the system said.
    pub fn resume(&self, folder: &OwnedFd, owner: u32) -> io::Result<()> {
        if self.has(folder, owner) { self.limit(folder, owner, self.line) } else { Ok(()) }
    }

    /// What a workspace may hold, the folder itself aside.
    ///
    /// # Errors
    /// As the system said.
    pub fn limit(&self, folder: &OwnedFd, owner: u32, line: Usage) -> io::Result<()> {
        let own = own(&rustix::fs::fstat(folder)?);
        let (bytes, files) = (line.bytes.saturating_add(own.bytes), line.files.saturating_add(own.files));
        project::limit(self.root.as_fd(), owner, Some(Amount { bytes, files }))
    }

    /// Takes what is on its way into a workspace into its project.
    ///
    /// # Errors
    /// As the system said.
    pub fn adopt(&self, made: impl AsFd, owner: u32, is_folder: bool) -> io::Result<()> {
        project::assign(made.as_fd(), owner, is_folder)
    }

    /// Nothing of this project is left.
    pub fn end(&self, owner: u32) {
        if let Err(error) = project::limit(self.root.as_fd(), owner, None) {
            tracing::warn!("The quota of a workspace that is gone could not be removed: project {owner} ({error})");
        }
    }
}

/// What is in a workspace that is a project, by the kernel's count.
///
/// # Errors
/// As the system said.
pub fn held(folder: &OwnedFd, owner: u32) -> io::Result<Usage> {
    let Amount { bytes, files } = project::taken(folder.as_fd(), owner)?;
    Ok(Usage { bytes, files }.less(own(&rustix::fs::fstat(folder)?)))
}

/// What the folder itself takes.
fn own(folder: &Stat) -> Usage {
    Usage { bytes: bytes_on_disk(folder), files: 1 }
}
