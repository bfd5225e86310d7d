"""States that are sums of data points, f = sum_m c_m |x_m>: sampled and evaluated exactly from the points.

|f^(u)|^2 is sampled coordinate after coordinate. Given u_1 .. u_k, the next coordinate follows
sum_s |psi_s(u_{k+1})|^2, where psi_s gathers the points whose later coordinates are s. Two observations
make that cheap:

* while the later coordinates still tell all points apart, that sum is constant and u uniform;
* which coordinates come last is ours to choose, and so is the basis. The last t are random linear
  functionals y = L x over Z_P, which hash the points apart with t of about 2 log_P M, whatever the data
  look like (u . x is kept by the transposed change of u).

So all but t of the D coordinates of u are uniform, one product of an N x D with a D x M matrix holds the
cost, and `conditionals` draws the other t from its residues mod P. Frequencies go by tiles of a fixed width;
how many tiles of residues are held at once follows from the memory, and changes no result.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.backends import device_memory, namespace, resolve, to_host
from qrt_tn.engine.drawing import draw
from qrt_tn.engine.progress import shown
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.threads import threads_for, workers
from qrt_tn.field import correlated, inverses
from qrt_tn.products import ModularProduct, reduced
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import CLASS_INDEX, Cost, State, near_one, site_index
from qrt_tn.states.samples.conditionals import Conditionals
from qrt_tn.states.samples.hashing import Hashes, hash_points
from qrt_tn.states.samples.rows import BLOCK, Points, small_type
from qrt_tn.states.samples.sums import squares
from qrt_tn.states.samples.tiles import Tile, WeightedPoints

_NETWORK_LIMIT = 2**28  # elements of the one-hot tensors of `network` (2 GiB)
_MOST_HELD = 2**30  # bytes of residues held at once, at most


class SampleState(State):
    """f = sum_m c_m |x_m> over distinct points.

    Args:
        points: M distinct ones; a memory map stays on disk.
        coefficients: in double precision, shape (M, C), not all zero.
        modulus: P.
        vector: whether values carry a class axis.
        single: whether phases and sums are in single precision.
        hashes: of the points.
        levels: the smallest and the largest coordinate of any point.

    Attributes:
        memory_limit: bytes of products u . x mod P held at once (at least one tile of them is); None for a
            quarter of what is free, at most 1 GiB. No result depends on it.
    """

    def __init__(
        self,
        points: Points,
        coefficients: np.ndarray,
        modulus: int,
        vector: bool,
        *,
        single: bool,
        hashes: Hashes,
        levels: tuple[int, int],
    ) -> None:
        self.modulus = modulus
        self.dim = points.dim
        self.outputs = coefficients.shape[1]
        self.vector = vector
        self.memory_limit: int | None = None
        self._product = ModularProduct(modulus, self.dim, *levels)
        self._points = points
        self._hashes = hashes
        self._others = np.setdiff1d(np.arange(self.dim), hashes.pivots)
        wide, log_scale = near_one(coefficients)
        norm = float(np.linalg.norm(wide))
        self.log_norm = log_scale + float(np.log(norm))
        wide = wide[hashes.order] / norm
        if single:
            wide = wide.astype(np.complex64 if wide.dtype.kind == "c" else np.float32)
        self.coefficients = wide
        self._place(np, "numpy")

    def _place(self, xp: Any, backend: str) -> None:
        self._backend, hashes = backend, self._hashes
        self._weighted = WeightedPoints(hashes.values, self.coefficients, self.modulus, xp)
        # of the points as they are read, in the order of their hashes
        self._places = xp.asarray(np.argsort(hashes.order))
        self._conditionals = Conditionals(self._weighted, hashes.depth)
        self._read = self._points if xp is np else self._points.to(xp)

    def to(self, backend: str) -> "SampleState":
        """A copy that draws on a backend. Points on disk are moved block by block, others once."""
        xp = namespace(backend)
        if xp is self._weighted.xp:
            return self
        moved = copy.copy(self)
        moved._place(xp, resolve(backend))
        return moved

    @property
    def held_bytes(self) -> int:
        """Bytes of coefficients, hashes with their order and runs, and of points that are not on disk."""
        hashes, own = self._hashes, self._conditionals
        aside = hashes.values.nbytes + 2 * hashes.order.nbytes + hashes.depth.nbytes
        # of each coordinate drawn with crowds alone: where runs start, how long they are, who is alone
        aside += 17 * own.dense * len(self._points)
        points = 0 if self._points.on_disk else len(self._points) * self.dim * self._points.array.itemsize
        return int(points + self.coefficients.nbytes + aside)

    @property
    def points(self) -> np.ndarray:
        """The points in the order of `coefficients`, (M, D), in a small unsigned type."""
        return self._points[self._hashes.order]

    def arrays(self) -> list[Any]:
        """The points, their order by hash, and the coefficients in that order."""
        rows = () if self._points.rows is None else (self._points.rows,)
        return [self._points.array, *rows, self._hashes.order, self.coefficients]

    def network(self) -> qtn.TensorNetwork:
        """One tensor of coefficients and D one-hot tensors that share the hyperindex m over the points."""
        size = self.dim * len(self._points) * self.modulus
        if size > _NETWORK_LIMIT:
            raise ValueError(
                f"the network of {len(self._points)} points takes {size} elements, above {_NETWORK_LIMIT}; "
                "use amplitudes or profiles, which need none, or a smoothed state"
            )
        # in double precision, as the gates of a circuit are
        values = self.coefficients.astype(np.result_type(self.coefficients.dtype, np.float64))
        if self.vector:
            tensors = [qtn.Tensor(values, inds=["m", CLASS_INDEX], tags=["F"])]
        else:
            tensors = [qtn.Tensor(values[:, 0], inds=["m"], tags=["F"])]
        levels = np.arange(self.modulus)
        for site, column in enumerate(self.points.T):
            chosen = (column[:, None] == levels).astype(np.float64)
            tensors.append(qtn.Tensor(chosen, inds=["m", site_index(site)], tags=["F", f"F{site}"]))
        return qtn.TensorNetwork(tensors)

    def profiles(self, a: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) for every b: the histogram of a . x_m weighted by c_m, correlated with r."""
        xp = self._weighted.xp

        def work(rows: slice, tile: Tile) -> np.ndarray:
            parts = [tile.histograms(None, xp.full(tile.width, c)) for c in range(self.outputs)]
            return np.stack([correlated(part, ridgelet.values) for part in parts], axis=2)

        return self._scaled(np.concatenate(list(self._tiles(a, work))))

    def amplitudes(self, a: np.ndarray, b: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) of each pair: conj r(a . x_m - b), one look-up a point, times the coefficients."""

        def work(rows: slice, tile: Tile) -> np.ndarray:
            return self._looked_up(tile, None, np.ones(tile.width, dtype=np.int64), b[rows], ridgelet)

        return self._scaled(np.concatenate(list(self._tiles(a, work))))

    def draw(
        self, v: np.ndarray, ridgelet: Ridgelet, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw (a, b), where a = v^{-1} u and u ~ |f^(u)|^2; the products u . x_m serve both.

        The class that drew u draws b as well: given a and that class c, b follows |R[f_c](a, b)|^2.
        """
        inverse = inverses(self.modulus)[v]
        uniforms = rng.random(len(v))

        def finish(rows: slice, tile: Tile, tail: Any, classes: Any) -> tuple[np.ndarray, np.ndarray]:
            # a . x = v^{-1} u . x: the bins of a histogram change places
            bins = (v[rows, None] * np.arange(self.modulus)) % self.modulus
            moved = np.take_along_axis(tile.histograms(tail, classes), bins, axis=1)
            profiles = correlated(moved, ridgelet.values)
            b = draw(squares(profiles), uniforms[rows])
            if self.outputs == 1:
                return b, profiles[np.arange(len(profiles)), b][:, None]
            return b, self._looked_up(tile, tail, inverse[rows], b, ridgelet)

        u, ends = self._drawn(len(v), rng, finish)
        b, amplitudes = (np.concatenate(part) for part in zip(*ends, strict=True))
        a = (inverse[:, None] * u) % self.modulus
        weights = squares(amplitudes).sum(axis=1, dtype=np.float64)
        return a, b, np.log(weights) + 2 * self._log_unit

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self._drawn(count, rng, lambda *_: None)[0]

    def _spectrum(self, u: np.ndarray) -> Scaled:
        points, xp = self._weighted, self._weighted.xp
        columns, real = points.coefficients.T, points.table.real.dtype

        def work(rows: slice, tile: Tile) -> np.ndarray:
            total = xp.zeros((self.outputs, tile.width), dtype=points.complex)
            for block in tile.blocks():
                phases = points.phases(tile.keys(block))
                if columns.dtype.kind == "c":
                    total += columns[:, block] @ phases
                else:
                    total += (columns[:, block] @ phases.view(real)).view(points.complex)
            return to_host(total).T

        return self._scaled(np.concatenate(list(self._tiles(u, work))))

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        """P^{-K} sum over groups of |sum_{m in group} c_m omega^{-u.x_m}|^2: points alike elsewhere."""
        uniform = -len(coordinates) * float(np.log(self.modulus))
        others = np.setdiff1d(np.arange(self.dim), coordinates)
        count = len(self._points)
        if len(others):
            hashes = hash_points(self._points, self.modulus, self._product, others)
            order, starts = hashes.order, np.flatnonzero(hashes.depth >= 0)
        else:
            order, starts = np.arange(count), np.zeros(1, dtype=np.int64)
        if len(starts) == count:
            return np.full(len(u), uniform)
        places, ends = self._places[self._weighted.xp.asarray(order)], np.append(starts, count)
        full = np.zeros((len(u), self.dim), dtype=np.int64)
        full[:, coordinates] = u

        def work(rows: slice, tile: Tile) -> np.ndarray:
            total = np.zeros(tile.width)
            for number in range(self.outputs):
                classes = self._weighted.xp.full(tile.width, number)
                gathered = tile.phase_sums(ends, places, None, classes)
                total += to_host(squares(gathered).sum(axis=0, dtype=np.float64))
            return total

        with np.errstate(divide="ignore"):
            return np.log(np.concatenate(list(self._tiles(full, work)))) + uniform

    def _drawing(self, count: int, n_harmonics: int) -> Cost:
        own, weighted, modulus = self._conditionals, self._weighted, self.modulus
        points, t, complex_size = len(weighted), weighted.hashes.shape[1], weighted.complex.itemsize
        small, single = small_type(modulus).itemsize, self._product.dtype.itemsize
        width = min(own.width, count)
        tiles = min(-(-count // width), max(1, self._limit() // (points * width * small)))
        # bytes, fitted to measured times: products, phases and bins of the points, by class; cells that fold;
        # transforms for t coordinates and the profile; points as they are read; calls
        touched = 4 * complex_size * len(weighted.parts) + single
        touched += complex_size + 16 if self.outputs > 1 else 0
        transforms = (200 + 450 * t) * max(1.0, modulus / 2**13) ** 0.29
        moved = count * (points * touched + 200.0 * own.folded + transforms * modulus)
        moved += -(-count // (tiles * width)) * 8.0 * points * self.dim + -(-count // width) * (t + 2) * 1e6
        # residues are made from blocks of points; then cells are summed and turned, or crowds, and bins
        columns = min(count, tiles * width)
        rows = min(points, max(1, BLOCK // max(self.dim, columns)))
        block = rows * (self.dim * (single + small) + columns * (single + 2 * small))
        summed = width * (3 * own.cells * complex_size + 32 * own.crowds + 80 * modulus) + 160 * modulus
        threads = threads_for(weighted.table)
        working = max(min(threads, -(-points // rows)) * block, min(threads, tiles) * summed)
        return Cost(
            products=float(count) * points * self.dim,
            moved=moved,
            memory=float(tiles * points * width * small + working + 24 * count * (self.dim + 4))
            + 64 * modulus,
            dtype=weighted.complex.name,
        )

    @property
    def _log_unit(self) -> float:
        return -0.5 * self.dim * float(np.log(self.modulus))

    def _scaled(self, values: np.ndarray) -> Scaled:
        return Scaled(values, np.full((len(values),) + (1,) * (values.ndim - 1), self._log_unit))

    def _limit(self) -> int:
        if self.memory_limit is not None:
            return self.memory_limit
        _, free = device_memory(self._backend)
        return _MOST_HELD if free is None else min(_MOST_HELD, free // 4)

    def _tiles(self, u: np.ndarray, work: Callable[[slice, Tile], Any]) -> Iterator[Any]:
        """Results of `work` on rows of u and their u . x_m, tile by tile, in few passes over the points."""
        xp, points = self._weighted.xp, self._read
        count, length, width = len(u), len(points), self._conditionals.width
        small = small_type(self.modulus)
        held = min(-(-count // width), max(1, self._limit() // (length * width * small.itemsize)))
        residues = xp.empty((held, length, min(width, count)), dtype=small)
        with workers(threads_for(residues)) as run, shown(None, count * length, "products") as progress:
            for start in range(0, count, held * width):
                rows = slice(start, min(start + held * width, count))
                size = rows.stop - start
                factors = self._product.factors(u[rows], xp)
                pieces = [slice(first, min(first + width, size)) for first in range(0, size, width)]

                def read(
                    block: slice, factors: Any = factors, pieces: Any = pieces, size: int = size
                ) -> None:
                    block_of = xp.asarray(points[block])
                    out = xp.empty((len(block_of), size), dtype=small)
                    self._product.residues(block_of, factors, out=out)
                    # in the order of the hashes, in which they are read again and again
                    places = self._places[block]
                    for tile, piece in enumerate(pieces):
                        residues[tile, places, : piece.stop - piece.start] = out[:, piece]

                blocks = points.blocks(size)
                for block, _ in zip(blocks, run(read, blocks), strict=True):
                    progress(start * length + size * block.stop // 2, count * length)

                def one(number: int, start: int = start, pieces: Any = pieces) -> Any:
                    piece = pieces[number]
                    own = residues[number][:, : piece.stop - piece.start]
                    return work(slice(start + piece.start, start + piece.stop), Tile(own, self._weighted))

                for number, result in enumerate(run(one, range(len(pieces)))):
                    done = start * length + size * length // 2 + pieces[number].stop * length // 2
                    progress(done, count * length)
                    yield result

    def _looked_up(
        self, tile: Tile, tail: Any, factor: np.ndarray, b: np.ndarray, ridgelet: Ridgelet
    ) -> np.ndarray:
        """sum_m c_m conj r(factor u . x_m - b), shape (W, C)."""
        points, xp = self._weighted, self._weighted.xp
        kind = np.result_type(ridgelet.values.dtype.type(0), points.coefficients.dtype)
        if points.complex == np.complex64:
            kind = np.dtype(np.complex64 if kind.kind == "c" else np.float32)
        columns = points.coefficients.T.astype(kind)
        total = xp.zeros((self.outputs, tile.width), dtype=kind)
        tabled = self.modulus < len(points)  # the values of each key and column, ahead of the points
        keys = xp.arange(self.modulus)[:, None]
        factor, back = xp.asarray(factor), xp.asarray(self.modulus - b)
        values = xp.asarray(ridgelet.values.conj().astype(kind))
        if tabled:
            values = values[reduced(keys * factor + back, self.modulus)].reshape(-1)
        for block in tile.blocks():
            keys = tile.keys(block, tail).astype(np.intp)
            if tabled:
                keys = keys * tile.width + xp.arange(tile.width)
            else:
                keys = reduced(keys * factor + back, self.modulus)
            total += columns[:, block] @ values[keys]
        return to_host(total).T

    def _unhashed(self, head: np.ndarray, tail: np.ndarray) -> np.ndarray:
        """The u with u . x = head . x_others + tail . L x, from (N, D - t) and (N, t)."""
        # floating point for its fast product; t P^2 is far below 2^53
        mixed = tail.astype(np.float64) @ self._hashes.functionals[:, self._others].astype(np.float64)
        u = np.empty((len(head), self.dim), dtype=np.int64)
        u[:, self._others] = (head + mixed.astype(np.int64)) % self.modulus
        u[:, self._hashes.pivots] = tail
        return u

    def _drawn(
        self, count: int, rng: np.random.Generator, finish: Callable[..., Any]
    ) -> tuple[np.ndarray, list[Any]]:
        """Sample u ~ |f^|^2.

        Returns:
            (u, ends): shape (N, D), and what `finish(rows, tile, tail, classes)` made of each tile.
        """
        xp, t = self._weighted.xp, len(self._hashes.pivots)
        classes = self._conditionals.classes(rng.random(count))
        head = rng.integers(self.modulus, size=(count, len(self._others)))
        uniforms = rng.random((t, 2, count))
        u = np.zeros((count, self.dim), dtype=np.int64)
        u[:, self._others] = head

        def work(rows: slice, tile: Tile) -> tuple[np.ndarray, Any]:
            own = xp.asarray(classes[rows])
            tail = self._conditionals.draw(tile, own, xp.asarray(uniforms[:, :, rows]))
            return to_host(tail), finish(rows, tile, tail, own)

        tails, ends = zip(*self._tiles(u, work), strict=True)
        return self._unhashed(head, np.hstack(tails).T), list(ends)
