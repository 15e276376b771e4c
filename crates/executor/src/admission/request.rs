//! The body of `POST /execute`: strict JSON in, a valid request or every violation at once out.

#[cfg(any(test, fuzzing))]
pub mod property;

use std::sync::Arc;
use std::time::Duration;

use runtime::{Language, Mode};
use serde_json::value::RawValue;

use super::digest;
use super::fields::{Fields, Members, Violation};
use super::files::{self, Files, Outputs};
use crate::config::Config;
use crate::workspace::random;

/// Longest id.
const MAX_ID_BYTES: usize = 128;
/// What [`is_id`] asks for, in words.
pub const ID_FORM: &str = "1 to 128 characters of A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit";
/// One environment string, name, sign and value with its NUL, is at most this long (MAX_ARG_STRLEN, execve(2)).
const MAX_VARIABLE_BYTES: usize = 128 * 1024;
/// All of the user's variables together: they share a quarter of the stack's limit with the arguments (execve(2)).
const MAX_VARIABLES_BYTES: usize = 1024 * 1024;
/// Longest path of a working directory.
const MAX_PATH_BYTES: usize = 1024;

/// A request that can be run as it is.
#[derive(Debug)]
pub struct ExecuteRequest {
    /// The execution's id, the caller's or one of ours.
    pub execution_id: String,
    /// What it says, if the caller named the id and may send it again.
    pub digest: Option<[u8; 32]>,
    /// The session, if it belongs to one.
    pub session_id: Option<String>,
    /// The code.
    pub code: String,
    /// Its language.
    pub language: Language,
    /// Time from the start to the forced end.
    pub timeout: Duration,
    /// The event, as the caller wrote it.
    pub event: Box<RawValue>,
    /// The user's environment variables.
    pub env_vars: Vec<(String, String)>,
    /// Standard input.
    pub stdin: String,
    /// Folder below the workspace; empty for the workspace itself.
    pub working_directory: String,
    /// What to do with a handler.
    pub mode: Mode,
    /// Limits, not above the service's own.
    pub limits: RequestedLimits,
    /// What is brought into the workspace before the run.
    pub files: Arc<Files>,
    /// What comes back from it with the answer.
    pub outputs: Option<Outputs>,
}

/// What a request is limited to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestedLimits {
    /// Memory.
    pub memory_mb: u64,
    /// CPU.
    pub cpu_cores: f64,
    /// Processes and threads.
    pub processes: u32,
    /// Bytes kept of each stream.
    pub output_bytes: u64,
    /// What the workspace may hold.
    pub disk_mb: u64,
}

/// What a request may not exceed: the part of the configuration that this module needs.
#[derive(Debug, Clone)]
pub struct Ceilings {
    /// Bytes of code.
    pub code_bytes: u64,
    /// MiB of a file.
    pub file_size_mb: u64,
    /// Timeout when none is given.
    pub default_timeout: Duration,
    /// Largest timeout.
    pub max_timeout: Duration,
    /// The service's own limits.
    pub limits: RequestedLimits,
}

impl Ceilings {
    /// From the configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            code_bytes: config.max_code_bytes,
            file_size_mb: config.max_file_size_mb,
            default_timeout: config.max_execution_time,
            max_timeout: config.max_timeout,
            limits: RequestedLimits {
                memory_mb: config.max_memory_mb,
                cpu_cores: config.max_cpu_cores,
                processes: config.max_processes,
                output_bytes: config.max_output_bytes,
                disk_mb: config.max_disk_mb,
            },
        }
    }
}

/// Reads and judges a body.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(body: &[u8], ceilings: &Ceilings) -> Result<ExecuteRequest, Vec<Violation>> {
    let mut fields = Fields::read(body)?;
    let named = fields.members.get("execution_id").is_some_and(|id| id.get() != "null");
    let digest = named.then(|| digest::of(fields.members.iter().map(|(name, value)| (name.as_str(), *value))));
    let request = fields.request(ceilings).map(|request| ExecuteRequest { digest, ..request });
    fields.finish(request)
}

/// Those of an execution.
impl Fields<'_> {
    /// The request, or `None` when something without which there is none is missing or wrong.
    fn request(&mut self, ceilings: &Ceilings) -> Option<ExecuteRequest> {
        let code = self.code(ceilings);
        let language = self.language();
        let execution_id = self.id("execution_id");
        let session_id = self.id("session_id");
        let (event, timeout) = self.event_and_timeout(ceilings);
        let env_vars = self.env_vars();
        let stdin = self.typed("stdin", "a string").unwrap_or_default();
        let working_directory = self.working_directory();
        let mode = self.mode();
        let limits = self.limits(&ceilings.limits);
        let files = self
            .take("files")
            .map(|object| files::files(object, ceilings.file_size_mb, &mut self.violations))
            .unwrap_or_default();
        let outputs = self.take("outputs").and_then(|array| files::outputs(array, &mut self.violations));
        Some(ExecuteRequest {
            execution_id: execution_id.unwrap_or_else(new_execution_id),
            digest: None,
            session_id,
            code: code?,
            language: language?,
            timeout,
            event,
            env_vars,
            stdin,
            working_directory,
            mode,
            limits,
            files: Arc::new(files),
            outputs,
        })
    }

    fn code(&mut self, ceilings: &Ceilings) -> Option<String> {
        let what = "a string, the code to run";
        self.require("code", what);
        let code: String = self.typed("code", what)?;
        let bytes = code.len() as u64;
        let problem = if code.is_empty() {
            "must not be empty".to_owned()
        } else if bytes > ceilings.code_bytes {
            format!("is {bytes} bytes, at most {} are allowed (MAX_CODE_BYTES)", ceilings.code_bytes)
        } else if code.contains('\0') {
            "must not contain a NUL character".to_owned()
        } else {
            return Some(code);
        };
        self.violation("code", problem);
        None
    }

    fn language(&mut self) -> Option<Language> {
        let expected = format!("one of {}", Language::NAMES);
        self.require("language", &expected);
        let name: String = self.typed("language", &expected)?;
        let language = Language::parse(&name);
        if language.is_none() {
            self.violation("language", format!("must be {expected}"));
        }
        language
    }

    fn id(&mut self, name: &str) -> Option<String> {
        let id: String = self.typed(name, "a string")?;
        if is_id(&id) {
            return Some(id);
        }
        self.violation(name, format!("must be {ID_FORM}"));
        None
    }

    /// The event as it was written, and the timeout from either place: the event's own goes first.
    fn event_and_timeout(&mut self, ceilings: &Ceilings) -> (Box<RawValue>, Duration) {
        let given = self.take("timeout").and_then(|value| self.timeout("timeout", value, ceilings));
        let timeout = given.unwrap_or(ceilings.default_timeout);
        let Some(event) = self.take("event") else { return (empty_object(), timeout) };
        let Ok(members) = serde_json::from_str::<Members<'_>>(event.get()) else {
            self.violation("event", "must be an object");
            return (empty_object(), timeout);
        };
        let inner = members.get("__timeout").and_then(|value| self.timeout("event.__timeout", value, ceilings));
        (event.to_owned(), inner.unwrap_or(timeout))
    }

    fn timeout(&mut self, field: &str, value: &RawValue, ceilings: &Ceilings) -> Option<Duration> {
        let longest = ceilings.max_timeout.as_secs();
        let seconds = integer(value, 1, longest);
        if seconds.is_none() {
            self.violation(field, format!("must be an integer from 1 to {longest}, seconds (MAX_TIMEOUT)"));
        }
        seconds.map(Duration::from_secs)
    }

    fn env_vars(&mut self) -> Vec<(String, String)> {
        let Some(object) = self.take("env_vars") else { return Vec::new() };
        let Ok(entries) = serde_json::from_str::<Members<'_>>(object.get()) else {
            self.violation("env_vars", "must be an object of strings");
            return Vec::new();
        };
        let mut variables = Vec::new();
        for (name, value) in entries {
            let value = serde_json::from_str::<String>(value.get());
            let problem = match &value {
                _ if !is_variable_name(&name) => "the name must be of A-Z, a-z, 0-9 and '_', the first no digit",
                Err(_) => "must be a string",
                Ok(value) if value.contains('\0') => "must not contain a NUL character",
                Ok(value) if name.len() + value.len() + 2 > MAX_VARIABLE_BYTES => {
                    "must be shorter than 128 KiB with its name; give large data as event or stdin"
                }
                Ok(_) => "",
            };
            if problem.is_empty() {
                variables.extend(value.map(|value| (name, value)));
            } else {
                self.violation(format!("env_vars.{name}"), problem);
            }
        }
        let bytes: usize = variables.iter().map(|(name, value): &(String, String)| name.len() + value.len() + 2).sum();
        if bytes > MAX_VARIABLES_BYTES {
            self.violation("env_vars", "must be at most 1 MiB in all; give large data as event or stdin");
        }
        variables
    }

    fn working_directory(&mut self) -> String {
        let Some(path) = self.typed::<String>("working_directory", "a string") else { return String::new() };
        let good = path.len() <= MAX_PATH_BYTES
            && !path.starts_with('/')
            && !path.contains('\0')
            && path.split('/').all(|part| part != ".." && part.len() <= 255);
        if !good {
            self.violation("working_directory", "must be a relative path in the workspace without '..'");
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        parts.join("/")
    }

    fn mode(&mut self) -> Mode {
        let Some(name) = self.typed::<String>("mode", "a string") else { return Mode::Auto };
        Mode::parse(&name).unwrap_or_else(|| {
            self.violation("mode", "must be one of auto, handler, script");
            Mode::Auto
        })
    }

    fn limits(&mut self, own: &RequestedLimits) -> RequestedLimits {
        let mut limits = *own;
        let Some(object) = self.take("limits") else { return limits };
        let Ok(entries) = serde_json::from_str::<Members<'_>>(object.get()) else {
            self.violation("limits", "must be an object");
            return limits;
        };
        for (name, value) in entries {
            let range = |least: f64, most: f64| format!("must be from {least} to {most}, the service's own limit");
            let problem = match name.as_str() {
                "memory_mb" => {
                    let asked = integer(value, 1, own.memory_mb);
                    if set(&mut limits.memory_mb, asked) { String::new() } else { range(1.0, own.memory_mb as f64) }
                }
                "disk_mb" => {
                    let asked = integer(value, 1, own.disk_mb);
                    if set(&mut limits.disk_mb, asked) { String::new() } else { range(1.0, own.disk_mb as f64) }
                }
                "processes" => {
                    let asked = integer(value, 1, own.processes.into()).and_then(|asked| u32::try_from(asked).ok());
                    if set(&mut limits.processes, asked) { String::new() } else { range(1.0, own.processes.into()) }
                }
                "output_bytes" => {
                    let asked = integer(value, 0, own.output_bytes);
                    if set(&mut limits.output_bytes, asked) {
                        String::new()
                    } else {
                        range(0.0, own.output_bytes as f64)
                    }
                }
                "cpu_cores" => {
                    let asked = value.get().parse().ok().filter(|asked| (0.01..=own.cpu_cores).contains(asked));
                    if set(&mut limits.cpu_cores, asked) { String::new() } else { range(0.01, own.cpu_cores) }
                }
                _ => "unknown field".to_owned(),
            };
            if !problem.is_empty() {
                self.violation(format!("limits.{name}"), problem);
            }
        }
        limits
    }
}

fn empty_object() -> Box<RawValue> {
    serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_default()
}

/// Sets the target if there is a value; whether there was.
fn set<T>(target: &mut T, value: Option<T>) -> bool {
    value.map(|value| *target = value).is_some()
}

/// An integer in a range as JSON has it: no fraction, no exponent, no string.
fn integer(value: &RawValue, least: u64, most: u64) -> Option<u64> {
    let digits = value.get();
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| all_digits && (least..=most).contains(number))
}

/// `exec_YYYYMMDD_` and 16 of a-z0-9.
fn new_execution_id() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let (high, low) = (random(), random());
    let mut number = u128::from(high) << 64 | u128::from(low);
    let mut id = String::new();
    for _ in 0..16 {
        id.push(LETTERS[(number % 36) as usize].into());
        number /= 36;
    }
    let today = time::OffsetDateTime::now_utc().date();
    format!("exec_{:04}{:02}{:02}_{id}", today.year(), u8::from(today.month()), today.day())
}

/// Whether the text has the form of an id.
pub fn is_id(text: &str) -> bool {
    text.len() <= MAX_ID_BYTES
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
