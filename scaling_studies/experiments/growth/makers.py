"""States of every kind from random data: drawn first, so that building can be timed alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qrt_tn import Ridgelet, states
from qrt_tn.states import State

Build = Callable[[], State]

_EXCITED = 16  # coordinates of a frequency that a smoothed state leaves off zero, about
_TOLERANCE = 1e-2


def samples(dim: int, modulus: int, points: int, rng: np.random.Generator, dtype: str = "complex64") -> Build:
    """Points spread over the whole grid, their values real and centred.

    Args:
        dim: D.
        modulus: P.
        points: M.
        rng: draws points and values.
        dtype: of the arithmetic.
    """
    x = rng.integers(modulus, size=(points, dim), dtype=np.min_scalar_type(modulus - 1))
    return partial(states.from_samples, x, _centred(rng, points, dtype), modulus)


def smoothed(
    dim: int,
    modulus: int,
    points: int,
    rng: np.random.Generator,
    dtype: str = "complex64",
    backend: str = "numpy",
) -> Build:
    """Waves of random phase on the lowest seventh of the grid's levels, smoothed and compressed.

    The rest of the grid is a guard band (17 of 127 levels hold data, as the digits' do). Neighbouring
    coordinates are alike, as in images; of unrelated ones the bond would be the number of points. The width
    w falls with D as tau(1)^2 = exp(-1 / w^2) = 8 / D, so that the same number of coordinates of a
    frequency is off zero at any D: otherwise points would tell themselves apart the better the larger D is.

    Args:
        dim: D.
        modulus: P.
        points: M.
        rng: draws phases and values.
        dtype: of the arithmetic.
        backend: where the points are compressed.
    """
    levels = max(2, round(17 * modulus / 127))
    angles = 2 * np.pi * (np.arange(dim) / dim + rng.random((points, 1)))
    x = np.rint((levels - 1) / 2 * (1 + np.sin(angles))).astype(np.min_scalar_type(modulus - 1))
    width = 1 / np.sqrt(max(np.log(2 * dim / _EXCITED), 0.25))  # at most 2, where D is small
    return partial(
        states.from_samples,
        x,
        _centred(rng, points, dtype),
        modulus,
        smoothing=float(width),
        tolerance=_TOLERANCE,
        backend=backend,
    )


def mps(dim: int, modulus: int, bond: int, rng: np.random.Generator, dtype: str = "complex64") -> Build:
    """A random chain.

    Args:
        dim: D.
        modulus: P.
        bond: of all inner bonds.
        rng: draws the cores.
        dtype: of the cores.
    """
    bonds = [1] + [bond] * (dim - 1) + [1]
    shapes = [(bonds[site], modulus, bonds[site + 1]) for site in range(dim)]
    cores = [(rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype) for shape in shapes]
    return partial(states.from_mps, cores)


def ridges(dim: int, hidden: int, ridgelet: Ridgelet, rng: np.random.Generator) -> Build:
    """A planted network.

    Args:
        dim: D.
        hidden: its nodes.
        ridgelet: gives P and r.
        rng: draws the network.
    """
    modulus = ridgelet.modulus
    a = rng.integers(modulus, size=(hidden, dim))
    return partial(
        states.from_ridges, a, rng.integers(modulus, size=hidden), rng.normal(size=hidden), ridgelet
    )


def dense(dim: int, modulus: int, rng: np.random.Generator) -> Build:
    """All P^D values, in double precision.

    Args:
        dim: D.
        modulus: P.
        rng: draws the values.
    """
    return partial(states.from_dense, rng.normal(size=(modulus,) * dim))


def _centred(rng: np.random.Generator, points: int, dtype: str) -> Any:
    y = rng.normal(size=points).astype(np.float32 if dtype == "complex64" else np.float64)
    return y - y.mean()
