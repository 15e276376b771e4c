//! Executions as clients look at them: one, a list, and the wish that one ends.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::live::{End, Entry};
use super::refusal::problem_of_store;
use super::{Done, Executions};
use crate::answer::milliseconds;
use crate::http::problem::Problem;
use crate::store::{Filter, Row, Status};
use crate::timestamp;

/// One execution.
pub enum Found {
    /// It has ended.
    Done(Done),
    /// It has not.
    UnderWay(Value),
}

/// What came of the wish to end one.
#[derive(Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Nothing of it is alive.
    Yes,
    /// It had ended before.
    TooLate,
}

/// A page of a list.
#[derive(Serialize)]
pub struct Page {
    executions: Vec<Value>,
    next_cursor: Option<String>,
}

impl Executions {
    /// The execution of this id.
    ///
    /// # Errors
    /// There is none, or the store can't be read.
    pub async fn find(&self, id: &str) -> Result<Found, Problem> {
        // It may end between the two places; then it is in the second.
        if let Some(entry) = self.live.get(id) {
            return Ok(entry.done().map_or_else(|| Found::UnderWay(under_way(&entry)), Found::Done));
        }
        let known = self.store.known(id).map_err(|error| problem_of_store(&error))?.ok_or(Problem::NotFound)?;
        if !known.status.is_end() && self.executor.stop.is_cancelled() {
            return Err(Problem::ShuttingDown);
        }
        Ok(Found::Done(self.stored(known.seq).await?.ok_or(Problem::NotFound)?))
    }

    /// Ends the execution of this id.
    ///
    /// # Errors
    /// There is none, or the store can't be read.
    pub async fn cancel(&self, id: &str) -> Result<Cancelled, Problem> {
        let Some(entry) = self.live.get(id) else {
            let known = self.store.known(id).map_err(|error| problem_of_store(&error))?;
            return match known {
                // It runs after the next start, and nobody here can keep it from that any more.
                Some(known) if !known.status.is_end() => Err(Problem::ShuttingDown),
                Some(_) => Ok(Cancelled::TooLate),
                None => Err(Problem::NotFound),
            };
        };
        if entry.done().is_some() {
            return Ok(Cancelled::TooLate);
        }
        entry.cancel();
        match entry.end().await {
            End::Answered(done) if done.status == Status::Cancelled => Ok(Cancelled::Yes),
            End::Answered(_) => Ok(Cancelled::TooLate),
            End::Gone if self.executor.stop.is_cancelled() => Err(Problem::ShuttingDown),
            End::Refused(_) | End::Gone => Err(Problem::NotFound),
        }
    }

    /// Executions, newest first: `most` of those that the filter lets through.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn list(&self, filter: Filter, most: usize) -> Result<Page, Problem> {
        let lets_through = |row: &Row| {
            filter.session_id.as_ref().is_none_or(|session| row.session_id.as_ref() == Some(session))
                && filter.status.is_none_or(|status| row.status == status)
                && filter.before_seq.is_none_or(|before| row.seq < before)
        };
        let mut found: Vec<Row> = self.live.all().iter().map(|entry| live_row(entry)).collect();
        let seqs: HashSet<i64> = found.iter().map(|row| row.seq).collect();
        found.retain(lets_through);
        // What is under way is there as it is now; its row in the store may be older.
        let rows = if filter.status.is_some_and(|status| !status.is_end()) {
            Ok(Vec::new())
        } else {
            self.store.list(filter, most + 1 + seqs.len()).await
        };
        let rows = rows.map_err(|error| problem_of_store(&error))?;
        found.extend(rows.into_iter().filter(|row| !seqs.contains(&row.seq)));
        found.sort_unstable_by_key(|row| std::cmp::Reverse(row.seq));
        let is_more = found.len() > most;
        found.truncate(most);
        let next_cursor = found.last().filter(|_| is_more).map(|row| cursor(row.seq));
        Ok(Page { executions: found.iter().map(shown).collect(), next_cursor })
    }
}

fn told(unix_ms: i64) -> String {
    timestamp::milliseconds(timestamp::of_ms(unix_ms))
}

/// One that has not ended.
fn under_way(entry: &Entry) -> Value {
    let status = entry.status();
    let elapsed = entry.elapsed();
    json!({
        "execution_id": entry.record.id,
        "session_id": entry.record.session_id,
        "status": status.name(),
        "message": if status == Status::Pending { "Execution pending" } else { "Execution running" },
        "created_at": told(entry.record.created_ms),
        "started_at": entry.started().map(|start| told(start.ms)),
        "execution_time": elapsed.as_secs_f64(),
        "metrics": {"duration_ms": milliseconds(elapsed)},
    })
}

/// One that is under way, or has ended and is not written yet: as its row would be.
fn live_row(entry: &Entry) -> Row {
    let (finish, record, started) = (entry.finish(), &entry.record, entry.started());
    let elapsed = started.map(|_| entry.elapsed().as_secs_f64());
    Row {
        seq: record.seq,
        id: record.id.clone(),
        session_id: record.session_id.clone(),
        language: record.language.clone(),
        status: entry.status(),
        exit_code: finish.and_then(|finish| finish.exit_code),
        created_ms: record.created_ms,
        started_ms: started.map(|start| start.ms),
        finished_ms: finish.map(|finish| finish.ms),
        execution_time: finish.map(|finish| finish.execution_time).or(elapsed),
    }
}

fn shown(row: &Row) -> Value {
    json!({
        "execution_id": row.id,
        "session_id": row.session_id,
        "language": row.language,
        "status": row.status.name(),
        "exit_code": row.exit_code,
        "created_at": told(row.created_ms),
        "started_at": row.started_ms.map(told),
        "finished_at": row.finished_ms.map(told),
        "execution_time": row.execution_time,
    })
}

/// Where a list goes on: opaque to clients, who would otherwise count with it.
pub fn cursor(seq: i64) -> String {
    format!("c{:x}", seq ^ CURSOR_MASK)
}

/// What a cursor stands for, if it is one.
pub fn parse_cursor(cursor: &str) -> Option<i64> {
    let seq = i64::from_str_radix(cursor.strip_prefix('c')?, 16).ok()? ^ CURSOR_MASK;
    (seq > 0).then_some(seq)
}

const CURSOR_MASK: i64 = 0x2b1d_97a4_5c3e;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_what_it_stands_for() {
        for seq in [1, 2, 1000, i64::from(u32::MAX), 1 << 50] {
            assert_eq!(parse_cursor(&cursor(seq)), Some(seq));
        }
        for wrong in ["", "c", "5", "c-1", "cxyz", "c1"] {
            assert!(parse_cursor(wrong).is_none_or(|seq| seq > 0 && wrong == "c1"), "{wrong}");
        }
    }
}
