//! The course of `make bench`: one service after the other, each beside its floors, and at the end everything as tables, a chart
//! and a file of figures.

use crate::floors::Floor;
use crate::latency::{self, Latencies};
use crate::load::Loads;
use crate::machine::Machine;
use crate::memory::{self, Memory};
use crate::promises::{self, Promise};
use crate::reporting::Reporting;
use crate::sandboxes::{self, Times};
use crate::setup::Setup;
use crate::sleepers::{self, Sleepers};
use crate::{Result, chart, need_release_binary, progress};
use serde::Serialize;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Pools have filled, or come to rest, when this is over.
pub const SETTLE: Duration = Duration::from_secs(3);

/// All figures of a run.
#[derive(Serialize)]
pub struct Results {
    pub machine: Machine,
    pub latencies: Vec<Latencies>,
    pub loads: Loads,
    pub memory: Vec<Memory>,
    pub sleepers: Vec<Sleepers>,
    pub sandboxes: Times,
    pub reporting: Reporting,
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    results: &'a Results,
    promises: &'a [Promise],
}

/// Measures and prints, and leaves chart and figures in `bench/results` if they are to be saved, else in `target/bench`;
/// whether every promise was kept.
pub fn run(save: bool) -> Result<bool> {
    need_release_binary()?;
    let machine = Machine::here()?;
    let cores = machine.cores;
    let (mut latencies, mut loads, mut memory) = (Vec::new(), Loads::default(), Vec::new());
    for setup in [Setup::NativeWithoutPools, Setup::Native, Setup::Bubblewrap] {
        let service = setup.start(&[]);
        thread::sleep(SETTLE);
        memory.push(memory::of(setup, &service, "as started"));
        let floors = match setup {
            Setup::Native => Floor::ALL.as_slice(),
            Setup::NativeWithoutPools => &Floor::COLD,
            Setup::Bubblewrap => &Floor::WITH_BUBBLEWRAP,
        };
        latencies.push(latency::measure(setup, &service, floors)?);
        if setup != Setup::NativeWithoutPools {
            loads.measure(setup, &service, (setup == Setup::Native).then_some(cores))?;
        }
        progress(&format!("{}: what is held afterwards", setup.name()));
        thread::sleep(SETTLE);
        memory.push(memory::of(setup, &service, "idle after all of it"));
    }
    let sleepers = Setup::WARM.map(sleepers::measure).into_iter().collect::<Result<_>>()?;
    progress("sandboxes alone");
    let sandboxes = sandboxes::measure()?;
    let reporting = Reporting::measure()?;
    let results = Results { machine, latencies, loads, memory, sleepers, sandboxes, reporting };

    let promises = promises::judge(&results);
    let kept = print(&results, &promises);
    write(&File { results: &results, promises: &promises }, save)?;
    Ok(kept)
}

fn print(results: &Results, promises: &[Promise]) -> bool {
    println!("{}", results.machine.described());
    latency::print(&results.latencies);
    results.loads.print();
    results.sandboxes.print();
    results.reporting.print();
    memory::print(&results.memory);
    println!();
    for Sleepers { setup, count, seconds } in &results.sleepers {
        println!("{count} executions of sleep 1 at once, {}: {seconds:.2} s", setup.name());
    }
    promises::print(promises)
}

fn write(file: &File, save: bool) -> Result<()> {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = if save { bench.join("results") } else { bench.join("../target/bench") };
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    std::fs::write(folder.join("latest.svg"), chart::draw(file.results))?;
    std::fs::write(folder.join("latest.json"), serde_json::to_string_pretty(file)? + "\n")?;
    println!("chart and figures: {}/latest.svg and latest.json", folder.display());
    if !save {
        println!("(bench --save puts them into bench/results, to be committed)");
    }
    Ok(())
}
