//! `run`: one execution from the terminal. Output comes as it is written, then the return value; the exit code is the program's.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use runtime::Language;
use runtime::verdict::{Kind, Status};
use sandbox::capture::{Chunk, Stream};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::serve;
use crate::admission::request::{self, Ceilings, ExecuteRequest};
use crate::answer::Answer;
use crate::config::Config;
use crate::pipeline::Place;
use crate::state::State;
use crate::warm;
use crate::workspace::Workspace;

/// Exit status when it ran out of time, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// Exit status when the sandbox failed.
pub const SANDBOX_FAILED: u8 = 125;
/// Exit status after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;
/// Exit status when it ran out of memory: 128 + SIGKILL.
const OUT_OF_MEMORY: u8 = 137;

/// What to run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// python, javascript or shell; by default what the file's name says
    #[arg(long)]
    language: Option<String>,
    /// The event: JSON, or @FILE that holds it
    #[arg(long, value_name = "JSON|@FILE")]
    event: Option<String>,
    /// Seconds until it is stopped
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// An environment variable; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Work in this folder instead of an empty one that is removed afterwards
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// The code; - reads it from standard input
    #[arg(value_name = "FILE|-")]
    file: String,
}

/// Runs it and prints what it prints; returns the exit code.
///
/// # Errors
/// When it did not run.
pub async fn run(config: &Config, arguments: &Arguments) -> Result<u8> {
    let request = request(config, arguments)?;
    let home = tempfile::tempdir().context("a temporary folder")?;
    // A workspace root of its own: the service's may be in use by the service.
    let mut config = config.clone();
    config.workspace_path = home.path().join("workspaces");
    let executor = serve::build(&config, &State::new_instance(), &warm::Settings::default()).await?;
    let place = match &arguments.workspace {
        Some(folder) => {
            Place::Given(Workspace::of_caller(folder).with_context(|| format!("--workspace {}", folder.display()))?)
        }
        None => Place::Own,
    };
    let (sender, receiver) = mpsc::channel(16);
    let printer = tokio::spawn(print(receiver));
    let stop = executor.stop.clone();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        // Ended in order, so that nothing of it stays behind.
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    let answer = executor.execute_in(place, request, Duration::ZERO, executor.reins(Some(sender))).await;
    printer.await.ok();
    finish(&answer?)
}

fn request(config: &Config, arguments: &Arguments) -> Result<ExecuteRequest> {
    let named = arguments.language.as_deref().map(|name| Language::parse(name).ok_or(name));
    let language = match named {
        Some(Ok(language)) => language,
        Some(Err(name)) => bail!("--language {name}: allowed: {}", Language::NAMES),
        None => Language::of_file(&arguments.file)
            .with_context(|| format!("{}: its name tells no language; add --language", arguments.file))?,
    };
    let read = |file: &str| std::fs::read_to_string(file).with_context(|| file.to_owned());
    let code = if arguments.file == "-" {
        let mut code = String::new();
        std::io::stdin().read_to_string(&mut code).context("standard input")?;
        code
    } else {
        read(&arguments.file)?
    };
    let event = match arguments.event.as_deref() {
        None => "{}".to_owned(),
        Some(event) => event.strip_prefix('@').map_or_else(|| Ok(event.to_owned()), read)?,
    };
    let event = RawValue::from_string(event).context("--event must be JSON")?;
    let mut env_vars = BTreeMap::new();
    for variable in &arguments.env {
        let (name, value) =
            variable.split_once('=').with_context(|| format!("--env {variable}: allowed: NAME=VALUE"))?;
        env_vars.insert(name, value);
    }
    // The same rules as for what comes over HTTP.
    let timeout = arguments.timeout;
    let body = Body { code, language: language.name(), event, timeout, env_vars };
    request::parse(&serde_json::to_vec(&body)?, &Ceilings::of(config)).map_err(|violations| {
        let lines = violations.into_iter().map(|violation| format!("{}: {}", violation.field, violation.message));
        anyhow::anyhow!(lines.collect::<Vec<_>>().join("; "))
    })
}

/// A request as `POST /execute` has it.
#[derive(Serialize)]
struct Body<'a> {
    code: String,
    language: &'static str,
    event: Box<RawValue>,
    timeout: Option<u64>,
    env_vars: BTreeMap<&'a str, &'a str>,
}

/// Prints chunks as they come; on a terminal shows meanwhile that something is going on.
async fn print(mut chunks: mpsc::Receiver<Chunk>) {
    let spinner = std::io::stderr().is_terminal().then(|| {
        let style = indicatif::ProgressStyle::with_template("{spinner} running {elapsed}").ok();
        let spinner = indicatif::ProgressBar::new_spinner();
        spinner.enable_steady_tick(Duration::from_millis(100));
        match style {
            Some(style) => spinner.with_style(style),
            None => spinner,
        }
    });
    while let Some(chunk) = chunks.recv().await {
        if let Some(spinner) = &spinner {
            spinner.finish_and_clear();
        }
        // That nobody reads any more is no reason to stop the program.
        match chunk.stream {
            Stream::Stdout => std::io::stdout().write_all(&chunk.bytes).and_then(|()| std::io::stdout().flush()).ok(),
            Stream::Stderr => std::io::stderr().write_all(&chunk.bytes).ok(),
        };
    }
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
}

fn finish(answer: &Answer) -> Result<u8> {
    if let Some(value) = &answer.return_value {
        writeln!(std::io::stdout(), "{value}").ok();
    }
    if let Some(error) = answer.error.as_ref().filter(|error| error.kind != Kind::Exit) {
        if error.kind != Kind::Exception {
            eprintln!("sandbox-executor: {}", error.message);
        }
        match (error.kind, answer.status) {
            (Kind::OutOfMemory, _) => return Ok(OUT_OF_MEMORY),
            (_, Status::Timeout) => return Ok(TIMED_OUT),
            (_, Status::Cancelled) => return Ok(INTERRUPTED),
            _ => {}
        }
    }
    Ok(match (answer.exit_code, answer.signal) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => {
            let number = (1..32).find(|number| runtime::verdict::signal_name(*number) == signal).unwrap_or(9);
            128 + number as u8
        }
        (None, None) => SANDBOX_FAILED,
    })
}
