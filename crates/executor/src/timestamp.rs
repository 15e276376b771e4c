//! Times of the wall clock as people and other programs are told them: RFC 3339, in UTC. Nothing is ever decided by one.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

const SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Now, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// How long ago that was; a clock that was set back makes it now.
pub fn seconds_since(unix_ms: i64) -> u64 {
    u64::try_from(now_ms().saturating_sub(unix_ms) / 1000).unwrap_or(0)
}

/// A time that is kept in milliseconds. What no calendar has is told as the beginning of it.
pub fn of_ms(unix_ms: i64) -> OffsetDateTime {
    of_nanoseconds(i128::from(unix_ms) * 1_000_000)
}

/// A time that a file has: seconds and nanoseconds. A program may have set any year.
pub fn of_file((seconds, nanoseconds): (i64, i64)) -> OffsetDateTime {
    of_nanoseconds(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
}

fn of_nanoseconds(nanoseconds: i128) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// To the second.
pub fn seconds(time: OffsetDateTime) -> String {
    told(time, SECONDS)
}

/// To the millisecond.
pub fn milliseconds(time: OffsetDateTime) -> String {
    told(time, MILLISECONDS)
}

/// To the microsecond.
pub fn microseconds(time: OffsetDateTime) -> String {
    told(time, MICROSECONDS)
}

fn told(time: OffsetDateTime, form: &[BorrowedFormatItem<'_>]) -> String {
    time.to_offset(UtcOffset::UTC).format(form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_as_precise_as_they_are_wanted() {
        let time = of_ms(1_767_952_800_001);
        assert_eq!(seconds(time), "2026-01-09T10:00:00Z");
        assert_eq!(milliseconds(time), "2026-01-09T10:00:00.001Z");
        assert_eq!(microseconds(time), "2026-01-09T10:00:00.001000Z");
        assert_eq!(milliseconds(time::macros::datetime!(2026-01-09 11:00:00.0785 +1)), "2026-01-09T10:00:00.078Z");
    }

    #[test]
    fn a_time_is_told_whatever_it_is() {
        assert_eq!(microseconds(of_file((0, 1_500))), "1970-01-01T00:00:00.000001Z");
        assert_eq!(microseconds(of_file((i64::MAX, 0))), "1970-01-01T00:00:00.000000Z");
        assert_eq!(seconds(of_ms(i64::MAX)), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_to_come_was_no_time_ago() {
        assert_eq!(seconds_since(now_ms() + 100_000), 0);
        assert!((100..110).contains(&seconds_since(now_ms() - 100_000)));
        assert_eq!(seconds_since(i64::MAX), 0);
    }
}
