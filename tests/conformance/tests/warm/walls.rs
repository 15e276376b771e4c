//! What stands from one run of a session to the next: its network always, its mounts only after a run that was alone and left
//! nothing in them. Never for a run beside it nor for another session.

use crate::difference::differences;
use crate::needs_warm;
use conformance::{Service, assert_completed, is_root, skipped, wait_until};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Where a run stands. A tmpfs has a number of its own for good, a namespace's number is used again.
const LOOK: &str = r"
import os, time

def names(path):
    return sorted(os.listdir(path))

def mounts():
    # How much there is room for in /run follows the request.
    split = [(line.split()[3:6], line.rpartition(' - ')[2]) for line in open('/proc/self/mountinfo')]
    return sorted(' '.join([*place, '' if place[1] == '/run' else options]) for place, options in split)

def refused(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        return error.errno

def handler(event):
    found = {
        'tree': [str(os.statvfs(path).f_fsid) for path in ('/tmp', '/dev/shm')],
        'own': str(os.statvfs('/run').f_fsid),
        'pid': os.getpid(),
        'processes': [name for name in names('/proc') if name.isdigit()],
        'in memory': [names(path) for path in ('/tmp', '/dev/shm', '/run')],
        'mounts': mounts(),
        'top folders': [(oct(state.st_mode), state.st_uid) for state in map(os.stat, ('/', '/tmp', '/dev/shm', '/run', '/workspace'))],
        'hidden': [open(path).read() for path in ('/proc/keys', '/proc/interrupts') if os.path.exists(path)],
        'settings': [refused('/proc/sys/kernel/' + name) for name in ('hostname', 'core_pattern')],
        'shared memory': len(open('/proc/sysvipc/shm').readlines()) - 1,
        'host': os.uname().nodename,
        'descriptors': len(names('/proc/self/fd')),
    }
    import ctypes
    # One segment of System V for whoever is in the same ipc namespace.
    assert ctypes.CDLL(None).shmget(7, 4096, 0o1600) >= 0
    for path in event.get('leave', []):
        open(path, 'w').close()
    if event.get('stay'):
        open('/workspace/there', 'w').close()
        while not os.path.exists('/workspace/go'):
            time.sleep(0.01)
    return found
";

fn look(service: &Service, session: &str, event: &Value) -> Value {
    let answer = service.execute(json!({
        "language": "python", "code": LOOK, "session_id": session, "event": event, "timeout": 60,
    }));
    assert_completed(&answer);
    answer["return_value"].clone()
}

/// A service whose sessions' runs can stand behind the same walls; says so where there is none.
fn with_walls(test: &str) -> Option<Service> {
    if !is_root(test) {
        return None;
    }
    let service = Service::with(&[]);
    if service.get("/info").json()["isolation"] != "native" {
        skipped(test, "/info says that isolation is not native here");
        return None;
    }
    if !needs_warm(test, &service, &["python"]) {
        return None;
    }
    let first = look(&service, "first", &json!({}));
    if first["tree"][0] == "0" {
        skipped(test, "this kernel does not number file systems in memory");
        return None;
    }
    Some(service)
}

fn tree(look: &Value) -> &Value {
    &look["tree"]
}

/// All but what tells sandboxes apart.
fn alike(look: &Value) -> Value {
    let mut look = look.clone();
    for name in ["tree", "own", "pid", "processes"] {
        look.as_object_mut().expect("an object").remove(name);
    }
    look
}

#[test]
fn lone_runs_of_a_session_stand_behind_the_same_walls_and_find_all_as_new() {
    let Some(service) = with_walls("walls") else { return };
    let fresh = look(&service, "one", &json!({}));
    assert_eq!(fresh["in memory"], json!([[], [], []]));
    assert_eq!((&fresh["shared memory"], &fresh["host"]), (&json!(0), &json!("sandbox")));
    assert!(fresh["settings"].as_array().expect("a list").iter().all(|errno| !errno.is_null()), "{fresh}");
    let runs: Vec<Value> = (0..12).map(|_| look(&service, "one", &json!({}))).collect();
    for run in &runs {
        assert_eq!(differences(&alike(&fresh), &alike(run)), [""; 0]);
        // Numbers begin anew: its own and that of whoever forked it.
        assert!(run["pid"].as_u64() <= Some(3) && run["processes"] == json!([run["pid"].to_string()]), "{run}");
    }
    let again = runs.windows(2).filter(|pair| tree(&pair[0]) == tree(&pair[1])).count();
    assert!(again > 0, "no run stood where the one before did: {:?}", runs.iter().map(tree).collect::<Vec<_>>());
    let own: HashSet<&Value> = runs.iter().map(|run| &run["own"]).collect();
    assert_eq!(own.len(), runs.len(), "/run is new for each");
}

#[test]
fn what_a_run_left_in_memory_nobody_stands_on() {
    let Some(service) = with_walls("walls-left") else { return };
    let mut left = HashSet::new();
    for path in ["/tmp/x", "/dev/shm/x", "/tmp/x", "/dev/shm/x"] {
        for _ in 0..3 {
            let found = look(&service, "leaves", &json!({}));
            assert_eq!(found["in memory"], json!([[], [], []]));
            assert!(!left.contains(&tree(&found).to_string()), "it stands where {path} was left");
        }
        left.insert(tree(&look(&service, "leaves", &json!({"leave": [path]}))).to_string());
    }
    assert_eq!(left.len(), 4);
}

#[test]
fn a_run_beside_it_and_another_session_stand_elsewhere() {
    let Some(service) = with_walls("walls-beside") else { return };
    let mut seen = HashSet::new();
    for session in ["a", "b", "c"] {
        let own: HashSet<String> = (0..4).map(|_| tree(&look(&service, session, &json!({}))).to_string()).collect();
        assert!(own.is_disjoint(&seen), "sessions share walls");
        seen.extend(own);
    }
    let folder = service.path("workspaces").join("a");
    let (stays, beside) = std::thread::scope(|scope| {
        let stays = scope.spawn(|| look(&service, "a", &json!({"stay": true})));
        wait_until("the run that stays", 30, || folder.join("there").exists());
        let beside: Vec<Value> = (0..3).map(|_| look(&service, "a", &json!({}))).collect();
        std::fs::write(folder.join("go"), "").expect("a word to the run that stays");
        (stays.join().expect("an answer"), beside)
    });
    assert!(beside.iter().all(|beside| tree(beside) != tree(&stays)), "{beside:?} {stays}");
}

/// Holds sockets that another execution of its session made, which has ended, and fills them.
const KEEPER: &str = r"
import os, socket, time

def handler(event):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind('/workspace/socket')
    listener.listen()
    taken = socket.recv_fds(listener.accept()[0], 1, 64)[1]
    while not os.path.exists('/workspace/fill'):
        time.sleep(0.01)
    sent, ends = 0, [socket.socket(fileno=descriptor) for descriptor in taken[::2]]
    for end in ends:
        end.setblocking(False)
        try:
            while True:
                sent += end.send(bytes(65536))
        except BlockingIOError:
            pass
    open('/workspace/filled', 'w').close()
    while not os.path.exists('/workspace/go'):
        time.sleep(0.01)
    return sent
";

const GIVER: &str = r"
import socket

def handler(event):
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen(100)
    descriptors = []
    for _ in range(6):
        descriptors += [socket.create_connection(listener.getsockname()).detach(), listener.accept()[0].detach()]
    keeper = socket.socket(socket.AF_UNIX)
    keeper.connect('/workspace/socket')
    socket.send_fds(keeper, [b'x'], descriptors)
";

/// How much a connection takes that nobody reads from.
const ROOM: &str = r"
import socket

def handler(event):
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    end, other, sent = socket.create_connection(listener.getsockname()), listener.accept()[0], 0
    end.setblocking(False)
    try:
        while True:
            sent += end.send(bytes(65536))
    except BlockingIOError:
        return sent
";

/// So often sockets are given away.
const GIFTS: usize = 30;

/// A socket is charged to the cgroup of the execution that made it, also when another fills it.
#[test]
fn sockets_that_a_run_gave_away_take_no_room_from_a_stranger() {
    let service = Service::with(&[]);
    let run = |code: &str, session: Option<&str>| {
        let mut request = json!({"language": "python", "code": code, "timeout": 60, "limits": {"memory_mb": 16}});
        if let Some(session) = session {
            request["session_id"] = session.into();
        }
        let answer = service.execute(request);
        assert_completed(&answer);
        answer["return_value"].clone()
    };
    let room = || run(ROOM, None).as_u64().expect("a number");
    let before = room();
    // A group is kept if next to nothing is charged to it at the moment, which is not so each time.
    for round in 0..GIFTS {
        let session = format!("gives-{round}");
        let folder = service.path("workspaces").join(&session);
        let (kept, rooms) = std::thread::scope(|scope| {
            let keeper = scope.spawn(|| run(KEEPER, Some(&session)));
            wait_until("the keeper", 30, || folder.join("socket").exists());
            run(GIVER, Some(&session));
            std::fs::write(folder.join("fill"), "").expect("a word to the keeper");
            wait_until("full sockets", 30, || folder.join("filled").exists());
            let rooms = [room(), room()];
            std::fs::write(folder.join("go"), "").expect("a word to the keeper");
            (keeper.join().expect("an answer"), rooms)
        });
        assert!(kept.as_u64() > Some(before), "it filled nothing: {kept}");
        assert!(rooms.iter().all(|room| *room >= before / 2), "a stranger had {before} bytes of room, then {rooms:?}");
    }
}
