//! The macOS adapter: Seatbelt, by way of sandbox-exec(1).
//!
//! `profile.sbpl` says what a program may do, [`argv`] how it is handed over, [`start`] becomes the program inside, and
//! [`run`] watches over it from outside with what POSIX has. There is no namespace and no cgroup on macOS, the program has
//! the user's own uid, and its network is none at all (on Linux it has a loopback of its own): for a developer's own
//! machine, not for strangers' code. Written without a Mac, see docs/adr/0003.

mod argv;
mod processes;
mod run;
mod start;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{SandboxError, Stage};
use crate::policy::{Network, Policy};
use crate::program::Layout;
use argv::{MAX_READ, Parameters, SANDBOX_EXEC};
use processes::Marks;

pub use run::{Prepared, Remains, Started};
pub use start::STARTER_ARGUMENT;

#[cfg(target_os = "macos")]
pub(crate) use processes::Process;
pub(crate) use start::main as starter;

/// What an execution under Seatbelt has to do without.
pub const LACKS: [&str; 3] = [
    "No network at all: macOS has one loopback for the whole machine, so programs do not get it",
    "Memory is measured, not bounded, and the share of CPU is not bounded: macOS has no cgroups",
    "Programs have the uid of this service: Seatbelt is for a developer's own machine, not for strangers' code",
];

/// What a macOS has that is recent enough.
#[derive(Debug, Clone)]
pub struct Seatbelt {
    version: String,
    executable: String,
    place: PathBuf,
    prefix: String,
}

impl Seatbelt {
    /// Looks whether this host has it.
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: not macOS, or sandbox-exec is not where macOS has it.
    pub fn installed() -> Result<(), SandboxError> {
        let unusable = |detail: String| SandboxError::new(Stage::Namespaces, detail);
        if !cfg!(target_os = "macos") {
            return Err(unusable(
                "Seatbelt is unavailable: not macOS; unset ISOLATION, and what is there is used".into(),
            ));
        }
        let metadata = std::fs::metadata(SANDBOX_EXEC).map_err(|error| {
            SandboxError::io(
                Stage::Namespaces,
                format_args!("Seatbelt is unavailable: `which sandbox-exec` should say {SANDBOX_EXEC}"),
                error,
            )
        })?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(unusable(format!("{SANDBOX_EXEC} is not the system's own: others than root may write to it")));
        }
        Ok(())
    }

    /// Takes it. Each execution's own folders are made in `place`, with names that begin with `prefix`.
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: as of [`Self::installed`], or the service is root.
    pub fn new(place: &Path, prefix: &str) -> Result<Self, SandboxError> {
        Self::installed()?;
        let unusable = |detail: &str| SandboxError::new(Stage::Namespaces, detail);
        if rustix::process::geteuid().is_root() {
            return Err(unusable(
                "Seatbelt does not change a program's user, and nothing runs as root: start the service \
                as an ordinary user",
            ));
        }
        let executable = executable()?;
        let version = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Self { version, executable, place: place.into(), prefix: prefix.into() })
    }

    /// The kernel's, which the sandbox is part of: for example `24.6.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Lays out an execution's folders and its profile's parameters.
    ///
    /// # Errors
    /// As of [`SandboxError`].
    pub fn prepare(&self, policy: &Policy) -> Result<Prepared, SandboxError> {
        policy.refuse_root()?;
        let folders = Folders::make(policy, tempfile::Builder::new().prefix(&self.prefix).tempdir_in(&self.place))?;
        let parameters = Parameters {
            workspace: folders.layout.workspace.clone(),
            temp: folders.layout.temp.clone(),
            files: folders.layout.files.clone(),
            executable: self.executable.clone(),
            read: readable(policy.read_only.iter().cloned().chain(folders.layout.packages.clone().map(PathBuf::from)))?,
            network: policy.network == Network::Host,
        };
        let inner = [&self.executable, STARTER_ARGUMENT].map(str::to_owned);
        Ok(folders.prepared(argv::command(&parameters, &inner), policy))
    }
}

/// `ISOLATION=none` where there is no init of ours: the same without the profile.
#[cfg(not(target_os = "linux"))]
pub(crate) fn without_profile(policy: &Policy) -> Result<Prepared, SandboxError> {
    let folders = Folders::make(policy, tempfile::Builder::new().prefix("sandbox-executor-").tempdir())?;
    let mut prepared = folders.prepared(vec![executable()?, STARTER_ARGUMENT.into()], policy);
    prepared.marks = None;
    Ok(prepared)
}

/// An execution's folders, as the program has them.
struct Folders {
    layout: Layout,
    root: TempDir,
}

impl Folders {
    fn make(policy: &Policy, root: io::Result<TempDir>) -> Result<Self, SandboxError> {
        let failed = |error| SandboxError::io(Stage::Launch, "folders for the execution", error);
        let root = root.map_err(failed)?;
        // Without links: the kernel compares what a path leads to.
        let path = root.path().canonicalize().map_err(failed)?;
        let workspace = crate::sys::path_of(&policy.workspace)
            .map_err(|error| SandboxError::io(Stage::Launch, "the workspace's path", error))?;
        let packages = policy.packages.as_deref().map(crate::sys::path_of).transpose();
        let packages = packages.map_err(|error| SandboxError::io(Stage::Launch, "the packages' path", error))?;
        let layout = Layout {
            workspace: text(workspace)?,
            files: text(path.join("files"))?,
            temp: text(path.join("tmp"))?,
            packages: packages.map(text).transpose()?,
        };
        for folder in [&layout.files, &layout.temp] {
            std::fs::create_dir(folder).map_err(failed)?;
        }
        Ok(Self { layout, root })
    }

    fn prepared(self, command: Vec<String>, policy: &Policy) -> Prepared {
        let Self { layout, root } = self;
        let marks = Marks { writable: PathBuf::from(&layout.temp), read_only: PathBuf::from(&layout.files) };
        Prepared { command, layout, limits: policy.limits.clone(), marks: Some(marks), folders: root }
    }
}

/// This program, by a path without links.
fn executable() -> Result<String, SandboxError> {
    std::env::current_exe()
        .and_then(std::fs::canonicalize)
        .map_err(|error| SandboxError::io(Stage::Launch, "the path of this program", error))
        .and_then(text)
}

/// Folders as they are named, whose parents have to be found, and as they are without links, which the kernel compares with.
fn readable(folders: impl IntoIterator<Item = PathBuf>) -> Result<Vec<String>, SandboxError> {
    let mut read = Vec::new();
    for folder in folders {
        for path in [folder.canonicalize().ok(), Some(folder)].into_iter().flatten() {
            read.push(text(path)?);
        }
    }
    read.sort();
    read.dedup();
    if read.len() > MAX_READ {
        let detail = format!("the interpreters lie in {} folders, the profile has room for {MAX_READ}", read.len());
        return Err(SandboxError::new(Stage::Launch, detail));
    }
    Ok(read)
}

fn text(path: PathBuf) -> Result<String, SandboxError> {
    let not_text = |path| SandboxError::new(Stage::Launch, format!("a path is not UTF-8: {path:?}"));
    path.into_os_string().into_string().map_err(not_text)
}

#[cfg(all(test, target_os = "macos"))]
mod macos_tests;

#[cfg(all(test, not(target_os = "macos")))]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_it_is_unavailable_and_says_so() {
        let error = Seatbelt::new(Path::new("/tmp"), "run-").expect_err("not macOS");
        assert_eq!(error.stage, Stage::Namespaces);
        assert!(error.detail.contains("unavailable: not macOS"), "{error}");
    }

    #[test]
    fn folders_are_named_as_given_and_as_they_are() {
        let home = tempfile::tempdir().expect("a folder");
        let real = home.path().canonicalize().expect("its path").join("real");
        let link = home.path().join("link");
        std::fs::create_dir(&real).expect("a folder");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        let expected = [&link, &real].map(|path| path.to_str().expect("text").to_owned());
        assert_eq!(readable([link, real]).expect("few"), expected);
        let mut many: Vec<PathBuf> = (0..=MAX_READ).map(|number| format!("/{number}").into()).collect();
        assert!(readable(many.clone()).expect_err("too many").detail.contains("32"));
        assert_eq!(readable(many.split_off(1)).expect("just enough").len(), MAX_READ);
    }
}
