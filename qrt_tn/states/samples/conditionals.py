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
from qrt_tn.field import roots_of_unity
from qrt_tn.products import reduced
from qrt_tn.states.samples.fused import ALL, Columns, phase_sums
from qrt_tn.states.samples.gathering import Runs, binned, squares

_CACHED = 2**17  # terms worked on at once, so that they stay in a core's cache
_LAUNCHED = 2**24  # and on a device, where launches cost more than memory does
_SUMMED = 2**21  # sums held for a tile (16 to 32 MiB); on a device sixteen times as many
_NARROWEST, _WIDEST = 8, 512  # columns of a tile
_DENSE = 0.25  # share of the points in crowds from which on all are summed


class Sums:
    """c_m omega^{-u.x_m} of points that lie in runs of the sorted points, and their sums over each run.

    Args:
        places: the points, increasing places in the sorted order, shape (K,); None for all.
        starts: where each run starts among them, shape (G,).
        model: what the points weigh.
        width: columns summed at once.
    """

    def __init__(self, places: np.ndarray | None, starts: np.ndarray, model: "Weighted", width: int) -> None:
        self.count = len(starts)
        length = len(model.hashes) if places is None else len(places)
        self._places = ALL if places is None else places
        self._ends = np.append(starts, length)
        if model.fused:
            return
        step = max(1, model.block // width)
        self._blocks = []
        weights = to_host(model.coefficients)[:, 0] if model.plain else None
        for first in range(0, length, step):
            rows = slice(first, min(first + step, length))
            low = int(np.searchsorted(starts, rows.start, side="right")) - 1
            high = int(np.searchsorted(starts, rows.stop, side="left"))
            inside = np.maximum(starts[low:high] - rows.start, 0)
            chosen: Any = rows if places is None else places[rows]
            own = None if weights is None else weights[chosen]
            runs = Runs(inside, rows.stop - rows.start, own, model.real, model.xp)
            if places is not None:
                chosen = model.xp.asarray(chosen)
            self._blocks.append((chosen, slice(low, high), runs))

    def of(self, tile: "Tile", tail: Any, classes: Any) -> Any:
        """Sums over each run, (G, W)."""
        model = tile.model
        if model.fused:
            return phase_sums(tile.columns(tail, classes), model.table, self._places, self._ends)
        total = model.xp.zeros((self.count, tile.width), dtype=model.complex)
        for chosen, cells, runs in self._blocks:
            terms = model.phases(tile.keys(chosen, tail))
            if not model.plain:
                terms *= model.weights_of(chosen, classes)
            total[cells] += runs.sums(terms)
        return total


class Weighted:
    """Sorted points as a draw sees them: their hashes and coefficients.

    Args:
        hashes: y, shape (M, t).
        coefficients: c, shape (M, C).
        modulus: P.
        xp: where they live, numpy or cupy.
        order: the row of each among the residues of a tile, shape (M,), where it is not its own.
    """

    def __init__(
        self,
        hashes: np.ndarray,
        coefficients: np.ndarray,
        modulus: int,
        xp: Any = np,
        order: np.ndarray | None = None,
    ) -> None:
        self.xp = xp
        self.block = _CACHED if xp is np else _LAUNCHED
        self.modulus = modulus
        self.hashes = xp.asarray(hashes)
        self.order = None if order is None else xp.asarray(order)
        self.coefficients = xp.asarray(coefficients)
        self.outputs = coefficients.shape[1]
        # whether the compiled passes take these points
        self.fused = xp is np and order is None and coefficients.dtype.kind == "f"
        # one real coefficient a point is left to the sums
        self.plain = coefficients.shape[1] == 1 and coefficients.dtype.kind == "f"
        single = coefficients.dtype in (np.float32, np.complex64)
        self.real = np.dtype(np.float32 if single else np.float64)
        self.complex = np.dtype(np.complex64 if single else np.complex128)
        self.table = xp.asarray(roots_of_unity(modulus).conj().astype(self.complex))
        exact = hashes.shape[1] * (modulus - 1) ** 2 + modulus < 2**24
        self.floats: Any = np.float32 if exact else np.float64
        self.whole: Any = np.int32 if exact else np.int64

    def phases(self, keys: Any) -> Any:
        """omega^{-k} of keys in 0..P-1."""
        return self.table[keys.astype(np.intp)]

    def weights_of(self, chosen: Any, classes: Any) -> Any:
        """The points' coefficients by the class of each column, (K, W); (K, 1) where there is one class."""
        rows = self.coefficients[chosen]
        return rows if self.outputs == 1 else self.xp.take(rows, classes, axis=1)


class Tile:
    """u . x_m mod P of W frequencies, shape (M, W), points in the order of their hashes."""

    def __init__(self, residues: Any, model: Weighted) -> None:
        self.residues = residues
        self.model = model
        self.width = residues.shape[1]

    def keys(self, chosen: Any, tail: Any = None) -> Any:
        """Products u . x mod P of sorted points, with hashed coordinates (j, W) added; integers, (K, W)."""
        model = self.model
        rows = self.residues[chosen]
        if model.order is not None:
            rows = model.xp.take(self.residues, model.order[chosen], axis=0)
        if tail is None or len(tail) == 0:
            return rows
        sums = model.hashes[chosen, : len(tail)].astype(model.floats) @ tail.astype(model.floats)
        sums += rows
        return reduced(sums.astype(model.whole), model.modulus)

    def columns(self, tail: Any, classes: Any) -> Columns:
        """What the compiled passes take, with hashed coordinates (j, W) and the columns' classes."""
        model = self.model
        if tail is None:
            tail = np.empty((0, self.width))
        residues = np.ascontiguousarray(self.residues)
        return Columns(residues, model.hashes, tail.astype(model.floats), model.coefficients, classes)

    def keys_at(self, places: Any, columns: Any, tail: Any) -> Any:
        """The same of single points, one column each: places and columns of one shape."""
        model = self.model
        rows = places if model.order is None else model.order[places]
        keys = self.residues[rows, columns].astype(np.int64)
        for number in range(len(tail)):
            keys = keys + model.hashes[places, number].astype(np.int64) * tail[number][columns]
        return reduced(keys, model.modulus)

    def blocks(self) -> list[slice]:
        """Slices of the sorted points for work that stays in a core's cache."""
        count, step = len(self.model.hashes), max(1, self.model.block // self.width)
        return [slice(first, min(first + step, count)) for first in range(0, count, step)]


class _Sparse(NamedTuple):
    """A coordinate at which few cells are crowded."""

    starts: Any  # of the runs, places in the sorted points
    lengths: Any
    alone: Any  # whether a point is the only one of its cell, (M,)
    running: Any  # sums of |c|^2 of the points alone, up to each stride of them, (strides, C)
    crowds: Sums | None
    firsts: Any  # the first point of each crowd


class _Fold(NamedTuple):
    """A coordinate that is drawn from cells: their value of it, and the runs they fold into."""

    digits: Any  # (cells,)
    starts: Any  # of the runs, places in the cells
    lengths: Any
    longest: int
    runs: Runs


class Conditionals:
    """Draws the t hashed coordinates of u ~ sum_c |f^_c(u)|^2 given the others, which are uniform.

    Args:
        model: the points.
        depth: the last functional in which a point differs from the one before, shape (M,).

    Attributes:
        width: columns of a tile.
        cells: rows of the sums over all points.
        crowds: rows of the largest sums over crowds alone.
        dense: how many coordinates are drawn with crowds alone.
    """

    def __init__(self, model: Weighted, depth: np.ndarray) -> None:
        self.model = model
        t, xp = model.hashes.shape[1], model.xp
        count = len(depth)
        cells = [np.flatnonzero(depth >= number) for number in range(t + 1)]
        cells[t] = np.zeros(1, dtype=np.int64)
        crowded = [_crowded(starts, count) for starts in cells[:t]]
        self.dense = next((j for j in range(t) if crowded[j].mean() >= _DENSE), t - 1)
        self.cells = len(cells[self.dense])
        # the bins of a tile's histograms are to stay in a core's cache too
        room = min(_SUMMED // self.cells, _CACHED // model.modulus) * (1 if xp is np else 16)
        self.width = min(max(_NARROWEST, 2 ** round(np.log2(max(1, room)))), _WIDEST)
        self._stride = math.isqrt(count) + 1
        weights = squares(to_host(model.coefficients)).astype(np.float64)
        self._class_running = np.cumsum(weights.sum(axis=0))
        self._sparse = [
            self._sparse_level(cells[j], cells[j + 1], crowded[j], weights) for j in range(self.dense)
        ]
        self.crowds = max(
            (0 if each.crowds is None else each.crowds.count for each in self._sparse), default=0
        )
        self._cells = Sums(None, cells[self.dense], model, self.width)
        hashes = to_host(model.hashes)
        self._folds = []
        for j in range(self.dense, t):
            starts = np.searchsorted(cells[j], cells[j + 1])
            lengths = np.diff(starts, append=len(cells[j]))
            runs = Runs(starts, len(cells[j]), None, model.real, xp)
            digits = hashes[cells[j], j].astype(np.int64)
            longest = int(lengths.max())
            self._folds.append(
                _Fold(xp.asarray(digits), xp.asarray(starts), xp.asarray(lengths), longest, runs)
            )

    def classes(self, uniforms: np.ndarray) -> np.ndarray:
        """The class each frequency is drawn from, by its norm; shape (N,)."""
        return draw_running(self._class_running, uniforms)

    def draw(self, tile: Tile, classes: Any, uniforms: Any) -> Any:
        """Hashed coordinates for the columns of a tile.

        Args:
            tile: the products without them.
            classes: of the columns, shape (W,).
            uniforms: in [0, 1), shape (t, 2, W).

        Returns:
            int64, shape (t, W).
        """
        xp = self.model.xp
        drawn: list[Any] = []
        tail = xp.zeros((0, tile.width), dtype=np.int64)
        for level in self._sparse:
            drawn.append(self._draw_sparse(level, tile, tail, classes, uniforms[len(drawn)]))
            tail = xp.stack(drawn)
        psi = self._cells.of(tile, tail, classes)
        for fold in self._folds:
            drawn.append(self._draw_dense(fold, psi, uniforms[len(drawn)]))
            if fold is not self._folds[-1]:
                psi = fold.runs.sums(psi * xp.take(self._turns(drawn[-1]), fold.digits, axis=0))
        return xp.stack(drawn)

    def _turns(self, frequencies: Any) -> Any:
        """omega^{-u b} for every b, (P, W)."""
        b = self.model.xp.arange(self.model.modulus)
        return self.model.phases(reduced(b[:, None] * frequencies[None, :], self.model.modulus))

    def _draw_dense(self, fold: _Fold, psi: Any, uniforms: Any) -> Any:
        xp, width = self.model.xp, psi.shape[1]
        columns = xp.arange(width)
        spread = xp.zeros((width, self.model.modulus), dtype=psi.dtype)
        if fold.runs.count == 1:
            spread[:, fold.digits] = psi.T
            return _frequency(spread, uniforms[1])
        weights = fold.runs.sums(squares(psi)).astype(np.float64)
        run = draw(weights.T, uniforms[0])
        offsets = xp.arange(fold.longest)
        inside = offsets < fold.lengths[run][:, None]
        places = xp.where(inside, fold.starts[run][:, None] + offsets, 0)
        values = psi[places, columns[:, None]] * inside
        keys = fold.digits[places] + self.model.modulus * columns[:, None]
        spread = binned(keys, values, width * self.model.modulus).reshape(width, self.model.modulus)
        return _frequency(spread, uniforms[1])

    def _draw_sparse(self, level: _Sparse, tile: Tile, tail: Any, classes: Any, uniforms: Any) -> Any:
        xp, modulus = self.model.xp, self.model.modulus
        point = self._draw_point(level, tile, tail, classes, uniforms[0])
        run = xp.searchsorted(level.starts, point, side="right") - 1
        offsets = xp.arange(int(level.lengths[run].max()))
        inside = offsets < level.lengths[run][:, None]
        places = xp.where(inside, level.starts[run][:, None] + offsets, 0)
        columns = xp.arange(tile.width)[:, None]
        terms = self.model.phases(tile.keys_at(places, columns + 0 * places, tail))
        of_class = 0 * columns if self.model.outputs == 1 else classes[:, None]
        terms = terms * self.model.coefficients[places, of_class] * inside
        keys = self.model.hashes[places, len(tail)].astype(np.int64) + modulus * columns
        return _frequency(binned(keys, terms, modulus * tile.width).reshape(-1, modulus), uniforms[1])

    def _draw_point(self, level: _Sparse, tile: Tile, tail: Any, classes: Any, uniforms: Any) -> Any:
        """A point of the run drawn: alone by its |c|^2, or the first of a crowd by the crowd's |psi|^2."""
        xp = self.model.xp
        alone = level.running[-1, classes]
        if level.crowds is None:
            return self._draw_alone(level, classes, uniforms)
        weights = squares(level.crowds.of(tile, tail, classes)).astype(np.float64).T
        crowds = weights.sum(axis=1)
        target = uniforms * (alone + crowds)
        among = xp.logical_or((target >= alone) & (crowds > 0), alone <= 0)
        # within the part chosen, what is left of the uniform is uniform again
        single = self._draw_alone(level, classes, xp.where(among, 0.5, target / xp.where(among, 1, alone)))
        share = xp.where(among, (target - alone) / xp.where(among, crowds, 1), 0.5)
        return xp.where(among, level.firsts[draw(weights, share)], single)

    def _draw_alone(self, level: _Sparse, classes: Any, uniforms: Any) -> Any:
        """A point alone in its cell, by |c|^2: first a stride of points, then one in it."""
        xp = self.model.xp
        running = level.running[:, classes]
        target = uniforms * running[-1]
        stride = xp.minimum((running[:-1] <= target).sum(axis=0), len(running) - 1)
        columns = xp.arange(len(stride))
        before = xp.where(stride > 0, running[xp.maximum(stride - 1, 0), columns], 0)
        own = running[stride, columns] - before
        places = stride[:, None] * self._stride + xp.arange(self._stride)
        there = places < len(level.alone)
        places = xp.where(there, places, 0)
        of_class = 0 * classes if self.model.outputs == 1 else classes
        weights = squares(self.model.coefficients[places, of_class[:, None]]).astype(np.float64)
        weights = weights * (level.alone[places] & there)
        share = xp.where(own > 0, (target - before) / xp.where(own > 0, own, 1), 0)
        return stride * self._stride + draw(weights, xp.minimum(share, 1 - 1e-16))

    def _sparse_level(
        self, cells: np.ndarray, runs: np.ndarray, crowded: np.ndarray, weights: np.ndarray
    ) -> _Sparse:
        model, xp = self.model, self.model.xp
        count = len(crowded)
        strides = np.arange(0, count, self._stride)
        running = np.cumsum(np.add.reduceat(weights * ~crowded[:, None], strides, axis=0), axis=0)
        places = np.flatnonzero(crowded)
        firsts = cells[np.diff(cells, append=count) > 1]
        crowds = None
        if len(places):
            crowds = Sums(places, np.searchsorted(places, firsts), model, self.width)
        lengths = np.diff(runs, append=count)
        starts, lengths, alone, running = map(xp.asarray, (runs, lengths, ~crowded, running))
        return _Sparse(starts, lengths, alone, running, crowds, xp.asarray(firsts))


def _crowded(starts: np.ndarray, count: int) -> np.ndarray:
    """Whether each of `count` rows shares its run with another; shape (count,)."""
    lengths = np.diff(starts, append=count)
    return np.repeat(lengths > 1, lengths)


def _frequency(psi: Any, uniforms: Any) -> Any:
    """Draw from |FFT|^2 of each row."""
    return draw(squares(array_module(psi).fft.fft(psi, axis=1)).astype(np.float64), uniforms)
