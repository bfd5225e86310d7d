"""Accuracy of pruned networks of experts: experts first and then weights, against weights only.

    python -m qrt_tn.studies.benchmarks.mixtures [results.json] [--seeds S] [--steps N]

STUN (arXiv 2409.06211) prunes experts first and then single weights. Here both ways end with as many
parameters, up to the rounding of each layer's count, and are trained as long: a network is trained on the
digits, pruned once, and trained on under its masks for half as many steps. Weights go by magnitude, the same
share of every kernel.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from qrt_tn.models import moe
from qrt_tn.models.images import ImageFold, fold, load_images
from qrt_tn.models.lottery import counts, full_masks, layers, prune_by_magnitude
from qrt_tn.studies.benchmarks.record import record
from qrt_tn.studies.benchmarks.sheets import Sheet, as_rich

SHARES = (0.4, 0.25, 0.15, 0.1)  # of all parameters, left
EXPERTS, PRUNED = 8, (0, 4)
CRITERION = "weighted-activation"
CONFIG = moe.VisionMoeConfig(
    image_shape=(8, 8, 1),
    classes=10,
    patch=2,
    hidden=32,
    layers=1,
    mlp=64,
    heads=4,
    moe_layers=(0,),
    experts=EXPERTS,
    classifier="gap",
    same_experts=False,
    router=moe.RouterConfig(selected=2, capacity_factor=2.0),
)


def measure(seed: int, steps: int) -> list[dict[str, Any]]:
    """Rows of one seed, which draws the weights, the order of the images, and which are trained on.

    Args:
        seed: at least 0.
        steps: of the first training; half as many follow after pruning.
    """
    parts = fold(load_images("digits"), seed, validation=300)
    dense = moe.VisionMoe(CONFIG, rngs=nnx.Rngs(seed), dispatch="gather")
    _train(dense, parts, steps, 3e-3, seed)
    size = _size(dense)
    rows = [_row(seed, "dense", 1.0, size, dense, parts)]
    for pruned in PRUNED:
        fewer = dense
        if pruned:
            images = parts.x_train[:256]
            fewer = moe.prune_experts(dense, CRITERION, n_prune=pruned, calibration=images).network
        for share in SHARES:
            network = nnx.clone(fewer)
            params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
            masks = full_masks(params)
            whole = counts(masks)[1]
            kept = share * size - (_size(network) - whole)
            masks = prune_by_magnitude(params, masks, dict.fromkeys(layers(masks), 1 - kept / whole))
            _train(network, parts, steps // 2, 1e-3, seed, masks)
            left = _size(network) - whole + counts(masks)[0]
            method = f"{pruned} experts, then weights" if pruned else "weights only"
            rows.append(_row(seed, method, share, left, network, parts))
    return rows


def _train(
    network: moe.VisionMoe, parts: ImageFold, steps: int, rate: float, seed: int, masks: Any = None
) -> None:
    recipe = moe.MoeRecipe(steps=steps, batch_size=64, learning_rate=rate)
    moe.train_moe(network, parts.x_train, parts.y_train, recipe, masks=masks, seed=seed)


def _size(network: moe.VisionMoe) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def _row(
    seed: int, method: str, share: float, left: int, network: moe.VisionMoe, parts: ImageFold
) -> dict[str, Any]:
    # both sets that training has not seen: the digits' test images alone are few
    x, y = (
        np.concatenate([parts.x_test, parts.x_validation]),
        np.concatenate([parts.y_test, parts.y_validation]),
    )
    return {
        "seed": seed,
        "method": method,
        "share": share,
        "parameters": int(left),
        "accuracy": moe.accuracy(network, x, y),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all seeds as one row a method and share: mean accuracy, and its deviation over the seeds."""
    found = []
    for method, share in dict.fromkeys((row["method"], row["share"]) for row in rows):
        same = [row for row in rows if (row["method"], row["share"]) == (method, share)]
        every = [row["accuracy"] for row in same]
        found.append(
            {
                "method": method,
                "share": share,
                "parameters": same[0]["parameters"],
                "accuracy": float(np.mean(every)),
                "deviation": float(np.std(every, ddof=1)) if len(every) > 1 else 0.0,
                "samples": {"accuracy": every},
            }
        )
    return found


def sheet(rows: Sequence[dict[str, Any]]) -> Sheet:
    """The summary as a table for people."""
    seeds = len(rows[0]["samples"]["accuracy"])
    return Sheet(
        "Pruned networks of experts on the digits",
        f"Mean test accuracy over {seeds} seeds, and its standard deviation.",
        ("method", "share left", "parameters", "accuracy"),
        tuple(
            (
                row["method"],
                f"{row['share']:.0%}",
                f"{row['parameters']:,}",
                f"{row['accuracy']:.3f} +- {row['deviation']:.3f}",
            )
            for row in rows
        ),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.steps < 2:
        raise ValueError(f"seeds is {options.seeds}, steps {options.steps}; give at least 1 and 2")
    if options.out is not None and not options.out.parent.is_dir():
        raise ValueError(f"folder {options.out.parent} does not exist; make it first")
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        Console(stderr=True).print(f"seed {seed} ...", highlight=False)
        rows += measure(seed, options.steps)
    found = summary(rows)
    Console().print(as_rich(sheet(found)))
    command = f"python -m qrt_tn.studies.benchmarks.mixtures --seeds {options.seeds} --steps {options.steps}"
    record(options.out, "mixtures", found, command=command, criterion=CRITERION, network=CONFIG.plain())


if __name__ == "__main__":
    main()
