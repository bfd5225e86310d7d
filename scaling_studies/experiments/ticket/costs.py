"""What each method will take, before it runs, and which ones are left out because they take too long."""

from collections.abc import Sequence

import numpy as np

from qrt_tn.studies.experiments.ticket.settings import METHODS, TICKET, YARDSTICKS
from qrt_tn.studies.experiments.tickets.rivals import CANDIDATES, GREEDY_POINTS
from qrt_tn.studies.experiments.tickets.yardsticks import KEPT, MANY, TREES

MOST_SECONDS = 300.0  # of one core, for one seed of one method: beyond it a method is left out
BOND_SECONDS = 60.0  # of one core, for one state of "qrt": its bond is limited to keep within it
START_SECONDS = 10.0  # before and after the methods
COMPILE_SECONDS = 4.0  # of a trained network, for each count
BONDS = (256, 128, 64, 32)  # of the state of "qrt": the largest that does not take too long
_SEARCHED = 5000  # points that settings are chosen on, about
_KNOWN_POINTS = 16_384  # that a round of tickets looks at
# Operations a second of one core, as they were measured on the digits, images of 784 pixels and small tables.
_RATES = {
    "residual": 1.5e8,
    "filter": 1.5e9,
    "random-features": 2e9,
    "random-features-greedy": 2e9,
    "dense": 8e9,
    "linear": 5e9,
    "forest": 1.7e7,
    "svm": 2e9,
    "pairs": 4.5e7,
    "products": 5e9,
}


def predicted_seconds(
    method: str, points: int, features: int, outputs: int, nodes: Sequence[int], epochs: int
) -> float:
    """Seconds of one core that a method takes for one seed, within a factor of three or so; 0 if not known.

    Args:
        method: of `settings.KNOWN`; "dense" is one training of all parameters, as the ticket has another.
        points: M.
        features: D.
        outputs: C.
        nodes: counts.
        epochs: of training.
    """
    counts = np.array(nodes, dtype=np.float64)
    if method == "residual":
        search = 20 * 64 * min(points, _SEARCHED)
        # up to five inner folds and the last fit
        folds = 1 + min(5, max(1, 8000 // points))
        work = 3 * features * (search + folds * counts.sum() * min(points, _KNOWN_POINTS))
        return float(work) / _RATES[method]
    if method == "dense":
        return float(18 * epochs * points * (counts * (features + outputs)).sum()) / _RATES[method]
    if method == "qrt":
        return _compressed(points, features, largest_bond(points, features))
    work = {
        "filter": 12 * points * (counts * (features + counts)).sum(),
        "random-features": 9 * points * (counts * (features + counts)).sum(),
        "random-features-greedy": 5 * CANDIDATES * min(points, GREEDY_POINTS) * (counts**2).sum(),
        "linear": 600 * points * features * outputs,
        "forest": TREES * points * np.log2(points + 1) * features**0.5 * (1 if outputs > 1 else 4),
        "svm": 12 * (points if points <= MANY else KEPT) ** 2 * features,
    }
    return float(work[method]) / _RATES[method] if method in work else 0.0


def largest_bond(points: int, features: int) -> int:
    """The largest of `BONDS` that the state of "qrt" may have without taking too long."""
    fitting = (bond for bond in BONDS if _compressed(points, features, bond) <= BOND_SECONDS)
    return next(fitting, BONDS[-1])


def usual_methods(
    points: int, features: int, outputs: int, nodes: Sequence[int], epochs: int
) -> tuple[tuple[str, ...], list[tuple[str, float]]]:
    """The usual methods, and those among them that are left out, with their seconds.

    The ticket itself always stays. Where "dense" goes, no training of all parameters pays.
    """
    kept, left_out = [], []
    for method in (*METHODS, *YARDSTICKS):
        if method == "dense" and not epochs:
            continue
        seconds = predicted_seconds(method, points, features, outputs, nodes, epochs)
        if seconds <= MOST_SECONDS or method == TICKET:
            kept.append(method)
        else:
            left_out.append((method, seconds))
    return tuple(kept), left_out


def _compressed(points: int, features: int, bond: int) -> float:
    """Compressing a smoothed state: the exact sweep of few points, a sketch of many."""
    from qrt_tn.states.smoothing import exact, smoothing_cost

    work = smoothing_cost(points, features, 1, bond).products / _RATES["products"]
    return work + points**2 * features / _RATES["pairs"] if exact(points, features) else 4 * work
