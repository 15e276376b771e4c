//! Signs of life of a running execution: one at its start, then one each interval, never two at a time. One that fails is logged and
//! dropped.
//!
//! The first is put off by a moment, so that a short execution has its answer out by then. It is sent all the same: the
//! control plane hears of every execution that it runs before it hears how it ended.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::call::Call;
use super::{ANSWER_FIRST, Shared, bodies};

/// How long the first is put off: most short executions have ended by then.
const FIRST: Duration = Duration::from_millis(5);
/// Heartbeats under way at a time, of all executions.
pub const AT_ONCE: usize = 16;
/// One that is not on its way by then is dropped.
const PLACE_WITHIN: Duration = Duration::from_secs(1);

/// The heartbeats of one execution.
#[derive(Debug)]
#[must_use = "dropping it ends them, and nothing is reported"]
pub struct Heartbeats {
    ended: oneshot::Sender<Instant>,
}

/// An execution's heartbeats are over.
#[derive(Debug)]
pub struct Over {
    /// The execution's.
    pub id: String,
    /// Whether its result is written and to be sent.
    pub to_report: bool,
}

impl Heartbeats {
    pub(super) fn finish(self) {
        self.ended.send(Instant::now()).ok();
    }
}

pub(super) fn start(shared: &Arc<Shared>, execution_id: &str) -> Heartbeats {
    let (ended, end) = oneshot::channel();
    let (shared, id) = (Arc::clone(shared), execution_id.to_owned());
    shared.beating().insert(id.clone());
    tokio::spawn(async move {
        let end = until_the_end(&shared, &id, end).await;
        if let Some(end) = end {
            sleep_until(end + ANSWER_FIRST).await;
        }
        shared.over.send(Over { id, to_report: end.is_some() }).ok();
    });
    Heartbeats { ended }
}

/// When it ended; `None` if nothing is to be reported.
async fn until_the_end(shared: &Shared, id: &str, mut end: oneshot::Receiver<Instant>) -> Option<Instant> {
    let start = Instant::now();
    match timeout_at(start + FIRST, &mut end).await {
        // It did not run after all.
        Ok(Err(_)) => return None,
        Ok(Ok(end)) => {
            sleep_until(start + FIRST).await;
            beat(shared, id).await;
            return Some(end);
        }
        Err(_) => {}
    }
    let mut beats = tokio::time::interval_at(start + shared.heartbeat_interval, shared.heartbeat_interval);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        beat(shared, id).await;
        tokio::select! {
            biased;
            end = &mut end => return end.ok(),
            _ = beats.tick() => {}
        }
    }
}

async fn beat(shared: &Shared, id: &str) {
    let failed = match timeout(PLACE_WITHIN, shared.beats.acquire()).await {
        Ok(_place) => {
            match shared.plane.call(Call::Heartbeat(id), bodies::heartbeat(OffsetDateTime::now_utc())).await {
                Ok(()) => return,
                Err(failed) => failed.why,
            }
        }
        Err(_) => "Too many calls are under way".into(),
    };
    tracing::warn!(execution_id = id, "Failed to callback Control Plane: {failed} (heartbeat, execution: {id})");
}
