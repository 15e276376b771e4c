//! The fields `files` and `outputs` of a request: what is brought into the workspace before the run, and what is wanted from it
//! afterwards.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde_json::value::RawValue;

use super::fields::Violation;
use crate::workspace::path::RelativePath;

/// Most files that a request brings along.
const MOST_FILES: usize = 1000;
/// Most patterns, and the longest: what a pattern may cost to compile is bounded by its length.
const MOST_PATTERNS: usize = 100;
const LONGEST_PATTERN: usize = 512;

/// Files with their content, by path.
pub type Files = BTreeMap<RelativePath, Vec<u8>>;

/// Which files of the workspace come back with the answer.
#[derive(Debug, Clone)]
pub struct Outputs {
    patterns: GlobSet,
    hidden: bool,
}

impl Outputs {
    /// Whether a file of this path is wanted. As in a shell, only a pattern that names a part with a dot in front finds one.
    pub fn wants(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let is_hidden = || path.split(|byte| *byte == b'/').any(|part| part.starts_with(b"."));
        self.patterns.is_match(std::ffi::OsStr::from_bytes(path)) && (self.hidden || !is_hidden())
    }
}

/// Reads `files`, each of at most so many MiB.
pub fn files(object: &RawValue, most_mb: u64, violations: &mut Vec<Violation>) -> Files {
    let mut files = Files::new();
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(object.get()) else {
        violations.push(Violation::new("files", "must be an object: path → base64"));
        return files;
    };
    if members.len() > MOST_FILES {
        violations.push(Violation::new("files", format!("must be at most {MOST_FILES} files")));
        return files;
    }
    for (name, value) in members {
        let path = RelativePath::new(name.as_bytes());
        let content = content(value);
        let problem = match (path, content) {
            (Err(problem), _) => problem.to_owned(),
            (Ok(_), None) => "must be a string, the file's content as base64".to_owned(),
            (Ok(_), Some(content)) if content.len() as u64 > most_mb << 20 => {
                format!("is {} bytes, at most {most_mb} MB are allowed (MAX_FILE_SIZE_MB)", content.len())
            }
            (Ok(path), Some(content)) => match files.insert(path, content) {
                Some(_) => "is the path of another file as well".to_owned(),
                None => continue,
            },
        };
        violations.push(Violation::new(format!("files.{name}"), problem));
    }
    let paths: Vec<&RelativePath> = files.keys().collect();
    for (number, above) in paths.iter().enumerate() {
        // Behind a path come those that begin with it, not always at once: `a`, `a.b`, `a/b`.
        let begins = paths[number + 1..].iter().take_while(|path| path.as_bytes().starts_with(above.as_bytes()));
        for below in begins.filter(|below| above.is_above(below)) {
            let name = String::from_utf8_lossy(below.as_bytes());
            violations
                .push(Violation::new(format!("files.{name}"), "is in a folder that another file has the path of"));
        }
    }
    files
}

/// The bytes behind base64, which has no escapes in it unless somebody escapes slashes.
fn content(value: &RawValue) -> Option<Vec<u8>> {
    if let Ok(text) = serde_json::from_str::<&str>(value.get()) {
        return STANDARD.decode(text).ok();
    }
    STANDARD.decode(serde_json::from_str::<String>(value.get()).ok()?).ok()
}

/// Reads `outputs`.
pub fn outputs(array: &RawValue, violations: &mut Vec<Violation>) -> Option<Outputs> {
    let Ok(patterns) = serde_json::from_str::<Vec<String>>(array.get()) else {
        violations.push(Violation::new("outputs", "must be an array of strings, patterns such as plots/*.png"));
        return None;
    };
    if patterns.len() > MOST_PATTERNS {
        violations.push(Violation::new("outputs", format!("must be at most {MOST_PATTERNS} patterns")));
        return None;
    }
    let mut set = GlobSetBuilder::new();
    for (number, text) in patterns.iter().enumerate() {
        match pattern(text) {
            Ok(glob) => drop(set.add(glob)),
            Err(problem) => violations.push(Violation::new(format!("outputs.{number}"), problem)),
        }
    }
    let hidden = patterns.iter().any(|text| text.split('/').any(|part| part.starts_with('.')));
    match set.build() {
        Ok(patterns) => Some(Outputs { patterns, hidden }),
        Err(error) => {
            violations.push(Violation::new("outputs", error.to_string()));
            None
        }
    }
}

fn pattern(text: &str) -> Result<Glob, String> {
    if text.len() > LONGEST_PATTERN {
        return Err(format!("must be at most {LONGEST_PATTERN} bytes"));
    }
    let path = RelativePath::new(text.as_bytes())?;
    let text = String::from_utf8_lossy(path.as_bytes());
    GlobBuilder::new(&text).literal_separator(true).build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    fn problems(read: impl FnOnce(&mut Vec<Violation>)) -> Vec<String> {
        let mut violations = Vec::new();
        read(&mut violations);
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn files_are_read_and_every_violation_is_told() {
        let mut violations = Vec::new();
        let read = files(&raw(r#"{"a/b.txt": "aGk=", "./c": "", "\u00e9": "AA=="}"#), 1, &mut violations);
        assert!(violations.is_empty(), "{violations:?}");
        let (path, content) = read.iter().next().unwrap();
        assert_eq!((path.as_bytes(), content.as_slice()), (&b"a/b.txt"[..], &b"hi"[..]));
        let bad = r#"{"/etc/x": "", "../x": "", "": "", "ok": "a", "n": 1, "x": "", "./x": "", "d": "", "d.e": "", "d/f": ""}"#;
        let fields = problems(|violations| drop(files(&raw(bad), 1, violations)));
        assert_eq!(fields, ["files.", "files.../x", "files./etc/x", "files.n", "files.ok", "files.x", "files.d/f"]);
        assert_eq!(problems(|violations| drop(files(&raw("[]"), 1, violations))), ["files"]);
    }

    #[test]
    fn a_pattern_finds_what_a_shell_would() {
        let wanted = |patterns: &str| outputs(&raw(patterns), &mut Vec::new()).unwrap();
        let outputs_of = wanted(r#"["plots/*.png", "data.csv", "**/*.log"]"#);
        for (path, is_wanted) in [
            ("plots/a.png", true),
            ("plots/deep/a.png", false),
            ("data.csv", true),
            ("x/data.csv", false),
            ("a.log", true),
            ("x/y/a.log", true),
            (".git/a.log", false),
        ] {
            assert_eq!(outputs_of.wants(path.as_bytes()), is_wanted, "{path}");
        }
        assert!(wanted(r#"[".config/*"]"#).wants(b".config/x"));
        assert!(wanted(r#"["*"]"#).wants(b"\xff"));
        let bad = r#"["/abs", "a/../b", "", "[", "{a,", "fine"]"#;
        let fields = problems(|violations| drop(outputs(&raw(bad), violations)));
        assert_eq!(fields, ["outputs.0", "outputs.1", "outputs.2", "outputs.3", "outputs.4"]);
    }
}
