//! Programs that take all they can get, as data: what each is, how it must end, and under which wider limits the same
//! program gets through, so that it is the limit that stops it. Each also ends by itself, at a size that a machine bears.

/// One program.
pub struct Burden {
    /// In the catalogue.
    pub number: u32,
    /// What it tries.
    pub name: &'static str,
    /// Its language.
    pub language: &'static str,
    /// Itself. It says "got through" when it has what it was after.
    pub code: &'static str,
    /// What the request has beside, as JSON.
    pub request: &'static str,
    /// The kinds of error that it may end with; "" is none.
    pub ends: &'static [&'static str],
    /// What it must have shown on the way.
    pub shows: &'static str,
    /// What else must be true of the answer.
    pub check: Check,
    /// Other members of the request, as JSON, under which it gets through; or why there are none.
    pub relaxed: Result<&'static str, &'static str>,
}

/// What must be true of an answer beside its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    Ends,
    /// It ends at its timeout of a second, within 250 ms.
    OnTime,
    /// It takes less than a second.
    Soon,
    /// Output was cut at the bound of 100,000 bytes, characters kept whole.
    Cut,
    /// Only a cgroup sees this memory: where there is none, as `/info` says, it is not bounded.
    ChargedMemory,
}

use Check::{ChargedMemory, Cut, Ends, OnTime, Soon};

const BOMB: &str = "it has no end to come to; the bounded one beside it has the control";
const FOREVER: &str = "it has no end to come to";
const AFTERWARDS: &str = "what counts is what is left afterwards";

macro_rules! burdens {
    ($($number:literal $name:literal $language:ident $request:literal $ends:tt $shows:literal $check:ident $relaxed:expr, $code:expr;)*) => {
        &[$(Burden {
            number: $number, name: $name, language: stringify!($language), code: $code, request: $request,
            ends: &$ends, shows: $shows, check: $check, relaxed: $relaxed,
        }),*]
    };
}

/// All of them.
pub const BURDENS: &[Burden] = burdens! {
    41 "stop itself and stay" shell r#"{"timeout":1}"# ["timeout"] "" OnTime Ok(r#"{"timeout":5}"#),
        "(sleep 1.6; kill -CONT $$) & kill -STOP $$; echo got through";
    41 "ignore every signal" python r#"{"timeout":1}"# ["timeout"] "" OnTime Ok(r#"{"timeout":5}"#), "
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(1.6)
print('got through')";

    67 "start sixty processes under a limit of sixteen" shell r#"{"timeout":3,"limits":{"processes":16}}"#
        ["", "exit", "timeout"] "fork" Ends Ok(r#"{"timeout":5,"limits":{"processes":100}}"#), "
for n in {1..60}; do sleep 4 & done
[ $(jobs -p | wc -l) = 60 ] && echo got through";
    67 "a fork bomb of bash" shell r#"{"timeout":1,"limits":{"processes":64}}"# ["", "exit", "timeout", "signal"] ""
        Ends Err(BOMB), "bomb() { bomb | bomb & }; bomb; sleep 3";
    67 "a fork bomb of Python" python r#"{"timeout":1,"limits":{"processes":64}}"# ["timeout"] "" Ends Err(BOMB), "
import os
while True:
    try: os.fork()
    except OSError: pass";

    68 "start sixty threads under a limit of sixteen" python r#"{"timeout":5,"limits":{"processes":16}}"#
        ["exception"] "new thread" Ends Ok(r#"{"timeout":5,"limits":{"processes":100}}"#), "
import threading
event = threading.Event()
try:
    for n in range(60): threading.Thread(target=event.wait).start()
    print('got through', flush=True)
finally: event.set()";

    69 "take ten times the memory" python r#"{"timeout":5,"limits":{"memory_mb":32}}"#
        ["out_of_memory", "exception"] "" Ends Ok(r#"{"limits":{"memory_mb":480}}"#), "
held = b'x' * (320 << 20)
__import__('time').sleep(0.5)  # who measures looks a hundred times a second, where it gets to
print('got through')";
    69 "have a child take it and live on" shell r#"{"timeout":8,"limits":{"memory_mb":32}}"#
        ["out_of_memory", "exit"] "" Ends Ok(r#"{"limits":{"memory_mb":480}}"#), "
python3 -S -c \"held = b'x' * (200 << 20)\" && echo got through";
    70 "leak slowly in ten children" python r#"{"timeout":8,"limits":{"memory_mb":64}}"#
        ["out_of_memory"] "" Ends Ok(r#"{"timeout":8,"limits":{"memory_mb":400}}"#), "
import os, time
for n in range(10):
    if os.fork() == 0:
        held = []
        for part in range(15):
            held.append(os.urandom(1 << 20))
            time.sleep(0.02)
        time.sleep(1)
        os._exit(0)
for n in range(10): os.wait()
print('got through')";

    71 "keep files in /tmp beyond the memory" python r#"{"limits":{"memory_mb":32}}"#
        ["out_of_memory", "exception", "disk_full"] "" Ends Ok(r#"{"limits":{"memory_mb":256}}"#), "
with open('/tmp/big', 'wb') as file:
    for part in range(64): file.write(bytes(1 << 20))
__import__('time').sleep(0.5)  # who measures looks a hundred times a second, where it gets to
print('got through')";
    71 "keep files in /dev/shm beyond the memory" python r#"{"limits":{"memory_mb":32}}"#
        ["out_of_memory", "exception", "disk_full"] "" Ends Ok(r#"{"limits":{"memory_mb":256}}"#), "
with open('/dev/shm/big', 'wb') as file:
    for part in range(64): file.write(bytes(1 << 20))
__import__('time').sleep(0.5)  # who measures looks a hundred times a second, where it gets to
print('got through')";
    71 "keep files in both" python r#"{"limits":{"memory_mb":48}}"#
        ["out_of_memory", "exception", "disk_full"] "" Ends Ok(r#"{"limits":{"memory_mb":256}}"#), "
for folder in ('/tmp', '/dev/shm'):
    with open(folder + '/big', 'wb') as file:
        for part in range(40): file.write(bytes(1 << 20))
__import__('time').sleep(0.5)  # who measures looks a hundred times a second, where it gets to
print('got through')";
    71 "keep files without a name" python r#"{"limits":{"memory_mb":32}}"# ["out_of_memory"] "" ChargedMemory
        Ok(r#"{"limits":{"memory_mb":256}}"#), "
import os
held = os.memfd_create('big')
for part in range(64): os.write(held, bytes(1 << 20))
print('got through')";
    71 "keep shared memory of System V" python r#"{"limits":{"memory_mb":32}}"# ["out_of_memory"] "" Ends
        Ok(r#"{"limits":{"memory_mb":256}}"#), "
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
libc.shmdt.argtypes = [ctypes.c_void_p]
for part in range(8):
    place = libc.shmat(libc.shmget(0, 8 << 20, 0o1600), None, 0)
    ctypes.memset(place, 1, 8 << 20)
    libc.shmdt(place)
__import__('time').sleep(0.5)  # who measures looks a hundred times a second, where it gets to
print('got through')";
    71 "keep page tables of nothing" python r#"{"limits":{"memory_mb":32}}"# ["out_of_memory"] "" Ends
        Ok(r#"{"limits":{"memory_mb":256}}"#), "
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
tables, each = 16384, 2 << 20
place = libc.mmap(None, tables * each, 1, 0x4022, -1, 0)  # to be read, of zeros alone, without reserve
libc.madvise(place, tables * each, 15)  # in small pages
for table in range(tables): ctypes.c_char.from_address(place + table * each).value
__import__('time').sleep(0.5)  # who measures looks a hundred times a second, where it gets to
print('got through')";
    71 "keep bytes in pipes" python r#"{"timeout":8,"limits":{"memory_mb":32}}"# ["out_of_memory", "timeout"] ""
        ChargedMemory Ok(r#"{"limits":{"memory_mb":256}}"#), "
import os
for part in range(480):
    read, write = os.pipe()
    os.set_blocking(write, False)
    written = 0
    try:
        while True: written += os.write(write, bytes(4096))
    except BlockingIOError: pass
    if part and written < 60000: raise SystemExit('a pipe took only %d' % written)
held = os.urandom(20 << 20)
print('got through')";
    71 "keep bytes in sockets of loopback" python r#"{"timeout":4,"limits":{"memory_mb":32}}"#
        ["out_of_memory", "exit", "timeout"] "" ChargedMemory Ok(r#"{"timeout":10,"limits":{"memory_mb":400}}"#), "
import socket
server, held, total = socket.create_server(('127.0.0.1', 0), backlog=100), [], 0
for part in range(60):
    client = socket.create_connection(server.getsockname())
    held += [client, server.accept()[0]]
    client.setblocking(False)
    try:
        while total < 120 << 20: total += client.send(bytes(1 << 20))
    except BlockingIOError: pass
print(total >> 20, 'MB')
if total < 96 << 20: raise SystemExit(1)
print('got through')";

    72 "print more than is kept" shell r#"{"limits":{"output_bytes":100000}}"# [""] "" Cut Ok(r#"{"limits":{"output_bytes":500000}}"#),
        "yes | head -c 200000; echo got through";
    72 "print without end" shell r#"{"timeout":1,"limits":{"output_bytes":100000}}"# ["timeout"] "" Cut Err(FOREVER),
        "exec yes";
    73 "fill stderr without a line feed" python r#"{"timeout":1,"limits":{"output_bytes":100000}}"# ["timeout"] "" Cut
        Err(FOREVER), "
import os
while True: os.write(2, b'\\xe2\\x82\\xac' * 20000)";
    74 "print what is no text" python r#"{}"# [""] "\u{fffd}" Soon Err(AFTERWARDS), "
import sys
sys.stdout.buffer.write(bytes(range(256)) * 100 + b'\\0\\xff\\xfe\\xed\\xa0\\x80')";

    77 "make a file of a hundred terabytes" python r#"{"env_vars":{"SIZE":"109951162777600"}}"# ["exception", "signal"] "" Soon
        Ok(r#"{"env_vars":{"SIZE":"52428800"}}"#), "
import os
os.truncate(os.open('sparse', os.O_CREAT | os.O_RDWR), int(os.environ['SIZE']))
print('got through')";
    78 "open descriptors without end" python r#"{"env_vars":{"COUNT":"100000"}}"# [""] "Too many open files" Soon
        Ok(r#"{"env_vars":{"COUNT":"900"}}"#), "
import os
held = []
try:
    for n in range(int(os.environ['COUNT'])): held.append(os.dup(0))
    text = 'got through'
except OSError as error: text = error.strerror
for one in held: os.close(one)
print(text)";
    78 "hold descriptors in messages without end" python r#"{"env_vars":{"COUNT":"20"}}"# ["exception"]
        "Too many references" Soon Ok(r#"{"env_vars":{"COUNT":"3"}}"#), "
import os, socket
held = []
for n in range(int(os.environ['COUNT'])):
    one, other = socket.socketpair()
    held += [one, other]
    for m in range(1): socket.send_fds(one, [b'x'], [0] * 200)
print('got through')";

    79 "compute without end" python r#"{"timeout":1}"# ["timeout"] "" OnTime Ok(r#"{"timeout":10}"#), "
import time
until = time.monotonic() + 1.6
while time.monotonic() < until: pass
print('got through')";
    79 "compute in every process it may have, its init slowed down" python r#"{"timeout":1}"# ["timeout"] "" OnTime
        Ok(r#"{"timeout":10}"#), "
import os, time
until = time.monotonic() + 1.6
for slow_down in (
    lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    lambda: os.setpriority(os.PRIO_USER, 0, 19),
    lambda: os.sched_setaffinity(1, {0}),
    lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
):
    try: slow_down()
    except OSError: pass
for n in range(60):
    if os.fork() == 0: break
os.sched_setaffinity(0, {0})
while time.monotonic() < until: pass
print('got through')";
    80 "sleep past the end" shell r#"{"timeout":1}"# ["timeout"] "" OnTime Ok(r#"{"timeout":5}"#),
        "sleep 1.6; echo got through";
    80 "ignore the request to end" shell r#"{"timeout":1}"# ["timeout"] "" OnTime Ok(r#"{"timeout":5}"#),
        "trap '' TERM INT HUP QUIT; end=$((${EPOCHREALTIME/./} + 1600000)); while ((${EPOCHREALTIME/./} < end)); do :; done
echo got through";
    81 "leave a daemon behind" python r#"{}"# [""] "started" Soon Err(AFTERWARDS), "
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        os.execv('/usr/bin/sleep', ['sleep', '60'])
    os._exit(0)
os.wait()
print('started')";
    82 "leave a daemon that holds stdout" shell r#"{}"# [""] "started" Soon Err(AFTERWARDS),
        "(trap '' TERM HUP; exec setsid sleep 60) & echo started";
    83 "end while fifty children live" shell r#"{}"# [""] "started" Soon Err(AFTERWARDS),
        "for n in {1..50}; do sleep 60 & done; echo started; exit 0";

    86 "leave three thousand folders, each in the last" python r#"{"timeout":10}"# [""] "got through" Ends
        Err(AFTERWARDS), "
import os
for n in range(3000):
    os.mkdir('d')
    os.chdir('d')
print('got through')";
    87 "leave zombies until none can be started" python r#"{"timeout":5,"limits":{"processes":32}}"# ["exception"]
        "Resource temporarily unavailable" Ends Ok(r#"{"timeout":5,"limits":{"processes":120}}"#), "
import os
for n in range(60):
    if os.fork() == 0: os._exit(0)
print('got through')";
    87 "orphan a thousand zombies" python r#"{"timeout":10,"limits":{"processes":32}}"# [""] "got through" Ends
        Err("that all could be started shows that the init collects them"), "
import os, time
def fork():
    # One that is not collected yet may be in the way; those that nobody collects stay there.
    for attempt in range(100):
        try: return os.fork()
        except BlockingIOError: time.sleep(0.02)
    return os.fork()
for n in range(1000):
    if fork() == 0:
        if fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
print('got through')";
    88 "leave a core" shell r#"{}"# ["signal", "exit"] "" Ends Err("a core of the host's would be one too many"),
        "ulimit -c unlimited; cat /dev/urandom | head -c 1000 >&2; kill -SEGV $$";
};

/// Takes what the kernel counts by user, not by execution: buffers of pipes, inotify, epoll; says so and stays.
pub const PER_USER: &str = "
import ctypes, fcntl, os, select, time
libc = ctypes.CDLL(None)
held = []
while (one := libc.inotify_init1(0)) >= 0: held.append(one)
try:
    for n in range(100): held.append(select.epoll())
except OSError: pass
for child in range(8):
    if os.fork() == 0:
        try:
            for n in range(400):
                held += os.pipe()
                fcntl.fcntl(held[-1], 1031, 1 << 20)  # F_SETPIPE_SZ
        except OSError: pass
        break
else:
    time.sleep(0.2)
    open('ready', 'w')
time.sleep(1.5)
";

/// Needs one of each.
pub const ONE_OF_EACH: &str = "
import ctypes, os, select
def handler(event):
    select.epoll()
    read, write = os.pipe()
    os.write(write, b'x')
    if ctypes.CDLL(None).inotify_init1(0) < 0: return 'no inotify'
    return 'all there'
";
