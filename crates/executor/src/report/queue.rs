//! Which report is sent next. Only ids are held here, and only so many of them: whatever there is no room for is on disk all the
//! same, and a sweep comes by.
//!
//! Fresh: an execution has just ended; it has places of its own, so that nothing that is tried again holds it up. Later: it failed
//! less than a minute ago and has a time of its own. All others are the sweep's, which goes over the outbox on disk from
//! the oldest on: once a minute, at the start, and at once when the control plane answers again, then before all others, so that
//! what waited goes out in the order in which it ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::call::Remedy;
use super::schedule;
use crate::store::Waiting;

/// Fresh ones that are held.
const MOST_FRESH: usize = 1024;
/// Of those that failed, so many have a time of their own.
const MOST_LATER: usize = 1024;
/// A sweep of every minute ends after so many failures; the next one goes on behind them.
const FAILURES_OF_SWEEP: u32 = 1024;
/// So many failures show that what waits does not wait for the end of an outage.
const FAILURES_AFTER_OUTAGE: u32 = 32;

/// A report to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The execution's.
    pub id: String,
    /// How often it was tried before.
    pub attempts: u32,
    /// Whose place it takes.
    pub lane: Lane,
}

/// Why a report is sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The execution has just ended.
    Fresh,
    /// Its time has come.
    Later,
    /// The sweep came by.
    Sweep,
}

/// What is next among those that are not fresh.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// To send this one.
    Send(Due),
    /// To read what waits behind this place, and give it to [`Queue::page`].
    Read(i64),
    /// Nothing for now.
    Nothing,
}

/// Why a sweep begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweeping {
    /// A minute is over.
    Minute,
    /// From the oldest on: the service starts, or there was no room for some.
    All,
    /// The same, and somebody wants it now, whatever the control plane asked for.
    Wanted,
    /// From the oldest on and before all others: the control plane answers again.
    Recovered,
}

/// All that is known of what is to be sent.
#[derive(Debug, Default)]
pub struct Queue {
    fresh: VecDeque<String>,
    later: HashMap<String, Later>,
    under_way: HashSet<String>,
    sweep: Option<Sweep>,
    /// Behind which place the next sweep goes on.
    after: i64,
    page: VecDeque<Waiting>,
    /// There was no room for a fresh one.
    left_out: bool,
}

#[derive(Debug)]
struct Later {
    due: Instant,
    attempts: u32,
    /// The control plane named the time.
    asked: bool,
}

#[derive(Debug)]
struct Sweep {
    failures_left: u32,
    before_others: bool,
}

impl Queue {
    /// An execution has ended, and its result is on disk.
    pub fn add(&mut self, id: String) {
        if self.fresh.len() < MOST_FRESH {
            self.fresh.push_back(id);
        } else {
            self.left_out = true;
        }
    }

    /// The fresh one that ended first.
    pub fn next_fresh(&mut self) -> Option<Due> {
        while let Some(id) = self.fresh.pop_front() {
            // The sweep may have come by before it was told of.
            if !self.later.contains_key(&id) && self.under_way.insert(id.clone()) {
                return Some(Due { id, attempts: 0, lane: Lane::Fresh });
            }
        }
        if std::mem::take(&mut self.left_out) {
            self.sweep(Sweeping::All);
        }
        None
    }

    /// What is next of all others. `beating`: those of which a heartbeat is still under way; they will be fresh.
    pub fn next(&mut self, now: Instant, beating: &HashSet<String>) -> Next {
        let before_others = self.sweep.as_ref().is_some_and(|sweep| sweep.before_others);
        if !before_others && let Some(due) = self.next_later(now) {
            return Next::Send(due);
        }
        match self.next_of_sweep(beating) {
            Next::Nothing if before_others => self.next_later(now).map_or(Next::Nothing, Next::Send),
            next => next,
        }
    }

    fn next_later(&mut self, now: Instant) -> Option<Due> {
        let (id, first) = self.later.iter().min_by_key(|(_, later)| later.due)?;
        if first.due > now {
            return None;
        }
        let id = id.clone();
        let attempts = self.later.remove(&id)?.attempts;
        self.under_way.insert(id.clone());
        Some(Due { id, attempts, lane: Lane::Later })
    }

    fn next_of_sweep(&mut self, beating: &HashSet<String>) -> Next {
        let Some(sweep) = &self.sweep else { return Next::Nothing };
        if sweep.failures_left == 0 {
            self.sweep = None;
            self.page.clear();
            return Next::Nothing;
        }
        while let Some(Waiting { seq, execution_id: id, attempts }) = self.page.pop_front() {
            self.after = seq;
            let taken = beating.contains(&id)
                || self.under_way.contains(&id)
                || self.later.get(&id).is_some_and(|later| later.asked)
                || self.fresh.contains(&id);
            if !taken {
                self.later.remove(&id);
                self.under_way.insert(id.clone());
                return Next::Send(Due { id, attempts, lane: Lane::Sweep });
            }
        }
        Next::Read(self.after)
    }

    /// What was read. Nothing: the sweep is over.
    pub fn page(&mut self, page: Vec<Waiting>) {
        if page.is_empty() {
            (self.sweep, self.after) = (None, 0);
        }
        self.page = page.into();
    }

    /// Begins a sweep.
    pub fn sweep(&mut self, why: Sweeping) {
        if why != Sweeping::Minute {
            self.after = 0;
            self.page.clear();
        }
        if why == Sweeping::Wanted {
            self.later.values_mut().for_each(|later| later.asked = false);
        }
        let least = self.sweep.as_ref().map_or(0, |sweep| sweep.failures_left);
        self.sweep = Some(match why {
            Sweeping::Recovered => Sweep { failures_left: least.max(FAILURES_AFTER_OUTAGE), before_others: true },
            _ => Sweep { failures_left: FAILURES_OF_SWEEP, before_others: false },
        });
    }

    /// Notes what became of one that was sent. `chance` is from 0 to 1.
    pub fn settle(&mut self, due: &Due, failed: Option<Remedy>, now: Instant, chance: f64) {
        self.under_way.remove(&due.id);
        // A page that was read before must not send again what is done.
        self.page.retain(|waiting| waiting.execution_id != due.id);
        let asked = match failed {
            None | Some(Remedy::Never) => return,
            Some(Remedy::Again(asked)) => asked,
            Some(Remedy::Reach) => None,
        };
        if let (Lane::Sweep, Some(sweep)) = (due.lane, &mut self.sweep) {
            sweep.failures_left = sweep.failures_left.saturating_sub(1);
        }
        let attempts = due.attempts.saturating_add(1);
        let own_time = match asked {
            Some(asked) => Some(asked.max(schedule::delay(attempts, chance))),
            None => schedule::in_first_minute(attempts, chance),
        };
        if let Some(delay) = own_time
            && self.later.len() < MOST_LATER
        {
            self.later.insert(due.id.clone(), Later { due: now + delay, attempts, asked: asked.is_some() });
        }
    }

    /// How long nothing will be due by itself.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        self.later.values().map(|later| later.due.saturating_duration_since(now)).min()
    }

    /// Whether something that ended just now is still to be sent for the first time, or is being sent.
    pub fn is_busy(&self) -> bool {
        !self.fresh.is_empty() || !self.under_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const AGAIN: Option<Remedy> = Some(Remedy::Again(None));

    fn nobody() -> HashSet<String> {
        HashSet::new()
    }

    fn waiting(seq: i64, attempts: u32) -> Waiting {
        Waiting { seq, execution_id: format!("e{seq}"), attempts }
    }

    /// Sends and settles whatever the sweep of a whole outbox gives; their ids.
    fn sweep_all(queue: &mut Queue, outbox: &[Waiting], now: Instant, became: Option<Remedy>) -> Vec<String> {
        let mut sent = Vec::new();
        loop {
            match queue.next(now, &nobody()) {
                Next::Nothing => return sent,
                Next::Read(after) => {
                    let page = outbox.iter().filter(|waiting| waiting.seq > after).take(2).cloned().collect();
                    queue.page(page);
                }
                Next::Send(due) => {
                    queue.settle(&due, became, now, 0.5);
                    sent.push(due.id);
                }
            }
        }
    }

    #[test]
    fn what_fails_comes_back_at_its_time_until_the_minute_is_over() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.add("a".into());
        let mut due = queue.next_fresh().unwrap();
        let mut now = start;
        for seconds in [1, 2, 4, 8, 10, 10, 10, 10, 10] {
            queue.settle(&due, AGAIN, now, 0.5);
            assert_eq!(queue.idle_for(now), Some(SECOND * seconds));
            assert_eq!(queue.next(now + SECOND * seconds - SECOND / 10, &nobody()), Next::Nothing);
            now += SECOND * seconds;
            let Next::Send(next) = queue.next(now, &nobody()) else { panic!("it is not due") };
            due = next;
        }
        queue.settle(&due, AGAIN, now, 0.5);
        assert_eq!((due.attempts, queue.idle_for(now)), (9, None));
        queue.sweep(Sweeping::Minute);
        assert_eq!(
            sweep_all(&mut queue, &[Waiting { seq: 1, execution_id: "a".into(), attempts: 10 }], now, None),
            ["a"]
        );
    }

    #[test]
    fn what_is_done_does_not_come_back() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for became in [None, Some(Remedy::Never)] {
            queue.add("a".into());
            let due = queue.next_fresh().unwrap();
            queue.settle(&due, became, now, 0.5);
            assert_eq!(queue.next(now + 100 * SECOND, &nobody()), Next::Nothing);
            assert!(!queue.is_busy());
        }
    }

    #[test]
    fn one_that_waits_holds_up_no_fresh_one() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.sweep(Sweeping::All);
        queue.page(vec![waiting(1, 0)]);
        queue.add("b".into());
        assert_eq!(queue.next_fresh().unwrap().id, "b");
        let Next::Send(due) = queue.next(now, &nobody()) else { panic!("the sweep") };
        assert_eq!(due.id, "e1");
    }

    #[test]
    fn the_end_of_an_outage_makes_all_due_oldest_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for seq in [3, 1, 2] {
            queue.add(format!("e{seq}"));
            let due = queue.next_fresh().unwrap();
            queue.settle(&due, Some(Remedy::Reach), now, 0.5);
        }
        assert_eq!(queue.next(now, &nobody()), Next::Nothing);
        queue.sweep(Sweeping::Recovered);
        let outbox = [waiting(1, 1), waiting(2, 1), waiting(3, 1), waiting(4, 20)];
        assert_eq!(sweep_all(&mut queue, &outbox, now, None), ["e1", "e2", "e3", "e4"]);
        assert_eq!((queue.later.len(), queue.is_busy()), (0, false));
    }

    #[test]
    fn a_time_that_was_asked_for_is_kept_to_whatever_recovers() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("e1".into());
        let due = queue.next_fresh().unwrap();
        queue.settle(&due, Some(Remedy::Again(Some(7 * SECOND))), now, 0.5);
        queue.sweep(Sweeping::Recovered);
        assert!(sweep_all(&mut queue, &[waiting(1, 1)], now, None).is_empty());
        assert_eq!(queue.idle_for(now), Some(7 * SECOND));
        queue.sweep(Sweeping::Wanted);
        assert_eq!(sweep_all(&mut queue, &[waiting(1, 1)], now, None), ["e1"]);
        // Behind the first minute too, where others have no time of their own.
        let late = Due { id: "e2".into(), attempts: 50, lane: Lane::Sweep };
        queue.settle(&late, Some(Remedy::Again(Some(90 * SECOND))), now, 0.5);
        assert_eq!(queue.later["e2"].due, now + 90 * SECOND);
    }

    #[test]
    fn one_that_beats_or_is_under_way_is_not_the_sweeps() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("e2".into());
        let under_way = queue.next_fresh().unwrap();
        queue.add("e3".into());
        queue.sweep(Sweeping::All);
        queue.page(vec![waiting(1, 0), waiting(2, 0), waiting(3, 0)]);
        assert_eq!(queue.next(now, &HashSet::from(["e1".to_owned()])), Next::Read(3));
        queue.settle(&under_way, None, now, 0.5);
        queue.page(Vec::new());
        assert_eq!(queue.next(now, &nobody()), Next::Nothing);
    }

    #[test]
    fn a_page_that_was_read_before_sends_nothing_twice() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("e2".into());
        let under_way = queue.next_fresh().unwrap();
        queue.sweep(Sweeping::All);
        queue.page(vec![waiting(2, 0), waiting(3, 0)]);
        queue.settle(&under_way, None, now, 0.5);
        let Next::Send(due) = queue.next(now, &nobody()) else { panic!("the sweep") };
        assert_eq!(due.id, "e3");
    }

    #[test]
    fn what_is_never_taken_ends_a_sweep_and_the_next_goes_on_behind_it() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let outbox: Vec<Waiting> = (1..=2000).map(|seq| waiting(seq, 50)).collect();
        queue.sweep(Sweeping::Recovered);
        assert_eq!(sweep_all(&mut queue, &outbox, now, AGAIN).len(), FAILURES_AFTER_OUTAGE as usize);
        queue.sweep(Sweeping::Minute);
        let sent = sweep_all(&mut queue, &outbox, now, AGAIN);
        assert_eq!((sent.len(), sent[0].as_str()), (FAILURES_OF_SWEEP as usize, "e33"));
        queue.sweep(Sweeping::Minute);
        assert_eq!(sweep_all(&mut queue, &outbox, now, AGAIN).last().unwrap(), "e2000");
        queue.sweep(Sweeping::Minute);
        assert_eq!(
            sweep_all(&mut queue, &outbox, now, None),
            outbox.iter().map(|w| w.execution_id.clone()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_there_is_no_room_for_is_left_to_the_disk() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let outbox: Vec<Waiting> = (0..3000).map(|seq| waiting(seq + 1, 1)).collect();
        outbox.iter().for_each(|waiting| queue.add(waiting.execution_id.clone()));
        let mut tried = 0;
        while let Some(due) = queue.next_fresh() {
            queue.settle(&due, Some(Remedy::Reach), now, 0.5);
            tried += 1;
        }
        assert_eq!((tried, queue.later.len()), (MOST_FRESH, MOST_LATER));
        // The rest is swept up: all of it, once they are taken.
        assert_eq!(sweep_all(&mut queue, &outbox, now, None).len(), 3000);
        assert!(queue.later.is_empty() && queue.page.is_empty());
    }
}
