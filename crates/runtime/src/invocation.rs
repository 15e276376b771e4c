//! One call of a user's code, and how it becomes a program for a sandbox.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::language::Language;
use crate::protocol::{self, Header};
use crate::{Interpreter, Packages, javascript, python, shell};

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
        let packages = Packages::of(interpreter, layout).filter(|_| !interpreter.language.reads_python_path());
        let python_path = packages.map(|packages| packages.python_path(self.env_vars));
        let users = self.env_vars.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in users.chain(python_path) {
            program.env.retain(|(known, _)| known != name);
            program.env.push((name.to_owned(), value));
        }
        Ok(program)
    }

    /// What is alike in all languages when a program starts with its request.
    pub(crate) fn base(&self, argv: Vec<String>, interpreter: &Interpreter, layout: &Layout) -> io::Result<Program> {
        let stdin = if self.stdin.is_empty() {
            OwnedFd::from(std::fs::File::open("/dev/null")?)
        } else {
            channel::sealed("stdin", &[self.stdin.as_bytes()])?
        };
        let working_directory = self.working_directory.to_owned();
        Ok(Program { working_directory, ..interpreter.program(argv, layout, stdin) })
    }

    /// Whether it comes to the same if its program starts before it is known. What an interpreter or the loader reads when it starts
    /// has to be there then, and the working directory is checked before anything runs.
    pub fn can_start_ahead(&self) -> bool {
        const READ_AT_START: &[&str] = &[
            "PYTHON",
            "NODE_",
            "LD_",
            "LANG",
            "LC_",
            "GLIBC_",
            "MALLOC_",
            "OPENSSL_",
            "SSL_",
            "ICU_",
            "OMP_",
            "KMP_",
            "MKL_",
            "OPENBLAS_",
        ];
        let read_at_start = |name: &str| {
            name == "TZ" || name.ends_with("_NUM_THREADS") || READ_AT_START.iter().any(|start| name.starts_with(start))
        };
        self.working_directory.is_empty() && !self.env_vars.iter().any(|(name, _)| read_at_start(name))
    }

    /// The sealed request for a bootstrap that starts with it.
    pub(crate) fn request(&self, language: Language, packages: Option<&Packages>) -> io::Result<OwnedFd> {
        let variables = packages.map(|packages| BTreeMap::from([packages.python_path(self.env_vars)]));
        let parts = protocol::request(&self.header(language, variables, packages), self.code, self.event)?;
        channel::sealed("request", &parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// The request for one that has started.
    pub(crate) fn request_ahead(&self, language: Language, packages: Option<&Packages>) -> io::Result<Vec<u8>> {
        let mut variables: BTreeMap<_, _> =
            self.env_vars.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        variables.extend(packages.into_iter().flat_map(|packages| packages.variables(self.env_vars)));
        let parts = protocol::request(&self.header(language, Some(variables), packages), self.code, self.event)?;
        Ok(parts.concat())
    }

    fn header<'a>(
        &'a self,
        language: Language,
        env: Option<BTreeMap<&'a str, String>>,
        packages: Option<&'a Packages>,
    ) -> Header<'a> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        Header {
            language: language.name(),
            mode: self.mode.name(),
            execution_id: self.execution_id,
            function_name: "handler",
            deadline_ns: (now + self.timeout).as_nanos().to_string(),
            env,
            packages: packages.map(Packages::folder),
        }
    }
}

impl Interpreter {
    /// A program that starts ahead of its request, which it reads from `request`; `None` where there is nothing to start without
    /// one.
    ///
    /// # Errors
    /// When the files in memory can't be made.
    pub(crate) fn ahead(
        &self,
        layout: &Layout,
        memory_bytes: u64,
        imports: &[String],
        stdin: OwnedFd,
        request: OwnedFd,
    ) -> io::Result<Program> {
        let mut program = match self.language {
            Language::Python => python::start(self, layout, stdin)?,
            Language::Javascript => javascript::start(self, layout, memory_bytes, stdin)?,
            Language::Shell => return Err(io::ErrorKind::Unsupported.into()),
        };
        if self.language == Language::Python {
            program.argv.extend(imports.iter().cloned());
        }
        program.descriptors.push(request);
        Ok(program)
    }

    /// With the environment that every program has.
    pub(crate) fn program(&self, argv: Vec<String>, layout: &Layout, stdin: OwnedFd) -> Program {
        Program {
            argv,
            env: self.environment(&layout.temp, layout.packages.as_deref()),
            working_directory: String::new(),
            stdin,
            descriptors: Vec::new(),
            files: Vec::new(),
            result_bytes: protocol::RESULT_BYTES,
            bears_rlimit: true,
        }
    }

    pub(crate) fn environment(&self, temp: &str, packages: Option<&str>) -> Vec<(String, String)> {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            variable("PATH", &self.search_path(packages)),
            variable("HOME", temp),
            variable("TMPDIR", temp),
            variable("LANG", "C.UTF-8"),
        ]
    }
}
