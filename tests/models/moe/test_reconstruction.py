"""The set of experts of least reconstruction error, against running every pruned layer token by token."""

import itertools
import math

import numpy as np
import pytest

import qrt_tn.models.moe.reconstruction
from qrt_tn.models.moe.reconstruction import reconstruction, reconstruction_errors
from qrt_tn.models.moe.records import ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics

HIDDEN, UNITS, TOKENS = 4, 3, 11


def instance(seed, experts=5, tokens=TOKENS):
    rng = np.random.default_rng(seed)
    shapes = ((experts, HIDDEN, UNITS), (experts, UNITS), (experts, UNITS, HIDDEN), (experts, HIDDEN))
    return (
        rng.normal(size=(HIDDEN, experts)) * 2,
        ExpertWeights(*(rng.normal(size=shape) for shape in shapes)),
        rng.normal(size=(tokens, HIDDEN)),
    )


def statistics(experts, sample):
    zeros = [np.zeros(experts)] * 4
    return LayerStatistics(len(sample), *zeros, np.eye(experts), sample, sample_cap=len(sample))


def forward(kernel, experts, x, inside, selected):
    """One token: softmax with all outside the set masked, the top ones, divided by their sum."""
    logits = x @ kernel
    weights = np.array([math.exp(v) if e in inside else 0.0 for e, v in enumerate(logits)])
    weights /= weights.sum()
    best = sorted(range(len(weights)), key=lambda e: (-weights[e], e))[:selected]
    total = sum(weights[e] for e in best)
    return sum(weights[e] / total * experts.take([e]).apply(x[None])[0, 0] for e in best)


def oracle(kernel, experts, inputs, keep, selected):
    everyone = range(experts.experts)
    errors = {}
    for inside in itertools.combinations(everyone, keep):
        square = 0.0
        for x in inputs:
            difference = forward(kernel, experts, x, everyone, selected) - forward(
                kernel, experts, x, inside, selected
            )
            square += float(difference @ difference)
        errors[inside] = math.sqrt(square)
    return errors


@pytest.mark.parametrize(("keep", "selected"), [(1, 1), (2, 2), (3, 1), (3, 2), (4, 3), (5, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_errors_and_the_best_set_are_those_of_brute_force(seed, keep, selected):
    kernel, experts, inputs = instance(seed)
    expected = oracle(kernel, experts, inputs, keep, selected)
    sets, errors = reconstruction_errors(kernel, experts, inputs, keep=keep, selected=selected)
    assert sorted(map(tuple, sets.tolist())) == sorted(expected)
    for places, error in zip(sets.tolist(), errors, strict=True):
        assert error == pytest.approx(expected[tuple(places)], rel=1e-9, abs=1e-6)
    best = reconstruction(None, kernel, experts, statistics(5, inputs), keep=keep, selected=selected)
    assert best == min(expected, key=lambda places: expected[places])


def test_blocks_of_tokens_and_sets_do_not_matter(monkeypatch):
    kernel, experts, inputs = instance(3, experts=6)
    expected = reconstruction_errors(kernel, experts, inputs, keep=3, selected=2)
    monkeypatch.setattr(qrt_tn.models.moe.reconstruction, "_BLOCK_TOKENS", 4)
    monkeypatch.setattr(qrt_tn.models.moe.reconstruction, "_BLOCK_NUMBERS", 50)
    sets, errors = reconstruction_errors(kernel, experts, inputs, keep=3, selected=2)
    np.testing.assert_array_equal(sets, expected[0])
    np.testing.assert_allclose(errors, expected[1], rtol=1e-12)


def test_experts_that_no_token_chooses_go():
    kernel, experts, inputs = instance(4)
    inputs[:, 0] = 1.0
    kernel[0, [1, 4]] -= 1e3  # never among the first two
    best = reconstruction(None, kernel, experts, statistics(5, inputs), keep=3, selected=2)
    assert best == (0, 2, 3)
    sets, errors = reconstruction_errors(kernel, experts, inputs, keep=3, selected=2)
    assert errors[sets.tolist().index([0, 2, 3])] == 0.0
    assert np.isfinite(errors).all()  # where only experts of vanishing gate are left, too


def test_bad_input_is_refused():
    kernel, experts, inputs = instance(0)
    with pytest.raises(
        ValueError, match="2 of 5 experts would be left, but a token goes to 3; keep at least 3"
    ):
        reconstruction_errors(kernel, experts, inputs, keep=2, selected=3)
    with pytest.raises(ValueError, match="sample_cap above 0"):
        reconstruction(None, kernel, experts, statistics(5, inputs[:0]), keep=2, selected=1)
    kernel, experts, inputs = instance(0, experts=24)
    with pytest.raises(ValueError, match="2,704,156 sets of 12 of 24 experts"):
        reconstruction_errors(kernel, experts, inputs, keep=12, selected=1)
    kernel, experts, inputs = instance(0)
    inputs[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        reconstruction_errors(kernel, experts, inputs, keep=2, selected=1)
