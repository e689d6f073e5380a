"""Initialisation, clipping and truncation: what is measured, and what is right."""

from dataclasses import replace

import numpy as np
import pytest

import adding
import fastrnn
import gradients


def test_the_program_is_content(run_example):
    words = "right: initialisation as foretold, clipping as foretold, truncation as foretold"
    assert run_example("gradients") == words


@pytest.mark.parametrize("k2", [1, 3, 8, 9])
def test_a_truncated_gradient_knows_the_last_steps_only(k2):
    """It is that of a sequence which begins k2 steps before the end, in the state of then."""
    model = adding.GRU.build(2)
    x, target = adding.draw(9, 5, np.random.default_rng(0))
    found = gradients.truncated(model, x, target, k2)
    tape = model.record(x[-k2:], model(x[:-k2])[1] if k2 < 9 else None)
    d_output = np.zeros_like(tape.output)
    _, d_output[-1] = fastrnn.mean_squared_error(tape.output[-1], target)
    expected = tape.backward(d_output).parameters
    assert list(found) == [name for name in expected if name.startswith("0.")]
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-7, err_msg=name)


def test_cosines():
    a, b = np.array([1e100, 0.0]), np.array([1.0, 1.0])
    assert gradients.cosine(a, b) == pytest.approx(0.5**0.5)
    assert gradients.cosine(a, -a) == pytest.approx(-1)
    assert np.isnan(gradients.cosine(a, 0 * b))


@pytest.fixture(scope="module")
def found():
    return gradients.measure(quick=True, seed=1)


def test_another_seed_is_right_too(found):
    assert all(gradients.judge(found, quick=True).values())


def test_the_same_seed_gives_the_same_bits(found):
    again = gradients.descend("by norm", 200, 1)
    assert again == found.clippings["by norm"]
    whole = gradients.measure(quick=True, seed=1)
    for name, flowing in found.memories.items():
        first, second = adding.norms(flowing), adding.norms(whole.memories[name])
        assert first.tobytes() == second.tobytes(), name


def test_what_would_be_wrong(found):
    """Each verdict falls with what it is about, and only that one."""
    uniform, orthogonal, _ = (network.name for network in gradients.STARTS)
    starts = found.starts | {orthogonal: found.starts[uniform]}
    memories = dict.fromkeys(found.memories, next(iter(found.memories.values())))
    none, by_norm = found.clippings["no clipping"], found.clippings["by norm"]
    first, *others = found.truncations
    half = np.full(gradients.T, 0.5)

    def clippings(name, run):
        return replace(found, clippings=found.clippings | {name: run})

    for verdict, wrong in (
        ("initialisation", replace(found, starts=starts)),
        ("initialisation", replace(found, memories=memories)),
        ("clipping", clippings("no clipping", by_norm)),
        ("clipping", clippings("by norm", none)),
        ("clipping", clippings("by norm", replace(by_norm, left=[2.0]))),
        ("clipping", clippings("by norm", replace(by_norm, cosines=[0.9]))),
        ("truncation", replace(found, truncations=[replace(first, equal=False), *others])),
        ("truncation", replace(found, truncations=[replace(first, bias=half), *others])),
        ("truncation", replace(found, truncations=[replace(first, beyond=0.1), *others])),
    ):
        verdicts = gradients.judge(wrong, quick=True)
        assert [name for name, good in verdicts.items() if not good] == [verdict]
