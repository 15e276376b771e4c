"""The service on a machine with cgroup v2 alone: as root at the top, in a delegated group, with nothing delegated.

Everything is a black box but the groups themselves, which are looked at where the kernel shows them.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request

TOP = pathlib.Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpu")
NOBODY = 65534
PATIENCE_SECONDS = 120

# Of the services that ran, for who has to find out why something failed.
_logs = []


def show_logs():
    """Prints the end of each service's log."""
    for path in _logs[-3:]:
        print(f"--- {path} ---\n{path.read_text(errors='replace')[-4000:]}", flush=True)


def check(condition, what, shown=""):
    """An assertion that tells what it saw."""
    if not condition:
        raise AssertionError(f"{what}: {json.dumps(shown) if isinstance(shown, (dict, list)) else shown}")


def wait_until(what, condition):
    """Waits for what has to come; gives what the condition gave."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        check(time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} seconds", what)
        time.sleep(0.05)
    return found


def processes_with(marker):
    """Pids of those that have this word in their arguments."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass
    return found


# --- cgroups ---


def write(path, text):
    """One write(2), as cgroup files want it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


class Group:
    """A group for a service, as an administrator makes it; removed with everything below it."""

    def __init__(self, name, owner=None):
        self.path = TOP / name
        for controller in CONTROLLERS:
            write(TOP / "cgroup.subtree_control", f"+{controller}")
        self.path.mkdir()
        if owner is not None:
            for file in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
                os.chown(self.path / file, owner, owner)

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        write(self.path / "cgroup.kill", "1")
        wait_until("an empty group", lambda: "populated 0" in (self.path / "cgroup.events").read_text())
        for folder in sorted(self.path.glob("**/"), key=lambda path: -len(path.parts)):
            folder.rmdir()


def groups_of_executions(own):
    """The groups in the instances' groups below the service's own, but for those that hold what is ours."""
    return [path for path in own.glob("sandbox-executor-*/*/") if path.name not in ("service", "builders")]


# --- the service ---


class Service:
    """A running service, with a home of its own unless one is given."""

    def __init__(self, program, adapter, group, uid=0, home=None):
        self.home = home or pathlib.Path(tempfile.mkdtemp(prefix="scenario-"))
        os.chown(self.home, uid, uid)
        self.home.chmod(0o755)
        self.log = self.home / f"service-{time.monotonic_ns()}.log"
        _logs.append(self.log)

        def become():
            write(group / "cgroup.procs", "0")
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)

        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [program, "serve"],
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(self.home),
                    "EXECUTOR_PORT": "0",
                    "STATE_PATH": str(self.home / "state"),
                    "WORKSPACE_PATH": str(self.home / "workspaces"),
                    "ISOLATION": adapter,
                    # What stands ready has groups of its own, and here every group is an execution's.
                    "WARM_PYTHON": "0",
                    "WARM_NODE": "0",
                },
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=become,
            )

        def address():
            check(self.process.poll() is None, "the service ended at its start", self.log.read_text())
            return re.search(r"Listening on (http://\S+)", self.log.read_text())

        self.base = wait_until("the service listens", address)[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGTERM)

    def stop(self, number):
        """Ends it by this signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)

    def request(self, path, body=None):
        """One request, its answer as JSON."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.base}{path}", data), timeout=600) as response:
            return json.load(response)

    def run(self, language, code, **fields):
        """One execution."""
        return self.request("/execute", {"language": language, "code": code, "timeout": 300, **fields})

    def enforcement(self):
        """What /info says of the limits: how each is enforced, and why one is not."""
        limits = self.request("/info")["limits"]
        by_controller = {name: limits["enforcement"][name] for name in ("memory", "processes", "cpu")}
        return by_controller, limits["not_enforced_because"]


# --- what has to hold wherever the groups are ours ---


def all_is_enforced(service):
    """/info says so."""
    enforcement, reasons = service.enforcement()
    check(set(enforcement.values()) == {"enforced"} and not reasons, "not all is enforced", [enforcement, reasons])


def limits_are_in_the_files(service, own):
    """Of the group that a running execution is in."""
    answers = []
    limits = {"memory_mb": 96, "processes": 20, "cpu_cores": 0.5}
    request = {"code": "until [ -e stop ]; do sleep 0.1; done", "session_id": "files", "limits": limits}
    thread = threading.Thread(target=lambda: answers.append(service.run("shell", **request)))
    thread.start()

    def inside():
        return [group for group in groups_of_executions(own) if (group / "cgroup.procs").read_text()]

    (group,) = wait_until("an execution in a group of its own", inside)
    expected = {
        "memory.max": str(96 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        # The init of a sandbox that is born in the group is one more.
        "pids.max": "21" if service.request("/info")["isolation"] == "native" else "20",
        "cpu.max": "50000 100000",
    }
    found = {name: (group / name).read_text().strip() for name in expected}
    (service.home / "workspaces" / "files" / "stop").touch()
    thread.join()
    check(found == expected, "the limits in the group's files", found)
    check(answers[0]["status"] == "completed", "the execution", answers[0])


def no_group_of_the_host_is_named(service):
    """What a program sees of its group is at most the random name of its own."""
    text = service.run("shell", "cat /proc/self/cgroup")["stdout"]
    check(re.fullmatch(r"0::/|0::(/\.\.)?/[0-9a-f]{16}", text.strip()), "the program's own group", text)


def out_of_memory_is_told_and_takes_all_along(service):
    """Whichever process was hit."""
    marker = f"bystander-{os.getpid()}-{time.monotonic_ns()}"
    code = f"""
import os, subprocess
subprocess.Popen(["/bin/bash", "-c", "exec -a {marker} sleep 600"])
if os.fork() == 0:
    x = b"x" * (300 << 20)
os.wait()
os.wait()
"""
    seen = []
    done = threading.Event()

    def look():
        while not done.wait(0.02):
            seen.extend(processes_with(marker))

    watcher = threading.Thread(target=look)
    watcher.start()
    answer = service.run("python", code, limits={"memory_mb": 64})
    left = processes_with(marker)
    done.set()
    watcher.join()
    check(answer["status"] == "failed" and answer["error"]["kind"] == "out_of_memory", "the verdict", answer)
    check(seen, "the control: the other process was never there")
    check(not left, "alive after the answer", left)


def processes_are_limited(service):
    """Forks until it may not."""
    code = """
import os, signal
n = 0
try:
    for _ in range(300):
        if os.fork() == 0:
            signal.pause()
        n += 1
except OSError as error:
    print(error.strerror)
print(n)
"""
    answer = service.run("python", code, limits={"processes": 16})
    check(answer["stdout"] == "Resource temporarily unavailable\n15\n", "forks", answer)


def cpu_is_limited(service):
    """Half a core gives CPU time for half of the time that passed."""
    burn = "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end: pass"
    share = {}
    for cores in (0.5, 1):
        metrics = service.run("python", burn, limits={"cpu_cores": cores})["metrics"]
        share[cores] = metrics["cpu_time_ms"] / metrics["duration_ms"]
    check(share[0.5] < 0.6, "the share of half a core", share)
    check(share[1] > share[0.5] * 1.2, "the control: a whole core", share)


def usage_is_counted(service):
    """By the group, children included."""
    metrics = service.run("python", "x = b'x' * (100 << 20)")["metrics"]
    check(90 < metrics["peak_memory_mb"] < 250, "peak memory of 100 MB", metrics)
    metrics = service.run("shell", ":")["metrics"]
    print(f"a shell that does nothing: {metrics}", flush=True)
    check(0.1 < metrics["peak_memory_mb"] < 60, "peak memory of nothing", metrics)
    busy = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    metrics = service.run("shell", f'python3 -c "{busy}"; :')["metrics"]
    check(metrics["cpu_time_ms"] > 990, "a child's CPU time", metrics)
    metrics = service.run("shell", "sleep 3")["metrics"]
    check(metrics["cpu_time_ms"] < 1500, "CPU time of sleeping", metrics)


def nothing_is_left(own):
    """No group of an execution; taking apart comes after the answer."""
    wait_until("no group is left", lambda: not groups_of_executions(own))


def everything_holds(service, own):
    """All of the above."""
    all_is_enforced(service)
    limits_are_in_the_files(service, own)
    no_group_of_the_host_is_named(service)
    out_of_memory_is_told_and_takes_all_along(service)
    processes_are_limited(service)
    cpu_is_limited(service)
    usage_is_counted(service)
    nothing_is_left(own)


def killed_with_an_execution(service, own):
    """Kills the service while it executes. What it leaves is an empty group."""
    marker = f"left-{os.getpid()}-{time.monotonic_ns()}"

    def execute():
        try:
            service.run("shell", f"exec -a {marker} sleep 600")
        except OSError:
            pass

    thread = threading.Thread(target=execute)
    thread.start()
    wait_until("the program runs", lambda: processes_with(marker))
    service.stop(signal.SIGKILL)
    thread.join()
    wait_until("the program died with the service", lambda: not processes_with(marker))
    check(groups_of_executions(own), "the control: a killed service leaves a group behind")


# --- the situations, each with an adapter ---


def as_root_at_the_top(program, adapter):
    """No group of its own and nobody to delegate one: the service stays where it is."""
    with Service(program, adapter, TOP) as service:
        everything_holds(service, TOP)
    check(not list(TOP.glob("sandbox-executor-*")), "left by a service that ended", os.listdir(TOP))


def as_root_in_a_group(program, adapter):
    """As under systemd with `Delegate=yes`, or in a container: the service moves into a leaf."""
    with Group("as-root") as own:
        with Service(program, adapter, own) as service:
            everything_holds(service, own)
            check((own / "cgroup.procs").read_text() == "", "processes beside groups", own)
        nothing_is_left(own)


def as_a_user_in_a_delegated_group(program, adapter):
    """The same without any right elsewhere."""
    with Group("delegated", NOBODY) as own:
        with Service(program, adapter, own, NOBODY) as service:
            everything_holds(service, own)
        nothing_is_left(own)


def as_a_user_with_subordinate_ids(program, adapter):
    """The programs' host uids are neither root's nor the service's: it is the service's rights that count in its groups."""
    files = [pathlib.Path("/etc/subuid"), pathlib.Path("/etc/subgid")]
    before = [path.read_text() if path.exists() else "" for path in files]
    try:
        for path in files:
            path.write_text("nobody:100000:65536\n")
        with Group("subordinate", NOBODY) as own:
            with Service(program, adapter, own, NOBODY) as service:
                check("Host uids: one for each session" in service.log.read_text(), "the log", service.log.read_text())
                everything_holds(service, own)
            nothing_is_left(own)
    finally:
        for path, text in zip(files, before, strict=True):
            path.write_text(text)


def killed_and_started_again_as_root(program, adapter):
    """The next start of the same instance clears up."""
    first = Service(program, adapter, TOP)
    killed_with_an_execution(first, TOP)
    with Service(program, adapter, TOP, home=first.home) as second:
        nothing_is_left(TOP)
        all_is_enforced(second)
        check(second.run("shell", "echo again")["stdout"] == "again\n", "an execution")
    check(not list(TOP.glob("sandbox-executor-*")), "left by a service that ended", os.listdir(TOP))


def killed_and_started_again_where_it_was(program, adapter):
    """In a delegated group, from the leaf that the first one made: no process may be put beside it any more."""
    with Group("again", NOBODY) as own:
        first = Service(program, adapter, own, NOBODY)
        killed_with_an_execution(first, own)
        (leaf,) = own.glob("sandbox-executor-*/service")
        with Service(program, adapter, leaf, NOBODY, home=first.home) as second:
            nothing_is_left(own)
            all_is_enforced(second)
            check(second.run("shell", "echo again")["stdout"] == "again\n", "an execution")
        nothing_is_left(own)


def it_says_what_it_can_not(service, words):
    """Executions work, /info and the log name each limit that is not in force, and every reason has these words."""
    enforcement, reasons = service.enforcement()
    expected = {"memory": "best effort", "processes": "best effort", "cpu": "not enforced"}
    check(enforcement == expected, "/info", enforcement)
    check(len(reasons) == 3, "a reason for each", reasons)
    for reason, limit in zip(reasons, ("memory", "number of processes", "CPU"), strict=True):
        check(limit in reason and all(word in reason for word in words), f"the reason for {limit}", reason)
    log = service.log.read_text()
    check(log.count("Limit not enforced: ") == 3, "the log", log)
    check(service.run("shell", "echo here")["stdout"] == "here\n", "an execution")
    code = "x = b'x' * (300 << 20)\nimport time\ntime.sleep(60)"
    answer = service.run("python", code, limits={"memory_mb": 64})
    check(answer["status"] == "failed" and answer["error"]["kind"] == "out_of_memory", "best effort", answer)


def as_a_user_with_nothing_delegated(program, adapter):
    """The group is root's."""
    with Group("of-root") as own, Service(program, adapter, own, NOBODY) as service:
        it_says_what_it_can_not(service, [f"{own}/sandbox-executor-", "Permission denied", "Delegate=yes"])
        check(not list(own.glob("*/")), "groups without a use", os.listdir(own))


def beside_another_process(program, adapter):
    """A group with another process in it can't have limits below it; the reason names the process."""
    with Group("crowded", NOBODY) as own:
        other = subprocess.Popen(["sleep", "3600"])
        try:
            write(own / "cgroup.procs", str(other.pid))
            with Service(program, adapter, own, NOBODY) as service:
                it_says_what_it_can_not(service, [str(other.pid), "start the service alone"])
                check(not list(own.glob("*/")), "groups without a use", os.listdir(own))
        finally:
            other.kill()
            other.wait()


def without_controllers(program, adapter):
    """The group above has not enabled any for this one."""
    with Group("above") as above:
        own = above / "own"
        own.mkdir()
        with Service(program, adapter, own) as service:
            it_says_what_it_can_not(service, ["cgroup.controllers", "Delegate=yes"])
            check(not list(own.glob("*/")), "groups without a use", os.listdir(own))


ALL = [
    as_root_at_the_top,
    as_root_in_a_group,
    as_a_user_in_a_delegated_group,
    as_a_user_with_subordinate_ids,
    killed_and_started_again_as_root,
    killed_and_started_again_where_it_was,
    as_a_user_with_nothing_delegated,
    beside_another_process,
    without_controllers,
]
