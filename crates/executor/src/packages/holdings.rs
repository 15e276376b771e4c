//! Which packages each session has: a file a session in the state folder, beside the layers, and all of them in memory. A session that
//! has none has no file. The file goes with the session, and what is left of one that went otherwise goes at the next start.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::layer::Layer;
use super::shelf::Shelf;
use super::specifier::Specifier;
use crate::admission::request::is_id;

/// How the name of a file begins that is being written.
const UNFINISHED: &str = ".new-";

/// All sessions with packages.
#[derive(Debug)]
pub struct Holdings {
    path: PathBuf,
    known: Mutex<HashMap<String, Holding>>,
}

/// The packages of a session.
#[derive(Debug, Clone)]
pub struct Holding {
    /// What was asked for, in all.
    pub specifiers: Vec<Specifier>,
    /// What came of it.
    pub layer: Arc<Layer>,
}

/// The same in a file.
#[derive(Serialize, Deserialize)]
struct Stored {
    specifiers: Vec<Specifier>,
    layer: String,
}

impl Holdings {
    /// Opens or makes the folder; forgets sessions for which `is_there` says no.
    ///
    /// # Errors
    /// As the system said.
    pub fn open(path: &Path, shelf: &Shelf, is_there: impl Fn(&str) -> bool) -> io::Result<Self> {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(path)?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(path)?.flatten() {
            let session_id = entry.file_name().to_string_lossy().into_owned();
            match read(&entry.path(), shelf).filter(|_| is_id(&session_id)) {
                Some(holding) if is_there(&session_id) => {
                    known.insert(session_id, holding);
                    continue;
                }
                None if is_id(&session_id) => {
                    tracing::warn!(session_id, "The packages of a session are not there any more: {session_id}");
                }
                _ => {}
            }
            std::fs::remove_file(entry.path())?;
        }
        Ok(Self { path: path.into(), known: Mutex::new(known) })
    }

    /// What a session has.
    pub fn of(&self, session_id: &str) -> Option<Holding> {
        self.lock().get(session_id).cloned()
    }

    /// What an execution of a session is to see.
    pub fn layer_of(&self, session_id: &str) -> Option<Arc<Layer>> {
        self.lock().get(session_id).map(|holding| Arc::clone(&holding.layer))
    }

    /// A session has this from now on, also after a restart.
    ///
    /// # Errors
    /// As the system said; it has what it had before.
    pub fn put(&self, session_id: &str, holding: Holding) -> io::Result<()> {
        let stored = Stored { specifiers: holding.specifiers.clone(), layer: holding.layer.key.clone() };
        let unfinished = self.path.join(format!("{UNFINISHED}{session_id}"));
        let written = (|| {
            let mut file = File::create(&unfinished)?;
            file.write_all(&serde_json::to_vec(&stored)?)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, self.path.join(session_id))?;
            File::open(&self.path)?.sync_all()
        })();
        if written.is_err() {
            std::fs::remove_file(&unfinished).ok();
        }
        written?;
        self.lock().insert(session_id.to_owned(), holding);
        Ok(())
    }

    /// A session has none from now on.
    ///
    /// # Errors
    /// As the system said; it has what it had before.
    pub fn remove(&self, session_id: &str) -> io::Result<()> {
        if self.lock().contains_key(session_id) {
            std::fs::remove_file(self.path.join(session_id))?;
            File::open(&self.path)?.sync_all()?;
            self.lock().remove(session_id);
        }
        Ok(())
    }

    /// How many sessions have some.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Holding>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, shelf: &Shelf) -> Option<Holding> {
    let stored: Stored = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(Holding { layer: shelf.find(&stored.layer)?, specifiers: stored.specifiers })
}
