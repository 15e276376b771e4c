//! The starter: our own binary as the first process inside the profile. It puts in force what sandbox-exec(1) does not know
//! (rlimits, working directory, descriptors) and becomes the program.
//!
//! It is there for the environment above all: a caller's variables must not reach anything of ours, and sandbox-exec itself
//! would be the first to read `DYLD_…` and `Malloc…`. So they come in the order on standard input, with everything else, and
//! are put in place at the program's own exec. And what it does in the workspace, the profile confines already.
//!
//! Its standard error goes to the service. On it stands one line when the program is about to run, or what failed; the line
//! is marked, because dyld and sandbox-exec may write there too.

use std::ffi::CString;
use std::io::{self, Read};
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, WORKING_DIRECTORY_STEP};
use crate::policy::Limits;
use crate::sys;

/// First argument of a process that is to be a starter.
pub const STARTER_ARGUMENT: &str = "starter";
/// Descriptors for the program are passed on under numbers from here up, out of the way of those that they become.
pub(crate) const HIGH_FD: i32 = 64;

/// How a line begins that is ours.
const MARK: &str = "sandbox-executor starter: ";

/// What to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartOrder {
    /// Program and arguments; the first is an absolute path.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The workspace, without links.
    pub workspace: String,
    /// Folder below it to start in, made where absent; empty for the workspace itself.
    pub working_directory: String,
    /// What becomes descriptor 0, 1, 2, …: the numbers that these have here.
    pub descriptors: Vec<i32>,
    /// Bounds for each process.
    pub rlimits: StartRlimits,
}

/// Resource limits (setrlimit(2)) of those that POSIX and macOS have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartRlimits {
    /// `RLIMIT_CPU`, seconds: only there to end what the service could not, because it was killed.
    pub cpu_seconds: u64,
    /// `RLIMIT_FSIZE`, bytes.
    pub file_size_bytes: u64,
    /// `RLIMIT_NPROC`. Of the whole user on macOS, so what it has running is counted in; `None`: not set.
    pub processes: Option<u64>,
}

impl StartRlimits {
    /// For these limits, where the user has `others` processes running.
    pub fn for_limits(limits: &Limits, others: Option<u64>) -> Self {
        let cpu_seconds = (limits.timeout.as_secs_f64() * limits.cpu_cores.max(1.0)).ceil() as u64 + 1;
        let processes = others.map(|others| others + u64::from(limits.processes));
        Self { cpu_seconds, file_size_bytes: limits.file_size_bytes, processes }
    }

    fn apply(&self) -> io::Result<()> {
        let all = [
            (Resource::Core, Some(0)),
            (Resource::Cpu, Some(self.cpu_seconds)),
            (Resource::Fsize, Some(self.file_size_bytes)),
            // As on Linux: select(2) works with every descriptor.
            (Resource::Nofile, Some(1024)),
            (Resource::Nproc, self.processes),
        ];
        for (resource, value) in all.into_iter().filter_map(|(resource, value)| Some((resource, value?))) {
            let value = getrlimit(resource).maximum.map_or(value, |inherited| value.min(inherited));
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
enum Word {
    Started,
    Failed(Failure),
}

/// What a starter's standard error tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The program ran.
    Started,
    /// A step failed; the program did not run.
    Failed(Failure),
    /// The starter did not come to a word of its own; what else was said.
    Nothing(String),
}

impl Heard {
    /// The last word counts: the exec after `Started` may still have failed.
    pub fn in_text(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut words = text.lines().filter_map(|line| serde_json::from_str(line.split_once(MARK)?.1).ok());
        match words.next_back() {
            Some(Word::Started) => Self::Started,
            Some(Word::Failed(failure)) => Self::Failed(failure),
            None => Self::Nothing(text.trim().to_owned()),
        }
    }
}

/// The starter process itself: returns an exit code only when it did not become the program.
pub fn main() -> i32 {
    let say = |word: &Word, to: &mut dyn io::Write| {
        serde_json::to_string(word).ok().and_then(|word| to.write_all(format!("\n{MARK}{word}\n").as_bytes()).ok())
    };
    // A copy above all numbers that are about to be filled, which goes with the exec.
    let Ok(errors) = rustix::io::fcntl_dupfd_cloexec(io::stderr(), HIGH_FD) else { return 125 };
    let mut errors = std::fs::File::from(errors);
    let prepared = prepare();
    let failure = match prepared {
        Ok((argv, env)) => {
            say(&Word::Started, &mut errors);
            Failure::new("execute", sys::execve(&argv[0], &argv, &env))
        }
        Err(failure) => failure,
    };
    say(&Word::Failed(failure), &mut errors);
    125
}

/// Puts everything in force, and leaves what execve(2) needs.
fn prepare() -> Result<(Vec<CString>, Vec<CString>), Failure> {
    let mut order = Vec::new();
    io::stdin().lock().read_to_end(&mut order).map_err(|error| Failure::new("order", error))?;
    let order: StartOrder = serde_json::from_slice(&order)
        .map_err(|_| Failure::new("order", io::Error::from_raw_os_error(libc::EPROTO)))?;
    let nul = |_| Failure::new("arguments", io::Error::from_raw_os_error(libc::EINVAL));
    let argv = order.argv.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>().map_err(nul)?;
    let variables = order.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let env = variables.collect::<Result<Vec<_>, _>>().map_err(nul)?;
    if argv.is_empty() {
        return Err(Failure::new("arguments", io::Error::from_raw_os_error(libc::EINVAL)));
    }

    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    enter(Path::new(&order.workspace), &order.working_directory)
        .map_err(|error| Failure::new(WORKING_DIRECTORY_STEP, error))?;
    order.rlimits.apply().map_err(|error| Failure::new("rlimits", error))?;
    sys::reset_signals();
    for (number, &fd) in order.descriptors.iter().enumerate() {
        sys::place_fd(fd, number as i32).map_err(|error| Failure::at("descriptors", number, error))?;
    }
    let rest = order.descriptors.len() as i32;
    sys::close_on_exec_from(rest).map_err(|error| Failure::new("descriptors", error))?;
    Ok((argv, env))
}

/// Makes the folder where it is absent and goes there; not over a link out of the workspace.
fn enter(workspace: &Path, folder: &str) -> io::Result<()> {
    let folder = if folder.is_empty() { workspace.to_owned() } else { workspace.join(folder) };
    std::fs::create_dir_all(&folder)?;
    std::env::set_current_dir(&folder)?;
    if std::env::current_dir()?.starts_with(workspace) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EXDEV))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_marked_line_counts() {
        let failed = Word::Failed(Failure::new("execute", io::Error::from_raw_os_error(2)));
        let failed = serde_json::to_string(&failed).unwrap();
        let started = format!("dyld: a warning\n{MARK}\"Started\"\n");
        assert_eq!(Heard::in_text(started.as_bytes()), Heard::Started);
        let both = format!("{started}{MARK}{failed}\n");
        assert!(matches!(Heard::in_text(both.as_bytes()), Heard::Failed(failure) if failure.errno == 2));
        let other = b"sandbox-exec: invalid data type of path filter\n";
        assert_eq!(Heard::in_text(other), Heard::Nothing("sandbox-exec: invalid data type of path filter".to_owned()));
    }
}
