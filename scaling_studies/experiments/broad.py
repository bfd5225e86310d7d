"""The transform against its own filter at a broad width, where what the data say should matter most."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from models import select_ridge
from scaling_studies.experiments.folds import Fold
from scaling_studies.experiments.sources import Setting, Sources, inputs
from scaling_studies.parallel import side_by_side

DRAWS = 8  # draws of nodes averaged for each seed, so that the band is the seeds' and not one draw's
COUNTS = (64, 256)
ACTIVATION = "triangle"
STREAM = 3


def compare(sources: Sources, width: float, done: Callable[[], None]) -> list[dict[str, Any]]:
    """Rows of metrics for "qrt-broad" and "filter-broad" at `COUNTS` nodes, means over `DRAWS` draws.

    Calls `done` after each method of each fold.
    """
    wanted = [(method, fold) for fold in sources.folds for method in ("qrt", "filter")]
    tasks = [partial(_rows, sources, method, fold, Setting(ACTIVATION, width)) for method, fold in wanted]
    return [row for rows in side_by_side(tasks, done) for row in rows]


def _rows(sources: Sources, method: str, fold: Fold, setting: Setting) -> list[dict[str, Any]]:
    source = "qrt-smoothed" if method == "qrt" else "filter"
    network = sources.network(source, fold, setting, max(COUNTS) * DRAWS, STREAM)
    features = network.compute_features(inputs(network, fold))
    rows = []
    for count in COUNTS:
        found = [_fitted(fold, features[:, k * count : (k + 1) * count]) for k in range(DRAWS)]
        means = {
            name: None if found[0][name] is None else float(np.mean([row[name] or 0.0 for row in found]))
            for name in found[0]
        }
        rows.append(
            {
                "method": f"{method}-broad",
                "training": "fitted",
                "nodes": count,
                "seed": fold.seed,
                "activation": setting.activation,
                "smoothing": setting.smoothing,
                **means,
                "seconds": None,
                "parameters": (count + 1) * fold.outputs,
            }
        )
    return rows


def _fitted(fold: Fold, features: np.ndarray) -> dict[str, float | None]:
    train, validation = fold.split.train, fold.split.validation
    kernel, bias, _ = select_ridge(
        features[train], fold.targets[train], features[validation], fold.targets[validation]
    )
    return fold.scores(features @ kernel + bias)
