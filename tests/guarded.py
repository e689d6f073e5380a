"""Run every cell, and products, on arrays that end flush against a page which cannot be touched.

A process of its own, as reading or writing past the end of one ends it:

    python guarded.py ISA
"""

import ctypes
import mmap
import sys

import numpy as np

from fastrnn import c_backend, workspace
from problems import EVERYTHING, VARIANTS, Features, Sizes, make_problem

PAGE = mmap.PAGESIZE
PROT_NONE = 0
libc = ctypes.CDLL(None, use_errno=True)


def guarded(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocate an array whose last byte is the last of a page, with none after it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = -(-size // PAGE)
    block = mmap.mmap(-1, (pages + 1) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if libc.mprotect(ctypes.c_void_p(address + pages * PAGE), PAGE, PROT_NONE) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(block, dtype, int(np.prod(shape)), pages * PAGE - size).reshape(shape)


def copy(array: np.ndarray) -> np.ndarray:
    result = guarded(array.shape, array.dtype)
    result[...] = array
    return result


def main() -> None:
    c_backend.use_isa(sys.argv[1])
    workspace.empty = c_backend.empty = guarded
    for variant in VARIANTS:
        for dtype in ("float32", "float64"):
            for n in range(2 if variant.projected else 1, 65):
                for sizes in (
                    Sizes(2, 3, n, n),
                    Sizes(2, 1, 65 - n, n),
                    Sizes(1, 1, n, max(65 - n, 2)),
                    Sizes(1, 2 + n % 16, max(65 - n, 2), n),
                ):
                    problem = make_problem(variant, sizes, EVERYTHING, dtype).map(copy)
                    problem.solve("c")
                    problem.infer("c")
                    plain = make_problem(variant, sizes, Features(), dtype).map(copy)
                    plain.infer("c")
    for dtype in ("float32", "float64"):
        for n in range(1, 70):
            for M, N, K in ((3, n, 70 - n), (n, 33, 2), (9, 70 - n, 255 + n)):
                a, b, across, down = (
                    copy(np.ones(shape, dtype)) for shape in ((M, K), (K, N), (K, M), (N, K))
                )
                for found in (
                    c_backend.product(a, b),
                    c_backend.product(across, b, turn_a=True),
                    c_backend.product(a, down, turn_b=True),
                ):
                    assert (found == K).all()
    print("nothing touched")


if __name__ == "__main__":
    main()
