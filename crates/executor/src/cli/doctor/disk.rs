//! Room for files, and how fast they get to the disk.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;

use super::folders::{existing, plain};
use super::{Check, Status};
use crate::config::{Config, Isolation};
use crate::disk::{LEAST_FREE_BYTES, free_bytes};
use crate::workspace::projects::{NOT_ROOT, Projects};

const MIB: u64 = 1024 * 1024;
/// Files (inodes): an execution needs a few, the packages of one some thousands.
const FEW_FILES: u64 = 1000;
/// What is written at once to see how fast that is, how often at most, and for how long at most.
const BLOCK: usize = 64 * 1024;
const ROUNDS: usize = 5;
const ENOUGH: Duration = Duration::from_secs(2);
/// A disk that has not answered after this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// An SSD takes some milliseconds, a good hard disk 10 to 30.
const SLOW: Duration = Duration::from_millis(50);

pub(super) fn room(config: &Config) -> Check {
    const NAME: &str = "disk";
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for (what, path) in [("workspace", &config.workspace_path), ("state", &config.state_path)] {
        let path = existing(path);
        let Ok(state) = statvfs(path) else { continue };
        let free = free_bytes(&state);
        // A file system that makes inodes as it needs them says that it has none at all.
        let files = (state.f_files > 0).then_some(state.f_favail);
        let files_free = files.map(|files| format!(", {files} files (inodes)")).unwrap_or_default();
        let memory = if is_tmpfs(path) { ", in memory (tmpfs)" } else { "" };
        seen.push(format!("{what} {} MB free{files_free}{memory}", free / MIB));
        findings.extend(scarce(free, files, config.max_file_size_mb));
    }
    if seen.is_empty() {
        return Check::skipped(NAME, "the system does not tell");
    }
    seen.push(quota(config));
    let evidence = seen.join("; ");
    let fix = "remove old sessions and logs, or move WORKSPACE_PATH and STATE_PATH to a larger disk";
    // The worse of the two is the finding.
    findings.sort_by_key(|(status, _)| *status != Status::Problem);
    match findings.into_iter().next() {
        Some((Status::Problem, cause)) => Check::problem(NAME, cause, fix).seen(evidence),
        Some((_, cause)) => Check::warning(NAME, cause, fix).seen(evidence),
        None => Check::ok(NAME, evidence),
    }
}

/// Who holds workspaces to MAX_DISK_MB.
fn quota(config: &Config) -> String {
    let folder = std::fs::File::open(existing(&config.workspace_path));
    let is_root = rustix::process::geteuid().is_root() && config.isolation != Isolation::None;
    let found = match folder {
        Ok(folder) if is_root => Projects::find(&Arc::new(folder.into()), config.max_disk_mb),
        Ok(_) => Err(NOT_ROOT.into()),
        Err(error) => Err(plain(&error)),
    };
    let by = match found {
        Ok(_) => "held by the file system (project quota)".to_owned(),
        Err(why) => format!("counted by the service: {why}"),
    };
    format!("MAX_DISK_MB = {} {by}", config.max_disk_mb)
}

/// What there is too little of.
fn scarce(free: u64, files: Option<u64>, largest_file_mb: u64) -> Option<(Status, String)> {
    match files {
        _ if free < LEAST_FREE_BYTES => Some((Status::Problem, "the disk is full".into())),
        Some(0) => Some((Status::Problem, "the disk has no room for more files: it is out of inodes (df -i)".into())),
        Some(files) if files < FEW_FILES => {
            Some((Status::Warning, format!("the disk has room for {files} more files only: inodes run out (df -i)")))
        }
        _ if free / MIB < largest_file_mb => {
            Some((Status::Warning, format!("not even one file of MAX_FILE_SIZE_MB = {largest_file_mb} fits")))
        }
        _ => None,
    }
}

#[cfg(target_os = "linux")]
fn is_tmpfs(path: &Path) -> bool {
    // linux/magic.h
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|state| state.f_type as u64 == TMPFS)
}

#[cfg(not(target_os = "linux"))]
fn is_tmpfs(_path: &Path) -> bool {
    false
}

/// Writes a little into the workspace and waits until the disk has it.
pub(super) async fn speed(config: &Config) -> Check {
    const NAME: &str = "disk speed";
    const FIX: &str = "use faster storage (SSD) for WORKSPACE_PATH and STATE_PATH: a local disk, no network folder";
    let path = existing(&config.workspace_path).to_owned();
    let shown = path.display().to_string();
    let measured = tokio::task::spawn_blocking(move || written(&path));
    match tokio::time::timeout(PATIENCE, measured).await {
        Ok(Ok(Ok(took))) => {
            let evidence = format!("{} KiB to {shown} and fsync: {:.1} ms", BLOCK / 1024, took.as_secs_f64() * 1e3);
            if took < SLOW {
                return Check::ok(NAME, evidence);
            }
            let cause = format!("the disk is slow: more than {} ms until it has what was written", SLOW.as_millis());
            Check::warning(NAME, cause, FIX).seen(evidence)
        }
        Ok(Ok(Err(error))) => Check::skipped(NAME, format!("nothing could be written to {shown}: {}", plain(&error))),
        Ok(Err(_)) => Check::skipped(NAME, "the measurement broke off"),
        Err(_) => {
            let cause = format!("the disk hangs: it did not take {} KiB within {} s", BLOCK / 1024, PATIENCE.as_secs());
            Check::warning(NAME, cause, FIX).seen(shown)
        }
    }
}

/// The median time that a block takes. The file has no name, so nothing is left behind whatever happens.
fn written(folder: &Path) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let (block, start) = ([b'x'; BLOCK], Instant::now());
    let mut times = Vec::new();
    while times.len() < ROUNDS && start.elapsed() < ENOUGH {
        let before = Instant::now();
        file.write_all(&block)?;
        file.sync_all()?;
        times.push(before.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_and_files_run_out_each_by_itself() {
        let plenty = 1024 * MIB;
        assert_eq!(scarce(plenty, Some(1_000_000), 100), None);
        assert_eq!(scarce(plenty, None, 100), None);
        for (free, files, status, word) in [
            (MIB, Some(1_000_000), Status::Problem, "full"),
            (plenty, Some(0), Status::Problem, "inodes"),
            (plenty, Some(10), Status::Warning, "inodes"),
            (50 * MIB, Some(1_000_000), Status::Warning, "MAX_FILE_SIZE_MB"),
        ] {
            let (found, cause) = scarce(free, files, 100).unwrap();
            assert_eq!(found, status, "{cause}");
            assert!(cause.contains(word), "{cause}");
        }
    }

    #[test]
    fn a_folder_that_takes_files_is_measured_and_left_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        assert!(written(home.path()).unwrap() > Duration::ZERO);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        assert!(written(Path::new("/nowhere")).is_err());
    }
}
