//! What a setting is, apart from its value: the row type of the table in [`super`], and the value types it can hold.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Config, ExecuteMode, IndexUrl, Isolation};
use crate::telemetry::log::{Format, Level};

/// How a value is written in the file, and what its flag looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A number.
    Number,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// An array of strings, or a string with commas.
    List,
}

/// One row of the table of settings.
pub struct Setting {
    /// The heading it stands under.
    pub section: &'static str,
    /// The environment variable. In lower case it is the key in the file.
    pub name: &'static str,
    /// What it is for, in whole sentences, one documentation line a line.
    pub doc: &'static str,
    /// The value's name in the help.
    pub placeholder: &'static str,
    /// The default as it would be written in the environment; empty if there is none or it depends on the machine.
    pub default: &'static str,
    /// Never shown.
    pub secret: bool,
    /// How it is written.
    pub shape: Shape,
    /// What is allowed, to be read after "allowed:".
    pub allowed: fn() -> String,
    /// The effective value as it would be written in the environment; empty if there is none.
    pub(super) show: fn(&Config) -> String,
}

impl Setting {
    /// The key in the configuration file.
    pub fn key(&self) -> String {
        self.name.to_lowercase()
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.name.trim_start_matches("EXECUTOR_").to_lowercase().replace('_', "-")
    }

    /// A refused value as it may be printed: on one line, not endless, without secrets. That goes for what looks like
    /// a password or a token in an address, too.
    pub(super) fn presentable(&self, value: &str) -> String {
        const LONGEST: usize = 120;
        if self.secret {
            return "[redacted]".to_owned();
        }
        let mut shown = value.to_owned();
        if let (Some(scheme), Some(at)) = (shown.find("://"), shown.rfind('@'))
            && scheme + 3 < at
        {
            shown.replace_range(scheme + 3..at, "[redacted]");
        }
        if let (Some(_), Some(query)) = (shown.find("://"), shown.find('?')) {
            shown.replace_range(query + 1.., "[redacted]");
        }
        if let Some((cut, _)) = shown.char_indices().nth(LONGEST) {
            shown.replace_range(cut.., "…");
        }
        shown.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
    }
}

/// A value that must not be seen: printing it in any way gives `[redacted]`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A type of a field of [`Config`].
pub(super) trait Value {
    /// How it is written.
    const SHAPE: Shape;
    /// Whether it is hidden.
    const SECRET: bool = false;
    /// As it would be written in the environment; empty for an absent value.
    fn show(&self) -> String;
}

macro_rules! shown_by_display {
    ($($shape:ident: $($ty:ty),+;)+) => { $($(
        impl Value for $ty {
            const SHAPE: Shape = Shape::$shape;
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+)+ };
}

shown_by_display! {
    Text: String, IpAddr, ExecuteMode, Isolation, Level, Format;
    Number: u16, u32, u64, usize, f64;
    Switch: bool;
}

impl Value for Duration {
    const SHAPE: Shape = Shape::Number;
    fn show(&self) -> String {
        self.as_secs().to_string()
    }
}

/// How many of something, or as many as suit the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub Option<usize>);

impl Value for Count {
    const SHAPE: Shape = Shape::Number;
    fn show(&self) -> String {
        self.0.map_or("auto".to_owned(), |count| count.to_string())
    }
}

impl Value for PathBuf {
    const SHAPE: Shape = Shape::Text;
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for Secret {
    const SHAPE: Shape = Shape::Text;
    const SECRET: bool = true;
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Vec<String> {
    const SHAPE: Shape = Shape::List;
    fn show(&self) -> String {
        self.join(",")
    }
}

impl Value for Vec<IndexUrl> {
    const SHAPE: Shape = Shape::List;
    fn show(&self) -> String {
        self.iter().map(IndexUrl::to_string).collect::<Vec<_>>().join(",")
    }
}

impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const SECRET: bool = T::SECRET;
    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}
