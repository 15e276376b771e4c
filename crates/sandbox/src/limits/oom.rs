//! Waiting for the kernel to kill a process of a group for want of memory.
//!
//! Version 1 signals an eventfd (Documentation/admin-guide/cgroup-v1/memory.rst, section 10). On Linux 6.18 the signal
//! comes, but up to a millisecond *before* the kill, when the counter is still 0: so the counter is read a few times
//! after it. Version 2 marks the open `memory.events` with POLLPRI (Documentation/admin-guide/cgroup-v2.rst); this is
//! preferred to inotify, of which a user has 128 instances by default. Both are hints: the counter alone decides, and it
//! is read every quarter of a second in any case, so that a kernel without events (they are deprecated in version 1)
//! delays the answer only.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use super::{Version, file};

/// The counter is read this often without any event.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Pauses between reads of the counter after an event that came before the kill.
const AFTER_EVENT_MS: [u64; 8] = [0, 1, 1, 2, 4, 8, 16, 32];

/// The file with the counter of a group.
pub(super) fn counter_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    }
}

/// Whether the counters in the text of that file are above zero. The group is new with its execution: nothing that
/// happened in it is older.
pub(super) fn killed(text: &str) -> bool {
    ["oom_kill", "oom_group_kill"].iter().any(|key| file::keyed_number(text, key).is_some_and(|count| count > 0))
}

/// Tells when the kernel has killed a process of one execution for want of memory. Made by
/// [`Cgroup::oom_watch`](super::Cgroup::oom_watch); may be waited for in any tokio runtime with I/O and time.
#[derive(Debug)]
pub struct OomWatch {
    counter: OwnedFd,
    signal: Signal,
}

#[derive(Debug)]
enum Signal {
    /// Version 1: readable when the group runs out of memory.
    Eventfd(OwnedFd),
    /// Version 2: the counter's own descriptor has priority data when it changed.
    Counter,
    /// There is none: the counter is polled.
    None,
}

impl OomWatch {
    pub(super) fn open(version: Version, parent: BorrowedFd<'_>, group: &str) -> io::Result<OomWatch> {
        let counter = file::open_to_read(parent, &format!("{group}/{}", counter_file(version)))?;
        let signal = match version {
            Version::V2 => Signal::Counter,
            Version::V1 => match register(parent, group, &counter) {
                Ok(event) => Signal::Eventfd(event),
                Err(error) => {
                    tracing::debug!(group, %error, "no event for lack of memory, the counter is polled");
                    Signal::None
                }
            },
        };
        Ok(OomWatch { counter, signal })
    }

    /// Resolves when the group's counter of such kills is above zero, at once if it is already; within some
    /// milliseconds of the kill where the kernel sends an event, within a quarter of a second where not. Never resolves
    /// otherwise, not even when the group is removed: wait for the end of the execution beside it.
    pub async fn wait(&self) {
        while !self.killed() {
            match self.changed().await {
                Ok(true) => {
                    for pause_ms in AFTER_EVENT_MS {
                        sleep(Duration::from_millis(pause_ms)).await;
                        if self.killed() {
                            return;
                        }
                    }
                }
                Ok(false) => {}
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    #[cfg(test)]
    pub(super) fn has_event(&self) -> bool {
        !matches!(self.signal, Signal::None)
    }

    fn killed(&self) -> bool {
        // After the group's removal the read fails: nothing will be killed in it any more.
        file::read_again(&self.counter).is_ok_and(|text| killed(&text))
    }

    /// Waits for an event, or for the interval without one; whether there was one.
    async fn changed(&self) -> io::Result<bool> {
        let event = match &self.signal {
            Signal::Eventfd(event) => wait_for(event, Interest::READABLE),
            Signal::Counter => wait_for(&self.counter, Interest::PRIORITY),
            Signal::None => {
                sleep(POLL_INTERVAL).await;
                return Ok(false);
            }
        };
        match timeout(POLL_INTERVAL, event).await {
            Err(_) => return Ok(false),
            Ok(ready) => ready?,
        }
        if let Signal::Eventfd(event) = &self.signal {
            let _ = rustix::io::read(event, &mut [0_u8; 8]);
        }
        Ok(true)
    }
}

// The constructor without `unsafe` is deprecated because a source might close its descriptor while it is registered. A
// borrowed one cannot be closed for as long as it is borrowed.
#[allow(deprecated)]
async fn wait_for(source: &OwnedFd, interest: Interest) -> io::Result<()> {
    AsyncFd::with_interest(source.as_fd(), interest)?.ready(interest).await.map(drop)
}

/// An eventfd that the kernel signals when `group` runs out of memory; closing it ends that.
fn register(parent: BorrowedFd<'_>, group: &str, counter: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let line = format!("{} {}", event.as_raw_fd(), counter.as_raw_fd());
    file::write_at(parent, &format!("{group}/cgroup.event_control"), &line)?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn both_versions_counters_are_understood() {
        assert!(!killed("oom_kill_disable 0\nunder_oom 1\noom_kill 0\n"));
        assert!(killed("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"));
        assert!(!killed("low 0\nhigh 7\nmax 12\noom 3\noom_kill 0\noom_group_kill 0\n"));
        assert!(killed("oom 1\noom_kill 0\noom_group_kill 1\n"));
        assert!(!killed(""));
    }

    /// The events of version 2 are the same for every such file; `cgroup.events` exists without any controller.
    #[tokio::test]
    async fn a_change_in_a_v2_group_comes_as_priority_data() {
        let Some(group) = super::super::tests::unified_group("events") else {
            return;
        };
        let counter = file::open_to_read(group.directory(), "events/cgroup.events").expect("cgroup.events");
        assert!(file::read_again(&counter).expect("text").contains("populated 0"));
        let watch = OomWatch { counter, signal: Signal::Counter };
        assert!(!watch.changed().await.expect("no event yet"));
        let mut child = std::process::Command::new("sleep").arg("5").spawn().expect("sleep");
        group.write("events", "cgroup.procs", &child.id().to_string()).expect("attach");
        let start = Instant::now();
        assert!(watch.changed().await.expect("an event"));
        assert!(start.elapsed() < POLL_INTERVAL);
        assert!(file::read_again(&watch.counter).expect("text").contains("populated 1"));
        assert!(!watch.changed().await.expect("the read made it quiet"));
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(watch.changed().await.expect("a second event"));
        group.unmake("events").expect("rmdir");
        group.close();
    }
}
