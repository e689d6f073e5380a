"""fastrnn.torch: its modules against torch's own, called in every way that those can be."""

import copy
import io
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.testing._internal import common_modules

import fastrnn
import fastrnn.torch as ours
from fastrnn import dispatch
from problems import BACKENDS
from torch_pairs import (
    CELLS,
    KINDS,
    H,
    I,
    P,
    assert_same,
    compare,
    draw,
    draw_state,
    leaves,
    pair,
    run,
)

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]

# --- torch's own grid

OWN = [info for info in common_modules.module_db if info.name[3:] in (*KINDS, *CELLS)]
assert len(OWN) == 6


def own_inputs(info: Any, inputs: Any, dtype: torch.dtype) -> list[Any]:
    packed = {"with_packed_sequence": True} if info.name in ("nn.RNN", "nn.GRU") else {}
    if info.name == "nn.RNN":
        packed["is_rnn"] = True
    elif info.name == "nn.GRU":
        packed["is_rnn"] = False
    return list(
        inputs(info, device="cpu", dtype=dtype, requires_grad=True, training=True, **packed)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("info", OWN, ids=lambda info: info.name)
def test_grid_of_torch(info: Any, dtype: torch.dtype) -> None:
    samples = own_inputs(info, info.module_inputs_func, dtype)
    assert len(samples) >= 2
    for sample in samples:
        made = sample.constructor_input
        theirs, mine = pair(info.name[3:], *made.args, **made.kwargs, dtype=dtype)
        arguments = sample.forward_input.args
        assert not sample.forward_input.kwargs
        compare(theirs, mine, *arguments)
        batched = isinstance(arguments[0], PackedSequence)
        if sample.reference_fn and not batched:  # torch's own judge of unbatched input
            expected = sample.reference_fn(mine, *arguments)
            assert_same(mine(*arguments), expected)
        assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("info", OWN, ids=lambda info: info.name)
def test_errors_of_torch(info: Any) -> None:
    samples = own_inputs(info, info.module_error_inputs_func, torch.float32)
    assert len(samples) >= 4
    for sample in samples:
        made = sample.module_error_input.constructor_input
        kind = getattr(ours, info.name[3:])
        if sample.error_on is common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type, match=sample.error_regex):
                kind(*made.args, **made.kwargs)
        else:
            module, given = kind(*made.args, **made.kwargs), sample.module_error_input.forward_input
            with pytest.raises(sample.error_type, match=sample.error_regex):
                module(*given.args, **given.kwargs)


# --- our grid: every option of the constructor with every kind of input

OPTIONS = [
    (kind, {"nonlinearity": n} if n else {"proj_size": p} if p else {})
    for kind, n, p in (
        ("LSTM", "", 0), ("LSTM", "", P), ("GRU", "", 0), ("RNN", "tanh", 0), ("RNN", "relu", 0),
    )
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "more"), OPTIONS, ids=str)
def test_sequences(kind: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    grid = itertools.product((1, 2), (False, True), (False, True), (False, True))
    for layers, bidirectional, batch_first, bias in grid:
        theirs, mine = pair(
            kind, I, H, layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias,
            dtype=dtype, **more,
        )  # fmt: skip
        for T, B in ((6, 4), (1, 1), (4, 0)):
            x = draw(*((B, T) if batch_first else (T, B)), I, dtype=dtype)
            compare(theirs, mine, x)
            compare(theirs, mine, x, draw_state(mine, B, dtype=dtype))
        compare(theirs, mine, draw(6, I, dtype=dtype))
        compare(theirs, mine, draw(6, I, dtype=dtype), draw_state(mine, dtype=dtype))
        lengths = torch.tensor([2, 6, 1, 4])
        x = draw(*((4, 6) if batch_first else (6, 4)), I, dtype=dtype)
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
        for state in (None, draw_state(mine, 4, dtype=dtype)):
            compare(theirs, mine, packed, state)
            found, _ = mine(packed, state)
            expected, _ = theirs(packed, state)
            assert type(found) is PackedSequence
            for a, b in zip(found[1:], expected[1:], strict=True):
                assert torch.equal(a, b)
        in_order = pack_padded_sequence(x, lengths.sort(descending=True)[0], batch_first)
        compare(theirs, mine, in_order, draw_state(mine, 4, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind: str, dtype: torch.dtype) -> None:
    nonlinearities: tuple[dict[str, Any], ...] = ({},)
    if kind == "RNNCell":
        nonlinearities = ({"nonlinearity": "tanh"}, {"nonlinearity": "relu"})
    for bias, more in itertools.product((True, False), nonlinearities):
        theirs, mine = pair(kind, I, H, bias, **more, dtype=dtype)
        assert repr(mine) == repr(theirs)
        for batch in ((4,), (1,), (0,), ()):
            x = draw(*batch, I, dtype=dtype)
            compare(theirs, mine, x)
            compare(theirs, mine, x, draw_state(mine, *batch, dtype=dtype))
        columns = draw(I, 4, dtype=dtype).T  # not contiguous
        compare(theirs, mine, columns, draw_state(mine, 4, dtype=dtype))


def test_large_steps_and_sequences() -> None:
    """Beyond what is run at once, and on more threads than one."""
    for kind in CELLS:
        theirs, mine = pair(kind, 64, H)
        compare(theirs, mine, draw(2000, 64), draw_state(mine, 2000))
    theirs, mine = pair("GRU", 128, 128)
    x = draw(200, 32, 128)  # 630 million multiply-adds
    assert_same(run(mine, (x,)), run(theirs, (x,)), 1e-4)


def test_a_loop_of_steps_is_a_sequence() -> None:
    layer, cell = ours.LSTM(I, H), ours.LSTMCell(I, H)
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
    x, outputs, state = draw(6, 4, I), [], None
    for one in x:
        state = cell(one, state)
        outputs.append(state[0])
    y, (h, c) = layer(x)
    for found, expected in ((torch.stack(outputs), y), (state[0], h[0]), (state[1], c[0])):
        assert torch.equal(found, expected)
    d = torch.randn_like(y)
    loop = torch.autograd.grad((torch.stack(outputs) * d).sum(), [x, *cell.parameters()])
    whole = torch.autograd.grad((y * d).sum(), [x, *layer.parameters()])
    assert_same(loop, whole)


# --- what modules of torch can do


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_copies_and_files(kind: str) -> None:
    theirs, mine = pair(kind, I, H)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)
    expected = leaves(mine(x))
    file = io.BytesIO()
    torch.save(mine.state_dict(), file)
    file.seek(0)
    again = getattr(ours, kind)(I, H)
    again.load_state_dict(torch.load(file, weights_only=True))
    twins = [again, copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), copy.copy(mine)]  # noqa: S301
    for twin in twins:
        assert all(map(torch.equal, leaves(twin(x)), expected))
    with torch.no_grad():
        next(twins[1].parameters()).zero_()
        assert not torch.equal(leaves(twins[1](x))[0], expected[0])
        assert all(map(torch.equal, leaves(mine(x)), expected))  # a copy is one
    getattr(torch.nn, kind)(I, H).load_state_dict(mine.state_dict(), strict=True)
    assert {name for name, _ in mine.named_parameters()} == {
        name for name, _ in theirs.named_parameters()
    }
    assert mine.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_weights_that_move(kind: str, grad: bool) -> None:
    """A cell keeps the addresses of its weights: whatever happens to these, it has to notice."""
    theirs, mine = pair(kind, H, H)
    x = draw(4, H)

    def check() -> None:
        assert_same(mine(x), theirs(x))

    with torch.set_grad_enabled(grad):
        check()
        for module in (theirs, mine):
            module.weight_hh.data = module.weight_hh.data.clone()
        check()
        for module in (theirs, mine):
            module.weight_ih.data[:H] = module.weight_ih.data[:H].T.clone()
        check()
        for module in (theirs, mine):  # transposed in place: the same address, other strides
            square = module.weight_ih.data[:H].T.contiguous()
            module.weight_ih.data = torch.cat([square] * (len(module.weight_ih) // H)).T.clone().T
        check()
        for module in (theirs, mine):
            module.weight_ih = torch.nn.Parameter(torch.full_like(module.weight_ih, 0.1))
        check()
        mine.load_state_dict(theirs.state_dict())
        check()
        x = x.double()
        theirs.double(), mine.double()
        check()
        torch.nn.utils.parametrizations.weight_norm(mine, "weight_hh")
        torch.nn.utils.parametrizations.weight_norm(theirs, "weight_hh")
        check()


def test_transposed_in_place() -> None:
    """The same address and shape, and other strides."""
    theirs, mine = pair("RNNCell", H, H)
    x = draw(4, H)
    with torch.no_grad():
        assert_same(mine(x, x), theirs(x, x))
        for module in (theirs, mine):
            module.weight_hh.data = module.weight_hh.data.T
        assert mine.weight_hh.shape == (H, H)
        assert not mine.weight_hh.is_contiguous()
        assert_same(mine(x, x), theirs(x, x))


def test_hooks() -> None:
    theirs, mine = pair("LSTM", I, H, 2)
    x = draw(6, 4, I)
    seen: list[list[Any]] = [[], []]
    for module, events in zip((theirs, mine), seen, strict=True):
        module.register_forward_pre_hook(lambda _, args, e=events: e.append(args[0].sum()))
        module.register_forward_hook(lambda _, __, out, e=events: e.append(out[0].sum()))
        module.register_full_backward_hook(lambda _, d_in, d_out, e=events: e.extend([d_in, d_out]))
        module.weight_ih_l1.register_hook(lambda g: g * 2)
        module.weight_hh_l0.register_post_accumulate_grad_hook(lambda p, e=events: e.append(p.grad))
        module(x)[0].square().sum().backward()
    assert_same(seen[1], seen[0])
    assert_same([p.grad for p in mine.parameters()], [p.grad for p in theirs.parameters()])


def test_dropout_draws_what_torch_draws() -> None:
    theirs, mine = pair("GRU", I, H, 3, dropout=0.4, bidirectional=True)
    x = draw(6, 4, I)
    results = []
    for module in (theirs, mine):
        torch.manual_seed(5)
        results.append((module(x), torch.autograd.grad(module(x)[0].sum(), module.parameters())))
    assert_same(results[1], results[0])
    theirs.eval(), mine.eval()
    compare(theirs, mine, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_half_precision_is_computed_in_float32(kind: str, dtype: torch.dtype) -> None:
    _, mine = pair(kind, I, H)
    mine = mine.to(dtype)
    x = (draw(4, I) if kind in CELLS else draw(6, 4, I)).detach().to(dtype).requires_grad_()
    wide = copy.deepcopy(mine).float()
    state = draw_state(mine, 4, dtype=dtype)
    results, gradients = run(mine, (x, state))
    h = leaves(state)
    expected = wide(x.float(), h[0].float() if len(h) == 1 else tuple(s.float() for s in h))
    assert all(a.dtype == dtype for a in (*leaves(results), *gradients))
    for a, b in zip(leaves(results), leaves(expected), strict=True):
        assert torch.equal(a, b.to(dtype))
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_autocast_keeps_the_precision_of_the_weights(kind: str) -> None:
    _, mine = pair(kind, I, H)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mine(x.bfloat16())
    assert_same(found, mine(x.bfloat16().float()))


def test_share_memory() -> None:
    _, mine = pair("GRUCell", I, H)
    x = draw(4, I)
    with torch.no_grad():
        before = mine(x)
        mine.share_memory()
        assert all(p.is_shared() for p in mine.parameters())
        assert torch.equal(mine(x), before)


class Steps(torch.utils.data.Dataset):
    """What a cell makes of an index, in a worker."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        x = torch.full(
            (4, 8, I) if isinstance(self.module, torch.nn.RNNBase) else (8, I), index / 6
        )
        with torch.no_grad():
            return leaves(self.module(x))[0]


@pytest.mark.filterwarnings("ignore:os.fork")  # JAX, where another test has imported it
@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_workers(kind: str) -> None:
    data = Steps(getattr(ours, kind)(I, H))
    here = [data[k] for k in range(len(data))]
    loader = torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context="fork")
    for (found,), expected in zip(loader, here, strict=True):
        assert torch.equal(found, expected)


def test_no_copies() -> None:
    """Kernels read and write the memory of the tensors, also where the way is longer."""
    _, mine = pair("LSTM", I, H)
    seen = []

    class Watch:
        MOST = 10**9

        def __init__(self, run: Any) -> None:
            self.run = run

        def forward(self, sizes: Any, real: Any, threads: Any, read: Any, written: Any) -> None:
            seen.append((read, written))
            self.run.forward(sizes, real, threads, read, written)

    x = draw(6, 4, I).detach()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(dispatch, "direct", lambda *a, find=dispatch.direct: Watch(find(*a)))
        y, (h, c) = mine(x)
    ((read, written),) = seen
    assert read[:5] == (x.data_ptr(), *[p.data_ptr() for p in mine.parameters()])
    assert written[:3] == (y.data_ptr(), h.data_ptr(), c.data_ptr())
    found = fastrnn.torch.ops.array("x", x)
    assert found.__array_interface__["data"][0] == x.data_ptr()


# --- lengths and resets


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_resets(
    kind: str, batch_first: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", backend)
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    _, mine = pair(kind, I, H, **options)
    plain = getattr(fastrnn, kind)(I, H, **options, backend=backend)
    plain.load_parameters({n: p.detach().numpy() for n, p in mine.named_parameters()})
    x = draw(*((4, 6) if batch_first else (6, 4)), I)
    state = draw_state(mine, 4)
    lengths = torch.tensor([6, 0, 3, 1])
    reset = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(4)) < 0.3
    y, last = mine(x, state, lengths=lengths, reset=reset)
    arrays = [s.detach().numpy() for s in leaves(state)]
    tape = plain.record(
        x.detach().numpy(), tuple(arrays) if len(arrays) > 1 else arrays[0],
        lengths=lengths.numpy(), reset=reset.numpy(),
    )  # fmt: skip
    found = [t.detach().numpy() for t in leaves((y, last))]
    expected = [tape.output, *(tape.state if isinstance(tape.state, tuple) else (tape.state,))]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    d = torch.randn_like(y)
    gradients = torch.autograd.grad((y * d).sum(), [x, *mine.parameters()])
    wanted = tape.backward(d.numpy())
    for a, b in zip(gradients, [wanted.input, *wanted.parameters.values()], strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    one, _ = mine(x[0] if batch_first else x[:, 0], lengths=4, reset=torch.zeros(6, dtype=bool))
    assert not one[4:].any()
    assert one[:4].all()


def test_lengths_are_packed_sequences() -> None:
    theirs, mine = pair("LSTM", I, H, bidirectional=True)
    x, lengths = draw(6, 4, I), [3, 6, 1, 5]
    y, state = mine(x, lengths=lengths)
    packed, expected = theirs(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    assert_same((y, state), (pad_packed_sequence(packed)[0], expected))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lengths": [7, 1, 1, 1]}, ValueError, "lengths: expected values from 0 to T=6"),
        ({"lengths": [-1, 1, 1, 1]}, ValueError, "lengths: expected values from 0 to T=6"),
        ({"lengths": [1, 1]}, ValueError, r"lengths: expected shape \(B=4,\), got \(2,\)"),
        ({"lengths": [1.0, 1, 1, 1]}, TypeError, "lengths: expected an array of integers"),
        ({"reset": torch.zeros(6, 4)}, TypeError, "reset: expected an array of booleans"),
        ({"reset": torch.zeros(4, 6, dtype=torch.bool)}, ValueError, r"reset: expected shape"),
        ({"hx": torch.zeros(1, 4, H)}, TypeError, r"hx: expected a tuple \(h, c\), got Tensor"),
        ({"hx": (torch.zeros(1, 4, H),)}, TypeError, r"hx: expected a tuple \(h, c\)"),
        ({"hx": (torch.zeros(1, 3, H), torch.zeros(1, 4, H))}, RuntimeError, "Expected hidden"),
        ({"hx": (torch.zeros(1, 4, H), torch.zeros(1, 4, H + 1))}, RuntimeError, "Expected hidden"),
        ({"hx": (torch.zeros(4, H), torch.zeros(4, H))}, RuntimeError, "should also be 3-D"),
        ({"hx": (torch.zeros(1, 4, H).double(),) * 2}, RuntimeError, "not the same dtype"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], words: str) -> None:
    module = ours.LSTM(I, H)
    with pytest.raises(error, match=words):
        module(torch.zeros(6, 4, I), **arguments)


def test_packed_sequences_have_their_lengths() -> None:
    packed = pack_padded_sequence(torch.zeros(6, 2, I), torch.tensor([6, 2]))
    with pytest.raises(ValueError, match="lengths, reset: expected None with a PackedSequence"):
        ours.GRU(I, H)(packed, lengths=torch.tensor([6, 2]))


# --- where it does not compute


def test_other_devices_and_layouts() -> None:
    for kind in (*KINDS, *CELLS):
        module = getattr(ours, kind)(I, H)
        x = torch.zeros(6, 4, I) if kind in KINDS else torch.zeros(4, I)
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            cuda = torch._subclasses.FakeTensor(mode, x.to("meta"), torch.device("cuda:0"))
            with pytest.raises(TypeError, match=r"input: expected a tensor on the CPU.* on cuda:0"):
                module(cuda)
        if kind in KINDS:
            with pytest.raises(TypeError, match="input: expected a dense tensor"):
                module(x.to_sparse())


def test_meta_tensors_have_shapes() -> None:
    module = ours.LSTM(I, H, 2, bidirectional=True, proj_size=P, device="meta")
    y, (h, c) = module(torch.zeros(6, 4, I, device="meta"))
    assert (y.shape, h.shape, c.shape) == ((6, 4, 2 * P), (4, 4, P), (4, 4, H))


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "c"])
@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_other_backends(kind: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", backend)
    theirs, mine = pair(kind, I, H, dtype=torch.float64)
    batch = (4,) if kind in CELLS else (6, 4)
    compare(
        theirs, mine, draw(*batch, I, dtype=torch.float64), draw_state(mine, 4, dtype=torch.float64)
    )


def test_threads_of_torch_are_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrnn import c_backend, threads

    fastrnn.set_num_threads(7)
    seen = []
    ask = threads.num_threads
    monkeypatch.setattr(c_backend, "num_threads", lambda: seen.append(ask()) or seen[-1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        ours.GRU(I, H, bidirectional=True)(draw(6, 4, I))
        assert set(seen) == {1}
        assert ask() == 7
    finally:
        torch.set_num_threads(before)
