"""From data points (x_m, y_m) to a state: repeated points, ridge weights, and the choice of a form."""

from typing import Any

import numpy as np

from engine.arguments import as_array
from qrt_tn.field import check_grid, check_prime
from qrt_tn.states.base import check_count
from qrt_tn.states.mps import MPSState
from qrt_tn.states.samples import SampleState
from qrt_tn.states.smoothing import checked_tolerance, smoothed_state


def from_samples(
    x: Any,
    y: Any,
    modulus: int,
    *,
    smoothing: float | Any | None = None,
    ridge: float = 0.0,
    max_bond: int | None = None,
    tolerance: float = 1e-2,
) -> SampleState | MPSState:
    """The state of data points.

    Without `ridge`, f = sum_m y_m |x_m>: points that repeat add up. With it, f holds the coefficients
    c_x = p(x) y(x) / (p(x) + ridge), p(x) the share of the points at x and y(x) their mean, so that
    sampling from |R[f]|^2 is sampling from |w*|^2 of the ridge regression of the full network.

    Args:
        x: points, int in 0..P-1, shape (M, D).
        y: values, shape (M,), or (M, C) for a vector output. Centre them (sum_m y_m = 0), or nodes are
            spent on a = 0.
        modulus: the prime P.
        smoothing: width w of the filter tau(u) = prod_i exp(-u_i^2 / (2 w^2)), u_i the centred
            representative, that multiplies f^; a number, or one per coordinate, shape (D,).
        ridge: lambda of the regularised coefficients above.
        max_bond: the largest bond of a smoothed state, whatever the error.
        tolerance: largest relative error ||f - held|| / ||f|| of a smoothed state.

    Returns:
        An exact `SampleState`, or with smoothing an `MPSState` with its `truncation_error`.

    Raises:
        ValueError: composite modulus, mismatched shapes, x outside Z_P, NaN, empty data, values that
            cancel to zero, or a width, ridge, bond or tolerance out of range.
    """
    prime = check_prime(modulus)
    points = check_grid(x, prime, "x", (None, None))
    values = as_array(y, "y")
    if values.ndim not in (1, 2) or len(values) != len(points) or values.size == 0:
        raise ValueError(
            f"y has shape {values.shape}; give (M,) or (M, C) with M = {len(points)}, one row per point"
        )
    if values.dtype.kind not in "biufc":
        raise ValueError(f"y has dtype {values.dtype}; give numbers (one column per class for labels)")
    if not np.isfinite(values).all():
        raise ValueError(f"y holds {values[~np.isfinite(values)][0]}; every value must be finite")
    if isinstance(ridge, bool) or not isinstance(ridge, int | float | np.number) or not 0 <= ridge < np.inf:
        raise ValueError(f"ridge is {ridge!r}; give a number of at least 0")
    tolerance = checked_tolerance(tolerance)
    if max_bond is not None:
        max_bond = check_count(max_bond, "max_bond")
    vector = values.ndim == 2
    dtype = np.complex128 if values.dtype.kind == "c" else np.float64
    columns = values.reshape(len(values), -1).astype(dtype)
    distinct, sums, counts = _gathered(points, columns)
    # values that cancel leave rounding noise, which is no point
    kept = np.abs(sums).max(axis=1) > 1e-15 * counts * np.abs(columns).max()
    if ridge > 0:
        # p y / (p + ridge) with p = n / M and p y = (sum of y) / M
        sums = sums / (counts + ridge * len(points))[:, None]
    if not kept.any():
        raise ValueError("the values are zero, or cancel at every point; a state needs a norm")
    if smoothing is None:
        return SampleState(distinct[kept], sums[kept], prime, vector)
    return smoothed_state(
        distinct[kept], sums[kept], prime, vector, smoothing=smoothing, tolerance=tolerance, max_bond=max_bond
    )


def _gathered(points: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct points, the sums of their values, and how often each occurs."""
    compact = points.astype(np.min_scalar_type(int(points.max())))  # rows of few bytes sort quickly
    distinct, place, counts = np.unique(compact, axis=0, return_inverse=True, return_counts=True)
    sums = np.zeros((len(distinct), columns.shape[1]), dtype=columns.dtype)
    np.add.at(sums, place.reshape(-1), columns)
    return distinct.astype(np.int64), sums, counts
