"""The fit of all networks, on a task small enough to be done once more in NumPy."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qrt_tn.models import training
from qrt_tn.models.checkpoint import Checkpoint
from qrt_tn.models.training import BatchOrder, evaluate, fit, initial_state, stack, take_steps

TARGETS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
RATE, STEPS, EVERY = 0.1, 10, 4


@dataclass(frozen=True)
class Means:
    """Momentum towards the mean of a batch and noise; `rest` counts, the score is the largest weight."""

    noise: float = 0.0

    def optimizer(self, data: Any) -> Any:
        return optax.sgd(RATE, momentum=0.5)

    def loss(self, params: Any, rest: Any, batch: Any, data: Any, key: Any) -> Any:
        aim = data[batch].mean(axis=0)
        if self.noise:
            aim += self.noise * jax.random.normal(key, (3,))
        value = jnp.square(params["w"] - aim).sum() / 2
        return value, ({"count": rest["count"] + 1}, value)

    def evaluate(self, params: Any, rest: Any, data: Any, recorded: Any) -> Any:
        return (recorded.mean(), rest["count"]), (params["w"].max(),)


def start(seed: int = 1) -> Any:
    params = {"w": jnp.asarray(np.random.default_rng(seed).normal(size=3), jnp.float32)}
    key = jax.random.key_data(jax.random.key(seed))
    return initial_state(
        params, {"count": jnp.asarray(0)}, optax.sgd(RATE, momentum=0.5).init(params), scores=1, key=key
    )


def run(task: Means, state: Any = None, order: Any = None, **options: Any) -> Any:
    order = order or BatchOrder(3, 20, 6)
    return fit(task, state or start(), order, jnp.asarray(TARGETS), steps=STEPS, every=EVERY, **options)


def bits(found: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found[:4])]


def test_steps_evaluations_best_and_snapshots_are_those_of_numpy() -> None:
    found = run(Means(), snapshots=[0, 4])
    w, velocity = np.asarray(start().params["w"], np.float64), np.zeros(3)
    rows, losses, best, kept = [], [], (-np.inf, None, 0), {}
    for number, batch in enumerate(BatchOrder(3, 20, 6)(0, STEPS)):
        if number in (0, 4):
            kept[number] = w
        aim = TARGETS[batch].mean(axis=0)
        losses.append(np.square(w - aim).sum() / 2)
        velocity = 0.5 * velocity + (w - aim)
        w = w - RATE * velocity
        if number in (3, 7, 9):
            rows.append((np.mean(losses), number + 1))
            losses = []
            best = max(best, (w.max(), tuple(w), number + 1))
    np.testing.assert_allclose(found.state.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(np.array(found.rows), rows, rtol=1e-5)
    np.testing.assert_allclose(found.state.best[0]["w"], best[1], rtol=1e-5)
    assert (int(found.state.best_step), int(found.state.step), found.done) == (best[2], 10, 10)
    assert set(found.snapshots) == {0, 4}
    for number, expected in kept.items():
        np.testing.assert_allclose(found.snapshots[number][0]["w"], expected, rtol=1e-5)


def test_every_step_has_noise_of_its_own_wherever_chunks_end() -> None:
    whole = run(Means(1.0))
    state, _ = take_steps(Means(1.0), start(), BatchOrder(3, 20, 6)(0, STEPS), jnp.asarray(TARGETS))
    np.testing.assert_allclose(state.params["w"], whole.state.params["w"], rtol=1e-5)
    still = initial_state({"w": jnp.zeros(3)}, {"count": 0}, start().optimizer, key=start().key)
    same = np.zeros((STEPS, 6), np.int32)
    noises = np.diff(np.asarray(take_steps(Means(1.0), still, same, jnp.zeros((20, 3)))[1]))
    assert (np.abs(noises) > 1e-4).all()


@pytest.mark.parametrize("together", [False, True])
def test_a_run_that_is_killed_after_any_evaluation_goes_on_to_the_same_bits(tmp_path, together) -> None:
    orders = [BatchOrder(seed, 20, 6) for seed in (3, 4)]

    def batches(first: int, steps: int) -> Any:
        found = [order(first, steps) for order in orders]
        return stack(found) if together else found[0]

    state = stack([start(1), start(2)]) if together else start()
    options: dict[str, Any] = {"together": together, "snapshots": [4]}
    wanted = run(Means(1.0), state, batches, **options)
    if not together:
        one_by_one = run(Means(1.0), state, batches, stepwise=True, **options)
        assert jax.tree.map(np.shape, one_by_one[:4]) == jax.tree.map(np.shape, wanted[:4])
        for one, other in zip(*map(jax.tree.leaves, (one_by_one[:4], wanted[:4])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
    if together:  # and vmap equals one by one
        alone = run(Means(1.0), start(2), orders[1], snapshots=[4])
        np.testing.assert_allclose(wanted.state.params["w"][1], alone.state.params["w"], rtol=1e-5)
        np.testing.assert_allclose(wanted.state.best[0]["w"][1], alone.state.best[0]["w"], rtol=1e-5)
    for last in (4, 8):
        checkpoint, seen = Checkpoint(tmp_path / str(last), every=1e9), []  # saved because it is killed

        def watch(now: Any, last: int = last, seen: list[int] = seen) -> None:
            seen.append(now.done)
            if seen == list(range(4, last + 1, 4)):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(Means(1.0), state, batches, checkpoint=checkpoint, after=watch, **options)
        found = run(Means(1.0), state, batches, checkpoint=checkpoint, after=watch, **options)
        assert bits(found) == bits(wanted)
        assert seen == [*range(4, last + 1, 4), *(done for done in (4, 8, 10) if done >= last)]
    with pytest.raises(ValueError, match="other shapes"):
        run(Means(1.0), start()._replace(params={"w": jnp.zeros(4)}), checkpoint=checkpoint)


def test_the_best_is_that_of_the_first_greatest_score_number_by_number() -> None:
    class Told:
        def evaluate(self, params: Any, rest: Any, data: Any, recorded: Any) -> Any:
            return (), tuple(data)

    rng = np.random.default_rng(5)
    step = jax.jit(lambda state, score: evaluate(Told(), state, score)[0])
    for scale in (3, 3, 3, 100):
        scores = rng.integers(scale, size=(12, 2)).astype(np.float32)
        scores[rng.random((12, 2)) < 0.1] = -np.inf
        if scale == 100:
            scores[:, 0] = np.nan  # no accuracy of real targets: the loss decides
        state = initial_state({"w": jnp.zeros(())}, (), (), scores=2)
        for number, score in enumerate(scores):
            state = step(state._replace(params={"w": jnp.asarray(float(number))}, step=number), score)
        best = max(range(12), key=lambda k: tuple(np.nan_to_num(scores[k], nan=0.0, neginf=-np.inf)))
        assert int(state.best_step) == best == float(state.best[0]["w"])


def test_products_of_matrices_name_their_precision() -> None:
    class Product(Means):
        def loss(self, params: Any, rest: Any, batch: Any, data: Any, key: Any) -> Any:
            value = (data[batch] @ params["w"]).sum()
            return value, (rest, value)

        def evaluate(self, params: Any, rest: Any, data: Any, recorded: Any) -> Any:
            return (data @ params["w"]).sum(), ()

    text = str(
        jax.make_jaxpr(lambda *given: training.advance(Product(), *given))(
            start()._replace(score=()), BatchOrder(0, 20, 5)(0, 2), jnp.asarray(TARGETS)
        )
    )
    assert text.count("dot_general") >= 3
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == text.count("dot_general")


def test_every_epoch_has_every_point_once_and_a_batch_is_a_function_of_its_iteration_alone() -> None:
    whole = BatchOrder(3, points=50, size=7)(0, 50)  # 350 places: seven epochs
    epochs = whole.reshape(7, 50).tolist()
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 7
    order = BatchOrder(3, points=50, size=7)
    for first in np.random.default_rng(0).integers(45, size=20).tolist():  # back and forth
        assert np.array_equal(order(first, 5), whole[first : first + 5])
    assert not np.array_equal(BatchOrder(4, points=50, size=7)(0, 50), whole)
    with pytest.raises(ValueError, match="batch_size is 51 but there are 50"):
        BatchOrder(0, points=50, size=51)
