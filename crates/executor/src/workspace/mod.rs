//! Workspaces: the folder that a session keeps between executions, or that a session-less execution has for itself.
//!
//! As root every session has a host uid of its own; who owns a session's folder is the record of it. Folders are 0700,
//! opened without following links, and checked to belong to whom they should.

mod remove;
mod uids;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use sandbox::policy::Identity;

pub use uids::Uids;

/// The root of all workspaces.
#[derive(Debug)]
pub struct Workspaces {
    path: PathBuf,
    root: OwnedFd,
    instance: String,
    uids: Option<Arc<Uids>>,
}

/// One opened workspace. Dropping a private one removes it with all it holds, in the background.
#[derive(Debug)]
pub struct Workspace {
    /// The folder.
    pub folder: Arc<OwnedFd>,
    /// Whom its programs run as.
    pub identity: Option<Identity>,
    _private: Option<Private>,
}

#[derive(Debug)]
struct Private {
    path: PathBuf,
    uid: Option<(Arc<Uids>, u32)>,
}

impl Workspaces {
    /// Opens or makes the root and clears away what a killed service of the same `instance` left.
    ///
    /// # Errors
    /// The root can't be made, opened or written to.
    pub fn open(path: &Path, instance: &str, uids: Option<Arc<Uids>>) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let path = path.canonicalize()?;
        let root = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let workspaces = Self { path, root, instance: instance.into(), uids };
        workspaces.check_writable()?;
        let left_over = workspaces.private_prefix();
        for entry in std::fs::read_dir(&workspaces.path)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&left_over) {
                remove::tree(&entry.path()).ok();
            } else if let (Some(uids), Ok(metadata)) = (&workspaces.uids, entry.metadata()) {
                uids.taken(std::os::unix::fs::MetadataExt::uid(&metadata));
            }
        }
        Ok(workspaces)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the names of this service's own folders begin; what is left of them is cleared away at its next start.
    pub fn private_prefix(&self) -> String {
        format!(".run-{}-", self.instance)
    }

    /// Makes and removes a folder in it.
    ///
    /// # Errors
    /// As the system said.
    pub fn check_writable(&self) -> io::Result<()> {
        let name = format!("{}check-{:016x}", self.private_prefix(), random());
        rustix::fs::mkdirat(&self.root, &name, Mode::RWXU)?;
        rustix::fs::unlinkat(&self.root, &name, rustix::fs::AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// As the system said.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let state = rustix::fs::fstatvfs(&self.root)?;
        Ok(state.f_bavail * state.f_frsize)
    }

    /// The session's workspace, made if it is new.
    ///
    /// # Errors
    /// As the system said; `PermissionDenied` when what is there is not ours.
    pub fn session(&self, session_id: &str) -> io::Result<Workspace> {
        let (folder, owner) = self.folder(session_id, || self.uids.as_ref().map(|uids| uids.for_session()))?;
        let identity = match (&self.uids, owner) {
            (None, owner) if owner == rustix::process::geteuid().as_raw() => None,
            (Some(uids), owner) if uids.is_for_sessions(owner) => Some(Identity { uid: owner, gid: owner }),
            _ => {
                let message = format!("{} belongs to uid {owner}, not to us", self.path.join(session_id).display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
            }
        };
        Ok(Workspace { folder: Arc::new(folder), identity, _private: None })
    }

    /// A workspace for one execution.
    ///
    /// # Errors
    /// As the system said.
    pub fn private(&self) -> io::Result<Workspace> {
        let name = format!("{}{:016x}", self.private_prefix(), random());
        let uid = match &self.uids {
            Some(uids) => Some(uids.for_one_run().ok_or_else(no_uid_left)?),
            None => None,
        };
        let private = Private { path: self.path.join(&name), uid: self.uids.clone().zip(uid) };
        let (folder, _) = self.folder(&name, || uid.map(Some))?;
        let identity = uid.map(|uid| Identity { uid, gid: uid });
        Ok(Workspace { folder: Arc::new(folder), identity, _private: Some(private) })
    }

    /// The folder of this name and its owner; a new one is given to the owner that `new_owner` names.
    fn folder(&self, name: &str, new_owner: impl FnOnce() -> Option<Option<u32>>) -> io::Result<(OwnedFd, u32)> {
        let made = match rustix::fs::mkdirat(&self.root, name, Mode::RWXU) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.root, name, flags, Mode::empty())?;
        if made && let Some(owner) = new_owner() {
            let owner = owner.ok_or_else(no_uid_left)?;
            if rustix::fs::fstat(&folder)?.st_uid != rustix::process::geteuid().as_raw() {
                // Somebody who may write to the root put another one in its place.
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
            rustix::fs::fchown(&folder, Some(uid), Some(gid))?;
        }
        let owner = rustix::fs::fstat(&folder)?.st_uid;
        Ok((folder, owner))
    }
}

impl Workspace {
    /// A folder of the caller's, as it is.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn of_caller(path: &Path) -> io::Result<Self> {
        let folder = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let state = rustix::fs::fstat(&folder)?;
        let identity =
            rustix::process::geteuid().is_root().then_some(Identity { uid: state.st_uid, gid: state.st_gid });
        if identity.is_some_and(|identity| identity.uid == 0) {
            let message = "belongs to root, and nothing in a sandbox ever runs as root: chown it to another user first";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Self { folder: Arc::new(folder), identity, _private: None })
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let (path, uid) = (std::mem::take(&mut self.path), self.uid.take());
        let clear = move || {
            if let Err(error) = remove::tree(&path) {
                tracing::warn!("Workspace could not be removed: {} ({error})", path.display());
            } else if let Some((uids, uid)) = uid {
                // Not before nothing of it is left.
                uids.free(uid);
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(clear)),
            Err(_) => clear(),
        }
    }
}

fn no_uid_left() -> io::Error {
    io::Error::other("all host uids of this service are in use")
}

/// A number nobody can guess, from getrandom(2).
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert_eq!(filled, Ok(bytes.len()));
    u64::from_ne_bytes(bytes)
}
