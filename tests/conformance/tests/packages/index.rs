//! An index of packages on the loopback, with packages that a test makes.

use conformance::{Home, Service};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The interpreter that packages are for.
pub const PYTHON: &str = "/usr/bin/python3";

pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// An index on the loopback, of packages that the test makes.
pub struct Index {
    home: Home,
    /// The server.
    pub child: Child,
    /// Of the server.
    pub port: u16,
}

impl Index {
    #[track_caller]
    pub fn new() -> Self {
        Self::with("", 0.0)
    }

    /// One that wants `user:password`, and takes this long over each answer.
    #[track_caller]
    pub fn with(secret: &str, delay_seconds: f64) -> Self {
        let home = Home::new();
        let folder = home.path("simple");
        std::fs::create_dir(&folder).expect("a folder");
        // Its files are for the installer, which is another user.
        for path in [home.path("."), folder.clone()] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        let mut command = Command::new(PYTHON);
        command.arg("-I").arg(program("package_index.py")).arg(&folder).arg(home.path("requests"));
        command.arg(secret).arg(delay_seconds.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("an index");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut port).expect("its port");
        Self { home, child, port: port.trim().parse().expect("a port") }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> PathBuf {
        self.home.path("simple")
    }

    /// What it was asked for.
    pub fn requests(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.home.path("requests")).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }

    /// Adds a package, see `package_files.py`.
    #[track_caller]
    pub fn add(&self, mut package: Value) -> &Self {
        package["folder"] = json!(self.folder());
        let mut command = Command::new(PYTHON);
        let mut child =
            command.arg("-I").arg(program("package_files.py")).stdin(Stdio::piped()).spawn().expect("python3");
        child.stdin.take().expect("its input").write_all(package.to_string().as_bytes()).expect("a description");
        assert!(child.wait().expect("its end").success());
        self
    }

    /// Adds a module that says which version it is.
    #[track_caller]
    pub fn add_module(&self, name: &str, version: &str) -> &Self {
        let file = format!("{name}.py");
        self.add(json!({"name": name, "version": version, "files": {file: format!("version = {version:?}\n")}}))
    }

    /// A service that has this index alone.
    #[track_caller]
    pub fn service(&self, more: &[(&str, &str)]) -> Service {
        let url = self.url();
        Service::with(&[&[("ALLOWED_INDEX_URLS", url.as_str())], more].concat())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
