//! `serve`: the HTTP service, from configuration to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use runtime::Language;
use rustix::process::{Resource, getrlimit};
use sandbox::Isolation;
use sandbox::bubblewrap::Bubblewrap;
use sandbox::error::SandboxError;
use sandbox::limits::Cgroups;
use sandbox::native::Native;
use sandbox::policy::Limits;
use sandbox::prepare::Ground;
use sandbox::seatbelt::Seatbelt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::room;
use crate::config::{Config, Isolation as Wanted};
use crate::executions::Executions;
use crate::http;
use crate::interpreters;
use crate::packages::Packages;
use crate::pipeline::{Choice, Executor};
use crate::report::{ExitReason, Reports};
use crate::state::State;
use crate::store::{Keeping, Store};
use crate::telemetry::log::LogHandle;
use crate::telemetry::metrics;
use crate::warm::{self, Warm};
use crate::workspace::{Uids, Workspaces};

/// How long clients have to take the last answers.
pub(super) const LAST_ANSWERS: Duration = Duration::from_millis(700);
/// How long results of the last moment have to be written.
const LAST_WRITES: Duration = Duration::from_millis(500);
/// Descriptors that one execution takes while it runs, with room for its connection.
const DESCRIPTORS_EACH: u64 = 20;
/// Descriptors that are kept for a session while nothing runs in it: its walls.
const DESCRIPTORS_OF_SESSION: u64 = 5;
/// Descriptors that the service itself takes, with room for connections that only ask or wait.
const DESCRIPTORS_OF_SERVICE: u64 = 64;
/// Of the rest, what stands that are made ahead may take, and what is kept for sessions: one part in so many.
const PART_OF_STANDS: u64 = 4;
const PART_OF_SESSIONS: u64 = 8;
/// Most sessions that something is kept for.
const MOST_SESSIONS: usize = 256;
/// Most interpreters of a language that are kept ahead unless somebody asks for more.
const MOST_WARM: usize = 32;
/// Exit status after a signal to stop: 128 + SIGTERM.
const STOPPED: u8 = 143;

/// For an ordinary user who has subordinate ids: enters a user namespace in which they can be given to sandboxes. To be called
/// while there is one thread. What came of it, for the log; `None` where it does not matter.
///
/// # Errors
/// When the process is of no use any more, see [`sandbox::subordinate::enter`].
pub fn take_subordinate_ids(config: &Config) -> Result<Option<String>> {
    if rustix::process::geteuid().is_root() || config.isolation == Wanted::None {
        return Ok(None);
    }
    let entered = sandbox::subordinate::enter().context("Host uids for sandboxes")?;
    Ok(Some(match entered {
        Ok(()) => "Host uids: one for each session, of this user's subordinate ids".into(),
        Err(why) => format!("Host uids: every sandbox has this user's own, there are no subordinate ids to use: {why}"),
    }))
}

/// Finds out what this host can do and makes everything that executions need; `ahead` is how much is made before them.
///
/// # Errors
/// Whatever makes it impossible to run code here, with the fix.
pub async fn build(config: &Config, instance: &str, ahead: &warm::Settings) -> Result<Executor> {
    // Before the launcher: version 2 can't be set up with another process in the service's own group.
    let cgroups = Cgroups::detect(instance);
    match cgroups.sweep() {
        Ok(0) => {}
        Ok(groups) => tracing::info!("The last service left {groups} control groups: removed with all in them"),
        Err(error) => tracing::warn!("Control groups of the last service could not be removed: {error}"),
    }
    for sentence in cgroups.unavailable() {
        tracing::warn!("Limit not enforced: {sentence}");
    }
    let ground = Ground::new(cgroups).await.context("the launcher process can't be started")?;
    let path = &config.workspace_path;
    let is_root = rustix::process::geteuid().is_root() && config.isolation != Wanted::None;
    let uids = is_root.then(|| Uids::claim_for(path, instance).map(Arc::new)).transpose();
    let uids = uids.context("Host uids for sandboxes")?;
    let workspaces = Workspaces::open(path, instance, uids, config.max_disk_mb).map_err(|error| {
        let path = path.display();
        anyhow::anyhow!(
            "WORKSPACE_PATH = {path} is not usable: {error}; make it writable (chmod 755 {path}) or use another folder \
             (export WORKSPACE_PATH=/tmp/sandbox_workspace)"
        )
    })?;
    if cfg!(target_os = "linux") && sandbox::landlock_abi() == 0 && config.isolation != Wanted::None {
        tracing::warn!(
            "This kernel has no Landlock or it is switched off (lsm=landlock,… on its command line): namespaces and seccomp \
             stand alone"
        );
    }
    let mut found_here = HashMap::new();
    for language in Language::ALL {
        let found = interpreters::find(config, language);
        if let (Err(error), Some(_)) = (&found, interpreters::named(config, language)) {
            bail!("{} is not usable: {error}", language.variable());
        }
        if let Err(error) = &found {
            tracing::warn!("No {}: {error}", language.name());
        }
        found_here.insert(language, found.map(Arc::new));
    }
    let workspaces = Arc::new(workspaces);
    let executor = |isolation, choice| Executor {
        isolation,
        choice,
        ground: ground.clone(),
        interpreters: found_here.clone(),
        workspaces: Arc::clone(&workspaces),
        packages: Packages::none(),
        warm: Warm::new(ahead.clone()),
        file_size_bytes: config.max_file_size_mb * 1024 * 1024,
        disk_mb: config.max_disk_mb,
        stop: CancellationToken::new(),
        last_sandbox: Mutex::new(None),
        lacks: OnceLock::new(),
        proving: tokio::sync::Mutex::default(),
    };
    choose(config, &workspaces, executor).await
}

/// The adapters to try, best first.
fn candidates(wanted: Wanted, disable_bwrap: bool, on_macos: bool) -> Vec<Wanted> {
    let all = match wanted {
        // Whoever comes from Linux finds in the log what became of bubblewrap.
        Wanted::Auto if on_macos => vec![Wanted::Bubblewrap, Wanted::Seatbelt],
        Wanted::Auto => vec![Wanted::Native, Wanted::Bubblewrap],
        named => return vec![named],
    };
    all.into_iter().filter(|kind| *kind != Wanted::Bubblewrap || !disable_bwrap).collect()
}

/// Takes the first in which a real program runs; never one that nobody named or that isolates less than it should.
async fn choose(
    config: &Config,
    workspaces: &Workspaces,
    executor: impl Fn(Isolation, Choice) -> Executor,
) -> Result<Executor> {
    let mut refused: Vec<(&'static str, String)> = Vec::new();
    for candidate in candidates(config.isolation, config.disable_bwrap, cfg!(target_os = "macos")) {
        if let Some((name, why)) = refused.last() {
            tracing::error!("Isolation setup failed: {}", refusal(name, why));
            // The document's words for the one.
            let runner = if candidate == Wanted::Seatbelt { "Seatbelt runner" } else { name_of(candidate) };
            tracing::info!("Falling back to {runner}");
        }
        let reason = match (candidate, refused.is_empty()) {
            (Wanted::None, _) => "ISOLATION=none was asked for: nothing is isolated".to_owned(),
            _ if config.isolation != Wanted::Auto => {
                format!("ISOLATION={candidate} was asked for, and a program ran in it")
            }
            (_, true) => "the first choice here, and a program ran in it".to_owned(),
            (_, false) => "what comes before it does not work here, and a program ran in it".to_owned(),
        };
        let tried = match adapter(candidate, workspaces) {
            Ok(isolation) => {
                let executor = executor(isolation, Choice { reason, refused: refused.clone() });
                executor.probe(config).await.map(|()| executor)
            }
            Err(SandboxError { detail, cause, .. }) => {
                Err(cause.map_or(detail.clone(), |cause| format!("{detail}: {cause}")))
            }
        };
        match tried {
            Ok(executor) => return Ok(executor),
            Err(why) => refused.push((name_of(candidate), why)),
        }
    }
    Err(NothingWorks(refused).into())
}

/// No adapter works: each that was tried, and why it can't be used.
#[derive(Debug, thiserror::Error)]
#[error("Isolation setup failed: {}; run `sandbox-executor doctor`", sentences(.0))]
pub struct NothingWorks(pub Vec<(&'static str, String)>);

fn sentences(refused: &[(&'static str, String)]) -> String {
    let reasons: Vec<String> = refused.iter().map(|(name, why)| refusal(name, why)).collect();
    reasons.join("\nafter that, ")
}

fn adapter(kind: Wanted, workspaces: &Workspaces) -> Result<Isolation, SandboxError> {
    let (place, prefix) = (workspaces.path(), workspaces.private_prefix());
    match kind {
        Wanted::Auto | Wanted::Native => Native::new(place, &prefix).map(Isolation::Native),
        Wanted::Bubblewrap => Bubblewrap::new(place, &prefix).map(Isolation::Bubblewrap),
        Wanted::Seatbelt => Seatbelt::new(place, &prefix).map(Isolation::Seatbelt),
        Wanted::None => Ok(Isolation::None),
    }
}

/// Which one failed and why; where the reason begins with the program's name, as the document has it, that is enough.
fn refusal(name: &str, why: &str) -> String {
    if why.starts_with("bwrap ") { why.to_owned() } else { format!("{name}: {why}") }
}

fn name_of(kind: Wanted) -> &'static str {
    Wanted::NAMES.iter().find(|(_, each)| *each == kind).map_or("", |(name, _)| name)
}

/// Serves until a signal says to stop; returns the exit status.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(mut config: Config, ids: Option<String>, log: Arc<LogHandle>) -> Result<u8> {
    if let Some(ids) = ids {
        tracing::info!("{ids}");
    }
    if !room::wait(&config).await? {
        return Ok(STOPPED);
    }
    let state = State::open(&config.state_path).map_err(|error| {
        let path = config.state_path.display();
        if error.kind() == std::io::ErrorKind::ResourceBusy {
            anyhow::anyhow!("STATE_PATH = {path} is in use by another running service; stop it or use another folder")
        } else {
            anyhow::anyhow!("STATE_PATH = {path} is not usable: {error}; allowed: a folder that this user can write to")
        }
    })?;
    let keeping = Keeping { retention: config.result_retention, most_bytes: Keeping::MOST_BYTES };
    let store = Store::open(&config.state_path, keeping)?;
    let mut ahead = ahead(&config);
    fit_to_descriptors(&mut config, &mut ahead);
    let mut executor = build(&config, &state.instance, &ahead).await?;
    executor.packages = Packages::open(&config, &executor).with_context(|| {
        format!("STATE_PATH = {}: the installed packages can't be read", config.state_path.display())
    })?;
    let executor = Arc::new(executor);
    if !config.listens_on_loopback() && config.api_token.is_none() {
        tracing::warn!(
            "Listening beyond this machine without EXECUTOR_API_TOKEN: whoever reaches the port can run code"
        );
    }
    if config.allow_source_builds && config.api_token.is_none() {
        tracing::warn!(
            "ALLOW_SOURCE_BUILDS without EXECUTOR_API_TOKEN: packages that are built have the host's network, so they reach this \
             service and with it every session"
        );
    }
    let listener = listen(&config)?;
    let address = listener.local_addr()?;
    for sentence in executor.lacks.get().into_iter().flatten() {
        tracing::warn!("{sentence}");
    }
    let reports = Reports::start(&config, store.clone())?;
    let executions = Executions::new(&config, Arc::clone(&executor), store.clone(), reports.clone());
    let executions = Arc::new(executions);
    executions.recover().await.with_context(|| store.path().display().to_string())?;
    let version = executor.isolation.version().map(|version| format!(" {version}")).unwrap_or_default();
    let (isolation, reason) = (executor.isolation.name(), &executor.choice.reason);
    tracing::info!("Isolation: {isolation}{version} ({reason})");
    tracing::info!("Quota of workspaces: {}", executor.workspaces.who_holds());
    // Before anybody can know that it runs: whoever stops it then has it end in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let unisolated = if executor.isolation.is_none() { " (isolation: none, nothing is isolated)" } else { "" };
    let cgroups = &executor.ground.cgroups;
    let enforced = [("memory", cgroups.memory()), ("processes", cgroups.pids()), ("cpu", cgroups.cpu())];
    metrics::started(env!("CARGO_PKG_VERSION"), isolation, enforced);
    tracing::info!("Listening on http://{address}{unisolated}");

    executor.keep_warm();
    tokio::spawn(Arc::clone(&executor).expire_sessions(config.session_idle_ttl));
    let grace = config.shutdown_grace;
    let service = Arc::new(http::Service::new(config, Arc::clone(&executions)));
    let stop_accepting = CancellationToken::new();
    let server =
        tokio::spawn(http::server::serve(listener, http::router(Arc::clone(&service)), stop_accepting.clone()));
    if let Some(reports) = &reports {
        reports.ready(address.port());
    }
    let reason = loop {
        tokio::select! {
            _ = terminate.recv() => break ExitReason::Sigterm,
            _ = interrupt.recv() => break ExitReason::Sigint,
            _ = hangup.recv() => {
                let log = Arc::clone(&log);
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = log.reopen() {
                        tracing::error!("LOG_FILE could not be reopened: {error}");
                    }
                });
            }
        }
    };
    tracing::info!("Shutting down: {} running, {}s of grace", executions.queue.running(), grace.as_secs());
    executions.close();
    ended_within(&executions, grace).await;
    executor.stop.cancel();
    ended_within(&executions, Duration::from_secs(1)).await;
    executions.written_within(LAST_WRITES).await;
    stop_accepting.cancel();
    executor.warm.close();
    let closed = async {
        if let Some(reports) = &reports {
            reports.close(reason).await;
        }
    };
    tokio::join!(tokio::time::timeout(LAST_ANSWERS, server), closed).0.ok();
    store.close().await;
    drop((service, executions, executor));
    Ok(STOPPED)
}

/// Listens where the configuration says.
///
/// # Errors
/// That can't be.
pub(super) fn listen(config: &Config) -> Result<TcpListener> {
    http::server::listen((config.host, config.port).into())
        .with_context(|| format!("EXECUTOR_HOST/EXECUTOR_PORT = {}:{} can't be listened on", config.host, config.port))
}

/// How much is made ahead: as configured, or as the processors can use. Where nothing is isolated nothing is.
fn ahead(config: &Config) -> warm::Settings {
    if config.isolation == Wanted::None {
        return warm::Settings::default();
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mebibyte = 1024 * 1024;
    warm::Settings {
        python: config.warm_python.0.unwrap_or((2 * processors).min(MOST_WARM)),
        node: config.warm_node.0.unwrap_or(processors.min(MOST_WARM / 2)),
        sessions: MOST_SESSIONS,
        imports: config.warm_python_imports.clone(),
        limits: Some(Limits {
            timeout: config.max_execution_time,
            memory_bytes: config.max_memory_mb * mebibyte,
            cpu_cores: config.max_cpu_cores,
            processes: config.max_processes,
            file_size_bytes: config.max_file_size_mb * mebibyte,
            output_bytes: config.max_output_bytes,
        }),
    }
}

/// Makes less ahead and runs fewer at a time where the descriptors would not do for as many as were asked for: what waits is run in
/// the end, what runs out of descriptors half-way is not.
fn fit_to_descriptors(config: &mut Config, ahead: &mut warm::Settings) {
    let asked = config.max_concurrent_executions;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let rest = descriptors.saturating_sub(DESCRIPTORS_OF_SERVICE);
    let whole = |number| usize::try_from(number).unwrap_or(usize::MAX);
    ahead.fit(whole(rest / PART_OF_STANDS / DESCRIPTORS_EACH), whole(rest / PART_OF_SESSIONS / DESCRIPTORS_OF_SESSION));
    let idle = DESCRIPTORS_EACH * ahead.stands() as u64 + DESCRIPTORS_OF_SESSION * ahead.sessions as u64;
    let needed = DESCRIPTORS_OF_SERVICE + idle + DESCRIPTORS_EACH * asked as u64;
    if descriptors < needed {
        let most = (rest.saturating_sub(idle) / DESCRIPTORS_EACH).max(1);
        config.max_concurrent_executions = usize::try_from(most).unwrap_or(asked);
        tracing::warn!(
            "Too few open files are allowed for MAX_CONCURRENT_EXECUTIONS = {asked}: {descriptors}, {needed} are needed \
             (ulimit -n {needed}, or LimitNOFILE= of the unit); {most} run at a time"
        );
    }
}

async fn ended_within(executions: &Executions, time: Duration) {
    let deadline = tokio::time::Instant::now() + time;
    while executions.queue.running() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_what_the_system_has_best_first_and_a_name_is_that_alone() {
        assert_eq!(candidates(Wanted::Auto, false, false), [Wanted::Native, Wanted::Bubblewrap]);
        assert_eq!(candidates(Wanted::Auto, true, false), [Wanted::Native]);
        assert_eq!(candidates(Wanted::Auto, false, true), [Wanted::Bubblewrap, Wanted::Seatbelt]);
        assert_eq!(candidates(Wanted::Auto, true, true), [Wanted::Seatbelt]);
        for on_macos in [true, false] {
            assert_eq!(candidates(Wanted::Seatbelt, false, on_macos), [Wanted::Seatbelt]);
            assert_eq!(candidates(Wanted::Bubblewrap, true, on_macos), [Wanted::Bubblewrap]);
            assert_eq!(candidates(Wanted::None, false, on_macos), [Wanted::None]);
        }
    }

    #[test]
    fn a_refusal_begins_as_the_document_has_it() {
        let why = "bwrap not available: Bubblewrap (bwrap) is not installed";
        assert_eq!(refusal("bubblewrap", why), why);
        assert_eq!(refusal("native", "no namespaces"), "native: no namespaces");
    }
}
