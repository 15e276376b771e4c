//! What a caller asks for: a package by its name, with a version (PEP 508, PEP 440). It comes from strangers and goes to pip, whose
//! requirements may also be options, files, folders, addresses and repositories; so the former is all that is understood, and what
//! pip gets is written anew from that. Environment markers are not: there is one interpreter, and it is known.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Serialize};

/// Longest text of one.
const LONGEST_BYTES: usize = 512;

/// What one has to be.
const FORM: &str = "must be a package with a version, such as numpy==1.26.4 or pandas>=2,<3";

/// One package with a version. Two that mean the same are written the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Specifier {
    name: String,
    text: String,
}

impl Specifier {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it: it may be an address with a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_BYTES {
            return Err(format!("must be at most {LONGEST_BYTES} bytes long"));
        }
        if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(format!("{FORM}: it holds characters that none of its parts can have"));
        }
        if text.contains(['@', '/', '\\']) {
            return Err(format!("{FORM}: addresses and paths are not allowed"));
        }
        if text.contains(';') {
            return Err(format!("{FORM}: environment markers are not needed, leave out what is not for this one"));
        }
        let (name, extras, versions) = parts(text.trim()).ok_or_else(|| format!("{FORM}: this is none"))?;
        let versions = VersionSpecifiers::from_str(versions).map_err(|_| format!("{FORM}: its version is none"))?;
        if versions.is_empty() {
            return Err(format!("{FORM}: it has no version"));
        }
        let mut versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        versions.sort();
        let versions = versions.join(",");
        let extras = if extras.is_empty() { String::new() } else { format!("[{}]", join(&extras)) };
        Ok(Self { text: format!("{name}{extras}{versions}"), name })
    }

    /// As pip gets it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Name, extras and versions, the latter as they are written.
fn parts(text: &str) -> Option<(String, BTreeSet<String>, &str)> {
    let end = text.find(|c: char| !is_of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let (extras, versions) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let extras = extras.split(',').map(str::trim).filter(|_| !extras.trim().is_empty());
    let extras = extras.map(normalised).collect::<Option<_>>()?;
    let versions = versions.trim();
    let versions = versions.strip_prefix('(').map_or(Some(versions), |inner| inner.strip_suffix(')'))?;
    Some((normalised(name)?, extras, versions))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A name as indexes have it (PEP 503); `None` if it is none.
fn normalised(name: &str) -> Option<String> {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !is_end(name.chars().next()) || !is_end(name.chars().next_back()) || !name.chars().all(is_of_name) {
        return None;
    }
    let words = name.split(['.', '_', '-']).filter(|word| !word.is_empty());
    Some(words.collect::<Vec<_>>().join("-").to_ascii_lowercase())
}

fn join(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// A set of them, in order and each once.
pub fn set(mut specifiers: Vec<Specifier>) -> Vec<Specifier> {
    specifiers.sort();
    specifiers.dedup();
    specifiers
}

/// `known`, with what `new` says about a package in the place of what was known about it.
pub fn merge(known: Vec<Specifier>, new: Vec<Specifier>) -> Vec<Specifier> {
    let is_kept = |one: &Specifier| !new.iter().any(|other| other.name == one.name);
    let kept: Vec<Specifier> = known.into_iter().filter(is_kept).collect();
    set(kept.into_iter().chain(new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        Specifier::parse(text).unwrap().to_string()
    }

    #[test]
    fn what_means_the_same_is_written_the_same() {
        assert_eq!(written("NumPy==1.26.4"), "numpy==1.26.4");
        assert_eq!(written("  scikit_Learn ( >=1 , <2 ) "), "scikit-learn<2,>=1");
        assert_eq!(written("a [c, B_1] ~= 1.0"), "a[b-1,c]~=1.0");
        assert_eq!(written("a[]==1.*"), "a==1.*");
        let several = ["b>=1", "a==2", "b>=1", "a==1"].map(|text| Specifier::parse(text).unwrap());
        assert_eq!(set(several.to_vec()).iter().map(Specifier::text).collect::<Vec<_>>(), ["a==1", "a==2", "b>=1"]);
    }

    #[test]
    fn whatever_else_pip_would_take_is_refused() {
        for (text, why) in [
            ("numpy", "no version"),
            ("numpy[all]", "no version"),
            ("", "this is none"),
            ("--index-url=https://x.example", "addresses"),
            ("--pre", "this is none"),
            ("--no-binary=:all:", "this is none"),
            ("-r /etc/passwd", "addresses"),
            ("-r requirements.txt", "this is none"),
            ("-e .", "this is none"),
            ("../x", "addresses"),
            ("./x", "addresses"),
            ("/etc/passwd", "addresses"),
            (".", "this is none"),
            ("x.whl", "no version"),
            ("https://me:password@x.example/a-1-py3-none-any.whl", "addresses"),
            ("git+https://x.example/a", "addresses"),
            ("pkg @ file:///etc/passwd", "addresses"),
            ("pkg @ https://me:password@x.example/a.whl", "addresses"),
            ("pkg@.", "addresses"),
            ("a==1 --hash=sha256:00", "its version is none"),
            ("a==1 -r x", "its version is none"),
            ("a==1; os.system('x')", "markers"),
            ("a==1; python_version > '3'", "markers"),
            ("a==1 # comment", "its version is none"),
            ("a==1\n--pre", "characters"),
            ("a==1\0", "characters"),
            ("a==1\u{a0}", "characters"),
            ("a==1 \\", "addresses"),
            ("a b==1", "its version is none"),
            ("a-==1", "this is none"),
            ("a[b-]==1", "this is none"),
            ("a[b==1", "this is none"),
            ("a(==1", "this is none"),
            ("$(id)==1", "this is none"),
            ("${HOME}==1", "this is none"),
            ("a===anything", "its version is none"),
            ("a==1,", "its version is none"),
        ] {
            let refused = Specifier::parse(text).expect_err(text);
            assert!(refused.contains(why), "{text:?}: {refused}");
            assert!(!refused.contains("password") && !refused.contains('\n'), "{text:?}: {refused}");
        }
        assert!(Specifier::parse(&format!("{}==1", "a".repeat(LONGEST_BYTES))).unwrap_err().contains("512"));
    }

    #[test]
    fn new_words_about_a_package_replace_the_old() {
        let all =
            |texts: &[&str]| -> Vec<Specifier> { texts.iter().map(|text| Specifier::parse(text).unwrap()).collect() };
        let merged = merge(all(&["a==1", "b[x]==1", "c==1"]), all(&["B==2", "d>=1"]));
        assert_eq!(merged, all(&["a==1", "b==2", "c==1", "d>=1"]));
        assert_eq!(merge(all(&["a==1"]), Vec::new()), all(&["a==1"]));
    }

    proptest! {
        #[test]
        fn what_pip_gets_is_one_word_of_a_package_and_is_understood_again(
            text in "[-a-zA-Z0-9._\\[\\]<>=~!, ;'()@/:\\\\$]{0,24}|[a-z]{1,4}(\\[[a-z]\\])?(==|>=|~=|!=|===)[0-9a-z.*+]{1,6}"
        ) {
            if let Ok(specifier) = Specifier::parse(&text) {
                let written = specifier.text();
                prop_assert!(written.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit()));
                prop_assert!(!written.contains(" @ ") && !written.contains(['\n', '\0']));
                prop_assert_eq!(Specifier::parse(written), Ok(specifier.clone()));
            }
        }
    }
}
