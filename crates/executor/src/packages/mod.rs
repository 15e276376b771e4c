//! Packages that are installed for sessions: asked for → installed in a sandbox of its own → taken over → shown to every session that
//! asks for the same.
//!
//! `request` and `specifier` are what a caller may ask for. `build` has pip install it where there is a network and nothing of any
//! session, `takeover` copies what came of it, and `layer` is that from then on: read-only, the service's own, never made twice.
//! `shelf` holds the layers, `holdings` knows which session has which. Executions get theirs bound at a fixed path.

mod build;
mod holdings;
mod layer;
pub mod request;
mod shelf;
mod specifier;
mod takeover;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use runtime::{Interpreter, Language};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

pub use layer::{Installed, Layer};

use crate::config::pip::Pip;
use crate::config::{Config, IndexUrl};
use crate::pipeline::Executor;
use crate::workspace::sessions::{Doing, Stay};
use build::Made;
use holdings::{Holding, Holdings};
use layer::Order;
use request::{Mode, Sync};
use shelf::Shelf;

/// Installations that run at once: each may take a gigabyte of memory.
const BUILDS: usize = 2;
/// Callers that wait for one, at most.
const MOST_WAITING: usize = 256;

/// The packages of a service's sessions; of a program without sessions, none.
pub struct Packages(Option<Kept>);

struct Kept {
    settings: Settings,
    shelf: Arc<Shelf>,
    holdings: Holdings,
    builds: Semaphore,
    waiting: Semaphore,
    /// Whose turn it is in a session.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// What is being made, by the layer's name.
    making: Mutex<HashMap<String, watch::Receiver<Option<Made>>>>,
}

struct Settings {
    indexes: Vec<IndexUrl>,
    source_builds: bool,
    install_time: Duration,
    packages_mb: u64,
    jobs: usize,
    pip: Pip,
    /// Modules that come with Python.
    standard: BTreeSet<String>,
    /// Whether nothing else is imported ahead of executions.
    standard_ahead: bool,
}

/// Why a session did not get what was asked for. It has what it had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// They can't be installed; pip's own last lines.
    #[error("{0}")]
    Install(String),
    /// There is no Python here, and why.
    #[error("{0}")]
    NoPython(String),
    /// There is no room for them.
    #[error("there is no room left for packages")]
    NoRoom,
    /// Too many wait already.
    #[error("too many callers wait for packages")]
    Busy,
    /// The session was removed meanwhile.
    #[error("the session was removed")]
    Removed,
    /// The service goes down.
    #[error("the service goes down")]
    Stopping,
    /// Nothing can be isolated.
    #[error("the sandbox could not be set up: {0}")]
    Isolation(String),
    /// Ours.
    #[error("{0}")]
    Internal(String),
}

impl Packages {
    /// For what has no sessions.
    pub fn none() -> Self {
        Self(None)
    }

    /// Those in the state folder.
    ///
    /// # Errors
    /// It can't be read or written to.
    pub fn open(config: &Config, executor: &Executor) -> io::Result<Self> {
        let interpreter = executor.interpreter(Language::Python).ok();
        let identity = interpreter.as_deref().map(layer::identity);
        let standard = interpreter.as_deref().map(Interpreter::standard_modules).transpose()?.unwrap_or_default();
        let most_bytes = config.max_packages_mb.saturating_mul(1024 * 1024);
        let shelf = Shelf::open(&config.state_path.join("layers"), identity.as_deref(), most_bytes)?;
        let sessions: BTreeSet<String> = executor.workspaces.session_ids("")?.into_iter().collect();
        let is_there = |session_id: &str| sessions.contains(session_id);
        let holdings = Holdings::open(&config.state_path.join("session-packages"), &shelf, is_there)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let settings = Settings {
            indexes: config.indexes(),
            source_builds: config.allow_source_builds,
            install_time: config.max_install_time,
            packages_mb: config.max_packages_mb,
            jobs: processors.min(4),
            standard_ahead: config
                .warm_python_imports
                .iter()
                .all(|module| standard.contains(module.split('.').next().unwrap_or_default())),
            standard,
            pip: config.pip.clone(),
        };
        Ok(Self(Some(Kept {
            settings,
            shelf: Arc::new(shelf),
            holdings,
            builds: Semaphore::new(BUILDS),
            waiting: Semaphore::new(MOST_WAITING),
            turns: Mutex::default(),
            making: Mutex::default(),
        })))
    }

    /// What an execution of this session sees.
    pub fn layer_of(&self, session_id: &str) -> Option<Arc<Layer>> {
        self.0.as_ref()?.holdings.layer_of(session_id)
    }

    /// Whether an interpreter that started before it knew of these packages is the same as one that starts with them: they hold nothing
    /// that has been imported by then, or that this may have imported.
    pub fn can_come_later(&self, layer: &Layer) -> bool {
        let settings = self.0.as_ref().map(|kept| &kept.settings);
        settings.is_some_and(|settings| settings.standard_ahead && !layer.has_any(&settings.standard))
    }

    /// The session is gone.
    pub fn forget(&self, session_id: &str) {
        if let Some(kept) = &self.0
            && let Err(error) = kept.holdings.remove(session_id)
        {
            tracing::warn!(session_id, "What packages a session had could not be removed: {session_id} ({error})");
        }
    }

    /// The indexes that may be named, the default first.
    pub fn indexes(&self) -> &[IndexUrl] {
        self.0.as_ref().map_or(&[], |kept| &kept.settings.indexes)
    }

    /// How many layers there are, what they take of the disk, and how many sessions have one.
    pub fn count(&self) -> (usize, u64, usize) {
        let Some(kept) = &self.0 else { return (0, 0, 0) };
        let (layers, bytes) = kept.shelf.count();
        (layers, bytes, kept.holdings.count())
    }
}

impl Kept {
    fn enter(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.waiting.try_acquire().map_err(|_| Failure::Busy)
    }

    /// What has to be locked to change what a session has.
    fn turn(&self, session_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(session_id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(session_id.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl Executor {
    /// Gives a session the packages that are asked for; which are in it then. Those who ask for the same session come one after the
    /// other.
    ///
    /// # Errors
    /// As of [`Failure`]; the session has what it had.
    pub async fn sync_packages(self: &Arc<Self>, sync: Sync) -> Result<Option<Arc<Layer>>, Failure> {
        let kept = self.packages.0.as_ref().ok_or_else(|| Failure::Internal("no packages are kept here".into()))?;
        let _waiting = kept.enter()?;
        let entered = self.workspaces.enter(&sync.session_id, Doing::Transfer).await;
        let (_, stay) = entered.map_err(|error| Failure::Internal(format!("the session's workspace: {error}")))?;
        let done = tokio::select! {
            done = self.sync_in(kept, &stay, sync) => done,
            () = stay.ended() => Err(Failure::Removed),
            () = self.stop.cancelled() => Err(Failure::Stopping),
        };
        done.inspect_err(|_| self.end_unused_session(&stay))
    }

    async fn sync_in(self: &Arc<Self>, kept: &Kept, _stay: &Stay, sync: Sync) -> Result<Option<Arc<Layer>>, Failure> {
        let turn = kept.turn(&sync.session_id);
        let _turn = turn.lock().await;
        let known = kept.holdings.of(&sync.session_id);
        let specifiers = match (sync.mode, &known) {
            (Mode::Merge, Some(known)) => specifier::merge(known.specifiers.clone(), sync.specifiers),
            _ => sync.specifiers,
        };
        if specifiers.len() > request::MOST_SPECIFIERS {
            let most = request::MOST_SPECIFIERS;
            return Err(Failure::Install(format!("The session would ask for more than {most} packages")));
        }
        let unwritten = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::NoRoom,
            _ => Failure::Internal(format!("which packages a session has: {error}")),
        };
        if specifiers.is_empty() {
            kept.holdings.remove(&sync.session_id).map_err(unwritten)?;
            return Ok(None);
        }
        let source_builds = kept.settings.source_builds;
        let order = Order { specifiers: specifiers.clone(), index: sync.index, source_builds };
        let layer = self.layer(kept, order).await?;
        kept.holdings.put(&sync.session_id, Holding { specifiers, layer: Arc::clone(&layer) }).map_err(unwritten)?;
        Ok(Some(layer))
    }
}
