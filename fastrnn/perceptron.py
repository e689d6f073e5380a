"""Perceptrons: a single layer with its classic learning rule, and several layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import validation
from .activations import Dropout, ReLU, Sigmoid, Tanh
from .feedforward import FeedForward, Linear
from .sequential import Layer, Sequential
from .validation import Array


class Perceptron(Linear):
    """One score a class, W x + b; the predicted class is that of the highest (Rosenblatt 1958).

    `learn` applies the classic rule. As a `Linear` it also learns by the logistic one: `record`,
    `softmax_cross_entropy` and a step of `SGD`, which changes the scores by the errors of their
    probabilities in place of those of the predicted class.

    Parameters
    ----------
    in_features
        I, at least 1.
    classes
        K, at least 2.
    dtype
        "float32" or "float64".
    seed
        Seed of initial values, uniform in ±1/sqrt(I); None for zeros, as there is no symmetry that
        has to be broken.

    Attributes
    ----------
    parameters
        ``weight`` (K, I) and ``bias`` (K,).

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    >>> conjunction = np.array([0, 0, 0, 1])
    >>> perceptron = fastrnn.Perceptron(2, 2)
    >>> while perceptron.learn(x, conjunction):
    ...     pass
    >>> perceptron.predict(x)
    array([0, 0, 0, 1])
    """

    def __init__(
        self, in_features: int, classes: int, *, dtype: str = "float32", seed: int | None = None
    ) -> None:
        if validation.positive("classes", classes) == 1:
            raise ValueError(f"classes: expected at least 2, got {classes}")
        super().__init__(in_features, classes, dtype=dtype, seed=seed)
        if seed is None:
            for array in self.parameters.values():
                array[...] = 0

    def predict(self, x: Array) -> Array:
        """Return the class of each row, (...) integers, for x (..., I); of equal scores the first.

        Raises
        ------
        ValueError, TypeError
            If x is wrong.
        """
        return np.asarray(self(x).argmax(axis=-1))

    def learn(self, x: Array, labels: Array, *, lr: float = 1.0) -> int:
        """Pass over the rows once, in order, and learn from each mistake at once, in place.

        Where another class is predicted than the right one, lr (x, 1) is added to the weights and
        bias of the right class and subtracted from those of the other: Kesler's construction (Duda,
        Hart & Stork 2001, section 5.12.1), one of the additive rules of Crammer & Singer (2003).
        For two classes the difference of their weights follows Rosenblatt's rule, at a rate of
        2 lr. If the classes can be separated, there is an end of mistakes (Novikoff 1962).

        Parameters
        ----------
        x
            (B, I), of the layer's dtype.
        labels
            (B,) integers in 0 ... K-1.
        lr
            Rate, above 0. From zero weights it only scales them.

        Returns
        -------
        int
            The number of mistakes; 0 if all rows are classified rightly, and nothing has changed.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; then nothing has changed.
        """
        found = validation.floating("x", x, self.dtype)
        validation.shape("x", found, "B", ("I", self.in_features))
        wanted = validation.indices("labels", labels, self.out_features)
        validation.shape("labels", wanted, ("B", len(found)))
        rate = validation.number("lr", lr, 0.0, open_low=True)
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        mistakes = 0
        with np.errstate(all="ignore"):  # inf and NaN are results, not messages
            for row, right in zip(found, wanted.tolist(), strict=True):
                predicted = int((weight @ row + bias).argmax())
                if predicted != right:
                    step = rate * row
                    weight[right] += step
                    weight[predicted] -= step
                    bias[right] += rate
                    bias[predicted] -= rate
                    mistakes += 1
        return mistakes

    def __repr__(self) -> str:
        return f"Perceptron({self.in_features}, {self.out_features}, dtype='{self.dtype}')"


def _glorot(inputs: int, outputs: int) -> float:
    """Glorot & Bengio (2010), equation 16."""
    return float((6 / (inputs + outputs)) ** 0.5)


# Of each activation the layer, and the bound of the uniform initial weights that lead to it. Relu
# stops half of the variance (He et al. 2015, equation 10); a sigmoid's slope at 0 is 1/4.
ACTIVATIONS: dict[str, tuple[Callable[[], FeedForward], Callable[[int, int], float]]] = {
    "relu": (ReLU, lambda inputs, outputs: float((6 / inputs) ** 0.5)),
    "tanh": (Tanh, _glorot),
    "sigmoid": (Sigmoid, lambda inputs, outputs: 4 * _glorot(inputs, outputs)),
}


class MLP(Sequential):
    """Multi-layer perceptron: x (..., I) to scores (..., O), through hidden layers.

    Parameters
    ----------
    in_features, out_features
        I and O, at least 1.
    hidden
        Units of the hidden layer, or a sequence of those of each.
    activation
        "relu", "tanh" or "sigmoid", after each hidden layer.
    dropout
        Probability with which an activation is zeroed in `record`.
    dtype
        "float32" or "float64".
    seed
        Seed that those of all layers are derived from. Weights are uniform in bounds that keep the
        variance from layer to layer, sqrt(6/I) for relu (He et al. 2015), sqrt(6/(I + O)) for tanh
        and at the end, four times this for sigmoid (Glorot & Bengio 2010); biases are zero.

    Attributes
    ----------
    layers
        `Linear`, the activation, `Dropout` if there is any, and so on, and a last `Linear`.
    parameters
        ``0.weight``, ``0.bias`` and so on.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> model = fastrnn.MLP(8, (16, 16), 3, activation="tanh", seed=1)
    >>> model(np.zeros((5, 8), np.float32)).shape
    (5, 3)
    """

    def __init__(
        self,
        in_features: int,
        hidden: int | Sequence[int],
        out_features: int,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        dtype: str = "float32",
        seed: int | None = None,
    ) -> None:
        self.in_features = validation.positive("in_features", in_features)
        self.hidden = _sizes("hidden", hidden)
        self.out_features = validation.positive("out_features", out_features)
        self.activation = validation.choice("activation", activation, ACTIVATIONS)
        self.dropout = validation.number("dropout", dropout, 0.0, 1.0)
        self.dtype = validation.dtype("dtype", dtype)
        entropy = None if seed is None else validation.non_negative("seed", seed)
        n = len(self.hidden)
        seeds = list(map(int, np.random.SeedSequence(entropy).generate_state(2 * n + 1)))
        make, bound = ACTIVATIONS[self.activation]
        layers: list[Layer] = []
        inputs = self.in_features
        for k, units in enumerate(self.hidden):
            layers += self._linear(inputs, units, bound(inputs, units), seeds[k]), make()
            if self.dropout:
                layers.append(Dropout(self.dropout, seed=seeds[n + 1 + k]))
            inputs = units
        last = _glorot(inputs, self.out_features)
        layers.append(self._linear(inputs, self.out_features, last, seeds[n]))
        super().__init__(*layers)

    def _linear(self, inputs: int, outputs: int, bound: float, seed: int) -> Linear:
        layer = Linear(inputs, outputs, dtype=self.dtype.name, seed=seed)
        layer.parameters["weight"] *= bound * inputs**0.5  # from ±1/sqrt(I)
        layer.parameters["bias"][...] = 0
        return layer

    def __repr__(self) -> str:
        hidden = self.hidden[0] if len(self.hidden) == 1 else self.hidden
        words = [str(self.in_features), str(hidden), str(self.out_features)]
        if self.activation != "relu":
            words.append(f"activation={self.activation!r}")
        if self.dropout:
            words.append(f"dropout={self.dropout}")
        return f"MLP({', '.join(words)}, dtype='{self.dtype}')"


def _sizes(name: str, value: object) -> tuple[int, ...]:
    """Return one whole number, or a sequence of them, as a tuple; each at least 1."""
    if not isinstance(value, list | tuple):
        return (validation.positive(name, value),)
    if not value:
        raise ValueError(f"{name}: expected at least one number, got {value!r}")
    return tuple(validation.positive(f"{name}[{k}]", size) for k, size in enumerate(value))
