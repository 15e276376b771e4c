//! What the machine itself asks for: the programs that an execution can't do without, started by hand.
//!
//! [`Zygote`] is the floor under a warm Python (`floor.py`); the others start an interpreter, or bubblewrap around one, with
//! nothing to do.

use crate::Result;
use crate::hello::{self, Language};
use crate::turns::Measured;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Floors find their programs where the service looks for them, whatever this shell's PATH is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PYTHON: &str = "/usr/bin/python3";
const ZYGOTE: &str = include_str!("floor.py");
/// So long two or more zygotes are counted in one turn.
const THROUGHPUT_S: f64 = 1.0;

/// A floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Floor {
    Zygote,
    BarePython,
    Python,
    Node,
    Bash,
    BubblewrapPython,
}

impl Floor {
    pub const ALL: [Floor; 6] =
        [Floor::Zygote, Floor::BarePython, Floor::Python, Floor::BubblewrapPython, Floor::Node, Floor::Bash];
    /// Below a service that starts every interpreter cold.
    pub const COLD: [Floor; 3] = [Floor::BubblewrapPython, Floor::Node, Floor::Bash];

    /// Below bubblewrap, warm.
    pub const WITH_BUBBLEWRAP: [Floor; 4] = [Floor::Zygote, Floor::BubblewrapPython, Floor::Node, Floor::Bash];

    pub fn name(self) -> &'static str {
        match self {
            Floor::Zygote => "zygote: fork, compile, call, JSON by pipe, reap",
            Floor::BarePython => "/usr/bin/python3 -I -S -c pass",
            Floor::Python => "/usr/bin/python3 -c pass",
            Floor::Node => "node -e 0",
            Floor::Bash => "bash -c true",
            Floor::BubblewrapPython => "bwrap … python3 -c pass",
        }
    }

    /// What a row of it measures.
    pub fn measured(self) -> Result<Box<dyn Measured>> {
        Ok(match self {
            Floor::Zygote => Box::new(Zygote::start()?),
            Floor::BarePython => Box::new(Start(&[PYTHON, "-I", "-S", "-c", "pass"])),
            Floor::Python => Box::new(Start(&[PYTHON, "-c", "pass"])),
            Floor::Node => Box::new(Start(&["node", "-e", "0"])),
            Floor::Bash => Box::new(Start(&["bash", "-c", "true"])),
            #[rustfmt::skip]
            Floor::BubblewrapPython => Box::new(Start(&[
                "bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
                "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev", "--unshare-all",
                PYTHON, "-c", "pass",
            ])),
        })
    }
}

/// A program with its arguments, started for each call.
struct Start(&'static [&'static str]);

impl Measured for Start {
    fn once(&mut self) -> Result<Duration> {
        spawn(self.0)
    }
}

/// Starts a program and waits for its end.
pub fn spawn(argv: &[&str]) -> Result<Duration> {
    let (program, arguments) = argv.split_first().ok_or("no program")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status().map_err(|error| format!("{program}: {error}"))?;
    let took = start.elapsed();
    if status.success() { Ok(took) } else { Err(format!("{program}: {status}").into()) }
}

/// A Python that has started once and forks for each call.
struct Zygote {
    child: Child,
    /// Taken at the end: the script ends with its input.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    times_ns: Vec<u64>,
    seconds: f64,
    return_value: Value,
}

impl Zygote {
    fn start() -> Result<Zygote> {
        let mut command = Command::new(PYTHON);
        command.args(["-I", "-S", "-c", ZYGOTE]).env_clear().env("PATH", PATH);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut orders = child.stdin.take().ok_or("no stdin")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        writeln!(orders, "{}", json!({"code": Language::Python.code(), "event": hello::event()}))?;
        Ok(Zygote { child, orders: Some(orders), answers })
    }

    fn order(&mut self, order: &Value) -> Result<()> {
        let orders = self.orders.as_mut().ok_or("no stdin")?;
        Ok(writeln!(orders, "{order}")?)
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("floor.py: {}", self.child.wait()?).into());
        }
        let answer: Answer = serde_json::from_str(&line)?;
        if answer.return_value != hello::greeting() {
            return Err(format!("floor.py returned {}", answer.return_value).into());
        }
        Ok(answer)
    }
}

impl Measured for Zygote {
    /// By the script's own clock, so that our orders are not in it.
    fn once(&mut self) -> Result<Duration> {
        self.order(&json!({"calls": 1}))?;
        let answer = self.answer()?;
        let time = answer.times_ns.first().ok_or("floor.py made no call")?;
        Ok(Duration::from_nanos(*time))
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// As many zygotes as the machine has cores, at work side by side.
pub struct Zygotes(Vec<Zygote>);

impl Zygotes {
    pub fn start(processes: usize) -> Result<Zygotes> {
        Ok(Zygotes((0..processes).map(|_| Zygote::start()).collect::<Result<_>>()?))
    }

    /// How many calls a second they make together.
    pub fn per_second(&mut self) -> Result<f64> {
        for zygote in &mut self.0 {
            zygote.order(&json!({"seconds": THROUGHPUT_S}))?;
        }
        let rates = self.0.iter_mut().map(|zygote| {
            let answer = zygote.answer()?;
            Ok(answer.times_ns.len() as f64 / answer.seconds)
        });
        rates.sum()
    }
}
