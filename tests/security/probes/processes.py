# Processes: the host's, the sandbox's own first one, privileges and namespaces.


for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    def look(name=name):
        if int(status()[name], 16) == 0:
            raise Denied("none")
        return status()[name]
    # Hardly anybody has the inheritable and the ambient ones.
    rare = ["none"] if name in ("CapInh", "CapAmb", "CapPrm", "CapEff") else []
    attack(23, f"have a capability in {name}", "none", missing=rare)(look)


@attack(23, "gain privileges by execve", "no-new-privs", missing=["no-new-privs"])
def _():
    if status()["NoNewPrivs"].strip() == "1":
        raise Denied("no-new-privs")
    return "possible"


@attack(23, "be without a filter", "filtered", missing=["filtered"])
def _():
    if status()["Seccomp"].strip() == "2":
        raise Denied("filtered")
    return "unfiltered"


@attack(24, "be root, or in a group of the host", "sandboxed", missing=["sandboxed"])
def _():
    ids = {*os.getresuid(), *os.getresgid(), *os.getgroups()}
    if ids == {1000}:
        raise Denied("sandboxed")
    return sorted(ids)


@attack(24, "become another user", "EPERM EINVAL", control="root")
def _():
    os.setresuid(12345, 12345, 12345)
    return os.getuid()


@attack(24, "have more than one user id to map to", "one-id")
def _():
    with open("/proc/self/uid_map") as file:
        lines = [list(map(int, line.split())) for line in file]
    if len(lines) == 1 and lines[0][0] == 1000 and lines[0][2] == 1:
        raise Denied("one-id")
    return lines


NAMESPACES = {"user": NEWUSER, "mnt": NEWNS, "pid": NEWPID, "net": NEWNET, "ipc": NEWIPC, "uts": NEWUTS, "cgroup": NEWCGROUP}

for name, flag in NAMESPACES.items():
    attack(25, f"unshare the {name} namespace", "EPERM", control="tester" if name == "user" else "namespaces")(
        lambda flag=flag: call("unshare", flag)
    )


@attack(25, "unshare the time namespace", "EPERM", control="namespaces")
def _():
    return call("unshare", 0x80)


def clone(flags):
    pid = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"exit code {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


for name, flag in NAMESPACES.items():
    attack(26, f"clone into a new {name} namespace", "EPERM", control="tester" if name == "user" else "namespaces")(
        lambda flag=flag: clone(flag)
    )


@attack(26, "clone3, whose flags no filter sees", "ENOSYS")
def _():
    arguments = ctypes.create_string_buffer(struct.pack("8Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
    pid = call("clone3", arguments, 64)
    if pid == 0:
        os._exit(0)
    return f"exit code {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


@attack(27, "setns", "EPERM", control="root")
def _():
    return call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)


for name in NAMESPACES:
    attack(27, f"open the {name} namespace of process 1", "EACCES ENOENT", control="root")(
        lambda name=name: os.open(f"/proc/{HOST['victim']}/ns/{name}", os.O_RDONLY)
    )


def scan(name, needle):
    """Processes with this in that file of theirs."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if needle.encode() in file.read(1 << 20):
                    found.append(int(pid))
        except OSError:
            pass
    if not found:
        raise Denied("absent")
    return found


@attack(28, "see a process of the host", "absent")
def _():
    return scan("cmdline", HOST["process_marker"])


@attack(28, "see more processes than one's own", "nothing-else")
def _():
    return beyond([int(pid) for pid in os.listdir("/proc") if pid.isdigit()], [1, os.getppid(), os.getpid()])


@attack(28, "learn the pid on the host", "nothing-else", missing=["nothing-else"])
def _():
    # One number for each pid namespace that can be seen into from here; on the host the pid is no small one.
    return beyond([int(word) for word in status()["NSpid"].split()], range(1000) if not HOST["control"] else [])


@attack(29, "trace a process of one's own", "EPERM")
def _():
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    try:
        return call("ptrace", 0x4206, child, 0, 0)  # PTRACE_SEIZE
    finally:
        os.kill(child, signal.SIGKILL)


@attack(29, "be traced", "EPERM")
def _():
    return call("ptrace", 0, 0, 0, 0)  # PTRACE_TRACEME


for name in ("process_vm_readv", "process_vm_writev"):
    def copy(name=name):
        buffer = ctypes.create_string_buffer(16)
        vector = ctypes.create_string_buffer(struct.pack("2Q", ctypes.addressof(buffer), 8))
        return call(name, os.getpid(), vector, 1, vector, 1, 0)
    attack(30, name, "EPERM")(copy)


@attack(30, "take a descriptor out of a process", "EPERM")
def _():
    return call("pidfd_getfd", call("pidfd_open", os.getpid(), 0), 1, 0)


@attack(30, "compare kernel objects", "EPERM", missing=["ENOSYS"])
def _():
    return call("kcmp", os.getpid(), os.getpid(), 1, 0, 0)


for name in ("environ", "maps", "stack", "auxv", "io", "smaps"):
    attack(31, f"read {name} of process 1", "EACCES EPERM ENOENT", control="root", missing=["ENOENT"])(
        lambda name=name: read_some(f"/proc/{HOST['victim']}/{name}")
    )

attack(31, "open the memory of process 1", "EACCES ENOENT", control="root")(
    lambda: os.open(f"/proc/{HOST['victim']}/mem", os.O_RDONLY)
)
attack(31, "open the memory of process 1 for writing", "EACCES ENOENT", control="root")(
    lambda: os.open(f"/proc/{HOST['victim']}/mem", os.O_RDWR)
)
attack(31, "list the descriptors of process 1", "EACCES ENOENT", control="root")(
    lambda: os.listdir(f"/proc/{HOST['victim']}/fd")
)


@attack(31, "learn something from the arguments of process 1", "neutral ENOENT")
def _():
    with open(f"/proc/{HOST['victim']}/cmdline", "rb") as file:
        words = [word for word in file.read().split(b"\0") if word]
    if words in ([b"/proc/self/fd/4", b"init"], [b"/proc/self/exe", b"launcher"]):
        raise Denied("neutral")
    return words


# The event is an environment's neighbour in memory: the secret comes backwards, so that it is not found in ourselves.
@attack(31, "find the service's secret in an environment", "absent")
def _():
    return scan("environ", HOST["secret_backwards"][::-1])


@attack(31, "find the service's secret in one's own environment", "absent")
def _():
    with open("/proc/self/environ", "rb") as file:
        text = file.read() + repr(os.environ).encode()
    if HOST["secret_backwards"][::-1].encode() not in text:
        raise Denied("absent")
    return "there"


@attack(31, "find more in the environment than was promised", "nothing-else")
def _():
    return beyond(os.environ, ["PATH", "HOME", "TMPDIR", "LANG"])


@attack(33, "signal processes of the host", "ESRCH")
def _():
    failure = None
    for pid in HOST["pids"]:
        try:
            os.kill(pid, 0)
            return f"{pid} is there"
        except OSError as error:
            failure = error
    raise failure


@attack(33, "get hold of a process of the host", "ESRCH")
def _():
    return call("pidfd_open", HOST["pids"][0], 0)


# There is no terminal to ask: that a pipe is none is for the kernel to say, not for the filter.
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCSETD", 0x5423)):
    attack(34, name, "EPERM")(lambda request=request: reaches("ioctl", os.pipe()[0], request, b"x"))
    attack(61, f"{name} with the upper half set", "EPERM")(
        lambda request=request: reaches("ioctl", os.pipe()[0], request | 1 << 32, b"x")
    )


@attack(36, "have another descriptor than expected", "nothing-else")
def _():
    found = dict(HOST["descriptors"])
    kinds = [found.pop(0, "closed"), found.pop(1, "closed"), found.pop(2, "closed")]
    odd = [kind for kind in kinds if kind != "/dev/null" and not kind.startswith("pipe:")]
    # The way for the return value.
    results = [number for number, kind in found.items() if kind.startswith("pipe:")][:1]
    return beyond([*odd, *(number for number in found if number not in results)], [])


@attack(53, "find a socket that was left open, to be handed descriptors by", "nothing-else", missing=["nothing-else"])
def _():
    return beyond([kind for kind in HOST["descriptors"].values() if kind.startswith("socket:")], [])


@attack(37, "become root by su", "EACCES EPERM refused", control="root", missing=["ENOENT"])
def _():
    answer = subprocess.run(["/usr/bin/su", "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    if answer.stdout.strip() != b"0":
        raise Denied("refused")
    return "root"


@attack(38, "rename the host", "EPERM", control="namespaces")
def _():
    return call("sethostname", b"taken-over", 10)


@attack(39, "raise a limit", "EPERM", control="root", needs=SYS_RESOURCE)
def _():
    for limit in (100, 200):
        words = ctypes.create_string_buffer(struct.pack("2Q", limit, limit))
        if libc.setrlimit(resource.RLIMIT_NOFILE, words) != 0:
            raise OSError(ctypes.get_errno(), "setrlimit")
    return resource.getrlimit(resource.RLIMIT_NOFILE)


@attack(39, "be spared when memory runs out", "EACCES EROFS EPERM", control="root", needs=SYS_RESOURCE)
def _():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-500")
    return "spared"


@attack(40, "real-time scheduling", "EPERM", control="root")
def _():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "granted"


@attack(40, "a better priority", "EPERM EACCES", control="root")
def _():
    return os.setpriority(os.PRIO_PROCESS, 0, -10)
