"""The system as Python shows it: children, signals, timers, limits, CPUs, users, time zones, C libraries, terminals."""

import ctypes
import getpass
import locale
import os
import platform
import pty
import resource
import selectors
import signal
import subprocess
import sys
import time
import uuid
import zoneinfo
from datetime import datetime, timezone


def children():
    piped = subprocess.run(["sort", "-r"], input="a\nc\nb\n", capture_output=True, text=True, check=True).stdout
    shell = subprocess.run("echo $((6 * 7)) | tr 2 3; exit 3", shell=True, capture_output=True, text=True)
    start = time.monotonic()
    try:
        subprocess.run(["sleep", "60"], timeout=0.1)
        timed_out = False
    except subprocess.TimeoutExpired:
        timed_out = time.monotonic() - start < 10
    group = subprocess.Popen("sleep 60 & sleep 60", shell=True, start_new_session=True)
    leads = os.getpgid(group.pid) == group.pid
    os.killpg(group.pid, signal.SIGTERM)
    own = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.version_info[0])"], capture_output=True, text=True, check=True
    )
    try:
        subprocess.run(["no-such-program"])
        absent = None
    except FileNotFoundError as error:
        absent = error.strerror
    return {
        "piped": piped.split(),
        "shell": [shell.stdout, shell.returncode],
        "timed_out": timed_out,
        "group": [leads, group.wait(20)],
        "own": own.stdout,
        "absent": absent,
    }


def signals():
    seen = []
    signal.signal(signal.SIGALRM, lambda number, frame: seen.append(signal.Signals(number).name))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    while len(seen) < 3:
        signal.pause()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    seen.append(signal.sigwait([signal.SIGUSR2]).name)
    child = os.fork()
    if child == 0:
        signal.pause()
    os.kill(child, signal.SIGKILL)
    seen.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
    descriptor = os.pidfd_open(os.getpid())
    signal.pidfd_send_signal(descriptor, 0)
    return seen


def limits():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    lowered = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
        raised = True
    except ValueError:
        raised = False
    return [soft, lowered, raised, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1000]


def cpus():
    allowed = len(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    return [1 <= allowed <= os.cpu_count(), len(os.sched_getaffinity(0))]


def users():
    return [getpass.getuser(), os.path.expanduser("~"), os.getuid(), os.getgid(), platform.system(), platform.node()]


def zones():
    winter = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    return [
        winter.astimezone(zoneinfo.ZoneInfo("Asia/Shanghai")).isoformat(),
        time.strftime("%H:%M %Z", time.localtime(winter.timestamp())),
    ]


def locales():
    encoding = locale.getpreferredencoding()
    locale.setlocale(locale.LC_ALL, "")
    return [encoding, sys.stdout.encoding, sys.getfilesystemencoding(), locale.format_string("%d", 1234)]


def c_libraries():
    libc, libm = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libm.so.6")
    libm.cos.restype, libm.cos.argtypes = ctypes.c_double, [ctypes.c_double]
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
    # A callback is code that libffi makes at run time.
    libc.qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    return [libm.cos(0.0), list(numbers), libc.getpid() == os.getpid()]


def terminal():
    """There is none, and asking for one fails at once."""
    start, answers = time.monotonic(), []
    for ask in (pty.openpty, lambda: pty.fork(), lambda: open("/dev/tty"), os.ttyname, os.get_terminal_size):
        try:
            ask(0) if ask is os.ttyname else ask()
            answers.append("succeeded")
        except OSError as error:
            answers.append(error.strerror)
    return [answers, os.isatty(0), time.monotonic() - start < 2]


def kernel():
    selector = selectors.DefaultSelector()
    reading, writing = os.pipe()
    selector.register(reading, selectors.EVENT_READ)
    os.write(writing, b"x")
    ready = [key.fd == reading for key, _ in selector.select(10)]
    descriptor = os.memfd_create("name")
    os.write(descriptor, b"in memory")
    event = os.eventfd(2)
    return [
        type(selector).__name__,
        ready,
        os.pread(descriptor, 100, 0).decode(),
        os.eventfd_read(event),
        len(os.urandom(16)),
        uuid.uuid4().version,
        len(uuid.uuid1().hex),
    ]


def proc():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
    return [
        int(status["Pid"]) == os.getpid(),
        os.readlink("/proc/self/exe") == os.path.realpath(sys.executable),
        open("/proc/self/comm").read().startswith("python"),
        len(open("/proc/cpuinfo").read()) > 0,
        int(open("/proc/meminfo").readline().split()[1]) > 0,
        len(open("/proc/loadavg").read().split()),
    ]


def handler(event):
    return {
        "children": children(),
        "signals": signals(),
        "limits": limits(),
        "cpus": cpus(),
        "users": users(),
        "zones": zones(),
        "locales": locales(),
        "c_libraries": c_libraries(),
        "terminal": terminal(),
        "kernel": kernel(),
        "proc": proc(),
    }
