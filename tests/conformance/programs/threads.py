"""Threads: pools, locks, queues, conditions, thread-local data, and that their number is what was asked for."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed


def pool():
    with ThreadPoolExecutor(16) as executor:
        futures = [executor.submit(pow, number, 2) for number in range(100)]
        return sum(future.result() for future in as_completed(futures))


def lock():
    counter, guard = [0], threading.Lock()

    def add():
        for _ in range(1000):
            with guard:
                counter[0] += 1

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counter[0]


def pipeline():
    todo, done = queue.Queue(maxsize=4), queue.Queue()

    def work():
        while (item := todo.get()) is not None:
            done.put(item * 2)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for item in [*range(50), None, None, None, None]:
        todo.put(item)
    for worker in workers:
        worker.join()
    return sorted(done.get() for _ in range(50)) == list(range(0, 100, 2))


def together():
    """40 threads that are all alive at once."""
    barrier, local, seen = threading.Barrier(40), threading.local(), []

    def meet(number):
        local.number = number
        barrier.wait(timeout=20)
        seen.append(local.number)

    threads = [threading.Thread(target=meet, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(seen) == list(range(40))


def condition():
    ready, values = threading.Condition(), []

    def produce():
        with ready:
            values.append("made")
            ready.notify()

    with ready:
        threading.Timer(0.01, produce).start()
        return ready.wait_for(lambda: values, timeout=20) and values[0]


def handler(event):
    return {
        "pool": pool(),
        "lock": lock(),
        "pipeline": pipeline(),
        "together": together(),
        "condition": condition(),
    }
