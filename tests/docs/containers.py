"""The image's own pass: containers of `sandbox-executor:v1.0`, as the pages have them.

`DOCS_ENGINE` names the engine (`docker` unless set) and may hold its options, as podman needs some; blocks find it as `docker`.
`DOCS_RUN` are options that every `docker run` gets.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAME, IMAGE = "sandbox-executor", "sandbox-executor:v1.0"
PATIENCE_SECONDS = 60


class Engine:
    """What runs containers."""

    def __init__(self):
        words = shlex.split(os.environ.get("DOCS_ENGINE", "docker"))
        real = shutil.which(words[0])
        if real is None:
            raise SystemExit(f"FAILED: there is no {words[0]} here (DOCS_ENGINE)")
        command, options = shlex.join([real, *words[1:]]), os.environ.get("DOCS_RUN", "")
        bins = Path(tempfile.mkdtemp(prefix="engine-"))
        script = f'#!/bin/sh\n[ "$1" = run ] || exec {command} "$@"\nshift\nexec {command} run {options} "$@"\n'
        (bins / "docker").write_text(script, encoding="utf-8")
        (bins / "docker").chmod(0o755)
        os.environ["PATH"] = f"{bins}:{os.environ['PATH']}"

    def docker(self, *arguments, check=True):
        """Runs a command of the engine."""
        return subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True)

    def clear(self):
        """Removes the containers of the pages."""
        ours = self.docker("ps", "--all", "--quiet", "--filter", f"ancestor={IMAGE}").stdout.split()
        if ours:
            self.docker("rm", "--force", *ours, check=False)

    def ready(self):
        """Has the container of that name running and healthy."""
        if self.docker("ps", "--quiet", "--filter", f"name=^{NAME}$").stdout.strip():
            return
        self.clear()
        self.docker("run", "--detach", "--name", NAME, IMAGE)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.docker("exec", NAME, "curl", "-sf", "http://localhost:8080/health", check=False).returncode:
            if time.monotonic() > deadline:
                log = self.docker("logs", NAME, check=False)
                raise OSError(f"the container did not become healthy:\n{log.stdout}{log.stderr}")
            time.sleep(0.2)
