//! Where lines go. Each output has a bounded queue and a thread of its own: whoever logs only puts the line into the
//! queue, so that a full disk, a stalled pipe or a closed stderr costs lines and never an execution. Lost lines are
//! counted, and the next line that can be written is preceded by how many there were.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use time::OffsetDateTime;

use super::line::{Fields, render};
use super::{Format, Level};

/// Lines that may wait.
const QUEUE: usize = 8192;
/// Bytes that are written at once, about.
const BATCH: usize = 64 * 1024;

enum Order {
    Line(Arc<str>),
    Flush(SyncSender<()>),
}

/// One place that lines are written to.
#[derive(Clone)]
pub(super) struct Output {
    queue: SyncSender<Order>,
    shared: Arc<Shared>,
}

struct Shared {
    path: Option<PathBuf>,
    lost: AtomicU64,
    /// The freshly opened file, until the thread takes it.
    next: Mutex<Option<File>>,
}

/// Opens a log file. Not blocking, which matters for a pipe that nobody reads.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags.cast_signed()).open(path)
}

impl Output {
    /// Starts the thread that writes to `target`; `path` is what [`Output::reopen`] opens.
    pub(super) fn start(target: Box<dyn Write + Send>, path: Option<PathBuf>, format: Format) -> io::Result<Self> {
        let (queue, orders) = sync_channel(QUEUE);
        let shared = Arc::new(Shared { path, lost: AtomicU64::new(0), next: Mutex::new(None) });
        let writer = Writer { target, torn: false, format, shared: shared.clone() };
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&orders))?;
        Ok(Self { queue, shared })
    }

    pub(super) fn send(&self, line: Arc<str>) {
        if self.queue.try_send(Order::Line(line)).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.shared.path {
            let file = open(path)?;
            *self.shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        }
        Ok(())
    }

    /// Waits until everything sent before is written, or the deadline.
    pub(super) fn flush(&self, deadline: Instant) {
        let (done, wait) = sync_channel(1);
        let mut order = Order::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(order) {
            if Instant::now() >= deadline {
                return;
            }
            order = back;
            thread::sleep(Duration::from_millis(2));
        }
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

struct Writer {
    target: Box<dyn Write + Send>,
    /// The last write ended within a line.
    torn: bool,
    format: Format,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut batch = String::new();
            let mut lines = 0;
            let mut flushed = None;
            for order in std::iter::once(first).chain(orders.try_iter()) {
                match order {
                    Order::Line(line) => {
                        batch.push_str(&line);
                        lines += 1;
                    }
                    Order::Flush(done) => flushed = Some(done),
                }
                if batch.len() >= BATCH || flushed.is_some() {
                    break;
                }
            }
            let next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(file) = next {
                self.target = Box::new(file);
                self.torn = false;
            }
            if lines > 0 {
                self.write(&batch, lines);
            }
            if let Some(done) = flushed {
                let _ = done.try_send(());
            }
        }
    }

    fn write(&mut self, batch: &str, lines: u64) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        let mut text = String::new();
        if self.torn {
            text.push('\n');
        }
        if lost > 0 {
            let message = format!("Log lines lost: {lost} (they could not be written)");
            let notice = Fields::message(message);
            text.push_str(&render(self.format, OffsetDateTime::now_utc(), Level::Warning, true, notice));
        }
        text.push_str(batch);
        let written = self.write_bytes(text.as_bytes());
        if written > 0 {
            self.torn = text.as_bytes()[written - 1] != b'\n';
        }
        if written < text.len() {
            self.shared.lost.fetch_add(lost + lines, Ordering::Relaxed);
        }
    }

    /// How much could be written.
    fn write_bytes(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.target.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}
