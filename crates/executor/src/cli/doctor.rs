//! `doctor`: whether code can be run on this machine, and if not, why and what to do about it.
//!
//! Every cause that the troubleshooting document names is looked at, and every finding is plain data ([`Check`]) with
//! the evidence beside it. What can be tried is tried: the proof that isolation works is a program that ran in a sandbox,
//! and kernel settings are blamed only when that failed. Nothing is changed: what is made for a test is removed again.
//! A `problem` means that the service would not start or not run code; all else that is not as it should be, a `warning`.

mod adapters;
mod control_plane;
mod disk;
pub(super) mod folders;
mod interpreters;
mod kernel;
mod limits;
mod machine;
pub(super) mod network;
mod report;
mod trial;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use runtime::Language;
use serde::Serialize;

use crate::config::{Config, ConfigError, Isolation};
use kernel::{Attempt, Kernel};
use trial::Trial;

/// The sections of the troubleshooting document, and the checks that look for the causes that each of them names.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "1. bubblewrap: permissions",
        &[
            "user namespaces",
            "AppArmor",
            "capabilities",
            "seccomp",
            "proc",
            "Landlock",
            "host uids",
            "native",
            "bubblewrap",
            "sandbox",
        ],
    ),
    ("2. executions time out", &["timeouts"]),
    ("3. the network between containers", &["control plane DNS", "control plane TCP", "control plane HTTP", "reports"]),
    ("4. bubblewrap on macOS", &["seatbelt"]),
    ("5. modules are not found", &["python", "python modules", "javascript", "shell"]),
    ("6. permissions of the workspace", &["workspace", "state"]),
    ("7. out of memory", &["memory limit", "machine memory"]),
    ("debugging", &["configuration", "log file", "port", "access"]),
    ("performance: CPU", &["machine CPU", "CPU limit", "process limit"]),
    ("performance: slow executions", &["sandbox speed", "at once", "disk", "disk speed"]),
];

/// What to print.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print a JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Also write a bug report to this file, secrets redacted
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Code runs, but something is not as it should be.
    Warning,
    /// Code does not run.
    Problem,
    /// Does not matter with this configuration, or could not be looked at.
    Skipped,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Skipped => "skipped",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    /// Of the troubleshooting document.
    section: &'static str,
    status: Status,
    /// What was seen.
    evidence: String,
    /// What is wrong.
    cause: Option<String>,
    /// What to do about it.
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, evidence: impl Into<String>) -> Self {
        let section = SECTIONS.iter().find(|(_, checks)| checks.contains(&name)).map_or("", |(section, _)| section);
        Self { name, section, status: Status::Ok, evidence: evidence.into(), cause: None, fix: None }
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self { status: Status::Skipped, ..Self::ok(name, why) }
    }

    fn warning(name: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Warning, cause: Some(cause.into()), fix: Some(fix.into()), ..Self::ok(name, "") }
    }

    fn problem(name: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Problem, ..Self::warning(name, cause, fix) }
    }

    fn seen(self, evidence: impl Into<String>) -> Self {
        Self { evidence: evidence.into(), ..self }
    }
}

/// What keeps executions apart, as far as it is known.
#[derive(Debug, Default, Serialize)]
struct Isolated {
    /// The value of ISOLATION.
    wanted: Option<String>,
    /// The adapter that was chosen.
    adapter: Option<&'static str>,
    /// Of the program that isolates, where there is one.
    version: Option<String>,
    /// Why this adapter and no other.
    reason: Option<String>,
    /// Whether a program ran in a sandbox.
    works: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    healthy: bool,
    isolation: Isolated,
    checks: Vec<Check>,
}

impl Findings {
    fn new(isolation: Isolated, checks: Vec<Check>) -> Self {
        let healthy = checks.iter().all(|check| check.status != Status::Problem);
        Self { version: env!("CARGO_PKG_VERSION"), healthy, isolation, checks }
    }
}

/// Looks at everything and prints what it found; returns 0 if code can be run here, 1 if not. `ids`: what came of
/// [`super::serve::take_subordinate_ids`].
///
/// # Errors
/// The report can't be written.
pub async fn run(config: Result<Config, ConfigError>, ids: Option<String>, arguments: &Arguments) -> Result<u8> {
    let findings = match &config {
        Ok(config) => examine(config, ids.as_deref()).await,
        Err(error) => without_configuration(error),
    };
    let printed = if arguments.json {
        serde_json::to_string_pretty(&findings)? + "\n"
    } else {
        format!("sandbox-executor {}\n\n{}", env!("CARGO_PKG_VERSION"), text(&findings))
    };
    // That nobody reads any more changes nothing.
    let mut out = std::io::stdout().lock();
    out.write_all(printed.as_bytes()).and_then(|()| out.flush()).ok();
    if let Some(path) = &arguments.report {
        report::write(path, config.as_ref().ok(), &findings).with_context(|| format!("--report {}", path.display()))?;
        eprintln!("Bug report written to {}: read it through before you send it.", path.display());
    }
    Ok(if findings.healthy { 0 } else { 1 })
}

async fn examine(config: &Config, ids: Option<&str>) -> Findings {
    let found = interpreters::interpreters(config);
    let mut trial = Trial::run(config, Kernel::read(), &found).await;
    let (port, serving) = network::port(config).await;
    let (kernel, attempt) = (trial.kernel(), trial.attempt());
    let mut checks = vec![
        Check::ok("configuration", "every value is allowed"),
        kernel::user_namespaces(kernel, &attempt),
        kernel::apparmor(kernel, &attempt),
        kernel::capabilities(kernel, &attempt),
        kernel::seccomp(kernel, &attempt),
        trial::proc(&trial),
        kernel::landlock(&attempt),
    ];
    checks.push(adapters::host_uids(config, ids));
    checks.extend(adapters::adapters(config, &trial));
    checks.push(trial::sandbox(config, &trial));
    checks.extend([folders::workspace(config), folders::state(config, serving)]);
    checks.extend([disk::room(config), disk::speed(config).await]);
    checks.extend(interpreters::languages(config, &found, &mut trial).await);
    checks.push(limits::timeouts(config));
    checks.extend(limits::limits(config, &trial.cgroups()));
    checks.extend([machine::memory(config), machine::cpu(config)]);
    let shell = found.iter().find(|found| found.language == Language::Shell);
    let shell = shell.and_then(|found| found.interpreter.as_ref().ok());
    checks.extend([trial::sandbox_speed(&trial), trial::at_once(config, &mut trial, shell).await]);
    checks.extend([port, network::access(config)]);
    checks.extend(control_plane::control_plane(config).await);
    checks.push(control_plane::reports(config).await);
    checks.push(folders::log_file(config));
    let (adapter, version) = trial.isolation().map_or((None, None), |(name, version)| (Some(name), version));
    let works = trial.works() && config.isolation != Isolation::None;
    let (wanted, reason) = (Some(config.isolation.to_string()), trial.reason());
    trial.close();
    Findings::new(Isolated { wanted, adapter, version, reason, works }, checks)
}

/// What can be seen of the machine when nobody knows what is wanted of it.
fn without_configuration(error: &ConfigError) -> Findings {
    let fix = "correct the value where it is set; `sandbox-executor --help` says what each setting may be";
    let kernel = Kernel::read();
    let mut checks = vec![Check::problem("configuration", error.to_string(), fix)];
    checks.extend(limits::contradicting_timeouts(error));
    checks.extend([
        kernel::user_namespaces(&kernel, &Attempt::NotMade),
        kernel::apparmor(&kernel, &Attempt::NotMade),
        adapters::bubblewrap_if_wanted(),
    ]);
    for name in SECTIONS.iter().flat_map(|(_, names)| *names) {
        if checks.iter().all(|check| check.name != *name) {
            checks.push(Check::skipped(name, "the configuration has to be right first"));
        }
    }
    Findings::new(Isolated::default(), checks)
}

/// The findings for people: a line a check, what is wrong and the fix below it.
fn text(findings: &Findings) -> String {
    let widest = findings.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let margin = " ".repeat("warning  ".len() + widest + 2);
    let mut text = String::new();
    for check in &findings.checks {
        let evidence = Some(&check.evidence).filter(|evidence| !evidence.is_empty());
        let (first, seen) = match &check.cause {
            Some(cause) => (cause.as_str(), evidence),
            None => (check.evidence.as_str(), None),
        };
        let name = check.status.name();
        let _ = writeln!(text, "{name:7}  {:widest$}  {}", check.name, indented(first, &margin));
        for (label, value) in [("seen: ", seen), ("fix:  ", check.fix.as_ref())] {
            if let Some(value) = value {
                let _ = writeln!(text, "{margin}{label}{}", indented(value, &format!("{margin}      ")));
            }
        }
    }
    let count = |status| findings.checks.iter().filter(|check| check.status == status).count();
    let of = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (problems, warnings) = (of(count(Status::Problem), "problem"), of(count(Status::Warning), "warning"));
    let verdict = if findings.healthy { "Executions can run here" } else { "Executions cannot run here" };
    let _ = writeln!(text, "\n{verdict}: {problems}, {warnings}.");
    if findings.isolation.adapter == Some("none") {
        let _ = writeln!(text, "NOTHING IS ISOLATED: with ISOLATION=none code can do whatever this user can.");
    }
    text
}

/// Several lines under each other. What other programs said must not steer the terminal.
fn indented(text: &str, margin: &str) -> String {
    let visible = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    let lines = text.trim().lines().map(|line| line.chars().map(visible).collect::<String>());
    lines.collect::<Vec<_>>().join(&format!("\n{margin}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let checks = vec![
            Check::ok("user namespaces", "user.max_user_namespaces = 1"),
            Check::warning("memory limit", "is not enforced", "run it as root\nor delegate it").seen("a file"),
            Check::skipped("control plane", "CONTROL_PLANE_URL is not set"),
            Check::problem("workspace", "not \u{1b}[31mwritable", "chmod 755 /workspace"),
        ];
        Findings::new(Isolated::default(), checks)
    }

    #[test]
    fn people_get_a_line_a_check_and_the_fix_below() {
        insta::assert_snapshot!(text(&findings()), @r"
        ok       user namespaces  user.max_user_namespaces = 1
        warning  memory limit     is not enforced
                                  seen: a file
                                  fix:  run it as root
                                        or delegate it
        skipped  control plane    CONTROL_PLANE_URL is not set
        problem  workspace        not \u{1b}[31mwritable
                                  fix:  chmod 755 /workspace

        Executions cannot run here: 1 problem, 1 warning.
        ");
    }

    #[test]
    fn programs_get_an_object() {
        let object = serde_json::to_value(findings()).unwrap();
        assert_eq!(object["healthy"], false);
        assert_eq!(object["checks"][1]["status"], "warning");
        assert_eq!(object["checks"][0]["fix"], serde_json::Value::Null);
        assert_eq!(object["checks"][0]["section"], "1. bubblewrap: permissions");
    }

    #[test]
    fn that_nothing_is_isolated_is_the_last_word() {
        let none = Isolated { adapter: Some("none"), ..Isolated::default() };
        assert!(text(&Findings::new(none, Vec::new())).trim_end().ends_with("code can do whatever this user can."));
        assert!(!text(&findings()).contains("NOTHING"));
    }

    #[test]
    fn a_warning_is_no_reason_to_fail() {
        assert!(Findings::new(Isolated::default(), vec![Check::warning("a", "b", "c")]).healthy);
    }
}
