//! How much room there is on a disk.

use std::io::{self, Write};
use std::path::Path;

use rustix::fs::StatVfs;

/// Less room than this counts as a full disk: what runs needs some for what comes of it.
pub const LEAST_FREE_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes that ordinary users can still write (statvfs(3)).
pub fn free_bytes(state: &StatVfs) -> u64 {
    state.f_bavail.saturating_mul(state.f_frsize)
}

/// Tries whether so many bytes can be written below this folder; nothing of them stays.
///
/// # Errors
/// Those of the system.
pub fn try_room(folder: &Path, bytes: usize) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&vec![0; bytes])
}
