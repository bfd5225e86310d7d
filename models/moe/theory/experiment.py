"""What the theory predicts, measured: router changes as the dimension grows, and accuracy after pruning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from scipy import stats

from qrt_tn.engine.arguments import Seed, check_whole, generator, is_real
from qrt_tn.models.moe.theory.model import Parameters, TheorySetting, accuracy, draw, pretrained, signs, train

ORDERS = ("router-change", "random", "reversed")
FINE_TUNE_STEPS = (0, 30)  # after pruning
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A model before and after fine-tuning, and the samples that it is tested on."""

    setting: TheorySetting
    before: Parameters
    after: Parameters
    test_tokens: np.ndarray  # int32 (N, n)
    test_labels: np.ndarray  # +1 or -1, (N,)

    @property
    def relevant(self) -> np.ndarray:
        """Which routers pointed at o_1 or o_2 before, bool (k,)."""
        return np.arange(self.setting.experts) < self.setting.relevant

    @property
    def change(self) -> np.ndarray:
        """Delta_s = ||w_s after|| - ||w_s before||, signed, (k,)."""
        before, after = self._routers()
        return np.asarray(np.linalg.norm(after, axis=1) - np.linalg.norm(before, axis=1))

    @property
    def moved(self) -> np.ndarray:
        """||w_s after - w_s before||, at least |Delta_s|, (k,)."""
        before, after = self._routers()
        return np.asarray(np.linalg.norm(after - before, axis=1))

    def accuracy(self, parameters: Parameters, a: np.ndarray) -> float:
        """The share of the test samples that a model gets right."""
        return float(accuracy(parameters, a, self.test_tokens, self.test_labels, self.setting.chosen))

    def _routers(self) -> tuple[np.ndarray, np.ndarray]:
        before, after = (np.asarray(one.router, dtype=np.float64) for one in (self.before, self.after))
        return before, after


def fine_tune(setting: TheorySetting, seed: Seed) -> Outcome:
    """Draw a pre-trained model, the batches and the test samples, and fine-tune it."""
    rng = generator(seed)
    before = pretrained(setting, rng)
    after = train(setting, setting.steps, before, signs(setting), _key(rng))
    test = map(np.asarray, draw(setting, setting.test_points, _key(rng)))
    return Outcome(setting, before, Parameters(*map(np.asarray, after)), *test)


def pruned_signs(outcome: Outcome, ratios: Sequence[float], order: str, seed: Seed = 0) -> np.ndarray:
    """The signs of the experts that stay after pruning and 0 for others, float32 (R, k).

    Of k experts floor(ratio * k) go, with their routers (expert choice). First go those of least Delta_s, as
    in the released code ("router-change"), or of largest ("reversed"), or at "random". One order serves all
    ratios in [0, 1).
    """
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


def scaling(dims: Iterable[int], seeds: Iterable[int], setting: TheorySetting) -> list[Row]:
    """Router changes as the dimension d grows, and the batch size in proportion to it.

    Args:
        dims: runs at different dimensions share nothing.
        seeds: one run each at every dimension.
        setting: everything else; its batch size is for its own dimension.

    Returns:
        A row for each dimension and seed: "dim", "seed", "batch_size"; "relevant_min", the least Delta_s
        of relevant experts; "others_max", the largest of the others; "others_size", their largest
        |Delta_s|; "others_moved", their largest ||w_s after - w_s before||; "accuracy".

    Raises:
        ValueError: dimensions or seeds that are not whole numbers in range.
    """
    dims, seeds = _whole("a dimension", dims, 4), _whole("a seed", seeds, 0)
    rows = []
    for dim in dims:
        batch_size = max(1, round(setting.batch_size * (dim / setting.dim)))
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
                    "accuracy": outcome.accuracy(outcome.after, signs(sized)),
                }
            )
    return rows


def pruning(
    seeds: Iterable[int], setting: TheorySetting, *, ratios: Sequence[float] | None = None
) -> list[Row]:
    """Accuracy against the pruned ratio, for every order, without and with SGD steps after pruning.

    Args:
        seeds: one fine-tuned model each.
        setting: also of the training after pruning.
        ratios: by default 0, 1/k, .. (k - 1)/k.

    Returns:
        A row for each seed, order, ratio and number of steps: "seed", "order", "ratio",
        "fine_tune_steps", "accuracy"; "both_signs", whether a relevant expert of either sign stays.

    Raises:
        ValueError: seeds that are no whole numbers, or a ratio out of range.
    """
    shares = [n / setting.experts for n in range(setting.experts)] if ratios is None else ratios
    rows = []
    for seed in _whole("a seed", seeds, 0):
        outcome = fine_tune(setting, seed)
        for order in ORDERS:
            rng = generator(seed)
            kept, key = pruned_signs(outcome, shares, order, rng), _key(rng)
            for steps in FINE_TUNE_STEPS:
                for ratio, a in zip(shares, kept, strict=True):
                    tuned = train(setting, steps, outcome.after, a, key) if steps else outcome.after
                    relevant = a[outcome.relevant]
                    rows.append(
                        {
                            "seed": seed,
                            "order": order,
                            "ratio": float(ratio),
                            "fine_tune_steps": steps,
                            "accuracy": outcome.accuracy(tuned, a),
                            "both_signs": bool((relevant > 0).any() and (relevant < 0).any()),
                        }
                    )
    return rows


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The exponent p of a power law y = c x^p and the ends of its 95 % interval.

    Least squares of log y on log x over all points; the interval is that of Student's t for the slope of a
    line with independent errors of one size.

    Raises:
        ValueError: fewer than 3 points, unequal numbers of x and y, one x alone, or a value not above 0.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"{len(x)} x and {len(y)} y; give as many of both, at least 3")
    points = np.array([x, y], dtype=np.float64)
    for name, values in zip("xy", points, strict=True):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if len(bad):
            raise ValueError(f"{name} has the value {bad[0]}; a power law needs finite numbers above 0")
    line = stats.linregress(*np.log(points))
    margin = stats.t.ppf(0.975, points.shape[1] - 2) * line.stderr
    return float(line.slope), float(line.slope - margin), float(line.slope + margin)


def _whole(name: str, values: Iterable[int], least: int) -> list[int]:
    values = list(values)
    for value in values:
        check_whole(name, value, least)
    return list(map(int, values))


def _key(rng: np.random.Generator) -> jax.Array:
    return jax.random.key(int(rng.integers(2**31)))
