//! The body of `POST /internal/session-config/sync`: strict JSON in, a valid request or every violation at once out.

use runtime::json;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::specifier::{self, Specifier};
use crate::admission::request::{Violation, is_id};
use crate::config::IndexUrl;

/// Most packages that a session may ask for.
pub const MOST_SPECIFIERS: usize = 200;

/// What to do with what the session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It has what is asked for, and nothing else.
    Replace,
    /// It has what is asked for as well.
    Merge,
}

/// A valid request.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Whose packages.
    pub session_id: String,
    /// What is asked for, in order and each once.
    pub specifiers: Vec<Specifier>,
    /// Where it comes from.
    pub index: IndexUrl,
    /// What becomes of what there is.
    pub mode: Mode,
}

/// Reads and judges a body; `indexes` are those that are allowed, the default first.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(body: &[u8], indexes: &[IndexUrl]) -> Result<Sync, Vec<Violation>> {
    let whole = |message: String| vec![Violation::new("body", message)];
    let text = std::str::from_utf8(body).map_err(|error| whole(format!("not UTF-8: {error}")))?;
    json::check(text, json::Keys::Unique).map_err(|error| whole(format!("not acceptable as JSON: {error}")))?;
    let members = serde_json::from_str(text).map_err(|_| whole("must be a JSON object".into()))?;
    let mut reader = Reader { members, violations: Vec::new() };
    let (session_id, index) = (reader.session_id(), reader.index(indexes));
    reader.runtime();
    let (specifiers, mode) = (reader.specifiers(), reader.mode());
    for field in std::mem::take(&mut reader.members).into_keys() {
        reader.violation(field, "unknown field");
    }
    match (session_id, index) {
        (Some(session_id), Some(index)) if reader.violations.is_empty() => {
            Ok(Sync { session_id, specifiers: specifier::set(specifiers), index, mode })
        }
        _ => Err(reader.violations),
    }
}

struct Reader<'a> {
    members: BTreeMap<String, &'a RawValue>,
    violations: Vec<Violation>,
}

impl Reader<'_> {
    fn violation(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.violations.push(Violation::new(field, message));
    }

    /// Takes a member of a type; one that is null counts as absent, another type is a violation.
    fn take<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Option<T> {
        let value = self.members.remove(name).filter(|value| value.get() != "null")?;
        let parsed = serde_json::from_str(value.get()).ok();
        if parsed.is_none() {
            self.violation(name, format!("must be {expected}"));
        }
        parsed
    }

    fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| value.get() != "null")
    }

    fn session_id(&mut self) -> Option<String> {
        const FORM: &str = "1 to 128 characters A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit";
        if !self.has("session_id") {
            self.members.remove("session_id");
            self.violation("session_id", format!("required: {FORM}"));
        }
        let id = self.take::<String>("session_id", "a string")?;
        if !is_id(&id) {
            self.violation("session_id", format!("must be {FORM}"));
        }
        Some(id)
    }

    fn index(&mut self, indexes: &[IndexUrl]) -> Option<IndexUrl> {
        let named = self.take::<String>("python_package_index_url", "a string").unwrap_or_default();
        if named.is_empty() {
            return indexes.first().cloned();
        }
        let meant = IndexUrl::parse(&named).and_then(|named| indexes.iter().find(|index| index.is_meant_by(&named)));
        if meant.is_none() {
            // Not which are: that is nobody's business who does not know it.
            self.violation("python_package_index_url", "must be one of ALLOWED_INDEX_URLS; leave it out for the first");
        }
        meant.cloned()
    }

    /// Python is all there is; which, is the service's to say.
    fn runtime(&mut self) {
        let Some(runtime) = self.take::<String>("language_runtime", "a string") else { return };
        let version = runtime.strip_prefix("python");
        if !version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit() || b".-_".contains(&byte))) {
            self.violation("language_runtime", "must be python, with or without a version");
        }
    }

    fn specifiers(&mut self) -> Vec<Specifier> {
        if !self.has("dependencies") {
            self.members.remove("dependencies");
            self.violation("dependencies", "required: an array of strings, which may be empty");
        }
        let all = self.take::<Vec<Box<RawValue>>>("dependencies", "an array of strings").unwrap_or_default();
        if all.len() > MOST_SPECIFIERS {
            self.violation("dependencies", format!("must be at most {MOST_SPECIFIERS}"));
            return Vec::new();
        }
        let mut specifiers = Vec::new();
        for (number, value) in all.into_iter().enumerate() {
            let text = serde_json::from_str::<String>(value.get()).map_err(|_| "must be a string".to_owned());
            match text.and_then(|text| Specifier::parse(&text)) {
                Ok(specifier) => specifiers.push(specifier),
                Err(why) => self.violation(format!("dependencies.{number}"), why),
            }
        }
        specifiers
    }

    fn mode(&mut self) -> Mode {
        match self.take::<String>("sync_mode", "a string").as_deref() {
            None | Some("replace") => Mode::Replace,
            Some("merge") => Mode::Merge,
            Some(_) => {
                self.violation("sync_mode", "must be replace or merge");
                Mode::Replace
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn indexes() -> Vec<IndexUrl> {
        ["https://me:password@one.example/simple", "https://two.example/simple"]
            .map(|url| IndexUrl::parse(url).unwrap())
            .to_vec()
    }

    #[test]
    fn a_request_is_read() {
        let body = json!({"session_id": "s", "language_runtime": "python3.11", "sync_mode": "merge",
            "dependencies": ["b==1", "A==2"], "python_package_index_url": "https://two.example/simple/"});
        let sync = parse(body.to_string().as_bytes(), &indexes()).unwrap();
        assert_eq!((sync.session_id.as_str(), sync.mode), ("s", Mode::Merge));
        assert_eq!(sync.specifiers.iter().map(Specifier::text).collect::<Vec<_>>(), ["a==2", "b==1"]);
        assert_eq!(sync.index, indexes()[1]);
        for index in ["", "https://one.example/simple"] {
            let body = json!({"session_id": "s", "dependencies": [], "python_package_index_url": index});
            let sync = parse(body.to_string().as_bytes(), &indexes()).unwrap();
            assert_eq!((sync.mode, sync.index == indexes()[0]), (Mode::Replace, true));
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_and_nothing_secret() {
        let body = json!({"session_id": "../x", "language_runtime": "node", "sync_mode": "add", "extra": 1,
            "dependencies": ["a==1", "numpy", "x @ https://u:password@x.example/y", 7],
            "python_package_index_url": "https://u:password@three.example/simple"});
        let violations = parse(body.to_string().as_bytes(), &indexes()).unwrap_err();
        let fields: Vec<&str> = violations.iter().map(|one| one.field.as_str()).collect();
        let expected = [
            "session_id",
            "python_package_index_url",
            "language_runtime",
            "dependencies.1",
            "dependencies.2",
            "dependencies.3",
            "sync_mode",
            "extra",
        ];
        assert_eq!(fields, expected);
        assert!(!format!("{violations:?}").contains("password"));
        for (body, field) in [
            (json!([]), "body"),
            (json!({"dependencies": []}), "session_id"),
            (json!({"session_id": "s"}), "dependencies"),
            (json!({"session_id": "s", "dependencies": "a==1"}), "dependencies"),
            (json!({"session_id": "s", "dependencies": vec!["a==1"; MOST_SPECIFIERS + 1]}), "dependencies"),
            (json!({"session_id": "s", "dependencies": [], "language_runtime": "python; rm"}), "language_runtime"),
        ] {
            let violations = parse(body.to_string().as_bytes(), &indexes()).unwrap_err();
            assert_eq!(violations.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), [field], "{body}");
        }
        let twice = br#"{"session_id": "s", "session_id": "t", "dependencies": []}"#;
        assert_eq!(parse(twice, &indexes()).unwrap_err()[0].field, "body");
    }
}
