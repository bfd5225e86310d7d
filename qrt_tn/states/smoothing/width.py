"""Choose the width of a smoothing filter by validation risk, before any state is built.

A ticket of the smoothed function is a set of random frequencies u ~ |f^(u) tau(u)|^2 with fitted weights. For
each width, frequencies are drawn from part of the points by importance resampling of frequencies of the
filter (Rubin 1987), weights are fitted by ridge regression, and the width with the least squared error on
the points held out is taken. The best width of kernel ridge regression with all points is broader (8x8
digits: 1.2, where tickets of 64 to 512 nodes do best at 0.6 to 0.8).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.field import centred
from qrt_tn.states.filters import Filter, checked_filter
from qrt_tn.states.smoothing.error import point_sums

NODES = 128  # of the tickets compared
FEWEST_POINTS = 32
_POINTS = (1536, 768)  # fitted and held out, at most
_SPREADS = tuple(0.03 * 2.0**step for step in range(10))  # phase variances compared, 0.03 to 15
_POWERS = (0.0, 0.5)  # of each coordinate's spread
_LEAST_SPREAD = 1e-2  # of the mean one, below which coordinates are alike
_CANDIDATES = 8  # frequencies of the filter for each one kept
_DRAWS = 4  # tickets of one width
_RIDGES = 10.0 ** np.arange(-5, 3)  # per point


@dataclass(frozen=True, eq=False)
class WidthChoice:
    """The width chosen, and the risks of all that were tried.

    Attributes:
        smoothing: the width, or one per coordinate, shape (D,).
        tried: for each candidate its `width` (of a coordinate of mean spread), the `power` of the
            coordinate's spread that the widths follow, the `risk` (squared error over that of predicting 0,
            on points held out) and its standard error `std`.
        points: the numbers of points fitted and held out.
        nodes: of the tickets compared.
    """

    smoothing: Any
    tried: list[dict[str, float]]
    points: tuple[int, int]
    nodes: int


def automatic_width(
    points: np.ndarray,
    coefficients: np.ndarray,
    modulus: int,
    *,
    nodes: int = NODES,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> WidthChoice:
    """Choose the width of the smoothing filter, the same for all coordinates or after their spreads.

    The points are distinct, shape (M, D), their coefficients of shape (M, C). Tickets of fewer `nodes` want a
    narrower filter.

    Raises:
        ValueError: too few points, or points that do not differ.
    """
    if len(points) < FEWEST_POINTS:
        raise ValueError(
            f"smoothing 'auto' holds points out and needs at least {FEWEST_POINTS} distinct ones, not "
            f"{len(points)}; give a width"
        )
    rng = generator(seed)
    order = rng.permutation(len(points))
    out = min(_POINTS[1], len(points) // 3)
    held_out, fitted = order[:out], order[out : out + _POINTS[0]]
    data = [
        (points[np.sort(rows)].astype(np.int64), coefficients[np.sort(rows)]) for rows in (fitted, held_out)
    ]
    deviation = data[0][0].std(axis=0)
    if not deviation.any():
        raise ValueError("the points do not differ in any coordinate; give a width")
    candidates = [(power, spread) for power in _POWERS for spread in _SPREADS]
    tried: list[dict[str, float]] = []
    best: tuple[float, Any] = (np.inf, None)
    same = int(rng.integers(2**63))  # every width sees the same random numbers
    with shown(progress, len(candidates), "widths") as report:
        for power, spread in candidates:
            relative = np.maximum(deviation / deviation[deviation > 0].mean(), _LEAST_SPREAD) ** power
            width = _width_of(spread, relative, deviation, modulus)
            widths = width if power == 0 else width * relative
            product = checked_filter(widths, points.shape[1], modulus)
            risks = _risks(product, data, nodes, np.random.default_rng(same))
            risk, std = float(np.mean(risks)), float(np.std(risks, ddof=1)) / np.sqrt(len(risks))
            tried.append({"width": width, "power": power, "risk": risk, "std": std})
            if risk < best[0]:
                best = (risk, widths)
            report(len(tried), len(candidates))
    return WidthChoice(best[1], tried, (len(fitted), out), nodes)


def _width_of(spread: float, relative: np.ndarray, deviation: np.ndarray, modulus: int) -> float:
    """The width whose phases u.x vary by `spread` (radians squared) over the points, or the broadest.

    The variance of the phase is sum_i E[u_i^2] (2 pi / P)^2 Var[x_i], u_i ~ tau_i^2; found by bisection.
    """
    frequencies = centred(np.arange(modulus), modulus)
    squares = (2 * np.pi / modulus * frequencies) ** 2
    distinct, rows = np.unique(relative, return_inverse=True)
    variance = np.bincount(rows.reshape(-1), weights=deviation**2)
    low, high = np.log(0.05), np.log(float(modulus))
    for _ in range(24):
        middle = (low + high) / 2
        with np.errstate(under="ignore"):
            weights = np.exp(-((frequencies / (np.exp(middle) * distinct[:, None])) ** 2))
        if float(variance @ (weights @ squares / weights.sum(axis=1))) < spread:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def _risks(product: Filter, data: list[Any], nodes: int, rng: np.random.Generator) -> list[float]:
    """The risk of some tickets: squared error on the points held out, over that of predicting 0."""
    (points, values), (others, targets) = data
    pairs = max(1, nodes // 2)  # a frequency has a cosine and a sine
    u = product.sample(_CANDIDATES * pairs, rng)
    weights = (np.abs(point_sums(points, values, u, product.modulus)) ** 2).sum(axis=1)
    usable = min(pairs, int((weights > 0).sum()))
    if usable == 0:
        return [1.0] * _DRAWS
    norm, risks = float((np.abs(targets) ** 2).sum()), []
    for _ in range(_DRAWS):
        chosen = u[rng.choice(len(u), usable, replace=False, p=weights / weights.sum())]
        features, unseen = (_waves(x, chosen, product.modulus) for x in (points, others))
        means = features.mean(axis=0)
        features, unseen = features - means, unseen - means
        strengths, vectors = np.linalg.eigh(features.T @ features)
        strengths = np.maximum(strengths, 0.0)  # rounding leaves some slightly below
        projected, unseen = vectors.T @ (features.T @ values), unseen @ vectors
        fits = [unseen @ (projected / (strengths + ridge * len(points))[:, None]) for ridge in _RIDGES]
        errors = [(np.abs(fit - targets) ** 2).sum() for fit in fits]
        risks.append(float(min(errors)) / norm if norm > 0 else 1.0)
    return risks


def _waves(points: np.ndarray, u: np.ndarray, modulus: int) -> np.ndarray:
    """Cos and sin of 2 pi u.x / P, shape (M, 2 N)."""
    products = points.astype(np.float64) @ centred(u, modulus).T.astype(np.float64)
    angles = 2 * np.pi / modulus * products
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
