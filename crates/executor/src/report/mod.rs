//! What the control plane is told: that the service is ready and that it ends, that an execution runs, and how it ended.
//!
//! A result is on disk before it is sent and leaves the disk only when the control plane has taken it; everything else is told once
//! and forgotten. Nothing here is ever waited for by an execution: calls are made a few milliseconds after the answer, each
//! execution's heartbeats before its result, and results of different executions never wait for each other.

mod bodies;
mod call;
mod course;
mod delivery;
mod heartbeat;
mod lifecycle;
mod queue;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use bodies::ExitReason;
pub use heartbeat::Heartbeats;

use crate::config::Config;
use crate::store::Store;
use crate::timestamp::seconds_since;
use bodies::Identity;
use call::ControlPlane;
use heartbeat::Over;

/// How long calls are put off, so that they don't take the CPU from sending the answer.
const ANSWER_FIRST: Duration = Duration::from_millis(3);

/// The way to the control plane. Clones are the same.
#[derive(Clone)]
pub struct Reports(Arc<Shared>);

struct Shared {
    plane: ControlPlane,
    store: Store,
    heartbeat_interval: Duration,
    container_id: String,
    pod_name: String,
    identity: OnceLock<Identity>,
    /// Executions of which the result must not be sent yet.
    beating: Mutex<HashSet<String>>,
    beats: Semaphore,
    over: mpsc::UnboundedSender<Over>,
    /// Whether results of executions that just ended are on their way.
    busy: AtomicBool,
    stop: CancellationToken,
}

/// What `/info` says about it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Status {
    pub url: String,
    /// Whether the last call got an answer.
    pub reachable: bool,
    pub pending_reports: u64,
    pub put_aside: u64,
    pub oldest_pending_seconds: Option<u64>,
}

impl Reports {
    /// Begins to report, if there is somebody to report to: first what an earlier run of the service has left.
    ///
    /// # Errors
    /// Calls can't be made.
    pub fn start(config: &Config, store: Store) -> anyhow::Result<Option<Self>> {
        let Some(plane) = ControlPlane::of(config)? else { return Ok(None) };
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (over, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            plane,
            store,
            heartbeat_interval: config.heartbeat_interval,
            container_id: config.container_id.clone().unwrap_or_else(host),
            pod_name: config.pod_name.clone().unwrap_or_else(host),
            identity: OnceLock::new(),
            beating: Mutex::default(),
            beats: Semaphore::new(heartbeat::AT_ONCE),
            over,
            busy: AtomicBool::new(false),
            stop: CancellationToken::new(),
        });
        tokio::spawn(delivery::run(Arc::clone(&shared), inbox));
        Ok(Some(Self(shared)))
    }

    /// An execution starts. Its result is not sent before its heartbeats are over, and they go on until the value that this gives
    /// is handed to [`Self::finished`] or dropped.
    pub fn started(&self, execution_id: &str) -> Heartbeats {
        Heartbeats::start(&self.0, execution_id)
    }

    /// An execution has ended, and its result is written.
    pub fn finished(&self, heartbeats: Heartbeats) {
        heartbeats.finish();
    }

    /// An execution has ended that never started, and its result is written.
    pub fn finished_unstarted(&self, execution_id: &str) {
        self.0.over.send(Over { id: execution_id.to_owned(), to_report: true }).ok();
    }

    /// The port answers: tells so until it is taken.
    pub fn ready(&self, port: u16) {
        lifecycle::ready(&self.0, port);
    }

    /// The process ends: gives the last results a moment, tells so, and calls nobody any more. Takes a second at most.
    pub async fn close(&self, reason: ExitReason) {
        lifecycle::close(&self.0, reason).await;
    }

    /// How things stand.
    pub async fn status(&self) -> Status {
        let shared = &self.0;
        let counts = shared.store.outbox_counts().await.unwrap_or_default();
        Status {
            url: shared.plane.url().to_owned(),
            reachable: shared.plane.reachable(),
            pending_reports: counts.waiting,
            put_aside: counts.put_aside,
            oldest_pending_seconds: counts.oldest_ms.map(seconds_since),
        }
    }
}

impl Shared {
    fn beating(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.beating.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.beating().is_empty() && !self.busy.load(Ordering::Acquire)
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    crate::workspace::random() as f64 / u64::MAX as f64
}
