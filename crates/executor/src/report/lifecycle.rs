//! That the service is ready, and that it ends.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use super::bodies::{self, ExitReason, Identity};
use super::call::{Call, Failed, Remedy};
use super::{Shared, chance, schedule};

/// How long the results of what just ended are waited for.
const LAST_RESULTS: Duration = Duration::from_millis(300);
/// How long the last call may take: the container platform does not wait for long.
const LAST_CALL: Duration = Duration::from_millis(700);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(super) fn ready(shared: &Arc<Shared>, port: u16) {
    let identity = identity(shared, port).clone();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let stop = shared.stop.clone();
        stop.run_until_cancelled(until_taken(&shared, &identity)).await;
    });
}

async fn until_taken(shared: &Shared, identity: &Identity) {
    let mut attempts = 0;
    while let Err(failed) = shared.plane.call(Call::Ready, bodies::ready(identity, OffsetDateTime::now_utc())).await {
        attempts += 1;
        tracing::warn!("Failed to callback Control Plane: {} (ready)", failed.why);
        let asked = if let Remedy::Again(Some(asked)) = failed.remedy { asked } else { Duration::ZERO };
        sleep(schedule::delay(attempts, chance()).max(asked)).await;
    }
}

pub(super) async fn close(shared: &Shared, reason: ExitReason) {
    let idle = async {
        while !shared.is_idle() {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(LAST_RESULTS, idle).await.ok();
    shared.stop.cancel();
    let body = bodies::exited(identity(shared, 0), reason, OffsetDateTime::now_utc());
    let failed = match timeout(LAST_CALL, shared.plane.call(Call::Exited, body)).await {
        Ok(Ok(())) => return,
        Ok(Err(Failed { why, .. })) => why,
        Err(_) => format!("No answer within {} ms", LAST_CALL.as_millis()),
    };
    tracing::warn!("Failed to callback Control Plane: {failed} (exited)");
}

/// Who reports; the port is known once it answers.
fn identity(shared: &Shared, port: u16) -> &Identity {
    shared.identity.get_or_init(|| Identity {
        container_id: shared.container_id.clone(),
        pod_name: shared.pod_name.clone(),
        port,
    })
}
