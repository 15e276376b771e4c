import ctypes, mmap, os, random, signal, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Which end the program that counts: every fourth execution has them too, and may well end early.
SIGNALS = {62, 129, 200, 234, 297, 424} if os.uname().machine == "x86_64" else {129, 130, 131, 138, 240, 424}
CALLS_OF_A_CHILD = 300
PATHS = [b".", b"/", b"/tmp/x", b"/workspace/x", b"/proc/self/fd", b"/proc/1", b"/dev/null", b"/dev/shm/x", b"/usr/bin/true"]


def storm(random_, with_signals, count):
    os.setpgid(0, 0)
    signal.alarm(1)
    memory = mmap.mmap(-1, 1 << 16)
    memory.write(random_.randbytes(1 << 16))
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    paths = [ctypes.create_string_buffer(path) for path in PATHS]

    def argument():
        kind = random_.randrange(9)
        if kind < 2:
            return random_.randrange(-2, 12)
        if kind < 5:
            return place + random_.randrange(0, 1 << 15, 8)
        if kind == 5:
            return ctypes.addressof(random_.choice(paths))
        if kind == 6:
            return 1 << random_.randrange(64)
        return random_.getrandbits(random_.choice((8, 16, 32, 64)))

    for _ in range(CALLS_OF_A_CHILD):
        number = random_.randrange(601)
        if with_signals or number not in SIGNALS:
            count[0] += 1
            libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument() & (1 << 64) - 1) for _ in range(6)))


def handler(event):
    random_ = random.Random(event["seed"])
    until = time.monotonic() + event["seconds"]
    # Shared with the children, of which each adds its own.
    count = (ctypes.c_uint64 * 1).from_buffer(mmap.mmap(-1, 4096))
    while time.monotonic() < until:
        seed = random_.getrandbits(64)
        try:
            pid = os.fork()
        except OSError:
            time.sleep(0.01)  # those before are dying
            continue
        if pid == 0:
            try:
                storm(random.Random(seed), event["signals"], count)
            finally:
                os._exit(0)
        patience = time.monotonic() + 0.1  # many calls wait for something
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > patience:
                for kill in (os.killpg, os.kill):
                    try:
                        kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
                os.waitpid(pid, 0)
                break
            time.sleep(0.001)
    return count[0]
