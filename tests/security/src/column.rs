//! A service to attack: the real program in one mode, with a home of its own.

use conformance::{Home, patience, read_response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{File, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The ordinary user where the tests run as root: one that owns nothing.
const NOBODY: u32 = 65_534;
/// The descriptor that the service finds open at its start.
pub(crate) const INHERITED_FD: u32 = 9;

/// As whom the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As root.
    Root,
    /// As an ordinary user.
    User,
}

impl Mode {
    /// As a column is called.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Root => "root",
            Mode::User => "user",
        }
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Copies the program under test to this path, by a process of its own: while this one has a program open for writing,
/// another thread may fork and hold it open, and then nobody can execute it (execve(2), ETXTBSY).
#[track_caller]
pub fn copy_program(target: &Path) {
    let copied = Command::new("/bin/cp").arg(conformance::binary()).arg(target).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program could not be copied");
    std::fs::set_permissions(target, Permissions::from_mode(0o755)).expect("a mode");
}

/// A running service to attack. It was started with a secret in its environment and a descriptor left open.
pub struct Column {
    adapter: &'static str,
    mode: Mode,
    address: String,
    child: Child,
    home: Home,
    /// The program where the service's user can reach it.
    _copy: tempfile::TempDir,
    program: PathBuf,
}

impl Column {
    /// Starts the service with this adapter and mode. `leaked` is the folder behind the descriptor left open.
    #[track_caller]
    pub fn start(adapter: &'static str, mode: Mode, secret: &str, leaked: &Path) -> Column {
        let home = Home::new();
        let copy = tempfile::tempdir().expect("a folder for the program");
        std::fs::set_permissions(copy.path(), Permissions::from_mode(0o755)).expect("a mode");
        let program = copy.path().join("sandbox-executor");
        copy_program(&program);

        let log = File::create(home.path("service.log")).expect("a log file");
        // Rust opens everything close-on-exec; a shell does not.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("exec {INHERITED_FD}<\"$1\" && shift && exec \"$@\""), "sh"])
            .arg(leaked)
            .arg(&program)
            .arg("serve")
            .env_clear()
            .envs(home.command().get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("ISOLATION", adapter)
            .env("EXECUTOR_PORT", "0")
            .env("INTERNAL_API_TOKEN", secret)
            .env("CANARY_OF_THE_TEST", secret)
            .current_dir(home.path(""))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        if is_root() && mode == Mode::User {
            std::os::unix::fs::chown(home.path(""), Some(NOBODY), Some(NOBODY)).expect("the user's home");
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command.spawn().expect("the service starts");
        let mut column = Column { adapter, mode, address: String::new(), child, home, _copy: copy, program };
        let deadline = Instant::now() + patience(30);
        while column.address.is_empty() {
            let log = column.log();
            let ended = column.child.try_wait().expect("a child's state");
            assert!(ended.is_none(), "{}: the service ended at its start: {ended:?}\n{log}", column.name());
            assert!(Instant::now() < deadline, "{}: not listening after {:?}\n{log}", column.name(), patience(30));
            if let Some((_, rest)) = log.split_once("Listening on http://") {
                column.address = rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        column
    }

    /// Adapter and mode.
    pub fn name(&self) -> String {
        format!("{} × {}", self.adapter, self.mode.name())
    }

    /// As whom it runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The port it listens on.
    #[track_caller]
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A path in its home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    /// The workspace of a session.
    pub fn workspace(&self, session: &str) -> PathBuf {
        self.path("workspaces").join(session)
    }

    /// The program that it was started from.
    pub fn program(&self) -> &Path {
        &self.program
    }

    fn log(&self) -> String {
        std::fs::read(self.path("service.log"))
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// `POST /execute`; anything but an answer fails the test.
    #[track_caller]
    pub fn execute(&self, request: &Value) -> Value {
        let body = request.to_string();
        let mut stream = TcpStream::connect(&self.address).expect("the service accepts connections");
        stream.set_read_timeout(Some(patience(100))).expect("a read timeout");
        let head = format!(
            "POST /execute HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("a request");
        let response = read_response(stream).expect("a response");
        assert_eq!(response.status, 200, "{}\n{}", String::from_utf8_lossy(&response.body), self.log());
        response.json()
    }
}

impl Drop for Column {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + patience(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
