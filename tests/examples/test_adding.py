"""The adding problem: the task, the gradients that are drawn, and what is right."""

import numpy as np
import pytest

import adding
import fastrnn
import harness


def test_the_program_is_content(run_example):
    assert run_example("adding").startswith("right: best gated network against RNN: 0.00")


def test_the_sum_of_two_marked_numbers_one_in_each_half():
    x, target = adding.draw(7, 500, np.random.default_rng(0))
    assert x.shape == (7, 500, 2)
    assert target.shape == (500, 1)
    places = set()
    for b in range(500):
        first, second = (t for t in range(7) if x[t, b, 1])
        assert first < 3 <= second
        assert x[:, b, 1].sum() == 2
        assert target[b, 0] == x[first, b, 0] + x[second, b, 0]
        places |= {first, second}
    assert places == set(range(7))
    assert x[..., 0].min() >= 0
    assert x[..., 0].max() < 1


def test_what_guessing_costs():
    target = adding.draw(4, 100_000, np.random.default_rng(0))[1].astype(np.float64)
    assert np.square(target - 1).mean() == pytest.approx(adding.GUESSING, rel=0.02)


@pytest.mark.parametrize("network", [adding.RNN, adding.GRU, adding.LSTMS[1]], ids=str)
def test_the_norms_are_those_of_the_rest_of_the_sequence(network):
    """By every state, of a pass over all that follows it in one piece."""
    model = network.build(3)
    x, target = adding.draw(9, 4, np.random.default_rng(1))
    norms = adding.norms(adding.flow(model, x, target))
    assert norms.shape == (9,)
    for k in range(8):
        tape = model.record(x[k + 1 :], model(x[: k + 1])[1])
        d_output = np.zeros_like(tape.output)
        _, d_output[-1] = fastrnn.mean_squared_error(tape.output[-1], target)
        (found,) = tape.backward(d_output).state
        expected = np.linalg.norm(np.concatenate([np.ravel(part) for part in found]))
        assert norms[k] == pytest.approx(expected, rel=1e-4)


def test_the_losses_are_of_networks_that_have_not_seen_the_batch():
    model, same = adding.GRU.build(0), adding.GRU.build(0)
    first, second = adding.train(model, 10, 2, 0.01, np.random.default_rng(5), "")
    x, target = adding.draw(10, adding.BATCH, np.random.default_rng(5))
    assert first == pytest.approx(adding.error(same, x, target), rel=1e-5)
    assert second != first


def test_the_same_seed_gives_the_same_bits():
    first, second = (adding.run(adding.GRU, 10, 20, 4) for _ in range(2))
    assert first.losses == second.losses
    assert first.error == second.error
    assert adding.norms(first.after).tobytes() == adding.norms(second.after).tobytes()
    assert adding.run(adding.GRU, 10, 20, 5).losses != first.losses


def test_who_learns_nothing_is_not_right(monkeypatch):
    monkeypatch.setattr(adding, "train", lambda *arguments: [0.2] * 100)
    outcome = adding.example(quick=True)
    assert isinstance(outcome, harness.Outcome)
    assert not outcome.right
    assert all("not learned" in row[3] for row in outcome.table[1:])
