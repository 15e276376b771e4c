//! A control plane for tests: a real HTTP server on a port of its own that writes down every call, in the order in which they
//! came, and on request refuses, stalls, answers what it is told to, or cuts the connection.
//!
//! Every connection has a thread and waits in a read, so that it costs next to nothing beside a service that is measured.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the contract's.
pub enum Kind {
    Ready,
    Exited,
    Heartbeat,
    Result,
    /// None that the contract knows.
    Unknown,
}

/// One call as it came.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it says, by its path.
    pub kind: Kind,
    /// The execution it speaks of, else empty.
    pub execution: String,
    /// Such as `POST`.
    pub method: String,
    /// Without the host.
    pub path: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
    /// When the whole of it was there.
    pub came: Instant,
    /// When it was answered and with what; `None` if it was not, or not yet.
    pub answered: Option<(Instant, u16)>,
}

impl Call {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body is UTF-8")
    }

    /// Whether it was taken: 2xx or 409.
    pub fn is_taken(&self) -> bool {
        self.answered.is_some_and(|(_, status)| (200..300).contains(&status) || status == 409)
    }
}

/// What to do about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Answer with this status.
    Status(u16),
    /// The same, with one more header.
    With(u16, &'static str, String),
    /// The same, after this time.
    Late(Duration, u16),
    /// Say nothing until the caller gives up.
    Stall,
    /// Close the connection without an answer.
    Cut,
    /// Close it within the head of an answer.
    CutWithinHead,
    /// Close it within the body of an answer with this status.
    CutWithinBody(u16),
}

type Behaviour = Box<dyn FnMut(&Call) -> Reply + Send>;

/// The server. It ends with the test.
pub struct ControlPlane {
    address: SocketAddr,
    shared: Arc<Shared>,
    door: Option<Door>,
}

struct Shared {
    calls: Mutex<Vec<Call>>,
    behaviour: Mutex<Behaviour>,
    connections: Mutex<Vec<TcpStream>>,
    idle: Mutex<Option<Duration>>,
}

/// What listens.
struct Door {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl ControlPlane {
    /// One that takes everything.
    #[track_caller]
    pub fn start() -> ControlPlane {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            behaviour: Mutex::new(Box::new(|_| Reply::Status(200))),
            connections: Mutex::default(),
            idle: Mutex::default(),
        });
        let door = Some(Door::open(listener, &shared));
        ControlPlane { address, shared, door }
    }

    /// What `CONTROL_PLANE_URL` is to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it does with each call what this says.
    pub fn behave(&self, behaviour: impl FnMut(&Call) -> Reply + Send + 'static) {
        *lock(&self.shared.behaviour) = Box::new(behaviour);
    }

    /// Closes connections that nobody calls over for so long.
    pub fn close_idle_after(&self, time: Duration) {
        *lock(&self.shared.idle) = Some(time);
    }

    /// Refuses connections from now on, and cuts those that there are.
    pub fn close(&mut self) {
        if let Some(door) = self.door.take() {
            door.close(self.address);
        }
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again, on the same port.
    #[track_caller]
    pub fn open(&mut self) {
        if self.door.is_none() {
            let listener = TcpListener::bind(self.address).expect("the same port");
            self.door = Some(Door::open(listener, &self.shared));
        }
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// How many calls so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.calls).len()
    }

    /// Forgets the calls so far.
    pub fn forget(&self) {
        lock(&self.shared.calls).clear();
    }

    /// The calls of this kind.
    pub fn of_kind(&self, kind: Kind) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.kind == kind).collect()
    }

    /// The calls that speak of this execution.
    pub fn of_execution(&self, id: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.execution == id).collect()
    }

    /// Waits until a result of this execution was taken, and gives its body.
    #[track_caller]
    pub fn result_of(&self, id: &str, seconds: u64) -> Value {
        let taken = || self.of_execution(id).into_iter().find(|call| call.kind == Kind::Result && call.is_taken());
        crate::wait_until(&format!("the result of {id}"), seconds, || taken().is_some());
        taken().expect("it was there").json()
    }

    /// Waits until it has been called so often in this way, and gives those calls.
    #[track_caller]
    pub fn wait_for(&self, kind: Kind, count: usize, seconds: u64) -> Vec<Call> {
        crate::wait_until(&format!("{count} calls of {kind:?}"), seconds, || self.of_kind(kind).len() >= count);
        self.of_kind(kind)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.close();
    }
}

impl Door {
    fn open(listener: TcpListener, shared: &Arc<Shared>) -> Door {
        let closing = Arc::new(AtomicBool::new(false));
        let (shared, closed) = (Arc::clone(shared), Arc::clone(&closing));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closed.load(Ordering::Acquire) {
                    break;
                }
                let shared = Arc::clone(&shared);
                if let Ok(again) = stream.try_clone() {
                    lock(&shared.connections).push(again);
                }
                let serve = move || {
                    let peer = stream.peer_addr().ok();
                    // However it ends, the connection is over.
                    let _ = serve(&stream, &shared);
                    let _ = stream.shutdown(Shutdown::Both);
                    lock(&shared.connections).retain(|other| other.peer_addr().ok() != peer);
                };
                std::thread::Builder::new().stack_size(256 * 1024).spawn(serve).expect("a thread");
            }
        });
        Door { closing, thread }
    }

    fn close(self, address: SocketAddr) {
        self.closing.store(true, Ordering::Release);
        // So that it looks.
        let _ = TcpStream::connect(address);
        let _ = self.thread.join();
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(*lock(&shared.idle))?;
    let mut reader = BufReader::new(stream);
    while let Some(call) = read_call(&mut reader)? {
        let number = {
            let mut calls = lock(&shared.calls);
            calls.push(call.clone());
            calls.len() - 1
        };
        let reply = lock(&shared.behaviour)(&call);
        let (status, header) = match reply {
            Reply::Status(status) => (status, String::new()),
            Reply::With(status, name, value) => (status, format!("{name}: {value}\r\n")),
            Reply::Late(time, status) => {
                std::thread::sleep(time);
                (status, String::new())
            }
            Reply::Stall => {
                stream.set_read_timeout(None)?;
                io::copy(&mut reader, &mut io::sink())?;
                return Ok(());
            }
            Reply::Cut => return Ok(()),
            Reply::CutWithinHead => return (&*stream).write_all(b"HTTP/1.1 200 O"),
            Reply::CutWithinBody(status) => {
                answered(shared, number, &call, status);
                return write!(&*stream, "HTTP/1.1 {status} X\r\nContent-Length: 100\r\n\r\n{{");
            }
        };
        answered(shared, number, &call, status);
        let body = if status == 204 { "" } else { "Content-Length: 2\r\n\r\n{}" };
        let end = if body.is_empty() { "\r\n" } else { "" };
        (&*stream).write_all(format!("HTTP/1.1 {status} X\r\n{header}{body}{end}").as_bytes())?;
    }
    Ok(())
}

/// Noted before it is sent: whoever has the answer finds it noted. Unless the calls were forgotten meanwhile.
fn answered(shared: &Shared, number: usize, call: &Call, status: u16) {
    if let Some(noted) = lock(&shared.calls).get_mut(number)
        && noted.came == call.came
    {
        noted.answered = Some((Instant::now(), status));
    }
}

/// The next call; `None` when the other side has ended.
fn read_call(reader: &mut impl BufRead) -> io::Result<Option<Call>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace().map(str::to_owned);
    let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("not a header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = Vec::new();
    reader.take(length.unwrap_or(0)).read_to_end(&mut body)?;
    if (body.len() as u64) < length.unwrap_or(0) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (kind, execution) = meaning(&path);
    Ok(Some(Call { kind, execution, method, path, headers, body, came: Instant::now(), answered: None }))
}

/// What a path says: see the contract's list of calls.
fn meaning(path: &str) -> (Kind, String) {
    let parts: Vec<&str> = path.strip_prefix("/api/v1/internal/").unwrap_or_default().split('/').collect();
    match parts.as_slice() {
        ["containers", "ready"] => (Kind::Ready, String::new()),
        ["containers", "exited"] => (Kind::Exited, String::new()),
        ["executions", id, "heartbeat"] => (Kind::Heartbeat, (*id).to_owned()),
        ["executions", id, "result"] => (Kind::Result, (*id).to_owned()),
        _ => (Kind::Unknown, String::new()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
