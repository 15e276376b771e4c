"""A machine of the pages' own, so that what they say can be typed as it stands.

Port 8080, /workspace, /var/log/executor and the name `control-plane` belong to nobody else in it: namespaces for mounts,
network and processes, and a root folder in memory in which everything but a few folders is the host's. Nothing of it outlives the
check. An ordinary user gets it as root of a user namespace with subordinate ids (`apt-get install uidmap`).
"""

import os
import subprocess
import sys
from pathlib import Path

MARK = "DOCS_MACHINE"
HOSTS = "127.0.0.1 localhost control-plane control-plane-service host.docker.internal\n"


def run(*command):
    """Runs a command, or ends with what it said."""
    subprocess.run(command, check=True)


def enter(folders):
    """Returns inside, where these folders are as they were; outside it starts itself anew and ends with what that ended with."""
    if os.environ.get(MARK) == "inside":
        return furnish(folders)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    namespaces = ["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child=SIGTERM"]
    command = ["unshare", *user, *namespaces, sys.executable, "-B", *sys.argv]
    sys.exit(subprocess.run(command, env={**os.environ, MARK: "inside"}).returncode)


def furnish(folders):
    """Builds the root folder and changes to it."""
    here = os.getcwd()
    run("mount", "--make-rprivate", "/")
    root = Path("/mnt")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "docs", str(root))
    for entry in sorted(Path("/").iterdir()):
        ours = root / entry.name
        if entry.name in {"proc", "tmp", "workspace", "mnt", "var"}:
            continue
        if entry.is_symlink():
            ours.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            ours.mkdir()
            run("mount", "--rbind", str(entry), str(ours))
    for name in ["proc", "tmp", "workspace", "mnt", "old", "var/log/executor", "var/lib", "var/tmp"]:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/tmp").chmod(0o1777)
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    for folder in folders:
        inside = root / folder.relative_to("/")
        if not inside.exists():
            inside.mkdir(parents=True)
            run("mount", "--rbind", str(folder), str(inside))
    hosts = root / "tmp/.hosts"
    hosts.write_text(HOSTS, encoding="utf-8")
    run("mount", "--bind", str(hosts), str(root / "etc/hosts"))
    run("ip", "link", "set", "lo", "up")
    os.chdir(root)
    run("pivot_root", ".", "old")
    os.chdir("/")
    run("umount", "--lazy", "/old")
    os.rmdir("/old")
    os.chdir(here)
