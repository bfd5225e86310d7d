"""What the theory predicts, measured: router changes as the dimension grows, and accuracy after pruning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from scipy import stats

from qrt_tn.engine.arguments import Seed, check_whole, generator, is_real
from qrt_tn.models.moe.theory.data import TheorySetting, draw
from qrt_tn.models.moe.theory.model import Parameters, accuracy, pretrained, signs, train

ORDERS = ("router-change", "random", "reversed")
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A model before and after fine-tuning.

    Attributes:
        setting: what was trained, and how.
        before: routers (k, d) and neurons (k, m, d), float32.
        after: likewise.
        losses: hinge loss of each batch, (steps,).
        test_tokens: the samples of all accuracies of this outcome, int32 (N, n).
        test_labels: +1 or -1, (N,).
        accuracy: share of them that the whole model gets right.
    """

    setting: TheorySetting
    before: Parameters
    after: Parameters
    losses: np.ndarray
    test_tokens: np.ndarray
    test_labels: np.ndarray
    accuracy: float

    @property
    def relevant(self) -> np.ndarray:
        """Which routers pointed at o_1 or o_2 before, bool (k,)."""
        return np.arange(self.setting.experts) < self.setting.relevant

    @property
    def change(self) -> np.ndarray:
        """Delta_s = ||w_s after|| - ||w_s before||, signed, (k,)."""
        before, after = (np.asarray(one.router, dtype=np.float64) for one in (self.before, self.after))
        return np.asarray(np.linalg.norm(after, axis=1) - np.linalg.norm(before, axis=1))

    @property
    def moved(self) -> np.ndarray:
        """||w_s after - w_s before||, at least |Delta_s|, (k,)."""
        before, after = (np.asarray(one.router, dtype=np.float64) for one in (self.before, self.after))
        return np.asarray(np.linalg.norm(after - before, axis=1))


def fine_tune(setting: TheorySetting, seed: Seed) -> Outcome:
    """Draw a pre-trained model and fine-tune it on the task.

    Args:
        setting: the task, the model and the training.
        seed: of the model, the batches and the test samples.

    Raises:
        ValueError: a setting or seed of another type.
    """
    setting = _check_setting(setting)
    rng = generator(seed)
    before, a = pretrained(setting, rng), signs(setting)
    after, losses = train(setting, setting.steps, before, a, _key(rng))
    tokens, labels = draw(setting, setting.test_points, _key(rng))
    share = accuracy(after, a, tokens, labels, setting.chosen)
    after = Parameters(*map(np.asarray, after))
    test = np.asarray(tokens), np.asarray(labels)
    return Outcome(setting, before, after, np.asarray(losses), *test, float(share))


def pruned_signs(
    outcome: Outcome, ratios: Sequence[float], order: str = "router-change", seed: Seed = 0
) -> np.ndarray:
    """Which experts stay after pruning.

    Of k experts floor(ratio * k) go, with their routers (expert choice).

    Args:
        outcome: gives the router changes.
        ratios: shares of the experts to prune, in [0, 1), shape (R,).
        order: which go first: "router-change", those of least Delta_s, as in the released code;
            "random"; or "reversed", those of largest Delta_s.
        seed: of the random order; one order serves all ratios, so that the experts that stay at a larger
            ratio are among those that stay at a smaller one.

    Returns:
        The signs of the experts that stay and 0 for others, float32 (R, k).

    Raises:
        ValueError: an unknown order, or a ratio out of range.
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; choose one of {', '.join(ORDERS)}")
    for ratio in ratios:
        if not (is_real(ratio) and 0 <= ratio < 1):
            raise ValueError(f"a ratio is {ratio!r}; give shares of the experts, from 0 to below 1")
    k = outcome.setting.experts
    # drawn for every order, so that what a caller draws next is the same for all of them
    shuffled = generator(seed).permutation(k)
    first = shuffled if order == "random" else np.argsort(outcome.change, kind="stable")
    ranks = np.argsort(first[::-1] if order == "reversed" else first)
    # 15 / 22 * 22 is 14.999999999999998
    n_prune = np.floor(np.asarray(ratios, dtype=np.float64) * k + 1e-9)
    return np.asarray(np.where(ranks >= n_prune[:, None], signs(outcome.setting), np.float32(0)))


def accuracy_after_pruning(
    outcome: Outcome,
    ratios: Sequence[float],
    order: str = "router-change",
    fine_tune_steps: int = 0,
    seed: Seed = 0,
) -> np.ndarray:
    """Accuracy of the fine-tuned model without some of its experts.

    Args:
        outcome: the fine-tuned model, and the samples to test on.
        ratios: see `pruned_signs`.
        order: likewise.
        fine_tune_steps: SGD steps after pruning, with the batches and rates of the setting.
        seed: of the random order, and of the batches.

    Returns:
        Accuracies, float64 (R,).

    Raises:
        ValueError: see `pruned_signs`; or a number of steps that is not a whole number, at least 0.
    """
    check_whole("fine_tune_steps", fine_tune_steps, 0)
    rng, setting = generator(seed), outcome.setting
    kept, key = pruned_signs(outcome, ratios, order, rng), _key(rng)
    accuracies = []
    for a in kept:
        tuned = outcome.after
        if fine_tune_steps:
            tuned, _ = train(setting, fine_tune_steps, tuned, a, key)
        share = accuracy(tuned, a, outcome.test_tokens, outcome.test_labels, setting.chosen)
        accuracies.append(float(share))
    return np.array(accuracies)


def predicted_limits(setting: TheorySetting) -> dict[str, float]:
    """The pruning ratios up to which accuracy is to hold.

    Returns:
        "without": gamma, the share of irrelevant experts and the limit without fine-tuning after pruning.
        "with": 1 - 2 / k, our constant for the theorem's 1 - O(1/k): the largest ratio that leaves two
        experts, one of either sign; ReLU experts of one sign give outputs of one sign.
        "both_signs": 1 - (r / 2 + 1) / k, r the number of relevant experts and r / 2 rounded up: up to
        here pruning by router change leaves relevant experts of either sign, whatever their order among
        each other, if all others go first. From here to "with" it may lose one of the signs, and then
        no fine-tuning helps.
    """
    k, largest_sign = setting.experts, -(-setting.relevant // 2)
    return {
        "without": 1 - setting.relevant / k,
        "with": 1 - 2 / k,
        "both_signs": 1 - (largest_sign + 1) / k,
    }


def scaling(
    dims: Iterable[int],
    seeds: Iterable[int],
    setting: TheorySetting | None = None,
    *,
    batch_power: float = 1.0,
) -> list[Row]:
    """Router changes as the dimension grows.

    Args:
        dims: dimensions d.
        seeds: one run each at every dimension; runs at different dimensions share nothing.
        setting: everything else; by default TheorySetting(). Its batch size, which is for its own
            dimension, is multiplied by (d / setting.dim)^batch_power.
        batch_power: 1 is the regime of the theory; 0, batches of one size, is a control in which the
            sampling noise does not fall with d.

    Returns:
        A row for each dimension and seed: "dim", "seed", "batch_size"; "relevant_min", the least Delta_s
        of relevant experts; "others_max", the largest of the others; "others_size", their largest
        |Delta_s|; "others_moved", their largest ||w_s after - w_s before||; "accuracy".

    Raises:
        ValueError: dimensions or seeds that are not whole numbers in range, or a power that is not finite.
    """
    setting = _check_setting(setting)
    if not is_real(batch_power):
        raise ValueError(
            f"batch_power is {batch_power!r}; give a finite number, 1 for batches that grow like d"
        )
    dims, seeds = list(dims), _check_seeds(seeds)
    for dim in dims:
        check_whole("a dimension", dim, 4)
    rows = []
    for dim in map(int, dims):
        batch_size = max(1, round(setting.batch_size * (dim / setting.dim) ** batch_power))
        sized = replace(setting, dim=dim, batch_size=batch_size)
        for seed in seeds:
            outcome = fine_tune(sized, np.random.default_rng([seed, dim]))
            relevant, others = outcome.change[outcome.relevant], outcome.change[~outcome.relevant]
            rows.append(
                {
                    "dim": dim,
                    "seed": seed,
                    "batch_size": batch_size,
                    "relevant_min": float(relevant.min()),
                    "others_max": float(others.max()),
                    "others_size": float(np.abs(others).max()),
                    "others_moved": float(outcome.moved[~outcome.relevant].max()),
                    "accuracy": outcome.accuracy,
                }
            )
    return rows


def pruning(
    seeds: Iterable[int],
    setting: TheorySetting | None = None,
    *,
    ratios: Sequence[float] | None = None,
    fine_tune_steps: Sequence[int] = (0, 30),
) -> list[Row]:
    """Accuracy against the pruned ratio, for every order.

    Args:
        seeds: one fine-tuned model each.
        setting: by default TheorySetting().
        ratios: by default 0, 1/k, .. (k - 1)/k.
        fine_tune_steps: numbers of SGD steps after pruning, each measured.

    Returns:
        A row for each seed, order, ratio and number of steps: "seed", "order", "ratio",
        "fine_tune_steps", "accuracy"; "both_signs", whether a relevant expert of either sign stays.

    Raises:
        ValueError: see `accuracy_after_pruning`.
    """
    setting = _check_setting(setting)
    shares = [n / setting.experts for n in range(setting.experts)] if ratios is None else list(ratios)
    rows = []
    for seed in _check_seeds(seeds):
        outcome = fine_tune(setting, seed)
        for order in ORDERS:
            kept = pruned_signs(outcome, shares, order, seed)[:, outcome.relevant]
            both = np.logical_and((kept > 0).any(axis=1), (kept < 0).any(axis=1))
            for steps in fine_tune_steps:
                accuracies = accuracy_after_pruning(outcome, shares, order, steps, seed)
                rows += [
                    {
                        "seed": seed,
                        "order": order,
                        "ratio": float(ratio),
                        "fine_tune_steps": int(steps),
                        "accuracy": float(share),
                        "both_signs": bool(is_both),
                    }
                    for ratio, share, is_both in zip(shares, accuracies, both, strict=True)
                ]
    return rows


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The exponent of a power law y = c x^p, by least squares of log y on log x over all points.

    The interval is that of Student's t for the slope of a line with independent errors of one size.

    Args:
        x: positive numbers, at least two of them different, shape (N,) with N >= 3.
        y: positive numbers, (N,).

    Returns:
        The exponent, and the ends of its 95 % interval.

    Raises:
        ValueError: too few points, unequal numbers of them, or one that is not positive and finite.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"{len(x)} x and {len(y)} y; give as many of both, at least 3")
    points = np.array([x, y], dtype=np.float64)
    for name, values in zip("xy", points, strict=True):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if len(bad):
            raise ValueError(f"{name} has the value {bad[0]}; a power law needs finite numbers above 0")
    if np.ptp(points[0]) == 0:
        raise ValueError(f"every x is {points[0, 0]}; give at least two different ones")
    line = stats.linregress(*np.log(points))
    margin = stats.t.ppf(0.975, points.shape[1] - 2) * line.stderr
    return float(line.slope), float(line.slope - margin), float(line.slope + margin)


def _check_setting(setting: Any) -> TheorySetting:
    if setting is not None and not isinstance(setting, TheorySetting):
        raise ValueError(f"setting is {setting!r}; give a TheorySetting")
    return TheorySetting() if setting is None else setting


def _check_seeds(seeds: Iterable[int]) -> list[int]:
    seeds = list(seeds)
    for seed in seeds:
        check_whole("a seed", seed, 0)
    return list(map(int, seeds))


def _key(rng: np.random.Generator) -> jax.Array:
    return jax.random.key(int(rng.integers(2**31)))
