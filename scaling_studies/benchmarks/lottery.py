"""Time of training lottery trials: against a plain Flax loop, and of many trials together against one.

    python -m qrt_tn.studies.benchmarks.lottery [results.json] [--architectures lenet conv2] [--rounds R]

Images are noise of the size of MNIST's (lenet) or CIFAR-10's: the time does not depend on what they show.
A plain loop is what one writes by hand: nnx.Optimizer, one nnx.jit step a batch, batches indexed in NumPy.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from qrt_tn.models.images import ImageFold
from qrt_tn.models.lottery import Program, Trial, Weights, preset, split, train_trials
from qrt_tn.models.vision import architecture
from qrt_tn.studies.benchmarks.record import record
from qrt_tn.studies.benchmarks.sheets import Sheet, as_rich
from qrt_tn.studies.benchmarks.timing import paired, ratios

ITERATIONS = {"lenet": 1000}  # of one timed call
OTHERS = 20
# points of the validation and test set each: MNIST's test set, and a tenth of CIFAR-10's for convolutions
EVALUATED = {"lenet": 10_000}
FEWER = 1_000
TOGETHER = 8


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One row: iterations a second of ours and of a plain loop, and the cost of eight trials over one.

    Args:
        name: an architecture.
        rounds: how often each is timed.
    """
    iterations = ITERATIONS.get(name, OTHERS)
    every = min(100, iterations)
    settings = preset(name, iterations=iterations, evaluate_every=every)
    shape = (28, 28, 1) if name == "lenet" else (32, 32, 3)
    size = settings.recipe.batch_size
    # so few points to evaluate that training is all there is to time; a plain loop evaluates nothing
    bare = _noise(shape, 100 * size, 10)
    whole = _noise(shape, 100 * size, EVALUATED.get(name, FEWER))
    program, starts = _networks(name, shape, settings.recipe)
    plain = _PlainLoop(name, shape, settings.recipe, bare)

    def ours(fold: ImageFold, count: int) -> None:
        train_trials(program, [Trial(f"{k}", starts[k], seed=k, keep=False) for k in range(count)], fold)

    calls: dict[str, Callable[[], Any]] = {
        "plain": plain.run,
        "ours": partial(ours, bare, 1),
        "together": partial(ours, bare, TOGETHER),
        "ours, evaluated": partial(ours, whole, 1),
        "together, evaluated": partial(ours, whole, TOGETHER),
    }
    seconds = paired(calls, rounds)
    return {
        "architecture": name,
        "batch_size": size,
        "iterations": iterations,
        "trials_together": TOGETHER,
        "iterations_per_second": iterations / float(np.median(seconds["ours"])),
        "iterations_per_second_plain": iterations / float(np.median(seconds["plain"])),
        "samples": {
            "iterations_per_second": [iterations / each for each in seconds["ours"]],
            "iterations_per_second_plain": [iterations / each for each in seconds["plain"]],
        },
        "plain_over_ours": ratios(seconds["plain"], seconds["ours"]),
        "together_over_one": ratios(seconds["together"], seconds["ours"]),
        "together_over_one_plain": ratios(seconds["together"], seconds["plain"]),
        "together_over_one_evaluated": ratios(seconds["together, evaluated"], seconds["ours, evaluated"]),
        "evaluated_points": 2 * len(whole.x_test),
        "evaluate_every": every,
    }


class _PlainLoop:
    """Training as one writes it by hand in Flax, on the same network, optimiser and data."""

    def __init__(self, name: str, shape: tuple[int, ...], recipe: Any, fold: ImageFold) -> None:
        self._network = architecture(name, shape, 10, rngs=nnx.Rngs(0))
        self._optimizer = nnx.Optimizer(self._network, recipe.transform(), wrt=nnx.Param)
        self._recipe, self._fold = recipe, fold

        @nnx.jit
        def step(network: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
            def loss(network: Any) -> jax.Array:
                return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

            value, gradient = nnx.value_and_grad(loss)(network)
            optimizer.update(network, gradient)
            return value

        self._step = step

    def run(self) -> None:
        """One call's iterations."""
        points, size = len(self._fold.x_train), self._recipe.batch_size
        rng = np.random.default_rng(0)
        order = np.concatenate(
            [rng.permutation(points) for _ in range(-(-self._recipe.iterations * size // points))]
        )
        value = None
        for k in range(self._recipe.iterations):
            batch = order[k * size : (k + 1) * size]
            value = self._step(
                self._network, self._optimizer, self._fold.x_train[batch], self._fold.y_train[batch]
            )
        jax.block_until_ready(value)


def _networks(name: str, shape: tuple[int, ...], recipe: Any) -> tuple[Program, list[Weights]]:
    parts = [split(architecture(name, shape, 10, rngs=nnx.Rngs(k)), recipe) for k in range(TOGETHER)]
    return parts[0][0], [weights for _, weights in parts]


def _noise(shape: tuple[int, ...], points: int, evaluated: int) -> ImageFold:
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((count, *shape), dtype=np.float32)
        return x, rng.integers(10, size=count).astype(np.int32)

    return ImageFold(*draw(points), *draw(evaluated), *draw(evaluated))


def sheet(rows: Sequence[dict[str, Any]]) -> Sheet:
    """The rows as a table for people."""

    def middle(found: dict[str, Any]) -> str:
        return f"{found['median']:.2f} ({found['min']:.2f}-{found['max']:.2f})"

    head = (
        *("network", "its/s", "plain loop, its/s", "plain / ours"),
        *("together / one", "together / one plain", "together / one, evaluated"),
    )
    cells = tuple(
        (
            row["architecture"],
            f"{row['iterations_per_second']:.0f}",
            f"{row['iterations_per_second_plain']:.0f}",
            *(
                middle(row[key])
                for key in (
                    "plain_over_ours",
                    "together_over_one",
                    "together_over_one_plain",
                    "together_over_one_evaluated",
                )
            ),
        )
        for row in rows
    )
    note = (
        f"Medians over paired rounds, least and greatest beside them. {TOGETHER} trials together; "
        "evaluated: on validation and test points, as a study does."
    )
    return Sheet("Training lottery trials", note, head, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--architectures", nargs="+", default=["lenet", "conv2"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    for name in options.architectures:
        rows.append(measure(name, options.rounds))
    Console().print(as_rich(sheet(rows)))
    record(options.out, "lottery", rows)


if __name__ == "__main__":
    main()
