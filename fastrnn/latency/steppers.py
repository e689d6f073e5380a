"""Who takes steps: this library's streams, torch and ONNX Runtime, and the clock alone.

Everyone reads the same array, in place, into which samples are written one after the other, keeps
its state from step to step, and has as many threads. Libraries are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import dispatch, workspace
from ..bench.measure import TOLERANCE, difference
from ..bench.peers import onnx
from ..bench.problem import Problem
from ..bench.workloads import Workload
from ..layers import LAYERS
from ..stream import Stream
from ..validation import Array

SAMPLES = 256  # that are taken in turn
COMPARED = 64  # steps whose outputs are compared with the reference
TRIED = 300  # steps of each way to call a library, of which the faster one is taken


@dataclass(frozen=True, slots=True)
class Stepper:
    """What takes steps.

    Attributes
    ----------
    step
        Takes one, from the sample in `Problem.x`.
    output
        Returns the output of the last one, (B, H); not timed.
    how
        How the library is called, where there is a choice.
    around
        The context in which steps are taken.
    """

    step: Callable[[], object]
    output: Callable[[], Array]
    how: str = ""
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table.

    Attributes
    ----------
    name
        How results call it.
    prepare
        Makes the ways of calling it, all with states of zeros.
    modules
        What has to be installed.
    backend
        One of ours, or None.
    """

    name: str
    prepare: Callable[[Problem], Sequence[Stepper]]
    modules: tuple[str, ...] = ()
    backend: str | None = None

    def missing(self) -> str:
        """Say why it cannot be asked, or nothing."""
        if self.backend is not None:
            return dispatch.missing(self.backend) or ""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""


def problem(cell: str, I: int, H: int, B: int, threads: int = 1) -> Problem:
    """Return the weights of a layer, and the array of a sample, (B, I)."""
    work = Workload(suite="latency", kind="step", cell=cell, I=I, H=H, B=B, T=1)
    return Problem(work, threads)


def samples(p: Problem) -> Array:
    """Return samples, (SAMPLES, B, I)."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((SAMPLES, *p.x.shape), np.float32)


def reference(p: Problem) -> Array:
    """Return the outputs of the first samples, (COMPARED, B, H), in float64 by NumPy."""
    layer = _layer(p, "numpy", "float64")
    return np.asarray(layer(samples(p)[:COMPARED].astype(np.float64))[0])


def choose(contender: Contender, p: Problem, wanted: Array) -> tuple[Stepper | None, str]:
    """Return the fastest right way to call a contender, or None and why there is none."""
    if why := contender.missing():
        return None, why
    # A peer's errors are of every kind, and no reason to lose what others can show.
    try:
        found = [(*_try(way, p, wanted), way) for way in contender.prepare(p)]
    except Exception as error:
        if contender.backend is not None:
            raise
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    right = [row for row in found if row[0] <= TOLERANCE]
    if not right:
        return None, f"differs from the reference by {found[0][0]:.1e}"
    return min(right, key=lambda row: row[1])[2], ""


def _try(way: Stepper, p: Problem, wanted: Array) -> tuple[float, float]:
    """Return the error of the first outputs, and the seconds of a step."""
    outputs, times = [], []
    with way.around():
        for sample in samples(p)[: len(wanted)]:
            np.copyto(p.x, sample)
            way.step()
            outputs.append(np.array(way.output()))
        for _ in range(TRIED):
            start = time.perf_counter()
            way.step()
            times.append(time.perf_counter() - start)
    return difference([np.stack(outputs)], [wanted]), float(np.median(times))


def _layer(p: Problem, backend: str, dtype: str = "float32") -> Any:
    work = p.work
    layer = LAYERS[work.cell](work.I, work.H, dtype=dtype, seed=0, backend=backend)
    layer.load_parameters({f"{name}_l0": a.astype(dtype) for name, a in p.parameters.items()})
    return layer


def stream(p: Problem, backend: str) -> list[Stepper]:
    """Step a stream of ours into a given array."""
    ours = Stream(_layer(p, backend), p.work.B, threads=p.threads)
    out = workspace.empty((p.work.B, p.work.H), p.x.dtype)
    return [Stepper(partial(ours.step, p.x, out), lambda: out)]


def torch_modules(p: Problem) -> list[Stepper]:
    """Call the cell, or the layer with one step, in inference mode."""
    import torch

    torch.set_num_threads(p.threads)
    name, sizes = p.work.cell.upper(), (p.work.I, p.work.H)
    ways = []
    for module, suffix, how in (
        (getattr(torch.nn, f"{name}Cell")(*sizes), "", f"{name}Cell"),
        (getattr(torch.nn, name)(*sizes), "_l0", f"{name}, one step"),
    ):
        weights = {n + suffix: torch.from_numpy(a) for n, a in p.parameters.items()}
        module.load_state_dict(weights)
        ways.append(_torch(p, module, cell=not suffix, how=how))
    return ways


def _torch(p: Problem, module: Any, *, cell: bool, how: str) -> Stepper:
    import torch

    x = torch.from_numpy(p.x)
    if not cell:
        x = x[None]
    state: Any = None

    def step() -> None:
        nonlocal state
        found = module(x, state)
        state = found if cell else found[1]

    def output() -> Array:
        h = state[0] if isinstance(state, tuple) else state
        return np.asarray(h.numpy()).reshape(p.work.B, p.work.H)

    return Stepper(step, output, how, torch.inference_mode)


def onnxruntime_session(p: Problem) -> list[Stepper]:
    """Run a session on arrays, or with inputs and outputs that are bound beforehand."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = p.threads, 1
    session = ort.InferenceSession(onnx.serialized(p), options, providers=["CPUExecutionProvider"])
    return [_run(p, session), _bound(p, session)]


def _run(p: Problem, session: Any) -> Stepper:
    names = [given.name for given in session.get_inputs()]
    shape = (1, p.work.B, p.work.H)
    feeds = {name: p.x[None] if name == "x" else np.zeros(shape, np.float32) for name in names}

    def step() -> None:
        feeds.update(zip(names[1:], session.run(None, feeds), strict=True))

    return Stepper(step, lambda: feeds["h0"][0], "run")


def _bound(p: Problem, session: Any) -> Stepper:
    import onnxruntime as ort

    inputs = [given.name for given in session.get_inputs()]
    outputs = [given.name for given in session.get_outputs()]
    x = ort.OrtValue.ortvalue_from_numpy(p.x[None])  # its memory is the array's
    # States go from one set of arrays to the other, and back in the next step.
    arrays = [[np.zeros((1, p.work.B, p.work.H), np.float32) for _ in outputs] for _ in range(2)]
    states = [[ort.OrtValue.ortvalue_from_numpy(array) for array in each] for each in arrays]
    bindings = []
    for source in range(2):
        binding = session.io_binding()
        for name, value in zip(inputs, [x, *states[source]], strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(outputs, states[1 - source], strict=True):
            binding.bind_ortvalue_output(name, value)
        bindings.append(binding)
    taken = 0

    def step() -> None:
        nonlocal taken
        session.run_with_iobinding(bindings[taken % 2])
        taken += 1

    return Stepper(step, lambda: arrays[taken % 2][0][0], "IOBinding")


CLOCK = "the clock alone"
CONTENDERS = (
    *(
        Contender(f"fastrnn ({name})", partial(stream, backend=name), backend=name)
        for name in dispatch.BACKENDS
    ),
    Contender("torch", torch_modules, ("torch",)),
    Contender("ONNX Runtime", onnxruntime_session, ("onnxruntime", "onnx")),
)
