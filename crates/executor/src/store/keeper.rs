//! Keeps the file small: results leave when their time is over or when there are too many, freed pages go back to the file system, and
//! the write-ahead log goes into the file, beside the writer and not in its way.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::change::Change;
use super::writer::Clock;
use super::{StoreError, schema};

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);
/// How often the service's clock is written down: as much of it a start may lose.
const TICK: Duration = Duration::from_secs(60);
/// A log that is longer than this goes into the file.
const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// Executions that leave in one transaction.
const STEP: usize = 256;
/// Free pages that are kept for the next results: giving one back moves another.
const FREE_PAGES: i64 = 2048;
/// Pages given back in one transaction.
const GIVE_BACK: usize = 2048;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// Seconds of service that a result is kept.
    pub retention: Duration,
    /// Bytes of the file, but for requests that wait and results that are to be reported.
    pub most_bytes: u64,
}

impl Keeping {
    /// Most bytes of a service's results: a million small ones.
    pub const MOST_BYTES: u64 = 1024 * 1024 * 1024;
}

/// The thread that looks; dropping it ends it.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Reply = oneshot::Receiver<Result<i64, StoreError>>;

impl Keeper {
    /// Starts it; without one the file only grows.
    pub(super) fn start(
        path: &Path,
        keeping: Keeping,
        clock: Arc<Clock>,
        send: impl Fn(Change) -> Reply + Send + 'static,
    ) -> Option<Self> {
        let log = format!("{}-wal", path.display());
        let (stop, stopped) = mpsc::channel();
        let connection = match schema::open_keeper(path) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::error!("{} can't be kept small: {error}", path.display());
                return None;
            }
        };
        let mut round = Round {
            connection,
            keeping,
            clock,
            send,
            log,
            log_seen: None,
            ticked: Instant::now(),
            expired: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("store-keep".into()).spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                if let Err(error) = round.look() {
                    tracing::debug!("Keeping the store small: {error}");
                }
            }
        });
        Some(Self { stop: Some(stop), thread: Some(thread.ok()?) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

struct Round<F> {
    connection: Connection,
    keeping: Keeping,
    clock: Arc<Clock>,
    send: F,
    log: String,
    /// Size and time of the log when last seen: nothing was written since then where they are the same.
    log_seen: Option<(u64, std::time::SystemTime)>,
    ticked: Instant,
    expired: Instant,
}

impl<F: Fn(Change) -> Reply> Round<F> {
    fn look(&mut self) -> Result<(), StoreError> {
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.change(Change::Tick { clock_s: self.clock.now_s() })?;
        }
        if self.expired.elapsed() >= (self.keeping.retention / 20).clamp(LOOK, TICK) {
            self.expired = Instant::now();
            self.expire()?;
        }
        let log = std::fs::metadata(&self.log).and_then(|log| Ok((log.len(), log.modified()?))).ok();
        if log == self.log_seen {
            return Ok(());
        }
        self.log_seen = log;
        self.drop_oldest()?;
        self.give_back()?;
        if log.is_some_and(|(bytes, _)| bytes > LOG_BYTES) {
            // Passive: it waits for nobody, and nobody for it.
            let sql = "PRAGMA wal_checkpoint(PASSIVE)";
            self.connection.query_row(sql, [], |_| Ok(())).map_err(|error| StoreError::of(&error))?;
        }
        Ok(())
    }

    fn expire(&self) -> Result<(), StoreError> {
        let retention = i64::try_from(self.keeping.retention.as_secs()).unwrap_or(i64::MAX);
        while self.drop_until(self.clock.now_s().saturating_sub(retention))? == STEP {}
        Ok(())
    }

    fn drop_oldest(&self) -> Result<(), StoreError> {
        let most = self.keeping.most_bytes;
        let mut used = self.used_bytes()?;
        if used <= most {
            return Ok(());
        }
        let bound = most.saturating_add(self.bytes_that_stay()?);
        let mut dropped = 0;
        while used > bound {
            let step = self.drop_until(i64::MAX)?;
            if step == 0 {
                break;
            }
            dropped += step;
            used = self.used_bytes()?;
        }
        if dropped > 0 {
            tracing::info!("Results take more than {} MiB: the oldest {dropped} were dropped", most / 1024 / 1024);
        }
        Ok(())
    }

    /// Drops the oldest of those that finished at this second of the clock or before, none that waits in the outbox.
    fn drop_until(&self, clock_s: i64) -> Result<usize, StoreError> {
        let sql = "SELECT seq FROM executions WHERE finished_clock_s <= ?1
            AND NOT EXISTS (SELECT 1 FROM outbox WHERE execution_id = id) ORDER BY finished_clock_s, seq LIMIT ?2";
        let seqs = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map(params![clock_s, STEP], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()
        };
        let seqs = seqs().map_err(|error| StoreError::of(&error))?;
        let count = seqs.len();
        if count > 0 {
            self.change(Change::Drop { seqs })?;
        }
        Ok(count)
    }

    fn give_back(&self) -> Result<(), StoreError> {
        let mut free = self.number("freelist_count")?;
        while free > FREE_PAGES {
            self.change(Change::GiveBack {
                pages: GIVE_BACK.min(usize::try_from(free - FREE_PAGES).unwrap_or_default()),
            })?;
            let left = self.number("freelist_count")?;
            if left >= free {
                break;
            }
            free = left;
        }
        Ok(())
    }

    fn used_bytes(&self) -> Result<u64, StoreError> {
        let pages = self.number("page_count")? - self.number("freelist_count")?;
        Ok(u64::try_from(pages * self.number("page_size")?).unwrap_or_default())
    }

    /// Of requests that wait, and of results that are to be reported.
    fn bytes_that_stay(&self) -> Result<u64, StoreError> {
        let sql =
            "SELECT (SELECT coalesce(sum(length(body)), 0) FROM requests) + (SELECT coalesce(sum(length(body)), 0)
            FROM outbox JOIN executions ON id = execution_id JOIN results USING (seq))";
        self.connection.query_row(sql, [], |row| row.get(0)).map_err(|error| StoreError::of(&error))
    }

    fn number(&self, pragma: &str) -> Result<i64, StoreError> {
        let read = self.connection.pragma_query_value(None, pragma, |row| row.get(0));
        read.map_err(|error| StoreError::of(&error))
    }

    fn change(&self, change: Change) -> Result<i64, StoreError> {
        let reply = (self.send)(change).blocking_recv();
        reply.unwrap_or_else(|_| Err(StoreError::Failed("the store is closed".into())))
    }
}
