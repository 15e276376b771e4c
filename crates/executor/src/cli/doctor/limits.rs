//! The limits: whether the kernel can enforce them here, and whether their values make sense together.

use std::time::Duration;

use sandbox::limits::Cgroups;

use super::{Check, Status};
use crate::config::{Config, ConfigError};

/// Whether the limits of memory, processes and CPU are the kernel's.
pub(super) fn limits(config: &Config, cgroups: &Cgroups) -> Vec<Check> {
    let by = cgroups.version().map(|version| format!("cgroup v{version}")).unwrap_or_default();
    let sentences = cgroups.unavailable();
    // Each sentence begins with what is lost; one that names no limit is about all of them.
    let about = |word: &str| -> Vec<&String> {
        let concerns = |sentence: &&String| {
            let lost = sentence.split(':').next().unwrap_or_default();
            lost.contains(word) || lost.contains("No limits")
        };
        sentences.iter().filter(concerns).collect()
    };
    let limit = |name, enforced: bool, word: &str, set: String| match about(word) {
        lost if enforced && lost.is_empty() => Check::ok(name, format!("{set}, {by}")),
        lost => {
            let (causes, mut fixes): (Vec<&str>, Vec<&str>) = lost.into_iter().map(|sentence| split(sentence)).unzip();
            fixes.dedup();
            Check::warning(name, causes.join("\n"), fixes.join("\n")).seen(set)
        }
    };
    let memory = limit("memory limit", cgroups.memory(), "memory", format!("MAX_MEMORY_MB = {}", config.max_memory_mb));
    vec![
        scarce_memory(config.max_memory_mb, memory),
        limit("process limit", cgroups.pids(), "processes", format!("MAX_PROCESSES = {}", config.max_processes)),
        limit("CPU limit", cgroups.cpu(), "CPU", format!("MAX_CPU_CORES = {}", config.max_cpu_cores)),
    ]
}

/// An interpreter starts with less, but what people do in one is ended.
const LITTLE_MEMORY_MB: u64 = 64;

fn scarce_memory(max_memory_mb: u64, check: Check) -> Check {
    if check.status != Status::Ok || max_memory_mb >= LITTLE_MEMORY_MB {
        return check;
    }
    let cause = "programs that use a library or two are ended for lack of memory: MemoryError, Killed";
    Check::warning(check.name, cause, "export MAX_MEMORY_MB=1024").seen(check.evidence)
}

/// What is wrong, and the fix that the sentence ends with.
pub(super) fn split(sentence: &str) -> (&str, &str) {
    sentence.rsplit_once("; ").unwrap_or((sentence, "run the service as root with its cgroup writable"))
}

/// With a shorter one a cold interpreter on a busy machine may be ended before its code begins.
const SHORT: Duration = Duration::from_secs(2);

/// How long executions may take, and where that is set.
pub(super) fn timeouts(config: &Config) -> Check {
    const NAME: &str = "timeouts";
    let (default, largest) = (config.max_execution_time, config.max_timeout);
    let evidence = format!(
        "{} s unless a request says otherwise (MAX_EXECUTION_TIME, {}), {} s at most (MAX_TIMEOUT, {})",
        default.as_secs(),
        config.source("MAX_EXECUTION_TIME"),
        largest.as_secs(),
        config.source("MAX_TIMEOUT"),
    );
    if default < SHORT {
        let cause = "an execution that asks for no timeout of its own is ended almost at its start: Execution timeout";
        let fix = if largest < SHORT {
            "export MAX_EXECUTION_TIME=300 MAX_TIMEOUT=3600"
        } else {
            "export MAX_EXECUTION_TIME=300, or give each request a `timeout`, or its event an `__timeout`"
        };
        return Check::warning(NAME, cause, fix).seen(evidence);
    }
    Check::ok(NAME, evidence + "; a request's own: `timeout`, or `__timeout` in its event")
}

/// The two that were set against each other: the configuration has no other rule that spans settings.
pub(super) fn contradicting_timeouts(error: &ConfigError) -> Option<Check> {
    let ConfigError::BadValue { name: "MAX_EXECUTION_TIME", allowed, .. } = error else { return None };
    let cause = "the timeout of a request that asks for none, MAX_EXECUTION_TIME, is larger than the largest that a \
                 request may ask for, MAX_TIMEOUT";
    let fix =
        "raise MAX_TIMEOUT (export MAX_TIMEOUT=3600), or lower MAX_EXECUTION_TIME (export MAX_EXECUTION_TIME=300)";
    allowed.contains("MAX_TIMEOUT").then(|| Check::problem("timeouts", cause, fix).seen(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fix_is_the_end_of_the_sentence() {
        let (cause, fix) = split("The share of CPU is not limited: making /x failed: no (a; b); run it as root");
        assert_eq!(cause, "The share of CPU is not limited: making /x failed: no (a; b)");
        assert_eq!(fix, "run it as root");
        assert_eq!(split("No limits").0, "No limits");
    }

    #[test]
    fn a_default_timeout_that_ends_everything_is_told() {
        assert_eq!(timeouts(&Config::of(&[])).status, Status::Ok);
        let check = timeouts(&Config::of(&[("MAX_EXECUTION_TIME", "1")]));
        assert_eq!(check.status, Status::Warning);
        assert!(check.fix.unwrap().contains("__timeout"));
        let check = timeouts(&Config::of(&[("MAX_TIMEOUT", "1")]));
        assert!(check.fix.unwrap().contains("MAX_TIMEOUT=3600"));
    }
}
