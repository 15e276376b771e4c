//! `ISOLATION=none`: the program runs as the service's own user among the host's files, under the same supervision and
//! limits but behind no wall. Only ever by explicit choice.

use crate::error::{SandboxError, Stage};
use crate::init::{EXECUTABLE_FD, INIT_ARGUMENT};
use crate::launcher::Body;
use crate::policy::Policy;
use crate::prepare::{self, Construction, Ground};
use crate::running::{Layout, Prepared};

/// No isolation at all.
#[derive(Debug, Clone, Copy)]
pub struct Unisolated;

impl Unisolated {
    /// Starts an init on the host itself.
    ///
    /// # Errors
    /// As of [`SandboxError`].
    pub async fn prepare(&self, ground: &Ground, policy: &Policy) -> Result<Prepared, SandboxError> {
        let folders = tempfile::Builder::new()
            .prefix("sandbox-executor-")
            .tempdir()
            .map_err(|error| SandboxError::io(Stage::Launch, "a temporary folder", error))?;
        let layout = Layout {
            workspace: prepare::path_of(&policy.workspace)?,
            files: folders.path().to_string_lossy().into_owned(),
            temp: "/tmp".into(),
            packages: policy.packages.as_deref().map(prepare::path_of).transpose()?,
        };
        let argv = vec![format!("/proc/self/fd/{EXECUTABLE_FD}"), INIT_ARGUMENT.into()];
        let construction = Construction {
            body: Body::Program { argv, bind: Vec::new() },
            data: Vec::new(),
            etc: None,
            layout,
            plan: None,
            folders: Some(folders),
        };
        prepare::prepare(ground, &Policy { identity: None, ..policy.clone() }, construction).await
    }
}
