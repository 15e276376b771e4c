//! The numbers of the specification, measured on this machine against the release binary.
//!
//! `bench` measures the service and the floors below it in one run, turn by turn, so that a busy machine slows both, and judges
//! the promises that are ratios of the two ([`run`]). `bench soak` runs many executions of all kinds and compares what the
//! service holds, and how fast it is, before and after. `bench calls` makes random system calls in sandboxes.

#![forbid(unsafe_code)]

mod calls;
mod chart;
mod client;
mod floors;
mod held;
mod hello;
mod latency;
mod load;
mod machine;
mod memory;
mod promises;
mod reporting;
mod run;
mod sandboxes;
mod setup;
mod sleepers;
mod soak;
mod speed;
mod summary;
mod svg;
mod table;
mod turns;

use std::error::Error;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

/// What a measurement ends in when it can't be made.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: bench [--check] [--save]
                          floors and service in one run: latency, load, memory, promises; some five minutes
                          --check: exit code 1 on a broken promise
                          --save: chart and figures go into bench/results (else into target/bench)
       bench load         the throughput that is promised alone
       bench reporting    the row of reporting alone
       bench soak [N]     N executions (20000); exit code 1 when anything is left behind or the end is slower
       bench calls [S]    random system calls for S seconds (60), SEED repeats them; exit code 1 when anything suffers";
const SOAK_EXECUTIONS: usize = 20_000;
const CALLS_SECONDS: u64 = 60;

fn main() -> ExitCode {
    // The sandbox's own processes are started from this program.
    if let Some(code) = sandbox::dispatch(std::env::args_os()) {
        return ExitCode::from(u8::try_from(code).unwrap_or(125));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let kept = match arguments.as_slice() {
        ["calls"] => calls::run(CALLS_SECONDS),
        ["calls", seconds] => match seconds.parse() {
            Ok(seconds) if seconds > 0 => calls::run(seconds),
            _ => return usage(),
        },
        ["load"] => load::run(),
        ["reporting"] => reporting::run(),
        ["soak"] => soak::run(SOAK_EXECUTIONS),
        ["soak", count] => match count.parse() {
            Ok(count) if count > 0 => soak::run(count),
            _ => return usage(),
        },
        flags if flags.iter().all(|flag| ["--check", "--save"].contains(flag)) => {
            run::run(flags.contains(&"--save")).map(|kept| kept || !flags.contains(&"--check"))
        }
        _ => return usage(),
    };
    match kept {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(3)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Says on stderr what is being measured, and when.
fn progress(what: &str) {
    static START: OnceLock<Instant> = OnceLock::new();
    eprintln!("[{:4} s] {what}", START.get_or_init(Instant::now).elapsed().as_secs());
}

/// Refuses to measure a debug build by mistake; `SANDBOX_EXECUTOR` names any other binary on purpose.
fn need_release_binary() -> Result<()> {
    let binary = conformance::binary();
    #[allow(clippy::disallowed_methods)] // The same switch as the black-box tests have.
    let named = std::env::var_os("SANDBOX_EXECUTOR").is_some();
    if named || binary.parent().is_some_and(|folder| folder.ends_with("release")) {
        return Ok(());
    }
    Err("there is no target/release/sandbox-executor: run cargo build --release first".into())
}
