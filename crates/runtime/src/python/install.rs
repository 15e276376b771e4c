//! Installing packages: pip and what follows it, as programs for a sandbox that holds nothing but the new folder.
//!
//! The interpreter runs isolated (`-I`): neither variables, nor the folder it stands in, nor a user's own packages have a say. What
//! pip is to know comes as variables of that one process, where nobody else sees them, and no configuration file is read. Unless
//! packages may be built from source, nothing of what is installed runs: pip is asked for that, and kept from it (`wheels_only.py`).

use std::io;
use std::os::fd::OwnedFd;

use sandbox::channel;
use sandbox::running::{Layout, Program};

use crate::Interpreter;

/// pip, kept from starting anything.
const WHEELS_ONLY: &str = include_str!("wheels_only.py");

/// Where pip puts what it installs, in the workspace.
pub const INSTALLED: &str = "packages";
/// Its own temporary files, in the workspace: those of `/tmp` would count as memory.
const TEMPORARY: &str = "tmp";
/// The certificates' file among ours.
const CERTIFICATES: &str = "certificates.pem";
/// How long pip waits for a connection or for more of an answer, and how often it tries again.
const PATIENCE_SECONDS: &str = "15";
const RETRIES: &str = "1";

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// An index, which may name a user and a password.
    Url(String),
    /// The folder that the sandbox shows as packages: files of the form that an index has.
    Folder,
}

/// What to install.
#[derive(Debug)]
pub struct Installation<'a> {
    /// Requirements in the form of PEP 508, nothing else.
    pub specifiers: &'a [String],
    /// Where they come from.
    pub index: &'a Index,
    /// Whether packages may be built, which runs their code.
    pub source_builds: bool,
    /// Certificates to trust instead of the usual ones.
    pub certificates: Option<&'a [u8]>,
    /// What pip and those it calls read beside that: proxies, hosts to trust.
    pub variables: &'a [(String, String)],
}

impl Interpreter {
    /// Installs them into [`INSTALLED`].
    ///
    /// # Errors
    /// When the files in memory can't be made.
    pub fn install(&self, installation: &Installation<'_>, layout: &Layout) -> io::Result<Program> {
        let target = format!("{}/{INSTALLED}", layout.workspace);
        let (start, form): (_, &[&str]) = match installation.source_builds {
            true => (["-m", "pip"], &["--prefer-binary"]),
            false => (["-c", WHEELS_ONLY], &["--only-binary", ":all:"]),
        };
        let mut words = start.to_vec();
        words.extend(["install", "--target", &target, "--no-compile", "--no-warn-script-location"]);
        words.extend(form);
        words.push("--");
        words.extend(installation.specifiers.iter().map(String::as_str));
        let mut program = self.isolated(&words, layout)?;
        let mut set = |name: &str, value: &str| program.env.push((name.to_owned(), value.to_owned()));
        for (name, value) in installation.variables {
            set(name, value);
        }
        for (name, value) in [
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_KEYRING_PROVIDER", "disabled"),
            ("PIP_NO_CACHE_DIR", "1"),
            ("PIP_NO_COLOR", "1"),
            ("PIP_NO_INPUT", "1"),
            ("PIP_PROGRESS_BAR", "off"),
            ("PIP_RETRIES", RETRIES),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("PIP_TIMEOUT", PATIENCE_SECONDS),
        ] {
            set(name, value);
        }
        match installation.index {
            Index::Url(url) => set("PIP_INDEX_URL", url),
            Index::Folder => {
                set("PIP_NO_INDEX", "1");
                set("PIP_FIND_LINKS", layout.packages.as_deref().unwrap_or_default());
            }
        }
        if let Some(certificates) = installation.certificates {
            set("PIP_CERT", &format!("{}/{CERTIFICATES}", layout.files));
            program.files.push((CERTIFICATES.into(), channel::sealed(CERTIFICATES, &[certificates])?));
        }
        Ok(program)
    }

    /// Compiles what was installed, so that nobody has to in a folder that nobody may write to. What it makes is never compared with
    /// the source again (PEP 552): both are there for good.
    ///
    /// # Errors
    /// As of [`Self::install`].
    pub fn compile(&self, layout: &Layout, jobs: usize) -> io::Result<Program> {
        let (folder, jobs) = (format!("{}/{INSTALLED}", layout.workspace), jobs.to_string());
        let mode = ["--invalidation-mode", "unchecked-hash"];
        let words = ["-m", "compileall", "-q", "-f", "-j", &jobs, mode[0], mode[1], "-d", "/packages", &folder];
        self.isolated(&words, layout)
    }

    /// The interpreter with these words, and with nothing but its own modules.
    fn isolated(&self, words: &[&str], layout: &Layout) -> io::Result<Program> {
        let interpreter = self.path.to_string_lossy();
        let argv = [&*interpreter, "-I", "-u"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let mut program = self.program(argv, layout, OwnedFd::from(std::fs::File::open("/dev/null")?));
        // What comes in the sandbox's folder of packages is to be read by pip, not to be run.
        program.env.retain(|(name, _)| !["PATH", "PYTHONPATH", "TMPDIR"].contains(&name.as_str()));
        program.env.push(("PATH".into(), self.search_path(None)));
        program.env.push(("TMPDIR".into(), format!("{}/{TEMPORARY}", layout.workspace)));
        program.working_directory = TEMPORARY.into();
        Ok(program)
    }
}
