//! How much a workspace may hold, and who sees to it while programs write to it.
//!
//! Counting costs a look at every file, so it is done as rarely as it can: what is written in between is bounded by how fast anything
//! can write. Short executions cost one look at the file system as a whole (statvfs(3)), which also tells between counts that so
//! much was written, by whomever, that it is worth counting. Who is over the line is stopped; a workspace that was over it before is
//! held to what it had, so that its programs can read and remove.
//!
//! Where the workspace is a project of its file system ([`super::projects`]) the kernel refuses what is beyond the line and knows what
//! is there; then this holds only who may write less than others.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use super::sessions::Stay;
use super::usage::{Meter, Usage};
use crate::disk;

/// What may be written in a second, at most: memory is not faster than that through a file system.
const BYTES_PER_SECOND: f64 = 2.0 * (1u64 << 30) as f64;
/// Files that may be made in a second, at most.
const FILES_PER_SECOND: f64 = 300_000.0;
/// A file for so many bytes of the quota, the block size of the usual file systems.
const BYTES_PER_FILE: u64 = 4096;
/// A workspace that is over the line by as much as it may hold is not run in, if that is more than one execution gets beyond it.
const HOPELESS_MB: u64 = 256;
/// No execution shorter than this is counted while it runs.
const FIRST_COUNT: Duration = Duration::from_millis(200);
/// How often the file system is looked at, at first and once an execution has run for a while.
const GLANCE: Duration = Duration::from_millis(25);
const LATER_GLANCE: Duration = Duration::from_millis(100);
/// Counting takes at most one part in so many of the time, and where the file system tells that much was written.
const PAUSES: u32 = 20;
const URGENT_PAUSES: u32 = 5;
/// Longest time without a count: somebody else may remove as much as a program writes.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What a workspace may hold.
pub fn line(disk_mb: u64) -> Usage {
    let bytes = disk_mb.saturating_mul(1024 * 1024);
    Usage { bytes, files: (bytes / BYTES_PER_FILE).max(1) }
}

/// Whether so much is in a workspace that nothing runs in it any more. Whoever crosses the line gets some way before it is noticed, and
/// the next is held to what is there then: without an end to it, one after the other would get any far.
pub fn is_hopeless(usage: Usage, disk_mb: u64) -> bool {
    usage.exceeds(&line(disk_mb.saturating_add(disk_mb.max(HOPELESS_MB))))
}

/// Watches over one execution's writing.
#[derive(Debug)]
pub struct Guard {
    meter: Meter,
    line: Usage,
    /// What was there at the start, if that is known.
    before: Option<Usage>,
    /// What programs may have written since that was counted, as time.
    ran_before: Duration,
    free: Usage,
    started: Instant,
    over: OnceLock<Usage>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// What was in the workspace when that was found.
    pub usage: Usage,
    /// What it may hold.
    pub line: Usage,
    /// The file system let it go up to the line and no further: whether that was a failure is the program's to say.
    pub was_refused: bool,
}

impl Guard {
    /// For an execution that begins; `before` is what the workspace holds where that is known, and `ran_before` how long programs have run
    /// since.
    pub fn new(meter: Meter, line: Usage, before: Option<Usage>, ran_before: Duration) -> Self {
        let before = if meter.is_kept() { Some(meter.read(None)) } else { before };
        let line = before.map_or(line, |before| line.max(before));
        let (free, started) = (free(&meter.folder), Instant::now());
        Self { free, meter, line, before, ran_before, started, over: OnceLock::new() }
    }

    /// Until more is in the workspace than may be.
    pub async fn exceeded(&self) {
        let (mut counted, mut line) = (self.before, self.line);
        let mut free_then = self.free;
        let (mut next, mut earliest) = (self.started + FIRST_COUNT, self.started);
        if self.meter.is_kept() {
            return self.exceeded_by_the_kernels_count().await;
        }
        loop {
            let ran = self.started.elapsed();
            tokio::time::sleep(if ran < Duration::from_secs(1) { GLANCE } else { LATER_GLANCE }).await;
            let now = Instant::now();
            let free_now = free(&self.meter.folder);
            let room = line.less(counted.unwrap_or_default());
            let much = free_then.less(free_now).exceeds(&room);
            if now < next && !(much && now >= earliest) {
                continue;
            }
            let meter = self.meter.clone();
            let enough = counted.map(|_| line);
            let Ok(usage) = tokio::task::spawn_blocking(move || meter.read_all(enough)).await else { return };
            let took = now.elapsed();
            if counted.is_none() {
                // Whether it was over the line before can't be told any more: it is held to what it has now.
                line = line.max(usage);
            }
            if usage.exceeds(&line) {
                self.over.set(usage).ok();
                return;
            }
            (counted, free_then) = (Some(usage), free_now);
            next = Instant::now() + pause(line.less(usage), took);
            earliest = Instant::now() + took * URGENT_PAUSES;
        }
    }

    /// The same, where it costs nothing to look. Beyond what any workspace may hold the kernel lets nobody write; this is for less.
    async fn exceeded_by_the_kernels_count(&self) {
        loop {
            let ran = self.started.elapsed();
            tokio::time::sleep(if ran < Duration::from_secs(1) { GLANCE } else { LATER_GLANCE }).await;
            let usage = self.meter.read(None);
            if usage.exceeds(&self.line) {
                self.over.set(usage).ok();
                return;
            }
        }
    }

    /// Whether [`Self::settle`] has to look at all files.
    pub fn has_to_count(&self) -> bool {
        let ran = self.ran_before + self.started.elapsed();
        !self.meter.is_kept() && self.may_have_exceeded(ran)
    }

    fn may_have_exceeded(&self, ran: Duration) -> bool {
        self.over.get().is_some() || may_exceed(self.before.unwrap_or_default(), ran, &self.line)
    }

    /// After its end: whether it was too much, as found on the way or now; and what is known from here on, for a session.
    pub fn settle(self, stay: Option<&Stay>) -> Option<Exceeded> {
        let ran = self.ran_before + self.started.elapsed();
        let (line, over) = (self.line, self.over.get().copied());
        if !self.meter.is_kept() && !self.may_have_exceeded(ran) {
            stay.inspect(|stay| stay.with(|known| known.ran += self.started.elapsed()));
            return None;
        }
        let usage = self.meter.read(if stay.is_some() { None } else { Some(line) });
        if let Some(stay) = stay {
            let is_alone = stay.is_alone();
            stay.with(|known| {
                known.usage = Some(usage);
                known.ran = if is_alone { Duration::ZERO } else { ran };
            });
        }
        // A program that has removed again what was too much at its end did not get away with it before.
        let over = over.or_else(|| (self.before.is_some() && usage.exceeds(&line)).then_some(usage));
        let at_line = || self.meter.is_kept() && is_full(usage, line);
        over.map(|usage| Exceeded { usage, line, was_refused: false })
            .or_else(|| at_line().then_some(Exceeded { usage, line, was_refused: true }))
    }
}

/// Whether hardly anything more is let in.
fn is_full(usage: Usage, line: Usage) -> bool {
    /// What a program writes at once.
    const BYTES: u64 = 64 * 1024;
    usage.bytes.saturating_add(BYTES) > line.bytes || usage.files >= line.files
}

/// Whether a line may be crossed by programs that ran for so long.
fn may_exceed(usage: Usage, ran: Duration, line: &Usage) -> bool {
    let seconds = ran.as_secs_f64();
    let bytes = usage.bytes.saturating_add((seconds * BYTES_PER_SECOND) as u64);
    let files = usage.files.saturating_add((seconds * FILES_PER_SECOND) as u64);
    Usage { bytes, files }.exceeds(line)
}

/// How long it takes at least until so much room is used up, but no less than counting is worth.
fn pause(room: Usage, took: Duration) -> Duration {
    let seconds = (room.bytes as f64 / BYTES_PER_SECOND).min(room.files as f64 / FILES_PER_SECOND);
    Duration::from_secs_f64(seconds).max(GLANCE).max(took * PAUSES).min(LONGEST_PAUSE.max(took * PAUSES))
}

/// What the file system has left for ordinary users; nothing where it does not tell.
fn free(folder: &OwnedFd) -> Usage {
    rustix::fs::fstatvfs(folder)
        .map_or_else(|_| Usage::default(), |state| Usage { bytes: disk::free_bytes(&state), files: state.f_favail })
}

/// Room in a session's workspace that is kept for something on its way into it. Dropping it gives the room back.
#[derive(Debug)]
pub struct Promise<'a> {
    stay: &'a Stay,
    bytes: u64,
    line: Usage,
}

impl<'a> Promise<'a> {
    /// For what has `bytes`, where there is room for it beside what is there; that is counted if need be.
    pub async fn new(stay: &'a Stay, meter: Meter, line: Usage, bytes: u64) -> Option<Self> {
        let programs = if stay.is_for_a_run() { 1 } else { 0 };
        let is_known = stay.with(|known| known.usage.is_some() && known.ran.is_zero()) && stay.running() <= programs;
        if !is_known || meter.is_kept() {
            let usage = tokio::task::spawn_blocking(move || meter.read(None)).await.ok()?;
            stay.with(|known| (known.usage, known.ran) = (Some(usage), Duration::ZERO));
        }
        let mut promise = Self { stay, bytes: 0, line };
        promise.grow(bytes).then_some(promise)
    }

    /// Keeps more; whether there was room.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let line = self.line;
        let granted = self.stay.with(|known| {
            let usage = known.usage.unwrap_or_default();
            let after = usage.bytes.saturating_add(known.promised).saturating_add(bytes);
            let fits = after <= line.bytes && usage.files < line.files;
            if fits {
                known.promised += bytes;
            }
            fits
        });
        self.bytes += if granted { bytes } else { 0 };
        granted
    }

    /// It is in the workspace now, and takes this there; all new, or some in the place of others.
    pub fn kept(self, added: Usage, is_new: bool) {
        self.stay.with(|known| {
            // What it took the place of may have had other names: that is counted when somebody asks.
            known.usage = known.usage.filter(|_| is_new);
            if let Some(usage) = &mut known.usage {
                *usage = usage.and(added);
            }
        });
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.stay.with(|known| known.promised = known.promised.saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_keeps_up_with_writing_and_costs_little() {
        let room = |mb: u64| line(mb);
        assert!(pause(room(1024), Duration::ZERO) <= Duration::from_millis(900));
        assert_eq!(pause(room(0), Duration::ZERO), GLANCE);
        assert_eq!(pause(room(1), Duration::from_millis(100)), Duration::from_secs(2));
        assert_eq!(pause(room(1 << 30), Duration::ZERO), LONGEST_PAUSE);
    }

    #[test]
    fn a_short_execution_can_not_have_crossed_the_line() {
        let quota = line(1024);
        assert!(!may_exceed(Usage::default(), Duration::from_millis(2), &quota));
        assert!(may_exceed(Usage::default(), Duration::from_millis(600), &quota));
        assert!(may_exceed(quota, Duration::from_millis(1), &quota));
    }
}
