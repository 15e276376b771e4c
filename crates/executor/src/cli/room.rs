//! Before the start: room on the disks of STATE_PATH and WORKSPACE_PATH. Where there is none at all nothing can be opened, so the start
//! waits for some. Meanwhile the port answers: `/health` says what is wrong, everything else is refused. A disk with little room is
//! no matter for the start: the running service sees to that.

use std::io::ErrorKind::{QuotaExceeded, StorageFull};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::doctor::folders::existing;
use super::serve::{LAST_ANSWERS, listen};
use crate::config::Config;
use crate::disk;
use crate::http;
use crate::http::problem::Problem;

/// What a start writes before it can refuse anything takes less.
const NEEDED_BYTES: usize = 256 * 1024;
/// How often to look.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until there is some; `false` when a signal says to stop before.
///
/// # Errors
/// The port can't be listened on.
pub(super) async fn wait(config: &Config) -> Result<bool> {
    let folders = [
        ("STATE_PATH", &config.state_path, Problem::NoRoomForState),
        ("WORKSPACE_PATH", &config.workspace_path, Problem::InsufficientStorage),
    ];
    for (name, path, problem) in folders {
        if !is_full(path).await {
            continue;
        }
        let listener = listen(config)?;
        let (folder, address) = (path.display(), listener.local_addr()?);
        tracing::error!(
            "{name} = {folder}: no space left on its disk; the service starts when there is some: make room, or move {name} to \
             a larger disk; until then http://{address}/health says so"
        );
        let reason = format!("the disk of {name} ({folder}) is full; the service starts when there is room");
        let stop = CancellationToken::new();
        let router = http::waiting::router(config, reason, problem);
        let mut server = tokio::spawn(http::server::serve(listener, router, stop.clone()));
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let has_room = tokio::select! {
            () = until_there_is_room(path) => true,
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        stop.cancel();
        if tokio::time::timeout(LAST_ANSWERS, &mut server).await.is_err() {
            server.abort();
        }
        if !has_room {
            return Ok(false);
        }
        tracing::info!("{name} = {folder}: there is room again");
    }
    Ok(true)
}

async fn until_there_is_room(folder: &Path) {
    while is_full(folder).await {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether there is no room, and nothing else is wrong: that is told by the start itself.
async fn is_full(folder: &Path) -> bool {
    let folder = existing(folder).to_owned();
    let tried = tokio::task::spawn_blocking(move || disk::try_room(&folder, NEEDED_BYTES)).await;
    matches!(tried, Ok(Err(error)) if matches!(error.kind(), StorageFull | QuotaExceeded))
}
