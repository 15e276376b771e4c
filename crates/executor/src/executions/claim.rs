//! Whose an id is. It is looked for in the store and then taken in memory, unless one has gone from memory to the store meanwhile: then
//! it is looked for again. So of two requests with one id one runs, whenever they come; the row itself, whose id is unique, is the second
//! guard.

use std::sync::Arc;

use super::live::{End, Entry, Taken};
use super::refusal::problem_of_store;
use super::{Executions, failed};
use crate::admission::request::ExecuteRequest;
use crate::http::problem::Problem;
use crate::store::{Record, Wait};
use crate::timestamp::now_ms;

/// An id of ours alone. Dropping it gives it up: others may have it then, unless its program may have run.
pub(super) struct Claim {
    pub(super) executions: Arc<Executions>,
    pub(super) entry: Arc<Entry>,
}

/// Whose an id is.
pub(super) enum Claimed {
    /// Ours.
    Ours(Claim),
    /// The same request's, which is under way.
    UnderWay(Arc<Entry>),
    /// The same request's, which has ended; its place.
    Ended(i64),
}

impl Executions {
    /// Who has the request's id: it, the same request, or another one.
    pub(super) fn claim(self: &Arc<Self>, request: &ExecuteRequest) -> Result<Claimed, Problem> {
        loop {
            // An id that we made up is new.
            let left = request.digest.map(|_| self.live.left());
            let known = request.digest.map(|_| self.store.known(&request.execution_id)).transpose();
            match known.map_err(|error| problem_of_store(&error))?.flatten() {
                // One without a result is under way, and found below.
                Some(known) if known.status.is_end() => {
                    return if known.digest == request.digest {
                        Ok(Claimed::Ended(known.seq))
                    } else {
                        Err(Problem::ANOTHER_REQUEST)
                    };
                }
                _ => {}
            }
            let record = Record {
                seq: self.store.next_seq(),
                id: request.execution_id.clone(),
                session_id: request.session_id.clone(),
                language: request.language.name().to_owned(),
                digest: request.digest,
                created_ms: now_ms(),
            };
            match self.live.enter(record, self.executor.stop.child_token(), left) {
                Ok(entry) => return Ok(Claimed::Ours(Claim { executions: Arc::clone(self), entry })),
                Err(Taken::By(entry)) if entry.record.digest == request.digest => return Ok(Claimed::UnderWay(entry)),
                Err(Taken::By(_)) => return Err(Problem::ANOTHER_REQUEST),
                Err(Taken::Perhaps) => {}
            }
        }
    }
}

impl Claim {
    /// Its program was not run, and it was never there.
    pub(super) fn refuse(self, problem: Problem) {
        self.entry.ends(End::Refused(problem));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.entry.done().is_some() {
            return;
        }
        // A fault of ours in the middle: what may have run is never run again.
        if self.entry.started().is_some() && std::thread::panicking() {
            let answer = failed(&self.entry.record, "A fault of the executor's own");
            let finished = self.executions.untold(&answer, self.entry.started().map(|start| start.ms));
            drop(self.executions.store.finish(self.entry.record.clone(), finished, Wait::Written));
            self.entry.ends(End::Refused(Problem::Internal));
        }
        self.executions.live.leave(&self.entry);
        self.entry.ends(End::Gone);
    }
}
