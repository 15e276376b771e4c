//! Many executions of all kinds, and what the service holds before and after: nothing may grow, and the last are to be as fast
//! as the first.

use crate::client::Client;
use crate::held::Held;
use crate::{Result, need_release_binary, progress, speed};
use conformance::{Service, process};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
const WARM_UP: usize = PERIOD;
/// After so many everything comes again, in the same order: see [`case`] and [`request`].
pub const PERIOD: usize = 700;
const SESSIONS: usize = 6;
/// One execution of this many sleeps past its timeout of a second.
const TIMEOUT_EVERY: usize = 50;
const SHOWN: usize = 10;
/// Clients of [`read`], and how often each reads.
const READERS: usize = 16;
const READS: usize = 20;

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

/// Runs and prints; whether nothing grew, the end was as fast as the beginning, and every execution ended as it must.
pub fn run(executions: usize) -> Result<bool> {
    need_release_binary()?;
    let service = Service::with(&[]);
    let instance = std::fs::read_to_string(service.path("state").join("instance"))?.trim().to_owned();

    progress("warming up");
    load(&service, 0..WARM_UP)?;
    read(&service);
    let before = Held::settled(&service, &instance);
    progress(&format!("{executions} executions"));
    let start = Instant::now();
    let (times, wrong) = load(&service, WARM_UP..WARM_UP + executions)?;
    let took = start.elapsed().as_secs_f64();
    let after = Held::settled(&service, &instance);

    let rate = executions as f64 / took;
    let isolation = service.get("/health").json()["isolation"].to_string();
    println!("isolation {isolation}: {executions} executions by {CLIENTS} clients in {took:.1} s ({rate:.0} a second)");
    let kept = Held::compare(&before, &after);
    let stayed = speed::stayed(&times);
    for line in wrong.iter().take(SHOWN) {
        println!("ended otherwise: {line}");
    }
    println!("{} of {executions} ended otherwise than they must", wrong.len());
    drop(service);
    // The next start of the instance uses an empty group again; so this is told, not judged.
    println!("control groups of the instance after its stop: {}", process::control_groups(&instance).len());
    Ok(kept && stayed && wrong.is_empty())
}

/// Runs these executions, each client on a connection of its own; gives how long each took, in their order, and those that ended
/// otherwise than they must.
fn load(service: &Service, numbers: Range<usize>) -> Result<(Vec<Duration>, Vec<String>)> {
    let next = AtomicUsize::new(numbers.start);
    let (mut times, mut wrong) = (vec![Duration::ZERO; numbers.len()], Vec::new());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(service, &next, numbers.end))).collect();
        for client in clients {
            for Ended { number, took, wrongly } in client.join().map_err(|_| "a client panicked")?? {
                times[number - numbers.start] = took;
                wrong.extend(wrongly);
            }
        }
        Ok((times, wrong))
    })
}

/// Reads from the store, many at once, so that it has opened all the connections that it keeps: how many a load of large answers opens
/// is chance.
fn read(service: &Service) {
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| (0..READS).for_each(|_| drop(service.get("/executions?limit=100"))));
        }
    });
}

/// What became of an execution; how it ended, if otherwise than it must.
struct Ended {
    number: usize,
    took: Duration,
    wrongly: Option<String>,
}

fn client(service: &Service, next: &AtomicUsize, end: usize) -> Result<Vec<Ended>> {
    let mut client = Client::new(service)?;
    let mut all = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return Ok(all);
        }
        let Case(_, _, kind) = case(number);
        let (answer, took) = client.execute(&request(number))?;
        let is_right = answer["error"]["kind"].as_str() == *kind;
        let wrongly = (!is_right).then(|| format!("{number} ({kind:?}): {}", conformance::shortened(&answer)));
        all.push(Ended { number, took, wrongly });
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_again_after_a_period() {
        for number in 0..PERIOD {
            let kind = |number| (case(number).2 == Some("timeout"), request(number)["session_id"].is_null());
            assert_eq!(kind(number), kind(number + PERIOD), "{number}");
        }
    }
}
