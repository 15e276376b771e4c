# Files: the host's, the kernel's, and ways around mounts.


def read_some(path):
    with open(path, "rb") as file:
        return f"{len(file.read(16))} bytes read"


@attack(1, "read the host's password hashes", "ENOENT", control="root")
def _():
    return read_some("/etc/shadow")


@attack(2, "read a file of the host", "ENOENT")
def _():
    return read_some(HOST["canary"])


@attack(2, "list the service's state", "ENOENT")
def _():
    return os.listdir(HOST["state"])


@attack(2, "list the root of all workspaces", "ENOENT")
def _():
    return os.listdir(HOST["workspaces"])


def beyond(found, expected):
    """Whether there is more than expected."""
    more = sorted(set(found) - set(expected), key=str)
    if not more:
        raise Denied("nothing-else")
    return more


@attack(2, "see more of the host than /usr", "nothing-else")
def _():
    ours = ["usr", "bin", "lib", "lib32", "lib64", "libx32", "sbin", "etc", "dev", "proc", "run", "tmp", "workspace"]
    return beyond(os.listdir("/"), ours)


@attack(2, "see more of /etc than software needs", "nothing-else")
def _():
    ours = ["alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "localtime", "mime.types",
            "nsswitch.conf", "passwd", "pki", "ssl"]
    return beyond(os.listdir("/etc"), ours)


def write_into(folder):
    try:
        # A file without a name: where it works, nothing is left behind.
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY)
    except OSError:
        if HOST["control"]:
            raise
    return os.open(f"{folder}/{HOST['marker']}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


for folder in ("/", "/usr", "/usr/bin", "/etc", "/dev"):
    attack(3, f"make a file in {folder}", "EROFS EACCES", control="root", missing=["EOPNOTSUPP"])(
        lambda folder=folder: write_into(folder)
    )

for path in ("/usr/lib/os-release", "/etc/hosts"):
    attack(3, f"open {path} for writing", "EROFS EACCES", control="root", missing=["ENOENT"])(
        lambda path=path: os.open(path, os.O_WRONLY)
    )


@attack(4, "walk up from the working directory", "ENOENT")
def _():
    return read_some("../" * 40 + HOST["canary"].lstrip("/"))


@attack(5, "chroot", "EPERM", control="namespaces")
def _():
    return call("chroot", b".")


@attack(5, "pivot_root", "EPERM", control="namespaces")
def _():
    return reaches("pivot_root", b"/nowhere", b"/nowhere")


@attack(6, "walk up from a descriptor that was left open", "nowhere")
def _():
    for number in range(2048):
        try:
            file = os.open("../" * 40 + HOST["canary"].lstrip("/"), os.O_RDONLY, dir_fd=number)
            return f"by descriptor {number}: {os.read(file, 16)}"
        except OSError:
            pass
    raise Denied("nowhere")


@attack(7, "walk up from /proc/self/cwd", "ENOENT")
def _():
    return read_some("/proc/self/cwd/" + "../" * 40 + HOST["canary"].lstrip("/"))


for name in ("root", "cwd"):
    attack(7, f"walk through the {name} of process 1", "EACCES ENOENT", control="root")(
        lambda name=name: os.listdir(f"/proc/{HOST['victim']}/{name}/")
    )


@attack(8, "mount a tmpfs", "EPERM", control="namespaces")
def _():
    return call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)


@attack(8, "bind mount", "EPERM", control="namespaces")
def _():
    return call("mount", b"/usr", b"/tmp", None, 0x1000, None)


@attack(8, "remount writable", "EPERM", control="namespaces")
def _():
    place = HOST["mountpoint"] if HOST["control"] else "/usr"
    return call("mount", None, place.encode(), None, 0x20 | 0x1000, None)


@attack(8, "mount a second /proc", "EPERM")
def _():
    if HOST["control"]:
        # With a pid namespace of its own, which the child of a child is in.
        enter_throwaway_namespaces()
        call("unshare", NEWPID)
        pid = os.fork()
        if pid == 0:
            try:
                call("mount", b"proc", HOST["mountpoint"].encode(), b"proc", 0, None)
                os._exit(0)
            except OSError as error:
                os._exit(error.errno)
        failed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if failed:
            raise OSError(failed, "mount")
        return "mounted"
    return call("mount", b"proc", b"/tmp", b"proc", 0, None)


for name, arguments in (
    ("fsopen", (b"tmpfs", 0)),
    ("fsconfig", (-1, 0, 0, 0, 0)),
    ("fsmount", (-1, 0, 0)),
    ("fspick", (-100, b"/", 0)),
    ("open_tree", (-100, b"/", 0)),
    ("move_mount", (-1, b"", -1, b"", 0)),
    ("mount_setattr", (-1, b"", 0, 0, 0)),
):
    attack(9, name, "ENOSYS", control="namespaces")(
        lambda name=name, arguments=arguments: reaches(name, *arguments)
    )


@attack(10, "unmount whatever hides something", "EPERM", control="namespaces")
def _():
    with open("/proc/self/mountinfo") as file:
        places = [line.split()[4] for line in file]
    failure = None
    for place in reversed(places):
        try:
            call("umount2", place.encode(), 2)  # MNT_DETACH
            return f"{place} is gone"
        except OSError as error:
            failure = error
    raise failure


for kind, number in (("character", stat.S_IFCHR), ("block", stat.S_IFBLK)):
    def make(number=number):
        path = f"{HOST['scratch']}/{HOST['marker']}-node"
        os.mknod(path, number | 0o600, os.makedev(1, 3))
        os.unlink(path)
        return "made"
    attack(11, f"make a {kind} device", "EPERM", control="root")(make)


@attack(11, "find a mount that lets devices work", "nothing-else")
def _():
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    # The five that programs need; a mask is one of them over a file.
    devices = [os.stat(f"/dev/{name}").st_rdev for name in ("full", "null", "random", "urandom", "zero")]
    places = [row[4] for row in rows if "nodev" not in row[5].split(",")]
    return beyond(filter(lambda place: os.stat(place).st_rdev not in devices, places), [])


@attack(12, "find a mount that lets setuid work", "nothing-else")
def _():
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return beyond([row[4] for row in rows if "nosuid" not in row[5].split(",")], [])


@attack(13, "open a file by handle", "EPERM", control="root")
def _():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    try:
        call("name_to_handle_at", -100, HOST["scratch"].encode(), handle, ctypes.byref(mount), 0)
    except OSError:
        # The guess of Shocker: inode 2 is the root of most file systems.
        handle = ctypes.create_string_buffer(struct.pack("IiQ", 8, 1, 2), 8 + 128)
    folder = os.open(HOST["scratch"], os.O_RDONLY)
    return call("open_by_handle_at", folder, handle, os.O_RDONLY)


@attack(13, "make a handle for a file", "EPERM")
def _():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    return call("name_to_handle_at", -100, HOST["scratch"].encode(), handle, ctypes.byref(mount), 0)


@attack(14, "hold the executable of process 1", "EACCES ENOENT", control="root")
def _():
    return os.open(f"/proc/{HOST['victim']}/exe", os.O_PATH)


@attack(14, "open the interpreter for writing", "EROFS EACCES", control="root", missing=["ETXTBSY"])
def _():
    return os.open(os.path.realpath("/usr/lib/os-release" if HOST["control"] else sys.executable), os.O_WRONLY)


# Opened and closed, never written.
for path in (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward",
):
    attack(15, f"open {path} for writing", "EROFS EACCES ENOENT", control="root", missing=["ENOENT"])(
        lambda path=path: os.open(path, os.O_WRONLY)
    )

# Whoever is root of a user namespace may write the namespace's own.
attack(15, "open /proc/sys/user/max_user_namespaces for writing", "EROFS EACCES", control="namespaces")(
    lambda: os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY)
)

attack(16, "open /proc/sysrq-trigger for writing", "EROFS EACCES ENOENT", control="root", missing=["ENOENT"])(
    lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY)
)


def look_at(path):
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    state = os.fstat(file)
    if stat.S_ISCHR(state.st_mode) and state.st_rdev == os.makedev(1, 3):
        raise Denied("masked")
    if stat.S_ISDIR(state.st_mode) and not os.listdir(file):
        raise Denied("masked")
    return "opened"


for path in (
    "acpi", "config.gz", "interrupts", "kallsyms", "kcore", "key-users", "keys", "kmsg", "latency_stats", "modules",
    "sched_debug", "scsi", "timer_list", "vmallocinfo",
):
    attack(17, f"look at /proc/{path}", "EACCES ENOENT masked", control="root", missing=["ENOENT", "masked"])(
        lambda path=path: look_at(f"/proc/{path}")
    )

for path in ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg"):
    attack(17, f"open {path}", "ENOENT", control="root", missing=["ENOENT"])(lambda path=path: look_at(path))

attack(18, "list /sys", "ENOENT")(lambda: os.listdir("/sys"))

for path in ("/sys/kernel/uevent_helper", "/sys/power/state"):
    attack(18, f"open {path} for writing", "ENOENT", control="root", missing=["ENOENT", "EACCES"])(
        lambda path=path: os.open(path, os.O_WRONLY)
    )


def find_cgroup_file(name):
    for folder in ("/sys/fs/cgroup", *(f"/sys/fs/cgroup/{each}" for each in HOST["cgroups"])):
        if HOST["control"] and not os.path.exists(f"{folder}/{name}"):
            continue
        return os.open(f"{folder}/{name}", os.O_WRONLY)
    raise FileNotFoundError(errno.ENOENT, name)


attack(18, "open a cgroup's release_agent for writing", "ENOENT", control="root", missing=["ENOENT"])(
    lambda: find_cgroup_file("release_agent")
)
attack(42, "open the host's cgroup.procs for writing", "ENOENT", control="root", missing=["ENOENT"])(
    lambda: find_cgroup_file("cgroup.procs")
)


@attack(42, "see a cgroup of the host, if only by name", "nothing-else")
def _():
    with open("/proc/self/cgroup") as file:
        paths = [line.strip().split(":", 2)[2] for line in file]
    # Its own group, below the root of its own cgroup namespace or (version 2) beside it, bears a random name; of the host's
    # there is nothing.
    paths = [path for path in paths if not re.fullmatch(r"(/\.\.)?/[0-9a-f]{16}", path)]
    return beyond(["/", *paths, *(os.listdir("/sys/fs/cgroup") if os.path.exists("/sys/fs/cgroup") else [])], ["/"])


for path in ("/run", "/var/run", "/var/lib", "/run/secrets", "/home", "/root"):
    attack(19, f"find something in {path}", "ENOENT nothing-else", control="root", missing=["ENOENT", "nothing-else"])(
        # The bootstrap of the runtime is ours.
        lambda path=path: beyond(os.listdir(path), ["bootstrap.pyc"])
    )


@attack(20, "mount an overlay", "EPERM", control="namespaces", missing=["ENODEV"])
def _():
    place = HOST["mountpoint"] if HOST["control"] else "/tmp"
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{place}/{name}")
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    return call("mount", b"overlay", f"{place}/merged".encode(), b"overlay", 0, options.encode())


attack(20, "open /dev/fuse", "ENOENT", control="root", missing=["ENOENT", "ENODEV"])(
    lambda: os.open("/dev/fuse", os.O_RDWR)
)


@attack(21, "link to a file of the system", "EXDEV EPERM EACCES", control="root", missing=["EXDEV"])
def _():
    name = f"{HOST['scratch']}/{HOST['marker']}-link"
    os.link("/usr/lib/os-release", name, follow_symlinks=True)
    os.unlink(name)
    return "linked"


@attack(22, "execute from /dev/shm", "EACCES", missing=["EACCES"])
def _():
    path = f"/dev/shm/{HOST['marker']}"
    with open("/usr/bin/true", "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    os.chmod(path, 0o755)
    try:
        return f"exit code {subprocess.run([path]).returncode}"
    finally:
        os.unlink(path)


@attack(22, "find memory to write to beyond the limit", "nothing-else")
def _():
    def room(path):
        state = os.statvfs(path)
        return state.f_blocks * state.f_frsize > HOST["memory_bytes"]
    folders = [path for path in ("/tmp", "/dev/shm", "/run", "/dev", "/") if os.access(path, os.W_OK)]
    return beyond(filter(room, folders), [])


@attack(35, "open a terminal", "ENOENT", missing=["ENOENT"])
def _():
    return f"mode {os.stat('/dev/tty').st_mode:o}"


@attack(35, "make a terminal", "ENOENT", missing=["ENOENT"])
def _():
    return os.openpty()


@attack(35, "find another device", "nothing-else")
def _():
    ours = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]
    return beyond(os.listdir("/dev"), ours)
