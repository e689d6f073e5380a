"""The reference against the scalar oracle, finite differences and the adjoint identity."""

import numpy as np
import pytest

import fastrnn
from compare import TOLERANCES, assert_close
from fastrnn.cells import CELLS
from problems import (
    EVERYTHING,
    FEATURES,
    KINK,
    VARIANTS,
    Features,
    Problem,
    Sizes,
    Variant,
    make_problem,
    pre_activations,
)

SMALL = Sizes(T=5, B=4, I=3, H=4)
MARGIN = 0.02  # by which the steps of finite differences are clear of kinks, as is made sure of

variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
features = pytest.mark.parametrize("features", FEATURES, ids=str)
differentiated = pytest.mark.parametrize("features", [f for f in FEATURES if f.state], ids=str)


def without_padding(problem: Problem) -> Problem:
    """The same problem with zeros where its padding has NaN: finite differences step there too."""
    return problem.map(lambda a: np.nan_to_num(a, nan=0.0) if a.dtype.kind == "f" else a)


@variants
@features
def test_reference_equals_oracle(variant: Variant, features: Features) -> None:
    problem = make_problem(variant, SMALL, features)
    assert_close(problem.solve("numpy"), problem.consult(), TOLERANCES["float64"])


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(1, 1, 1, 2),
        Sizes(1, 2, 1, 7),
        Sizes(2, 1, 7, 2),
        Sizes(7, 3, 2, 5),
        Sizes(33, 2, 1, 2),
    ],
    ids=str,
)
def test_reference_equals_oracle_in_every_size(
    variant: Variant, sizes: Sizes, reverse: bool
) -> None:
    problem = make_problem(variant, sizes, EVERYTHING._replace(reverse=reverse), seed=1)
    assert_close(problem.solve("numpy"), problem.consult(), TOLERANCES["float64"])


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.projected], ids=str)
def test_reference_equals_oracle_with_one_unit(variant: Variant) -> None:
    problem = make_problem(variant, Sizes(3, 2, 1, 1), EVERYTHING)
    assert_close(problem.solve("numpy"), problem.consult(), TOLERANCES["float64"])


def test_problems_differ_in_every_feature() -> None:
    """The cases above are worth nothing if a feature makes no difference to what is computed."""
    base = make_problem(VARIANTS[0], SMALL, EVERYTHING).consult()
    for feature in Features._fields:
        changed = EVERYTHING._replace(**{feature: not getattr(EVERYTHING, feature)})
        if feature == "reset":
            changed = changed._replace(reset_state=False)
        other = make_problem(VARIANTS[0], SMALL, changed).consult()
        assert not np.allclose(base["output"], other["output"]), feature


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.hard], ids=str)
@features
def test_hard_gates_are_at_both_ends_and_between(variant: Variant, features: Features) -> None:
    """Else a wrong slope or limit would not show in the cases above."""
    a = pre_activations(make_problem(variant, SMALL, features))
    for part in (a < -KINK, np.abs(a) < KINK, a > KINK):
        assert part.mean() > 0.05


@variants
@features
def test_inference_equals_recording(variant: Variant, features: Features) -> None:
    problem = make_problem(variant, SMALL, features, seed=2)
    recorded = problem.solve("numpy")
    for name, value in problem.infer("numpy").items():
        assert value.tobytes() == recorded[name].tobytes(), name


@variants
def test_output_is_zero_past_the_lengths(variant: Variant) -> None:
    problem = make_problem(variant, Sizes(6, 5, 2, 4), EVERYTHING)
    solution = problem.solve("numpy")
    assert problem.lengths is not None
    padding = np.arange(6)[:, None] >= problem.lengths
    assert padding.any()
    for name in ("output", "d_input", *(["cell_states"] if "cell_states" in solution else [])):
        assert (solution[name][padding] == 0).all()
        assert (solution[name][~padding] != 0).any()


@variants
def test_row_of_length_zero_passes_its_state_and_gradient_through(variant: Variant) -> None:
    problem = make_problem(variant, Sizes(4, 4, 3, 4), EVERYTHING)
    assert problem.lengths is not None
    (row,) = np.flatnonzero(problem.lengths == 0)
    solution = problem.solve("numpy")
    for name, initial, d_last in zip(problem.states, problem.state, problem.d_state, strict=True):
        assert (solution[f"{name}_n"][row] == initial[row]).all()
        assert (solution[f"d_{name}0"][row] == d_last[row]).all()
        assert (solution[f"d_reset_{name}"][row] == 0).all()


# -- finite differences ---------------------------------------------------------------------------


def forward_vector(problem: Problem) -> np.ndarray:
    """Everything that a forward pass returns, in one vector."""
    solution = problem.infer("numpy")
    return np.concatenate([value.reshape(-1) for value in solution.values()])


def cotangent_vector(problem: Problem) -> np.ndarray:
    """The gradients that meet `forward_vector`."""
    return np.concatenate([d.reshape(-1) for d in (problem.d_output, *problem.d_state)])


def moved(problem: Problem, directions: dict[str, np.ndarray], step: float) -> Problem:
    """The problem with its inputs moved along directions, named like the gradients."""

    def states(prefix: str, arrays, suffix: str = ""):
        if arrays is None:
            return None
        return tuple(
            array + step * directions.get(f"{prefix}{name}{suffix}", 0)
            for name, array in zip(problem.states, arrays, strict=True)
        )

    other = problem.map(np.copy)
    other.x = problem.x + step * directions.get("d_input", 0)
    other.weights = {
        name: w + step * directions.get(f"d_{name}", 0) for name, w in problem.weights.items()
    }
    other.state = states("d_", problem.state, "0")
    other.reset_state = states("d_reset_", problem.reset_state)
    return other


def directional_derivative(problem: Problem, directions: dict[str, np.ndarray]) -> np.ndarray:
    """Derivative of `forward_vector`, by central differences of two steps (error of order h**4)."""

    here = sides_of_kinks(problem) if problem.variant.hard else None

    def slope(h: float) -> np.ndarray:
        ahead, behind = (moved(problem, directions, s) for s in (h, -h))
        if here is not None:  # across a kink the differences would mean nothing
            assert (sides_of_kinks(ahead) == here).all()
            assert (sides_of_kinks(behind) == here).all()
        return (forward_vector(ahead) - forward_vector(behind)) / (2 * h)

    return (4 * slope(1e-4) - slope(2e-4)) / 3


def sides_of_kinks(problem: Problem) -> np.ndarray:
    return np.digitize(pre_activations(problem), (-KINK, KINK))


def random_directions(gradients: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(g.shape) for name, g in gradients.items()}


# A gradient by itself, along one random direction: none can hide behind the others' size.
@variants
@differentiated
def test_gradients_equal_finite_differences(variant: Variant, features: Features) -> None:
    problem = without_padding(make_problem(variant, SMALL, features, seed=3, margin=MARGIN))
    gradients = {n: g for n, g in problem.solve("numpy").items() if n.startswith("d_")}
    u = cotangent_vector(problem)
    for name, v in random_directions(gradients, seed=4).items():
        expected = u @ directional_derivative(problem, {name: v})
        assert np.sum(gradients[name] * v) == pytest.approx(expected, rel=1e-7, abs=1e-8), name


@variants
@differentiated
def test_adjoint_identity(variant: Variant, features: Features) -> None:
    """⟨u, Jv⟩ = ⟨Jᵀu, v⟩ for all inputs moving at once and several u."""
    problem = without_padding(make_problem(variant, SMALL, features, seed=5, margin=MARGIN))
    gradients = {n: g for n, g in problem.solve("numpy").items() if n.startswith("d_")}
    v = random_directions(gradients, seed=6)
    Jv = directional_derivative(problem, v)
    rng = np.random.default_rng(7)
    for _ in range(3):
        problem.d_output = rng.standard_normal(problem.d_output.shape)
        problem.d_state = tuple(rng.standard_normal(d.shape) for d in problem.d_state)
        solution = problem.solve("numpy")
        inner = sum(np.sum(solution[name] * v[name]) for name in v)
        assert inner == pytest.approx(cotangent_vector(problem) @ Jv, rel=1e-7, abs=1e-8)


STACKS = [
    pytest.param(name, options, id=f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}")
    for name, cell in CELLS.items()
    for options in (
        {"bidirectional": True},
        {"bidirectional": True, "batch_first": True},
        {"bidirectional": False, "bias": False},
        *({key: values[1], "bidirectional": True} for key, values in cell.options.items()),
        *([{"proj_size": 2, "bidirectional": True}] if cell.projects else []),
    )
]


@pytest.mark.parametrize(("name", "options"), STACKS)
def test_stack_gradients_equal_finite_differences(name: str, options: dict[str, object]) -> None:
    rng = np.random.default_rng(8)
    T, B, I = 5, 3, 3
    first = (B, T) if options.get("batch_first") else (T, B)
    layer = getattr(fastrnn, name.upper())(
        I, 4, num_layers=2, **options, dtype="float64", seed=9, backend="numpy"
    )
    x = rng.standard_normal((*first, I))
    sequence = {
        "lengths": np.array([5, 3, 1]),
        "reset": rng.random(first) < 0.3,
    }
    _, state = layer(x)
    state = list(state) if isinstance(state, tuple) else [state]
    state = [rng.standard_normal(part.shape) for part in state]
    reset_state = [rng.standard_normal(part.shape) for part in state]
    tensors = {"x": x, **layer.parameters}
    tensors |= {f"state {k}": part for k, part in enumerate(state)}
    tensors |= {f"reset_state {k}": part for k, part in enumerate(reset_state)}

    def pack(arrays):
        return tuple(arrays) if len(arrays) > 1 else arrays[0]

    def unpack(parts):
        return parts if isinstance(parts, tuple) else (parts,)

    def arguments():
        return (x, pack(state)), sequence | {"reset_state": pack(reset_state)}

    args, kwargs = arguments()
    output, last = layer(*args, **kwargs)
    u = rng.standard_normal(output.shape)
    u_state = [rng.standard_normal(part.shape) for part in unpack(last)]
    gradients = layer.record(*args, **kwargs).backward(u, pack(u_state))
    found = {"x": gradients.input, **gradients.parameters}
    found |= {f"state {k}": part for k, part in enumerate(unpack(gradients.state))}
    found |= {f"reset_state {k}": part for k, part in enumerate(unpack(gradients.reset_state))}
    assert found.keys() == tensors.keys()

    def loss() -> float:
        args, kwargs = arguments()
        output, last = layer(*args, **kwargs)
        shares = [np.sum(a * b) for a, b in zip(u_state, unpack(last), strict=True)]
        return float(np.sum(u * output) + sum(shares))

    for label, tensor in tensors.items():
        v = rng.standard_normal(tensor.shape)
        kept = tensor.copy()
        slopes = []
        for h in (1e-4, 2e-4):
            values = []
            for step in (h, -h):
                tensor[...] = kept + step * v
                values.append(loss())
            slopes.append((values[0] - values[1]) / (2 * h))
        tensor[...] = kept
        expected = (4 * slopes[0] - slopes[1]) / 3
        assert np.sum(found[label] * v) == pytest.approx(expected, rel=1e-7, abs=1e-8), label
