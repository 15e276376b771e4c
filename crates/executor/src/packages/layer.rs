//! A layer: packages that were installed together, in a folder that nobody changes any more. Every session that asks for the same has
//! the same one.
//!
//! It is named after what it was made from. Its folder, with everything in it, is the service's own and read-only; beside it lies
//! what is known of it, which is written last and with that makes it one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use runtime::Interpreter;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::specifier::Specifier;
use crate::config::IndexUrl;

/// The packages, and what is known of them, in a layer's folder.
pub const PACKAGES: &str = "packages";
pub const RECORD: &str = "layer.json";
/// Changes when what is in a layer changes for the same name.
const FORM: u32 = 1;
/// Most that is read of a package's own description.
const DESCRIPTION_BYTES: u64 = 64 * 1024;
/// Longest name or version that is believed.
const LONGEST_WORD: usize = 128;

/// What a layer is made from.
#[derive(Debug, Clone)]
pub struct Order {
    /// Packages, in order and each once.
    pub specifiers: Vec<Specifier>,
    /// Where they come from.
    pub index: IndexUrl,
    /// Whether they may be built.
    pub source_builds: bool,
}

impl Order {
    /// The name of its layer for this interpreter.
    pub fn key(&self, interpreter: &Interpreter) -> String {
        let index = self.index.to_string();
        let source_builds = self.source_builds.to_string();
        let mut parts = vec![identity(interpreter), index, source_builds];
        parts.extend(self.specifiers.iter().map(Specifier::to_string));
        let mut digest = Sha256::new();
        for part in parts {
            // With its length, so that no two lists look the same.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// For whom a layer is: another version, or the same elsewhere, may not be able to load what is in it.
pub fn identity(interpreter: &Interpreter) -> String {
    let path = interpreter.path.display();
    format!("{FORM} {path} {} {} {}", interpreter.version, std::env::consts::OS, std::env::consts::ARCH)
}

/// One package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Installed {
    /// Its name, as it writes it itself.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What is known of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// See [`identity`].
    pub interpreter: String,
    /// What is in it.
    pub installed: Vec<Installed>,
    /// When it came to be.
    pub installed_at: String,
    /// What it takes of the disk.
    pub bytes: u64,
}

/// A layer that is there. It stays for as long as somebody has it.
#[derive(Debug)]
pub struct Layer {
    /// Its name.
    pub key: String,
    /// What is known of it.
    pub record: Record,
    path: PathBuf,
    /// What can be imported from it, and what else lies beside that.
    names: BTreeSet<String>,
}

impl Layer {
    /// The one in this folder, if one was finished there.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open(path: &Path) -> io::Result<Self> {
        let record = serde_json::from_slice(&std::fs::read(path.join(RECORD))?)?;
        let key = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entries = std::fs::read_dir(path.join(PACKAGES))?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.split('.').next().map(str::to_owned));
        Ok(Self { key, record, path: path.into(), names: names.collect() })
    }

    /// Opens the packages, for a sandbox.
    ///
    /// # Errors
    /// As the system said.
    pub fn folder(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.packages(), flags, Mode::empty())?)
    }

    /// Whether it has any of these modules.
    pub fn has_any(&self, modules: &BTreeSet<String>) -> bool {
        !self.names.is_disjoint(modules)
    }

    /// When somebody last asked for it.
    pub fn used_at(&self) -> SystemTime {
        let changed = std::fs::metadata(self.path.join(RECORD)).and_then(|state| state.modified());
        changed.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Somebody asks for it now.
    pub fn use_now(&self) {
        // What comes of it is only the order in which layers leave.
        File::open(self.path.join(RECORD)).and_then(|file| file.set_modified(SystemTime::now())).ok();
    }

    /// Its packages, where no sandbox shows them elsewhere.
    pub fn packages(&self) -> PathBuf {
        self.path.join(PACKAGES)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes what is known of the layer in this folder, which with that is one, when all else of it is on the disk.
///
/// # Errors
/// As the system said.
pub fn finish(path: &Path, record: &Record) -> io::Result<()> {
    let folder = File::open(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&folder)?;
    let mut file = File::create_new(path.join(RECORD))?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    folder.sync_all()
}

/// The packages in a folder, by what each says of itself beside its files (PEP 376).
///
/// # Errors
/// As the system said.
pub fn installed_in(packages: &Path) -> io::Result<Vec<Installed>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(packages)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".dist-info") {
            let description = File::open(entry.path().join("METADATA"));
            all.extend(description.ok().and_then(|file| described(io::Read::take(file, DESCRIPTION_BYTES))));
        }
    }
    all.sort();
    Ok(all)
}

/// A package that did not come from the index but from an address that another one named, if there is one (PEP 610).
///
/// # Errors
/// As the system said.
pub fn come_by_address(packages: &Path) -> io::Result<Option<String>> {
    for entry in std::fs::read_dir(packages)? {
        let entry = entry?;
        if entry.path().join("direct_url.json").symlink_metadata().is_ok() {
            let name = entry.file_name().to_string_lossy().escape_debug().to_string();
            return Ok(Some(name.trim_end_matches(".dist-info").to_owned()));
        }
    }
    Ok(None)
}

/// Name and version, from the head of a description (PEP 566). They are the package's own words: whatever is no word of that kind is
/// left out.
fn described(mut description: impl io::Read) -> Option<Installed> {
    let mut bytes = Vec::new();
    description.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let head = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-+!".contains(c);
        (!value.is_empty() && value.len() <= LONGEST_WORD && value.chars().all(fits)).then(|| value.to_owned())
    };
    Some(Installed { name: field("Name")?, version: field("Version")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Language;

    fn order(specifiers: &[&str], index: &str, source_builds: bool) -> Order {
        let specifiers = specifiers.iter().map(|text| Specifier::parse(text).unwrap()).collect();
        Order { specifiers, index: IndexUrl::parse(index).unwrap(), source_builds }
    }

    #[test]
    fn a_layer_is_named_after_all_that_it_is_made_from_and_no_password() {
        let python = Interpreter::find(Language::Python, None).unwrap();
        let shell = Interpreter::find(Language::Shell, None).unwrap();
        let index = "https://a:b@x.example/simple";
        let one = order(&["a==1", "b==1"], index, false);
        let key = one.key(&python);
        assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(order(&["a==1", "b==1"], "https://a:c@x.example/simple/", false).key(&python), key);
        for other in [
            order(&["a==1"], index, false),
            order(&["a==1", "b==1.0"], index, false),
            order(&["a==1", "b==1"], "https://y.example/simple", false),
            order(&["a==1", "b==1"], index, true),
        ] {
            assert_ne!(other.key(&python), key, "{other:?}");
        }
        assert_ne!(one.key(&shell), key);
    }

    #[test]
    fn a_folder_is_a_layer_when_it_says_so() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("packages/numpy")).unwrap();
        assert!(Layer::open(home.path()).is_err());
        let record = Record { interpreter: "x".into(), installed: Vec::new(), installed_at: String::new(), bytes: 1 };
        finish(home.path(), &record).unwrap();
        let layer = Layer::open(home.path()).unwrap();
        assert_eq!(layer.record, record);
        assert!(layer.has_any(&["x", "numpy"].map(str::to_owned).into()));
        assert!(!layer.has_any(&["num".to_owned()].into()));
        layer.folder().unwrap();
        let before = layer.used_at();
        std::thread::sleep(std::time::Duration::from_millis(20));
        layer.use_now();
        assert!(layer.used_at() > before);
        std::fs::write(home.path().join(RECORD), "{").unwrap();
        assert!(Layer::open(home.path()).is_err());
    }

    #[test]
    fn what_a_package_says_of_itself_is_believed_within_bounds() {
        let said = |text: &str| described(text.as_bytes()).map(|one| (one.name, one.version));
        let expected = Some(("PyYAML".to_owned(), "6.0.1".to_owned()));
        assert_eq!(said("Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0.1\n\nName: other"), expected);
        assert_eq!(said("Name: <script>\nVersion: 1"), None);
        assert_eq!(said("Name: a\n\nVersion: 1"), None);
        assert_eq!(said(&format!("Name: {}\nVersion: 1", "a".repeat(200))), None);
    }
}
