"""Calibration statistics against loops over assignments, and their independence of how the stream is cut."""

from dataclasses import fields
from itertools import pairwise

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.layers import Observation
from qrt_tn.models.moe.statistics import LayerStatistics, summarise

COLUMNS, HIDDEN = 5, 4
SUMS = ("count", "gate_sum", "norm_sum", "norm_square_sum", "weighted_norm_sum", "norm_max", "logit_gram")


def stream(seed, tokens=40, chosen=2):
    """Tokens with two assignments each, some invalid; column 4 is never reached."""
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.normal(size=(tokens, HIDDEN)).astype(np.float32),
        "logits": rng.normal(size=(tokens, COLUMNS)).astype(np.float32),
        "column": rng.integers(COLUMNS - 1, size=tokens * chosen),
        "token": np.repeat(np.arange(tokens), chosen),
        "gate": rng.random(tokens * chosen).astype(np.float32),
        "valid": rng.random(tokens * chosen) < 0.8,
        "outputs": rng.normal(size=(tokens * chosen, HIDDEN)).astype(np.float32),
    }


def part(batch, start, stop, chosen=2):
    cut = {name: batch[name][start:stop] for name in ("inputs", "logits")}
    for name in ("column", "token", "gate", "valid", "outputs"):
        cut[name] = batch[name][start * chosen : stop * chosen]
    cut["token"] = cut["token"] - start
    return cut


def gathered(batch, cap=12):
    return LayerStatistics.from_summary(
        jax.jit(summarise)(Observation(**batch)), batch["inputs"], sample_cap=cap
    )


def oracle(batch):
    found = {name: np.zeros(COLUMNS) for name in SUMS[:-1]}
    for a, column in enumerate(batch["column"]):
        if not batch["valid"][a]:
            continue
        norm = sum(float(v) ** 2 for v in batch["outputs"][a]) ** 0.5
        gate = float(batch["gate"][a])
        found["count"][column] += 1
        found["gate_sum"][column] += gate
        found["norm_sum"][column] += norm
        found["norm_square_sum"][column] += norm**2
        found["weighted_norm_sum"][column] += gate * norm
        found["norm_max"][column] = max(found["norm_max"][column], norm)
    logits = batch["logits"].astype(np.float64)
    found["logit_gram"] = sum(np.outer(row, row) for row in logits)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_a_loop(seed):
    batch = stream(seed)
    statistics = gathered(batch)
    assert statistics.tokens == 40 and statistics.columns == COLUMNS
    assert statistics.count[4] == 0 and statistics.count.dtype == np.int64
    for name, expected in oracle(batch).items():
        np.testing.assert_allclose(getattr(statistics, name), expected, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(statistics.sample, batch["inputs"][:12])


@pytest.mark.parametrize("cap", [0, 7, 12, 100])
def test_the_cut_into_batches_does_not_matter(cap):
    batch = stream(7)
    whole = gathered(batch, cap)
    for cuts in ([0, 40], [0, 10, 40], [0, 30, 40], [0, 10, 20, 30, 40]):
        parts = [gathered(part(batch, *cut), cap) for cut in pairwise(cuts)]
        left = parts[0]
        for other in parts[1:]:
            left = left + other
        right = parts[-1]
        for other in parts[-2::-1]:
            right = other + right
        for total in (left, right):
            assert total.tokens == whole.tokens
            np.testing.assert_array_equal(total.count, whole.count)
            np.testing.assert_array_equal(total.norm_max, whole.norm_max)
            np.testing.assert_array_equal(total.sample, whole.sample)
            for name in SUMS:
                np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    assert len(whole.sample) == min(cap, 40)


def test_what_stands_in_for_dropped_assignments_counts_nowhere():
    batch = stream(1)
    expected = gathered(batch)
    batch["outputs"][~batch["valid"]] = np.nan
    batch["gate"][~batch["valid"]] = np.inf
    statistics = gathered(batch)
    for name in SUMS:
        np.testing.assert_array_equal(getattr(statistics, name), getattr(expected, name))


def test_columns_are_taken_in_order():
    whole = gathered(stream(2))
    some = whole.take([3, 0])
    for name in SUMS[:-1]:
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[3, 0]])
    np.testing.assert_array_equal(some.logit_gram[0, 1], whole.logit_gram[3, 0])
    np.testing.assert_array_equal(some.sample, whole.sample)
    with pytest.raises(ValueError, match=r"columns \[5\] of 5"):
        whole.take([5])


def test_the_gram_matrix_is_of_full_precision():
    batch = stream(3)
    (product,) = [
        equation.params["precision"]
        for equation in jax.make_jaxpr(summarise)(Observation(**batch)).eqns
        if equation.primitive.name == "dot_general"
    ]
    assert set(product) == {jax.lax.Precision.HIGHEST}


def test_bad_input_is_refused():
    batch = stream(3)
    summary = dict(jax.jit(summarise)(Observation(**batch)))
    statistics = gathered(batch)
    given = {field.name: getattr(statistics, field.name) for field in fields(LayerStatistics)}
    with pytest.raises(
        ValueError, match="statistics of 5 columns, 4 numbers a token and sample_cap 12 do not"
    ):
        statistics + gathered(batch, 3)
    for other in (statistics.take([0, 1]), LayerStatistics(**{**given, "sample": np.zeros((12, 3))})):
        with pytest.raises(ValueError, match="statistics of 5 columns, 4 numbers a token"):
            statistics + other
    with pytest.raises(ValueError, match="the first 12 of 40 tokens"):
        LayerStatistics.from_summary(summary, batch["inputs"][:5], sample_cap=12)
    with pytest.raises(ValueError, match="norm_sum of the calibration pass is not finite"):
        LayerStatistics.from_summary({**summary, "norm_sum": summary["norm_sum"] * np.nan}, batch["inputs"])
    with pytest.raises(ValueError, match=r"gate_sum has shape \(4,\); give \(5,\)"):
        LayerStatistics(**{**given, "gate_sum": np.zeros(4)})
    with pytest.raises(TypeError):
        statistics + 1
