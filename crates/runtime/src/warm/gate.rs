//! Where a program that was started ahead waits, and what lets it go.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sandbox::capture::Chunk;
use sandbox::error::{SandboxError, Stage};
use sandbox::outcome::Outcome;
use sandbox::pipes::feed;
use sandbox::policy::Limits;
use sandbox::zygote::Zygote;
use sandbox::{Prepared, Remains, Started};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::mpsc;

use crate::protocol;
use crate::{Interpreter, Invocation, Language, Packages};

/// How long a program that is started ahead may take to come to its gate.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// Our ends of the pipes that the request and standard input come by.
pub struct Gate {
    request: Sender,
    stdin: Sender,
}

impl Gate {
    /// With the program's ends of the same.
    ///
    /// # Errors
    /// The system calls' own.
    pub fn new() -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let ((request_end, request), (stdin_end, stdin)) = (feed()?, feed()?);
        Ok((Self { request, stdin }, request_end, stdin_end))
    }

    /// Lets the program go. What does not fit into the pipes at once follows while it runs; a program that ends without reading it
    /// all ends that too.
    fn open(self, input: Input) {
        for (pipe, bytes) in [(self.request, input.request), (self.stdin, input.stdin)] {
            pour(pipe, bytes);
        }
    }
}

fn pour(mut pipe: Sender, bytes: Vec<u8>) {
    let written = if bytes.is_empty() { Ok(0) } else { pipe.try_write(&bytes) };
    if written.as_ref().is_ok_and(|written| *written == bytes.len()) {
        return;
    }
    let written = written.unwrap_or(0);
    tokio::spawn(async move { pipe.write_all(&bytes[written..]).await });
}

/// What a program that has started is given.
pub struct Input {
    request: Vec<u8>,
    stdin: Vec<u8>,
}

impl Invocation<'_> {
    /// What a program that has started is given of it. Made right before that: the deadline counts from here.
    ///
    /// # Errors
    /// A part is longer than 4 GiB.
    pub fn input(&self, language: Language, packages: Option<&Packages>) -> io::Result<Input> {
        Ok(Input { request: self.request_ahead(language, packages)?, stdin: self.stdin.as_bytes().to_vec() })
    }
}

/// A program in a sandbox that waits for its request.
pub struct Waiting {
    started: Started,
    gate: Gate,
    packages: Option<Packages>,
}

impl Waiting {
    /// Starts the language's program in this sandbox: a fork where there is a zygote and it can, otherwise by executing it with
    /// `imports` to load ahead. It need not have arrived to be let go.
    ///
    /// # Errors
    /// As of [`Prepared::start`].
    pub async fn start(
        prepared: Prepared,
        interpreter: &Interpreter,
        zygote: Option<&Zygote>,
        memory_bytes: u64,
        imports: &[String],
    ) -> Result<Self, SandboxError> {
        let failed = |error| SandboxError::io(Stage::Program, "pipes for a program", error);
        let packages = Packages::of(interpreter, prepared.layout());
        let (gate, request, stdin) = Gate::new().map_err(failed)?;
        let started = match zygote.filter(|_| prepared.takes_forks()) {
            Some(zygote) => prepared.start_from(zygote, stdin, vec![request], protocol::RESULT_BYTES).await?,
            None => {
                let program =
                    interpreter.ahead(prepared.layout(), memory_bytes, imports, stdin, request).map_err(failed)?;
                prepared.start(program).await?
            }
        };
        Ok(Self { started, gate, packages })
    }

    /// Until it stands at its gate.
    ///
    /// # Errors
    /// It ended before, or did not come in time.
    pub async fn arrived(&mut self) -> Result<(), SandboxError> {
        match tokio::time::timeout(ARRIVES_WITHIN, self.started.arrived()).await {
            Ok(arrived) => arrived,
            Err(_) => Err(SandboxError::new(Stage::Program, "a program that was started ahead did not arrive in time")),
        }
    }

    /// What there is installed in its sandbox.
    pub fn packages(&self) -> Option<&Packages> {
        self.packages.as_ref()
    }

    /// Whether it still waits, as far as can be told.
    pub fn is_waiting(&self) -> bool {
        self.started.is_waiting()
    }

    /// Gives it its request and runs it to its end, see [`Started::finish`].
    ///
    /// # Errors
    /// As of [`Started::begin`] and [`Started::finish`].
    pub async fn run(
        self,
        input: Input,
        limits: &Limits,
        live: Option<mpsc::Sender<Chunk>>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(Outcome, Remains), SandboxError> {
        let Self { mut started, gate, .. } = self;
        started.begin(limits)?;
        gate.open(input);
        started.finish(live, cancelled).await
    }
}
