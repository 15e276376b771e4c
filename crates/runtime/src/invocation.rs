//! One call of a user's code, and how it becomes a program for a sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::language::Language;
use crate::protocol::{self, Header};
use crate::{Interpreter, javascript, python, shell};

/// What to do with a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Call it if there is one; otherwise the code is a script.
    Auto,
    /// There must be one.
    Handler,
    /// Never call it.
    Script,
}

impl Mode {
    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "handler" => Some(Self::Handler),
            "script" => Some(Self::Script),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Handler => "handler",
            Self::Script => "script",
        }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Invocation<'a> {
    /// The code.
    pub code: &'a str,
    /// The event, JSON.
    pub event: &'a str,
    /// What to do with a handler.
    pub mode: Mode,
    /// The execution's id, which is also the handler context's request id.
    pub execution_id: &'a str,
    /// Standard input.
    pub stdin: &'a str,
    /// The user's own environment variables.
    pub env_vars: &'a [(String, String)],
    /// Folder below the workspace; empty for the workspace itself.
    pub working_directory: &'a str,
    /// Time from the start to the forced end.
    pub timeout: Duration,
    /// Memory that the execution may use, bytes.
    pub memory_bytes: u64,
}

impl Invocation<'_> {
    /// The program that runs this. Made right before it is started: the deadline counts from here.
    ///
    /// # Errors
    /// When the files in memory can't be made.
    pub fn program(&self, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
        let mut program = match interpreter.language {
            Language::Python => python::program(self, interpreter, layout)?,
            Language::Javascript => javascript::program(self, interpreter, layout)?,
            Language::Shell => shell::program(self, interpreter, layout)?,
        };
        // The user's come last and win; the last of a name counts.
        for (name, value) in self.env_vars {
            program.env.retain(|(known, _)| known != name);
            program.env.push((name.clone(), value.clone()));
        }
        Ok(program)
    }

    /// What is alike in all languages.
    pub(crate) fn base(&self, argv: Vec<String>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let stdin = if self.stdin.is_empty() {
            OwnedFd::from(std::fs::File::open("/dev/null")?)
        } else {
            channel::sealed("stdin", &[self.stdin.as_bytes()])?
        };
        Ok(Program {
            argv,
            env: vec![
                variable("PATH", &interpreter.search_path()),
                variable("HOME", &layout.temp),
                variable("TMPDIR", &layout.temp),
                variable("LANG", "C.UTF-8"),
            ],
            working_directory: self.working_directory.to_owned(),
            stdin,
            descriptors: Vec::new(),
            files: Vec::new(),
            result_bytes: protocol::RESULT_BYTES,
            bears_rlimit: true,
        })
    }

    /// The sealed request for a bootstrap.
    pub(crate) fn request(&self, language: Language) -> io::Result<OwnedFd> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        let header = Header {
            language: language.name(),
            mode: self.mode.name(),
            execution_id: self.execution_id,
            function_name: "handler",
            deadline_ns: (now + self.timeout).as_nanos().to_string(),
        };
        let parts = protocol::request(&header, self.code, self.event)?;
        channel::sealed("request", &parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }
}
