"""Models that write tokens: an encoder's result is the state in which a decoder begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import decoding, states, validation
from .decoding import Decoded
from .layers import Parametrized, Recurrent
from .paradigms import need_no_recurrence
from .sequential import Layer, Sequential
from .tape import Gradients, Run, Tape
from .validation import Array


class Decoding(Parametrized):
    """An encoder, and a decoder over tokens that begins in the state that comes out of it.

    Attributes
    ----------
    encoder, decoder
        The two.
    parameters
        Theirs, under the names ``encoder. ...`` and ``decoder. ...`` (not copies).
    """

    def __init__(self, encoder: Any, decoder: Sequential) -> None:
        decoding.need_decoder("decoder", decoder)
        self.encoder, self.decoder = encoder, decoder
        self.parameters = {
            f"{part}.{name}": array
            for part in ("encoder", "decoder")
            for name, array in getattr(self, part).parameters.items()
        }

    def encode(self, x: Array) -> tuple[Any, ...]:
        """Return the decoder's state before its first step."""
        raise NotImplementedError

    def greedy(self, x: Array, *, start: Any, stop: int, max_steps: int, **encoded: Any) -> Decoded:
        """Write the tokens for x, the most probable one at every step.

        Parameters
        ----------
        x, **encoded
            What `encode` takes.
        start, stop, max_steps
            As for `decoding.greedy`.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        state = self.encode(x, **encoded)
        return decoding.greedy(self.decoder, state, start=start, stop=stop, max_steps=max_steps)

    def beam(
        self,
        x: Array,
        *,
        start: Any,
        stop: int,
        max_steps: int,
        width: int = 4,
        length_penalty: float = 0.0,
        **encoded: Any,
    ) -> Decoded:
        """Write the tokens for x, the best that a beam search finds.

        Parameters
        ----------
        x, **encoded
            What `encode` takes.
        start, stop, max_steps, width, length_penalty
            As for `decoding.beam`.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        return decoding.beam(
            self.decoder,
            self.encode(x, **encoded),
            start=start,
            stop=stop,
            max_steps=max_steps,
            width=width,
            length_penalty=length_penalty,
        )

    def _read_tokens(
        self, names: tuple[str, str], state: tuple[Any, ...], tokens: object, lengths: object
    ) -> tuple[Array, Array | None]:
        """Check what the decoder reads, and how much of it, given its first state."""
        h = states.arrays(state)[0]
        rows = [("B", h.shape[1])] if h.ndim == 3 else []
        found = states.read_input(names[0], self.decoder, tokens, "T", *rows)
        if lengths is None:
            return found, None
        B = rows[0][1] if rows else 1
        return found, validation.lengths(lengths, len(found), B, batched=bool(rows), name=names[1])

    def _chain(
        self, encoder: Tape, decoder: Tape, back: Callable[[Any], tuple[object, object]]
    ) -> Tape:
        """Return the tape of both, given how the gradient of the state between them goes on."""

        def pullback(d_output: object, d_state: object) -> Run:
            encoder.check()
            decoder.check(d_output, d_state)

            def run(retain: bool) -> Gradients:
                later = decoder.backward(d_output, d_state, retain=retain)
                earlier = encoder.backward(*back(later.state), retain=retain)
                found = {f"encoder.{name}": g for name, g in earlier.parameters.items()}
                found |= {f"decoder.{name}": g for name, g in later.parameters.items()}
                parameters = {name: found[name] for name in self.parameters}
                return Gradients(earlier.input, parameters=parameters)

            return run

        return Tape(decoder.output, decoder.state, pullback)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.encoder!r}, {self.decoder!r})"


class OneToMany(Decoding):
    """One input, a sequence of tokens out: what an encoder makes of x is the decoder's first state.

    The encoder, such as a convolutional network, maps x (B, ...) to (B, S). That is one row's
    state of the decoder: of each of its recurrent layers h, then an LSTM's c, each of them layer by
    layer of `num_layers`; so S is num_layers * H for a GRU, 2 * num_layers * H for an LSTM, and
    num_layers * (P + H) for one with a projection.

    Parameters
    ----------
    encoder
        A layer without recurrence, or a `Sequential` or `OneToOne` of them.
    decoder
        `Sequential` of an `Embedding`, recurrent layers, and what makes logits of their outputs.

    Attributes
    ----------
    state_size
        S.
    parameters
        Those of both, under the names ``encoder. ...`` and ``decoder. ...`` (not copies).

    Raises
    ------
    ValueError, TypeError
        If the encoder is recurrent, or the decoder is of another form, batch first, or
        bidirectional.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> decoder = fastrnn.Sequential(
    ...     fastrnn.Embedding(5, 4), fastrnn.LSTM(4, 8), fastrnn.Linear(8, 5)
    ... )
    >>> model = fastrnn.OneToMany(fastrnn.Linear(6, 16), decoder)
    >>> x, tokens = np.ones((3, 6), np.float32), np.zeros((7, 3), int)
    >>> model.record(x, tokens).output.shape
    (7, 3, 5)
    >>> len(model.greedy(x, start=0, stop=4, max_steps=7).rows())
    3
    """

    def __init__(self, encoder: Layer, decoder: Sequential) -> None:
        need_no_recurrence("encoder", encoder)
        super().__init__(encoder, decoder)
        self._recurrent = states.recurrent_layers(decoder)
        self.state_size = states.size(self._recurrent)

    def __call__(self, x: Array, tokens: Array, *, lengths: Array | None = None) -> Array:
        """Return the logits (T, B, V), recording nothing; arguments as in `record`."""
        state = self.encode(x)
        tokens, lengths = self._read_tokens(("tokens", "lengths"), state, tokens, lengths)
        return np.asarray(self.decoder(tokens, state, lengths=lengths)[0])

    def record(self, x: Array, tokens: Array, *, lengths: Array | None = None) -> Tape:
        """Run with the right tokens as the decoder's input (teacher forcing); return a `Tape`.

        Parameters
        ----------
        x
            (B, ...), what the encoder takes.
        tokens
            (T, B) integers: a start token, then the right tokens but the last, so that the logits
            of step t are those of the right token t.
        lengths
            (B,) integers: how many steps of each row are valid; None for all.

        Returns
        -------
        Tape
            Its output are the logits (T, B, V), its state the decoder's final one. The gradient of
            the input is that of x.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        encoder = self.encoder.record(x)
        state = self._state(encoder.output)
        tokens, lengths = self._read_tokens(("tokens", "lengths"), state, tokens, lengths)
        decoder = self.decoder.record(tokens, state, lengths=lengths)
        return self._chain(encoder, decoder, lambda d_state: (states.to_vector(d_state), None))

    def encode(self, x: Array) -> tuple[Any, ...]:
        """Return the decoder's state before its first step, for x (B, ...)."""
        return self._state(self.encoder(x))

    def _state(self, vector: Array) -> tuple[Any, ...]:
        if vector.ndim != 2 or vector.shape[1] != self.state_size:
            raise ValueError(
                f"encoder: expected an output of shape (B, S={self.state_size}), which is the "
                f"decoder's state, got {vector.shape}"
            )
        return states.from_vector(vector, self._recurrent)


class EncoderDecoder(Decoding):
    """A sequence in, another one out: the encoder's final state is the decoder's first one.

    Sutskever, Vinyals & Le (2014), Cho et al. (2014).

    Parameters
    ----------
    encoder
        A recurrent layer, or a `Sequential` that ends in one.
    decoder
        `Sequential` of an `Embedding`, recurrent layers, and what makes logits of their outputs.
        It takes the states that the encoder ends with: as many recurrent layers, of the same
        shapes of states. A bidirectional encoder has twice as many layers there.

    Attributes
    ----------
    encoder, decoder
        The two.
    parameters
        Those of both, under the names ``encoder. ...`` and ``decoder. ...`` (not copies).

    Raises
    ------
    ValueError, TypeError
        If one of them is of another form, the decoder batch first or bidirectional, or if the
        states do not fit.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> encoder = fastrnn.Sequential(fastrnn.Embedding(9, 4), fastrnn.GRU(4, 8))
    >>> decoder = fastrnn.Sequential(
    ...     fastrnn.Embedding(5, 4), fastrnn.GRU(4, 8), fastrnn.Linear(8, 5)
    ... )
    >>> model = fastrnn.EncoderDecoder(encoder, decoder)
    >>> source, target = np.zeros((6, 3), int), np.zeros((7, 3), int)
    >>> model.record(source, target, lengths=np.array([6, 4, 1])).output.shape
    (7, 3, 5)
    >>> len(model.beam(source, start=0, stop=4, max_steps=7, lengths=np.array([6, 4, 1])).rows())
    3
    """

    def __init__(self, encoder: Recurrent | Sequential, decoder: Sequential) -> None:
        last = encoder.layers[-1] if isinstance(encoder, Sequential) else encoder
        if not isinstance(last, Recurrent):
            raise TypeError(
                "encoder: expected a recurrent layer, or a Sequential that ends in one, got "
                f"{type(last).__name__}"
            )
        super().__init__(encoder, decoder)
        found, wanted = _describe_states(encoder), _describe_states(decoder)
        if found != wanted:
            raise ValueError(
                f"encoder: expected to end with the state that the decoder takes, {wanted}, "
                f"got {found}"
            )

    def __call__(
        self,
        source: Array,
        target: Array,
        *,
        lengths: Array | None = None,
        target_lengths: Array | None = None,
    ) -> Array:
        """Return the logits (T, B, V), recording nothing; arguments as in `record`."""
        state = self.encode(source, lengths=lengths)
        names = "target", "target_lengths"
        target, target_lengths = self._read_tokens(names, state, target, target_lengths)
        return np.asarray(self.decoder(target, state, lengths=target_lengths)[0])

    def record(
        self,
        source: Array,
        target: Array,
        *,
        lengths: Array | None = None,
        target_lengths: Array | None = None,
    ) -> Tape:
        """Run with the right tokens as the decoder's input (teacher forcing); return a `Tape`.

        Parameters
        ----------
        source
            What the encoder takes: (T', B) integers for an `Embedding`, (T', B, I) for a layer.
        target
            (T, B) integers: a start token, then the right tokens but the last, so that the logits
            of step t are those of the right token t.
        lengths, target_lengths
            (B,) integers: how many steps of each row are valid; None for all.

        Returns
        -------
        Tape
            Its output are the logits (T, B, V), its state the decoder's final one. The gradient of
            the input is that of the source; None for integers.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong; the message names it.
        """
        source = states.read_input("source", self.encoder, source)
        encoder = self.encoder.record(source, lengths=lengths)
        state = self._state(encoder.state)
        names = "target", "target_lengths"
        target, target_lengths = self._read_tokens(names, state, target, target_lengths)
        decoder = self.decoder.record(target, state, lengths=target_lengths)
        one = isinstance(self.encoder, Recurrent)
        return self._chain(encoder, decoder, lambda d_state: (None, d_state[0] if one else d_state))

    def encode(self, source: Array, *, lengths: Array | None = None) -> tuple[Any, ...]:
        """Return the decoder's state before its first step, for a source as in `record`."""
        source = states.read_input("source", self.encoder, source)
        return self._state(self.encoder(source, lengths=lengths)[1])

    def _state(self, final: Any) -> tuple[Any, ...]:
        return (final,) if isinstance(self.encoder, Recurrent) else final


def _describe_states(model: Recurrent | Sequential) -> str:
    """Word the states of a model: what has the same words has the same form."""
    return "; ".join(
        ", ".join(
            f"{name} ({n}, B, {width})"
            for name, (n, width) in zip(layer.cell.states, states.shapes(layer), strict=True)
        )
        + f" of {layer.dtype}"
        for layer in states.recurrent_layers(model)
    )
