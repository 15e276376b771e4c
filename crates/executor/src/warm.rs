//! What is made before a request comes: sandboxes that stand, and interpreters that wait in them.
//!
//! A stand serves one execution and goes with it. Stocks are bounded ([`runtime::warm::Pool`]) and are filled while the
//! processors have nothing better to do. Where there is none, an execution makes its own: it is late then, but never refused.

mod filling;
pub mod sessions;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime::Language;
use runtime::warm::{Pool, Waiting};
use sandbox::Prepared;
use sandbox::policy::Limits;
use sandbox::zygote::Zygote;
use tokio::sync::mpsc;

use self::sessions::Sessions;
use crate::packages::Layer;
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
