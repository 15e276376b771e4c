//! Workspaces: the folder that a session keeps between executions, or that a session-less execution has for itself.
//!
//! `tenancy` is what an execution has to do with its workspace, `sessions` who is in which, `expiry` how they end. `beneath`, `walk` and
//! `staged` are the only ways into one: the host never trusts what is in it.
//!
//! As root every session has a host uid of its own; who owns a session's folder is the record of it. Folders are 0700,
//! opened without following links, and checked to belong to whom they should.

pub mod artifact;
pub mod beneath;
mod changes;
pub mod expiry;
pub mod inline;
pub mod listing;
pub mod path;
pub mod projects;
pub mod quota;
pub mod remove;
pub mod sessions;
pub mod staged;
pub mod tenancy;
mod uids;
pub mod usage;
pub mod walk;
mod watch;

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use sandbox::policy::Identity;

pub use uids::Uids;

use projects::Projects;
use sessions::{Doing, Sessions, Stay};
use usage::Meter;
use watch::Watcher;

use crate::disk;

/// The root of all workspaces.
#[derive(Debug)]
pub struct Workspaces {
    path: PathBuf,
    root: Arc<OwnedFd>,
    instance: String,
    uids: Option<Arc<Uids>>,
    projects: Option<Arc<Projects>>,
    /// Why there are none.
    without_projects: Option<String>,
    /// Who is in which session.
    pub sessions: Arc<Sessions>,
    watcher: Option<Arc<Watcher>>,
    /// Held while a file gets its place.
    placing: Arc<Mutex<()>>,
    /// Where sessions are marked as ours, if their folders do not tell by their owner.
    marks: Option<OwnedFd>,
}

/// One opened workspace. Dropping a private one removes it with all it holds, in the background.
#[derive(Debug)]
pub struct Workspace {
    /// The folder.
    pub folder: Arc<OwnedFd>,
    /// Whom its programs run as.
    pub identity: Option<Identity>,
    /// The project that it is, where its file system has quotas for those.
    project: Option<u32>,
    kind: Kind,
}

/// Whose it is.
#[derive(Debug)]
enum Kind {
    Session,
    /// One execution's, and removed with it.
    Private {
        _folder: Private,
    },
    /// A folder of the user's own.
    Callers,
}

#[derive(Debug)]
struct Private {
    path: PathBuf,
    uid: Option<(Arc<Uids>, u32)>,
    projects: Option<Arc<Projects>>,
}

impl Workspaces {
    /// Opens or makes the root and clears away what a killed service of the same `instance` left; any workspace may hold `disk_mb`.
    ///
    /// # Errors
    /// The root can't be made, opened or written to.
    pub fn open(path: &Path, instance: &str, uids: Option<Arc<Uids>>, disk_mb: u64) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let path = path.canonicalize()?;
        let root = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let root = Arc::new(root);
        let projects = if uids.is_some() { Projects::find(&root, disk_mb) } else { Err(projects::NOT_ROOT.into()) };
        let (projects, without_projects) = match projects {
            Ok(projects) => (Some(Arc::new(projects)), None),
            Err(why) => (None, Some(why)),
        };
        let marks = if uids.is_none() { Some(expiry::open_marks(&root)?) } else { None };
        let workspaces = Self {
            marks,
            path,
            root,
            instance: instance.into(),
            uids,
            projects,
            without_projects,
            sessions: Arc::default(),
            watcher: Watcher::new(),
            placing: Arc::default(),
        };
        workspaces.check_writable()?;
        let removed = workspaces.take_stock()?;
        if removed > 0 {
            tracing::info!("The last service left {removed} private workspaces: removed");
        }
        Ok(workspaces)
    }

    /// Removes what an ended service left, and learns whose the rest is; how many of the former there were.
    fn take_stock(&self) -> io::Result<usize> {
        let (left_over, mut removed, mut rest) = (self.private_prefix(), 0, Vec::new());
        for entry in std::fs::read_dir(&self.path)?.flatten() {
            let owner = entry.metadata().ok().map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata));
            let is_left_over = entry.file_name().to_string_lossy().starts_with(&left_over);
            if is_left_over && remove::tree(&entry.path()).is_ok() {
                removed += 1;
                owner.inspect(|owner| self.end_project(*owner));
            } else {
                rest.push((entry.file_name(), owner));
            }
        }
        // Afterwards: what was on its way into a session was its user's as well.
        for (name, owner) in rest {
            let (Some(uids), Some(owner)) = (&self.uids, owner) else { continue };
            // Also that of what can't be removed: nobody else gets the uid then.
            uids.taken(owner);
            if let (Some(projects), true) = (&self.projects, uids.is_for_sessions(owner))
                && let Ok(folder) = self.open_folder(name.as_os_str())
            {
                projects.resume(&folder, owner)?;
            }
        }
        Ok(removed)
    }

    /// Who holds workspaces to what they may hold, in words.
    pub fn who_holds(&self) -> String {
        match &self.without_projects {
            None => "the file system's, a project each".into(),
            Some(why) => format!("this service counts and stops who writes too much; {why}"),
        }
    }

    /// Whether the file system itself holds workspaces to what they may hold.
    pub fn are_projects(&self) -> bool {
        self.projects.is_some()
    }

    /// Has the file system hold one execution's own workspace to this line, where it can. That of a session is held to what any may.
    ///
    /// # Errors
    /// As the system said.
    pub fn hold_to(&self, workspace: &Workspace, line: usage::Usage) -> io::Result<()> {
        match (&self.projects, workspace.project) {
            (Some(projects), Some(owner)) if workspace.is_private() && line != projects.line => {
                projects.limit(&workspace.folder, owner, line)
            }
            _ => Ok(()),
        }
    }

    fn project_of(&self, folder: &OwnedFd, owner: u32) -> Option<u32> {
        self.projects.as_ref().filter(|projects| projects.has(folder, owner)).map(|_| owner)
    }

    fn end_project(&self, owner: u32) {
        if let (Some(projects), Some(uids)) = (&self.projects, &self.uids)
            && uids.is_ours(owner)
        {
            projects.end(owner);
        }
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
        rustix::fs::unlinkat(&self.root, &name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// As the system said.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let state = rustix::fs::fstatvfs(&self.root)?;
        Ok(disk::free_bytes(&state))
    }

    /// Enters a session: its workspace, made if it is new, and the stay in it, to be kept for as long as it is used.
    ///
    /// # Errors
    /// As the system said; `PermissionDenied` when what is there is not ours.
    pub async fn enter(&self, session_id: &str, doing: Doing) -> io::Result<(Workspace, Stay)> {
        let stay = self.sessions.enter(session_id, doing).await;
        match self.session(session_id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return Ok((opened?, stay)),
        }
        let made = self.make_session(session_id)?;
        // Nothing is in it, unless another request of the session was first.
        if made {
            stay.has_made_it();
        }
        Ok((self.session(session_id)?, stay))
    }

    /// Enters a session that there is.
    ///
    /// # Errors
    /// As [`Self::enter`]; `NotFound` where there is none.
    pub async fn visit(&self, session_id: &str) -> io::Result<(Workspace, Stay)> {
        let stay = self.sessions.enter(session_id, Doing::Transfer).await;
        Ok((self.session(session_id)?, stay))
    }

    /// The workspace of a session that there is.
    ///
    /// # Errors
    /// As the system said; `NotFound` where there is none, `PermissionDenied` when what is there is not ours.
    pub fn session(&self, session_id: &str) -> io::Result<Workspace> {
        let folder = match self.open_folder(session_id) {
            // Its program took its own rights to it away.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                remove::make_ours(&self.root, &CString::new(session_id)?)?;
                self.open_folder(session_id)?
            }
            opened => opened?,
        };
        let state = rustix::fs::fstat(&folder)?;
        let owner = state.st_uid;
        let identity = match (&self.uids, owner) {
            (None, owner) if owner == rustix::process::geteuid().as_raw() => None,
            (Some(uids), owner) if uids.is_for_sessions(owner) => Some(Identity { uid: owner, gid: owner }),
            _ => {
                let path = self.path.join(session_id);
                let message = format!(
                    "{} belongs to uid {owner}, which is none of this service's: it was made under another STATE_PATH or by \
                     another user; remove it, or give the service its STATE_PATH back",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
            }
        };
        // Its programs may have given rights to everybody on the host; a file system without modes refuses, and has nothing to keep.
        // And the time of this change is that of the last use: no program can set it back, and it survives a restart.
        rustix::fs::fchmod(&folder, Mode::RWXU).ok();
        let project = self.project_of(&folder, owner);
        Ok(Workspace { folder: Arc::new(folder), identity, project, kind: Kind::Session })
    }

    /// A workspace for one execution.
    ///
    /// # Errors
    /// As the system said.
    pub fn private(&self) -> io::Result<Workspace> {
        let name = format!("{}{:016x}", self.private_prefix(), random());
        let uid = self.new_uid(Uids::for_one_run)?;
        let (path, projects) = (self.path.join(&name), self.projects.clone());
        let private = Private { path, uid: self.uids.clone().zip(uid), projects };
        let folder = self.make_folder(&name, uid)?;
        let (identity, project) = (uid.map(|uid| Identity { uid, gid: uid }), uid.filter(|_| self.are_projects()));
        Ok(Workspace { folder: Arc::new(folder), identity, project, kind: Kind::Private { _folder: private } })
    }

    /// A host user for a process of ours that strangers' programs come from, kept for good; `None` where all are the service's own.
    ///
    /// # Errors
    /// None is left.
    pub fn identity_for_ours(&self) -> io::Result<Option<Identity>> {
        Ok(self.new_uid(Uids::for_one_run)?.map(|uid| Identity { uid, gid: uid }))
    }

    /// A host user for a new workspace, `None` where all are the service's own. One whose project holds files already is passed over
    /// for good: whoever's they are, they are not counted twice.
    fn new_uid(&self, take: impl Fn(&Uids) -> Option<u32>) -> io::Result<Option<u32>> {
        let Some(uids) = &self.uids else { return Ok(None) };
        loop {
            let uid = take(uids).ok_or_else(no_uid_left)?;
            match &self.projects {
                Some(projects) if !projects.is_free(uid)? => {}
                _ => return Ok(Some(uid)),
            }
        }
    }

    fn open_folder(&self, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.root, name, flags, Mode::empty())?)
    }

    /// Makes a folder and gives it to its owner.
    fn make_folder(&self, name: &str, owner: Option<u32>) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(&self.root, name, Mode::RWXU)?;
        let folder = self.open_folder(name)?;
        if rustix::fs::fstat(&folder)?.st_uid != rustix::process::geteuid().as_raw() {
            // Somebody who may write to the root put another one in its place.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if let Some(owner) = owner {
            let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
            rustix::fs::fchown(&folder, Some(uid), Some(gid))?;
            if let Some(projects) = &self.projects {
                projects.begin(&folder, owner)?;
            }
        }
        Ok(folder)
    }

    /// Makes a new session's folder; whether nobody else was first. It gets its name when it has its owner, so that nobody ever finds
    /// it half made.
    fn make_session(&self, session_id: &str) -> io::Result<bool> {
        let uid = self.new_uid(Uids::for_session)?;
        let unnamed = format!("{}new-{:016x}", self.private_prefix(), random());
        let made = self.make_folder(&unnamed, uid).and_then(|_| {
            self.mark(session_id)?;
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(&self.root, &unnamed, &self.root, session_id, flags)?;
            Ok(true)
        });
        made.or_else(|error| {
            rustix::fs::unlinkat(&self.root, &unnamed, AtFlags::REMOVEDIR).ok();
            if let (Some(uids), Some(uid)) = (&self.uids, uid) {
                self.end_project(uid);
                uids.free(uid);
            }
            // Another request of the session was first.
            if error.kind() == io::ErrorKind::AlreadyExists { Ok(false) } else { Err(error) }
        })
    }
}

impl Workspace {
    /// Whether it is one that later executions find as this one left it, in a session.
    pub fn is_a_sessions(&self) -> bool {
        matches!(self.kind, Kind::Session)
    }

    /// A folder of the caller's, as it is.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn of_caller(path: &Path) -> io::Result<Self> {
        let folder = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let state = rustix::fs::fstat(&folder)?;
        let identity =
            rustix::process::geteuid().is_root().then_some(Identity { uid: state.st_uid, gid: state.st_gid });
        if identity.is_some_and(|identity| identity.uid == 0 || identity.gid == 0) {
            let message = "belongs to root, and nothing in a sandbox ever runs as root: chown it to another user first";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Self { folder: Arc::new(folder), identity, project: None, kind: Kind::Callers })
    }

    /// Who is asked what it holds.
    pub fn meter(&self) -> Meter {
        Meter { folder: Arc::clone(&self.folder), project: self.project }
    }

    /// Whether it is one execution's own.
    pub fn is_private(&self) -> bool {
        matches!(self.kind, Kind::Private { .. })
    }

    /// Whether it is a folder of the user's own.
    pub fn is_callers(&self) -> bool {
        matches!(self.kind, Kind::Callers)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let (path, uid, projects) = (std::mem::take(&mut self.path), self.uid.take(), self.projects.take());
        let clear = move || {
            if let Err(error) = remove::tree(&path) {
                tracing::warn!("Workspace could not be removed: {} ({error})", path.display());
            } else if let Some((uids, uid)) = uid {
                // Not before nothing of it is left.
                projects.inspect(|projects| projects.end(uid));
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
    io::Error::other(
        "all host uids of this service are in use: remove sessions, or map more uids into its user namespace",
    )
}

/// A number nobody can guess, from the kernel.
///
/// # Panics
/// The kernel gives none, which it does not refuse (getrandom(2)).
pub fn random() -> u64 {
    getrandom::u64().expect("random bytes from the kernel")
}
