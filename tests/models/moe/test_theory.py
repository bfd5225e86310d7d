"""The theory's mixture of experts against a slow one in any basis, and what it predicts, measured."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from qrt_tn.models.moe.theory.experiment import (
    ORDERS,
    Outcome,
    fine_tune,
    fit_exponent,
    predicted_limits,
    pruned_signs,
    pruning,
    scaling,
)
from qrt_tn.models.moe.theory.model import (
    Parameters,
    TheorySetting,
    accuracy,
    draw,
    hinge_loss,
    outputs,
    pretrained,
    signs,
    train,
)

SMALL = TheorySetting(
    dim=12,
    tokens=5,
    experts=4,
    neurons=3,
    chosen=2,
    steps=3,
    batch_size=6,
    neuron_scale=0.5,
    learning_rate=0.2,
    router_learning_rate=0.7,
    test_points=50,
)

# compiled once, not operation by operation
fast_outputs = jax.jit(outputs, static_argnums=3)
fast_slopes = jax.jit(jax.value_and_grad(hinge_loss), static_argnums=4)


@pytest.fixture(scope="module")
def grown():
    """Rows of two seeds with batches that grow like d; pruning shares the compilation of d = 128."""
    return scaling((32, 128), range(2), TheorySetting())


@pytest.fixture(scope="module")
def tuned():
    return fine_tune(SMALL, 3)


def slow_output(router, neurons, a, x, chosen):
    """f of one input x (n, d), written as the sum it is."""
    total = 0.0
    for s in range(len(router)):
        scores = [float(np.dot(router[s], token)) for token in x]
        best = sorted(range(len(x)), key=lambda j: -scores[j])[:chosen]
        weights = [np.exp(scores[j]) for j in best]
        for j, weight in zip(best, weights, strict=True):
            answer = sum(max(0.0, float(np.dot(w, x[j]))) for w in neurons[s])
            total += a[s] * weight / sum(weights) * answer
    return total


def slow_loss(router, neurons, a, inputs, labels):
    made = [slow_output(router, neurons, a, x, 2) for x in inputs]
    return np.maximum(0, 1 - labels * np.array(made)).mean()


def test_outputs_and_gradients_are_those_of_the_sum_in_a_random_orthonormal_basis():
    rng = np.random.default_rng(0)
    k, m, d = SMALL.experts, SMALL.neurons, SMALL.dim
    router, neurons = rng.normal(size=(k, d)), 0.3 * rng.normal(size=(k, m, d))
    parameters = Parameters(router.astype(np.float32), neurons.astype(np.float32))
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]  # row i is pattern i
    router, neurons = router @ basis, neurons @ basis
    tokens, labels = map(np.asarray, draw(SMALL, 6, jax.random.key(0)))
    a, inputs = signs(SMALL), basis[tokens]
    expected = np.array([slow_output(router, neurons, a, x, 2) for x in inputs])
    np.testing.assert_allclose(fast_outputs(parameters, a, tokens, 2), expected, rtol=1e-4, atol=1e-5)
    assert float(accuracy(parameters, a, tokens, labels, 2)) == pytest.approx((labels * expected > 0).mean())
    loss, slopes = fast_slopes(parameters, a, tokens, labels, 2)
    assert float(loss) == pytest.approx(slow_loss(router, neurons, a, inputs, labels), rel=1e-4)
    for _ in range(6):
        d_router, d_neurons = rng.normal(size=router.shape), rng.normal(size=neurons.shape)
        along = (np.asarray(slopes.router) @ basis * d_router).sum()
        along += (np.asarray(slopes.neurons) @ basis * d_neurons).sum()
        up, down = (
            slow_loss(router + step * d_router, neurons + step * d_neurons, a, inputs, labels)
            for step in (1e-6, -1e-6)
        )
        assert along == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-4)


def test_the_product_of_the_outputs_has_full_precision_on_any_device():
    start = pretrained(SMALL, np.random.default_rng(0))
    made = jax.make_jaxpr(outputs, static_argnums=3)(start, signs(SMALL), np.zeros((6, 5), int), 2)
    products = [line for line in str(made).split("= ") if line.startswith("dot_general")]
    assert len(products) == 1 and "HIGHEST" in products[0]


def test_training_is_sgd_at_two_rates_and_leaves_pruned_experts():
    start = pretrained(SMALL, np.random.default_rng(0))
    a = signs(SMALL) * np.array([1, 1, 0, 1], np.float32)
    after = train(SMALL, 3, start, a, jax.random.key(5))
    now = start
    for key in jax.random.split(jax.random.key(5), 3):
        _, slopes = fast_slopes(now, a, *draw(SMALL, SMALL.batch_size, key), 2)
        now = Parameters(now.router - 0.7 * slopes.router, now.neurons - 0.2 * slopes.neurons)
    np.testing.assert_allclose(after.router, now.router, atol=1e-5)
    np.testing.assert_allclose(after.neurons, now.neurons, atol=1e-5)
    assert np.abs(after.router - start.router)[[0, 1, 3]].max(axis=1).min() > 1e-4
    np.testing.assert_array_equal(after.router[2], start.router[2])
    np.testing.assert_array_equal(after.neurons[2], start.neurons[2])


def test_samples_have_one_telling_token_at_any_place_and_the_rest_even():
    setting = replace(SMALL, dim=10, tokens=6)
    tokens, labels = map(np.asarray, draw(setting, 20_000, jax.random.key(1)))
    assert tokens.shape == (20_000, 6)
    assert set(np.unique(labels)) == {-1.0, 1.0}
    telling = tokens < 2
    np.testing.assert_array_equal(telling.sum(axis=1), 1)
    np.testing.assert_array_equal(tokens[telling], np.where(labels > 0, 0, 1))
    assert abs(labels.mean()) < 5 / np.sqrt(20_000)
    places = np.bincount(telling.argmax(axis=1), minlength=6)
    assert np.abs(places / 20_000 - 1 / 6).max() < 5 * np.sqrt(5 / 36 / 20_000)
    counts = np.bincount(tokens[~telling], minlength=10)[2:]
    assert np.abs(counts / 100_000 - 1 / 8).max() < 5 * np.sqrt(7 / 64 / 100_000)
    # no irrelevant pattern tells anything of the label
    present = (tokens[:, :, None] == np.arange(2, 10)).any(axis=1)
    correlation = (present * labels[:, None]).mean(axis=0)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_routers_before_have_norm_1_and_irrelevant_ones_never_choose_a_telling_token(tuned):
    setting = TheorySetting(dim=50, experts=6, relevant_share=4 / 6, alignment=(0.3, 0.6))
    start, a = pretrained(setting, np.random.default_rng(3)), signs(setting)
    np.testing.assert_array_equal(a, [1, -1, 1, -1, 1, -1])
    np.testing.assert_allclose(np.linalg.norm(start.router, axis=1), 1, rtol=1e-6)
    own, other = start.router[range(6), [0, 1] * 3], start.router[range(6), [1, 0] * 3]
    assert ((own[:4] >= 0.3) & (own[:4] <= 0.6)).all()
    assert len(set(own[:4])) == 4
    assert not own[4:].any()
    assert not other.any()
    assert (start.router[:, 2:] > 0).all()
    np.testing.assert_allclose(start.neurons[range(4), :, [0, 1] * 2], setting.neuron_scale)
    assert np.std(start.neurons[4:]) == pytest.approx(setting.neuron_scale, rel=0.1)
    np.testing.assert_array_equal(tuned.relevant, [True, True, False, False])
    assert not tuned.after.router[2:, :2].any()
    assert tuned.moved[2:].min() > 0


def test_a_seed_gives_the_same_outcome_and_another_another(tuned):
    same, other = fine_tune(SMALL, np.random.default_rng(3)), fine_tune(SMALL, 4)
    np.testing.assert_array_equal(tuned.after.router, same.after.router)
    np.testing.assert_array_equal(tuned.test_tokens, same.test_tokens)
    assert np.abs(tuned.before.router - other.before.router).max() > 0.1
    assert (tuned.test_tokens != other.test_tokens).any()
    norms = [np.linalg.norm(one.router, axis=1) for one in (tuned.after, tuned.before)]
    np.testing.assert_allclose(tuned.change, norms[0] - norms[1], atol=1e-6)
    assert (tuned.moved >= np.abs(tuned.change) - 1e-9).all()


def outcome_with_changes(changes):
    """An outcome made by hand: routers along one axis, so that their norms are what they say."""
    k = len(changes)
    before = np.zeros((k, 12), np.float32)
    before[:, 3] = 2
    after = before.copy()
    after[:, 3] += np.asarray(changes, np.float32)
    neurons = np.ones((k, 3, 12), np.float32)
    ends = Parameters(before, neurons), Parameters(after, neurons)
    return Outcome(replace(SMALL, experts=k, relevant_share=2 / k), *ends, np.full((50, 5), 2), np.ones(50))


def test_least_changes_go_first_and_signed():
    outcome = outcome_with_changes([0.3, -1.0, 0.1, 0.0, 0.2])
    kept = pruned_signs(outcome, [0, 0.2, 0.39, 0.4, 0.6, 0.8], "router-change")
    np.testing.assert_array_equal((kept != 0).sum(axis=1), [5, 4, 4, 3, 2, 1])
    # -1 is the least, not the largest, change
    np.testing.assert_array_equal(kept[1], [1, 0, 1, -1, 1])
    np.testing.assert_array_equal(kept[4], [1, 0, 0, 0, 1])
    back = pruned_signs(outcome, [0.2, 0.6], "reversed")
    np.testing.assert_array_equal(back, [[0, -1, 1, -1, 1], [0, -1, 0, -1, 0]])
    # a share of whole experts is that many, though 15 / 22 * 22 is 14.999999999999998
    assert 15 / 22 * 22 < 15
    many = outcome_with_changes(np.linspace(-0.5, 0.5, 22))
    kept = pruned_signs(many, [n / 22 for n in range(22)], "router-change")
    np.testing.assert_array_equal((kept == 0).sum(axis=1), range(22))


def test_random_orders_are_nested_and_even():
    outcome = outcome_with_changes(np.zeros(5))
    gone = np.zeros(5)
    for seed in range(400):
        kept = pruned_signs(outcome, [0.2, 0.6], "random", seed) != 0
        assert not (kept[1] & ~kept[0]).any()
        gone += ~kept[0]
    assert np.abs(gone / 400 - 0.2).max() < 5 * np.sqrt(0.16 / 400)


def test_accuracy_after_pruning_is_that_of_a_model_without_the_experts(tuned):
    ratios = [0, 0.25, 0.5, 0.75]
    order = np.argsort(-tuned.change)
    for gone, a in enumerate(pruned_signs(tuned, ratios, "reversed")):
        kept = np.sort(order[gone:])
        weights = (tuned.after.router[kept], tuned.after.neurons[kept], signs(SMALL)[kept])
        made = np.array([slow_output(*weights, x, 2) for x in np.eye(12)[tuned.test_tokens]])
        assert tuned.accuracy(tuned.after, a) == pytest.approx((made * tuned.test_labels > 0).mean())


def test_relevant_changes_are_of_order_1_and_others_fall(grown):
    assert [row["batch_size"] for row in grown] == [32] * 2 + [128] * 2
    dims = [row["dim"] for row in grown]
    for row in grown:
        assert 0.5 < row["relevant_min"] < 1.5
        assert row["others_size"] < 0.05 * row["relevant_min"]
        assert row["others_max"] <= row["others_size"] <= row["others_moved"]
        assert row["accuracy"] > 0.99
    assert abs(fit_exponent(dims, [row["relevant_min"] for row in grown])[0]) < 0.2
    assert -0.8 < fit_exponent(dims, [row["others_moved"] for row in grown])[0] < -0.35
    assert fit_exponent(dims, [row["others_size"] for row in grown])[0] < -0.6


def test_pruning_holds_as_far_as_predicted():
    limits = predicted_limits(TheorySetting())
    assert limits == {"without": 0.5, "with": 0.875, "both_signs": 0.6875}
    # of 3 relevant experts two count +1: three must stay to be sure of both signs
    odd = predicted_limits(TheorySetting(experts=10, relevant_share=0.3))
    assert odd == pytest.approx({"without": 0.7, "with": 0.8, "both_signs": 0.7})
    rows = pruning([4], TheorySetting(), ratios=[0.5, 0.6875, 0.9375])
    assert len(rows) == 3 * 2 * 3

    def measured(order, steps, low, high):
        return [
            row["accuracy"]
            for row in rows
            if (row["order"], row["fine_tune_steps"]) == (order, steps) and low <= row["ratio"] <= high
        ]

    assert min(measured("router-change", 0, 0, limits["without"])) > 0.99
    assert min(measured("router-change", 30, 0, limits["both_signs"])) > 0.99
    # too few of one sign are left, which fine-tuning repairs
    assert max(measured("router-change", 0, 0.6, 0.7)) < 0.8
    # the other way round only irrelevant experts are left at gamma: nothing better than a guess
    for steps in (0, 30):
        assert max(measured("reversed", steps, 0.5, 1)) < 0.65
    assert np.mean(measured("random", 0, 0.5, 0.7)) < 0.99
    for order in ORDERS:
        lost = [row for row in rows if row["order"] == order and row["ratio"] > 0.9]
        assert not any(row["both_signs"] for row in lost)
        assert max(row["accuracy"] for row in lost) < 0.65
    safe = [row for row in rows if row["order"] == "router-change" and row["ratio"] <= limits["both_signs"]]
    assert all(row["both_signs"] for row in safe)


def test_exponents_are_those_of_polyfit_and_their_intervals_cover():
    rng = np.random.default_rng(0)
    x = np.repeat([8.0, 16, 32, 64], 3)
    covered = 0
    for _ in range(100):
        y = 2.5 * x**-0.5 * np.exp(0.2 * rng.normal(size=12))
        slope, low, high = fit_exponent(x, y)
        fit, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
        assert slope == pytest.approx(fit[0])
        # 2.228 is the 0.975 quantile of t with 10 degrees of freedom
        assert high - slope == pytest.approx(2.2281389 * np.sqrt(covariance[0, 0]), rel=1e-6)
        assert slope - low == pytest.approx(high - slope)
        covered += low < -0.5 < high
    assert 0.88 < covered / 100 < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda changed=changed: TheorySetting(**changed), message)
            for changed, message in (
                ({"dim": 3}, "dim is 3"),
                ({"batch_size": 2.5}, "batch_size is 2.5"),
                ({"chosen": 16}, "chosen is 16"),
                ({"router_learning_rate": float("nan")}, "router_learning_rate is nan"),
                ({"relevant_share": 0.3}, "4.8 of 16"),
                ({"relevant_share": 1.0}, "16 of 16"),
                ({"alignment": 0.4}, "alignment is 0.4"),
                ({"alignment": (0.5, 0.4)}, "alignment is .*0.5, 0.4"),
                ({"alignment": (0.5, 1.0)}, "alignment is .*0.5, 1.0"),
            )
        ),
        (lambda: pruning([0], SMALL, ratios=[0.5, 1]), "a ratio is 1"),
        (lambda: pruning([-1], SMALL), "a seed is -1"),
        (lambda: scaling([64, 2], [0], SMALL), "a dimension is 2"),
        (lambda: scaling([64], [0.5], SMALL), "a seed is 0.5"),
        (lambda: fit_exponent([1, 2], [1, 2]), "at least 3"),
        (lambda: fit_exponent([1, 2, 3], [1, 2]), "3 x and 2 y"),
        (lambda: fit_exponent([1, 2, 3], [1, 0, 2]), "y has the value 0"),
        (lambda: fit_exponent([1, 1, 1], [1, 2, 3]), "identical"),
    ],
)
def test_wrong_values_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
