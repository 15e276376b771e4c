"""What a run finds: its interpreter, its process and its sandbox, as values that are the same in every run that finds them
untouched. Nothing is imported before the interpreter itself has been looked at.
"""

import os
import sys

MARK = "poisoned"


def named(value):
    """A value without its address."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    code = getattr(value, "__code__", None)
    place = f":{code.co_firstlineno}:{len(code.co_code)}" if code is not None else ""
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', None)}.{name}{place}"


def members(module):
    """What is called in a module, and where each comes from."""
    return {
        name: named(value)
        for name, value in sorted(vars(module).items())
        if callable(value) and not name.startswith("__")
    }


def stream(file):
    """A standard stream."""
    keys = ("name", "mode", "encoding", "errors", "line_buffering", "write_through", "closed")
    return [type(file).__qualname__] + [str(getattr(file, key, None)) for key in keys]


def interpreter():
    """What the interpreter itself holds."""
    import builtins
    import gc

    return {
        "names": sorted(name for name in vars(sys.modules["__main__"]) if MARK in name),
        "modules": sorted(sys.modules),
        "modules of main": sorted(name for name in sys.modules if MARK in name or "main" in name),
        "builtins": {name: named(value) for name, value in sorted(vars(builtins).items()) if name != "_"},
        "sys": members(sys),
        "path": list(sys.path),
        "meta_path": [named(finder) for finder in sys.meta_path],
        "path_hooks": [named(hook) for hook in sys.path_hooks],
        "path_importer_cache": sorted({type(finder).__qualname__ for finder in sys.path_importer_cache.values()}),
        "argv": [*sys.argv, *sys.orig_argv[:1]],
        "options": [sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, str(sys.flags)],
        "hooks": [
            sys.excepthook is sys.__excepthook__,
            sys.displayhook is sys.__displayhook__,
            sys.unraisablehook is sys.__unraisablehook__,
            sys.breakpointhook is sys.__breakpointhook__,
            named(sys.gettrace()),
            named(sys.getprofile()),
            [named(hook) for hook in sys.get_asyncgen_hooks()],
            sys.get_coroutine_origin_tracking_depth(),
            hasattr(sys, "tracebacklimit"),
        ],
        "numbers": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits()],
        "streams": [stream(file) for file in (sys.stdin, sys.stdout, sys.stderr)],
        "streams are the first": [
            sys.stdin is sys.__stdin__,
            sys.stdout is sys.__stdout__,
            sys.stderr is sys.__stderr__,
        ],
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), [named(callback) for callback in gc.callbacks]],
        "objects": sorted({type(item).__qualname__ for item in gc.get_objects() if "Poison" in type(item).__qualname__}),
        "types": [hasattr(kind, MARK) for kind in (str, int, dict, object, type(len), BaseException)],
        "classes": sorted(kind.__name__ for kind in object.__subclasses__() if "Poison" in kind.__name__),
        "arithmetic": [repr(sum([3, 4])), str(int("7") + 1), repr(7.0), hash(7), repr(bool(1)), repr(None), repr(())],
        "interned": [
            [].append.__name__,
            {"append": 1}.get("".join(["app", "end"])),
            hash("append") == hash("".join(["ap", "pend"])),
        ],
    }


def libraries():
    """What the standard library's modules hold, loaded now or before."""
    import atexit
    import codecs
    import contextvars
    import copyreg
    import decimal
    import encodings.aliases
    import faulthandler
    import io
    import json
    import locale
    import logging
    import random
    import re
    import signal
    import socket
    import subprocess
    import tempfile
    import threading
    import time
    import tracemalloc
    import warnings

    def looked_up(look, name):
        try:
            return named(look(name))
        except LookupError as error:
            return type(error).__name__

    modules = (os, os.path, io, json, json.encoder, json.decoder, random, time, re, codecs, threading, signal)
    modules += (subprocess, socket, tempfile, logging, warnings, decimal, locale)
    classes = (threading.Thread, json.JSONEncoder, logging.Handler, random.Random, subprocess.Popen)
    context = decimal.getcontext()
    return {
        "functions": {module.__name__: members(module) for module in modules},
        "methods": {kind.__qualname__: members(kind) for kind in classes},
        "in json": [json.dumps({"a": [1, None]}), json.loads("[1.5]"), named(json._default_encoder)],
        "codecs": [looked_up(codecs.lookup, MARK), looked_up(codecs.lookup_error, MARK), named(codecs.lookup("utf-8"))],
        "aliases": sorted(name for name in encodings.aliases.aliases if MARK in name),
        "warnings": [[str(entry) for entry in warnings.filters], named(warnings.showwarning)],
        "logging": [
            [named(handler) for handler in logging.root.handlers],
            logging.root.level,
            logging.root.disabled,
            logging.root.manager.disable,
            sorted(logging.root.manager.loggerDict),
            named(logging.getLoggerClass()),
            logging.getLevelName(35),
        ],
        "exit functions": atexit._ncallbacks(),
        "locale": locale.setlocale(locale.LC_ALL, None),
        "decimal": [str(context), str(decimal.DefaultContext)],
        "threads": [threading.active_count(), threading.stack_size(), named(threading.excepthook)],
        "thread hooks": [named(threading.gettrace()), named(threading.getprofile())],
        "socket": socket.getdefaulttimeout(),
        "copyreg": sorted(named(kind) for kind in copyreg.dispatch_table),
        "context": len(contextvars.copy_context()),
        "tracing": [faulthandler.is_enabled(), tracemalloc.is_tracing(), signal.set_wakeup_fd(-1)],
        "handlers": [named(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "timers": [signal.getitimer(number)[0] for number in (0, 1, 2)] + [signal.alarm(0)],
        "time zone": [time.tzname, time.timezone],
        "folder of temporary files": tempfile.gettempdir(),
    }


def read(path):
    """A file's text; nothing where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        return type(error).__name__


def descriptors():
    """Each open one: what it leads to, its flags, whom it signals, its place."""
    import fcntl
    import re
    import stat

    found = {}
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            target = re.sub(r"\d+\]|^/memfd:.*|\d{3,}", "", os.readlink(f"/proc/self/fd/{number}"))
            flags, kept = fcntl.fcntl(number, fcntl.F_GETFL), fcntl.fcntl(number, fcntl.F_GETFD)
            owner, mode = fcntl.fcntl(number, fcntl.F_GETOWN), os.fstat(number).st_mode
            place = os.lseek(number, 0, os.SEEK_CUR) if stat.S_ISREG(mode) else None
            if number == 0:  # Empty input may be a pipe at its end or no file at all.
                target, flags, place = "", flags & (os.O_NONBLOCK | os.O_APPEND), None
            found[str(number)] = [target, oct(flags), kept, owner, place]
        except OSError:
            pass  # That of the listing itself.
    return found


def process():
    """What the kernel holds for this process."""
    import ctypes
    import resource

    shown = ("Name Umask State Uid Gid Groups Kthread Threads SigQ SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff"
             " CapBnd CapAmb NoNewPrivs Seccomp Speculation_Store_Bypass Cpus_allowed CoreDumping THP_enabled"
             " TracerPid").split()  # fmt: skip
    lines = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines())
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
    libc, number = ctypes.CDLL(None), ctypes.c_int(0)
    options = {}
    for name, option in (("signal at the parent's end", 2), ("inherits orphans", 37)):
        libc.prctl(option, ctypes.byref(number), 0, 0, 0)
        options[name] = number.value
    for name, option in (("dumpable", 3), ("keeps capabilities", 7), ("secure bits", 27), ("slack", 30), ("pages", 42)):
        options[name] = libc.prctl(option, 0, 0, 0, 0)
    maps = read("/proc/self/maps").splitlines()
    umask = os.umask(0o22)
    os.umask(umask)
    stats = [read(f"/proc/{pid}/stat").partition("(")[2] for pid in os.listdir("/proc") if pid.isdigit()]
    alive = [stat.rpartition(")")[0] for stat in stats if stat.rpartition(")")[2].split()[:1] not in ([], ["Z"])]
    names = ("oom_score_adj", "coredump_filter", "personality", "comm", "loginuid", "setgroups")
    return {
        "status": {name: " ".join(lines.get(name, "").split()) for name in shown},
        "options": options,
        "rlimits": limits,
        "umask": umask,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "session": [os.getpid() == os.getpgid(0), os.getpid() == os.getsid(0), os.getppid()],
        "scheduling": [os.nice(0), sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0), os.getpriority(2, 0)],
        "files of proc": {name: read(f"/proc/self/{name}").strip() for name in names},
        "processes": sorted(alive),
        "tasks": len(os.listdir("/proc/self/task")),
        "descriptors": descriptors(),
        "shared memory": [line.split()[5:] for line in maps if line.split()[1][1:4:2] == "ws"],
    }


def sandbox():
    """What is in the sandbox beside the process."""
    import ctypes
    import errno
    import socket

    libc = ctypes.CDLL(None, use_errno=True)

    def system_v(get, *arguments):
        return "there" if get(0x7007, *arguments) >= 0 else errno.errorcode[ctypes.get_errno()]

    def connected(family, address):
        with socket.socket(family) as client:
            return errno.errorcode.get(client.connect_ex(address), "connected")

    mounts = [line.split(" - ") for line in read("/proc/self/mountinfo").splitlines()]
    return {
        "mounts": sorted([first.split()[4], first.split()[5], second.split()[0]] for first, second in mounts),
        "/": sorted(os.listdir("/")),
        "/tmp": sorted(os.listdir("/tmp")),
        "/dev/shm": sorted(os.listdir("/dev/shm")),
        "workspace": sorted(os.listdir("/workspace")),
        "sockets": [line.split()[-1] for line in read("/proc/net/unix").splitlines()[1:] if MARK in line],
        "ports": [len(read(f"/proc/net/{name}").splitlines()) for name in ("tcp", "tcp6", "udp", "udp6", "raw")],
        "abstract": connected(socket.AF_UNIX, f"\0{MARK}"),
        "port": connected(socket.AF_INET, ("127.0.0.1", 7007)),
        "System V": [system_v(libc.shmget, 0, 0), system_v(libc.semget, 0, 0), system_v(libc.msgget, 0)],
        "host": os.uname().nodename,
        "input": sys.stdin.read(),
    }


def fingerprint():
    """All of it, the interpreter first: the others import."""
    return {**interpreter(), **process(), **libraries(), **sandbox()}


def handler(event):
    return fingerprint()
