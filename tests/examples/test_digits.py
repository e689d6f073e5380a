"""Digits: what is split, chosen and learnt; the classic rule against scikit-learn's."""

import numpy as np
import pytest

import digits
import fastrnn

pytestmark = pytest.mark.network


def test_the_program_is_content(run_example):
    assert run_example("digits").startswith("right: of the test digits (scikit-learn's): classic")


def test_the_parts_are_disjoint_and_stratified():
    parts = digits.split(0)
    rows = {name: [row.tobytes() for row in x] for name, (x, _) in parts.items()}
    assert [len(rows[name]) for name in ("train", "validation", "test")] == [1077, 360, 360]
    assert sorted(rows["train"] + rows["validation"]) == sorted(rows["both"])
    assert len({*rows["both"], *rows["test"]}) == 1797  # no digit is there twice
    for x, labels in parts.values():
        assert x.shape == (len(labels), 64)
        assert x.dtype == np.float32
        assert (x.min(), x.max()) == (0, 1)
        shares = np.bincount(labels, minlength=10) / len(labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)
    assert (digits.split(1)["test"][0] != parts["test"][0]).any()


def test_the_best_candidate_is_chosen_and_the_test_part_is_not_looked_at():
    parts = digits.split(0)
    parts["test"] = None
    learnt = digits.learn("logistic rule", digits.candidates(0)["logistic rule"], parts, 3, 0)
    ends = {}
    for candidate in digits.candidates(0)["logistic rule"]:
        *_, model = digits.train(candidate, parts["train"], 3, 0, "")
        ends[candidate.words] = digits.accuracy(model, parts["validation"])
    assert ends[learnt.words] == max(ends.values()) == learnt.curve[-1]
    assert len(learnt.curve) == 3


def test_the_same_seed_gives_the_same_result():
    first, second = (digits.example(quick=True, seed=1) for _ in range(2))
    assert first.line == second.line
    assert first.picture is not None


@pytest.mark.parametrize("pair", [(0, 1), (3, 8), (1, 7)], ids=str)
def test_two_classes_are_learnt_as_by_scikit_learn(pair):
    """Its binary perceptron, without shuffling: half the difference of our two rows of weights.

    From zeros both classes have the same score, for which scikit-learn learns from either of them
    and we predict the first: so the second one is at the front.
    """
    from sklearn.linear_model import Perceptron

    x, labels = digits.split(0)["train"]
    chosen = np.isin(labels, pair)
    x, labels = x[chosen].astype(np.float64), (labels[chosen] == pair[1]).astype(int)
    order = np.argsort(labels != 1, kind="stable")[:1].tolist()
    order += [n for n in range(len(x)) if n != order[0]]
    x, labels = x[order], labels[order]
    for passes in (1, 2, 5):
        theirs = Perceptron(max_iter=passes, tol=None, shuffle=False)
        ours = fastrnn.Perceptron(64, 2, dtype="float64")
        for _ in range(passes):
            ours.learn(x, labels)
        theirs.fit(x, labels)
        weight, bias = ours.parameters["weight"], ours.parameters["bias"]
        assert (weight[1] - weight[0]).any()
        np.testing.assert_allclose((weight[1] - weight[0]) / 2, theirs.coef_[0], atol=1e-12)
        assert (bias[1] - bias[0]) / 2 == theirs.intercept_[0]
