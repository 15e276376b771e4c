# Two executions: one leaves things everywhere and stays, the other looks for them.


SHARED = "/usr/lib/os-release"  # everybody has it, read-only
USER_KEYRING = -4


def mailbox():
    """A number and a name that both know and nobody else."""
    return int(HOST["neighbour"], 16) & 0x7FFFFFFF | 1, f"security-test-{HOST['neighbour']}"


def reside():
    number, name = mailbox()
    keys = []
    for path in (f"/tmp/{name}", f"/dev/shm/{name}"):
        with open(path, "w") as file:
            file.write("left behind")
    queue = secret = None
    shared = open(SHARED)
    fcntl.flock(shared, fcntl.LOCK_SH)
    try:
        keys.append(("shmctl", call("shmget", number, 4096, 0o1666)))
        keys.append(("semctl", call("semget", number, 1, 0o1666)))
        keys.append(("msgctl", call("msgget", number, 0o1666)))
        try:
            queue = call("mq_open", name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
        except PermissionError:
            pass  # Landlock refuses queues altogether, which is as well
        try:
            secret = call("add_key", b"user", name.encode(), b"left behind", 11, USER_KEYRING)
        except OSError:
            pass  # the filter refuses keys altogether
        with socket.socket(socket.AF_UNIX) as abstract, socket.create_server(("127.0.0.1", 0)) as server, socket.socket(
            socket.AF_UNIX
        ) as pathname:
            abstract.bind("\0" + name)
            abstract.listen()
            pathname.bind("socket")
            pathname.listen()
            pathname.settimeout(0.02)
            sleeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)", HOST["resident_marker"]],
                env={"SECRET": HOST["resident_marker"]},
            )
            with open("ready.new", "w") as file:
                json.dump({"port": server.getsockname()[1]}, file)
            os.rename("ready.new", "ready")
            deadline = time.monotonic() + 45
            while not os.path.exists("stop") and time.monotonic() < deadline:
                try:
                    with pathname.accept()[0] as visitor:
                        socket.send_fds(visitor, [b"x"], [shared.fileno()])
                except TimeoutError:
                    pass
            sleeper.kill()
            sleeper.wait()
        return "stayed"
    finally:
        for control, key in keys:
            call(control, key, 0, 0, 0)  # IPC_RMID
        if queue is not None:
            call("mq_unlink", name.encode())
        if secret is not None:
            call("keyctl", 9, secret, USER_KEYRING)  # KEYCTL_UNLINK
        for path in (f"/tmp/{name}", f"/dev/shm/{name}", "socket"):
            os.unlink(path)


def neighbour(number, name, denied, **more):
    return attack(number, name, denied, scene="neighbour", **more)


neighbour(92, "find a file in /tmp", "ENOENT")(lambda: read_some(f"/tmp/{mailbox()[1]}"))
neighbour(93, "find a file in /dev/shm", "ENOENT")(lambda: read_some(f"/dev/shm/{mailbox()[1]}"))
neighbour(94, "find shared memory of System V", "ENOENT")(lambda: call("shmget", mailbox()[0], 4096, 0))
neighbour(94, "find semaphores of System V", "ENOENT")(lambda: call("semget", mailbox()[0], 1, 0))
neighbour(94, "find a message queue of System V", "ENOENT")(lambda: call("msgget", mailbox()[0], 0))
neighbour(95, "find a message queue of POSIX", "ENOENT EACCES")(
    lambda: call("mq_open", mailbox()[1].encode(), os.O_RDWR, 0, None)
)
neighbour(96, "connect to an abstract socket", "ECONNREFUSED EPERM")(
    lambda: connect(socket.AF_UNIX, "\0" + mailbox()[1])
)
neighbour(51, "connect to a server on loopback", "ECONNREFUSED")(
    lambda: connect(socket.AF_INET, ("127.0.0.1", HOST["resident_port"]))
)
neighbour(99, "see the arguments", "absent")(lambda: scan("cmdline", HOST["resident_marker_backwards"][::-1]))
neighbour(99, "see the environment", "absent")(lambda: scan("environ", HOST["resident_marker_backwards"][::-1]))


@neighbour(100, "read the workspace by its path on the host", "ENOENT own")
def _():
    if HOST["same_session"]:
        raise Denied("own")
    return read_some(f"{HOST['resident_workspace']}/ready")


@neighbour(100, "read the workspace beside one's own", "ENOENT own")
def _():
    if HOST["same_session"]:
        raise Denied("own")
    return read_some(f"../{HOST['resident_session']}/ready")


neighbour(97, "find a key", "EPERM")(
    lambda: call("keyctl", 10, USER_KEYRING, b"user", mailbox()[1].encode(), 0)  # KEYCTL_SEARCH
)


@neighbour(98, "see the lock on a file that is everybody's", "unlocked", known="a channel by locks on shared files")
def _():
    with open(SHARED) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "locked"
        raise Denied("unlocked")


def take_descriptor(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        return f"descriptor {socket.recv_fds(connection, 1, 1)[1]}"


@neighbour(159, "be handed a descriptor through a socket in another's workspace", "ENOENT own")
def _():
    if HOST["same_session"]:
        raise Denied("own")
    return take_descriptor(f"../{HOST['resident_session']}/socket")


@neighbour(
    159, "be handed a descriptor within the session", "another-session", missing=["another-session"],
    known="a session is one domain of trust",
)
def _():
    if not HOST["same_session"]:
        raise Denied("another-session")
    return take_descriptor("socket")
