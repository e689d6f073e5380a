"""Every other library that is installed is right at what it computes, before it is timed."""

import importlib.util

import pytest

from fastrnn.bench import measure
from fastrnn.bench.contenders import CONTENDERS, Contender
from fastrnn.bench.problem import Problem
from fastrnn.bench.workloads import Workload

pytestmark = pytest.mark.peers
PEERS = [row for row in CONTENDERS if row.backend is None]
REFUSES = {
    "torch": set(),
    "torch.compile": {"inference", "training", "character"},
    "ONNX Runtime": {"training", "character"},
    "OpenVINO": {"training", "character"},
    "JAX": {"character"},
    "Keras (torch)": {"step", "character"},
}


@pytest.mark.parametrize("kind", ["step", "inference", "training", "character"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("peer", PEERS, ids=lambda row: row.name)
@pytest.mark.filterwarnings("default")  # other libraries' own
def test_peer_agrees_or_refuses(
    peer: Contender, cell: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if peer.missing():
        pytest.skip(f"{peer.name}: {peer.missing()}")
    if peer.name == "torch.compile" and " " in str(importlib.util.find_spec("torch").origin):
        pytest.skip("torch.compile: its calls of a compiler break at a space in a path")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # JAX takes what there is
    work = Workload(suite="s", kind=kind, cell=cell, I=3, H=5, B=2, T=1 if kind == "step" else 7)
    problem = Problem(work, 1)
    timing, run = measure.check(peer, problem, problem.reference())
    if kind in REFUSES[peer.name]:
        assert timing.status == "refused"
        return
    assert (timing.status, timing.why) == ("timed", "")
    assert timing.error < 1e-5
    assert run is not None


def test_two_layers_of_a_language_model() -> None:
    work = Workload(suite="s", kind="training", cell="lstm", I=4, H=4, B=2, T=3, layers=2)
    problem = Problem(work, 1)
    wanted = problem.reference()
    for peer in PEERS:
        if peer.word in ("torch", "jax") and not peer.missing():
            timing, _ = measure.check(peer, problem, wanted)
            assert timing.status in ("timed", "refused"), timing
