//! What an execution's end means: status, exit code, return value and error as the caller sees them.
//!
//! Exit code, signal, deadline and memory come from the kernel; the program's own word counts only for its return value
//! and for what it raised.

use sandbox::outcome::{End, FullFolder, Outcome};
use sandbox::policy::Limits;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::language::Language;
use crate::protocol::{self, Reported, ReportedKind, Returned};

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Exit code 0.
    Completed,
    /// It failed by itself or against a limit.
    Failed,
    /// It was stopped at its deadline.
    Timeout,
    /// It was stopped because nobody wanted it any more.
    Cancelled,
    /// What ran it went down under it. No verdict says so: whoever comes after does.
    Crashed,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names are the wire format's.
pub enum Kind {
    Exception,
    Exit,
    Signal,
    Timeout,
    OutOfMemory,
    DiskFull,
    HandlerMissing,
    ReturnValue,
    Cancelled,
    Sandbox,
}

/// Why it did not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// The exception's class, where there is one.
    pub name: Option<String>,
    /// What happened.
    pub message: String,
    /// Where, in the user's code.
    pub traceback: Option<String>,
}

/// All of it.
#[derive(Debug)]
pub struct Verdict {
    /// How it went.
    pub status: Status,
    /// The program's own; none when it was killed.
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it, when we did not send it.
    pub signal: Option<&'static str>,
    /// What it returned.
    pub return_value: Option<Box<RawValue>>,
    /// Why it did not complete.
    pub error: Option<Failure>,
}

impl Verdict {
    /// Judges an outcome.
    pub fn new(language: Language, outcome: &Outcome, limits: &Limits) -> Self {
        let killed = |status, kind, message: String| Self {
            status,
            exit_code: None,
            signal: None,
            return_value: None,
            error: Some(Failure { kind, name: None, message, traceback: None }),
        };
        let out_of_memory = || {
            let (limit, most) = (mebibytes(limits.memory_bytes), mebibytes(outcome.usage.peak_memory_bytes));
            let message = format!(
                "Out of memory: the execution used its limit of {limit} MB (most in use: {most} MB); \
                 raise MAX_MEMORY_MB or use less"
            );
            killed(Status::Failed, Kind::OutOfMemory, message)
        };
        match outcome.end {
            End::Exited(code) => match returned(language, outcome) {
                Returned::Error(error) if !outcome.memory_enforced && error.name.as_deref() == Some("MemoryError") => {
                    out_of_memory()
                }
                returned => Self::exited(code, returned).or_disk_full(outcome),
            },
            End::Signalled(number) => {
                let name = signal_name(number);
                Self { signal: Some(name), ..killed(Status::Failed, Kind::Signal, signal_message(number, limits)) }
            }
            End::TimedOut => {
                let message = format!(
                    "Execution timeout (limit: {} s; ran for {:.2} s, CPU time {:.2} s)",
                    limits.timeout.as_secs(),
                    outcome.duration.as_secs_f64(),
                    outcome.usage.cpu_time.as_secs_f64()
                );
                killed(Status::Timeout, Kind::Timeout, message)
            }
            End::OutOfMemory => out_of_memory(),
            End::Cancelled => killed(Status::Cancelled, Kind::Cancelled, "Execution cancelled".into()),
        }
    }

    /// A failure that came of a full disk is one of that kind: where the kernel says that there was no room, or where the
    /// exception is the one for it. What else is known of it stays.
    fn or_disk_full(mut self, outcome: &Outcome) -> Self {
        let Some(error) = self.error.as_mut().filter(|error| matches!(error.kind, Kind::Exception | Kind::Exit)) else {
            return self;
        };
        let message = match &outcome.full {
            Some(full) => no_room(full),
            None if says_no_room(error) => format!("No space left for the execution's files: {}", error.message),
            None => return self,
        };
        error.kind = Kind::DiskFull;
        error.message = message;
        self
    }

    fn exited(code: i32, returned: Returned) -> Self {
        let mut verdict =
            Self { status: Status::Completed, exit_code: Some(code), signal: None, return_value: None, error: None };
        let failure = |kind, name, message, traceback| Some(Failure { kind, name, message, traceback });
        verdict.error = match returned {
            Returned::Damaged(why) => {
                verdict.exit_code = Some(1);
                failure(Kind::ReturnValue, None, why, None)
            }
            Returned::Error(Reported { kind, name, message, traceback }) => {
                verdict.exit_code = Some(if code == 0 { 1 } else { code });
                failure(kind.into(), name, message, traceback)
            }
            Returned::Value(value) => {
                verdict.return_value = Some(value);
                None
            }
            Returned::Nothing => None,
        };
        if verdict.error.is_none() && code != 0 {
            verdict.error = failure(Kind::Exit, None, format!("The program exited with code {code}"), None);
        }
        if verdict.error.is_some() {
            verdict.status = Status::Failed;
        }
        verdict
    }
}

impl From<ReportedKind> for Kind {
    fn from(kind: ReportedKind) -> Self {
        match kind {
            ReportedKind::Exception => Self::Exception,
            ReportedKind::HandlerMissing => Self::HandlerMissing,
            ReportedKind::ReturnValue => Self::ReturnValue,
        }
    }
}

fn returned(language: Language, outcome: &Outcome) -> Returned {
    let (bytes, total) = (&outcome.result.kept, outcome.result.total);
    match language {
        Language::Shell => protocol::plain_result(bytes, total),
        Language::Python | Language::Javascript => protocol::result(bytes, total),
    }
}

/// Whether an exception is the languages' own for ENOSPC or EDQUOT (errno(3)).
fn says_no_room(error: &Failure) -> bool {
    let starts = ["[Errno 28]", "[Errno 122]", "ENOSPC:", "EDQUOT:"];
    error.kind == Kind::Exception && starts.iter().any(|start| error.message.starts_with(start))
}

fn no_room(full: &FullFolder) -> String {
    let (path, size) = (&full.path, mebibytes(full.size_bytes));
    let what = if full.of_files { "No more files fit into" } else { "No space left in" };
    match path.as_str() {
        "/tmp" | "/dev/shm" => {
            format!("{what} {path}: it holds {size} MB, which count as memory; raise MAX_MEMORY_MB or write less")
        }
        _ => format!("{what} the workspace: its disk of {size} MB is full; remove files, or use a larger disk"),
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}

fn signal_message(number: i32, limits: &Limits) -> String {
    let name = signal_name(number);
    match name {
        "SIGXFSZ" => {
            format!("Killed by {name}: a file grew over {} MB (MAX_FILE_SIZE_MB)", mebibytes(limits.file_size_bytes))
        }
        "SIGSYS" => {
            format!(
                "Killed by {name}: it made a system call of another architecture, which no sandbox allows (seccomp)"
            )
        }
        _ => format!("Killed by signal {name}"),
    }
}

/// The names of the signals, by their numbers (signal(7)).
const SIGNALS: [&str; 32] = [
    "SIG0",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// What a real-time signal is called, whichever it is.
const REAL_TIME: &str = "SIGRT";
/// The first of them (signal(7)).
const FIRST_REAL_TIME: i32 = 34;

/// The signal's name.
pub fn signal_name(number: i32) -> &'static str {
    usize::try_from(number).ok().and_then(|number| SIGNALS.get(number)).copied().unwrap_or(REAL_TIME)
}

/// The number of a signal that [`signal_name`] named.
pub fn signal_number(name: &str) -> Option<i32> {
    let number = SIGNALS.iter().position(|signal| *signal == name).and_then(|number| i32::try_from(number).ok());
    number.or((name == REAL_TIME).then_some(FIRST_REAL_TIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::outcome::{Captured, Usage};
    use std::time::Duration;

    fn limits() -> Limits {
        Limits {
            timeout: Duration::from_secs(3),
            memory_bytes: 64 << 20,
            cpu_cores: 1.0,
            processes: 9,
            file_size_bytes: 5 << 20,
            output_bytes: 9,
        }
    }

    fn judge(end: End, frame: &[u8], memory_enforced: bool) -> Verdict {
        let result = Captured { kept: frame.to_vec(), total: frame.len() as u64 };
        let outcome = Outcome {
            end,
            stdout: Captured::default(),
            stderr: Captured::default(),
            result,
            usage: Usage::default(),
            memory_enforced,
            full: None,
            duration: Duration::ZERO,
        };
        Verdict::new(Language::Python, &outcome, &limits())
    }

    fn frame(kind: u8, payload: &str) -> Vec<u8> {
        [b"SBXR", &[kind][..], &(payload.len() as u32).to_le_bytes(), payload.as_bytes()].concat()
    }

    fn kind(verdict: &Verdict) -> Option<Kind> {
        verdict.error.as_ref().map(|error| error.kind)
    }

    #[test]
    fn an_exit_code_is_the_programs_own() {
        let verdict = judge(End::Exited(0), b"", true);
        assert_eq!((verdict.status, verdict.exit_code, kind(&verdict)), (Status::Completed, Some(0), None));
        let verdict = judge(End::Exited(3), b"", true);
        assert_eq!((verdict.status, verdict.exit_code, kind(&verdict)), (Status::Failed, Some(3), Some(Kind::Exit)));
    }

    #[test]
    fn a_value_completes_only_what_exits_with_0() {
        let verdict = judge(End::Exited(0), &frame(b'R', "[1]"), true);
        assert_eq!(verdict.return_value.map(|value| value.get().to_owned()).as_deref(), Some("[1]"));
        let verdict = judge(End::Exited(4), &frame(b'R', "[1]"), true);
        assert_eq!((verdict.status, kind(&verdict)), (Status::Failed, Some(Kind::Exit)));
    }

    #[test]
    fn a_forged_error_can_not_complete_and_a_damaged_value_fails() {
        let error = r#"{"kind":"exception","name":"E","message":"m","traceback":null}"#;
        let verdict = judge(End::Exited(0), &frame(b'E', error), true);
        assert_eq!((verdict.exit_code, kind(&verdict)), (Some(1), Some(Kind::Exception)));
        let verdict = judge(End::Exited(0), b"nonsense", true);
        assert_eq!((verdict.exit_code, kind(&verdict)), (Some(1), Some(Kind::ReturnValue)));
    }

    #[test]
    fn what_was_killed_has_no_exit_code_and_no_value() {
        for (end, status, expected) in [
            (End::TimedOut, Status::Timeout, Kind::Timeout),
            (End::OutOfMemory, Status::Failed, Kind::OutOfMemory),
            (End::Cancelled, Status::Cancelled, Kind::Cancelled),
            (End::Signalled(11), Status::Failed, Kind::Signal),
        ] {
            let verdict = judge(end, &frame(b'R', "1"), true);
            assert_eq!((verdict.status, verdict.exit_code, kind(&verdict)), (status, None, Some(expected)));
            assert!(verdict.return_value.is_none());
        }
        assert_eq!(judge(End::Signalled(11), b"", true).signal, Some("SIGSEGV"));
        let message = judge(End::TimedOut, b"", true).error.unwrap().message;
        assert_eq!(message, "Execution timeout (limit: 3 s; ran for 0.00 s, CPU time 0.00 s)");
    }

    #[test]
    fn a_failure_on_a_full_disk_says_so_and_keeps_what_is_known() {
        let outcome = |code, frame: &[u8], full| Outcome {
            end: End::Exited(code),
            stdout: Captured::default(),
            stderr: Captured::default(),
            result: Captured { kept: frame.to_vec(), total: frame.len() as u64 },
            usage: Usage::default(),
            memory_enforced: true,
            full,
            duration: Duration::ZERO,
        };
        let full = |path: &str| Some(FullFolder { path: path.into(), size_bytes: 8 << 20, of_files: false });
        let judge = |outcome| Verdict::new(Language::Python, &outcome, &limits());
        let verdict = judge(outcome(1, b"", full("/workspace")));
        assert_eq!(kind(&verdict), Some(Kind::DiskFull));
        assert!(verdict.error.unwrap().message.contains("No space left in the workspace: its disk of 8 MB"));
        let verdict = judge(outcome(1, b"", full("/tmp")));
        assert!(verdict.error.unwrap().message.contains("MAX_MEMORY_MB"));
        let said =
            r#"{"kind":"exception","name":"OSError","message":"[Errno 28] No space left on device","traceback":"t"}"#;
        let verdict = judge(outcome(1, &frame(b'E', said), None));
        let error = verdict.error.unwrap();
        assert_eq!(
            (error.kind, error.name.as_deref(), error.traceback.as_deref()),
            (Kind::DiskFull, Some("OSError"), Some("t"))
        );
        // A program that did what it was to do has not failed on it, and what raised for another reason neither.
        assert_eq!(kind(&judge(outcome(0, b"", full("/workspace")))), None);
        let other = frame(b'E', r#"{"kind":"exception","name":"E","message":"m","traceback":null}"#);
        assert_eq!(kind(&judge(outcome(1, &other, None))), Some(Kind::Exception));
    }

    #[test]
    fn a_refused_allocation_is_a_lack_of_memory_where_no_cgroup_bounds_it() {
        let error = frame(b'E', r#"{"kind":"exception","name":"MemoryError","message":"","traceback":null}"#);
        assert_eq!(kind(&judge(End::Exited(1), &error, false)), Some(Kind::OutOfMemory));
        assert_eq!(kind(&judge(End::Exited(1), &error, true)), Some(Kind::Exception));
    }
}
