//! Strict JSON (RFC 8259) for what strangers send: bounded depth, numbers that a double can hold or integers of any
//! length, and, where asked for, no key twice.

#[cfg(any(test, fuzzing))]
pub mod property;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Arrays and objects inside each other.
pub const MAX_DEPTH: usize = 128;
/// What to think of a key that stands twice in one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It is an error.
    Unique,
    /// It is nobody's business here.
    AnyOrder,
}

/// Whether the text is one acceptable JSON value.
///
/// # Errors
/// What is wrong, with line and column.
pub fn check(text: &str, keys: Keys) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // Depth is ours to bound, one level more generously than serde_json does.
    deserializer.disable_recursion_limit();
    Checker { depth: 0, keys }.deserialize(&mut deserializer)?;
    deserializer.end()
}

#[derive(Clone, Copy)]
struct Checker {
    depth: usize,
    keys: Keys,
}

impl Checker {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Checker {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checker {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while items.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key_seed(KeyReader)? {
            let Key::Text(key) = key else { return number(&entries.next_value::<String>()?) };
            entries.next_value_seed(self.deeper()?)?;
            if self.keys == Keys::Unique && !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("the key {key:?} stands twice in one object")));
            }
        }
        // An empty object at the deepest level counts like a full one.
        self.deeper().map(drop)
    }
}

/// serde_json hands a number whose digits it keeps to a visitor as a map with one key.
enum Key {
    Text(String),
    OfNumber,
}

/// Tells the key of a number from one that was written and has the same name: only text can be asked for as an option.
struct KeyReader;

impl<'de> DeserializeSeed<'de> for KeyReader {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for KeyReader {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        String::deserialize(deserializer).map(Key::Text)
    }

    fn visit_str<E>(self, _: &str) -> Result<Key, E> {
        Ok(Key::OfNumber)
    }
}

/// An integer may have any length; what has a fraction or an exponent must fit a double.
fn number<E: Error>(digits: &str) -> Result<(), E> {
    let is_integer = !digits.contains(['.', 'e', 'E']);
    match digits.parse::<f64>() {
        Ok(value) if is_integer || value.is_finite() => Ok(()),
        _ => Err(E::custom(format_args!("number out of range"))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// JSON, and what is JSON but for one letter.
    pub(crate) fn any_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            prop::sample::select(vec![
                "null",
                "true",
                "false",
                "0",
                "-0",
                "0.5",
                "-1e9",
                "1E+400",
                "1e-400",
                "12345678901234567890123",
                "\"\"",
                "\"\\ud83d\\ude00\"",
                "\"\\ud83d\"",
                "\"\\u0000\"",
                "\"\\/\"",
                "\"é\"",
                "[]",
                "{}",
            ])
            .prop_map(str::to_owned),
            "-?[0-9.eE+]{1,8}",
            "\"[ -~\\t]{0,4}\"",
        ];
        let whole = leaf.prop_recursive(6, 40, 4, |inner| {
            let key = prop::sample::select(vec!["a", "\\u0061", "b", "", "$serde_json::private::Number", "__timeout"]);
            let entry = (key, inner.clone()).prop_map(|(key, value)| format!("\"{key}\" :{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec(entry, 0..4).prop_map(|entries| format!("{{{}}}", entries.join(",\n"))),
            ]
        });
        (whole, any::<bool>(), any::<prop::sample::Index>(), "[\\[\\]{}\":,0-9eE.\\-+\\\\ \t\u{b}\u{1f}]?").prop_map(
            |(mut text, damaged, at, letter)| {
                if damaged {
                    let at = at.index(text.chars().count() + 1);
                    let at = text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
                    let rest = text.split_off(at);
                    text.extend(letter.chars().chain(rest.chars().skip(1)));
                }
                text
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn any_text_is_judged_as_the_grammar_says(text in any_text()) {
            property::holds(text.as_bytes());
        }
    }

    #[test]
    fn a_key_named_as_serde_json_names_its_numbers_is_a_key() {
        for good in [
            r#"{"$serde_json::private::Number":"x"}"#,
            r#"{"$serde_json::private::Number":"1","b":{"$serde_json::private::Number":[]}}"#,
        ] {
            assert!(property::holds(good.as_bytes()), "{good}");
        }
        assert!(!property::holds(br#"{"$serde_json::private::Number":1,"$serde_json::private::Number":2}"#));
        let deep = format!(r#"{}{{"$serde_json::private::Number":"1"}}{}"#, "[".repeat(128), "]".repeat(128));
        assert!(!property::holds(deep.as_bytes()));
    }

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn depth_is_bounded() {
        assert!(check(&nested(128), Keys::Unique).is_ok());
        assert!(check(&nested(129), Keys::Unique).unwrap_err().to_string().contains("deeper than 128"));
        assert!(check(&nested(100_000), Keys::Unique).is_err());
        assert!(check(&format!("{}{{}}{}", "[".repeat(128), "]".repeat(128)), Keys::Unique).is_err());
    }

    #[test]
    fn a_key_twice_is_an_error_where_asked_for() {
        for text in [r#"{"a":1,"a":2}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(check(text, Keys::Unique).unwrap_err().to_string().contains("twice"), "{text}");
            assert!(check(text, Keys::AnyOrder).is_ok());
        }
    }

    #[test]
    fn numbers_keep_their_digits_but_must_be_numbers() {
        let long = "9".repeat(1000);
        for good in ["0", "-1.5e300", "1e-999", long.as_str(), "1000000000000000000000000000000"] {
            assert!(check(good, Keys::Unique).is_ok(), "{good}");
        }
        for bad in ["1e999", "-1e999", "NaN", "Infinity", "01", "+1", ".5", "1 2", "", "\"\\ud800\"", "{\"a\":1,}"] {
            assert!(check(bad, Keys::Unique).is_err(), "{bad}");
        }
    }
}
