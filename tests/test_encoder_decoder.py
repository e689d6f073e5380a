"""One-to-many and encoder-decoder: composition by hand, finite differences, and a task learned."""

from typing import Any

import numpy as np
import pytest

import fastrnn
from compare import assert_gradient, assert_gradients_of_parameters, assert_same_bits
from fastrnn import decoding

T, B, S, E, H, V = 5, 3, 4, 2, 3, 6
F8 = {"dtype": "float64"}
LENGTHS, TARGET_LENGTHS = np.array([S, 0, 2]), np.array([1, T, 3])
KINDS = pytest.mark.parametrize("kind", [fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM])


def decoder(kind: Any, num_layers: int = 1, hidden: int = H, **options: Any) -> fastrnn.Sequential:
    return fastrnn.Sequential(
        fastrnn.Embedding(V, E, seed=1, **F8),
        kind(E, hidden, num_layers, seed=2, **F8, **options),
        fastrnn.Linear(options.get("proj_size", hidden), V, seed=3, **F8),
    )


def draw(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def tokens(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, V, shape)


# -- one to many ----------------------------------------------------------------------------------


def one_to_many(kind: Any, num_layers: int = 2, **options: Any) -> fastrnn.OneToMany:
    states = 2 if kind is fastrnn.LSTM else 1
    size = num_layers * (H + (states - 1) * H) if not options else num_layers * (2 + H)
    encoder = fastrnn.Sequential(
        fastrnn.Linear(4, 5, seed=4, **F8), fastrnn.Tanh(), fastrnn.Linear(5, size, seed=5, **F8)
    )
    model = fastrnn.OneToMany(encoder, decoder(kind, num_layers, **options))
    assert model.state_size == size
    return model


@pytest.mark.parametrize("proj_size", [0, 2])
def test_the_order_of_the_state_that_one_to_many_reads(proj_size: int) -> None:
    """Of an LSTM h, layer by layer, then c."""
    model = one_to_many(fastrnn.LSTM, **({"proj_size": 2} if proj_size else {}))
    R = proj_size or H
    x = draw(B, 4)
    vector = model.encoder(x)
    h = [vector[:, :R], vector[:, R : 2 * R]]
    c = [vector[:, 2 * R : 2 * R + H], vector[:, 2 * R + H :]]
    ((h_0, c_0),) = model.encode(x)
    np.testing.assert_array_equal(h_0, np.stack(h), strict=True)
    np.testing.assert_array_equal(c_0, np.stack(c), strict=True)


@KINDS
def test_one_to_many_is_a_decoder_that_begins_where_the_encoder_ends(kind: Any) -> None:
    model = one_to_many(kind)
    x, read, u = draw(B, 4), tokens(T, B), draw(T, B, V)
    encoder = model.encoder.record(x)
    states = np.split(encoder.output, 2 if kind is fastrnn.LSTM else 1, axis=1)
    arrays = [np.stack([s[:, :H], s[:, H:]]) for s in states]
    state = tuple(arrays) if len(arrays) > 1 else arrays[0]
    by_hand = model.decoder.record(read, (state,), lengths=TARGET_LENGTHS)
    tape = model.record(x, read, lengths=TARGET_LENGTHS)
    assert_same_bits({"y": tape.output}, {"y": by_hand.output})
    assert_same_bits({"y": model(x, read, lengths=TARGET_LENGTHS)}, {"y": by_hand.output})
    later = by_hand.backward(u)
    (d,) = later.state
    d_arrays = d if isinstance(d, tuple) else (d,)
    d_vector = np.concatenate([part for array in d_arrays for part in array], axis=1)
    earlier = encoder.backward(d_vector)
    found = tape.backward(u)
    expected = {f"encoder.{n}": g for n, g in earlier.parameters.items()}
    expected |= {f"decoder.{n}": g for n, g in later.parameters.items()}
    assert_same_bits(found.parameters, expected)
    assert_same_bits({"x": found.input}, {"x": earlier.input})
    assert found.state is found.reset_state is None


@KINDS
def test_gradients_of_one_to_many(kind: Any) -> None:
    model = one_to_many(kind)
    x, read, u = draw(B, 4), tokens(T, B), draw(T, B, V)

    def loss(x: np.ndarray = x) -> float:
        return float(np.sum(u * model(x, read, lengths=TARGET_LENGTHS)))

    gradients = model.record(x, read, lengths=TARGET_LENGTHS).backward(u)
    assert_gradient(loss, x, gradients.input)
    assert_gradients_of_parameters(model, gradients, loss)


def test_what_the_encoder_returns_has_to_fit() -> None:
    model = fastrnn.OneToMany(fastrnn.Linear(4, 7, **F8), decoder(fastrnn.LSTM))
    for call in (model, model.record, lambda x, _: model.beam(x, start=0, stop=1, max_steps=2)):
        with pytest.raises(ValueError, match=r"^encoder: expected an output of shape \(B, S=6\)"):
            call(draw(B, 4), tokens(T, B))


# -- encoder and decoder --------------------------------------------------------------------------


def encoder(kind: Any, num_layers: int = 1, **options: Any) -> fastrnn.Sequential:
    return fastrnn.Sequential(
        fastrnn.Embedding(V, E, seed=6, **F8), kind(E, H, num_layers, seed=7, **F8, **options)
    )


def pair(kind: Any) -> fastrnn.EncoderDecoder:
    """Both directions of the encoder go to a decoder of two layers."""
    return fastrnn.EncoderDecoder(encoder(kind, bidirectional=True), decoder(kind, 2))


@KINDS
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("embedded", [True, False])
def test_encoder_decoder_is_its_parts(kind: Any, batch_first: bool, embedded: bool) -> None:
    options = {"bidirectional": True, "batch_first": batch_first}
    first: Any = encoder(kind, **options) if embedded else kind(E, H, seed=7, **F8, **options)
    model = fastrnn.EncoderDecoder(first, decoder(kind, 2))
    source: Any = tokens(S, B) if embedded else draw(S, B, E)
    source = source.swapaxes(0, 1) if batch_first else source
    target, u = tokens(T, B, seed=4), draw(T, B, V)
    lengths = {"lengths": LENGTHS, "target_lengths": TARGET_LENGTHS}

    one = first.record(source, lengths=LENGTHS)
    state = one.state if embedded else (one.state,)
    two = model.decoder.record(target, state, lengths=TARGET_LENGTHS)
    tape = model.record(source, target, **lengths)
    assert_same_bits({"y": tape.output}, {"y": two.output})
    assert_same_bits({"y": model(source, target, **lengths)}, {"y": two.output})
    d_final = two.state  # any numbers of its form
    later = two.backward(u, d_final)
    earlier = one.backward(None, later.state if embedded else later.state[0])
    found = tape.backward(u, d_final)
    expected = {f"encoder.{n}": g for n, g in earlier.parameters.items()}
    expected |= {f"decoder.{n}": g for n, g in later.parameters.items()}
    assert_same_bits(found.parameters, expected)
    if embedded:
        assert found.input is None
    else:
        assert_same_bits({"x": found.input}, {"x": earlier.input})


@KINDS
def test_gradients_of_encoder_decoder(kind: Any) -> None:
    model = pair(kind)
    source, target, u = tokens(S, B), tokens(T, B, seed=4), draw(T, B, V)
    lengths = {"lengths": LENGTHS, "target_lengths": TARGET_LENGTHS}
    gradients = model.record(source, target, **lengths).backward(u)
    assert_gradients_of_parameters(
        model, gradients, lambda: float(np.sum(u * model(source, target, **lengths)))
    )


def test_padding_has_no_meaning() -> None:
    model = pair(fastrnn.LSTM)
    source, target = tokens(S, B), tokens(T, B, seed=4)
    lengths = {"lengths": LENGTHS, "target_lengths": TARGET_LENGTHS}
    output = model(source, target, **lengths)
    source[LENGTHS[2] :, 2] = target[TARGET_LENGTHS[0] :, 0] = V - 1
    again = model(source, target, **lengths)
    for b, length in enumerate(TARGET_LENGTHS):
        np.testing.assert_array_equal(again[:length, b], output[:length, b])


@KINDS
def test_searches_of_models_are_searches_of_their_decoders(kind: Any) -> None:
    search: dict[str, Any] = {"start": np.array([0, 1, 2]), "stop": 5, "max_steps": 7}
    wide = {"width": 3, "length_penalty": 0.5}
    x, source = draw(B, 4), tokens(S, B)
    one, many = one_to_many(kind), pair(kind)
    cases: list[tuple[Any, Any, Any]] = [
        (one, x, {}),
        (many, source, {}),
        (many, source, {"lengths": LENGTHS}),
    ]
    for model, given, encoded in cases:
        state = model.encode(given, **encoded)
        for found, expected in (
            (
                model.greedy(given, **search, **encoded),
                decoding.greedy(model.decoder, state, **search),
            ),
            (
                model.beam(given, **search, **wide, **encoded),
                decoding.beam(model.decoder, state, **search, **wide),
            ),
        ):
            for name in ("tokens", "lengths", "log_probabilities"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            # Their probabilities are those of the forward pass that teaches.
            N = len(found.tokens)
            read = np.concatenate([search["start"][None], found.tokens[:-1]])
            logits = model(given, read, **encoded)
            for b, log_p in enumerate(found.log_probabilities):
                weights = np.zeros((N, B))
                weights[: found.lengths[b] + 1, b] = 1
                loss, _ = fastrnn.softmax_cross_entropy(
                    logits, found.tokens, weights=weights, reduction="sum"
                )
                assert log_p == pytest.approx(-loss, rel=1e-12)


def test_a_tape_is_checked_before_it_is_used_up() -> None:
    model = pair(fastrnn.GRU)
    tape = model.record(tokens(S, B), tokens(T, B))
    u = draw(T, B, V)
    for wrong in ({"d_output": u[:2]}, {"d_state": (u,)}, {"d_state": (u, u)}):
        with pytest.raises(ValueError, match=r"^d_(output|state)"):
            tape.backward(**wrong)
    once, again = tape.backward(u, retain=True), tape.backward(u)
    assert_same_bits(once.parameters, again.parameters)
    with pytest.raises(ValueError, match="has already run"):
        tape.backward(u)


@pytest.mark.parametrize(("steps", "batch"), [(0, B), (T, 0), (0, 0)])
def test_nothing_to_read_or_no_rows(steps: int, batch: int) -> None:
    one, many = one_to_many(fastrnn.LSTM), pair(fastrnn.LSTM)
    read = np.zeros((steps, batch), int)
    search = {"start": 0, "stop": 1, "max_steps": 2}
    for model, given in ((one, draw(batch, 4)), (many, read)):
        tape = model.record(given, read)
        assert tape.output.shape == (steps, batch, V)
        gradients = tape.backward(np.ones_like(tape.output))
        assert gradients.parameters.keys() == model.parameters.keys()
        assert all(np.isfinite(g).all() for g in gradients.parameters.values())
        assert model.beam(given, **search).lengths.shape == (batch,)


def test_one_row_without_a_batch() -> None:
    model = pair(fastrnn.LSTM)
    source, target = tokens(S, 1), tokens(T, 1, seed=4)
    whole = model.record(source, target, lengths=np.array([2]), target_lengths=np.array([3]))
    one = model.record(source[:, 0], target[:, 0], lengths=2, target_lengths=3)
    np.testing.assert_allclose(one.output, whole.output[:, 0], rtol=1e-13)
    u = draw(T, 1, V)
    expected = whole.backward(u).parameters
    for name, gradient in one.backward(u[:, 0]).parameters.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-12, atol=1e-14)


def test_inf_and_nan_raise_nothing() -> None:
    model = pair(fastrnn.GRU)
    model.parameters["decoder.2.weight"][...] = np.inf
    model.parameters["encoder.0.weight"][...] = np.nan
    with np.errstate(all="raise"):
        tape = model.record(tokens(S, B), tokens(T, B))
        tape.backward(np.full_like(tape.output, np.inf))
        model.beam(tokens(S, B), start=0, stop=1, max_steps=3)


# -- learning -------------------------------------------------------------------------------------

LETTERS, START, STOP = 8, 8, 9
LONGEST = 5


def reversals(count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Sequences of 1 to 5 letters, their lengths, and what is read and due to turn them round."""
    lengths = rng.integers(1, LONGEST + 1, count)
    source = rng.integers(0, LETTERS, (LONGEST, count))
    right = np.full((LONGEST + 1, count), STOP)
    for b, length in enumerate(lengths):
        right[:length, b] = source[:length, b][::-1]
    read = np.concatenate([np.full((1, count), START), right[:-1]])
    return source, lengths, read, right


def test_it_learns_to_reverse() -> None:
    rng = np.random.default_rng(1)
    model = fastrnn.EncoderDecoder(
        fastrnn.Sequential(fastrnn.Embedding(LETTERS, 16, seed=1), fastrnn.GRU(16, 64, seed=2)),
        fastrnn.Sequential(
            fastrnn.Embedding(10, 16, seed=3),
            fastrnn.GRU(16, 64, seed=4),
            fastrnn.Linear(64, 10, seed=5),
        ),
    )
    optimizer = fastrnn.Adam(model.parameters, lr=0.01)
    for step in range(600):
        optimizer.lr = 0.01 if step < 400 else 0.002
        source, lengths, read, right = reversals(64, rng)
        tape = model.record(source, read, lengths=lengths, target_lengths=lengths + 1)
        steps = np.arange(LONGEST + 1)[:, None] <= lengths
        _, d_output = fastrnn.softmax_cross_entropy(
            tape.output, right, weights=steps.astype(np.float32)
        )
        gradients = tape.backward(d_output).parameters
        fastrnn.clip_by_global_norm(gradients, 1.0)
        optimizer.step(gradients)
    source, lengths, _, right = reversals(1000, np.random.default_rng(2))
    for found in (
        model.greedy(source, lengths=lengths, start=START, stop=STOP, max_steps=8),
        model.beam(source, lengths=lengths, start=START, stop=STOP, max_steps=8),
    ):
        wanted = [right[:length, b].tolist() for b, length in enumerate(lengths)]
        hits = sum(a == b for a, b in zip(found.rows(), wanted, strict=True))
        assert hits > 950
