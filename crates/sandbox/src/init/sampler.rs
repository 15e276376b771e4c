//! Memory by measurement, for hosts where no cgroup can bound it: "best effort".
//!
//! Resident memory that is the execution's own (anonymous and shared, each process, with its page tables) and what its memory
//! file systems and System V segments hold is summed a hundred times a second. Those that hold something and those that map
//! it are mostly about the same pages, so the larger sum counts. The cheap sums count pages twice that processes share
//! after a fork, so a sum over the limit is checked against proportional shares (`smaps_rollup`, proc_pid_smaps(5)) before
//! it counts.

use super::Watched;
use super::proc::Proc;
use super::tree::Tree;
use crate::sys;

/// Measures memory against a limit.
pub struct Sampler {
    limit_bytes: u64,
    peak_bytes: u64,
    memory_folders: Vec<String>,
}

/// What a process, or several, have in memory.
#[derive(Default)]
struct Resident {
    own_bytes: u64,
    shared_bytes: u64,
}

impl Sampler {
    /// For a limit in bytes, with these memory file systems.
    pub fn new(limit_bytes: u64, watched: &Watched) -> Self {
        Self { limit_bytes, peak_bytes: 0, memory_folders: watched.memory_folders.clone() }
    }

    /// Whether more is in use now than allowed.
    pub fn exceeded(&mut self, tree: &Tree) -> bool {
        let pids = tree.pids();
        let mut held: u64 = self.memory_folders.iter().map(|folder| held_by_file_system(folder)).sum();
        if tree.ends_with_us() {
            // Elsewhere they may be anybody's.
            held += sys::system_v_bytes();
        }
        let total = |resident: Resident| resident.own_bytes + resident.shared_bytes.max(held);
        let proc = &tree.proc;
        let mut used = total(sum(&pids, |pid| resident(proc, pid)));
        if used > self.limit_bytes && pids.len() > 1 {
            used = total(sum(&pids, |pid| proportional(proc, pid).or_else(|| resident(proc, pid))));
        }
        self.peak_bytes = self.peak_bytes.max(used);
        used > self.limit_bytes
    }

    /// The largest sum seen.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
}

fn sum(pids: &[i32], of_one: impl Fn(i32) -> Option<Resident>) -> Resident {
    pids.iter().filter_map(|pid| of_one(*pid)).fold(Resident::default(), |sum, one| Resident {
        own_bytes: sum.own_bytes + one.own_bytes,
        shared_bytes: sum.shared_bytes + one.shared_bytes,
    })
}

fn held_by_file_system(folder: &str) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_blocks.saturating_sub(fs.f_bfree) * fs.f_frsize)
}

/// `RssAnon`, `VmPTE` and `RssShmem` of proc_pid_status(5).
fn resident(proc: &Proc, pid: i32) -> Option<Resident> {
    let text = proc.text(pid, "status")?;
    let own_bytes = bytes_of(&text, "RssAnon:") + bytes_of(&text, "VmPTE:");
    Some(Resident { own_bytes, shared_bytes: bytes_of(&text, "RssShmem:") })
}

/// The same with pages divided by how many processes map them.
fn proportional(proc: &Proc, pid: i32) -> Option<Resident> {
    let text = proc.text(pid, "smaps_rollup")?;
    let tables = proc.text(pid, "status").map_or(0, |text| bytes_of(&text, "VmPTE:"));
    let own_bytes = bytes_of(&text, "Pss_Anon:") + tables;
    Some(Resident { own_bytes, shared_bytes: bytes_of(&text, "Pss_Shmem:") })
}

fn bytes_of(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
