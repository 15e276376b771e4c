//! The adapter of our own: namespaces by clone3(2) from the launcher, mounts by system calls, the init without a helper
//! program in between.
//!
//! As root the new namespaces belong to the service's own user namespace, and the program to one that owns nothing; as an
//! ordinary user one more user namespace owns them. [`child`] says in which order rights are used and given up.

pub mod child;
pub mod mounts;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::error::{SandboxError, Stage};
use crate::etc;
use crate::launcher::Body;
use crate::plan::{self, HostFiles, Mount, SandboxPlan};
use crate::policy::Policy;
use crate::prepare::{self, Construction, Ground};
use crate::running::Prepared;

/// What all sandboxes of this kind share.
#[derive(Debug, Clone)]
pub struct Native {
    host: HostFiles,
    etc: Arc<TempDir>,
}

impl Native {
    /// Lays what all sandboxes share into a new folder in `place` whose name begins with `prefix`. That it works here is for
    /// a probe to show.
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: no place for what it needs.
    pub fn new(place: &Path, prefix: &str) -> Result<Self, SandboxError> {
        let etc = etc::prepare(place, prefix).map_err(|error| {
            SandboxError::io(Stage::Namespaces, format_args!("files in {}", place.display()), error)
        })?;
        Ok(Self { host: HostFiles::look(), etc: Arc::new(etc) })
    }

    pub(crate) fn etc(&self) -> Result<OwnedFd, SandboxError> {
        let folder = std::fs::File::open(self.etc.path());
        Ok(folder.map_err(|error| SandboxError::io(Stage::Launch, "the folder for /etc", error))?.into())
    }

    /// What a program of ours beside the sandboxes sees that is to see no more than they show.
    pub(crate) fn system_mounts(&self, read_only: &[PathBuf]) -> Vec<Mount> {
        plan::system_alone(read_only, &self.host)
    }

    /// Builds a sandbox.
    ///
    /// # Errors
    /// As of [`SandboxError`].
    pub async fn prepare(&self, ground: &Ground, policy: &Policy) -> Result<Prepared, SandboxError> {
        policy.refuse_root()?;
        let etc = self.etc()?;
        let plan = SandboxPlan::new(policy, &self.host);
        let construction = Construction {
            body: Body::Init {
                plan: plan.clone(),
                takes_forks: policy.takes_forks,
                // The init has to see all processes where it measures their memory.
                hide_processes: ground.cgroups.memory(),
            },
            data: Vec::new(),
            etc: Some(etc),
            layout: plan::layout(),
            plan: Some(plan),
            folders: None,
        };
        prepare::prepare(ground, policy, construction).await
    }
}
