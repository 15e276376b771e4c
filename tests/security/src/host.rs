//! What the host has for the attacks to look for: a file, a process, servers; removed with the test.

use conformance::wait_until;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Canaries. Everything is as open as can be (folders 0755, sockets 0777), so that it is the sandbox that hides it.
pub struct Host {
    folder: tempfile::TempDir,
    marker: String,
    secret: String,
    process: Child,
    tcp: TcpListener,
    tcp6: Option<TcpListener>,
    _abstract: UnixListener,
    _pathname: UnixListener,
}

impl Host {
    /// Puts everything in place.
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Host {
        let folder = tempfile::Builder::new()
            .prefix("security-test-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary folder");
        let unique = folder.path().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let (marker, secret) = (format!("canary-process-{unique}"), format!("canary-secret-{unique}"));
        std::fs::write(folder.path().join("canary"), "a file of the host\n").expect("a canary");
        std::fs::create_dir(folder.path().join("mnt")).expect("a mount point");

        let process = Command::new("/usr/bin/python3")
            .args(["-I", "-S", "-c", "import time; print(1, flush=True); time.sleep(600)", &marker])
            .env_clear()
            .env("CANARY_OF_THE_TEST", &secret)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("a canary process");
        wait_until("the canary process", 10, || conformance::processes_named(&marker) > 0);

        let name = SocketAddr::from_abstract_name(&unique).expect("a name");
        let path = folder.path().join("socket");
        let pathname = UnixListener::bind(&path).expect("a socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("a mode");
        Host {
            marker,
            secret,
            process,
            tcp: TcpListener::bind("127.0.0.1:0").expect("a server"),
            tcp6: TcpListener::bind("[::1]:0").ok(),
            _abstract: UnixListener::bind_addr(&name).expect("an abstract socket"),
            _pathname: pathname,
            folder,
        }
    }

    /// A folder that anybody on the host may read.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What nobody in a sandbox may learn.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The process that nobody in a sandbox may reach.
    pub fn canary_pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether that process still runs.
    pub fn is_canary_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Kills it, as a control of kill(2) itself.
    pub fn kill_canary(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("the canary process");
    }

    /// What the probes are told.
    pub fn facts(&self) -> Value {
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let unique = self.folder.path().file_name().and_then(|name| name.to_str());
        let cgroups: Vec<String> = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        json!({
            "canary": self.path("canary"),
            "marker": unique,
            "process_marker": self.marker,
            "secret_backwards": self.secret.chars().rev().collect::<String>(),
            "tcp_port": port(&self.tcp),
            "tcp6_port": self.tcp6.as_ref().map(port),
            "abstract_name": unique,
            "socket_path": self.path("socket"),
            "cgroups": cgroups,
            "mountpoint": self.path("mnt"),
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
