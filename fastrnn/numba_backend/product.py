"""out = start + a @ w with the accumulators in registers.

A tile holds some rows times some panels (two vectors wide) of `out` and runs through all k: every
element is one chain of fused multiply-adds in ascending k, from its start, whatever the tile it
falls into. So no result depends on the size of the batch, on a row's place or on threads. Rows go 8
at a time on AVX-512 (16 accumulators of 32 registers), else 4 (8 of 16); the last ones 2 and 1 at a
time, over several panels, which hides the latency of the chains. Packing the weights panel by panel
made up to 1.8 of the speed with row-major ones, alignment to 64 bytes up to 1.3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..validation import Array
from ..workspace import empty
from ._jit import jit
from .vectors import BYTES, I64, POINTER, Lanes, Vec, data, integer, shifted

ROWS = 8 if BYTES == 64 else 4
PANEL_BYTES = 2 * BYTES
LINE = 64  # bytes of a line of the cache
Place = tuple[int, int, int]  # of packed weights: the first, from k to k and from panel to panel
BLOCK = 256  # k's that a tile runs through at once, so that a panel stays in the L1 cache


def _tile(rows: int, panels: int, *, masked: bool = False) -> Any:
    """Make the product of one register tile; if `masked`, only `columns` columns of it exist.

    It takes the matrices start and out, both `located`, and a and w, or two pairs of these, whose
    chains follow each other; and where in them it lies: row, k, and panel; then how many k's the
    one pair has, and the other.
    """

    @intrinsic
    def tile(
        typing_context: Any, matrices: Any, r: Any, k: Any, p: Any, K: Any, J: Any, columns: Any
    ) -> Any:
        signature = types.void(matrices, *[types.intp] * 6)

        def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            L = Lanes(b, matrices[2][0].dtype)
            packed, r, k, p, *lengths, columns = arguments
            j = b.mul(p, integer(PANEL_BYTES // L.size))
            vectors = range(2 * panels)
            masks = [L.mask(columns, v * L.width) if masked else None for v in vectors]

            def unpack(number: int, *place: Any) -> tuple[Any, list[Any]]:
                """Return the address of a matrix's element, and its steps in elements."""
                array, first, *steps = cgutils.unpack_tuple(b, b.extract_value(packed, number))
                for index, step in zip(place, (*steps, integer(1)), strict=False):
                    first = b.add(first, b.mul(index, step))
                if number < 2:
                    start = b.inttoptr(array, POINTER)
                else:
                    start = data(context, b, matrices[number][0], array)
                return shifted(b, start, first, L.size), steps

            def lines(address: Any, step: Any, count: int) -> list[Any]:
                return [shifted(b, address, b.mul(step, integer(k)), L.size) for k in range(count)]

            def places(address: Any, step: Any) -> list[list[Any]]:
                return [
                    [b.gep(line, [integer(v * BYTES)]) for v in vectors]
                    for line in lines(address, step, rows)
                ]

            def chain(before: list[list[Any]], number: int, K: Any) -> list[list[Any]]:
                """Add the product of a pair, whose a is the matrix `number`."""
                a_first, (a_row, a_k) = unpack(number, r, k)
                w_first, (w_k, w_panel) = unpack(number + 1, k, p)
                a_lines = lines(a_first, a_row, rows)
                w_lines = lines(w_first, w_panel, panels)
                a_step, w_step = (b.mul(step, integer(L.size)) for step in (a_k, w_k))

                entry = b.block
                head, body, end = (b.append_basic_block(f"tile.{w}") for w in ("k", "fma", "end"))
                b.branch(head)

                b.position_at_end(head)
                # Two running offsets in bytes, which an address takes in for nothing.
                count, a_offset, w_offset = (b.phi(I64) for _ in range(3))
                sums = [[b.phi(L.type) for _ in vectors] for _ in range(rows)]
                b.cbranch(b.icmp_signed("<", count, K), body, end)

                b.position_at_end(body)
                w_values = [
                    L.load(
                        b.gep(w_lines[v // 2], [b.add(w_offset, integer(v % 2 * BYTES))]), masks[v]
                    )
                    for v in vectors
                ]
                for n in range(rows):
                    element = b.bitcast(b.gep(a_lines[n], [a_offset]), L.element.as_pointer())
                    factor = Vec(L, L.spread(b.load(element)))
                    for v in vectors:
                        sums[n][v].add_incoming(before[n][v], entry)
                        total = L.fma(factor, w_values[v], Vec(L, sums[n][v]))
                        sums[n][v].add_incoming(total.value, body)
                for counter, step in ((count, integer(1)), (a_offset, a_step), (w_offset, w_step)):
                    counter.add_incoming(integer(0), entry)
                    counter.add_incoming(b.add(counter, step, flags=["nsw"]), body)
                b.branch(head)

                b.position_at_end(end)
                return sums

            start_first, (start_row,) = unpack(0, r, j)
            out_first, (out_row,) = unpack(1, r, j)
            sums = [
                [L.load(place, mask).value for place, mask in zip(row, masks, strict=True)]
                for row in places(start_first, start_row)
            ]
            for number, length in zip(range(2, len(matrices), 2), lengths, strict=False):
                sums = chain(sums, number, length)
            for n, row in enumerate(places(out_first, out_row)):
                for v in vectors:
                    L.store(Vec(L, sums[n][v]), row[v], masks[v])
            return context.get_dummy_value()

        return signature, generate

    return tile


def _address(typing_context: Any, array: Any) -> Any:
    """Return the address of an array's first element, or an address as it is."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(array, types.Integer):
            return arguments[0]
        return b.ptrtoint(data(context, b, array, arguments[0]), I64)

    return types.intp(array), generate


address: Any = intrinsic(_address)


@jit
def located(matrix: Any) -> Any:
    """Return a matrix with an address in place of its array: for all dimensions the same type."""
    return (address(matrix[0]), *matrix[1:])


rows_by_panel = _tile(ROWS, 1)
rows_by_rest = _tile(ROWS, 1, masked=True)
two_by_two_panels = _tile(2, 2)
one_by_four_panels = _tile(1, 4)
one_by_panel = _tile(1, 1)
one_by_rest = _tile(1, 1, masked=True)


@jit
def _sweep(m: Any, k: int, K: int, J: int, B: int, N: int) -> None:
    """Take all tiles: of the first pair's k's K from k on, of the second's the first J."""
    panel = PANEL_BYTES // m[2][0].itemsize
    whole = N // panel
    rest = N - whole * panel
    tiled = B - B % ROWS
    for p in range(whole):
        for r in range(0, tiled, ROWS):
            rows_by_panel(m, r, k, p, K, J, 0)
    if rest:
        for r in range(0, tiled, ROWS):
            rows_by_rest(m, r, k, whole, K, J, rest)
    r = tiled
    while r < B:
        p = 0
        if r + 2 <= B:
            count = 2
            while p + 2 <= whole:
                two_by_two_panels(m, r, k, p, K, J, 0)
                p += 2
        else:
            count = 1
            while p + 4 <= whole:
                one_by_four_panels(m, r, k, p, K, J, 0)
                p += 4
        for row in range(r, r + count):
            for q in range(p, whole):
                one_by_panel(m, row, k, q, K, J, 0)
            if rest:
                one_by_rest(m, row, k, whole, K, J, rest)
        r += count


@jit
def product(start: Any, a: Any, w: Any, out: Any, B: int, K: int, N: int) -> None:
    """Write start (B, N) + a (B, K) @ w (K, N) to out (B, N), all sizes at least 1.

    A matrix is a tuple of a contiguous array, its first element, and steps in elements: from row to
    row for `start` (0: one row for all) and `out`, which may be the same matrix; from row to row
    and from k to k for `a`; from k to k and from panel to panel for `w`. `start` and `out` may be
    `located` already.
    """
    start, out = located(start), located(out)
    for k in range(0, K, BLOCK):
        _sweep((start, out, a, w), k, min(BLOCK, K - k), 0, B, N)
        start = out  # the next block goes on where this one has stopped


@jit
def product_of_two(
    start: Any, a: Any, w: Any, K: int, h: Any, u: Any, J: int, out: Any, B: int, N: int
) -> None:
    """Write start + a (B, K) @ w (K, N) + h (B, J) @ u (J, N) to out (B, N), in one chain.

    At once, what lies between the two need not be written: 2 to 4 % of a small layer's time.
    """
    if K <= BLOCK and J <= BLOCK:
        _sweep((located(start), located(out), a, w, h, u), 0, K, J, B, N)
    else:
        product(start, a, w, out, B, K, N)
        product(out, h, u, out, B, J, N)


@jit
def _pack(w: Any, transpose: bool, out: Any, place: int) -> int:
    """Fill out, flat panels from `place` on, from w (K, N), or (N, K) to be transposed.

    Columns beyond N are zero. Return the place that follows.
    """
    K, N = w.shape
    k_step, n_step = N, 1
    if transpose:
        K, N, k_step, n_step = N, K, 1, N
    elements = w.reshape(w.size)
    panel = PANEL_BYTES // out.itemsize
    for first in range(0, N, panel):
        columns = min(panel, N - first)
        for k in range(K):
            for n in range(columns):
                out[place + n] = elements[k * k_step + (first + n) * n_step]
            for n in range(columns, panel):
                out[place + n] = 0
            place += panel
    return place


@jit
def _pack_all(weights: Any, transpose: bool, a: Any, b: Any, apart: int, out: Any) -> int:
    """Pack weights behind one another from a line of the cache on; return its place.

    Between them is a line: where they follow each other a power of two apart, they are in each
    other's way in the L1 cache (a seventh of the time of a GRU with 128 units and one row).
    Behind them comes a + b, but of the last `apart` elements a and then b.
    """
    start: int = -out.ctypes.data % LINE // out.itemsize
    place = start
    for w in weights:
        place = _pack(w, transpose, out, place) + LINE // out.itemsize
    together = a.size - apart
    for k in range(together):
        out[place + k] = a[k] + b[k]
    for k in range(together, a.size):
        out[place + k] = a[k]
        out[place + apart + k] = b[k]
    return start


@lru_cache(maxsize=256)
def _layout(
    shapes: tuple[tuple[int, ...], ...], itemsize: int, transpose: bool, biases: int
) -> tuple[tuple[Place, ...], int, int]:
    """Return where weights lie behind one another, what follows them, and the size with biases."""
    panel, line = PANEL_BYTES // itemsize, LINE // itemsize
    places, place = [], 0
    for shape in shapes:
        K, N = shape[::-1] if transpose else shape
        places.append((place, panel, K * panel))
        place += -(-N // panel) * K * panel + line
    return tuple(places), place, line + place + biases


def pack(
    weights: tuple[Array, ...],
    *,
    transpose: bool = False,
    biases: tuple[Array, Array] | None = None,
    apart: int = 0,
) -> tuple[Array, tuple[Place, ...], int]:
    """Pack contiguous weights (K, N), or (N, K) to be transposed, as `product` takes them.

    All at once, and the sum of biases, too: a call of compiled code takes longer than what it does.
    Of the last `apart` elements the biases are not summed, but follow each other.

    Returns
    -------
    packed, places, bias
        The array, where in it each of the weights lies, and where the biases begin.
    """
    dtype = weights[0].dtype
    a, b = biases or (constant(0, 0, dtype),) * 2
    shapes = tuple([w.shape for w in weights])
    places, bias, size = _layout(shapes, dtype.itemsize, transpose, len(a) + apart)
    out = empty((size,), dtype)
    start = _pack_all(writable(weights), transpose, *writable((a, b)), apart, out)
    return out[start:], places, bias


@lru_cache(maxsize=64)
def constant(value: float, size: int, dtype: np.dtype[Any]) -> Array:
    """Return an array of one number, which kernels read and nobody writes to.

    It is not marked as read-only, since Numba would compile anew for that.
    """
    return np.full(size, value, dtype)


@lru_cache(maxsize=64)
def zeros_and_one(size: int, dtype: np.dtype[Any]) -> Array:
    """Return so many zeros, and a one, as `constant` does."""
    return np.append(np.zeros(size, dtype), dtype.type(1))


def writable(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return arrays, and copies of those that are read-only: Numba would compile anew for them."""
    return tuple([array if array.flags.writeable else array.copy() for array in arrays])
