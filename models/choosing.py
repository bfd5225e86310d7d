"""Settings of a ticket by an inner validation part: quantiser, filter width and inverse temperature."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold

from qrt_tn.baselines import filter_nodes
from qrt_tn.engine.progress import Progress, shown, silent
from qrt_tn.models.readout import select_ridge
from qrt_tn.models.residual import residual_ticket
from qrt_tn.models.splits import draw_stratified
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
    """What a ticket is drawn with; the quantiser is not fitted, and beta is 1 but for "residual"."""

    quantizer: Quantizer
    smoothing: float
    beta: float


@dataclass(frozen=True, eq=False)
class Result:
    """How settings did on validation points.

    The penalty of the output weights is the same for more points, as the noise a point adds stays the same.
    Outputs and targets, shape (V, C), are at the validation points of one or several folds.
    """

    settings: Settings
    penalty: float
    outputs: np.ndarray
    targets: np.ndarray

    @property
    def error(self) -> float:
        """Squared error a point, summed over the outputs."""
        return float(np.square(self.outputs - self.targets).sum(axis=1).mean())

    def __add__(self, other: "Result") -> "Result":
        """Both on the points of both."""
        pairs = (self.outputs, other.outputs), (self.targets, other.targets)
        shares = [len(result.targets) for result in (self, other)]
        penalty = np.exp(np.average(np.log([self.penalty, other.penalty]), weights=shares))
        return Result(self.settings, float(penalty), *map(np.concatenate, pairs))


@dataclass(frozen=True, eq=False)
class Quantized:
    """Points by their levels, int (M, D), and positions between them, float64 (M, D), and what found them."""

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
    labels: np.ndarray | None = None,
    sweeps: int,
    subsample: int | None,
    rng: np.random.Generator,
) -> tuple[Result, list[dict[str, Any]]]:
    """Try settings on inner validation parts: all with few nodes, the best of them with N.

    Few points are tried in several folds, and after each only the better half of the settings goes on
    (successive halving). The widths of "qrt" are those of its filter, since the transform of smooth data is
    nearly its filter.

    Args:
        method: one of `METHODS`.
        candidates: at least one.
        x: points, real, (M, D).
        targets: (M, C), of mean zero.
        n: the number of nodes N.
        labels: 0, 1, ..., shape (M,), each of which the folds share out; None where targets are numbers.
        sweeps: of a residual ticket.
        subsample: likewise.
        rng: draws folds and seeds.

    Returns:
        The best result with N nodes, and a row for each of the settings tried, first with few nodes.
    """
    if len(x) > _MOST_POINTS:
        strata = np.zeros(len(x), dtype=np.int64) if labels is None else labels
        kept, _ = draw_stratified(strata, _MOST_POINTS, rng, kept=0)
        x, targets, labels = x[kept], targets[kept], None if labels is None else labels[kept]
    method = "filter" if method == "qrt" else method
    parts = _folds(len(x), rng, labels)
    trial = _Trial(method, x, targets, parts, sweeps, subsample, int(rng.integers(2**31)))
    few, finalists = min(n, _FIRST_NODES, max(8, len(x) // 5)), min(_FINALISTS, len(candidates))
    folds = trial.count(min(_FIRST_POINTS, 3 * len(x))) if len(candidates) > 1 else 0
    first = [max(finalists, -(-len(candidates) // 2**fold)) for fold in range(folds)]
    last = [finalists] * trial.count(_POINTS)
    total = sum(first) + sum(last)
    with shown(None, total, "fits") as tell:
        ticks = (tell(done, total) for done in range(1, total + 1))
        tried = trial.race(candidates, few, first, ticks)
        best = [result.settings for result in tried[:finalists]] or candidates
        finals = trial.race(best, n, last, ticks)
    return finals[0], [_row(result, few) for result in tried] + [_row(result, n) for result in finals]


@dataclass(eq=False)
class _Trial:
    """Fits settings on inner training parts, and looks at the validation parts."""

    method: str
    x: np.ndarray
    targets: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]
    sweeps: int
    subsample: int | None
    seed: int

    def __post_init__(self) -> None:
        self._quantized: dict[tuple[str, int], tuple[Quantized, np.ndarray]] = {}

    def count(self, points: int) -> int:
        """How many folds it takes to have trained on so many points."""
        return int(np.clip(points // len(self.x), 1, len(self.folds)))

    def race(
        self, candidates: Sequence[Settings], nodes: int, sizes: Sequence[int], ticks: Iterator[None]
    ) -> list[Result]:
        """Results, best first: on each fold only so many of the best until then are tried."""
        going: list[Result] = []
        out: list[Result] = []
        for fold, size in enumerate(sizes):
            going, out = going[:size], going[size:] + out
            for k, settings in enumerate([result.settings for result in going] or candidates):
                found = self.fit(settings, nodes, fold)
                going[k : k + 1] = [going[k] + found if fold else found]
                next(ticks)
            going.sort(key=lambda result: result.error)
        return going + out

    def fit(self, settings: Settings, nodes: int, fold: int) -> Result:
        """On the validation part of a fold, with so many nodes."""
        train, validation = self.folds[fold]
        own, positions = self._points(settings.quantizer, fold)
        drawn = draw_nodes(
            self.method,
            settings,
            own,
            self.targets[train] - self.targets[train].mean(axis=0),
            nodes,
            sweeps=self.sweeps,
            subsample=self.subsample,
            seed=self.seed + fold,  # luck that all folds share would be taken for merit
            progress=silent,
        )
        phi, other = drawn.features(own.positions), drawn.features(positions)
        wanted = self.targets[validation]
        kernel, bias, penalty = select_ridge(phi, self.targets[train], other, wanted, RIDGES)
        return Result(settings, penalty, other @ kernel + bias, wanted)

    def _points(self, quantizer: Quantizer, fold: int) -> tuple[Quantized, np.ndarray]:
        """The training points of a fold, and positions of its validation points; found once."""
        key = (repr(quantizer), fold)
        if key not in self._quantized:
            train, validation = self.folds[fold]
            x = self.x[train]
            if (x == x[0]).all():  # only the validation points differ
                x = self.x
            fitted = clone(quantizer).fit(x)
            points = quantized(fitted, self.x[train])
            self._quantized[key] = points, points.quantizer.positions(self.x[validation])
        return self._quantized[key]


def _folds(
    count: int, rng: np.random.Generator, labels: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inner training and validation parts, four fifths and a fifth, of each label too.

    Classes may have fewer points than there are folds, which `StratifiedKFold` warns of or refuses; the only
    point of a class is always trained on.
    """
    every, seed = np.arange(count), int(rng.integers(2**31))
    if labels is None and count >= FOLDS:
        return list(KFold(FOLDS, shuffle=True, random_state=seed).split(every))
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        order = order[np.bincount(labels)[labels[order]] > 1]
        order = order[np.argsort(labels[order], kind="stable")]
    if len(order) < FOLDS:
        return [(every, every)]
    parts = [np.sort(order[fold::FOLDS]) for fold in range(FOLDS)]
    return [(np.setdiff1d(every, part), part) for part in parts]


def _row(result: Result, nodes: int) -> dict[str, Any]:
    settings = result.settings
    return {
        "quantizer": settings.quantizer.kind,
        "levels": settings.quantizer.levels,
        "smoothing": settings.smoothing,
        "beta": settings.beta,
        "nodes": nodes,
        "points": len(result.targets),
        "squared_error": result.error,
    }


def untempered(nodes: RidgeNodes) -> TemperedNodes:
    """Nodes that were not tempered as `TemperedNodes`: beta = 1, and equal weights."""
    count = len(nodes)
    b = nodes.b.astype(np.float64)
    return TemperedNodes(nodes.a, b, np.zeros(count), 1.0, float(count), 0.0, nodes.modulus)
