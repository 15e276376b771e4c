"""What the pages talk to: a control plane that takes every report, and a folder of wheels in place of an index.

The wheels have the names that the pages install and nothing in them but a version: that real ones can be installed is
shown by tests/conformance/tests/packages/real.rs.
"""

import base64
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

WHEELS = {"numpy": "1.26.4", "pandas": "2.2.3", "matplotlib": "3.9.2"}


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


def wheels(folder):
    """Makes the wheels."""
    Path(folder).mkdir()
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
