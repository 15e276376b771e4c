//! What a running service holds, counted before and after many executions: nothing may be more.
//!
//! A service that prepares sandboxes holds some of them while nobody asks, with their processes, descriptors, groups and private
//! workspaces. How many depends on what was asked for just before; so both looks wait until the counts have stayed the
//! same for longer than a pool keeps what nobody asks for, and then they are compared without allowance.

use crate::{progress, table};
use conformance::{Service, process};
use std::thread;
use std::time::{Duration, Instant};

/// Counts that stay for so long are settled: a pool gives up what lay unused for half a minute.
const QUIET: Duration = Duration::from_secs(65);
/// What has not settled by then is taken as it is.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SERVICE_GROWTH_KIB: u64 = 4096;
const LAUNCHER_GROWTH_KIB: u64 = 1024;
const SHOWN: usize = 10;

/// A count of things that must be as many after as before, with what they are.
type Things = (&'static str, Option<Vec<String>>);

/// What a running service holds.
pub struct Held {
    things: Vec<Things>,
    /// Resident memory, of whom, and how much more is no growth: an allocator keeps some of what it gave back.
    memory: [(&'static str, Option<u64>, u64); 2],
}

impl Held {
    fn by(service: &Service, instance: &str) -> Held {
        let pid = service.pid();
        let launcher = process::launcher(pid);
        let things = vec![
            ("descriptors of the service", process::descriptors(pid)),
            ("descriptors of its launcher", launcher.and_then(process::descriptors)),
            ("processes below the service", Some(process::below(pid))),
            ("mounts the service sees", process::mounts(pid)),
            ("mounts its launcher sees", launcher.and_then(process::mounts)),
            ("its control groups", Some(process::control_groups(instance))),
            ("private workspaces (.run-*)", Some(process::private_workspaces(&service.path("workspaces")))),
        ];
        let memory = [
            ("resident memory of the service", process::resident_kib(pid), SERVICE_GROWTH_KIB),
            ("resident memory of its launcher", launcher.and_then(process::resident_kib), LAUNCHER_GROWTH_KIB),
        ];
        Held { things, memory }
    }

    fn counts(&self) -> Vec<Option<usize>> {
        self.things.iter().map(|(_, items)| items.as_ref().map(Vec::len)).collect()
    }

    /// Looks until the counts have settled.
    pub fn settled(service: &Service, instance: &str) -> Held {
        progress("waiting until what the service holds has settled");
        let start = Instant::now();
        let (mut held, mut since) = (Held::by(service, instance), start);
        while since.elapsed() < QUIET {
            if start.elapsed() > PATIENCE {
                println!("what the service holds has not settled within {PATIENCE:?}");
                break;
            }
            thread::sleep(LOOK_EVERY);
            let next = Held::by(service, instance);
            if next.counts() != held.counts() {
                since = Instant::now();
            }
            held = next;
        }
        held
    }

    /// Prints both; whether nothing grew.
    pub fn compare(before: &Held, after: &Held) -> bool {
        let (mut kept, mut rows, mut new) = (true, Vec::new(), Vec::new());
        for (before, after) in before.things.iter().zip(&after.things) {
            let verdict = match (grew(before, after), &before.1) {
                (true, _) => "GREW",
                (false, None) => "",
                (false, Some(_)) => "PASS",
            };
            rows.push(vec![before.0.into(), count(before), count(after), "0".into(), verdict.into()]);
            if verdict == "GREW" {
                kept = false;
                let (was, is) = (before.1.as_deref().unwrap_or_default(), after.1.as_deref().unwrap_or_default());
                let items = is.iter().filter(|item| !was.contains(item)).take(SHOWN);
                new.extend(items.map(|item| format!("new among {}: {item}", before.0)));
            }
        }
        for ((name, before, may_grow), (_, after, _)) in before.memory.iter().zip(&after.memory) {
            let fits = before.zip(*after).is_some_and(|(before, after)| after <= before + may_grow);
            kept &= fits;
            let kib = |value: &Option<u64>| value.map_or("not readable".into(), |kib| format!("{kib} kB"));
            let verdict = if fits { "PASS" } else { "GREW" };
            rows.push(vec![(*name).into(), kib(before), kib(after), format!("{may_grow} kB"), verdict.into()]);
        }
        table::print(&["held", "before", "after", "may grow by", ""], &rows);
        new.iter().for_each(|line| println!("{line}"));
        kept
    }
}

fn count(things: &Things) -> String {
    things.1.as_ref().map_or("not readable".into(), |items| items.len().to_string())
}

fn grew(before: &Things, after: &Things) -> bool {
    match (&before.1, &after.1) {
        (Some(before), Some(after)) => after.len() > before.len(),
        (Some(_), None) => true,
        (None, _) => false,
    }
}
