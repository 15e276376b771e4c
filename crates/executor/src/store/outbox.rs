//! The outbox: results that the control plane has not got yet. What is in it was written together with the result, and leaves when
//! the control plane has answered.

use rusqlite::{Connection, OptionalExtension, params};

use super::change::Change;
use super::{Store, StoreError, Wait};

/// A report that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the order of reports.
    pub seq: i64,
    /// Whose result it is.
    pub execution_id: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// All there is to know of a report, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub struct OutboxRow {
    pub seq: i64,
    pub execution_id: String,
    pub attempts: u32,
    pub last_error: Option<String>,
    pub put_aside_reason: Option<String>,
    pub created_ms: i64,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxCounts {
    /// To be sent.
    pub waiting: u64,
    /// That are not sent until somebody says so.
    pub put_aside: u64,
    /// When the oldest of those to be sent came, if there is one.
    pub oldest_ms: Option<i64>,
}

impl Store {
    /// Reports to send behind this place, the oldest first, as many as this at most.
    ///
    /// # Errors
    /// As of reading.
    pub async fn waiting(&self, after_seq: i64, most: usize) -> Result<Vec<Waiting>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT seq, execution_id, attempts FROM outbox
                WHERE seq > ?1 AND put_aside_reason IS NULL ORDER BY seq LIMIT ?2";
            let waiting = |row: &rusqlite::Row<'_>| {
                Ok(Waiting { seq: row.get(0)?, execution_id: row.get(1)?, attempts: row.get(2)? })
            };
            connection.prepare_cached(sql)?.query_map(params![after_seq, most], waiting)?.collect()
        })
        .await
    }

    /// How many bytes the result has that waits to be reported; `None` if it does not wait (any more).
    ///
    /// # Errors
    /// As of reading.
    pub async fn waiting_bytes(&self, execution_id: &str) -> Result<Option<usize>, StoreError> {
        let id = execution_id.to_owned();
        self.read(move |connection| {
            let sql = "SELECT ifnull(length(results.body), 0) FROM outbox
                LEFT JOIN executions ON executions.id = outbox.execution_id
                LEFT JOIN results ON results.seq = executions.seq
                WHERE outbox.execution_id = ?1 AND put_aside_reason IS NULL";
            connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()
        })
        .await
    }

    /// A report has arrived: it leaves the outbox.
    ///
    /// # Errors
    /// It is not written yet.
    pub async fn delivered(&self, execution_id: &str) -> Result<(), StoreError> {
        self.change(Change::Delivered { execution_id: execution_id.into() }, Wait::Written).await.map(drop)
    }

    /// An attempt to send a report failed.
    ///
    /// # Errors
    /// It is not written yet.
    pub async fn attempted(&self, execution_id: &str, attempts: u32, error: &str) -> Result<(), StoreError> {
        let change = Change::Attempted { execution_id: execution_id.into(), attempts, error: error.into() };
        self.change(change, Wait::Written).await.map(drop)
    }

    /// A report that is not sent again until somebody says so.
    ///
    /// # Errors
    /// It is not written yet.
    pub async fn put_aside(&self, execution_id: &str, reason: &str) -> Result<(), StoreError> {
        let change = Change::PutAside { execution_id: execution_id.into(), reason: reason.into() };
        self.change(change, Wait::Written).await.map(drop)
    }

    /// All of them, also those that were put aside, are to be sent as if never tried; how many.
    ///
    /// # Errors
    /// It is not written.
    pub async fn bring_back(&self) -> Result<usize, StoreError> {
        let rows = self.change(Change::BringBack, Wait::Durable).await?;
        Ok(usize::try_from(rows).unwrap_or_default())
    }

    /// Everything in the outbox, the oldest first.
    ///
    /// # Errors
    /// As of reading.
    pub async fn list_outbox(&self) -> Result<Vec<OutboxRow>, StoreError> {
        self.read(|connection| {
            let sql =
                "SELECT seq, execution_id, attempts, last_error, put_aside_reason, created_ms FROM outbox ORDER BY seq";
            let row = |row: &rusqlite::Row<'_>| {
                Ok(OutboxRow {
                    seq: row.get(0)?,
                    execution_id: row.get(1)?,
                    attempts: row.get(2)?,
                    last_error: row.get(3)?,
                    put_aside_reason: row.get(4)?,
                    created_ms: row.get(5)?,
                })
            };
            connection.prepare_cached(sql)?.query_map([], row)?.collect()
        })
        .await
    }

    /// How many there are.
    ///
    /// # Errors
    /// As of reading.
    pub async fn outbox_counts(&self) -> Result<OutboxCounts, StoreError> {
        self.read(counts).await
    }
}

fn counts(connection: &Connection) -> rusqlite::Result<OutboxCounts> {
    let sql = "SELECT count(*) FILTER (WHERE put_aside_reason IS NULL), count(put_aside_reason),
        min(created_ms) FILTER (WHERE put_aside_reason IS NULL) FROM outbox";
    connection
        .prepare_cached(sql)?
        .query_row([], |row| Ok(OutboxCounts { waiting: row.get(0)?, put_aside: row.get(1)?, oldest_ms: row.get(2)? }))
}
