//! The numbers of the specification, measured on this machine against the release binary.
//!
//! `bench` compares an execution through the whole service with the floor below it: the same interpreter started by
//! hand, in the same run, turn by turn, so that a busy machine slows both. `bench soak` runs many executions of all
//! kinds and compares what the service holds before and after. `bench calls` makes random system calls in sandboxes.

#![forbid(unsafe_code)]

mod calls;
mod client;
mod latency;
mod sandboxes;
mod soak;
mod table;

use std::error::Error;
use std::process::ExitCode;

/// What a measurement ends in when it can't be made.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: bench [--check]    latency and memory; with --check, exit code 1 on a broken promise
       bench soak [N]     N executions (10000); exit code 1 when anything is left behind
       bench calls [S]    random system calls for S seconds (60), SEED repeats them; exit code 1 when anything suffers";
const SOAK_EXECUTIONS: usize = 10_000;
const CALLS_SECONDS: u64 = 60;

fn main() -> ExitCode {
    // The sandbox's own processes are started from this program.
    if let Some(code) = sandbox::dispatch(std::env::args_os()) {
        return ExitCode::from(u8::try_from(code).unwrap_or(125));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let kept = match arguments.as_slice() {
        [] => latency::run().map(|_| true),
        ["--check"] => latency::run(),
        ["calls"] => calls::run(CALLS_SECONDS),
        ["calls", seconds] => match seconds.parse() {
            Ok(seconds) if seconds > 0 => calls::run(seconds),
            _ => return usage(),
        },
        ["soak"] => soak::run(SOAK_EXECUTIONS),
        ["soak", count] => match count.parse() {
            Ok(count) if count > 0 => soak::run(count),
            _ => return usage(),
        },
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
