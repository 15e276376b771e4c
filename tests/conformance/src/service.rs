//! The program under test: as a service with a client, and as a command.

use crate::http::{Response, read_response};
use crate::patience;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Variables of the tester that choose what is tested; all others are the tests' own business.
const PASSED_ON: [&str; 4] = ["ISOLATION", "PYTHON_PATH", "NODE_PATH_BIN", "SHELL_PATH"];
const READ_TIMEOUT_SECONDS: u64 = 100;

/// The program to test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SANDBOX_EXECUTOR") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("sandbox-executor"))
        .find(|path| path.exists())
        .expect("there is no sandbox-executor to test: run make build first")
}

/// A state folder and a workspace root of a test's own, removed with it.
pub struct Home(TempDir);

impl Home {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Home {
        Home(TempDir::with_prefix("sandbox-executor-test-").expect("a temporary folder"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file into it and gives its path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file in the temporary folder");
        path
    }

    /// The program, with this home and otherwise an almost empty environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.0.path())
            .env("WORKSPACE_PATH", self.path("workspaces"))
            .env("STATE_PATH", self.path("state"))
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }
}

/// Python that executes its last arguments in a user namespace with all ids, in which there may be only so many pid namespaces. For
/// root.
pub fn with_few_pid_namespaces(most: u32) -> String {
    format!(
        "
import ctypes, os, sys
libc, pid = ctypes.CDLL(None), os.getpid()
(made, say_made), (mapped, say_mapped) = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(made, 1)
    for name in ('uid_map', 'gid_map'):
        open(f'/proc/{{pid}}/{{name}}', 'w').write('0 0 4294967295')
    os.write(say_mapped, b'x')
    os._exit(0)
assert libc.unshare(0x10000000 | 0x20000) == 0
os.write(say_made, b'x')
os.read(mapped, 1)
os.wait()
open('/proc/sys/user/max_pid_namespaces', 'w').write('{most}')
os.execv(sys.argv[1], sys.argv[1:])"
    )
}

/// The same command started by another program, which gets it as its last arguments.
pub fn started_by(outer: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(outer[0]);
    command.args(&outer[1..]).arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = inner.get_current_dir() {
        command.current_dir(folder);
    }
    command
}

/// Runs a command to its end and collects what it prints; fails the test if it takes longer.
#[track_caller]
pub fn output_within(seconds: u64, command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let pid = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(patience(seconds)) {
        Ok(output) => output.expect("the program's output"),
        Err(_) => {
            // The thread above has not reaped it, so the pid is still that child's.
            let _ = kill_process(pid, Signal::KILL);
            panic!("still running after {:?}: {command:?}", patience(seconds));
        }
    }
}

/// A running service.
pub struct Service {
    address: String,
    token: Option<String>,
    own: Option<Own>,
}

/// What belongs to a service that the test started itself.
struct Own {
    child: Child,
    home: Home,
    _turn: Option<File>,
}

impl Service {
    /// A service with the default configuration: the one at `CONFORMANCE_URL`, else one of the test's own.
    #[track_caller]
    pub fn start() -> Service {
        match std::env::var("CONFORMANCE_URL") {
            Ok(url) => Service::elsewhere(
                url.trim_start_matches("http://").trim_end_matches('/'),
                std::env::var("CONFORMANCE_TOKEN").ok(),
            ),
            Err(_) => Service::with(&[]),
        }
    }

    /// A service that somebody else started and will stop: `host:port`, and the token to send.
    pub fn elsewhere(address: &str, token: Option<String>) -> Service {
        Service { address: address.to_owned(), token, own: None }
    }

    /// A service of the test's own with these variables set.
    #[track_caller]
    pub fn with(environment: &[(&str, &str)]) -> Service {
        Service::launch(Home::new(), environment, turn(false))
    }

    /// The same in a home that the test prepared.
    #[track_caller]
    pub fn at(home: Home, environment: &[(&str, &str)]) -> Service {
        Service::launch(home, environment, turn(false))
    }

    /// The same, while no other test of this crate has a service running: for those that measure time.
    #[track_caller]
    pub fn alone(environment: &[(&str, &str)]) -> Service {
        Service::launch(Home::new(), environment, turn(true))
    }

    /// Another one beside this one, in the same turn.
    #[track_caller]
    pub fn beside(&self, environment: &[(&str, &str)]) -> Service {
        Service::launch(Home::new(), environment, None)
    }

    /// The same, started by another program that ends in executing what it gets as its last arguments.
    #[track_caller]
    pub fn started_by(outer: &[&str], home: Home, environment: &[(&str, &str)]) -> Service {
        Service::launch_by(outer, home, environment, turn(false))
    }

    #[track_caller]
    fn launch(home: Home, environment: &[(&str, &str)], turn: Option<File>) -> Service {
        Service::launch_by(&[], home, environment, turn)
    }

    #[track_caller]
    fn launch_by(outer: &[&str], home: Home, environment: &[(&str, &str)], turn: Option<File>) -> Service {
        let log = File::create(home.path("service.log")).expect("a log file");
        let mut command = home.command();
        command.arg("serve").env("EXECUTOR_PORT", "0").envs(environment.iter().copied());
        let mut command = if outer.is_empty() { command } else { started_by(outer, &command) };
        command.stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        let child = command.spawn().expect("the service starts");
        let setting = |name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let mut service = Service {
            address: String::new(),
            token: setting("EXECUTOR_API_TOKEN"),
            own: Some(Own { child, home, _turn: turn }),
        };

        // A port that the test chose is waited for; any other is told in the log.
        let chosen = setting("EXECUTOR_PORT").map(|port| format!("127.0.0.1:{port}"));
        let deadline = Instant::now() + patience(30);
        loop {
            let found = match &chosen {
                Some(address) => TcpStream::connect(address).ok().map(|_| address.clone()),
                None => listening_address(&service.log()),
            };
            if let Some(address) = found {
                service.address = address;
                return service;
            }
            let ended = service.own_mut().child.try_wait().expect("a child's state");
            assert!(ended.is_none(), "the service ended at its start: {ended:?}\n{}", service.log());
            assert!(Instant::now() < deadline, "the service did not listen within {:?}", patience(30));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn own(&self) -> &Own {
        self.own.as_ref().expect("a service that this test started")
    }

    #[track_caller]
    fn own_mut(&mut self) -> &mut Own {
        self.own.as_mut().expect("a service that this test started")
    }

    /// Whether this test started the service, so that its process and files can be looked at.
    pub fn is_ours(&self) -> bool {
        self.own.is_some()
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process id of the service.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.own().child.id()
    }

    /// A path in the service's home.
    #[track_caller]
    pub fn path(&self, name: &str) -> PathBuf {
        self.own().home.path(name)
    }

    /// Everything the service has logged: read until no more comes, since lines are written beside answers, not before.
    #[track_caller]
    pub fn log(&self) -> String {
        let read = || std::fs::read(self.path("service.log")).expect("the service's log");
        let mut bytes = read();
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let more = read();
            if more.len() == bytes.len() {
                return String::from_utf8_lossy(&bytes).into_owned();
            }
            bytes = more;
        }
    }

    /// A number of kB in the service's `/proc/PID/status`, such as `VmHWM`, the most it ever held.
    #[track_caller]
    pub fn memory_kb(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the service's status");
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok())
            .expect("a number of kB")
    }

    /// Sends a signal to the service.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.own().child), signal).expect("the service is there");
    }

    /// Ends the service by SIGKILL and gives its home, for another one to start in.
    #[track_caller]
    pub fn killed(mut self) -> Home {
        self.signal(Signal::KILL);
        self.wait(10);
        self.own.take().expect("a service that this test started").home
    }

    /// Stops the service by SIGTERM and gives its home.
    #[track_caller]
    pub fn stopped(mut self) -> Home {
        self.signal(Signal::TERM);
        self.wait(10);
        self.own.take().expect("a service that this test started").home
    }

    /// Waits for the service's end.
    #[track_caller]
    pub fn wait(&mut self, seconds: u64) -> ExitStatus {
        let deadline = Instant::now() + patience(seconds);
        loop {
            if let Some(status) = self.own_mut().child.try_wait().expect("a child's state") {
                return status;
            }
            assert!(Instant::now() < deadline, "the service still runs after {:?}", patience(seconds));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection to the service.
    #[track_caller]
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the service accepts connections");
        stream.set_read_timeout(Some(patience(READ_TIMEOUT_SECONDS))).expect("a read timeout");
        stream.set_write_timeout(Some(patience(READ_TIMEOUT_SECONDS))).expect("a write timeout");
        stream
    }

    /// Sends bytes as they are and reads one response.
    #[track_caller]
    pub fn raw(&self, bytes: &[u8]) -> std::io::Result<Response> {
        let mut stream = self.connect();
        // It may answer and close before everything is sent; what counts is the answer.
        let _ = stream.write_all(bytes);
        read_response(stream)
    }

    /// The same, and ends the sending side behind the bytes.
    #[track_caller]
    pub fn raw_to_its_end(&self, bytes: &[u8]) -> std::io::Result<Response> {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        read_response(stream)
    }

    /// One request. `Connection: close`, `Host`, `Content-Length` and the token are added unless they are among the headers.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut stream = self.connect();
        let bytes = self.request_bytes(method, path, headers, body);
        let _ = stream.write_all(&bytes);
        read_response(stream).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The bytes that `request` sends.
    pub fn request_bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let has = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        if !has("connection") {
            add("Connection", "close");
        }
        if !has("host") {
            add("Host", &self.address);
        }
        if !has("content-length") && (method != "GET" || !body.is_empty()) {
            add("Content-Length", &body.len().to_string());
        }
        if let (Some(token), false) = (&self.token, has("authorization")) {
            add("Authorization", &format!("Bearer {token}"));
        }
        for (name, value) in headers {
            add(name, value);
        }
        head.push_str("\r\n");
        [head.as_bytes(), body].concat()
    }

    /// `GET`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// `POST /execute` with this body as it is.
    #[track_caller]
    pub fn post(&self, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", "/execute", &[("Content-Type", "application/json")], body.as_ref())
    }

    /// Runs something and gives the answer; anything but 200 fails the test.
    #[track_caller]
    pub fn execute(&self, request: Value) -> Value {
        let response = self.post(request.to_string());
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        response.json()
    }

    /// Runs a piece of code and nothing else.
    #[track_caller]
    pub fn run(&self, language: &str, code: &str) -> Value {
        self.execute(serde_json::json!({"language": language, "code": code}))
    }

    /// Waits until Python programs are forks of one that has started before.
    #[track_caller]
    pub fn wait_for_forks(&self) {
        let code = "def handler(event): return b'zygote' in open('/proc/self/cmdline', 'rb').read()";
        crate::wait_until("Python is forked", 30, || self.run("python", code)["return_value"] == true);
    }

    /// Asserts that it says in this time that it is well.
    #[track_caller]
    pub fn assert_healthy_within(&self, time: Duration) {
        let start = Instant::now();
        assert_eq!(self.get("/health").status, 200);
        assert!(start.elapsed() < time, "{:?}", start.elapsed());
    }

    /// Asserts that the service is well: it says so, and it executes.
    #[track_caller]
    pub fn assert_alive(&self) {
        assert_eq!(self.get("/health").status, 200);
        let answer = self.run("shell", "echo alive");
        assert_eq!(answer["stdout"], "alive\n", "{answer}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        if let Ok(None) = own.child.try_wait() {
            let _ = kill_process(Pid::from_child(&own.child), Signal::TERM);
            let deadline = Instant::now() + patience(5);
            while matches!(own.child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = own.child.kill();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the service's log, its end ---");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// The address in the line `Listening on http://…`.
fn listening_address(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("Listening on http://")?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c)))?;
    Some(rest[..end].to_owned())
}

/// The right to run a service: shared, or for one test alone. It holds across processes too, because a test
/// runner may give each test its own. Where the lock can't be had (a read-only checkout) tests run without.
fn turn(alone: bool) -> Option<File> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/conformance.lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    let locked = if alone { file.lock() } else { file.lock_shared() };
    locked.ok().map(|()| file)
}
