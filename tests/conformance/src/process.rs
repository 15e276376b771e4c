//! What can be seen of running processes and of their control groups, from outside. `None` where this user may not
//! look: the launcher hides its descriptors from anyone but root.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Open descriptors and what each is, such as `7 socket:[4711]`.
pub fn descriptors(pid: u32) -> Option<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let named = entries.map(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_else(|_| PathBuf::from("?"));
        format!("{} {}", entry.file_name().to_string_lossy(), target.display())
    });
    Some(named.collect())
}

/// The mounts of a process's namespace.
pub fn mounts(pid: u32) -> Option<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    Some(table.lines().map(str::to_owned).collect())
}

/// Resident memory.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Every process below this one, dead ones that nobody has waited for included, such as `4711 (bwrap) S`.
pub fn below(pid: u32) -> Vec<String> {
    let mut children: HashMap<u32, Vec<(u32, String)>> = HashMap::new();
    for (child, stat) in all_stats() {
        // The name in brackets may itself hold brackets and spaces; after it come the state and the parent.
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_whitespace();
        if let (Some(state), Some(parent)) = (fields.next(), fields.next().and_then(|field| field.parse().ok())) {
            children.entry(parent).or_default().push((child, format!("{name}) {state}")));
        }
    }
    let (mut found, mut look_at) = (Vec::new(), vec![pid]);
    while let Some(parent) = look_at.pop() {
        for (child, name) in children.remove(&parent).unwrap_or_default() {
            look_at.push(child);
            found.push(name);
        }
    }
    found
}

fn all_stats() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))).collect()
}

/// The service's launcher: its child that was started with this argument. What that one forks has the same arguments.
pub fn launcher(service: u32) -> Option<u32> {
    let is_launcher = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).nth(1) == Some(b"launcher") && parent(*pid) == Some(service)
    };
    let pids = below(service).into_iter().filter_map(|name| name.split_once(' ')?.0.parse().ok());
    pids.filter(is_launcher).min()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The control groups of the service's instance and all below them, in every hierarchy.
pub fn control_groups(instance: &str) -> Vec<String> {
    let name = format!("sandbox-executor-{instance}");
    let (mut found, mut look_at) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = look_at.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // A link (`cpu` → `cpu,cpuacct`) is no directory here, so nothing is counted twice.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.components().any(|part| part.as_os_str() == name.as_str()) {
                    found.push(path.display().to_string());
                }
                look_at.push(path);
            }
        }
    }
    found
}

/// Workspaces of single executions that are still there.
pub fn private_workspaces(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(".run-")).collect()
}
