//! The way of an execution, on one page: admitted → recorded → workspace, sandbox, program, verdict ([`crate::pipeline`]) → recorded →
//! answered and reported.
//!
//! An id is claimed first: whoever comes second with it waits for the first one's result, or is told that the id is another
//! request's. What is promised to outlive what is in [`crate::store`] before the promise: an accepted execution before it is
//! accepted, the start of one that can be sent again before its program gets the request, its result before it is answered. Where
//! nobody can ask twice, writing goes on behind the answer.

mod claim;
mod live;
mod recover;
mod refusal;
mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::verdict::{Kind, Status as Ended};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::admission::queue::{Queue, Slot, Ticket};
use crate::admission::request::{self, Ceilings, ExecuteRequest};
use crate::answer::Answer;
use crate::config::Config;
use crate::http::answer::{Content, PIECE, json_weight};
use crate::http::problem::Problem;
use crate::offload::offload;
use crate::pipeline::{Executor, Failed, Reins};
use crate::report::{Heartbeats, Reports};
use crate::store::{Finished, Record, Status, Store, StoreError, Wait};
use crate::telemetry::metrics;
use crate::timestamp::now_ms;
use claim::{Claim, Claimed};
pub use live::Done;
use live::{End, Finish, Live};
use refusal::{log_failed, problem_of, problem_of_queue, problem_of_store, reason_of};
pub use view::{Cancelled, Found, Page, parse_cursor};

/// How long clearing away waits, so that it does not take the CPU from sending the answer.
const ANSWER_FIRST: Duration = Duration::from_millis(2);
/// What requests and answers are counted in.
const KIB: usize = 1024;
/// What answers may hold until they are written.
const ANSWERS_KIB: usize = 256 * 1024;
/// How often to look whether a result that could not be written is written by now.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// All executions of a service: under way, and ended.
pub struct Executions {
    /// What runs them.
    pub executor: Arc<Executor>,
    /// Who may run when.
    pub queue: Arc<Queue>,
    /// What survives of them.
    pub store: Store,
    ceilings: Ceilings,
    live: Live,
    /// The way to the control plane, if it is to get their results.
    pub reports: Option<Reports>,
    /// Memory for requests that waited in the store.
    requests: Arc<Semaphore>,
    requests_kib: usize,
    answers: Arc<Semaphore>,
    under_way: TaskTracker,
}

/// What a request takes of the memory for them.
pub type Held = Vec<OwnedSemaphorePermit>;

/// The place of one that ran, and its heartbeats.
type Ran = ((Slot, Held), Option<Heartbeats>);

/// What becomes of an execution that nobody waits for.
pub enum Submitted {
    /// It has this id, and is there.
    Accepted(String, Status),
    /// The one of this id was there before and has ended.
    Ended(String, Done),
}

impl Executions {
    /// Those in this store.
    pub fn new(config: &Config, executor: Arc<Executor>, store: Store, reports: Option<Reports>) -> Self {
        // Eight of the largest requests, or as many smaller ones, are held in memory at a time.
        let requests_kib = (config.max_body_bytes as usize).saturating_mul(8) / KIB;
        let requests_kib = requests_kib.clamp(1, u32::MAX as usize / 2);
        Self {
            executor,
            queue: Arc::new(Queue::new(config.max_concurrent_executions, config.max_queued_executions)),
            store,
            ceilings: Ceilings::of(config),
            live: Live::default(),
            reports,
            requests: Arc::new(Semaphore::new(requests_kib)),
            requests_kib,
            answers: Arc::new(Semaphore::new(ANSWERS_KIB)),
            under_way: TaskTracker::new(),
        }
    }

    /// Runs a request for a client that waits; `held` is what its body takes of the memory for bodies.
    ///
    /// # Errors
    /// Why there is no result.
    pub async fn run(
        self: &Arc<Self>,
        request: ExecuteRequest,
        request_id: String,
        held: Held,
    ) -> Result<Done, Problem> {
        let claim = loop {
            match self.claim(&request)? {
                Claimed::Ours(claim) => break claim,
                Claimed::UnderWay(entry) => match entry.end().await {
                    End::Answered(done) => return Ok(done),
                    End::Refused(problem) => return Err(problem),
                    End::Gone => {}
                },
                Claimed::Ended(seq) => {
                    if let Some(done) = self.stored(seq).await? {
                        return Ok(done);
                    }
                }
            }
        };
        self.store.room().map_err(|error| problem_of_store(&error))?;
        let entry = Arc::clone(&claim.entry);
        let slot = tokio::select! {
            slot = self.slot() => Some(slot?),
            () = entry.stop.cancelled() => None,
        };
        if slot.is_none() && !entry.is_cancelled() {
            return Err(Problem::ShuttingDown);
        }
        // A task of its own: what has started ends in order, also when the client does not wait for it.
        let executions = Arc::clone(self);
        self.under_way.spawn(async move {
            match slot {
                Some(slot) => executions.way(claim, request, (slot, held), Wait::Written, &request_id).await,
                None => executions.never_ran(claim, cancelled).await,
            }
        });
        match entry.end().await {
            End::Answered(done) => Ok(done),
            End::Refused(problem) => Err(problem),
            End::Gone => Err(Problem::Internal),
        }
    }

    /// Accepts a request that is run later, whoever waits for it, also after a restart; `body` is what it was read from.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn submit(self: &Arc<Self>, request: ExecuteRequest, body: Bytes) -> Result<Submitted, Problem> {
        self.executor.interpreter(request.language).map_err(|failed| problem_of(&failed))?;
        let claim = loop {
            match self.claim(&request)? {
                Claimed::Ours(claim) => break claim,
                Claimed::UnderWay(entry) => {
                    return Ok(match entry.done() {
                        Some(done) => Submitted::Ended(request.execution_id, done),
                        None => Submitted::Accepted(request.execution_id, entry.status()),
                    });
                }
                Claimed::Ended(seq) => {
                    if let Some(done) = self.stored(seq).await? {
                        return Ok(Submitted::Ended(request.execution_id, done));
                    }
                }
            }
        };
        self.store.room().map_err(|error| problem_of_store(&error))?;
        let ticket = self.queue.enter().map_err(problem_of_queue)?;
        // A task of its own: a client that leaves in the middle does not leave half of it.
        let executions = Arc::clone(self);
        let accepted = self.under_way.spawn(async move {
            let record = claim.entry.record.clone();
            let id = record.id.clone();
            let seq = record.seq;
            if let Err(error) = executions.store.accept(record, body).await {
                // It may be there, and not on the disk for sure: what was refused is not to run some day.
                executions.store.forget(seq, Wait::Written).await.ok();
                return Err(problem_of_store(&error));
            }
            executions.clone().await_turn(claim, ticket);
            Ok(Submitted::Accepted(id, Status::Pending))
        });
        accepted.await.unwrap_or(Err(Problem::Internal))
    }

    /// Nothing new is started from now on.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Waits until everything that was started is written, for so long.
    pub async fn written_within(&self, time: Duration) {
        self.under_way.close();
        tokio::time::timeout(time, self.under_way.wait()).await.ok();
    }

    async fn slot(&self) -> Result<Slot, Problem> {
        self.queue.enter().map_err(problem_of_queue)?.turn().await.map_err(problem_of_queue)
    }

    /// Runs an accepted execution when its turn has come.
    fn await_turn(self: Arc<Self>, claim: Claim, ticket: Ticket) {
        let executions = Arc::clone(&self);
        self.under_way.spawn(async move {
            let slot = tokio::select! {
                slot = ticket.turn() => Some(slot),
                () = claim.entry.stop.cancelled() => None,
            };
            let slot = match slot {
                Some(Ok(slot)) => slot,
                // It runs after the next start; while the service is there it can be looked at and cancelled.
                Some(Err(_)) | None => {
                    claim.entry.stop.cancelled().await;
                    if claim.entry.is_cancelled() {
                        executions.never_ran(claim, cancelled).await;
                    }
                    return;
                }
            };
            match executions.request_of(&claim.entry.record).await {
                Ok((request, held)) => {
                    executions.way(claim, request, (slot, held), Wait::Durable, "none").await;
                }
                Err(why) => executions.never_ran(claim, |record| failed(record, &why)).await,
            }
        });
    }

    /// The request of an accepted execution, with its share of the memory for them.
    async fn request_of(&self, record: &Record) -> Result<(ExecuteRequest, Held), String> {
        let lost = || "The stored request is not there any more".to_owned();
        let bytes = self.store.request_bytes(record.seq).await.map_err(|error| error.to_string())?.ok_or_else(lost)?;
        let share = (bytes / KIB).min(self.requests_kib) as u32;
        let held = Arc::clone(&self.requests).acquire_many_owned(share).await.into_iter().collect();
        let body = self.store.request(record.seq).await.map_err(|error| error.to_string())?.ok_or_else(lost)?;
        let ceilings = self.ceilings.clone();
        let parsed = offload(bytes, move || request::parse(&body, &ceilings)).await;
        let request = parsed.map_err(|violations| {
            let all: Vec<String> = violations.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
            format!(
                "The request was accepted by a service with other settings; now it is not valid: {}",
                all.join("; ")
            )
        })?;
        Ok((ExecuteRequest { execution_id: record.id.clone(), digest: record.digest, ..request }, held))
    }

    /// From the slot to the result. `Wait::Durable` for one that was accepted before.
    async fn way(&self, claim: Claim, request: ExecuteRequest, place: (Slot, Held), wait: Wait, request_id: &str) {
        let entry = Arc::clone(&claim.entry);
        let was_accepted = wait == Wait::Durable;
        // Nobody can send an id again that we made up. What was answered is reported, so that its end is waited for all the same.
        let begin_wait = if was_accepted || request.digest.is_some() { wait } else { Wait::Nothing };
        let wait = if self.reports.is_some() { wait } else { begin_wait };
        let started_ms = now_ms();
        entry.start(started_ms);
        let mut heartbeats = self.reports.as_ref().map(|reports| reports.started(&entry.record.id));
        let recorded = self.store.begin(entry.record.clone(), started_ms, begin_wait);
        let reins = Reins {
            live: None,
            recorded: if begin_wait == Wait::Nothing {
                Box::pin(std::future::ready(Ok(())))
            } else {
                Box::pin(recorded)
            },
            stop: entry.stop.clone(),
        };
        let run = self.executor.execute(request, place.0.waited, reins);
        let ran = match &mut heartbeats {
            Some(heartbeats) => heartbeats.beat_while(run).await,
            None => run.await,
        };
        let answer = match ran {
            // Nobody asked for it, nor for the end of its session: the service goes down.
            Ok(answer)
                if answer.status == Ended::Cancelled && !entry.is_cancelled() && self.executor.stop.is_cancelled() =>
            {
                recover::log_crash(&entry.record);
                answer.crashed()
            }
            Ok(answer) => answer,
            Err(error) => {
                let problem = problem_of(&error);
                log_failed(&error, &problem, request_id, &entry.record.id);
                if !was_accepted && !matches!(error, Failed::Midway(_)) {
                    let forgotten = self.store.forget(entry.record.seq, wait);
                    if wait != Wait::Nothing {
                        forgotten.await.ok();
                    }
                    return claim.refuse(problem);
                }
                failed(&entry.record, &reason_of(&error))
            }
        };
        self.settle(claim, answer, Some((place, heartbeats)), wait).await;
    }

    /// The end of one that waited and will not run.
    async fn never_ran(&self, claim: Claim, answer: impl FnOnce(&Record) -> Answer) {
        let answer = answer(&claim.entry.record);
        tracing::info!(
            execution_id = answer.execution_id,
            "{}: {} (it did not start)",
            answer.message,
            answer.execution_id
        );
        self.settle(claim, answer, None, Wait::Written).await;
    }

    /// Records a result and gives it to whoever waits; the place is kept until there is memory for it, which waits for the disk and
    /// for no client: a large answer is read from there as it is sent.
    async fn settle(&self, claim: Claim, mut answer: Answer, ran: Option<Ran>, wait: Wait) {
        let (entry, leftovers) = (&claim.entry, answer.leftovers.take());
        let (status, exit_code, execution_time) = (status_of(answer.status), answer.exit_code, answer.execution_time);
        metrics::ended(&entry.record.language, status);
        let (body, held) = self.bytes_of(answer).await;
        let is_large = body.len() > PIECE;
        let wait = if is_large { wait.max(Wait::Written) } else { wait };
        let finished_ms = now_ms();
        entry.finishes(Finish { ms: finished_ms, exit_code, execution_time });
        let finished = Finished {
            status,
            exit_code,
            started_ms: entry.started().map(|start| start.ms),
            finished_ms,
            execution_time,
            body: body.clone(),
            to_report: self.reports.is_some(),
        };
        let mut written = std::pin::pin!(self.store.finish(entry.record.clone(), finished, wait));
        let heartbeats = ran.and_then(|(_place, heartbeats)| heartbeats);
        let mut outcome = if wait == Wait::Nothing { None } else { Some(written.as_mut().await) };
        let content = match outcome {
            Some(Ok(())) if is_large => {
                let stored = self.store.stored(entry.record.seq, body.len());
                drop((body, held));
                Content::Stored(stored)
            }
            // It can't be written for now, so that it counts on.
            _ if is_large => Content::Held { rest: body, _share: held.map(Arc::new) },
            _ => Content::small(body),
        };
        entry.ends(End::Answered(Done { status, content }));
        if leftovers.is_some() {
            tokio::time::sleep(ANSWER_FIRST).await;
            drop(leftovers);
        }
        if outcome.is_none() {
            outcome = Some(written.await);
        }
        if let Some(Err(error)) = outcome {
            self.written_later(&entry.record, &error).await;
        }
        self.report(&entry.record.id, heartbeats);
        self.live.leave(entry);
    }

    /// How one finished of which nothing can be told but this answer.
    fn untold(&self, answer: &Answer, started_ms: Option<i64>) -> Finished {
        Finished {
            status: status_of(answer.status),
            exit_code: None,
            started_ms,
            finished_ms: now_ms(),
            execution_time: 0.0,
            body: serde_json::to_vec(answer).unwrap_or_default().into(),
            to_report: self.reports.is_some(),
        }
    }

    /// Has the result, which is written, sent to the control plane.
    fn report(&self, id: &str, heartbeats: Option<Heartbeats>) {
        match (&self.reports, heartbeats) {
            (Some(reports), Some(heartbeats)) => reports.finished(heartbeats),
            (Some(reports), None) => reports.finished_unstarted(id),
            (None, _) => {}
        }
    }

    /// Waits for a result that could not be written at once; the store tries again.
    async fn written_later(&self, record: &Record, error: &StoreError) {
        tracing::warn!(execution_id = record.id, "The result is kept in memory: {error} (execution: {})", record.id);
        let is_written =
            || self.store.known(&record.id).is_ok_and(|known| known.is_some_and(|one| one.status.is_end()));
        while !is_written() && !self.store.is_closed() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The answer as JSON, and its share of the memory for answers.
    async fn bytes_of(&self, answer: Answer) -> (Bytes, Option<OwnedSemaphorePermit>) {
        let value = answer.return_value.as_ref().map_or(0, |value| value.get().len()) + answer.files_weight();
        let size = answer.stdout.len() + answer.stderr.len() + value;
        let (answer, weight) = offload(size, move || {
            let weight = json_weight(&answer.stdout) + json_weight(&answer.stderr);
            (answer, weight)
        })
        .await;
        // Before it is made, so that no more is made than may be held.
        let held = self.share(weight + value).await;
        let bytes = offload(size, move || {
            let mut bytes = Vec::with_capacity(weight + value + KIB);
            serde_json::to_writer(&mut bytes, &answer).map(|()| bytes)
        })
        .await;
        (bytes.unwrap_or_default().into(), held)
    }

    /// A share of the memory for answers.
    async fn share(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = (bytes / KIB).min(ANSWERS_KIB) as u32;
        Arc::clone(&self.answers).acquire_many_owned(share).await.ok()
    }

    /// The result of one that has ended; `None` when it has just left.
    async fn stored(&self, seq: i64) -> Result<Option<Done>, Problem> {
        let bytes = self.store.result_bytes(seq).await.map_err(|error| problem_of_store(&error))?;
        let Some((bytes, status)) = bytes else { return Ok(None) };
        if bytes > PIECE {
            return Ok(Some(Done { status, content: Content::Stored(self.store.stored(seq, bytes)) }));
        }
        let body = self.store.result_at(seq).await.map_err(|error| problem_of_store(&error))?;
        Ok(body.map(|body| Done { status, content: Content::small(body) }))
    }
}

/// The result of one that was cancelled before it started.
fn cancelled(record: &Record) -> Answer {
    Answer::without_run(record, Ended::Cancelled, Kind::Cancelled, "Execution cancelled")
}

/// The result of one that a fault of ours ended.
fn failed(record: &Record, why: &str) -> Answer {
    Answer::without_run(record, Ended::Failed, Kind::Sandbox, why)
}

fn status_of(ended: Ended) -> Status {
    match ended {
        Ended::Completed => Status::Completed,
        Ended::Failed => Status::Failed,
        Ended::Timeout => Status::Timeout,
        Ended::Cancelled => Status::Cancelled,
        Ended::Crashed => Status::Crashed,
    }
}
