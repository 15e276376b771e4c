"""Starts once, imports what many programs import, and forks into standing sandboxes on order.

The protocol is the one of the sandbox crate's zygote module. Runs in the namespace of bootstrap.py, which knows what a fork
does once it is in its sandbox. How a fork gets into its sandbox comes with the setup: a list of system calls, and machine code that
makes them; no code of this language runs in a fork before it has given up everything.

It is two processes of one thread each. One reads orders. The other, a copy of it with the same descriptors, does nothing but fork
(Mold): each page that a process writes to after a fork is copied for it, and to read an order is to write to many.
"""

# Filled with what modules want done around a fork, from here on. What was loaded before has done so already.
HOOKS, HOOKED_BEFORE = [], {"logging", "random", "threading"} & set(sys.modules)
register_at_fork = os.register_at_fork


def remember_at_fork(**functions):
    """Stands for os.register_at_fork while modules are imported ahead: a program that forks has them called by the interpreter."""
    HOOKS.append((sys._getframe(1).f_globals.get("__name__"), functions))
    return register_at_fork(**functions)


os.register_at_fork = remember_at_fork

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

CONTROL_FD, DOOR_FD = 3, 5
FIRST_FREE_FD = 6
MOST_FDS = 64
# Modules whose hooks are not called: they put in order what other threads had begun, and here is one; or it is done faster (renewals).
NOT_HOOKED = {"concurrent.futures.thread", "logging", "random", "threading"}
ONE_THREAD = [f"{name}_NUM_THREADS" for name in ("BLIS", "MKL", "NUMEXPR", "OMP", "OPENBLAS")]

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

    An entry is eight words: the call's number, its six arguments, and an errno that is no failure. Behind the last there is room for a
    struct rlimit of each resource, by its number.
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
        self.limits = len(self.list)
        numbers = {value for _, _, value, _, _ in self.patches if isinstance(value, int)}
        self.list += bytes(16 * (1 + max(numbers, default=0)))
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

    def limit(self, resource, value):
        """Puts both limits of a resource down; gives their address."""
        place = self.limits + 16 * resource
        struct.pack_into("QQ", self.list, place, value, value)
        return self.place + place

    def fill_in(self, named):
        """Completes the list with what an order names."""
        put, data = struct.pack_into, self.list
        for at, word, name, number, optional in self.patches:
            value = named.get(name)
            if value is None and not optional:
                raise KeyError(name)
            put("q", data, at, self.NOTHING if value is None else number)
            put("q", data, word, value or 0)

    def carry_out(self):
        """Forks; gives the child's number, and in the child 0; or in either less than that, for the step that failed."""
        return self.call(self.place)

    def failed(self, result):
        """What the init is told of the step that failed."""
        index, errno = divmod(-result, 65536)
        return json.dumps({"Err": {"stage": self.names[index], "index": None, "errno": errno}}).encode()


class Descriptors:
    """Which are open, asked of the kernel in one call: poll(2) says POLLNVAL of those that are not. A sandbox has no higher ones."""

    MOST, STANDARD, POLLNVAL = 1024, 3, 0x20

    def __init__(self):
        asked = [fd for fd in range(self.STANDARD, self.MOST) if fd != HIGH_FD]
        self.count = len(asked)
        self.closed = b"".join(struct.pack("ihh", fd, 0, self.POLLNVAL) for fd in asked)
        self.list = bytearray(self.closed)
        self.place = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self.list)))
        self.poll = ctypes.PyDLL(None).poll

    def only_ours_are_open(self):
        """As the function of this name, without the folder in /proc, which takes the kernel longer than to run a small program."""
        return self.poll(self.place, ctypes.c_ulong(self.count), 0) == self.count and self.list == self.closed


class Hooks:
    """What is done around a fork for modules that were imported ahead.

    The fork is a copy of a process with one thread that holds no lock, so there is nothing to be put in order in the interpreter,
    and nothing is: it takes longer than all the rest. Where another thread was started, or a hook is not known, the interpreter's
    own way is taken.
    """

    def __init__(self):
        hooks = [functions for module, functions in HOOKS if module not in NOT_HOOKED]
        self.before = [each["before"] for each in reversed(hooks) if "before" in each]
        self.after_in_parent = [each["after_in_parent"] for each in hooks if "after_in_parent" in each]
        self.after_in_child = [each["after_in_child"] for each in hooks if "after_in_child" in each]
        if HOOKED_BEFORE or threading.active_count() > 1:
            self.before = [ctypes.pythonapi.PyOS_BeforeFork]
            self.after_in_parent = [ctypes.pythonapi.PyOS_AfterFork_Parent]
            self.after_in_child = [ctypes.pythonapi.PyOS_AfterFork_Child]
        self.after_in_child += renewals()


def renewals():
    """What makes anew in a fork what must not be the same in all of them, where no hook does it."""
    thread, modules = threading.main_thread(), sys.modules
    found = [gc.enable]
    if hasattr(thread, "_set_native_id"):
        found.append(thread._set_native_id)
    if random := modules.get("random"):
        from functools import partial
        from _random import Random

        found.append(partial(Random.seed, random._inst))
    if numpy_random := modules.get("numpy.random"):
        found.append(numpy_random.seed)
    if logging := modules.get("logging"):
        from time import time, time_ns

        now = time_ns if isinstance(logging._startTime, int) else time
        found.append(lambda: setattr(logging, "_startTime", now()))
    if process := modules.get("multiprocessing.process"):
        found.append(lambda: setattr(process.current_process(), "authkey", os.urandom(32)))
    return found


class Mold:
    """The process that forks, as the one that reads orders sees it. Either ends with the other."""

    # Of clone(2) and prctl(2).
    CLONE_FILES, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x400, 0x200000, 0x1000000
    PR_SET_PDEATHSIG, WORD = 1, struct.Struct("q")

    def __init__(self, steps, hooks):
        self.steps, self.hooks = steps, hooks
        (self.order, self.give_order), (self.answer, self.give_answer) = os.pipe(), os.pipe()

    def start(self):
        """Makes it; returns whether this is a fork of it, in its sandbox."""
        parent, flags = os.getpid(), self.CLONE_FILES | self.CLONE_CHILD_CLEARTID | self.CLONE_CHILD_SETTID
        clone = 56 if os.uname().machine == "x86_64" else 220
        words = [clone, flags | signal.SIGKILL, 0, 0, place_of_thread_id(), 0]
        for hook in self.hooks.before:
            hook()
        # The signal that its end sends to its parent: nobody else would tell that no fork comes any more.
        child = ctypes.PyDLL(None, use_errno=True).syscall(*map(ctypes.c_long, words))
        if child < 0:
            raise OSError(ctypes.get_errno(), "clone")
        if child > 0:
            for hook in self.hooks.after_in_parent:
                hook()
            return False
        for hook in self.hooks.after_in_child:
            hook()
        libc.prctl(self.PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(0)
        self.work()
        return True

    def work(self):
        """Forks on order; returns in each fork, in its sandbox."""
        own_pid, into, door = os.getpid(), self.steps.list, bytearray(self.WORD.size)
        before, after = self.hooks.before, self.hooks.after_in_parent
        while True:
            if os.readv(self.order, [into, door]) != len(into) + len(door):
                os._exit(1)  # Never by half a list.
            for hook in before:
                hook()
            result = self.steps.carry_out()
            if result == 0:
                return become_program(self.hooks)
            if result < 0 and os.getpid() != own_pid:
                tell_failure(self.steps.failed(result), *self.WORD.unpack(door))
                os._exit(125)
            for hook in after:
                hook()
            os.write(self.give_answer, self.WORD.pack(result))

    def fork(self, door):
        """Has it carry the list out as it is now; gives what that gave."""
        os.writev(self.give_order, [self.steps.list, self.WORD.pack(door)])
        return self.WORD.unpack(os.read(self.answer, self.WORD.size))[0]


def fork_into(data, received, mold):
    """Carries an order out."""
    order, steps = json.loads(data), mold.steps
    named = dict(zip(order["fds"], received))
    door = named["door"]
    named["uid"], named["gid"] = order["uid"], order["gid"]
    for resource, value in order["rlimits"]:
        if value:
            named[resource] = steps.limit(resource, value[0])
    steps.fill_in(named)
    result = mold.fork(door)
    if result < 0:
        tell_failure(steps.failed(result), door)


def tell_failure(message, door):
    """To the init, by the door: that is at its own number or already at that of the program."""
    for fd in (door, DOOR_FD):
        try:
            os.write(fd, message)
        except OSError:
            pass  # It is not there yet, or not any more.


def become_program(hooks):
    """In a fork that is in its sandbox: lets the interpreter and the modules know."""
    for hook in hooks.after_in_child:
        hook()
    # The parent that it had has nothing left to do but to end.
    while os.getppid() != 1:
        os.sched_yield()


def fill_holes():
    """Takes the free places between the objects that are there, so that those that a fork makes are side by side: each page that it
    writes to is copied for it. They are in pools of objects of one size (Objects/obmalloc.c); where they are not, little is taken."""
    pool_bytes, header_bytes, most_bytes = 16384 if sys.version_info >= (3, 10) else 4096, 64, 131072
    for size in range(16, 513, 16):
        places, filled, held = (pool_bytes - header_bytes) // size, {}, []
        while len(held) < most_bytes // size:
            held.append(bytes(max(size - 40, 0)))
            pool = id(held[-1]) // pool_bytes
            filled[pool] = filled.get(pool, 0) + 1
            if filled[pool] >= places:
                break  # All of it: there was no older one left.
        BUFFERS.append(held)


def rehearse():
    """Runs a program of the usual form a few times: what an interpreter does once, or only when it has seen it often, is then done
    before the fork. Nothing of it stays."""

    class Nowhere:
        def send(self, kind, payload):
            pass

    header = {"mode": "auto", "execution_id": "", "function_name": "handler", "deadline_ns": "0"}
    code = "def handler(event):\n    return {'message': f\"Hello, {event['name']}!\"}"
    os.getppid()
    kept = sys.modules["__main__"], sys.argv[:], sys.path[:]
    for _ in range(20):
        run(Nowhere(), parse_json(json.dumps(header)), code, '{"name": "A", "numbers": [1, 2.5]}')
    sys.modules["__main__"], sys.argv[:], sys.path[:] = kept


def receive(control):
    """A packet and the descriptors beside it: as socket.recv_fds, which Python has since 3.9."""
    word = struct.calcsize("i")
    data, beside, _, _ = control.recvmsg(65536, socket.CMSG_LEN(MOST_FDS * word))
    return data, [fd for _, _, content in beside for (fd,) in struct.iter_unpack("i", content[: len(content) // word * word])]


def serve(control, mold):
    """Orders forks until the service is gone."""
    while True:
        data, received = receive(control)
        if not data:
            os._exit(0)
        fork_into(data, received, mold)
        for fd in received:
            os.close(fd)


def make_ready(control):
    """From the setup to the first order; gives what to fork with."""
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
    os.register_at_fork = register_at_fork
    hooks = Hooks()
    rehearse()
    if platform := sys.modules.get("platform"):
        platform._uname_cache, platform._platform_cache = None, {}  # What the host is called.
    del getattr(sys, "orig_argv", [])[2:]  # Python 3.10 and newer.
    # The parents of those that enter a pid namespace: nobody waits for them. The interpreter does not know, nor does a fork have it.
    libc.signal(signal.SIGCHLD, ctypes.c_void_p(int(signal.SIG_IGN)))
    return steps, hooks, lacks


def zygote():
    """From the start to the end; returns in each fork."""
    # What a fork puts its own descriptors over.
    control = socket.socket(fileno=fcntl.fcntl(CONTROL_FD, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD))
    os.close(CONTROL_FD)
    steps, hooks, lacks = make_ready(control)
    mold, close_control = Mold(steps, hooks), super(socket.socket, control).detach
    # For good: what a fork lets go of takes it time.
    BUFFERS.append(mold)
    global only_ours_are_open
    only_ours_are_open = Descriptors().only_ours_are_open
    gc.collect()
    fill_holes()
    gc.freeze()
    gc.disable()
    if mold.start():
        # It is closed. Its number is the program's to use, and not for this object to close again.
        close_control()
        return
    control.send(json.dumps({"lacks": lacks}).encode())
    serve(control, mold)


zygote()
# As deep in the stack as when nothing was started ahead.
channel, (header, code, event_text) = wait_for_request()
leave(code, run(channel, header, code, event_text))
