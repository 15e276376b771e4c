//! Where the service keeps its things when nobody said so. What has to be known about the machine comes in as values.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;

const SYSTEM_STATE: &str = "/var/lib/sandbox-executor";
const SYSTEM_WORKSPACE: &str = "/workspace";

/// What a path is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// A folder that we may create files in.
    Writable,
    /// Something is there that we can't use.
    Unusable,
    /// Nothing is there.
    Absent,
}

/// What the choice of a default path depends on.
pub struct Surroundings<'a> {
    /// What is at a path.
    pub folder: &'a dyn Fn(&Path) -> Folder,
    /// `XDG_STATE_HOME`: the base folder of per-user state (XDG Base Directory Specification).
    pub xdg_state_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

impl Surroundings<'_> {
    /// This machine, with the two variables of the given environment.
    pub(super) fn of_host(environment: &dyn Fn(&str) -> Option<OsString>) -> Self {
        // The specification has relative paths ignored.
        let base = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self { folder: &look, xdg_state_home: base("XDG_STATE_HOME"), home: base("HOME") }
    }
}

/// The workspace root and the state folder: what was set (not empty), else the first default that can be used here.
///
/// # Errors
/// There is no place for the state: not the system's, and no home folder.
pub fn resolve_paths(
    workspace: PathBuf,
    state: PathBuf,
    surroundings: &Surroundings<'_>,
) -> Result<(PathBuf, PathBuf), ConfigError> {
    let state = if state.as_os_str().is_empty() { default_state(surroundings)? } else { state };
    let system = Path::new(SYSTEM_WORKSPACE);
    let workspace = if !workspace.as_os_str().is_empty() {
        workspace
    } else if (surroundings.folder)(system) == Folder::Writable {
        system.to_owned()
    } else {
        state.join("workspaces")
    };
    Ok((workspace, state))
}

fn default_state(surroundings: &Surroundings<'_>) -> Result<PathBuf, ConfigError> {
    let system = Path::new(SYSTEM_STATE);
    let parent = system.parent().unwrap_or(system);
    let usable = match (surroundings.folder)(system) {
        Folder::Writable => true,
        Folder::Unusable => false,
        Folder::Absent => (surroundings.folder)(parent) == Folder::Writable,
    };
    if usable {
        return Ok(system.to_owned());
    }
    let per_user = surroundings.xdg_state_home.clone();
    let per_user = per_user.or_else(|| Some(surroundings.home.as_ref()?.join(".local/state")));
    per_user.map(|base| base.join("sandbox-executor")).ok_or(ConfigError::NoStatePath)
}

fn look(path: &Path) -> Folder {
    use rustix::fs::{Access, access};
    match path.metadata() {
        Ok(there) if there.is_dir() && access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok() => Folder::Writable,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            Folder::Absent
        }
        _ => Folder::Unusable,
    }
}
