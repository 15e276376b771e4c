"""What a run can leave behind, each by a name: in the interpreter, in its process, in its sandbox. Those that would end the
run at once are last and are asked for by name alone.
"""

import _thread
import atexit
import builtins
import codecs
import contextvars
import copyreg
import ctypes
import decimal
import encodings.aliases
import faulthandler
import fcntl
import gc
import io
import json
import locale
import logging
import mmap
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings

MARK = "poisoned"
GENTLE, LETHAL = {}, {}


def poison(group):
    """Keeps a function by its name."""

    def keep(function):
        group[function.__name__] = function
        return function

    return keep


class Poison:
    """What shows up where it should not."""

    def __del__(self):
        os.write(2, b"a finalizer of the poisoner\n")

    def find_spec(self, name, path=None, target=None):
        os.write(2, b"an import hook of the poisoner\n")

    def __call__(self, *arguments, **named):
        return self


def noisy(*arguments, **named):
    os.write(2, b"a hook of the poisoner\n")


@poison(GENTLE)
def names():
    sys.modules["__main__"].poisoned = 1
    sys.modules[MARK] = sys


@poison(GENTLE)
def builtin_functions():
    builtins.poisoned = Poison()
    builtins.print = builtins.input = builtins.hex = Poison()


@poison(GENTLE)
def json_module():
    json.dumps = json.loads = json.JSONEncoder.default = lambda *arguments, **named: MARK
    json._default_encoder = Poison()


@poison(GENTLE)
def os_module():
    os.urandom = lambda size: bytes(size)
    os.listdir_of_poison = os.listdir
    os.path.join_of_poison = noisy


@poison(GENTLE)
def random_module():
    random.seed(7)
    random.random = random.getrandbits = random._inst.random = lambda *arguments: 0.7
    random.Random.seed = noisy


@poison(GENTLE)
def library_modules():
    time.time = time.monotonic = lambda: 0
    re.compile = subprocess.Popen.wait = threading.Thread.run = tempfile.mkdtemp = Poison()
    tempfile.tempdir = "/dev/shm"


@poison(GENTLE)
def streams():
    sys.stdin = sys.__stdin__ = io.StringIO("input of the poisoner")
    sys.stdout = sys.stderr = io.StringIO()


@poison(GENTLE)
def hooks():
    sys.excepthook = sys.displayhook = sys.unraisablehook = sys.breakpointhook = noisy
    sys.set_asyncgen_hooks(firstiter=noisy, finalizer=noisy)
    sys.set_coroutine_origin_tracking_depth(3)
    sys.tracebacklimit = 0


@poison(GENTLE)
def audit_hook():
    sys.audit_of_poison = True
    sys.addaudithook(lambda name, arguments: noisy() if name == "socket.connect" else None)
    mmap.mmap(-1, 4096)[:1] = b"x"


@poison(GENTLE)
def tracing():
    threading.settrace(lambda *arguments: None)
    threading.setprofile(lambda *arguments: None)
    sys.setprofile(lambda *arguments: None)
    sys.settrace(lambda *arguments: None)


@poison(GENTLE)
def imports():
    sys.path.insert(0, "/tmp/of-the-poisoner")
    sys.meta_path.append(Poison())
    sys.path_hooks.insert(0, Poison())
    sys.path_importer_cache["/tmp/of-the-poisoner"] = Poison()


@poison(GENTLE)
def numbers():
    sys.setrecursionlimit(777)
    sys.setswitchinterval(0.7)
    sys.set_int_max_str_digits(7000)
    sys.argv.append(MARK)
    sys.warnoptions.append("ignore")
    sys.dont_write_bytecode = not sys.dont_write_bytecode


@poison(GENTLE)
def codec():
    utf8 = codecs.lookup("utf-8")
    codecs.register(lambda name: utf8 if name == MARK else None)
    codecs.register_error(MARK, noisy)
    encodings.aliases.aliases[MARK] = "utf_8"


@poison(GENTLE)
def warning():
    warnings.simplefilter("error")
    warnings.showwarning = noisy


@poison(GENTLE)
def log():
    logging.basicConfig(level=7, handlers=[logging.StreamHandler(), logging.NullHandler()])
    logging.getLogger(MARK)
    logging.addLevelName(35, MARK)
    logging.disable(50)


@poison(GENTLE)
def collector():
    gc.callbacks.append(noisy_of_phase)
    gc.set_threshold(7, 7, 7)
    gc.disable()
    cycle = Poison()
    cycle.itself = cycle


def noisy_of_phase(phase, details):
    pass


@poison(GENTLE)
def exit_function():
    atexit.register(len, "")


@poison(GENTLE)
def locales():
    locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL, None) != "C" else "C.UTF-8")


@poison(GENTLE)
def decimals():
    decimal.getcontext().prec = 3
    decimal.DefaultContext.prec = 3


@poison(GENTLE)
def environment():
    os.environ[MARK] = "yes"
    os.environ["PATH"] = "/tmp/of-the-poisoner"
    os.putenv("HOME", "/dev/shm")


@poison(GENTLE)
def mask():
    os.umask(0o077)


@poison(GENTLE)
def folder():
    os.chdir("/dev/shm")


@poison(GENTLE)
def signals():
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, noisy)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    faulthandler.enable(file=2)


@poison(GENTLE)
def timers():
    for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(number, 700, 700)


@poison(GENTLE)
def alarm():
    signal.alarm(700)


@poison(GENTLE)
def daemon():
    """It holds a name and a port for as long as it is there. Before there are threads and tracing, which a fork of CPython's
    may hang over."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            name, port = socket.socket(socket.AF_UNIX), socket.socket()
            name.bind(f"\0{MARK}")
            name.listen()
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(("127.0.0.1", 7007))
            port.listen()
            ctypes.CDLL(None).prctl(15, MARK.encode(), 0, 0, 0)
            os.write(write, b"x")
            while True:
                signal.pause()
        os._exit(0)
    os.close(write)
    if os.read(read, 1) != b"x":
        raise RuntimeError("the daemon did not start")
    os.close(read)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # Its end is ignored by now.


@poison(GENTLE)
def settings():
    contextvars.ContextVar(MARK).set(1)
    copyreg.pickle(Poison, noisy)
    socket.setdefaulttimeout(7)
    threading.stack_size(1 << 20)
    threading.excepthook = noisy
    tracemalloc.start()


@poison(GENTLE)
def thread():
    _thread.start_new_thread(time.sleep, (700,))


@poison(GENTLE)
def descriptors():
    for number in (5, 77, 333, 901):
        os.dup2(os.open("/tmp", os.O_RDONLY), number, inheritable=True)
    os.memfd_create(MARK, 0)


@poison(GENTLE)
def shared_descriptors():
    """What is changed here is not the number's but what it leads to, which forks share."""
    for number in range(3):
        fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_NONBLOCK | os.O_APPEND)
        try:
            fcntl.fcntl(number, fcntl.F_SETOWN, os.getpid())
            os.lseek(number, 7, os.SEEK_SET)
        except OSError:
            pass


@poison(GENTLE)
def shared_mapping():
    sys.poisoned_map = mmap.mmap(-1, 1 << 16)


@poison(GENTLE)
def limits():
    for name in ("RLIMIT_CORE", "RLIMIT_STACK", "RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK", "RLIMIT_NPROC", "RLIMIT_NOFILE"):
        kind = getattr(resource, name)
        soft, hard = resource.getrlimit(kind)
        lower = hard - 1 if hard > 0 else 4 << 20
        try:
            resource.setrlimit(kind, (min(lower, soft) if soft > 0 else lower, lower))
        except ValueError:
            pass


@poison(GENTLE)
def scheduling():
    os.nice(5)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@poison(GENTLE)
def files():
    for place in ("/tmp", "/dev/shm"):
        os.makedirs(f"{place}/{MARK}/json", exist_ok=True)
        with open(f"{place}/.bashrc", "w") as file:
            file.write("echo of the poisoner\n")


@poison(GENTLE)
def workspace():
    for name in ("left.txt", "sitecustomize.py", "usercustomize.py", "encodings.py"):
        with open(f"/workspace/{name}", "w") as file:
            file.write("import os; os.write(2, b'a file of the poisoner\\n')\n")


@poison(GENTLE)
def system_v():
    libc = ctypes.CDLL(None)
    libc.shmget(0x7007, 4096, 0o1666)
    libc.semget(0x7007, 1, 0o1666)
    libc.msgget(0x7007, 0o1666)


@poison(GENTLE)
def of_the_process():
    """Its name, its timers' slack, that it inherits orphans, a signal at its parent's end."""
    for option, value in ((15, MARK.encode()), (29, 777), (36, 1), (1, 10)):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


@poison(GENTLE)
def types():
    gc.get_referents(str.__dict__)[0][MARK] = 1
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(str))


@poison(LETHAL)
def interned_string():
    ctypes.c_ssize_t.from_address(id("append") + 24).value ^= 0x7777


@poison(LETHAL)
def length():
    builtins.len = lambda value: 7
    builtins.open = builtins.int = Poison()


@poison(LETHAL)
def small_integer():
    ctypes.c_uint32.from_address(id(7) + 24).value = 8


@poison(LETHAL)
def all_descriptors():
    """Writes into each that there is, and shuts it down for whoever has it as well."""
    sys.poisoned_descriptors = True
    for number in list(range(3, 1024)):
        try:
            os.write(number, b"SBXR of the poisoner" * 20)
        except OSError:
            pass
        try:
            socket.socket(fileno=os.dup(number)).shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@poison(LETHAL)
def everybody():
    """A signal to each process that can be reached."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (1, os.getppid(), -1):
            try:
                if pid:
                    os.kill(pid, number)
            except OSError:
                pass


def spread(wanted):
    """Does what is asked for by name, or all of a group; says what it did, past whatever has been replaced by then."""
    groups = {"gentle": GENTLE, "lethal": LETHAL}
    chosen = [pair for name in wanted for pair in groups.get(name, {}).items()]
    chosen += [(name, {**GENTLE, **LETHAL}[name]) for name in wanted if name not in groups]
    done = []
    for name, function in chosen:
        if name == "everybody":
            os.write(1, b"all but one")
        function()
        done.append(name)
    return done


def handler(event):
    done = spread(event["poisons"])
    os.write(1, b" ".join(name.encode() for name in done))
