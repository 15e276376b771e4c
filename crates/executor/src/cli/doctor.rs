//! `doctor`: whether code can be run on this machine, and if not, why and what to do about it.
//!
//! Every cause that the troubleshooting document names is looked at, and every finding is plain data ([`Check`]) with
//! the evidence beside it. What can be tried is tried: the proof that isolation works is a program that ran in a sandbox,
//! and kernel settings are blamed only when that failed. Nothing is changed: what is made for a test is removed again.
//! A `problem` means that the service would not start or not run code; all else that is not as it should be, a `warning`.

mod folders;
mod isolation;
mod limits;
mod network;
mod report;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use crate::config::{Config, ConfigError};
use isolation::{Kernel, Trial};

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
        Self { name, status: Status::Ok, evidence: evidence.into(), cause: None, fix: None }
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, status: Status::Skipped, evidence: why.into(), cause: None, fix: None }
    }

    fn warning(name: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        let (cause, fix) = (Some(cause.into()), Some(fix.into()));
        Self { name, status: Status::Warning, evidence: String::new(), cause, fix }
    }

    fn problem(name: &'static str, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Problem, ..Self::warning(name, cause, fix) }
    }

    fn seen(self, evidence: impl Into<String>) -> Self {
        Self { evidence: evidence.into(), ..self }
    }
}

#[derive(Serialize)]
struct Findings {
    healthy: bool,
    checks: Vec<Check>,
}

impl Findings {
    fn new(checks: Vec<Check>) -> Self {
        Self { healthy: checks.iter().all(|check| check.status != Status::Problem), checks }
    }
}

/// Looks at everything and prints what it found; returns 0 if code can be run here, 1 if not.
///
/// # Errors
/// The report can't be written.
pub async fn run(config: Result<Config, ConfigError>, arguments: &Arguments) -> Result<u8> {
    let findings = match &config {
        Ok(config) => examine(config).await,
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

async fn examine(config: &Config) -> Findings {
    let kernel = Kernel::read();
    let interpreters = limits::interpreters(config);
    let mut trial = Trial::run(config, &interpreters).await;
    let (port, serving) = network::port(config).await;
    let mut checks = vec![
        Check::ok("configuration", "every value is allowed"),
        isolation::user_namespaces(&kernel, config.isolation, trial.works()),
        isolation::seccomp(&kernel, config.isolation, trial.works()),
        isolation::bubblewrap(config),
    ];
    checks.extend(isolation::seatbelt(config));
    checks.extend([
        isolation::sandbox(config, &kernel, &trial),
        folders::workspace(config),
        folders::state(config, serving),
        folders::disk(config),
    ]);
    checks.extend(limits::languages(config, &interpreters, &mut trial).await);
    checks.extend(limits::limits(config, &trial.cgroups()));
    checks.push(port);
    checks.extend([network::access(config), network::control_plane(config).await, folders::log_file(config)]);
    trial.close();
    Findings::new(checks)
}

/// What can be seen of the machine when nobody knows what is wanted of it.
fn without_configuration(error: &ConfigError) -> Findings {
    let fix = "correct the value where it is set; `sandbox-executor --help` says what each setting may be";
    let rest = "the configuration has to be right first";
    Findings::new(vec![
        Check::problem("configuration", error.to_string(), fix),
        isolation::user_namespaces(&Kernel::read(), crate::config::Isolation::Auto, None),
        isolation::installed_bubblewrap(),
        Check::skipped("sandbox", rest),
        Check::skipped("workspace", rest),
        Check::skipped("limits", rest),
        Check::skipped("network", rest),
    ])
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
        Findings::new(vec![
            Check::ok("user namespaces", "user.max_user_namespaces = 1"),
            Check::warning("memory limit", "is not enforced", "run it as root\nor delegate it").seen("a file"),
            Check::skipped("control plane", "CONTROL_PLANE_URL is not set"),
            Check::problem("workspace", "not \u{1b}[31mwritable", "chmod 755 /workspace"),
        ])
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
    }

    #[test]
    fn a_warning_is_no_reason_to_fail() {
        assert!(Findings::new(vec![Check::warning("a", "b", "c")]).healthy);
    }
}
