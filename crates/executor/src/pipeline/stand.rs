//! Where an execution runs: on a stand that was made ahead of it, or on one of its own.

use std::sync::Arc;
use std::time::Duration;

use runtime::{Interpreter, Language};
use sandbox::Prepared;
use sandbox::policy::{Limits, Network, Policy};
use sandbox::walls::Walls;

use super::{Executor, Failed, MIB, Place, invocation};
use crate::admission::request::{ExecuteRequest, RequestedLimits};
use crate::packages::Layer;
use crate::telemetry::metrics;
use crate::warm::sessions::Visit;
use crate::warm::{self, Body, Stand};
use crate::workspace::Workspace;
use crate::workspace::sessions::{Doing, Stay};

/// Where a request is run.
pub(super) struct Site<'a> {
    /// What is kept for its session.
    pub visit: Option<Visit<'a>>,
    /// That its session is in use.
    pub stay: Option<Stay>,
    /// Whether its interpreter may start before its request is read.
    pub ahead: bool,
    /// Its workspace and its sandbox.
    pub stand: Stand,
}

impl Executor {
    /// Finds or makes one.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) async fn site(
        &self,
        place: Place,
        request: &ExecuteRequest,
        limits: &Limits,
    ) -> Result<Site<'_>, Failed> {
        let suits = self.warm.suits(limits, self.ground.cgroups.pids());
        let ahead =
            suits && self.warm.keeps(request.language) && invocation(request, limits.memory_bytes).can_start_ahead();
        let stand = match place {
            Place::Own => self.private_stand(request, limits, suits, ahead).await?,
            Place::Given(workspace) => self.new_stand(workspace, request, limits, None, None).await?,
            Place::Session => return self.session_site(request, limits, ahead).await,
        };
        Ok(Site { visit: None, stay: None, ahead, stand })
    }

    async fn session_site(
        &self,
        request: &ExecuteRequest,
        limits: &Limits,
        mut ahead: bool,
    ) -> Result<Site<'_>, Failed> {
        let session_id = request.session_id.as_deref().unwrap_or_default();
        let (workspace, stay) = self.workspaces.enter(session_id, Doing::Run).await.map_err(Failed::Workspace)?;
        let packages = self.packages.layer_of(session_id);
        ahead &= self.suits_packages(request.language, packages.as_deref());
        let mut visit = self.warm.sessions.enter(session_id);
        let fits = ahead && files_bytes(request) <= warm::FILES_BYTES;
        let kept = if fits { visit.stand(request.language, &workspace, packages.as_ref()).await } else { None };
        if fits {
            metrics::warm(request.language, kept.is_some());
        }
        let stand = match kept {
            Some(stand) => stand,
            None => self.new_stand(workspace, request, limits, visit.walls.take(), packages).await?,
        };
        Ok(Site { visit: Some(visit), stay: Some(stay), ahead, stand })
    }

    /// A stand for a request without a session.
    async fn private_stand(
        &self,
        request: &ExecuteRequest,
        limits: &Limits,
        suits: bool,
        ahead: bool,
    ) -> Result<Stand, Failed> {
        if suits
            && files_bytes(request) <= warm::FILES_BYTES
            && let Some(stand) = self.warm.take(request.language, ahead).await
        {
            return Ok(stand);
        }
        let workspace = self.workspaces.private().map_err(Failed::Workspace)?;
        self.new_stand(workspace, request, limits, None, None).await
    }

    /// One with this workspace and these packages.
    async fn new_stand(
        &self,
        workspace: Workspace,
        request: &ExecuteRequest,
        limits: &Limits,
        walls: Option<Arc<Walls>>,
        packages: Option<Arc<Layer>>,
    ) -> Result<Stand, Failed> {
        let sandbox = self.sandbox(&workspace, files_bytes(request), limits.clone(), walls, packages.as_deref());
        let prepared = sandbox.await?;
        Ok(Stand { workspace, packages, body: Body::Sandbox(prepared) })
    }

    /// A sandbox with this workspace and these packages.
    ///
    /// # Errors
    /// It can't be made.
    pub async fn sandbox(
        &self,
        workspace: &Workspace,
        files_bytes: u64,
        limits: Limits,
        walls: Option<Arc<Walls>>,
        packages: Option<&Layer>,
    ) -> Result<Prepared, Failed> {
        let policy = self.policy(workspace, files_bytes, limits, walls, packages)?;
        let prepared = self.isolation.prepare(&self.ground, &policy).await?;
        self.lacks.get_or_init(|| prepared.lacks());
        Ok(prepared)
    }

    /// What such a sandbox is made by.
    ///
    /// # Errors
    /// The packages can't be opened.
    pub fn policy(
        &self,
        workspace: &Workspace,
        files_bytes: u64,
        limits: Limits,
        walls: Option<Arc<Walls>>,
        packages: Option<&Layer>,
    ) -> Result<Policy, Failed> {
        let folders =
            |found: &Result<Arc<Interpreter>, String>| found.iter().flat_map(|found| found.folders.clone()).collect();
        let mut read_only: Vec<_> = self.interpreters.values().flat_map(|found| -> Vec<_> { folders(found) }).collect();
        read_only.sort();
        read_only.dedup();
        let packages = packages.map(|layer| layer.folder().map(Arc::new)).transpose().map_err(Failed::Packages)?;
        Ok(Policy {
            name: format!("{:016x}", crate::workspace::random()),
            identity: workspace.identity,
            workspace: Arc::clone(&workspace.folder),
            read_only,
            packages,
            network: Network::None,
            files_bytes,
            takes_forks: self.warm.keeps(Language::Python),
            in_session: workspace.is_a_sessions(),
            walls,
            limits,
        })
    }

    /// What an execution may use that asked for this.
    pub(super) fn limits(&self, asked: &RequestedLimits, timeout: Duration) -> Limits {
        Limits {
            timeout,
            memory_bytes: asked.memory_mb * MIB,
            cpu_cores: asked.cpu_cores,
            processes: asked.processes,
            file_size_bytes: self.file_size_bytes,
            output_bytes: asked.output_bytes,
        }
    }
}

/// Room for files of ours in its sandbox.
pub(super) fn files_bytes(request: &ExecuteRequest) -> u64 {
    (request.code.len() + request.event.get().len()) as u64 + MIB
}
