//! The part of a file that a request asks for (RFC 9110, section 14).

/// What a `Range` header comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it: also what a header that can't be read, or that asks for several parts, may be answered with.
    All,
    /// So many bytes from there on.
    Part {
        /// The first byte.
        start: u64,
        /// How many; at least one.
        length: u64,
    },
    /// A part that there is not.
    Nothing,
}

/// Reads the header for a file of this size.
pub fn asked(header: &str, size: u64) -> Asked {
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Asked::All;
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // What does not fit is beyond any file.
        true if !text.is_empty() => Some(text.parse().unwrap_or(u64::MAX)),
        _ => None,
    };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        (None, Some(last)) if first.is_empty() => (size - last.min(size), size),
        _ => return Asked::All,
    };
    if start >= end { Asked::Nothing } else { Asked::Part { start, length: end - start } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_told_as_the_standard_has_them() {
        for (header, expected) in [
            ("bytes=0-0", Asked::Part { start: 0, length: 1 }),
            ("bytes=2-", Asked::Part { start: 2, length: 8 }),
            ("bytes=-3", Asked::Part { start: 7, length: 3 }),
            ("bytes=-30", Asked::Part { start: 0, length: 10 }),
            ("bytes=5-99999999999999999999999", Asked::Part { start: 5, length: 5 }),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=99999999999999999999999-", Asked::Nothing),
            ("bytes=3-2", Asked::All),
            ("bytes=0-1,4-5", Asked::All),
            ("lines=0-1", Asked::All),
            ("bytes=-", Asked::All),
            ("bytes=+1-2", Asked::All),
        ] {
            assert_eq!(asked(header, 10), expected, "{header}");
        }
        assert_eq!(asked("bytes=0-", 0), Asked::Nothing);
    }

    proptest! {
        #[test]
        fn no_part_is_outside_of_the_file(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in any::<u64>()) {
            if let Asked::Part { start, length } = asked(&header, size) {
                prop_assert!(length > 0 && start < size && length <= size - start);
            }
        }
    }
}
