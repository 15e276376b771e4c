//! What a request says, as a number: two that have the same are the same request, so a client that names its execution can send it
//! again. The order of its fields and the blanks between JSON's parts say nothing; the values count as they are written, because an
//! event is handed to programs as it is written. What follows from settings does not count: they may change between two starts.

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Of a request's members, in the order of their names.
pub(super) fn of<'a>(members: impl IntoIterator<Item = (&'a str, &'a RawValue)>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (name, value) in members {
        // Null is as good as absent, and the id is what the rest belongs to.
        if value.get() == "null" || name == "execution_id" {
            continue;
        }
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        for part in without_blanks(value.get()) {
            digest.update(part);
        }
        // No byte of JSON's (RFC 8259, section 7).
        digest.update([0]);
    }
    digest.finalize().into()
}

/// The parts of a JSON text between the blanks that lie outside of its strings.
fn without_blanks(text: &str) -> impl Iterator<Item = &[u8]> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        let start = at;
        let (mut in_string, mut escaped) = (false, false);
        while let Some(&byte) = bytes.get(at) {
            match (in_string, byte) {
                (true, _) if escaped => escaped = false,
                (true, b'\\') => escaped = true,
                (_, b'"') => in_string = !in_string,
                (false, byte) if byte.is_ascii_whitespace() => break,
                _ => {}
            }
            at += 1;
        }
        (at > start).then(|| &bytes[start..at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn digest(body: &str) -> [u8; 32] {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(body).unwrap();
        of(members.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    #[test]
    fn order_of_fields_blanks_nulls_and_the_id_say_nothing() {
        let plain = r#"{"code":"a b","event":{"x":[1,2]}}"#;
        for same in [
            r#"{ "event" : { "x" : [ 1 , 2 ] } , "code" : "a b" }"#,
            r#"{"code":"a b","event":{"x":[1,2]},"stdin":null,"execution_id":"e1"}"#,
        ] {
            assert_eq!(digest(same), digest(plain), "{same}");
        }
    }

    #[test]
    fn everything_else_does() {
        let plain = r#"{"code":"a b","event":{"x":[1,2]}}"#;
        for other in [
            r#"{"code":"ab","event":{"x":[1,2]}}"#,
            r#"{"code":"a  b","event":{"x":[1,2]}}"#,
            r#"{"code":"a b","event":{"x":[12]}}"#,
            r#"{"code":"a b","event":{"x":[1,2]},"stdin":""}"#,
            r#"{"code":"a b\\" ,"event":{"x":[1,2]}}"#,
            r#"{"code":"a b"}"#,
        ] {
            assert_ne!(digest(other), digest(plain), "{other}");
        }
        assert_ne!(digest(r#"{"a":"\" b"}"#), digest(r#"{"a":"\"  b"}"#), "a quote in a string does not end it");
        assert_ne!(digest(r#"{"ab":"c"}"#), digest(r#"{"a":"bc"}"#));
    }
}
