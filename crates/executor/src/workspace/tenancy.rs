//! One execution in a workspace: what it is given before, how much it may write, and what it made.
//!
//! All that the pipeline has to do with files goes through here: begin, run until [`Tenancy::ended`] says stop, leave. It costs an
//! execution that touches no file some microseconds.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use runtime::Verdict;
use runtime::verdict::{Failure, Kind, Status};
use tokio_util::sync::CancellationToken;

use super::artifact::Artifact;
use super::changes::{self, Changes, Mark};
use super::inline::{self, Collected, Site, Written};
use super::quota::{self, Exceeded, Guard, Promise};
use super::sessions::Stay;
use super::usage::Usage;
use super::watch::Watcher;
use super::{Workspace, Workspaces};
use crate::admission::fields::Violation;
use crate::admission::files::Outputs;
use crate::admission::request::ExecuteRequest;
use crate::offload::offload;

/// A workspace of more files than this is watched for its session's next execution: to look at all takes as long as to run.
const WORTH_WATCHING: usize = 300;

/// An execution that is about to run, or runs, in a workspace.
pub struct Tenancy {
    stay: Option<Stay>,
    folder: Arc<OwnedFd>,
    watcher: Option<Arc<Watcher>>,
    /// `None` in a folder of the caller's, where nobody counts or looks.
    over: Option<Over>,
    outputs: Option<Outputs>,
}

/// What is watched over.
struct Over {
    mark: Mark,
    moment: Option<u64>,
    guard: Guard,
}

/// What is left of it.
#[derive(Debug, Default)]
pub struct Left {
    /// What it made or changed.
    pub artifacts: Vec<Artifact>,
    /// Whether that may be more.
    pub artifacts_truncated: bool,
    /// What was wanted of the workspace.
    pub outputs: Option<Collected>,
    /// Whether it wrote too much.
    pub exceeded: Option<Exceeded>,
}

/// Why an execution can't begin in its workspace.
#[derive(Debug, thiserror::Error)]
pub enum Unready {
    /// Files that it brings along can't be where it wants them.
    #[error("files of the request can't be written")]
    Files(Vec<Violation>),
    /// With them, or without, it is more than the workspace may hold, in MiB.
    #[error("the {0} MB of the workspace are used up")]
    NoRoom(u64),
    /// The system's own reason.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl Tenancy {
    /// Prepares the workspace; `disk_mb` is what any may hold here.
    ///
    /// # Errors
    /// The request's files can't be written there, or there is far too much in it.
    pub async fn begin(
        workspaces: &Arc<Workspaces>,
        stay: Option<Stay>,
        workspace: &Workspace,
        request: &ExecuteRequest,
        disk_mb: u64,
    ) -> Result<Self, Unready> {
        let folder = Arc::clone(&workspace.folder);
        let line = quota::line(request.limits.disk_mb);
        let known = stay.as_ref().and_then(|stay| stay.with(|known| known.usage));
        if known.is_some_and(|usage| quota::is_hopeless(usage, disk_mb)) {
            return Err(Unready::NoRoom(disk_mb));
        }
        workspaces.hold_to(workspace, line)?;
        if !request.files.is_empty() {
            bring(workspaces, stay.as_ref(), workspace, request, line).await?;
        }
        let outputs = request.outputs.clone();
        let watcher = workspaces.watcher.clone();
        if workspace.is_callers() {
            return Ok(Self { stay, folder, watcher, over: None, outputs });
        }
        let is_new = workspace.is_private() && request.files.is_empty();
        let mark = if is_new { Mark::BEGINNING } else { Mark::take(&folder)? };
        let moment = stay.as_ref().and_then(|stay| {
            let alone = stay.is_alone();
            stay.with(|known| Some(known.watched.as_ref()?.moment(alone)))
        });
        let (before, ran) = match &stay {
            Some(stay) => stay.with(|known| (known.usage, known.ran)),
            None => (Some(brought(request)), Duration::ZERO),
        };
        let guard = Guard::new(workspace.meter(), line, before, ran);
        Ok(Self { stay, folder, watcher, over: Some(Over { mark, moment, guard }), outputs })
    }

    /// Until it is to end before its time: `stop` says so, its session ends, or it has written too much.
    pub async fn ended(&self, stop: &CancellationToken) {
        let session = async {
            match &self.stay {
                Some(stay) => stay.ended().await,
                None => std::future::pending().await,
            }
        };
        let disk = async {
            match &self.over {
                Some(over) => over.guard.exceeded().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = session => {}
            () = disk => {}
        }
    }

    /// After its end, when nothing of it is alive: what it leaves, and its place in its session, to be kept until the answer is out.
    pub async fn leave(self) -> (Left, Option<Stay>) {
        let Self { stay, folder, watcher, over, outputs } = self;
        let Some(Over { mark, moment, guard }) = over else { return (Left::default(), stay) };
        let hints = moment.and_then(|moment| {
            stay.as_ref().and_then(|stay| stay.with(|known| known.watched.as_ref()?.changed_since(moment)))
        });
        let nothing = hints.as_ref().map_or_else(|| changes::is_empty(&folder), Vec::is_empty);
        let is_quick = nothing && outputs.is_none() && !guard.has_to_count();
        let work = move || {
            let exceeded = guard.settle(stay.as_ref());
            let changes = if nothing { Changes::default() } else { changes::since(mark, &folder, hints) };
            let outputs = outputs.map(|outputs| inline::collect(&folder, &outputs));
            if let (Some(stay), Some(watcher), true) = (&stay, watcher, changes.looked_at > WORTH_WATCHING) {
                let stay = stay.another();
                tokio::task::spawn_blocking(move || watch(&stay, &watcher, &folder));
            }
            let Changes { artifacts, truncated, .. } = changes;
            (Left { artifacts, artifacts_truncated: truncated, outputs, exceeded }, stay)
        };
        if is_quick {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(left) => left,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// What a request brings along.
fn brought(request: &ExecuteRequest) -> Usage {
    let bytes: usize = request.files.values().map(Vec::len).sum();
    Usage { bytes: bytes as u64, files: request.files.len() as u64 }
}

/// Writes a request's files into the workspace.
async fn bring(
    workspaces: &Arc<Workspaces>,
    stay: Option<&Stay>,
    workspace: &Workspace,
    request: &ExecuteRequest,
    line: Usage,
) -> Result<(), Unready> {
    let Usage { bytes, .. } = brought(request);
    let no_room = || Unready::NoRoom(request.limits.disk_mb);
    if bytes > line.bytes {
        return Err(no_room());
    }
    let promise = match stay {
        Some(stay) => Some(Promise::new(stay, workspace.meter(), line, bytes).await.ok_or_else(no_room)?),
        None => None,
    };
    let site = Site { folder: Arc::clone(&workspace.folder), identity: workspace.identity };
    let (workspaces, content) = (Arc::clone(workspaces), Arc::clone(&request.files));
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    let written = offload(size, move || inline::write(&workspaces, &site, &content)).await?;
    let Written { violations, all_new, added } = written;
    if let Some(promise) = promise {
        promise.kept(added, all_new && violations.is_empty());
    }
    if violations.is_empty() { Ok(()) } else { Err(Unready::Files(violations)) }
}

/// Has a session's workspace watched from here on, unless it is.
fn watch(stay: &Stay, watcher: &Arc<Watcher>, folder: &Arc<OwnedFd>) {
    let is_wanted = stay.with(|known| {
        known.watched = known.watched.take().filter(|watched| !watched.is_lost());
        known.watched.is_none() && !known.unwatchable
    });
    if is_wanted {
        let watched = watcher.watch(folder);
        stay.with(|known| (known.unwatchable, known.watched) = (watched.is_none(), watched));
    }
}

impl Left {
    /// What this makes of a verdict: an execution that was stopped because it wrote too much, or that leaves too much, has failed.
    pub fn judge(&self, verdict: Verdict) -> Verdict {
        let Some(Exceeded { usage, line, was_refused }) = &self.exceeded else { return verdict };
        let is_said = verdict.error.as_ref().is_some_and(|error| error.kind == Kind::DiskFull);
        if *was_refused && !is_said {
            return verdict;
        }
        let is_ours = matches!(verdict.status, Status::Completed | Status::Failed | Status::Cancelled);
        if !is_ours || verdict.error.as_ref().is_some_and(|error| error.kind == Kind::OutOfMemory) {
            return verdict;
        }
        let mebibytes = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let message = if *was_refused && usage.files < line.files {
            format!(
                "The workspace may hold {} MB and is full; remove files, or raise MAX_DISK_MB",
                mebibytes(line.bytes)
            )
        } else if usage.bytes > line.bytes {
            let (held, most) = (mebibytes(usage.bytes), mebibytes(line.bytes));
            format!("The workspace may hold {most} MB and held {held} MB; remove files, or raise MAX_DISK_MB")
        } else {
            format!("The workspace may hold {} files and folders; remove some, or raise MAX_DISK_MB", line.files)
        };
        let exit_code = verdict.exit_code.map(|code| if code == 0 { 1 } else { code });
        // What else the program said of it stays where it ended by itself.
        let said = verdict.error.filter(|_| *was_refused);
        let (name, traceback) = said.map_or((None, None), |error| (error.name, error.traceback));
        let error = Failure { kind: Kind::DiskFull, name, message, traceback };
        Verdict { status: Status::Failed, return_value: None, error: Some(error), exit_code, ..verdict }
    }
}
