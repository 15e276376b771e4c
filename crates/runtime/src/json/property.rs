//! What holds for every text: it is accepted just when the grammar of RFC 8259 and our bounds say so.
//!
//! The grammar is written out once more here, letter by letter and without serde_json, to be the judge of what is built
//! on it. The fuzzer (`fuzz/fuzz_targets/request.rs`, `result.rs`) and the unit tests share it.

use std::collections::HashSet;

use super::{Keys, MAX_DEPTH, check};

/// Checks one text both ways; returns whether it is acceptable with unique keys.
///
/// Panics when the property does not hold.
pub fn holds(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    for keys in [Keys::AnyOrder, Keys::Unique] {
        let (judged, due) = (check(text, keys), accepts(text, keys));
        assert_eq!(judged.is_ok(), due, "{keys:?} {judged:?} {text:?}");
    }
    accepts(text, Keys::Unique)
}

/// Whether the text is a JSON value within our bounds.
pub fn accepts(text: &str, keys: Keys) -> bool {
    let mut reader = Reader { rest: text, keys };
    reader.value(0).is_some() && reader.space().is_some_and(|()| reader.rest.is_empty())
}

/// Reads from the front; `None` is where the text breaks a rule.
struct Reader<'a> {
    rest: &'a str,
    keys: Keys,
}

impl<'a> Reader<'a> {
    fn space(&mut self) -> Option<()> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        Some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    /// A sign with space around it.
    fn sign(&mut self, sign: char) -> Option<()> {
        self.space()?;
        self.rest = self.rest.strip_prefix(sign)?;
        self.space()
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.space()?;
        match self.rest.chars().next()? {
            'n' => self.word("null"),
            't' => self.word("true"),
            'f' => self.word("false"),
            '"' => self.string().map(drop),
            '[' if depth < MAX_DEPTH => self.array(depth + 1),
            '{' if depth < MAX_DEPTH => self.object(depth + 1),
            '-' | '0'..='9' => self.number(),
            _ => None,
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.sign('[')?;
        if self.sign(']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth)?;
            if self.sign(',').is_none() {
                return self.sign(']');
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        let mut seen = HashSet::new();
        self.sign('{')?;
        if self.sign('}').is_some() {
            return Some(());
        }
        loop {
            self.space()?;
            let key = self.string()?;
            if !seen.insert(key) && self.keys == Keys::Unique {
                return None;
            }
            self.sign(':')?;
            self.value(depth)?;
            if self.sign(',').is_none() {
                return self.sign('}');
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        let whole = self.rest;
        let _ = self.word("-");
        if self.word("0").is_none() {
            self.digits()?;
        }
        let is_integer = !self.rest.starts_with(['.', 'e', 'E']);
        if self.word(".").is_some() {
            self.digits()?;
        }
        if self.word("e").or_else(|| self.word("E")).is_some() {
            let _ = self.word("+").or_else(|| self.word("-"));
            self.digits()?;
        }
        let digits = &whole[..whole.len() - self.rest.len()];
        (is_integer || digits.parse::<f64>().is_ok_and(f64::is_finite)).then_some(())
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let some = rest.len() < self.rest.len();
        self.rest = rest;
        some.then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.word("\"")?;
        let mut text = String::new();
        loop {
            match self.letter()? {
                '"' => return Some(text),
                '\\' => text.push(self.escaped()?),
                '\0'..='\x1f' => return None,
                plain => text.push(plain),
            }
        }
    }

    fn letter(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.letter()? {
            same @ ('"' | '\\' | '/') => same,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => match self.unit()? {
                high @ 0xd800..0xdc00 => {
                    self.word("\\u")?;
                    let pair = [high, self.unit()?];
                    // Anything but a pair is refused: no text holds half a character.
                    return char::decode_utf16(pair).next()?.ok();
                }
                unit => char::from_u32(unit.into())?,
            },
            _ => return None,
        })
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Option<u16> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        self.rest = rest;
        let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| all)
    }
}
