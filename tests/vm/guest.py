"""What runs in the guest: the limits' own tests, the contract's, quotas, the attacks, and the service in each situation.

One line a step goes to descriptor 3, which is the host's: PASS, FAIL or SKIP, its name, what there is to say; END is the
last. What the steps print goes to the console.
"""

import os
import pathlib
import re
import subprocess
import sys
import time

import scenarios

VM = pathlib.Path("/vm")
PROGRAM = VM / "sandbox-executor"
ADAPTERS = ["native", "bubblewrap"]

# What does not hold on an emulated machine, where an interpreter starts in seconds: these measure time themselves, or
# let a program work for one second before its timeout.
MEASURING = {
    "endings": {
        "a_timeout_keeps_what_was_printed_until_then": "its programs have one second to start and print",
        "the_timeout_in_the_event_goes_before_the_other": "bounds the time of whole executions",
        "daemons_are_gone_when_the_answer_is_sent": "its program has three seconds to start, fork and beat",
        "a_child_left_behind_does_not_hold_the_answer": "bounds the time of whole executions",
        "a_fork_bomb_is_contained": "bounds the time of /health",
        "the_metrics_are_the_programs_own": "bounds the CPU time of starting; the scenarios look at the metrics too",
        "the_share_of_cpu_is_limited": "bounds the CPU time of starting; the scenarios look at the share too",
        "a_flood_of_output_is_drained_counted_and_cut": "800 MB through emulated pipes",
    },
    "service": {
        "the_log_has_the_documents_patterns": "its first program has one second in all",
        "a_full_queue_is_told_with_a_time_to_come_back": "bounds times of answers",
        "a_second_service_on_the_same_state_stops": "bounds the time of a start",
    },
}
# A skip inside of a test is a failure here, where all of it was to run, unless it is one of these.
RIGHTLY_SKIPPED = [
    "this host does not use version 1 of cgroups",
    # Its rows bound times of answers.
    "the part resources: SECURITY_WITHOUT names it",
    # Its races are run a fixed number of times, a quarter of an hour in each column there.
    "the part swaps: SECURITY_WITHOUT names it",
]


def parameters():
    """What the host wants, from the kernel's command line."""
    words = pathlib.Path("/proc/cmdline").read_text().split()
    return dict(word.removeprefix("vm_").split("=", 1) for word in words if word.startswith("vm_"))


def say(kind, name, text=""):
    """A line for the host, and for the console."""
    line = f"{kind} {name}{': ' if text else ''}{text}"
    os.write(3, f"{line}\n".encode())
    print(f"== {line}", flush=True)


class Steps:
    """The list, as it is worked through."""

    def __init__(self, options):
        self.only = options.get("only", "")
        self.adapters = [name for name in options.get("adapters", "").split(",") if name] or ADAPTERS
        self.is_emulated = options.get("emulated") == "1"
        self.environment = {
            **os.environ,
            "CONFORMANCE_PATIENCE": options.get("patience", "1"),
            "SANDBOX_EXECUTOR": str(PROGRAM),
            "RUST_BACKTRACE": "1",
        }

    def wanted(self, name):
        """Whether this step is to run."""
        return self.only in name.replace(" ", "-")

    def binary(self, name, title, arguments, environment=None):
        """A test binary of libtest's, with these arguments."""
        if not self.wanted(title):
            return
        start = time.monotonic()
        process = subprocess.Popen(
            [VM / "tests" / name, *arguments, "--nocapture"],
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines = []
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
        self.judge(title, process.wait(), "".join(lines), time.monotonic() - start)

    def judge(self, title, status, text, seconds):
        """The verdict on the output of a test binary."""
        counts = re.findall(r"test result: \w+\. (\d+) passed; (\d+) failed", text)
        passed = sum(int(count) for count, _ in counts)
        skips = re.findall(r"SKIPPED(?:, \d+ tests?)?: (.*)", text)
        wrong = [why for why in skips if not any(right in why for right in RIGHTLY_SKIPPED)]
        for why in sorted(set(skips)):
            say("SKIP", title, f"{skips.count(why)} ×: {why}")
        summary = re.findall(r"^  \S+ × \S+: \d+ verdicts.*$", text, re.MULTILINE)
        told = "; ".join([f"{passed} tests in {seconds:.0f} s", *(line.strip() for line in summary)])
        if status == 0 and passed > 0 and not wrong:
            say("PASS", title, told)
        else:
            failed = sorted(set(re.findall(r"^    (\S+)$", text, re.MULTILINE)))
            say("FAIL", title, f"status {status}; {told}; {' '.join(failed)}")

    def conformance(self, name, adapter):
        """A file of the contract's tests, without those that measure time where time is not to be trusted."""
        title = f"conformance {name} ({adapter})"
        if not self.wanted(title):
            return
        skipped = MEASURING[name] if self.is_emulated else {}
        for test, why in skipped.items():
            say("SKIP", title, f"{test}: {why}")
        arguments = [word for test in skipped for word in ("--skip", test)]
        self.binary(name, title, [*arguments, "--test-threads=2"], {"ISOLATION": adapter})

    def projects(self, adapter):
        """Quotas, where the file system itself holds workspaces to them."""
        environment = {"ISOLATION": adapter, "TMPDIR": "/projects"}
        parts = ["projects::"] if self.is_emulated else ["projects::", "quota::", "transfer::"]
        # Of the service's own quota alone: there somebody gets beyond the line.
        parts += ["--skip", "a_workspace_over_the_line", "--skip", "many_who_each_cross_the_line"]
        self.binary("files", f"project quota ({adapter})", [*parts, "--test-threads=2"], environment)

    def attacks(self):
        """The escape suite."""
        without = "resources,swaps" if self.is_emulated else ""
        self.binary("attacks", "security", ["--test-threads=1"], {"SECURITY_WITHOUT": without})

    def scenario(self, name, body):
        """A function that raises what is wrong."""
        if not self.wanted(name):
            return
        start = time.monotonic()
        try:
            body()
        except Exception as error:  # Whatever it is, the list goes on.
            say("FAIL", name, " ".join(str(error).split())[:500] or repr(error))
            scenarios.show_logs()
            return
        say("PASS", name, f"{time.monotonic() - start:.0f} s")


def main():
    """Works through the list."""
    steps = Steps(parameters())
    steps.binary("sandbox", "limits", ["limits::", "--test-threads=1"])
    for body in scenarios.ALL:
        for adapter in steps.adapters:
            name = f"scenario {body.__name__.replace('_', ' ')} ({adapter})"
            steps.scenario(name, lambda body=body, adapter=adapter: body(PROGRAM, adapter))
    for adapter in steps.adapters:
        steps.conformance("endings", adapter)
        steps.projects(adapter)
    steps.conformance("service", steps.adapters[0])
    steps.attacks()
    say("END", "of the list")
    return 0


if __name__ == "__main__":
    sys.exit(main())
