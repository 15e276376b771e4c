//! What is made before a request comes: sandboxes that stand, and interpreters that wait in them.
//!
//! A stand serves one execution and goes with it. Stocks are bounded ([`runtime::warm::Pool`]) and are filled while the
//! processors have nothing better to do. Where there is none, an execution makes its own: it is late then, but never refused.

mod sessions;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime::warm::{Pool, Waiting};
use runtime::{Interpreter, Language};
use sandbox::error::Stage;
use sandbox::policy::{Identity, Limits, Network, Policy};
use sandbox::walls::Walls;
use sandbox::zygote::Zygote;
use sandbox::{Isolation, Prepared};
use tokio::sync::mpsc;

use self::sessions::Sessions;
use crate::packages::Layer;
use crate::pipeline::{Executor, Failed};
use crate::telemetry::metrics;
use crate::workspace::Workspace;

/// Room for files of ours in a stand that was made before its request.
pub const FILES_BYTES: u64 = 8 * 1024 * 1024;
/// Forks after which a zygote is replaced: what they share (hash seed, address layout) does not stay for ever.
const ZYGOTE_FORKS: usize = 2_000;
/// How long a stock of forks waits for an idle processor before it adds one all the same, and how often it looks.
const FORK_PACE: Pace =
    Pace { patience: Duration::from_millis(100), look: Duration::from_millis(2), calm: Duration::ZERO };
/// The same for one of processes that are started, which takes as long as many executions: not before all processors have been idle
/// for a moment.
const START_PACE: Pace =
    Pace { patience: Duration::from_secs(1), look: Duration::from_millis(5), calm: Duration::from_millis(20) };

/// How much a stock leaves the processors to executions.
#[derive(Clone, Copy)]
struct Pace {
    patience: Duration,
    look: Duration,
    calm: Duration,
}
/// How often what was kept for sessions is looked through when nothing else happens.
const SETTLE: Duration = Duration::from_secs(15);
/// After something could not be made, the first pause; each is twice the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where one execution will run.
pub struct Stand {
    /// Its workspace.
    pub workspace: Workspace,
    /// The packages that it sees.
    pub packages: Option<Arc<Layer>>,
    /// Its sandbox.
    pub body: Body,
}

/// How far a stand is.
#[allow(clippy::large_enum_variant)] // Moved a few times in its life; a box would cost more.
pub enum Body {
    /// A sandbox.
    Sandbox(Prepared),
    /// With an interpreter in it that waits for its request.
    Program(Waiting),
}

impl Body {
    fn is_waiting(&self) -> bool {
        match self {
            Self::Sandbox(prepared) => prepared.is_waiting(),
            Self::Program(waiting) => waiting.is_waiting(),
        }
    }
}

/// How much is made ahead.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Idle Python interpreters.
    pub python: usize,
    /// Idle Node.js processes.
    pub node: usize,
    /// Sessions that something is kept for, at most.
    pub sessions: usize,
    /// Modules that Python imports ahead.
    pub imports: Vec<String>,
    /// What stands are made for.
    pub limits: Option<Limits>,
}

impl Settings {
    /// Stands that there are at most while nothing runs: see [`Warm::new`].
    pub fn stands(&self) -> usize {
        self.python + self.node + 2 * self.python.max(self.node)
    }

    /// Keeps no more than so many stands, in all, and so many sessions.
    pub fn fit(&mut self, stands: usize, sessions: usize) {
        // None of the four stocks is larger than the larger of these.
        let most = stands / 4;
        (self.python, self.node) = (self.python.min(most), self.node.min(most));
        self.sessions = if self.stands() == 0 { 0 } else { self.sessions.min(sessions) };
    }
}

/// All stocks.
pub struct Warm {
    settings: Settings,
    limits: Option<Limits>,
    python: Pool<Stand>,
    node: Pool<Stand>,
    sandboxes: Pool<Stand>,
    zygote: Mutex<Option<Forking>>,
    zygote_wanted: tokio::sync::Notify,
    /// What is kept for sessions.
    pub sessions: Sessions,
    sessions_going_on: Mutex<Option<mpsc::Receiver<(String, Language)>>>,
    running: AtomicUsize,
    processors: usize,
}

struct Forking {
    zygote: Zygote,
    forks: usize,
}

impl Warm {
    /// Empty stocks; they fill once [`Executor::keep_warm`] runs.
    pub fn new(settings: Settings) -> Self {
        let (sessions, going_on) = Sessions::new(settings.sessions, settings.python.max(settings.node) / 2);
        Self {
            sessions,
            sessions_going_on: Mutex::new(Some(going_on)),
            python: Pool::new(settings.python),
            node: Pool::new(settings.node),
            sandboxes: Pool::new(settings.python.max(settings.node)),
            zygote: Mutex::default(),
            zygote_wanted: tokio::sync::Notify::new(),
            running: AtomicUsize::new(0),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            limits: settings.limits.clone(),
            settings,
        }
    }

    /// Whether interpreters of this language are kept ahead.
    pub fn keeps(&self, language: Language) -> bool {
        self.stock_of(language).is_kept()
    }

    fn stock_of(&self, language: Language) -> &Pool<Stand> {
        match language {
            Language::Python => &self.python,
            Language::Javascript => &self.node,
            // There is nothing to start ahead of a script but its sandbox.
            Language::Shell => &self.sandboxes,
        }
    }

    /// A stand for an execution without a session: with the language's interpreter where it can start `ahead`, otherwise without.
    pub async fn take(&self, language: Language, ahead: bool) -> Option<Stand> {
        let stock = if ahead { self.stock_of(language) } else { &self.sandboxes };
        let stand = stock.take(|stand| stand.body.is_waiting(), !ahead || self.is_quick(language)).await;
        metrics::warm(language, stand.is_some());
        stand
    }

    /// How many wait for an execution in this language.
    pub fn idle(&self, language: Language) -> usize {
        self.stock_of(language).idle()
    }

    /// Whether a stand for this language takes less time than a run without one. To start a process ahead takes more.
    fn is_quick(&self, language: Language) -> bool {
        match language {
            Language::Python => self.has_zygote(),
            Language::Javascript => false,
            Language::Shell => true,
        }
    }

    fn pace(&self, language: Language) -> Pace {
        if self.is_quick(language) { FORK_PACE } else { START_PACE }
    }

    /// Whether a stand made ahead can be given these limits.
    pub fn suits(&self, limits: &Limits, counts_processes: bool) -> bool {
        self.limits.as_ref().is_some_and(|made| {
            (made.memory_bytes, made.file_size_bytes) == (limits.memory_bytes, limits.file_size_bytes)
                && (counts_processes || made.processes == limits.processes)
        })
    }

    /// The zygote, for one fork.
    pub fn zygote(&self) -> Option<Zygote> {
        let mut forking = self.zygote.lock().unwrap_or_else(PoisonError::into_inner);
        let forking = forking.as_mut()?;
        forking.forks += 1;
        if forking.forks == ZYGOTE_FORKS {
            self.zygote_wanted.notify_one();
        }
        Some(forking.zygote.clone())
    }

    fn has_zygote(&self) -> bool {
        self.zygote.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A fork did not come: the zygote is replaced.
    pub fn zygote_failed(&self) {
        let failed = self.zygote.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Forking { zygote, .. }) = failed {
            let said = zygote.last_word();
            if !said.is_empty() {
                tracing::warn!("The process that Python is forked from said: {said}");
            }
            // It may hang, and would never see that it is not wanted any more.
            zygote.kill();
        }
        self.zygote_wanted.notify_one();
    }

    fn set_zygote(&self, zygote: Option<Zygote>) {
        let forking = zygote.map(|zygote| Forking { zygote, forks: 0 });
        *self.zygote.lock().unwrap_or_else(PoisonError::into_inner) = forking;
    }

    /// Modules to import where an interpreter is not forked.
    pub fn imports(&self) -> &[String] {
        &self.settings.imports
    }

    /// Counts an execution for as long as it runs.
    pub fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// Gives up all that is idle.
    pub fn close(&self) {
        for stock in [&self.python, &self.node, &self.sandboxes] {
            stock.close();
        }
        self.sessions.close();
        self.set_zygote(None);
    }

    /// Until executions leave a processor to it, or it has been waited long enough.
    async fn calm(&self, pace: Pace) {
        let came = Instant::now();
        let busy_at = if pace.calm.is_zero() { self.processors } else { 1 };
        let mut calm_since = Instant::now();
        while came.elapsed() < pace.patience {
            if self.running.load(Ordering::Relaxed) >= busy_at {
                calm_since = Instant::now();
            } else if calm_since.elapsed() >= pace.calm {
                return;
            }
            tokio::time::sleep(pace.look).await;
        }
    }
}

/// See [`Warm::running`].
pub struct Running<'a>(&'a Warm);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

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
        let policy = self.policy(&workspace, FILES_BYTES, limits.clone(), walls, packages.as_deref())?;
        let prepared = self.isolation.prepare(&self.ground, &policy).await?;
        self.lacks.get_or_init(|| prepared.lacks());
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

    /// What a sandbox with this workspace and these packages is made by.
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
            takes_forks: self.warm.python.is_kept(),
            in_session: workspace.is_a_sessions(),
            walls,
            limits,
        })
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
