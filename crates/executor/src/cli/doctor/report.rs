//! The bug report: what the troubleshooting document asks for, in one file that can be sent to strangers.
//!
//! Secrets are cut out of the whole text at the end, whatever part they got into: the known ones, what follows
//! "Bearer", and user and password of an address.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{Findings, Isolated, text};
use crate::config::Config;

const LINES: usize = 50;
/// Fifty lines are looked for in this much of the log's end.
const END_OF_LOG: u64 = 1024 * 1024;
/// Characters kept of a line of the log.
const LONGEST_LINE: usize = 2000;
const REDACTED: &str = "[redacted]";

/// Writes it, readable by its owner only.
///
/// # Errors
/// As the system said.
pub(super) fn write(path: &Path, config: Option<&Config>, findings: &Findings) -> io::Result<()> {
    let report = report(config, findings);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // The mode above is for a new file; one that was there may be everybody's to read, and /dev/stdout is no file.
    if file.metadata()?.is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    file.write_all(report.as_bytes())
}

fn report(config: Option<&Config>, findings: &Findings) -> String {
    let seen = |name: &str| {
        let check = findings.checks.iter().find(|check| check.name == name);
        check.map_or("not looked at", |check| check.cause.as_deref().unwrap_or(&check.evidence)).to_owned()
    };
    let profile = if cfg!(debug_assertions) { ", debug build" } else { "" };
    let mut out = String::from("# Bug report\n\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "**{name}**: {}", value.replace('\n', " / "));
    };
    line("Version", &format!("sandbox-executor {}{profile}", env!("CARGO_PKG_VERSION")));
    line("OS", &os());
    line("User", &format!("uid {}", rustix::process::geteuid().as_raw()));
    line("Isolation", &isolation(findings));
    for name in ["sandbox", "native", "bubblewrap", "seatbelt", "Landlock", "python", "javascript", "shell"] {
        line(name, &seen(name));
    }
    for name in ["memory limit", "process limit", "CPU limit", "timeouts", "disk", "machine memory", "machine CPU"] {
        line(name, &seen(name));
    }
    line("service", &seen("port"));
    out.push_str("\n**Error**: (paste the whole error message here)\n\n");
    out.push_str("**Code**: (the smallest code that shows it)\n\n");
    section(&mut out, "Checks", &text(findings));
    if let Some(config) = config {
        section(&mut out, "Configuration", &configuration(config));
        let title = format!("Logs (last {LINES} lines)");
        let logs = match &config.log_file {
            None => "LOG_FILE is not set; please add the last lines of the service's stderr".to_owned(),
            Some(path) => match end_of(path, &secrets(config)) {
                Ok(lines) if lines.is_empty() => format!("{} is empty", path.display()),
                Ok(lines) => lines,
                Err(error) => format!("{} can't be read: {error}", path.display()),
            },
        };
        section(&mut out, &title, &logs);
    }
    redacted(&out, &config.map(secrets).unwrap_or_default())
}

fn isolation(findings: &Findings) -> String {
    let Isolated { wanted, adapter, version, reason, works } = &findings.isolation;
    let adapter = adapter.unwrap_or("no adapter");
    let version = version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
    let verdict = match (adapter, works) {
        ("none", _) => "NOTHING IS ISOLATED",
        (_, true) => "a program ran in a sandbox",
        (_, false) => "no program ran in a sandbox",
    };
    let reason = reason.as_deref().map(|reason| format!("; {reason}")).unwrap_or_default();
    format!("ISOLATION={}; {adapter}{version}; {verdict}{reason}", wanted.as_deref().unwrap_or("(not known)"))
}

/// Indented, which nothing in it can end.
fn section(out: &mut String, title: &str, content: &str) {
    let _ = write!(out, "## {title}\n\n");
    for line in content.lines() {
        let visible: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        let _ = writeln!(out, "{}", format!("    {visible}").trim_end());
    }
    out.push('\n');
}

fn os() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name =
        release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown").trim_matches('"');
    let kernel = rustix::system::uname();
    let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let container = if super::Kernel::read().container { ", in a container" } else { "" };
    format!(
        "{name}; {} {} {} {}{container}",
        part(kernel.sysname()),
        part(kernel.release()),
        part(kernel.version()),
        part(kernel.machine())
    )
}

fn configuration(config: &Config) -> String {
    config.entries().fold(String::new(), |mut text, entry| {
        let value = entry.value.as_deref().unwrap_or("(none)");
        let _ = writeln!(text, "{} = {value}   # {}", entry.name, entry.source);
        text
    })
}

fn secrets(config: &Config) -> Vec<String> {
    config.log_settings().secrets
}

/// The last lines of a log. Only of a regular file: reading another one may never end.
fn end_of(path: &Path, secrets: &[String]) -> io::Result<String> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let skipped = metadata.len().saturating_sub(END_OF_LOG);
    file.seek(SeekFrom::Start(skipped))?;
    let mut end = Vec::new();
    file.take(END_OF_LOG).read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    // What is left of a line that began before may begin with half a secret.
    let whole = if skipped == 0 { &*end } else { end.split_once('\n').map_or("", |(_, whole)| whole) };
    let lines: Vec<&str> = whole.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LINES));
    // Secrets go before lines are cut, or a half would stay.
    Ok(last.map(|line| shortened(&redacted(line, secrets)) + "\n").collect())
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Without the secrets, as they are and as JSON writes them, the longest first.
fn redacted(text: &str, secrets: &[String]) -> String {
    let mut forms: Vec<String> = secrets.iter().filter(|secret| !secret.is_empty()).cloned().collect();
    forms.extend(forms.clone().iter().map(|secret| {
        let quoted = serde_json::Value::from(secret.as_str()).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    }));
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let known = forms.iter().fold(text.to_owned(), |text, form| text.replace(form.as_str(), REDACTED));
    without_passwords(&without_bearer(&known))
}

/// The word after each "Bearer ", whoever's token it is.
fn without_bearer(text: &str) -> String {
    const WORD: &str = "bearer ";
    let lower = text.to_ascii_lowercase();
    let (mut out, mut at) = (String::new(), 0);
    while let Some(found) = lower[at..].find(WORD) {
        let start = at + found + WORD.len();
        let length = text[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ','))
            .unwrap_or(text.len() - start);
        out.push_str(&text[at..start]);
        out.push_str(if length == 0 { "" } else { REDACTED });
        at = start + length;
    }
    out + &text[at..]
}

/// User and password of each address: what is between `://` and the last `@` before its path.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(part.len());
        out.push_str("://");
        match part[..end].rfind('@') {
            Some(sign) => {
                out.push_str(REDACTED);
                out.push_str(&part[sign..]);
            }
            None => out.push_str(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Check;
    use super::*;

    #[test]
    fn it_says_what_is_asked_for_and_no_secret() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("executor.log");
        let mut lines: String = (1..=60).map(|number| format!("[INFO] line {number}.\n")).collect();
        lines.push_str("[ERROR] sent canary-internal to http://user:canary-password@control-plane:8000/x\n");
        lines.push_str("{\"message\":\"Authorization: Bearer canary-other\"}\n");
        std::fs::write(&log, lines).unwrap();
        let config = Config::of(&[
            ("LOG_FILE", log.to_str().unwrap()),
            ("EXECUTOR_API_TOKEN", "canary-api"),
            ("INTERNAL_API_TOKEN", "canary-internal"),
        ]);
        let findings = vec![Check::problem("workspace", "not writable: canary-api", "chmod 755 /workspace")];
        let findings = Findings::new(Isolated::default(), findings);
        let path = home.path().join("report.md");
        std::fs::write(&path, "an older one, everybody's to read").unwrap();
        write(&path, Some(&config), &findings).unwrap();
        let report = std::fs::read_to_string(&path).unwrap();
        assert!(!report.contains("canary"), "{report}");
        for part in
            ["**Version**: sandbox-executor ", "**OS**: ", "MAX_MEMORY_MB = 512", "chmod 755", "line 60.", "line 13."]
        {
            assert!(report.contains(part), "{part} is not in {report}");
        }
        assert!(!report.contains("line 12."), "{report}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn secrets_go_whatever_they_are_in() {
        let secrets = ["ab\"c".to_owned(), "ab".to_owned()];
        assert_eq!(redacted("ab\"c ab\\\"c ab", &secrets), "[redacted] [redacted] [redacted]");
        assert_eq!(redacted("BEARER x, Bearer ", &[]), "BEARER [redacted], Bearer ");
        assert_eq!(redacted("https://a:b@c/d@e http://f/", &[]), "https://[redacted]@c/d@e http://f/");
        assert_eq!(redacted("no secret: é", &[]), "no secret: é");
    }

    #[test]
    fn a_log_that_is_no_file_is_not_read() {
        assert!(end_of(Path::new("/dev/zero"), &[]).is_err());
        assert!(end_of(Path::new("/nowhere"), &[]).is_err());
    }
}
