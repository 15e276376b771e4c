//! What a setting's value may be. A [`Rule`] holds the sentence that says what is allowed beside the code that
//! decides it, made from the same bounds, so that an error line, the help and the documented defaults never disagree.
//! Rules get text without blanks around it; empty text means "not set" and is fine only for [`optional`] values and
//! for lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::Secret;
use super::pip::IndexUrl;
use super::setting::Count;

type Parse<T> = Box<dyn Fn(&str) -> Option<T>>;

/// How to read one setting.
pub struct Rule<T> {
    allowed: String,
    parse: Parse<T>,
}

impl<T: 'static> Rule<T> {
    fn new(allowed: impl Into<String>, parse: impl Fn(&str) -> Option<T> + 'static) -> Self {
        Self { allowed: allowed.into(), parse: Box::new(parse) }
    }

    /// What is allowed, to be read after "allowed:".
    pub fn allowed(self) -> String {
        self.allowed
    }

    /// The value, or `None` for text that is not allowed.
    pub fn parse(&self, text: &str) -> Option<T> {
        (self.parse)(text)
    }
}

/// A whole number within bounds.
pub fn whole<T: TryFrom<u64> + 'static>(bounds: RangeInclusive<u64>) -> Rule<T> {
    let allowed = format!("a whole number from {} to {}", bounds.start(), bounds.end());
    Rule::new(allowed, move |text| {
        let number: u64 = text.parse().ok()?;
        bounds.contains(&number).then(|| T::try_from(number).ok()).flatten()
    })
}

/// A number with a decimal point within bounds.
pub fn decimal(bounds: RangeInclusive<f64>) -> Rule<f64> {
    let allowed = format!("a number from {} to {}", bounds.start(), bounds.end());
    Rule::new(allowed, move |text| text.parse().ok().filter(|number| bounds.contains(number)))
}

/// Whole seconds within bounds.
pub fn seconds(bounds: RangeInclusive<u64>) -> Rule<Duration> {
    let number = whole::<u64>(bounds);
    Rule::new(format!("{} (seconds)", number.allowed), move |text| number.parse(text).map(Duration::from_secs))
}

/// One of some names, in any case.
pub fn one_of<T: Copy + 'static>(names: &'static [(&'static str, T)]) -> Rule<T> {
    let allowed = names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    Rule::new(allowed, move |text| {
        names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    })
}

/// Yes or no.
pub fn switch() -> Rule<bool> {
    one_of(&[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)])
}

/// Anything the given rule allows, or nothing.
pub fn optional<T: 'static>(rule: Rule<T>) -> Rule<Option<T>> {
    let allowed = rule.allowed.clone();
    Rule::new(allowed, move |text| if text.is_empty() { Some(None) } else { rule.parse(text).map(Some) })
}

/// An address to listen on.
pub fn address() -> Rule<IpAddr> {
    Rule::new("an IPv4 or IPv6 address, or localhost", |text| {
        if text.eq_ignore_ascii_case("localhost") {
            return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().ok()
    })
}

/// A token that fits into an HTTP header.
pub fn token() -> Rule<Secret> {
    Rule::new("visible ASCII characters without spaces", |text| {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Secret::new(text))
    })
}

/// How something calls itself to other systems.
pub fn identity() -> Rule<String> {
    const LONGEST: usize = 253;
    Rule::new(format!("up to {LONGEST} visible ASCII characters without spaces"), |text| {
        let fits = !text.is_empty() && text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| text.to_owned())
    })
}

/// A path; a relative one counts from the current folder. Empty stays empty, for paths that are chosen later.
pub fn path() -> Rule<PathBuf> {
    Rule::new("a path", |text| match text {
        "" => Some(PathBuf::new()),
        _ if text.chars().any(char::is_control) => None,
        _ => std::path::absolute(text).ok(),
    })
}

/// A path from the root.
pub fn absolute_path() -> Rule<PathBuf> {
    Rule::new("an absolute path", |text| {
        (Path::new(text).is_absolute() && !text.chars().any(char::is_control)).then(|| PathBuf::from(text))
    })
}

/// Origins as browsers send them, separated by commas.
pub fn origins() -> Rule<Vec<String>> {
    let allowed = "scheme://host or scheme://host:port with nothing behind it, several separated by commas";
    Rule::new(allowed, |text| list(text, origin))
}

/// Host names or addresses without a port, separated by commas.
pub fn hosts() -> Rule<Vec<String>> {
    let allowed = "host names or addresses without ports, IPv6 in [brackets], several separated by commas";
    Rule::new(allowed, |text| list(text, host_name).filter(|hosts| !hosts.is_empty()))
}

/// A number, or `auto`.
pub fn count_or_auto(most: usize) -> Rule<Count> {
    Rule::new(format!("a whole number from 0 to {most}, or auto"), move |text| {
        if text.eq_ignore_ascii_case("auto") {
            return Some(Count(None));
        }
        text.parse().ok().filter(|count| *count <= most).map(|count| Count(Some(count)))
    })
}

/// Names of Python modules, separated by commas.
pub fn modules() -> Rule<Vec<String>> {
    let part = |part: &str| {
        part.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    Rule::new("names of modules, several separated by commas, or none", move |text| {
        list(text, |name| Some(name.to_owned())).filter(|names| names.iter().all(|name| name.split('.').all(part)))
    })
}

/// The address that other paths are appended to: no query, no fragment, no password, no final slash.
pub fn base_url() -> Rule<String> {
    let allowed = "an http:// or https:// address without user, password, query and fragment";
    Rule::new(allowed, |text| {
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\' || c == '@') {
            return None;
        }
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
        let plain = url.query().is_none() && url.fragment().is_none() && text.contains("://");
        plain.then(|| url.as_str().trim_end_matches('/').to_owned())
    })
}

/// Package indexes, separated by commas.
pub fn indexes() -> Rule<Vec<IndexUrl>> {
    let allowed = "http://, https:// and file:// addresses without query and fragment, several separated by commas";
    Rule::new(allowed, |text| list(text, IndexUrl::parse))
}

/// A host in the one form that is compared: lower case, without a final dot, IPv6 in brackets. `None` if it isn't one.
pub fn host_name(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
        return Some(format!("[{address}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !name.chars().all(fits) {
        return None;
    }
    Url::parse(&format!("http://{name}/")).ok()?.host_str().map(str::to_owned)
}

fn origin(text: &str) -> Option<String> {
    let (_, authority) = text.split_once("://")?;
    let unfit = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#' | '@' | '*');
    if authority.is_empty() || authority.contains(unfit) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?.to_lowercase();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{host}{port}", url.scheme()))
}

fn list<T>(text: &str, item: fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(item).collect()
}
