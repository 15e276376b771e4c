//! Problem 6 and slow disks: the folders.

use crate::{SOMEBODY, after_mounts, as_somebody, doctor, findings, home_of_somebody, is_root, under_seccomp};
use conformance::Home;

/// As the document has it.
const FIX: [&str; 3] = ["chmod 755", "mkdir -p", "export WORKSPACE_PATH=/tmp/sandbox_workspace"];

#[test]
fn a_workspace_that_may_not_be_written() {
    if !is_root("a workspace that may not be written") {
        return;
    }
    let home = Home::new();
    let workspace = home.path("workspaces");
    std::fs::create_dir(&workspace).expect("a folder");
    let read_only = format!("mount -t tmpfs -o ro tmpfs {}", workspace.display());
    let found = findings(&mut after_mounts(&read_only, &doctor(&home)));
    found.assert_named("workspace", "problem", "Read-only file system", &FIX);
    found.assert_ok("sandbox");
    let well = findings(&mut after_mounts(&read_only.replace("-o ro ", ""), &doctor(&home)));
    well.assert_ok("workspace");

    // An ordinary user before a folder of root's, and before one of his.
    if !home_of_somebody(&home) {
        return crate::skipped("the workspace of an ordinary user", "the program lies where only root reads");
    }
    let found = findings(&mut as_somebody(&doctor(&home)));
    found.assert_named("workspace", "problem", "Permission denied", &FIX);
    assert!(found.text("workspace", "evidence").contains("mode 0755 of uid 0, and this is uid 12345"));
    std::os::unix::fs::chown(&workspace, Some(SOMEBODY), Some(SOMEBODY)).expect("an owner");
    findings(&mut as_somebody(&doctor(&home))).assert_ok("workspace");
}

#[test]
fn a_disk_that_is_full_or_out_of_inodes() {
    if !is_root("a disk that is full or out of inodes") {
        return;
    }
    let home = Home::new();
    let workspace = home.path("workspaces").display().to_string();
    std::fs::create_dir(&workspace).expect("a folder");
    let disk = |options: &str, then: &str| {
        let script = format!("mount -t tmpfs -o {options} tmpfs {workspace}; {then}");
        findings(&mut after_mounts(&script, &doctor(&home)))
    };
    let fix = ["remove old sessions", "WORKSPACE_PATH"];
    let full = disk("size=4m", &format!("dd if=/dev/zero of={workspace}/full bs=1M 2>/dev/null || true"));
    full.assert_named("disk", "problem", "the disk is full", &fix);
    assert!(full.text("disk", "evidence").starts_with("workspace 0 MB free"));
    disk("size=300m,nr_inodes=1", "true").assert_named("disk", "problem", "out of inodes", &fix);
    disk("size=300m,nr_inodes=50", "true").assert_named("disk", "warning", "inodes run out", &fix);
    disk("size=50m", "true").assert_named("disk", "warning", "MAX_FILE_SIZE_MB", &fix);

    let well = disk("size=300m", "true");
    well.assert_ok("disk");
    well.assert_ok("workspace");
    assert!(well.text("disk", "evidence").contains("in memory (tmpfs)"));
}

#[test]
fn a_disk_that_is_slow() {
    if !is_root("a disk that is slow") {
        return;
    }
    let home = Home::new();
    let memory = format!("mkdir -p {0}; mount -t tmpfs tmpfs {0}", home.path("workspaces").display());
    let taking = |ms: &str| findings(&mut after_mounts(&memory, &under_seccomp(&["fsync-takes", ms], &doctor(&home))));
    let found = taking("120");
    found.assert_named("disk speed", "warning", "the disk is slow", &["use faster storage (SSD)"]);
    assert!(found.text("disk speed", "evidence").contains("64 KiB"));
    let found = taking("6000");
    found.assert_named("disk speed", "warning", "the disk hangs", &["use faster storage (SSD)"]);
    taking("0").assert_ok("disk speed");
}

#[test]
fn a_state_folder_and_a_log_file_that_can_not_be_used() {
    let home = Home::new();
    let file = home.write("file", "not a folder");
    let below = file.join("below");
    let found = findings(doctor(&home).env("STATE_PATH", &below).env("LOG_FILE", &below));
    found.assert_named("state", "problem", "is not a folder", &["mkdir -p", "chmod 700", "STATE_PATH="]);
    found.assert_named("log file", "problem", "is not a folder", &["mkdir -p"]);
    let well = findings(doctor(&home).env("LOG_FILE", home.path("executor.log")));
    well.assert_ok("state");
    well.assert_ok("log file");
    assert!(well.text("log file", "evidence").contains("LOG_LEVEL=DEBUG"));
}
