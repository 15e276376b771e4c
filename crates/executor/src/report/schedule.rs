//! When a report is tried again, as data: in its first minute after 1, 2, 4, 8 and then every 10 seconds, after that with the
//! sweep that comes once a minute, without end. Everything is counted on the monotonic clock, in memory; the disk holds the
//! number of attempts only, so that no clock that jumps can put anything off.

use std::time::{Duration, SystemTime};

/// Seconds after each failed attempt. The last of them is the last of the first minute.
const FIRST_MINUTE: [u32; 9] = [1, 2, 4, 8, 10, 10, 10, 10, 10];
/// Seconds from sweep to sweep.
const MINUTE: u32 = 60;
/// Part by which a delay may be longer or shorter, so that what failed together does not come back together.
const JITTER: f64 = 0.1;
/// However long the control plane asks for, it is called again after this.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How long to wait after so many failed attempts; `None` when the first minute is over. `chance` is from 0 to 1.
pub fn in_first_minute(attempts: u32, chance: f64) -> Option<Duration> {
    let seconds = FIRST_MINUTE.get(attempts.checked_sub(1)? as usize)?;
    Some(jittered(*seconds, chance))
}

/// How long to wait where there is no first minute any more.
pub fn every_minute(chance: f64) -> Duration {
    jittered(MINUTE, chance)
}

/// How long to wait in either.
pub fn delay(attempts: u32, chance: f64) -> Duration {
    in_first_minute(attempts, chance).unwrap_or_else(|| every_minute(chance))
}

fn jittered(seconds: u32, chance: f64) -> Duration {
    Duration::from_secs(seconds.into()).mul_f64(1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
}

/// What a `Retry-After` header asks for (RFC 9110, section 10.2.3): seconds or a date, within bounds. A date is compared with
/// the answer's own, since its clock may not be ours.
pub fn retry_after(header: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let text = header.trim();
    let asked = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_or(LONGEST_ASKED, Duration::from_secs)
    } else {
        let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_second_doubles_to_ten_for_a_minute_and_then_it_is_every_minute() {
        let seconds: Vec<u64> = (1..=10).map(|attempts| delay(attempts, 0.5).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10, 10, 10, 10, 60]);
        assert_eq!(in_first_minute(10, 0.5), None);
        assert_eq!(delay(u32::MAX, 0.5), Duration::from_secs(60));
    }

    #[test]
    fn jitter_is_a_tenth_to_either_side() {
        assert_eq!(delay(1, 0.0), Duration::from_millis(900));
        assert_eq!(delay(1, 1.0), Duration::from_millis(1100));
        assert_eq!(delay(1, f64::NAN.max(7.0)), Duration::from_millis(1100));
    }

    #[test]
    fn what_is_asked_for_is_given_within_bounds() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |text| retry_after(text, None, now).map(|asked| asked.as_secs());
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked(" 0 "), Some(0));
        assert_eq!(asked("86400"), Some(300));
        assert_eq!(asked("99999999999999999999999"), Some(300));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:57 GMT"), Some(20));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:17 GMT"), Some(0));
        assert_eq!(asked("Fri, 31 Dec 2094 08:49:17 GMT"), Some(300));
        for nonsense in ["", "-1", "soon", "1.5", "1e3"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_answer() {
        let wrong_clock = UNIX_EPOCH;
        let asked = retry_after("Sun, 06 Nov 1994 08:49:47 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT"), wrong_clock);
        assert_eq!(asked, Some(Duration::from_secs(10)));
    }
}
