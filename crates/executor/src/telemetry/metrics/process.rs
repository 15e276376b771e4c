//! What Prometheus knows of any process, under the names that it has for it in all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Of this process, without those that it starts.
pub struct Process {
    resident: Gauge,
    open: Gauge,
    most_open: Gauge,
    started: Gauge<f64, AtomicU64>,
    cpu: Counter<f64, AtomicU64>,
}

impl Process {
    /// Nothing is known yet.
    pub fn register(registry: &mut Registry) -> Self {
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let resident = gauge("process_resident_memory_bytes", "Memory of the service itself, without executions");
        let open = gauge("process_open_fds", "Open file descriptors");
        let most_open = gauge("process_max_fds", "Most file descriptors that may be open");
        let started = Gauge::default();
        registry.register("process_start_time_seconds", "When the service started, since 1970", started.clone());
        let cpu = Counter::default();
        registry.register(
            "process_cpu_seconds",
            "Processor time of the service itself, without executions",
            cpu.clone(),
        );
        Self { resident, open, most_open, started, cpu }
    }

    /// It starts now.
    pub fn started(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.started.set(now.as_secs_f64());
    }

    /// Finds out how it is now.
    pub fn look(&self) {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu.inner().store(seconds.to_bits(), Ordering::Relaxed);
        let most = getrlimit(Resource::Nofile).current.and_then(|most| i64::try_from(most).ok());
        self.most_open.set(most.unwrap_or(i64::MAX));
        // As it is here on Linux and on macOS; less the one that reads it.
        if let Ok(entries) = std::fs::read_dir("/dev/fd") {
            self.open.set(i64::try_from(entries.count()).unwrap_or(i64::MAX) - 1);
        }
        if let Some(kib) = resident_kib() {
            self.resident.set(kib * 1024);
        }
    }
}

/// proc_pid_status(5); nothing where there is no `/proc`.
fn resident_kib() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().trim_end_matches(" kB").parse().ok()
}
