"""Numbers as people write them: three digits and a unit."""

from __future__ import annotations

from collections.abc import Sequence


def three(value: float) -> str:
    """Write a number with three digits.

    >>> three(0.98765), three(4.7), three(12.345), three(1234.5)
    ('0.99', '4.70', '12.3', '1234')
    """
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def seconds(value: float) -> str:
    """Write seconds with three digits and a unit.

    >>> seconds(12.3456), seconds(0.00123456), seconds(1.5e-6), seconds(9.9996e-4)
    ('12.3 s', '1.23 ms', '1.50 µs', '1.00 ms')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= 0.9995 * scale:
            return f"{three(value / scale)} {unit}"
    return f"{three(value / 1e-9)} ns"


def about(value: float) -> str:
    """Write seconds for an axis, without zeros at the end.

    >>> about(0.001), about(2e-5)
    ('1 ms', '20 µs')
    """
    return _scaled(1e9 * value, 1000, ("ns", "µs", "ms", "s"))


def size(value: float) -> str:
    """Write bytes in powers of 1024.

    >>> size(16384), size(3.5)
    ('16 KiB', '3.5 B')
    """
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def decimal_bytes(value: float) -> str:
    """Write bytes in powers of 1000, for an axis of round numbers.

    >>> decimal_bytes(2e6)
    '2 MB'
    """
    return _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))


def flops(value: float) -> str:
    """Write operations a second.

    >>> flops(1.7e11)
    '170 GFLOP/s'
    """
    return _scaled(value, 1000, ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"))


def count(n: int, noun: str) -> str:
    """Write how many there are.

    >>> count(1, "thread"), count(2, "thread")
    ('1 thread', '2 threads')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.3g} {units[power]}" if value < 999.5 else f"{value:.0f} {units[power]}"
