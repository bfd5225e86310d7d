"""The transform against its own filter at a broad width, where what the data say should matter most."""

from collections.abc import Callable
from functools import partial
from typing import Any

from qrt_tn.studies.experiments.fitting import mean_scores, scores_by_draw
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.sources import Setting, Sources, inputs
from qrt_tn.studies.parallel import side_by_side

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
    return [
        {
            "method": f"{method}-broad",
            "training": "fitted",
            "nodes": count,
            "seed": fold.seed,
            "draws": DRAWS,
            "activation": setting.activation,
            "smoothing": setting.smoothing,
            **mean_scores(scores_by_draw(fold, features[:, : count * DRAWS], count)),
            "seconds": None,
            "parameters": (count + 1) * fold.outputs,
        }
        for count in COUNTS
    ]
