#!/usr/bin/env python3
"""Stands in for the control plane, to see what an executor reports: answers yes to what docs/control-plane.md lists, and logs it.

    GET  /health                                            200
    GET  /calls                                             what came, a JSON object each
    POST /api/v1/internal/containers/ready, …/exited        204
    POST /api/v1/internal/executions/{id}/heartbeat, …/result 204; a second result of the same execution 409

With INTERNAL_API_TOKEN set, reports without it get 401. Nothing is kept beyond the process.
"""

import collections
import hmac
import http.server
import json
import os
import re
import signal
import sys
import threading

PORT = int(os.environ.get("CONTROL_PLANE_PORT", "8000"))
TOKEN = os.environ.get("INTERNAL_API_TOKEN", "")
REPORT = re.compile(
    r"/api/v1/internal/(?:containers/(?P<container>ready|exited)"
    r"|executions/(?P<execution>[A-Za-z0-9][A-Za-z0-9._-]{0,127})/(?P<kind>heartbeat|result))"
)
MOST_BYTES = 64 << 20

calls = collections.deque(maxlen=1000)
results = set()
lock = threading.Lock()


class ControlPlane(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        if self.path == "/health":
            return self.answer(200, {"status": "healthy"})
        if self.path == "/calls":
            with lock:
                return self.answer(200, list(calls))
        return self.answer(404, {"error": "not found"})

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            return self.answer(411 if not length.isdecimal() else 413, {"error": "Content-Length"})
        body = self.rfile.read(int(length))
        report = REPORT.fullmatch(self.path)
        if report is None:
            return self.answer(404, {"error": "not found"})
        sent = self.headers.get("Authorization", "").encode("latin-1")
        if TOKEN and not hmac.compare_digest(sent, f"Bearer {TOKEN}".encode()):
            return self.answer(401, {"error": "INTERNAL_API_TOKEN is another one here"})
        try:
            content = json.loads(body)
        except ValueError:
            return self.answer(400, {"error": "no JSON"})
        execution, what = report["execution"], report["container"] or report["kind"]
        with lock:
            if what == "result" and execution in results:
                return self.answer(409, {"error": "this result is known"})
            if what == "result":
                results.add(execution)
            call = {"report": what, "execution_id": execution, "body": content}
            calls.append(call)
        print(json.dumps(call), flush=True)
        return self.answer(204)

    def answer(self, status, content=None):
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        """Reports are logged above, whole; health checks need not be."""


def main():
    # As the first process of a container it gets no signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = http.server.ThreadingHTTPServer(("0.0.0.0", PORT), ControlPlane)
    server.daemon_threads = True
    print(f"listening on port {PORT}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
