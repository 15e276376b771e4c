"""Starts once, imports what many programs import, and forks into standing sandboxes on order.

The protocol is the one of the sandbox crate's zygote.rs. Runs in the namespace of bootstrap.py, which knows what a fork does
once it is in its sandbox. The process has one thread, and its forks make system calls by number: what they call, and in
which order, comes with the setup.
"""

import ctypes
import fcntl
import functools
import gc
import json
import mmap
import signal
import socket
import threading

# What only this program uses is for others to import as if nobody had.
for name in ("ctypes", "ctypes._endian", "_ctypes", "fcntl", "mmap"):
    sys.modules.pop(name, None)

CONTROL_FD, SOURCE_FD, OWN_PIDS_FD, DOOR_FD = 3, 4, 5, 5
FIRST_FREE_FD = 6
CLONE_NEWPID = 0x20000000
MOST_FDS = 64

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Kept for as long as their addresses are used.
BUFFERS = []


class Failed(Exception):
    """A step that failed, by its name and errno."""


def address(data):
    """Where these bytes are, for good."""
    buffer = ctypes.create_string_buffer(bytes(data), len(data))
    BUFFERS.append(buffer)
    return ctypes.addressof(buffer)


def prepared(steps):
    """The steps with what is the same for every order made ready."""
    return [
        (step["name"], ctypes.c_long(step["number"]), [argument(each) for each in step["arguments"]], step.get("unless_errno"))
        for step in steps
    ]


def argument(each):
    """A number for the call, or the name of one, or a resource that is to be limited."""
    ((kind, value),) = each.items()
    if kind == "number":
        return ctypes.c_long(value)
    if kind == "bytes":
        return ctypes.c_long(address(value))
    if kind == "filter":
        program = address(value)
        # struct sock_fprog, with the padding that the pointer needs.
        return ctypes.c_long(address((len(value) // 8).to_bytes(8, sys.byteorder) + program.to_bytes(8, sys.byteorder)))
    return value


def carry_out(steps, named):
    """Makes the calls; raises at the first that fails."""
    syscall = libc.syscall
    for name, number, arguments, unless_errno in steps:
        values = [each if each.__class__ is ctypes.c_long else named[each] for each in arguments]
        if None in values:
            continue  # There is no such limit, or no Landlock.
        if syscall(number, *values) == -1 and ctypes.get_errno() != unless_errno:
            raise Failed(name, ctypes.get_errno())


class Fork:
    """fork(2) without the interpreter's and the C library's work around it, most of which a process does not need whose only task
    is to fork once more and to end. For a process of one thread."""

    SIGCHLD, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = signal.SIGCHLD, 0x200000, 0x1000000

    def __init__(self):
        number, thread_id_last = {"x86_64": (56, False), "aarch64": (220, True)}[os.uname().machine]
        here = self.place_of_thread_id()
        flags = self.SIGCHLD | self.CLONE_CHILD_CLEARTID | self.CLONE_CHILD_SETTID
        tail = (0, here) if thread_id_last else (here, 0)
        self.call = functools.partial(libc.syscall, *map(ctypes.c_long, (number, flags, 0, 0, *tail)))

    @staticmethod
    def place_of_thread_id():
        """Where the C library keeps the number of this thread, which is another one in a child."""
        libc.pthread_self.restype = ctypes.c_void_p
        thread, number = libc.pthread_self(), threading.get_native_id().to_bytes(4, sys.byteorder)
        known = ctypes.string_at(thread, 2048)
        (offset,) = [at for at in range(0, len(known), 4) if known[at : at + 4] == number]
        return thread + offset

    def __call__(self):
        return self.call()


def orphaned(fork):
    """Goes on in a fork whose parent is gone: a child of the first process of the pid namespace that it is in."""
    if fork():
        libc._exit(0)


def become_program(order, fds, fork, first, steps):
    """In a fork: goes through the door and waits for what to run; never returns."""
    # Not ignored any more: should a fork end before its parent is gone, the kernel would collect it here and its new parent never
    # hear of it.
    libc.signal(signal.SIGCHLD, 0)
    if not first:
        orphaned(fork)
        ctypes.pythonapi.PyOS_AfterFork_Child()
    named = {name: ctypes.c_long(fd) for name, fd in fds.items()}
    named["uid"], named["gid"] = ctypes.c_long(order["uid"]), ctypes.c_long(order["gid"])
    named["ruleset"] = None
    for resource, value in order["rlimits"]:
        named[resource] = ctypes.c_long(address(value[0].to_bytes(8, sys.byteorder) * 2)) if value else None
    door = socket.socket(fileno=fds["door"])
    try:
        if first:
            carry_out(first, named)
            orphaned(fork)
            orphaned(fork)
            ctypes.pythonapi.PyOS_AfterFork_Child()
        try:
            _, rules, _, _ = socket.recv_fds(door, 64, 1)
            if rules:
                named["ruleset"] = ctypes.c_long(rules[0])
            for name, fd in fds.items():
                if name.startswith("entrance"):
                    os.write(fd, b"0")
        except OSError as error:
            raise Failed("cgroup", error.errno) from None
        carry_out(steps, named)
    except Failed as error:
        stage, errno = error.args
        os.write(door.fileno(), json.dumps({"Err": {"stage": stage, "index": None, "errno": errno}}).encode())
        os._exit(125)
    door.detach()
    os.write(DOOR_FD, b'{"Ok":null}')
    os.close(DOOR_FD)
    # So far only the kernel knows.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    del sys.orig_argv[2:]
    renew()
    wait_and_run()


def renew():
    """Makes anew in a fork what must not be the same in all of them. The interpreter itself does it for random (an at-fork hook)."""
    gc.enable()
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


class Segments:
    """What is mapped from files and never written to: programs and libraries.

    After a fork each page of it costs a fault, since the kernel leaves these tables to be filled again, unless something in the
    same mapping was written once (vma_needs_copy of mm/memory.c). So one byte of each is written, as what it is, and all
    pages are made present: forks then have them from the start.
    """

    PAGE = mmap.PAGESIZE
    PT_LOAD, PF_W = 1, 2
    PROT_READ, PROT_WRITE, PROT_EXEC, MADV_POPULATE_READ = 1, 2, 4, 22

    class Object(ctypes.Structure):
        """struct dl_phdr_info (dl_iterate_phdr(3)), as far as it is needed."""

        _fields_ = [
            ("address", ctypes.c_size_t),
            ("name", ctypes.c_char_p),
            ("headers", ctypes.c_void_p),
            ("count", ctypes.c_uint16),
        ]

    def __init__(self):
        self.found = []
        visit = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(self.Object), ctypes.c_size_t, ctypes.c_void_p)
        libc.dl_iterate_phdr(visit(self.visit), None)

    def visit(self, each, size, data):
        """Notes the segments of one object that are not writable."""
        each = each.contents
        for number in range(each.count):
            # struct Elf64_Phdr (elf(5)).
            header = ctypes.string_at(each.headers + number * 56, 56)
            kind, flags = (int.from_bytes(header[at : at + 4], sys.byteorder) for at in (0, 4))
            start, length = (int.from_bytes(header[at : at + 8], sys.byteorder) for at in (16, 40))
            if kind == self.PT_LOAD and not flags & self.PF_W and each.name != b"linux-vdso.so.1":
                first = (each.address + start) // self.PAGE * self.PAGE
                self.found.append((first, each.address + start + length - first, flags & 1))
        return 0

    def hand_on(self):
        """Makes forks have them from the start. Where that is not possible it stays as it was."""
        for first, length, is_code in self.found:
            start, size = ctypes.c_void_p(first), ctypes.c_size_t(length)
            protection = self.PROT_READ | (self.PROT_EXEC if is_code else 0)
            if libc.mprotect(start, size, protection | self.PROT_WRITE) == 0:
                ctypes.memmove(first, first, 1)
                libc.mprotect(start, size, protection)
                libc.madvise(start, size, self.MADV_POPULATE_READ)


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


def serve(control, fork, first, steps):
    """Forks on order until the service is gone."""
    new_pids = ctypes.c_long(CLONE_NEWPID)
    before, after = ctypes.pythonapi.PyOS_BeforeFork, ctypes.pythonapi.PyOS_AfterFork_Parent
    while True:
        data, received, _, _ = socket.recv_fds(control, 65536, MOST_FDS)
        if not data:
            os._exit(0)
        order = json.loads(data)
        fds = dict(zip(order["fds"], received))
        # The next child is in the sandbox's pid namespace; this process stays where it is.
        if first or libc.setns(fds["pid"], new_pids) == 0:
            before()
            if fork() == 0:
                become_program(order, fds, fork, first, steps)
            after()
            if not first and libc.setns(OWN_PIDS_FD, new_pids) != 0:
                os._exit(125)
        for fd in received:
            os.close(fd)


def zygote():
    """From the setup to the end."""
    # What a fork puts its own descriptors over.
    control = socket.socket(fileno=fcntl.fcntl(CONTROL_FD, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD))
    os.close(CONTROL_FD)
    setup = json.loads(control.recv(65536))
    first, steps = prepared(setup["first"]), prepared(setup["steps"])
    # No descriptor that comes with an order may have one of these numbers.
    while (null := os.open("/dev/null", os.O_RDWR)) < FIRST_FREE_FD:
        pass
    os.close(null)
    lacks = import_ahead(setup["arguments"])
    rehearse()
    Segments().hand_on()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps({"lacks": lacks}).encode())
    serve(control, Fork(), first, steps)


zygote()
