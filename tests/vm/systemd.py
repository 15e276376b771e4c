"""The Debian package and its unit under a real systemd: installed, started, limited, rotated, killed, stopped, removed.

One line a step goes to the second console, as guest.py's do. Both forms of the unit are looked at: as it comes, and as root
with the drop-in of the documentation.
"""

import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
import traceback
import urllib.error
import urllib.request

VM = pathlib.Path("/vm")
UNIT = "sandbox-executor.service"
DROP_INS = pathlib.Path(f"/etc/systemd/system/{UNIT}.d")
ENVIRONMENT = pathlib.Path("/etc/sandbox-executor/environment")
STATE = pathlib.Path("/var/lib/sandbox-executor")
PATIENCE_SECONDS = 240
BASE = "http://127.0.0.1:8080"
# An address that is not loopback's to the filter of addresses.
OTHER = "10.99.0.1"

verdicts = open("/dev/ttyS1", "w", buffering=1)


def say(kind, name, text=""):
    """A line for the host, and for the console."""
    line = f"{kind} {name}{': ' if text else ''}{text}"
    print(line, file=verdicts)
    print(f"== {line}", flush=True)


def check(condition, what, shown=""):
    """An assertion that tells what it saw."""
    if not condition:
        raise AssertionError(f"{what}: {shown}")


def run(*command, fails=False):
    """A command to its end; gives what it printed."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    check((done.returncode != 0) == fails, f"{command} ended with {done.returncode}", done.stdout[-600:])
    return done.stdout


def request(path, body=None, base=BASE, headers=None, timeout=300):
    """One request, its answer as JSON."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(base + path, data, headers or {}), timeout=timeout) as answer:
        return json.load(answer)


def execute(language, code, **fields):
    """One execution."""
    return request("/execute", {"language": language, "code": code, "timeout": 240, **fields})


def shown(name):
    """A property of the unit."""
    return run("systemctl", "show", "--value", "--property", name, UNIT).strip()


def wait_until(what, condition):
    """Waits for what has to come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        check(time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} seconds", what)
        time.sleep(0.2)
    return found


def is_healthy():
    """Whether /health says so."""
    try:
        return request("/health", timeout=60)["status"] == "healthy"
    except OSError:
        return False


def start():
    """Starts it and waits until it is well."""
    run("systemctl", "restart", UNIT)
    wait_until("a healthy service", is_healthy)


def groups_of_executions():
    """Those below the unit's group that are neither the service's nor the builders' own; what waits ahead has some too."""
    own = pathlib.Path(f"/sys/fs/cgroup{shown('ControlGroup')}")
    return [path for path in own.glob("sandbox-executor-*/*/") if path.name not in ("service", "builders")]


# --- steps ---


def installed():
    """The user is there, the tokens are root's, nothing runs that nobody started."""
    (package,) = VM.glob("*.deb")
    run("dpkg", "--install", package)
    run("id", "sandbox-executor")
    check(ENVIRONMENT.stat().st_mode & 0o777 == 0o600, "the mode of the environment")
    check(shown("ActiveState") == "inactive" and shown("UnitFileState") == "disabled", "it was started by nobody")
    check("sandbox-executor 0" in run("sandbox-executor", "--version"), "the program")
    start()


def exposure():
    """By the running manager, not by the file alone."""
    text = run("systemd-analyze", "security", "--threshold=25", UNIT)
    return text.strip().splitlines()[-1]


def limits_are_enforced():
    """By cgroups that systemd delegated, all of them."""
    info = request("/info")
    limits = info["limits"]
    check(info["isolation"] == "native", "isolation", info["isolation"])
    enforcement = {name: limits["enforcement"][name] for name in ("memory", "processes", "cpu")}
    check(set(enforcement.values()) == {"enforced"}, "enforcement", [enforcement, limits["not_enforced_because"]])
    answer = execute("python", "x = bytearray(300 << 20)", limits={"memory_mb": 64})
    check(answer["error"]["kind"] == "out_of_memory", "out of memory", answer)
    code = "import os, signal\nn = 0\ntry:\n    while os.fork() or signal.pause(): n += 1\nexcept OSError: print(n)"
    answer = execute("python", code, limits={"processes": 16})
    check(answer["stdout"] == "15\n", "processes", answer)
    answer = execute("shell", "sleep 600", timeout=2)
    check(answer["status"] == "timeout", "timeout", answer)
    return request("/info")["isolation_details"]["mode"]


def programs_run():
    """Each language, a session's files, a /proc of its own, a name of its own, no way to the host."""
    answer = execute("python", "def handler(event):\n    return event", event={"n": 1})
    check(answer["return_value"] == {"n": 1}, "python", answer)
    answer = execute("javascript", "exports.handler = async (event) => [event.n, require('os').cpus().length > 0]", event={"n": 2})
    check(answer["return_value"] == [2, True], "javascript", answer)
    execute("shell", "echo kept > file", session_id="one")
    answer = execute("shell", "cat file; ls /proc | grep -c '^[0-9]'; hostname; cat /etc/shadow || echo none", session_id="one")
    kept, processes, name, shadow = answer["stdout"].split()
    check((kept, shadow) == ("kept", "none") and int(processes) < 8, "the session's second run", answer)
    check(name != run("hostname").strip(), "the name", answer)
    # Inherited from the unit's filter: what the documentation says of it.
    answer = execute("python", "import os\ntry: os.nice(1)\nexcept OSError as error: print(error.strerror)")
    check(answer["stdout"] == "Operation not permitted\n", "nice", answer)


def out_of_memory_stops_nobody():
    """The manager does not take the kernel's kill in a group below for the service's."""
    before = shown("MainPID")
    answers = []
    slow = threading.Thread(target=lambda: answers.append(execute("shell", "sleep 8; echo done")))
    slow.start()
    answer = execute("python", "x = bytearray(300 << 20)", limits={"memory_mb": 64})
    check(answer["error"]["kind"] == "out_of_memory", "out of memory", answer)
    slow.join()
    check(answers[0]["stdout"] == "done\n", "the neighbour", answers)
    check((shown("ActiveState"), shown("MainPID")) == ("active", before), "the service", run("systemctl", "status", UNIT))


def killed_and_back():
    """By SIGKILL to the service: the manager starts it anew, and nothing of the first is left."""
    before = shown("MainPID")
    threading.Thread(target=lambda: swallow(lambda: execute("shell", "exec -a bystander sleep 600")), daemon=True).start()
    wait_until("the program runs", lambda: subprocess.run(["pgrep", "-f", "^bystander"], check=False).returncode == 0)
    groups = groups_of_executions()
    check(groups, "the control: the execution has a group")
    run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    wait_until("another process", lambda: shown("MainPID") not in (before, "0"))
    wait_until("a healthy service", is_healthy)
    run("pgrep", "-f", "^bystander", fails=True)
    wait_until("none of its groups is left", lambda: not any(path.exists() for path in groups))
    check(execute("shell", "echo again")["stdout"] == "again\n", "an execution")


def swallow(body):
    """For requests that the service does not live to answer."""
    try:
        body()
    except OSError:
        pass


def what_runs_may_end():
    """The stop waits for it, and counts as a good end."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(execute("shell", "trap 'echo told' TERM; sleep 6; echo done")))
    thread.start()
    wait_until("the program runs", lambda: request("/health")["active_executions"] == 1)
    run("systemctl", "stop", UNIT)
    thread.join()
    check(answers and answers[0]["stdout"] == "done\n", "it ended by itself and was told nothing", answers)
    told = run("journalctl", "--unit", UNIT, "--lines", "5")
    check(shown("Result") == "success" and "Deactivated successfully" in told, "the end", told)
    start()


def the_log_is_rotated():
    """By what the package brings, while it runs."""
    log = pathlib.Path("/var/log/sandbox-executor/executor.log")
    with ENVIRONMENT.open("a") as file:
        file.write(f"LOG_FILE={log}\n")
    start()
    execute("shell", "true", execution_id="before")
    run("logrotate", "--force", "/etc/logrotate.d/sandbox-executor")
    wait_until("a new file", log.exists)
    execute("shell", "true", execution_id="after")
    wait_until("the line", lambda: "Starting execution: after" in log.read_text())
    check("Starting execution: before" in log.with_suffix(".log.1").read_text(), "the old file")
    check("Starting execution: before" not in log.read_text(), "the new file", log.read_text())


def a_token_is_asked_for():
    """From the file that root alone can read, and no program sees it."""
    before = ENVIRONMENT.read_text()
    ENVIRONMENT.write_text(f"{before}EXECUTOR_API_TOKEN=hunter2-hunter2\n")
    start()
    try:
        request("/info")
        check(False, "no token was asked for")
    except urllib.error.HTTPError as error:
        check(error.code == 401, "the status", error.code)
    body = {"language": "shell", "code": "env; cat /proc/*/environ 2>/dev/null; true"}
    answer = request("/execute", body, headers={"Authorization": "Bearer hunter2-hunter2"})
    check(answer["status"] == "completed" and "hunter2" not in json.dumps(answer), "the token is in a sandbox", answer)
    ENVIRONMENT.write_text(before)
    start()


def addresses_are_allowed_one_by_one():
    """As it comes, loopback alone; with a line in a drop-in, others."""
    run("ip", "address", "replace", f"{OTHER}/32", "dev", "lo")
    before = ENVIRONMENT.read_text()
    ENVIRONMENT.write_text(f"{before}EXECUTOR_HOST=0.0.0.0\n")
    start()
    try:
        request("/health", base=f"http://{OTHER}:8080", timeout=15)
        check(False, "an address that is not allowed got an answer")
    except OSError as error:
        print(f"refused: {error!r}", flush=True)
    DROP_INS.mkdir(parents=True, exist_ok=True)
    (DROP_INS / "addresses.conf").write_text("[Service]\nIPAddressAllow=any\n")
    run("systemctl", "daemon-reload")
    start()
    check(request("/health", base=f"http://{OTHER}:8080")["status"] == "healthy", "with the drop-in")
    (DROP_INS / "addresses.conf").unlink()
    ENVIRONMENT.write_text(before)
    run("systemctl", "daemon-reload")
    start()


def a_bad_setting_is_told_once():
    """And is not tried again and again."""
    before = ENVIRONMENT.read_text()
    ENVIRONMENT.write_text(f"{before}MAX_MEMORY_MB=lots\n")
    subprocess.run(["systemctl", "restart", UNIT], check=False)
    wait_until("it failed", lambda: shown("ActiveState") == "failed")
    check(shown("NRestarts") == "0", "restarts", shown("NRestarts"))
    check("MAX_MEMORY_MB = lots" in run("journalctl", "--unit", UNIT, "--lines", "20"), "the line")
    ENVIRONMENT.write_text(before)
    run("systemctl", "reset-failed", UNIT)
    start()


def as_root():
    """The drop-in of the documentation: a host uid for each session."""
    DROP_INS.mkdir(parents=True, exist_ok=True)
    # dpkg leaves documentation out of small systems: it comes with the tests.
    (DROP_INS / "root.conf").write_text((VM / "root.conf").read_text())
    run("systemctl", "daemon-reload")
    run("systemctl", "stop", UNIT)
    shutil.rmtree(STATE / "workspaces")
    start()
    mode = limits_are_enforced()
    check(mode == "root: a host uid for each session", "the mode", mode)


def as_it_came():
    """From root back to the user: what root's service left belongs to the user again."""
    (DROP_INS / "root.conf").unlink()
    run("systemctl", "daemon-reload")
    start()
    check(execute("shell", "cat file", session_id="one")["status"] == "completed", "the session of before")


def removed():
    """The program goes and what it stored stays; with purge, that too."""
    run("dpkg", "--remove", "sandbox-executor")
    check(shown("ActiveState") in ("inactive", "failed") and STATE.exists(), "after remove", shown("ActiveState"))
    run("dpkg", "--purge", "sandbox-executor")
    check(not STATE.exists() and not ENVIRONMENT.exists(), "after purge")


STEPS = [
    installed,
    exposure,
    limits_are_enforced,
    programs_run,
    out_of_memory_stops_nobody,
    killed_and_back,
    what_runs_may_end,
    the_log_is_rotated,
    a_token_is_asked_for,
    addresses_are_allowed_one_by_one,
    a_bad_setting_is_told_once,
    as_root,
    programs_run,
    out_of_memory_stops_nobody,
    killed_and_back,
    what_runs_may_end,
    as_it_came,
    removed,
]


def main():
    """Works through the list; each step is told, also those after a failure."""
    say("UP", f"systemd {run('systemctl', '--version').split()[1]}, kernel {os.uname().release}")
    for step in STEPS:
        begin = time.monotonic()
        name = step.__name__.replace("_", " ")
        try:
            told = step() or ""
        except Exception as error:  # Whatever it is, the list goes on.
            traceback.print_exc()
            say("FAIL", name, " ".join(str(error).split())[:700])
            print(subprocess.run(["journalctl", "--unit", UNIT, "--lines", "40", "--no-pager"], text=True, capture_output=True, check=False).stdout, flush=True)
            if step is installed:
                break
            continue
        say("PASS", name, f"{told}{', ' if told else ''}{time.monotonic() - begin:.0f} s")
    say("END", "of the list")


if __name__ == "__main__":
    main()
