//! The sandbox's `/etc`: one folder, put together once, of what programs read and what tells nothing about the host but its
//! software. Binding a dozen files instead would cost every execution about a millisecond. A sandbox that is in the host's network
//! has one of its own, put together when it is made: how hosts are found there changes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::error::{SandboxError, Stage};
use crate::policy::Network;

/// Copied from the host where they are there; links stay links.
const COPIED: &[&str] = &[
    "alternatives",    // Debian's links to awk, editors, …
    "ld.so.cache",     // where libraries are
    "localtime",       // the time zone
    "mime.types",      // Python's mimetypes
    "pki/tls/certs",   // CA certificates on Fedora: reading them is not having a network
    "ssl/certs",       // the same on Debian
    "ssl/openssl.cnf", // OpenSSL complains without
];

/// What a program needs beside that to find hosts of a network: their names.
const OF_NETWORK: &[&str] = &["hosts", "resolv.conf"];

/// Who the program is, and that there is no network.
const GENERATED: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nsandbox:x:1000:1000:sandbox:/tmp:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// What all sandboxes of a service have as theirs, and where others are made.
#[derive(Debug, Clone)]
pub struct Etc {
    shared: Arc<TempDir>,
    place: PathBuf,
    prefix: String,
}

impl Etc {
    /// Puts the shared one together, see [`prepare`].
    ///
    /// # Errors
    /// Stage [`Stage::Namespaces`]: the place can't be written to.
    pub fn new(place: &Path, prefix: &str) -> Result<Self, SandboxError> {
        let shared = prepare(place, prefix, Network::None).map_err(|error| {
            SandboxError::io(Stage::Namespaces, format_args!("files in {}", place.display()), error)
        })?;
        Ok(Self { shared: Arc::new(shared), place: place.into(), prefix: prefix.into() })
    }

    /// The folder for a sandbox with this network, opened, and what is to be kept for as long as it stands.
    ///
    /// # Errors
    /// Stage [`Stage::Launch`]: it can't be opened or put together.
    pub fn open(&self, network: Network) -> Result<(OwnedFd, Option<TempDir>), SandboxError> {
        let failed = |error| SandboxError::io(Stage::Launch, "the folder for /etc", error);
        let own = match network {
            Network::None => None,
            Network::Host => Some(prepare(&self.place, &self.prefix, network).map_err(failed)?),
        };
        let folder = std::fs::File::open(own.as_ref().unwrap_or(&self.shared).path()).map_err(failed)?;
        Ok((folder.into(), own))
    }
}

/// Puts the folder together, as a new one in `place` whose name begins with `prefix`. It goes when the value is dropped.
///
/// # Errors
/// The place can't be written to.
fn prepare(place: &Path, prefix: &str, network: Network) -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(place)?;
    for name in COPIED {
        let (source, target) = (Path::new("/etc").join(name), folder.path().join(name));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        // What can't be read here can't be needed there.
        copy(&source, &target, 0).ok();
    }
    for (name, content) in GENERATED {
        fs::write(folder.path().join(name), content)?;
    }
    if network == Network::Host {
        for name in OF_NETWORK {
            copy(&Path::new("/etc").join(name), &folder.path().join(name), 0).ok();
        }
    }
    let_all_read(folder.path())?;
    Ok(folder)
}

/// Programs have other users than we, and whoever started us may have an umask that keeps these out.
fn let_all_read(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(path, PermissionsExt::from_mode(if kind.is_dir() { 0o755 } else { 0o644 }))?;
    if kind.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| let_all_read(&entry?.path()))?;
    }
    Ok(())
}

/// Copies a file, or a folder with its files and links.
fn copy(source: &Path, target: &Path, depth: usize) -> io::Result<()> {
    const DEEPEST: usize = 4;
    let kind = fs::symlink_metadata(source)?.file_type();
    if kind.is_symlink() && depth > 0 {
        return symlink(fs::read_link(source)?, target);
    }
    // A link that stands for the whole is followed: what it leads to may be elsewhere in /etc.
    if fs::metadata(source)?.is_file() {
        return fs::copy(source, target).map(drop);
    }
    if depth > DEEPEST {
        return Ok(());
    }
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)?.flatten() {
        copy(&entry.path(), &target.join(entry.file_name()), depth + 1).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_is_listed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let etc = prepare(place.path(), ".etc-", Network::None).unwrap();
        let passwd = fs::read_to_string(etc.path().join("passwd")).unwrap();
        assert_eq!(passwd.lines().count(), 3, "{passwd}");
        assert!(!etc.path().join("shadow").exists());
        for entry in fs::read_dir(etc.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let listed = |path: &str| path == name || path.starts_with(&format!("{name}/"));
            assert!(COPIED.iter().any(|path| listed(path)) || GENERATED.iter().any(|(path, _)| listed(path)), "{name}");
        }
        assert_eq!(fs::metadata(etc.path()).unwrap().permissions().mode() & 0o777, 0o755);
        let path = etc.path().to_owned();
        drop(etc);
        assert!(!path.exists());
    }

    #[test]
    fn with_a_network_it_also_holds_how_hosts_are_found() {
        let place = tempfile::tempdir().unwrap();
        let read = |network, name: &str| {
            let etc = prepare(place.path(), ".etc-", network).unwrap();
            fs::read(etc.path().join(name)).ok()
        };
        for name in OF_NETWORK {
            assert_eq!(read(Network::Host, name), fs::read(Path::new("/etc").join(name)).ok(), "{name}");
        }
        assert_eq!(read(Network::None, "resolv.conf"), None);
        assert_ne!(read(Network::None, "hosts"), None);
    }
}
