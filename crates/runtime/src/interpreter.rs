//! Which interpreter runs a language, and what of the host it needs to see.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sandbox::zygote::Recipe;

use crate::language::Language;
use crate::{javascript, python};

/// An interpreter of this host that was run once to see what it is.
#[derive(Debug, Clone)]
pub struct Interpreter {
    /// What it interprets.
    pub language: Language,
    /// The program.
    pub path: PathBuf,
    /// Its version, for example `3.11.2`.
    pub version: String,
    /// Folders and files outside `/usr` that it needs.
    pub folders: Vec<PathBuf>,
    /// Its language's bootstrap, made ready for this very interpreter.
    pub(crate) bootstrap: Vec<u8>,
}

/// Why a language can't be run here.
#[derive(Debug, thiserror::Error)]
pub enum NotUsable {
    /// None of the standard places has it.
    #[error("no {0} interpreter in {1}: install it, or name one with {2}")]
    NotFound(&'static str, String, &'static str),
    /// It is there but does not answer.
    #[error("{path} does not run: {detail}")]
    DoesNotRun {
        /// The program.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
}

impl Language {
    /// The setting that names its interpreter.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Python => "PYTHON_PATH",
            Self::Javascript => "NODE_PATH_BIN",
            Self::Shell => "SHELL_PATH",
        }
    }

    /// Where it is looked for. Never in PATH: what a user's shell has there need not be visible in a sandbox.
    fn places(self) -> &'static [&'static str] {
        match self {
            // Not /usr/bin/python3, which only looks for Xcode's.
            Self::Python if cfg!(target_os = "macos") => &[
                "/opt/homebrew/bin/python3",
                "/usr/local/bin/python3",
                "/Library/Frameworks/Python.framework/Versions/Current/bin/python3",
                "/Library/Developer/CommandLineTools/usr/bin/python3",
            ],
            Self::Javascript if cfg!(target_os = "macos") => &["/opt/homebrew/bin/node", "/usr/local/bin/node"],
            // The system's own is of 2007, but always there.
            Self::Shell if cfg!(target_os = "macos") => &["/opt/homebrew/bin/bash", "/usr/local/bin/bash", "/bin/bash"],
            Self::Python => &["/usr/bin/python3", "/usr/local/bin/python3"],
            Self::Javascript => &["/usr/bin/node", "/usr/local/bin/node", "/usr/bin/nodejs"],
            Self::Shell => &["/usr/bin/bash", "/bin/bash", "/usr/local/bin/bash", "/bin/sh"],
        }
    }

    /// Arguments that make it print its version, and below it the folders that it lives in.
    fn question(self) -> &'static [&'static str] {
        match self {
            Self::Python => &[
                "-I",
                "-c",
                "import sys; print('.'.join(map(str, sys.version_info[:3]))); print(sys.prefix); print(sys.base_prefix)",
            ],
            Self::Javascript => &["-p", "process.versions.node"],
            Self::Shell => &["-c", "echo ${BASH_VERSION:-unknown}"],
        }
    }
}

impl Interpreter {
    /// Finds the language's interpreter and asks it for its version.
    ///
    /// # Errors
    /// Not there, or it does not run.
    pub fn find(language: Language, configured: Option<&Path>) -> Result<Self, NotUsable> {
        let path = match configured {
            Some(path) => path.to_owned(),
            None => language.places().iter().map(PathBuf::from).find(|path| path.is_file()).ok_or_else(|| {
                NotUsable::NotFound(language.name(), language.places().join(", "), language.variable())
            })?,
        };
        let shown = path.clone();
        let fail = |detail: String| NotUsable::DoesNotRun { path: shown.clone(), detail };
        let answer = ask(&path, language.question()).map_err(|error| fail(error.to_string()))?;
        let mut lines = answer.lines();
        let version = lines.next().filter(|line| !line.is_empty()).ok_or_else(|| fail("it told no version".into()))?;
        let version = version.split('(').next().unwrap_or(version).to_owned();
        let real = std::fs::canonicalize(&path).map_err(|error| fail(error.to_string()))?;
        let mut homes: Vec<PathBuf> = lines.map(PathBuf::from).collect();
        homes.extend(home_of(&real));
        let folders = parts_outside_system(homes, cfg!(target_os = "macos"));
        // A program or a link that lies in no installation is not shown, whatever else is in its folder: what it leads to is.
        let system: &[&str] =
            if cfg!(target_os = "macos") { &["/usr/bin", "/bin"] } else { &["/usr", "/bin", "/sbin"] };
        let system = system.iter().map(Path::new);
        let visible = |program: &Path| {
            system.clone().chain(folders.iter().map(PathBuf::as_path)).any(|part| program.starts_with(part))
        };
        let Some(path) = [&path, &real].into_iter().find(|program| visible(program)).cloned() else {
            return Err(fail("it has to lie in the folder `bin` of an installation".into()));
        };
        let bootstrap = match language {
            Language::Python => python::compile_bootstrap(&path).map_err(|error| fail(error.to_string()))?,
            Language::Javascript => javascript::BOOTSTRAP.into(),
            Language::Shell => Vec::new(),
        };
        Ok(Self { language, path, version, folders, bootstrap })
    }

    /// The modules that come with it, by their first names; none where it does not tell (Python before 3.10).
    ///
    /// # Errors
    /// It does not run.
    pub fn standard_modules(&self) -> io::Result<BTreeSet<String>> {
        const QUESTION: &str = "import sys; print(*getattr(sys, 'stdlib_module_names', ()))";
        if self.language != Language::Python {
            return Ok(BTreeSet::new());
        }
        Ok(ask(&self.path, &["-I", "-c", QUESTION])?.split_whitespace().map(str::to_owned).collect())
    }

    /// What a zygote of it is made of that imports these modules ahead; `None` for a language whose interpreter can't fork.
    pub fn zygote(&self, imports: &[String]) -> Option<Recipe> {
        (self.language == Language::Python).then(|| python::zygote(self, imports))
    }

    /// The folders for `PATH`: those of installed packages, its own when it is not a standard one, those.
    pub(crate) fn search_path(&self, packages: Option<&str>) -> String {
        const STANDARD: &str = "/usr/local/bin:/usr/bin:/bin";
        let own = self.path.parent().and_then(Path::to_str);
        let own = own.filter(|own| !STANDARD.split(':').any(|folder| folder == *own));
        let packages = packages.map(|folder| format!("{folder}/bin"));
        let folders = packages.as_deref().into_iter().chain(own).chain([STANDARD]);
        folders.collect::<Vec<_>>().join(":")
    }
}

/// The installation that a program in a folder `bin` belongs to.
fn home_of(program: &Path) -> Option<PathBuf> {
    program.parent().filter(|folder| folder.ends_with("bin")).and_then(Path::parent).map(Path::to_owned)
}

/// What an installation is made of, where it is not part of the system: never the whole folder, which may be somebody's home.
fn parts_outside_system(mut homes: Vec<PathBuf>, on_macos: bool) -> Vec<PathBuf> {
    const PARTS: [&str; 5] = ["bin", "include", "lib", "lib64", "pyvenv.cfg"];
    homes.sort();
    homes.dedup();
    // On macOS /usr/local is not the system's but Homebrew's, or whoever installs there.
    let is_system = |home: &Path| home.starts_with("/usr") && !(on_macos && home.starts_with("/usr/local"));
    homes.retain(|home| home.is_absolute() && home.parent().is_some() && !is_system(home));
    let mut parts: Vec<PathBuf> = homes.iter().flat_map(|home| PARTS.map(|part| home.join(part))).collect();
    if on_macos {
        parts.extend(homes.iter().flat_map(|home| parts_on_macos(home)));
    }
    parts.retain(|part| part.exists());
    parts.sort();
    parts.dedup();
    parts
}

/// What an installation has besides on macOS: a framework's library and application, which a framework's `bin/python3` runs;
/// and of Homebrew, whose packages are made of one another, all of them with the settings that OpenSSL reads, but nothing
/// that its services keep.
fn parts_on_macos(home: &Path) -> Vec<PathBuf> {
    const FRAMEWORK: [&str; 3] = ["Python", "Python3", "Resources"];
    const HOMEBREW: [&str; 2] = ["/opt/homebrew", "/usr/local"];
    const OF_HOMEBREW: [&str; 5] = ["Cellar", "lib", "opt", "etc/ca-certificates", "etc/openssl@3"];
    let framework = FRAMEWORK.map(|part| home.join(part)).into_iter();
    let homebrew = HOMEBREW.iter().map(Path::new).filter(|prefix| home.starts_with(prefix));
    framework.chain(homebrew.flat_map(|prefix| OF_HOMEBREW.map(|part| prefix.join(part)))).collect()
}

fn ask(path: &Path, question: &[&str]) -> io::Result<String> {
    ask_bytes(path, question).map(|answer| String::from_utf8_lossy(&answer).into_owned())
}

/// What the interpreter prints for these arguments.
pub(crate) fn ask_bytes(path: &Path, question: &[&str]) -> io::Result<Vec<u8>> {
    let output = Command::new(path).args(question).env_clear().stdin(Stdio::null()).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named_with_its_setting() {
        let error = Interpreter::find(Language::Python, Some(Path::new("/nowhere/python3"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/python3"), "{error}");
        let error = Interpreter::find(Language::Shell, Some(Path::new("/bin/false"))).unwrap_err();
        assert!(error.to_string().contains("does not run"), "{error}");
    }

    #[test]
    fn of_somebodys_home_only_an_installation_is_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".local/bin")).unwrap();
        std::fs::create_dir_all(home.path().join(".local/share/secret")).unwrap();
        let link = home.path().join("bash");
        std::os::unix::fs::symlink("/usr/bin/bash", &link).unwrap();
        let shell = Interpreter::find(Language::Shell, Some(&link)).unwrap();
        assert_eq!((shell.path.as_path(), shell.folders.len()), (Path::new("/usr/bin/bash"), 0));
        let copy = home.path().join("bash-of-its-own");
        // By a process of its own: while this one has a program open for writing, another test's thread may fork and hold it open,
        // and then nobody can execute it (execve(2), ETXTBSY).
        assert!(Command::new("/bin/cp").arg("/usr/bin/bash").arg(&copy).status().unwrap().success());
        let error = Interpreter::find(Language::Shell, Some(&copy)).unwrap_err();
        assert!(error.to_string().contains("bin"), "{error}");
    }

    #[test]
    fn an_installation_on_macos_is_more_than_its_folder() {
        let parts = parts_on_macos(Path::new("/opt/homebrew/Cellar/python@3.13/3.13.7"));
        for part in
            ["/opt/homebrew/opt", "/opt/homebrew/etc/openssl@3", "/opt/homebrew/Cellar/python@3.13/3.13.7/Python"]
        {
            assert!(parts.contains(&part.into()), "{part}: {parts:?}");
        }
        assert!(!parts.iter().any(|part| part.starts_with("/opt/homebrew/var") || part == Path::new("/opt/homebrew")));
        let own = parts_on_macos(Path::new("/Users/me/.pyenv/versions/3.13.7"));
        assert!(own.iter().all(|part| part.starts_with("/Users/me/.pyenv/versions/3.13.7")), "{own:?}");
        // Linux's /usr/local is the system's, and stays so.
        assert!(parts_outside_system(vec!["/usr/local".into()], false).is_empty());
        assert!(parts_outside_system(vec!["/usr/local".into()], true).contains(&"/usr/local/lib".into()));
    }

    #[test]
    fn a_standard_interpreter_needs_no_folder_beside_usr() {
        let shell = Interpreter::find(Language::Shell, None).unwrap();
        assert!(shell.folders.is_empty(), "{:?}", shell.folders);
        assert_eq!(shell.search_path(None), "/usr/local/bin:/usr/bin:/bin");
        assert_eq!(shell.search_path(Some("/packages")), "/packages/bin:/usr/local/bin:/usr/bin:/bin");
    }
}
