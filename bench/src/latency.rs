//! What one client waits for an answer, beside the floors of the same machine, turn by turn.
//!
//! Three paces: without pause, where the next request comes as soon as the answer is there, so that whatever the service put off
//! is paid by it; with a pause as an interactive caller makes it; and, for what is started rather than forked ahead, with one that
//! lets the pool fill again, since a prepared process serves once and preparing the next takes longer than a short pause.

use crate::floors::Floor;
use crate::hello::{Hello, Language};
use crate::setup::Setup;
use crate::summary::{Summary, figure};
use crate::turns::{self, Measured, Row};
use crate::{Result, table};
use conformance::Service;
use serde::Serialize;
use std::time::Duration;

const SESSION: &str = "bench";

/// How long the client waits before each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    WithoutPause,
    Interactive,
    PoolFull,
}

impl Pace {
    pub fn pause(self) -> Duration {
        Duration::from_millis(match self {
            Pace::WithoutPause => 0,
            Pace::Interactive => 10,
            Pace::PoolFull => 150,
        })
    }
}

/// What one client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    pub language: Language,
    pub in_session: bool,
    pub pace: Pace,
}

impl Case {
    fn name(self) -> String {
        let place = if self.in_session { "in a session" } else { "session-less" };
        match self.pace {
            Pace::WithoutPause => format!("{}, {place}", self.language.name()),
            pace => format!("{}, {place}, {} ms pause", self.language.name(), pace.pause().as_millis()),
        }
    }
}

/// The rows of one service, and the floors that took turns with them.
#[derive(Debug, Serialize)]
pub struct Latencies {
    pub setup: Setup,
    pub floors: Vec<(Floor, Summary)>,
    pub executions: Vec<(Case, Summary)>,
}

impl Latencies {
    pub fn floor(&self, floor: Floor) -> Option<&Summary> {
        self.floors.iter().find(|(other, _)| *other == floor).map(|(_, summary)| summary)
    }

    pub fn execution(&self, language: Language, in_session: bool, pace: Pace) -> Option<&Summary> {
        let case = Case { language, in_session, pace };
        self.executions.iter().find(|(other, _)| *other == case).map(|(_, summary)| summary)
    }
}

/// One client that asks for one thing.
struct Execution<'a> {
    service: &'a Service,
    case: Case,
    hello: Option<Hello>,
}

impl Measured for Execution<'_> {
    /// Connects anew: the service has closed a connection that idled through the turns of the others.
    fn begin(&mut self) -> Result<()> {
        let session = self.case.in_session.then_some(SESSION);
        self.hello = Some(Hello::new(self.service, self.case.language, session)?);
        Ok(())
    }

    fn once(&mut self) -> Result<Duration> {
        self.hello.as_mut().ok_or("not connected")?.once()
    }
}

/// Takes the times of a running service and of floors.
pub fn measure(setup: Setup, service: &Service, floors: &[Floor]) -> Result<Latencies> {
    let cases = cases(setup);
    let mut rows = Vec::new();
    for floor in floors {
        rows.push(Row { measured: floor.measured()?, pause: Duration::ZERO });
    }
    for &case in &cases {
        rows.push(Row { measured: Box::new(Execution { service, case, hello: None }), pause: case.pace.pause() });
    }
    let mut summaries = turns::take(setup.name(), &mut rows)?;
    let executions = summaries.split_off(floors.len());
    Ok(Latencies {
        setup,
        floors: floors.iter().copied().zip(summaries).collect(),
        executions: cases.into_iter().zip(executions).collect(),
    })
}

fn cases(setup: Setup) -> Vec<Case> {
    let mut cases = Vec::new();
    for language in Language::ALL {
        let mut add = |in_session, pace| cases.push(Case { language, in_session, pace });
        add(false, Pace::WithoutPause);
        // Without pools there is nothing that a pause or a session would change.
        if setup != Setup::NativeWithoutPools {
            add(false, Pace::Interactive);
            add(true, Pace::WithoutPause);
            add(true, Pace::Interactive);
        }
    }
    if setup != Setup::NativeWithoutPools {
        for language in [Language::Python, Language::Javascript] {
            cases.push(Case { language, in_session: false, pace: Pace::PoolFull });
        }
    }
    cases
}

/// Prints them all as one table.
pub fn print(all: &[Latencies]) {
    println!("\nLATENCY, one client, keep-alive, milliseconds. {}.", turns::described());
    println!("× floor: p50 as a multiple of the zygote, of node -e 0, of bash -c true, as measured beside it.");
    let mut rows = Vec::new();
    for latencies in all {
        let name = latencies.setup.name();
        let cells = |name: String, summary: &Summary| [vec![name], summary.cells().to_vec()].concat();
        for (floor, summary) in &latencies.floors {
            rows.push(cells(format!("floor: {}", floor.name()), summary));
        }
        for (case, summary) in &latencies.executions {
            let mut row = cells(format!("{name}: {}", case.name()), summary);
            let floor = match case.language {
                Language::Python => Floor::Zygote,
                Language::Javascript => Floor::Node,
                Language::Shell => Floor::Bash,
            };
            let floor = latencies.floor(floor);
            row.push(floor.map_or(String::new(), |floor| figure(summary.p50_ms / floor.p50_ms)));
            rows.push(row);
        }
        rows.push(Vec::new());
    }
    table::print(&["row", "calls", "p50", "p90", "p99", "× floor"], &rows);
}
