//! The processes of one execution, found without a namespace or a cgroup to ask.
//!
//! Three ways lead to them: the process group, the chain of parents from what is known already, and on macOS the sandbox
//! itself, since the kernel tells whether a process may write to this execution's temporary folder but not to the folder
//! beside it, which only what is under this very profile may. A daemon leaves the first two behind when its parent ends
//! between two looks; the third finds it all the same. Where that fails too (an undocumented call), it survives.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::process::{Pid, Signal};

/// A process, as the table of processes has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    /// When it started, in whatever unit: tells it from another with its pid.
    pub started: u64,
}

/// A folder that only what is under one execution's profile may write to, and one beside it that this may not.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub writable: PathBuf,
    pub read_only: PathBuf,
}

/// The processes known to belong to an execution.
pub(crate) struct Processes {
    leader: i32,
    marks: Option<Marks>,
    /// When each started, by pid.
    known: BTreeMap<i32, u64>,
}

impl Processes {
    /// Of the group that `leader` leads.
    pub fn of_group(leader: i32, marks: Option<Marks>) -> Self {
        Self { leader, marks, known: BTreeMap::new() }
    }

    /// Looks again; returns what is alive of it.
    pub fn look(&mut self) -> Vec<i32> {
        self.admit(&platform::table());
        self.known.keys().copied().collect()
    }

    /// Forgets what has ended and adds what has been started by what is known.
    fn admit(&mut self, table: &[Process]) {
        let mut known: BTreeMap<i32, u64> = BTreeMap::new();
        for process in table {
            let is_known = self.known.get(&process.pid) == Some(&process.started);
            if is_known || process.group == self.leader || process.pid == self.leader {
                known.insert(process.pid, process.started);
            }
        }
        loop {
            let children =
                table.iter().filter(|process| known.contains_key(&process.parent) && !known.contains_key(&process.pid));
            let children: Vec<Process> = children.copied().collect();
            if children.is_empty() {
                break;
            }
            known.extend(children.into_iter().map(|child| (child.pid, child.started)));
        }
        self.known = known;
    }

    /// Kills all that can be found, once; returns whether there was any beside the leader. The leader is to be collected
    /// after this, not before: as long as it is not, its pid and its group are nobody else's.
    pub fn kill(&mut self) -> bool {
        let leader = Pid::from_raw(self.leader);
        if let Some(group) = leader {
            rustix::process::kill_process_group(group, Signal::KILL).ok();
        }
        let table = platform::table();
        self.admit(&table);
        if let Some(marks) = &self.marks {
            let confined =
                table.iter().filter(|process| platform::is_confined(process.pid, &marks.writable, &marks.read_only));
            self.known.extend(confined.map(|process| (process.pid, process.started)));
        }
        for pid in self.known.keys().filter_map(|pid| Pid::from_raw(*pid)) {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
        self.known.keys().any(|pid| *pid != self.leader)
    }

    /// Memory in use by all of them, bytes.
    pub fn memory_bytes(&mut self) -> u64 {
        self.look().into_iter().map(platform::memory_bytes).sum()
    }
}

/// How many processes this user has.
pub(crate) fn count() -> u64 {
    platform::table().len() as u64
}

#[cfg(target_os = "macos")]
use crate::sys as platform;

/// The same of Linux, where this is not used to run anybody's program but is tested: what differs is where the table is read.
#[cfg(not(target_os = "macos"))]
mod platform {
    use std::path::Path;

    use super::Process;

    /// All processes that are not dead, from `/proc` (proc_pid_stat(5)).
    pub fn table() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    fn process(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Counted after the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |field: usize| fields.get(field)?.parse().ok();
        let is_dead = ["Z", "X"].contains(fields.first()?);
        (!is_dead).then_some(Process {
            pid,
            parent: number(1)?,
            group: number(2)?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// `RssAnon` and `RssShmem` of proc_pid_status(5).
    pub fn memory_bytes(pid: i32) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("RssAnon:").or_else(|| line.strip_prefix("RssShmem:"))?;
            rest.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        kib.sum::<u64>() * 1024
    }

    /// There is no such sandbox here.
    pub fn is_confined(_pid: i32, _writable: &Path, _read_only: &Path) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32, started: u64) -> Process {
        Process { pid, parent, group, started }
    }

    #[test]
    fn what_a_known_process_starts_is_known_and_stays_so() {
        let mut processes = Processes::of_group(10, None);
        // 12 has left the group, 13 is its child; 20 is somebody else's.
        processes.admit(&[
            process(10, 1, 10, 5),
            process(11, 10, 10, 6),
            process(12, 11, 12, 7),
            process(13, 12, 12, 8),
            process(20, 1, 20, 5),
        ]);
        assert_eq!(processes.known.keys().copied().collect::<Vec<_>>(), [10, 11, 12, 13]);
        // Its parent is gone; now it belongs to process 1.
        processes.admit(&[process(13, 1, 12, 8), process(20, 1, 20, 5)]);
        assert_eq!(processes.known.keys().copied().collect::<Vec<_>>(), [13]);
        // Another one with its pid.
        processes.admit(&[process(13, 1, 13, 99)]);
        assert!(processes.known.is_empty());
    }

    #[test]
    fn this_very_process_is_in_the_table() {
        let own = std::process::id() as i32;
        let found = platform::table().into_iter().find(|process| process.pid == own).expect("in the table");
        assert_eq!(found.parent, std::os::unix::process::parent_id() as i32);
        assert!(platform::memory_bytes(own) > 64 * 1024);
        assert!(count() >= 1);
    }
}
