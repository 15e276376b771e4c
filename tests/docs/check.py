#!/usr/bin/python3
"""Checks the documents: every code block does what its page says, links lead somewhere, figures are those of
bench/results, translations are in step.

    check.py                  all of it, against target/release/sandbox-executor (or $SANDBOX_EXECUTOR)
    check.py PAGE…            the blocks of these pages
    check.py --image          the blocks that need the container image, with docker or podman
    check.py --structure      nothing is run

Ends with 1 when something is wrong. What can't be run here is told, with its reason, and counted.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import containers
import machine
import stand_ins
from pages import Malformed, read
from runner import LOG, Failed, Needs, Runner, Skipped
from structure import figures, links, out_of_step, unmarked

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SANDBOX_EXECUTOR", ROOT / "target/release/sandbox-executor")).resolve()
# What was downloaded, for the next time.
WHEELS = ROOT / "target/docs"
# Pages whose blocks are for readers of the code, or are those of another page.
NOT_RUN = {"CHANGELOG.md", "CONTRIBUTING.md"}
# What the pages there say is what `make image-test` does.
NOT_RUN_BELOW = {"deploy/docker", "deploy/profiles"}


def tracked():
    """Every page of the repository."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(line) for line in listed.splitlines() if Path(line).exists()]


def original(path):
    """The page that this one translates, if it does."""
    return path.with_name(path.name.replace(".zh-CN.md", ".md")) if path.name.endswith(".zh-CN.md") else None


def structure(pages):
    """Everything that is wrong without running a block."""
    by_path = {page.path: page for page in pages}
    run = {page.path for page in pages if original(page.path) is None and page.path.name not in NOT_RUN}
    run = {path for path in run if str(path.parent) not in NOT_RUN_BELOW}
    found = [*unmarked(pages, run), *links(ROOT, pages), *figures(ROOT, by_path)]
    for page in pages:
        if source := original(page.path):
            found += out_of_step(by_path[source], page)
    return found, [page for page in pages if page.path in run and page.blocks]


def run(pages, needs):
    """Runs the blocks; how many were run, what failed and what was skipped."""
    done, failed, skipped = 0, [], []
    for page in pages:
        started, before = time.monotonic(), done
        if needs.containers is None:
            # This machine is ours, and so is its log.
            Path(LOG).unlink(missing_ok=True)
        runner = Runner(BINARY, needs)
        # The others are told by `unmarked`.
        for block in filter(lambda block: block.marker, page.blocks):
            where = f"{page.path}:{block.line}"
            try:
                runner.block(block)
                done += block.text is not None
            except Skipped as why:
                if str(why) != "is not about the image":
                    skipped.append(f"{where} ({block.section}): {why}")
            except (Failed, OSError, ValueError) as error:
                failed.append(f"{where} ({block.section}): {error}")
                if block.marker.verb == "service":
                    # Everything after it would say the same.
                    break
        try:
            runner.close()
        except Failed as error:
            failed.append(f"{page.path}: {error}")
        if done > before:
            print(f"{page.path}: {done - before} blocks run in {time.monotonic() - started:.1f} s", flush=True)
    return done, failed, skipped


def main(arguments):
    """Everything that was asked for."""
    os.chdir(ROOT)
    with_image = "--image" in arguments
    named = {Path(name) for name in arguments if not name.startswith("--")}
    if "--structure" not in arguments and not with_image:
        stand_ins.download(WHEELS)
        machine.enter([ROOT, BINARY.parent])
        if not os.access(BINARY, os.X_OK):
            sys.exit(f"FAILED: there is no {BINARY}: `make build` makes it")
    wrong, pages = structure([read(path) for path in tracked()])
    done, skipped = 0, []
    if "--structure" not in arguments:
        pages = [page for page in pages if not named or page.path in named]
        if with_image:
            engine = containers.Engine()
            try:
                done, failed, skipped = run(pages, Needs(engine))
            finally:
                engine.clear()
        else:
            stand_ins.control_plane()
            stand_ins.wheels("/tmp/wheels", WHEELS)
            done, failed, skipped = run(pages, Needs(None))
        wrong += failed
    for line in skipped:
        print(f"SKIPPED: {line}")
    for line in wrong:
        print(f"FAILED: {line}")
    print(f"{done} blocks run, {len(skipped)} skipped, {len(wrong)} wrong")
    return 1 if wrong or (done == 0 and "--structure" not in arguments) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Malformed as error:
        sys.exit(f"FAILED: {error}")
