//! How a request is run: workspace → sandbox → program → verdict → answer. The first steps of it may have been gone before it came
//! ([`crate::warm`]); what comes before and after, whose id it is, that it is recorded and reported, is in [`crate::executions`].

mod log;
pub mod probe;
mod stand;

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use runtime::warm::Waiting;
use runtime::{Interpreter, Invocation, Language, Verdict};
use sandbox::capture::Chunk;
use sandbox::error::{SandboxError, Stage};
use sandbox::outcome::Outcome;
use sandbox::policy::Limits;
use sandbox::prepare::Ground;
use sandbox::{Isolation, Prepared, Remains};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::stand::{Site, files_bytes};
use crate::admission::request::ExecuteRequest;
use crate::answer::{Answer, Leftovers, Metrics};
use crate::offload::offload;
use crate::packages::Packages;
use crate::store::StoreError;
use crate::telemetry::metrics;
use crate::warm::{Body, Stand, Warm};
use crate::workspace::tenancy::{Tenancy, Unready};
use crate::workspace::{Workspace, Workspaces};

const MIB: u64 = 1024 * 1024;

/// Everything that executions are made with.
pub struct Executor {
    /// How they are kept apart.
    pub isolation: Isolation,
    /// Why in this way, and what was tried before.
    pub choice: Choice,
    /// What sandboxes are made with.
    pub ground: Ground,
    /// The interpreters of this host, or why a language has none.
    pub interpreters: HashMap<Language, Result<Arc<Interpreter>, String>>,
    /// Where they work.
    pub workspaces: Arc<Workspaces>,
    /// What is installed for their sessions.
    pub packages: Packages,
    /// What was made ahead of them.
    pub warm: Warm,
    /// Bytes in one file.
    pub file_size_bytes: u64,
    /// MiB in one workspace.
    pub disk_mb: u64,
    /// Ends whatever runs.
    pub stop: CancellationToken,
    /// When a sandbox last stood up.
    pub last_sandbox: Mutex<Option<Instant>>,
    /// What sandboxes have to do without here, as the first that stood up told.
    pub lacks: OnceLock<Vec<String>>,
    /// Held while it is being proved that sandboxes stand up.
    pub proving: tokio::sync::Mutex<()>,
}

/// Where a request is run.
pub enum Place {
    /// In a workspace of its own.
    Own,
    /// In that of its session.
    Session,
    /// In this one.
    Given(Workspace),
}

/// How the isolation was chosen.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// A sentence.
    pub reason: String,
    /// Adapters that do not work here, and why.
    pub refused: Vec<(&'static str, String)>,
}

/// Why an execution got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Its language can't be run here.
    #[error("{0}")]
    Language(String),
    /// The folder it wants to work in can't be entered.
    #[error("{0}")]
    WorkingDirectory(String),
    /// Its workspace can't be made ready for it.
    #[error("workspace: {0}")]
    Unready(#[from] Unready),
    /// Its workspace can't be used.
    #[error("workspace: {0}")]
    Workspace(#[source] io::Error),
    /// What is installed for its session can't be shown to it.
    #[error("packages: {0}")]
    Packages(#[source] io::Error),
    /// That it starts could not be recorded.
    #[error("store: {0}")]
    Record(#[from] StoreError),
    /// Its sandbox failed before the program ran.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Its sandbox failed, and the program may have run.
    #[error(transparent)]
    Midway(SandboxError),
}

/// How an execution is held while it is under way.
pub struct Reins {
    /// Gets output as it comes.
    pub live: Option<mpsc::Sender<Chunk>>,
    /// That it is recorded: awaited while its sandbox is made, and before its program gets the request.
    pub recorded: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Executor {
    /// Runs an admitted request.
    ///
    /// # Errors
    /// When it did not run; how its program ended is in the answer.
    pub async fn execute(&self, request: ExecuteRequest, waited: Duration, reins: Reins) -> Result<Answer, Failed> {
        let place = if request.session_id.is_some() { Place::Session } else { Place::Own };
        self.execute_in(place, request, waited, reins).await
    }

    /// Runs a request that nobody sent: without a line in the log.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn execute_quietly(&self, request: ExecuteRequest) -> Result<Answer, Failed> {
        self.run(Place::Own, request, Duration::ZERO, self.reins(None)).await
    }

    /// Runs a request in this place.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn execute_in(
        &self,
        place: Place,
        request: ExecuteRequest,
        waited: Duration,
        reins: Reins,
    ) -> Result<Answer, Failed> {
        let (language, log) = (request.language, log::Lines::new(&request));
        log.start(&self.isolation);
        let answer = self.run(place, request, waited, reins).await;
        match &answer {
            Ok(answer) => {
                metrics::ran(language, &answer.metrics);
                log.end(answer);
            }
            Err(Failed::Sandbox(error) | Failed::Midway(error)) => metrics::sandbox_failed(error.stage),
            Err(_) => {}
        }
        answer
    }

    /// Those of an execution that nobody records.
    pub fn reins(&self, live: Option<mpsc::Sender<Chunk>>) -> Reins {
        Reins { live, recorded: Box::pin(std::future::ready(Ok(()))), stop: self.stop.clone() }
    }

    async fn run(
        &self,
        place: Place,
        request: ExecuteRequest,
        waited: Duration,
        reins: Reins,
    ) -> Result<Answer, Failed> {
        let came = Instant::now();
        let Reins { live, recorded, stop } = reins;
        let _running = self.warm.running();
        let interpreter = self.interpreter(request.language)?;
        let limits = self.limits(&request.limits, request.timeout);
        let Site { visit, stay, ahead, stand } = self.site(place, &request, &limits).await?;
        let Stand { workspace, packages, body } = stand;
        let tenancy = Tenancy::begin(&self.workspaces, stay, &workspace, &request, self.disk_mb).await?;
        let request = Arc::new(request);
        let (waiting, prepared) = match body {
            Body::Program(waiting) => (Some(waiting), None),
            Body::Sandbox(prepared) if ahead && self.forks(request.language, &prepared) => {
                (self.start_ahead(prepared, &interpreter, limits.memory_bytes).await.ok(), None)
            }
            Body::Sandbox(prepared) => (None, Some(prepared)),
        };
        recorded.await?;
        let ran = match waiting {
            Some(waiting) => {
                self.run_ahead(waiting, &request, &limits, came, (live.clone(), tenancy.ended(&stop))).await?
            }
            None => None,
        };
        let (outcome, mut remains, startup) = match ran {
            Some(ran) => ran,
            None => {
                let prepared = match prepared {
                    Some(prepared) => prepared,
                    None => {
                        let bytes = files_bytes(&request);
                        self.sandbox(&workspace, bytes, limits.clone(), None, packages.as_deref()).await?
                    }
                };
                self.run_cold(prepared, &request, &interpreter, &limits, came, (live, tenancy.ended(&stop))).await?
            }
        };
        if let Some(visit) = visit {
            if !visit.was_alone() {
                remains.was_not_alone();
            }
            visit.leave(request.language, remains.take_walls());
        }
        if let Ok(mut last) = self.last_sandbox.lock() {
            *last = Some(Instant::now());
        }
        let (left, stay) = tenancy.leave().await;
        metrics::wrote(outcome.stdout.total, outcome.stderr.total);
        let metrics = Metrics::new(&outcome, waited, startup);
        let leftovers = Leftovers { _remains: remains, _workspace: workspace, _stay: stay };
        let size = [&outcome.stdout, &outcome.stderr, &outcome.result].iter().map(|captured| captured.kept.len()).sum();
        let answer = offload(size, move || {
            let verdict = left.judge(Verdict::new(request.language, &outcome, &limits));
            Answer::new(&request, &outcome, verdict, metrics, left, leftovers)
        });
        Ok(answer.await)
    }

    /// Runs a program that has started; `None` if it never came to its request.
    async fn run_ahead(
        &self,
        waiting: Waiting,
        request: &Arc<ExecuteRequest>,
        limits: &Limits,
        came: Instant,
        (live, ended): (Option<mpsc::Sender<Chunk>>, impl Future<Output = ()>),
    ) -> Result<Option<Ran>, Failed> {
        let (parts, memory_bytes) = (Arc::clone(request), limits.memory_bytes);
        let packages = waiting.packages().cloned();
        let input =
            offload(size(request), move || invocation(&parts, memory_bytes).input(parts.language, packages.as_ref()));
        let input = input.await;
        let input = input.map_err(|error| SandboxError::io(Stage::Program, "the request", error))?;
        let startup = came.elapsed();
        match waiting.run(input, limits, live, ended).await {
            Ok((outcome, remains)) => Ok(Some((outcome, remains, startup))),
            Err(error) if error.stage == Stage::WorkingDirectory => Err(Failed::WorkingDirectory(error.detail)),
            Err(error) if error.stage == Stage::Program => {
                tracing::warn!("A program that was started ahead is gone, one is started cold: {error}");
                if request.language == Language::Python {
                    self.warm.zygote_failed();
                }
                Ok(None)
            }
            Err(error) => Err(Failed::at(error)),
        }
    }

    /// Runs a program that starts with its request.
    async fn run_cold(
        &self,
        mut prepared: Prepared,
        request: &Arc<ExecuteRequest>,
        interpreter: &Arc<Interpreter>,
        limits: &Limits,
        came: Instant,
        (live, ended): (Option<mpsc::Sender<Chunk>>, impl Future<Output = ()>),
    ) -> Result<Ran, Failed> {
        prepared.limit(limits)?;
        let (parts, interpreter, layout) = (Arc::clone(request), Arc::clone(interpreter), prepared.layout().clone());
        let memory_bytes = limits.memory_bytes;
        let program =
            offload(size(request), move || invocation(&parts, memory_bytes).program(&interpreter, &layout)).await;
        let program = program.map_err(|error| SandboxError::io(Stage::Program, "files for the program", error))?;
        let startup = came.elapsed();
        match prepared.run(program, live, ended).await {
            Ok((outcome, remains)) => Ok((outcome, remains, startup)),
            Err(error) if error.stage == Stage::WorkingDirectory => Err(Failed::WorkingDirectory(error.detail)),
            Err(error) => Err(Failed::at(error)),
        }
    }

    /// The interpreter of a language.
    ///
    /// # Errors
    /// There is none here, and why.
    pub fn interpreter(&self, language: Language) -> Result<Arc<Interpreter>, Failed> {
        match self.interpreters.get(&language) {
            Some(Ok(interpreter)) => Ok(Arc::clone(interpreter)),
            Some(Err(reason)) => Err(Failed::Language(reason.clone())),
            None => Err(Failed::Language(format!("{} is not there", language.name()))),
        }
    }
}

impl Failed {
    /// A failure of a sandbox that was told to run the program.
    fn at(error: SandboxError) -> Self {
        if error.stage == Stage::Supervise { Self::Midway(error) } else { Self::Sandbox(error) }
    }
}

/// How a program ended, what is left of its sandbox, and how long it took to come to it.
type Ran = (Outcome, Remains, Duration);

/// Bytes that go to the program.
fn size(request: &ExecuteRequest) -> usize {
    request.code.len() + request.event.get().len() + request.stdin.len()
}

fn invocation(request: &ExecuteRequest, memory_bytes: u64) -> Invocation<'_> {
    Invocation {
        code: &request.code,
        event: request.event.get(),
        mode: request.mode,
        execution_id: &request.execution_id,
        stdin: &request.stdin,
        env_vars: &request.env_vars,
        working_directory: &request.working_directory,
        timeout: request.timeout,
        memory_bytes,
    }
}
