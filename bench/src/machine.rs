//! Where and when a run was made: figures without it say nothing.

use crate::Result;
use serde::Serialize;
use std::fs;
use time::OffsetDateTime;
use time::macros::format_description;

/// The machine, the day, and the version of what was measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// In UTC.
    pub date: String,
    /// Of sandbox-executor.
    pub version: &'static str,
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
    /// Of one minute, before the first row: what else the machine had to do.
    pub load_before: String,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Result<Machine> {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Machine {
            date: OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day]"))?,
            version: env!("CARGO_PKG_VERSION"),
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or("unknown processor".into(), |(_, name)| name.trim().to_owned()),
            kernel: kernel(),
            load_before: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    /// One line.
    pub fn described(&self) -> String {
        let Machine { date, version, cores, processor, kernel, load_before } = self;
        format!(
            "sandbox-executor {version}, {date}, {cores} cores ({processor}), {kernel}, load before the run {load_before}"
        )
    }
}

/// System and release, without what a vendor appends to it.
fn kernel() -> String {
    let names = rustix::system::uname();
    let release = names.release().to_string_lossy();
    let number = release.split('-').next().unwrap_or_default();
    format!("{} {number}", names.sysname().to_string_lossy())
}
