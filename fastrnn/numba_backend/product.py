"""out += a @ w with the accumulators in registers.

Weights are packed into panels two vectors wide, k by k. A tile holds some rows times some panels of
`out` and runs through all k: every element is one chain of fused multiply-adds in ascending k,
whatever the tile it falls into. Rows go 8 at a time on AVX-512 (16 accumulators of 32 registers),
else 4 (8 of 16); the last ones 2 and 1 at a time, over several panels, which hides the latency of
the chains. Packing made up to 1.8 of row-major weights' speed, 64-byte alignment up to 1.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..validation import Array
from ..workspace import aligned
from ._jit import jit
from .vectors import BYTES, I64, POINTER, Lanes, Vec, data, integer, shifted

ROWS = 8 if BYTES == 64 else 4
PANEL_BYTES = 2 * BYTES
BLOCK = 256  # k's that a tile runs through at once, so that a panel stays in the L1 cache


def pack(w: Array) -> Array:
    """Pack weights (K, N) into panels, flat: (ceil(N / panel), K, panel), zero beyond N."""
    K, N = w.shape
    panel = PANEL_BYTES // w.itemsize
    whole, rest = divmod(N, panel)
    packed = aligned((whole + bool(rest), K, panel), w.dtype)
    body = w[:, : whole * panel].reshape(K, whole, panel)
    packed[:whole] = body.swapaxes(0, 1)
    if rest:
        packed[whole, :, :rest] = w[:, whole * panel :]
        packed[whole, :, rest:] = 0
    return packed.reshape(-1)


def _tile(rows: int, panels: int, *, masked: bool = False) -> Any:
    """Make the product of one register tile; if `masked`, only `columns` columns of it exist."""

    @intrinsic
    def tile(
        typing_context: Any,
        a: Any,  # flat array, its first element, elements from row to row
        a_first: Any,
        a_row: Any,
        w: Any,  # packed weights, first element, elements from panel to panel
        w_first: Any,
        w_panel: Any,
        out: Any,  # like a
        out_first: Any,
        out_row: Any,
        K: Any,
        columns: Any,
    ) -> Any:
        i = types.intp
        signature = types.void(a, i, i, w, i, i, out, i, i, i, i)

        def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
            a, a_first, a_row, w, w_first, w_panel, out, out_first, out_row, K, columns = arguments
            L = Lanes(b, signature.args[0].dtype)
            vectors = range(2 * panels)

            def place(k: int, array: Any, first: Any) -> Any:
                return shifted(b, data(context, b, signature.args[k], array), first, L.size)

            a, w, out = place(0, a, a_first), place(3, w, w_first), place(6, out, out_first)
            masks = [L.mask(columns, v * L.width) if masked else None for v in vectors]
            a_rows = [shifted(b, a, b.mul(a_row, integer(r)), L.size) for r in range(rows)]
            w_panels = [shifted(b, w, b.mul(w_panel, integer(p)), L.size) for p in range(panels)]
            targets = [
                [
                    b.gep(shifted(b, out, b.mul(out_row, integer(r)), L.size), [integer(v * BYTES)])
                    for v in vectors
                ]
                for r in range(rows)
            ]
            starts = [
                [L.load(p, mask) for p, mask in zip(row, masks, strict=True)] for row in targets
            ]

            entry = b.block
            head, body, end = (b.append_basic_block(f"tile.{word}") for word in ("k", "fma", "end"))
            b.branch(head)

            b.position_at_end(head)
            k = b.phi(I64)
            pointers = [b.phi(POINTER) for _ in w_panels]
            sums = [[b.phi(L.type) for _ in vectors] for _ in range(rows)]
            b.cbranch(b.icmp_signed("<", k, K), body, end)

            b.position_at_end(body)
            weights = [
                L.load(b.gep(pointer, [integer(v * BYTES)])) for pointer in pointers for v in (0, 1)
            ]
            for r in range(rows):
                element = b.bitcast(shifted(b, a_rows[r], k, L.size), L.element.as_pointer())
                factor = Vec(L, L.spread(b.load(element)))
                for v in vectors:
                    sums[r][v].add_incoming(starts[r][v].value, entry)
                    total = L.fma(factor, weights[v], Vec(L, sums[r][v]))
                    sums[r][v].add_incoming(total.value, body)
            k.add_incoming(integer(0), entry)
            k.add_incoming(b.add(k, integer(1), flags=["nsw"]), body)
            for pointer, first in zip(pointers, w_panels, strict=True):
                pointer.add_incoming(first, entry)
                pointer.add_incoming(b.gep(pointer, [integer(PANEL_BYTES)]), body)
            b.branch(head)

            b.position_at_end(end)
            for r in range(rows):
                for v in vectors:
                    L.store(Vec(L, sums[r][v]), targets[r][v], masks[v])
            return context.get_dummy_value()

        return signature, generate

    return tile


rows_by_panel = _tile(ROWS, 1)
rows_by_rest = _tile(ROWS, 1, masked=True)
two_by_two_panels = _tile(2, 2)
one_by_four_panels = _tile(1, 4)
one_by_panel = _tile(1, 1)
one_by_rest = _tile(1, 1, masked=True)


@jit
def add_product(  # type: ignore[no-untyped-def]
    a, a_first, a_row, w, w_first, out, out_first, out_row, B, K, N
):
    """Add a (B, K) @ w (K, N) to out (B, N); w is packed, a and out are flat, with row lengths."""
    panel = PANEL_BYTES // a.itemsize
    whole = N // panel
    rest = N - whole * panel
    tiled = B - B % ROWS
    stride = K * panel
    for k in range(0, K, BLOCK):
        n = min(BLOCK, K - k)
        w0 = w_first + k * panel
        for p in range(whole):
            for r in range(0, tiled, ROWS):
                rows_by_panel(
                    a, a_first + r * a_row + k, a_row, w, w0 + p * stride, stride,
                    out, out_first + r * out_row + p * panel, out_row, n, 0,
                )  # fmt: skip
        if rest:
            for r in range(0, tiled, ROWS):
                rows_by_rest(
                    a, a_first + r * a_row + k, a_row, w, w0 + whole * stride, stride,
                    out, out_first + r * out_row + whole * panel, out_row, n, rest,
                )  # fmt: skip
        r = tiled
        while r < B:
            count = 2 if r + 2 <= B else 1
            a0 = a_first + r * a_row + k
            out0 = out_first + r * out_row
            p = 0
            if count == 2:
                while p + 2 <= whole:
                    two_by_two_panels(
                        a, a0, a_row, w, w0 + p * stride, stride,
                        out, out0 + p * panel, out_row, n, 0,
                    )  # fmt: skip
                    p += 2
            else:
                while p + 4 <= whole:
                    one_by_four_panels(
                        a, a0, a_row, w, w0 + p * stride, stride,
                        out, out0 + p * panel, out_row, n, 0,
                    )  # fmt: skip
                    p += 4
            for s in range(count):
                for q in range(p, whole):
                    one_by_panel(
                        a, a0 + s * a_row, a_row, w, w0 + q * stride, stride,
                        out, out0 + s * out_row + q * panel, out_row, n, 0,
                    )  # fmt: skip
                if rest:
                    one_by_rest(
                        a, a0 + s * a_row, a_row, w, w0 + whole * stride, stride,
                        out, out0 + s * out_row + whole * panel, out_row, n, rest,
                    )  # fmt: skip
            r += count
