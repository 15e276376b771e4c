//! How long a cold execution takes through the whole service, beside its floor, and what the idle service holds.

use crate::client::Client;
use crate::{Result, need_release_binary, sandboxes, table};
use conformance::{Service, process};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WARM_UP_ROUNDS: usize = 5;
const ROUNDS: usize = 60;
/// Python through the service, as a multiple of a bare bubblewrap with a Python that does nothing.
const PYTHON_RATIO: f64 = 1.15;
/// An empty native sandbox, set up and taken apart, as a multiple of bubblewrap's beside its program.
const SANDBOX_RATIO: f64 = 0.5;
const RESIDENT_MIB: f64 = 20.0;
/// Floors find their programs where the service looks for them, whatever this shell's PATH is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One language: its floor, and the program that greets whom the event names.
struct Language {
    name: &'static str,
    floor_name: &'static str,
    floor: &'static [&'static str],
    code: &'static str,
    /// How many times its floor p50 may take.
    promise: Option<f64>,
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "python",
        floor_name: "bwrap … python3 -c pass",
        #[rustfmt::skip]
        floor: &[
            "bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
            "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev", "--unshare-all",
            "/usr/bin/python3", "-c", "pass",
        ],
        code: "def handler(event):\n    return {'message': f\"Hello, {event['name']}!\"}",
        promise: Some(PYTHON_RATIO),
    },
    Language {
        name: "javascript",
        floor_name: "node -e 0",
        floor: &["node", "-e", "0"],
        code: "exports.handler = async (event) => ({ message: `Hello, ${event.name}!` });",
        promise: None,
    },
    Language {
        name: "shell",
        floor_name: "bash -c true",
        floor: &["bash", "-c", "true"],
        code: "name=${EVENT_JSON##*:}; name=${name//[\\\"\\} ]/}\n\
               printf '{\"message\": \"Hello, %s!\"}' \"$name\" >&3",
        promise: None,
    },
];

/// The times of one row.
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Of times in any order.
    pub fn new(mut times: Vec<Duration>) -> Samples {
        times.sort_unstable();
        Samples(times)
    }

    /// By nearest rank, in milliseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    pub fn row(&self, name: String) -> Vec<String> {
        let percentiles = [50, 90, 99].map(|percent| format!("{:.2}", self.percentile(percent)));
        [name].into_iter().chain(percentiles).collect()
    }
}

/// Measures and prints; whether every promise was kept.
pub fn run() -> Result<bool> {
    need_release_binary()?;
    let service = Service::alone(&[]);
    let launcher = process::launcher(service.pid()).ok_or("the service has no launcher")?;
    let memory = || (process::resident_kib(service.pid()), process::resident_kib(launcher));

    let started = memory();
    let (floors, executions) = measure(&service)?;
    let idle = memory();
    drop(service);
    let sandboxes = sandboxes::measure()?;

    println!("{ROUNDS} rounds after {WARM_UP_ROUNDS} to warm up; a floor and the service take turns. Milliseconds.");
    let mut rows = Vec::new();
    for ((language, floor), execution) in LANGUAGES.iter().zip(&floors).zip(&executions) {
        rows.push(floor.row(language.floor_name.into()));
        rows.push(execution.row(format!("service, {} handler", language.name)));
    }
    rows.push(sandboxes.alone.row("true".into()));
    rows.push(sandboxes.bubblewrap.row("bwrap --unshare-all … true".into()));
    rows.push(sandboxes.native.row("native sandbox, set up and taken apart".into()));
    rows.push(sandboxes.native_with_program.row("the same with true in it".into()));
    table::print(&["row", "p50", "p90", "p99"], &rows);

    let mut kept = true;
    let mut rows = Vec::new();
    let mut judge = |name: String, value: Option<f64>, promise: Option<f64>, unit: &str| {
        let verdict = match (value, promise) {
            (_, None) => "",
            (Some(value), Some(promise)) if value <= promise => "PASS",
            _ => "FAIL",
        };
        kept &= verdict != "FAIL";
        let promise = promise.map_or("none".into(), |promise| format!("≤ {promise:.2}{unit}"));
        let value = value.map_or("not readable".into(), |value| format!("{value:.2}{unit}"));
        rows.push(vec![name, value, promise, verdict.into()]);
    };
    for ((language, floor), execution) in LANGUAGES.iter().zip(&floors).zip(&executions) {
        let ratio = execution.percentile(50) / floor.percentile(50);
        judge(format!("{}: p50 / {}", language.name, language.floor_name), Some(ratio), language.promise, " ×");
    }
    let name = "native sandbox / (bwrap --unshare-all … true, less true itself)";
    judge(name.into(), Some(sandboxes.ratio()), Some(SANDBOX_RATIO), " ×");
    for (when, (service, launcher)) in [("as started", started), ("idle after the rounds", idle)] {
        let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0);
        judge(format!("service resident, {when}"), mib(service), Some(RESIDENT_MIB), " MB");
        judge(format!("its launcher resident, {when}"), mib(launcher), None, " MB");
    }
    table::print(&["promise", "measured", "promised", ""], &rows);
    Ok(kept)
}

/// The times of each language's floor and execution, sorted.
fn measure(service: &Service) -> Result<(Vec<Samples>, Vec<Samples>)> {
    let mut client = Client::new(service)?;
    let mut floors: Vec<Vec<Duration>> = vec![Vec::new(); LANGUAGES.len()];
    let mut executions = floors.clone();
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let mut steps: Vec<usize> = (0..2 * LANGUAGES.len()).collect();
        // What one step leaves to be cleaned up is paid by the next: each has both its neighbours before it.
        if round % 2 == 1 {
            steps.reverse();
        }
        for step in steps {
            let (number, language) = (step / 2, &LANGUAGES[step / 2]);
            let (times, time) = match step % 2 {
                0 => (&mut floors[number], spawn(language.floor)?),
                _ => (&mut executions[number], execute(&mut client, language)?),
            };
            if round >= WARM_UP_ROUNDS {
                times.push(time);
            }
        }
    }
    Ok((floors.into_iter().map(Samples::new).collect(), executions.into_iter().map(Samples::new).collect()))
}

/// Starts a program and waits for its end.
pub fn spawn(argv: &[&str]) -> Result<Duration> {
    let (program, arguments) = argv.split_first().ok_or("no program")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status().map_err(|error| format!("{program}: {error}"))?;
    let took = start.elapsed();
    if status.success() { Ok(took) } else { Err(format!("{program}: {status}").into()) }
}

fn execute(client: &mut Client, language: &Language) -> Result<Duration> {
    let event = json!({"name": "Alice"});
    let request = json!({"language": language.name, "code": language.code, "event": event, "timeout": 20});
    let (answer, took) = client.execute(&request)?;
    let expected: Value = json!({"message": "Hello, Alice!"});
    if answer["return_value"] == expected { Ok(took) } else { Err(format!("{}: {answer}", language.name).into()) }
}
