//! Draining a pipe: keep the first bytes, count the rest, never stop reading, so that a program that floods its output
//! neither blocks nor costs memory.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use crate::outcome::Captured;

/// Bytes asked for at a time; a pipe holds 64 KiB (pipe(7)).
const READ_SIZE: usize = 16 * 1024;

/// Which stream a [`Chunk`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes as they came.
#[derive(Debug)]
pub struct Chunk {
    /// Where from.
    pub stream: Stream,
    /// What.
    pub bytes: Vec<u8>,
}

/// A pipe that is being drained; no longer when this is dropped.
pub struct Capture {
    captured: Arc<Mutex<Captured>>,
    task: tokio::task::JoinHandle<()>,
}

/// A pipe for a program to write to: our end and its.
///
/// # Errors
/// pipe(2)'s own.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = crate::sys::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    // The program has another uid than we, and opens its output anew when it writes to /dev/stderr.
    rustix::fs::fchmod(&writer, rustix::fs::Mode::from_raw_mode(0o666))?;
    Ok((reader, writer))
}

impl Capture {
    /// Makes a [`pipe`] and starts draining it; gives the end to write to.
    ///
    /// # Errors
    /// As of [`pipe`].
    pub fn start(keep: u64, live: Option<(Stream, mpsc::Sender<Chunk>)>) -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe()?;
        Ok((Self::of(reader, keep, live)?, writer))
    }

    /// Starts draining our end of a [`pipe`]. What is kept is also sent to `live`, if given; a live reader that is slow slows the
    /// program down, as a terminal would.
    ///
    /// # Errors
    /// The runtime's.
    pub fn of(reader: OwnedFd, keep: u64, live: Option<(Stream, mpsc::Sender<Chunk>)>) -> io::Result<Self> {
        let reader = Receiver::from_owned_fd(reader)?;
        let captured = Arc::default();
        let task = tokio::spawn(drain(reader, keep, live, Arc::clone(&captured)));
        Ok(Self { captured, task })
    }

    /// What came until now.
    pub fn so_far(&self) -> Vec<u8> {
        locked(&self.captured).kept.clone()
    }

    /// What came, once every writer is gone or the grace is over.
    pub async fn finish(mut self, grace: Duration) -> Captured {
        tokio::time::timeout(grace, &mut self.task).await.ok();
        std::mem::take(&mut *locked(&self.captured))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(captured: &Mutex<Captured>) -> std::sync::MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn drain(
    mut pipe: Receiver,
    keep: u64,
    live: Option<(Stream, mpsc::Sender<Chunk>)>,
    captured: Arc<Mutex<Captured>>,
) {
    let mut chunk = vec![0; READ_SIZE];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        let kept = {
            let mut captured = locked(&captured);
            captured.total += length as u64;
            let room = keep.saturating_sub(captured.kept.len() as u64).min(length as u64) as usize;
            captured.kept.extend_from_slice(&chunk[..room]);
            room
        };
        if let Some((stream, live)) = &live
            && kept > 0
        {
            live.send(Chunk { stream: *stream, bytes: chunk[..kept].to_vec() }).await.ok();
        }
    }
}
