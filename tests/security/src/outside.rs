//! A sandbox seen from the host: whose its processes are, and which namespaces they are in.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A process as `/proc` shows it.
#[derive(Debug, Clone)]
pub struct HostProcess {
    /// Its pid on the host.
    pub pid: u32,
    /// Real, effective, saved and file system user ids.
    pub uids: Vec<u32>,
    /// The same of groups.
    pub gids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its parent.
    pub parent: u32,
    /// Each namespace's kind and identity.
    pub namespaces: BTreeMap<String, PathBuf>,
}

impl HostProcess {
    /// Looks at a process; `None` when it is gone.
    pub fn look(pid: u32) -> Option<HostProcess> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |field: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let namespaces = std::fs::read_dir(format!("/proc/{pid}/ns"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, std::fs::read_link(entry.path()).ok()?)))
            .collect();
        Some(HostProcess {
            pid,
            uids: numbers("Uid"),
            gids: numbers("Gid"),
            groups: numbers("Groups"),
            parent: numbers("PPid").first().copied()?,
            namespaces,
        })
    }

    /// It and all that stand above it up to, and without, `end`.
    pub fn line(&self, end: u32) -> Vec<HostProcess> {
        let mut line = vec![self.clone()];
        while let Some(parent) = line.last().map(|process| process.parent)
            && parent > 1
            && parent != end
            && line.len() < 50
            && let Some(process) = HostProcess::look(parent)
        {
            line.push(process);
        }
        line
    }

    /// What its descriptors lead to, as far as one may look.
    pub fn descriptors(&self) -> Vec<PathBuf> {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect()
    }
}

/// All processes of the host with these words in their arguments.
pub fn processes_with(marker: &str) -> Vec<HostProcess> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|text| text.windows(marker.len()).any(|window| window == marker.as_bytes()))
        })
        .filter_map(HostProcess::look)
        .collect()
}
