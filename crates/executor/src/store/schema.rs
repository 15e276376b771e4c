//! The file: made under another name and renamed, so that it is whole wherever it is; told from other people's by its application
//! id; brought up to date by its version. What is damaged or not ours is refused before anything of it is touched.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// "sbex": in the header, so that nobody's file is taken for ours (<https://sqlite.org/fileformat.html>, section 1.3).
const APPLICATION_ID: i32 = 0x7362_6578;
/// What SQLite's files begin with.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// A file up to this size is checked as a whole at each start; of a larger one all but the results.
const CHECKED_WHOLE_BYTES: u64 = 128 * 1024 * 1024;

/// What a log that grew in a burst is cut to when it begins anew.
const LOG_KEPT_BYTES: i64 = 16 * 1024 * 1024;

/// Each brings a file of the version before up to its own; the first makes it. Never changed once released: added to.
const MIGRATIONS: [&str; 1] = [
    // `clock` counts seconds of service, over all starts: retention goes by it, for the wall clock jumps.
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
     INSERT INTO meta VALUES ('clock_s', 0);
     CREATE TABLE executions (
         seq INTEGER PRIMARY KEY,
         id TEXT NOT NULL UNIQUE,
         session_id TEXT,
         language TEXT NOT NULL,
         digest BLOB,
         status TEXT NOT NULL,
         exit_code INTEGER,
         created_ms INTEGER NOT NULL,
         started_ms INTEGER,
         finished_ms INTEGER,
         execution_time REAL,
         finished_clock_s INTEGER
     );
     CREATE INDEX executions_of_session ON executions (session_id, seq) WHERE session_id IS NOT NULL;
     CREATE INDEX executions_that_ended_badly ON executions (status, seq)
         WHERE status NOT IN ('completed', 'running', 'pending');
     CREATE INDEX executions_finished ON executions (finished_clock_s) WHERE finished_clock_s IS NOT NULL;
     CREATE TABLE requests (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
     CREATE TABLE results (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
     CREATE TABLE outbox (
         seq INTEGER PRIMARY KEY AUTOINCREMENT,
         execution_id TEXT NOT NULL UNIQUE,
         attempts INTEGER NOT NULL DEFAULT 0,
         last_error TEXT,
         put_aside_reason TEXT,
         created_ms INTEGER NOT NULL
     );",
];

/// Why the file can't be used, in one line with the fix.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is something else.
    #[error(
        "{} is not a database of sandbox-executor ({reason}); nothing was changed: move it away, or set STATE_PATH to another folder",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
    /// It is broken.
    #[error(
        "{} is damaged ({reason}); nothing was changed: move it and the files {}-wal and {}-shm away (what they hold of results is lost \
         then), or bring back a copy", path.display(), super::FILE, super::FILE
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it showed.
        reason: String,
    },
    /// It is of a later version.
    #[error(
        "{} was written by a newer sandbox-executor (version {found} of the database, this program knows {known}); nothing was \
         changed: start the newer program, or set STATE_PATH to another folder", path.display(), known = MIGRATIONS.len()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i32,
    },
    /// The system does not let us.
    #[error("{} is not usable: {reason}; allowed: a STATE_PATH that this user can write to, on a disk with room", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn unusable(path: &Path, error: &dyn std::error::Error) -> Self {
        Self::Unusable { path: path.to_owned(), reason: error.to_string() }
    }

    fn of_sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged { path: path.to_owned(), reason: error.to_string() },
            _ if super::writer::is_full(error) => Self::Unusable { path: path.to_owned(), reason: FULL.into() },
            _ => Self::unusable(path, error),
        }
    }
}

const FULL: &str = "no space left on its disk";

/// The connection that writes; the file is made if there is none.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let size = match header_of(path)? {
        Some(size) => size,
        None => {
            make(path).map_err(|error| OpenError::of_sqlite(path, &error))?;
            0
        }
    };
    let connection = connect(path)?;
    let sqlite = |error: rusqlite::Error| OpenError::of_sqlite(path, &error);
    check(&connection, path, size)?;
    let version = migrate(&connection, &MIGRATIONS).map_err(sqlite)?;
    tracing::debug!("{}: version {version} of the database", path.display());
    // Nothing of this process has it open yet but this connection, so all of an old log can go into the file.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(sqlite)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(sqlite)?;
    Ok(connection)
}

/// A connection beside those of a service; the file has to be there.
pub(super) fn open_beside(path: &Path) -> Result<Connection, OpenError> {
    if header_of(path)?.is_none() {
        return Err(OpenError::unusable(path, &io::Error::from(io::ErrorKind::NotFound)));
    }
    let connection = connect(path)?;
    match version_of(&connection).map_err(|error| OpenError::of_sqlite(path, &error))? {
        found if found == latest() => Ok(connection),
        found if found > latest() => Err(OpenError::Newer { path: path.to_owned(), found }),
        _ => Err(OpenError::Unusable {
            path: path.to_owned(),
            reason: "the service was not started since the update".into(),
        }),
    }
}

/// A connection for reading.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    super::set_up(&connection, 256)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The connection that keeps the file small: it reads, and moves the log into the file.
pub(super) fn open_keeper(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    super::set_up(&connection, 256)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |error: rusqlite::Error| OpenError::of_sqlite(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    // Until the file is known to be good, closing it must not write to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sqlite)?;
    super::set_up(&connection, 1024).map_err(sqlite)?;
    // The write-ahead log is synced by the syncer, and by SQLite where the file's integrity needs it.
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(sqlite)?;
    // By the keeper, beside the writer.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(sqlite)?;
    connection.pragma_update(None, "journal_size_limit", LOG_KEPT_BYTES).map_err(sqlite)?;
    Ok(connection)
}

/// The file's size when it is one of ours by its header; `None` when there is none.
fn header_of(path: &Path) -> Result<Option<u64>, OpenError> {
    let foreign = |reason: &str| OpenError::Foreign { path: path.to_owned(), reason: reason.into() };
    let mut file = match File::options().read(true).custom_flags(non_blocking()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::unusable(path, &error)),
    };
    let metadata = file.metadata().map_err(|error| OpenError::unusable(path, &error))?;
    if !metadata.is_file() {
        return Err(foreign("no ordinary file"));
    }
    let mut header = [0; 100];
    if file.read_exact(&mut header).is_err() || !header.starts_with(MAGIC) {
        return Err(foreign("no SQLite file"));
    }
    let number = |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(68) != APPLICATION_ID {
        return Err(foreign("an SQLite file of another program"));
    }
    Ok(Some(metadata.len()))
}

/// So that a FIFO of that name is refused instead of waited for.
fn non_blocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits() as i32
}

/// Makes the file as a whole, with what it has from its first version on.
fn make(path: &Path) -> rusqlite::Result<()> {
    let unnamed = path.with_extension("new");
    let io_error = |error: io::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
    for suffix in ["", "-journal"] {
        std::fs::remove_file(format!("{}{suffix}", unnamed.display())).ok();
    }
    File::options().write(true).create_new(true).mode(0o600).open(&unnamed).map_err(io_error)?;
    let connection = Connection::open(&unnamed)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrate(&connection, &MIGRATIONS)?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    // A log that lies there belongs to a file that somebody moved away, and would be taken for this one's.
    for suffix in ["-wal", "-shm", "-journal"] {
        let left = format!("{}{suffix}", path.display());
        std::fs::rename(&left, format!("{left}.old")).ok();
    }
    std::fs::rename(&unnamed, path).map_err(io_error)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)
}

/// Whether what it says about itself is true and its trees are whole.
fn check(connection: &Connection, path: &Path, size: u64) -> Result<(), OpenError> {
    let sqlite = |error: rusqlite::Error| OpenError::of_sqlite(path, &error);
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let found = version_of(connection).map_err(sqlite)?;
    if found > latest() {
        return Err(OpenError::Newer { path: path.to_owned(), found });
    }
    let parts: &[&str] =
        if size <= CHECKED_WHOLE_BYTES { &["1"] } else { &["meta", "executions", "requests", "outbox"] };
    for part in parts {
        let verdict = connection
            .query_row(&format!("PRAGMA quick_check({part})"), [], |row| row.get::<_, String>(0))
            .map_err(sqlite)?;
        if verdict != "ok" {
            let one_line = verdict.split_whitespace().collect::<Vec<_>>().join(" ");
            return Err(damaged(one_line));
        }
    }
    Ok(())
}

fn latest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

fn version_of(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the file up to date, each step in a transaction of its own; its version afterwards.
fn migrate(connection: &Connection, migrations: &[&str]) -> rusqlite::Result<i32> {
    let mut version = version_of(connection)?;
    for (number, statements) in (1..).zip(migrations).skip(usize::try_from(version).unwrap_or_default()) {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {statements} PRAGMA user_version = {number}; COMMIT;"))?;
        version = number;
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_earlier_version_is_brought_up_to_date_and_keeps_what_it_holds() {
        let connection = Connection::open_in_memory().unwrap();
        let first = ["CREATE TABLE one (a INTEGER); INSERT INTO one VALUES (1);"];
        assert_eq!(migrate(&connection, &first).unwrap(), 1);
        let both = [first[0], "ALTER TABLE one ADD COLUMN b INTEGER NOT NULL DEFAULT 2;"];
        assert_eq!(migrate(&connection, &both).unwrap(), 2);
        assert_eq!(migrate(&connection, &both).unwrap(), 2);
        let row = connection.query_row("SELECT a, b FROM one", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (1, 2));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let connection = Connection::open_in_memory().unwrap();
        let broken = ["CREATE TABLE one (a INTEGER);", "CREATE TABLE two (a INTEGER); CREATE TABLE one (a INTEGER);"];
        migrate(&connection, &broken).unwrap_err();
        connection.execute_batch("ROLLBACK").ok();
        assert_eq!(version_of(&connection).unwrap(), 1);
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }
}
