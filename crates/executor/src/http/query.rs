//! What a URL says beside the file that it names: whose session, and which page of a list.

use axum::http::Uri;

use crate::admission::fields::Violation;
use crate::admission::request::{ID_FORM, is_id};

/// A session's id, as it is in a URL.
pub fn session_id(text: &str) -> Result<String, Violation> {
    let id = percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    if is_id(&id) { Ok(id) } else { Err(Violation::new("session_id", format!("must be {ID_FORM}"))) }
}

/// The last value that the query has under a name.
pub fn value<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
}

/// What is in the query and has no meaning there: other names than these, and names that are given twice.
pub fn strange(uri: &Uri, known: &[&str]) -> Vec<Violation> {
    let (mut seen, mut violations) = (Vec::new(), Vec::new());
    for part in uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let name = part.split_once('=').map_or(part, |(name, _)| name);
        if !known.contains(&name) {
            violations.push(Violation::new(name, format!("unknown parameter; known are {}", known.join(", "))));
        } else if seen.contains(&name) {
            violations.push(Violation::new(name, "given twice"));
        }
        seen.push(name);
    }
    violations
}

/// The size of a page that the query asks for.
pub fn limit(uri: &Uri, default: usize, largest: usize) -> Result<usize, Violation> {
    let asked = value(uri, "limit").map_or(Ok(default), |text| page_size(text, largest));
    asked.map_err(|problem| Violation::new("limit", problem))
}

/// The size of a page.
///
/// # Errors
/// What is wrong with it.
pub fn page_size(text: &str, largest: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=largest).contains(number));
    number.ok_or_else(|| format!("must be a whole number from 1 to {largest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_refused() {
        let strange = |query: &str| -> Vec<String> {
            let uri = format!("/sessions?{query}").parse().unwrap();
            strange(&uri, &["limit", "cursor"]).into_iter().map(|violation| violation.field).collect()
        };
        assert_eq!(strange("limit=1&cursor=a"), [""; 0]);
        assert_eq!(strange(""), [""; 0]);
        assert_eq!(strange("foo=1&limit=1&bar&limit=2&Limit=3"), ["foo", "bar", "limit", "Limit"]);
    }
}
