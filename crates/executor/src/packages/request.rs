//! The body of `POST /internal/session-config/sync`: strict JSON in, a valid request or every violation at once out.

use serde_json::value::RawValue;

use super::specifier::{self, Specifier};
use crate::admission::fields::{Fields, Violation};
use crate::admission::request::{ID_FORM, is_id};
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
    let mut fields = Fields::read(body)?;
    let (session_id, index) = (session_id(&mut fields), index(&mut fields, indexes));
    runtime(&mut fields);
    let (specifiers, mode) = (specifiers(&mut fields), mode(&mut fields));
    let sync = session_id.zip(index).map(|(session_id, index)| Sync {
        session_id,
        specifiers: specifier::set(specifiers),
        index,
        mode,
    });
    fields.finish(sync)
}

fn session_id(fields: &mut Fields<'_>) -> Option<String> {
    fields.require("session_id", ID_FORM);
    let id = fields.typed::<String>("session_id", "a string")?;
    if !is_id(&id) {
        fields.violation("session_id", format!("must be {ID_FORM}"));
    }
    Some(id)
}

fn index(fields: &mut Fields<'_>, indexes: &[IndexUrl]) -> Option<IndexUrl> {
    let named = fields.typed::<String>("python_package_index_url", "a string").unwrap_or_default();
    if named.is_empty() {
        return indexes.first().cloned();
    }
    let meant = IndexUrl::parse(&named).and_then(|named| indexes.iter().find(|index| index.is_meant_by(&named)));
    if meant.is_none() {
        // Not which are: that is nobody's business who does not know it.
        fields.violation("python_package_index_url", "must be one of ALLOWED_INDEX_URLS; leave it out for the first");
    }
    meant.cloned()
}

/// Python is all there is; which, is the service's to say.
fn runtime(fields: &mut Fields<'_>) {
    let Some(runtime) = fields.typed::<String>("language_runtime", "a string") else { return };
    let version = runtime.strip_prefix("python");
    if !version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit() || b".-_".contains(&byte))) {
        fields.violation("language_runtime", "must be python, with or without a version");
    }
}

fn specifiers(fields: &mut Fields<'_>) -> Vec<Specifier> {
    fields.require("dependencies", "an array of strings, which may be empty");
    let all = fields.typed::<Vec<Box<RawValue>>>("dependencies", "an array of strings").unwrap_or_default();
    if all.len() > MOST_SPECIFIERS {
        fields.violation("dependencies", format!("must be at most {MOST_SPECIFIERS}"));
        return Vec::new();
    }
    let mut specifiers = Vec::new();
    for (number, value) in all.into_iter().enumerate() {
        let text = serde_json::from_str::<String>(value.get()).map_err(|_| "must be a string".to_owned());
        match text.and_then(|text| Specifier::parse(&text)) {
            Ok(specifier) => specifiers.push(specifier),
            Err(why) => fields.violation(format!("dependencies.{number}"), why),
        }
    }
    specifiers
}

fn mode(fields: &mut Fields<'_>) -> Mode {
    match fields.typed::<String>("sync_mode", "a string").as_deref() {
        None | Some("replace") => Mode::Replace,
        Some("merge") => Mode::Merge,
        Some(_) => {
            fields.violation("sync_mode", "must be replace or merge");
            Mode::Replace
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
