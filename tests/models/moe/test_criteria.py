"""Every criterion against loops over numbers, and against the formulas of released code."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.moe.criteria import CRITERIA, Criterion, criterion, find_criterion, score
from qrt_tn.models.moe.experts import ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics

EXPERTS, HIDDEN, UNITS = 6, 5, 4
SCORES = [name for name, known in CRITERIA.items() if not known.subset]


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
    total = {name: np.zeros(EXPERTS) for name in ("count", "gate", "norm", "square", "weighted", "most")}
    for e, gate, norm in assignments:
        total["count"][e] += 1
        total["gate"][e] += gate
        total["norm"][e] += norm
        total["square"][e] += norm**2
        total["weighted"][e] += gate * norm
        total["most"][e] = max(total["most"][e], norm)
    gram = np.eye(EXPERTS)
    return LayerStatistics(len(assignments), *total.values(), gram, np.zeros((0, HIDDEN)), sample_cap=0)


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
    assert set(SCORES) - set(ORACLES) <= {"random", "largest-bias"}
    assert {name for name, known in CRITERIA.items() if known.subset} == {"reconstruction"}
    for name in [*ORACLES, "random", "reconstruction"]:
        assert CRITERIA[name].name == name and CRITERIA[name].source and CRITERIA[name].function.__doc__


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_a_loop(name, seed):
    before, after, experts, assignments = instance(seed)
    found = score(name, before, after, experts, gathered(assignments))
    assert found.dtype == np.float64
    expected = [ORACLES[name](before, after, experts, assignments, e) for e in range(EXPERTS)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ORACLES)
def test_a_criterion_works_with_what_it_needs_and_says_what_it_lacks(name):
    before, after, experts, assignments = instance(0)
    needs = CRITERIA[name].needs
    statistics = gathered(assignments)
    alone = score(
        name,
        before if "pretrained" in needs else None,
        after,
        experts,
        statistics if "statistics" in needs else None,
    )
    np.testing.assert_array_equal(alone, score(name, before, after, experts, statistics))
    if needs:
        with pytest.raises(ValueError, match=f"criterion '{name}' needs .* {needs[0]}="):
            score(name, None, after, experts, None)


def test_the_signed_change_prunes_what_the_released_code_prunes():
    for seed in range(5):
        before, after, experts, _ = instance(seed)
        # prune_and_save_checkpoint.py: argsort of this, the last ones are kept
        released = np.array(jnp.linalg.norm(after, ord=2, axis=0) - jnp.linalg.norm(before, ord=2, axis=0))
        found = score("router-change", before, after, experts, None)
        np.testing.assert_array_equal(np.argsort(found, kind="stable"), np.argsort(released))
    shrunk = np.ones((HIDDEN, EXPERTS))
    shrunk[:, 4] = 0.1  # a large change, but a loss: signed, it goes first, by its size it goes last
    ones = np.ones((HIDDEN, EXPERTS))
    grown = shrunk + np.eye(HIDDEN, EXPERTS) * 0.5
    assert score("router-change", ones, grown, experts, None).argmin() == 4
    assert score("router-change-abs", ones, grown, experts, None).argmax() == 4


def test_random_order_is_that_of_the_released_code():
    _, after, experts, _ = instance(0)
    for seed in range(4):
        released = np.random.default_rng(seed)  # rank_experts: one permutation for each layer in turn
        rng = np.random.default_rng(seed)
        for _ in range(3):
            found = score("random", None, after, experts, None, seed=rng)
            np.testing.assert_array_equal(np.argsort(found), released.permutation(EXPERTS))
    same = [score("random", None, after, experts, None, seed=5) for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_random_scores_are_uniform():
    _, after, experts, _ = instance(0)
    rng = np.random.default_rng(0)
    drawn = np.array([score("random", None, after, experts, None, seed=rng) for _ in range(1500)])
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), 1 / 12, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(EXPERTS), atol=0.1)


def test_an_expert_that_no_token_reached_scores_zero():
    before, after, experts, assignments = instance(0)
    statistics = gathered(assignments)
    for name in ("activation-mean", "reap", "frequency", "gate-mass"):
        assert score(name, before, after, experts, statistics)[2] == 0.0


def test_an_expert_of_zeros_has_scores():
    _, after, experts, _ = instance(0)
    zero = ExpertWeights(*(np.zeros_like(array) for array in experts.arrays))
    assert (score("stable-rank", None, after, zero, None) == 0).all()
    assert (score("aimer", None, after, zero, None) == -1).all()
    even = ExpertWeights(*(np.full_like(array, -2) for array in experts.arrays))
    np.testing.assert_allclose(score("aimer", None, after, even, None), -1)
    np.testing.assert_allclose(score("stable-rank", None, after, even, None), 1)


def test_a_criterion_of_ones_own_in_five_lines(monkeypatch):
    monkeypatch.setattr("qrt_tn.models.moe.criteria.CRITERIA", CRITERIA.copy())

    @criterion("largest-bias", needs=())
    def largest_bias(pretrained, router, experts, statistics):
        return np.abs(experts.bias_out).max(axis=1)

    before, after, experts, _ = instance(1)
    found = score("largest-bias", before, after, experts, None)
    np.testing.assert_array_equal(found, largest_bias(None, None, experts, None))
    criterion("largest-bias")(largest_bias)  # as when a notebook's cell runs twice
    with pytest.raises(ValueError, match="there is a criterion 'largest-bias' already"):
        criterion("largest-bias")(lambda *evidence: evidence)
    with pytest.raises(ValueError, match="there is a criterion 'reap' already"):
        criterion("reap")(largest_bias)
    with pytest.raises(ValueError, match="needs 'weights'; there is pretrained, statistics"):
        criterion("other", needs=["weights"])(largest_bias)
    with pytest.raises(ValueError, match="give a string"):
        criterion("")(largest_bias)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((EXPERTS, 1)), r"gives float64 of shape \(6, 1\)"),
        (np.zeros(EXPERTS + 1), r"of shape \(7,\)"),
        (1.0, r"of shape \(\)"),
        (np.zeros(EXPERTS, complex), "gives complex128"),
        (["a"] * EXPERTS, "must return a real number"),
        (None, "gives object"),
        ([0, 1, 2, math.nan, 4, 5], "gives nan for expert 3"),
        ([0, 1, 2, 3, 4, -math.inf], "gives -inf for expert 5"),
    ],
)
def test_what_a_users_function_returns_is_seen_to(returned, message):
    _, after, experts, _ = instance(0)
    with pytest.raises(ValueError, match=message):
        score(Criterion("mine", lambda *evidence: returned), None, after, experts, None)


def test_whole_numbers_become_floats():
    _, after, experts, _ = instance(0)
    found = score(Criterion("mine", lambda *evidence: list(range(EXPERTS))), None, after, experts, None)
    np.testing.assert_array_equal(found, np.arange(6.0))
    assert found.dtype == np.float64


def test_bad_input_is_refused():
    before, after, experts, assignments = instance(0)
    statistics = gathered(assignments)
    with pytest.raises(ValueError, match="unknown criterion 'router-chang'; did you mean 'router-change'"):
        find_criterion("router-chang")
    with pytest.raises(ValueError, match="unknown criterion 3; choose one of"):
        find_criterion(3)
    with pytest.raises(ValueError, match="picks a set and gives no scores"):
        score("reconstruction", before, after, experts, statistics)
    with pytest.raises(
        ValueError, match=r"pre-trained router has shape \(5, 4\), the fine-tuned one \(5, 6\)"
    ):
        score("router-change", before[:, :4], after, experts, statistics)
    with pytest.raises(ValueError, match=r"the router has shape \(5, 4\)"):
        score("router-norm", before, after[:, :4], experts, statistics)
    with pytest.raises(ValueError, match="statistics are of 3 router columns, there are 6 experts"):
        score("reap", before, after, experts, statistics.take([0, 1, 2]))
    with pytest.raises(ValueError, match="seed is -1"):
        score("random", before, after, experts, statistics, seed=-1)
    after[0, 1] = np.nan
    with pytest.raises(ValueError, match="'router-norm' gives nan for expert 1"):
        score("router-norm", before, after, experts, statistics)
