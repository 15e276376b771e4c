# What the catalogue does not name: newer calls, and older ones used sideways.

NS_GET_USERNS, NS_GET_PARENT, NS_MNT_GET_NEXT = 0xB701, 0xB702, 2 << 30 | 16 << 16 | 0xB70B


# Linux 6.11 gives a process's namespaces to whoever holds its pidfd and may trace it.
for number, name in enumerate(("cgroup", "ipc", "mnt", "net", "pid", None, "time", None, "user", "uts"), start=1):
    if name:
        attack(137, f"take the {name} namespace of process 1 by its pidfd", "EACCES EPERM ESRCH", missing=["ENOTTY"])(
            lambda number=number: fcntl.ioctl(call("pidfd_open", HOST["victim"], 0), 0xFF00 | number, 0)
        )

attack(138, "take the user namespace above one's own", "EPERM", missing=["EPERM"])(
    lambda: fcntl.ioctl(os.open("/proc/self/ns/user", os.O_RDONLY), NS_GET_PARENT)
)
attack(138, "take the pid namespace above one's own", "EPERM", missing=["EPERM"])(
    lambda: fcntl.ioctl(os.open("/proc/self/ns/pid", os.O_RDONLY), NS_GET_PARENT)
)
attack(138, "take the user namespace that owns the network", "EPERM", missing=["EPERM"])(
    lambda: fcntl.ioctl(os.open("/proc/self/ns/net", os.O_RDONLY), NS_GET_USERNS)
)


@attack(139, "go on to the next mount namespace", "EPERM", control="root", missing=["ENOTTY", "ENOENT", "EPERM"])
def _():
    return fcntl.ioctl(os.open("/proc/self/ns/mnt", os.O_RDONLY), NS_MNT_GET_NEXT, bytearray(16))


for name in ("statmount", "listmount"):
    attack(139, name, "ENOSYS", missing=["ENOSYS"])(lambda name=name: reaches(name, 0, 0, 0, 0))


# Landlock keeps signals in since Linux 6.12. Before that they arrive, and the kernel itself keeps those from the first
# process of a pid namespace that it has no handler for (pid_namespaces(7)); that none ends or stops it is number 32's.
LANDLOCK_ABI = libc.syscall(444, None, ctypes.c_size_t(0), 1)
SIGNALS_ARRIVE = None if LANDLOCK_ABI >= 6 else f"Landlock of ABI {LANDLOCK_ABI} knows no signals, that comes with 6"


def number_to_send():
    # Nobody ends of SIGCHLD: the canary is to live.
    return signal.SIGCHLD if HOST["control"] else signal.SIGRTMIN + 6


attack(140, "send process 1 a real-time signal", "EPERM", known=SIGNALS_ARRIVE)(lambda: os.kill(HOST["victim"], number_to_send()))
attack(140, "send process 1 a signal by its pidfd", "EPERM", known=SIGNALS_ARRIVE)(
    lambda: call("pidfd_send_signal", call("pidfd_open", HOST["victim"], 0), number_to_send(), 0, 0)
)


@attack(140, "tell process 1 that a child of it ended", "EPERM", known=SIGNALS_ARRIVE)
def _():
    forged = ctypes.create_string_buffer(struct.pack("5i", signal.SIGCHLD, 0, -1, 0, os.getpid()), 128)
    return call("rt_sigqueueinfo", HOST["victim"], signal.SIGCHLD, forged)


for name, number in (("CPU time", 0), ("open files", 7), ("size of a file", 1)):
    # Asked for, not set.
    attack(141, f"get at the limit of process 1 on {name}", "EPERM")(
        lambda number=number: call("prlimit64", HOST["victim"], number, None, zeros(16))
    )


NOBODY = 0x3FFFFFFF  # as a process group and as a user


def to_process_1(act):
    """On the host to a child, which is slowed down instead."""
    if not HOST["control"]:
        return act(HOST["victim"])
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    try:
        return act(child)
    finally:
        os.kill(child, signal.SIGKILL)


IDLE = struct.pack("2IQiI3Q", 48, os.SCHED_IDLE, 0, 0, 0, 0, 0, 0)

for name, act in (
    ("slow process 1 down", lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19)),
    ("bind process 1 to one core", lambda pid: os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})),
    ("make process 1 idle", lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))),
    ("make process 1 idle by its attributes", lambda pid: call("sched_setattr", pid, ctypes.create_string_buffer(IDLE, 48), 0)),
    ("set the parameters of process 1", lambda pid: os.sched_setparam(pid, os.sched_param(0))),
    ("have process 1 read and write after everybody", lambda pid: call("ioprio_set", 1, pid, 3 << 13)),
):
    attack(141, name, "EPERM")(lambda act=act: to_process_1(act))

# On the host nobody is meant.
for name, number in (("setpriority", 1), ("ioprio_set", 2)):
    attack(141, f"slow the group of process 1 down ({name})", "EPERM")(
        lambda name=name, number=number: reaches(name, number, NOBODY if HOST["control"] else 1, 0)
    )
    attack(141, f"slow down all of one's user ({name})", "EPERM")(
        lambda name=name, number=number: reaches(name, number + 1, NOBODY if HOST["control"] else 0, 0)
    )


for name, mask in (("opens", 0x20), ("reads", 1), ("closes", 0x10)):
    attack(142, f"be told who {name} a command", "EPERM", missing=["EMFILE"])(
        lambda mask=mask: call("inotify_add_watch", call("inotify_init1", 0), b"/usr/bin", mask)
    )


@attack(142, "be told by signal that something is read", "EPERM", missing=["EINVAL"])
def _():
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(os.open("/usr/bin", os.O_RDONLY), 1026, 1)  # F_NOTIFY, DN_ACCESS
    return "told"


attack(142, "lease a file that is everybody's", "EACCES", control="root", missing=["EAGAIN"])(
    lambda: fcntl.fcntl(os.open("/usr/lib/os-release", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
)


@attack(143, "take the kernel's AIO, which is one for all", "ENOSYS", missing=["ENOSYS", "EAGAIN"])
def _():
    context = ctypes.c_ulong()
    call("io_setup", 1, ctypes.byref(context))
    call("io_destroy", context.value)
    return "given"


@attack(144, "leave a device node by renaming", "EINVAL", missing=["EINVAL"])
def _():
    old, new = (f"{HOST['scratch']}/{HOST['marker']}-{word}" for word in ("old", "new"))
    open(old, "w").close()
    try:
        call("renameat2", -100, old.encode(), -100, new.encode(), 4)  # RENAME_WHITEOUT
        return f"mode {os.stat(old).st_mode:o}"
    finally:
        os.unlink(old)
        if os.path.exists(new):
            os.unlink(new)


def load_into_socket(option):
    allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        udp.setsockopt(socket.SOL_SOCKET, option, program)
    return "loaded"


attack(145, "load a filter into a socket", "EPERM")(lambda: load_into_socket(26))
attack(145, "load a chooser into a socket", "EPERM")(lambda: load_into_socket(51))


def set_option(family, kind, level, option, value):
    with socket.socket(family, kind) as one:
        try:
            one.setsockopt(level, option, value)
        except OSError as error:
            # A program that is no descriptor, a protocol that is not compiled in: the kernel has looked.
            if error.errno not in (errno.EBADF, errno.ENOENT, errno.EINVAL, errno.ENOTCONN):
                raise
    return "taken"


STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
attack(145, "load a bpf program into a socket", "EPERM")(
    lambda: set_option(socket.AF_INET, DATAGRAM, socket.SOL_SOCKET, 50, -1)
)
attack(145, "put a protocol on top of TCP", "ENOPROTOOPT")(
    lambda: set_option(socket.AF_INET, STREAM, socket.IPPROTO_TCP, 31, b"tls")
)
attack(145, "put IPsec into UDP", "ENOPROTOOPT", missing=["ENOPROTOOPT"])(
    lambda: set_option(socket.AF_INET, DATAGRAM, socket.IPPROTO_UDP, 100, 2)
)
attack(146, "replace the rules of the firewall", "EPERM", control="root", missing=["ENOPROTOOPT", "EPERM"])(
    lambda: set_option(socket.AF_INET, STREAM, 0, 64, bytes(16))
)
attack(146, "repair a TCP connection", "EPERM", control="root", missing=["EPERM", "ENOPROTOOPT"])(
    lambda: set_option(socket.AF_INET, STREAM, socket.IPPROTO_TCP, 19, 1)
)
attack(146, "mark packets", "EPERM", control="root", missing=["EPERM"])(
    lambda: set_option(socket.AF_INET, STREAM, socket.SOL_SOCKET, 36, 1)
)
attack(146, "ping by a socket that needs no rights", "EACCES", missing=["EACCES"])(
    lambda: socket.socket(socket.AF_INET, DATAGRAM, socket.IPPROTO_ICMP).close()
)

for name in ("uid_map", "gid_map", "projid_map", "setgroups", "timens_offsets"):
    attack(147, f"open /proc/self/{name} for writing", "EROFS EACCES EPERM ENOENT", missing=["ENOENT", "EACCES"])(
        lambda name=name: os.open(f"/proc/self/{name}", os.O_WRONLY)
    )

for name in ("oom_score_adj", "comm", "clear_refs", "coredump_filter", "timerslack_ns", "attr/current"):
    attack(148, f"open {name} of process 1 for writing", "EROFS EACCES ENOENT", missing=["ENOENT"])(
        lambda name=name: os.open(f"/proc/{HOST['victim']}/{name}", os.O_WRONLY)
    )


@attack(149, "lose the filter by a program in memory", "still-filtered", missing=["still-filtered"])
def _():
    program = os.memfd_create("cat", 0)
    with open("/usr/bin/cat", "rb") as file:
        os.write(program, file.read())
    answer = subprocess.run([f"/proc/self/fd/{program}", "/proc/self/status"], pass_fds=[program], capture_output=True)
    text = answer.stdout.decode()
    if "NoNewPrivs:\t1" in text and "Seccomp:\t2" in text:
        raise Denied("still-filtered")
    return text[:100] or answer.stderr


@attack(
    150, "execute from /dev/shm by the dynamic loader", "refused", missing=["refused"],
    known="Landlock bars execve there, not mapping; the workspace may be executed from anyway",
)
def _():
    loader = next((path for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(path)))
    path = f"/dev/shm/{HOST['marker']}-ld"
    with open("/usr/bin/true", "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    try:
        if subprocess.run([loader, path], stderr=subprocess.DEVNULL).returncode:
            raise Denied("refused")
        return "executed"
    finally:
        os.unlink(path)


for place in ("/tmp", "/workspace", "/proc", "/usr"):
    def move(place=place):
        if HOST["control"]:
            # Any folder that nothing is mounted on.
            place = f"{HOST['mountpoint']}/folder"
            os.mkdir(place)
        os.rename(place, place + "-moved")
        return "moved"
    attack(151, f"move {place} away", "EBUSY EROFS EACCES EXDEV", control="namespaces")(move)


@attack(152, "write through a handle that was opened for nothing", "EROFS EACCES", control="root")
def _():
    return os.open(f"/proc/self/fd/{os.open('/usr/lib/os-release', os.O_PATH)}", os.O_WRONLY)


@attack(152, "climb out through a child's root", "own-root", missing=["own-root"])
def _():
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    try:
        found = os.stat(f"/proc/{child}/root/../..")
        if os.path.samestat(found, os.stat("/")):
            raise Denied("own-root")
        return f"inode {found.st_ino}"
    finally:
        os.kill(child, signal.SIGKILL)


@attack(153, "clone into a new time namespace by the exit signal", "same", control="namespaces")
def _():
    if HOST["control"]:
        call("unshare", 0x80)
        own = "/proc/self/ns/time_for_children"
    else:
        own = "/proc/self/ns/time"
    read, write = os.pipe()
    pid = call("clone", 0x80, 0, 0, 0, 0)
    if pid == 0:
        os.write(write, os.readlink("/proc/self/ns/time").encode())
        os._exit(0)
    found = os.read(read, 100).decode()
    if not HOST["control"] and found == os.readlink(own):
        raise Denied("same")
    return found


def advise():
    vector = ctypes.create_string_buffer(struct.pack("2Q", 0x10000, 4096))
    try:
        call("process_madvise", call("pidfd_open", HOST["victim"], 0), vector, 1, 20, 0)  # MADV_COLD
    except OSError as error:
        if error.errno != errno.ENOMEM:  # nothing is there: it has looked
            raise
    return "looked"


def refused(function):
    """Where not the filter but a check of rights says no, by whatever number."""
    try:
        return function()
    except OSError as error:
        raise Denied("refused") if error.errno in (errno.EPERM, errno.EACCES, errno.ESRCH) else error


attack(154, "advise on the memory of process 1", "refused", control="root")(lambda: refused(advise))
attack(154, "find the locks of process 1", "refused")(
    lambda: refused(lambda: call("get_robust_list", HOST["victim"], zeros(8), zeros(8)))
)

attack(155, "set a label of the kernel's on a file", "EPERM", control="root", missing=["EOPNOTSUPP"])(
    lambda: os.setxattr(HOST["scratch"], "trusted.canary", b"x")
)


@attack(155, "make a file that nobody can remove", "EPERM", control="root", missing=["ENOTTY", "EOPNOTSUPP"])
def _():
    path = f"{HOST['scratch']}/{HOST['marker']}-immutable"
    file = os.open(path, os.O_CREAT | os.O_RDONLY)
    flags = fcntl.ioctl(file, 0x80086601, bytes(8))
    try:
        fcntl.ioctl(file, 0x40086602, (int.from_bytes(flags, "little") | 0x10).to_bytes(8, "little"))
        fcntl.ioctl(file, 0x40086602, flags)
        return "made, and made removable again"
    finally:
        os.unlink(path)


@attack(156, "run before everybody (SCHED_DEADLINE)", "EPERM", control="root", missing=["EINVAL", "EBUSY"])
def _():
    attributes = struct.pack("2IQiI3Q", 48, 6, 0, 0, 0, 1_000_000, 10_000_000, 10_000_000)
    call("sched_setattr", 0, ctypes.create_string_buffer(attributes, 48), 0)
    return "granted"


attack(156, "read and write before everybody", "EPERM", control="root")(
    lambda: call("ioprio_set", 1, 0, 1 << 13 | 4)  # IOPRIO_CLASS_RT
)
attack(156, "keep a core for oneself (PR_SCHED_CORE)", "EPERM", missing=["EINVAL", "ENODEV"])(
    lambda: reaches("prctl", 62, 99, 0, 0, 0)
)


@attack(157, "hold five thousand timers", "EAGAIN", missing=["EAGAIN"])
def _():
    for _ in range(5000):
        call("timer_create", 1, None, zeros(8))
    return "held"


@attack(157, "start a program with eight megabytes of arguments", "E2BIG", missing=["E2BIG"])
def _():
    return subprocess.run(["/usr/bin/true"] + ["x" * 100_000] * 80).returncode


@attack(85, "lock a megabyte into memory", "EPERM ENOMEM EAGAIN", control="root", missing=["ENOMEM"])
def _():
    memory = mmap.mmap(-1, 1 << 20)
    if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), ctypes.c_size_t(1 << 20)):
        raise OSError(ctypes.get_errno(), "mlock")
    return "locked"


attack(85, "take huge pages", "ENOMEM EPERM EACCES", missing=["ENOMEM"])(
    lambda: len(mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000))
)

# The roots of pidfs and nsfs, which newer kernels open handles below (Linux 6.18).
for name, root in (("a process", -10002), ("a namespace", -10003)):
    attack(158, f"open {name} by its handle", "EPERM", missing=["EPERM"])(
        lambda root=root: reaches("open_by_handle_at", root, zeros(64), 0)
    )


@attack(160, "learn where the workspace lies on the host", "absent", known="its path is in mountinfo; it opens nothing")
def _():
    with open("/proc/self/mountinfo") as file:
        if HOST["control"] or HOST["workspaces"] in file.read():
            return "its path"
    raise Denied("absent")


for folder in ("/usr/lib/python3/dist-packages", "/usr/lib/python3", "/usr/share", "/run", "/etc"):
    attack(101, f"leave something for the next run in {folder}", "EROFS EACCES", control="root", missing=["ENOENT", "EOPNOTSUPP"])(
        lambda folder=folder: write_into(folder)
    )
