"""The one place that checks arguments and words the errors.

Every function takes the argument's name first and returns the value in the form that the rest of
the library works with (native byte order, C-contiguous, aligned). Nothing is written before
everything is checked, so these functions never modify what they are given.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .cells import CELLS, Cell

Array = npt.NDArray[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)


def dtype(name: str, value: object) -> np.dtype[Any]:
    """Return float32 or float64 as a `numpy.dtype`; `TypeError` for anything else."""
    found = None
    if value is not None:  # which NumPy takes for float64, and so does its ==
        with contextlib.suppress(TypeError, ValueError):
            found = np.dtype(value)  # type: ignore[call-overload]
    for allowed in (FLOAT32, FLOAT64):
        if found is not None and found == allowed:
            return allowed
    raise TypeError(f"{name}: expected 'float32' or 'float64', got {value!r}")


def positive(name: str, value: object) -> int:
    """Return a whole number that is at least 1."""
    return _whole(name, value, minimum=1)


def non_negative(name: str, value: object) -> int:
    """Return a whole number that is at least 0."""
    return _whole(name, value, minimum=0)


def _whole(name: str, value: object, minimum: int) -> int:
    number = whole(name, value)
    if number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number


def whole(name: str, value: object) -> int:
    """Return a whole number."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None


def flag(name: str, value: object) -> bool:
    """Return True or False; numbers and strings are refused."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return a real number in the closed (or, on request, open) interval from low to high."""
    # Not whatever float() takes: text, booleans and arrays are mistakes here.
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        found = float(value)
    except OverflowError:  # a whole number beyond all floats
        found = math.inf
    inside = (found > low if open_low else found >= low) and (
        found < high if open_high else found <= high
    )
    if not inside or not math.isfinite(found):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise ValueError(
            f"{name}: expected a number in {left}{low:g}, {high:g}{right}, got {found}"
        )
    return found


def choice(name: str, value: object, allowed: Iterable[object]) -> Any:
    """Return `value` if it is one of `allowed` (of the same type: True is not 1)."""
    allowed = tuple(allowed)
    for candidate in allowed:
        if type(candidate) is type(value) and candidate == value:
            return candidate
    words = ", ".join(repr(candidate) for candidate in allowed)
    raise ValueError(f"{name}: expected one of {words}, got {value!r}")


def cell(name: str, value: object) -> Cell:
    """Return the row of `CELLS` that is called `value`."""
    return CELLS[choice(name, value, CELLS)]


def options(row: Cell, given: Mapping[str, object]) -> dict[str, Any]:
    """Return every option of a cell: the checked value if one is given, else the default."""
    for name in given:
        if name not in row.options:
            words = ", ".join(row.options) or "none"
            raise TypeError(f"{name}: the cell {row.name!r} has no such option (it has: {words})")
    return {
        name: choice(name, given.get(name, allowed[0]), allowed)
        for name, allowed in row.options.items()
    }


def generator(name: str, seed: object) -> np.random.Generator:
    """Return a random generator; None takes fresh entropy from the system."""
    return np.random.default_rng(None if seed is None else non_negative(name, seed))


def floating(name: str, value: object, expected: np.dtype[Any] | None = None) -> Array:
    """Return a float32 or float64 array, native, aligned and C-contiguous (a copy only if needed).

    `expected` is the dtype that everything else in the call has: the library never mixes
    precisions silently.
    """
    if (
        type(value) is np.ndarray
        and (value.dtype is expected or (expected is None and value.dtype in (FLOAT32, FLOAT64)))
        and value.flags.carray
    ):
        return value
    found = array(name, value)
    kind = found.dtype.newbyteorder("=")
    if kind not in (FLOAT32, FLOAT64):
        raise TypeError(f"{name}: expected an array of float32 or float64, got {found.dtype}")
    if expected is not None and kind != expected:
        raise TypeError(f"{name}: expected {expected} like the rest of the call, got {found.dtype}")
    return np.require(found, kind, ["C", "A"])


def integers(name: str, value: object) -> Array:
    """Return an array of int64 from an array of any integer type."""
    found = array(name, value)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an array of integers, got {found.dtype}")
    if found.dtype.itemsize == 8 and found.dtype.kind == "u" and found.size:
        most = int(found.max())
        if most > np.iinfo(np.int64).max:
            raise ValueError(f"{name}: expected values below 2**63, got {most}")
    return np.require(found, np.int64, ["C", "A"])


def indices(name: str, value: object, size: int) -> Array:
    """Return an array of int64 whose elements lie in 0 ... size-1."""
    found = integers(name, value)
    if found.size and not (found.min() >= 0 and found.max() < size):
        raise ValueError(
            f"{name}: expected values from 0 to {size - 1}, got {found.min()} to {found.max()}"
        )
    return found


def array(name: str, value: object) -> Array:
    """Return a plain array of whatever dtype and layout."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected a plain array, got a masked array (its mask would be lost)"
        )
    if value is None:
        raise TypeError(f"{name}: expected an array, got None")
    try:
        return np.asarray(value)
    except Exception as error:  # foreign arrays (on a GPU, sparse, ...) raise errors of every kind
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name}: expected an array, got {kind} ({error})") from error


def shape(name: str, value: Array, *dimensions: str | int | tuple[str, int]) -> Array:
    """Check a shape; a dimension is a letter (any size), a number, or a letter with its number.

    >>> import numpy as np
    >>> shape("x", np.zeros((5, 2, 7)), "T", "B", ("I", 8))
    Traceback (most recent call last):
    ...
    ValueError: x: expected shape (T, B, I=8), got (5, 2, 7)
    """
    found = value.shape
    if found == dimensions:
        return value
    if len(found) == len(dimensions):
        for n, dimension in enumerate(dimensions):
            if type(dimension) is str:
                continue
            if found[n] != (dimension[1] if type(dimension) is tuple else dimension):
                break
        else:
            return value
    words = [f"{d[0]}={d[1]}" if isinstance(d, tuple) else str(d) for d in dimensions]
    comma = "," if len(words) == 1 else ""
    raise ValueError(f"{name}: expected shape ({', '.join(words)}{comma}), got {found}")


def state_tuple(name: str, value: object, states: Sequence[str]) -> tuple[object, ...]:
    """Split a state argument into its arrays: a bare array for one state, a tuple for several."""
    if len(states) == 1:
        if isinstance(value, tuple):
            raise TypeError(f"{name}: expected one array {states[0]}, got a tuple of {len(value)}")
        return (value,)
    words = f"a tuple ({', '.join(states)})"
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name}: expected {words}, got {type(value).__name__}")
    if len(value) != len(states):
        raise ValueError(f"{name}: expected {words}, got {len(value)} elements")
    return tuple(value)


def lengths(
    value: object, steps: int, batch: int, *, batched: bool = True, name: str = "lengths"
) -> Array:
    """Return the (B,) int64 lengths of the rows, each in 0 ... T."""
    found = integers(name, value)
    if batched:
        shape(name, found, ("B", batch))
    elif found.shape not in ((), (1,)):
        raise ValueError(f"{name}: expected one number for an unbatched x, got {found.shape}")
    found = found.reshape(batch)
    if batch and not (found.min() >= 0 and found.max() <= steps):
        raise ValueError(
            f"{name}: expected values from 0 to T={steps}, got {found.min()} to {found.max()}"
        )
    return found


def reset(value: object, *dimensions: tuple[str, int]) -> Array:
    """Return the reset mask as a boolean array."""
    found = array("reset", value)
    if found.dtype != np.bool_:
        raise TypeError(f"reset: expected an array of booleans, got {found.dtype}")
    return np.require(shape("reset", found, *dimensions), np.bool_, ["C", "A"])


def mapping(name: str, value: object, expected: Mapping[str, Array]) -> dict[str, Array]:
    """Check that a mapping holds exactly the expected names, shapes and dtypes."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping of arrays, got {type(value).__name__}")
    missing = [key for key in expected if key not in value]
    unknown = [str(key) for key in value if key not in expected]
    if missing or unknown:
        wrong = [
            f"{what} {', '.join(keys)}"
            for what, keys in (("missing", missing), ("unknown", unknown))
            if keys
        ]
        words = ", ".join(expected) or "no parameters"
        raise ValueError(f"{name}: expected {words}; {'; '.join(wrong)}")
    return {
        key: shape(
            f"{name}[{key!r}]", floating(f"{name}[{key!r}]", value[key], array.dtype), *array.shape
        )
        for key, array in expected.items()
    }
