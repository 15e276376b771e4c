//! What programs know of their session's installed packages: where Python finds them, and their commands.
//!
//! The folder is the same for every program of a session, and nothing in it can be changed. It is told by the variables that
//! Python itself reads, so that whatever a program starts finds the packages too. What a caller sets goes before.

use sandbox::running::Layout;

use crate::{Interpreter, Language};

/// Where a Python that is started by a program looks.
const PYTHONPATH: &str = "PYTHONPATH";

/// The packages of a program's session.
#[derive(Debug, Clone)]
pub struct Packages {
    folder: String,
    search_path: String,
}

impl Packages {
    /// Those that are in a sandbox, if there are any.
    pub(crate) fn of(interpreter: &Interpreter, layout: &Layout) -> Option<Self> {
        layout.packages.clone().map(|folder| Self { search_path: interpreter.search_path(Some(&folder)), folder })
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &str {
        &self.folder
    }

    /// The variable by which Python finds them, behind those of the caller's, which is the last of `given`.
    pub(crate) fn python_path(&self, given: &[(String, String)]) -> (&'static str, String) {
        let callers = given.iter().rfind(|(name, value)| name == PYTHONPATH && !value.is_empty());
        let path = callers.map_or(self.folder.clone(), |(_, callers)| format!("{callers}:{}", self.folder));
        (PYTHONPATH, path)
    }

    /// All variables, for a program that has started without.
    pub(crate) fn variables(&self, given: &[(String, String)]) -> Vec<(&'static str, String)> {
        let mut variables = vec![self.python_path(given)];
        if !given.iter().any(|(name, _)| name == "PATH") {
            variables.push(("PATH", self.search_path.clone()));
        }
        variables
    }
}

impl Language {
    /// Whether the interpreter itself would read the variable when it starts, with all that a package may do then. Its bootstrap
    /// sets it later: what has started ahead of its request would differ otherwise.
    pub(crate) fn reads_python_path(self) -> bool {
        self == Self::Python
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_sets_goes_before() {
        let packages = Packages { folder: "/packages".into(), search_path: "/packages/bin:/usr/bin".into() };
        let given = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let found = |all| packages.variables(&given(all));
        let path = || ("PATH", "/packages/bin:/usr/bin".to_owned());
        assert_eq!(found(&[]), [(PYTHONPATH, "/packages".to_owned()), path()]);
        let theirs = [(PYTHONPATH, "a"), (PYTHONPATH, "b:c"), ("X", "y")];
        assert_eq!(found(&theirs), [(PYTHONPATH, "b:c:/packages".to_owned()), path()]);
        assert_eq!(found(&[("PATH", "/x"), (PYTHONPATH, "")]), [(PYTHONPATH, "/packages".to_owned())]);
    }
}
