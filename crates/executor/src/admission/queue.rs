//! How many run and how many wait: a bounded queue, first come, first served.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

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

/// A place in the line.
pub struct Ticket {
    turn: Turn,
    came: Instant,
}

enum Turn {
    Now(OwnedSemaphorePermit),
    Later(Acquiring, Place),
}

type Acquiring = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

impl Ticket {
    /// Waits for the slot.
    ///
    /// # Errors
    /// The queue was closed meanwhile.
    pub async fn turn(self) -> Result<Slot, Refused> {
        match self.turn {
            Turn::Now(permit) => Ok(Slot { _permit: permit, waited: Duration::ZERO }),
            Turn::Later(permit, _place) => {
                let permit = permit.await.map_err(|_| Refused::Closed)?;
                Ok(Slot { _permit: permit, waited: self.came.elapsed() })
            }
        }
    }
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

    /// A slot, or a place in the line for one. Dropping it gives either up.
    ///
    /// # Errors
    /// There is no place, or the queue is closed.
    pub fn enter(self: &Arc<Self>) -> Result<Ticket, Refused> {
        self.line_up(self.waiting_at_most)
    }

    /// The same for one that was let in before: there is always a place.
    ///
    /// # Errors
    /// The queue is closed.
    pub fn enter_again(self: &Arc<Self>) -> Result<Ticket, Refused> {
        self.line_up(usize::MAX)
    }

    fn line_up(self: &Arc<Self>, waiting_at_most: usize) -> Result<Ticket, Refused> {
        // A free permit belongs to whoever waits longest, so this never overtakes anybody.
        let turn = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(permit) => Turn::Now(permit),
            Err(TryAcquireError::Closed) => return Err(Refused::Closed),
            Err(TryAcquireError::NoPermits) => {
                let place = Place::take(self, waiting_at_most).ok_or(Refused::Full)?;
                let mut permit: Acquiring =
                    Box::pin(tokio::task::unconstrained(Arc::clone(&self.slots).acquire_owned()));
                // The first look takes the place in the line.
                match permit.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(permit) => Turn::Now(permit.map_err(|_| Refused::Closed)?),
                    Poll::Pending => Turn::Later(permit, place),
                }
            }
        };
        Ok(Ticket { turn, came: Instant::now() })
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
    fn take(queue: &Arc<Queue>, at_most: usize) -> Option<Self> {
        let one_more = |waiting| (waiting < at_most).then_some(waiting + 1);
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

    async fn admit(queue: &Arc<Queue>) -> Result<Slot, Refused> {
        queue.enter()?.turn().await
    }

    fn admit_in_background(queue: &Arc<Queue>) -> tokio::task::JoinHandle<Result<Slot, Refused>> {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { admit(&queue).await })
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_what_can_not_wait_is_refused() {
        let queue = Arc::new(Queue::new(1, 1));
        let first = admit(&queue).await.unwrap();
        let waiting = admit_in_background(&queue);
        until_waiting(&queue, 1).await;
        assert_eq!(admit(&queue).await.unwrap_err(), Refused::Full);
        assert_eq!(queue.running(), 1);
        drop(first);
        drop(waiting.await.unwrap().unwrap());
        assert_eq!((queue.waiting(), queue.running()), (0, 0));
    }

    #[tokio::test]
    async fn who_leaves_frees_the_place() {
        let queue = Arc::new(Queue::new(1, 1));
        let _running = admit(&queue).await.unwrap();
        let leaver = admit_in_background(&queue);
        until_waiting(&queue, 1).await;
        leaver.abort();
        assert!(leaver.await.is_err());
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn first_come_is_first_served() {
        let queue = Arc::new(Queue::new(1, 10));
        let running = admit(&queue).await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (queue_of_task, order) = (Arc::clone(&queue), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _slot = admit(&queue_of_task).await.unwrap();
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
        let _running = admit(&queue).await.unwrap();
        let waiting = admit_in_background(&queue);
        until_waiting(&queue, 1).await;
        queue.close();
        assert_eq!(waiting.await.unwrap().unwrap_err(), Refused::Closed);
        assert_eq!(admit(&queue).await.unwrap_err(), Refused::Closed);
    }

    #[tokio::test]
    async fn whoever_enters_first_is_first_whenever_it_comes_to_wait() {
        let queue = Arc::new(Queue::new(1, 10));
        let running = admit(&queue).await.unwrap();
        let (first, second) = (queue.enter().unwrap(), queue.enter().unwrap());
        let mut second = tokio::spawn(second.turn());
        drop(running);
        tokio::time::timeout(Duration::from_millis(50), &mut second).await.unwrap_err();
        drop(first.turn().await.unwrap());
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_that_was_let_in_before_finds_a_place_in_a_full_queue() {
        let queue = Arc::new(Queue::new(1, 0));
        let running = admit(&queue).await.unwrap();
        assert!(matches!(queue.enter(), Err(Refused::Full)));
        let again = queue.enter_again().unwrap();
        assert_eq!(queue.waiting(), 1);
        drop(running);
        again.turn().await.unwrap();
        assert_eq!(queue.waiting(), 0);
    }
}
