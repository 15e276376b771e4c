//! Fills the stocks, from the start of the service to its end, and keeps a zygote to fork from.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use runtime::warm::Waiting;
use runtime::{Interpreter, Language};
use sandbox::error::Stage;
use sandbox::policy::Identity;
use sandbox::walls::Walls;
use sandbox::{Isolation, Prepared};

use super::{Body, FILES_BYTES, Stand};
use crate::packages::Layer;
use crate::pipeline::{Executor, Failed};
use crate::workspace::Workspace;

/// How often what was kept for sessions is looked through when nothing else happens.
const SETTLE: Duration = Duration::from_secs(15);
/// After something could not be made, the first pause; each is twice the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Executor {
    /// Fills the stocks for as long as the service runs.
    pub fn keep_warm(self: &Arc<Self>) {
        if self.warm.keeps(Language::Python) && matches!(self.isolation, Isolation::Native(_)) {
            tokio::spawn(Arc::clone(self).keep_zygote());
        } else {
            self.start_filling(Language::Python);
        }
        self.start_filling(Language::Javascript);
        self.start_filling(Language::Shell);
        tokio::spawn(Arc::clone(self).keep_sessions());
    }

    /// Makes a stand for each session that goes on.
    async fn keep_sessions(self: Arc<Self>) {
        let going_on = self.warm.sessions_going_on.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut going_on) = going_on else { return };
        let keep = async {
            loop {
                let Ok(next) = tokio::time::timeout(SETTLE, going_on.recv()).await else {
                    self.warm.sessions.settle();
                    continue;
                };
                let Some((session_id, language)) = next else { return };
                self.warm.calm(self.warm.pace(language)).await;
                let packages = self.packages.layer_of(&session_id);
                if !self.suits_packages(language, packages.as_deref()) {
                    continue;
                }
                let Some(walls) = self.warm.sessions.prepare(&session_id, self.warm.is_quick(language)) else {
                    continue;
                };
                let workspace = self.workspaces.session(&session_id);
                let stand =
                    async { self.stand_in(workspace.map_err(Failed::Workspace)?, language, walls, packages).await };
                let stand = stand.await;
                if let Err(error) = &stand {
                    tracing::debug!("Nothing could be made ahead for a session: {error}");
                }
                self.warm.sessions.put(&session_id, stand.ok().map(|stand| (language, stand)));
            }
        };
        tokio::select! {
            () = keep => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn start_filling(self: &Arc<Self>, language: Language) {
        let there = matches!(self.interpreters.get(&language), Some(Ok(_)));
        if !self.warm.keeps(language) || !there {
            return;
        }
        // A fork takes so little that each processor may be at one.
        let makers = if language == Language::Python { self.warm.processors } else { 1 };
        for _ in 0..makers {
            tokio::spawn(Arc::clone(self).fill(language));
        }
    }

    async fn fill(self: Arc<Self>, language: Language) {
        let stock = self.warm.stock_of(language);
        let mut pause = FIRST_PAUSE;
        let fill = async {
            loop {
                stock.lacking().await;
                self.warm.calm(self.warm.pace(language)).await;
                let Some(making) = stock.begin() else { continue };
                match self.stand(language).await {
                    Ok(stand) => {
                        making.done(stand);
                        pause = FIRST_PAUSE;
                    }
                    Err(error) => {
                        drop(making);
                        let name = language.name();
                        tracing::warn!("Nothing could be made ahead for {name}, executions start cold: {error}");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        };
        tokio::select! {
            () = fill => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// One for an execution without a session that is not there yet.
    async fn stand(&self, language: Language) -> Result<Stand, Failed> {
        self.stand_in(self.workspaces.private().map_err(Failed::Workspace)?, language, None, None).await
    }

    async fn stand_in(
        &self,
        workspace: Workspace,
        language: Language,
        walls: Option<Arc<Walls>>,
        packages: Option<Arc<Layer>>,
    ) -> Result<Stand, Failed> {
        let Some(limits) = self.warm.limits.clone() else {
            return Err(Failed::Language("nothing is made ahead".into()));
        };
        let prepared = self.sandbox(&workspace, FILES_BYTES, limits.clone(), walls, packages.as_deref()).await?;
        if language == Language::Shell {
            return Ok(Stand { workspace, packages, body: Body::Sandbox(prepared) });
        }
        let interpreter = self.interpreter(language)?;
        let mut waiting = self.start_ahead(prepared, &interpreter, limits.memory_bytes).await?;
        if let Err(error) = waiting.arrived().await {
            // Not for what a program can bring about: one of the same session may have shut the workspace.
            if language == Language::Python && error.stage == Stage::Program {
                self.warm.zygote_failed();
            }
            return Err(error.into());
        }
        Ok(Stand { workspace, packages, body: Body::Program(waiting) })
    }

    /// Starts the interpreter in this sandbox.
    ///
    /// # Errors
    /// As of [`Waiting::start`].
    pub async fn start_ahead(
        &self,
        prepared: Prepared,
        interpreter: &Interpreter,
        memory_bytes: u64,
    ) -> Result<Waiting, Failed> {
        let zygote = if interpreter.language == Language::Python { self.warm.zygote() } else { None };
        let started = Waiting::start(prepared, interpreter, zygote.as_ref(), memory_bytes, self.warm.imports()).await;
        if let (Err(error), Some(_)) = (&started, &zygote) {
            tracing::warn!("The process that Python is forked from is gone, another is started: {error}");
            self.warm.zygote_failed();
        }
        Ok(started?)
    }

    /// Whether an execution in this language finds something made ahead, or a zygote to fork from.
    pub fn is_warm(&self, language: Language) -> bool {
        let stock = self.warm.stock_of(language);
        stock.is_kept() && (stock.idle() > 0 || (language == Language::Python && self.warm.has_zygote()))
    }

    /// Whether an interpreter can be forked into this sandbox now.
    pub fn forks(&self, language: Language, prepared: &Prepared) -> bool {
        language == Language::Python && prepared.takes_forks() && self.warm.has_zygote()
    }

    /// Whether an interpreter of this language may have started before a request that is to see these packages.
    pub fn suits_packages(&self, language: Language, packages: Option<&Layer>) -> bool {
        language != Language::Python || packages.is_none_or(|packages| self.packages.can_come_later(packages))
    }

    /// Starts a zygote, and another when it has served or is gone.
    async fn keep_zygote(self: Arc<Self>) {
        let keep = async {
            let Ok(interpreter) = self.interpreter(Language::Python) else { return };
            let identity = match self.workspaces.identity_for_ours() {
                Ok(identity) => identity,
                Err(error) => {
                    tracing::warn!("No Python is forked, each is started: {error}");
                    self.start_filling(Language::Python);
                    return;
                }
            };
            if let Err(error) = sandbox::zygote::check(&interpreter.path, identity) {
                tracing::warn!("No Python is forked, each is started: {error}");
                self.start_filling(Language::Python);
                return;
            }
            let mut pause = FIRST_PAUSE;
            let mut is_first = true;
            loop {
                let started = self.start_zygote(&interpreter, identity).await;
                // Not before: what is made now serves for a while.
                if std::mem::take(&mut is_first) {
                    self.start_filling(Language::Python);
                }
                if started {
                    pause = FIRST_PAUSE;
                    self.warm.zygote_wanted.notified().await;
                } else {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        tokio::select! {
            () = keep => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn start_zygote(&self, interpreter: &Interpreter, identity: Option<Identity>) -> bool {
        for imports in [self.warm.imports(), &[]] {
            let Some(recipe) = interpreter.zygote(imports) else { return false };
            match self.isolation.start_zygote(&self.ground, &recipe, identity).await {
                Ok((zygote, lacks)) => {
                    for sentence in lacks {
                        tracing::warn!("WARM_PYTHON_IMPORTS: {sentence}");
                    }
                    self.warm.set_zygote(Some(zygote));
                    return true;
                }
                Err(error) if imports.is_empty() => {
                    tracing::warn!("No Python is forked, each is started: {error}");
                }
                Err(error) => {
                    let imports = imports.join(",");
                    tracing::warn!(
                        "WARM_PYTHON_IMPORTS = {imports}: importing these ahead failed, so nothing is: {error}"
                    );
                }
            }
        }
        false
    }
}
