//! Many executions of all kinds, and what the service holds before and after: nothing may grow.

use crate::client::Client;
use crate::{Result, need_release_binary, table};
use conformance::{Service, process};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
const WARM_UP: usize = 100;
const SESSIONS: usize = 6;
/// One execution of this many sleeps past its timeout of a second.
const TIMEOUT_EVERY: usize = 50;
/// Private workspaces and ended sandboxes are removed behind the answer; so long may that take.
const PATIENCE: Duration = Duration::from_secs(10);
const MEMORY_GROWTH_KIB: u64 = 4096;
const SHOWN: usize = 10;

/// A program and how it must end: the kind of its error, or none when it completes.
struct Case(&'static str, &'static str, Option<&'static str>);

/// What runs in turn. Each also ends by itself, should a limit not work.
const CASES: [Case; 14] = [
    Case("python", "def handler(event):\n    return {'n': event['n']}", None),
    Case("shell", "echo \"$EVENT_JSON\" >&3", None),
    Case("javascript", "exports.handler = async (event) => ({ n: event.n });", None),
    Case("python", "import subprocess\nprint(subprocess.run(['echo', 'child'], capture_output=True).stdout)", None),
    Case("shell", "mkdir -p a/b; for n in 1 2 3 4 5; do echo $n > a/b/$n; ln -sf $n a/b/link; done", None),
    Case("python", "def handler(event):\n    return 1 / 0", Some("exception")),
    Case("shell", "head -c 2000000 /dev/zero | tr '\\0' x", None),
    Case("javascript", "throw new TypeError('on purpose');", Some("exception")),
    Case("python", "import sys\nsys.exit(3)", Some("exit")),
    Case("shell", "kill -KILL $$", Some("signal")),
    Case("shell", "for n in 1 2 3; do setsid sleep 20 & done; echo done", None),
    Case("python", "def handler(event):\n    return {1, 2}", Some("return_value")),
    Case("python", "open('/tmp/x', 'w').write('x' * 1000000)\nprint(open('/tmp/x').read()[:9])", None),
    Case("shell", "exec 0<&- 1>&- 2>&-; exit 7", Some("exit")),
];
const SLEEPERS: [Case; 3] = [
    Case("python", "import time\ntime.sleep(20)", Some("timeout")),
    Case("shell", "(trap '' TERM; exec setsid sleep 20) & sleep 20", Some("timeout")),
    Case("javascript", "setTimeout(() => {}, 20000);", Some("timeout")),
];

/// A count of things that must be as many after as before, with what they are.
type Things = (&'static str, Option<Vec<String>>);

/// What a running service holds.
struct Held {
    things: Vec<Things>,
    resident_kib: Option<u64>,
}

impl Held {
    fn by(service: &Service, instance: &str) -> Held {
        let pid = service.pid();
        let launcher = process::launcher(pid);
        let things = vec![
            ("descriptors of the service", process::descriptors(pid)),
            ("descriptors of its launcher", launcher.and_then(process::descriptors)),
            ("processes below the service", Some(process::below(pid))),
            ("mounts the service sees", process::mounts(pid)),
            ("mounts its launcher sees", launcher.and_then(process::mounts)),
            ("its control groups", Some(process::control_groups(instance))),
            ("private workspaces (.run-*)", Some(process::private_workspaces(&service.path("workspaces")))),
        ];
        Held { things, resident_kib: process::resident_kib(pid) }
    }

    /// Whether nothing is more than it was; memory aside.
    fn within(&self, before: &Held) -> bool {
        self.things.iter().zip(&before.things).all(|(after, before)| !grew(before, after))
    }
}

fn grew(before: &Things, after: &Things) -> bool {
    match (&before.1, &after.1) {
        (Some(before), Some(after)) => after.len() > before.len(),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Runs and prints; whether nothing grew and every execution ended as it must.
pub fn run(executions: usize) -> Result<bool> {
    need_release_binary()?;
    let service = Service::with(&[]);
    let instance = std::fs::read_to_string(service.path("state").join("instance"))?.trim().to_owned();

    load(&service, 0..WARM_UP)?;
    // Nothing is known of a settled state yet: it is what two looks agree on.
    let mut before = settled(&service, &instance, None);
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(500));
        let again = settled(&service, &instance, None);
        let same = before.within(&again) && again.within(&before);
        before = again;
        if same {
            break;
        }
    }
    let start = Instant::now();
    let wrong = load(&service, WARM_UP..WARM_UP + executions)?;
    let took = start.elapsed();
    let after = settled(&service, &instance, Some(&before));

    let rate = executions as f64 / took.as_secs_f64();
    let isolation = service.get("/health").json()["isolation"].to_string();
    println!(
        "isolation {isolation}: {executions} executions by {CLIENTS} clients in {:.1} s ({rate:.0} a second)",
        took.as_secs_f64()
    );
    let kept = report(&before, &after);
    for line in wrong.iter().take(SHOWN) {
        println!("ended otherwise: {line}");
    }
    println!("{} of {executions} ended otherwise than they must", wrong.len());
    drop(service);
    // The next start of the instance uses an empty group again; so this is told, not judged.
    println!("control groups of the instance after its stop: {}", process::control_groups(&instance).len());
    Ok(kept && wrong.is_empty())
}

/// Looks until nothing is more than before, or until patience ends.
fn settled(service: &Service, instance: &str, before: Option<&Held>) -> Held {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The clients' connections have closed just now.
        thread::sleep(Duration::from_millis(500));
        let held = Held::by(service, instance);
        if before.is_none_or(|before| held.within(before)) || Instant::now() > deadline {
            return held;
        }
    }
}

fn report(before: &Held, after: &Held) -> bool {
    let mut kept = true;
    let mut rows = Vec::new();
    let mut new = Vec::new();
    for (before, after) in before.things.iter().zip(&after.things) {
        let count = |things: &Things| things.1.as_ref().map_or("not readable".into(), |items| items.len().to_string());
        let verdict = match (grew(before, after), &before.1) {
            (true, _) => "GREW",
            (false, None) => "",
            (false, Some(_)) => "PASS",
        };
        rows.push(vec![before.0.into(), count(before), count(after), "0".into(), verdict.into()]);
        if verdict == "GREW" {
            kept = false;
            let (was, is) = (before.1.as_deref().unwrap_or_default(), after.1.as_deref().unwrap_or_default());
            let items = is.iter().filter(|item| !was.contains(item)).take(SHOWN);
            new.extend(items.map(|item| format!("new among {}: {item}", before.0)));
        }
    }
    let kib = |value: Option<u64>| value.map_or("not readable".into(), |kib| format!("{kib} kB"));
    let fits = match (before.resident_kib, after.resident_kib) {
        (Some(before), Some(after)) => after <= before + MEMORY_GROWTH_KIB,
        _ => false,
    };
    let verdict = if fits { "PASS" } else { "GREW" };
    rows.push(vec![
        "resident memory of the service".into(),
        kib(before.resident_kib),
        kib(after.resident_kib),
        kib(Some(MEMORY_GROWTH_KIB)),
        verdict.into(),
    ]);
    table::print(&["held", "before", "after", "may grow by", ""], &rows);
    for line in &new {
        println!("{line}");
    }
    kept && fits
}

/// Runs these executions, each client on a connection of its own; gives those that ended otherwise than they must.
fn load(service: &Service, numbers: std::ops::Range<usize>) -> Result<Vec<String>> {
    let next = AtomicUsize::new(numbers.start);
    let work = || -> Result<Vec<String>> {
        let mut client = Client::new(service)?;
        let mut wrong = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(wrong);
            }
            let Case(_, _, kind) = case(number);
            let (answer, _) = client.execute(&request(number))?;
            if answer["error"]["kind"].as_str() != *kind {
                wrong.push(format!("{number} ({kind:?}): {}", conformance::shortened(&answer)));
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let mut wrong = Vec::new();
        for client in clients {
            wrong.extend(client.join().map_err(|_| "a client panicked")??);
        }
        Ok(wrong)
    })
}

fn case(number: usize) -> &'static Case {
    match number % TIMEOUT_EVERY {
        0 => &SLEEPERS[number / TIMEOUT_EVERY % SLEEPERS.len()],
        _ => &CASES[number % CASES.len()],
    }
}

fn request(number: usize) -> Value {
    let Case(language, code, kind) = case(number);
    let timeout = if *kind == Some("timeout") { 1 } else { 30 };
    let mut request = json!({"language": language, "code": code, "timeout": timeout, "event": {"n": number}});
    // Half of each case's turns are in a session.
    if (number / CASES.len()).is_multiple_of(2) {
        request["session_id"] = format!("soak-{}", number % SESSIONS).into();
    }
    request
}
