//! The fields of a request's JSON object, taken one by one by whoever knows what they are. Whatever is wrong is noted on the way, so
//! that all of it can be told at once, and a field that nobody took is unknown.

use std::collections::BTreeMap;

use runtime::json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The members of a JSON object, each as it was written.
pub type Members<'a> = BTreeMap<String, &'a RawValue>;

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which field, with dots to what is inside; `body` for all of it.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Violation {
    /// Of a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// The fields that nobody has taken yet, and what is wrong so far.
pub struct Fields<'a> {
    /// The former.
    pub members: Members<'a>,
    /// The latter.
    pub violations: Vec<Violation>,
}

impl<'a> Fields<'a> {
    /// Of a body.
    ///
    /// # Errors
    /// It is no JSON object, or names a field twice.
    pub fn read(body: &'a [u8]) -> Result<Self, Vec<Violation>> {
        let whole = |message: String| vec![Violation::new("body", message)];
        let text = std::str::from_utf8(body).map_err(|error| whole(format!("not UTF-8: {error}")))?;
        json::check(text, json::Keys::Unique).map_err(|error| whole(format!("not acceptable as JSON: {error}")))?;
        let members = serde_json::from_str(text).map_err(|_| whole("must be a JSON object".into()))?;
        Ok(Self { members, violations: Vec::new() })
    }

    /// Notes what is wrong.
    pub fn violation(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.violations.push(Violation::new(field, message));
    }

    /// Takes a member; one that is null counts as absent.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        self.members.remove(name).filter(|value| value.get() != "null")
    }

    /// Takes a member of a type; another type is a violation.
    pub fn typed<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Option<T> {
        let value = self.take(name)?;
        let parsed = serde_json::from_str(value.get()).ok();
        if parsed.is_none() {
            self.violation(name, format!("must be {expected}"));
        }
        parsed
    }

    /// Notes a member that has to be there and is not.
    pub fn require(&mut self, name: &str, what: &str) {
        if self.members.get(name).is_none_or(|value| value.get() == "null") {
            self.members.remove(name);
            self.violation(name, format!("required: {what}"));
        }
    }

    /// What was read, if nothing is wrong and nothing is left.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn finish<T>(self, read: Option<T>) -> Result<T, Vec<Violation>> {
        let Self { members, mut violations } = self;
        violations.extend(members.into_keys().map(|field| Violation::new(field, "unknown field")));
        match read {
            Some(read) if violations.is_empty() => Ok(read),
            _ => Err(violations),
        }
    }
}
