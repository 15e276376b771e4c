"""What nobody may foresee, drawn in each way that the standard library has."""

import email.utils
import multiprocessing
import os
import random
import secrets
import ssl
import sys
import tempfile
import uuid


def numpy():
    """Of its global generator and of one of its own."""
    if "numpy" not in sys.modules:
        return {}
    from numpy import random as generators

    return {"numpy": generators.random(), "numpy's own": generators.default_rng().random()}


def handler(event):
    shuffled = list(range(50))
    random.shuffle(shuffled)
    return {
        "random": random.random(),
        "getrandbits": random.getrandbits(64),
        "shuffle": shuffled,
        "Random": random.Random().random(),
        "SystemRandom": random.SystemRandom().random(),
        "secrets": secrets.token_hex(),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
        "node": uuid.getnode(),
        "urandom": os.urandom(16).hex(),
        "OpenSSL": ssl.RAND_bytes(16).hex(),
        "temporary name": next(tempfile._get_candidate_names()),
        "temporary folder": tempfile.mkdtemp(),
        "key of multiprocessing": bytes(multiprocessing.current_process().authkey).hex(),
        "message id": email.utils.make_msgid(domain="x").split(".", 2)[2],
        "in a child": child(),
        **numpy(),
    }


def child():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(random.random()).encode())
        os._exit(0)
    os.wait()
    return os.read(read, 100).decode()
