"""Every criterion against loops over numbers, and against the formulas of released code."""

import math

import numpy as np
import pytest

from qrt_tn.models.moe.criteria import CRITERIA, Criterion, criterion, score
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.records import ExpertLayer, ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics

EXPERTS, HIDDEN, UNITS = 6, 5, 4


def instance(seed, dtype=np.float32):
    """Routers before and after, experts, and assignments of tokens: expert 2 is never reached."""
    rng = np.random.default_rng(seed)
    shapes = (
        (EXPERTS, HIDDEN, UNITS),
        (EXPERTS, UNITS),
        (EXPERTS, UNITS, HIDDEN),
        (EXPERTS, HIDDEN),
    )
    experts = ExpertWeights(*(rng.normal(size=shape).astype(dtype) for shape in shapes))
    before, after = (rng.normal(size=(HIDDEN, EXPERTS)).astype(dtype) for _ in range(2))
    assignments = [
        (int(rng.choice([0, 1, 3, 4, 5])), float(rng.random()), float(rng.random() + 0.1)) for _ in range(50)
    ]
    return before, after, experts, assignments


def gathered(assignments):
    """Statistics of (expert, gate, norm of the output)."""
    total = {name: np.zeros(EXPERTS) for name in ("count", "gate", "norm", "weighted")}
    for e, gate, norm in assignments:
        total["count"][e] += 1
        total["gate"][e] += gate
        total["norm"][e] += norm
        total["weighted"][e] += gate * norm
    gram = np.eye(EXPERTS)
    return LayerStatistics(len(assignments), *total.values(), gram, np.zeros((0, HIDDEN)), sample_cap=0)


def record(before, after, experts, assignments):
    """The layer as criteria are given it; with None for evidence that is not there."""
    statistics = None if assignments is None else gathered(assignments)
    return ExpertLayer(1, after, experts, ExpertMap.whole(EXPERTS), 1, before, statistics)


def length(values):
    return math.sqrt(sum(float(v) ** 2 for v in values))


def mean(values):
    return sum(values) / len(values) if values else 0.0


def entries(experts, e):
    return [float(v) for kernel in (experts.kernel_in, experts.kernel_out) for v in kernel[e].ravel()]


def rank_of(matrix):
    s = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    return sum(s**2) / s[0] ** 2


def routed(assignments, e):
    return [(gate, norm) for expert, gate, norm in assignments if expert == e]


ORACLES = {
    "router-change": lambda b, a, w, s, e: length(a[:, e]) - length(b[:, e]),
    "router-change-abs": lambda b, a, w, s, e: abs(length(a[:, e]) - length(b[:, e])),
    "router-difference": lambda b, a, w, s, e: length(a[:, e].astype(float) - b[:, e]),
    "router-norm": lambda b, a, w, s, e: length(a[:, e]),
    "expert-norm": lambda b, a, w, s, e: length(entries(w, e)),
    "stable-rank": lambda b, a, w, s, e: (rank_of(w.kernel_in[e]) + rank_of(w.kernel_out[e])) / 2,
    "aimer": lambda b, a, w, s, e: (
        -mean([abs(v) for v in entries(w, e)]) / math.sqrt(mean([v**2 for v in entries(w, e)]))
    ),
    "frequency": lambda b, a, w, s, e: len(routed(s, e)),
    "gate-mass": lambda b, a, w, s, e: sum(g for g, _ in routed(s, e)),
    "activation-sum": lambda b, a, w, s, e: sum(n for _, n in routed(s, e)),
    "activation-mean": lambda b, a, w, s, e: mean([n for _, n in routed(s, e)]),
    "weighted-activation": lambda b, a, w, s, e: sum(g * n for g, n in routed(s, e)),
    "reap": lambda b, a, w, s, e: mean([g * n for g, n in routed(s, e)]),
}


def test_every_criterion_has_an_oracle_and_a_source():
    assert (
        {*ORACLES, "random", "reconstruction"}
        <= set(CRITERIA)
        <= {*ORACLES, "random", "reconstruction", "largest-bias"}
    )
    for name in [*ORACLES, "random", "reconstruction"]:
        assert CRITERIA[name].name == name and CRITERIA[name].source and CRITERIA[name].function.__doc__


@pytest.mark.parametrize("name", ORACLES)
def test_scores_are_those_of_a_loop(name):
    needs = CRITERIA[name].needs
    for seed in range(3):
        before, after, experts, assignments = instance(seed)
        found = score(name, record(before, after, experts, assignments))
        assert found.dtype == np.float64
        expected = [ORACLES[name](before, after, experts, assignments, e) for e in range(EXPERTS)]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        # it works with what it needs, and tells what it lacks
        bare = before if "pretrained" in needs else None, assignments if "statistics" in needs else None
        np.testing.assert_array_equal(score(name, record(bare[0], after, experts, bare[1])), found)
        if needs:
            argument = {"pretrained": "pretrained", "statistics": "calibration"}[needs[0]]
            with pytest.raises(ValueError, match=f"criterion '{name}' needs .* {argument}="):
                score(name, record(None, after, experts, None))


def test_random_scores_are_uniform_in_the_order_of_the_released_code():
    layer = record(None, *instance(0)[1:])
    released, rng = np.random.default_rng(5), np.random.default_rng(5)
    drawn = np.array([score("random", layer, seed=rng) for _ in range(1500)])
    for found in drawn[:20]:  # rank_experts: one permutation for each layer in turn
        np.testing.assert_array_equal(np.argsort(found), released.permutation(EXPERTS))
    np.testing.assert_array_equal(score("random", layer, seed=5), drawn[0])
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 12, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(EXPERTS), atol=0.1)


def test_experts_of_no_token_or_of_zeros_have_scores():
    before, after, experts, assignments = instance(0)
    layer = record(before, after, experts, assignments)
    for name in ("activation-mean", "reap", "frequency", "gate-mass"):
        assert score(name, layer)[2] == 0.0
    for fill, aimer, rank in ((0, -1, 0), (-2, -1, 1)):
        even = ExpertWeights(*(np.full_like(array, fill) for array in experts.arrays))
        np.testing.assert_allclose(score("aimer", record(None, after, even, None)), aimer)
        np.testing.assert_allclose(score("stable-rank", record(None, after, even, None)), rank)


def test_a_criterion_of_ones_own_in_five_lines(monkeypatch):
    monkeypatch.setattr("qrt_tn.models.moe.criteria.CRITERIA", CRITERIA.copy())

    @criterion("largest-bias", needs=[])
    def largest_bias(pretrained, router, experts, statistics):
        return np.abs(experts.bias_out).max(axis=1)

    _, after, experts, _ = instance(1)
    found = score("largest-bias", record(None, after, experts, None))
    np.testing.assert_array_equal(found, np.abs(experts.bias_out).max(axis=1))
    criterion("largest-bias")(largest_bias)  # as when a notebook's cell runs twice
    for name, options, message in (
        ("largest-bias", {}, "there is a criterion 'largest-bias' already"),
        ("reap", {}, "there is a criterion 'reap' already"),
        (
            "other",
            {"needs": ["weights"]},
            "needs.0 is 'weights'; input should be 'pretrained'",
        ),
        ("", {}, "name is ''"),
        ("other", {"sead": True}, "did you mean 'seeded'"),
    ):
        with pytest.raises(ValueError, match=message):
            criterion(name, **options)(lambda *evidence: evidence)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((EXPERTS, 1)), r"gives float64 of shape \(6, 1\)"),
        (1.0, r"of shape \(\)"),
        (np.zeros(EXPERTS, complex), "gives complex128"),
        (["a"] * EXPERTS, "must return a real number"),
        (None, "gives object"),
        ([0, 1, 2, math.nan, 4, 5], "gives nan for expert 3"),
        ([0, 1, 2, 3, 4, -math.inf], "gives -inf for expert 5"),
    ],
)
def test_what_a_users_function_returns_is_checked(returned, message):
    with pytest.raises(ValueError, match=message):
        score(Criterion("mine", lambda *evidence: returned), record(None, *instance(0)[1:]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("router-chang", {}, "unknown criterion 'router-chang'; did you mean 'router-change'"),
        (3, {}, "unknown criterion 3; choose one of"),
        ("reconstruction", {}, "'reconstruction' picks a set and gives no scores"),
        ("random", {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        score(name, record(*instance(0)), **options)
