//! Problems 2 and 7 and the section on performance: timeouts, memory, CPU.

use crate::{after_mounts, doctor, findings, is_root, skipped};
use conformance::Home;
use std::path::PathBuf;

#[test]
fn timeouts_that_end_everything_or_contradict_each_other() {
    let home = Home::new();
    let found = findings(doctor(&home).env("MAX_EXECUTION_TIME", "600").env("MAX_TIMEOUT", "60"));
    let fix = ["export MAX_TIMEOUT=3600", "MAX_EXECUTION_TIME=300"];
    found.assert_named("timeouts", "problem", "is larger than the largest", &fix);
    found.assert_named("configuration", "problem", "MAX_EXECUTION_TIME = 600 (environment)", &[]);

    let found = findings(doctor(&home).env("MAX_EXECUTION_TIME", "1"));
    found.assert_named("timeouts", "warning", "Execution timeout", &["MAX_EXECUTION_TIME=300", "timeout", "__timeout"]);

    let well = findings(doctor(&home).env("MAX_EXECUTION_TIME", "60").env("MAX_TIMEOUT", "600"));
    well.assert_ok("timeouts");
    well.assert_ok("configuration");
    assert!(well.text("timeouts", "evidence").contains("60 s unless a request says otherwise"));
}

#[test]
fn more_memory_than_the_machine_has() {
    let home = Home::new();
    let found = findings(doctor(&home).env("MAX_MEMORY_MB", "16777216"));
    let fix = ["docker run -m 2g", "lower MAX_MEMORY_MB"];
    found.assert_named("machine memory", "warning", "one execution may use MAX_MEMORY_MB = 16777216", &fix);

    let found = findings(doctor(&home).env("MAX_CONCURRENT_EXECUTIONS", "100000"));
    let fix = ["export MAX_CONCURRENT_EXECUTIONS=", "lower MAX_MEMORY_MB"];
    found.assert_named("machine memory", "warning", "MAX_CONCURRENT_EXECUTIONS = 100000", &fix);

    findings(doctor(&home).env("MAX_MEMORY_MB", "64").env("MAX_CONCURRENT_EXECUTIONS", "2"))
        .assert_ok("machine memory");
}

#[test]
fn less_memory_than_programs_need() {
    let home = Home::new();
    let well = findings(&mut doctor(&home));
    if well.check("memory limit")["status"] != "ok" {
        return skipped("less memory than programs need", "this host does not let memory be limited");
    }
    let found = findings(doctor(&home).env("MAX_MEMORY_MB", "32"));
    found.assert_named("memory limit", "warning", "MemoryError, Killed", &["export MAX_MEMORY_MB=1024"]);
}

#[test]
fn a_container_with_less_memory_than_an_execution_may_use() {
    if !is_root("a container with less memory than an execution may use") {
        return;
    }
    let Some(group) = MemoryGroup::with(300 << 20) else {
        return skipped("a container with less memory", "no memory group of version 1 can be made here");
    };
    let home = Home::new();
    let inside = format!("echo $$ >{}", group.0.join("cgroup.procs").display());
    let found = findings(&mut after_mounts(&inside, &doctor(&home)));
    found.assert_named("machine memory", "warning", "there are 300 MB", &["docker run -m 2g"]);
    let well = findings(&mut after_mounts(
        &inside,
        doctor(&home).env("MAX_MEMORY_MB", "128").env("MAX_CONCURRENT_EXECUTIONS", "2"),
    ));
    well.assert_ok("machine memory");
    assert_eq!(group.groups_in_it(), 0, "what doctor made for its programs is gone with it");
}

/// A group below the tests' own, removed with it.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn with(bytes: u64) -> Option<MemoryGroup> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory{own}/doctor-test-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let group = MemoryGroup(path);
        std::fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(group)
    }

    fn groups_in_it(&self) -> usize {
        let entries = std::fs::read_dir(&self.0).expect("the group").flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

#[test]
fn more_cores_than_the_machine_has_and_a_machine_that_is_busy() {
    if !is_root("more cores than the machine has and a machine that is busy") {
        return;
    }
    let home = Home::new();
    // A mask over a part of /proc is in the way of every sandbox, so this is tried without one.
    let loaded = |load: &str, cores: &str| {
        let file = home.write("loadavg", &format!("{load} 0.00 0.00 1/100 1\n"));
        let script = format!("mount --bind {} /proc/loadavg", file.display());
        findings(&mut after_mounts(&script, doctor(&home).env("ISOLATION", "none").env("MAX_CPU_CORES", cores)))
    };
    let found = loaded("0.10", "1024");
    found.assert_named("machine CPU", "warning", "MAX_CPU_CORES = 1024", &["export MAX_CPU_CORES="]);
    let found = loaded("9999.50", "1");
    let fix = ["docker stats", "export MAX_CONCURRENT_EXECUTIONS="];
    found.assert_named("machine CPU", "warning", "more to do than its cores can", &fix);
    assert!(found.text("machine CPU", "evidence").contains("load 9999.50"));
    loaded("0.10", "1").assert_ok("machine CPU");
}

#[test]
fn executions_one_after_the_other() {
    let home = Home::new();
    let found = findings(doctor(&home).env("MAX_CONCURRENT_EXECUTIONS", "1"));
    found.assert_named("at once", "warning", "wait for their turn", &["MAX_CONCURRENT_EXECUTIONS=100"]);
    let well = findings(&mut doctor(&home));
    well.assert_ok("at once");
    assert!(well.text("at once", "evidence").contains("took"));
}
