//! The private channel between us and a bootstrap: the program in each language that loads the user's code.
//!
//! A bootstrap is started with these descriptors:
//!
//! | number | is |
//! |---|---|
//! | 0, 1, 2 | standard input, output and error of the user's program |
//! | 3 | the result channel, a pipe to write to |
//! | 4 | the request, a sealed file in memory; for a program that was started ahead of it a pipe |
//!
//! One that was **started ahead** makes ready whatever it can, writes [`sandbox::pipes::AHEAD`] to the result channel, and reads its
//! request to the end of the pipe. If there is none, it ends.
//!
//! The **request** is the magic `SBX1` and three sections, each a length (u32, little-endian) and that many bytes:
//!
//! 1. the header, a JSON object: `language`, `mode` (`auto`, `handler`, `script`), `execution_id`, `function_name`, and
//!    `deadline_ns`, the time of the forced end on CLOCK_MONOTONIC (clock_gettime(2)) as a string of digits; `env`, variables
//!    that the process has started without, as an object; and `packages`, the folder of installed packages, if there is one;
//! 2. the code, UTF-8;
//! 3. the event, JSON as the caller sent it.
//!
//! The **result** is at most one frame: the magic `SBXR`, a kind (`R` return value, `E` error), a length (u32,
//! little-endian) and that many bytes of JSON. An error is `{"kind", "name", "message", "traceback"}` with `kind` one of
//! `exception`, `handler_missing`, `return_value`. The first complete frame counts, what follows is ignored.
//!
//! Whoever runs in the interpreter can write a frame of his own. He gains nothing by it: the value was his to choose, and
//! exit code, signal, times and memory come from the kernel. For shell there is no bootstrap: what the script itself
//! writes to descriptor 3 is its return value, without a frame.

#[cfg(any(test, fuzzing))]
pub mod property;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use sandbox::pipes::AHEAD;

use crate::json;

/// Most bytes of JSON that a return value may have.
pub const MAX_RETURN_BYTES: usize = 10 * 1024 * 1024;
/// What to keep of the result channel so that a value one byte too long is seen as such.
pub const RESULT_BYTES: u64 = (MAX_RETURN_BYTES + HEADER_BYTES + 1) as u64;

const REQUEST_MAGIC: &[u8; 4] = b"SBX1";
const RESULT_MAGIC: &[u8; 4] = b"SBXR";
const HEADER_BYTES: usize = 9;

/// First section of a request.
#[derive(Debug, Serialize)]
pub struct Header<'a> {
    /// Name of the language.
    pub language: &'a str,
    /// Name of the mode.
    pub mode: &'a str,
    /// The execution's id.
    pub execution_id: &'a str,
    /// What the handler's context calls the function.
    pub function_name: &'a str,
    /// CLOCK_MONOTONIC in nanoseconds, as digits.
    pub deadline_ns: String,
    /// The caller's variables, for a process that has started without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<&'a str, String>>,
    /// Where installed packages are, for a language whose interpreter looks there only when it is told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packages: Option<&'a str>,
}

/// A request as the parts of a file, in order.
///
/// # Errors
/// When a section is longer than 4 GiB.
pub fn request<'a>(header: &Header<'_>, code: &'a str, event: &'a str) -> std::io::Result<Vec<Cow<'a, [u8]>>> {
    let mut parts = vec![Cow::Borrowed(&REQUEST_MAGIC[..])];
    for section in [serde_json::to_vec(header)?.into(), code.as_bytes().into(), event.as_bytes().into()] {
        let section: Cow<'a, [u8]> = section;
        let length = u32::try_from(section.len()).map_err(std::io::Error::other)?;
        parts.push(length.to_le_bytes().to_vec().into());
        parts.push(section);
    }
    Ok(parts)
}

/// An error that a bootstrap reports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reported {
    /// What kind of failure.
    pub kind: ReportedKind,
    /// The exception's class.
    pub name: Option<String>,
    /// The exception's message.
    pub message: String,
    /// Where it came from, as the language prints it.
    pub traceback: Option<String>,
}

/// Kinds of failure that only the bootstrap can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportedKind {
    /// The code raised and nobody caught it.
    Exception,
    /// There should have been a handler.
    HandlerMissing,
    /// The handler returned what JSON can't hold.
    ReturnValue,
}

/// What came over a result channel.
#[derive(Debug)]
pub enum Returned {
    /// Nothing: a script, or a program that ended on its own.
    Nothing,
    /// A return value, as it was written.
    Value(Box<RawValue>),
    /// An error that the bootstrap reported.
    Error(Reported),
    /// Something that is no frame or holds no acceptable JSON; what is wrong with it.
    Damaged(String),
}

/// Reads the first frame. `total` is how many bytes were written in all, of which `bytes` were kept.
pub fn result(bytes: &[u8], total: u64) -> Returned {
    // Of a program that was let go before it had said it.
    let bytes = bytes.strip_prefix(AHEAD).unwrap_or(bytes);
    if bytes.is_empty() {
        return Returned::Nothing;
    }
    let (Some(RESULT_MAGIC), Some(kind), Some(length)) =
        (bytes.first_chunk(), bytes.get(4), bytes.get(5..HEADER_BYTES))
    else {
        return Returned::Damaged("what came over the result channel is no result".into());
    };
    let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
    if *kind == b'R' && length > MAX_RETURN_BYTES {
        return Returned::Damaged(too_long(length as u64));
    }
    let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else {
        return Returned::Damaged(format!("the result was cut off: {length} bytes announced, {total} written in all"));
    };
    match kind {
        b'R' => value(payload),
        b'E' => match checked(payload).and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string())) {
            Ok(reported) => Returned::Error(reported),
            Err(error) => Returned::Damaged(format!("the reported error is not readable: {error}")),
        },
        _ => Returned::Damaged("what came over the result channel is of no known kind".into()),
    }
}

/// Reads what a shell script wrote to descriptor 3.
pub fn plain_result(bytes: &[u8], total: u64) -> Returned {
    if bytes.trim_ascii().is_empty() {
        return Returned::Nothing;
    }
    if total > MAX_RETURN_BYTES as u64 {
        return Returned::Damaged(too_long(total));
    }
    value(bytes.trim_ascii())
}

fn too_long(bytes: u64) -> String {
    format!("the return value is {bytes} bytes as JSON; at most {MAX_RETURN_BYTES} are allowed")
}

fn value(bytes: &[u8]) -> Returned {
    let value =
        checked(bytes).and_then(|text| RawValue::from_string(text.to_owned()).map_err(|error| error.to_string()));
    match value {
        Ok(value) => Returned::Value(value),
        Err(error) => Returned::Damaged(format!("the return value is not JSON: {error}")),
    }
}

/// The bytes as text that is strict JSON, or what is wrong with them.
fn checked(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    json::check(text, json::Keys::AnyOrder).map(|()| text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::any_text;
    use proptest::prelude::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&RESULT_MAGIC[..], &[kind], &(payload.len() as u32).to_le_bytes(), payload].concat()
    }

    fn damaged(bytes: &[u8]) -> String {
        match result(bytes, bytes.len() as u64) {
            Returned::Damaged(why) => why,
            other => panic!("not seen as damaged: {other:?}"),
        }
    }

    #[test]
    fn a_value_comes_back_as_it_was_written() {
        for text in ["null", "0", "\"\"", "[]", "false", "1000000000000000000000000000000", "{\"a\": 1.50}"] {
            let bytes = frame(b'R', text.as_bytes());
            let Returned::Value(value) = result(&bytes, bytes.len() as u64) else { panic!("{text}") };
            assert_eq!(value.get(), text);
        }
    }

    #[test]
    fn the_first_complete_frame_counts() {
        let bytes = [frame(b'R', b"1"), frame(b'R', b"2")].concat();
        let Returned::Value(value) = result(&bytes, bytes.len() as u64) else { panic!("no value") };
        assert_eq!(value.get(), "1");
    }

    #[test]
    fn an_error_is_read() {
        let bytes = frame(b'E', br#"{"kind":"exception","name":"ValueError","message":"no","traceback":null}"#);
        let Returned::Error(error) = result(&bytes, bytes.len() as u64) else { panic!("no error") };
        assert_eq!((error.kind, error.message.as_str()), (ReportedKind::Exception, "no"));
    }

    #[test]
    fn what_is_no_frame_is_damaged() {
        assert!(damaged(b"hello").contains("no result"));
        assert!(damaged(b"SBXR").contains("no result"));
        assert!(damaged(&frame(b'R', b"[1, 2]")[..12]).contains("cut off"));
        assert!(damaged(&frame(b'X', b"1")).contains("no known kind"));
        assert!(damaged(&frame(b'R', b"NaN")).contains("not JSON"));
        assert!(damaged(&frame(b'R', b"\"\xff\"")).contains("not JSON"));
        assert!(damaged(&frame(b'E', b"{}")).contains("not readable"));
        let mut long = frame(b'R', b"");
        long[5..9].copy_from_slice(&(MAX_RETURN_BYTES as u32 + 1).to_le_bytes());
        assert!(damaged(&long).contains("at most 10485760"));
    }

    #[test]
    fn a_shell_value_has_no_frame() {
        assert!(matches!(plain_result(b" \n", 2), Returned::Nothing));
        assert!(matches!(plain_result(b"{\"a\":1}\n", 8), Returned::Value(_)));
        assert!(matches!(plain_result(b"{\"a\":1} 2", 9), Returned::Damaged(_)));
        assert!(matches!(plain_result(b"1", MAX_RETURN_BYTES as u64 + 1), Returned::Damaged(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_right(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in "[REX]") {
            property::holds(&bytes);
            property::holds(&frame(kind.as_bytes()[0], &bytes));
        }

        #[test]
        fn any_text_is_read_right(text in any_text(), kind in "[REX]", after in any_text()) {
            property::holds(text.as_bytes());
            property::holds(&[frame(kind.as_bytes()[0], text.as_bytes()), after.into_bytes()].concat());
        }
    }

    #[test]
    fn the_bound_is_the_last_that_fits() {
        let value = format!("\"{}\"", "x".repeat(MAX_RETURN_BYTES - 2));
        let longer = format!("{value} ");
        assert_eq!(property::holds(&frame(b'R', value.as_bytes())), (true, false));
        assert_eq!(property::holds(&frame(b'R', longer.as_bytes())), (false, false));
        assert_eq!(property::holds(value.as_bytes()), (false, true));
        assert_eq!(property::holds(longer.as_bytes()), (false, false));
    }

    #[test]
    fn every_seed_of_the_fuzzer_is_read_right() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/result");
        let seeds = std::fs::read_dir(seeds).expect("the seeds are committed");
        let read = seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a readable seed"));
        let found: Vec<_> = read.map(|bytes| property::holds(&bytes)).collect();
        for expected in [(true, false), (false, true), (false, false)] {
            assert!(found.contains(&expected), "no seed of {expected:?}");
        }
    }
}
