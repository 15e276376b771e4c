//! Packages of sessions: what may be asked for, how it is installed, who sees it, and that nobody's code has a say in it.
//!
//! Most tests bring an index of their own on the loopback, with packages that they make themselves; `real` uses the one that pip is
//! configured with here.

mod apart;
mod bounds;
mod real;
mod refused;
mod sessions;

use conformance::{Home, Response, Service, assert_completed};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PYTHON: &str = "/usr/bin/python3";

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// An index on the loopback, of packages that the test makes.
struct Index {
    home: Home,
    child: Child,
    port: u16,
}

impl Index {
    #[track_caller]
    fn new() -> Self {
        Self::with("", 0.0)
    }

    /// One that wants `user:password`, and takes this long over each answer.
    #[track_caller]
    fn with(secret: &str, delay_seconds: f64) -> Self {
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

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn folder(&self) -> PathBuf {
        self.home.path("simple")
    }

    /// What it was asked for.
    fn requests(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.home.path("requests")).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }

    /// Adds a package, see `package_files.py`.
    #[track_caller]
    fn add(&self, mut package: Value) -> &Self {
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
    fn add_module(&self, name: &str, version: &str) -> &Self {
        let file = format!("{name}.py");
        self.add(json!({"name": name, "version": version, "files": {file: format!("version = {version:?}\n")}}))
    }

    /// A service that has this index alone.
    #[track_caller]
    fn service(&self, more: &[(&str, &str)]) -> Service {
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

fn body(session: &str, dependencies: &[&str], mode: &str) -> Value {
    json!({"session_id": session, "language_runtime": "python3", "dependencies": dependencies, "sync_mode": mode})
}

#[track_caller]
fn post(service: &Service, body: &Value) -> Response {
    service.request("POST", "/internal/session-config/sync", &[], body.to_string().as_bytes())
}

/// A sync that has to succeed: `name version` of what is installed then.
#[track_caller]
fn sync(service: &Service, session: &str, dependencies: &[&str], mode: &str) -> Vec<String> {
    let response = post(service, &body(session, dependencies, mode));
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    assert_eq!((&answer["status"], &answer["error"]), (&json!("completed"), &Value::Null));
    let installed = answer["installed_dependencies"].as_array().cloned().unwrap_or_default();
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    installed.iter().map(|one| format!("{} {}", text(one, "name"), text(one, "version"))).collect()
}

/// Runs code in a session; it has to complete. What it printed.
#[track_caller]
fn run(service: &Service, session: &str, language: &str, code: &str) -> String {
    let answer = service.execute(json!({"session_id": session, "language": language, "code": code}));
    assert_completed(&answer);
    answer["stdout"].as_str().unwrap_or_default().trim().to_owned()
}

/// Which version of a module an execution imports; `none` where there is none.
#[track_caller]
fn version(service: &Service, session: &str, module: &str) -> String {
    let code = format!("try:\n  import {module}; print({module}.version)\nexcept ImportError: print('none')");
    run(service, session, "python", &code)
}

/// Layers, finished or not, in the service's state folder.
fn layers(state: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state.join("layers")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
