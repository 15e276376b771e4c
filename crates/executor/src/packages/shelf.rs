//! The layers that there are, in the state folder: `layers/NAME`, each finished or not there at all. What a killed service left half
//! made is cleared away at the next start.
//!
//! A layer stays for as long as a session has it or an execution runs with it, and after that until its room is needed: those that
//! nobody has asked for longest leave first.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layer::{Layer, PACKAGES, RECORD};
use crate::workspace::{random, remove};

/// How the name of what is not a layer yet, or not any more, begins.
const UNFINISHED: &str = ".new-";
const GONE: &str = ".gone-";

/// All layers of a service.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
    most_bytes: u64,
    layers: Mutex<HashMap<String, Arc<Layer>>>,
}

/// A folder that is to become a layer. Dropping it removes it.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its packages are to be.
    pub fn packages(&self) -> PathBuf {
        self.path.join(PACKAGES)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = remove::tree(&self.path) {
            tracing::warn!("Packages could not be removed: {} ({error})", self.path.display());
        }
    }
}

impl Shelf {
    /// Opens or makes the folder; removes what was never finished, and what is for another interpreter.
    ///
    /// # Errors
    /// As the system said.
    pub fn open(path: &Path, interpreter: Option<&str>, most_bytes: u64) -> io::Result<Self> {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(path)?;
        let mut layers = HashMap::new();
        for entry in std::fs::read_dir(path)?.flatten() {
            let layer = Layer::open(&entry.path());
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            match layer {
                // Without an interpreter nothing is known of it.
                Ok(layer) if !is_hidden && interpreter.is_none_or(|known| known == layer.record.interpreter) => {
                    layers.insert(layer.key.clone(), Arc::new(layer));
                }
                _ => {
                    if let Err(error) = remove::tree(&entry.path()) {
                        tracing::warn!("Packages could not be removed: {} ({error})", entry.path().display());
                    }
                }
            }
        }
        Ok(Self { path: path.into(), most_bytes, layers: Mutex::new(layers) })
    }

    /// The layer of this name, if there is one; somebody asks for it.
    pub fn find(&self, key: &str) -> Option<Arc<Layer>> {
        let layer = self.lock().get(key).cloned()?;
        layer.use_now();
        Some(layer)
    }

    /// How many there are, and what they take.
    pub fn count(&self) -> (usize, u64) {
        let layers = self.lock();
        (layers.len(), layers.values().map(|layer| layer.record.bytes).sum())
    }

    /// A new folder.
    ///
    /// # Errors
    /// As the system said.
    pub fn begin(&self) -> io::Result<Unfinished> {
        let path = self.path.join(format!("{UNFINISHED}{:016x}", random()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(Unfinished { path })
    }

    /// Gives a finished folder its place.
    ///
    /// # Errors
    /// `StorageFull` where layers that are in use take the room; otherwise as the system said.
    pub fn put(&self, unfinished: Unfinished, key: &str) -> io::Result<Arc<Layer>> {
        let bytes = Layer::open(unfinished.path())?.record.bytes;
        let mut layers = self.lock();
        self.make_room(&mut layers, bytes)?;
        let path = self.path.join(key);
        std::fs::rename(unfinished.path(), &path)?;
        std::fs::File::open(&self.path)?.sync_all()?;
        let layer = Arc::new(Layer::open(&path)?);
        layers.insert(key.to_owned(), Arc::clone(&layer));
        Ok(layer)
    }

    fn make_room(&self, layers: &mut HashMap<String, Arc<Layer>>, bytes: u64) -> io::Result<()> {
        loop {
            let taken: u64 = layers.values().map(|layer| layer.record.bytes).sum();
            if taken.saturating_add(bytes) <= self.most_bytes {
                return Ok(());
            }
            let idle = layers.values().filter(|layer| Arc::strong_count(layer) == 1);
            let Some(oldest) = idle.min_by_key(|layer| layer.used_at()).map(|layer| layer.key.clone()) else {
                return Err(io::ErrorKind::StorageFull.into());
            };
            if let Some(layer) = layers.remove(&oldest) {
                self.clear(&layer)?;
            }
        }
    }

    /// Takes a layer away: it is none as soon as it is told so, whatever happens then.
    fn clear(&self, layer: &Layer) -> io::Result<()> {
        let gone = self.path.join(format!("{GONE}{:016x}", random()));
        std::fs::rename(layer.path(), &gone)?;
        std::fs::remove_file(gone.join(RECORD))?;
        tracing::info!("Packages removed to make room: {} ({} MB)", short(&layer.key), layer.record.bytes >> 20);
        remove::tree(&gone)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Layer>>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a layer's name as people need to tell it from others.
pub fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::super::layer::{Record, finish};
    use super::*;

    fn make(shelf: &Shelf, key: &str, bytes: u64) -> io::Result<Arc<Layer>> {
        let unfinished = shelf.begin().unwrap();
        std::fs::create_dir(unfinished.packages()).unwrap();
        std::fs::write(unfinished.packages().join("a.py"), key).unwrap();
        std::os::unix::fs::PermissionsExt::set_mode(
            &mut std::fs::metadata(unfinished.packages())?.permissions(),
            0o555,
        );
        let interpreter = "one".to_owned();
        finish(unfinished.path(), &Record { interpreter, installed: Vec::new(), installed_at: String::new(), bytes })?;
        shelf.put(unfinished, key)
    }

    fn entries(path: &Path) -> Vec<String> {
        let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_finished_is_there_again_and_the_rest_is_cleared_away() {
        let home = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(home.path(), Some("one"), 100).unwrap();
        make(&shelf, "a", 10).unwrap();
        let left = shelf.begin().unwrap();
        std::fs::create_dir(left.packages()).unwrap();
        std::mem::forget(left);
        drop(shelf.begin().unwrap());
        std::fs::create_dir(home.path().join("b")).unwrap();
        assert_eq!(entries(home.path()).len(), 3);
        let shelf = Shelf::open(home.path(), Some("one"), 100).unwrap();
        assert_eq!(entries(home.path()), ["a"]);
        assert!(shelf.find("a").is_some() && shelf.find("b").is_none());
        assert_eq!(shelf.count(), (1, 10));
        drop(shelf);
        assert!(Shelf::open(home.path(), Some("another"), 100).unwrap().find("a").is_none());
        assert_eq!(entries(home.path()), [""; 0]);
    }

    #[test]
    fn those_that_nobody_has_leave_the_oldest_first() {
        let home = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(home.path(), None, 100).unwrap();
        for key in ["a", "b", "c"] {
            drop(make(&shelf, key, 30).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let held = shelf.find("a").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(shelf.find("b"));
        drop(make(&shelf, "d", 30).unwrap());
        assert_eq!(entries(home.path()), ["a", "b", "d"]);
        drop(make(&shelf, "e", 70).unwrap());
        assert_eq!(entries(home.path()), ["a", "e"]);
        let other = shelf.find("e").unwrap();
        assert_eq!(make(&shelf, "f", 30).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(entries(home.path()), ["a", "e"]);
        drop((held, other));
        make(&shelf, "f", 100).unwrap();
        assert_eq!(entries(home.path()), ["f"]);
    }
}
