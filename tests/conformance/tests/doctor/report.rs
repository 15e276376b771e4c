//! `--report`: what the troubleshooting document asks for in a bug report, and no secret.

use crate::doctor;
use conformance::{Home, output_within};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LOG_LINES: usize = 50;

fn written(home: &Home, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let path = home.path("report.md");
    let output = output_within(60, doctor(home).arg("--report").arg(&path).envs(environment.iter().copied()));
    (output.status.code(), std::fs::read_to_string(path).expect("the report"))
}

#[test]
fn it_has_versions_system_isolation_limits_and_the_end_of_the_log() {
    let home = Home::new();
    let lines: String = (1..=80).map(|n| format!("2026-01-09T10:00:00.000Z [INFO] line {n}.\n")).collect();
    let log = home.write("executor.log", &lines);
    let (code, report) = written(&home, &[("LOG_FILE", log.to_str().expect("text")), ("MAX_PROCESSES", "77")]);
    assert_eq!(code, Some(0), "{report}");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a version");
    for part in [
        "**Version**: sandbox-executor ",
        "**OS**: ",
        kernel.trim(),
        "**Isolation**: ISOLATION=bubblewrap; bubblewrap 0.",
        "a program ran in a sandbox",
        "**bubblewrap**: bwrap 0.",
        "**Landlock**: ",
        "**python**: 3.",
        "**javascript**: node ",
        "**shell**: ",
        "**memory limit**: ",
        "**process limit**: ",
        "**CPU limit**: ",
        "**timeouts**: 300 s",
        "**machine memory**: ",
        "MAX_PROCESSES = 77   # environment",
        "MAX_MEMORY_MB = 512   # default",
        "**Error**: ",
        "**Code**: ",
        "Executions can run here: 0 problems",
        "line 80.",
        "line 31.",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert_eq!(report.matches("[INFO] line ").count(), LOG_LINES);
    assert_eq!(std::fs::metadata(home.path("report.md")).expect("it").permissions().mode() & 0o777, 0o600);
}

#[test]
fn it_has_no_secret() {
    let home = Home::new();
    let log = home.write(
        "executor.log",
        "[ERROR] sent canary-internal-token\n[ERROR] Authorization: Bearer canary-of-a-client\n\
         [ERROR] https://user:canary-password@index.example/simple\n[ERROR] canary-api-token.\n[INFO] the last line\n",
    );
    let secrets = [
        ("EXECUTOR_API_TOKEN", "canary-api-token"),
        ("INTERNAL_API_TOKEN", "canary-internal-token"),
        ("LOG_FILE", log.to_str().expect("text")),
    ];
    let (_, report) = written(&home, &secrets);
    assert!(report.contains("the last line") && report.contains("[redacted]"), "{report}");
    assert!(!report.contains("canary"), "{report}");
    let output = output_within(60, doctor(&home).envs(secrets));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("canary"));
}

#[test]
fn it_is_written_when_something_is_wrong() {
    let home = Home::new();
    let (code, report) = written(&home, &[("WORKSPACE_PATH", "/dev/null/workspace")]);
    assert_eq!(code, Some(1));
    assert!(report.contains("problem  workspace") && report.contains("chmod 755 /dev/null/workspace"), "{report}");
    let (code, report) = written(&home, &[("MAX_MEMORY_MB", "lots"), ("EXECUTOR_API_TOKEN", "canary")]);
    assert_eq!(code, Some(1));
    assert!(report.contains("MAX_MEMORY_MB = lots") && !report.contains("canary"), "{report}");
    let (_, report) = written(&home, &[("ISOLATION", "none")]);
    assert!(report.contains("**Isolation**: ISOLATION=none; none; NOTHING IS ISOLATED"), "{report}");
}

#[test]
fn a_report_that_can_not_be_written_is_told() {
    let home = Home::new();
    let unwritable = Path::new("/dev/null/report.md");
    let output = output_within(60, doctor(&home).arg("--report").arg(unwritable));
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("--report /dev/null/report.md"), "{error}");
}
