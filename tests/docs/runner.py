"""Carries out what the markers ask for.

| verb | does with the block |
|---|---|
| `run` | bash runs it (`-eo pipefail`); `exit`: the status (0). `until`: runs on until its output has this, then it is interrupted |
| `answer` | it is the JSON that the block before printed last: the same keys and values; `…` in a text stands for any, a time for any time, a number \
that is not whole for any number. `of`: the kind of that, in a list or a field (`.a.0`). `partial`: there may be more keys |
| `execute` | sends it as the code of an execution; the keys look at the answer. `timeout`, `event` are the request's |
| `said` | each line of the block is in the output of the command `by`; numbers with a unit and `…` stand for any |
| `data` | it is JSON, YAML or TOML |
| `skip` | nothing, and `why` is told |
| `service` | alone: a service with these variables is running from here on |

`expect` and `refuse` are patterns that the output must and must not have. `before` and `after` are lines of the same language around
the block that the reader does not see. `own` in the marker: the block starts a service of its own, so the page's is stopped
meanwhile. `needs` names what must be there, or the block is skipped, loudly: see `Needs`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

# For a machine that has much else to do; nothing waits for it otherwise.
PATIENCE_SECONDS = 120
URL = "http://localhost:8080"
LOG = "/var/log/executor/executor.log"


class Failed(Exception):
    """A block that does not do what its page says."""


class Skipped(Exception):
    """A block that can't be run here, and why."""


class Needs:
    """What blocks may need beyond the machine that the pages have."""

    def __init__(self, containers):
        self.containers = containers
        self.compose = containers is not None and "DOCS_COMPOSE" in os.environ

    def missing(self, name):
        """Why it is not there, or nothing."""
        if name in {"image", "container"}:
            return None if self.containers else "needs the container image: `make image-test` runs it"
        if name == "compose":
            return None if self.compose else "needs the Compose network with the control plane in it"
        if name == "cluster":
            return "needs a Kubernetes cluster"
        if name == "engine":
            return None if self.containers else "needs a container engine that answers"
        if name == "systemd":
            return None if Path("/run/systemd/system").exists() and os.getpid() != 1 else "needs systemd as the first process"
        if name == "profiler":
            return None if list(Path("/tmp/wheels").glob("memory_profiler-*")) else "needs memory_profiler, and no index was in reach"
        if name == "macos":
            return "needs a Mac"
        return None if shutil.which(name) else f"needs {name}, which is not installed"


def check(output, marker, what="the output"):
    """Holds an output against `expect` and `refuse`."""
    for pattern in marker.all("expect"):
        if not re.search(pattern, output, re.M):
            raise Failed(f"/{pattern}/ is not in {what}:\n{output[-3000:]}")
    for pattern in marker.all("refuse"):
        if re.search(pattern, output, re.M):
            raise Failed(f"/{pattern}/ is in {what}:\n{output[-3000:]}")


def last_json(text):
    """The last JSON value in an output, behind headers and other lines."""
    decoder, found = json.JSONDecoder(), None
    at = 0
    while (at := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)) >= 0:
        try:
            found, at = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
    if found is None:
        raise Failed(f"there is no JSON in what the block before printed:\n{text[-3000:]}")
    return found


def differences(shown, real, partial, where="."):
    """Where an answer is not what the page shows."""
    if isinstance(shown, dict) and isinstance(real, dict):
        missing, more = shown.keys() - real.keys(), real.keys() - shown.keys()
        yield from (f"{where}{key} is not there" for key in sorted(missing))
        yield from (f"{where}{key} is not shown" for key in sorted(more) if not partial)
        for key in shown.keys() & real.keys():
            yield from differences(shown[key], real[key], partial, f"{where}{key}.")
    elif isinstance(shown, list) and isinstance(real, list):
        if len(shown) != len(real):
            yield f"{where} has {len(real)} items, {len(shown)} are shown"
        for index, pair in enumerate(zip(shown, real)):
            yield from differences(*pair, partial, f"{where}{index}.")
    elif isinstance(shown, str) and isinstance(real, str):
        pattern = re.escape(shown).replace("…", ".*")
        if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", shown):
            pattern = re.sub(r"\d", r"\\d", pattern)
        if not re.fullmatch(pattern, real, re.S):
            yield f"{where} is {real!r}, not {shown!r}"
    elif isinstance(shown, float) and isinstance(real, (int, float)) and not isinstance(real, bool):
        pass
    elif shown != real or type(shown) is not type(real):
        yield f"{where} is {real!r}, not {shown!r}"


def bash(script, folder, environment, until=None):
    """Runs a script; its status and what it printed. With `until` it is interrupted when it has printed that."""
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        child = subprocess.Popen(
            ["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        deadline, reached = time.monotonic() + PATIENCE_SECONDS, False

        def printed():
            out.seek(0)
            return out.read()

        while child.poll() is None and time.monotonic() < deadline and not reached:
            time.sleep(0.02)
            reached = until is not None and re.search(until, printed(), re.M) is not None
        still_there = child.poll() is None
        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(10)
            time.sleep(0 if not still_there else 0.1)
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        child.wait(10)
        text = printed()
        if until is not None:
            reached = reached or re.search(until, text, re.M) is not None
            if not reached:
                raise Failed(f"/{until}/ did not come up in {PATIENCE_SECONDS} s:\n{text[-3000:]}")
            return 0, text
        if still_there:
            raise Failed(f"it did not end within {PATIENCE_SECONDS} s:\n{text[-3000:]}")
        return child.returncode, text


class Runner:
    """Runs the blocks of one page."""

    def __init__(self, binary, needs):
        self.folder = tempfile.mkdtemp(prefix="page-")
        bins = tempfile.mkdtemp(prefix="bin-")
        os.chmod(bins, 0o755)
        os.symlink(binary, f"{bins}/sandbox-executor")
        self.needs, self.process, self.variables = needs, None, None
        here = Path(__file__).resolve().parent / "bin"
        self.environment = {**os.environ, "PATH": f"{bins}:{here}:{os.environ['PATH']}", "HOME": self.folder}
        self.environment.pop("DOCS_MACHINE", None)
        self.output = ""
        # Nobody watches how far it got; and each answer has lines of its own.
        Path(self.folder, ".curlrc").write_text('silent\nshow-error\nwrite-out = "\\n"\n', encoding="utf-8")
        self.own = {"LOG_FILE": LOG, "ALLOWED_INDEX_URLS": "file:///tmp/wheels",
                    "STATE_PATH": f"{self.folder}/.state"}

    def start(self, variables):
        """Starts the service of the page, or starts it anew with other variables."""
        self.stop()
        self.variables = variables
        environment = {**self.environment, **self.own, **dict(word.split("=", 1) for word in variables)}
        self.log = open("/tmp/service.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            ["sandbox-executor", "serve"], env=environment, cwd=self.folder, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{URL}/health", timeout=10) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
            if self.process.poll() is not None:
                break
        raise Failed("the service of the page did not start:\n" + Path("/tmp/service.log").read_text(encoding="utf-8"))

    def stop(self):
        """Stops the service, which must have lived until then and end as it promises."""
        if self.process is None:
            return
        lived = self.process.poll() is None
        self.process.terminate()
        status = self.process.wait(20)
        self.process = None
        self.log.close()
        if not lived or status != 143:
            raise Failed(f"the service ended with {status}, which is not 143, or before it was told to:\n"
                         + Path("/tmp/service.log").read_text(encoding="utf-8")[-3000:])

    def block(self, block):
        """Does what the marker asks for."""
        marker = block.marker
        if marker.verb == "skip":
            raise Skipped(marker.one("why", "no reason is given"))
        for need in marker.all("needs"):
            if why := self.needs.missing(need):
                raise Skipped(why)
        if self.needs.containers and not {"image", "container", "engine"} & set(marker.all("needs")):
            raise Skipped("is not about the image")
        if "container" in marker.all("needs"):
            self.needs.containers.ready()
        elif "image" in marker.all("needs"):
            self.needs.containers.clear()
        if marker.verb == "service":
            return self.start(marker.words)
        own = "own" in marker.words and self.process is not None
        variables = self.variables
        if own:
            self.stop()
        try:
            getattr(self, marker.verb)(block, marker)
        finally:
            if own:
                self.start(variables)

    def run(self, block, marker):
        """`run`."""
        text = block.text
        if self.needs.containers:
            # There is no terminal here.
            text = re.sub(r"\bexec -it\b", "exec -i", text)
        script = "\n".join(filter(None, [marker.one("before"), text, marker.one("after")]))
        environment = self.environment if "bare" in marker.words else {**self.environment, **self.own}
        # Commands about the image name files of the repository.
        folder = Path.cwd() if self.needs.containers else self.folder
        status, output = bash(script, folder, environment, marker.one("until"))
        if status != int(marker.one("exit", "0")):
            raise Failed(f"it ended with {status}:\n{output[-3000:]}")
        self.output = output
        check(output, marker)

    def answer(self, block, marker):
        """`answer`."""
        real = last_json(self.output)
        for key in marker.one("of", "").split(".")[1:]:
            real = real[int(key) if isinstance(real, list) else key]
        if wrong := list(differences(json.loads(block.text), real, "partial" in marker.words)):
            raise Failed("; ".join(wrong))

    def execute(self, block, marker):
        """`execute`."""
        code = "\n".join(filter(None, [marker.one("before"), block.text, marker.one("after")]))
        languages = {"py": "python", "js": "javascript", "bash": "shell", "sh": "shell"}
        request = {"language": languages.get(block.language, block.language), "code": code}
        if "event" in marker.keys:
            request["event"] = json.loads(marker.one("event"))
        if "timeout" in marker.keys:
            request["timeout"] = int(marker.one("timeout"))
        request = urllib.request.Request(f"{URL}/execute", json.dumps(request).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            check(answer.read().decode(), marker, "the answer")

    def said(self, block, marker):
        """`said`."""
        _, output = bash(marker.one("by"), self.folder, {**self.environment, **self.own}, marker.one("until"))
        for line in filter(None, map(str.strip, block.text.split("\n"))):
            pattern = re.escape(line).replace("…", ".*")
            pattern = re.sub(r"\d+(?=(\.\d+)?\\? ?(ms|MB|s)\b)", r"[0-9.]+", pattern)
            if not re.search(pattern, output):
                raise Failed(f"nothing says `{line}`:\n{output[-3000:]}")
        check(output, marker)

    def data(self, block, marker):
        """`data`."""
        if block.language == "json":
            value = json.loads(block.text)
        elif block.language == "toml":
            import tomllib
            value = tomllib.loads(block.text)
        elif block.language == "yaml":
            import yaml
            value = list(yaml.safe_load_all(block.text))
        else:
            raise Failed(f"nobody knows how to read `{block.language}`")
        check(json.dumps(value, default=str), marker, "what was read")

    def close(self):
        """The end of the page."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
