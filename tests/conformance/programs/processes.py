"""multiprocessing by each start method, with what processes share: queues, pipes, locks, memory, managers."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory

FORK = multiprocessing.get_context("fork")


def square(number):
    return number * number


def add(counter, lock, times):
    for _ in range(times):
        with lock:
            counter.value += 1


def echo(connection):
    connection.send({"echo": connection.recv(), "name": __name__, "file": __file__})


def grandchild(connection):
    child = multiprocessing.get_context("spawn").Process(target=echo, args=(connection,))
    child.start()
    child.join()


def fill(name):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:5] = b"hello"
    block.close()


def by(method):
    context = multiprocessing.get_context(method)
    counter, lock = context.Value("i", 0, lock=False), context.Lock()
    children = [context.Process(target=add, args=(counter, lock, 200)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    here, there = context.Pipe()
    child = context.Process(target=echo, args=(there,))
    child.start()
    here.send([1, "two"])
    said = here.recv()
    child.join()
    with context.Pool(2) as pool:
        squares = pool.map(square, range(10))
    return {
        "exit_codes": [child.exitcode for child in children],
        "counter": counter.value,
        "echo": said["echo"],
        "file": said["file"],
        "squares": sum(squares),
    }


def nested():
    """A process that was started afresh starts another."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=grandchild, args=(there,))
    child.start()
    here.send("far")
    child.join()
    return here.recv()["echo"]


def failing():
    """A traceback from another process shows the line of the program."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.apply(square, [None])
        except TypeError as error:
            return "return number * number" in str(error.__cause__)


def memory():
    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    try:
        child = FORK.Process(target=fill, args=(block.name,))
        child.start()
        child.join()
        return bytes(block.buf[:5]).decode()
    finally:
        block.close()
        block.unlink()


def manager():
    with FORK.Manager() as manager:
        shared, items = manager.dict(), manager.list()
        child = FORK.Process(target=lambda: (shared.update(key="value"), items.append(1)))
        child.start()
        child.join()
        return [dict(shared), list(items)]


def semaphore():
    gate = FORK.Semaphore(2)
    taken = [gate.acquire(timeout=5), gate.acquire(timeout=5), gate.acquire(timeout=0.01)]
    gate.release()
    return taken


def queue():
    items = FORK.Queue()
    child = FORK.Process(target=lambda: [items.put(bytes(100_000)) for _ in range(20)])
    child.start()
    total = sum(len(items.get(timeout=20)) for _ in range(20))
    child.join()
    return total


def executor():
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(square, [3, 4]))


def handler(event):
    return {
        "fork": by("fork"),
        "spawn": by("spawn"),
        "forkserver": by("forkserver"),
        "nested": nested(),
        "failing": failing(),
        "memory": memory(),
        "manager": manager(),
        "semaphore": semaphore(),
        "queue": queue(),
        "executor": executor(),
        "names_of_ours": [name for name in globals() if name.startswith("_") and not name.startswith("__")],
        "left_in_shm": os.listdir("/dev/shm"),
    }
