"""Planted networks: sums of ridges, whose spectrum lies on few lines through the origin.

With r(t) = P^{-1/2} sum_v r^(v) omega^{vt}, the ridge sum f(x) = sum_k c_k r((a_k.x - b_k) mod P) has

    f^(u) = P^{(D-1)/2} sum_k c_k sum_v r^(v) omega^{-v b_k} [u = v a_k].

Each ridge fills the line {v a_k}; ridges on one line add up; a ridge with a_k = 0 is a constant, at u = 0,
where all other ridges are 0, as r has mean zero. So f^ is a table of one number per line, harmonic and class,
whatever D is: sampling is one categorical draw, and the harmonics of a profile lie on the line of its a.
"""

from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.drawing import draw, draw_running
from qrt_tn.engine.scaled import Scaled
from qrt_tn.field import check_grid, check_numbers, inverse_fourier, inverses, roots_of_unity
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import CLASS_INDEX, DIGITS, ZERO, Cost, State, near_one, site_index

_BLOCK = 2**22  # coordinates worked on at once (32 MiB)
_NETWORK_LIMIT = 2**27  # elements of the site tensors of `network` (2 GiB)
_NOISE = 1e-15  # of a sum of moduli: what rounding leaves of a sum that cancels
LINE, HARMONIC = "line", "w"  # the hyperindices of `network`


class RidgeSumState(State):
    """f^ = sum over lines l, harmonics w and classes c of heights[l, w, c] |w d_l, c>.

    Args:
        directions: d_l, distinct, the first coordinate that is not 0 being 1; all 0 for the constant.
            Unsigned ints, shape (L, D).
        heights: complex, shape (L, P, C), of any scale; [l, 0] is 0 on all lines but the constant's, which
            has nothing else.
        vector: whether values carry a class axis.
        log_scale: log of what the heights must be multiplied with.

    Attributes:
        directions: as above.
        heights: as above, of norm 1.
    """

    def __init__(self, directions: np.ndarray, heights: np.ndarray, vector: bool, log_scale: float) -> None:
        self.dim = directions.shape[1]
        self.modulus, self.outputs = heights.shape[1:]
        self.vector = vector
        heights, shift = near_one(heights)
        norm = float(np.linalg.norm(heights))
        self.log_norm = float(np.log(norm)) + shift + log_scale
        self.directions = directions
        self.heights = heights / norm
        self._weights = (np.abs(self.heights) ** 2).sum(axis=2)
        self._running = np.cumsum(self._weights)
        self._lines = {row.tobytes(): line for line, row in enumerate(directions)}

    @property
    def held_bytes(self) -> int:
        """Bytes of the directions, as rows and as keys, and of the heights."""
        return 2 * self.directions.nbytes + self.heights.nbytes + self._weights.nbytes + self._running.nbytes

    def arrays(self) -> list[Any]:
        """Directions and heights."""
        return [self.directions, self.heights]

    def network(self) -> qtn.TensorNetwork:
        """A tensor of heights, and one P^{-1/2} omega^{w d_{l,i} x} per site, which share l and w."""
        size = self.dim * len(self.directions) * self.modulus**2
        if size > _NETWORK_LIMIT:
            raise ValueError(
                f"the network of {len(self.directions)} lines takes {size} elements, above {_NETWORK_LIMIT}; "
                "use amplitudes, profiles or sample, which need none"
            )
        inds = [LINE, HARMONIC]
        named = [*inds, CLASS_INDEX] if self.vector else inds
        tensors = [qtn.Tensor(self.heights if self.vector else self.heights[:, :, 0], named, tags=["F"])]
        waves = roots_of_unity(self.modulus) / np.sqrt(self.modulus)
        k = np.arange(self.modulus)
        for site, column in enumerate(self.directions.T.astype(np.int64)):
            powers = (column[:, None] * k) % self.modulus
            tensor = waves[(powers[:, :, None] * k) % self.modulus]
            tensors.append(qtn.Tensor(tensor, inds=[*inds, site_index(site)], tags=["F", f"F{site}"]))
        return qtn.TensorNetwork(tensors)

    def profiles(self, a: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) for every b: the harmonics of one line, so one look-up for each a."""
        lines, multiples = self._find(a)
        rows = max(1, _BLOCK // (self.modulus * self.outputs))
        blocks = [slice(start, start + rows) for start in range(0, len(a), rows)]
        parts = [self._on_lines(lines[block], multiples[block], ridgelet) for block in blocks]
        return Scaled(np.concatenate(parts), np.zeros((len(a), 1, 1)))

    def draw(
        self, v: np.ndarray, ridgelet: Ridgelet, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw a line and a harmonic of it, then b; no line is looked up."""
        lines, harmonics = self._draw_harmonics(len(v), rng)
        multiples = (inverses(self.modulus)[v] * harmonics) % self.modulus
        weights = (np.abs(self._on_lines(lines, multiples, ridgelet)) ** 2).sum(axis=2)
        b = draw(weights, rng.random(len(v)))
        return self._places(lines, multiples), b, np.log(weights[np.arange(len(v)), b])

    def _spectrum(self, u: np.ndarray) -> Scaled:
        lines, multiples = self._find(u)
        # line -1, which is none, reads some line's height, and is then set to 0
        values = self.heights[lines, multiples]
        values[lines < 0] = 0
        return Scaled(values, np.zeros((len(u), 1)))

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self._places(*self._draw_harmonics(count, rng))

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        # projected on a few coordinates the lines are lines again, and some coincide or become 0
        projected, place, multiples = _gathered(self.directions[:, coordinates], self.modulus)
        sums = np.zeros((len(projected), self.modulus))
        spots = (multiples[:, None] * np.arange(self.modulus)) % self.modulus
        np.add.at(sums, (place[:, None], spots), self._weights)
        known = {row.tobytes(): number for number, row in enumerate(projected)}
        directions, asked = _canonical(u, self.modulus)
        lines = np.array([known.get(row.tobytes(), -1) for row in directions])
        with np.errstate(divide="ignore"):
            return np.log(np.where(lines < 0, 0.0, sums[lines, asked]))

    def _drawing(self, count: int, n_harmonics: int) -> Cost:
        values = count * self.modulus * self.outputs
        coordinates = count * self.dim
        return Cost(
            products=values * (6 + 5 * np.log2(self.modulus)) + coordinates,
            moved=16 * values * 8 + 8 * coordinates * 4,
            memory=16 * values * 5 + 8 * coordinates * 3,
            dtype="complex128",
        )

    def _draw_harmonics(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Lines and harmonics w by |heights|^2, each of shape (count,)."""
        return np.divmod(draw_running(self._running, rng.random(count)), self.modulus)

    def _places(self, lines: np.ndarray, multiples: np.ndarray) -> np.ndarray:
        """The points multiple * d_line of Z_P^D, shape (N, D)."""
        points = self.directions[lines].astype(np.int64)
        points *= multiples[:, None]  # in place: they are the largest array of a draw
        points %= self.modulus
        return points

    def _on_lines(self, lines: np.ndarray, multiples: np.ndarray, ridgelet: Ridgelet) -> np.ndarray:
        """The profiles at a = multiple * d_line, shape (N, P, C); 0 on line -1, which is none."""
        v = np.arange(self.modulus)
        harmonics = self.heights[lines[:, None], (v * multiples[:, None]) % self.modulus]
        harmonics *= ridgelet.spectrum.conj()[:, None]
        harmonics[lines < 0] = 0
        return inverse_fourier(harmonics, axis=1)

    def _find(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The line (-1 where there is none) and the multiple of its direction that each u is."""
        lines = np.empty(len(u), dtype=np.int64)
        multiples = np.empty(len(u), dtype=np.int64)
        rows = max(1, _BLOCK // self.dim)
        for start in range(0, len(u), rows):
            block = slice(start, start + rows)
            directions, multiples[block] = _canonical(u[block], self.modulus)
            lines[block] = [self._lines.get(row.tobytes(), -1) for row in directions]
        return lines, multiples


def from_ridges(a: Any, b: Any, coefficients: Any, ridgelet: Ridgelet) -> RidgeSumState:
    """The planted network f(x) = sum_k c_k r((a_k.x - b_k) mod P), r = ridgelet.values, exact at any D.

    Args:
        a: directions, int in 0..P-1, shape (K, D). Multiples of one direction may repeat; a_k = 0 is a
            constant.
        b: offsets, int in 0..P-1, shape (K,).
        coefficients: c_k, shape (K,), or (K, C) for a vector output.
        ridgelet: gives P and r.

    Raises:
        ValueError: mismatched shapes, values outside Z_P, NaN, or ridges that cancel up to rounding.

    Example:
        >>> from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
        >>> ridgelet = Ridgelet("cosine", 7)
        >>> state = states.from_ridges([[1, 2]], [3], [5.0], ridgelet)
        >>> nodes = QuantumRidgeletTransform(state, ridgelet, "numpy").sample(100)
        >>> {(1, 2), (6, 5)} >= {tuple(a) for a in nodes.a.tolist()}  # the planted direction and its opposite
        True
    """
    if not isinstance(ridgelet, Ridgelet):
        raise ValueError(f"the ridgelet is {ridgelet!r}; give Ridgelet(activation, modulus)")
    modulus = ridgelet.modulus
    directions = check_grid(a, modulus, "a", (None, None))
    offsets = check_grid(b, modulus, "b", (len(directions),))
    values = check_numbers(coefficients, "coefficients")
    if values.ndim not in (1, 2) or len(values) != len(directions) or values.size == 0:
        raise ValueError(
            f"coefficients have shape {values.shape}; give (K,) or (K, C) with K = {len(directions)}, "
            "one row per ridge"
        )
    columns, log_scale = near_one(values.reshape(len(values), -1))  # first, so that sums do not overflow
    lines, place, multiples = _gathered(directions, modulus)
    heights, unsigned = _heights(place, multiples, offsets, columns, ridgelet)
    if np.linalg.norm(heights) <= DIGITS * _NOISE * unsigned:
        raise ValueError(f"the sum of the ridges is {ZERO}: change the coefficients, or add ridges")
    kept = heights.any(axis=(1, 2))
    log_scale += (directions.shape[1] - 1) / 2 * float(np.log(modulus))
    return RidgeSumState(lines[kept], heights[kept], values.ndim == 2, log_scale)


def _heights(
    place: np.ndarray, multiples: np.ndarray, b: np.ndarray, columns: np.ndarray, ridgelet: Ridgelet
) -> tuple[np.ndarray, float]:
    """What the ridges c_k r(s_k d.x - b_k) on one line d add up to at w d, shape (L, P, C).

    The second result is the norm of the same sums without signs, at most.
    """
    modulus = ridgelet.modulus
    order = np.argsort(place, kind="stable")  # `place` counts the lines, so every one has a ridge
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    place, multiples, b, columns = place[order], multiples[order], b[order], columns[order]
    # u = w d = v a_k at v = w / s_k
    v = (np.arange(modulus) * inverses(modulus)[multiples][:, None]) % modulus
    waves = ridgelet.spectrum[v] * roots_of_unity(modulus).conj()[(v * b[:, None]) % modulus]
    flat = multiples == 0
    waves[flat] = 0
    values = np.where(np.abs(ridgelet.values) < _NOISE, 0, ridgelet.values)  # without rounding noise
    waves[flat, 0] = np.sqrt(modulus) * values[(-b[flat]) % modulus]
    heights = np.stack(
        [np.add.reduceat(waves * column[:, None], starts, axis=0) for column in columns.T], axis=2
    )
    sizes = np.add.reduceat(np.abs(columns), starts, axis=0)
    counts = np.diff(starts, append=len(place))
    noise = _NOISE * counts[:, None] * sizes * np.sqrt(modulus)
    heights[np.abs(heights) <= noise[:, None, :]] = 0
    return heights, float(np.linalg.norm(sizes))


def _gathered(points: np.ndarray, modulus: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct directions (L, D), the one that each point is on, and which multiple of it the point is."""
    directions, multiples = _canonical(points, modulus)
    seen: dict[bytes, int] = {}
    place = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in directions])
    firsts = np.unique(place, return_index=True)[1]
    return directions[firsts], place, multiples


def _canonical(points: np.ndarray, modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """Points as multiple * direction, the first nonzero coordinate of the direction being 1.

    Returns:
        (directions, multiples): unsigned ints of shape (N, D), as small as P allows, and int64 (N,). Zero is
        0 times zero.
    """
    directions = np.empty(points.shape, dtype=np.min_scalar_type(modulus - 1))
    multiples = np.empty(len(points), dtype=np.int64)
    rows = max(1, _BLOCK // points.shape[1])
    for start in range(0, len(points), rows):
        block = points[start : start + rows].astype(np.int64)
        firsts = (block != 0).argmax(axis=1)
        multiple = block[np.arange(len(block)), firsts]
        multiples[start : start + rows] = multiple
        block *= inverses(modulus)[multiple][:, None]
        block %= modulus
        directions[start : start + rows] = block
    return directions, multiples
