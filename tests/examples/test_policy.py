"""Balancing by memory: the carts, what is streamed and recorded, gradients, and what is right."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import carts
import fastrnn
import policy
from problems import BACKENDS


def test_the_program_is_content(run_example):
    result = run_example("policy")
    assert result.startswith("right: ")
    assert " of 500 steps in 256 new episodes, without memory " in result


def states(count):
    scale = np.array([[2.0], [3.0], [0.4], [3.0]])
    return np.random.default_rng(0).normal(size=(4, count)) * scale


def test_a_step_is_that_of_the_equations_one_cart_at_a_time():
    """As Barto, Sutton & Anderson write them, with the angle's first."""
    before = states(20)
    force = np.random.default_rng(1).choice([-10.0, 10.0], 20)
    after = carts.move(before, force)
    for b in range(20):
        x, v, th, w = map(float, before[:, b])
        bracket = (-force[b] - 0.1 * 0.5 * w * w * math.sin(th)) / 1.1
        top = 9.8 * math.sin(th) + math.cos(th) * bracket
        w_dot = top / (0.5 * (4 / 3 - 0.1 * math.cos(th) ** 2 / 1.1))
        v_dot = (force[b] + 0.1 * 0.5 * (w * w * math.sin(th) - w_dot * math.cos(th))) / 1.1
        expected = [x + 0.02 * v, v + 0.02 * v_dot, th + 0.02 * w, w + 0.02 * w_dot]
        np.testing.assert_allclose(after[:, b], expected, rtol=1e-12)


def test_without_a_force_momentum_and_energy_stay(monkeypatch):
    """Of a cart and a uniform rod, by Lagrange: (1.1 ẋ²)/2 + 0.05 ẋ ω cos θ + (1/30) ω²/2 + V."""
    monkeypatch.setattr(carts, "TICK", 1e-6)

    def kept(state):
        _, v, th, w = state
        coupled = 0.1 * 0.5 * np.cos(th)
        energy = 1.1 * v**2 / 2 + coupled * v * w + 0.1 / 3 * w**2 / 2 + coupled * 9.8
        return np.array([1.1 * v + coupled * w, energy])

    before = states(50)
    after = carts.move(before, np.zeros(50))
    assert np.abs(after - before).max() > 1e-6
    np.testing.assert_allclose(kept(after), kept(before), rtol=0, atol=1e-9)


def test_each_row_has_an_end_of_its_own():
    some = carts.Carts(5, np.random.default_rng(0), limit=9)
    some.state[:] = 0
    some.state[0, 1], some.state[0, 2] = 2.41, -2.41
    some.state[2, 3] = math.radians(12.5)
    some.age[[0, 3]] = 8
    fell, late = some.push(np.array([True, False, True, False, True]))
    assert fell.tolist() == [False, True, True, True, False]
    assert late.tolist() == [True, False, False, False, False]  # who has fallen is not late
    assert some.age.tolist() == [9, 1, 1, 9, 1]
    np.testing.assert_array_equal(np.sign(some.state[1]), [1, -1, 1, -1, 1])
    before = some.state.copy()
    some.renew(fell | late)
    assert some.age.tolist() == [0, 0, 0, 0, 1]
    assert np.abs(some.state[:, :4]).max() <= 0.05
    assert (some.state[:, :4] != before[:, :4]).all()
    assert (some.state[:, 4] == before[:, 4]).all()


def test_speeds_are_not_seen():
    some = carts.Carts(3, np.random.default_rng(0), 9)
    some.state[0], some.state[2] = [2.4, 0, -1.2], np.radians([-12, 6, 0])
    seen = some.see()
    np.testing.assert_allclose(seen, [[1, -1], [0, 0.5], [-0.5, 0]], rtol=1e-6)
    some.state[[1, 3]] += 1
    assert (some.see() == seen).all()
    assert seen.dtype == np.float32


def test_lengths_are_those_of_first_episodes_one_cart_at_a_time():
    def lean(some):
        return some.state[2] > 0

    def begin():
        some = carts.Carts(30, np.random.default_rng(3), 45)
        some.state[3, :4] = [2, -3, 3, -2]  # they fall soon, and once more before others do
        return some

    starts, found = begin().state, carts.lengths(lean, begin())
    for b in range(30):
        state, steps = starts[:, b : b + 1], 0
        while steps < 45 and abs(state[0, 0]) <= 2.4 and abs(state[2, 0]) <= math.radians(12):
            state = carts.move(state, np.where(state[2] > 0, 10.0, -10.0))
            steps += 1
        assert found[b] == steps
    assert found.min() < 10
    assert found.max() == 45
    path = carts.follow(lean, begin())
    assert len(path) == found[0] + 1
    assert (path[0] == starts[:, 0]).all()


def test_who_sees_the_speeds_balances():
    generator = np.random.default_rng(0)
    balancing = carts.Carts(50, generator, 1000)
    assert carts.lengths(lambda some: carts.GAINS @ some.state > 0, balancing).min() == 1000


def play_twice():
    """Return a learner and its second rollout, which began in the midst of episodes."""
    learner = policy.Learner(seed=5)
    learner.learn(learner.play())
    return learner, learner.play()


@pytest.fixture(scope="module")
def played():
    return play_twice()


def test_resets_are_where_episodes_begin(played):
    learner, rollout = played
    ended = rollout.fell | rollout.late
    assert (rollout.reset[1:] == ended).all()
    assert 20 < ended.sum() < ended.size / 8
    assert not ended.all(axis=1).any()
    assert (np.abs(rollout.x[rollout.reset]) <= [0.05 / 2.4 + 1e-6, 0.05 / 0.209]).all()
    assert (learner.fresh == ended[-1]).all()
    moved = np.abs(np.diff(rollout.x, axis=0)).max(axis=-1)
    assert moved[~ended].max() < 0.5


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"])
def test_what_is_streamed_is_what_is_recorded(monkeypatch, backend):
    """The GRU to the bit, row resets and the state at the start included; the head is rounded."""
    monkeypatch.setenv("FASTRNN_BACKEND", backend)
    assert fastrnn.info()["backend"] == backend
    learner, rollout = play_twice()
    x, reset = rollout.x[:-1], rollout.reset[:-1]
    assert np.abs(rollout.state[0]).max(axis=-1).min() > 0
    gru = learner.scores.layers[0]
    hidden = gru.record(x, rollout.state[0], reset=reset).output
    stream = fastrnn.Stream(gru, policy.ROWS)
    stream.state = rollout.state[0]
    for t in range(policy.STEPS):
        stream.reset(reset[t])
        assert stream.step(x[t]).tobytes() == hidden[t].tobytes()
    tape = learner.scores.record(x, rollout.state, reset=reset)
    assert learner.stream.state[0].tobytes() == tape.state[0].tobytes()
    chances = fastrnn.softmax(tape.output)
    np.testing.assert_allclose(rollout.chances, chances, rtol=0, atol=1e-6)
    without = fastrnn.softmax(learner.scores.record(x, rollout.state).output)
    assert np.abs(without - chances).max() > 1e-3  # the resets are to be seen


def test_the_gap_is_between_streamed_and_recorded():
    learner = policy.Learner(seed=6)
    rollout = learner.play()
    rollout.chances[7, 3] += 0.25
    learner.learn(rollout)
    assert learner.gap == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("memory", [True, False])
def test_the_critic_learns_what_it_said_and_the_advantages(monkeypatch, memory):
    """What it said goes on from one rollout to the next one, and beyond the last step."""
    learner = policy.Learner(8, memory)
    for parameter in learner.critic.parameters.values():
        parameter *= 3  # so that a state is seen
    first, state = learner.play(), None
    for rollout in (first, None):
        rollout = rollout or learner.play()
        output, _ = learner.critic(rollout.x, state, reset=rollout.reset)
        _, state = learner.critic(rollout.x[:-1], state, reset=rollout.reset[:-1])
        values = output[..., 0]
        expected = values[:-1] + policy.advantages(values, rollout.fell, rollout.late)
        given = []

        def error(prediction, target, given=given):
            given.extend([prediction, target])
            return 0.0, np.zeros_like(prediction)

        with monkeypatch.context() as patch:
            patch.setattr(fastrnn, "mean_squared_error", error)
            learner.learn(rollout)
        np.testing.assert_allclose(given[0][..., 0], values[:-1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(given[1][..., 0], expected, rtol=0, atol=1e-5)


def test_a_stream_goes_on_from_its_state_with_new_parameters():
    learner = policy.Learner(seed=7)
    rollout = learner.play()
    state = learner.stream.state
    before = learner.stream.step(rollout.x[0]).copy()
    learner.stream.state = state
    learner.learn(rollout)
    assert learner.stream.state[0].tobytes() == state[0].tobytes()
    assert "changed" not in repr(learner.stream)
    expected = fastrnn.softmax(learner.scores(rollout.x[:1], state)[0])[0]
    found = learner.stream.step(rollout.x[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(found - before).max() > 1e-4


def test_sides_are_drawn_by_their_probabilities(played):
    _, rollout = played
    chance = rollout.chances[..., 1].astype(float)
    deviation = np.sqrt((chance * (1 - chance)).sum())
    assert abs(rollout.right.sum() - chance.sum()) < 4 * deviation


def test_without_memory_only_what_is_seen_now_counts():
    learner = policy.Learner(seed=5, memory=False)
    learner.learn(learner.play())
    rollout = learner.play()
    assert rollout.reset.all()
    x = rollout.x[:-1].reshape(1, -1, 2)
    alone = fastrnn.softmax(learner.scores(x)[0]).reshape(rollout.chances.shape)
    np.testing.assert_allclose(rollout.chances, alone, rtol=0, atol=1e-6)
    for parameter in learner.scores.parameters.values():
        parameter *= 6  # so that a state would be seen
    some = carts.Carts(200, np.random.default_rng(0), 99)
    choose = learner.chooser(200)
    for _ in range(20):
        chance = fastrnn.softmax(learner.scores(some.see()[None])[0])[0, :, 1]
        right = choose(some)
        assert (right == (chance > 0.5)).all()
        some.push(right)


def test_advantages_are_sums_to_the_end_of_the_episode():
    """By their definition, for each row and step alone."""
    generator = np.random.default_rng(0)
    T, B, gamma, decay = 30, 40, policy.GAMMA, policy.GAMMA * policy.LAMBDA
    values = generator.normal(size=(T + 1, B))
    fell, late = generator.random((2, T, B)) < 0.06
    late &= ~fell
    found = policy.advantages(values, fell, late)
    for b in range(B):
        for t in range(T):
            total = 0.0
            for k in range(T - t):
                now = t + k
                if late[now, b]:
                    break
                bootstrap = 0.0 if fell[now, b] else gamma * values[now + 1, b]
                total += decay**k * (bootstrap - float(fell[now, b]) - values[now, b])
                if fell[now, b]:
                    break
            assert found[t, b] == pytest.approx(total, abs=1e-12)


def test_an_expected_fall_is_no_surprise():
    T = 6
    values = -(policy.GAMMA ** np.arange(T - 1, -2, -1.0))[:, None]
    fell = np.arange(T)[:, None] == T - 1
    found = policy.advantages(values, fell, np.zeros((T, 1), bool))
    np.testing.assert_allclose(found, 0, atol=1e-12)


def drawn_rollout(T, B, generator):
    """Noise, with resets at all kinds of steps, the first one among them."""
    x = generator.normal(size=(T + 1, B, 2))
    reset = generator.random((T + 1, B)) < 0.25
    reset[0] = np.arange(B) % 2 == 0
    state = (generator.uniform(-0.9, 0.9, (1, B, policy.UNITS)),)
    right = generator.random((T, B)) < 0.5
    none = np.zeros((T, B), bool)
    return policy.Rollout(x, reset, state, np.zeros((T, B, 2)), right, none, none)


def objective(scores, rollout, advantage):
    """-mean(A log p), every episode of every row on its own: none knows of the one before."""
    total, (T, B) = 0.0, advantage.shape
    for b in range(B):
        starts = [t for t in range(T) if t == 0 or rollout.reset[t, b]]
        for start, end in zip(starts, [*starts[1:], T], strict=True):
            first = None if rollout.reset[start, b] else (rollout.state[0][:, b : b + 1],)
            output, _ = scores(rollout.x[start:end, b : b + 1], first)
            for t, (left, right) in enumerate(output[:, 0].tolist(), start):
                chosen, other = (right, left) if rollout.right[t, b] else (left, right)
                total += advantage[t, b] * math.log1p(math.exp(other - chosen))
    return total / (T * B)


def test_gradients_are_those_of_the_objective():
    generator = np.random.default_rng(2)
    rollout = drawn_rollout(7, 4, generator)
    advantage = generator.normal(size=(7, 4))
    scores = policy.network(2, seed=1, dtype="float64")
    chances, gradients = policy.policy_gradients(scores, rollout, advantage)
    assert chances.shape == (7, 4, 2)
    assert sorted(gradients) == sorted(scores.parameters)
    for name, parameter in scores.parameters.items():
        for k in generator.permutation(parameter.size)[:20]:
            place = np.unravel_index(k, parameter.shape)
            value, ends = parameter[place], []
            for step in (1e-5, -1e-5):
                parameter[place] = value + step
                ends.append(objective(scores, rollout, advantage))
            parameter[place] = value
            slope = (ends[0] - ends[1]) / 2e-5
            assert gradients[name][place] == pytest.approx(slope, abs=1e-9, rel=1e-6), name
    assert min(np.abs(gradient).max() for gradient in gradients.values()) > 1e-3


def test_the_actor_that_balanced_longest_is_kept(monkeypatch):
    scores = iter([2.0, 5.0, 3.0, 5.0])
    monkeypatch.setattr(policy, "CHECKS", 4)
    monkeypatch.setattr(policy, "lengths", lambda *some: np.full(3, next(scores)))
    run = policy.train(memory=True, updates=8, seed=3)
    same = policy.Learner(3)
    for k in range(4):  # until the second check
        for optimizer in same.optimizers:
            optimizer.lr = policy.harness.cooled(policy.LR, k / 8)
        same.learn(same.play())
    for name, parameter in run.learner.scores.parameters.items():
        assert (parameter == same.scores.parameters[name]).all(), name
    assert "changed" not in repr(run.learner.stream)
    assert run.curve.shape == (8, policy.ROWS)
    assert run.curve[-1].min() >= 8


def test_a_step_of_all_rows_is_that_of_each(played):
    learner, rollout = played
    whole = fastrnn.Stream(learner.actor, policy.ROWS)
    single = [fastrnn.Stream(whole) for _ in range(policy.ROWS)]
    for x in rollout.x[:5]:
        each = [stream.step(x[k : k + 1])[0] for k, stream in enumerate(single)]
        np.testing.assert_allclose(np.array(each), whole.step(x), rtol=0, atol=1e-6)


def test_readings_of_units_that_know_and_units_that_do_not():
    """One unit is the pole's speed, one the cart's reversed, others are noise."""
    seen = []

    def chooser(rows, generator):
        def choose(some):
            seen.append(some.state[[1, 3]].T.copy())
            return carts.GAINS @ some.state > 0

        return choose

    def units(knows):
        def gru(x):
            noise = np.random.default_rng(0).normal(size=(*x.shape[:2], 3))
            speeds = np.array(seen)
            known = [speeds[..., 1:], -2 * speeds[..., :1] + 1] if knows else []
            return np.concatenate([*known, noise], axis=-1), None

        return gru

    for knows in (True, False):
        seen.clear()
        actor = SimpleNamespace(layers=[units(knows)])
        learner = SimpleNamespace(chooser=chooser, actor=actor)
        found = policy.look_inside(learner, np.random.default_rng(1))
        assert found.speeds.shape == found.read.shape == (240 * policy.ROWS // 2, 2)
        if knows:
            np.testing.assert_allclose(found.explained, 1, atol=1e-9)
            np.testing.assert_allclose(found.correlation[[1, 0], [0, 1]], [1, -1], atol=1e-9)
            assert np.abs(found.correlation[:, 2:]).max() < 0.1
        else:
            np.testing.assert_allclose(found.explained, 0, atol=0.01)
        assert (found.plain < 0.7).all()


def test_fallen_carts_are_not_looked_at():
    def lean(some):
        return some.state[2] > 0

    def gru(x):
        return np.random.default_rng(0).normal(size=(*x.shape[:2], 4)), None

    learner = SimpleNamespace(
        chooser=lambda rows, generator: lean, actor=SimpleNamespace(layers=[gru])
    )
    found = policy.look_inside(learner, np.random.default_rng(1))
    steps = carts.lengths(lean, carts.Carts(policy.ROWS, np.random.default_rng(1), policy.LIMIT))
    assert len(found.speeds) == (steps[policy.ROWS // 2 :] - 10).sum()


@pytest.mark.parametrize(
    ("steps", "without", "gap", "quick", "right"),
    [
        (500.0, 50.0, 2e-7, False, True),
        (450.0, 50.0, 2e-7, True, True),
        (450.0, 50.0, 2e-7, False, False),  # not balanced
        (300.0, 50.0, 2e-7, True, False),
        (500.0, 200.0, 2e-7, False, False),  # no need of memory
        (500.0, 50.0, 1e-3, False, False),  # the stream does something else
    ],
)
def test_what_is_right(steps, without, gap, quick, right):
    assert policy.judge(steps, without, gap, quick) is right


def test_who_learns_nothing_is_not_right(monkeypatch):
    monkeypatch.setattr(policy, "UPDATES_QUICK", policy.CHECKS)
    monkeypatch.setattr(policy.Learner, "learn", lambda learner, rollout: None)
    monkeypatch.setattr(
        policy.harness, "compare", lambda *some, quick: policy.harness.Ratio(*[1] * 5)
    )
    outcome = policy.example(quick=True)
    assert not outcome.right
    assert outcome.picture is not None
