"""The kernels in builds, and on processors, that are not those of this process: see remote.py.

`make test-wide` and others build a server and set SERVER, its command, and SERVER_ISAS, the
instruction sets that its processor has, where these are others than here.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from fastrnn._c import lib

import fastrnn
from compare import TOLERANCES, assert_close, assert_same_bits, exact, ulps
from fastrnn import c_backend
from problems import EVERYTHING, VARIANTS, Features, Sizes, Variant, make_problem
from remote import Remote

FEATURES = [
    Features(),
    Features(bias=False, state=False, reverse=True),
    EVERYTHING,
]
# As in test_c.py: shared out by units and by rows, ragged, several blocks; and the empty ones.
SIZES = [
    Sizes(5, 1, 40, 300), Sizes(6, 40, 9, 70), Sizes(70, 9, 5, 33), Sizes(2, 3, 1, 2),
    Sizes(0, 2, 3, 4), Sizes(3, 0, 4, 5),
]  # fmt: skip

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(scope="module")
def server() -> Iterator[Remote]:
    remote = Remote(os.environ["SERVER"])
    yield remote
    assert remote.close() == 0  # a sanitizer that has found something says so here


@pytest.fixture
def served(server: Remote, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The backend "c" computes on the server, until this is undone."""
    monkeypatch.setattr(server, "callers", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c_backend, "lib", server)
        yield patch


def test_instruction_sets(server: Remote) -> None:
    """All that the machine has are found, and no more."""
    expected = os.environ.get("SERVER_ISAS")
    assert server.isas() == (expected.split() if expected else c_backend.isas())


@variants
@dtypes
@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.usefixtures("served")
def test_equals_the_reference(
    server: Remote, variant: Variant, dtype: str, features: Features, sizes: Sizes
) -> None:
    problem = make_problem(variant, sizes, features, dtype)
    expected = problem.astype("float64").solve("numpy")
    for isa in server.isas():
        server.use_isa(isa)
        found = problem.solve("c")
        assert_close(found, expected, TOLERANCES[dtype])
        np.testing.assert_array_equal(problem.infer("c")["output"], found["output"])


@variants
@dtypes
@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_bits(
    server: Remote, served: pytest.MonkeyPatch, variant: Variant, dtype: str, sizes: Sizes
) -> None:
    """On every instruction set with fused multiply-adds those of one thread of this process,
    whatever the number of threads, and of callers at the same time.
    """
    problem = make_problem(variant, sizes, EVERYTHING, dtype)
    solutions = []
    for isa in server.isas():
        server.use_isa(isa)
        for server.callers, threads in ((1, 1), (1, 2), (2, 3), (3, 2), (1, 5)):
            fastrnn.set_num_threads(threads)
            solutions.append((isa, problem.solve("c")))
    served.undo()
    if c_backend.isa() != "baseline":
        fastrnn.set_num_threads(1)
        solutions.insert(0, ("here", problem.solve("c")))
    fused = [solution for isa, solution in solutions if isa != "baseline"]
    plain = [solution for isa, solution in solutions if isa == "baseline"]
    for some in (fused, plain):
        for other in some[1:]:
            assert_same_bits(other, some[0])


@dtypes
@pytest.mark.parametrize("curve", ["exp", "sigmoid", "tanh", "hard_sigmoid"])
def test_activations(server: Remote, curve: str, dtype: str) -> None:
    if dtype == "float32":
        x = np.arange(0, 2**32, 9973, np.int64).astype(np.uint32).view(np.float32)
    else:
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.normal(scale=s, size=20_000) for s in (1e-300, 1e-3, 1, 30, 700)])
    which = getattr(lib, f"FASTRNN_{curve.upper()}")
    for isa in server.isas():
        if curve == "hard_sigmoid" and isa == "baseline":
            continue  # two roundings: near 0 they are many units of the last place
        server.use_isa(isa)
        assert ulps(server.activation(which, x), exact(curve, x)).max() <= 2
