"""Starts once, imports what many programs import, and forks into standing sandboxes on order.

The protocol is the one of the sandbox crate's zygote module. Runs in the namespace of bootstrap.py, which knows what a fork
does once it is in its sandbox. The process has one thread. How a fork gets into its sandbox comes with the setup: a list of
system calls, and machine code that makes them; no code of this language runs in a fork before it has given up everything.
"""

import ctypes
import fcntl
import gc
import json
import mmap
import signal
import socket
import struct
import threading

# What only this program uses is for others to import as if nobody had.
for name in ("ctypes", "ctypes._endian", "_ctypes", "fcntl", "mmap"):
    sys.modules.pop(name, None)

CONTROL_FD, OWN_PIDS_FD, DOOR_FD = 3, 5, 5
FIRST_FREE_FD = 6
CLONE_NEWPID = 0x20000000
MOST_FDS = 64
ONE_THREAD = [f"{name}_NUM_THREADS" for name in ("BLIS", "MKL", "NUMEXPR", "OMP", "OPENBLAS")]
OWN_PID = os.getpid()

libc = ctypes.CDLL(None, use_errno=True)
# Kept for as long as their addresses are used.
BUFFERS = []


def address(data):
    """Where a copy of these bytes is, for good."""
    buffer = ctypes.create_string_buffer(bytes(data), len(data))
    BUFFERS.append(buffer)
    return ctypes.addressof(buffer)


def place_of_thread_id():
    """Where the C library keeps the number of this thread, which is another one in a child."""
    libc.pthread_self.restype = ctypes.c_void_p
    thread, number = libc.pthread_self(), threading.get_native_id().to_bytes(4, sys.byteorder)
    known = ctypes.string_at(thread, 2048)
    (offset,) = [at for at in range(0, len(known), 4) if known[at : at + 4] == number]
    return thread + offset


class Steps:
    """The list of system calls that makes a fork a program, and the machine code that carries it out.

    An entry is eight words: the call's number, its six arguments, and an errno that is no failure.
    """

    WORD, ENTRY, LAST, NO_ERRNO = 8, 64, -1, 0
    NOTHING = 39 if os.uname().machine == "x86_64" else 172  # getpid

    def __init__(self, steps, code):
        self.names = [step["name"] for step in steps]
        self.list = bytearray()
        self.patches = []
        for step in steps:
            at = len(self.list)
            words = [step["number"], *(self.argument(each, at, step, place) for place, each in enumerate(step["arguments"]))]
            words += [0] * (7 - len(words)) + [step.get("unless_errno") or self.NO_ERRNO]
            self.list += struct.pack("8q", *words)
        self.list += struct.pack("8q", self.LAST, *[0] * 7)
        self.place = ctypes.addressof(ctypes.c_char.from_buffer(self.list))
        self.code = mmap.mmap(-1, len(code), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
        self.code.write(bytes(code))
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.code))
        if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(len(code)), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        self.call = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(start)

    def argument(self, each, at, step, place):
        """A word that is the same for every order, or 0 and a note to put it there."""
        ((kind, value),) = each.items()
        if kind == "number":
            return value
        if kind == "bytes":
            return address(value)
        if kind == "filter":
            # struct sock_fprog, with the padding that the pointer needs.
            return address(struct.pack("H6xQ", len(value) // 8, address(value)))
        if value == "thread_id":
            return place_of_thread_id()
        self.patches.append((at, at + (1 + place) * self.WORD, value, step["number"], step["optional"]))
        return 0

    def carry_out(self, named):
        """Forks; gives the child's number, and in the child 0, or less for the step that failed."""
        put, data = struct.pack_into, self.list
        for at, word, name, number, optional in self.patches:
            value = named.get(name)
            if value is None and not optional:
                raise KeyError(name)
            put("q", data, at, self.NOTHING if value is None else number)
            put("q", data, word, value or 0)
        return self.call(self.place)

    def failed(self, result):
        """The step's name and errno."""
        index, errno = divmod(-result, 65536)
        return self.names[index], errno


def fork_into(data, received, steps, enters_pids):
    """Carries an order out; returns whether this is the fork, in its sandbox."""
    order = json.loads(data)
    named = dict(zip(order["fds"], received))
    door = named["door"]
    named["uid"], named["gid"] = order["uid"], order["gid"]
    limits = []
    for resource, value in order["rlimits"]:
        if value:
            limits.append(ctypes.create_string_buffer(struct.pack("QQ", value[0], value[0]), 16))
            named[resource] = ctypes.addressof(limits[-1])
    # The next child is in the sandbox's pid namespace; this process stays where it is.
    if enters_pids and libc.setns(named["pid"], CLONE_NEWPID) != 0:
        return False
    ctypes.pythonapi.PyOS_BeforeFork()
    result = steps.carry_out(named)
    if os.getpid() != OWN_PID:
        become_program(result, door, steps)
        return True
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if enters_pids and libc.setns(OWN_PIDS_FD, CLONE_NEWPID) != 0:
        os._exit(125)
    return False


def become_program(result, door, steps):
    """In a fork that is in its sandbox: lets the interpreter know. Does not return from one that failed on its way."""
    if result < 0:
        stage, errno = steps.failed(result)
        message = json.dumps({"Err": {"stage": stage, "index": None, "errno": errno}}).encode()
        for fd in (door, DOOR_FD):
            try:
                os.write(fd, message)
            except OSError:
                pass  # It is not there yet, or not any more.
        os._exit(125)
    ctypes.pythonapi.PyOS_AfterFork_Child()
    # The parent that it had has nothing left to do but to end.
    while os.getppid() != 1:
        os.sched_yield()
    # So far only the kernel knows.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    del sys.orig_argv[2:]
    renew()


def renew():
    """Makes anew in a fork what must not be the same in all of them. The interpreter itself does it for random (an at-fork hook)."""
    gc.enable()
    platform = sys.modules.get("platform")
    if platform is not None:
        # What the host is called.
        platform._uname_cache = None
        platform._platform_cache = {}
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    logging = sys.modules.get("logging")
    if logging is not None:
        import time

        logging._startTime = time.time_ns() if isinstance(logging._startTime, int) else time.time()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def rehearse():
    """Runs a program of the usual form a few times: what an interpreter does once, or only when it has seen it often, is then done
    before the fork. Nothing of it stays."""

    class Nowhere:
        def send(self, kind, payload):
            pass

    header = {"mode": "auto", "execution_id": "", "function_name": "handler", "deadline_ns": "0"}
    code = "def handler(event):\n    return {'message': f\"Hello, {event['name']}!\"}"
    kept = sys.modules["__main__"], sys.argv[:], sys.path[:]
    for _ in range(20):
        run(Nowhere(), parse_json(json.dumps(header)), code, '{"name": "A", "numbers": [1, 2.5]}')
    sys.modules["__main__"], sys.argv[:], sys.path[:] = kept


def serve(control, steps, enters_pids):
    """Forks on order until the service is gone; returns in each fork."""
    while True:
        data, received, _, _ = socket.recv_fds(control, 65536, MOST_FDS)
        if not data:
            os._exit(0)
        if fork_into(data, received, steps, enters_pids):
            # It is closed. Its number is the program's to use, and not for this object to close again.
            control.detach()
            return
        for fd in received:
            os.close(fd)


def zygote():
    """From the setup to the end; returns in each fork."""
    # What a fork puts its own descriptors over.
    control = socket.socket(fileno=fcntl.fcntl(CONTROL_FD, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD))
    os.close(CONTROL_FD)
    setup = json.loads(control.recv(65536))
    steps = Steps(setup["steps"], setup["code"])
    # No descriptor that comes with an order may have one of these numbers.
    while (null := os.open("/dev/null", os.O_RDWR)) < FIRST_FREE_FD:
        pass
    os.close(null)
    # A fork of a process has one of its threads: libraries of numbers must not start theirs before it.
    for name in ONE_THREAD:
        os.environ[name] = "1"
    lacks = import_ahead(setup["arguments"])
    for name in ONE_THREAD:
        del os.environ[name]
    rehearse()
    # The parents of those that enter a pid namespace: nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps({"lacks": lacks}).encode())
    serve(control, steps, setup["enters_pids"])


zygote()
# As deep in the stack as when nothing was started ahead.
channel, (header, code, event_text) = wait_for_request()
leave(code, run(channel, header, code, event_text))
