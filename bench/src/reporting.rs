//! What it costs an execution that it is reported: the same small one on a service that reports to a control plane on this machine
//! and on one that does not, turn by turn. Heartbeat and result are sent behind the answer, so that an interactive caller should
//! not notice.

use crate::hello::{Hello, Language};
use crate::run::SETTLE;
use crate::setup::Setup;
use crate::summary::{Summary, figure};
use crate::turns::{self, Measured, Row};
use crate::{Result, need_release_binary, progress, table};
use conformance::control_plane::Kind;
use conformance::{ControlPlane, Service};
use serde::Serialize;
use std::thread;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(10);

/// Reported, an execution may take so much longer at most.
pub const MUST: f64 = 1.15;

/// One beside the other.
#[derive(Debug, Serialize)]
pub struct Reporting {
    pub without: Summary,
    pub with: Summary,
}

struct Execution<'a> {
    service: &'a Service,
    hello: Option<Hello>,
}

impl Measured for Execution<'_> {
    fn begin(&mut self) -> Result<()> {
        self.hello = Some(Hello::new(self.service, Language::Python, None)?);
        Ok(())
    }

    fn once(&mut self) -> Result<Duration> {
        self.hello.as_mut().ok_or("not connected")?.once()
    }
}

/// Measures this alone; whether the promise was kept.
pub fn run() -> Result<bool> {
    need_release_binary()?;
    let reporting = Reporting::measure()?;
    reporting.print();
    println!("{} ×, at most {MUST} ×", figure(reporting.ratio()));
    Ok(reporting.ratio() <= MUST)
}

impl Reporting {
    /// Takes the times.
    pub fn measure() -> Result<Reporting> {
        progress("reporting");
        let plane = ControlPlane::start();
        let url = plane.url();
        let without = Setup::Native.start(&[]);
        let with = without.beside(&[("ISOLATION", "native"), ("CONTROL_PLANE_URL", &url)]);
        thread::sleep(SETTLE);
        let row = |service| Row { measured: Box::new(Execution { service, hello: None }), pause: PAUSE };
        let summaries = turns::take("with and without reporting", &mut [row(&without), row(&with)])?;
        let reported = plane.of_kind(Kind::Result).len();
        match summaries.as_slice() {
            [without, with] if reported >= with.count => Ok(Reporting { without: *without, with: *with }),
            _ => Err(format!("only {reported} executions were reported").into()),
        }
    }

    /// By how much it is slower.
    pub fn ratio(&self) -> f64 {
        self.with.p50_ms / self.without.p50_ms
    }

    /// Prints them as a table.
    pub fn print(&self) {
        println!("\nREPORTING, Python, session-less, {} ms pause, milliseconds.", PAUSE.as_millis());
        let row = |name: &str, summary: &Summary| [vec![name.into()], summary.cells().to_vec()].concat();
        let rows = [row("no control plane", &self.without), row("heartbeat and result reported", &self.with)];
        table::print(&["row", "calls", "p50", "p90", "p99"], &rows);
    }
}
