//! What survives: executions, their results and the outbox of results that wait to be reported, in one SQLite file.
//!
//! One thread writes ([`writer`]); it commits whatever waits in one transaction and syncs nothing. Another one syncs the
//! write-ahead log ([`syncer`]) for those who wait for the disk, so that nobody else does; a third keeps the file small
//! ([`keeper`]). Whoever changes something says what it waits for: nothing, that it is written (survives the process), or that
//! it is durable (survives the power). A full disk is a state, not an end: what came of executions is kept and written when there
//! is room again.

mod change;
mod keeper;
mod outbox;
mod read;
mod room;
mod schema;
mod syncer;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use change::Change;
pub use keeper::Keeping;
pub use outbox::{OutboxCounts, OutboxRow, Waiting};
use read::Readers;
pub use read::{Filter, Row, Stored};
use room::Room;
pub use schema::OpenError;
use writer::Writer;

/// The file's name in the state folder.
pub const FILE: &str = "executions.db";

/// The store of a service. Cheap to clone; the last one that is dropped writes what is left and ends the threads.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    room: Arc<Room>,
    next_seq: AtomicI64,
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// Nothing: it is written within a few milliseconds, with others.
    Nothing,
    /// That it survives the process.
    Written,
    /// That it survives the power.
    Durable,
}

/// Where an execution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the wire format's.
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Timeout,
    Cancelled,
    Crashed,
}

/// Who an execution is: what does not change about it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the order of acceptance, whatever the clock says.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// Its session.
    pub session_id: Option<String>,
    /// Its language.
    pub language: String,
    /// What its request was, where its client named the id and may send it again.
    pub digest: Option<[u8; 32]>,
    /// When it was accepted, for people.
    pub created_ms: i64,
}

/// How an execution ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How.
    pub status: Status,
    /// The program's own.
    pub exit_code: Option<i32>,
    /// When it started, if it did, for people.
    pub started_ms: Option<i64>,
    /// When it ended, for people.
    pub finished_ms: i64,
    /// How long it ran, seconds.
    pub execution_time: f64,
    /// The answer as `POST /execute` gives it.
    pub body: Bytes,
    /// Whether the control plane is to get it.
    pub to_report: bool,
}

/// Why something was not written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no room on the disk.
    #[error("no room is left on the disk of STATE_PATH")]
    Full,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl StoreError {
    fn of(error: &rusqlite::Error) -> Self {
        if writer::is_full(error) { Self::Full } else { Self::Failed(error.to_string()) }
    }
}

impl Status {
    const NAMES: [(&'static str, Self); 7] = [
        ("pending", Self::Pending),
        ("running", Self::Running),
        ("completed", Self::Completed),
        ("failed", Self::Failed),
        ("timeout", Self::Timeout),
        ("cancelled", Self::Cancelled),
        ("crashed", Self::Crashed),
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, status)| *status == self).map_or("", |(name, _)| name)
    }

    /// From how it is written.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, status)| *status)
    }

    /// All of them, for people.
    pub fn names() -> String {
        Self::NAMES.map(|(name, _)| name).join(", ")
    }

    /// Whether it is an end.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

impl Store {
    /// Opens or makes the file in a state folder that is locked by this process.
    ///
    /// # Errors
    /// What is wrong with the file, with the fix; nothing of it was touched then.
    pub fn open(state_path: &Path, keeping: Keeping) -> Result<Self, OpenError> {
        let path = state_path.join(FILE);
        let connection = schema::open(&path)?;
        let next_seq = read::last_seq(&connection).map_err(|error| OpenError::unusable(&path, &error))? + 1;
        let store = Self::start(path, connection)?;
        store.0.next_seq.store(next_seq, Ordering::Relaxed);
        store.0.writer.keep_small(&store.0.path, keeping);
        Ok(store)
    }

    /// Opens the file beside a service that may be running: for commands that look at the outbox.
    ///
    /// # Errors
    /// There is none, or it is not one of this program.
    pub fn open_beside(state_path: &Path) -> Result<Self, OpenError> {
        let path = state_path.join(FILE);
        let connection = schema::open_beside(&path)?;
        Self::start(path, connection)
    }

    fn start(path: PathBuf, connection: rusqlite::Connection) -> Result<Self, OpenError> {
        let room = Arc::new(Room::new(&path));
        let writer = Writer::start(&path, connection, Arc::clone(&room))
            .map_err(|error| OpenError::Unusable { path: path.clone(), reason: error.to_string() })?;
        let readers = Readers::new(&path);
        Ok(Self(Arc::new(Inner { path, writer, readers, room, next_seq: AtomicI64::new(1) })))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The next place in the order of acceptance.
    pub fn next_seq(&self) -> i64 {
        self.0.next_seq.fetch_add(1, Ordering::Relaxed)
    }

    /// Why nothing new can be written right now, if so.
    ///
    /// # Errors
    /// The reason.
    pub fn room(&self) -> Result<(), StoreError> {
        self.0.room.check()
    }

    /// What is wrong, in a sentence, while something is.
    pub fn trouble(&self) -> Option<String> {
        self.0.room.trouble()
    }

    /// Records an execution that is to run later, with its request; durable.
    ///
    /// # Errors
    /// It is not recorded.
    pub async fn accept(&self, record: Record, request: Bytes) -> Result<(), StoreError> {
        self.change(Change::Accept { record, request }, Wait::Durable).await.map(drop)
    }

    /// Records that an execution starts: a new one, or, durable, one that was accepted before. The change is on its way when this returns,
    /// whether or not the future is awaited.
    ///
    /// # Errors
    /// It is not recorded; of the future.
    pub fn begin(
        &self,
        record: Record,
        started_ms: i64,
        wait: Wait,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        // Only one that was accepted before has a promise to keep over a loss of power.
        let was_accepted = wait == Wait::Durable;
        let written = self.change(Change::Begin { record, started_ms, was_accepted }, wait);
        async { written.await.map(drop) }
    }

    /// Records how an execution ended, with its place in the outbox if it is to be reported: in one transaction. What can't be
    /// written is written when it can; who waits learns that it was not yet.
    ///
    /// # Errors
    /// It is not recorded yet; of the future.
    pub fn finish(
        &self,
        record: Record,
        finished: Finished,
        wait: Wait,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let written = self.change(Change::Finish { record, finished }, wait);
        async { written.await.map(drop) }
    }

    /// Forgets an execution whose program never ran, as if it had never been sent.
    ///
    /// # Errors
    /// It is not forgotten yet; of the future.
    pub fn forget(&self, seq: i64, wait: Wait) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let written = self.change(Change::Forget { seq }, wait);
        async { written.await.map(drop) }
    }

    /// Has everything that was changed so far synced to the disk.
    ///
    /// # Errors
    /// It is not.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.change(Change::Nothing, Wait::Durable).await.map(drop)
    }

    /// A number that changes when another process has changed the file.
    ///
    /// # Errors
    /// As of reading.
    pub async fn data_version(&self) -> Result<i64, StoreError> {
        self.change(Change::DataVersion, Wait::Written).await
    }

    /// Writes and syncs what is left, and ends the writing. For the end of the service; what is changed after it is refused.
    pub async fn close(&self) {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.0.writer.close()).await.ok();
    }

    /// Whether nothing is written any more.
    pub fn is_closed(&self) -> bool {
        self.0.writer.is_closed()
    }

    fn change(&self, change: Change, wait: Wait) -> impl Future<Output = Result<i64, StoreError>> + Send + use<> {
        let reply = self.0.writer.send(change, wait);
        async { reply.await.unwrap_or_else(|_| Err(StoreError::Failed("the store is closed".into()))) }
    }

    /// Reads on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let read = tokio::task::spawn_blocking(move || store.0.readers.with(work)).await;
        read.map_err(|error| StoreError::Failed(error.to_string()))?.map_err(|error| StoreError::of(&error))
    }
}

/// How long a connection waits for one of another process.
const BUSY_TIME: Duration = Duration::from_secs(10);

/// Settings that every connection has.
fn set_up(connection: &rusqlite::Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIME)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}
