//! A service to attack: the real program in one mode, with a home of its own.

use conformance::{Home, Service, patience, process};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The ordinary user where the tests run as root: one that owns nothing, and that nothing else runs as, since the kernel counts
/// some things (inotify instances, pipe buffers) for each user.
pub fn ordinary_user() -> u32 {
    2_000_000 + std::process::id()
}
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

/// Copies the program under test to this path, for anybody to execute.
#[track_caller]
pub fn copy_program(target: &Path) {
    conformance::copy_program(&conformance::binary(), target);
    std::fs::set_permissions(target, Permissions::from_mode(0o755)).expect("a mode");
}

/// What is attacked: every adapter as root and as an ordinary user.
pub const COLUMNS: [(&str, Mode); 4] =
    [("native", Mode::Root), ("native", Mode::User), ("bubblewrap", Mode::Root), ("bubblewrap", Mode::User)];

/// So much is kept ready: as little as there can be of each kind, so that there is as much of it whenever nothing runs.
const KEPT_READY: [(&str, &str); 2] = [("WARM_PYTHON", "1"), ("WARM_NODE", "1")];
/// Nothing changed for so long: the service is at rest.
const QUIET: Duration = Duration::from_secs(1);

/// How much the service keeps where nothing runs: sandboxes that stand ready, and folders of its own and of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AtRest {
    processes: usize,
    folders: usize,
}

/// A running service to attack.
pub struct Column {
    adapter: &'static str,
    mode: Mode,
    child: Child,
    client: Service,
    home: Home,
    /// What is there when nothing runs.
    at_rest: AtRest,
    /// The program where the service's user can reach it.
    _copy: tempfile::TempDir,
    program: PathBuf,
}

impl Column {
    /// Starts the service with this adapter and mode, and these variables beside its own. `leaked` is the folder behind a
    /// descriptor that the service finds open. `Err` is why a program does not know such an adapter.
    #[track_caller]
    pub fn start(
        adapter: &'static str,
        mode: Mode,
        leaked: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Column, String> {
        Column::start_in(Home::new(), adapter, mode, leaked, environment)
    }

    /// The same in a home that the test prepared.
    #[track_caller]
    pub fn start_in(
        home: Home,
        adapter: &'static str,
        mode: Mode,
        leaked: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Column, String> {
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
            .envs(KEPT_READY)
            .envs(environment.iter().copied())
            .current_dir(home.path(""))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        if is_root() && mode == Mode::User {
            let user = ordinary_user();
            std::os::unix::fs::chown(home.path(""), Some(user), Some(user)).expect("the user's home");
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().expect("the service starts");
        let name = format!("{adapter} × {}", mode.name());
        let deadline = Instant::now() + patience(30);
        let address = loop {
            let log = std::fs::read_to_string(home.path("service.log")).unwrap_or_default();
            if let Some((_, rest)) = log.split_once("Listening on http://") {
                break rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            if let Some(status) = child.try_wait().expect("a child's state") {
                let refused = log.lines().find(|line| line.contains("ISOLATION = ") && line.contains("not allowed"));
                return Err(refused.unwrap_or_else(|| panic!("{name}: {status} at its start\n{log}")).to_owned());
            }
            assert!(Instant::now() < deadline, "{name}: not listening after 30 seconds\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let token =
            environment.iter().find(|(name, _)| *name == "EXECUTOR_API_TOKEN").map(|(_, value)| value.to_string());
        let client = Service::elsewhere(&address, token);
        let at_rest = AtRest { processes: 0, folders: 0 };
        let mut column = Column { adapter, mode, child, client, home, at_rest, _copy: copy, program };
        column.at_rest = column.wait_for_rest();
        Ok(column)
    }

    /// Waits until the service has made ready what it keeps.
    fn wait_for_rest(&self) -> AtRest {
        let deadline = Instant::now() + patience(20);
        let (mut before, mut since) = (self.kept(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.kept();
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        before
    }

    fn kept(&self) -> AtRest {
        let folders = process::private_workspaces(&self.path("workspaces")).len();
        AtRest { processes: self.below().len(), folders }
    }

    /// Waits until there is no less ready than at the start, nor more.
    pub fn rest(&self) {
        let deadline = Instant::now() + patience(5);
        while self.kept() != self.at_rest && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The adapter.
    pub fn adapter(&self) -> &'static str {
        self.adapter
    }

    /// As whom it runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The way to talk to it.
    pub fn client(&self) -> &Service {
        &self.client
    }

    /// The port it listens on.
    #[track_caller]
    pub fn port(&self) -> u16 {
        self.client.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
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

    /// Workspaces of executions without a session, where there are more than when nothing runs.
    pub fn private_workspaces(&self) -> Vec<String> {
        let all = process::private_workspaces(&self.path("workspaces"));
        if all.len() > self.at_rest.folders { all } else { Vec::new() }
    }

    /// How many processes stand ready when nothing runs.
    pub fn standing_ready(&self) -> usize {
        self.at_rest.processes
    }

    /// What runs below the service, where there is more of it than when nothing runs. Which of these processes stand ready
    /// can't be told from here; one that is left of an execution makes them one more for ever.
    pub fn sandboxes(&self) -> Vec<String> {
        let all = self.below();
        if all.len() > self.at_rest.processes { all } else { Vec::new() }
    }

    /// All below the service, its launcher aside.
    fn below(&self) -> Vec<String> {
        let launcher = process::launcher(self.pid()).map(|pid| format!("{pid} ")).unwrap_or_default();
        process::below(self.pid()).into_iter().filter(|name| !name.starts_with(&launcher)).collect()
    }

    /// Whether a cgroup bounds memory here; else the service measures it, which it says in `/info`.
    pub fn is_memory_enforced(&self) -> bool {
        self.client.get("/info").json()["limits"]["enforcement"]["memory"] == "enforced"
    }

    /// The program that it was started from.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `POST /execute`; anything but an answer fails the test.
    #[track_caller]
    pub fn execute(&self, request: &Value) -> Value {
        self.client.execute(request.clone())
    }

    /// Kills it and gives its home back.
    #[track_caller]
    pub fn kill(mut self) -> Home {
        self.child.kill().and_then(|()| self.child.wait()).expect("the service dies");
        std::mem::replace(&mut self.home, Home::new())
    }
}

impl Drop for Column {
    fn drop(&mut self) {
        // One that was waited for is nobody's any more, and neither is its number.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
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
