//! Paths of files in a workspace, as callers spell them and as they are told to callers.
//!
//! What is refused here is refused early and in words. That no path leads out of a workspace is not decided by looking at it,
//! but by the kernel when the path is used ([`super::beneath`]).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use serde::Serialize;

/// Longest name of a file or folder (NAME_MAX of the usual file systems).
const MAX_NAME_BYTES: usize = 255;
/// Longest path that the kernel takes at once, without the NUL (PATH_MAX).
pub const MAX_PATH_BYTES: usize = 4095;
/// What is escaped in [`Spelled::path_encoded`]: all but what RFC 3986 calls unreserved, and the slash.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A path that begins in the workspace and names something in it: bytes, since names need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Vec<u8>);

impl RelativePath {
    /// From a path as it was sent, decoded. Parts that are `.` or empty are left out.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(path: &[u8]) -> Result<Self, &'static str> {
        if path.is_empty() {
            return Err("must not be empty");
        }
        if path.starts_with(b"/") {
            return Err("must not begin with '/': paths begin in the workspace");
        }
        if path.contains(&0) {
            return Err("must not contain a NUL character");
        }
        let parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&&b".."[..]) {
            return Err("must not contain '..'");
        }
        if parts.is_empty() || path.ends_with(b"/") || path.ends_with(b"/.") {
            return Err("must name a file, not a folder");
        }
        if parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
            return Err("must have no part of more than 255 bytes");
        }
        let path = parts.join(&b'/');
        if path.len() > MAX_PATH_BYTES {
            return Err("must be at most 4095 bytes");
        }
        Ok(Self(path))
    }

    /// From a path in a URL, percent-decoded exactly once (RFC 3986, section 2.4).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_url(path: &str) -> Result<Self, &'static str> {
        Self::new(&percent_decode(path.as_bytes()).collect::<Vec<u8>>())
    }

    /// As the kernel takes it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The folder it is in, empty for the workspace itself, and its name there.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }

    /// The name alone.
    pub fn name(&self) -> &[u8] {
        name_of(&self.0)
    }

    /// The folders on the way to `other` include this path.
    pub fn is_above(&self, other: &Self) -> bool {
        is_above(&self.0, &other.0)
    }
}

/// The last part of a path.
pub fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether the folders on the way to `other` include `path`.
pub fn is_above(path: &[u8], other: &[u8]) -> bool {
    other.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
}

/// A path in an answer. JSON holds no bytes but text, so one that is not UTF-8 is told twice: readable, and as it goes into a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Spelled {
    /// The path; what is not UTF-8 became U+FFFD.
    pub path: String,
    /// The path percent-encoded, where `path` is not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
}

impl Spelled {
    /// Of a path in the workspace.
    pub fn of(path: &[u8]) -> Self {
        match std::str::from_utf8(path) {
            Ok(path) => Self { path: path.to_owned(), path_encoded: None },
            Err(_) => Self { path: String::from_utf8_lossy(path).into_owned(), path_encoded: Some(encoded(path)) },
        }
    }
}

/// Percent-encoded, for a URL or a header.
pub fn encoded(path: &[u8]) -> String {
    percent_encode(path, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_names_no_file_in_the_workspace_is_refused() {
        for bad in ["", "/", "/etc/passwd", "..", "a/..", "../a", "a/../b", "a/", "a/.", ".", "./", "a\0b"] {
            assert!(RelativePath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RelativePath::new(&[b'a'; 256]).is_err());
        assert!(RelativePath::new("a/".repeat(2048).as_bytes()).is_err());
        for (given, is) in
            [("a", "a"), ("./a//b", "a/b"), ("...", "..."), ("a/..b", "a/..b"), (" ", " "), ("a\n", "a\n")]
        {
            assert_eq!(RelativePath::new(given.as_bytes()).unwrap().as_bytes(), is.as_bytes(), "{given:?}");
        }
    }

    #[test]
    fn a_url_is_decoded_once() {
        assert_eq!(RelativePath::from_url("a%20b").unwrap().as_bytes(), b"a b");
        assert_eq!(RelativePath::from_url("%252e%252e").unwrap().as_bytes(), b"%2e%2e");
        assert_eq!(RelativePath::from_url("%ff").unwrap().as_bytes(), b"\xff");
        for bad in ["%2e%2e/a", "a/%2E%2e", "%2fetc", "a%00"] {
            assert!(RelativePath::from_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_is_above_what_is_in_it_alone() {
        let path = |text: &str| RelativePath::new(text.as_bytes()).unwrap();
        assert!(path("a").is_above(&path("a/b")) && path("a").is_above(&path("a/b/c")));
        assert!(!path("a").is_above(&path("a")) && !path("a").is_above(&path("ab")));
    }

    proptest! {
        #[test]
        fn what_is_told_of_a_path_leads_back_to_it(bytes in proptest::collection::vec(1_u8.., 1..40)) {
            if let Ok(path) = RelativePath::new(&bytes) {
                let told = Spelled::of(path.as_bytes());
                let back = match told.path_encoded {
                    Some(encoded) => RelativePath::from_url(&encoded).unwrap(),
                    None => RelativePath::new(told.path.as_bytes()).unwrap(),
                };
                prop_assert_eq!(&back, &path);
                prop_assert!(path.as_bytes().split(|byte| *byte == b'/').all(|part| part != b".." && part != b"." && !part.is_empty()));
            }
        }
    }
}
