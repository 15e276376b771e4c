//! The one thread that writes. It takes all that waits and commits it in one transaction, without syncing. A change that nobody
//! waits for lingers for a few milliseconds, so that the begin and the end of a short execution are one transaction.
//!
//! What a failed transaction held: new executions are refused, upkeep is left, and what came of executions is kept in order and tried
//! again until it is written.

use std::io;
use std::path::Path;
#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::change::Change;
use super::keeper::{Keeper, Keeping};
use super::room::Room;
use super::syncer::{Syncer, Waiter};
use super::{StoreError, Wait};

/// How long a change that nobody waits for may wait for company.
const LINGER: Duration = Duration::from_millis(10);
/// Bytes and changes in one transaction, about.
const BATCH_BYTES: usize = 64 * 1024 * 1024;
const BATCH_CHANGES: usize = 1024;
/// How long until what could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A log that is longer than this is waited for: the keeper, beside which more is written all the time, does not come to its end, and
/// only one that is all in the file begins anew.
pub(super) const LONG_LOG_BYTES: u64 = 32 * 1024 * 1024;
/// How often that is tried, at most: somebody may be reading.
const LOG_PAUSE: Duration = Duration::from_millis(250);

/// Who waits for a change.
pub(super) type Reply = oneshot::Sender<Result<i64, StoreError>>;

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    keeper: Mutex<Option<Keeper>>,
    /// How often the log was synced for those who waited for it.
    #[cfg(test)]
    pub(super) syncs: Arc<AtomicU64>,
    clock: Arc<Clock>,
}

/// A change on its way.
struct Job {
    change: Change,
    wait: Wait,
    reply: Option<Reply>,
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Arrivals>,
    arrived: Condvar,
}

#[derive(Default)]
struct Arrivals {
    jobs: Vec<Job>,
    /// Somebody waits for one of them.
    urgent: bool,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

/// Seconds of service, over all starts: it only goes forward, whatever the wall clock does.
#[derive(Debug)]
pub(super) struct Clock {
    before_s: AtomicI64,
    since: Instant,
}

impl Clock {
    /// The time now.
    pub(super) fn now_s(&self) -> i64 {
        let since = i64::try_from(self.since.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.before_s.load(Ordering::Relaxed).saturating_add(since)
    }

    /// As if so much time had gone by.
    #[cfg(test)]
    pub(super) fn advance(&self, seconds: i64) {
        self.before_s.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Writer {
    /// Starts the thread on this connection.
    pub(super) fn start(path: &Path, connection: Connection, room: Arc<Room>) -> io::Result<Self> {
        let sql = "SELECT max(value, (SELECT coalesce(max(finished_clock_s), 0) FROM executions
                   WHERE seq > (SELECT max(seq) FROM executions) - 1000)) FROM meta WHERE name = 'clock_s'";
        let before_s = connection.query_row(sql, [], |row| row.get(0)).map_err(io::Error::other)?;
        let clock = Arc::new(Clock { before_s: AtomicI64::new(before_s), since: Instant::now() });
        let syncer = Syncer::start(path)?;
        #[cfg(test)]
        let syncs = syncer.syncs();
        let queue = Arc::new(Queue::default());
        let mut thread = Thread {
            connection,
            log: format!("{}-wal", path.display()),
            log_tried: Instant::now(),
            queue: Arc::clone(&queue),
            room,
            syncer,
            clock: Arc::clone(&clock),
            kept: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("store-write".into()).spawn(move || {
            thread.run();
            thread.close();
        })?;
        let (thread, keeper) = (Mutex::new(Some(thread)), Mutex::new(None));
        Ok(Self {
            queue,
            thread,
            keeper,
            #[cfg(test)]
            syncs,
            clock,
        })
    }

    /// Keeps the file small from now on.
    pub(super) fn keep_small(&self, path: &Path, keeping: Keeping) {
        let queue = Arc::clone(&self.queue);
        let send = move |change| queue.push(change, Wait::Written);
        *lock(&self.keeper) = Keeper::start(path, keeping, Arc::clone(&self.clock), send);
    }

    /// Sends a change; what comes of it.
    pub(super) fn send(&self, change: Change, wait: Wait) -> oneshot::Receiver<Result<i64, StoreError>> {
        self.queue.push(change, wait)
    }

    /// Whether what is sent is refused.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.queue.waiting).closed
    }

    /// Writes and syncs what is left, and ends the threads. What is sent afterwards is refused.
    pub(super) fn close(&self) {
        drop(lock(&self.keeper).take());
        lock(&self.queue.waiting).closed = true;
        self.queue.arrived.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            thread.join().ok();
        }
    }

    #[cfg(test)]
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    fn push(&self, change: Change, wait: Wait) -> oneshot::Receiver<Result<i64, StoreError>> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            // Dropping the reply says so.
            return receiver;
        }
        let wakes = waiting.jobs.is_empty() || (wait != Wait::Nothing && !waiting.urgent);
        waiting.urgent |= wait != Wait::Nothing;
        waiting.jobs.push(Job { change, wait, reply: Some(reply) });
        drop(waiting);
        if wakes {
            self.arrived.notify_one();
        }
        receiver
    }

    /// What waits, once it should be written; `None` at the end. While something is `kept` it does not wait for long.
    fn take(&self, kept: bool) -> Option<Vec<Job>> {
        let mut waiting = lock(&self.waiting);
        if kept {
            let wait =
                self.arrived.wait_timeout_while(waiting, TRY_AGAIN, |waiting| !waiting.closed && !waiting.urgent);
            waiting = wait.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            let idle = |waiting: &mut Arrivals| waiting.jobs.is_empty() && !waiting.closed;
            waiting = self.arrived.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
            let alone = |waiting: &mut Arrivals| !waiting.urgent && !waiting.closed;
            let wait = self.arrived.wait_timeout_while(waiting, LINGER, alone);
            waiting = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.closed && waiting.jobs.is_empty() {
            return None;
        }
        waiting.urgent = false;
        Some(std::mem::take(&mut waiting.jobs))
    }
}

struct Thread {
    connection: Connection,
    log: String,
    log_tried: Instant,
    queue: Arc<Queue>,
    room: Arc<Room>,
    syncer: Syncer,
    clock: Arc<Clock>,
    /// What could not be written yet, in order.
    kept: Vec<Job>,
}

impl Thread {
    fn run(&mut self) {
        while let Some(mut jobs) = self.queue.take(!self.kept.is_empty()) {
            if !self.kept.is_empty() {
                jobs.splice(0..0, self.kept.drain(..));
            }
            while !jobs.is_empty() {
                let rest = jobs.split_off(batch(&jobs));
                self.write(std::mem::replace(&mut jobs, rest));
            }
            self.keep_log_short();
        }
    }

    /// Moves all of a long log into the file while nobody writes.
    fn keep_log_short(&mut self) {
        let is_long = || std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LONG_LOG_BYTES);
        if self.log_tried.elapsed() < LOG_PAUSE || !is_long() {
            return;
        }
        self.log_tried = Instant::now();
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::debug!("The log can't be moved into the file: {error}");
        }
    }

    /// The last attempt at what is left; then the log goes into the file.
    fn close(mut self) {
        let kept = std::mem::take(&mut self.kept);
        self.write(kept);
        if !self.kept.is_empty() {
            tracing::error!("{} changes could not be written before the end", self.kept.len());
        }
        self.syncer.close();
        self.connection.close().ok();
    }

    /// Writes all of them in one transaction; where that fails, each in one of its own.
    fn write(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        match self.commit(&jobs) {
            Ok(values) => {
                self.room.wrote(Ok(()));
                self.reply(jobs.into_iter().zip(values));
            }
            Err(error) if jobs.len() == 1 => jobs.into_iter().for_each(|job| self.not_written(job, &error)),
            Err(_) => self.write_each(jobs),
        }
    }

    /// Writes them one by one until one can't be: what came of an execution is not overtaken by what came of it later.
    fn write_each(&mut self, jobs: Vec<Job>) {
        let mut failed = None;
        for job in jobs {
            if let Some(error) = &failed {
                self.not_written(job, error);
                continue;
            }
            match self.commit(std::slice::from_ref(&job)) {
                Ok(values) => self.reply(std::iter::once(job).zip(values)),
                Err(error) => {
                    let goes_on = is_its_own_fault(&error);
                    self.not_written(job, &error);
                    failed = (!goes_on).then_some(error);
                }
            }
        }
    }

    fn commit(&self, jobs: &[Job]) -> rusqlite::Result<Vec<i64>> {
        let clock_s = self.clock.now_s();
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let applied: rusqlite::Result<Vec<i64>> =
            jobs.iter()
                .enumerate()
                .map(|(at, job)| {
                    if is_overtaken(job, &jobs[at + 1..]) { Ok(0) } else { job.change.apply(&self.connection, clock_s) }
                })
                .collect();
        let committed = applied.and_then(|values| {
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(values)
        });
        if committed.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").ok();
        }
        committed
    }

    fn reply(&self, written: impl Iterator<Item = (Job, i64)>) {
        let mut to_sync: Vec<Waiter> = Vec::new();
        for (job, value) in written {
            match job.reply {
                Some(reply) if job.wait == Wait::Durable => to_sync.push((reply, value)),
                Some(reply) => drop(reply.send(Ok(value))),
                None => {}
            }
        }
        self.syncer.sync(to_sync);
    }

    /// What becomes of a change that could not be written.
    fn not_written(&mut self, mut job: Job, error: &rusqlite::Error) {
        let told = StoreError::of(error);
        if let Some(reply) = job.reply.take() {
            reply.send(Err(told.clone())).ok();
        }
        if is_its_own_fault(error) {
            tracing::error!("A change was not stored: {error}");
            return;
        }
        self.room.wrote(Err(&told));
        if !job.change.is_new() && !job.change.is_upkeep() {
            self.kept.push(Job { change: job.change, wait: Wait::Nothing, reply: None });
        } else if self.kept.is_empty() {
            // Something that writes tells when writing works again.
            let change = Change::Tick { clock_s: self.clock.now_s() };
            self.kept.push(Job { change, wait: Wait::Nothing, reply: None });
        }
    }
}

/// How many of them make a transaction.
fn batch(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fit = jobs.iter().take(BATCH_CHANGES).take_while(|job| {
        let fits = bytes < BATCH_BYTES;
        bytes += job.change.bytes();
        fits
    });
    fit.count()
}

/// A begin that nobody waits for is no work where its end is in the same transaction.
fn is_overtaken(job: &Job, later: &[Job]) -> bool {
    let Change::Begin { record, .. } = &job.change else { return false };
    job.wait == Wait::Nothing
        && later.iter().any(|job| match &job.change {
            Change::Finish { record: finished, .. } => finished.seq == record.seq,
            Change::Forget { seq } => *seq == record.seq,
            _ => false,
        })
}

/// Whether it would fail at any time, whatever the disk is like.
fn is_its_own_fault(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ApiMisuse, ConstraintViolation, TooBig, TypeMismatch};
    matches!(error.sqlite_error_code(), Some(ApiMisuse | ConstraintViolation | TooBig | TypeMismatch))
}

/// Whether a write failed for want of room.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    // SQLITE_FULL, or an extended code of SQLITE_IOERR that the last lack of room shows as: writing, the shared memory's size.
    const WRITE: i32 = rusqlite::ffi::SQLITE_IOERR_WRITE;
    const SHM: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    match error {
        rusqlite::Error::SqliteFailure(error, _) => {
            error.code == rusqlite::ErrorCode::DiskFull || matches!(error.extended_code, WRITE | SHM)
        }
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
