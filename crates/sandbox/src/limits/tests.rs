//! Tests on the real kernel. What this host does not allow is skipped with a line that says why.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::hierarchy::{Controller, Hierarchy, mounts, own_group};
use super::*;

pub(crate) fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(10),
        memory_bytes: 64 << 20,
        cpu_cores: 1.5,
        processes: 32,
        file_size_bytes: 10 << 20,
        output_bytes: 1 << 20,
    }
}

/// An instance of its own for each test: they run side by side.
fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Cgroups with all controllers, or a line that says why not. Version 2 is tried in the one group only that may have both
/// processes and groups, the top of the system: in any other the test's own process, with all other tests in it, would
/// move. `make vm-test` has such a machine.
fn all_controllers() -> Option<Cgroups> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mounts(&mountinfo);
    let version = if cgroup_v2::in_use(&mounts, &own) { 2 } else { 1 };
    if version == 2 && !cgroup_v2::is_at_the_top(&mounts, &own) {
        eprintln!("SKIPPED: this host uses version 2 of cgroups, and the test's own process would have to move");
        return None;
    }
    let cgroups = Cgroups::detect(&instance());
    if !(cgroups.memory() && cgroups.pids() && cgroups.cpu()) {
        eprintln!("SKIPPED: {:?}", cgroups.unavailable());
        return None;
    }
    assert_eq!(cgroups.version(), Some(version));
    Some(cgroups)
}

/// The same where the host has this version.
fn all_of_version(version: u8) -> Option<Cgroups> {
    let cgroups = all_controllers()?;
    if cgroups.version() == Some(version) {
        return Some(cgroups);
    }
    eprintln!("SKIPPED: this host does not use version {version} of cgroups");
    cgroups.close();
    None
}

/// A group in the unified hierarchy, without any controller; or a line that says why not.
pub(super) fn unified_group(child: &str) -> Option<Hierarchy> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let made = mounts(&mountinfo)
        .iter()
        .filter(|mount| mount.is_v2)
        .find_map(|mount| mount.directory(own_group(&own, None)?))
        .ok_or_else(|| io::Error::other("no cgroup2 mount"))
        .and_then(|own| Hierarchy::open(own.join(format!("{GROUP_PREFIX}{}", instance())), Vec::new()))
        .and_then(|hierarchy| hierarchy.make(child).map(|()| hierarchy));
    made.inspect_err(|error| eprintln!("SKIPPED: no group of version 2 can be made: {error}")).ok()
}

/// A shell that waits for a line before it runs `script`, so that it can be attached first.
fn held(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("read -r line; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh")
}

fn release(child: &mut Child) {
    child.stdin.as_mut().expect("stdin").write_all(b"go\n").expect("a line");
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn read(group: &Cgroup, cgroups: &Cgroups, controller: Controller, file: &str) -> String {
    let hierarchy = cgroups.shared.with(controller).expect("a hierarchy");
    hierarchy.read(group.name(), file).expect("a file").trim().to_owned()
}

#[test]
fn the_share_of_cpu_stays_within_what_the_kernel_takes() {
    assert_eq!(cpu_quota_us(1.0), 100_000);
    assert_eq!(cpu_quota_us(0.0001), 1_000);
    assert_eq!(cpu_quota_us(-1.0), 1_000);
    assert_eq!(cpu_quota_us(f64::NAN), 1_000);
    assert_eq!(cpu_quota_us(f64::INFINITY), 1_000_000_000);
}

#[test]
fn a_name_is_one_plain_path_component() {
    assert!(valid_name("exec-1_a.B"));
    for name in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
        assert!(!valid_name(name), "{name:?}");
    }
}

#[test]
fn an_instance_that_is_no_name_gets_nothing_and_a_reason() {
    let cgroups = Cgroups::detect("../x");
    assert_eq!(cgroups.version(), None);
    assert_eq!(cgroups.unavailable().len(), 1);
    let group = cgroups.create("a", &limits()).expect("an empty value");
    assert_eq!(group.usage(), CgroupUsage::default());
    assert!(!group.oom_killed() && group.oom_watch().is_none());
    group.kill().expect("nothing to kill");
    group.remove().expect("nothing to remove");
    assert_eq!(cgroups.sweep().expect("nothing to sweep"), 0);
}

#[test]
fn a_group_has_its_limits_and_leaves_nothing_behind() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("one", &limits()).expect("a group");
    let expected: &[_] = match cgroups.shared.version {
        Version::V1 => &[
            (Controller::Memory, "memory.limit_in_bytes", "67108864"),
            (Controller::Memory, "memory.swappiness", "0"),
            (Controller::Pids, "pids.max", "32"),
            (Controller::Cpu, "cpu.cfs_quota_us", "150000"),
            (Controller::Cpu, "cpu.cfs_period_us", "100000"),
        ],
        Version::V2 => &[
            (Controller::Memory, "memory.max", "67108864"),
            (Controller::Memory, "memory.swap.max", "0"),
            (Controller::Memory, "memory.oom.group", "1"),
            (Controller::Pids, "pids.max", "32"),
            (Controller::Cpu, "cpu.max", "150000 100000"),
        ],
    };
    for &(controller, file, value) in expected {
        assert_eq!(read(&group, &cgroups, controller, file), value, "{file}");
    }
    let again = cgroups.create("one", &limits()).expect_err("it exists");
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    for name in RESERVED {
        let reserved = cgroups.create(name, &limits()).expect_err("reserved");
        assert_eq!(reserved.kind(), io::ErrorKind::InvalidInput);
    }
    group.remove().expect("removed");
    drop(cgroups.create("two", &limits()).expect("a group"));
    let paths: Vec<_> = cgroups.shared.hierarchies.iter().map(|hierarchy| hierarchy.path.clone()).collect();
    assert!(cgroups.shared.hierarchies.iter().all(|hierarchy| hierarchy.groups().expect("a list").is_empty()));
    cgroups.close();
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn a_tighter_share_of_cpu_above_is_no_failure() {
    let Some(cgroups) = all_controllers() else { return };
    let cpu = cgroups.shared.with(Controller::Cpu).expect("a hierarchy");
    // Version 1 refuses the wider share below; version 2 takes it and lets the tighter one hold.
    let (file, value) = match cgroups.shared.version {
        Version::V1 => ("cpu.cfs_quota_us", "-1"),
        Version::V2 => ("cpu.max", "150000 100000"),
    };
    file::write_at(cpu.directory(), file, "50000").expect("half a core");
    let group = cgroups.create("above", &limits()).expect("a group");
    assert_eq!(read(&group, &cgroups, Controller::Cpu, file), value);
    group.kill().expect("nothing to kill");
    group.remove().expect("removed");
    cgroups.close();
}

#[test]
fn usage_counts_the_memory_and_in_v2_the_cpu_time_of_what_was_attached() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("usage", &limits()).expect("a group");
    let mut child = held("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
    group.attach(pid(&child)).expect("attached");
    release(&mut child);
    assert!(child.wait().expect("an end").success());
    let usage = group.usage();
    match cgroups.version() {
        Some(2) => assert!(usage.cpu_time.is_some_and(|time| time > Duration::from_millis(5)), "{usage:?}"),
        _ => assert_eq!(usage.cpu_time, None),
    }
    assert!(usage.peak_memory_bytes.is_some_and(|bytes| bytes > 4096 && bytes <= 64 << 20), "{usage:?}");
    assert!(!group.oom_killed());
    group.remove().expect("removed");
    cgroups.close();
}

#[test]
fn a_thread_can_enter_by_itself_in_v1() {
    let Some(cgroups) = all_of_version(1) else { return };
    let group = cgroups.create("enter", &limits()).expect("a group");
    let entrances = group.entrances().expect("entrances");
    assert_eq!(entrances.len(), cgroups.shared.hierarchies.len());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            enter(&entrances).expect("entered");
            let me = rustix::thread::gettid().as_raw_nonzero().to_string();
            for controller in [Controller::Memory, Controller::Pids, Controller::Cpu] {
                assert_eq!(read(&group, &cgroups, controller, "tasks"), me);
            }
        });
    });
    group.remove().expect("removed");
    cgroups.close();
}

/// Runs this in a group with these limits and lets go of that; its name.
fn leave_a_group(cgroups: &Cgroups, name: &str, limits: &Limits, script: &str, is_vacant: bool) -> String {
    let mut group = cgroups.create(name, limits).expect("a group");
    let mut child = held(script);
    group.attach(pid(&child)).expect("attached");
    release(&mut child);
    child.wait().expect("an end");
    if is_vacant {
        group.vacate();
    }
    group.name().to_owned()
}

fn is_there(cgroups: &Cgroups, name: &str) -> bool {
    cgroups.shared.hierarchies.iter().any(|hierarchy| hierarchy.path.join(name).exists())
}

#[test]
fn a_group_that_was_left_as_new_serves_another_execution_in_v1() {
    let Some(cgroups) = all_of_version(1) else { return };
    // What a processor has set aside for a group is given back a while after it was charged.
    let leave = |name: &str| leave_a_group(&cgroups, name, &limits(), "x=$(printf %02000000d 1)", true);
    let kept = |name: &str| (0..100).any(|_| leave(name) == name && is_there(&cgroups, name));
    assert!(kept("first"));
    let other = Limits { processes: 7, ..limits() };
    drop(cgroups.create("other", &other).expect("a group"));
    let again = cgroups.create("second", &limits()).expect("the first");
    assert_eq!(again.name(), "first");
    assert_eq!(read(&again, &cgroups, Controller::Memory, "memory.limit_in_bytes"), "67108864");
    assert!(again.usage().peak_memory_bytes.is_some_and(|bytes| bytes < 1 << 20), "{:?}", again.usage());
    assert!(cgroups.create("third", &limits()).expect("a group").name() == "third");
    again.remove().expect("removed");
    assert!(kept("last"));
    let mut in_use = cgroups.create("in-use", &limits()).expect("the last");
    assert_eq!(in_use.name(), "last");
    in_use.vacate();
    in_use.occupy();
    drop(in_use);
    assert!(!is_there(&cgroups, "last"), "a descriptor of it may be in another's hands");
    assert!(kept("kept"));
    let late = cgroups.create("late", &limits()).expect("the one that is kept");
    let paths: Vec<_> = cgroups.shared.hierarchies.iter().map(|hierarchy| hierarchy.path.clone()).collect();
    let shared = Arc::clone(&cgroups.shared);
    late.remove().expect("removed");
    cgroups.close();
    assert!(!shared.spares.keep("late", &limits()), "nothing is kept any more");
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn a_group_that_was_not_left_as_new_is_removed() {
    let Some(cgroups) = all_controllers() else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let writes = format!("head -c 4m /dev/zero >{}", file.path().display());
    let tight = Limits { cpu_cores: 0.05, ..limits() };
    let burns = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    for (name, limits, script, is_vacant) in [
        ("occupied", limits(), ":", false),
        ("short-of-memory", limits(), "head -c 200m /dev/zero | tail", true),
        ("charged", limits(), writes.as_str(), true),
        ("held-up", tight, burns, true),
        ("lives", limits(), "sleep 60 & exit", true),
    ] {
        leave_a_group(&cgroups, name, &limits, script, is_vacant);
        assert!(!is_there(&cgroups, name), "{name}");
    }
    cgroups.close();
}

/// The permission is that of who opened the entrance: one that was opened by root lets an ordinary user in.
#[test]
fn a_process_can_enter_by_itself_in_v2() {
    use std::os::unix::process::CommandExt;
    let Some(cgroups) = all_of_version(2) else { return };
    let group = cgroups.create("enter", &limits()).expect("a group");
    let entrance = group.entrances().expect("entrances").pop().expect("one hierarchy");
    let mut child = Command::new("sh")
        .args(["-c", "echo 0 && exec sleep 30 >/dev/null"])
        .stdout(entrance)
        .uid(65_534)
        .gid(65_534)
        .spawn()
        .expect("sh");
    let is_inside = || read(&group, &cgroups, Controller::Pids, "cgroup.procs") == child.id().to_string();
    let start = Instant::now();
    while !is_inside() && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(is_inside(), "it did not enter");
    let reaper = std::thread::spawn(move || child.wait());
    group.kill().expect("killed");
    reaper.join().expect("a thread").expect("an end");
    group.remove().expect("removed");
    cgroups.close();
}

/// What a sandbox's cgroup namespace begins at must not be the host's top: its programs would see our names.
#[test]
fn builders_leave_the_top_in_v2_and_the_leaf_goes_at_the_end() {
    let Some(cgroups) = all_of_version(2) else { return };
    let entrance = cgroups.entrances().expect("entrances").pop().expect("one, at the top of the system");
    let path = cgroups.shared.hierarchies[0].path.clone();
    let mut builder = Command::new("sh")
        .args(["-c", "echo 0 && exec unshare --cgroup cat /proc/self/cgroup >&2"])
        .stdout(entrance)
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut seen = String::new();
    std::io::Read::read_to_string(builder.stderr.as_mut().expect("stderr"), &mut seen).expect("text");
    assert!(builder.wait().expect("an end").success(), "{seen}");
    assert_eq!(seen, "0::/\n");
    assert!(path.join(BUILDERS_GROUP).exists());
    // A second service of the instance, or the same one again, takes what is there.
    assert_eq!(cgroups.entrances().expect("entrances").len(), 1);
    cgroups.close();
    assert!(!path.exists());
}

#[test]
fn processes_are_bounded() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("pids", &Limits { processes: 3, ..limits() }).expect("a group");
    // sh and two more; the fourth is refused, which ends a shell with a failure.
    let mut child = held("for n in 1 2 3 4 5 6; do sleep 20 & done; wait");
    group.attach(pid(&child)).expect("attached");
    release(&mut child);
    let start = Instant::now();
    assert!(!child.wait().expect("an end").success());
    assert!(start.elapsed() < Duration::from_secs(10));
    group.kill().expect("killed");
    group.remove().expect("removed");
    cgroups.close();
}

#[test]
fn a_fork_bomb_is_killed_as_a_whole() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("bomb", &Limits { processes: 200, cpu_cores: 0.5, ..limits() }).expect("a group");
    let mut child = held("bomb() { bomb & bomb & sleep 30; }; bomb");
    group.attach(pid(&child)).expect("attached");
    release(&mut child);
    std::thread::sleep(Duration::from_millis(300));
    // The dead ones are this test's children only in part: init reaps the others.
    let reaper = std::thread::spawn(move || child.wait());
    group.kill().expect("killed");
    assert_eq!(read(&group, &cgroups, Controller::Pids, "cgroup.procs"), "");
    reaper.join().expect("a thread").expect("an end");
    group.remove().expect("removed");
    cgroups.close();
}

#[test]
fn sweep_ends_what_a_killed_service_left() {
    let Some(cgroups) = all_controllers() else { return };
    assert_eq!(cgroups.sweep().expect("nothing there"), 0);
    let mut child = held("sleep 30");
    let mut group = cgroups.create("left", &limits()).expect("a group");
    group.attach(pid(&child)).expect("attached");
    // As if the service had no time to do anything.
    group.forget();
    let reaper = std::thread::spawn(move || child.wait());
    assert_eq!(cgroups.sweep().expect("swept"), 1);
    assert!(!reaper.join().expect("a thread").expect("an end").success());
    assert_eq!(cgroups.sweep().expect("nothing left"), 0);
    cgroups.close();
}

#[test]
fn sweep_takes_what_other_instances_left_and_nothing_of_those_that_live() {
    let Some(cgroups) = all_controllers() else { return };
    let Some(other) = all_controllers() else { return };
    let path = other.shared.hierarchies[0].path.clone();
    let mut group = other.create("left", &limits()).expect("a group");
    cgroups.sweep().expect("a sweep");
    assert!(path.join("left").exists(), "it belongs to a service that lives");
    // As if it had been killed: nobody holds its folders any more.
    group.forget();
    drop((group, other));
    cgroups.sweep().expect("a sweep");
    assert!(!path.exists());
    cgroups.close();
}

#[test]
fn a_group_that_a_runtime_drops_at_its_end_is_removed() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("last", &limits()).expect("a group");
    let path = cgroups.shared.hierarchies[0].path.join("last");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let (here, is_here) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _group = group;
        here.send(()).ok();
        // Until the threads that may block take nothing any more: what they are given then is dropped.
        std::thread::sleep(Duration::from_millis(300));
        std::future::pending::<()>().await;
    });
    is_here.recv().expect("it runs");
    assert!(path.exists());
    runtime.shutdown_timeout(Duration::from_secs(5));
    assert!(!path.exists());
    cgroups.close();
}

#[test]
fn a_group_with_a_process_is_not_removed() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("busy", &limits()).expect("a group");
    let mut child = held("sleep 30");
    group.attach(pid(&child)).expect("attached");
    assert_eq!(group.remove().expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
    let group = Cgroup::existing(Arc::clone(&cgroups.shared), "busy".to_owned());
    let reaper = std::thread::spawn(move || child.wait());
    group.kill().expect("killed");
    reaper.join().expect("a thread").expect("an end");
    group.remove().expect("removed");
    cgroups.close();
}

#[test]
fn attach_of_nobody_is_an_error() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("nobody", &limits()).expect("a group");
    let mut child = Command::new("true").spawn().expect("true");
    let gone = pid(&child);
    child.wait().expect("an end");
    let error = group.attach(gone).expect_err("no such process");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::SRCH.raw_os_error()));
    group.remove().expect("removed");
    cgroups.close();
}

#[tokio::test]
async fn a_kill_for_want_of_memory_is_told() {
    let Some(cgroups) = all_controllers() else { return };
    let group = cgroups.create("oom", &limits()).expect("a group");
    let watch = group.oom_watch().expect("a watch");
    assert!(watch.has_event(), "this kernel took no eventfd");
    let mut child = held("exec python3 -I -S -c 'x = bytearray(200 << 20)'");
    group.attach(pid(&child)).expect("attached");
    let quiet = tokio::time::timeout(Duration::from_millis(600), watch.wait()).await;
    assert!(quiet.is_err(), "nothing happened yet");
    release(&mut child);
    let reaper = std::thread::spawn(move || (child.wait(), Instant::now()));
    tokio::time::timeout(Duration::from_secs(20), watch.wait()).await.expect("told");
    let told = Instant::now();
    let (status, ended) = reaper.join().expect("a thread");
    let late = told.saturating_duration_since(ended);
    eprintln!("told {late:?} after the end, {:?} before it", ended.saturating_duration_since(told));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status.expect("an end")), Some(9));
    assert!(group.oom_killed());
    watch.wait().await;
    // Swap would let it have more.
    assert!(group.usage().peak_memory_bytes.is_some_and(|bytes| bytes <= 64 << 20));
    group.remove().expect("removed");
    cgroups.close();
}

/// An execution is its whole tree: one that lost a process to the lack of memory has no use for the others.
#[tokio::test]
async fn a_v2_group_out_of_memory_dies_as_a_whole() {
    use std::os::unix::process::ExitStatusExt;
    let Some(cgroups) = all_of_version(2) else { return };
    let group = cgroups.create("whole", &limits()).expect("a group");
    let watch = group.oom_watch().expect("a watch");
    let mut bystander = held("sleep 60");
    let mut child = held("exec python3 -I -S -c 'x = bytearray(200 << 20)'");
    for one in [&mut bystander, &mut child] {
        group.attach(pid(one)).expect("attached");
        release(one);
    }
    let ends = std::thread::spawn(move || [child.wait(), bystander.wait()].map(|end| end.expect("an end").signal()));
    tokio::time::timeout(Duration::from_secs(20), watch.wait()).await.expect("told");
    assert_eq!(ends.join().expect("a thread"), [Some(9), Some(9)]);
    assert!(read(&group, &cgroups, Controller::Memory, "memory.events").contains("oom_group_kill 1"));
    assert!(group.oom_killed());
    group.remove().expect("removed");
    cgroups.close();
}

#[test]
fn a_v2_group_is_made_entered_read_killed_and_removed() {
    let Some(hierarchy) = unified_group("unused") else {
        return;
    };
    hierarchy.unmake("unused").expect("rmdir");
    let shared = Shared {
        version: Version::V2,
        hierarchies: vec![hierarchy],
        unavailable: Vec::new(),
        spares: Spares::default(),
    };
    let cgroups = Cgroups { shared: Arc::new(shared) };
    let group = cgroups.create("two", &limits()).expect("a group");
    let mut child = held("i=0; while :; do i=$((i+1)); done");
    group.attach(pid(&child)).expect("attached");
    release(&mut child);
    std::thread::sleep(Duration::from_millis(100));
    let reaper = std::thread::spawn(move || child.wait());
    group.kill().expect("killed");
    reaper.join().expect("a thread").expect("an end");
    assert!(group.usage().cpu_time.is_some_and(|time| time > Duration::from_millis(5)));
    group.remove().expect("removed");
    cgroups.close();
}

/// Not a test of right or wrong: prints medians. `cargo test -- --ignored --nocapture latency_of_each_step`.
#[test]
#[ignore = "a measurement"]
fn latency_of_each_step() {
    let Some(cgroups) = all_controllers() else { return };
    let mut steps: Vec<(&str, Vec<Duration>)> =
        ["create", "entrances", "enter", "attach", "oom_watch", "usage", "oom_killed", "kill (empty)", "remove"]
            .map(|step| (step, Vec::new()))
            .into();
    for round in 0..200 {
        let mut taken = Vec::new();
        let mut start = Instant::now();
        let group = cgroups.create(&format!("round-{round}"), &limits()).expect("a group");
        let mut lap = |start: &mut Instant| {
            taken.push(start.elapsed());
            *start = Instant::now();
        };
        lap(&mut start);
        let entrances = group.entrances().expect("entrances");
        lap(&mut start);
        let entered = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let start = Instant::now();
                enter(&entrances).expect("entered");
                start.elapsed()
            });
            thread.join().expect("a thread")
        });
        let mut child = held("exit");
        std::thread::sleep(Duration::from_millis(30));
        start = Instant::now() - entered;
        lap(&mut start);
        group.attach(pid(&child)).expect("attached");
        lap(&mut start);
        release(&mut child);
        child.wait().expect("an end");
        start = Instant::now();
        let watch = group.oom_watch();
        lap(&mut start);
        group.usage();
        lap(&mut start);
        group.oom_killed();
        lap(&mut start);
        group.kill().expect("empty");
        lap(&mut start);
        drop(watch);
        start = Instant::now();
        group.remove().expect("removed");
        lap(&mut start);
        for ((_, all), taken) in steps.iter_mut().zip(taken) {
            all.push(taken);
        }
    }
    for (step, all) in &mut steps {
        all.sort();
        eprintln!("{step}: median {:?}, 95 % {:?}, most {:?}", all[100], all[190], all[199]);
    }
    cgroups.close();
}
