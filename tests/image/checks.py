"""What is tried with the image, each a function that gives what it saw or raises."""

import contextlib
import copy
import json
import os
import re
import shutil
import time

from engine import (
    FOLDER, NO_RIGHTS, OURS, PROFILE, READ_ONLY, REPOSITORY, URL, Container, Failure, ask, findings, once, run, tried,
)

# Tests of the contract that can be pointed at a service, and those among them that the container is not the place for.
CONFORMANCE = ["languages", "values", "surroundings", "endings", "bad_requests", "executions"]
NOT_HERE = {
    "running_out_of_memory_is_told_apart":
        "control groups are read-only in a container, so that a program meets its bound as an allocation that fails, and may live on",
    "the_share_of_cpu_is_limited":
        "its service is one of its own, outside; inside, control groups are read-only and CPU is not bounded, as /info says",
}
ATTACKS_LEFT_OUT = {
    "resources": "they bound times, and nothing bounds CPU in a container; `make security` has them for the same kind of user without control groups",
}
HELLO = {
    "python": "def handler(event):\n    return 'Hello'",
    "javascript": "exports.handler = async () => 'Hello'",
    "shell": "echo '\"Hello\"' >&3",
}


def expect(condition, what):
    """Like assert, and never left out."""
    if not condition:
        raise Failure(what)


def says_hello(languages=HELLO):
    """Runs one of each language over HTTP."""
    for language in languages:
        answer = ask("/execute", {"language": language, "code": HELLO[language]})
        expect(answer.get("return_value") == "Hello", f"{language}: {answer}")


def unprivileged():
    """As uid 1000, without a capability, without new privileges, with our profile, on a read-only root."""
    with Container([*OURS, *READ_ONLY]) as service:
        says_hello()
        status = service.inside("cat", "/proc/1/status").stdout
        for field in ("Uid:\t1000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            expect(field in status, f"{field} is not in {status}")
        isolation = ask("/health")
        expect(isolation["isolation"] == "native" and not ask("/info")["isolation_details"]["lacks"], f"{isolation}")
        return f"isolation {isolation['isolation']}, uid 1000, no capability"


def what_people_type():
    """What the troubleshooting document has people type in the container."""
    commands = [
        "bash -c 'ps aux | grep sandbox-executor'", "ls -la /workspace", "cat /proc/1/status", "python --version", "jq --version",
        "bwrap --version", "nslookup -version", "curl -s http://127.0.0.1:$EXECUTOR_PORT/health", "node --version",
        "tail /var/log/executor/executor.log | grep 'Listening on'",
        "bwrap --ro-bind / / --unshare-all /bin/echo Hello", "sandbox-executor doctor",
    ]
    with Container([*OURS, *READ_ONLY]) as service:
        for command in commands:
            done = service.inside("/bin/bash", "-c", command)
            expect(done.returncode == 0 and done.stdout + done.stderr, f"{command}: {done.returncode} {done.stdout}{done.stderr}")
    return f"{len(commands)} commands"


def first_process():
    """As the first process it collects orphans and ends on SIGTERM; what it knew is on the volume."""
    volumes = ["-v", "image-test-state:/var/lib/sandbox-executor", "-v", "image-test-workspace:/workspace"]
    try:
        with Container([*OURS, *volumes]) as service:
            service.inside("sh", "-c", "setsid sh -c 'sleep 1; exit 3' & exit 0")
            orphans = service.inside("ps", "-eo", "ppid,comm,args").stdout
            expect(re.search(r"^ +1 +sh .*sleep 1", orphans, re.M), f"the orphan is not the service's: {orphans}")
            time.sleep(2)
            left = service.inside("ps", "-eo", "stat,args").stdout
            expect(not re.search(r"^Z|sleep 1", left, re.M), f"an orphan was left: {left}")
            ask("/execute", {"language": "shell", "code": "echo kept > file", "execution_id": "kept", "session_id": "s"})
            run("podman", "kill", "--signal", "TERM", service.name)
            code = service.exit_code()
            expect(code == 143 and "Shutting down" in service.log(), f"exit {code}: {service.log()}")
        with Container([*OURS, *volumes]):
            expect(ask("/executions/kept")["status"] == "completed", "the result is gone")
            again = ask("/execute", {"language": "shell", "code": "cat file", "session_id": "s"})
            expect(again["stdout"] == "kept\n", f"the workspace is gone: {again}")
    finally:
        tried("podman", "volume", "rm", "image-test-state", "image-test-workspace")
    return "orphans collected, exit 143, state and workspace kept"


def as_the_document_has_it():
    """`docker run --privileged`, for those who have no profile to give; and with 2 GB."""
    with Container(["--privileged"]) as service:
        says_hello()
        expect(service.doctor()["sandbox"]["status"] == "ok", "doctor does not find a sandbox")
    with Container([*OURS, "-m", "2g"]) as service:
        seen = service.doctor()["machine memory"]["evidence"]
        expect(seen.startswith("2048 MB"), seen)
        big = {"language": "python", "code": "x = b'x' * (400 << 20)\nprint(len(x))"}
        expect(ask("/execute", big)["status"] == "completed", "400 MB do not fit into 2 GB")
    return "--privileged; -m 2g is what doctor sees"


def slim():
    """The image without Node.js says so, and does the rest."""
    with Container(OURS, image="sandbox-executor:slim") as service:
        says_hello(["python", "shell"])
        answer = ask("/execute", {"language": "javascript", "code": "1"})
        expect("error_code" in answer or answer.get("error"), f"{answer}")
        expect(service.inside("node", "--version").returncode != 0, "there is a node")
        return json.dumps(answer.get("error_detail") or answer["error"]["message"])


def contract(binaries):
    """The black-box tests of the contract, pointed at the container."""
    passed = 0
    skips = [part for name in NOT_HERE for part in ("--skip", name)]
    with Container([*OURS, *READ_ONLY]):
        variables = {
            "CONFORMANCE_URL": URL, "CONFORMANCE_PATIENCE": "4",
            "SANDBOX_EXECUTOR": str(REPOSITORY / "target/dist/sandbox-executor"),
        }
        for name in CONFORMANCE:
            done = tried(binaries[name], "--test-threads=4", *skips, env={**os.environ, **variables}, cwd=REPOSITORY)
            expect(done.returncode == 0, f"{name}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
            passed += int(re.search(r"(\d+) passed", done.stdout)[1])
    expect(passed > 100, f"only {passed} tests ran")
    return f"{passed} tests"


def attacks(binaries):
    """The attacks of the security suite, run by it inside the container on a service of its own."""
    folder = FOLDER / "attacks"
    folder.mkdir(exist_ok=True)
    shutil.copy(binaries["attacks"], folder / "attacks")
    variables = {
        "SANDBOX_EXECUTOR": "/usr/local/bin/sandbox-executor", "SECURITY_COLUMNS": "native × user,bubblewrap × user",
        "SECURITY_WITHOUT": ",".join(ATTACKS_LEFT_OUT), "CONFORMANCE_PATIENCE": "4",
    }
    options = [part for item in variables.items() for part in ("-e", "=".join(item))]
    options += ["-v", f"{folder}:/tests:ro", "--entrypoint", "/tests/attacks"]
    done = once([*OURS, *options], "every_attack", "--test-threads=1", seconds=1200)
    text = done.stdout + done.stderr
    (FOLDER / "attacks.log").write_text(text)
    count = re.search(r"all columns: (\d+) verdicts, (\d+) denied, (\d+) contained", text)
    expect(count and int(count[2]) > 300, f"the suite did not run: {text[-3000:]}")
    # The wall of the container stands around the control as well: both are refused in the same way, or by it before us.
    failed = set(re.findall(r"^  FAILED +(\d+) +(.*?)  \((.*)\)$", text, re.M))
    ours = [row for row in failed if not is_the_containers_wall(row)]
    expect(not ours, "\n".join(map(str, ours)))
    expect(failed, "no row met the container's wall: has it one?")
    skips = re.findall(r"SKIPPED +\((.*)\)$", text, re.M)
    return (
        f"{count[1]} verdicts, {count[2]} denied, {count[3]} contained; {len(failed)} rows refused by the container's own filter "
        f"already; {len(skips)} rows skipped: {'; '.join(sorted(set(skips)))}"
    )


def is_the_containers_wall(row):
    """Whether a failed row was refused all the same, and only not by what the suite expects."""
    number, _, why = row
    by_both = re.fullmatch(r".*: (EPERM|ENOSYS|SIGSYS|none), but the control fails: (EPERM|SIGSYS|none)", why)
    # x32 and i386 are no architectures of the profile; the first pids of a container are those of a sandbox, too.
    return by_both or (number == "59" and "SIGSYS instead of ENOSYS" in why) or (number == "33" and "EPERM instead" in why)


def with_calls(change):
    """Our profile, changed, as a file."""
    profile = json.loads(PROFILE.read_text())
    change(profile)
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
    path = FOLDER / "seccomp.json"
    path.write_text(json.dumps(profile))
    return [*NO_RIGHTS, "--security-opt", "systempaths=unconfined", "--security-opt", f"seccomp={path}"]


def isolation_rules(profile):
    """The rules of the profile beyond what an engine allows anyhow."""
    return [rule for rule in profile["syscalls"] if rule["comment"].startswith("Isolation")]


def nothing_to_spare():
    """Each call that the profile adds is needed: without it native or bubblewrap fails, with it both work."""
    names = [name for rule in isolation_rules(json.loads(PROFILE.read_text())) for name in rule["names"]]
    needed_by = {}
    for missing in [None, *names]:
        def change(profile, missing=missing):
            for rule in profile["syscalls"]:
                rule["names"] = [name for name in rule["names"] if name != missing]
        options = with_calls(change)
        if missing == "setns":
            needed_by[missing] = [] if is_warm(options) else ["warm Python"]
            expect(is_warm(OURS), "with the whole profile Python is not warm")
            continue
        failed = []
        for adapter in ("native", "bubblewrap"):
            command = ["run", "--language", "shell", "-"]
            done = once([*options, "-e", f"ISOLATION={adapter}"], *command, stdin="echo fine")
            if "fine" not in done.stdout:
                failed.append(adapter)
        needed_by[missing] = failed
    expect(not needed_by.pop(None), "with the whole profile it does not work")
    spared = [name for name, failed in needed_by.items() if not failed]
    expect(not spared, f"nobody misses {', '.join(spared)}")
    return ", ".join(f"{name} ({' and '.join(failed)})" for name, failed in needed_by.items())


def is_warm(options):
    """Whether Python is forked from one that has started."""
    with Container(options) as service:
        time.sleep(2)
        for _ in range(3):
            says_hello(["python"])
        return not re.search("is started cold|start cold", service.log())


def engines_own(profile):
    """What an engine lets through without our profile: no namespaces by clone, and clone3 as on an old kernel."""
    for rule in isolation_rules(profile):
        rule["names"] = []
    mask = [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    profile["syscalls"].append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": mask})
    profile["syscalls"].append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})


def refused_namespaces():
    """Problem 1, "No permissions to create new namespace": Docker's default filter. Its answer is the profile."""
    options = with_calls(engines_own)
    with Container(options, wait=False) as service:
        code, log = service.exit_code(), service.log()
    expect(code == 1, f"exit {code}")
    for words in ("Isolation setup failed", "No permissions to create new namespace", "seccomp=deploy/profiles/seccomp.json"):
        expect(words in log, f"`{words}` is not in {log}")
    found = findings(once(options, "doctor", "--json").stdout)["seccomp"]
    expect(found["status"] == "problem" and "unshare" in found["cause"], f"{found}")
    expect("deploy/profiles/seccomp.json" in found["fix"], f"{found}")
    # The fix.
    with Container(OURS):
        says_hello(["shell"])
    return found["cause"]


def engine_here():
    """The filter that this engine has of its own."""
    found = findings(once([*NO_RIGHTS, "--security-opt", "systempaths=unconfined"], "doctor", "--json").stdout)
    # It lets most through but sethostname; that can't be tried without rights, so that doctor only suspects the filter.
    expect(found["sandbox"]["fix"] == "the fix of `seccomp`", f"{found['sandbox']}")
    expect("deploy/profiles/seccomp.json" in found["seccomp"]["fix"], f"{found['seccomp']}")
    return found["sandbox"]["cause"]


def masked_proc():
    """Problem 1, "Can't mount proc": the engine masks /proc. bubblewrap can't do without one, native can, and says so."""
    masked = [*NO_RIGHTS, "--security-opt", f"seccomp={PROFILE}"]
    with Container(masked, {"ISOLATION": "bubblewrap"}, wait=False) as service:
        code, log = service.exit_code(), service.log()
    expect(code == 1 and "Can't mount proc on /newroot/proc: Operation not permitted" in log, f"exit {code}: {log}")
    found = findings(once([*masked, "-e", "ISOLATION=bubblewrap"], "doctor", "--json").stdout)
    expect(found["proc"]["status"] == "problem" and "systempaths=unconfined" in found["proc"]["fix"], f"{found['proc']}")
    expect(found["sandbox"]["fix"] == "the fix of `proc`", f"{found['sandbox']}")
    with Container(masked) as service:
        says_hello()
        expect("Sandboxes have no /proc" in service.log() and ask("/health")["isolation"] == "native", service.log())
    # The fix.
    with Container(OURS, {"ISOLATION": "bubblewrap"}):
        says_hello()
        expect(ask("/health")["isolation"] == "bubblewrap", "another adapter")
    return f"{found['proc']['cause']}; native works without"


def unwritable_workspace():
    """Problem 6: a workspace that belongs to somebody else stops the start with the fix."""
    folder = FOLDER / "roots-workspace"
    folder.mkdir(exist_ok=True, mode=0o755)
    with Container([*OURS, "-v", f"{folder}:/workspace"], wait=False) as service:
        code, log = service.exit_code(), service.log()
    expect(code == 1 and "WORKSPACE_PATH = /workspace is not usable" in log and "chmod 755 /workspace" in log, f"{code}: {log}")
    # The fix.
    os.chown(folder, 1000, 1000)
    with Container([*OURS, "-v", f"{folder}:/workspace"]):
        says_hello(["shell"])
    shutil.rmtree(folder)
    return log.strip().splitlines()[-1][26:120]


def composed():
    """The Compose file, by podman-compose; a copy, since this Podman may not know host-gateway and this machine few limits."""
    folder = FOLDER / "deploy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REPOSITORY / "deploy", folder)
    file = folder / "compose" / "compose.yaml"
    text = file.read_text()
    for old, new in [("host-gateway", "192.0.2.1"), ("nofile: 16384", "nofile: 4096\n      nproc: 4096")]:
        expect(old in text, f"{old} is not in compose.yaml")
        text = text.replace(old, new)
    file.write_text(text)
    names = ["sandbox-executor", "control-plane"]
    compose = ["podman-compose", "-f", file.name]
    def all_up():
        return all(tried("podman", "healthcheck", "run", name).returncode == 0 for name in names)
    variables = {**os.environ, "INTERNAL_API_TOKEN": "a-token-of-the-test"}
    try:
        tried(*compose, "up", "-d", cwd=file.parent, env=variables, seconds=120)
        wait_for("both services to be healthy", all_up)
        url = "http://127.0.0.1:8080"
        answer = ask("/execute", {"language": "python", "code": "print(6 * 7)", "execution_id": "composed"}, url=url)
        expect(answer["stdout"] == "42\n", f"{answer}")
        def exec_(*command):
            return tried("podman", "exec", "sandbox-executor", *command).stdout
        expect("healthy" in exec_("curl", "-s", "http://control-plane:8000/health"), "the control plane is out of reach")
        expect("Address" in exec_("nslookup", "control-plane"), "no name")
        expect("192.0.2.1" in exec_("getent", "hosts", "host.docker.internal"), "no name for the host")
        def reports():
            return exec_("curl", "-s", "http://control-plane:8000/calls")
        wait_for("the reports", lambda: all(f'"report": "{kind}"' in reports() for kind in ("ready", "heartbeat", "result")))
        run("podman", "kill", "--signal", "TERM", "sandbox-executor")
        wait_for("the last report", lambda: '"exited"' in run("podman", "logs", "control-plane"))
    finally:
        tried(*compose, "down", "-v", cwd=file.parent, seconds=120)
    return "ready, heartbeat, result, exited; names and health"


def wait_for(what, condition, seconds=40):
    """Until it is true."""
    for _ in range(seconds * 2):
        with contextlib.suppress(json.JSONDecodeError):
            if condition():
                return
        time.sleep(0.5)
    raise Failure(f"waited {seconds} s for {what}")
