//! The runner with real programs and the starter, but without sandbox-exec, which only macOS has: what is tested is everything
//! around the profile. The starter is this test binary, run again.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::super::processes;
use super::*;

const MIB: u64 = 1024 * 1024;

/// Not a test: the process that the tests start.
#[test]
#[ignore = "the starter, which the other tests start"]
fn starter_process() {
    std::process::exit(super::super::starter());
}

pub(in super::super) fn starter() -> Vec<String> {
    let (_crate, module) = module_path!().split_once("::").expect("a path");
    let this = std::env::current_exe().expect("this test").to_str().expect("a path").to_owned();
    [&this, "--ignored", "--exact", &format!("{module}::starter_process"), "--test-threads=1"]
        .map(str::to_owned)
        .to_vec()
}

pub(in super::super) fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(20),
        memory_bytes: 512 * MIB,
        cpu_cores: 1.0,
        processes: 128,
        file_size_bytes: 10 * MIB,
        output_bytes: MIB,
    }
}

/// A place to run in; the workspace is `w` in its folder.
fn prepared(limits: Limits) -> Prepared {
    let folders = tempfile::tempdir().expect("a folder");
    let root = folders.path().canonicalize().expect("its path");
    for folder in ["w", "files", "tmp"] {
        std::fs::create_dir(root.join(folder)).expect("a folder");
    }
    let path = |name: &str| root.join(name).to_str().expect("a path").to_owned();
    let layout = Layout { workspace: path("w"), files: path("files"), temp: path("tmp"), packages: None };
    Prepared { command: starter(), layout, limits, marks: None, folders }
}

pub(in super::super) fn shell(script: &str) -> Program {
    Program {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        working_directory: String::new(),
        stdin: std::fs::File::open("/dev/null").expect("null").into(),
        descriptors: Vec::new(),
        files: Vec::new(),
        result_bytes: 1000,
        bears_rlimit: true,
    }
}

async fn run(limits: Limits, program: Program) -> Outcome {
    prepared(limits).run(program, None, std::future::pending()).await.expect("an outcome").0
}

fn sealed(content: &str) -> OwnedFd {
    channel::sealed("content", &[content.as_bytes()]).expect("a file")
}

pub(in super::super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a process is alive; one that is dead but not collected is not.
pub(in super::super) fn is_alive(pid: i32) -> bool {
    let mut one = Processes::of_group(pid, None);
    one.look().contains(&pid)
}

pub(in super::super) fn written_pid(path: &Path) -> i32 {
    std::fs::read_to_string(path).expect("a pid").trim().parse().expect("a number")
}

#[tokio::test]
async fn a_program_has_its_input_output_environment_files_and_end() {
    let prepared = prepared(limits());
    let layout = prepared.layout().clone();
    let script = r#"cat; cat <&4; env | sort; pwd; . "$1"; echo err >&2; echo '{"x":1}' >&3; exit 7"#;
    let mut program = shell(script);
    program.argv.extend(["sh".to_owned(), format!("{}/code.sh", layout.files)]);
    // Whatever reads this at its start would be ours: sandbox-exec, the starter.
    program.env.push(("DYLD_INSERT_LIBRARIES".into(), "/nowhere".into()));
    program.stdin = sealed("in\n");
    program.descriptors = vec![sealed("four\n")];
    program.files = vec![("code.sh".into(), sealed("echo from a file\n"))];
    program.working_directory = "a/b".into();
    let (outcome, remains) = prepared.run(program, None, std::future::pending()).await.expect("an outcome");
    assert_eq!(outcome.end, End::Exited(7));
    let said = text(&outcome.stdout.kept);
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("_=") && !line.starts_with("SHLVL=")).collect();
    let folder = format!("{}/a/b", layout.workspace);
    let expected = [
        "in",
        "four",
        "DYLD_INSERT_LIBRARIES=/nowhere",
        "PATH=/usr/bin:/bin",
        &format!("PWD={folder}"),
        &folder,
        "from a file",
    ];
    assert_eq!(lines, expected);
    assert_eq!(text(&outcome.stderr.kept), "err\n");
    assert_eq!(text(&outcome.result.kept), "{\"x\":1}\n");
    assert!(
        outcome.usage.peak_memory_bytes > 100_000 && outcome.usage.cpu_time > Duration::ZERO,
        "{:?}",
        outcome.usage
    );
    assert!(Path::new(&layout.workspace).exists());
    drop(remains);
    assert!(!Path::new(&layout.workspace).exists());
}

#[tokio::test]
async fn a_signal_is_told_from_an_exit() {
    assert_eq!(run(limits(), shell("kill -SEGV $$")).await.end, End::Signalled(libc::SIGSEGV));
    assert_eq!(run(limits(), shell("true")).await.end, End::Exited(0));
}

#[tokio::test]
async fn a_timeout_keeps_what_was_printed_and_leaves_nothing_alive() {
    let timeout = Duration::from_millis(700);
    let prepared = prepared(Limits { timeout, ..limits() });
    let workspace = prepared.layout().workspace.clone();
    let script = "trap '' TERM; echo before; setsid sh -c 'echo $$ >own_session; sleep 1000' & sleep 1000";
    let started = Instant::now();
    let (outcome, _remains) = prepared.run(shell(script), None, std::future::pending()).await.expect("an outcome");
    let took = started.elapsed();
    assert_eq!(outcome.end, End::TimedOut);
    assert_eq!(text(&outcome.stdout.kept), "before\n");
    assert!(took >= timeout && took < timeout + Duration::from_millis(400), "{took:?}");
    assert!(!is_alive(written_pid(&Path::new(&workspace).join("own_session"))));
}

#[tokio::test]
async fn what_outlives_the_program_is_killed_and_nobody_waits_for_it() {
    let prepared = prepared(limits());
    let workspace = prepared.layout().workspace.clone();
    // One holds the output open, and its pid is known to be alive when the program ends.
    let script = "sleep 1000 & echo $! >child; kill -0 $! && exit 0";
    let (outcome, _remains) = prepared.run(shell(script), None, std::future::pending()).await.expect("an outcome");
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.duration < Duration::from_secs(3), "{:?}", outcome.duration);
    assert!(!is_alive(written_pid(&Path::new(&workspace).join("child"))));
}

#[tokio::test]
async fn a_daemon_that_was_seen_while_its_parent_lived_is_found_again() {
    let prepared = prepared(limits());
    let workspace = prepared.layout().workspace.clone();
    let script =
        "(setsid sh -c 'echo $$ >daemon; exec sleep 1000' & sleep 0.4); sleep 0.4; ps -o ppid= -p $(cat daemon)";
    let (outcome, _remains) = prepared.run(shell(script), None, std::future::pending()).await.expect("an outcome");
    let daemon = written_pid(&Path::new(&workspace).join("daemon"));
    let parent = text(&outcome.stdout.kept);
    assert_eq!(outcome.end, End::Exited(0), "{}", text(&outcome.stderr.kept));
    assert!(!parent.trim().is_empty(), "the daemon was not alive");
    assert!(!is_alive(daemon));
}

#[tokio::test]
async fn output_is_drained_counted_and_cut() {
    let outcome = run(Limits { output_bytes: 10, ..limits() }, shell("head -c 3000000 /dev/zero; echo end >&2")).await;
    assert_eq!((outcome.end, outcome.stdout.kept.len(), outcome.stdout.total), (End::Exited(0), 10, 3_000_000));
    assert_eq!(text(&outcome.stderr.kept), "end\n");
}

#[tokio::test]
async fn more_memory_than_allowed_is_the_end_of_all() {
    let mut program = shell("");
    let script = "import time; block = bytearray(200 << 20); time.sleep(20)";
    program.argv = ["/usr/bin/python3", "-I", "-S", "-c", script].map(str::to_owned).to_vec();
    let outcome = run(Limits { memory_bytes: 100 * MIB, ..limits() }, program).await;
    assert_eq!(outcome.end, End::OutOfMemory, "{}", text(&outcome.stderr.kept));
    assert!(outcome.usage.peak_memory_bytes > 100 * MIB);
    assert!(outcome.duration < Duration::from_secs(10));
}

#[tokio::test]
async fn cancelling_ends_it() {
    let cancelled = tokio::time::sleep(Duration::from_millis(300));
    let outcome = prepared(limits()).run(shell("echo on; sleep 1000"), None, cancelled).await.expect("an outcome").0;
    assert_eq!((outcome.end, text(&outcome.stdout.kept).as_str()), (End::Cancelled, "on\n"));
}

#[tokio::test]
async fn dropping_the_run_kills_it() {
    let prepared = prepared(limits());
    let pid_file = Path::new(&prepared.layout().workspace).join("pid");
    let kept = Arc::new(tempfile::tempdir().expect("a folder"));
    let copy = kept.path().join("pid");
    let script =
        format!("echo $$ >{0}.new; mv {0}.new {0}; cp {0} {1}; sleep 1000", pid_file.display(), copy.display());
    let running = tokio::spawn(prepared.run(shell(&script), None, std::future::pending()));
    while std::fs::read_to_string(&copy).map_or(true, |text| !text.ends_with('\n')) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = written_pid(&copy);
    assert!(is_alive(pid));
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn each_process_has_its_bounds_and_no_descriptor_of_ours() {
    let script =
        "ulimit -n; ulimit -c; ulimit -t; ls /dev/fd | sort -n | tr '\\n' ' '; head -c 20000000 /dev/zero >big; exit 3";
    let mut program = shell(script);
    program.descriptors = vec![sealed("four")];
    // Open in this process, not for the program, and not closed by an exec: what a descriptor that leaks looks like.
    let leaking = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 90).expect("a descriptor");
    rustix::io::fcntl_setfd(&leaking, rustix::io::FdFlags::empty()).expect("it stays open");
    let outcome = run(Limits { timeout: Duration::from_secs(9), ..limits() }, program).await;
    let said = text(&outcome.stdout.kept);
    let (bounds, descriptors) = said.trim().rsplit_once('\n').expect("lines");
    assert_eq!(bounds, "1024\n0\n10");
    let descriptors: HashSet<i32> = descriptors.split(' ').filter_map(|number| number.parse().ok()).collect();
    // The last is the folder that ls itself has open.
    assert!((0..5).all(|number| descriptors.contains(&number)) && descriptors.len() == 6, "{said}");
    assert!(descriptors.iter().all(|number| *number < 10), "{said}");
    assert_eq!(outcome.end, End::Exited(3));
}

#[tokio::test]
async fn a_working_directory_stays_in_the_workspace() {
    let prepared = prepared(limits());
    std::os::unix::fs::symlink("/", Path::new(&prepared.layout().workspace).join("out")).expect("a link");
    let mut program = shell("pwd");
    program.working_directory = "out/tmp".into();
    let error = prepared.run(program, None, std::future::pending()).await.err().expect("refused");
    assert_eq!(error.stage, Stage::WorkingDirectory, "{error}");
}

#[tokio::test]
async fn a_start_that_failed_is_no_outcome() {
    let mut program = shell("");
    program.argv = vec!["/nowhere/python3".into()];
    let error = prepared(limits()).run(program, None, std::future::pending()).await.err().expect("no program");
    assert_eq!((error.stage, error.cause.and_then(|cause| cause.raw_os_error())), (Stage::Program, Some(libc::ENOENT)));

    let mut sandbox_exec = prepared(limits());
    let script = "echo 'sandbox-exec: <input string>:3: unbound variable: subpaht' >&2; exit 65";
    sandbox_exec.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let error = sandbox_exec.run(shell("true"), None, std::future::pending()).await.err().expect("no sandbox");
    assert_eq!(error.stage, Stage::Namespaces);
    assert!(error.detail.contains("unbound variable"), "{error}");

    let mut nowhere = prepared(limits());
    nowhere.command = vec!["/nowhere/sandbox-exec".into()];
    let error = nowhere.run(shell("true"), None, std::future::pending()).await.err().expect("no sandbox");
    assert_eq!(error.stage, Stage::Launch, "{error}");
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let runs = (0..20).map(|number| tokio::spawn(run(limits(), shell(&format!("echo {number}; exit {number}")))));
    for (number, running) in runs.collect::<Vec<_>>().into_iter().enumerate() {
        let outcome = running.await.expect("it ran");
        assert_eq!((outcome.end, text(&outcome.stdout.kept)), (End::Exited(number as i32), format!("{number}\n")));
    }
}

#[test]
fn the_bounds_of_a_process_follow_the_limits() {
    let limits = Limits { timeout: Duration::from_millis(1500), cpu_cores: 2.0, ..limits() };
    let rlimits = StartRlimits::for_limits(&limits, Some(300));
    assert_eq!((rlimits.cpu_seconds, rlimits.processes), (4, Some(428)));
    assert_eq!(StartRlimits::for_limits(&limits, None).processes, None);
    assert!(processes::count() > 0);
}
