//! How many run and how many wait: a bounded queue, first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Slots for running executions and places to wait for one.
#[derive(Debug)]
pub struct Queue {
    slots: Arc<Semaphore>,
    running_at_most: usize,
    waiting: AtomicUsize,
    waiting_at_most: usize,
}

/// The right to run; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    /// How long it was waited for.
    pub waited: Duration,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// All slots and all places to wait are taken.
    Full,
    /// Nothing new is started any more.
    Closed,
}

impl Queue {
    /// With so many slots and so many places to wait.
    pub fn new(running_at_most: usize, waiting_at_most: usize) -> Self {
        let slots = Arc::new(Semaphore::new(running_at_most));
        Self { slots, running_at_most, waiting: AtomicUsize::new(0), waiting_at_most }
    }

    /// Waits for a slot. Dropping the future gives the place up.
    ///
    /// # Errors
    /// At once when there is no place to wait; while waiting when the queue is closed.
    pub async fn admit(self: &Arc<Self>) -> Result<Slot, Refused> {
        let came = Instant::now();
        // A free permit belongs to whoever waits longest, so this never overtakes anybody.
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(permit) => return Ok(Slot { _permit: permit, waited: Duration::ZERO }),
            Err(TryAcquireError::Closed) => return Err(Refused::Closed),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _place = Place::take(self).ok_or(Refused::Full)?;
        let permit = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Refused::Closed)?;
        Ok(Slot { _permit: permit, waited: came.elapsed() })
    }

    /// Refuses everybody from now on, those who wait too.
    pub fn close(&self) {
        self.slots.close();
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running_at_most.saturating_sub(self.slots.available_permits())
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

struct Place(Arc<Queue>);

impl Place {
    fn take(queue: &Arc<Queue>) -> Option<Self> {
        let one_more = |waiting| (waiting < queue.waiting_at_most).then_some(waiting + 1);
        queue.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(Arc::clone(queue)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until_waiting(queue: &Queue, count: usize) {
        while queue.waiting() < count {
            tokio::task::yield_now().await;
        }
    }

    fn admit_in_background(queue: &Arc<Queue>) -> tokio::task::JoinHandle<Result<Slot, Refused>> {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { queue.admit().await })
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_what_can_not_wait_is_refused() {
        let queue = Arc::new(Queue::new(1, 1));
        let first = queue.admit().await.unwrap();
        let waiting = admit_in_background(&queue);
        until_waiting(&queue, 1).await;
        assert_eq!(queue.admit().await.unwrap_err(), Refused::Full);
        assert_eq!(queue.running(), 1);
        drop(first);
        drop(waiting.await.unwrap().unwrap());
        assert_eq!((queue.waiting(), queue.running()), (0, 0));
    }

    #[tokio::test]
    async fn who_leaves_frees_the_place() {
        let queue = Arc::new(Queue::new(1, 1));
        let _running = queue.admit().await.unwrap();
        let leaver = admit_in_background(&queue);
        until_waiting(&queue, 1).await;
        leaver.abort();
        assert!(leaver.await.is_err());
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn first_come_is_first_served() {
        let queue = Arc::new(Queue::new(1, 10));
        let running = queue.admit().await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (queue_of_task, order) = (Arc::clone(&queue), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _slot = queue_of_task.admit().await.unwrap();
                order.lock().unwrap().push(number);
            }));
            until_waiting(&queue, number + 1).await;
        }
        drop(running);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_closed_queue_refuses_those_who_wait_too() {
        let queue = Arc::new(Queue::new(1, 1));
        let _running = queue.admit().await.unwrap();
        let waiting = admit_in_background(&queue);
        until_waiting(&queue, 1).await;
        queue.close();
        assert_eq!(waiting.await.unwrap().unwrap_err(), Refused::Closed);
        assert_eq!(queue.admit().await.unwrap_err(), Refused::Closed);
    }
}
