//! `doctor`: every cause of the troubleshooting document is made true for one process and has to be named with its fix;
//! beside each stands the same check without the problem.
//!
//! Nothing of the host is changed. What has to be broken is broken in a mount or user namespace of the test's own, by a
//! system call filter on the process, or in a folder of its own.

#![cfg(target_os = "linux")]

mod adapters;
mod kernel;
mod machine;
mod network;
mod report;
mod storage;

use conformance::{Home, is_root, output_within, skipped, started_by};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

/// An ordinary user that owns nothing.
const SOMEBODY: u32 = 12_345;

/// `doctor --json` with bubblewrap, whatever `auto` would take here.
fn doctor(home: &Home) -> Command {
    let mut command = home.command();
    command.args(["doctor", "--json"]).env("EXECUTOR_PORT", "0").env("ISOLATION", "bubblewrap");
    command
}

/// The same command in a mount namespace of its own, after this script.
fn after_mounts(script: &str, inner: &Command) -> Command {
    let script = format!("set -e\n{script}\nexec \"$@\"");
    started_by(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"], inner)
}

/// The same command under a system call filter.
fn under_seccomp(arguments: &[&str], inner: &Command) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/under_seccomp.py");
    started_by(&[&["/usr/bin/python3", "-I", script], arguments].concat(), inner)
}

/// What it found.
struct Findings(Value);

/// Runs it; the exit status has to be what it says itself.
#[track_caller]
fn findings(command: &mut Command) -> Findings {
    found_in(&output_within(120, command))
}

#[track_caller]
fn found_in(output: &Output) -> Findings {
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said()));
    let exit_code = if found["healthy"] == true { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(exit_code), "{}", said());
    Findings(found)
}

impl Findings {
    #[track_caller]
    fn check(&self, name: &str) -> &Value {
        let checks = self.0["checks"].as_array().expect("checks");
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {checks:#?}"))
    }

    #[track_caller]
    fn text(&self, name: &str, member: &str) -> &str {
        self.check(name)[member].as_str().unwrap_or_else(|| panic!("no {member} in {:#}", self.check(name)))
    }

    /// The check is ok.
    #[track_caller]
    fn assert_ok(&self, name: &str) {
        assert_eq!(self.check(name)["status"], "ok", "{:#}", self.check(name));
    }

    /// The check has this status, names this cause, and its fix has all of these words.
    #[track_caller]
    fn assert_named(&self, name: &str, status: &str, cause: &str, fix: &[&str]) {
        let check = self.check(name);
        assert_eq!(check["status"], status, "{check:#}");
        assert!(self.text(name, "cause").contains(cause), "{cause:?} is not in {check:#}");
        for words in fix {
            assert!(self.text(name, "fix").contains(words), "{words:?} is not in {check:#}");
        }
        if status == "problem" {
            assert_eq!(self.0["healthy"], false, "{check:#}");
        }
    }

    /// No program ran in a sandbox, and the fix is said to be that of this check.
    #[track_caller]
    fn assert_blamed(&self, name: &str) {
        self.assert_named("sandbox", "problem", "", &[&format!("the fix of `{name}`")]);
        assert_eq!(self.0["isolation"]["works"], false, "{:#}", self.0["isolation"]);
    }
}

/// The same command by an ordinary user.
fn as_somebody(inner: &Command) -> Command {
    let (uid, gid) = (format!("--reuid={SOMEBODY}"), format!("--regid={SOMEBODY}"));
    started_by(&["setpriv", &uid, &gid, "--clear-groups"], inner)
}

/// Lets an ordinary user through this home and gives him a state folder. Returns whether he can start the program at all.
fn home_of_somebody(home: &Home) -> bool {
    std::fs::set_permissions(home.path(""), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    std::fs::create_dir(home.path("state")).expect("a folder");
    std::os::unix::fs::chown(home.path("state"), Some(SOMEBODY), Some(SOMEBODY)).expect("an owner");
    let version = as_somebody(Command::new(conformance::binary()).arg("--version")).output();
    version.is_ok_and(|output| output.status.success())
}

#[test]
fn every_section_of_the_document_has_its_checks() {
    let home = Home::new();
    let found = findings(&mut doctor(&home));
    let checks = found.0["checks"].as_array().expect("checks");
    for section in [
        "1. bubblewrap: permissions",
        "2. executions time out",
        "3. the network between containers",
        "4. bubblewrap on macOS",
        "5. modules are not found",
        "6. permissions of the workspace",
        "7. out of memory",
        "debugging",
        "performance: CPU",
        "performance: slow executions",
    ] {
        assert!(checks.iter().any(|check| check["section"] == section), "no check of {section}");
    }
    for check in checks {
        assert_eq!(conformance::keys(check), ["cause", "evidence", "fix", "name", "section", "status"]);
        assert_ne!(check["section"], "", "{check:#}");
        let wrong = check["status"] == "problem" || check["status"] == "warning";
        assert_eq!((check["cause"].is_string(), check["fix"].is_string()), (wrong, wrong), "{check:#}");
        assert!(wrong || check["evidence"] != "", "{check:#}");
    }
    let mut names: Vec<&str> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), checks.len(), "a name twice");
    assert_eq!(found.0["healthy"], true, "{:#}", found.0);
    assert_eq!(found.0["isolation"]["adapter"], "bubblewrap");
    assert_eq!(found.0["isolation"]["works"], true);
    assert!(found.0["isolation"]["version"].is_string());
    assert!(found.0["version"].is_string());
}

#[test]
fn a_configuration_that_can_not_be_used_still_gets_every_check() {
    let home = Home::new();
    let found = findings(doctor(&home).env("MAX_MEMORY_MB", "lots"));
    found.assert_named("configuration", "problem", "MAX_MEMORY_MB = lots", &["--help"]);
    let well = findings(&mut doctor(&home));
    well.assert_ok("configuration");
    let names = |found: &Findings| {
        let checks = found.0["checks"].as_array().expect("checks").iter();
        let mut names: Vec<String> = checks.map(|check| check["name"].to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&found), names(&well));
}

#[test]
fn nothing_is_left_behind() {
    let home = Home::new();
    std::fs::create_dir(home.path("workspaces")).expect("a folder");
    findings(&mut doctor(&home));
    let left = |name: &str| std::fs::read_dir(home.path(name)).expect("a folder").count();
    assert_eq!((left("workspaces"), left("")), (0, 1), "the workspace folder, empty, is all there is");
}
