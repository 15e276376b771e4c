"""numpy with the threads of its linear algebra library, against values that are known."""

import os

import numpy as np


def handler(event):
    size = 400
    # Row i of `a` is i + 1 throughout; column j of `b` is j + 1: the product is known exactly.
    a = np.repeat(np.arange(1.0, size + 1), size).reshape(size, size)
    b = a.T.copy()
    product = a @ b
    expected = size * np.outer(np.arange(1.0, size + 1), np.arange(1.0, size + 1))
    hilbert = 1.0 / (np.arange(6)[:, None] + np.arange(6)[None, :] + 1)
    generator = np.random.Generator(np.random.PCG64(7))
    matrix = generator.standard_normal((200, 200))
    u, s, vt = np.linalg.svd(matrix)
    np.save("saved.npy", product)
    mapped = np.load("saved.npy", mmap_mode="r")
    return {
        "product": bool(np.array_equal(product, expected)),
        "inverse": int(round(float(np.linalg.inv(hilbert).sum()))),
        "svd": bool(np.allclose(u * s @ vt, matrix)),
        "fft": bool(np.allclose(np.fft.ifft(np.fft.fft(matrix)).real, matrix)),
        "sorted": bool(np.all(np.diff(np.sort(generator.integers(0, 1 << 40, 100_000))) >= 0)),
        "mapped": float(mapped[-1, -1]),
        "several_threads": len(os.listdir("/proc/self/task")) > 1,
    }
