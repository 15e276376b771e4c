//! After a start: what the last service did not live to end. What it was running has crashed, what waited is run now, in order.

use std::sync::Arc;

use runtime::verdict::{Kind, Status as Ended};

use super::Executions;
use super::claim::Claim;
use crate::answer::{Answer, WENT_DOWN};
use crate::store::{Record, Status, StoreError, Wait};
use crate::telemetry::metrics;

/// How many there were.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Of those that ran.
    pub crashed: usize,
    /// Of those that waited.
    pub pending: usize,
}

impl Executions {
    /// Ends what was running and lines up what was waiting.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn recover(self: &Arc<Self>) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        for (record, status, started_ms) in self.store.unfinished().await? {
            if status == Status::Running {
                recovered.crashed += 1;
                self.record_crash(record, started_ms).await;
                continue;
            }
            recovered.pending += 1;
            let Ok(entry) = self.live.enter(record, self.executor.stop.child_token(), None) else { continue };
            let claim = Claim { executions: Arc::clone(self), entry };
            if let Ok(ticket) = self.queue.enter_again() {
                Arc::clone(self).await_turn(claim, ticket);
            }
        }
        if recovered != Recovered::default() {
            let Recovered { crashed, pending } = recovered;
            tracing::info!(
                "The last service left {crashed} running executions, which are crashed, and {pending} waiting ones, which run now"
            );
        }
        Ok(recovered)
    }

    /// It does not wait for the disk: should it not get there, the next start does the same.
    async fn record_crash(&self, record: Record, started_ms: Option<i64>) {
        let answer = Answer::without_run(&record, Ended::Crashed, Kind::Sandbox, WENT_DOWN);
        log_crash(&record);
        let finished = self.untold(&answer, started_ms);
        metrics::ended(&record.language, Status::Crashed);
        let id = record.id.clone();
        if self.store.finish(record, finished, Wait::Written).await.is_ok() {
            self.report(&id, None);
        }
    }
}

pub(super) fn log_crash(record: &Record) {
    tracing::warn!(execution_id = record.id, "Execution crashed: {} (the executor went down under it)", record.id);
}
