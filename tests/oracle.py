"""The oracle: recurrent cells forward and backward, in loops over Python floats.

It is written from the papers and shares neither code nor structure with the library
that it judges: every row of the batch is a sequence of its own, every gate has its own
weights, and the derivatives are those of the equations in the docstrings, one unit at
a time. Speed is no concern.

Sizes are T (time), B (batch), I (input), H (hidden), G (gates), P (projection); R is
the size of `h`, that is P if there is a projection and H otherwise. Data are nested
lists of floats, time-major. `d_a` is the gradient with respect to `a` of the scalar
loss L = sum(d_output * output) + sum(d_state * final state).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Vector = list[float]
Matrix = list[Vector]
Tensor = list[Matrix]
State = tuple[Vector, ...]  # of one row: (h,), or (h, c) for the LSTM
States = tuple[Matrix, ...]  # of the batch: each part a list of B rows

GATES = {"rnn": "h", "gru": "rzn", "lstm": "ifgo"}  # the weights' blocks of H rows


def sigmoid(a: float) -> float:
    """1 / (1 + exp(-a)), written so that exp never overflows."""
    return 1.0 / (1.0 + math.exp(-a)) if a >= 0.0 else math.exp(a) / (1.0 + math.exp(a))


def hard_sigmoid(a: float) -> float:
    """0 up to -2.5, 1 from 2.5 on, a straight line between (Courbariaux et al. 2015; Keras 1)."""
    return 0.0 if a <= -2.5 else 1.0 if a >= 2.5 else 0.2 * a + 0.5


def zeros(size: int) -> Vector:
    return [0.0] * size


def add(*terms: Vector) -> Vector:
    return [sum(units) for units in zip(*terms, strict=True)]


@dataclass
class Linear:
    """v -> weight v + bias, and the gradients that each use of it adds up."""

    weight: Matrix
    bias: Vector | None
    d_weight: Matrix = field(init=False)
    d_bias: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.d_weight = [zeros(len(row)) for row in self.weight]
        self.d_bias = zeros(len(self.weight))

    def forward(self, v: Vector) -> Vector:
        bias = self.bias if self.bias is not None else zeros(len(self.weight))
        return [
            b + sum(w * unit for w, unit in zip(row, v, strict=True))
            for row, b in zip(self.weight, bias, strict=True)
        ]

    def backward(self, v: Vector, d: Vector) -> Vector:
        """Return d_v, where d is the gradient for weight v + bias."""
        d_v = zeros(len(v))
        for j in range(len(self.weight)):
            self.d_bias[j] += d[j]
            for k in range(len(v)):
                self.d_weight[j][k] += d[j] * v[k]
                d_v[k] += d[j] * self.weight[j][k]
        return d_v


@dataclass
class Cell:
    """A cell with its weights cut into gates: `ih` and `hh` hold one Linear a gate."""

    name: str
    weights: Mapping[str, Any]
    nonlinearity: str
    reset_after: bool
    gate_activation: str
    hidden: int = field(init=False)
    ih: list[Linear] = field(init=False)
    hh: list[Linear] = field(init=False)
    hr: Linear | None = field(init=False)

    def __post_init__(self) -> None:
        self.hidden = len(self.weights["weight_hh"]) // len(GATES[self.name])
        self.ih = self._gates("weight_ih", "bias_ih")
        self.hh = self._gates("weight_hh", "bias_hh")
        projection = self.weights.get("weight_hr")
        self.hr = None if projection is None else Linear(projection, None)

    def gate(self, pre_activations: Vector) -> Vector:
        """A gate's values."""
        curve = hard_sigmoid if self.gate_activation == "hard_sigmoid" else sigmoid
        return [curve(a) for a in pre_activations]

    def slope(self, y: float) -> float:
        """The derivative of a gate of value y: y (1 - y), or of a hard one 1/5 between 0 and 1."""
        if self.gate_activation == "hard_sigmoid":
            return 0.2 if 0.0 < y < 1.0 else 0.0
        return y * (1.0 - y)

    def _gates(self, weight_name: str, bias_name: str) -> list[Linear]:
        weight, bias = self.weights[weight_name], self.weights.get(bias_name)
        gates = []
        for k in range(len(GATES[self.name])):
            rows = slice(k * self.hidden, (k + 1) * self.hidden)
            gates.append(Linear(weight[rows], None if bias is None else bias[rows]))
        return gates

    def gradients(self) -> dict[str, Any]:
        """Return the gradients added up so far, one for each weight that is there."""
        everything = {
            "weight_ih": [row for gate in self.ih for row in gate.d_weight],
            "weight_hh": [row for gate in self.hh for row in gate.d_weight],
            "bias_ih": [unit for gate in self.ih for unit in gate.d_bias],
            "bias_hh": [unit for gate in self.hh for unit in gate.d_bias],
            "weight_hr": None if self.hr is None else self.hr.d_weight,
        }
        present = [name for name in everything if self.weights.get(name) is not None]
        return {name: everything[name] for name in present}


# One step of one row. Forward: (cell, x, state before) -> (state after, values that the
# step backward needs). Backward: (cell, x, state before, values, gradient for the state
# after) -> (gradient for x, gradient for the state before).
Values = dict[str, Vector]
StepForward = Callable[[Cell, Vector, State], tuple[State, Values]]
StepBackward = Callable[[Cell, Vector, State, Values, State], tuple[Vector, State]]


def rnn_forward(cell: Cell, x: Vector, state: State) -> tuple[State, Values]:
    """Elman (1990), "Finding structure in time"; the nonlinearity s is tanh or relu:

    h' = s(W_ih x + b_ih + W_hh h + b_hh)
    """
    (h,) = state
    a = add(cell.ih[0].forward(x), cell.hh[0].forward(h))
    if cell.nonlinearity == "tanh":
        new_h = [math.tanh(unit) for unit in a]
    else:
        new_h = [max(unit, 0.0) for unit in a]  # in this order NaN stays NaN
    return (new_h,), {"a": a}


def rnn_backward(
    cell: Cell, x: Vector, state: State, values: Values, d_state: State
) -> tuple[Vector, State]:
    """tanh'(a) = 1 - tanh(a)^2; relu'(a) = 1 for a > 0 and 0 otherwise, at 0 too."""
    (h,), (d_new_h,) = state, d_state
    d_a = zeros(cell.hidden)
    for j, a in enumerate(values["a"]):
        if cell.nonlinearity == "tanh":
            d_a[j] = d_new_h[j] * (1.0 - math.tanh(a) ** 2)
        else:
            d_a[j] = d_new_h[j] if a > 0.0 else 0.0
    return cell.ih[0].backward(x, d_a), (cell.hh[0].backward(h, d_a),)


def gru_forward(cell: Cell, x: Vector, state: State) -> tuple[State, Values]:
    """Cho et al. (2014), "Learning phrase representations ...", equations 5 to 8:

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + q), where
         q = W_hn (r * h) + b_hn    as published: reset before the product
         q = r * (W_hn h + b_hn)    as in cuDNN and torch.nn.GRU: reset after it
    h' = (1 - z) * n + z * h

    or with hard_sigmoid in place of sigmoid.
    """
    (h,) = state
    (ir, iz, in_), (hr, hz, hn) = cell.ih, cell.hh
    r = cell.gate(add(ir.forward(x), hr.forward(h)))
    z = cell.gate(add(iz.forward(x), hz.forward(h)))
    if cell.reset_after:
        product = hn.forward(h)
        q = [r[j] * product[j] for j in range(cell.hidden)]
    else:
        product = hn.forward([r[j] * h[j] for j in range(cell.hidden)])
        q = product
    n = [math.tanh(a) for a in add(in_.forward(x), q)]
    new_h = [(1.0 - z[j]) * n[j] + z[j] * h[j] for j in range(cell.hidden)]
    return (new_h,), {"r": r, "z": z, "n": n, "product": product}


def gru_backward(
    cell: Cell, x: Vector, state: State, values: Values, d_state: State
) -> tuple[Vector, State]:
    """The chain rule through `gru_forward`; d_a_g is for what gate g is made of."""
    (h,), (d_new_h,) = state, d_state
    (ir, iz, in_), (hr, hz, hn) = cell.ih, cell.hh
    r, z, n, product = (values[name] for name in ("r", "z", "n", "product"))
    units = range(cell.hidden)

    d_n = [d_new_h[j] * (1.0 - z[j]) for j in units]
    d_z = [d_new_h[j] * (h[j] - n[j]) for j in units]
    d_h_kept = [d_new_h[j] * z[j] for j in units]

    d_a_n = [d_n[j] * (1.0 - n[j] ** 2) for j in units]  # also the gradient for q
    if cell.reset_after:
        d_r = [d_a_n[j] * product[j] for j in units]
        d_h_reset = hn.backward(h, [d_a_n[j] * r[j] for j in units])
    else:
        d_rh = hn.backward([r[j] * h[j] for j in units], d_a_n)
        d_r = [d_rh[j] * h[j] for j in units]
        d_h_reset = [d_rh[j] * r[j] for j in units]

    d_a_r = [d_r[j] * cell.slope(r[j]) for j in units]
    d_a_z = [d_z[j] * cell.slope(z[j]) for j in units]
    d_x = add(ir.backward(x, d_a_r), iz.backward(x, d_a_z), in_.backward(x, d_a_n))
    d_h = add(d_h_kept, d_h_reset, hr.backward(h, d_a_r), hz.backward(h, d_a_z))
    return d_x, (d_h,)


def lstm_forward(cell: Cell, x: Vector, state: State) -> tuple[State, Values]:
    """Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000):

    i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
    f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
    g  = tanh(W_ig x + b_ig + W_hg h + b_hg)
    o  = sigmoid(W_io x + b_io + W_ho h + b_ho)
    c' = f * c + i * g
    m  = o * tanh(c')
    h' = m, or W_hr m with the recurrent projection of Sak et al. (2014)

    or with hard_sigmoid in place of sigmoid.
    """
    h, c = state
    gates = zip(cell.ih, cell.hh, strict=True)
    a_i, a_f, a_g, a_o = (add(ih.forward(x), hh.forward(h)) for ih, hh in gates)
    i, f, o = cell.gate(a_i), cell.gate(a_f), cell.gate(a_o)
    g = [math.tanh(a) for a in a_g]
    new_c = [f[j] * c[j] + i[j] * g[j] for j in range(cell.hidden)]
    m = [o[j] * math.tanh(new_c[j]) for j in range(cell.hidden)]
    new_h = m if cell.hr is None else cell.hr.forward(m)
    return (new_h, new_c), {"i": i, "f": f, "g": g, "o": o, "new_c": new_c, "m": m}


def lstm_backward(
    cell: Cell, x: Vector, state: State, values: Values, d_state: State
) -> tuple[Vector, State]:
    """The chain rule through `lstm_forward`; c' acts through m and the next step."""
    (h, c), (d_new_h, d_new_c) = state, d_state
    i, f, g, o, new_c = (values[name] for name in ("i", "f", "g", "o", "new_c"))
    d_m = d_new_h if cell.hr is None else cell.hr.backward(values["m"], d_new_h)

    d_a_i, d_a_f, d_a_g, d_a_o, d_c = (zeros(cell.hidden) for _ in range(5))
    for j in range(cell.hidden):
        tanh_c = math.tanh(new_c[j])
        d_o = d_m[j] * tanh_c
        d_c_total = d_new_c[j] + d_m[j] * o[j] * (1.0 - tanh_c**2)
        d_i = d_c_total * g[j]
        d_f = d_c_total * c[j]
        d_g = d_c_total * i[j]
        d_c[j] = d_c_total * f[j]
        d_a_i[j] = d_i * cell.slope(i[j])
        d_a_f[j] = d_f * cell.slope(f[j])
        d_a_g[j] = d_g * (1.0 - g[j] ** 2)
        d_a_o[j] = d_o * cell.slope(o[j])

    d_gates = (d_a_i, d_a_f, d_a_g, d_a_o)
    d_x = add(*(ih.backward(x, d_a) for ih, d_a in zip(cell.ih, d_gates, strict=True)))
    d_h = add(*(hh.backward(h, d_a) for hh, d_a in zip(cell.hh, d_gates, strict=True)))
    return d_x, (d_h, d_c)


STEPS: dict[str, tuple[StepForward, StepBackward]] = {
    "rnn": (rnn_forward, rnn_backward),
    "gru": (gru_forward, gru_backward),
    "lstm": (lstm_forward, lstm_backward),
}


@dataclass
class Step:
    """A step that a row took; `before` is what it started from, after any reset."""

    t: int
    was_reset: bool
    before: State
    values: Values


@dataclass
class Forward:
    """What `run` returns: the results, and what `gradients` needs besides them."""

    output: Tensor  # (T, B, R), 0 at invalid steps
    state: States  # the final ones: h (B, R), and for the LSTM c (B, H)
    cells: Tensor  # LSTM: c after each step (T, B, H), 0 at invalid ones; else empty
    cell: Cell
    x: Tensor  # (T, B, I)
    steps: list[list[Step]]  # of each row, in the order in which they were taken


def run(
    cell: str,
    x: Tensor,
    weights: Mapping[str, Any],
    state: States,
    *,
    lengths: Sequence[int] | None = None,
    reset: Sequence[Sequence[bool]] | None = None,
    reset_state: States | None = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
    reset_after: bool = True,
    gate_activation: str = "sigmoid",
) -> Forward:
    """Run one layer in one direction over x (T, B, I) from the given state.

    weights holds weight_ih (G*H, I), weight_hh (G*H, R), and where they exist bias_ih
    (G*H), bias_hh (G*H) and weight_hr (P, H); None is as good as absent.

    Step t of row b is valid while t < lengths[b]. An invalid step outputs 0 and leaves
    the state as it is. At a valid step with reset[t][b] the row's state is replaced by
    that of reset_state (default: zeros) before x_t is consumed. reverse takes the steps
    from T-1 to 0 by these same rules.
    """
    assert nonlinearity in ("tanh", "relu")
    assert gate_activation in ("sigmoid", "hard_sigmoid")
    layer = Cell(cell, weights, nonlinearity, reset_after, gate_activation)
    step_forward, _ = STEPS[cell]
    if reset_state is None:
        reset_state = tuple([zeros(len(row)) for row in part] for part in state)

    batch = range(len(state[0]))
    output = [[zeros(len(weights["weight_hh"][0])) for _ in batch] for _ in x]
    cells = [[zeros(layer.hidden) for _ in batch] for _ in x] if cell == "lstm" else []
    final: States = tuple([] for _ in state)
    steps: list[list[Step]] = [[] for _ in batch]
    for b in batch:
        now: State = tuple(part[b] for part in state)
        for t in reversed(range(len(x))) if reverse else range(len(x)):
            if lengths is not None and t >= lengths[b]:
                continue
            is_reset = reset is not None and bool(reset[t][b])
            before = tuple(part[b] for part in reset_state) if is_reset else now
            now, values = step_forward(layer, x[t][b], before)
            steps[b].append(Step(t, is_reset, before, values))
            output[t][b] = list(now[0])
            if cell == "lstm":
                cells[t][b] = list(now[1])
        for part, row in zip(final, now, strict=True):
            part.append(list(row))
    return Forward(output, final, cells, layer, x, steps)


def gradients(forward: Forward, d_output: Tensor, d_state: States) -> dict[str, Any]:
    """Backpropagation through time (Werbos 1990).

    d_output (T, B, R) and d_state (shaped as the final state) go in; out come "input"
    (T, B, I), "state" and "reset_state" (tuples, shaped as the initial state), and one
    gradient for each weight under its name. A reset cuts the path to the state before
    it: there the gradient goes to "reset_state", which adds up the resets of a row.
    """
    layer = replace(forward.cell)  # a copy made anew, so its gradients start from 0
    _, step_backward = STEPS[layer.name]
    d_input = [[zeros(len(row)) for row in rows] for rows in forward.x]
    d_initial: States = tuple([] for _ in d_state)
    d_reset: States = tuple([zeros(len(row)) for row in part] for part in d_state)
    for b, steps in enumerate(forward.steps):
        d_now: State = tuple(part[b] for part in d_state)
        for step in reversed(steps):
            d_after = (add(d_now[0], d_output[step.t][b]), *d_now[1:])
            d_input[step.t][b], d_now = step_backward(
                layer, forward.x[step.t][b], step.before, step.values, d_after
            )
            if step.was_reset:
                for part, row in zip(d_reset, d_now, strict=True):
                    part[b] = add(part[b], row)
                d_now = tuple(zeros(len(row)) for row in d_now)
        for part, row in zip(d_initial, d_now, strict=True):
            part.append(list(row))
    return {
        "input": d_input,
        "state": d_initial,
        "reset_state": d_reset,
        **layer.gradients(),
    }
