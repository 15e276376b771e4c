//! Our ends of the pipes that a program writes to: output, errors, and the result channel, on which a program that was
//! started ahead of its request first says that it waits.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use crate::capture::{self, Capture, Chunk, Stream};
use crate::error::{SandboxError, Stage};
use crate::outcome::Captured;

/// What a program that was started ahead says on its result channel when it is ready for its request.
pub const AHEAD: &[u8; 4] = b"SBXA";

/// How long the pipes may stay open once everything is dead.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// A pipe for a program to read from: its end and ours.
///
/// # Errors
/// pipe(2)'s own.
pub fn feed() -> io::Result<(OwnedFd, Sender)> {
    let (reader, writer) = crate::sys::pipe()?;
    rustix::io::ioctl_fionbio(&writer, true)?;
    // The program has another uid than we, and opens its input anew when it reads from /dev/stdin.
    rustix::fs::fchmod(&reader, rustix::fs::Mode::from_raw_mode(0o666))?;
    Ok((reader, Sender::from_owned_fd(writer)?))
}

/// Pipes that nobody reads yet.
pub(crate) struct Pipes {
    stdout: OwnedFd,
    stderr: OwnedFd,
    result: OwnedFd,
    result_bytes: u64,
}

impl Pipes {
    /// With the program's ends, in the order of its descriptors.
    pub fn new(result_bytes: u64) -> io::Result<(Self, [OwnedFd; 3])> {
        let ((stdout, one), (stderr, two), (result, three)) = (capture::pipe()?, capture::pipe()?, capture::pipe()?);
        Ok((Self { stdout, stderr, result, result_bytes }, [one, two, three]))
    }

    /// Until the program says [`AHEAD`].
    ///
    /// # Errors
    /// It said something else, or nothing any more.
    pub async fn arrived(&self) -> io::Result<()> {
        let mut result = Receiver::from_owned_fd(rustix::io::fcntl_dupfd_cloexec(&self.result, 0)?)?;
        let mut said = [0; AHEAD.len()];
        result.read_exact(&mut said).await?;
        if said == *AHEAD { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// The failure of a program that ended before it said that, `how` it did, and the last line of what it wrote to standard error.
    pub fn too_early(&self, how: &str) -> SandboxError {
        let mut said = vec![0; 4096];
        rustix::io::ioctl_fionbio(&self.stderr, true).ok();
        let length = rustix::io::read(&self.stderr, &mut said).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..length]);
        let said = said.trim().lines().last().map_or("it said nothing".to_owned(), |line| format!("it said: {line}"));
        let why = format!(
            "a program that was started ahead ended before it was ready ({how}; {said}); run `sandbox-executor doctor`"
        );
        SandboxError::new(Stage::Program, why)
    }

    /// Starts draining them.
    pub fn drain(self, keep: u64, live: Option<mpsc::Sender<Chunk>>) -> io::Result<Drained> {
        // A live reader may take its time with what is left.
        let grace = if live.is_some() { Duration::MAX } else { DRAIN_GRACE };
        let live_stdout = live.clone().map(|sender| (Stream::Stdout, sender));
        let live_stderr = live.map(|sender| (Stream::Stderr, sender));
        Ok(Drained {
            stdout: Capture::of(self.stdout, keep, live_stdout)?,
            stderr: Capture::of(self.stderr, keep, live_stderr)?,
            result: Capture::of(self.result, self.result_bytes, None)?,
            grace,
        })
    }
}

/// The same while they are drained.
pub(crate) struct Drained {
    stdout: Capture,
    stderr: Capture,
    result: Capture,
    grace: Duration,
}

impl Drained {
    /// What came of each, when nothing of the program is alive. It may have handed an end to another execution of its session, which
    /// is no reason to wait.
    pub async fn finish(self) -> [Captured; 3] {
        let Self { stdout, stderr, result, grace } = self;
        let (stdout, stderr, result) = tokio::join!(stdout.finish(grace), stderr.finish(grace), result.finish(grace));
        [stdout, stderr, result]
    }
}
