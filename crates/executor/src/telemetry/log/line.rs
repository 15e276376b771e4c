//! What a line of the log looks like. Pure: event in, text out.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use serde_json::{Number, Value};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};

use super::{Format, Level};
use crate::timestamp;

/// Bytes of one message or field that are kept.
const LONGEST: usize = 16 * 1024;

/// An event's message and fields.
#[derive(Default)]
pub(super) struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    /// An event that is nothing but a message.
    pub(super) fn message(message: String) -> Self {
        Self { message, others: Vec::new() }
    }

    /// Cuts the secrets out, and then what is too long.
    pub(super) fn redact(&mut self, redactor: &Redactor) {
        let texts = self.others.iter_mut().filter_map(|(_, value)| match value {
            Value::String(text) => Some(text),
            _ => None,
        });
        for text in texts.chain([&mut self.message]) {
            if let Cow::Owned(clean) = redactor.clean(text) {
                *text = clean;
            }
            if text.len() > LONGEST {
                text.truncate(text.floor_char_boundary(LONGEST));
                text.push('…');
            }
        }
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => self.others.push((name.strip_prefix("r#").unwrap_or(name), value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, Number::from_i128(value).map_or_else(|| value.to_string().into(), Value::Number));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, Number::from_u128(value).map_or_else(|| value.to_string().into(), Value::Number));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

/// The known secrets, in the forms they can turn up in.
pub(super) struct Redactor {
    forms: Vec<String>,
}

impl Redactor {
    pub(super) fn new(secrets: &[String]) -> Self {
        let mut forms: Vec<String> = Vec::new();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            // As it is, and as `{:?}` and JSON write it.
            let debug = format!("{secret:?}");
            forms.extend([secret.clone(), debug[1..debug.len() - 1].to_owned(), secret.escape_default().to_string()]);
        }
        // The longest first, so that a secret that begins with another one doesn't leave its end behind.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Self { forms }
    }

    fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.forms.iter().fold(Cow::Borrowed(text), |text, form| {
            if text.contains(form.as_str()) { Cow::Owned(text.replace(form.as_str(), "[redacted]")) } else { text }
        })
    }
}

/// The whole line with its end. Events of ours say everything in their message; of other people's, the text form
/// shows the fields as well.
pub(super) fn render(format: Format, now: OffsetDateTime, level: Level, ours: bool, fields: Fields) -> Arc<str> {
    let timestamp = timestamp::milliseconds(now);
    let Fields { mut message, others } = fields;
    let mut line = String::with_capacity(message.len() + 64);
    match format {
        Format::Text => {
            if !ours || message.is_empty() {
                for (name, value) in &others {
                    let gap = if message.is_empty() { "" } else { " " };
                    let _ = write!(message, "{gap}{name}={value}");
                }
            }
            let _ = write!(line, "{timestamp} [{level}] ");
            escape_into(&mut line, &message, |c| match c {
                '\n' => "\\n".to_owned(),
                '\r' => "\\r".to_owned(),
                '\t' => "\\t".to_owned(),
                c => c.escape_unicode().to_string(),
            });
        }
        Format::Json => {
            let first =
                [("timestamp", timestamp.into()), ("level", level.to_string().into()), ("message", message.into())];
            let mut seen: Vec<&str> = Vec::with_capacity(others.len() + first.len());
            let mut object = String::from("{");
            for (name, value) in first.into_iter().chain(others) {
                if !seen.contains(&name) {
                    let comma = if seen.is_empty() { "" } else { "," };
                    let _ = write!(object, "{comma}{}:{value}", Value::from(name));
                    seen.push(name);
                }
            }
            object.push('}');
            // JSON itself escapes the first 32 only. All of the rest are in strings and fit into four digits.
            escape_into(&mut line, &object, |c| format!("\\u{:04x}", u32::from(c)));
        }
    }
    line.push('\n');
    line.into()
}

/// Appends the text with everything escaped that ends a line, steers a terminal or turns the reading direction.
fn escape_into(line: &mut String, text: &str, escaped: fn(char) -> String) {
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}') {
            line.push_str(&escaped(c));
        } else {
            line.push(c);
        }
    }
}
