//! How a request is run: workspace → sandbox → program → verdict → answer. The first steps of it may have been gone before it came
//! ([`crate::warm`]); what comes before and after, whose id it is, that it is recorded and reported, is in [`crate::executions`].

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use runtime::warm::Waiting;
use runtime::{Interpreter, Invocation, Language, Verdict};
use sandbox::capture::Chunk;
use sandbox::error::{SandboxError, Stage};
use sandbox::outcome::{Captured, Outcome};
use sandbox::policy::Limits;
use sandbox::prepare::Ground;
use sandbox::walls::Walls;
use sandbox::{Isolation, Prepared, Remains};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::request::{ExecuteRequest, RequestedLimits};
use crate::answer::{self, Answer, Leftovers, Metrics, milliseconds};
use crate::config::Config;
use crate::offload::offload;
use crate::packages::{Layer, Packages};
use crate::store::StoreError;
use crate::telemetry::metrics;
use crate::warm::{self, Body, Stand, Warm};
use crate::workspace::sessions::Doing;
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
        let (id, session) = (request.execution_id.clone(), request.session_id.clone().unwrap_or_else(|| "none".into()));
        let (language, timeout) = (request.language.name(), request.timeout);
        let unisolated = if self.isolation.is_none() { ", isolation: none, nothing is isolated" } else { "" };
        tracing::info!(
            execution_id = id,
            session_id = session,
            language,
            "Starting execution: {id} (language: {language}, session: {session}{unisolated})"
        );
        let written_in = request.language;
        let answer = self.run(place, request, waited, reins).await;
        match &answer {
            Ok(answer) => {
                metrics::ran(written_in, &answer.metrics);
                log_end(&id, &session, answer, timeout);
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
        let suits = self.warm.suits(&limits, self.ground.cgroups.pids());
        let mut ahead =
            suits && self.warm.keeps(request.language) && invocation(&request, limits.memory_bytes).can_start_ahead();
        let (mut visit, mut stay) = (None, None);
        let stand = match place {
            Place::Own => self.private_stand(&request, &limits, suits, ahead).await?,
            Place::Given(workspace) => self.new_stand(workspace, &request, &limits, None, None).await?,
            Place::Session => {
                let session_id = request.session_id.as_deref().unwrap_or_default();
                let entered = self.workspaces.enter(session_id, Doing::Run).await.map_err(Failed::Workspace)?;
                let workspace = entered.0;
                stay = Some(entered.1);
                let packages = self.packages.layer_of(session_id);
                ahead &= self.suits_packages(request.language, packages.as_deref());
                let visit = visit.insert(self.warm.sessions.enter(session_id));
                let fits = ahead && files_bytes(&request) <= warm::FILES_BYTES;
                let stand =
                    if fits { visit.stand(request.language, &workspace, packages.as_ref()).await } else { None };
                if fits {
                    metrics::warm(request.language, stand.is_some());
                }
                match stand {
                    Some(stand) => stand,
                    None => self.new_stand(workspace, &request, &limits, visit.walls.take(), packages).await?,
                }
            }
        };
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
                    None => self.new_sandbox(&workspace, &request, &limits, None, packages.as_deref()).await?,
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
        let language = request.language;
        let size = [&outcome.stdout, &outcome.stderr, &outcome.result].iter().map(|captured| captured.kept.len()).sum();
        let (outcome, verdict, stdout, stderr, left) = offload(size, move || {
            let verdict = left.judge(Verdict::new(language, &outcome, &limits));
            let (stdout, stderr) = (text(&outcome.stdout), text(&outcome.stderr));
            (outcome, verdict, stdout, stderr, left)
        })
        .await;
        metrics::wrote(outcome.stdout.total, outcome.stderr.total);
        let duration_ms = milliseconds(outcome.duration);
        Ok(Answer {
            message: answer::message(verdict.status),
            status: verdict.status,
            exit_code: verdict.exit_code,
            signal: verdict.signal,
            stdout,
            stderr,
            stdout_truncated: outcome.stdout.truncated(),
            stderr_truncated: outcome.stderr.truncated(),
            return_value: verdict.return_value,
            error: verdict.error,
            execution_time: outcome.duration.as_secs_f64(),
            metrics: Metrics {
                duration_ms,
                cpu_time_ms: milliseconds(outcome.usage.cpu_time),
                peak_memory_mb: outcome.usage.peak_memory_bytes as f64 / MIB as f64,
                io_read_bytes: outcome.usage.io_read_bytes,
                io_write_bytes: outcome.usage.io_write_bytes,
                queue_ms: milliseconds(waited),
                startup_ms: milliseconds(startup),
            },
            execution_id: request.execution_id.clone(),
            session_id: request.session_id.clone(),
            artifacts: left.artifacts,
            artifacts_truncated: left.artifacts_truncated,
            outputs: left.outputs,
            leftovers: Some(Leftovers { _remains: remains, _workspace: workspace, _stay: stay }),
        })
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
        let prepared = self.new_sandbox(&workspace, request, limits, walls, packages.as_deref()).await?;
        Ok(Stand { workspace, packages, body: Body::Sandbox(prepared) })
    }

    async fn new_sandbox(
        &self,
        workspace: &Workspace,
        request: &ExecuteRequest,
        limits: &Limits,
        walls: Option<Arc<Walls>>,
        packages: Option<&Layer>,
    ) -> Result<Prepared, Failed> {
        let policy = self.policy(workspace, files_bytes(request), limits.clone(), walls, packages)?;
        let prepared = self.isolation.prepare(&self.ground, &policy).await?;
        self.lacks.get_or_init(|| prepared.lacks());
        Ok(prepared)
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

    /// That sandboxes stand up: one did lately, or does now. However many ask at once, one program runs.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn proof(&self, config: &Config, lasts: Duration) -> Result<(), String> {
        let proved = || self.last_sandbox.lock().is_ok_and(|last| last.is_some_and(|last| last.elapsed() < lasts));
        if proved() {
            return Ok(());
        }
        let _one_at_a_time = self.proving.lock().await;
        if proved() { Ok(()) } else { self.probe(config).await }
    }

    /// Runs a real program in a real sandbox.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn probe(&self, config: &Config) -> Result<(), String> {
        let language =
            Language::ALL.into_iter().rev().find(|language| matches!(self.interpreters.get(language), Some(Ok(_))));
        let language = language.ok_or("there is no interpreter for any language")?;
        let code = if language == Language::Shell { "exit 0" } else { "0" };
        let answer =
            self.execute_quietly(probe_request(config, language, code)).await.map_err(|error| error.to_string())?;
        match answer.error {
            None => Ok(()),
            Some(error) => Err(format!("a program in a sandbox failed: {}", error.message)),
        }
    }

    fn limits(&self, asked: &RequestedLimits, timeout: Duration) -> Limits {
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

/// A request for a script of one line, for probes.
pub fn probe_request(config: &Config, language: Language, code: &str) -> ExecuteRequest {
    ExecuteRequest {
        execution_id: "probe".into(),
        digest: None,
        session_id: None,
        code: code.into(),
        language,
        timeout: Duration::from_secs(20),
        event: serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_default(),
        env_vars: Vec::new(),
        stdin: String::new(),
        working_directory: String::new(),
        mode: runtime::Mode::Script,
        limits: crate::admission::request::Ceilings::of(config).limits,
        files: Arc::default(),
        outputs: None,
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

/// Room for files of ours in its sandbox.
fn files_bytes(request: &ExecuteRequest) -> u64 {
    (request.code.len() + request.event.get().len()) as u64 + MIB
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

/// What was kept as text: what is not UTF-8 becomes U+FFFD, and a character that the cut went through is left out.
fn text(captured: &Captured) -> String {
    let mut kept = captured.kept.as_slice();
    if captured.truncated()
        && let Some(chunk) = kept.utf8_chunks().last()
        && let cut = chunk.invalid().len()
        && cut > 0
        && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none())
    {
        kept = &kept[..kept.len() - cut];
    }
    String::from_utf8_lossy(kept).into_owned()
}

fn log_end(id: &str, session: &str, answer: &Answer, timeout: Duration) {
    use runtime::verdict::Status;
    let duration_ms = answer.metrics.duration_ms;
    let rounded = duration_ms.round();
    match (answer.status, &answer.error) {
        (Status::Completed, _) => {
            tracing::info!(
                execution_id = id,
                session_id = session,
                duration_ms,
                "Execution completed: {id} (duration: {rounded}ms)"
            );
        }
        (Status::Timeout, _) => {
            let seconds = timeout.as_secs();
            tracing::error!(
                execution_id = id,
                session_id = session,
                duration_ms,
                "Execution timeout: {id} (timeout: {seconds}s)"
            );
            tracing::info!(execution_id = id, session_id = session, "Process killed: {id}");
        }
        (Status::Cancelled, _) => {
            tracing::info!(execution_id = id, session_id = session, duration_ms, "Process killed: {id}");
        }
        (_, error) => {
            let kind = error.as_ref().map(|error| format!("{:?}", error.kind)).unwrap_or_default();
            tracing::info!(
                execution_id = id,
                session_id = session,
                duration_ms,
                "Execution failed: {id} ({kind}, duration: {rounded}ms)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], total: u64) -> String {
        text(&Captured { kept: bytes.to_vec(), total })
    }

    #[test]
    fn a_cut_leaves_whole_characters_and_bad_bytes_are_replaced() {
        assert_eq!(cut("aé".as_bytes(), 3), "aé");
        assert_eq!(cut(&"aé".as_bytes()[..2], 3), "a");
        assert_eq!(cut(&"a€".as_bytes()[..3], 9), "a");
        assert_eq!(cut(b"a\xff", 2), "a\u{fffd}");
        assert_eq!(cut(b"a\xff", 9), "a\u{fffd}");
        assert_eq!(cut(b"\xe2\x82", 2), "\u{fffd}");
    }
}
