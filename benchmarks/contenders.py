"""Who computes a workload, how each is called, and how they are timed against one another.

All contenders of a workload run interleaved in one process, with the same number of threads, on the
same weights, each called the way its own documentation calls fast. Each has the machine for itself
for a while before its turn: the threads of some go on spinning after a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastrnn

Arrays = list[np.ndarray]
Run = Callable[[], Arrays]


class Workload(NamedTuple):
    """What is computed, who else computes it, and the ratio that we want (0: none)."""

    kind: str  # "inference" or "training"
    cell: str
    sizes: tuple[int, int, int, int]  # I, H, B, T
    peers: tuple[str, ...]
    target: float = 0

    @property
    def title(self) -> str:
        return f"{self.cell}-{self.kind} {'/'.join(map(str, self.sizes))}"


class Problem:
    """Input, weights and the gradient of the output: the same for everyone."""

    def __init__(self, work: Workload) -> None:
        self.work = work
        I, H, B, T = work.sizes
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(T, B, I)).astype(np.float32)
        self.d_y = rng.normal(size=(T, B, H)).astype(np.float32)
        self.layer = getattr(fastrnn, work.cell.upper())
        self.parameters = self.layer(I, H, seed=0).parameters


def fastrnn_run(p: Problem, backend: str, dtype: str = "float32") -> Run:
    I, H, _, _ = p.work.sizes
    layer = p.layer(I, H, dtype=dtype, backend=backend)
    layer.load_parameters({k: v.astype(dtype) for k, v in p.parameters.items()})
    x, d_y = p.x.astype(dtype), p.d_y.astype(dtype)
    if p.work.kind == "inference":
        return lambda: [layer(x)[0]]

    def train() -> Arrays:
        tape = layer.record(x)
        gradients = tape.backward(d_y)
        return [tape.output, gradients.input, *gradients.parameters.values()]

    return train


def torch_run(p: Problem, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    module = getattr(torch.nn, p.work.cell.upper())(*p.work.sizes[:2])
    module.load_state_dict({k: torch.from_numpy(v) for k, v in p.parameters.items()})
    x, d_y = torch.from_numpy(p.x.copy()), torch.from_numpy(p.d_y)
    if p.work.kind == "inference":

        def infer() -> Arrays:
            with torch.inference_mode():
                return [module(x)[0].numpy()]

        return infer
    x.requires_grad_()

    def train() -> Arrays:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = module(x)
        y.backward(d_y)
        return [y.detach().numpy(), *(t.grad.numpy() for t in (x, *module.parameters()))]

    return train


# Which of our gates stands at each place in ONNX' order.
ONNX_GATES = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}


def onnx_model(p: Problem) -> Any:
    import onnx

    cell = p.work.cell
    I, H, B, T = p.work.sizes

    def order(array: np.ndarray) -> np.ndarray:
        blocks = np.split(array, len(ONNX_GATES[cell]))
        return np.concatenate([blocks[k] for k in ONNX_GATES[cell]])

    w = {k.removesuffix("_l0"): order(v) for k, v in p.parameters.items()}
    constants = {
        "W": w["weight_ih"][None],
        "R": w["weight_hh"][None],
        "B": np.concatenate([w["bias_ih"], w["bias_hh"]])[None],
    }
    attributes = {"linear_before_reset": 1} if cell == "gru" else {}
    node = onnx.helper.make_node(
        cell.upper(), ["x", *constants], ["y"], hidden_size=H, **attributes
    )
    FLOAT = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        cell,
        [onnx.helper.make_tensor_value_info("x", FLOAT, (T, B, I))],
        [onnx.helper.make_tensor_value_info("y", FLOAT, (T, 1, B, H))],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8
    )


def onnxruntime_run(p: Problem, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        onnx_model(p).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: [session.run(None, {"x": p.x})[0][:, 0]]


def openvino_run(p: Problem, threads: int) -> Run:
    import openvino

    model = openvino.Core().read_model(onnx_model(p).SerializeToString())
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    tensor = openvino.Tensor(p.x, shared_memory=True)
    request.set_input_tensor(tensor)

    def infer() -> Arrays:
        request.infer()
        return [request.get_output_tensor().data[:, 0]]

    return infer


def jax_run(p: Problem, threads: int) -> Run:
    import jax
    from jax import numpy as jnp

    H = p.work.sizes[1]
    w = {k.removesuffix("_l0"): jnp.asarray(v) for k, v in p.parameters.items()}

    def forward(w: Any, x: Any) -> Any:
        # The input's product is taken for all steps at once.
        a = x @ w["weight_ih"].T + w["bias_ih"]

        def step(state: Any, a: Any) -> Any:
            h, c = state
            u = h @ w["weight_hh"].T + w["bias_hh"]
            if p.work.cell == "rnn":
                h = jnp.tanh(a + u)
            elif p.work.cell == "gru":
                r, z = (jax.nn.sigmoid(v) for v in jnp.split((a + u)[:, : 2 * H], 2, 1))
                n = jnp.tanh(a[:, 2 * H :] + r * u[:, 2 * H :])
                h = (1 - z) * n + z * h
            else:
                i, f, g, o = jnp.split(a + u, 4, 1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[1], H), x.dtype)
        return jax.lax.scan(step, (zeros, zeros), a)[1]

    @jax.jit
    def train(w: Any, x: Any, d_y: Any) -> Any:
        y, pullback = jax.vjp(forward, w, x)
        d_w, d_x = pullback(d_y)
        return y, d_x, d_w

    x, d_y = jnp.asarray(p.x), jnp.asarray(p.d_y)

    def run() -> Arrays:
        y, d_x, d_w = jax.block_until_ready(train(w, x, d_y))
        found = (d_w[k.removesuffix("_l0")] for k in p.parameters)
        return [np.asarray(v) for v in (y, d_x, *found)]

    return run


PAUSE = 0.1  # seconds: the threads of ONNX Runtime spin for 50 ms after a call


def numpy_run(p: Problem, threads: int) -> Run:
    return fastrnn_run(p, "numpy")  # its threads are those of NumPy's BLAS


PEERS: dict[str, Callable[[Problem, int], Run]] = {
    "onnxruntime": onnxruntime_run,
    "openvino": openvino_run,
    "torch": torch_run,
    "jax": jax_run,
    "numpy": numpy_run,
}


def contenders(work: Workload, backend: str, threads: int) -> dict[str, Run]:
    """Return the runs of a backend, under "", and its peers; of those whose results are right."""
    problem = Problem(work)
    wanted = fastrnn_run(problem, "numpy", "float64")()
    runs = {"": fastrnn_run(problem, backend)}
    for peer in work.peers:
        try:
            runs[peer] = PEERS[peer](problem, threads)
        except ImportError:
            print(f"{work.title}: {peer} is not installed")
    for name, run in list(runs.items()):
        error = agree(run, wanted)
        if not error < 1e-5:
            print(f"{work.title}: {name or backend} is wrong by {error:.1e}, and not timed")
            del runs[name]
    return runs


def agree(run: Run, wanted: Arrays) -> float:
    """Return the largest error, relative to the largest of each array."""
    found = run()
    return max(
        float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
        for a, b in zip(found, wanted, strict=True)
    )


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds a call: in each round everyone has a turn of some 10 ms, and half of one to warm up.

    One call to warm up would do for those who take long for it; the processor wakes up in some ms.
    """
    calls = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        calls[name] = max(1, round(1e-2 / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            for _ in range(1 + calls[name] // 2):
                run()
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            times[name].append((time.perf_counter() - start) / calls[name])
    return times
