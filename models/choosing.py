"""Settings of a ticket by an inner validation part: quantiser, filter width and inverse temperature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold

from qrt_tn.baselines import filter_nodes
from qrt_tn.engine.progress import Progress, shown, silent
from qrt_tn.models.readout import select_ridge
from qrt_tn.models.residual import residual_ticket
from qrt_tn.nodes import RidgeNodes
from qrt_tn.quantize import Quantizer
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states import from_samples
from qrt_tn.tempered import TemperedNodes
from qrt_tn.transform import QuantumRidgeletTransform

METHODS = ("residual", "qrt", "filter")
RIDGES = tuple(float(ridge) for ridge in np.logspace(-4, 3, 15))
FOLDS = 5
_MOST_POINTS = 6000  # that settings are chosen on
_FIRST_NODES = 64  # that all settings are tried with
_FIRST_POINTS = 600  # trained on, in all folds, when all settings are tried: fewer points, more folds
_POINTS = 8000  # the same when the best of them are
_FINALISTS = 3  # settings that are tried with all nodes
_TOLERANCE = 0.05  # of a smoothed state


@dataclass(frozen=True)
class Settings:
    """What a ticket is drawn with.

    Attributes:
        quantizer: not fitted.
        smoothing: the width of the filter.
        beta: the inverse temperature; 1 for other methods than "residual".
    """

    quantizer: Quantizer
    smoothing: float
    beta: float


@dataclass(frozen=True, eq=False)
class Result:
    """How settings did on validation points.

    Attributes:
        settings: what was tried.
        error: squared error a point, summed over the outputs.
        penalty: of the output weights; the same for more points, as the noise a point adds stays the same.
        outputs: at validation points of all folds, shape (V, C).
        targets: of the same points.
    """

    settings: Settings
    error: float
    penalty: float
    outputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Quantized:
    """Points by their levels and their positions between them.

    Attributes:
        quantizer: fitted.
        levels: int (M, D).
        positions: float64 (M, D).
    """

    quantizer: Quantizer
    levels: np.ndarray
    positions: np.ndarray


def quantized(quantizer: Quantizer, x: np.ndarray) -> Quantized:
    """Points x, real (M, D), by a fitted quantiser."""
    return Quantized(quantizer, quantizer.transform(x), quantizer.positions(x))


def draw_nodes(
    method: str,
    settings: Settings,
    points: Quantized,
    targets: np.ndarray,
    n: int,
    *,
    sweeps: int,
    subsample: int | None,
    seed: int,
    progress: Progress | None = None,
) -> TemperedNodes:
    """Draw N nodes for targets (M, C) of mean zero.

    Targets that are constant tell no node from another: nodes are then drawn from the filter.
    """
    modulus, width = points.quantizer.modulus, settings.smoothing
    varied = np.ptp(targets, axis=0).any()
    if method == "residual" and varied:
        return residual_ticket(
            points.levels,
            targets,
            n,
            modulus=modulus,
            positions=points.positions,
            smoothing=width,
            beta=settings.beta,
            sweeps=sweeps,
            subsample=subsample,
            seed=seed,
            progress=progress,
        )
    cosine = Ridgelet("cosine", modulus)
    if method == "qrt" and varied:
        state = from_samples(points.levels, targets, modulus, smoothing=width, tolerance=_TOLERANCE)
        return untempered(QuantumRidgeletTransform(state, cosine).sample(n, seed, progress=progress))
    return untempered(filter_nodes(n, points.levels.shape[1], cosine, width, seed))


def choose_settings(
    method: str,
    candidates: Sequence[Settings],
    x: np.ndarray,
    targets: np.ndarray,
    n: int,
    *,
    sweeps: int,
    subsample: int | None,
    rng: np.random.Generator,
) -> tuple[Result, list[dict[str, Any]]]:
    """Try settings on inner validation parts: all with few nodes, the best of them with N.

    The widths of "qrt" are those of its filter, since the transform of smooth data is nearly its filter.

    Args:
        method: one of `METHODS`.
        candidates: at least one.
        x: points, real, (M, D).
        targets: (M, C), of mean zero.
        n: the number of nodes N.
        sweeps: of a residual ticket.
        subsample: of a residual ticket.
        rng: draws folds and seeds.

    Returns:
        The best result with N nodes, and a row for each of the settings, in the order tried.
    """
    if len(x) > _MOST_POINTS:
        kept = rng.permutation(len(x))[:_MOST_POINTS]
        x, targets = x[kept], targets[kept]
    trial = _Trial(
        "filter" if method == "qrt" else method, x, targets, _folds(len(x), rng), sweeps, subsample, rng
    )
    few = min(n, _FIRST_NODES, max(8, len(x) // 5))
    finalists = min(_FINALISTS, len(candidates))
    total = len(candidates) + finalists if len(candidates) > 1 else 1
    rows: list[dict[str, Any]] = []
    with shown(None, total, "settings") as tell:

        def results(chosen: Sequence[Settings], nodes: int, points: int) -> list[Result]:
            found = []
            for settings in chosen:
                found.append(trial.result(settings, nodes, points))
                rows.append(_row(settings, nodes, found[-1].error))
                tell(len(rows), total)
            return sorted(found, key=lambda result: result.error)

        best = list(candidates)
        if len(best) > 1:
            first = results(best, few, min(_FIRST_POINTS, 3 * len(x)))
            best = [result.settings for result in first[:finalists]]
        return results(best, n, _POINTS)[0], rows


class _Trial:
    """Fits settings on inner training parts, and looks at the validation parts."""

    def __init__(
        self,
        method: str,
        x: np.ndarray,
        targets: np.ndarray,
        folds: list[tuple[np.ndarray, np.ndarray]],
        sweeps: int,
        subsample: int | None,
        rng: np.random.Generator,
    ) -> None:
        self._method, self._x, self._targets, self._folds = method, x, targets, folds
        self._sweeps, self._subsample, self._seed = sweeps, subsample, int(rng.integers(2**31))
        self._quantized: dict[tuple[str, int], tuple[Quantized, np.ndarray]] = {}

    def result(self, settings: Settings, nodes: int, points: int) -> Result:
        """With so many nodes, on as many folds as it takes to have trained on so many points."""
        count = int(np.clip(points // len(self._x), 1, len(self._folds)))
        outputs, wanted, penalties = [], [], []
        for fold in range(count):
            train, validation = self._folds[fold]
            own, positions = self._points(settings.quantizer, fold)
            mean = self._targets[train].mean(axis=0)
            drawn = draw_nodes(
                self._method,
                settings,
                own,
                self._targets[train] - mean,
                nodes,
                sweeps=self._sweeps,
                subsample=self._subsample,
                seed=self._seed + fold,  # luck that all folds share would be taken for merit
                progress=silent,
            )
            phi, other = drawn.features(own.positions), drawn.features(positions)
            wanted.append(self._targets[validation])
            kernel, bias, ridge = select_ridge(phi, self._targets[train], other, wanted[-1], RIDGES)
            outputs.append(other @ kernel + bias)
            penalties.append(np.log(ridge))
        found, true = np.concatenate(outputs), np.concatenate(wanted)
        error = float(np.square(found - true).sum(axis=1).mean())
        return Result(settings, error, float(np.exp(np.mean(penalties))), found, true)

    def _points(self, quantizer: Quantizer, fold: int) -> tuple[Quantized, np.ndarray]:
        """The training points of a fold, and positions of its validation points; found once."""
        key = (repr(quantizer), fold)
        if key not in self._quantized:
            train, validation = self._folds[fold]
            x = self._x[train]
            if (x == x[0]).all():  # only the validation points differ
                x = self._x
            fitted = clone(quantizer).fit(x)
            points = quantized(fitted, self._x[train])
            self._quantized[key] = points, points.quantizer.positions(self._x[validation])
        return self._quantized[key]


def _folds(count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inner training and validation parts, four fifths and a fifth."""
    if count < FOLDS:
        return [(np.arange(count), np.arange(count))]
    folds = KFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    return list(folds.split(np.empty(count)))


def _row(settings: Settings, nodes: int, error: float) -> dict[str, Any]:
    quantizer = settings.quantizer
    return {
        "quantizer": quantizer.kind,
        "levels": quantizer.levels,
        "smoothing": settings.smoothing,
        "beta": settings.beta,
        "nodes": nodes,
        "squared_error": error,
    }


def untempered(nodes: RidgeNodes) -> TemperedNodes:
    """Nodes of the transform, its filter or none of them as nodes at beta = 1 that all count alike."""
    count = len(nodes)
    b = nodes.b.astype(np.float64)
    return TemperedNodes(nodes.a, b, np.zeros(count), 1.0, float(count), 0.0, nodes.modulus)
