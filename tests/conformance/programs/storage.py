"""What keeps data: sqlite3, archives, temporary files, copies with their metadata, memory maps, locks."""

import fcntl
import gzip
import io
import lzma
import mmap
import os
import shutil
import sqlite3
import tarfile
import tempfile
import threading
import zipfile


def sqlite(path):
    first = sqlite3.connect(path, timeout=20)
    mode = first.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    first.execute("CREATE TABLE numbers (n INTEGER)")
    first.commit()

    def insert(start):
        with sqlite3.connect(path, timeout=20) as connection:
            for number in range(start, start + 50):
                connection.execute("INSERT INTO numbers VALUES (?)", (number,))
                connection.commit()

    threads = [threading.Thread(target=insert, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second = sqlite3.connect(path)
    # A reader keeps its snapshot while another connection writes.
    second.execute("BEGIN")
    before = second.execute("SELECT count(*), sum(n) FROM numbers").fetchone()
    first.execute("DELETE FROM numbers WHERE n >= 100")
    first.commit()
    during = second.execute("SELECT count(*) FROM numbers").fetchone()[0]
    second.rollback()
    after = second.execute("SELECT count(*) FROM numbers").fetchone()[0]
    check = second.execute("PRAGMA integrity_check").fetchone()[0]
    return [mode, *before, during, after, check]


def archives():
    os.makedirs("tree/below")
    with open("tree/below/file.txt", "w") as file:
        file.write("content\n" * 1000)
    os.symlink("below/file.txt", "tree/link")
    os.chmod("tree/below/file.txt", 0o640)
    with tarfile.open("tree.tar.xz", "w:xz") as archive:
        archive.add("tree")
    with tarfile.open("tree.tar.xz") as archive:
        archive.extractall("untarred", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    shutil.make_archive("tree", "zip", "tree")
    with zipfile.ZipFile("tree.zip") as archive:
        zipped = archive.read("below/file.txt")
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        file.write(zipped)
    return {
        "tar": open("untarred/tree/link").read() == "content\n" * 1000,
        "mode": oct(os.stat("untarred/tree/below/file.txt").st_mode & 0o777),
        "zip": len(zipped),
        "gzip": gzip.decompress(packed.getvalue()) == zipped,
        "lzma": lzma.decompress(lzma.compress(zipped)) == zipped,
    }


def copies():
    os.utime("tree/below/file.txt", (1_000_000_000, 1_000_000_000))
    shutil.copytree("tree", "copied", symlinks=True)
    shutil.move("copied", "moved")
    state = os.stat("moved/below/file.txt")
    shutil.rmtree("moved")
    return [int(state.st_mtime), oct(state.st_mode & 0o777), os.path.exists("moved"), shutil.disk_usage(".").total > 0]


def temporary():
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as bare:
        file.write(b"x" * 100)
        file.flush()
        bare.write(b"nameless")
        bare.seek(0)
        return [os.path.dirname(folder), os.path.getsize(file.name), bare.read().decode()]


def maps():
    with open("map", "wb") as file:
        file.truncate(1 << 20)
    with open("map", "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[1000:1005] = b"hello"
        shared.flush()
    private = mmap.mmap(-1, 1 << 16)
    private.write(b"anonymous")
    child = os.fork()
    if child == 0:
        private[:9] = b"by child!"
        os._exit(0)
    os.waitpid(child, 0)
    with open("map", "rb") as file:
        file.seek(1000)
        return [file.read(5).decode(), private[:9].decode()]


def locks():
    with open("lock", "w") as mine, open("lock", "w") as other:
        fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            exclusive = False
        except BlockingIOError:
            exclusive = True
        fcntl.lockf(mine, fcntl.LOCK_EX)
    return exclusive


def handler(event):
    return {
        "sqlite": sqlite("data.db"),
        "sqlite_in_tmp": sqlite("/tmp/data.db"),
        "archives": archives(),
        "copies": copies(),
        "temporary": temporary(),
        "maps": maps(),
        "locks": locks(),
    }
