//! Host uids for sandboxes, where the service is root: one for each session, kept for as long as its folder is there,
//! and one for each session-less run while it lasts.
//!
//! Several services on a host use different blocks: each holds an abstract socket named after its block, which the
//! kernel gives back when the service ends, however it ends (unix(7)).

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

/// Uids in a block; the last quarter is for session-less runs.
const BLOCK: u32 = 65_536;
/// Where blocks lie when all uids are there: far from users, containers' subordinate ids (100000 and up) and 2^31.
const FIRST: u32 = 0x4000_0000;
const BLOCKS: u32 = 8_192;
/// A smaller one would not do for a service.
const SMALLEST_BLOCK: u32 = 64;

/// The uids of this service.
#[derive(Debug)]
pub struct Uids {
    base: u32,
    size: u32,
    runs: u32,
    _claim: OwnedFd,
    used: Mutex<HashSet<u32>>,
}

impl Uids {
    /// Claims a block for a service whose workspaces lie in this folder: the one that its sessions already have uids of, where
    /// there are some, otherwise one that the instance's name picks.
    ///
    /// # Errors
    /// As of [`Self::claim`].
    pub fn claim_for(workspaces: &Path, instance: &str) -> io::Result<Self> {
        let (first, size, count) = area(&uid_map());
        let owners = std::fs::read_dir(workspaces).into_iter().flatten().flatten();
        let owners = owners.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.uid());
        let used = owners.filter_map(|uid| uid.checked_sub(first)?.checked_div(size)).find(|block| *block < count);
        Self::claim(used.unwrap_or_else(|| u32::from_str_radix(instance, 16).unwrap_or_default()))
    }

    /// Claims a block, the one of this number if it is free, else one after it.
    ///
    /// # Errors
    /// No block is free, or the kernel's own.
    fn claim(preferred: u32) -> io::Result<Self> {
        let (first, size, count) = area(&uid_map());
        if size < SMALLEST_BLOCK {
            return Err(io::Error::other(format!(
                "this user namespace maps too few uids (blocks of {size}, {SMALLEST_BLOCK} are needed): run the service as an \
                 ordinary user, or map 65536 (subuid(5))"
            )));
        }
        for number in 0..count {
            let base = first + (preferred.wrapping_add(number) % count) * size;
            if let Some(claim) = claim_block(base)? {
                let used = Mutex::new(HashSet::new());
                return Ok(Self { base, size, runs: base + size / 4 * 3, _claim: claim, used });
            }
        }
        Err(io::Error::other("every block of host uids is in use by another service"))
    }

    /// Remembers that a folder belongs to this uid.
    pub fn taken(&self, uid: u32) {
        self.lock().insert(uid);
    }

    /// Whether it is one of those for sessions.
    pub fn is_for_sessions(&self, uid: u32) -> bool {
        (self.base..self.runs).contains(&uid)
    }

    /// Whether it is one of this service's.
    pub fn is_ours(&self, uid: u32) -> bool {
        (self.base..self.base + self.size).contains(&uid)
    }

    /// An unused one for a new session; `None` when all are in use.
    pub fn for_session(&self) -> Option<u32> {
        self.take(self.base..self.runs)
    }

    /// An unused one for one run; `None` when all are in use.
    pub fn for_one_run(&self) -> Option<u32> {
        self.take(self.runs..self.base + self.size)
    }

    /// Gives one back.
    pub fn free(&self, uid: u32) {
        self.lock().remove(&uid);
    }

    fn take(&self, mut range: std::ops::Range<u32>) -> Option<u32> {
        let mut used = self.lock();
        let uid = range.find(|uid| !used.contains(uid))?;
        used.insert(uid);
        Some(uid)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What holds the block that begins with this uid; `None` while another service does.
#[cfg(target_os = "linux")]
fn claim_block(base: u32) -> io::Result<Option<OwnedFd>> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let name = SocketAddrUnix::new_abstract_name(format!("sandbox-executor/uids/{base}").as_bytes())?;
    match bind(&socket, &name) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::ADDRINUSE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Only Linux has abstract sockets, and adapters that change a program's user.
#[cfg(not(target_os = "linux"))]
fn claim_block(_base: u32) -> io::Result<Option<OwnedFd>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "start the service as an ordinary user, not as root"))
}

fn uid_map() -> String {
    std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default()
}

/// First uid, size and number of blocks that this user namespace has room for (user_namespaces(7)).
fn area(uid_map: &str) -> (u32, u32, u32) {
    let largest = uid_map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (inside, _outside, length) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(inside + length)
    });
    let end = largest.max().unwrap_or(1 << 16);
    if end > u64::from(FIRST) + u64::from(BLOCK) * u64::from(BLOCKS) {
        return (FIRST, BLOCK, BLOCKS);
    }
    // A container: the upper half of what it has, in eight blocks.
    let half = u32::try_from(end / 2).unwrap_or(1 << 15);
    (half, half / 8, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_into_what_the_namespace_has() {
        assert_eq!(area("0 0 4294967295"), (FIRST, BLOCK, BLOCKS));
        assert_eq!(area("0 100000 65536"), (32_768, 4_096, 8));
    }

    #[test]
    fn two_services_never_share_a_uid() {
        let (one, two) = (Uids::claim(7).unwrap(), Uids::claim(7).unwrap());
        assert_ne!(one.base, two.base);
        let (a, b) = (one.for_session().unwrap(), one.for_session().unwrap());
        assert!(a != b && one.is_for_sessions(a) && !two.is_for_sessions(a));
        let run = one.for_one_run().unwrap();
        assert!(!one.is_for_sessions(run) && Some(run) != one.for_one_run());
        one.free(run);
        assert_eq!(one.for_one_run(), Some(run));
    }
}
