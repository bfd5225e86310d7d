"""States of data points (x_m, y_m): repeated points add up, ridge weights, and smoothing where asked for."""

from typing import Any

import numpy as np

from qrt_tn.engine.arguments import as_array, is_real
from qrt_tn.engine.backends import namespace
from qrt_tn.field import check_levels, check_numbers, check_prime
from qrt_tn.products import ModularProduct
from qrt_tn.states.base import DIGITS, ZERO, check_count, near_one
from qrt_tn.states.filters import checked_filter
from qrt_tn.states.samples import Hashes, Points, SampleState, hash_points
from qrt_tn.states.smoothing import AUTO, SmoothedState, checked_tolerance, smoothed_state

_MOST_RIDGE = 1e100  # beyond, coefficients leave float64, and the limit is long reached


def from_samples(
    x: Any,
    y: Any,
    modulus: int,
    *,
    smoothing: Any = None,
    ridge: float = 0.0,
    max_bond: int | None = None,
    tolerance: float = 0.05,
    backend: str = "auto",
) -> SampleState | SmoothedState:
    """The state of data points.

    Without `ridge`, f = sum_m y_m |x_m>: points that repeat add up. With it, f holds the coefficients
    c_x = p(x) y(x) / (p(x) + ridge), p(x) the share of the points at x and y(x) their mean, so that
    sampling from |R[f]|^2 is sampling from |w*|^2 of the ridge regression of the full network.

    Args:
        x: points, int in 0..P-1, shape (M, D). A memory-mapped file (numpy.memmap) is read in blocks and
            stays on disk, so it must stay as it is while the state lives; millions of points of small
            unsigned integers will do.
        y: values, shape (M,), or (M, C) for a vector output. Centre them (sum_m y_m = 0), or nodes are
            spent on a = 0. In single precision (float32, complex64), so is the heavy arithmetic; anything
            else is taken as double.
        modulus: the prime P.
        smoothing: the product filter tau(u) = prod_i tau_i(u_i) that multiplies f^: a width w of tau_i(u) =
            exp(-u^2 / (2 w^2)), u the centred representative; one width per coordinate, shape (D,); a table
            of tau by u = 0..P-1, real or complex, shape (1, P) or (D, P); or "auto", widths chosen by the
            risk of small tickets on held-out points (the attribute `smoothing` of the state).
        ridge: lambda of the regularised coefficients above.
        max_bond: the largest bond of a smoothed state, whatever the error.
        tolerance: largest relative error ||f - state|| / ||f|| of a smoothed state. Of few points the error
            is exact; of many it is estimated at random frequencies, with a standard error. 1,200 digits in
            ten classes at width 1 take 10 s on one core at 0.05, and 70 s at 0.01.
        backend: "numpy", "cupy", or "auto", CuPy where a CUDA device answers: where many smoothed points are
            compressed. The state is on the host; a transform moves it to its backend.

    Returns:
        An exact `SampleState`, or with smoothing a `SmoothedState`, an `MPSState` with its `truncation_error`
        and `truncation_error_std`.

    Raises:
        ValueError: composite modulus, mismatched shapes, x outside Z_P, NaN, empty data, values that
            cancel up to rounding, a width, ridge, bond or tolerance out of range, or a backend that is
            missing here.

    Example:
        >>> from qrt_tn import states
        >>> state = states.from_samples([[0, 1], [2, 0], [2, 0]], [1.0, -2.0, 1.0], modulus=3)
        >>> len(state.points), round(state.norm**2, 12)  # the values at (2, 0) add up to -1
        (2, 2.0)
    """
    namespace(backend)  # refuses one that is missing
    prime = check_prime(modulus)
    array = x if isinstance(x, np.memmap) else as_array(x, "x")  # a memory map stays one
    low, high = check_levels(array, prime, "x", (None, None))
    values = checked_values(y, len(array))
    count = len(array)
    if not (is_real(ridge) and 0 <= ridge <= _MOST_RIDGE):
        raise ValueError(f"ridge is {ridge!r}; give a number from 0 to {_MOST_RIDGE:g}")
    tolerance = checked_tolerance(tolerance)
    if smoothing is not None and not (isinstance(smoothing, str) and smoothing == AUTO):
        checked_filter(smoothing, array.shape[1], prime)  # before the points are looked at again
    if max_bond is not None:
        max_bond = check_count(max_bond, "max_bond")
    vector = values.ndim == 2
    single = values.dtype in (np.float32, np.complex64)
    # near 1, so that neither sums nor moduli overflow
    columns, log_scale = near_one(values.reshape(count, -1).astype(np.result_type(values.dtype, np.float64)))
    points = Points(array)
    hashes = hash_points(points, prime, ModularProduct(prime, points.dim, low, high))
    firsts, sums, counts, sizes = _gathered(hashes, columns)
    # values that cancel leave rounding noise, which is no point
    noise = np.where(counts > 1, (5e-7 if single else 1e-15) * sizes, 0.0)
    kept = np.flatnonzero(np.abs(sums).max(axis=1) > counts * noise)
    # the noise of many values grows as the root of their number
    if np.linalg.norm(sums[kept]) <= DIGITS * np.linalg.norm(np.sqrt(counts) * noise):
        raise ValueError(f"the sum of the values at each point is {ZERO}")
    sums, counts, firsts = sums[kept], counts[kept], firsts[kept]
    if ridge > 0:
        # p y / (p + ridge) with p = n / M and p y = (sum of y) / M
        sums = sums / (counts + ridge * count)[:, None]
    numbers = hashes.order[firsts]
    rows = np.sort(numbers)
    chosen = Points(array, None if len(rows) == count else rows).compact(high)
    places = np.searchsorted(rows, numbers)
    coefficients = np.empty_like(sums)
    coefficients[places] = sums
    state: SampleState | SmoothedState
    if smoothing is None:
        left = hashes.distinct(firsts, places)
        state = SampleState(
            chosen, coefficients, prime, vector, single=single, hashes=left, levels=(low, high)
        )
    else:
        state = smoothed_state(
            chosen[:],
            coefficients,
            prime,
            vector,
            smoothing=smoothing,
            tolerance=tolerance,
            max_bond=max_bond,
            single=single,
            backend=backend,
        )
    state.log_norm += log_scale
    return state


def checked_values(y: Any, count: int) -> np.ndarray:
    """The values of `count` points, shape (M,) or (M, C); single precision stays, all else becomes double.

    Raises:
        ValueError: another shape, no numbers, or a NaN or an infinity.
    """
    values = check_numbers(y, "y", single=True)
    if values.ndim not in (1, 2) or len(values) != count or values.size == 0:
        raise ValueError(
            f"y has shape {values.shape}; give (M,) or (M, C) with M = {count}, one row per point"
        )
    return values


def _gathered(hashes: Hashes, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of distinct points: first place in the order of the hashes, sum, count and largest of the values."""
    firsts = np.flatnonzero(hashes.depth >= 0)
    ordered = columns[hashes.order]
    largest = np.abs(ordered).max(axis=1)
    if len(firsts) == len(ordered):
        return firsts, ordered, np.ones(len(ordered), dtype=np.int64), largest
    counts = np.diff(firsts, append=len(ordered))
    return firsts, np.add.reduceat(ordered, firsts, axis=0), counts, np.maximum.reduceat(largest, firsts)
