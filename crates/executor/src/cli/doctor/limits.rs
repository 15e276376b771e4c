//! What executions run on: the interpreters, and the limits that the kernel can enforce here.

use runtime::{Interpreter, Language};
use sandbox::limits::Cgroups;

use super::Check;
use super::isolation::Trial;
use crate::config::Config;

const MIB: u64 = 1024 * 1024;

/// A language with its interpreter, or why it has none.
pub(super) struct Found {
    pub language: Language,
    /// Whether somebody named it.
    configured: bool,
    pub interpreter: Result<Interpreter, String>,
}

pub(super) fn interpreters(config: &Config) -> Vec<Found> {
    let find = |language| {
        let configured = match language {
            Language::Python => config.python_path.as_deref(),
            Language::Javascript => config.node_path_bin.as_deref(),
            Language::Shell => config.shell_path.as_deref(),
        };
        let interpreter = Interpreter::find(language, configured).map_err(|error| error.to_string());
        Found { language, configured: configured.is_some(), interpreter }
    };
    Language::ALL.into_iter().map(find).collect()
}

/// A check a language. One that nobody named may be missing as long as another is there.
pub(super) async fn languages(config: &Config, found: &[Found], trial: &mut Trial) -> Vec<Check> {
    let none = found.iter().all(|found| found.interpreter.is_err());
    let mut checks = Vec::new();
    for Found { language, configured, interpreter } in found {
        let name = language.name();
        checks.push(match interpreter {
            Ok(interpreter) => runs(config, interpreter, trial).await,
            Err(cause) if *configured => {
                let variable = language.variable();
                let fix = format!("correct {variable}, or unset it to have {name} looked for in the system's folders");
                Check::problem(name, format!("{variable} is not usable: {cause}"), fix)
            }
            Err(cause) => {
                let packages = match language {
                    Language::Python => "apt-get install python3",
                    Language::Javascript => "apt-get install nodejs",
                    Language::Shell => "apt-get install bash",
                };
                let fix = format!("{packages}, or set {}", language.variable());
                if none { Check::problem(name, cause, fix) } else { Check::warning(name, cause, fix) }
            }
        });
    }
    checks
}

/// Whether it runs in a sandbox, too.
async fn runs(config: &Config, interpreter: &Interpreter, trial: &mut Trial) -> Check {
    let (language, name) = (interpreter.language, interpreter.language.name());
    let program = if language == Language::Javascript { "node " } else { "" };
    let evidence = format!("{program}{} ({})", interpreter.version, interpreter.path.display());
    match trial.of_language(config, interpreter).await {
        None => Check::ok(name, format!("{evidence}; not tried in a sandbox")),
        Some(Ok(())) => Check::ok(name, evidence),
        Some(Err(cause)) => {
            let fix = format!(
                "take an interpreter from the system's packages, or name another one with {}: libraries outside /usr \
                 and its own folder are not visible in a sandbox; if memory ran out: export MAX_MEMORY_MB=1024",
                language.variable()
            );
            Check::warning(name, format!("it does not run in a sandbox: {cause}"), fix).seen(evidence)
        }
    }
}

/// Whether the limits of memory, processes and CPU are the kernel's, and whether the machine has what they promise.
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
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut checks = vec![
        limit("memory limit", cgroups.memory(), "memory", format!("MAX_MEMORY_MB = {}", config.max_memory_mb)),
        limit("process limit", cgroups.pids(), "processes", format!("MAX_PROCESSES = {}", config.max_processes)),
        limit("CPU limit", cgroups.cpu(), "CPU", format!("MAX_CPU_CORES = {} of {cores}", config.max_cpu_cores)),
    ];
    checks.push(machine_memory(config.max_memory_mb, memory_here()));
    checks
}

/// What is wrong, and the fix that the sentence ends with.
fn split(sentence: &str) -> (&str, &str) {
    sentence.rsplit_once("; ").unwrap_or((sentence, "run the service as root with its cgroup writable"))
}

fn machine_memory(wanted_mb: u64, here: Option<u64>) -> Check {
    const NAME: &str = "machine memory";
    match here {
        None => Check::skipped(NAME, "/proc/meminfo does not tell"),
        Some(bytes) if bytes < wanted_mb * MIB => {
            let cause = format!("one execution may use MAX_MEMORY_MB = {wanted_mb}, and there are {} MB", bytes / MIB);
            Check::warning(NAME, cause, "give the container more (docker run -m 2g …), or lower MAX_MEMORY_MB")
        }
        Some(bytes) => Check::ok(NAME, format!("{} MB", bytes / MIB)),
    }
}

/// The machine's memory or the container's share of it, whichever is less.
fn memory_here() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    limits.chain(total).min()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn the_fix_is_the_end_of_the_sentence() {
        let (cause, fix) = split("The share of CPU is not limited: making /x failed: no (a; b); run it as root");
        assert_eq!(cause, "The share of CPU is not limited: making /x failed: no (a; b)");
        assert_eq!(fix, "run it as root");
        assert_eq!(split("No limits").0, "No limits");
    }

    #[test]
    fn more_memory_than_there_is_can_not_be_promised() {
        assert_eq!(machine_memory(512, Some(512 * MIB)).status, Status::Ok);
        assert_eq!(machine_memory(512, Some(256 * MIB)).status, Status::Warning);
        assert_eq!(machine_memory(512, None).status, Status::Skipped);
        assert!(memory_here().is_some());
    }
}
