"""Podman and buildah with a storage, a network and a configuration of their own below target/image-test, and containers in them."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = REPOSITORY / "target" / "image-test"
PROFILE = REPOSITORY / "deploy" / "profiles" / "seccomp.json"
IMAGE = "sandbox-executor:v1.0"
PORT = 18973
URL = f"http://127.0.0.1:{PORT}"

# How README.md says that the image is run: no rights, and only what isolation needs let through.
NO_RIGHTS = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
OURS = [*NO_RIGHTS, "--security-opt", f"seccomp={PROFILE}", "--security-opt", "systempaths=unconfined"]
READ_ONLY = ["--read-only", "--tmpfs", "/tmp"]

# A machine that is a container itself may raise no limits, and often has no second version of control groups that crun likes.
CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""
NETWORK = """[network]
network_config_dir = "{0}/networks"
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{0}/storage"
runroot = "{0}/run"
"""


class Failure(Exception):
    """What ends the script with a sentence instead of a traceback."""


def prepare():
    """Has every tool use what is below FOLDER."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "containers.conf").write_text(CONFIGURATION + NETWORK.format(FOLDER))
    (FOLDER / "storage.conf").write_text(STORAGE.format(FOLDER))
    os.environ["CONTAINERS_CONF"] = str(FOLDER / "containers.conf")
    os.environ["CONTAINERS_STORAGE_CONF"] = str(FOLDER / "storage.conf")


def clean():
    """Ends what runs and unmounts what is mounted, so that FOLDER can be deleted. Images stay: the next run is quicker with them."""
    tried("podman", "rm", "--all", "--force", "--volumes", "--time", "2")
    # Of a build in stages, buildah leaves containers behind.
    tried("buildah", "rm", "--all")
    tried("podman", "volume", "prune", "--force")
    tried("podman", "network", "prune", "--force")
    for place in reversed(mounted()):
        run("umount", place)
    if mounted():
        raise Failure(f"still mounted: {', '.join(mounted())}")


def mounted():
    """Where something is mounted below FOLDER, in the order in which it was."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    # What parts the fields is written in octal within one (proc_pid_mountinfo(5)).
    places = [re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines]
    return [place for place in places if place.startswith(f"{FOLDER}/")]


def tried(*command, seconds=600, **options):
    """Runs a command and gives what came of it."""
    command = [str(part) for part in command]
    return subprocess.run(command, text=True, capture_output=True, timeout=seconds, check=False, **options)


def run(*command, **options):
    """The same, and a failure is ours; gives what it printed."""
    done = tried(*command, **options)
    if done.returncode != 0:
        raise Failure(f"{shlex.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


def image_bytes(name):
    """The size of an image, with all that it is made of."""
    return json.loads(run("podman", "image", "inspect", name))[0]["Size"]


class Container:
    """A running service from the image; gone at the end of the block."""

    name = "sandbox-executor"

    def __init__(self, options, environment=None, image=IMAGE, wait=True):
        self.options, self.image, self.wait = options, image, wait
        self.environment = {"EXECUTOR_HOST": "127.0.0.1", "EXECUTOR_PORT": str(PORT), **(environment or {})}

    def __enter__(self):
        variables = [part for item in self.environment.items() for part in ("-e", "=".join(item))]
        run("podman", "run", "-d", "--name", self.name, "--network", "host", *variables, *self.options, self.image)
        if self.wait:
            self.until_healthy()
        return self

    def __exit__(self, *_):
        tried("podman", "rm", "-f", "-v", "-t", "5", self.name)

    def until_healthy(self):
        """Waits for the image's own health check to succeed."""
        for _ in range(100):
            if tried("podman", "healthcheck", "run", self.name).returncode == 0:
                return
            if not self.is_running():
                raise Failure(f"the service ended:\n{self.log()}")
            time.sleep(0.3)
        raise Failure(f"the service is not healthy:\n{self.log()}")

    def is_running(self):
        """Whether it has not ended."""
        return run("podman", "inspect", "-f", "{{.State.Running}}", self.name).strip() == "true"

    def exit_code(self, seconds=30):
        """Waits for its end."""
        return int(run("podman", "wait", self.name, seconds=seconds).strip())

    def log(self):
        """What it wrote to its standard streams."""
        done = tried("podman", "logs", self.name)
        return done.stdout + done.stderr

    def inside(self, *command):
        """Runs a command in it, as `docker exec` would."""
        return tried("podman", "exec", self.name, *command)

    def doctor(self, *variables):
        """The findings of `doctor` inside, by name."""
        done = self.inside("env", *variables, "sandbox-executor", "doctor", "--json")
        return findings(done.stdout)


def findings(text):
    """The checks of a `doctor --json` by name."""
    return {check["name"]: check for check in json.loads(text)["checks"]}


def once(options, *command, image=IMAGE, stdin=None, seconds=120):
    """One command in a container of its own."""
    interactive = ["-i"] if stdin is not None else []
    arguments = ["podman", "run", "--rm", "--no-healthcheck", "--network", "host", *interactive, *options, image, *command]
    return tried(*arguments, seconds=seconds, input=stdin)


def ask(path, body=None, url=URL):
    """A request of the service, as the documents write it; gives the answer's JSON."""
    data = [] if body is None else ["-d", json.dumps(body)]
    return json.loads(run("curl", "--silent", "--show-error", "--max-time", "60", f"{url}{path}", *data))
