"""States of functions that can only be called, such as networks or simulators, by cross interpolation."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed, generator, is_real
from qrt_tn.engine.cross import Interpolation, interpolate
from qrt_tn.engine.progress import Progress
from qrt_tn.field import check_grid, check_prime, fourier
from qrt_tn.states.base import check_count
from qrt_tn.states.mps import MPSState

GUARDS = ("fold", "zero")
_ADVICE = {
    "evaluations": "allow more max_evaluations",
    "bond": "allow a larger max_bond",
    "stagnation": "sweeps no longer help: raise the tolerance, or pass points= where the function is large",
}


class InterpolatedState(MPSState):
    """A matrix product state that approximates a function known by its values alone.

    Attributes:
        interpolation_error: ||f - state|| / ||f|| over the grid that was interpolated, estimated on uniform
            random points that no fit has seen.
        interpolation_error_at_points: the same on the caller's points kept for testing; None without any.
        evaluations: the number of points at which the function was evaluated, tests included.
    """

    interpolation_error: float
    interpolation_error_at_points: float | None
    evaluations: int


def from_callable(
    function: Callable[[np.ndarray], Any],
    modulus: int,
    dim: int,
    *,
    max_bond: int = 64,
    tolerance: float = 1e-3,
    max_evaluations: int = 10**7,
    levels: int | None = None,
    guard: str = "fold",
    points: Any = None,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> InterpolatedState:
    """The state of a function on Z_P^D, as a matrix product state found by cross interpolation.

    The error is estimated on uniform random points, so it says nothing about places where none of them fall:
    a function that is large on a small part of Z_P^D, or whose values matter only near data, needs `points`
    there. All classes of a vector output share one absolute error.

    Args:
        function: takes points, int64 in 0..P-1 of shape (N, D), gives real or complex values of shape (N,),
            or (N, C) for a vector output. Single precision values make a state in single precision.
        modulus: the prime P.
        dim: D.
        max_bond: the largest bond.
        tolerance: the relative error ||f - state|| / ||f|| to reach.
        max_evaluations: of points; a sweep takes about D P bond^2, with `levels` D levels bond^2.
        levels: where data keep to levels 0 .. L-1 and leave a guard band: the function is interpolated on
            [0, L)^D alone, which takes P / L times fewer evaluations, and extended to the band. The errors
            are those on [0, L)^D.
        guard: how it is extended, coordinate by coordinate: "fold" leads linearly from level L-1 back to
            level 0, so that f is continuous on the circle; "zero" leaves f at 0 in the band.
        points: such as data, int in 0..P-1 (or 0..L-1), shape (M, D). The fit may look
            at every second; on the others the tolerance must be met too.
        seed: an int or a NumPy generator, for the test points.
        progress: called with (evaluations done, allowed); a bar without it.

    Returns:
        The state, with `interpolation_error` and `evaluations`. Where the tolerance was not reached it comes
        with a warning that names the error reached and what to do.

    Raises:
        ValueError: values of the wrong shape, NaN, a function that is zero wherever it was tried, a composite
            modulus, or a bond, tolerance, budget, levels or guard out of range.

    Example:
        >>> import numpy as np
        >>> from qrt_tn import states
        >>> state = states.from_callable(lambda x: np.exp(-x.sum(axis=1) / 7), modulus=7, dim=10)
        >>> state.bond_dimensions  # a product of functions of one coordinate each
        [1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    prime = check_prime(modulus)
    count = check_count(dim, "dim")
    bond = check_count(max_bond, "max_bond")
    budget = check_count(max_evaluations, "max_evaluations")
    if not (is_real(tolerance) and 0 < tolerance < 1):
        raise ValueError(f"tolerance is {tolerance!r}; give a number between 0 and 1, such as 1e-3")
    if not callable(function):
        raise ValueError(f"the function is a {type(function).__name__}; give what takes points (N, D)")
    extent = prime if levels is None else check_count(levels, "levels")
    if not 2 <= extent <= prime:
        raise ValueError(f"levels is {levels}; it must lie in 2..{prime} (the modulus)")
    if guard not in GUARDS:
        raise ValueError(f"guard is {guard!r}; choose one of {', '.join(GUARDS)}")
    data = None if points is None else check_grid(points, prime, "points", (None, count))
    if data is not None and data.max() >= extent:
        raise ValueError(
            f"points hold {data.max()}, beyond the {extent} levels; quantise them to 0..{extent - 1}"
        )
    interpolation = interpolate(
        function,
        [extent] * count,
        tolerance=float(tolerance),
        max_bond=bond,
        max_evaluations=budget,
        rng=generator(seed),
        points=data,
        progress=progress,
    )
    if interpolation.reason != "tolerance":
        warnings.warn(_shortfall(interpolation, tolerance), stacklevel=2)
    cores = interpolation.cores
    vector = len(cores) > count
    dtype = np.result_type(cores[0].dtype, np.complex64)
    sites = [fourier(_extended(core.astype(dtype), prime, guard), axis=1) for core in cores[vector:]]
    state = InterpolatedState(
        [*cores[:vector], *sites],
        [np.arange(prime)] * count,
        prime,
        vector=vector,
        truncation_error=interpolation.error,
        tolerance=float(tolerance),
    )
    state.interpolation_error = interpolation.error
    state.interpolation_error_at_points = interpolation.error_at_points
    state.evaluations = interpolation.evaluations
    return state


def _extended(core: np.ndarray, modulus: int, guard: str) -> np.ndarray:
    """A core with values on all of Z_P, from one with values on the levels, shape (left, levels, right)."""
    levels = core.shape[1]
    # level P is level 0 again
    place = (modulus - np.arange(levels, modulus)) * (levels - 1) / (modulus - levels + 1)
    below = place.astype(np.int64)
    share = (place - below).astype(core.real.dtype)[:, None]
    band = core[:, below] * (1 - share) + core[:, below + 1] * share
    return np.concatenate([core, band if guard == "fold" else np.zeros_like(band)], axis=1)


def _shortfall(interpolation: Interpolation, tolerance: float) -> str:
    reached = f"{interpolation.error:.2g}"
    if interpolation.error_at_points is not None:
        reached += f" ({interpolation.error_at_points:.2g} at your points)"
    return (
        f"the interpolation reached a relative error of {reached}, not the tolerance {tolerance:g}, after "
        f"{interpolation.evaluations} evaluations; {_ADVICE[interpolation.reason]}, or keep the state"
    )
