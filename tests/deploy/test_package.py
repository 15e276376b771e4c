"""The Debian package and the systemd unit, as far as they can be looked at without installing one or booting the other.

`make vm-test` does both on a machine of its own: tests/vm/systemd.py.
"""

import gzip
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import settings

REPOSITORY = settings.REPOSITORY
UNIT = REPOSITORY / "deploy" / "systemd" / "sandbox-executor.service"
PROGRAM = os.environ.get("SANDBOX_EXECUTOR", str(REPOSITORY / "target" / "release" / "sandbox-executor"))
# In tenths, as systemd-analyze counts them.
MOST_EXPOSURE = 25


def run(*command, **options):
    """A command to its end; gives it with what it printed."""
    return subprocess.run(command, text=True, capture_output=True, check=False, **options)


class Unit(unittest.TestCase):
    """The unit file."""

    def exposure(self, path):
        """Whether it is within bounds, and what was said."""
        done = run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", path)
        return done.returncode == 0, (done.stdout or done.stderr).splitlines()[-1]

    def test_its_exposure_is_bounded(self):
        """And one line less is seen."""
        within, told = self.exposure(UNIT)
        self.assertTrue(within, told)
        print(told)
        with tempfile.TemporaryDirectory() as folder:
            weaker = pathlib.Path(folder) / UNIT.name
            weaker.write_text(UNIT.read_text().replace("NoNewPrivileges=yes", "").replace("CapabilityBoundingSet=", ""))
            within, told = self.exposure(weaker)
            self.assertFalse(within, told)

    def test_systemd_understands_it(self):
        """With the program where it is on this machine."""
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder) / UNIT.name
            text = UNIT.read_text().replace("/usr/bin/sandbox-executor", PROGRAM)
            text = re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE)
            for spoilt, wanted in [("", ""), ("ProtectEverything=yes\n", "ProtectEverything")]:
                place.write_text(text.replace("[Install]", f"{spoilt}\n[Install]"))
                told = run("systemd-analyze", "verify", "--recursive-errors=no", place).stderr
                self.assertEqual(told.strip() == "", wanted == "", told)
                self.assertIn(wanted, told)

    def test_the_grace_of_the_unit_is_longer_than_the_services(self):
        """By enough to report the end."""
        value = dict(re.findall(r"^(?:Environment=)?(\w+)=(\d+)$", UNIT.read_text(), re.MULTILINE))
        self.assertGreaterEqual(int(value["TimeoutStopSec"]), int(value["SHUTDOWN_GRACE"]) + 15)


class Package(unittest.TestCase):
    """The package, made for this and taken apart."""

    @classmethod
    def setUpClass(cls):
        made = run(REPOSITORY / "scripts" / "deb", env={**os.environ, "BINARY": PROGRAM})
        if made.returncode:
            raise AssertionError(made.stdout + made.stderr)
        cls.path = REPOSITORY / made.stdout.strip()
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="package-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        run("dpkg-deb", "--extract", cls.path, cls.folder)
        run("dpkg-deb", "--control", cls.path, cls.folder / "DEBIAN")

    def test_lintian_finds_nothing(self):
        """Errors and warnings; what is overridden says why."""
        done = run("lintian", "--fail-on", "error,warning", "--tag-display-limit", "0", self.path)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_the_program_in_it_runs(self):
        """Takes the settings file that comes along."""
        program = self.folder / "usr/bin/sandbox-executor"
        config = self.folder / "etc/sandbox-executor/config.toml"
        self.assertEqual(config.read_text(), (REPOSITORY / "config.default.toml").read_text())
        done = run(program, "--config", config, "config", env={"STATE_PATH": "/srv/state"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("EXECUTOR_PORT", done.stdout)

    def test_it_depends_on_what_the_program_is_linked_against(self):
        """By the libraries' own packages."""
        wanted = run("dpkg-deb", "--field", self.path, "Depends").stdout
        self.assertIn("adduser", wanted)
        self.assertEqual("libc6 (>= " in wanted, "libc.so" in run("ldd", PROGRAM).stdout, wanted)

    def test_settings_survive_updates_and_tokens_are_roots(self):
        """What people edit is a configuration file to dpkg."""
        kept = (self.folder / "DEBIAN/conffiles").read_text().split()
        wanted = ["/etc/logrotate.d/sandbox-executor", "/etc/sandbox-executor/config.toml", "/etc/sandbox-executor/environment"]
        self.assertEqual(sorted(kept), wanted)
        self.assertEqual((self.folder / "etc/sandbox-executor/environment").stat().st_mode & 0o777, 0o600)

    def test_the_unit_names_what_is_there(self):
        """Program and files."""
        unit = (self.folder / "lib/systemd/system/sandbox-executor.service").read_text()
        for path in re.findall(r"(?<=[ =-])/(?:usr/bin|etc)/[\w/.-]+", unit):
            self.assertTrue((self.folder / path.lstrip("/")).exists(), path)

    def test_the_manual_page_reads(self):
        """Without a warning, with every setting."""
        page = self.folder / "usr/share/man/man1/sandbox-executor.1.gz"
        done = run("man", "--local-file", "--warnings", page, env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        flags = re.findall(r"Flag: (--\S+)", (REPOSITORY / "config.default.toml").read_text())
        self.assertGreater(len(flags), 40)
        self.assertEqual([flag for flag in flags if flag not in done.stdout], [])
        with tempfile.NamedTemporaryFile("w", suffix=".1") as spoilt:
            spoilt.write(gzip.decompress(page.read_bytes()).decode() + "\n.nosuchmacro\n")
            spoilt.flush()
            self.assertIn("nosuchmacro", run("man", "--local-file", "--warnings", spoilt.name).stderr)

    def test_shells_take_their_completions(self):
        """bash completes with it; the others where they are installed."""
        script = self.folder / "usr/share/bash-completion/completions/sandbox-executor"
        function = "complete -p sandbox-executor | grep -o '[^ ]*executor' | head -1"
        ask = 'COMP_WORDS=(sandbox-executor do); COMP_CWORD=1; $function sandbox-executor do; echo "${COMPREPLY[@]}"'
        done = run("bash", "-c", f". {script}; function=$({function}); {ask}")
        self.assertEqual(done.stdout.split(), ["doctor"], done.stderr)
        others = {
            "zsh": "usr/share/zsh/vendor-completions/_sandbox-executor",
            "fish": "usr/share/fish/vendor_completions.d/sandbox-executor.fish",
        }
        for shell, path in others.items():
            self.assertIn("max-memory-mb", (self.folder / path).read_text())
            if shutil.which(shell):
                self.assertEqual(run(shell, "-n", self.folder / path).returncode, 0, shell)

    def test_the_scripts_are_shell(self):
        """And stop at a failure."""
        for name in ("postinst", "prerm", "postrm"):
            script = self.folder / "DEBIAN" / name
            self.assertEqual(run("sh", "-n", script).returncode, 0, name)
            self.assertIn("\nset -e\n", script.read_text())

    def test_two_builds_are_the_same(self):
        """Of the same program at the same commit."""
        before = self.path.read_bytes()
        run(REPOSITORY / "scripts" / "deb", env={**os.environ, "BINARY": PROGRAM})
        self.assertEqual(self.path.read_bytes(), before)


if __name__ == "__main__":
    unittest.main()
