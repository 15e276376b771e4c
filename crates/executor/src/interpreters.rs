//! The interpreters that the configuration names or this host has, as far as a sandbox can be shown them.

use std::path::Path;

use runtime::{Interpreter, Language};

use crate::config::{Config, Isolation};

/// The one that somebody named.
pub fn named(config: &Config, language: Language) -> Option<&Path> {
    match language {
        Language::Python => config.python_path.as_deref(),
        Language::Javascript => config.node_path_bin.as_deref(),
        Language::Shell => config.shell_path.as_deref(),
    }
}

/// The language's interpreter.
///
/// # Errors
/// Why there is none that can be used.
pub fn find(config: &Config, language: Language) -> Result<Interpreter, String> {
    let interpreter = Interpreter::find(language, named(config, language)).map_err(|error| error.to_string())?;
    let covered = |folder: &Path| sandbox::covered_by(folder).filter(|_| config.isolation != Isolation::None);
    match interpreter.folders.iter().find_map(|folder| Some((folder, covered(folder)?))) {
        None => Ok(interpreter),
        Some((folder, own)) => Err(format!(
            "{} can't be shown to sandboxes, which have a {own} of their own: install it elsewhere, for example in /opt",
            folder.display()
        )),
    }
}
