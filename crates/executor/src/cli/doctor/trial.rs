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

use super::Check;
use super::adapters::PassedOver;
use super::interpreters::Found;
use super::kernel::{Attempt, Kernel, PRIVILEGED};
use crate::cli::serve;
use crate::config::{Config, Isolation};
use crate::pipeline::{Executor, probe_request};
use crate::state::State;

/// A shell in a sandbox of its own that takes longer is slow: on a small machine it is a tenth of that.
const SLOW: Duration = Duration::from_millis(500);
/// How many are run at once to see that they do not wait for each other, and how long each sleeps.
const AT_ONCE: u32 = 5;
const SLEEP: Duration = Duration::from_millis(200);

pub(super) struct Trial {
    kernel: Kernel,
    /// What was made, or why it was not.
    executor: Result<Executor, String>,
    /// How long the program took, or why it did not run.
    outcome: Result<Duration, String>,
    adapter: Option<&'static str>,
    passed_over: Vec<PassedOver>,
    wanted: Option<Isolation>,
    instance: String,
    /// Its workspace root: the service's may be unusable, which is another check's finding.
    _home: Option<tempfile::TempDir>,
}

impl Trial {
    /// Runs a small program the way executions are run.
    pub(super) async fn run(config: &Config, kernel: Kernel, interpreters: &[Found]) -> Self {
        let instance = State::new_instance();
        let (home, executor) = match tempfile::tempdir().context("a temporary folder can't be made") {
            Ok(home) => {
                let path = home.path().join("workspaces");
                (Some(home), serve::build(&trial_config(config, path, interpreters), &instance).await)
            }
            Err(error) => (None, Err(error)),
        };
        let executor = executor.map_err(|error| format!("{error:#}"));
        let outcome = match &executor {
            Ok(executor) => timed(executor, config).await,
            Err(reason) => Err(reason.clone()),
        };
        let adapter = executor.as_ref().ok().map(|executor| executor.isolation.name());
        // The one place for what `serve::build` says of the adapters that `auto` can't use: each becomes a row.
        let passed_over = Vec::new();
        let wanted = Some(config.isolation);
        Self { kernel, executor, outcome, adapter, passed_over, wanted, instance, _home: home }
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
        let isolation = &self.executor.as_ref().ok()?.isolation;
        Some((isolation.name(), isolation.version().map(str::to_owned)))
    }

    pub(super) fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// What the checks of the kernel go by.
    pub(super) fn attempt(&self) -> Attempt {
        match &self.outcome {
            _ if self.wanted == Some(Isolation::None) => Attempt::NotNeeded,
            Ok(_) => Attempt::Worked,
            Err(reason) => Attempt::Failed(reason.clone()),
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
        let executor = self.executor.as_mut().ok().filter(|_| self.outcome.is_ok())?;
        // The probe takes one of the interpreters that there are.
        executor.interpreters = HashMap::from([(interpreter.language, Ok(Arc::new(interpreter.clone())))]);
        Some(executor.probe(config).await)
    }

    /// What this code prints in a sandbox; `None` when it does not run.
    pub(super) async fn printed(&mut self, config: &Config, interpreter: &Interpreter, code: &str) -> Option<String> {
        let executor = self.executor.as_mut().ok().filter(|_| self.outcome.is_ok())?;
        executor.interpreters.insert(interpreter.language, Ok(Arc::new(interpreter.clone())));
        let answer = executor.execute_quietly(probe_request(config, interpreter.language, code)).await.ok()?;
        answer.error.is_none().then_some(answer.stdout)
    }

    /// What limits can be set.
    pub(super) fn cgroups(&self) -> Cgroups {
        match &self.executor {
            Ok(executor) => executor.ground.cgroups.as_ref().clone(),
            Err(_) => Cgroups::detect(&self.instance),
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
        Ok(took) => Check::ok(NAME, format!("a program ran in one by {}, {} ms", by(trial), took.as_millis())),
        Err(reason) => Check::problem(NAME, reason.clone(), fix(config, trial, reason)),
    }
}

fn by(trial: &Trial) -> String {
    match trial.isolation() {
        Some((name, Some(version))) => format!("{name} {version}"),
        Some((name, None)) => name.to_owned(),
        None => "nothing".to_owned(),
    }
}

fn fix(config: &Config, trial: &Trial, reason: &str) -> String {
    let wants_bubblewrap = matches!(config.isolation, Isolation::Auto | Isolation::Bubblewrap);
    if config.disable_bwrap && config.isolation == Isolation::Auto {
        "unset DISABLE_BWRAP".into()
    } else if reason.contains("temporary folder") {
        "let this user write to /tmp, or set TMPDIR to a folder where it can (docker run --tmpfs /tmp …)".into()
    } else if wants_bubblewrap && super::adapters::installed_bubblewrap().cause.is_some() {
        "the fix of `bubblewrap`".into()
    } else if let Some(check) = trial.blame() {
        format!("the fix of `{check}`")
    } else if trial.kernel.container {
        format!(
            "let the container make namespaces: docker run --security-opt seccomp=unconfined --security-opt \
             apparmor=unconfined --security-opt systempaths=unconfined …\n{PRIVILEGED}"
        )
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
    let Ok(executor) = trial.executor.as_mut() else { return Check::skipped(NAME, "no program ran") };
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
        passed_over: Vec<PassedOver>,
    ) -> Self {
        let outcome = outcome.map(|()| Duration::ZERO).map_err(str::to_owned);
        let (kernel, executor, wanted) = (Kernel::default(), Err("assumed".into()), None);
        let instance = State::new_instance();
        Self { kernel, executor, outcome, adapter, passed_over, wanted, instance, _home: None }
    }
}
