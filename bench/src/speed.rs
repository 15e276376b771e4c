//! Whether a service that has done much is as fast as it was.
//!
//! The executions of a soak are of many kinds, some a hundred times as slow as others, so that the p50 of all of them may lie in a gap
//! between two kinds and tell nothing. What is compared is the p50 of each kind, and of these the geometric mean: it says by
//! which factor executions became slower, whatever their kind. Both ends have the same kinds in the same numbers.

use crate::soak::PERIOD;
use crate::summary::{Summary, figure};
use std::time::Duration;

/// So many executions at each end.
const STRETCH: usize = 1000;
/// A kind of execution comes again after so many (programs, in a session and without).
const KINDS: usize = 28;
const MAY_BE_SLOWER: f64 = 1.1;
/// So many stretches between the ends are shown, to tell a trend from a busy minute.
const SHOWN: usize = 10;

/// Prints how fast the executions were along the way; whether the last stretch is as fast as the first.
pub fn stayed(times: &[Duration]) -> bool {
    let Some(last) =
        times.len().checked_sub(STRETCH).map(|last| last / PERIOD * PERIOD).filter(|&last| last >= STRETCH)
    else {
        println!("SKIPPED: whether the end is as fast as the beginning takes {} executions", STRETCH + 2 * PERIOD);
        return true;
    };
    let typical: Vec<f64> = starts(last).map(|start| typical_ms(&times[start..start + STRETCH])).collect();
    let (first, last) = (typical[0], typical[typical.len() - 1]);
    let along: Vec<String> = typical.iter().map(|&ms| figure(ms)).collect();
    let holds = last <= first * MAY_BE_SLOWER;
    println!("\np50 of {STRETCH} executions, mean of their kinds, ms, along the way: {}", along.join(" "));
    println!(
        "the last of them / the first: {:.3} ×, at most {MAY_BE_SLOWER} ×: {}",
        last / first,
        if holds { "PASS" } else { "SLOWER" }
    );
    holds
}

/// Where the stretches that are shown begin: a whole number of periods each, so that all have the same kinds.
fn starts(last: usize) -> impl Iterator<Item = usize> {
    let periods = last / PERIOD;
    let shown = SHOWN.min(periods + 1);
    (0..shown).map(move |number| number * periods / (shown - 1) * PERIOD)
}

fn typical_ms(times: &[Duration]) -> f64 {
    let of_kind = |kind| Summary::of(times.iter().copied().skip(kind).step_by(KINDS).collect()).p50_ms;
    let logarithms = (0..KINDS).map(|kind| of_kind(kind).ln());
    (logarithms.sum::<f64>() / KINDS as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds as different as a shell and a Node.
    fn times(count: usize, slower_at_the_end: f64) -> Vec<Duration> {
        let slower = |number| if number > count / 2 { slower_at_the_end } else { 1.0 };
        (0..count)
            .map(|number| Duration::from_secs_f64((1 + number % KINDS * 3) as f64 * 1e-3 * slower(number)))
            .collect()
    }

    #[test]
    fn a_slower_end_is_told() {
        assert!(stayed(&times(20_000, 1.0)) && stayed(&times(20_000, 1.09)));
        assert!(!stayed(&times(20_000, 1.11)) && !stayed(&times(2400, 1.2)));
    }

    #[test]
    fn stretches_are_whole_periods_from_the_first_to_the_last() {
        let starts: Vec<usize> = starts(18_900).collect();
        assert_eq!((starts[0], starts[SHOWN - 1], starts.len()), (0, 18_900, SHOWN));
        assert!(starts.iter().all(|start| start % PERIOD == 0 && start + STRETCH <= 20_000));
    }
}
