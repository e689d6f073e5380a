"""fastrnn.torch as operators: differentiated, compiled, exported, transformed, swapped in."""

import copy
import gc
import importlib.util
import weakref
from typing import Any

import pytest
import torch

import fastrnn.torch as ours
from fastrnn.torch import ops
from torch_pairs import CELLS, KINDS, H, I, P, assert_same, draw, draw_state, leaves, pair, run

pytestmark = pytest.mark.peers

compiled = pytest.mark.skipif(
    " " in str(importlib.util.find_spec("torch").origin),  # type: ignore[union-attr]
    reason="torch.compile: its calls of a compiler break at a space in a path",
)

DOUBLE = torch.float64
VARIANTS = [
    pytest.param(kind, more, id=f"{kind}-{more}")
    for kind, more in (
        ("LSTM", {}), ("LSTM", {"proj_size": P}), ("LSTM", {"bias": False, "bidirectional": True}),
        ("GRU", {}), ("GRU", {"num_layers": 2}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"}),
    )
]  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "more"), VARIANTS)
def test_gradients_by_finite_differences(kind: str, more: dict[str, Any], masked: bool) -> None:
    module = getattr(ours, kind)(I, H, **more, dtype=DOUBLE)
    names = [name for name, _ in module.named_parameters()]
    state = leaves(draw_state(module, 2, dtype=DOUBLE))
    sequence = {}
    if masked:
        sequence["lengths"] = torch.tensor([4, 2])
        sequence["reset"] = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)

    def function(x: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        s, weights = others[: len(state)], others[len(state) :]
        for name, w in zip(names, weights, strict=True):
            del module._parameters[name]
            setattr(module, name, w)
        found = leaves(module(x, s if len(s) > 1 else s[0], **sequence))
        for name in names:
            module._parameters[name] = module.__dict__.pop(name)
        return tuple(found)

    given = [p.detach().clone().requires_grad_() for p in module.parameters()]
    x = draw(4, 2, I, dtype=DOUBLE)
    assert torch.autograd.gradcheck(function, (x, *state, *given))


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_of_cells_by_finite_differences(kind: str) -> None:
    module = getattr(ours, kind)(I, H, dtype=DOUBLE)
    state = leaves(draw_state(module, 2, dtype=DOUBLE))

    def function(x: torch.Tensor, *s: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(leaves(module(x, s if len(s) > 1 else s[0])))

    assert torch.autograd.gradcheck(function, (draw(2, I, dtype=DOUBLE), *state))


def layer_arguments(kind: str, directions: int, *, given: bool, masked: bool) -> tuple[Any, ...]:
    module = getattr(ours, kind)(I, H, bidirectional=directions == 2)
    state = [s.detach() for s in leaves(draw_state(module, 4))] if given else []
    return (
        draw(6, 4, I),
        [s.requires_grad_() for s in state],
        list(module.parameters()),
        torch.tensor([6, 1, 3, 0]) if masked else None,
        torch.rand(6, 4) < 0.3 if masked else None,
        kind.lower(),
        "",
        directions,
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_operators_by_the_rules_of_torch(
    kind: str, directions: int, given: bool, masked: bool
) -> None:
    arguments = layer_arguments(kind, directions, given=given, masked=masked)
    torch.library.opcheck(ops.layer_op, arguments)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_have_the_same_bits(kind: str, directions: int, masked: bool) -> None:
    x, states, weights, *rest = layer_arguments(kind, directions, given=True, masked=masked)
    lengths, reset, cell, text, D = rest
    values = tuple(ops._options(cell, text).values())
    found = [
        ops.layer(x, states, weights, lengths, reset, cell, values, D),
        ops.layer_op(x, states, weights, *rest),
        list(ops._Layer.apply(*rest, len(states), x, *states, *weights)),
    ]
    d = [torch.randn_like(t) for t in found[0]]
    gradients = [torch.autograd.grad(one, [x, *states, *weights], d) for one in found]
    for one, g in zip(found[1:], gradients[1:], strict=True):
        assert all(map(torch.equal, one, found[0]))
        assert all(map(torch.equal, g, gradients[0]))


@pytest.mark.parametrize("words", ["gate=1", "reset_after=perhaps"])
def test_options_are_never_ignored(words: str) -> None:
    x, states, weights, *rest = layer_arguments("GRU", 1, given=False, masked=False)
    rest[3] = words
    with pytest.raises((TypeError, ValueError), match=words.split("=", maxsplit=1)[0]):
        ops.layer_op(x, states, weights, *rest)


# --- autograd


@pytest.mark.parametrize(
    "module", [ours.LSTM(I, H), ours.GRU(I, H, 2, bidirectional=True)], ids=repr
)
def test_backward_twice(module: Any) -> None:
    x = draw(6, 4, I)
    loss = module(x)[0].square().sum()
    first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *module.parameters()])
    assert all(map(torch.equal, first, second))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, [x])


@pytest.mark.parametrize("kind", CELLS)
def test_backward_of_a_cell_twice(kind: str) -> None:
    module = getattr(ours, kind)(I, H)
    x, state = draw(4, I), draw_state(module, 4)
    loss = leaves(module(x, state))[0].square().sum()
    wanted = [x, *leaves(state)[:1], *module.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, wanted)))


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_double_backward_says_that_it_is_not_there(kind: str) -> None:
    module = getattr(ours, kind)(I, H)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)
    (g,) = torch.autograd.grad(leaves(module(x))[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def changed(kind: str) -> list[tuple[Any, torch.Tensor]]:
    """A loss, and a tensor whose change before the way back would make that wrong."""
    found = []
    for what in range(4):
        module = getattr(ours, kind)(I, H)
        x = draw(4, I).detach() if kind in CELLS else draw(6, 4, I).detach()
        state = [s.detach() for s in leaves(draw_state(module, 4))]
        y = leaves(module(x, tuple(state) if len(state) > 1 else state[0]))[0]
        found.append((y.square().sum(), (x, state[0], next(module.parameters()), y)[what]))
    return found


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_changes_before_the_way_back_are_noticed(kind: str) -> None:
    for loss, tensor in changed(kind):
        with torch.no_grad():
            tensor.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_data_that_moves_before_the_way_back(kind: str) -> None:
    """Same numbers elsewhere are used, as in sharded training; another shape is refused."""
    module = getattr(ours, kind)(I, H)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)
    weight = next(module.parameters())
    d = torch.ones(()).expand(leaves(module(x))[0].shape)
    expected = torch.autograd.grad(leaves(module(x))[0], [x, weight], d)
    loss = (leaves(module(x))[0] * d).sum()
    weight.data = weight.data.clone()
    assert all(map(torch.equal, torch.autograd.grad(loss, [x, weight]), expected))
    loss = leaves(module(x))[0].sum()
    weight.data = weight.data[: H - 1].clone()
    with pytest.raises(RuntimeError, match=r"given other data|shape"):
        torch.autograd.grad(loss, [x, weight])


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_nothing_is_kept_alive(kind: str) -> None:
    module = getattr(ours, kind)(I, H)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)
    gc.disable()
    try:
        y = leaves(module(x))[0]
        alive = weakref.ref(y.grad_fn)
        del y
        assert alive() is None  # without a cycle
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_any_layout(kind: str) -> None:
    theirs, mine = pair(kind, I, H)
    x = draw(6, 4, I)
    for d in (torch.ones(()).expand(6, 4, H), draw(H, 4, 6).detach().permute(2, 1, 0)):
        found, expected = (
            torch.autograd.grad(m(x)[0], [x, *m.parameters()], d) for m in (mine, theirs)
        )
        assert_same(list(found), list(expected))


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_some_parameters_frozen(kind: str) -> None:
    theirs, mine = pair(kind, I, H)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)
    for module in (theirs, mine):
        first, *_ = module.parameters()
        first.requires_grad_(False)
        leaves(module(x.detach()))[0].square().sum().backward()
        assert first.grad is None
    assert_same([p.grad for p in mine.parameters()][1:], [p.grad for p in theirs.parameters()][1:])


def test_inference_mode_and_no_grad_record_nothing() -> None:
    for kind in (*KINDS, *CELLS):
        module = getattr(ours, kind)(I, H)
        x = torch.zeros(4, I) if kind in CELLS else torch.zeros(6, 4, I)
        with torch.inference_mode():
            assert all(t.is_inference() for t in leaves(module(x)))
        with torch.no_grad():
            assert not any(t.requires_grad for t in leaves(module(x)))
        module.requires_grad_(False)
        assert not any(t.requires_grad for t in leaves(module(x)))


# --- torch.compile, torch.export, torch.func


@compiled
@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_compiled_whole(kind: str) -> None:
    torch.compiler.reset()
    more = {} if kind in CELLS else {"num_layers": 2, "bidirectional": True}
    module = getattr(ours, kind)(I, H, **more)
    state = draw_state(module, 4)
    x = draw(4, I) if kind in CELLS else draw(6, 4, I)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = module, torch.nn.Linear(H * (2 if more else 1), 2)

        def forward(self, x: Any, state: Any) -> Any:
            found = self.inner(x.sin(), state)
            return self.head(leaves(found)[0]).cos(), found

    model = Model()
    fast = torch.compile(model, fullgraph=True)
    assert_same(run(fast, (x, state)), run(model, (x, state)))
    with torch.no_grad():
        assert_same(fast(x, state), model(x, state))


@compiled
@pytest.mark.filterwarnings("default")
def test_compiled_with_lengths_and_other_sizes() -> None:
    torch.compiler.reset()
    module = ours.GRU(I, H)
    fast = torch.compile(module, fullgraph=True, dynamic=True)
    for T, B in ((6, 4), (9, 2), (5, 7)):
        x, lengths = draw(T, B, I), torch.arange(B) % (T + 1)
        reset = torch.rand(T, B) < 0.2
        assert_same(fast(x, lengths=lengths, reset=reset), module(x, lengths=lengths, reset=reset))


def test_torchs_own_is_refused_by_the_compiler() -> None:
    """Why ours are no instances of theirs; when this fails, they can be."""
    with pytest.raises(Exception, match="RNN, GRU, or LSTM"):
        torch.compile(torch.nn.GRU(I, H), fullgraph=True, backend="eager")(torch.zeros(6, 4, I))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_exported(kind: str, strict: bool) -> None:
    module = getattr(ours, kind)(I, H, 2, batch_first=True)
    steps = torch.export.Dim("steps", min=2, max=50)
    x = draw(4, 6, I).detach()
    program = torch.export.export(module, (x,), dynamic_shapes=({1: steps},), strict=strict)
    longer = draw(4, 11, I).detach()
    for one in (x, longer):
        assert_same(program.module()(one), module(one))
    assert "fastrnn.layer" in str(program.graph)


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_functions_of_parameters(kind: str) -> None:
    module = getattr(ours, kind)(I, H, dtype=DOUBLE)
    x = (draw(4, I, dtype=DOUBLE) if kind in CELLS else draw(6, 4, I, dtype=DOUBLE)).detach()
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        found = torch.func.functional_call(module, parameters, (x,))
        return leaves(found)[0].square().sum()

    other = {name: p * 2 for name, p in parameters.items()}
    twin = copy.deepcopy(module)
    twin.load_state_dict(other)
    assert torch.equal(loss(other, x), leaves(twin(x))[0].square().sum())
    expected = torch.autograd.grad(leaves(twin(x))[0].square().sum(), list(twin.parameters()))
    found = torch.func.grad(loss)(other, x)
    assert_same(list(found.values()), list(expected))
    # Gradients for each row of the batch by itself.
    dim = 0 if kind in CELLS else 1
    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, dim))(other, x)
    assert_same([g.sum(0) for g in rows.values()], list(expected))


def test_second_derivatives_of_functions_say_that_they_are_not_there() -> None:
    module = ours.GRU(I, H, dtype=DOUBLE)
    slope = torch.func.grad(lambda x: module(x)[0].square().sum())
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.func.grad(lambda x: slope(x).square().sum())(draw(6, 4, I, dtype=DOUBLE).detach())


def test_jacobians_by_reverse() -> None:
    module = ours.GRUCell(I, H, dtype=DOUBLE)
    x = draw(I, dtype=DOUBLE).detach()
    expected = torch.autograd.functional.jacobian(module, x)
    assert_same(torch.func.jacrev(module)(x), expected)


# --- accelerate and restore


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, I)
        self.encoder = torch.nn.LSTM(I, H, 2, bidirectional=True, dropout=0.2)
        self.rest = torch.nn.ModuleDict({"cell": torch.nn.GRUCell(2 * H, H), "rnn": Peculiar(H, H)})
        self.head = torch.nn.Linear(H, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, _ = self.encoder(self.embed(ids))
        h = self.rest["cell"](y[-1])
        z, _ = self.rest["rnn"](h[None])
        return self.head(z[0])


class Peculiar(torch.nn.RNN):
    def forward(self, *arguments: Any) -> Any:
        y, h = super().forward(*arguments)
        return y + 1, h


def test_accelerate_in_the_middle_of_training() -> None:
    torch.manual_seed(3)
    model = Tagger()
    ids, target = torch.randint(20, (7, 5)), torch.randint(4, (5,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train(steps: int) -> list[float]:
        losses = []
        for k in range(steps):
            torch.manual_seed(k)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(ids), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    train(3)
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = train(6)
    model.load_state_dict(start[0]), optimizer.load_state_dict(start[1])
    parameters, encoder = list(model.parameters()), model.encoder
    report = ours.accelerate(model)
    assert report.swapped == {"encoder": "LSTM", "rest.cell": "GRUCell"}
    assert report.left == {"rest.rnn": "Peculiar is a class of its own"}
    assert str(report).splitlines() == [
        "encoder: LSTM runs on fastrnn",
        "rest.cell: GRUCell runs on fastrnn",
        "rest.rnn: left as it is: Peculiar is a class of its own",
    ]
    assert model.encoder is encoder
    assert type(encoder) is ours.LSTM
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    found = train(6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert ours.accelerate(model).left["encoder"] == "it runs on fastrnn already"
    twin = copy.deepcopy(model)
    assert ours.restore(model) == ["encoder", "rest.cell"]
    assert type(encoder) is torch.nn.LSTM
    assert type(twin.encoder) is ours.LSTM
    model.eval(), twin.eval()
    assert_same(twin(ids), model(ids))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_accelerate_the_root_and_what_cannot_be() -> None:
    module = torch.nn.GRU(I, H)
    assert ours.accelerate(module).swapped == {"": "GRU"}
    assert str(ours.accelerate(torch.nn.Linear(2, 2))) == "no recurrent modules"
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.LSTM(I, H)))
    assert ours.accelerate(scripted).left == {"0": "it is scripted"}
    odd = torch.nn.GRU(I, H)
    odd.weight_ih_l0.data = odd.weight_ih_l0.data.to(torch.complex64)
    assert ours.accelerate(odd).left == {"": "weight_ih_l0 is torch.complex64"}
    for wrong in (None, [torch.nn.GRU(I, H)]):
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got"):
            ours.accelerate(wrong)
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got"):
            ours.restore(wrong)


def test_every_supported_class_is_swapped_and_back() -> None:
    for kind in (*KINDS, *CELLS):
        theirs = getattr(torch.nn, kind)(I, H)
        x = draw(4, I) if kind in CELLS else draw(6, 4, I)
        expected = theirs(x)
        assert ours.accelerate(theirs).swapped == {"": kind}
        assert_same(theirs(x), expected)
        with torch.no_grad():
            assert_same(theirs(x), expected)
        assert ours.restore(theirs) == [""]
        assert vars(theirs).keys() == vars(getattr(torch.nn, kind)(I, H)).keys()
        assert all(map(torch.equal, leaves(theirs(x)), leaves(expected)))
