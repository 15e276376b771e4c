"""Networking on the sandbox's own loopback; what leads out of it fails at once and says why."""

import http.client
import http.server
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))[::-1]
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def web():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_address[1]}/"
        answers = []
        for _ in range(20):
            with urllib.request.urlopen(address, data=b"x" * 99_999 + b"y", timeout=20) as response:
                answers.append((response.status, response.read() == b"y" + b"x" * 99_999))
        server.shutdown()
    return [len(answers), set(answers) == {(201, True)}]


def out():
    """Each way out with the time it took to fail."""
    ways = {
        "name": lambda: urllib.request.urlopen("https://example.com/", timeout=30),
        "address": lambda: socket.create_connection(("192.0.2.1", 80), timeout=30),
        "address6": lambda: socket.create_connection(("2001:db8::1", 80), timeout=30),
        "lookup": lambda: socket.getaddrinfo("example.com", 443),
        "nobody": lambda: socket.create_connection(("127.0.0.1", 9), timeout=30),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    }
    failures = {}
    for name, way in ways.items():
        start = time.monotonic()
        try:
            way()
            failures[name] = "succeeded"
        except OSError as error:
            reason = getattr(error, "reason", error)
            failures[name] = [type(reason).__name__, reason.strerror, time.monotonic() - start < 2]
    return failures


def tls():
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = outgoing.read()
    return [context.verify_mode.name, len(hello) > 100, hello[0]]


def pairs():
    one, other = socket.socketpair()
    with open("/usr/bin/env", "rb") as file:
        socket.send_fds(one, [b"descriptor"], [file.fileno()])
        text, descriptors, _, _ = socket.recv_fds(other, 100, 1)
    with open(descriptors[0], "rb") as file:
        return [text.decode(), file.read(4) == b"\x7fELF"]


def names():
    return [socket.gethostname(), socket.gethostbyname("localhost"), socket.gethostbyname(socket.gethostname())]


def handler(event):
    return {"web": web(), "out": out(), "tls": tls(), "pairs": pairs(), "names": names()}
