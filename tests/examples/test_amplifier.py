"""The amplifier by scalar loops, its models, what is learned from, and streaming."""

import math
from dataclasses import replace

import numpy as np
import pytest

import amplifier
import block_models
import fastrnn
import guitar


def test_the_program_is_content(run_example):
    found = run_example("amplifier")
    assert found.startswith("right: ESR ")
    assert "the LSTM has the bits of its sequence call" in found
    assert "% of one core at 48 kHz" in found.partition("; ")[2]


def one_pole(hertz, x):
    y, last = [], 0.0
    for value in x:
        last += (1 - math.exp(-2 * math.pi * hertz / 48_000)) * (value - last)
        y.append(last)
    return y


def bessel(x):
    """I0, by its series."""
    return sum((x / 2) ** (2 * k) / math.factorial(k) ** 2 for k in range(60))


def test_the_amplifier_is_that_of_its_equations():
    """Step by step, in scalar loops."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 150)
    u = [6 * (a - b) for a, b in zip(x, one_pole(150, x), strict=True)]
    e = one_pole(1 / (2 * math.pi * 0.03), [max(a, 0) for a in u])
    v = [a - 1.5 * b for a, b in zip(u, e, strict=True)]

    def h(n):  # a sinc in Kaiser's window, 8 samples of 48 kHz to each side
        if abs(n) > 32:
            return 0.0
        sinc = 1 if n == 0 else math.sin(math.pi * n / 4) / (math.pi * n / 4)
        return sinc * bessel(8 * math.sqrt(1 - (n / 32) ** 2)) / bessel(8)

    gain = sum(h(n) for n in range(-32, 33))
    dense = {}
    for n in range(-32, 4 * 149 + 33):
        value = sum(v[k] * h(n - 4 * k) for k in range(150))
        dense[n] = math.tanh(value) if value > 0 else 0.4 * math.tanh(value / 0.4)
    w = [sum(dense.get(4 * k - n, 0) * h(n) for n in range(-32, 33)) / gain for k in range(150)]
    w = one_pole(5000, w)
    expected = [a - b for a, b in zip(w, one_pole(40, w), strict=True)]
    np.testing.assert_allclose(guitar.amplify(x), expected, rtol=0, atol=1e-12)
    both = guitar.amplify(np.stack([x[::-1], x]))
    np.testing.assert_allclose(both[1], expected, rtol=0, atol=1e-12)


def test_what_oversampling_is_for():
    """Of 9 kHz, what would fold back from above 24 kHz is gone, the tone is not."""
    x = 3 * np.sin(2 * np.pi * 9 * np.arange(4800) / 48)
    folded = 48 / 12  # the fourth harmonic, 36 kHz, at 48 - 36
    plain, found = (
        amplifier.partial(f(x)[480:], folded) for f in (guitar.clip, guitar.oversampled_clip)
    )
    assert plain > 1e-2
    assert found < plain / 20
    assert amplifier.partial(guitar.oversampled_clip(x)[480:], 48 / 9) > 0.8


@pytest.mark.parametrize("period", [50, 117])
def test_a_string_is_a_loop(period):
    sound = guitar.pluck(period, 2000, 0.5, np.random.default_rng(3))
    S = np.random.default_rng(3).uniform(0.1, 0.5)  # the first that is drawn
    decay = 10 ** (-3 * period / (48_000 * 0.5))
    assert len(sound) == 2000
    assert np.abs(sound[:period]).max() > 0.01
    for n in range(period, 2000):
        older = sound[n - period - 1] if n > period else 0.0
        assert sound[n] == pytest.approx(decay * ((1 - S) * sound[n - period] + S * older))
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(2000), 2**18))
    near = slice(round(2**18 / (period + 5)), round(2**18 / (period - 5)))
    pitch = near.start + spectrum[near].argmax()
    assert 2**18 / pitch == pytest.approx(period + S, abs=0.05)


def test_a_guitarist_plays_and_is_silent():
    x = guitar.play(4, 12, np.random.default_rng(0))
    assert x.shape == (12, 192_000)
    assert np.abs(x).max() <= 1
    assert np.abs(x).max() > 0.5
    loud = np.abs(x).reshape(-1, 4800).max(axis=1)
    assert 0.02 < (loud == 0).mean() < 0.5
    quiet, loudest = np.quantile(loud[loud > 0], [0.1, 0.9])
    assert loudest > 10 * quiet
    note = guitar.stroke(20_000, np.random.default_rng(1))
    assert np.abs(note).max() == pytest.approx(1, rel=0.01)
    assert abs(note[-1]) < 1e-12


SMALL = replace(amplifier.QUICK, seconds=(0.6, 0.5, 0.5), rows=(6, 3, 4))


def test_no_take_is_in_two_parts():
    parts = amplifier.takes(SMALL, 0)
    assert [part.x.shape for part in parts] == [(6, 28_800), (3, 24_000), (4, 24_000)]
    spans = [
        {row[k : k + 4800].tobytes() for row in x for k in range(0, 24_000, 4800)} for x, _ in parts
    ]
    silence = np.zeros(4800).tobytes()
    assert all(len(span) > 5 for span in spans)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert spans[a] & spans[b] <= {silence}
    for x, y in parts:
        np.testing.assert_array_equal(y[1], guitar.amplify(x[1]))
    again, other = amplifier.takes(SMALL, 0), amplifier.takes(SMALL, 1)
    for part, same, another in zip(parts, again, other, strict=True):
        assert part.x.tobytes() == same.x.tobytes()
        assert part.x.tobytes() != another.x.tobytes()


def test_error_to_signal_ratios_counted_by_hand():
    y = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    assert amplifier.esr(y, np.array([[3.0, 2.0], [1.0, 0.0]])) == pytest.approx(5 / 25)
    assert amplifier.esr(y, y) == 0
    assert amplifier.esr(y, 0 * y) == 1
    emphasised = amplifier.emphasise(np.array([[1.0], [2.0], [-1.0]]))
    np.testing.assert_allclose(emphasised, [[1.15], [-2.7]])


def test_the_loss_is_an_esr_with_pre_emphasis_and_has_its_gradient():
    draw = np.random.default_rng(0).standard_normal
    wanted, output = draw((7, 3, 1)), draw((7, 3, 1))
    loss, gradient = amplifier.error(wanted, output, 2.0)
    total = 0.0
    for t in range(1, 7):
        for b in range(3):
            now, before = (output[k, b, 0] - wanted[k, b, 0] for k in (t, t - 1))
            total += (now - 0.85 * before) ** 2
    assert loss == pytest.approx(total / 18 / 2)
    for at in np.ndindex(7, 3, 1):
        losses = []
        for step in (1e-6, -1e-6):
            moved = output.copy()
            moved[at] += step
            losses.append(amplifier.error(wanted, moved, 2.0)[0])
        assert gradient[at] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)


def test_forget_gates_start_with_time_constants_of_up_to_2000_samples():
    parameters = amplifier.build(0).layers[0].parameters
    bias = parameters["bias_ih_l0"] + parameters["bias_hh_l0"]
    share_in, kept = (1 / (1 + np.exp(-bias[k : k + 32].astype(float))) for k in (0, 32))
    np.testing.assert_allclose(share_in + kept, 1)
    constants = np.sort(1 / (1 - kept))
    assert 1 <= constants[0] < 2
    assert 1000 < constants[-1] <= 2000
    assert 8 <= np.sum(constants > 100) <= 24


def test_windows_are_warm_and_know_what_should_be_added():
    """A take's samples are all different here, so that what is wanted says where a window is."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 26_000))
    model = amplifier.build(1)
    found = amplifier.windows(model, amplifier.Takes(x, 3 * x), np.random.default_rng(2))
    places = set()
    for k, (window, wanted) in zip(range(50), found, strict=False):
        # 48 windows a segment, the first two of which are not shown
        assert window.steps.start == (2 + k % 46) * 512
        assert wanted.shape == window.output.shape == (512, 32, 1)
        for b in (0, 31):
            signal = wanted[:, b, 0] / 2
            near = np.isclose(x[:, :-1], signal[0]) & np.isclose(x[:, 1:], signal[1])
            ((row, at),) = np.argwhere(near)
            np.testing.assert_allclose(x[row, at : at + 512], signal, rtol=1e-6)
            start = at - window.steps.start
            places.add((row, start))
            if k in (0, 49):
                whole = x[row, start : at + 512].astype(np.float32)[:, None, None]
                np.testing.assert_allclose(
                    window.output[:, b], model(whole)[0][-512:, 0], atol=1e-5
                )
    assert len(places) == 4  # two segments


def test_the_same_seed_learns_the_same_bits():
    training, validation, _ = amplifier.takes(SMALL, 0)

    def learn(seed):
        model = amplifier.build(seed)
        learning = amplifier.train(model, training, validation, 20, seed)
        assert learning.at == list(range(1, 21))
        assert np.mean(learning.losses[10:]) < np.mean(learning.losses[:3])
        found = amplifier.imitate(model, validation.x)
        assert learning.validation[-1] == amplifier.esr(validation.y, found)
        return b"".join(array.tobytes() for array in model.parameters.values())

    assert learn(0) == learn(0) != learn(1)


@pytest.fixture(scope="module")
def sound():
    return guitar.play(0.2, 1, np.random.default_rng(5))[0][: 64 * 100]


def test_blocks_are_the_sequence_call_cut_into_pieces(sound):
    model, threads = amplifier.build(4), fastrnn.info()["threads"]
    streamed = amplifier.stream(model, sound)
    assert fastrnn.info()["threads"] == threads
    assert streamed.sound.shape == (6400,)
    assert streamed.seconds.shape == (100,)
    assert (streamed.seconds > 0).all()
    whole = amplifier.imitate(model, sound[None])[0]
    assert np.abs(whole - sound).max() > 0.01
    assert np.abs(streamed.sound - whole).max() < 1e-6
    assert amplifier.same_bits(model, sound) or fastrnn.info()["backend"] == "numpy"
    if fastrnn.info()["backend"] == "c":
        steps, dry = fastrnn.Stream(model), sound.astype(np.float32)
        single = [value + steps.step(value.reshape(1, 1))[0, 0] for value in dry]
        assert np.array(single).tobytes() == streamed.sound.tobytes()


def test_a_state_that_is_lost_between_blocks_is_seen(sound, monkeypatch):
    class Forgetful(fastrnn.Stream):
        def push(self, block):
            self.reset()
            return super().push(block)

    monkeypatch.setattr(fastrnn, "Stream", Forgetful)
    model = amplifier.build(4)
    assert not amplifier.same_bits(model, sound)
    streamed = amplifier.stream(model, sound).sound
    assert np.abs(streamed - amplifier.imitate(model, sound[None])[0]).max() > 1e-3


def random_blocks(before=3, knots=5, after=4, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return block_models.Blocks(draw(before), np.sort(draw(knots)), draw(knots), draw(after))


def by_loops(model, x):
    """The model's output for a signal, in scalar loops."""

    def filtered(taps, x):
        return [sum(taps[k] * x[n - k] for k in range(len(taps)) if n >= k) for n in range(len(x))]

    def curve(u):
        if u <= model.knots[0]:
            return model.values[0]
        for k in range(1, len(model.knots)):
            if u <= model.knots[k]:
                gap = model.knots[k] - model.knots[k - 1]
                share = (u - model.knots[k - 1]) / gap
                return (1 - share) * model.values[k - 1] + share * model.values[k]
        return model.values[-1]

    return filtered(model.after, [curve(u) for u in filtered(model.before, x)])


def test_blocks_are_filter_curve_and_filter():
    model, x = random_blocks(), np.random.default_rng(1).standard_normal((2, 50))
    expected = [by_loops(model, row) for row in x]
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-12)
    straight = block_models.straight(x, before=4, knots=7, after=3)
    np.testing.assert_allclose(straight(x), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", block_models.PARTS)
def test_derivatives_of_blocks_are_those_of_differences(name):
    model, x = random_blocks(), np.random.default_rng(1).standard_normal((2, 60))
    found = block_models.derivatives(model, x, name)
    assert found.shape == (2, 60 - model.history, len(getattr(model, name)))
    for k in range(found.shape[2]):
        outputs = []
        for step in (1e-6, -1e-6):
            part = getattr(model, name).copy()
            part[k] += step
            outputs.append(replace(model, **{name: part})(x)[:, model.history :])
        # But for where a knot is between both: a derivative jumps there.
        difference = np.abs((outputs[0] - outputs[1]) / 2e-6 - found[..., k])
        assert np.median(difference) < 1e-8
        assert (difference > 1e-6).sum() <= 4


def test_what_is_fitted_is_the_least_squares_solution():
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((2, 3, 3000))
    heard, wanted = block_models.pieces(x, y, 20, 6, draw)
    assert heard.shape == (20, 1030)
    assert wanted.shape == (20, 1024)
    found = block_models.fit(block_models.straight(x, after=7), heard, wanted, ["after"], 4)
    rows = [heard[p, n : n + 7][::-1] for p in range(20) for n in range(1024)]
    # The curve between is straight, as far as it reaches.
    expected = np.linalg.lstsq(np.array(rows), wanted.ravel(), rcond=None)[0]
    np.testing.assert_allclose(found.after, expected, rtol=0, atol=1e-7)


def test_a_curve_that_is_fitted_bends_no_more_than_it_should():
    """The augmented least-squares problem, row by row."""
    draw = np.random.default_rng(0)
    x = draw.uniform(-0.5, 0.5, (2, 3000))
    y = np.tanh(3 * x) + 0.1 * draw.standard_normal(x.shape)
    heard, wanted = block_models.pieces(x, y, 2, 0, draw)
    start = block_models.straight(np.array([2.0, *x[0]]), knots=9)
    knots = start.knots
    rows = [[np.interp(u, knots, np.eye(9)[k]) for k in range(9)] for u in heard.ravel()]
    cost = math.sqrt(1e-5 * np.sum(wanted**2))
    for k in range(1, 8):
        row = np.zeros(9)
        row[k - 1] = cost / (knots[k] - knots[k - 1])
        row[k + 1] = cost / (knots[k + 1] - knots[k])
        row[k] = -row[k - 1] - row[k + 1]
        rows.append(row)
    right = np.concatenate([wanted.ravel(), np.zeros(7)])
    expected = np.linalg.lstsq(np.array(rows), right, rcond=None)[0]
    found = block_models.fit(start, heard, wanted, ["values"], 6)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-6)
    assert np.abs(np.diff(found.values) / np.diff(knots)).max() < 4  # where no sample is, too


def test_pieces_are_of_the_same_place():
    x = np.arange(6000.0).reshape(2, 3000)
    heard, wanted = block_models.pieces(x, x, 50, 9, np.random.default_rng(0))
    np.testing.assert_array_equal(heard[:, 9:], wanted)
    assert set((wanted[:, 0] // 3000).tolist()) == {0, 1}


def test_a_filter_a_curve_and_a_filter_are_found_again():
    draw = np.random.default_rng(0)
    x = 0.5 * draw.standard_normal((4, 5000))
    start = block_models.straight(x, before=3, knots=9, after=4)
    true = replace(
        start,
        before=np.array([1.0, -0.4, 0.2]),
        values=np.tanh(2 * start.knots),
        after=np.array([0.7, 0.3, 0.0, -0.1]),
    )
    y = np.array([by_loops(true, row) for row in x])
    heard, wanted = block_models.pieces(x, y, 12, start.history, draw)
    found = block_models.fit(start, heard, wanted, block_models.PARTS, 30)
    assert amplifier.esr(y, found(x)) < 1e-4
    assert amplifier.esr(y, start(x)) > 0.1


def test_the_amplitude_of_a_tone_whatever_lies_under_it():
    tone = amplifier.tone(100, 400, 0.0, 0.3)[0]
    assert not tone[:400].any()
    for k in (1, 2):
        slope = 3 + 1e-3 * np.arange(400)
        expected = 0.3 if k == 1 else 0
        assert amplifier.partial(tone[400:] + slope, 100 / k) == pytest.approx(expected, abs=3e-3)


def test_who_learns_nothing_is_not_right(monkeypatch):
    nothing = amplifier.Learning([1, 2], [1.0, 1.0], [1.0, 1.0])
    monkeypatch.setattr(amplifier, "QUICK", replace(SMALL, pieces=8, streamed=0.1))
    monkeypatch.setattr(amplifier, "train", lambda *arguments: nothing)
    outcome = amplifier.example(quick=True)
    assert not outcome.right
    assert "of its sequence call" in outcome.line


def test_what_would_be_wrong():
    """Each thing that is demanded, by itself."""
    scores = {"dry sound": (0.5, 0.6), "curve": (0.2, 0.1), amplifier.LSTM: (0.01, 0.02)}
    good = amplifier.Found(scores, True, 1e-7, 0.01)
    assert amplifier.judge(good, 0.02)
    assert not amplifier.judge(good, 0.01)
    assert not amplifier.judge(good._replace(load=1.1), 0.02)
    assert not amplifier.judge(good._replace(off=1e-3), 0.02)
    assert not amplifier.judge(good._replace(off=np.nan), 0.02)
    for other in ((0.005, 0.1), (0.2, 0.01)):
        assert not amplifier.judge(good._replace(scores=scores | {"curve": other}), 0.02)
    if fastrnn.info()["backend"] != "numpy":
        assert not amplifier.judge(good._replace(equal=False), 0.02)
