//! What the calls so far tell of the control plane: whether it can be reached, and the moment at which it answers again.
//!
//! An execution that the control plane refuses on its own account must not count as an outage, nor each success beside it as the end
//! of one: then what is refused would be sent again with every success.

use std::time::{Duration, Instant};

use super::call::Remedy;

/// So many failures in a row are an outage, although each of them was answered.
const FAILURES: u32 = 3;
/// One end of an outage comes no sooner after another.
const APART: Duration = Duration::from_secs(5);

/// The calls so far.
#[derive(Debug, Default)]
pub struct Course {
    reachable: bool,
    /// Since the last success.
    unreached: bool,
    failures: u32,
    ended: Option<Instant>,
}

impl Course {
    /// Notes how a call went; whether it is the first that is dealt with after an outage.
    pub fn note(&mut self, call: Result<(), Remedy>, now: Instant) -> bool {
        self.reachable = call != Err(Remedy::Reach);
        match call {
            Err(remedy) if remedy != Remedy::Never => {
                self.unreached |= remedy == Remedy::Reach;
                self.failures = self.failures.saturating_add(1);
                false
            }
            // What it will never take it has looked at.
            _ => {
                let was_away = self.unreached || self.failures >= FAILURES;
                (self.unreached, self.failures) = (false, 0);
                let ends = was_away && self.ended.is_none_or(|ended| now.duration_since(ended) >= APART);
                if ends {
                    self.ended = Some(now);
                }
                ends
            }
        }
    }

    /// Whether the last call was answered.
    pub fn reachable(&self) -> bool {
        self.reachable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Result<(), Remedy> = Err(Remedy::Again(None));
    const REACH: Result<(), Remedy> = Err(Remedy::Reach);

    #[test]
    fn the_first_success_after_an_outage_ends_it() {
        let (mut course, now) = (Course::default(), Instant::now());
        assert!(!course.reachable());
        assert!(!course.note(REACH, now) && !course.reachable());
        assert!(course.note(Ok(()), now) && course.reachable());
        assert!(!course.note(Ok(()), now));
    }

    #[test]
    fn one_that_is_refused_beside_others_is_no_outage() {
        let (mut course, now) = (Course::default(), Instant::now());
        for _ in 0..10 {
            assert!(!course.note(AGAIN, now) && course.reachable());
            assert!(!course.note(Ok(()), now));
        }
        for _ in 0..FAILURES {
            course.note(AGAIN, now);
        }
        assert!(course.note(Ok(()), now));
    }

    #[test]
    fn outages_end_some_seconds_apart() {
        let (mut course, now) = (Course::default(), Instant::now());
        course.note(REACH, now);
        assert!(course.note(Ok(()), now));
        course.note(REACH, now);
        assert!(!course.note(Ok(()), now + APART / 2));
        course.note(REACH, now);
        assert!(course.note(Ok(()), now + APART));
    }
}
