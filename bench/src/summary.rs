//! Many times as a few figures: percentiles by nearest rank, and the mean.

use serde::Serialize;
use std::time::Duration;

/// What is said of the times of one row.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    pub count: usize,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
}

impl Summary {
    /// Of times in any order.
    pub fn of(mut times: Vec<Duration>) -> Summary {
        times.sort_unstable();
        let in_all: Duration = times.iter().sum();
        Summary {
            count: times.len(),
            mean_ms: ms(in_all) / times.len() as f64,
            p50_ms: percentile_ms(&times, 50),
            p90_ms: percentile_ms(&times, 90),
            p99_ms: percentile_ms(&times, 99),
        }
    }

    /// As cells of a table: how many, then p50, p90, p99 in milliseconds.
    pub fn cells(&self) -> [String; 4] {
        [format!("{}", self.count), figure(self.p50_ms), figure(self.p90_ms), figure(self.p99_ms)]
    }
}

/// Two digits behind the point where they say something.
pub fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(f64::NAN, |&time| ms(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let summary = Summary::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((summary.p50_ms, summary.p90_ms, summary.p99_ms), (100.0, 180.0, 198.0));
        assert_eq!((summary.count, summary.mean_ms), (200, 100.5));
        let one = Summary::of(vec![Duration::from_millis(7)]);
        assert_eq!((one.p50_ms, one.p99_ms), (7.0, 7.0));
    }
}
