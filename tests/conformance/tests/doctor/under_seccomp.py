"""Runs a program under a system call filter, as a container engine does, or on a disk that is slow.

    under_seccomp.py refuse-namespaces PROGRAM…   what makes namespaces and mounts fails with EPERM, as Docker's filter has it
    under_seccomp.py refuse-clone3 PROGRAM…       clone3(2) is not there (ENOSYS), as Docker's filter has it
    under_seccomp.py refuse-entering PROGRAM…     setns(2) fails with EPERM
    under_seccomp.py refuse-accounting PROGRAM…   acct(2) does, which nobody needs: a filter that is in nobody's way
    under_seccomp.py fsync-takes MS PROGRAM…      every fsync(2) takes so much longer

The filter is inherited by everything that the program starts. Needs root, as it does not set no_new_privs.
"""

import ctypes
import fcntl
import os
import platform
import select
import struct
import sys
import time

NUMBERS = {
    "x86_64": {"acct": 163, "clone": 56, "clone3": 435, "fsync": 74, "mount": 165, "pivot_root": 155, "seccomp": 317,
               "setns": 308, "umount2": 166, "unshare": 272},
    "aarch64": {"acct": 89, "clone": 220, "clone3": 435, "fsync": 82, "mount": 40, "pivot_root": 41, "seccomp": 277,
                "setns": 268, "umount2": 39, "unshare": 97},
}[platform.machine()]
NAMESPACE_FLAGS = 0x7E020000
ALLOW, ERRNO, USER_NOTIF = 0x7FFF0000, 0x00050000, 0x7FC00000
EPERM, ENOSYS = 1, 38
# linux/bpf_common.h: load a word of seccomp_data, jump if equal, jump if a bit is set, return.
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06

libc = ctypes.CDLL(None, use_errno=True)


def program(*steps):
    """A struct sock_fprog, and what has to be kept alive for it."""
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(code, len(code))
    return ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept)), 16), kept


def returning(value, *names):
    """Load the number; for each of the names return the value. Falls through."""
    steps = [(LOAD, 0, 0, 0)]
    for name in names:
        steps += [(EQUAL, 0, 1, NUMBERS[name]), (RETURN, 0, 0, value)]
    return steps


def install(steps, flags=0):
    filter_, kept = program(*steps, (RETURN, 0, 0, ALLOW))
    result = libc.syscall(NUMBERS["seccomp"], 1, flags, ctypes.byref(filter_))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    del kept
    return result


def refuse_namespaces():
    steps = returning(ERRNO | EPERM, "unshare", "setns", "mount", "umount2", "pivot_root")
    steps += returning(ERRNO | ENOSYS, "clone3")
    # clone with one of the flags of a namespace; the flags are its first argument, low word at 16.
    steps += [(LOAD, 0, 0, 0), (EQUAL, 0, 3, NUMBERS["clone"]), (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, NAMESPACE_FLAGS),
              (RETURN, 0, 0, ERRNO | EPERM)]
    install(steps)


def fsync_takes(seconds, command):
    """The child's calls wait for this process to let them go on (seccomp_unotify(2))."""
    (told, tell), (gone_on, go_on) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, struct.pack("i", install(returning(USER_NOTIF, "fsync"), flags=8)))
        os.read(gone_on, 1)  # The listener has to be taken before it is closed with the next line.
        os.execvp(command[0], command)
    number = struct.unpack("i", os.read(told, 4))[0]
    process = libc.syscall(434, child, 0)
    listener = libc.syscall(438, process, number, 0)
    if process < 0 or listener < 0:
        raise OSError(ctypes.get_errno(), "pidfd")
    os.write(go_on, b"x")
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(listener, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if process in ready:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        call = bytearray(80)
        try:
            fcntl.ioctl(listener, 0xC0502100, call)
            time.sleep(seconds)
            fcntl.ioctl(listener, 0xC0182101, bytearray(call[:8] + struct.pack("=qiI", 0, 0, 1)))
        except (FileNotFoundError, InterruptedError):
            pass  # The caller was killed meanwhile.


if __name__ == "__main__":
    what, command = sys.argv[1], sys.argv[2:]
    if what == "fsync-takes":
        fsync_takes(int(command[0]) / 1000, command[1:])
    elif what == "refuse-namespaces":
        refuse_namespaces()
    elif what == "refuse-clone3":
        install(returning(ERRNO | ENOSYS, "clone3"))
    elif what == "refuse-entering":
        install(returning(ERRNO | EPERM, "setns"))
    elif what == "refuse-accounting":
        install(returning(ERRNO | EPERM, "acct"))
    else:
        sys.exit(__doc__)
    os.execvp(command[0], command)
