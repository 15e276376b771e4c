//! What the service holds while nobody asks for anything: its own processes, and all that it keeps prepared.
//!
//! Resident memory counts a page once for each process that has it. Of what is prepared the private memory is told, the pages that
//! nobody else has, and for the whole tree the proportional share (`/proc/PID/smaps_rollup`).

use crate::setup::Setup;
use crate::table;
use conformance::{Service, process};
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// The memory of a service and of everything below it. `None` where this user may not look.
#[derive(Debug, Serialize)]
pub struct Memory {
    pub setup: Setup,
    pub after: &'static str,
    pub service_mib: Option<f64>,
    pub launcher_mib: Option<f64>,
    /// Proportional share of the service and all below it.
    pub tree_mib: Option<f64>,
    pub processes: usize,
    /// Private memory of each Python that waits for a program to run.
    pub idle_pythons_mib: Vec<f64>,
    /// The same of those that such Pythons are forked from: they wait outside of any sandbox.
    pub zygotes_mib: Vec<f64>,
}

impl Memory {
    /// Which service, and when.
    pub fn when(&self) -> String {
        format!("{}, {}", self.setup.name(), self.after)
    }
}

/// Looks at a running service.
pub fn of(setup: Setup, service: &Service, after: &'static str) -> Memory {
    let pid = service.pid();
    let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0);
    let below: Vec<u32> = process::below(pid).iter().filter_map(|name| name.split_once(' ')?.0.parse().ok()).collect();
    let shares = below.iter().chain([&pid]).map(|&pid| rollup_kib(pid, &["Pss:"]));
    let tree = shares.sum::<Option<u64>>();
    let pythons: Vec<u32> = below.iter().copied().filter(|&pid| is_python(pid)).collect();
    let outside = pid_namespace(pid);
    let private = |is_zygote: bool| {
        let some = pythons.iter().filter(|&&pid| (pid_namespace(pid) == outside) == is_zygote);
        some.filter_map(|&pid| mib(rollup_kib(pid, &["Private_Clean:", "Private_Dirty:"]))).collect()
    };
    Memory {
        setup,
        after,
        service_mib: mib(process::resident_kib(pid)),
        launcher_mib: mib(process::launcher(pid).and_then(process::resident_kib)),
        tree_mib: mib(tree),
        processes: below.len(),
        idle_pythons_mib: private(false),
        zygotes_mib: private(true),
    }
}

fn is_python(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python")))
}

fn pid_namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The sum of these lines, kB each. A process without memory of its own (dead, not collected) has none.
fn rollup_kib(pid: u32, names: &[&str]) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let lines = text.lines().filter_map(|line| names.iter().find_map(|name| line.strip_prefix(name)));
    lines.map(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).sum()
}

/// Prints them as one table.
pub fn print(all: &[Memory]) {
    println!(
        "\nMEMORY, MB. Idle Python and zygote: private pages of the largest one; tree: proportional share of all."
    );
    let figure = |value: Option<f64>| value.map_or("not readable".into(), |mib| format!("{mib:.1}"));
    let largest = |values: &[f64]| match largest(values) {
        Some(mib) => format!("{} × {mib:.1}", values.len()),
        None => "none".into(),
    };
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|memory| {
            vec![
                memory.when(),
                figure(memory.service_mib),
                figure(memory.launcher_mib),
                largest(&memory.idle_pythons_mib),
                largest(&memory.zygotes_mib),
                memory.processes.to_string(),
                figure(memory.tree_mib),
            ]
        })
        .collect();
    table::print(&["when", "service", "launcher", "idle python", "zygote", "processes", "tree"], &rows);
}

/// The largest of some figures.
pub fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}
