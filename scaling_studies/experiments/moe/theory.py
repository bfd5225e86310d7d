"""The theory's own model: router changes as the dimension grows, and accuracy as experts go."""

from collections.abc import Callable
from typing import Any

from qrt_tn.models.moe.theory import TheorySetting, fit_exponent, predicted_limits, pruning, scaling
from qrt_tn.studies.experiments.moe.config import MoeStudyConfig
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer

FITTED = ("relevant_min", "others_size", "others_moved")  # against d
PREDICTED = {"relevant_min": 0.0, "others_size": -0.5, "others_moved": -0.5}
Row = dict[str, Any]


def measure_theory(config: MoeStudyConfig, timer: StageTimer) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Rows of the tables "theory_scaling" and "theory_pruning", and what they say in short.

    Args:
        config: which dimensions, and how many seeds.
        timer: shows the work.

    Returns:
        The tables; and for the manifest the setting, the predicted limits of the pruned ratio, and for each
        measure its fitted exponent in d, the ends of its 95 % interval and the prediction (an upper bound on
        the exponent where experts are irrelevant). A measure that is not always above 0 has no exponent.
    """
    setting = TheorySetting()
    seeds = range(config.theory_seeds)

    def scaled(dim: int) -> Callable[[], list[Row]]:
        return lambda: scaling([dim], seeds, setting)

    def pruned(seed: int) -> Callable[[], list[Row]]:
        return lambda: pruning([seed], setting)

    # the longest first, so that no core is idle at the end
    dims = sorted(config.theory_dims)
    tasks = [scaled(dim) for dim in dims[::-1]] + [pruned(seed) for seed in seeds]
    with timer.stage("The theory's own model", len(tasks)) as stage:
        parts = side_by_side(tasks, stage.advance)
    rows = [row for part in parts[: len(dims)][::-1] for row in part]
    tables = {"theory_scaling": rows, "theory_pruning": [row for part in parts[len(dims) :] for row in part]}
    exponents = {}
    for name in FITTED:
        if min(row[name] for row in rows) <= 0:
            continue
        fitted, low, high = fit_exponent([row["dim"] for row in rows], [row[name] for row in rows])
        exponents[name] = {"fitted": fitted, "low": low, "high": high, "predicted": PREDICTED[name]}
    about = {"setting": {**vars(setting)}, "limits": predicted_limits(setting), "exponents": exponents}
    return tables, about
