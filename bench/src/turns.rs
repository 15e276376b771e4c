//! Rows that take turns, so that whatever else the machine does slows all of them alike.
//!
//! A turn is a short stretch of one row without interruption: only so does a service show what it gives to a client that does not
//! pause. Between turns the machine rests, since what one row leaves to be cleaned up or prepared anew is not to be paid by the
//! next; and the first calls of a turn don't count, for the same reason.

use crate::summary::Summary;
use crate::{Result, progress};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 6;
const TURN: Duration = Duration::from_millis(350);
/// A slow row goes on until it has as many.
const CALLS_OF_A_TURN: usize = 5;
const UNCOUNTED_CALLS: usize = 2;
const REST: Duration = Duration::from_millis(150);

/// What a row measures.
pub trait Measured {
    /// Comes before each turn; what it takes is nobody's time.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does it once; gives how long it took.
    fn once(&mut self) -> Result<Duration>;
}

/// A row: what is measured, and how long its caller waits before each call.
pub struct Row<'a> {
    pub measured: Box<dyn Measured + 'a>,
    pub pause: Duration,
}

/// Says how it is done, for the head of a table.
pub fn described() -> String {
    format!(
        "{ROUNDS} rounds; in each, every row has a turn of {} ms and at least {CALLS_OF_A_TURN} calls, after \
         {UNCOUNTED_CALLS} that do not count",
        TURN.as_millis()
    )
}

/// Takes the times of all rows, in their order.
pub fn take(what: &str, rows: &mut [Row]) -> Result<Vec<Summary>> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); rows.len()];
    for round in 1..=ROUNDS {
        progress(&format!("latency, {what}: round {round} of {ROUNDS}"));
        for (row, times) in rows.iter_mut().zip(&mut times) {
            turn(row, times)?;
            thread::sleep(REST);
        }
    }
    Ok(times.into_iter().map(Summary::of).collect())
}

fn turn(row: &mut Row, times: &mut Vec<Duration>) -> Result<()> {
    let before = times.len();
    row.measured.begin()?;
    for _ in 0..UNCOUNTED_CALLS {
        row.measured.once()?;
    }
    let start = Instant::now();
    while start.elapsed() < TURN || times.len() - before < CALLS_OF_A_TURN {
        if !row.pause.is_zero() {
            thread::sleep(row.pause);
        }
        times.push(row.measured.once()?);
    }
    Ok(())
}
