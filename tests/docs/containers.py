"""The image's own pass: containers of `sandbox-executor:v1.0`, as the pages have them.

`DOCS_ENGINE` names the engine (`docker` unless set) and may hold its options, as podman needs some; blocks find it as `docker`.
`DOCS_RUN` are options that every `docker run` gets. Podman has another word for unmasked system paths; it is put in its place.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAME, IMAGE = "sandbox-executor", "sandbox-executor:v1.0"
# What tells the containers of this check from all others.
LABEL = f"docs-check={os.getpid()}"
UNPRIVILEGED = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "seccomp=deploy/profiles/seccomp.json",
                "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined"]
PATIENCE_SECONDS = 60
# A control plane for the pages that look whether there is one.
STAND_IN = "mkdir -p /tmp/answers && echo healthy > /tmp/answers/health && exec python3 -m http.server --directory /tmp/answers 8000"

SCRIPT = """#!/bin/bash
[ "$1" = run ] || exec {command} "$@"
shift
arguments=()
for argument in "$@"; do
    case "{command} $argument" in
        *podman*" systempaths=unconfined") arguments+=(unmask=ALL) ;;
        # AppArmor is not in every kernel, and podman asks for it then.
        *podman*" apparmor=unconfined") unset 'arguments[-1]' ;;
        *) arguments+=("$argument") ;;
    esac
done
exec {command} run --label {label} {options} "${{arguments[@]}}"
"""


class Engine:
    """What runs containers."""

    def __init__(self):
        words = shlex.split(os.environ.get("DOCS_ENGINE", "docker"))
        real = shutil.which(words[0])
        if real is None:
            raise SystemExit(f"FAILED: there is no {words[0]} here (DOCS_ENGINE)")
        command, options = shlex.join([real, *words[1:]]), os.environ.get("DOCS_RUN", "")
        bins = Path(tempfile.mkdtemp(prefix="engine-"))
        (bins / "docker").write_text(SCRIPT.format(command=command, options=options, label=LABEL), encoding="utf-8")
        (bins / "docker").chmod(0o755)
        os.environ["PATH"] = f"{bins}:{os.environ['PATH']}"

    def docker(self, *arguments, check=True):
        """Runs a command of the engine."""
        done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise OSError(f"docker {shlex.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done

    def clear(self):
        """Removes the containers of the pages."""
        ours = self.docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").stdout.split()
        if ours:
            self.docker("rm", "--force", *ours, check=False)

    def ready(self):
        """Has the container of that name running and healthy."""
        if self.docker("ps", "--quiet", "--filter", f"name=^{NAME}$").stdout.strip():
            return
        self.clear()
        self.docker("run", "--detach", "--name", NAME, "--add-host", "control-plane:127.0.0.1", *UNPRIVILEGED, IMAGE)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.docker("exec", NAME, "curl", "-sf", "http://localhost:8080/health", check=False).returncode:
            if time.monotonic() > deadline:
                log = self.docker("logs", NAME, check=False)
                raise OSError(f"the container did not become healthy:\n{log.stdout}{log.stderr}")
            time.sleep(0.2)
        self.docker("exec", "--detach", NAME, "sh", "-c", STAND_IN)
