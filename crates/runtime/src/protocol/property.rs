//! What holds for whatever comes over a result channel: the first complete frame counts and nothing after it, what is
//! accepted is JSON within the bound, and JSON within the bound is accepted.
//!
//! The frame is read once more here, from the description in the module's documentation. The fuzzer
//! (`fuzz/fuzz_targets/result.rs`) and the unit tests share this.

use super::*;
use crate::json::property::accepts;

/// Checks what both ways of reading make of the bytes; returns whether each found a value.
///
/// Panics when the property does not hold.
pub fn holds(bytes: &[u8]) -> (bool, bool) {
    (framed_holds(bytes), plain_holds(bytes))
}

fn framed_holds(bytes: &[u8]) -> bool {
    let returned = result(bytes, bytes.len() as u64);
    // What was started ahead has said so first.
    let bytes = bytes.strip_prefix(AHEAD).unwrap_or(bytes);
    let frame = first_frame(bytes);
    match (&returned, frame) {
        (Returned::Nothing, _) => assert!(bytes.is_empty(), "{bytes:?}"),
        (Returned::Value(value), Some((b'R', payload))) => assert_value(value, payload),
        (Returned::Error(_), Some((b'E', payload))) => assert!(is_json(payload), "{bytes:?}"),
        (Returned::Damaged(why), frame) => {
            assert!(!bytes.is_empty() && !why.is_empty(), "{bytes:?}");
            let is_value = frame.is_some_and(|(kind, payload)| kind == b'R' && is_within_bounds(payload));
            assert!(!is_value, "{why}: {bytes:?}");
        }
        (returned, frame) => panic!("{returned:?} out of {frame:?}"),
    }
    if let (Returned::Value(_) | Returned::Error(_), Some((_, payload))) = (&returned, frame) {
        let frame = &bytes[..HEADER_BYTES + payload.len()];
        for after in [&b""[..], b"SBXR", b"\0\xff", frame] {
            let longer = [frame, after].concat();
            assert_eq!(text(&result(&longer, longer.len() as u64)), text(&returned), "{after:?} changed {bytes:?}");
        }
        let cut = [&frame[..frame.len() - 1], &frame[..frame.len() / 2], &frame[..1]];
        for cut in cut.into_iter().filter(|cut| cut.len() < frame.len()) {
            assert!(matches!(result(cut, bytes.len() as u64), Returned::Damaged(_)), "{cut:?}");
        }
    }
    matches!(returned, Returned::Value(_))
}

fn plain_holds(bytes: &[u8]) -> bool {
    let total = bytes.len() as u64;
    let returned = plain_result(bytes, total);
    let inner = bytes.trim_ascii();
    match &returned {
        Returned::Nothing => assert!(inner.is_empty(), "{bytes:?}"),
        Returned::Value(value) => assert_value(value, inner),
        Returned::Damaged(why) => {
            assert!(!inner.is_empty() && !why.is_empty(), "{bytes:?}");
            assert!(total > MAX_RETURN_BYTES as u64 || !is_json(inner), "{why}: {bytes:?}");
        }
        Returned::Error(error) => panic!("{error:?} without a frame: {bytes:?}"),
    }
    let more = MAX_RETURN_BYTES as u64 + 1;
    assert!(inner.is_empty() || matches!(plain_result(bytes, more), Returned::Damaged(_)), "{more} bytes: {bytes:?}");
    matches!(returned, Returned::Value(_))
}

/// Kind and payload of the first frame, if all of it is there.
fn first_frame(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [b'S', b'B', b'X', b'R', kind, a, b, c, d, rest @ ..] = bytes else { return None };
    let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
    Some((*kind, rest.get(..length)?))
}

/// A value is what was written, but for the space around it.
fn assert_value(value: &RawValue, payload: &[u8]) {
    let written = std::str::from_utf8(payload).expect("a value is text");
    assert_eq!(value.get(), written.trim_matches([' ', '\t', '\n', '\r']));
    assert!(accepts(value.get(), json::Keys::AnyOrder), "{written:?}");
    assert!(payload.len() <= MAX_RETURN_BYTES, "{} bytes", payload.len());
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| accepts(text, json::Keys::AnyOrder))
}

fn is_within_bounds(payload: &[u8]) -> bool {
    payload.len() <= MAX_RETURN_BYTES && is_json(payload)
}

fn text(returned: &Returned) -> String {
    format!("{returned:?}")
}
