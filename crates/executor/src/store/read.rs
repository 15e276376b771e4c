//! Questions to the store, each on a connection of its own, so that none waits for the writer. One look-up by id takes some
//! microseconds and may be asked for anywhere; everything else goes to a thread that may block.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Record, Status, Store, StoreError, schema};

/// Connections that are kept for the next question.
const KEPT_CONNECTIONS: usize = 4;

/// Idle connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Asks.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.path)?,
        };
        let read = work(&connection)?;
        let mut idle = self.lock();
        if idle.len() < KEPT_CONNECTIONS {
            idle.push(connection);
        }
        Ok(read)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its place in the order of acceptance.
    pub seq: i64,
    /// What its request was.
    pub digest: Option<[u8; 32]>,
    /// Where it is.
    pub status: Status,
}

/// A result that is read in pieces, each by itself: between them it holds nothing, neither memory nor the file's log.
#[derive(Debug, Clone)]
pub struct Stored {
    store: Store,
    seq: i64,
    /// Its length.
    pub bytes: usize,
}

impl Stored {
    /// From this byte on, as many as this at most.
    ///
    /// # Errors
    /// As of reading; above all, it is not kept any more.
    pub async fn piece(&self, from: usize, most: usize) -> Result<Bytes, StoreError> {
        let (seq, length) = (self.seq, most.min(self.bytes.saturating_sub(from)));
        self.store
            .read(move |connection| {
                let body = connection.blob_open("main", "results", "body", seq, true)?;
                let mut piece = vec![0; length];
                body.read_at_exact(&mut piece, from)?;
                Ok(piece.into())
            })
            .await
    }
}

/// An execution in a list.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // The names are the wire format's.
pub struct Row {
    pub seq: i64,
    pub id: String,
    pub session_id: Option<String>,
    pub language: String,
    pub status: Status,
    pub exit_code: Option<i32>,
    pub created_ms: i64,
    pub started_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    pub execution_time: Option<f64>,
}

/// Which executions to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this session.
    pub session_id: Option<String>,
    /// In this state.
    pub status: Option<Status>,
    /// Accepted before this one.
    pub before_seq: Option<i64>,
}

impl Store {
    /// What is known of an id. A look-up of some microseconds, done here and now.
    ///
    /// # Errors
    /// As of reading.
    pub fn known(&self, id: &str) -> Result<Option<Known>, StoreError> {
        let read = self.0.readers.with(|connection| {
            let sql = "SELECT seq, digest, status FROM executions WHERE id = ?1";
            connection
                .prepare_cached(sql)?
                .query_row([id], |row| Ok(Known { seq: row.get(0)?, digest: digest(row, 1)?, status: status(row, 2)? }))
                .optional()
        });
        read.map_err(|error| StoreError::of(&error))
    }

    /// How many bytes the result of an execution has, and how it ended, if it has one.
    ///
    /// # Errors
    /// As of reading.
    pub async fn result_bytes(&self, seq: i64) -> Result<Option<(usize, Status)>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT length(body), status FROM results JOIN executions USING (seq) WHERE seq = ?1";
            connection.prepare_cached(sql)?.query_row([seq], |row| Ok((row.get(0)?, status(row, 1)?))).optional()
        })
        .await
    }

    /// How many bytes the request of an execution that waits has.
    ///
    /// # Errors
    /// As of reading.
    pub async fn request_bytes(&self, seq: i64) -> Result<Option<usize>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT length(body) FROM requests WHERE seq = ?1";
            connection.prepare_cached(sql)?.query_row([seq], |row| row.get(0)).optional()
        })
        .await
    }

    /// The result of this length, which is written.
    pub fn stored(&self, seq: i64, bytes: usize) -> Stored {
        Stored { store: self.clone(), seq, bytes }
    }

    /// The result of an execution by its place.
    ///
    /// # Errors
    /// As of reading.
    pub async fn result_at(&self, seq: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT body FROM results WHERE seq = ?1";
            connection.prepare_cached(sql)?.query_row([seq], |row| row.get(0)).optional()
        })
        .await
    }

    /// The result of an execution: the answer as `POST /execute` gave it.
    ///
    /// # Errors
    /// As of reading.
    pub async fn result(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            let sql = "SELECT body FROM results JOIN executions USING (seq) WHERE id = ?1";
            connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()
        })
        .await
    }

    /// The request of an execution that waits.
    ///
    /// # Errors
    /// As of reading.
    pub async fn request(&self, seq: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT body FROM requests WHERE seq = ?1";
            connection.prepare_cached(sql)?.query_row([seq], |row| row.get(0)).optional()
        })
        .await
    }

    /// Executions that have ended, and others unless a status is asked for, newest first.
    ///
    /// # Errors
    /// As of reading.
    pub async fn list(&self, filter: Filter, most: usize) -> Result<Vec<Row>, StoreError> {
        self.read(move |connection| {
            let mut sql =
                "SELECT seq, id, session_id, language, status, exit_code, created_ms, started_ms, finished_ms,
                execution_time FROM executions WHERE seq < ?1"
                    .to_owned();
            if filter.session_id.is_some() {
                sql += " AND session_id = ?2";
            }
            sql += match filter.status {
                None => "",
                // There are enough of them.
                Some(Status::Completed) => " AND status = ?3",
                // The index has no others: it would cost each execution two more pages to have those that are under way.
                Some(_) => " AND status = ?3 AND status NOT IN ('completed', 'running', 'pending')",
            };
            sql += " ORDER BY seq DESC LIMIT ?4";
            let before = filter.before_seq.unwrap_or(i64::MAX);
            let status = filter.status.map(Status::name);
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map(params![before, filter.session_id, status, most], row)?.collect()
        })
        .await
    }

    /// How many results are kept, and the size of the file with its log.
    ///
    /// # Errors
    /// As of reading.
    pub async fn kept(&self) -> Result<[u64; 2], StoreError> {
        let size = |name: &Path| std::fs::metadata(name).map_or(0, |file| file.len());
        let (file, log) = (self.0.path.clone(), format!("{}-wal", self.0.path.display()));
        self.read(move |connection| {
            let sql = "SELECT count(*) FROM executions WHERE finished_clock_s IS NOT NULL";
            let results = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok([results, size(&file) + size(Path::new(&log))])
        })
        .await
    }

    /// Executions that have no end, in order of acceptance. Looks at all of them: for a start, which has looked at them anyway.
    ///
    /// # Errors
    /// As of reading.
    pub async fn unfinished(&self) -> Result<Vec<(Record, Status, Option<i64>)>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT seq, id, session_id, language, digest, created_ms, status, started_ms FROM executions
                WHERE status IN ('pending', 'running') ORDER BY seq";
            let unfinished = |row: &rusqlite::Row<'_>| {
                let record = Record {
                    seq: row.get(0)?,
                    id: row.get(1)?,
                    session_id: row.get(2)?,
                    language: row.get(3)?,
                    digest: digest(row, 4)?,
                    created_ms: row.get(5)?,
                };
                Ok((record, status(row, 6)?, row.get(7)?))
            };
            connection.prepare_cached(sql)?.query_map([], unfinished)?.collect()
        })
        .await
    }
}

/// The last place in the order of acceptance that was given.
pub(super) fn last_seq(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(seq), 0) FROM executions", [], |row| row.get(0))
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        seq: row.get(0)?,
        id: row.get(1)?,
        session_id: row.get(2)?,
        language: row.get(3)?,
        status: status(row, 4)?,
        exit_code: row.get(5)?,
        created_ms: row.get(6)?,
        started_ms: row.get(7)?,
        finished_ms: row.get(8)?,
        execution_time: row.get(9)?,
    })
}

fn status(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Status> {
    let name: String = row.get(at)?;
    Status::parse(&name).ok_or_else(|| {
        let what = format!("{name:?} is no status").into();
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, what)
    })
}

fn digest(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Option<[u8; 32]>> {
    row.get(at)
}
