"""Calibration against loops over assignments, and its independence of how the stream is cut."""

from dataclasses import fields, replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.moe.layers import Observation
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.statistics import LayerStatistics, calibrate, of_batch, summarise
from qrt_tn.models.moe.trees import to_tree
from tests.models.moe import brute_force
from tests.models.moe.conftest import random_network, small_config

COLUMNS, HIDDEN = 5, 4
SUMS = ("count", "gate_sum", "norm_sum", "weighted_norm_sum", "logit_gram")
# one block, pruned, with few slots, and tokens of four images routed together
CONFIG = small_config(
    layers=1,
    moe_layers=(0,),
    group=40,
    router={"capacity_factor": 1.0},
    maps={0: ExpertMap((0, -1, 1, 2), (1, 3, 0), 4)},
)


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
    return of_batch(jax.jit(summarise)(Observation(**batch)), batch["inputs"], cap)


def oracle(batch):
    found = {name: np.zeros(COLUMNS) for name in SUMS[:-1]}
    for a in np.flatnonzero(batch["valid"]):
        column, gate = batch["column"][a], float(batch["gate"][a])
        norm = sum(float(v) ** 2 for v in batch["outputs"][a]) ** 0.5
        found["count"][column] += 1
        found["gate_sum"][column] += gate
        found["norm_sum"][column] += norm
        found["weighted_norm_sum"][column] += gate * norm
    logits = batch["logits"].astype(np.float64)
    return {**found, "logit_gram": sum(np.outer(row, row) for row in logits)}


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_a_loop(seed):
    batch = stream(seed)
    # what stands in for dropped assignments counts nowhere
    batch["outputs"][~batch["valid"]] = np.nan
    batch["gate"][~batch["valid"]] = np.inf
    statistics = gathered(batch)
    assert statistics.tokens == 40 and statistics.columns == COLUMNS
    assert statistics.count[4] == 0 and statistics.count.dtype == np.int64
    for name, expected in oracle(batch).items():
        np.testing.assert_allclose(getattr(statistics, name), expected, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(statistics.sample, batch["inputs"][:12])


@pytest.mark.parametrize("cap", [0, 7, 100])
def test_the_cut_into_batches_does_not_matter(cap):
    batch = stream(7)
    whole = gathered(batch, cap)
    for cuts in ([0, 10, 40], [0, 10, 20, 30, 40]):
        parts = [gathered(part(batch, *cut), cap) for cut in pairwise(cuts)]
        left, right = parts[0], parts[-1]
        for other in parts[1:]:
            left = left + other
        for other in parts[-2::-1]:
            right = other + right
        for total in (left, right):
            assert total.tokens == whole.tokens
            np.testing.assert_array_equal(total.count, whole.count)
            np.testing.assert_array_equal(total.sample, whole.sample)
            for name in SUMS:
                np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    assert len(whole.sample) == min(cap, 40)


def test_columns_are_taken_in_order():
    whole = gathered(stream(2))
    some = whole.take([3, 0])
    for name in SUMS[:-1]:
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[3, 0]])
    np.testing.assert_array_equal(some.logit_gram[0, 1], whole.logit_gram[3, 0])
    np.testing.assert_array_equal(some.sample, whole.sample)


def test_the_gram_matrix_is_of_full_precision():
    (product,) = [
        equation.params["precision"]
        for equation in jax.make_jaxpr(summarise)(Observation(**stream(3))).eqns
        if equation.primitive.name == "dot_general"
    ]
    assert set(product) == {jax.lax.Precision.HIGHEST}


def test_statistics_that_do_not_fit_are_refused():
    batch = stream(3)
    sums, statistics = jax.jit(summarise)(Observation(**batch)), gathered(batch)
    given = {field.name: getattr(statistics, field.name) for field in fields(LayerStatistics)}
    for other in (gathered(batch, 3), statistics.take([0, 1]), replace(statistics, sample=np.zeros((12, 3)))):
        with pytest.raises(ValueError, match="statistics of 5 columns, 4 numbers a token and sample_cap 12"):
            statistics + other
    with pytest.raises(TypeError):
        statistics + 1
    for call, message in (
        (lambda: replace(statistics, sample=batch["inputs"][:5]), "the first 12 of 40 tokens"),
        (lambda: LayerStatistics(**{**given, "gate_sum": np.zeros(4)}), r"gate_sum has shape \(4,\); give"),
        (
            lambda: of_batch({**sums, "norm_sum": sums["norm_sum"] * np.nan}, batch["inputs"], 12),
            "norm_sum of the calibration pass is not finite",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_calibration_is_that_of_loops_however_images_come(images):
    network, x = random_network(CONFIG), images[0]
    seen = []
    found = calibrate(network, x, batch_size=7, sample_tokens=15, progress=seen.append)[0]  # rounded to 4
    assert seen == [4, 8, 12] and found.tokens == 120
    tree = to_tree(network)
    block = tree["Encoder"]["encoderblock_0"]
    moe = block.pop("Moe")
    inputs = np.asarray(brute_force.attend(2, block, brute_force.embed(2, tree, x))[1]).reshape(-1, 8)
    first, second = moe["Mlp"]["Dense_0"], moe["Mlp"]["Dense_1"]
    count, gates, norms = np.zeros(4, int), np.zeros(4), np.zeros(4)
    for group in inputs.reshape(3, 40, 8):
        weights = brute_force.weights(
            group @ moe["Router"]["dense"]["kernel"], CONFIG.router, CONFIG.maps[0][1]
        )
        for token, column in zip(*np.nonzero(weights), strict=True):
            expert = CONFIG.maps[0][1].column_to_expert[column]
            inside = brute_force.gelu(group[token] @ first["kernel"][expert] + first["bias"][expert])
            count[column] += 1
            gates[column] += weights[token, column]
            norms[column] += np.linalg.norm(inside @ second["kernel"][expert] + second["bias"][expert])
    np.testing.assert_array_equal(found.count, count)
    assert count[1] == 0 and (count[[0, 2, 3]] > 0).all()
    np.testing.assert_allclose(found.gate_sum, gates, rtol=1e-4)
    np.testing.assert_allclose(found.norm_sum, norms, rtol=1e-4)
    np.testing.assert_allclose(found.sample, inputs[:15], rtol=1e-4, atol=1e-5)
    for same in (jnp.asarray(x), [x[:4].tolist(), *(x[i : i + 4] for i in (4, 8))]):
        again = calibrate(network, same, batch_size=4, sample_tokens=15)[0]
        for name in (*SUMS, "sample"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    for wrong, options, message in (
        (iter([]), {}, "no images to calibrate with"),
        (x[:0], {}, "do not fit"),
        (x, {"batch_size": 0}, "batch_size is 0"),
        (x[:10], {}, "10 images do not make groups of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate(network, wrong, **options)
