//! A warm run shows what a cold one shows: the same requests to a service that prepares nothing and to one that does.
//!
//! What may differ is what `leaks` lists, the address layout and the seed of hashes that forks share, and what the kernel
//! keeps of a process's own start: `/proc/self/environ` and `/proc/self/cmdline`, which are those of the interpreter that
//! was started ahead, and how many filters are on it, since that one had its own. No case looks at these.

use crate::difference::differences;
use crate::leaks::{FINGERPRINT, FINGERPRINT_JS, FINGERPRINT_SH, MAY_DIFFER};
use crate::{COLD, needs_warm, outcome};
use conformance::{Service, assert_completed, shortened};
use serde_json::{Value, json};
use std::time::Duration;

/// A request, and what a shell does in its session before it, if anything.
struct Case {
    name: &'static str,
    language: &'static str,
    code: &'static str,
    /// Other members of the request, as JSON.
    request: &'static str,
    /// A script that makes files in the session's workspace, if there is to be a session.
    before: &'static str,
    /// Places of the outcome that hold a time or a size.
    without: &'static [&'static str],
}

/// The usual one.
const fn case(name: &'static str, language: &'static str, request: &'static str, code: &'static str) -> Case {
    Case { name, language, code, request, before: "", without: &[] }
}

const fn in_session(name: &'static str, before: &'static str, code: &'static str) -> Case {
    Case { name, language: "python", code, request: "{}", before, without: &[] }
}

const fn ended(name: &'static str, language: &'static str, request: &'static str, code: &'static str) -> Case {
    Case { name, language, code, request, before: "", without: &["/error/message"] }
}

const MODULE: &str = "
import os, sys
def handler(event, context):
    '''A handler.'''
    import inspect
    own = {name: repr(value) for name, value in globals().items() if name.startswith('__') and name != '__loader__'}
    own.pop('__builtins__')
    return {
        'own': own, 'names': sorted(globals()), 'builtins': type(__builtins__).__name__, 'main': sys.modules['__main__'].__name__,
        'source': inspect.getsource(handler), 'file': inspect.getfile(handler), 'stack': [frame.function for frame in inspect.stack()][:1],
        'executable': [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.version, sys.implementation.name],
        'context': [context.function_name, 0 < context.get_remaining_time_in_millis() <= 300_000],
        'event': event, 'depth': len(inspect.stack()), 'encodings': [sys.getfilesystemencoding(), sys.getdefaultencoding()],
    }";

const CHILDREN: &str = "
import os, subprocess, sys
show = 'import os, sys; print(dict(os.environ), sys.argv, sys.flags.isolated, os.getcwd(), sorted(os.listdir(\"/proc/self/fd\")))'
print(subprocess.run([sys.executable, '-c', show, 'x'], capture_output=True, text=True).stdout)
print(subprocess.run(['/bin/sh', '-c', 'env | sort; umask; ulimit -a; cat; kill -USR1 $$'], capture_output=True, text=True))
print(subprocess.run(['/bin/grep', '-E', '^(Sig|Shd|Cap|Seccomp:|NoNew|Groups)', '/proc/self/status'], capture_output=True, text=True).stdout)
os.system('echo of a system call')
pid = os.fork()
if pid == 0: os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(os.posix_spawnp('true', ['true'], os.environ) > 0, os.wait()[1])";

const MULTIPROCESSING: &str = "
import multiprocessing, os
def square(number): return number * number
def handler(event):
    found = {}
    for method in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(method).Pool(2) as pool: found[method] = pool.map(square, range(5))
    return [found, multiprocessing.get_start_method(), multiprocessing.current_process().name, multiprocessing.cpu_count()]";

const CONCURRENT: &str = "
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
async def echo():
    process = await asyncio.create_subprocess_exec('cat', stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate(b'through a pipe'))[0].decode(), process.returncode
async def handler(event):
    await asyncio.sleep(0.01)
    with ThreadPoolExecutor(4) as pool: squares = list(pool.map(lambda n: n * n, range(5)))
    local = threading.local()
    return [await echo(), squares, threading.current_thread().name, threading.main_thread().name, threading.get_ident() == threading.main_thread().ident,
            type(asyncio.get_running_loop()).__name__, vars(local)]";

const OUTPUT: &str = "
import os, sys
print('first')
os.write(1, b'second\\n')
sys.stderr.write('third\\n')
print('fourth', file=open('/dev/stdout', 'a'))
open('/dev/stderr', 'a').write('fifth\\n')
sys.stdout.buffer.write('sixth \\u00fc \\ud83d\\ude00\\n'.encode('utf-8', 'surrogatepass'))
print('seventh', end='')
print(os.isatty(0), os.isatty(1), sys.stdout.fileno(), sorted(os.listdir('/proc/self/fd')))";

const FORKS: &str = "
import os, signal
count = 0
try:
    while count < 60:
        if os.fork() == 0:
            signal.pause()
        count += 1
except BlockingIOError as error: print(error)
print(count)";

const THREADS_BOUND: &str = "
import threading
event, count = threading.Event(), 0
try:
    while count < 60:
        threading.Thread(target=event.wait, daemon=True).start()
        count += 1
except RuntimeError as error: print(error)
print(count)";

const LEFT_OPEN: &str = "
import os
low = open('/dev/stdout', 'w')
low.write('written at the end, ')
low.close()
high = os.fdopen(os.dup2(1, 1023), 'w')
high.write('by a high descriptor')";

const LEFT_BROKEN: &str = "
import os
reader, writer = os.pipe()
os.close(reader)
broken = os.fdopen(writer, 'w')
broken.write('to nobody')";

const AT_FORK: &str = "
import atexit, logging, os, random, threading
said = []
os.register_at_fork(before=lambda: said.append('before'), after_in_parent=lambda: said.append('parent'), after_in_child=lambda: said.append('child'))
main = threading.main_thread()
print(main.native_id == os.getpid(), main.ident == threading.get_ident(), threading.active_count(), main.is_alive())
drawn = random.getstate()
if os.fork() == 0:
    print(said, main.native_id == os.getpid(), threading.active_count(), random.getstate() == drawn, flush=True)
    os._exit(0)
os.wait()
print(said)
atexit.register(lambda: print('at the end', threading.active_count(), [thread.name for thread in threading.enumerate()]))
threading.Thread(target=lambda: (threading.Event().wait(0.05), print('a thread of its own'))).start()";

const NODE: &str = "
console.log([process.argv, process.execArgv, process.argv0, process.cwd(), process.env, process.versions, process.uptime() < 20, __filename, __dirname]);
console.log(require.main === module, module.id, module.paths, module.filename, Object.keys(module), typeof require.resolve, this === module.exports);
console.log(process.stdin.isTTY, process.stdout.isTTY, process.stdout.writableLength, process.listenerCount('SIGTERM'), process.exitCode);
console.log(require('child_process').execSync('cat /proc/self/status | grep -E ^Sig; env | sort; ulimit -a; ls /proc/self/fd').toString());
console.log(performance.now() < 20000, require('os').cpus().length, require('os').totalmem(), require('v8').getHeapStatistics().heap_size_limit);
exports.handler = async (event, context) => [event, context.functionName, context.getRemainingTimeInMillis() > 0, new Error('x').stack];";

const CASES: &[Case] = &[
    case("what a run finds", "python", "{}", FINGERPRINT),
    case("with an event", "python", r#"{"event":{"a":[1,"ü"]}}"#, FINGERPRINT),
    case("with input", "python", r#"{"stdin":"a line\nand ü"}"#, FINGERPRINT),
    case("with files left open", "python", "{}", LEFT_OPEN),
    case("with a broken pipe left open", "python", "{}", LEFT_BROKEN),
    case("with hooks around a fork", "python", "{}", AT_FORK),
    case("in a folder", "python", r#"{"working_directory":"data/in"}"#, FINGERPRINT),
    case(
        "with variables",
        "python",
        r#"{"env_vars":{"OWN":"1","EMPTY":"","HOME":"/workspace","PATH":"/bin"}}"#,
        FINGERPRINT,
    ),
    case("with lower limits", "python", r#"{"limits":{"memory_mb":100,"processes":20,"cpu_cores":0.5}}"#, FINGERPRINT),
    case("in another time zone", "python", r#"{"env_vars":{"TZ":"OWN-3"}}"#, FINGERPRINT),
    case("in another locale", "python", r#"{"env_vars":{"LC_ALL":"C"}}"#, FINGERPRINT),
    case("in another language", "python", r#"{"env_vars":{"LANG":"C"}}"#, FINGERPRINT),
    case("with warnings as errors", "python", r#"{"env_vars":{"PYTHONWARNINGS":"error"}}"#, FINGERPRINT),
    case(
        "optimized",
        "python",
        r#"{"env_vars":{"PYTHONOPTIMIZE":"2"}}"#,
        "import sys\nassert False\nprint(sys.flags, __debug__)",
    ),
    case(
        "with a seed of hashes",
        "python",
        r#"{"env_vars":{"PYTHONHASHSEED":"0"}}"#,
        "import sys\nprint(hash('x'), list({'a', 'b', 'c'}), sys.flags)",
    ),
    case("with few threads", "python", r#"{"env_vars":{"OMP_NUM_THREADS":"1"}}"#, "import os\nprint(dict(os.environ))"),
    case(
        "with a path of modules",
        "python",
        r#"{"env_vars":{"PYTHONPATH":"/workspace/lib"}}"#,
        "import sys\nprint(sys.path)",
    ),
    case(
        "in development mode",
        "python",
        r#"{"env_vars":{"PYTHONDEVMODE":"1"}}"#,
        "import sys\nprint(sys.flags, sys.warnoptions)",
    ),
    case("its module", "python", r#"{"event":{"a":1}}"#, MODULE),
    case("its children", "python", r#"{"stdin":"for a child"}"#, CHILDREN),
    case("multiprocessing", "python", "{}", MULTIPROCESSING),
    case("threads and coroutines", "python", "{}", CONCURRENT),
    case("its output", "python", "{}", OUTPUT),
    case(
        "input by line",
        "python",
        r#"{"stdin":"one\ntwo\n"}"#,
        "import sys\nprint(input(), sys.stdin.readline(), sys.stdin.read())",
    ),
    case("input at its end", "python", "{}", "try: input()\nexcept EOFError as error: print(repr(error))"),
    case(
        "an exception",
        "python",
        "{}",
        "def inner():\n    raise ValueError('why')\ndef handler(event):\n    try: inner()\n    except ValueError: raise KeyError('other')",
    ),
    case("an exception of a script", "python", "{}", "print('before')\nx = 1\n1 / 0"),
    case("a syntax error", "python", "{}", "x = (\n"),
    case(
        "an endless recursion",
        "python",
        "{}",
        "import sys\ndef f(): f()\ntry: f()\nexcept RecursionError as error: print(error)\nf()",
    ),
    case(
        "an exception in a thread",
        "python",
        "{}",
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()",
    ),
    case("a warning", "python", "{}", "import warnings\nwarnings.warn('on purpose', DeprecationWarning)\nprint('\\d')"),
    case("no handler", "python", r#"{"mode":"handler"}"#, "print(1)"),
    case("a value that is none", "python", "{}", "def handler(event): return {1, 2}"),
    case("exit with a code", "python", "{}", "import sys\nprint('x', end='')\nsys.exit(3)"),
    case("exit with a text", "python", "{}", "raise SystemExit('why')"),
    case("exit at once", "python", "{}", "import os\nprint('kept')\nos._exit(4)"),
    case(
        "exit functions",
        "python",
        "{}",
        "import atexit\natexit.register(print, 'at the end')\nclass A:\n    def __del__(self): print('deleted')\na = A()",
    ),
    ended(
        "a signal",
        "python",
        "{}",
        "import os, signal\nprint('x', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)",
    ),
    ended("a signal that asks", "python", "{}", "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)"),
    case(
        "an interrupt",
        "python",
        "{}",
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(5)",
    ),
    ended(
        "a broken pipe",
        "python",
        "{}",
        "import os, signal\nread, write = os.pipe()\nos.close(read)\ntry: os.write(write, b'x')\nexcept BrokenPipeError as error: print(error)",
    ),
    ended("an abort", "python", "{}", "import os\nos.abort()"),
    ended("a timeout", "python", r#"{"timeout":1}"#, "print('before')\nwhile True: pass"),
    ended(
        "too much memory",
        "python",
        r#"{"limits":{"memory_mb":64}}"#,
        "print('before', flush=True)\nx = [b'x' * 1000000 for _ in range(200)]",
    ),
    ended(
        "too much in /tmp",
        "python",
        r#"{"limits":{"memory_mb":32},"timeout":20}"#,
        "import time\nfile = open('/dev/shm/x', 'wb')\nfor _ in range(60): file.write(bytes(1 << 20))\ntime.sleep(0.3)",
    ),
    case(
        "too large a file",
        "python",
        "{}",
        "import resource\nfile = open('x', 'wb')\nfile.truncate((100 << 20) - 1)\ntry: file.truncate((100 << 20) + 1)\nexcept OSError as error: print(error)",
    ),
    case("too many processes", "python", r#"{"limits":{"processes":16}}"#, FORKS),
    case("too many threads", "python", r#"{"limits":{"processes":16}}"#, THREADS_BOUND),
    case(
        "no more privileges",
        "python",
        "{}",
        "import os\nfor call in (lambda: os.setuid(0), lambda: os.chroot('/'), lambda: os.nice(-1), lambda: os.mkdir('/usr/x'), lambda: open('/proc/1/environ'), lambda: os.kill(1, 9)):\n    try: print(call())\n    except OSError as error: print(error)",
    ),
    in_session(
        "modules of the workspace",
        "echo 'def value(): return 7' > own.py; mkdir p; echo 'x = 1' > p/__init__.py",
        "import own, p\nprint(own.value(), own.__file__, p.x)",
    ),
    in_session(
        "modules of the workspace that are called like one that is imported ahead",
        "for name in random statistics textwrap uuid queue; do echo 'mine = 1' > $name.py; done",
        "import random, statistics, textwrap, uuid, queue\nprint([hasattr(module, 'mine') for module in (random, statistics, textwrap, uuid, queue)])",
    ),
    in_session(
        "a module and a package that are there later",
        "mkdir -p later",
        "import os\nopen('written.py', 'w').write('x = 5')\nimport importlib\nimportlib.invalidate_caches()\nimport written\nprint(written.x, os.listdir())",
    ),
    case("what a run finds", "javascript", "{}", FINGERPRINT_JS),
    case("with input", "javascript", r#"{"stdin":"a line\nand ü"}"#, FINGERPRINT_JS),
    case(
        "with variables",
        "javascript",
        r#"{"env_vars":{"OWN":"1","EMPTY":"","HOME":"/workspace"},"event":{"a":1}}"#,
        FINGERPRINT_JS,
    ),
    case("in a folder", "javascript", r#"{"working_directory":"data/in"}"#, FINGERPRINT_JS),
    case("with lower limits", "javascript", r#"{"limits":{"memory_mb":200,"processes":40}}"#, FINGERPRINT_JS),
    case(
        "with options of Node",
        "javascript",
        r#"{"env_vars":{"NODE_OPTIONS":"--stack-trace-limit=3"}}"#,
        "console.log(Error.stackTraceLimit, process.execArgv)",
    ),
    case(
        "in another time zone",
        "javascript",
        r#"{"env_vars":{"TZ":"Europe/Berlin"}}"#,
        "console.log(new Date(0).toString())",
    ),
    case("its process", "javascript", r#"{"event":{"a":1},"env_vars":{"OWN":"1"}}"#, NODE),
    case(
        "a module",
        "javascript",
        "{}",
        "import fs from 'fs'; export const handler = (event) => [import.meta.url, import.meta.filename, typeof require, fs.readdirSync('.')];",
    ),
    case("an exception", "javascript", "{}", "exports.handler = () => { throw new TypeError('why') }"),
    case("a rejection", "javascript", "{}", "Promise.reject(new Error('why'))"),
    case("a syntax error", "javascript", "{}", "let x = ;"),
    case(
        "exit with a code",
        "javascript",
        "{}",
        "console.log('out'); process.on('exit', () => console.log('end')); process.exitCode = 6",
    ),
    ended("a signal", "javascript", "{}", "process.kill(process.pid, 'SIGKILL')"),
    ended("a timeout", "javascript", r#"{"timeout":1}"#, "console.log('before'); while (true) {}"),
    ended(
        "too much memory",
        "javascript",
        r#"{"limits":{"memory_mb":96}}"#,
        "console.log('before'); const a = []; while (a.length < 100) a.push(Buffer.alloc(1e7, 1));",
    ),
    case(
        "a worker and a child",
        "javascript",
        "{}",
        "const { Worker } = require('worker_threads');\nexports.handler = () => new Promise((done) => new Worker('require(\"worker_threads\").parentPort.postMessage(process.argv.slice(2))', { eval: true, argv: ['x'] }).on('message', done));",
    ),
    case("what a run finds", "shell", "{}", FINGERPRINT_SH),
    case(
        "with all there is",
        "shell",
        r#"{"stdin":"a line","event":{"a":1},"env_vars":{"OWN":"1"},"working_directory":"data"}"#,
        FINGERPRINT_SH,
    ),
    case("its ends", "shell", "{}", "echo out; trap 'echo end' EXIT; false || (exit 3); exit $?"),
    ended("a signal", "shell", "{}", "kill -SEGV $$"),
    case("a value", "shell", r#"{"event":{"a":[1]}}"#, "cat $EVENT_FILE >&3"),
];

impl Case {
    fn outcome(&self, service: &Service, number: usize) -> Value {
        let mut request = json!({"language": self.language, "code": self.code});
        let members: serde_json::Map<String, Value> = serde_json::from_str(self.request).expect("members");
        request.as_object_mut().expect("an object").extend(members);
        if !self.before.is_empty() {
            let session = format!("equal-{number}");
            assert_completed(
                &service.execute(json!({"language": "shell", "code": self.before, "session_id": session})),
            );
            request["session_id"] = session.into();
        }
        let mut outcome = outcome(&service.execute(request));
        let may_differ = MAY_DIFFER.iter().map(|(name, _)| format!("/return_value{name}"));
        for path in may_differ.chain(self.without.iter().map(|path| (*path).to_owned())) {
            if let Some(place) = outcome.pointer_mut(&path) {
                *place = Value::Null;
            }
        }
        outcome
    }
}

#[test]
fn a_warm_run_shows_what_a_cold_one_shows() {
    let (cold, warm) = (Service::with(&COLD), Service::with(&[]));
    let mut lines = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let expected = case.outcome(&cold, number);
        // Also what was made ahead has time to stand again.
        std::thread::sleep(Duration::from_millis(30));
        for line in differences(&expected, &case.outcome(&warm, number)) {
            lines.push(format!("{}, {}: {line}", case.language, case.name));
        }
    }
    assert!(lines.is_empty(), "{} differences between cold and warm:\n{}", lines.len(), lines.join("\n"));
}

/// That the comparison compares something: two runs that differ in one thing each.
#[test]
fn a_run_that_differs_is_seen_to() {
    let service = Service::with(&COLD);
    let of = |request, code| case("", "python", request, code).outcome(&service, 0);
    let plain = of("{}", FINGERPRINT);
    assert_completed(&plain);
    for (request, place) in [
        (r#"{"env_vars":{"OWN":"1"}}"#, "return_value › environment › OWN"),
        (r#"{"stdin":"x"}"#, "return_value › input"),
        (r#"{"working_directory":"data"}"#, "return_value › folder"),
        (r#"{"limits":{"processes":20}}"#, "return_value › rlimits › RLIMIT_NPROC"),
        (r#"{"env_vars":{"PYTHONOPTIMIZE":"1"}}"#, "return_value › builtins"),
    ] {
        let lines = differences(&plain, &of(request, FINGERPRINT));
        assert!(lines.iter().any(|line| line.starts_with(place)), "{request}: {lines:?}");
    }
}

fn metric(answer: &Value, name: &str) -> f64 {
    answer["metrics"][name].as_f64().unwrap_or_else(|| panic!("{name}: {}", shortened(answer)))
}

/// What a warm run is charged with is its own: neither its zygote's memory and time nor nothing at all.
#[test]
fn the_metrics_of_a_warm_run_are_its_own() {
    let least = |service: &Service, name: &str, code: &str| {
        let run = || {
            std::thread::sleep(Duration::from_millis(50));
            let answer = service.run("python", code);
            assert_completed(&answer);
            metric(&answer, name)
        };
        (0..5).map(|_| run()).fold(f64::MAX, f64::min)
    };
    // One after the other: each has the machine to itself.
    let of_nothing =
        |service: &Service| (least(service, "cpu_time_ms", "pass"), least(service, "peak_memory_mb", "pass"));
    let (cpu_cold, memory_cold) = of_nothing(&Service::alone(&COLD));
    let service = Service::alone(&[]);
    if !needs_warm("the_metrics_of_a_warm_run_are_its_own", &service, &["python"]) {
        return;
    }
    let (cpu, memory) = of_nothing(&service);
    assert!(cpu > 0.0 && cpu < cpu_cold + 5.0, "{cpu} ms of CPU, cold {cpu_cold}");
    // Where nothing forks, what was imported ahead is the run's own.
    assert!(memory > 0.1 && memory < memory_cold + 12.0, "{memory} MB, cold {memory_cold}");

    let busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass";
    let cpu = least(&service, "cpu_time_ms", busy);
    assert!((290.0..400.0).contains(&cpu), "{cpu} ms of 300");
    let memory = least(&service, "peak_memory_mb", "x = b'x' * (100 << 20)");
    assert!((95.0..130.0).contains(&memory), "{memory} MB of 100");
    let answer = service.run("python", "import time\ndef handler(event, context):\n    time.sleep(0.3)\n    return context.get_remaining_time_in_millis()");
    let left = answer["return_value"].as_f64().expect("milliseconds");
    assert!((298_000.0..299_701.0).contains(&left), "{left} ms left of 300 s after 300 ms");
    let duration = metric(&answer, "duration_ms");
    assert!((299.0..600.0).contains(&duration), "{duration} ms");
    // A process that waited for its request has not been running since.
    let age = "import time\nprint(time.process_time() < 1, time.perf_counter() > 0)";
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(service.run("python", age)["stdout"], "True True\n");
}
