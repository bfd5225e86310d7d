"""Tiles: the products u . x_m of some frequencies with all points, and sums over points by phase or by bin.

On the host the passes are compiled (`sums`), and write nothing of size M x W but the products; complex
coefficients pass twice, by their real and imaginary parts. On a device they go array by array.
"""

from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.field import roots_of_unity
from qrt_tn.products import reduced
from qrt_tn.states.samples.sums import ALL, Columns, binned, histograms, phase_sums, run_sums

CACHED = 2**17  # terms worked on at once, so that they stay in a core's cache
_LAUNCHED = 2**24  # and on a device, where launches cost more than memory does


class WeightedPoints:
    """Points in the order of their hashes, as tiles see them.

    Args:
        hashes: y, shape (M, t).
        coefficients: c, shape (M, C).
        modulus: P.
        xp: where they live, numpy or cupy.
    """

    def __init__(self, hashes: np.ndarray, coefficients: np.ndarray, modulus: int, xp: Any = np) -> None:
        self.modulus = modulus
        self.hashes = xp.asarray(hashes)
        self.coefficients = xp.asarray(coefficients)
        self.outputs = coefficients.shape[1]
        self.complex = np.result_type(coefficients.dtype, np.complex64)
        self.table = xp.asarray(roots_of_unity(modulus).conj().astype(self.complex))
        exact = hashes.shape[1] * (modulus - 1) ** 2 + modulus < 2**24
        self.floats: Any = np.float32 if exact else np.float64
        self.whole: Any = np.int32 if exact else np.int64
        self.parts = [coefficients]
        if coefficients.dtype.kind == "c":
            self.parts = [np.ascontiguousarray(part) for part in (coefficients.real, coefficients.imag)]

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def xp(self) -> Any:
        """The array module of the points."""
        return array_module(self.table)

    def phases(self, keys: Any) -> Any:
        """omega^{-k} of keys in 0..P-1."""
        return self.table[keys.astype(np.intp)]

    def weights_of(self, chosen: Any, classes: Any) -> Any:
        """The points' coefficients by the class of each column, (K, W); (K, 1) where there is one class."""
        rows = self.coefficients[chosen]
        return rows if self.outputs == 1 else self.xp.take(rows, classes, axis=1)


class Tile:
    """u . x_m mod P of W frequencies, shape (M, W), points in the order of their hashes."""

    def __init__(self, residues: Any, points: WeightedPoints) -> None:
        self.residues = residues
        self.points = points
        self.width = residues.shape[1]

    def blocks(self, count: int | None = None) -> list[slice]:
        """Slices of `count` points, of all where None, for work that stays in a core's cache."""
        count = len(self.points) if count is None else count
        step = max(1, (CACHED if self.points.xp is np else _LAUNCHED) // self.width)
        return [slice(first, min(first + step, count)) for first in range(0, count, step)]

    def keys(self, chosen: Any, tail: Any = None) -> Any:
        """Products u . x mod P of some points, with hashed coordinates (j, W) added; integers, (K, W)."""
        points, rows = self.points, self.residues[chosen]
        if tail is None or len(tail) == 0:
            return rows
        sums = points.hashes[chosen, : len(tail)].astype(points.floats) @ tail.astype(points.floats)
        sums += rows
        return reduced(sums.astype(points.whole), points.modulus)

    def keys_at(self, places: Any, columns: Any, tail: Any) -> Any:
        """The same of single points, one column each: places and columns of one shape."""
        keys = self.residues[places, columns].astype(np.int64)
        for number in range(len(tail)):
            keys = keys + self.points.hashes[places, number].astype(np.int64) * tail[number][columns]
        return reduced(keys, self.points.modulus)

    def phase_sums(self, ends: np.ndarray, places: Any, tail: Any, classes: Any) -> Any:
        """sum_m c_m omega^{-u.x_m} over runs of points, shape (G, W); arguments as `sums.phase_sums`.

        `places` may be None for all; `tail` are hashed coordinates to add, (j, W).
        """
        points, xp = self.points, self.points.xp
        if xp is np:
            some = ALL if places is None else places
            sums = [phase_sums(part, points.table, some, ends) for part in self._columns(tail, classes)]
            return sums[0] if len(sums) == 1 else sums[0] + 1j * sums[1]
        total = xp.zeros((len(ends) - 1, self.width), dtype=points.complex)
        for rows in self.blocks(int(ends[-1])):
            chosen = rows if places is None else places[rows]
            terms = points.phases(self.keys(chosen, tail)) * points.weights_of(chosen, classes)
            low = int(np.searchsorted(ends, rows.start, side="right")) - 1
            high = int(np.searchsorted(ends, rows.stop))
            inside = np.clip(ends[low : high + 1] - rows.start, 0, len(terms))
            total[low:high] += run_sums(terms, inside)
        return total

    def histograms(self, tail: Any, classes: Any) -> np.ndarray:
        """sum_m c_m [u . x_m = k mod P] for each column and its class, on the host, shape (W, P)."""
        points, xp = self.points, self.points.xp
        if xp is np:
            parts = [histograms(part, points.modulus) for part in self._columns(tail, classes)]
            return parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
        offsets = points.modulus * xp.arange(self.width)
        kind = np.result_type(points.coefficients.dtype, np.float64)
        total = xp.zeros(self.width * points.modulus, dtype=kind)
        for block in self.blocks():
            keys = self.keys(block, tail) + offsets
            weights = points.weights_of(block, classes).astype(kind)
            total += binned(keys, xp.broadcast_to(weights, keys.shape), len(total))
        return to_host(total).reshape(self.width, points.modulus)

    def _columns(self, tail: Any, classes: Any) -> list[Columns]:
        tail = np.empty((0, self.width)) if tail is None else tail
        residues = np.ascontiguousarray(self.residues)
        tail = tail.astype(self.points.floats)
        return [Columns(residues, self.points.hashes, tail, part, classes) for part in self.points.parts]
