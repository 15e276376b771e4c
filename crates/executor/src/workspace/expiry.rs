//! The sessions that there are, and how they end: because somebody says so, or because nobody has come back for long.
//!
//! A session's folder is all there is to it. When it was last used is told by the time at which its folder was last changed (ctime):
//! each use changes it, no program can set it, and it outlives the service. Removing begins with giving the folder another name, so that
//! the session is gone at once; what a killed service leaves of it is cleared away at the next start.
//!
//! Only what is ours is ever removed for being idle. A session's host uid tells that; where all folders are of the service's own
//! user, who may keep others beside them, each session that was made has a mark of its name in a folder of ours.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::artifact::changed_at;
use super::sessions::{Closing, Stay};
use super::usage::Meter;
use super::{Workspaces, beneath, random, remove};
use crate::admission::request::is_id;
use crate::pipeline::Executor;
use crate::timestamp;

/// How long the end of a session waits for what goes on in it, after it was told to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer waits for the files to be gone. The session is gone before.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked for sessions that nobody has come back to: a part of the time they are kept for, within these.
const LOOKS: u32 = 10;
const OFTEN: Duration = Duration::from_millis(500);
const SELDOM: Duration = Duration::from_secs(60);

/// A session, as it is listed.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Session {
    pub session_id: String,
    /// Bytes on the disk, and how many files and folders.
    pub size: u64,
    pub file_count: u64,
    /// None where the file system does not know.
    pub created_at: Option<String>,
    pub last_used_at: String,
    /// Executions.
    pub running: usize,
}

/// What came of ending a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It is gone.
    Gone,
    /// There was none.
    None,
    /// What goes on in it does not end.
    Busy,
}

/// Opens or makes the folder that sessions are marked in.
///
/// # Errors
/// As the system said; `PermissionDenied` where somebody else's is in its place.
pub fn open_marks(root: &OwnedFd) -> io::Result<OwnedFd> {
    const NAME: &str = ".sessions";
    match rustix::fs::mkdirat(root, NAME, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let marks = beneath::open(root, NAME.as_bytes(), beneath::FOLDER)?;
    if rustix::fs::fstat(&marks)?.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    rustix::fs::fchmod(&marks, Mode::RWXU)?;
    Ok(marks)
}

impl Workspaces {
    /// The ids of all sessions behind this one, in order.
    ///
    /// # Errors
    /// As the system said.
    pub fn session_ids(&self, behind: &str) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in Dir::read_from(&self.root)? {
            let name = entry?.file_name().to_bytes().to_vec();
            ids.extend(String::from_utf8(name).ok().filter(|id| is_id(id) && id.as_str() > behind));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// A session, as it is listed; `None` where there is none, or what is there is none of ours.
    pub fn describe(&self, session_id: &str) -> Option<Session> {
        let folder = Arc::new(self.open_folder(session_id).ok()?);
        let state = rustix::fs::fstat(&folder).ok()?;
        if !self.is_ours(state.st_uid) {
            return None;
        }
        let running = self.sessions.running(session_id);
        let known = self.sessions.exact_usage(session_id).filter(|_| running == 0);
        let meter = Meter { project: self.project_of(&folder, state.st_uid), folder };
        let usage = known.filter(|_| !meter.is_kept()).unwrap_or_else(|| meter.read(None));
        let folder = meter.folder;
        Some(Session {
            session_id: session_id.to_owned(),
            size: usage.bytes,
            file_count: usage.files,
            created_at: created_at(&folder),
            last_used_at: timestamp::microseconds(timestamp::of_file(changed_at(&state))),
            running,
        })
    }

    fn is_ours(&self, owner: u32) -> bool {
        match &self.uids {
            Some(uids) => uids.is_for_sessions(owner),
            None => owner == rustix::process::geteuid().as_raw(),
        }
    }

    /// Marks a session as made by us.
    pub(super) fn mark(&self, session_id: &str) -> io::Result<()> {
        let Some(marks) = &self.marks else { return Ok(()) };
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(marks, session_id, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(())
    }

    fn is_marked(&self, session_id: &str) -> bool {
        self.marks.as_ref().is_none_or(|marks| beneath::look(marks, session_id.as_bytes()).is_ok())
    }

    /// How long ago a session of ours was last used.
    fn idle_for(&self, session_id: &str) -> Option<Duration> {
        if !self.is_marked(session_id) {
            return None;
        }
        let folder = self.open_folder(session_id).ok()?;
        let state = rustix::fs::fstat(&folder).ok().filter(|state| self.is_ours(state.st_uid))?;
        let (seconds, nanoseconds) = changed_at(&state);
        let used = SystemTime::UNIX_EPOCH
            + Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).unwrap_or_default());
        Some(SystemTime::now().duration_since(used).unwrap_or_default())
    }

    /// Takes the name from a session's folder; what is to be removed then, and the uid that is free afterwards.
    fn unname(&self, session_id: &str) -> io::Result<Option<(String, u32)>> {
        let folder = match self.open_folder(session_id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Its program took our rights to it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                remove::make_ours(&self.root, &std::ffi::CString::new(session_id)?)?;
                self.open_folder(session_id)?
            }
            opened => opened?,
        };
        let owner = rustix::fs::fstat(&folder)?.st_uid;
        if !self.is_ours(owner) {
            return Ok(None);
        }
        let name = format!("{}gone-{:016x}", self.private_prefix(), random());
        rustix::fs::renameat_with(&self.root, session_id, &self.root, &name, RenameFlags::NOREPLACE)?;
        if let Some(marks) = &self.marks {
            rustix::fs::unlinkat(marks, session_id, AtFlags::empty()).ok();
        }
        Ok(Some((name, owner)))
    }

    /// Removes what was a session's folder, and gives its uid back.
    fn clear(&self, name: &str, owner: u32) {
        let path = self.path.join(OsString::from_vec(name.as_bytes().to_vec()));
        if let Err(error) = remove::tree(&path) {
            tracing::warn!("Workspace could not be removed: {} ({error})", path.display());
        } else if let Some(uids) = &self.uids {
            // Not before nothing of it is left.
            self.end_project(owner);
            uids.free(owner);
        }
    }
}

impl Executor {
    /// Ends a session: what goes on in it is cancelled, then its workspace goes, whatever it holds.
    ///
    /// # Errors
    /// As the system said.
    pub async fn end_session(&self, session_id: &str) -> io::Result<Ended> {
        if matches!(self.workspaces.open_folder(session_id), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(Ended::None);
        }
        let Some(closing) = self.workspaces.sessions.close(session_id, PATIENCE).await else { return Ok(Ended::Busy) };
        self.remove_session(session_id, closing).await
    }

    /// Removes the workspace of a session that nobody is in.
    async fn remove_session(&self, session_id: &str, closing: Closing) -> io::Result<Ended> {
        let Some(clearing) = self.forget_session(session_id, closing)? else { return Ok(Ended::None) };
        tokio::time::timeout(REMOVED_WITHIN, clearing).await.ok();
        Ok(Ended::Gone)
    }

    /// Afterwards there is no session of this name; what it held is being removed.
    fn forget_session(&self, session_id: &str, closing: Closing) -> io::Result<Option<JoinHandle<()>>> {
        // What stands ready for it holds its folder.
        self.warm.sessions.forget(session_id);
        let Some((name, owner)) = self.workspaces.unname(session_id)? else { return Ok(None) };
        self.packages.forget(session_id);
        drop(closing);
        let workspaces = Arc::clone(&self.workspaces);
        Ok(Some(tokio::task::spawn_blocking(move || workspaces.clear(&name, owner))))
    }

    /// Ends the session that this stay made and that nobody else has been in, if it is one.
    pub fn end_unused_session(&self, stay: &Stay) {
        let Some(closing) = self.workspaces.sessions.close_unused(stay) else { return };
        if let Err(error) = self.forget_session(stay.session_id(), closing) {
            tracing::warn!("A session that nothing came of could not be removed: {} ({error})", stay.session_id());
        }
    }

    /// Ends sessions that nobody has come back to for so long, for as long as the service runs. Zero keeps them.
    pub async fn expire_sessions(self: Arc<Self>, time_to_live: Duration) {
        if time_to_live.is_zero() {
            return;
        }
        let pause = (time_to_live / LOOKS).clamp(OFTEN, SELDOM);
        let look = async {
            loop {
                tokio::time::sleep(pause).await;
                let workspaces = Arc::clone(&self.workspaces);
                let ids = tokio::task::spawn_blocking(move || workspaces.session_ids("").unwrap_or_default()).await;
                for id in ids.unwrap_or_default() {
                    self.expire(&id, time_to_live).await;
                }
            }
        };
        tokio::select! {
            () = look => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn expire(&self, session_id: &str, time_to_live: Duration) {
        let is_due = || self.workspaces.idle_for(session_id).is_some_and(|idle| idle >= time_to_live);
        if !is_due() {
            return;
        }
        // Once more when nobody can enter: somebody may just have been there.
        let Some(closing) = self.workspaces.sessions.close_idle(session_id).filter(|_| is_due()) else { return };
        match self.remove_session(session_id, closing).await {
            Ok(_) => tracing::info!(session_id, "Session removed: {session_id} (idle for {}s)", time_to_live.as_secs()),
            Err(error) => tracing::warn!(session_id, "Session could not be removed: {session_id} ({error})"),
        }
    }
}

/// When a folder was made, where its file system keeps that.
fn created_at(folder: &OwnedFd) -> Option<String> {
    let created = std::fs::File::from(folder.try_clone().ok()?).metadata().ok()?.created().ok()?;
    let since = created.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let since = (i64::try_from(since.as_secs()).ok()?, since.subsec_nanos().into());
    Some(timestamp::microseconds(timestamp::of_file(since)))
}
