//! Memory by measurement, for hosts where no cgroup can bound it: "best effort".
//!
//! Resident memory that is the execution's own (anonymous and shared, each process) and what its memory file systems
//! hold is summed a hundred times a second. The cheap sum counts pages twice that processes share after a fork, so a
//! sum over the limit is checked against proportional shares (`smaps_rollup`, proc_pid_smaps(5)) before it counts.

use super::ProgramSpec;
use super::tree::Tree;

/// Measures memory against a limit.
pub struct Sampler {
    limit_bytes: u64,
    peak_bytes: u64,
    memory_folders: Vec<String>,
}

impl Sampler {
    /// For a limit in bytes, with the memory file systems of this program.
    pub fn new(limit_bytes: u64, spec: &ProgramSpec) -> Self {
        Self { limit_bytes, peak_bytes: 0, memory_folders: spec.memory_folders.clone() }
    }

    /// Whether more is in use now than allowed.
    pub fn exceeded(&mut self, tree: &Tree) -> bool {
        let pids = tree.pids();
        let files: u64 = self.memory_folders.iter().map(|folder| held_by_file_system(folder)).sum();
        let mut used = files + pids.iter().map(|pid| resident_bytes(*pid)).sum::<u64>();
        if used > self.limit_bytes && pids.len() > 1 {
            used = files
                + pids.iter().map(|pid| proportional_bytes(*pid).unwrap_or_else(|| resident_bytes(*pid))).sum::<u64>();
        }
        self.peak_bytes = self.peak_bytes.max(used);
        used > self.limit_bytes
    }

    /// The largest sum seen.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
}

fn held_by_file_system(folder: &str) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_blocks.saturating_sub(fs.f_bfree) * fs.f_frsize)
}

/// `RssAnon` and `RssShmem` of proc_pid_status(5).
fn resident_bytes(pid: i32) -> u64 {
    sum_of_lines(&format!("/proc/{pid}/status"), &["RssAnon:", "RssShmem:"]).unwrap_or(0)
}

/// Anonymous and shared pages, each divided by how many processes map it.
fn proportional_bytes(pid: i32) -> Option<u64> {
    sum_of_lines(&format!("/proc/{pid}/smaps_rollup"), &["Pss_Anon:", "Pss_Shmem:"])
}

fn sum_of_lines(path: &str, names: &[&str]) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let kib = text.lines().filter_map(|line| {
        let rest = names.iter().find_map(|name| line.strip_prefix(name))?;
        rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    Some(kib.sum::<u64>() * 1024)
}
