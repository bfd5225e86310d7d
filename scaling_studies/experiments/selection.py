"""Settings chosen on the validation points: activation, smoothing width and bandwidth."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from qrt_tn.studies.experiments.fitting import Scores, draws_at, mean_scores, scores_by_draw
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.sources import Setting, Sources, inputs
from qrt_tn.studies.parallel import side_by_side

COUNTS = (16, 64, 256, 512)  # the counts at which settings are compared
STREAM = 1  # nodes drawn to choose are not the nodes that are reported


@dataclass(frozen=True)
class Choice:
    """What the validation points chose, and all that was tried.

    Attributes:
        settings: by method and compared count.
        tried: one row per setting and count, with the validation score of each seed.
    """

    settings: dict[str, dict[int, Setting]]
    tried: list[dict[str, object]]

    def at(self, method: str, count: int) -> Setting:
        """The setting of a method at a node count: that of the largest compared count not above it."""
        compared = self.settings[method]
        return compared[max((c for c in compared if c <= count), default=min(compared))]


def choose(
    sources: Sources, methods: tuple[str, ...], nodes: tuple[int, ...], done: Callable[[], None]
) -> Choice:
    """Compare every setting of every method by ridge regression, calling `done` after each setting and seed.

    The highest mean validation accuracy over seeds wins, then the lowest risk; the test points are
    never looked at.
    """
    counts = [count for count in COUNTS if count <= max(nodes)] or [max(nodes)]
    tries = [(method, setting) for method in methods for setting in sources.settings(method)]
    # the dense network has nothing to choose, and no nodes to fit
    measured = [(m, setting, fold) for m, setting in tries if m != "dense" for fold in sources.folds]
    tasks = [partial(_scores, sources, m, fold, setting, counts) for m, setting, fold in measured]
    found: dict[tuple[str, Setting], list[list[Scores]]] = {}
    for (method, setting, _), scores in zip(measured, side_by_side(tasks, done), strict=True):
        found.setdefault((method, setting), []).append(scores)
    settings: dict[str, dict[int, Setting]] = {}
    tried: list[dict[str, object]] = []
    for method in methods:
        own = [setting for name, setting in tries if name == method]
        settings[method] = {}
        for place, count in enumerate(counts):
            by_setting = {
                setting: [row[place] for row in found.get((method, setting), [])] for setting in own
            }
            settings[method][count] = max(own, key=lambda setting: rank(by_setting[setting]))
            tried += [
                _row(method, setting, count, by_setting[setting]) for setting in own if by_setting[setting]
            ]
    return Choice(settings, tried)


def _scores(sources: Sources, method: str, fold: Fold, setting: Setting, counts: list[int]) -> list[Scores]:
    most = max(count * draws_at(count) for count in counts)
    network = sources.network(method, fold, setting, most, STREAM)
    features = network.compute_features(inputs(network, fold))
    return [
        mean_scores(scores_by_draw(fold, features[:, : count * draws_at(count)], count)) for count in counts
    ]


def rank(found: list[Scores]) -> tuple[float, float]:
    """What the better of two settings has more of: mean validation accuracy over seeds, then less risk."""
    if not found:
        return 0.0, 0.0
    accuracies = [row["validation_accuracy"] or 0.0 for row in found]
    risks = [row["validation_risk"] or 0.0 for row in found]
    return float(np.mean(accuracies)), -float(np.mean(risks))


def _row(method: str, setting: Setting, count: int, found: list[Scores]) -> dict[str, object]:
    kind = "validation_risk" if found[0]["validation_accuracy"] is None else "validation_accuracy"
    shown = {name: value for name, value in vars(setting).items() if value is not None}
    return {"method": method, **shown, "nodes": count, kind: [row[kind] for row in found]}
