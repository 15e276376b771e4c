//! The promises: each a figure of this run, mostly a ratio to its floor, with what it must be and what it should become.

use crate::floors::Floor;
use crate::hello::Language;
use crate::latency::{Latencies, Pace};
use crate::load::{self, CLIENTS, Case, Loads, PROMISED_CLIENTS};
use crate::memory;
use crate::reporting;
use crate::run::Results;
use crate::setup::Setup;
use crate::table;
use serde::Serialize;

/// Which side of its bounds a figure is to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    AtMost,
    AtLeast,
}

/// A promise and what became of it.
#[derive(Debug, Serialize)]
pub struct Promise {
    name: String,
    /// None: what it speaks of is not there, or could not be measured. Then it is broken.
    measured: Option<f64>,
    unit: &'static str,
    side: Side,
    must: f64,
    aim: Option<f64>,
    kept: bool,
    aim_met: Option<bool>,
}

impl Promise {
    fn new(name: &str, side: Side, measured: Option<f64>, unit: &'static str, must: f64, aim: Option<f64>) -> Promise {
        let holds = |bound: f64| {
            measured.is_some_and(|value| match side {
                Side::AtMost => value <= bound,
                Side::AtLeast => value >= bound,
            })
        };
        let (kept, aim_met) = (holds(must), aim.map(holds));
        Promise { name: name.into(), measured, unit, side, must, aim, kept, aim_met }
    }

    pub fn is_kept(&self) -> bool {
        self.kept
    }

    fn row(&self) -> Vec<String> {
        let sign = if self.side == Side::AtMost { "≤" } else { "≥" };
        let bound = |value: f64| format!("{sign} {value}{}", self.unit);
        vec![
            self.name.clone(),
            self.measured.map_or("none".into(), |value| format!("{value:.2}{}", self.unit)),
            bound(self.must),
            if self.kept { "PASS" } else { "FAIL" }.into(),
            self.aim.map_or(String::new(), bound),
            self.aim_met.map_or(String::new(), |met| if met { "met" } else { "not met" }.into()),
        ]
    }
}

const TIMES: &str = " ×";
const MIB: &str = " MB";

/// Judges a run.
pub fn judge(results: &Results) -> Vec<Promise> {
    let mut promises = latency(results);
    promises.extend(throughput(&results.loads));
    promises.extend(size(results));
    promises.extend(Setup::WARM.into_iter().flat_map(|setup| burst(results, setup)));
    promises
}

fn latency(results: &Results) -> Vec<Promise> {
    use Language::{Javascript, Python, Shell};
    use Pace::{Interactive, PoolFull, WithoutPause};
    let at = |setup: Setup| results.latencies.iter().find(|latencies| latencies.setup == setup);
    // p50 or p99 of a session-less execution by the p50 of a floor.
    let ratio = |setup: Setup, language: Language, pace: Pace, floor: Floor, percent: u32| {
        let latencies: &Latencies = at(setup)?;
        let times = latencies.execution(language, false, pace)?;
        let time = if percent == 99 { times.p99_ms } else { times.p50_ms };
        Some(time / latencies.floor(floor)?.p50_ms)
    };
    let at_most = |name: &str, measured, must, aim| Promise::new(name, Side::AtMost, measured, TIMES, must, aim);
    let native = Setup::Native;
    vec![
        // As an interactive caller finds it: the fork was made before. Without a pause the next one is made on the caller's time.
        at_most(
            "Python, 10 ms pause, p50 / zygote",
            ratio(native, Python, Interactive, Floor::Zygote, 50),
            1.5,
            Some(1.0),
        ),
        at_most(
            "Python, 10 ms pause, p99 / zygote's p50",
            ratio(native, Python, Interactive, Floor::Zygote, 99),
            5.0,
            Some(2.5),
        ),
        at_most("Python, p50 / zygote", ratio(native, Python, WithoutPause, Floor::Zygote, 50), 3.0, Some(1.5)),
        at_most(
            "JavaScript, pool full, p50 / node -e 0",
            ratio(native, Javascript, PoolFull, Floor::Node, 50),
            0.2,
            Some(0.08),
        ),
        at_most("shell, p50 / bash -c true", ratio(native, Shell, WithoutPause, Floor::Bash, 50), 3.0, Some(1.5)),
        at_most(
            "bubblewrap: Python, pool full, p50 / bwrap … python3 -c pass",
            ratio(Setup::Bubblewrap, Python, PoolFull, Floor::BubblewrapPython, 50),
            0.35,
            Some(0.15),
        ),
        at_most(
            "pools off: Python, p50 / bwrap … python3 -c pass",
            ratio(Setup::NativeWithoutPools, Python, WithoutPause, Floor::BubblewrapPython, 50),
            1.15,
            None,
        ),
        at_most(
            "native sandbox / (bwrap --unshare-all … true, less true itself)",
            Some(results.sandboxes.ratio()),
            0.5,
            None,
        ),
        at_most(
            "Python, 10 ms pause, reported to a control plane / not",
            Some(results.reporting.ratio()),
            reporting::MUST,
            Some(1.05),
        ),
    ]
}

/// Judges what many clients get done.
pub fn throughput(loads: &Loads) -> [Promise; 2] {
    let ratio = |in_sessions| {
        let case = Case { setup: Setup::Native, language: Language::Python, in_sessions, clients: PROMISED_CLIENTS };
        Some(loads.find(case)?.per_second / loads.zygotes_per_second)
    };
    let at_least = |place: &str, measured, must, aim| {
        let name = format!("Python, {PROMISED_CLIENTS} clients, {place}, a second / zygotes, one for each core");
        Promise::new(&name, Side::AtLeast, measured, TIMES, must, Some(aim))
    };
    [at_least("session-less", ratio(false), 0.18, 0.4), at_least("in sessions", ratio(true), 0.4, 0.8)]
}

fn size(results: &Results) -> Vec<Promise> {
    let mut promises = Vec::new();
    let mut at_most = |name: &str, measured, unit, must, aim| {
        promises.push(Promise::new(name, Side::AtMost, measured, unit, must, Some(aim)));
    };
    for memory in results.memory.iter().filter(|memory| memory.setup == Setup::NativeWithoutPools) {
        at_most(&format!("service resident, {}", memory.when()), memory.service_mib, MIB, 20.0, 12.0);
    }
    let warm = results.memory.iter().filter(|memory| memory.setup == Setup::Native);
    let pythons: Vec<f64> = warm.flat_map(|memory| memory.idle_pythons_mib.iter().copied()).collect();
    at_most("an idle warm Python's private memory, the largest", memory::largest(&pythons), MIB, 3.0, 1.5);
    let sleepers = results.sleepers.iter().find(|sleepers| sleepers.setup == Setup::Native);
    let name = format!("{} executions of sleep 1 at once", crate::sleepers::SLEEPERS);
    at_most(&name, sleepers.map(|sleepers| sleepers.seconds), " s", 3.0, 1.6);
    promises
}

/// At each number of clients that keeps all cores busy, the worst of all languages, in sessions or not.
fn burst(results: &Results, setup: Setup) -> Vec<Promise> {
    let mut levels = [CLIENTS.as_slice(), &[PROMISED_CLIENTS]].concat();
    levels.retain(|clients| *clients > 1);
    levels.sort_unstable();
    let of_level = levels.into_iter().map(|clients| {
        let loads = results.loads.executions.iter();
        let loads = loads.filter(|load| load.case.setup == setup && load.case.clients == clients);
        let worst = loads.max_by(|a, b| a.spread().total_cmp(&b.spread()));
        let row = worst.map_or("none".into(), |load| load.case.name());
        let name = format!("{}, clients: {clients}, p99 / mean, worst row: {row}", setup.name());
        Promise::new(&name, Side::AtMost, worst.map(load::Load::spread), TIMES, 3.0, None)
    });
    of_level.collect()
}

/// Prints them as one table; whether all were kept.
pub fn print(promises: &[Promise]) -> bool {
    println!("\nPROMISES, session-less and without pause unless said otherwise.");
    let rows: Vec<Vec<String>> = promises.iter().map(Promise::row).collect();
    table::print(&["promise", "measured", "must", "", "aim", ""], &rows);
    let broken = promises.iter().filter(|promise| !promise.is_kept()).count();
    println!("\n{broken} of {} promises broken", promises.len());
    broken == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_breaks_its_promise() {
        let judged = |side, measured| Promise::new("x", side, measured, "", 2.0, Some(1.0)).kept;
        assert!(!judged(Side::AtMost, None) && !judged(Side::AtLeast, None));
        assert!(!judged(Side::AtMost, Some(f64::NAN)) && !judged(Side::AtLeast, Some(f64::NAN)));
        assert!(judged(Side::AtMost, Some(2.0)) && !judged(Side::AtMost, Some(2.1)));
        assert!(judged(Side::AtLeast, Some(2.0)) && !judged(Side::AtLeast, Some(1.9)));
    }
}
