"""Memory of large arrays: used again when nothing refers to it, and never twice at a time."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastrnn import workspace

FLOAT = np.dtype(np.float32)
SHAPE = (7, workspace.SMALLEST // 4)


@pytest.fixture(autouse=True)
def _memory_of_its_own(poison: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    poison.undo()  # it refers to all memory
    monkeypatch.setattr(workspace, "BLOCKS", workspace._Blocks())


def empty() -> np.ndarray:
    return workspace.empty(SHAPE, FLOAT)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again_when_the_array_is_gone() -> None:
    array = empty()
    first = address(array)
    del array
    assert address(empty()) == first


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array,
        lambda array: array[-1, -3:],
        memoryview,
        lambda array: array.reshape(-1).view(np.int32).T,
        lambda array: np.frombuffer(array, np.uint8),
        iter,
    ],
)
def test_nothing_that_refers_to_an_array_loses_it(keep) -> None:
    array = empty()
    kept, first = keep(array), address(array)
    del array
    assert address(empty()) != first
    del kept
    assert first in {address(one) for one in [empty(), empty()]}


def test_arrays_begin_with_a_line_and_at_different_places_of_a_page() -> None:
    places = [address(one) % workspace.PAGE for one in [empty() for _ in range(10)]]
    assert not any(place % workspace.LINE for place in places)
    assert len(set(places)) == len(places)


def test_what_is_kept_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    size = FLOAT.itemsize * SHAPE[0] * SHAPE[1]
    monkeypatch.setattr(workspace._Blocks, "MOST", 3 * size)
    arrays = [empty() for _ in range(10)]
    assert len({address(array) for array in arrays}) == 10
    assert 0 < workspace.BLOCKS.kept <= 3 * size
    assert sum(map(len, workspace.BLOCKS.blocks.values())) * size == workspace.BLOCKS.kept


def test_threads_never_get_the_same_memory() -> None:
    def work(number: int) -> bool:
        right = True
        for turn in range(200):
            array = empty()
            array.fill(number)
            if turn % 20 == 0:
                time.sleep(0.001)
            right &= bool((array == number).all())
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_memory_is_not_offered_before_its_array_is_there() -> None:
    """In between, another thread would find nothing that refers to it."""
    offered = []

    class Watched(list):
        def append(self, block: workspace.Block) -> None:
            offered.append(sys.getrefcount(block[0]) - workspace.BLOCKS.alone)
            super().append(block)

    workspace.BLOCKS.blocks[FLOAT.itemsize * SHAPE[0] * SHAPE[1]] = Watched()
    array = empty()
    assert array.shape == SHAPE
    assert offered == [1]  # the array
