//! The adapter of our own: namespaces by clone3(2) from the launcher, mounts by system calls, the init without a helper
//! program in between.
//!
//! As root the new namespaces belong to the service's own user namespace, and the program to one that owns nothing; as an
//! ordinary user one more user namespace owns them. [`child`] says in which order rights are used and given up.

pub mod child;
pub mod mounts;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::error::SandboxError;
use crate::etc::Etc;
use crate::launcher::Body;
use crate::plan::{self, HostFiles, Mount, SandboxPlan};
use crate::policy::{Network, Policy};
use crate::prepare::{self, Construction, Ground};
use crate::running::Prepared;

/// What all sandboxes of this kind share.
#[derive(Debug, Clone)]
pub struct Native {
    host: HostFiles,
    etc: Etc,
}

impl Native {
    /// Lays what all sandboxes share into a new folder in `place` whose name begins with `prefix`. That it works here is for
    /// a probe to show.
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: no place for what it needs.
    pub fn new(place: &Path, prefix: &str) -> Result<Self, SandboxError> {
        Ok(Self { host: HostFiles::look(), etc: Etc::new(place, prefix)? })
    }

    pub(crate) fn etc(&self) -> Result<OwnedFd, SandboxError> {
        Ok(self.etc.open(Network::None)?.0)
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
        let (etc, folders) = self.etc.open(policy.network)?;
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
            layout: plan::layout(policy),
            plan: Some(plan),
            folders,
        };
        prepare::prepare(ground, policy, construction).await
    }
}
