//! The languages and their names.

use serde::Serialize;

/// A language that code can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// CPython.
    Python,
    /// Node.js.
    Javascript,
    /// Bash, or another POSIX shell.
    Shell,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Javascript, Self::Shell];
    /// Every name that [`Self::parse`] knows.
    pub const NAMES: &str = "python, javascript, shell (or python3, node, nodejs, bash, sh)";

    /// By name or alias.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "python" | "python3" => Some(Self::Python),
            "javascript" | "node" | "nodejs" => Some(Self::Javascript),
            "shell" | "bash" | "sh" => Some(Self::Shell),
            _ => None,
        }
    }

    /// By the ending of a file's name.
    pub fn of_file(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "py" => Some(Self::Python),
            "js" | "mjs" | "cjs" => Some(Self::Javascript),
            "sh" | "bash" => Some(Self::Shell),
            _ => None,
        }
    }

    /// The name that answers and logs use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Shell => "shell",
        }
    }
}
