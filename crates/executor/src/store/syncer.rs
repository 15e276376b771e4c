//! Syncs the write-ahead log for those who wait for the disk. Whoever comes while a sync is under way shares the next one. It is done
//! here, not by SQLite (`synchronous=FULL`), so that the writer, and with it everybody who waits for less, goes on meanwhile.
//!
//! A synced log is all that durability takes: a transaction is in the log, or in the file after a checkpoint, and a checkpoint syncs
//! both in that order (<https://sqlite.org/wal.html>).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc;
#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::thread::JoinHandle;

use super::StoreError;
use super::writer::Reply;

/// Someone who waits, and what to say.
pub(super) type Waiter = (Reply, i64);

/// The thread that syncs. It ends when what sends to it is dropped.
#[derive(Debug)]
pub(super) struct Syncer {
    waiters: mpsc::Sender<Vec<Waiter>>,
    #[cfg(test)]
    syncs: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Syncer {
    /// Of the file's log, which is there once the file was read.
    pub(super) fn start(path: &Path) -> io::Result<Self> {
        let log = File::options().read(true).write(true).open(format!("{}-wal", path.display()))?;
        // Its entry in the folder as well.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        let (waiters, receiver) = mpsc::channel::<Vec<Waiter>>();
        #[cfg(test)]
        let (syncs, counted) = {
            let syncs = Arc::new(AtomicU64::new(0));
            (Arc::clone(&syncs), syncs)
        };
        let thread = std::thread::Builder::new().name("store-sync".into()).spawn(move || {
            while let Ok(mut all) = receiver.recv() {
                all.extend(receiver.try_iter().flatten());
                #[cfg(test)]
                counted.fetch_add(1, Ordering::Relaxed);
                let synced = log.sync_data().map_err(|error| match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
                    _ => StoreError::Failed(format!("syncing: {error}")),
                });
                for (reply, value) in all {
                    reply.send(synced.clone().map(|()| value)).ok();
                }
            }
        })?;
        Ok(Self {
            waiters,
            #[cfg(test)]
            syncs,
            thread,
        })
    }

    /// These wait for what is written so far.
    pub(super) fn sync(&self, waiters: Vec<Waiter>) {
        if !waiters.is_empty() {
            self.waiters.send(waiters).ok();
        }
    }

    /// How often it has synced.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.syncs)
    }

    /// Syncs for those who wait and ends.
    pub(super) fn close(self) {
        drop(self.waiters);
        self.thread.join().ok();
    }
}
