"""pip, venv and compileall: wheels with dependencies are resolved and installed without an index."""

import os
import subprocess
import sys
import zipfile

# What depends on what. The newest `middle` can't be had with `top`, so the resolver has to go back.
WHEELS = [
    ("top", "1.0", ["middle>=1", "base<2"]),
    ("middle", "1.0", ["base>=1"]),
    ("middle", "2.0", ["base>=2"]),
    ("base", "1.5", ["absent; python_version < '3'"]),
    ("base", "2.0", []),
]


def make_wheels():
    os.mkdir("wheels")
    for name, version, requires in WHEELS:
        about = f"{name}-{version}.dist-info"
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
        files = {
            f"{name}.py": f"version = {version!r}\n\ndef main():\n    print({name!r}, version)\n",
            f"{about}/METADATA": "\n".join(metadata) + "\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/entry_points.txt": f"[console_scripts]\n{name}-command = {name}:main\n",
        }
        record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
        with zipfile.ZipFile(f"wheels/{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in {**files, f"{about}/RECORD": record}.items():
                wheel.writestr(path, text)


def run(*command, python=sys.executable):
    return subprocess.run([python, *command], capture_output=True, text=True)


def pip(*arguments, python=sys.executable):
    options = ["--no-index", "--find-links", "wheels", "--disable-pip-version-check", "-q"]
    result = run("-m", "pip", *arguments, *options, python=python)
    return result if result.returncode else sorted(os.listdir("got")) if "got" in arguments else "done"


def installed():
    code = "import top, middle, base; print(top.version, middle.version, base.version)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "site"}
    ).stdout.split()


def environment():
    made = run("-m", "venv", "--without-pip", "--system-site-packages", "env")
    python = "env/bin/python"
    prefix = run("-c", "import sys; print(sys.prefix, sys.prefix != sys.base_prefix)", python=python).stdout.split()
    pip("install", "top", python=python)
    command = subprocess.run(["env/bin/middle-command"], capture_output=True, text=True).stdout
    return [made.returncode, prefix, command]


def compiled():
    os.mkdir("package")
    for number in range(20):
        with open(f"package/module{number}.py", "w") as file:
            file.write(f"value = {number}\n")
    one = run("-m", "compileall", "-q", "package").returncode
    many = run("-m", "compileall", "-q", "-f", "-j", "2", "package").returncode
    return [one, many, len(os.listdir("package/__pycache__"))]


def handler(event):
    make_wheels()
    version = run("-m", "pip", "--version").stdout.split()
    conflict = pip("install", "--target", "other", "top", "base==2.0")
    return {
        "version": version[:1],
        "download": pip("download", "-d", "got", "top"),
        "install": [pip("install", "--target", "site", "top"), installed()],
        "conflict": [conflict.returncode, "ResolutionImpossible" in conflict.stderr],
        "environment": environment(),
        "compiled": compiled(),
    }
