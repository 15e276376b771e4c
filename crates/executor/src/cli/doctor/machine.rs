//! What the machine has, or the container's share of it, against what executions may take together.

use std::path::{Path, PathBuf};

use super::Check;
use crate::config::{Config, Source};

const MIB: u64 = 1024 * 1024;
/// Where memory is given to groups of processes, with the file that says how much: version 2, then 1.
const MEMORY_GROUPS: &[(&str, &str)] =
    &[("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
/// Processes that want a core, for each that there is: with more, all of them are slow.
const BUSY: f64 = 2.0;

pub(super) fn memory(config: &Config) -> Check {
    let named =
        ["MAX_MEMORY_MB", "MAX_CONCURRENT_EXECUTIONS"].iter().any(|name| *config.source(name) != Source::Default);
    memory_for(config.max_memory_mb, config.max_concurrent_executions as u64, named, memory_here(), available())
}

/// `named`: whether somebody set one of the two. Defaults promise more than small machines have, and executions seldom
/// take all they may; whoever chose numbers wants to know that they do not fit.
fn memory_for(each_mb: u64, at_once: u64, named: bool, here: Option<u64>, available: Option<u64>) -> Check {
    const NAME: &str = "machine memory";
    let Some(here_mb) = here.map(|bytes| bytes / MIB) else {
        return Check::skipped(NAME, "/proc/meminfo does not tell");
    };
    let fits = here_mb / each_mb;
    let free = available.map(|bytes| format!(", {} MB of them available", bytes / MIB)).unwrap_or_default();
    let evidence = format!(
        "{here_mb} MB{free}: room for {fits} of MAX_CONCURRENT_EXECUTIONS = {at_once} that take all of \
         MAX_MEMORY_MB = {each_mb}"
    );
    let more = "give the container more (docker run -m 2g …)";
    if here_mb < each_mb {
        let cause = format!("one execution may use MAX_MEMORY_MB = {each_mb}, and there are {here_mb} MB");
        return Check::warning(NAME, cause, format!("{more}, or lower MAX_MEMORY_MB")).seen(evidence);
    }
    if available.is_some_and(|bytes| bytes / MIB < each_mb) {
        let cause = "less memory is available now than one execution may use: programs may be killed for lack of it";
        let fix = "see what takes it (docker stats, ps aux), remove old workspaces where they lie on a tmpfs, \
                   or lower MAX_MEMORY_MB";
        return Check::warning(NAME, cause, fix).seen(evidence);
    }
    if named && fits < at_once {
        let cause = format!(
            "MAX_CONCURRENT_EXECUTIONS = {at_once} executions that take all of MAX_MEMORY_MB = {each_mb} would need {} MB",
            each_mb.saturating_mul(at_once)
        );
        let fix = format!("export MAX_CONCURRENT_EXECUTIONS={}, or lower MAX_MEMORY_MB, or {more}", fits.max(1));
        return Check::warning(NAME, cause, fix).seen(evidence);
    }
    Check::ok(NAME, evidence)
}

/// The machine's memory or the least that a group around this process is given.
fn memory_here() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let given =
        group_files(&own).into_iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    given.chain(of_meminfo("MemTotal:")).min()
}

/// The limit files of this process's own group and of all above it: each of them counts.
fn group_files(own: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (mount, file) in MEMORY_GROUPS {
        // cgroups(7): hierarchy, controllers (none in version 2), group.
        let group = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
            let version_2 = *file == "memory.max";
            let wanted = if version_2 { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") };
            wanted.then_some(group)
        });
        let group = group.unwrap_or("/");
        files.extend(
            Path::new(group.trim_start_matches('/')).ancestors().map(|part| Path::new(mount).join(part).join(file)),
        );
    }
    files
}

fn available() -> Option<u64> {
    of_meminfo("MemAvailable:")
}

fn of_meminfo(name: &str) -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = meminfo.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
}

pub(super) fn cpu(config: &Config) -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split(' ').next()?.parse().ok());
    cpu_for(config.max_cpu_cores, config.max_concurrent_executions, cores, load)
}

fn cpu_for(each: f64, at_once: usize, cores: usize, load: Option<f64>) -> Check {
    const NAME: &str = "machine CPU";
    let shown = load.map(|load| format!(", load {load:.2} in the last minute")).unwrap_or_default();
    let evidence = format!("cores: {cores}{shown}; MAX_CPU_CORES = {each}, MAX_CONCURRENT_EXECUTIONS = {at_once}");
    if load.is_some_and(|load| load > BUSY * cores as f64) {
        let cause = "the machine has more to do than its cores can: everything is slow";
        let fix = format!(
            "see what takes it (docker stats, top); lower MAX_CONCURRENT_EXECUTIONS (export MAX_CONCURRENT_EXECUTIONS={}) \
             or MAX_CPU_CORES, or give the machine more cores",
            (cores * 2).min(at_once)
        );
        return Check::warning(NAME, cause, fix).seen(evidence);
    }
    if each > cores as f64 {
        let cause = format!("one execution may use MAX_CPU_CORES = {each}, and there are {cores}");
        return Check::warning(NAME, cause, format!("export MAX_CPU_CORES={cores}, or docker run --cpus {each} …"))
            .seen(evidence);
    }
    Check::ok(NAME, evidence)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn more_memory_than_there_is_can_not_be_promised() {
        let check = |each, at_once, named, here: u64, available: u64| {
            memory_for(each, at_once, named, Some(here * MIB), Some(available * MIB))
        };
        assert_eq!(check(512, 1, true, 512, 512).status, Status::Ok);
        let too_large = check(512, 1, true, 256, 256);
        assert_eq!(too_large.status, Status::Warning);
        assert!(too_large.fix.unwrap().contains("docker run -m 2g"));
        assert!(check(512, 1, true, 1024, 100).cause.unwrap().contains("available"));
        assert_eq!(memory_for(512, 1, true, None, None).status, Status::Skipped);
        assert!(memory_here().is_some());
    }

    #[test]
    fn executions_at_once_have_to_fit_when_somebody_chose_how_many() {
        let check = |named| memory_for(512, 100, named, Some(4096 * MIB), Some(4096 * MIB));
        let default = check(false);
        assert_eq!(default.status, Status::Ok);
        assert!(default.evidence.contains("room for 8 of"), "{default:?}");
        let chosen = check(true);
        assert_eq!(chosen.status, Status::Warning);
        assert!(chosen.fix.unwrap().contains("export MAX_CONCURRENT_EXECUTIONS=8"));
    }

    #[test]
    fn every_group_around_this_process_counts() {
        let files = |own| group_files(own).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let v1 = files("5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/c\n");
        for file in [
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/c/memory.max",
            "/sys/fs/cgroup/memory.max",
        ] {
            assert!(v1.iter().any(|path| path == file), "{file} is not in {v1:?}");
        }
    }

    #[test]
    fn a_busy_machine_and_cores_that_are_not_there_are_told() {
        assert_eq!(cpu_for(1.0, 100, 2, Some(3.9)).status, Status::Ok);
        let busy = cpu_for(1.0, 100, 2, Some(4.1));
        assert_eq!(busy.status, Status::Warning);
        assert!(busy.fix.unwrap().contains("MAX_CONCURRENT_EXECUTIONS=4"));
        let too_many = cpu_for(8.0, 100, 2, None);
        assert_eq!(too_many.status, Status::Warning);
        assert!(too_many.fix.unwrap().contains("MAX_CPU_CORES=2"));
    }
}
