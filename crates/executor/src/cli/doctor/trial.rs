//! The trial: everything that executions need is made for once, and programs are run with it.
//!
//! It is the proof that code can be run here, and what else is asked of a sandbox (does this Python import what it needs,
//! how long does one take, do several run at once) is asked of this one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::{Interpreter, Language};
use sandbox::limits::Cgroups;

use super::interpreters::Found;
use super::kernel::{Attempt, Kernel};
use super::limits::split;
use super::{Check, Status};
use crate::cli::serve::{self, NothingWorks};
use crate::config::{Config, Isolation};
use crate::pipeline::Executor;
use crate::pipeline::probe::probe_request;
use crate::state::State;
use crate::warm;

/// A shell in a sandbox of its own that takes longer is slow: on a small machine it is a tenth of that.
const SLOW: Duration = Duration::from_millis(500);
/// How many are run at once to see that they do not wait for each other, and how long each sleeps.
const AT_ONCE: u32 = 5;
const SLEEP: Duration = Duration::from_millis(200);

pub(super) struct Trial {
    kernel: Kernel,
    /// What was made.
    executor: Option<Executor>,
    /// How long the program took, or why it did not run.
    outcome: Result<Duration, Failure>,
    adapter: Option<&'static str>,
    refused: Vec<(&'static str, String)>,
    wanted: Option<Isolation>,
    instance: String,
    /// Its workspace root: the service's may be unusable, which is another check's finding.
    _home: Option<tempfile::TempDir>,
}

/// Why no program ran.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub cause: String,
    /// What the adapters themselves say to do about it; may be empty.
    pub fix: String,
}

impl Failure {
    /// Of a sentence that says what failed, and behind a semicolon what to do about it.
    pub(super) fn told(reason: &str) -> Self {
        let (cause, fix) = reason.split_once("; ").unwrap_or((reason, ""));
        Self { cause: cause.to_owned(), fix: fix.to_owned() }
    }

    /// Of all adapters that were tried. Which one it was is of no interest when there was one only.
    fn of_all(refused: &[(&'static str, String)]) -> Self {
        let each: Vec<(&str, Self)> = refused.iter().map(|(name, reason)| (*name, Self::told(reason))).collect();
        if let [(_, only)] = each.as_slice() {
            return only.clone();
        }
        let causes: Vec<String> = each.iter().map(|(name, failure)| format!("{name}: {}", failure.cause)).collect();
        let mut fixes: Vec<&str> = each.iter().map(|(_, failure)| failure.fix.as_str()).collect();
        fixes.retain(|fix| !fix.is_empty());
        fixes.dedup();
        Self { cause: causes.join("\n"), fix: fixes.join("\n") }
    }
}

impl Trial {
    /// Runs a small program the way executions are run.
    pub(super) async fn run(config: &Config, kernel: Kernel, interpreters: &[Found]) -> Self {
        let instance = State::new_instance();
        let (home, executor) = match tempfile::tempdir().context("a temporary folder can't be made") {
            Ok(home) => {
                let path = home.path().join("workspaces");
                (
                    Some(home),
                    serve::build(&trial_config(config, path, interpreters), &instance, &warm::Settings::default())
                        .await,
                )
            }
            Err(error) => (None, Err(error)),
        };
        let refused = match &executor {
            Ok(executor) => executor.choice.refused.clone(),
            Err(error) => error.downcast_ref::<NothingWorks>().map(|error| error.0.clone()).unwrap_or_default(),
        };
        let outcome = match &executor {
            Ok(executor) => timed(executor, config).await.map_err(|reason| Failure::told(&reason)),
            Err(error) if refused.is_empty() => Err(Failure::told(&format!("{error:#}"))),
            Err(_) => Err(Failure::of_all(&refused)),
        };
        let executor = executor.ok();
        let adapter = executor.as_ref().map(|executor| executor.isolation.name());
        let wanted = Some(config.isolation);
        Self { kernel, executor, outcome, adapter, refused, wanted, instance, _home: home }
    }

    /// Whether a program ran.
    pub(super) fn works(&self) -> bool {
        self.outcome.is_ok()
    }

    /// The adapter that was chosen, whether it works or not.
    pub(super) fn adapter(&self) -> Option<&'static str> {
        self.adapter
    }

    /// Its name and, where it has one, its version.
    pub(super) fn isolation(&self) -> Option<(&'static str, Option<String>)> {
        let isolation = &self.executor.as_ref()?.isolation;
        Some((isolation.name(), isolation.version().map(str::to_owned)))
    }

    /// The adapters that were tried and can't be used, and why.
    pub(super) fn refused(&self) -> &[(&'static str, String)] {
        &self.refused
    }

    /// Why this adapter and no other.
    pub(super) fn reason(&self) -> Option<String> {
        Some(self.executor.as_ref()?.choice.reason.clone())
    }

    /// What sandboxes have to do without here.
    pub(super) fn lacks(&self) -> &[String] {
        self.executor.as_ref().and_then(|executor| executor.lacks.get()).map(Vec::as_slice).unwrap_or_default()
    }

    /// What the checks of the kernel go by.
    pub(super) fn attempt(&self) -> Attempt {
        match &self.outcome {
            _ if self.wanted == Some(Isolation::None) => Attempt::NotNeeded,
            Ok(_) => Attempt::Worked,
            Err(failure) => Attempt::Failed(failure.cause.clone()),
        }
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The check that knows why no sandbox stood up.
    pub(super) fn blame(&self) -> Option<&'static str> {
        self.kernel.blame(&self.attempt())
    }

    /// Whether a program of this interpreter runs, too; `None` when none does.
    pub(super) async fn of_language(
        &mut self,
        config: &Config,
        interpreter: &Interpreter,
    ) -> Option<Result<(), String>> {
        let executor = self.executor.as_mut().filter(|_| self.outcome.is_ok())?;
        // The probe takes one of the interpreters that there are.
        executor.interpreters = HashMap::from([(interpreter.language, Ok(Arc::new(interpreter.clone())))]);
        Some(executor.probe(config).await)
    }

    /// What this code prints in a sandbox; `None` when it does not run.
    pub(super) async fn printed(&mut self, config: &Config, interpreter: &Interpreter, code: &str) -> Option<String> {
        let executor = self.executor.as_mut().filter(|_| self.outcome.is_ok())?;
        executor.interpreters.insert(interpreter.language, Ok(Arc::new(interpreter.clone())));
        let answer = executor.execute_quietly(probe_request(config, interpreter.language, code)).await.ok()?;
        answer.error.is_none().then_some(answer.stdout)
    }

    /// What limits can be set.
    pub(super) fn cgroups(&self) -> Cgroups {
        match &self.executor {
            Some(executor) => executor.ground.cgroups.as_ref().clone(),
            None => Cgroups::detect(&self.instance),
        }
    }

    /// Removes what was made for it. The groups of the last executions may still be on their way out, on other threads,
    /// and would keep the instance's own from being removed.
    pub(super) fn close(self) {
        let cgroups = self.cgroups();
        cgroups.sweep().ok();
        cgroups.close();
    }
}

/// How long a program takes in a sandbox. What is slow once may only be cold, so that is tried again.
async fn timed(executor: &Executor, config: &Config) -> Result<Duration, String> {
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        executor.probe(config).await?;
        least = least.min(start.elapsed());
        if least < SLOW {
            break;
        }
    }
    Ok(least)
}

/// The configuration without what other checks find: an interpreter that is not there must not hide the isolation.
fn trial_config(config: &Config, workspace_path: PathBuf, interpreters: &[Found]) -> Config {
    let mut config = config.clone();
    config.workspace_path = workspace_path;
    for found in interpreters.iter().filter(|found| found.interpreter.is_err()) {
        match found.language {
            Language::Python => config.python_path = None,
            Language::Javascript => config.node_path_bin = None,
            Language::Shell => config.shell_path = None,
        }
    }
    config
}

pub(super) fn sandbox(config: &Config, trial: &Trial) -> Check {
    const NAME: &str = "sandbox";
    match &trial.outcome {
        Ok(_) if config.isolation == Isolation::None => Check::warning(
            NAME,
            "ISOLATION=none: code runs with the rights of this service, nothing is isolated",
            "unset ISOLATION",
        )
        .seen(format!("a program ran as uid {} on the bare machine", rustix::process::geteuid().as_raw())),
        Ok(took) if !trial.lacks().is_empty() => {
            let (causes, fixes): (Vec<&str>, Vec<&str>) = trial.lacks().iter().map(|lack| split(lack)).unzip();
            let evidence = format!("a program ran in one by {}, {} ms", by(trial), took.as_millis());
            Check::warning(NAME, causes.join("\n"), fixes.join("\n")).seen(evidence)
        }
        Ok(took) => Check::ok(NAME, format!("a program ran in one by {}, {} ms", by(trial), took.as_millis())),
        Err(failure) => Check::problem(NAME, failure.cause.clone(), fix(config, trial, failure)),
    }
}

/// The check of `/proc`; a sandbox that stands up without one is worth a warning where that is why.
pub(super) fn proc(trial: &Trial) -> Check {
    let check = super::kernel::proc(&trial.kernel, &trial.attempt());
    if !trial.lacks().iter().any(|lack| lack.contains("/proc")) {
        return check;
    }
    let check = super::kernel::proc(&trial.kernel, &Attempt::Failed(String::new()));
    let cause = check.cause.map(|cause| format!("{cause}; {} does without one", by(trial)));
    Check { status: if cause.is_some() { Status::Warning } else { check.status }, cause, ..check }
}

fn by(trial: &Trial) -> String {
    match trial.isolation() {
        Some((name, Some(version))) => format!("{name} {version}"),
        Some((name, None)) => name.to_owned(),
        None => "nothing".to_owned(),
    }
}

fn fix(config: &Config, trial: &Trial, failure: &Failure) -> String {
    let wants_bubblewrap = matches!(config.isolation, Isolation::Auto | Isolation::Bubblewrap);
    if config.disable_bwrap && config.isolation == Isolation::Auto {
        "unset DISABLE_BWRAP".into()
    } else if failure.cause.contains("temporary folder") {
        "let this user write to /tmp, or set TMPDIR to a folder where it can (docker run --tmpfs /tmp …)".into()
    } else if wants_bubblewrap && super::adapters::installed_bubblewrap().cause.is_some() {
        "the fix of `bubblewrap`".into()
    } else if let Some(check) = trial.blame() {
        format!("the fix of `{check}`")
    } else if !failure.fix.is_empty() {
        failure.fix.clone()
    } else if trial.kernel.container {
        sandbox::failure::CONTAINER_FIX.to_owned()
    } else {
        "try `bwrap --ro-bind / / --unshare-all --unshare-user /bin/echo Hello`: what it says is the cause; \
         `sandbox-executor doctor --report FILE` writes what a bug report needs"
            .into()
    }
}

/// Whether starting a sandbox is what makes executions slow.
pub(super) fn sandbox_speed(trial: &Trial) -> Check {
    const NAME: &str = "sandbox speed";
    match &trial.outcome {
        Err(_) => Check::skipped(NAME, "no program ran"),
        Ok(took) if *took < SLOW => {
            Check::ok(NAME, format!("{} ms for the smallest program, by {}", took.as_millis(), by(trial)))
        }
        Ok(took) => {
            let cause = format!("starting a sandbox is slow: the smallest program took {} ms", took.as_millis());
            let fix = "see `machine CPU` and `disk speed`; give the machine more CPU (docker run --cpus 2 …); \
                       lower MAX_CONCURRENT_EXECUTIONS; update the isolation adapter (bwrap --version)";
            Check::warning(NAME, cause, fix).seen(format!("{}, the least of three times", by(trial)))
        }
    }
}

/// Whether executions at once take about as long as one of them, as the troubleshooting document has it tried.
pub(super) async fn at_once(config: &Config, trial: &mut Trial, shell: Option<&Interpreter>) -> Check {
    const NAME: &str = "at once";
    let (Ok(one), Some(shell)) = (trial.outcome.clone(), shell) else {
        return Check::skipped(NAME, "no shell ran in a sandbox");
    };
    let Some(executor) = trial.executor.as_mut() else { return Check::skipped(NAME, "no program ran") };
    executor.interpreters.insert(Language::Shell, Ok(Arc::new(shell.clone())));
    let executor = &*executor;
    let run = async || {
        let code = format!("sleep {}", SLEEP.as_secs_f64());
        let answer = executor.execute_quietly(probe_request(config, Language::Shell, &code)).await;
        answer.is_ok_and(|answer| answer.error.is_none())
    };
    let start = Instant::now();
    let (a, b, c, d, e) = tokio::join!(run(), run(), run(), run(), run());
    let took = start.elapsed();
    let limit = config.max_concurrent_executions;
    let evidence = format!(
        "{AT_ONCE} that sleep {} ms each took {} ms together; MAX_CONCURRENT_EXECUTIONS = {limit}",
        SLEEP.as_millis(),
        took.as_millis()
    );
    if ![a, b, c, d, e].iter().all(|ran| *ran) {
        let cause = format!("of {AT_ONCE} executions at once not all succeeded");
        return Check::warning(NAME, cause, "lower MAX_CONCURRENT_EXECUTIONS; see `machine memory`").seen(evidence);
    }
    // Their starts may wait for each other on one core, their sleeps may not.
    if took > SLEEP * (AT_ONCE - 1) + one * AT_ONCE {
        let fix = "see `machine CPU`; give the machine more CPU (docker run --cpus 2 …), or lower \
                   MAX_CONCURRENT_EXECUTIONS";
        return Check::warning(NAME, "executions at once wait for each other", fix).seen(evidence);
    }
    if limit == 1 {
        let cause = "MAX_CONCURRENT_EXECUTIONS = 1: of executions at once all but one wait for their turn";
        return Check::warning(NAME, cause, "export MAX_CONCURRENT_EXECUTIONS=100").seen(evidence);
    }
    Check::ok(NAME, evidence)
}

#[cfg(test)]
impl Trial {
    /// One that nobody made.
    pub(super) fn assumed(
        adapter: Option<&'static str>,
        outcome: Result<(), &str>,
        refused: Vec<(&'static str, String)>,
    ) -> Self {
        let outcome = outcome.map(|()| Duration::ZERO).map_err(Failure::told);
        let (kernel, executor, wanted) = (Kernel::default(), None, None);
        let instance = State::new_instance();
        Self { kernel, executor, outcome, adapter, refused, wanted, instance, _home: None }
    }
}
