//! The executions that are under way, by id: who they are, how far they are, and the wait for their end. One is in here from the
//! moment that its id is claimed until its result is written, so an id is always to be found here or in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::answer::Content;
use crate::http::problem::Problem;
use crate::store::{Record, Status};

/// All of them.
#[derive(Debug, Default)]
pub struct Live(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<String, Arc<Entry>>,
    /// How many have left.
    left: u64,
}

/// One of them.
#[derive(Debug)]
pub struct Entry {
    /// Who it is.
    pub record: Record,
    /// Ends it.
    pub stop: CancellationToken,
    cancelled: AtomicBool,
    started: Mutex<Option<Start>>,
    finish: OnceLock<Finish>,
    end: watch::Sender<Option<End>>,
}

/// When one started.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// For durations.
    pub at: Instant,
    /// For people.
    pub ms: i64,
}

/// How one finished, for lists.
#[derive(Debug, Clone, Copy)]
pub struct Finish {
    /// When, for people.
    pub ms: i64,
    /// The program's own.
    pub exit_code: Option<i32>,
    /// How long it ran, seconds.
    pub execution_time: f64,
}

/// What became of one.
#[derive(Debug, Clone)]
pub enum End {
    /// It has a result.
    Answered(Done),
    /// Its program was not run, and it is forgotten.
    Refused(Problem),
    /// Whoever had it gave it up before it started: it is anybody's.
    Gone,
}

/// A result on its way to whoever wants it.
#[derive(Debug, Clone)]
pub struct Done {
    /// How it ended.
    pub status: Status,
    /// The answer.
    pub content: Content,
}

/// Why an id can't be had.
#[derive(Debug)]
pub enum Taken {
    /// By this one.
    By(Arc<Entry>),
    /// One has left since it was looked for in the store: it may be there now.
    Perhaps,
}

impl Live {
    /// How many have left so far: to be asked before an id is looked for in the store.
    pub fn left(&self) -> u64 {
        self.lock().left
    }

    /// Enters an execution under its id. `left` is what [`Self::left`] said before the store did not have it, if it was looked for there.
    ///
    /// # Errors
    /// The id is taken.
    pub fn enter(&self, record: Record, stop: CancellationToken, left: Option<u64>) -> Result<Arc<Entry>, Taken> {
        let mut entries = self.lock();
        if let Some(entry) = entries.by_id.get(&record.id) {
            return Err(Taken::By(Arc::clone(entry)));
        }
        if left.is_some_and(|left| left != entries.left) {
            return Err(Taken::Perhaps);
        }
        let (id, end) = (record.id.clone(), watch::Sender::new(None));
        let (cancelled, started, finish) = (AtomicBool::new(false), Mutex::new(None), OnceLock::new());
        let entry = Arc::new(Entry { record, stop, cancelled, started, finish, end });
        entries.by_id.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    /// The one that has this id.
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.lock().by_id.get(id).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.lock().by_id.values().cloned().collect()
    }

    /// It is written, or was never there.
    pub fn leave(&self, entry: &Entry) {
        let mut entries = self.lock();
        if entries.by_id.get(&entry.record.id).is_some_and(|there| there.record.seq == entry.record.seq) {
            entries.by_id.remove(&entry.record.id);
            entries.left += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// It starts.
    pub fn start(&self, ms: i64) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(Start { at: Instant::now(), ms });
    }

    /// When it started, if it has.
    pub fn started(&self) -> Option<Start> {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.started().map_or(Duration::ZERO, |start| start.at.elapsed())
    }

    /// Where it is.
    pub fn status(&self) -> Status {
        match &*self.end.borrow() {
            Some(End::Answered(done)) => done.status,
            _ if self.started().is_some() => Status::Running,
            _ => Status::Pending,
        }
    }

    /// Somebody wants it to end.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// Whether somebody does.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// It finishes so; told before its end is.
    pub fn finishes(&self, finish: Finish) {
        self.finish.set(finish).ok();
    }

    /// How it finished, once its end is told.
    pub fn finish(&self) -> Option<Finish> {
        self.done().and_then(|_| self.finish.get().copied())
    }

    /// Tells all who wait what became of it. The first word counts.
    pub fn ends(&self, end: End) {
        self.end.send_if_modified(|current| {
            let is_first = current.is_none();
            if is_first {
                *current = Some(end);
            }
            is_first
        });
    }

    /// Its result, if it has one.
    pub fn done(&self) -> Option<Done> {
        match &*self.end.borrow() {
            Some(End::Answered(done)) => Some(done.clone()),
            _ => None,
        }
    }

    /// Waits for what becomes of it.
    pub async fn end(&self) -> End {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await;
        ended.ok().and_then(|end| end.clone()).unwrap_or(End::Gone)
    }
}
