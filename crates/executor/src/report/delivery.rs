//! The results' way out: takes from the [`Queue`] what is due, reads it from disk, sends it, and notes on disk and in the queue what
//! became of it. One task holds the queue; each report on its way is a task of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{Id, JoinError, JoinSet};

use super::call::{Call, Failed, Remedy};
use super::heartbeat::Over;
use super::queue::{Due, Lane, Next, Queue, Sweeping};
use super::{Shared, bodies, chance, schedule};
use crate::offload::offload;
use crate::telemetry::metrics;

/// Reports on their way at a time: of those that ended just now, and of all others.
const FRESH_AT_ONCE: usize = 8;
const OTHERS_AT_ONCE: usize = 8;
/// Ids that are read at a time.
const PAGE: usize = 64;
/// How often to look whether somebody brought reports back from another process.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Results are counted in this unit while they are held to be sent, and so many may be.
const KIB: usize = 1024;
const HELD_KIB: usize = 64 * 1024;

/// A report's task that has ended, and what is to be done if it was not taken.
type Sent = Result<(Id, Option<Remedy>), JoinError>;

struct Delivery {
    shared: Arc<Shared>,
    queue: Queue,
    fresh: JoinSet<Option<Remedy>>,
    others: JoinSet<Option<Remedy>>,
    /// Whose each of the two's tasks is, also of one that panics.
    on_their_way: HashMap<Id, Due>,
    held: Arc<Semaphore>,
}

/// Delivers until the service stops.
pub async fn run(shared: Arc<Shared>, mut inbox: mpsc::UnboundedReceiver<Over>) {
    let mut delivery = Delivery::new(&shared);
    delivery.queue.sweep(Sweeping::All);
    let mut version = shared.store.data_version().await.unwrap_or_default();
    let (mut look, mut minute) = (Instant::now() + LOOK_EVERY, Instant::now() + schedule::every_minute(chance()));
    loop {
        delivery.fill().await;
        let now = Instant::now();
        let until_due = if delivery.others.len() < OTHERS_AT_ONCE { delivery.queue.idle_for(now) } else { None };
        let pause = look.min(minute).saturating_duration_since(now);
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(over) = inbox.recv() => delivery.over(over),
            Some(sent) = delivery.fresh.join_next_with_id() => delivery.settle(sent).await,
            Some(sent) = delivery.others.join_next_with_id() => delivery.settle(sent).await,
            () = shared.plane.recovered.notified() => delivery.queue.sweep(Sweeping::Recovered),
            () = tokio::time::sleep(until_due.map_or(pause, |due| due.min(pause))) => {}
        }
        let now = Instant::now();
        if now >= minute {
            minute = now + schedule::every_minute(chance());
            delivery.queue.sweep(Sweeping::Minute);
        }
        if now >= look {
            look = now + LOOK_EVERY;
            let seen = shared.store.data_version().await.unwrap_or(version);
            if std::mem::replace(&mut version, seen) != seen {
                delivery.queue.sweep(Sweeping::Wanted);
            }
        }
    }
}

impl Delivery {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            queue: Queue::default(),
            fresh: JoinSet::new(),
            others: JoinSet::new(),
            on_their_way: HashMap::new(),
            held: Arc::new(Semaphore::new(HELD_KIB)),
        }
    }

    fn over(&mut self, over: Over) {
        // Before it is taken out there, so that at no moment it is in neither.
        self.shared.busy.store(true, Ordering::Release);
        self.shared.beating().remove(&over.id);
        if over.to_report {
            self.queue.add(over.id);
        }
    }

    /// Sends what is due, as far as there is room.
    async fn fill(&mut self) {
        while self.fresh.len() < FRESH_AT_ONCE
            && let Some(due) = self.queue.next_fresh()
        {
            self.send(due);
        }
        while self.others.len() < OTHERS_AT_ONCE {
            let next = self.queue.next(Instant::now(), &self.shared.beating());
            match next {
                Next::Send(due) => self.send(due),
                Next::Read(after) => {
                    let page = self.shared.store.waiting(after, PAGE).await.unwrap_or_else(|error| {
                        tracing::error!("What waits to be reported can't be read: {error}");
                        Vec::new()
                    });
                    self.queue.page(page);
                }
                Next::Nothing => break,
            }
        }
        self.shared.busy.store(self.queue.is_busy(), Ordering::Release);
    }

    fn send(&mut self, due: Due) {
        let (shared, held, sent) = (Arc::clone(&self.shared), Arc::clone(&self.held), due.clone());
        self.start(due, async move { deliver(&shared, &held, &sent).await });
    }

    fn start(&mut self, due: Due, delivery: impl Future<Output = Option<Remedy>> + Send + 'static) {
        let lane = if due.lane == Lane::Fresh { &mut self.fresh } else { &mut self.others };
        self.on_their_way.insert(lane.spawn(delivery).id(), due);
    }

    async fn settle(&mut self, sent: Sent) {
        let task = sent.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
        let Some(due) = self.on_their_way.remove(&task) else { return };
        let failed = match sent {
            Ok((_, failed)) => failed,
            Err(error) => Some(fault(&self.shared, &due, &error).await),
        };
        self.queue.settle(&due, failed, Instant::now(), chance());
    }
}

/// Sends one and writes down what became of it, since what is written decides whether it is sent again.
async fn deliver(shared: &Shared, held: &Semaphore, due: &Due) -> Option<Remedy> {
    let (id, attempt) = (due.id.as_str(), due.attempts.saturating_add(1));
    let sent = match send(shared, held, id).await {
        // Somebody was faster.
        Ok(false) => return None,
        Ok(true) => Ok(()),
        Err(failed) => Err(failed),
    };
    let written = match &sent {
        Ok(()) => {
            metrics::reported("delivered");
            if due.attempts > 0 {
                tracing::info!(execution_id = id, attempt, "Result reported: {id} (attempt: {attempt})");
            }
            shared.store.delivered(id).await
        }
        Err(Failed { why, remedy: Remedy::Never }) => {
            metrics::reported("put_aside");
            tracing::error!(
                execution_id = id,
                attempt,
                "Failed to report result: {why} (execution: {id}, attempt: {attempt}); put aside: `sandbox-executor outbox \
                 retry` sends it again"
            );
            shared.store.put_aside(id, why).await
        }
        Err(Failed { why, .. }) => {
            metrics::reported("failed");
            tracing::error!(
                execution_id = id,
                attempt,
                "Failed to report result: {why} (execution: {id}, attempt: {attempt})"
            );
            shared.store.attempted(id, attempt, why).await
        }
    };
    if let Err(error) = written {
        tracing::error!(execution_id = id, "The outbox can't be written to: {error} (execution: {id})");
    }
    sent.err().map(|failed| failed.remedy)
}

/// Notes an attempt that a panic of ours ended: like any other that failed.
async fn fault(shared: &Shared, due: &Due, error: &JoinError) -> Remedy {
    let (id, attempt) = (due.id.as_str(), due.attempts.saturating_add(1));
    tracing::error!(
        execution_id = id,
        attempt,
        "Failed to report result: a fault of the executor's own: {error} (execution: {id}, attempt: {attempt})"
    );
    metrics::reported("failed");
    shared.store.attempted(id, attempt, "a fault of the executor's own").await.ok();
    Remedy::Again(None)
}

/// Sends it if it still waits; whether it did.
async fn send(shared: &Shared, held: &Semaphore, id: &str) -> Result<bool, Failed> {
    let ours = |why: String, remedy| Failed { why, remedy };
    let again = |error| ours(format!("The result is not safely on disk: {error}"), Remedy::Again(None));
    shared.store.flush().await.map_err(again)?;
    let Some(size) = shared.store.waiting_bytes(id).await.map_err(again)? else { return Ok(false) };
    let share = u32::try_from((size / KIB).min(HELD_KIB)).unwrap_or(u32::MAX);
    let _held = held.acquire_many(share).await;
    let answer = shared.store.result(id).await.map_err(again)?;
    let answer = answer.ok_or_else(|| ours("The result is not there any more".into(), Remedy::Never))?;
    let body = offload(answer.len(), move || bodies::result(&answer)).await;
    let body = body.map_err(|error| ours(format!("The stored result can't be read: {error}"), Remedy::Never))?;
    shared.plane.call(Call::Result(id), body).await.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Place, finish};
    use super::*;
    use conformance::ControlPlane;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_delivery_that_panics_is_tried_again_like_any_other_that_failed() {
        let mut plane = ControlPlane::start();
        plane.close();
        let place = Place::new(&plane);
        let (store, reports) = place.start();
        reports.0.stop.cancel();
        finish(&store, "one").await;
        let mut delivery = Delivery::new(&reports.0);
        for lane in [Lane::Fresh, Lane::Later] {
            let attempts = u32::from(lane == Lane::Later);
            let due = Due { id: "one".into(), attempts, lane };
            delivery.start(due, async { panic!("a fault") });
            let tasks = if lane == Lane::Fresh { &mut delivery.fresh } else { &mut delivery.others };
            let sent = tasks.join_next_with_id().await.unwrap();
            delivery.settle(sent).await;
            let due = delivery.queue.idle_for(Instant::now()).unwrap().as_secs_f64();
            let doubled = 2.0_f64.powi(i32::from(lane == Lane::Later));
            assert!((0.8 * doubled..1.2 * doubled).contains(&due), "{due}");
            assert_eq!(store.list_outbox().await.unwrap()[0].attempts, attempts + 1);
            assert!(delivery.on_their_way.is_empty() && !delivery.queue.is_busy());
        }
    }
}
