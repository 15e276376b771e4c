"""How an attack is written down and run.

The same text runs in a sandbox, as a handler, and as a control on the host itself, where the attack has to succeed:
a probe that fails everywhere shows nothing. Each attack runs in a forked child, so that one that is killed, or that
changes its own process, does not touch the next. A function that returns has reached what it was after; what kept it
away is the errno of its OSError, the signal it died of, or the word of its Denied.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

ATTACKS = []
# What the host has for the attacks to look for; in a control some of it is another thing of the same kind.
HOST = {}
X86 = platform.machine() == "x86_64"

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Denied(Exception):
    """Kept away by something that has no errno."""


SYS_RESOURCE = 24  # in capabilities(7)


def attack(number, name, denied, missing=(), control="tester", needs=None, scene="alone", known=None):
    """Registers a function as an attack.

    number   in the catalogue
    denied   what must keep it away, one word or several separated by blanks
    missing  answers of the control that mean that this host has no such thing
    control  who does the same on the host: "tester" whoever runs the tests, "root" only root,
             "namespaces" root of throwaway namespaces, so that the host is not touched
    needs    a capability that the control must have, and that root may lack where the tests run
    scene    "alone", or "neighbour" for one that looks for what another execution left
    known    why it is documented, not prevented, where it gets through
    """

    def register(function):
        entry = {"number": number, "name": name, "denied": denied.split(), "missing": list(missing), "known": known}
        ATTACKS.append({**entry, "control": control, "needs": needs, "scene": scene, "function": function})
        return function

    return register


SYSCALLS = {  # number on x86_64, on aarch64
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106),
    "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioctl": (16, 29), "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272),
    "kexec_load": (246, 104), "keyctl": (250, 219), "memfd_secret": (447, 447), "modify_ldt": (154, None),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pivot_root": (155, 41), "prctl": (157, 167), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218),
    "seccomp": (317, 277), "semget": (64, 190), "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170),
    "shmget": (29, 194), "swapon": (167, 224), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "mq_open": (240, 180), "mq_unlink": (241, 181), "msgctl": (71, 187), "semctl": (66, 191),
    "shmctl": (31, 195), "execveat": (322, 281), "get_robust_list": (274, 100), "inotify_add_watch": (254, 27),
    "inotify_init1": (294, 26), "io_destroy": (207, 1), "io_setup": (206, 0), "ioprio_set": (251, 30),
    "listmount": (458, 458), "prlimit64": (302, 261), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "pidfd_send_signal": (424, 424), "renameat2": (316, 276), "rt_sigqueueinfo": (129, 138),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "statmount": (457, 457), "timer_create": (222, 107),
}


def call(name, *arguments):
    """A system call past every library; OSError when it fails."""
    number = name if isinstance(name, int) else SYSCALLS[name][0 if X86 else 1]
    # The variadic arguments have to be 64 bits wide whatever they are.
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def reaches(name, *arguments):
    """A call whose arguments do nothing: that the kernel minds them shows that it would have acted on better ones."""
    try:
        return f"answered {call(name, *arguments)}"
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
        return f"reached the kernel: {errno.errorcode[error.errno]}"


NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)


def enter_throwaway_namespaces():
    """Root, of nothing but what ends with this process."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", NEWUSER | NEWNS | NEWUTS | NEWIPC | NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    call("mount", b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
    call("mount", b"tmpfs", HOST["mountpoint"].encode(), b"tmpfs", 0, None)


def status():
    """What the kernel says of this process."""
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def attempt(entry, is_control):
    """Runs one attack in a child and tells what came of it."""
    if is_control and entry["control"] == "root" and os.getuid() != 0:
        return {"reached": False, "detail": "needs-root"}
    if is_control and entry["needs"] is not None and not int(status()["CapEff"], 16) >> entry["needs"] & 1:
        return {"reached": False, "detail": "needs-root"}
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(15)
            try:
                if is_control and entry["control"] == "namespaces":
                    enter_throwaway_namespaces()
                outcome = {"reached": True, "detail": str(entry["function"]())[:200]}
            except OSError as error:
                outcome = {"reached": False, "detail": errno.errorcode.get(error.errno, str(error))}
            except Denied as word:
                outcome = {"reached": False, "detail": str(word)}
            except BaseException as error:
                outcome = {"reached": False, "detail": f"the probe is broken: {error!r}"}
            os.write(write, json.dumps(outcome).encode())
        finally:
            os._exit(0)
    os.close(write)
    text = b""
    while chunk := os.read(read, 65536):
        text += chunk
    os.close(read)
    _, ended = os.waitpid(pid, 0)
    if os.WIFSIGNALED(ended):
        return {"reached": False, "detail": signal.Signals(os.WTERMSIG(ended)).name}
    return json.loads(text)


def handler(event):
    HOST.update(event["host"])
    HOST["descriptors"] = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            HOST["descriptors"][int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass  # the one that the list was read by
    if event["scene"] == "resident":
        return reside()
    is_control = event.get("control", False)
    rows = []
    for entry in ATTACKS:
        if entry["scene"] == event["scene"]:
            shown = {key: entry[key] for key in ("number", "name", "denied", "missing", "known")}
            rows.append({**shown, **attempt(entry, is_control)})
    return rows
