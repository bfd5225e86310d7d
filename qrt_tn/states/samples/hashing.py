"""Points told apart by random linear functionals over Z_P, in one pass over them and without sorting rows.

Two different points agree in a random functional with probability 1/P, so t of them, with P^t well above M^2,
leave every hash to one point; rows that share a hash are compared to be sure.
"""

from typing import NamedTuple

import numpy as np

from qrt_tn.engine.progress import shown
from qrt_tn.engine.threads import threads_for, workers
from qrt_tn.products import ModularProduct
from qrt_tn.states.samples.rows import BLOCK, Points, small_type

_SPARE = 10  # bits of a hash beyond the 2 log2 M at which one chance agreement is expected


class Hashes(NamedTuple):
    """Points in the order of their hashes, the last functional first.

    Attributes:
        functionals: L, shape (t, D).
        pivots: t coordinates where L is the identity.
        order: the points' numbers in that order, shape (M,); equal points keep theirs.
        values: L x mod P in that order, shape (M, t).
        depth: the last functional in which a point differs from the one before it; -1 where it is the same
            point, t for the first; shape (M,).
    """

    functionals: np.ndarray
    pivots: np.ndarray
    order: np.ndarray
    values: np.ndarray
    depth: np.ndarray

    def distinct(self, kept: np.ndarray, places: np.ndarray) -> "Hashes":
        """Of points at `kept` places of this order, all different, and as few functionals as tell them apart.

        The kept places increase; `places` are the points' new numbers.
        """
        values = self.values[kept]
        depth = _depth(values)
        t = values.shape[1]
        fewer = min(int(depth[1:].min()), t - 1) if len(depth) > 1 else t - 1
        return Hashes(
            self.functionals[fewer:],
            self.pivots[fewer:],
            places,
            np.ascontiguousarray(values[:, fewer:]),
            depth - fewer,
        )


def hash_points(
    points: Points, modulus: int, product: ModularProduct, coordinates: np.ndarray | None = None
) -> Hashes:
    """Hash points so that two share a hash only where they are equal, in the `coordinates` if given."""
    rng = np.random.default_rng(0)  # fixed, so that the same points give the same samples
    allowed = np.arange(points.dim) if coordinates is None else coordinates
    pivots = rng.permutation(allowed)
    bits = 2 * np.log2(len(points)) + _SPARE
    t = min(len(allowed), int(np.ceil(bits / np.log2(modulus))))
    while True:
        functionals = np.zeros((t, points.dim), dtype=np.int64)
        functionals[:, allowed] = rng.integers(modulus, size=(t, len(allowed)))
        functionals[:, pivots[:t]] = np.eye(t, dtype=np.int64)
        values = _products(points, functionals, product)
        order = _sorted(values, modulus)
        values = values[order]
        hashes = Hashes(functionals, pivots[:t], order, values, _depth(values))
        # all coordinates among the pivots: equal hashes are equal points
        if t == len(allowed) or _alike(points, hashes, allowed if coordinates is not None else slice(None)):
            return hashes
        t = min(2 * t, len(allowed))


def _products(points: Points, functionals: np.ndarray, product: ModularProduct) -> np.ndarray:
    values = np.empty((len(points), len(functionals)), dtype=small_type(product.modulus))
    factors = product.factors(functionals)
    blocks = points.blocks(len(functionals))
    with workers(threads_for(values)) as run, shown(None, len(points), "points") as progress:
        done = run(lambda block: product.residues(points[block], factors, out=values[block]), blocks)
        for block, _ in zip(blocks, done, strict=True):
            progress(block.stop, len(points))
    return values


def _sorted(values: np.ndarray, modulus: int) -> np.ndarray:
    count, t = values.shape
    if modulus**t >= 2**63:
        return np.lexsort(values.T)
    packed = np.zeros(count, dtype=np.int64)
    for column in values.T[::-1]:
        packed *= modulus
        packed += column
    return np.argsort(packed, kind="stable")


def _depth(values: np.ndarray) -> np.ndarray:
    """The last column in which each row differs from the one before, -1 for none; t for the first row."""
    t = values.shape[1]
    depth = np.full(len(values), -1, dtype=np.int16)
    for number in range(t):
        column = values[:, number]
        depth[1:][column[1:] != column[:-1]] = number
    depth[0] = t
    return depth


def _alike(points: Points, hashes: Hashes, coordinates: np.ndarray | slice) -> bool:
    """Whether points that share a hash are the same in the coordinates."""
    repeats = np.flatnonzero(hashes.depth < 0)
    size = max(1, BLOCK // points.dim)
    for start in range(0, len(repeats), size):
        own = repeats[start : start + size]
        left, right = points[hashes.order[own]], points[hashes.order[own - 1]]
        if (left[:, coordinates] != right[:, coordinates]).any():
            return False
    return True
