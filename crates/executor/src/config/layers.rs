//! Where values come from: a flag takes precedence over the environment, that over the file, that over the default.
//! A variable that is set but empty counts as absent, and so does an empty string or list in the file, because that is
//! what `-e NAME=` and an unset template variable leave behind. An empty *flag* is an error: somebody typed it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::rule::Rule;
use super::{ConfigError, SETTINGS, Setting, Shape};

/// Name of the argument that names the configuration file.
pub(super) const FILE_ARGUMENT: &str = "config";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The environment variable.
    Environment,
    /// This configuration file.
    File(PathBuf),
    /// The flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Everything a setting can come from, read but not understood yet.
pub(super) struct Layers<'a> {
    flags: &'a ArgMatches,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    file: Option<(PathBuf, toml::Table)>,
}

impl<'a> Layers<'a> {
    pub(super) fn read(
        flags: &'a ArgMatches,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let file = match flag(flags, FILE_ARGUMENT) {
            Some(path) => Some(read_file(PathBuf::from(path))?),
            None => None,
        };
        Ok(Self { flags, environment, file })
    }

    /// The value of a setting; where it came from is added to `sources`.
    pub(super) fn take<T: 'static>(
        &self,
        sources: &mut Vec<Source>,
        name: &str,
        rule: &Rule<T>,
    ) -> Result<T, ConfigError> {
        let setting = Setting::named(name);
        let (text, source) = self.text(setting)?;
        let trimmed = text.trim();
        // Blanks alone are a mistake, not an absent value: a token of blanks must not open the service.
        let blank = trimmed.is_empty() && source != Source::Default;
        match rule.parse(trimmed).filter(|_| !blank) {
            Some(value) => {
                sources.push(source);
                Ok(value)
            }
            None => Err(ConfigError::bad_value(setting, &source, &text)),
        }
    }

    fn text(&self, setting: &Setting) -> Result<(String, Source), ConfigError> {
        if let Some(value) = flag(self.flags, setting.name) {
            return unicode(setting, value, Source::Flag(format!("--{}", setting.flag())));
        }
        if let Some(value) = (self.environment)(setting.name).filter(|value| !value.is_empty()) {
            return unicode(setting, value, Source::Environment);
        }
        if let Some((path, table)) = &self.file
            && let Some(value) = table.get(&setting.key())
        {
            let source = Source::File(path.clone());
            let text = toml_text(setting, value).map_err(|allowed| ConfigError::BadValue {
                name: setting.name,
                set_by: source.clone(),
                value: setting.presentable(&value.to_string()),
                allowed,
            })?;
            if !text.is_empty() {
                return Ok((text, source));
            }
        }
        Ok((setting.default.to_owned(), Source::Default))
    }
}

fn flag(matches: &ArgMatches, id: &str) -> Option<OsString> {
    matches.try_get_raw(id).ok().flatten()?.next_back().map(OsString::from)
}

fn unicode(setting: &Setting, value: OsString, source: Source) -> Result<(String, Source), ConfigError> {
    match value.into_string() {
        Ok(text) => Ok((text, source)),
        Err(value) => Err(ConfigError::bad_value(setting, &source, &value.to_string_lossy())),
    }
}

/// The file's value in the form that an environment variable would have; the error says what the file may hold.
fn toml_text(setting: &Setting, value: &toml::Value) -> Result<String, String> {
    use toml::Value::{Array, Boolean, Float, Integer, String as Text};
    match (setting.shape, value) {
        (_, Text(text)) => Ok(text.clone()),
        (Shape::Number | Shape::Switch, Integer(number)) => Ok(number.to_string()),
        (Shape::Number, Float(number)) => Ok(number.to_string()),
        (Shape::Switch, Boolean(yes)) => Ok(yes.to_string()),
        (Shape::List, Array(items)) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(",")).ok_or_else(|| "a string or an array of strings".to_owned())
        }
        (Shape::List, _) => Err("a string or an array of strings".to_owned()),
        (Shape::Text, _) => Err(format!("a string: {}", (setting.allowed)())),
        _ => Err((setting.allowed)()),
    }
}

fn read_file(path: PathBuf) -> Result<(PathBuf, toml::Table), ConfigError> {
    let text = std::fs::read_to_string(&path)
        .map_err(|error| ConfigError::Unreadable { path: path.clone(), reason: error.to_string() })?;
    let table = parse_file(&path, &text)?;
    Ok((path, table))
}

fn parse_file(path: &Path, text: &str) -> Result<toml::Table, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        // Only the first line of the reason: the rest would quote the file, secrets included.
        let reason = error.message().lines().next().unwrap_or_default().to_owned();
        ConfigError::Syntax { path: path.to_owned(), line: before.matches('\n').count() + 1, reason }
    })?;
    match table.keys().find(|key| !SETTINGS.iter().any(|setting| setting.key() == **key)) {
        Some(key) => Err(ConfigError::UnknownKey { path: path.to_owned(), key: key.clone(), nearest: nearest(key) }),
        None => Ok(table),
    }
}

/// The key that the given one is a part of (`port`), else the one that takes the fewest changes to get to.
fn nearest(key: &str) -> String {
    let distance = |known: &String| (!known.contains(&key.to_lowercase()), changes(key, known));
    SETTINGS.iter().map(Setting::key).min_by_key(distance).unwrap_or_default()
}

/// How many characters have to be added, dropped or replaced to turn one text into the other (Levenshtein).
fn changes(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
