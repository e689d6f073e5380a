"""Optimizers, which change a dict of parameters in place, and clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from . import validation
from .validation import Array

Arrays = Mapping[str, Array]


def global_norm(gradients: Arrays) -> float:
    """Euclidean norm of all gradients together."""
    # math.sqrt of a float64 sum: squares of float32 gradients must neither overflow nor vanish.
    return math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values()))


@np.errstate(all="ignore")  # an overflow is a result (inf), not a message
def clip_by_global_norm(gradients: Arrays, max_norm: float) -> float:
    """Scale all gradients, in place, so that their joint norm is at most `max_norm`.

    Pascanu, Mikolov & Bengio (2013), the remedy for exploding gradients. A norm that is not
    finite leaves the gradients alone.

    Returns
    -------
    float
        The norm before clipping.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it, and nothing has changed.
    """
    limit = validation.number("max_norm", max_norm, 0.0, open_low=True)
    checked = _gradients(gradients)
    norm = global_norm(checked)
    if norm > limit and math.isfinite(norm):
        for gradient in checked.values():
            gradient *= gradient.dtype.type(limit / norm)
    return norm


@np.errstate(all="ignore")
def clip_by_value(gradients: Arrays, limit: float) -> float:
    """Clip every element of the gradients, in place, to [-limit, limit].

    Returns
    -------
    float
        The global norm before clipping.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it, and nothing has changed.
    """
    bound = validation.number("limit", limit, 0.0, open_low=True)
    checked = _gradients(gradients)
    norm = global_norm(checked)
    for gradient in checked.values():
        np.clip(gradient, -bound, bound, out=gradient)
    return norm


def _writable(argument: str, value: object, hint: str = "") -> dict[str, Array]:
    """Check a mapping of arrays that are to be changed in place."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{argument}: expected a mapping of arrays, got {type(value).__name__}{hint}"
        )
    for name, array in value.items():
        label = f"{argument}[{name!r}]"
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{label}: expected an array, got {type(array).__name__}")
        validation.floating(label, array)
        if not array.flags.writeable:
            raise ValueError(f"{label}: expected a writable array, got a read-only one")
    return dict(value)


def _gradients(gradients: object) -> dict[str, Array]:
    return _writable("gradients", gradients, " (the gradients of a tape are in `.parameters`)")


class Optimizer:
    """Base of the optimizers.

    Attributes
    ----------
    parameters
        The arrays that `step` changes in place.
    lr
        Learning rate; may be changed between steps.
    moments
        What the optimizer remembers: for each name of a moment an array for each parameter.
    steps
        How many steps were taken.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.
    """

    moment_names: tuple[str, ...] = ()

    def __init__(self, parameters: Arrays, lr: float, weight_decay: float) -> None:
        self.parameters = _writable("parameters", parameters)
        self.lr = validation.number("lr", lr, 0.0)
        self.weight_decay = validation.number("weight_decay", weight_decay, 0.0)
        self.moments: dict[str, dict[str, Array]] = {
            moment: {name: np.zeros_like(array) for name, array in self.parameters.items()}
            for moment in self.moment_names
        }
        self.steps = 0

    @np.errstate(all="ignore")  # nor does it leave a step half done
    def step(self, gradients: Arrays) -> None:
        """Change the parameters against their gradients (names, shapes and dtypes as theirs).

        Raises
        ------
        ValueError, TypeError
            If the gradients do not match; then nothing has changed.
        """
        checked = validation.mapping("gradients", gradients, self.parameters)
        self.steps += 1
        for name, parameter in self.parameters.items():
            moments = [self.moments[moment][name] for moment in self.moment_names]
            self._update(parameter, checked[name], *moments)

    def _update(self, parameter: Array, gradient: Array, *moments: Array) -> None:
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Array]:
        """Everything that a later run needs to go on to the bit, as arrays (not copies)."""
        arrays = {
            f"{moment}.{name}": array
            for moment, arrays in self.moments.items()
            for name, array in arrays.items()
        }
        return arrays | {"steps": np.array(self.steps, np.int64)}

    def load_state(self, state: Arrays) -> None:
        """Take over what `state` gave; `ValueError` or `TypeError` if it does not match."""
        expected = self.state
        if not isinstance(state, Mapping) or "steps" not in state:
            raise ValueError("state: expected a mapping with 'steps', as `Optimizer.state` gives")
        steps = validation.non_negative("state['steps']", np.asarray(state["steps"])[()])
        del expected["steps"]
        given = {name: array for name, array in state.items() if name != "steps"}
        for name, array in validation.mapping("state", given, expected).items():
            expected[name][...] = array
        self.steps = steps


class SGD(Optimizer):
    """Stochastic gradient descent, v = momentum * v + g; p -= lr * v, as in torch.

    Parameters
    ----------
    parameters
        Name to array.
    lr
        Learning rate, at least 0.
    momentum
        In [0, 1).
    nesterov
        Look ahead: p -= lr * (g + momentum * v) (Sutskever et al. 2013).
    weight_decay
        Adds weight_decay * p to the gradient.
    """

    def __init__(
        self,
        parameters: Arrays,
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = validation.number("momentum", momentum, 0.0, 1.0, open_high=True)
        self.nesterov = validation.flag("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected False because momentum is 0, got True")
        self.moment_names = ("velocity",) if self.momentum else ()
        super().__init__(parameters, lr, weight_decay)

    def _update(self, parameter: Array, gradient: Array, *moments: Array) -> None:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        direction = gradient
        for velocity in moments:
            velocity *= self.momentum
            velocity += gradient
            direction = gradient + self.momentum * velocity if self.nesterov else velocity
        parameter -= self.lr * direction


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) with bias correction, as in torch.

    Parameters
    ----------
    parameters
        Name to array.
    lr
        Learning rate, at least 0.
    betas
        Decay of the first and second moment, each in [0, 1).
    eps
        Added to the root of the second moment, above 0.
    weight_decay
        Adds weight_decay * p to the gradient (`AdamW` decays the parameter itself).
    """

    moment_names = ("first", "second")

    def __init__(
        self,
        parameters: Arrays,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {betas!r}")
        self.betas = tuple(
            validation.number(f"betas[{k}]", beta, 0.0, 1.0, open_high=True)
            for k, beta in enumerate(betas)
        )
        self.eps = validation.number("eps", eps, 0.0, open_low=True)
        super().__init__(parameters, lr, weight_decay)

    def _update(self, parameter: Array, gradient: Array, *moments: Array) -> None:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameter
        self._adam(parameter, gradient, *moments)

    def _adam(self, parameter: Array, gradient: Array, *moments: Array) -> None:
        first, second = moments
        decay_1, decay_2 = self.betas
        first *= decay_1
        first += (1 - decay_1) * gradient
        second *= decay_2
        second += (1 - decay_2) * np.square(gradient)
        scale = math.sqrt(1 - decay_2**self.steps)
        denominator = np.sqrt(second)
        denominator *= 1 / scale
        denominator += self.eps
        np.divide(first, denominator, out=denominator)
        denominator *= self.lr / (1 - decay_1**self.steps)
        parameter -= denominator


class AdamW(Adam):
    """Adam with decoupled weight decay, p -= lr * weight_decay * p (Loshchilov & Hutter 2019)."""

    def _update(self, parameter: Array, gradient: Array, *moments: Array) -> None:
        parameter *= 1 - self.lr * self.weight_decay
        self._adam(parameter, gradient, *moments)
