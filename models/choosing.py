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
_POINTS = 2000  # validated on several folds until about so many points were trained on in all
_MOST_POINTS = 6000  # that settings are chosen on
_FIRST_NODES = 64  # that all settings are tried with
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
class Choice:
    """The settings with the smallest squared error on the validation points.

    Attributes:
        settings: chosen.
        penalty: of the output weights, for each training point.
        outputs: at validation points of all folds, shape (V, C).
        targets: of the same points.
        tried: a row for each of the settings, in the order tried.
    """

    settings: Settings
    penalty: float
    outputs: np.ndarray
    targets: np.ndarray
    tried: list[dict[str, Any]]


def draw_nodes(
    method: str,
    settings: Settings,
    x: np.ndarray,
    targets: np.ndarray,
    n: int,
    *,
    sweeps: int,
    subsample: int | None,
    seed: int,
    progress: Progress | None = None,
) -> tuple[Quantizer, TemperedNodes]:
    """The quantiser fitted to points x, real (M, D), and N nodes for targets (M, C) of mean zero.

    Targets that are all zero tell no node from another: nodes are then drawn from the filter.
    """
    quantizer = clone(settings.quantizer).fit(x)
    modulus, width = quantizer.modulus, settings.smoothing
    if method == "residual" and targets.any():
        nodes = residual_ticket(
            quantizer.transform(x),
            targets,
            n,
            modulus=modulus,
            positions=quantizer.positions(x),
            smoothing=width,
            beta=settings.beta,
            sweeps=sweeps,
            subsample=subsample,
            seed=seed,
            progress=progress,
        )
        return quantizer, nodes
    cosine = Ridgelet("cosine", modulus)
    if method == "qrt" and targets.any():
        state = from_samples(quantizer.transform(x), targets, modulus, smoothing=width, tolerance=_TOLERANCE)
        plain = QuantumRidgeletTransform(state, cosine).sample(n, seed, progress=progress)
    else:
        plain = filter_nodes(n, quantizer.dim, cosine, width, seed)
    return quantizer, _untempered(plain)


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
) -> Choice:
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
    """
    if len(x) > _MOST_POINTS:
        rows = rng.permutation(len(x))[:_MOST_POINTS]
        x, targets = x[rows], targets[rows]
    folds = _folds(len(x), rng)
    seed = int(rng.integers(2**31))
    source = "filter" if method == "qrt" else method

    def tried(settings: Settings, nodes: int) -> tuple[float, float, list[tuple[np.ndarray, np.ndarray]]]:
        errors, penalties, outputs = [], [], []
        for train, validation in folds:
            mean = targets[train].mean(axis=0)
            quantizer, drawn = draw_nodes(
                source,
                settings,
                x[train],
                targets[train] - mean,
                nodes,
                sweeps=sweeps,
                subsample=subsample,
                seed=seed,
                progress=silent,
            )
            phi, other = (drawn.features(quantizer.positions(x[part])) for part in (train, validation))
            kernel, bias, ridge = select_ridge(phi, targets[train], other, targets[validation], RIDGES)
            found = other @ kernel + bias
            errors.append(float(np.square(found - targets[validation]).sum()))
            penalties.append(np.log(ridge / len(train)))
            outputs.append((found, targets[validation]))
        count = sum(len(validation) for _, validation in folds)
        return sum(errors) / count, float(np.exp(np.mean(penalties))), outputs

    few = min(n, _FIRST_NODES, max(8, len(folds[0][0]) // 4))
    finalists = list(range(len(candidates)))
    rows_of: list[dict[str, Any]] = []
    stages = [few] if few == n else [few, n]
    total = len(candidates) + (min(_FINALISTS, len(candidates)) if len(stages) > 1 else 0)
    best = None
    with shown(None, total, "settings") as tell:
        for nodes in stages:
            results = []
            for number in finalists:
                results.append((tried(candidates[number], nodes), number))
                rows_of.append(_row(candidates[number], nodes, results[-1][0][0]))
                tell(len(rows_of), total)
            results.sort(key=lambda result: result[0][0])
            finalists = [number for _, number in results[:_FINALISTS]]
            best = results[0]
    assert best is not None
    (_, penalty, outputs), number = best
    found, wanted = (np.concatenate(part) for part in zip(*outputs, strict=True))
    return Choice(candidates[number], penalty, found, wanted, rows_of)


def _folds(count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inner parts: a fifth to validate on; for few points, in turns."""
    if count < FOLDS:
        everything = np.arange(count)
        return [(everything, everything)]
    parts = list(KFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31))).split(np.empty(count)))
    return parts[: int(np.clip(_POINTS // count, 1, FOLDS))]


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


def _untempered(nodes: RidgeNodes) -> TemperedNodes:
    count = len(nodes)
    b = nodes.b.astype(np.float64)
    return TemperedNodes(nodes.a, b, np.zeros(count), 1.0, float(count), 0.0, nodes.modulus)
