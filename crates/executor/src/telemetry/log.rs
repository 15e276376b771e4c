//! The log: one line an event, as text or JSON, to stderr and to a file.
//!
//! A text line is `2026-01-09T10:00:00.000Z [INFO] message`, and the message says it all, so that `grep` finds what the
//! troubleshooting document names; JSON has the event's fields beside it. Code, events, environment values and output
//! of an execution are never logged at INFO or above; whoever logs keeps to that. Control characters are escaped, since
//! much of what we log was chosen by strangers, and known secrets are cut out of every line as a safety net.
//! Logging never blocks, fails or panics where it is called: see [`output`].

mod line;
mod output;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use line::{Fields, Redactor};
use output::Output;

/// The crates whose events follow `LOG_LEVEL`. Those of all others show at WARNING and above, unless it is DEBUG.
const OURS: &[&str] = &["sandbox_executor", "executor", "runtime", "sandbox"];
/// How long [`LogHandle::flush`] waits for outputs that don't take what they are given.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Lowest level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Debug,
    /// The normal course of things.
    Info,
    /// What needs attention.
    Warning,
    /// What went wrong.
    Error,
}

impl Level {
    /// How each is written.
    pub const NAMES: &[(&str, Self)] =
        &[("DEBUG", Self::Debug), ("INFO", Self::Info), ("WARNING", Self::Warning), ("ERROR", Self::Error)];

    fn filter(self) -> LevelFilter {
        match self {
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, level)| level == self).map_or("", |(name, _)| name))
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people and `grep`.
    Text,
    /// An object a line, for collectors.
    Json,
}

impl Format {
    /// How each is written.
    pub const NAMES: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, format)| format == self).map_or("", |(name, _)| name))
    }
}

/// How to log. Not `Debug`: it holds secrets.
pub struct LogSettings {
    /// Lowest level that is logged.
    pub level: Level,
    /// Form of a line.
    pub format: Format,
    /// Also write here: appended to, made with mode 0640.
    pub file: Option<PathBuf>,
    /// What must not be in any line.
    pub secrets: Vec<String>,
}

/// Why the log can't start, on one line.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file can't be opened.
    #[error("LOG_FILE = {} cannot be opened for writing: {reason}; allowed: a file in a folder that exists", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// There is no thread to write with.
    #[error("the log cannot start: {0}")]
    Thread(io::Error),
    /// Something logs already.
    #[error("the log was started twice")]
    StartedTwice,
}

/// The running log. Dropping it writes what is still waiting.
pub struct LogHandle {
    outputs: Vec<Output>,
}

/// Starts the log of this process.
///
/// # Errors
/// The file can't be opened, or the log has been started before.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    // A descriptor of its own: a stalled write must not hold the lock of `io::stderr`, which a panic message needs.
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(LogError::Thread)?;
    let (lines, handle) = assemble(settings, Box::new(std::fs::File::from(stderr)))?;
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines))
        .map_err(|_| LogError::StartedTwice)?;
    Ok(handle)
}

fn assemble(settings: &LogSettings, stderr: Box<dyn Write + Send>) -> Result<(Lines, LogHandle), LogError> {
    let mut outputs = vec![Output::start(stderr, None, settings.format).map_err(LogError::Thread)?];
    if let Some(path) = &settings.file {
        let file = output::open(path).map_err(|reason| LogError::File { path: path.clone(), reason })?;
        let file = Output::start(Box::new(file), Some(path.clone()), settings.format);
        outputs.push(file.map_err(LogError::Thread)?);
    }
    let lines = Lines {
        level: settings.level,
        format: settings.format,
        redactor: Redactor::new(&settings.secrets),
        outputs: outputs.clone(),
    };
    Ok((lines, LogHandle { outputs }))
}

impl LogHandle {
    /// Opens the log file anew, after a rotation has moved it away. Until that works, the old one is written to.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn reopen(&self) -> io::Result<()> {
        self.outputs.iter().try_for_each(Output::reopen)?;
        self.flush();
        Ok(())
    }

    /// Waits until what was logged is written, a second at most. Needed before `std::process::exit`.
    pub fn flush(&self) {
        let deadline = std::time::Instant::now() + FLUSH_WAIT;
        self.outputs.iter().for_each(|output| output.flush(deadline));
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Turns events into lines.
struct Lines {
    level: Level,
    format: Format,
    redactor: Redactor,
    outputs: Vec<Output>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let least = match self.level {
            Level::Info if !is_ours(metadata) => LevelFilter::WARN,
            level => level.filter(),
        };
        *metadata.level() <= least
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.filter())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.redact(&self.redactor);
        let level = Level::from(*event.metadata().level());
        let line = line::render(self.format, OffsetDateTime::now_utc(), level, is_ours(event.metadata()), fields);
        for output in &self.outputs {
            output.send(line.clone());
        }
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next().is_some_and(|name| OURS.contains(&name))
}
