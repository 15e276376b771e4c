//! Draining a pipe: keep the first bytes, count the rest, never stop reading, so that a program that floods its output
//! neither blocks nor costs memory.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
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

/// A pipe that is being drained.
pub struct Capture(tokio::task::JoinHandle<Captured>);

impl Capture {
    /// Makes a pipe and starts draining it; gives the end to write to. What is kept is also sent to `live`, if given;
    /// a live reader that is slow slows the program down, as a terminal would.
    ///
    /// # Errors
    /// pipe2(2)'s own.
    pub fn start(keep: u64, live: Option<(Stream, mpsc::Sender<Chunk>)>) -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        // The program has another uid than we, and opens its output anew when it writes to /dev/stderr.
        rustix::fs::fchmod(&writer, rustix::fs::Mode::from_raw_mode(0o666))?;
        let reader = pipe::Receiver::from_owned_fd(reader)?;
        Ok((Self(tokio::spawn(drain(reader, keep, live))), writer))
    }

    /// What came, once every writer is gone.
    pub async fn finish(self) -> Captured {
        self.0.await.unwrap_or_default()
    }
}

async fn drain(mut pipe: pipe::Receiver, keep: u64, live: Option<(Stream, mpsc::Sender<Chunk>)>) -> Captured {
    let mut captured = Captured::default();
    let mut overflow = Vec::new();
    loop {
        let before = captured.kept.len();
        let room = keep.saturating_sub(before as u64).min(READ_SIZE as u64) as usize;
        let read = if room > 0 {
            captured.kept.reserve(room);
            (&mut pipe).take(room as u64).read_buf(&mut captured.kept).await
        } else {
            overflow.resize(READ_SIZE, 0);
            pipe.read(&mut overflow).await
        };
        let Ok(length @ 1..) = read else { break };
        captured.total += length as u64;
        if let Some((stream, live)) = &live
            && captured.kept.len() > before
        {
            live.send(Chunk { stream: *stream, bytes: captured.kept[before..].to_vec() }).await.ok();
        }
    }
    captured.kept.shrink_to_fit();
    captured
}
