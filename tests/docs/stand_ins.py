"""What the pages talk to: a control plane that takes every report, and a folder of wheels in place of an index.

The wheels have the names that the pages install and nothing in them but a version: that real ones can be installed is
shown by tests/conformance/tests/packages/real.rs. One is real, since a page runs it; it is downloaded once, where there is a way to an index.
"""

import base64
import hashlib
import http.server
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

WHEELS = {"numpy": "1.26.4", "pandas": "2.2.3", "matplotlib": "3.9.2"}

PROFILER = "memory_profiler"


class ControlPlane(http.server.BaseHTTPRequestHandler):
    """Answers 200 to everything."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        """One answer."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b'{"status":"healthy"}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *arguments):
        """Says nothing."""


def control_plane():
    """Listens on port 8000 from here on."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), ControlPlane)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def download(kept):
    """Gets the real wheel and what it needs, unless they were kept from another time."""
    if not list(kept.glob(f"{PROFILER}-*.whl")):
        pip = ["/usr/bin/python3", "-m", "pip", "--quiet", "--retries=1", "download", "--only-binary=:all:", f"--dest={kept}", PROFILER]
        subprocess.run(pip, check=False, capture_output=True, timeout=60)


def wheels(folder, kept):
    """Makes the wheels, and puts those that were kept beside them."""
    Path(folder).mkdir()
    for wheel in kept.glob("*.whl"):
        shutil.copy(wheel, folder)
    for name, version in WHEELS.items():
        files = {
            f"{name}/__init__.py": f'__version__ = "{version}"\n',
            f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: docs\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = ""
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
        files[f"{name}-{version}.dist-info/RECORD"] = record + f"{name}-{version}.dist-info/RECORD,,\n"
        with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
