"""Starts once, imports what many programs import, and forks into standing sandboxes on order.

The protocol is the one of the sandbox crate's zygote.rs. Runs in the namespace of bootstrap.py, which knows what a fork does
once it is in its sandbox. The process has one thread, and its forks make system calls by number: what they call, and in
which order, comes with the setup.
"""

import ctypes
import fcntl
import gc
import json
import signal
import socket

# What only this program uses is for others to import as if nobody had.
for name in ("ctypes", "ctypes._endian", "_ctypes", "fcntl"):
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


def orphaned():
    """Goes on in a fork whose parent is gone: a child of the first process of the pid namespace that it is in."""
    # Otherwise, should the fork end before its parent is gone, the kernel would collect it here and its new parent never hear of it.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if os.fork():
        os._exit(0)


def become_program(order, fds, first, steps):
    """In a fork: goes through the door and waits for what to run; never returns."""
    named = {name: ctypes.c_long(fd) for name, fd in fds.items()}
    named["uid"], named["gid"] = ctypes.c_long(order["uid"]), ctypes.c_long(order["gid"])
    named["ruleset"] = None
    for resource, value in order["rlimits"]:
        named[resource] = ctypes.c_long(address(value[0].to_bytes(8, sys.byteorder) * 2)) if value else None
    door = socket.socket(fileno=fds["door"])
    try:
        if first:
            carry_out(first, named)
            orphaned()
        orphaned()
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


def serve(control, first, steps):
    """Forks on order until the service is gone."""
    new_pids = ctypes.c_long(CLONE_NEWPID)
    while True:
        data, received, _, _ = socket.recv_fds(control, 65536, MOST_FDS)
        if not data:
            os._exit(0)
        order = json.loads(data)
        fds = dict(zip(order["fds"], received))
        # The next child is in the sandbox's pid namespace; this process stays where it is.
        if first or libc.setns(fds["pid"], new_pids) == 0:
            if os.fork() == 0:
                control.close()
                become_program(order, fds, first, steps)
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(json.dumps({"lacks": lacks}).encode())
    serve(control, first, steps)


zygote()
