//! The bubblewrap adapter: namespaces and mounts by bwrap(1), the rest by our own init inside.
//!
//! As root, bubblewrap itself would be root's: it maps the inner user to its own, so the launcher becomes the execution's
//! host uid before it executes bubblewrap, after binding the workspace by descriptor to a place that this uid can reach,
//! wherever the workspace lies. Its environment is empty (`/proc/1/environ` would show it) and it is never setuid.

mod argv;

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::channel;
use crate::error::{SandboxError, Stage};
use crate::etc::Etc;
use crate::launcher::Body;
use crate::plan::{self, HostFiles, SandboxPlan};
use crate::policy::Policy;
use crate::prepare::{self, Construction, Ground};
use crate::running::Prepared;

/// Where bubblewrap is looked for.
const PLACES: &[&str] = &["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];
/// The first version with `--disable-userns`.
const OLDEST: (u32, u32, u32) = (0, 8, 0);
/// Folders of every Linux that a sandbox shows nothing of: the first three that are there are where the workspace, the
/// sandbox's `/etc` and packages are bound for bubblewrap to find (in a mount namespace of its own).
const STAGING: &[&str] = &["/mnt", "/media", "/srv", "/opt", "/var"];

/// An installed bubblewrap that is recent enough.
#[derive(Debug, Clone)]
pub struct Bubblewrap {
    path: PathBuf,
    version: String,
    host: HostFiles,
    staging: [PathBuf; 3],
    etc: Etc,
}

impl Bubblewrap {
    /// Looks whether one is installed that is recent enough: where, and which version.
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: not installed, too old, setuid.
    pub fn installed() -> Result<(PathBuf, String), SandboxError> {
        let unusable = |detail: String| SandboxError::new(Stage::Namespaces, detail);
        let path = PLACES.iter().map(Path::new).find(|path| path.is_file()).ok_or_else(|| {
            unusable("bwrap not available: Bubblewrap (bwrap) is not installed (apt-get install bubblewrap)".into())
        })?;
        let metadata = std::fs::metadata(path).map_err(|error| SandboxError::io(Stage::Namespaces, "bwrap", error))?;
        if metadata.permissions().mode() & 0o4000 != 0 {
            return Err(unusable(format!(
                "{} is setuid, which makes every bug in it one of root's: chmod u-s it",
                path.display()
            )));
        }
        // In a user namespace the host's root has no number of its own.
        let roots: &[u32] = if crate::subordinate::is_root_of_a_namespace() { &[0, 65_534] } else { &[0] };
        if !roots.contains(&metadata.uid()) && rustix::process::geteuid().is_root() {
            return Err(unusable(format!("{} does not belong to root", path.display())));
        }
        let output = Command::new(path).arg("--version").env_clear().output();
        let output = output.map_err(|error| SandboxError::io(Stage::Namespaces, "bwrap --version", error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.trim().strip_prefix("bubblewrap ").unwrap_or_default().to_owned();
        if parse_version(&version).is_none_or(|version| version < OLDEST) {
            return Err(unusable(format!(
                "bubblewrap 0.8.0 or newer is needed, {} says {:?}",
                path.display(),
                text.trim()
            )));
        }
        Ok((path.into(), version))
    }

    /// Takes the one installed and lays what all sandboxes share into a new folder in `place` whose name begins with `prefix`.
    /// That it works here is for a probe to show.
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: as of [`Self::installed`], or no place for what it needs.
    pub fn new(place: &Path, prefix: &str) -> Result<Self, SandboxError> {
        let (path, version) = Self::installed()?;
        let unusable = |detail: String| SandboxError::new(Stage::Namespaces, detail);
        let mut staging = STAGING.iter().map(PathBuf::from).filter(|folder| folder.is_dir());
        let (Some(first), Some(second), Some(third)) = (staging.next(), staging.next(), staging.next()) else {
            return Err(unusable(format!("three of the folders {} are needed, empty or not", STAGING.join(", "))));
        };
        let staging = [first, second, third];
        Ok(Self { path, version, host: HostFiles::look(), staging, etc: Etc::new(place, prefix)? })
    }

    /// For example `0.8.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Builds a sandbox.
    ///
    /// # Errors
    /// As of [`SandboxError`]; what bubblewrap said is in the detail.
    pub async fn prepare(&self, ground: &Ground, policy: &Policy) -> Result<Prepared, SandboxError> {
        let failed = |error| SandboxError::io(Stage::Launch, "arguments for bubblewrap", error);
        // As root, bubblewrap would map the program's user to root itself.
        policy.refuse_root()?;
        // Where the service has no identity to change it also has no privilege to bind, and no folder that bubblewrap could not reach.
        let staged = policy.identity.is_some();
        let (etc, folders) = self.etc.open(policy.network)?;
        let opened = [Some(&*policy.workspace), Some(&etc), policy.packages.as_deref()];
        let opened: Vec<&OwnedFd> = opened.into_iter().flatten().collect();
        let bind = if staged { self.staging[..opened.len()].to_vec() } else { Vec::new() };
        let found = if staged {
            bind.iter().map(|path| path.to_string_lossy().into_owned()).collect()
        } else {
            opened.into_iter().map(prepare::path_of).collect::<Result<Vec<_>, _>>()?
        };
        let plan = SandboxPlan::new(policy, &self.host);
        let mut arguments = Vec::new();
        for argument in argv::arguments(&plan, &found) {
            arguments.extend_from_slice(argument.as_bytes());
            arguments.push(0);
        }
        let construction = Construction {
            body: Body::Program { argv: argv::command(&self.path), bind },
            data: vec![channel::sealed("arguments", &[&arguments]).map_err(failed)?],
            etc: Some(etc),
            layout: plan::layout(policy),
            plan: Some(plan),
            folders,
        };
        prepare::prepare(ground, policy, construction).await
    }
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}
