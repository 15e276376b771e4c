//! What is written, as plain data: a change can be tried again, alone or with others. Each leaves the same behind however often it
//! is carried out.

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::{Finished, Record};

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    /// An execution is to run later.
    Accept { record: Record, request: Bytes },
    /// It starts; whether it was accepted before.
    Begin { record: Record, started_ms: i64, was_accepted: bool },
    /// It has ended.
    Finish { record: Record, finished: Finished },
    /// It never was.
    Forget { seq: i64 },
    /// These have been kept long enough.
    Drop { seqs: Vec<i64> },
    /// So many free pages go back to the file system.
    GiveBack { pages: usize },
    /// The clock of the service.
    Tick { clock_s: i64 },
    /// A report arrived.
    Delivered { execution_id: String },
    /// One did not.
    Attempted { execution_id: String, attempts: u32, error: String },
    /// One never will as it is.
    PutAside { execution_id: String, reason: String },
    /// All are tried again, also those that were put aside; how many.
    BringBack,
    /// For those who wait for what was before it.
    Nothing,
    /// What `PRAGMA data_version` says to the connection that writes.
    DataVersion,
}

impl Change {
    /// Whether it makes an execution: refused when it can't be written. Everything else came of one and is kept until it is.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Self::Accept { .. } | Self::Begin { .. })
    }

    /// Whether it is upkeep, which is done another time when it can't be done now.
    pub(super) fn is_upkeep(&self) -> bool {
        matches!(self, Self::Drop { .. } | Self::GiveBack { .. } | Self::Tick { .. } | Self::DataVersion)
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Accept { request, .. } => request.len(),
            Self::Finish { finished, .. } => finished.body.len(),
            _ => 0,
        }
    }

    /// Carries it out within the transaction that is open; `clock_s` is the service's own time.
    pub(super) fn apply(&self, connection: &Connection, clock_s: i64) -> rusqlite::Result<i64> {
        let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
            connection.prepare_cached(sql)?.execute(params).map(|rows| i64::try_from(rows).unwrap_or(i64::MAX))
        };
        match self {
            Self::Accept { record, request } => {
                insert(connection, record, "pending", None)?;
                run("INSERT INTO requests VALUES (?1, ?2)", params![record.seq, &request[..]])
            }
            Self::Begin { record, started_ms, was_accepted } => {
                let rows = insert(connection, record, "running", Some(*started_ms))?;
                if *was_accepted {
                    run("DELETE FROM requests WHERE seq = ?1", params![record.seq])?;
                }
                Ok(rows)
            }
            Self::Finish { record, finished } => finish(connection, record, finished, clock_s),
            Self::Forget { seq } => {
                run("DELETE FROM requests WHERE seq = ?1", params![seq])?;
                run("DELETE FROM executions WHERE seq = ?1", params![seq])
            }
            Self::Drop { seqs } => {
                for seq in seqs {
                    run("DELETE FROM results WHERE seq = ?1", params![seq])?;
                    run("DELETE FROM executions WHERE seq = ?1", params![seq])?;
                }
                Ok(0)
            }
            Self::GiveBack { pages } => {
                let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
                let mut rows = statement.query([])?;
                // A page a step.
                while rows.next()?.is_some() {}
                Ok(0)
            }
            Self::Tick { clock_s } => run("UPDATE meta SET value = ?1 WHERE name = 'clock_s'", params![clock_s]),
            Self::Delivered { execution_id } => {
                run("DELETE FROM outbox WHERE execution_id = ?1", params![execution_id])
            }
            Self::Attempted { execution_id, attempts, error } => run(
                "UPDATE outbox SET attempts = ?2, last_error = ?3 WHERE execution_id = ?1",
                params![execution_id, attempts, error],
            ),
            Self::PutAside { execution_id, reason } => run(
                "UPDATE outbox SET put_aside_reason = ?2, attempts = attempts + 1 WHERE execution_id = ?1",
                params![execution_id, reason],
            ),
            Self::BringBack => run("UPDATE outbox SET put_aside_reason = NULL, attempts = 0", params![]),
            Self::Nothing => Ok(0),
            Self::DataVersion => connection.pragma_query_value(None, "data_version", |row| row.get(0)),
        }
    }
}

/// The execution's row with this status: a new one, or the one it has.
fn insert(connection: &Connection, record: &Record, status: &str, started_ms: Option<i64>) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO executions (seq, id, session_id, language, digest, status, created_ms, started_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (seq) DO UPDATE SET status = excluded.status, started_ms = excluded.started_ms",
    )?;
    let digest = record.digest.as_ref().map(<[u8; 32]>::as_slice);
    let Record { seq, id, session_id, language, created_ms, .. } = record;
    let rows = statement.execute(params![seq, id, session_id, language, digest, status, created_ms, started_ms])?;
    Ok(i64::try_from(rows).unwrap_or(i64::MAX))
}

/// The row, which may not be there yet, the result, and the place in the outbox.
fn finish(connection: &Connection, record: &Record, finished: &Finished, clock_s: i64) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO executions (seq, id, session_id, language, digest, created_ms, status, exit_code, started_ms,
                 finished_ms, execution_time, finished_clock_s)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (seq) DO UPDATE SET status = excluded.status, exit_code = excluded.exit_code,
                 started_ms = excluded.started_ms, finished_ms = excluded.finished_ms,
                 execution_time = excluded.execution_time, finished_clock_s = excluded.finished_clock_s",
        )?
        .execute(params![
            record.seq,
            record.id,
            record.session_id,
            record.language,
            record.digest.as_ref().map(<[u8; 32]>::as_slice),
            record.created_ms,
            finished.status.name(),
            finished.exit_code,
            finished.started_ms,
            finished.finished_ms,
            finished.execution_time,
            clock_s,
        ])?;
    if finished.started_ms.is_none() {
        // It may have waited, and then its request is there still.
        connection.prepare_cached("DELETE FROM requests WHERE seq = ?1")?.execute([record.seq])?;
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO results VALUES (?1, ?2)")?
        .execute(params![record.seq, &finished.body[..]])?;
    if finished.to_report {
        connection
            .prepare_cached("INSERT OR IGNORE INTO outbox (execution_id, created_ms) VALUES (?1, ?2)")?
            .execute(params![record.id, finished.finished_ms])?;
    }
    Ok(1)
}
