//! Whether there is room to write: looked at before new executions are let in, and known from writes that failed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::StoreError;
use crate::disk;

/// How long a look at the disk is good for.
const LOOK_LASTS: Duration = Duration::from_millis(200);

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct Room {
    folder: PathBuf,
    file: PathBuf,
    /// The file that is written to, whatever becomes of its name.
    number: Option<(u64, u64)>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    looked: Option<Instant>,
    has_room: bool,
    /// The file still has its name: what is written to it is found by the next start.
    is_there: bool,
    /// Why the last write failed, if it did.
    failed: Option<StoreError>,
}

impl Room {
    /// Of the disk that this file is on.
    pub(super) fn new(file: &Path) -> Self {
        let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
        let known = Mutex::new(Known { looked: None, has_room: true, is_there: true, failed: None });
        Self { folder, file: file.to_owned(), number: number(file), known }
    }

    /// Whether something new may be written.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let mut known = self.lock();
        if let Some(failed) = &known.failed {
            return Err(failed.clone());
        }
        if known.looked.is_none_or(|looked| looked.elapsed() > LOOK_LASTS) {
            let had_room = known.has_room;
            known.has_room = self.free_bytes() >= disk::LEAST_FREE_BYTES;
            known.looked = Some(Instant::now());
            let was_there = std::mem::replace(&mut known.is_there, self.is_there());
            if was_there && !known.is_there {
                self.log(Err(&gone()));
            }
            if had_room != known.has_room {
                self.log(if known.has_room { Ok(()) } else { Err(&StoreError::Full) });
            }
        }
        match (known.is_there, known.has_room) {
            (false, _) => Err(gone()),
            (true, false) => Err(StoreError::Full),
            (true, true) => Ok(()),
        }
    }

    /// What is wrong, for people.
    pub(super) fn trouble(&self) -> Option<String> {
        let error = self.check().err()?;
        Some(match error {
            StoreError::Full => format!("the disk of STATE_PATH ({}) is full", self.folder.display()),
            StoreError::Failed(why) => format!("STATE_PATH ({}) can't be written: {why}", self.folder.display()),
        })
    }

    /// A write succeeded, or did not; told to the log when that is news. After a full disk it takes a look at it until there counts as
    /// room again.
    pub(super) fn wrote(&self, result: Result<(), &StoreError>) {
        let mut known = self.lock();
        match (result, known.failed.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some(StoreError::Full)) => known.looked = None,
            (Ok(()), Some(StoreError::Failed(_))) => self.log(Ok(())),
            (Err(error), before) => {
                let is_news = before.is_none() && (known.has_room || !matches!(error, StoreError::Full));
                if matches!(error, StoreError::Full) {
                    known.has_room = false;
                }
                known.failed = Some(error.clone());
                if is_news {
                    self.log(Err(error));
                }
            }
        }
    }

    fn log(&self, result: Result<(), &StoreError>) {
        let folder = self.folder.display();
        match result {
            Ok(()) => tracing::info!("STATE_PATH = {folder} can be written again: executions are accepted"),
            Err(StoreError::Full) => tracing::error!(
                "STATE_PATH = {folder}: no space left on its disk; new executions are refused (507), results are kept in memory and \
                 written when there is room: make some, or move STATE_PATH to a larger disk"
            ),
            Err(StoreError::Failed(why)) => tracing::error!(
                "STATE_PATH = {folder} can't be written: {why}; new executions are refused, results are kept in memory and written \
                 when it can be"
            ),
        }
    }

    fn is_there(&self) -> bool {
        self.number.is_none() || number(&self.file) == self.number
    }

    fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |state| disk::free_bytes(&state))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What tells a file from any other on this host.
fn number(file: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(file).ok().map(|state| (state.dev(), state.ino()))
}

fn gone() -> StoreError {
    StoreError::Failed(format!("{} was removed under the running service; restart it", super::FILE))
}
