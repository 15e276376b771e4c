//! How long a thread that is ready waits for its turn: what a time that was measured owes to the machine, not to the service.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(5);
/// A delay that spoils what was measured meanwhile: half of the quarter of a second that times are promised to.
pub const STALL: Duration = Duration::from_millis(125);
/// How long a machine may take to come to itself.
const CALM_WITHIN: Duration = Duration::from_secs(30);

/// Keeps the longest delay of a thread that sleeps and does nothing else.
#[derive(Default)]
pub struct Pace {
    ended: AtomicBool,
    worst: Mutex<Duration>,
}

impl Pace {
    /// Is that thread, until [`Self::end`].
    pub fn keep(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            let start = Instant::now();
            std::thread::sleep(STEP);
            let late = start.elapsed().saturating_sub(STEP);
            let mut worst = self.worst.lock().expect("nobody panics with it");
            *worst = late.max(*worst);
        }
    }

    /// Ends it.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The longest delay since this was last asked for.
    pub fn worst(&self) -> Duration {
        std::mem::take(&mut *self.worst.lock().expect("nobody panics with it"))
    }

    /// Waits for a second without one.
    pub fn calm_down(&self) {
        let deadline = Instant::now() + CALM_WITHIN;
        while Instant::now() < deadline {
            self.worst();
            std::thread::sleep(Duration::from_secs(1));
            if self.worst() < STALL {
                return;
            }
        }
    }
}
