//! Writing into a workspace. A file is written beside all workspaces, where no program sees it, given to the session's user, and
//! appears under its name at once and whole. Owners are given to what has no name yet in anybody's reach, never afterwards.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use sandbox::policy::Identity;

use super::beneath;
use super::path::RelativePath;
use super::projects::Projects;
use super::usage::Usage;
use super::{Workspaces, random};

/// Modes of what callers bring in: nobody but the session's user gets to the workspace.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP).union(Mode::ROTH);
const FOLDER_MODE: Mode = FILE_MODE.union(Mode::XUSR).union(Mode::XGRP).union(Mode::XOTH);

/// A file that has no place yet. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    /// To write to.
    pub file: File,
    stage: Stage,
    name: Option<CString>,
}

/// Where and for whom things are made before they have their place.
#[derive(Debug, Clone)]
struct Stage {
    root: Arc<OwnedFd>,
    prefix: String,
    placing: Arc<Mutex<()>>,
    owner: Option<Identity>,
    projects: Option<Arc<Projects>>,
}

/// What has to be true of what is in a file's place.
#[derive(Debug, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// Nothing is there.
    Absent,
    /// A file is there of which this holds.
    Present(fn(&Stat, &str) -> bool, String),
    /// No file is there of which this holds.
    Not(fn(&Stat, &str) -> bool, String),
}

/// What came of placing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Nothing was there; otherwise it took the place of a file.
    pub is_new: bool,
    /// It, and folders that were made on the way.
    pub added: Usage,
}

/// Why a file could not be placed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Unplaced {
    /// What is there is a link or a special file, or one is on the way.
    #[error("a link or a special file is in the way")]
    InTheWay,
    /// What is there is a folder, or a file is on the way.
    #[error("{0}")]
    Conflict(&'static str),
    /// The condition does not hold.
    #[error("what is there is not what it should be")]
    Condition,
    /// The system's own reason.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Condition {
    /// Whether it is true of what is there.
    pub fn holds(&self, there: Option<&Stat>) -> bool {
        match (self, there) {
            (Self::None, _) | (Self::Absent | Self::Not(..), None) => true,
            (Self::Present(is, tag), Some(state)) => is(state, tag),
            (Self::Not(is, tag), Some(state)) => !is(state, tag),
            (Self::Absent, Some(_)) | (Self::Present(..), None) => false,
        }
    }
}

impl From<Errno> for Unplaced {
    fn from(error: Errno) -> Self {
        match error {
            Errno::LOOP => Self::InTheWay,
            Errno::NOTDIR => Self::Conflict("a part of the path is a file, not a folder"),
            Errno::ISDIR => Self::Conflict("a folder has this path"),
            Errno::ACCESS | Errno::PERM => {
                Self::Conflict("a folder on the way can't be written to: its owner took the right")
            }
            error => Self::System(error.into()),
        }
    }
}

impl Workspaces {
    /// A file to be placed in a workspace of this user's.
    ///
    /// # Errors
    /// As the system said.
    pub fn stage(&self, owner: Option<Identity>) -> io::Result<Staged> {
        let stage = Stage {
            root: Arc::clone(&self.root),
            prefix: self.private_prefix(),
            placing: Arc::clone(&self.placing),
            owner,
            projects: self.projects.clone(),
        };
        let name = stage.name()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&stage.root, &name, flags, Mode::RUSR | Mode::WUSR)?;
        let staged = Staged { file: file.into(), stage, name: Some(name) };
        rustix::fs::fchmod(&staged.file, FILE_MODE)?;
        staged.stage.give(&staged.file)?;
        Ok(staged)
    }
}

impl Staged {
    /// Gives it its place; folders on the way are made.
    ///
    /// # Errors
    /// What is in the way, or the system's own. Nothing is changed then but for folders that were made.
    pub fn place(
        mut self,
        workspace: &OwnedFd,
        path: &RelativePath,
        condition: &Condition,
    ) -> Result<Placed, Unplaced> {
        let (folder, name) = path.split();
        let (folder, mut added) = self.stage.folder(workspace, folder)?;
        let placing = Arc::clone(&self.stage.placing);
        // Of two who ask for the same condition one is first.
        let _placing = placing.lock().unwrap_or_else(PoisonError::into_inner);
        let there = match beneath::look(&folder, name) {
            Err(Errno::NOENT) => None,
            looked => Some(looked?),
        };
        match there.as_ref().map(|state| FileType::from_raw_mode(state.st_mode)) {
            None | Some(FileType::RegularFile) => {}
            Some(FileType::Directory) => return Err(Errno::ISDIR.into()),
            Some(_) => return Err(Unplaced::InTheWay),
        }
        if !condition.holds(there.as_ref()) {
            return Err(Unplaced::Condition);
        }
        let flags = if matches!(condition, Condition::Absent) { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        let Some(staged) = &self.name else { return Err(Unplaced::Condition) };
        self.stage.adopt(&self.file, &folder, false)?;
        added.add(&rustix::fs::fstat(&self.file)?);
        match rustix::fs::renameat_with(&self.stage.root, staged, &folder, name, flags) {
            Err(Errno::EXIST) => return Err(Unplaced::Condition),
            moved => moved?,
        }
        self.name = None;
        Ok(Placed { is_new: there.is_none(), added })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            rustix::fs::unlinkat(&self.stage.root, &name, AtFlags::empty()).ok();
        }
    }
}

impl Stage {
    fn name(&self) -> io::Result<CString> {
        Ok(CString::new(format!("{}put-{:016x}", self.prefix, random()))?)
    }

    fn give(&self, made: impl std::os::fd::AsFd) -> io::Result<()> {
        if let Some(Identity { uid, gid }) = self.owner {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(made, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Takes what was made into the project of the folder that it is to be in: the kernel lets nothing else into that.
    fn adopt(&self, made: impl std::os::fd::AsFd, parent: &OwnedFd, is_folder: bool) -> io::Result<()> {
        match (&self.projects, self.owner) {
            (Some(projects), Some(owner)) if projects.has(parent, owner.uid) => {
                projects.adopt(made, owner.uid, is_folder)
            }
            _ => Ok(()),
        }
    }

    /// The folder at this path, opened; made where it is not there, and what those that were made take.
    fn folder(&self, workspace: &OwnedFd, path: &[u8]) -> Result<(OwnedFd, Usage), Unplaced> {
        match beneath::open(workspace, path, beneath::FOLDER) {
            Err(Errno::NOENT) => {}
            opened => return Ok((opened?, Usage::default())),
        }
        let mut made = Usage::default();
        let mut here = beneath::open(workspace, b"", beneath::FOLDER)?;
        for part in path.split(|byte| *byte == b'/') {
            let mut opened = beneath::open(&here, part, beneath::FOLDER);
            let is_new = matches!(opened, Err(Errno::NOENT));
            if is_new {
                self.make(&here, part)?;
                opened = beneath::open(&here, part, beneath::FOLDER);
            }
            here = opened?;
            if is_new {
                made.add(&rustix::fs::fstat(&here)?);
            }
        }
        Ok((here, made))
    }

    /// Makes a folder, which gets its name when it has its owner. That somebody else was first is well.
    fn make(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), Unplaced> {
        let unnamed = self.name()?;
        rustix::fs::mkdirat(&self.root, &unnamed, Mode::RWXU)?;
        let made = (|| {
            let folder = rustix::fs::openat(&self.root, &unnamed, beneath::FOLDER, Mode::empty())?;
            rustix::fs::fchmod(&folder, FOLDER_MODE)?;
            self.give(&folder)?;
            self.adopt(&folder, parent, true)?;
            rustix::fs::renameat_with(&self.root, &unnamed, parent, name, RenameFlags::NOREPLACE)?;
            Ok::<(), io::Error>(())
        })();
        made.or_else(|error| {
            rustix::fs::unlinkat(&self.root, &unnamed, AtFlags::REMOVEDIR).ok();
            if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error.into()) }
        })
    }
}

/// Removes a file of which this holds.
///
/// # Errors
/// It is no regular file, or the system's own.
pub fn remove_file(
    workspace: &OwnedFd,
    path: &RelativePath,
    holds: impl FnOnce(&Stat) -> bool,
) -> Result<(), Unplaced> {
    let (folder, name) = path.split();
    let folder = beneath::open(workspace, folder, beneath::FOLDER).map_err(beneath::absent)?;
    let state = beneath::look(&folder, name).map_err(beneath::absent)?;
    match FileType::from_raw_mode(state.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Unplaced::Conflict("a folder has this path; remove the files in it")),
        _ => return Err(Unplaced::InTheWay),
    }
    if !holds(&state) {
        return Err(Unplaced::Condition);
    }
    // What took its place meanwhile is removed itself, never what it leads to.
    Ok(rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(beneath::absent)?)
}
