# Parts of the kernel that no program in a sandbox has business with.

UNSUPPORTED = ["ENOSYS", "EOPNOTSUPP"]


def zeros(size):
    return ctypes.create_string_buffer(size)


attack(54, "io_uring_setup", "ENOSYS", missing=["ENOSYS", "EPERM"])(lambda: call("io_uring_setup", 1, zeros(120)))
attack(54, "io_uring_enter", "ENOSYS", missing=UNSUPPORTED)(lambda: reaches("io_uring_enter", -1, 0, 0, 0, 0, 0))
attack(54, "io_uring_register", "ENOSYS", missing=["ENOSYS", "EPERM"])(lambda: reaches("io_uring_register", -1, 0, 0, 0))


@attack(55, "make a map for bpf", "EPERM", control="root", missing=UNSUPPORTED)
def _():
    return call("bpf", 0, ctypes.create_string_buffer(struct.pack("4I", 2, 4, 4, 1), 128), 72)


@attack(55, "count events by perf", "EPERM", control="root", missing=UNSUPPORTED)
def _():
    attributes = ctypes.create_string_buffer(struct.pack("2IQ", 1, 112, 0), 112)
    return call("perf_event_open", attributes, 0, -1, -1, 0)


attack(55, "userfaultfd", "EPERM", missing=UNSUPPORTED)(lambda: call("userfaultfd", 1))

attack(56, "add a key", "EPERM", missing=UNSUPPORTED)(lambda: call("add_key", b"user", b"canary", b"x", 1, -2))
attack(56, "ask for a key", "EPERM", missing=UNSUPPORTED)(lambda: reaches("request_key", b"user", b"no-such-key", None, 0))
attack(56, "keyctl", "EPERM", missing=UNSUPPORTED)(lambda: call("keyctl", 0, -2, 1, 0, 0))

for name, arguments in (
    ("init_module", (0, 0, b"")),
    ("finit_module", (-1, b"", 0)),
    ("delete_module", (b"no-such-module", 0o4000)),
    ("kexec_load", (0, 0, 0, 0xFFFF)),
    ("reboot", (0, 0, 0, 0)),
    ("swapon", (b"/no-such-file", 0)),
    ("acct", (b"/no-such-file",)),
    ("quotactl", (0x7FFFFF00, b"/no-such-file", 0, 0)),
):
    # As root, each of them fails for its arguments.
    attack(57, name, "EPERM", control="root", missing=UNSUPPORTED)(
        lambda name=name, arguments=arguments: reaches(name, *arguments)
    )

attack(57, "ask for the size of the kernel's log", "EPERM", control="root", missing=UNSUPPORTED)(
    lambda: call("syslog", 10, 0, 0)
)

if X86:
    @attack(58, "call the kernel as i386", "SIGSYS", missing=["SIGSEGV"])
    def _():
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes.fromhex("53" "b814000000" "cd80" "5b" "c3"))  # push rbx; getpid; pop rbx; ret
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        return f"pid {function()}"

    attack(59, "call the kernel as x32", "ENOSYS", missing=["ENOSYS"])(lambda: call(0x40000000 | 39))
    attack(59, "call the kernel as x32, a call of its own", "ENOSYS", missing=["ENOSYS"])(
        lambda: reaches(0x40000000 | 512, 0, 0, 0, 0)
    )
    attack(62, "modify_ldt", "EPERM", missing=UNSUPPORTED)(lambda: call("modify_ldt", 0, zeros(16), 16))
    attack(63, "iopl", "EPERM", control="root", missing=UNSUPPORTED)(lambda: call("iopl", 3))
    attack(63, "ioperm", "EPERM", control="root", missing=UNSUPPORTED)(lambda: call("ioperm", 0x80, 1, 1))

for name, value in (("READ_IMPLIES_EXEC", 0x0400000), ("ADDR_NO_RANDOMIZE", 0x0040000), ("PER_LINUX32", 8)):
    attack(62, f"personality {name}", "EPERM")(lambda value=value: call("personality", value))
attack(62, "personality with the upper half set", "EPERM")(lambda: call("personality", 0x0400000 | 1 << 32))


def filter_everything_through(install):
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
    return install(program)


attack(64, "install a filter of one's own", "EPERM")(
    lambda: filter_everything_through(lambda program: call("seccomp", 1, 0, program))
)
attack(64, "install a filter that asks one's own process", "EPERM")(
    lambda: filter_everything_through(lambda program: call("seccomp", 1, 8, program))
)
attack(64, "install a filter by prctl", "EPERM")(
    lambda: filter_everything_through(lambda program: call("prctl", 22, 2, program, 0, 0))
)
attack(64, "prctl PR_SET_MM", "EPERM", control="root", needs=SYS_RESOURCE)(lambda: reaches("prctl", 35, 99, 0, 0, 0))

attack(65, "adjtimex", "EPERM")(lambda: call("adjtimex", zeros(256)))
attack(65, "clock_settime", "EPERM")(lambda: reaches("clock_settime", 1, zeros(16)))
attack(65, "settimeofday", "EPERM", control="root")(lambda: call("settimeofday", None, None))
