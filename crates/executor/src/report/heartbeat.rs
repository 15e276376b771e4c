//! Signs of life of a running execution: one at its start, then one each interval, never two at a time. One that fails is logged and
//! dropped.
//!
//! The first is put off by a moment, and so is all the work for it: a short execution has its answer out by then, and pays nothing. It
//! is sent all the same, so that the control plane hears of every execution that runs before it hears how it ended.

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

/// The heartbeats of one execution. Dropping it ends them, and nothing is reported.
#[must_use = "dropping it ends them"]
pub struct Heartbeats {
    shared: Arc<Shared>,
    id: String,
    started: Instant,
    /// Ends those that have begun.
    end: Option<oneshot::Sender<Instant>>,
    finished: bool,
}

/// An execution's heartbeats are over.
#[derive(Debug)]
pub struct Over {
    /// The execution's.
    pub id: String,
    /// Whether its result is written and to be sent.
    pub to_report: bool,
}

/// Says that they are over when it is dropped, also by a panic: until then the result is not sent.
struct Ending {
    shared: Arc<Shared>,
    id: String,
    to_report: bool,
}

impl Ending {
    fn report_nothing(&mut self) {
        self.to_report = false;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.over.send(Over { id: std::mem::take(&mut self.id), to_report: self.to_report }).ok();
    }
}

impl Heartbeats {
    pub(super) fn start(shared: &Arc<Shared>, id: &str) -> Self {
        shared.beating().insert(id.to_owned());
        Self { shared: Arc::clone(shared), id: id.to_owned(), started: Instant::now(), end: None, finished: false }
    }

    /// Does the execution's work; they begin when it takes longer than a moment.
    pub async fn beat_while<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if let Ok(done) = timeout_at(self.started + FIRST, work.as_mut()).await {
            return done;
        }
        let (end, ended) = oneshot::channel();
        self.end = Some(end);
        let mut ending = Ending { shared: Arc::clone(&self.shared), id: self.id.clone(), to_report: true };
        tokio::spawn(async move {
            match until_the_end(&ending.shared, &ending.id, ended).await {
                Some(end) => sleep_until(end + ANSWER_FIRST).await,
                None => ending.report_nothing(),
            }
        });
        work.await
    }

    /// The execution has ended, and its result is written.
    pub(super) fn finish(mut self) {
        self.finished = true;
        // Those that a fault of ours ended hear nothing.
        if self.end.take().is_some_and(|end| end.send(Instant::now()).is_ok()) {
            return;
        }
        let (first, end) = (self.started + FIRST, Instant::now());
        let ending = Ending { shared: Arc::clone(&self.shared), id: std::mem::take(&mut self.id), to_report: true };
        tokio::spawn(async move {
            sleep_until(first).await;
            beat(&ending.shared, &ending.id).await;
            sleep_until(end + ANSWER_FIRST).await;
        });
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        // Those that have begun are told by the drop of their end.
        if !self.finished && self.end.is_none() {
            self.shared.over.send(Over { id: std::mem::take(&mut self.id), to_report: false }).ok();
        }
    }
}

/// Beats until the execution has ended; when that was, or `None` if nothing is to be reported.
async fn until_the_end(shared: &Shared, id: &str, mut end: oneshot::Receiver<Instant>) -> Option<Instant> {
    let interval = shared.heartbeat_interval;
    let mut beats = tokio::time::interval_at(Instant::now() + interval, interval);
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
