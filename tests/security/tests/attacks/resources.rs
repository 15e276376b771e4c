//! Programs that take all they can get, one after the other, while somebody asks the service for its health.

use crate::burdens::{BURDENS, Burden, Check, ONE_OF_EACH, PER_USER};
use crate::{say, shortened};
use conformance::{Home, patience, process, wait_until};
use security::{Column, Control, Host, Mode, Pace, STALL, Table, is_root, ordinary_user};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// So long may an answer about its health take.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
/// So much later than its time may a program be ended.
const LATE: f64 = 0.25;
/// So long may it take until what was below the service is gone; removing ten thousand folders is the longest.
const GONE_WITHIN_S: u64 = 10;
/// What the service may hold at the end beside what it held before: memory that its allocator keeps.
const MEMORY_GROWTH_KIB: u64 = 48 << 10;
const OUTPUT_BYTES: usize = 100_000;
/// So often is a program tried whose times the machine spoiled by leaving threads without a processor.
const TRIES: u32 = 3;

/// All of it.
pub fn attack(table: &mut Table, column: &Column, host: &mut Host) {
    column.client().assert_alive();
    column.rest();
    let before = Held::by(column);
    let charged = column.is_memory_enforced();
    let (prober, pace) = (Prober::default(), Pace::default());
    std::thread::scope(|scope| {
        scope.spawn(|| prober.ask(column));
        scope.spawn(|| pace.keep());
        // Whatever happens, the threads above end.
        let _end = Ends(&prober, &pace);
        for burden in BURDENS {
            let (harm, control) = try_fairly(burden, column, &prober, &pace);
            match (&harm, burden.check) {
                (Some(_), Check::ChargedMemory) if !charged => table.document(
                    burden.number,
                    burden.name,
                    "no cgroup bounds memory here, which /info says: what no process maps is not counted",
                ),
                _ => table.contain(burden.number, burden.name, harm, control),
            }
        }
        per_user(table, column);
        leave_during_the_start(table, column);
    });
    held_afterwards(table, column, &before);
    full_disk(table, column, host);
}

/// Asks for the service's health all the time and keeps the slowest answer.
#[derive(Default)]
struct Prober {
    ended: AtomicBool,
    slowest: Mutex<Duration>,
}

struct Ends<'a>(&'a Prober, &'a Pace);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        self.1.end();
    }
}

impl Prober {
    fn ask(&self, column: &Column) {
        while !self.ended.load(Ordering::Relaxed) {
            let start = Instant::now();
            let is_well = column.client().get("/health").status == 200;
            let took = if is_well { start.elapsed() } else { Duration::MAX };
            let mut slowest = self.slowest.lock().expect("nobody panics with it");
            *slowest = took.max(*slowest);
            drop(slowest);
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The slowest answer since it was last asked for.
    fn slowest(&self) -> Duration {
        std::mem::take(&mut *self.slowest.lock().expect("nobody panics with it"))
    }
}

fn request(burden: &Burden, changes: &str) -> Value {
    let mut request = json!({"language": burden.language, "code": burden.code});
    let members = request.as_object_mut().expect("an object");
    for text in [burden.request, changes] {
        members.extend(serde_json::from_str::<serde_json::Map<String, Value>>(text).expect("members"));
    }
    request
}

/// Runs it and its control; again, and saying so, where either went wrong while a thread that has nothing to do with them was
/// kept from running. What does harm by keeping others from running does it each time.
fn try_fairly(burden: &Burden, column: &Column, prober: &Prober, pace: &Pace) -> (Option<String>, Control) {
    let mut tries = 1;
    loop {
        pace.worst();
        let (harm, control) = (bear(burden, column, prober), control(burden, column));
        let (waited, failed) = (pace.worst(), harm.is_some() || matches!(control, Control::Failed(_)));
        // What a failure owes to the machine is told with it.
        let harm = harm.map(|harm| format!("threads waited up to {waited:.1?} for a processor; {harm}"));
        if !failed || waited < STALL || tries == TRIES {
            return (harm, control);
        }
        tries += 1;
        say(&format!("AGAIN: {}: {harm:?}; its control: {control:?}; threads waited {waited:.1?}", burden.name));
        pace.calm_down();
    }
}

/// Runs it and looks around; says what harm was done.
fn bear(burden: &Burden, column: &Column, prober: &Prober) -> Option<String> {
    prober.slowest();
    let start = Instant::now();
    let answer = column.execute(&request(burden, "{}"));
    let took = start.elapsed();
    let problems = [
        ending(burden, &answer, took),
        aftermath(column),
        Some(prober.slowest())
            .filter(|slowest| *slowest > HEALTH_WITHIN)
            .map(|slowest| format!("/health took {slowest:.1?} meanwhile")),
    ];
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

fn ending(burden: &Burden, answer: &Value, took: Duration) -> Option<String> {
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    let kind = answer["error"]["kind"].as_str().unwrap_or_default();
    let shown = format!("{}{}{}", text("stdout"), text("stderr"), answer["error"]);
    let got_through = text("stdout").contains("got through") && !burden.shows.contains("got through");
    let late = answer["execution_time"].as_f64().is_none_or(|seconds| !(1.0..1.0 + LATE).contains(&seconds));
    let is_cut = |stream: &str| {
        answer[format!("{stream}_truncated")] == true
            && (OUTPUT_BYTES - 3..=OUTPUT_BYTES).contains(&text(stream).len())
            && !text(stream).contains('\u{fffd}')
    };
    let wrong = match burden.check {
        _ if got_through => "it got through",
        _ if !burden.ends.contains(&kind) => "it ended otherwise",
        _ if !shown.contains(burden.shows) => "it did not show what it must",
        Check::OnTime if late => "it was not ended on time",
        Check::Soon if took > Duration::from_secs(1) => "the answer came late",
        Check::Cut if !is_cut("stdout") && !is_cut("stderr") => "its output was not cut",
        _ => return None,
    };
    Some(format!("{wrong}: {}", shortened(answer)))
}

/// What is wrong after it.
fn aftermath(column: &Column) -> Option<String> {
    let alive = column.execute(&json!({"language": "shell", "code": "echo alive"}));
    if alive["stdout"] != "alive\n" {
        return Some(format!("the next execution: {}", shortened(&alive)));
    }
    let deadline = Instant::now() + patience(GONE_WITHIN_S);
    loop {
        let left = [column.sandboxes(), column.private_workspaces()].concat();
        if left.is_empty() {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("left behind: {left:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same program where the limit is wider.
fn control(burden: &Burden, column: &Column) -> Control {
    let changes = match burden.relaxed {
        Ok(changes) => changes,
        // What it has shown on its way is that it did what it was to leave something of.
        Err(_) if !burden.shows.is_empty() => return Control::Passed,
        Err(why) => return Control::None(why),
    };
    let answer = column.execute(&request(burden, changes));
    match answer["stdout"].as_str().is_some_and(|text| text.contains("got through")) {
        true => Control::Passed,
        false => Control::Failed(shortened(&answer)),
    }
}

/// What the kernel counts by user: another execution feels it where both are of one user, and none does afterwards.
fn per_user(table: &mut Table, column: &Column) {
    const NAME: &str = "take pipe buffers, inotify and epoll";
    let session = "per-user";
    let one_of_each = || column.execute(&json!({"language": "python", "code": ONE_OF_EACH}))["return_value"].clone();
    let control = match one_of_each() == "all there" {
        true => Control::Passed,
        false => Control::Failed("it is not there without the attack either".into()),
    };
    let meanwhile = std::thread::scope(|scope| {
        let request = json!({"language": "python", "session_id": session, "code": PER_USER, "timeout": 10});
        scope.spawn(move || column.execute(&request));
        wait_until("the attack", 10, || column.workspace(session).join("ready").exists());
        one_of_each()
    });
    let name = format!("{NAME} from another execution");
    match (meanwhile == "all there", column.mode()) {
        (true, _) => table.contain(89, &name, None, control.clone()),
        (false, Mode::User) => {
            table.document(
                89,
                &name,
                "the kernel counts them by user, and an ordinary user's executions are all of it",
            );
        }
        (false, Mode::Root) => table.contain(89, &name, Some(meanwhile.to_string()), control.clone()),
    }
    let after = one_of_each();
    table.contain(89, &format!("{NAME} from the next"), (after != "all there").then(|| after.to_string()), control);
}

/// A timeout is a second at least and a start takes milliseconds; so it is clients that make starts end early.
fn leave_during_the_start(table: &mut Table, column: &Column) {
    let mut seen = 0;
    for pause_ms in 0..20 {
        let body = br#"{"language":"shell","code":"sleep 20","timeout":1}"#;
        let bytes = column.client().request_bytes("POST", "/execute", &[], body);
        let mut stream = column.client().connect();
        std::io::Write::write_all(&mut stream, &bytes).expect("a request");
        std::thread::sleep(Duration::from_millis(pause_ms));
        seen += column.client().get("/info").json()["active_executions"].as_u64().unwrap_or_default();
    }
    let left = aftermath(column);
    let control = if seen > 0 { Control::Passed } else { Control::Failed("no start was seen".into()) };
    table.contain(84, "have starts broken off and leave something", left, control);
}

/// What the service and its launcher hold.
struct Held {
    descriptors: Option<usize>,
    resident_kib: u64,
}

impl Held {
    fn by(column: &Column) -> Held {
        let pids = || [Some(column.pid()), process::launcher(column.pid())].into_iter().flatten();
        // For each session that goes on its walls are kept for a minute.
        let of_walls = |name: &&String| {
            [" net:[", " mnt:[", " uts:[", " user:[", "landlock-ruleset"].iter().any(|kind| name.contains(kind))
        };
        let counted = |all: Vec<String>| all.iter().filter(|name| !of_walls(name)).count();
        let descriptors: Option<Vec<usize>> = pids().map(|pid| process::descriptors(pid).map(counted)).collect();
        Held {
            descriptors: descriptors.map(|counts| counts.iter().sum()),
            resident_kib: pids().filter_map(process::resident_kib).sum(),
        }
    }
}

fn held_afterwards(table: &mut Table, column: &Column, before: &Held) {
    const NAME: &str = "have the service hold descriptors afterwards";
    column.rest();
    let mut after = Held::by(column);
    let deadline = Instant::now() + Duration::from_secs(5);
    while after.descriptors > before.descriptors && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        after = Held::by(column);
    }
    match (before.descriptors, after.descriptors) {
        (Some(before), Some(after)) => {
            let grew = (after > before).then(|| format!("{before} became {after}"));
            table.contain(78, NAME, grew, Control::None("`make soak` counts the same over many executions"));
        }
        _ => table.skip(78, NAME, "descriptors of the launcher are root's to see"),
    }
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    let grown = (grown > MEMORY_GROWTH_KIB).then(|| format!("{grown} kB more"));
    table.contain(
        72,
        "have the service hold memory afterwards",
        grown,
        Control::None("the service is to hold none of it"),
    );
}

/// A workspace root of 16 MB and 2,000 files, and a service of its own on it.
fn full_disk(table: &mut Table, column: &Column, host: &Host) {
    const ROWS: [(u32, &str, &str, &str); 2] = [
        (
            75,
            "fill the disk of the workspaces",
            "head -c 40000000 /dev/zero > big && echo got through",
            "head -c 4000000 /dev/zero > big && echo got through",
        ),
        (
            76,
            "take every inode of the workspaces",
            "for n in {1..3000}; do : > $n || exit 1; done; echo got through",
            "for n in {1..300}; do : > $n || exit 1; done; echo got through",
        ),
    ];
    if !is_root() {
        return ROWS
            .iter()
            .for_each(|(number, name, ..)| table.skip(*number, name, "only root can mount a small disk"));
    }
    let home = Home::new();
    let disk = Disk::mount(&home.path("workspaces"), column.mode());
    let Ok(small) = Column::start_in(home, column.adapter(), column.mode(), host.folder(), &[]) else {
        return table.broke_off("full disk", "the adapter is gone");
    };
    for (number, name, code, less) in ROWS {
        let run = |code: &str| small.execute(&json!({"language": "shell", "code": code, "timeout": 10}));
        let got_through = |answer: &Value| answer["stdout"] == "got through\n";
        let answer = run(code);
        let harm = match answer["error"]["kind"].as_str() {
            _ if got_through(&answer) => Some(shortened(&answer)),
            // The room is there again when its workspace is removed, which is behind the answer.
            Some("exit" | "disk_full") => {
                wait_until("the workspace's removal", 10, || small.private_workspaces().is_empty());
                aftermath(&small)
            }
            _ => Some(shortened(&answer)),
        };
        let answer = run(less);
        let control = if got_through(&answer) { Control::Passed } else { Control::Failed(shortened(&answer)) };
        table.contain(number, name, harm, control);
    }
    drop(small);
    drop(disk);
}

/// A small file system in memory, for as long as this is there.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(folder: &std::path::Path, mode: Mode) -> Disk {
        std::fs::create_dir(folder).expect("a folder");
        let user = ordinary_user();
        let owner = if mode == Mode::User { format!(",uid={user},gid={user}") } else { String::new() };
        let options = format!("size=16m,nr_inodes=2000,mode=0755{owner}");
        let mut command = Command::new("/bin/mount");
        let mounted = command.args(["-t", "tmpfs", "-o", &options, "security-test"]).arg(folder).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mount failed");
        Disk(folder.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("/bin/umount").arg("-l").arg(&self.0).status();
    }
}
