//! How much room there is on a disk.

use rustix::fs::StatVfs;

/// Less room than this counts as a full disk: what runs needs some for what comes of it.
pub const LEAST_FREE_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes that ordinary users can still write (statvfs(3)).
pub fn free_bytes(state: &StatVfs) -> u64 {
    state.f_bavail.saturating_mul(state.f_frsize)
}
