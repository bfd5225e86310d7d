"""The hashed coordinates of a frequency, drawn one after the other from a sum of points.

Given the coordinates of u before it, hashed coordinate j follows sum_s |psi_s(u_j)|^2, where the *run* s
gathers the points that share y_{j+1} .. y_{t-1}. By Parseval the run may be drawn first, by the squared norms
of what the *cells* of points that share y_j .. y_{t-1} add up to. Two regimes:

* sparse: most cells hold one point, which weighs |c|^2 whatever its phase. Only crowded cells are summed;
* dense: cells are summed once over all points, and after every draw folded into the cells of the next
  coordinate, so that no later coordinate looks at the points again.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.drawing import draw, draw_running
from qrt_tn.field import fourier
from qrt_tn.products import reduced
from qrt_tn.states.samples.sums import binned, run_sums, squares
from qrt_tn.states.samples.tiles import CACHED, Tile, WeightedPoints

_SUMMED = 2**21  # sums held for a tile (16 to 32 MiB); on a device sixteen times as many
_NARROWEST, _WIDEST = 8, 512  # columns of a tile
_BINNED = 2**20  # bins of a tile of the narrowest, or one column
_DENSE = 0.25  # share of the points in crowds from which on all are summed


class _Sparse(NamedTuple):
    """A coordinate at which few cells are crowded."""

    starts: Any  # of the runs, places in the sorted points
    lengths: Any
    alone: Any  # whether a point is the only one of its cell, (M,)
    running: Any  # sums of |c|^2 of the points alone, up to each stride of them, (strides, C)
    crowded: Any  # the points of all crowds, and on the host where each crowd starts among them
    ends: np.ndarray
    firsts: Any  # the first point of each crowd


class _Fold(NamedTuple):
    """A coordinate that is drawn from cells: their value of it, and the runs they fold into."""

    digits: Any  # (cells,)
    ends: np.ndarray  # where the runs that cells fold into start, on the host
    starts: Any  # the same as places in the cells
    lengths: Any
    longest: int


class Conditionals:
    """Draws the t hashed coordinates of u ~ sum_c |f^_c(u)|^2 given the others, which are uniform.

    Args:
        points: with their coefficients.
        depth: the last functional in which a point differs from the one before, shape (M,).

    Attributes:
        width: columns of a tile.
        cells: rows of the sums over all points.
        crowds: rows of the largest sums over crowds alone.
        dense: how many coordinates are drawn with crowds alone.
        folded: rows of the sums that the others fold, one after the other.
    """

    def __init__(self, points: WeightedPoints, depth: np.ndarray) -> None:
        self.points = points
        t, xp, count = points.hashes.shape[1], points.xp, len(depth)
        cells = [np.flatnonzero(depth >= number) for number in range(t + 1)]
        cells[t] = np.zeros(1, dtype=np.int64)
        crowded = [_crowded(starts, count) for starts in cells[:t]]
        self.dense = next((j for j in range(t) if crowded[j].mean() >= _DENSE), t - 1)
        self.cells = len(cells[self.dense])
        self.folded = sum(map(len, cells[self.dense : t]))
        # the bins of a tile's histograms are to stay in a core's cache too
        most = min(_SUMMED // self.cells, CACHED // points.modulus) * (1 if xp is np else 16)
        least = max(1, min(_NARROWEST, _BINNED // points.modulus))
        self.width = min(max(least, 2 ** round(np.log2(max(1, most)))), _WIDEST)
        self._stride = math.isqrt(count) + 1
        weights = squares(to_host(points.coefficients)).astype(np.float64)
        self._class_running = np.cumsum(weights.sum(axis=0))
        self._sparse = [
            self._sparse_level(cells[j], cells[j + 1], crowded[j], weights) for j in range(self.dense)
        ]
        self.crowds = max((len(level.ends) - 1 for level in self._sparse), default=0)
        self._ends = np.append(cells[self.dense], count)
        hashes = to_host(points.hashes)
        self._folds = []
        for j in range(self.dense, t):
            starts = np.searchsorted(cells[j], cells[j + 1])
            ends = np.append(starts, len(cells[j]))
            lengths, digits = np.diff(ends), hashes[cells[j], j].astype(np.int64)
            places = (xp.asarray(starts), xp.asarray(lengths))
            self._folds.append(_Fold(xp.asarray(digits), ends, *places, int(lengths.max())))

    def classes(self, uniforms: np.ndarray) -> np.ndarray:
        """The class each frequency is drawn from, by its norm; shape (N,)."""
        return draw_running(self._class_running, uniforms)

    def draw(self, tile: Tile, classes: Any, uniforms: Any) -> Any:
        """Hashed coordinates (t, W) for the columns of a tile of products without them.

        `classes` are the columns', (W,); `uniforms` in [0, 1), (t, 2, W).
        """
        xp = self.points.xp
        drawn: list[Any] = []
        tail = xp.zeros((0, tile.width), dtype=np.int64)
        for level in self._sparse:
            drawn.append(self._draw_sparse(level, tile, tail, classes, uniforms[len(drawn)]))
            tail = xp.stack(drawn)
        psi = tile.phase_sums(self._ends, None, tail, classes)
        for fold in self._folds:
            drawn.append(self._draw_dense(fold, psi, uniforms[len(drawn)]))
            if fold is not self._folds[-1]:
                psi = run_sums(psi * xp.take(self._turns(drawn[-1]), fold.digits, axis=0), fold.ends)
        return xp.stack(drawn)

    def _turns(self, frequencies: Any) -> Any:
        """omega^{-u b} for every b, (P, W)."""
        b = self.points.xp.arange(self.points.modulus)
        return self.points.phases(reduced(b[:, None] * frequencies[None, :], self.points.modulus))

    def _draw_dense(self, fold: _Fold, psi: Any, uniforms: Any) -> Any:
        xp, width = self.points.xp, psi.shape[1]
        columns = xp.arange(width)
        spread = xp.zeros((width, self.points.modulus), dtype=psi.dtype)
        if len(fold.starts) == 1:
            spread[:, fold.digits] = psi.T
            return _frequency(spread, uniforms[1])
        weights = run_sums(squares(psi), fold.ends).astype(np.float64)
        run = draw(weights.T, uniforms[0])
        places, inside = _members(fold.starts[run], fold.lengths[run], fold.longest)
        values = psi[places, columns[:, None]] * inside
        keys = fold.digits[places] + self.points.modulus * columns[:, None]
        spread = binned(keys, values, width * self.points.modulus).reshape(width, self.points.modulus)
        return _frequency(spread, uniforms[1])

    def _draw_sparse(self, level: _Sparse, tile: Tile, tail: Any, classes: Any, uniforms: Any) -> Any:
        xp, modulus = self.points.xp, self.points.modulus
        point = self._draw_point(level, tile, tail, classes, uniforms[0])
        run = xp.searchsorted(level.starts, point, side="right") - 1
        lengths = level.lengths[run]
        places, inside = _members(level.starts[run], lengths, int(lengths.max()))
        columns = xp.arange(tile.width)[:, None]
        terms = self.points.phases(tile.keys_at(places, columns + 0 * places, tail))
        of_class = 0 * columns if self.points.outputs == 1 else classes[:, None]
        terms = terms * self.points.coefficients[places, of_class] * inside
        keys = self.points.hashes[places, len(tail)].astype(np.int64) + modulus * columns
        return _frequency(binned(keys, terms, modulus * tile.width).reshape(-1, modulus), uniforms[1])

    def _draw_point(self, level: _Sparse, tile: Tile, tail: Any, classes: Any, uniforms: Any) -> Any:
        """A point of the run drawn: alone by its |c|^2, or the first of a crowd by the crowd's |psi|^2."""
        xp = self.points.xp
        alone = level.running[-1, classes]
        if len(level.firsts) == 0:
            return self._draw_alone(level, classes, uniforms)
        sums = tile.phase_sums(level.ends, level.crowded, tail, classes)
        weights = squares(sums).astype(np.float64).T
        crowds = weights.sum(axis=1)
        target = uniforms * (alone + crowds)
        among = xp.logical_or((target >= alone) & (crowds > 0), alone <= 0)
        # within the part chosen, what is left of the uniform is uniform again
        single = self._draw_alone(level, classes, xp.where(among, 0.5, target / xp.where(among, 1, alone)))
        share = xp.where(among, (target - alone) / xp.where(among, crowds, 1), 0.5)
        return xp.where(among, level.firsts[draw(weights, share)], single)

    def _draw_alone(self, level: _Sparse, classes: Any, uniforms: Any) -> Any:
        """A point alone in its cell, by |c|^2: first a stride of points, then one in it."""
        xp = self.points.xp
        running = level.running[:, classes]
        target = uniforms * running[-1]
        stride = xp.minimum((running[:-1] <= target).sum(axis=0), len(running) - 1)
        columns = xp.arange(len(stride))
        before = xp.where(stride > 0, running[xp.maximum(stride - 1, 0), columns], 0)
        own = running[stride, columns] - before
        places = stride[:, None] * self._stride + xp.arange(self._stride)
        there = places < len(level.alone)
        places = xp.where(there, places, 0)
        of_class = 0 * classes if self.points.outputs == 1 else classes
        weights = squares(self.points.coefficients[places, of_class[:, None]]).astype(np.float64)
        weights = weights * (level.alone[places] & there)
        share = xp.where(own > 0, (target - before) / xp.where(own > 0, own, 1), 0)
        return stride * self._stride + draw(weights, xp.minimum(share, 1 - 1e-16))

    def _sparse_level(
        self, cells: np.ndarray, runs: np.ndarray, crowded: np.ndarray, weights: np.ndarray
    ) -> _Sparse:
        count = len(crowded)
        strides = np.arange(0, count, self._stride)
        running = np.cumsum(np.add.reduceat(weights * ~crowded[:, None], strides, axis=0), axis=0)
        places = np.flatnonzero(crowded)
        firsts = cells[np.diff(cells, append=count) > 1]
        ends = np.append(np.searchsorted(places, firsts), len(places))
        lengths = np.diff(runs, append=count)
        asarray = self.points.xp.asarray
        starts, alone = asarray(runs), asarray(~crowded)
        sums, crowd = asarray(running), asarray(places)
        return _Sparse(starts, asarray(lengths), alone, sums, crowd, ends, asarray(firsts))


def _crowded(starts: np.ndarray, count: int) -> np.ndarray:
    """Whether each of `count` rows shares its run with another; shape (count,)."""
    lengths = np.diff(starts, append=count)
    return np.repeat(lengths > 1, lengths)


def _members(starts: Any, lengths: Any, most: int) -> tuple[Any, Any]:
    """The places of runs, (W, most), and which of them lie in the run; 0 where they do not."""
    xp = array_module(starts)
    offsets = xp.arange(most)
    inside = offsets < lengths[:, None]
    return xp.where(inside, starts[:, None] + offsets, 0), inside


def _frequency(psi: Any, uniforms: Any) -> Any:
    """Draw from |F psi|^2 of each row."""
    return draw(squares(fourier(psi)).astype(np.float64), uniforms)
