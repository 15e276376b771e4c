//! Many clients at once: what the service does in a second, and how evenly it treats them.
//!
//! A closed loop: each client has a connection and a thread, and sends its next request when it has its answer. The clock starts
//! when every client has had one answer, so that neither the rush of the start nor an empty pool is in the figures of a
//! steady load. Sessions are one for each client.

use crate::floors::Zygotes;
use crate::hello::{Hello, Language};
use crate::machine::Machine;
use crate::run::SETTLE;
use crate::setup::Setup;
use crate::summary::{Summary, figure};
use crate::{Result, need_release_binary, progress, promises, table};
use conformance::Service;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub const CLIENTS: [usize; 3] = [1, 8, 64];
/// What the throughput of Python is promised for.
pub const PROMISED_CLIENTS: usize = 16;
/// What is promised takes turns with its floor.
const PROMISED_TURNS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_millis(1200);
/// Where answers are so slow that fewer came than there are clients, the window stays open, up to this.
const LONGEST_WINDOW: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const STACK_BYTES: usize = 256 * 1024;

/// What the clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    pub setup: Setup,
    pub language: Language,
    pub in_sessions: bool,
    pub clients: usize,
}

/// What they got.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Load {
    #[serde(flatten)]
    pub case: Case,
    pub per_second: f64,
    #[serde(flatten)]
    pub times: Summary,
}

impl Case {
    /// What is asked for, and where it runs.
    pub fn name(self) -> String {
        let place = if self.in_sessions { "in sessions" } else { "session-less" };
        format!("{}, {place}", self.language.name())
    }
}

/// Measures what is promised of throughput alone; whether it was kept.
pub fn run() -> Result<bool> {
    need_release_binary()?;
    let service = Setup::Native.start(&[]);
    thread::sleep(SETTLE);
    let mut loads = Loads::default();
    loads.measure_promised(Setup::Native, &service, Some(Machine::here()?.cores))?;
    loads.print();
    Ok(promises::print(&promises::throughput(&loads)))
}

impl Load {
    /// How much longer the slowest wait than all on the average.
    pub fn spread(&self) -> f64 {
        self.times.p99_ms / self.times.mean_ms
    }
}

/// Everything that was measured with many clients.
#[derive(Debug, Default, Serialize)]
pub struct Loads {
    pub executions: Vec<Load>,
    pub zygotes: usize,
    /// What so many zygotes do together, at the median of the turns.
    pub zygotes_per_second: f64,
    /// Of one core: what the clients themselves used while the clock ran.
    pub clients_share_of_a_core: f64,
}

/// The answers that came while the clock ran.
#[derive(Default)]
struct Window {
    times: Vec<Duration>,
    open: Duration,
    /// Processor time of this process.
    used: Duration,
}

impl Loads {
    pub fn find(&self, case: Case) -> Option<&Load> {
        self.executions.iter().find(|load| load.case == case)
    }

    /// Puts a running service under each load. With `cores` the zygotes take turns with what is promised beside them.
    pub fn measure(&mut self, setup: Setup, service: &Service, cores: Option<usize>) -> Result<()> {
        for language in Language::ALL {
            for clients in CLIENTS {
                progress(&format!("load, {}: {}, clients: {clients}", setup.name(), language.name()));
                for in_sessions in [false, true] {
                    let case = Case { setup, language, in_sessions, clients };
                    let window = under_load(service, case)?;
                    self.add(case, window);
                }
            }
        }
        self.measure_promised(setup, service, cores)
    }

    fn measure_promised(&mut self, setup: Setup, service: &Service, cores: Option<usize>) -> Result<()> {
        let cases = [false, true].map(|in_sessions| Case {
            setup,
            language: Language::Python,
            in_sessions,
            clients: PROMISED_CLIENTS,
        });
        let mut windows: [Window; 2] = Default::default();
        let mut zygotes = cores.map(Zygotes::start).transpose()?;
        let mut rates = Vec::new();
        for turn in 1..=PROMISED_TURNS {
            progress(&format!("load, {}: python, {PROMISED_CLIENTS} clients, turn {turn}", setup.name()));
            if let Some(zygotes) = &mut zygotes {
                rates.push(zygotes.per_second()?);
            }
            for (&case, window) in cases.iter().zip(&mut windows) {
                let next = under_load(service, case)?;
                window.times.extend(next.times);
                window.open += next.open;
                window.used += next.used;
            }
        }
        for (case, window) in cases.into_iter().zip(windows) {
            self.add(case, window);
        }
        if let Some(cores) = cores {
            rates.sort_by(f64::total_cmp);
            (self.zygotes, self.zygotes_per_second) = (cores, rates[rates.len() / 2]);
        }
        Ok(())
    }

    fn add(&mut self, case: Case, window: Window) {
        let share = window.used.as_secs_f64() / window.open.as_secs_f64();
        self.clients_share_of_a_core = self.clients_share_of_a_core.max(share);
        let per_second = window.times.len() as f64 / window.open.as_secs_f64();
        self.executions.push(Load { case, per_second, times: Summary::of(window.times) });
    }

    /// Prints them as one table.
    pub fn print(&self) {
        println!(
            "\nLOAD, closed loop, at least {} ms after each client's first answer; milliseconds. The clients themselves used \
             at most {:.1} % of one core.",
            WINDOW.as_millis(),
            self.clients_share_of_a_core * 100.0
        );
        let floor = format!("floor: {} zygotes side by side, one for each core", self.zygotes);
        let mut rows = vec![vec![floor, String::new(), figure(self.zygotes_per_second)]];
        for load in &self.executions {
            let Case { setup, clients, .. } = load.case;
            rows.push(vec![
                format!("{}: {}", setup.name(), load.case.name()),
                format!("{clients}"),
                figure(load.per_second),
                figure(load.times.mean_ms),
                figure(load.times.p50_ms),
                figure(load.times.p99_ms),
                figure(load.spread()),
            ]);
        }
        table::print(&["row", "clients", "a second", "mean", "p50", "p99", "p99 / mean"], &rows);
    }
}

/// What the clients and the clock know of each other.
#[derive(Default)]
struct Course {
    /// Clients that have had an answer.
    begun: AtomicUsize,
    answers: AtomicUsize,
    closed: AtomicBool,
}

/// Runs the clients until the window closes.
fn under_load(service: &Service, case: Case) -> Result<Window> {
    let course = Course::default();
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 0..case.clients {
            let course = &course;
            let work = move || client(service, case, number, course);
            clients.push(thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?);
        }
        let failed = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
        let started = Instant::now();
        while !failed() && (started.elapsed() < WARM_UP || course.begun.load(Ordering::Relaxed) < case.clients) {
            thread::sleep(LOOK_EVERY);
        }
        let (opens, used, before) = (Instant::now(), processor_time(), course.answers.load(Ordering::Relaxed));
        while !failed() && is_open(opens.elapsed(), course.answers.load(Ordering::Relaxed) - before, case.clients) {
            thread::sleep(LOOK_EVERY);
        }
        let (closes, used) = (Instant::now(), processor_time().saturating_sub(used));
        course.closed.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for client in clients {
            let answers = client.join().map_err(|_| "a client panicked")??;
            let counted = answers.into_iter().filter(|(end, _)| (opens..closes).contains(end));
            times.extend(counted.map(|(_, took)| took));
        }
        Ok(Window { times, open: closes - opens, used })
    })
}

fn is_open(since: Duration, answers: usize, clients: usize) -> bool {
    since < WINDOW || (answers < clients && since < LONGEST_WINDOW)
}

/// When each answer came, and how long it took.
fn client(service: &Service, case: Case, number: usize, course: &Course) -> Result<Vec<(Instant, Duration)>> {
    let session = case.in_sessions.then(|| format!("client-{number}"));
    let mut hello = Hello::new(service, case.language, session.as_deref())?;
    course.begun.fetch_add(1, Ordering::Relaxed);
    let mut times = Vec::new();
    while !course.closed.load(Ordering::Relaxed) {
        let took = hello.once()?;
        times.push((Instant::now(), took));
        course.answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(times)
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
