//! How pip is configured on this machine: its index, the certificates it trusts, its proxies. What installs packages for a session
//! runs in a sandbox that sees none of pip's files and none of the service's variables, so what matters of them is read here, in
//! pip's own order: its variables go before its files, and the section of the command before the general one.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use configparser::ini::Ini;
use percent_encoding::percent_decode_str;
use reqwest::Url;

/// Where packages come from when nobody says so.
const PUBLIC_INDEX: &str = "https://pypi.org/simple";
/// Sections of pip's files that hold for an installation, the stronger one first.
const SECTIONS: [&str; 2] = ["install", "global"];
/// Options of pip that say how to reach an index, and their variables.
const OPTIONS: [(&str, &str); 2] = [("proxy", "PIP_PROXY"), ("trusted-host", "PIP_TRUSTED_HOST")];
/// What the libraries read that pip calls.
const PROXIES: [&str; 8] =
    ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
const CERTIFICATES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];

/// A package index. Shown without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct IndexUrl(Url);

impl IndexUrl {
    /// Of an address that pip takes; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return None;
        }
        let mut url = Url::parse(text).ok()?;
        let is_remote = matches!(url.scheme(), "http" | "https") && url.has_host();
        let is_folder = url.scheme() == "file" && url.host_str().is_none() && url.to_file_path().is_ok();
        if url.query().is_some() || url.fragment().is_some() || !text.contains("://") || !(is_remote || is_folder) {
            return None;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Some(Self(url))
    }

    /// As pip is given it.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        if self.0.scheme() == "file" { self.0.to_file_path().ok() } else { None }
    }

    /// Whether a caller who names `other` means this one: without user and password, or with the same.
    pub fn is_meant_by(&self, other: &Self) -> bool {
        self == other || self.without_secrets() == other.0
    }

    /// What must be in no line and no answer.
    pub fn secrets(&self) -> Vec<String> {
        secrets(&self.0)
    }

    fn without_secrets(&self) -> Url {
        let mut url = self.0.clone();
        // They fail only for an address that can have neither.
        url.set_username("").ok();
        url.set_password(None).ok();
        url
    }
}

/// A password, or a user that stands alone and then is a token, as it is written and as it is meant.
fn secrets(url: &Url) -> Vec<String> {
    let written = url.password().unwrap_or(url.username());
    if written.is_empty() {
        return Vec::new();
    }
    let meant = percent_decode_str(written).decode_utf8_lossy().into_owned();
    if meant == written { vec![meant] } else { vec![written.to_owned(), meant] }
}

impl fmt::Display for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.without_secrets();
        match self.secrets().is_empty() {
            true => f.write_str(shown.as_str()),
            false => f.write_str(&shown.as_str().replacen("://", "://[redacted]@", 1)),
        }
    }
}

impl fmt::Debug for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What of pip's configuration matters. Not shown: a proxy may have a password.
#[derive(Clone, Default)]
pub struct Pip {
    index: Option<IndexUrl>,
    /// Certificates to trust instead of the usual ones.
    pub certificates: Option<PathBuf>,
    /// What pip is to have as its variables.
    pub variables: Vec<(String, String)>,
}

impl fmt::Debug for Pip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pip").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Pip {
    /// From these variables and the files that they and pip's habits name. What can't be read is not there, as for pip.
    pub(super) fn read(environment: &dyn Fn(&str) -> Option<OsString>, python: Option<&Path>) -> Self {
        let variable = |name: &str| environment(name)?.into_string().ok().filter(|value| !value.is_empty());
        let files: Vec<Ini> = files(&variable, python).iter().rev().filter_map(|path| read_file(path)).collect();
        let option = |name: &str, in_environment: &str| {
            let in_files = || SECTIONS.iter().find_map(|section| files.iter().find_map(|file| file.get(section, name)));
            variable(in_environment).or_else(in_files).filter(|value| !value.is_empty())
        };
        let index = option("index-url", "PIP_INDEX_URL").and_then(|text| IndexUrl::parse(&text));
        let certificates = option("cert", "PIP_CERT").or_else(|| CERTIFICATES.iter().find_map(|name| variable(name)));
        let options = OPTIONS.iter().filter_map(|(name, in_environment)| {
            // Several stand on a line each in a file, and behind one another in a variable.
            let words = option(name, in_environment)?.split_whitespace().collect::<Vec<_>>().join(" ");
            Some(((*in_environment).to_owned(), words))
        });
        let proxies = PROXIES.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?)));
        Self { index, certificates: certificates.map(PathBuf::from), variables: options.chain(proxies).collect() }
    }

    /// The index that packages come from when nobody says another.
    pub fn index(&self) -> IndexUrl {
        let public = || IndexUrl(Url::parse(PUBLIC_INDEX).expect("an address"));
        self.index.clone().unwrap_or_else(public)
    }

    /// What must be in no line and no answer.
    pub fn secrets(&self) -> Vec<String> {
        self.variables.iter().filter_map(|(_, value)| Url::parse(value).ok()).flat_map(|url| secrets(&url)).collect()
    }
}

/// pip's files, the weakest first: the system's, the user's, the installation's, and one that a variable names.
fn files(variable: &dyn Fn(&str) -> Option<String>, python: Option<&Path>) -> Vec<PathBuf> {
    const NONE: &str = "/dev/null";
    let named = variable("PIP_CONFIG_FILE");
    if named.as_deref() == Some(NONE) {
        return Vec::new();
    }
    let home = variable("HOME").map(PathBuf::from);
    let below = |folder: &Path| folder.join("pip/pip.conf");
    let mut files = Vec::new();
    if cfg!(target_os = "macos") {
        files.push(below(Path::new("/Library/Application Support")));
        files.extend(home.as_ref().map(|home| below(&home.join("Library/Application Support"))));
    } else {
        let systems = variable("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
        files.extend(systems.split(':').map(|folder| below(Path::new(folder))));
        files.push("/etc/pip.conf".into());
    }
    files.extend(home.as_ref().map(|home| home.join(".pip/pip.conf")));
    let users = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    files.extend(users.or_else(|| Some(home?.join(".config"))).map(|folder| below(&folder)));
    let installation = python.and_then(Path::parent).and_then(Path::parent).unwrap_or(Path::new("/usr"));
    files.push(installation.join("pip.conf"));
    files.extend(named.map(PathBuf::from));
    files
}

fn read_file(path: &Path) -> Option<Ini> {
    const LONGEST: u64 = 64 * 1024;
    if std::fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    let mut file = Ini::new();
    file.set_multiline(true);
    file.load(path).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(variables: &[(&str, &str)]) -> Pip {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let python = Path::new("/nowhere/bin/python3");
        Pip::read(&|name| variables.get(name).map(OsString::from), Some(python))
    }

    #[test]
    fn variables_go_before_files_and_the_command_before_the_rest() {
        let home = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let system = place("etc/pip/pip.conf", "[global]\nindex-url = https://system.example/simple\nproxy = p:1\n");
        let users = place(
            "config/pip/pip.conf",
            "[global]\nindex-url = https://user.example/simple\ntrusted-host =\n    one.example\n    two.example\n",
        );
        let named =
            place("named", "[global]\ncert = /named.pem\n[install]\nindex-url = https://named.example/simple/\n");
        let folder = |file: &str| file.strip_suffix("/pip/pip.conf").unwrap().to_owned();
        let (systems, configs) = (folder(&system), folder(&users));
        let mut variables = vec![("XDG_CONFIG_DIRS", systems.as_str()), ("SSL_CERT_FILE", "/other.pem")];
        // What this machine itself has in /etc is weaker than all below and may add an option.
        assert_eq!(read(&[("PIP_CONFIG_FILE", "/dev/null")]).index().to_string(), PUBLIC_INDEX);
        variables.push(("XDG_CONFIG_HOME", &configs));
        let pip = read(&variables);
        assert_eq!(pip.index().to_string(), "https://user.example/simple");
        assert!(pip.variables.contains(&("PIP_PROXY".into(), "p:1".into())));
        assert!(pip.variables.contains(&("PIP_TRUSTED_HOST".into(), "one.example two.example".into())));
        variables.push(("PIP_CONFIG_FILE", &named));
        let pip = read(&variables);
        assert_eq!(pip.index().to_string(), "https://named.example/simple");
        assert_eq!(pip.certificates.as_deref(), Some(Path::new("/named.pem")));
        variables.extend([("PIP_INDEX_URL", "https://env.example/x"), ("HTTPS_PROXY", "http://u:pass@proxy:1")]);
        let pip = read(&variables);
        assert_eq!(pip.index().to_string(), "https://env.example/x");
        assert_eq!(pip.secrets(), ["pass"]);
        assert!(!format!("{pip:?}").contains("pass"));
    }

    #[test]
    fn an_index_shows_no_password_and_is_known_without() {
        let index = IndexUrl::parse("https://me:se%40cret@index.example/simple/").unwrap();
        assert_eq!(index.to_string(), "https://[redacted]@index.example/simple");
        assert_eq!(format!("{index:?}"), index.to_string());
        assert_eq!(index.secrets(), ["se%40cret", "se@cret"]);
        assert_eq!(IndexUrl::parse("https://token@index.example").unwrap().secrets(), ["token"]);
        for (other, meant) in [
            ("https://index.example/simple", true),
            ("https://index.example/simple/", true),
            ("https://me:se%40cret@index.example/simple", true),
            ("https://me:other@index.example/simple", false),
            ("https://index.example/other", false),
            ("http://index.example/simple", false),
        ] {
            assert_eq!(index.is_meant_by(&IndexUrl::parse(other).unwrap()), meant, "{other}");
        }
        assert_eq!(IndexUrl::parse("file:///srv/wheels/").unwrap().folder(), Some("/srv/wheels".into()));
        for bad in
            ["", "pypi.org", "ftp://x/y", "https://x/y?z", "https://x/y#z", "file://host/x", "file:relative", "/x"]
        {
            assert!(IndexUrl::parse(bad).is_none(), "{bad}");
        }
    }
}
