"""The image's own pass: a container named `sandbox-executor` from `sandbox-executor:v1.0`, as the pages have it.

`DOCS_ENGINE` names the engine (`docker` unless set) and may hold its options, as podman needs some: blocks find it as `docker`.
`DOCS_RUN` are options for `run`.
"""

import contextlib
import os
import shlex
import subprocess
import tempfile
import time

NAME, IMAGE = "sandbox-executor", "sandbox-executor:v1.0"


@contextlib.contextmanager
def started():
    """Has the container running meanwhile."""
    engine = shlex.split(os.environ.get("DOCS_ENGINE", "docker"))
    options = shlex.split(os.environ.get("DOCS_RUN", ""))
    bins = tempfile.mkdtemp(prefix="engine-")
    real = subprocess.run(["which", engine[0]], check=True, capture_output=True, text=True).stdout.strip()
    words = " ".join(map(shlex.quote, [real, *engine[1:]]))
    run = " ".join(map(shlex.quote, options))
    with open(f"{bins}/docker", "w", encoding="utf-8") as script:
        script.write(f'#!/bin/sh\nif [ "$1" = run ]; then shift; exec {words} run {run} "$@"; fi\nexec {words} "$@"\n')
    os.chmod(f"{bins}/docker", 0o755)
    os.environ["PATH"] = f"{bins}:{os.environ['PATH']}"
    docker = f"{bins}/docker"
    subprocess.run([docker, "run", "--detach", "--name", NAME, IMAGE], check=True)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([docker, "exec", NAME, "curl", "-sf", "http://localhost:8080/health"], check=False,
                             capture_output=True).returncode:
            if time.monotonic() > deadline:
                subprocess.run([docker, "logs", NAME], check=False)
                raise SystemExit("FAILED: the container did not become healthy")
            time.sleep(0.2)
        yield docker
    finally:
        subprocess.run([docker, "rm", "--force", NAME], check=False, capture_output=True)
