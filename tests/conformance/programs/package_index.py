"""A package index for tests, on the loopback: a folder as `simple/NAME/FILE`, with a line for each request.

usage: package_index.py FOLDER LOG [user:password] [SECONDS-OF-DELAY]

Prints its port and serves until its standard input ends, as it does when the test does.
"""

import base64
import http.server
import os
import sys
import threading
import time

folder, log = sys.argv[1:3]
secret = sys.argv[3] if len(sys.argv) > 3 else ""
delay = float(sys.argv[4]) if len(sys.argv) > 4 else 0
expected = "Basic " + base64.b64encode(secret.encode()).decode()


class Index(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=folder)

    def do_GET(self):
        with open(log, "a") as lines:
            lines.write(self.path + "\n")
        time.sleep(delay)
        if secret and self.headers.get("Authorization") != expected:
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
os._exit(0)
