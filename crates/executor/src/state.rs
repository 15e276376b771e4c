//! The state folder: who this service is, and the lock that says that it is running.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::workspace::random;

/// The state folder of a running service; locked until dropped.
#[derive(Debug)]
pub struct State {
    _lock: File,
    /// A short name that no other service on the host has.
    pub instance: String,
}

impl State {
    /// Opens or makes the folder, takes its lock and reads or makes up the instance's name.
    ///
    /// # Errors
    /// `ResourceBusy` when another service holds the lock; otherwise as the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let open = |name| {
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join(name))
        };
        let lock = open("lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut file = open("instance")?;
        let mut instance = String::new();
        file.read_to_string(&mut instance)?;
        if instance.len() != 8 || !instance.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            instance = Self::new_instance();
            file.set_len(0)?;
            io::Seek::rewind(&mut file)?;
            file.write_all(instance.as_bytes())?;
            file.sync_all()?;
        }
        Ok(Self { _lock: lock, instance })
    }

    /// A name for an instance.
    pub fn new_instance() -> String {
        format!("{:08x}", random() as u32)
    }
}

/// Whether a running service holds the lock of this state folder.
pub fn is_locked(path: &Path) -> bool {
    let lock = File::open(path.join("lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}
