//! A bounded stock of things that take a while to make, made ahead of demand.
//!
//! How many are kept follows demand: each time somebody comes and there is none, one more is wanted, up to a bound; what lay
//! unused for a while is wanted no more. Where making one takes no longer than coming back for it, who comes while one is being made
//! for nobody waits for that one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

/// After this long, what lay unused all the time is too much.
const PERIOD: Duration = Duration::from_secs(30);

/// The stock.
pub struct Pool<T> {
    most: usize,
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    idle: VecDeque<T>,
    waiting: VecDeque<oneshot::Sender<T>>,
    making: usize,
    wanted: usize,
    /// Fewest idle since this time.
    fewest: usize,
    since: Instant,
    closed: bool,
}

impl<T> Pool<T> {
    /// Of at most this many idle.
    pub fn new(most: usize) -> Self {
        let state = State {
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            making: 0,
            wanted: most.min(1),
            fewest: 0,
            since: Instant::now(),
            closed: false,
        };
        Self { most, state: state.into(), changed: Notify::new() }
    }

    /// Whether it ever keeps any.
    pub fn is_kept(&self) -> bool {
        self.most > 0
    }

    /// How many there are now.
    pub fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    /// The oldest that passes the test; the others are dropped. If there is none, and `waits`, the next that is made if one is being
    /// made for nobody else.
    pub async fn take(&self, fit: impl Fn(&T) -> bool, waits: bool) -> Option<T> {
        if !self.is_kept() {
            return None;
        }
        let promised = {
            let mut state = self.lock();
            let found = loop {
                match state.idle.pop_front() {
                    Some(item) if fit(&item) => break Some(item),
                    Some(_unfit) => {}
                    None => break None,
                }
            };
            state.fewest = state.fewest.min(state.idle.len());
            match found {
                Some(item) => Ok(item),
                None => {
                    state.wanted = (state.wanted + 1).min(self.most);
                    let free = waits && state.making > state.waiting.len();
                    Err(free.then(|| {
                        let (give, get) = oneshot::channel();
                        state.waiting.push_back(give);
                        get
                    }))
                }
            }
        };
        self.changed.notify_one();
        match promised {
            Ok(item) => Some(item),
            Err(Some(promise)) => promise.await.ok(),
            Err(None) => None,
        }
    }

    /// Until one more is wanted.
    pub async fn lacking(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                state.settle();
                if state.lacks() {
                    return;
                }
            }
            tokio::time::timeout(PERIOD, changed).await.ok();
        }
    }

    /// If one more is still wanted: it has to be made now, and given to [`Making::done`].
    pub fn begin(&self) -> Option<Making<'_, T>> {
        let mut state = self.lock();
        state.lacks().then(|| {
            state.making += 1;
            Making { pool: self, done: false }
        })
    }

    /// Gives up all that is idle, and keeps no more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn lacks(&self) -> bool {
        !self.closed && self.idle.len() + self.making < self.wanted
    }

    /// Wants fewer when a period is over in which some were never needed; one is always kept.
    fn settle(&mut self) {
        if self.since.elapsed() < PERIOD {
            return;
        }
        let unneeded = self.fewest.min(self.wanted.saturating_sub(1));
        self.wanted -= unneeded;
        self.idle.truncate(self.wanted);
        self.fewest = self.idle.len();
        self.since = Instant::now();
    }
}

/// Somebody is making one. Dropped without [`Self::done`], it failed.
pub struct Making<'a, T> {
    pool: &'a Pool<T>,
    done: bool,
}

impl<T> Making<'_, T> {
    /// It is there: for whoever waits longest, or for the stock.
    pub fn done(mut self, item: T) {
        self.done = true;
        let mut state = self.pool.lock();
        state.making -= 1;
        let mut item = item;
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(item) {
                Ok(()) => return,
                Err(back) => item = back,
            }
        }
        if !state.closed {
            state.idle.push_back(item);
        }
    }
}

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.pool.lock();
            state.making -= 1;
            // Somebody who counted on it does it himself.
            if state.waiting.len() > state.making {
                state.waiting.pop_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_pool_gives_nothing_and_wants_more_up_to_its_bound() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            assert_eq!(pool.take(|_| true, true).await, None::<u32>);
        }
        for number in 0..3 {
            pool.lacking().await;
            pool.begin().unwrap().done(number);
        }
        assert!(pool.begin().is_none());
        assert!(tokio::time::timeout(Duration::from_millis(50), pool.lacking()).await.is_err());
        assert_eq!(pool.take(|number| *number > 0, true).await, Some(1));
        assert_eq!(pool.idle(), 1);
    }

    #[tokio::test]
    async fn who_comes_while_one_is_made_waits_for_it() {
        let pool = Pool::new(1);
        let making = pool.begin().unwrap();
        let (taken, ()) = tokio::join!(pool.take(|_| true, true), async { making.done(7) });
        assert_eq!(taken, Some(7));
        let making = pool.begin().unwrap();
        let (taken, ()) = tokio::join!(pool.take(|_| true, true), async { drop(making) });
        assert_eq!(taken, None);
    }

    #[tokio::test]
    async fn a_closed_one_keeps_nothing() {
        let pool = Pool::new(1);
        let making = pool.begin().unwrap();
        pool.close();
        making.done(7);
        assert_eq!((pool.idle(), pool.take(|_| true, true).await), (0, None));
        let none = Pool::<u32>::new(0);
        assert!(!none.is_kept() && none.take(|_| true, true).await.is_none());
    }
}
