"""The interface of states f on Z_P^D, and what follows from a spectrum and its samples alone."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.arguments import Seed, as_array, check_whole, generator
from qrt_tn.engine.backends import array_module
from qrt_tn.engine.drawing import draw
from qrt_tn.engine.exponents import peaks, powers
from qrt_tn.engine.scaled import Scaled
from qrt_tn.field import check_grid, inverse_fourier, inverses
from qrt_tn.ridgelet import Ridgelet

CLASS_INDEX = "c"  # the outer index of a network that carries a class
ZERO = "zero everywhere, or cancels up to rounding; a state needs a norm"
DIGITS = 1e3  # a norm this many times above its rounding error keeps three digits
_DRAWN = 2**19  # profile values that b is drawn from at once
_BLOCK = 2**22  # frequencies or profile values of one block of nodes (32 to 64 MiB)


def site_index(site: int) -> str:
    """The name of the outer index of one site of a state's network."""
    return f"x{site}"


@dataclass(frozen=True)
class Cost:
    """The predicted cost of a call.

    Attributes:
        products: real multiply-adds.
        moved: bytes that element-wise passes read and write.
        memory: bytes taken beside the state at the worst moment, results included.
        dtype: of the arithmetic, such as "complex64".
    """

    products: float
    moved: float
    memory: float
    dtype: str


class State(ABC):
    """A function f: Z_P^D -> R, C or their C-fold, normalised to sum |f|^2 = 1.

    A subclass evaluates f^(u) for a batch of u and samples u ~ |f^(u)|^2 (for a vector output,
    sum_c |f^_c(u)|^2). Profiles of the ridgelet transform and its exact samples follow. States are pickled
    and copied like any object, and a copy gives the same bits.

    Attributes:
        modulus: the prime P.
        dim: the dimension D.
        outputs: the number C of components; 1 for a scalar function.
        vector: whether values carry a class axis (also when C is 1).
        log_norm: natural log of the norm of f before normalisation.
    """

    modulus: int
    dim: int
    outputs: int
    vector: bool
    log_norm: float
    _backend = "numpy"

    @property
    def norm(self) -> float:
        """The norm of f before normalisation.

        Raises:
            OverflowError: it lies outside float64, above or below; `log_norm` holds it always.
        """
        limits = np.finfo(np.float64)
        if not np.log(limits.tiny) <= self.log_norm <= np.log(limits.max):
            raise OverflowError(f"the norm is exp({self.log_norm:.6g}), outside float64; use log_norm")
        return float(np.exp(self.log_norm))

    def spectrum(self, u: np.ndarray) -> Scaled:
        """f^(u) = P^{-D/2} sum_x f(x) omega^{-u.x} of the normalised f.

        Args:
            u: frequencies, int in 0..P-1, shape (N, D).

        Returns:
            Scaled of shape (N,), or (N, C) for a vector output.

        Raises:
            ValueError: wrong shape or values outside Z_P.
        """
        values = self._spectrum(check_grid(u, self.modulus, "u", (None, self.dim)))
        return values if self.vector else values[:, 0]

    def sample_spectrum(self, n: int, seed: Seed = 0) -> np.ndarray:
        """Draw u with probability sum_c |f^_c(u)|^2, exactly.

        Args:
            n: the number of samples N.
            seed: an int or a NumPy generator.

        Returns:
            int64, shape (N, D).
        """
        return self._sample_spectrum(check_count(n), generator(seed))

    def log_marginals(self, coordinates: Any, u: np.ndarray) -> np.ndarray:
        """Log of the probability that these coordinates of u ~ sum_c |f^_c(u)|^2 take these values.

        Args:
            coordinates: K distinct ints in 0..D-1.
            u: int in 0..P-1, shape (N, K).

        Returns:
            float64, shape (N,); -inf where the probability is 0.

        Raises:
            ValueError: coordinates that repeat or lie outside 0..D-1, wrong shape, values outside Z_P.
        """
        chosen = as_array(coordinates, "coordinates")
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise ValueError(f"coordinates are {coordinates!r}; give a list of ints such as [0, 5]")
        for coordinate in chosen:
            if not 0 <= coordinate < self.dim:
                raise ValueError(f"coordinate {coordinate} is outside 0..{self.dim - 1}")
        if len(np.unique(chosen)) < len(chosen):
            raise ValueError(f"coordinates are {coordinates!r}; name each once")
        values = check_grid(u, self.modulus, "u", (None, len(chosen)))
        return self._log_marginals(chosen.astype(np.int64), values)

    def profiles(self, a: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) of a (N, D) for every b: Scaled of shape (N, P, C), one log-scale for each a.

        From the slice theorem, R[f](a,.) = F_1^{-1}[f^(v a) conj r^(v)].
        """
        rows = self._profile_rows()
        return joined([self._profiles(a[start : start + rows], ridgelet) for start in range(0, len(a), rows)])

    def _profile_rows(self) -> int:
        """How many profiles are made at once; each looks at D coordinates of up to P frequencies."""
        return max(1, _BLOCK // (self.modulus * max(self.dim, self.outputs)))

    def amplitudes(self, a: np.ndarray, b: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        """R[f](a, b) of each pair of a (N, D) and b (N,): Scaled of shape (N, C), log-scales of (N, 1)."""
        rows = max(1, _BLOCK // (self.modulus * self.outputs))
        parts = []
        for start in range(0, len(a), rows):
            profiles = self.profiles(a[start : start + rows], ridgelet)
            each = np.arange(len(profiles))
            picked = profiles.mantissa[each, b[start : start + rows]]
            parts.append(Scaled(picked, profiles.log_scale[:, 0]))
        return joined(parts)

    def _profiles(self, a: np.ndarray, ridgelet: Ridgelet) -> Scaled:
        v = np.flatnonzero(ridgelet.spectrum)
        lines = self._harmonics(a, v).rescaled((1, 2))
        harmonics = np.zeros((len(a), self.modulus, self.outputs), dtype=np.complex128)
        harmonics[:, v] = lines.mantissa * ridgelet.spectrum[v].conj()[None, :, None]
        return Scaled(inverse_fourier(harmonics, axis=1), lines.log_scale)

    def _harmonics(self, a: np.ndarray, v: np.ndarray) -> Scaled:
        """f^(v a) for every a and every v, shape (N, V, C), log-scales of shape (N, V, 1)."""
        u = (v[None, :, None] * a[:, None, :]) % self.modulus
        values = self._spectrum(u.reshape(-1, self.dim)).rescaled(axis=1)
        mantissa = values.mantissa.reshape(len(a), len(v), self.outputs)
        return Scaled(mantissa, values.log_scale.reshape(len(a), len(v), 1))

    def draw(
        self, v: np.ndarray, ridgelet: Ridgelet, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw u ~ |f^(u)|^2, turn it to a = v^{-1} u, and draw b from |R[f](a, .)|^2.

        Of nonzero multipliers v (N,) it returns (a, b, log_probability): int64 of shape (N, D) and (N,), and
        log sum_c |R[f_c](a, b)|^2.
        """
        u = self._sample_spectrum(len(v), rng)
        a = (inverses(self.modulus)[v][:, None] * u) % self.modulus
        b, logs, uniforms = np.empty(len(v), dtype=np.int64), np.empty(len(v)), rng.random(len(v))
        rows = max(1, _DRAWN // (self.modulus * self.outputs))
        for start in range(0, len(v), rows):
            some = slice(start, start + rows)
            profiles = self.profiles(a[some], ridgelet)  # one log-scale for each a, so the mantissas compare
            weights = (np.abs(profiles.mantissa) ** 2).sum(axis=2)
            b[some] = draw(weights, uniforms[some])
            logs[some] = np.log(weights[np.arange(len(weights)), b[some]]) + 2 * profiles.log_scale[:, 0, 0]
        return a, b, logs

    @property
    def backend(self) -> str:
        """The backend whose memory drawing takes."""
        return self._backend

    def to(self, backend: str) -> "State":
        """This state with the arrays of its heavy products on a backend; itself where there are none."""
        return self

    @abstractmethod
    def network(self) -> qtn.TensorNetwork:
        """The normalised f as a quimb network with outer indices x0 .. x{D-1}, and c for a class.

        Raises:
            ValueError: the tensors would not fit in memory.
        """

    @abstractmethod
    def arrays(self) -> list[Any]:
        """The arrays that determine the normalised f, by which a checkpoint knows it."""

    @abstractmethod
    def _spectrum(self, u: np.ndarray) -> Scaled:
        """f^(u) for checked u, shape (N, C)."""

    @abstractmethod
    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` samples of u, shape (count, D)."""

    @abstractmethod
    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        """`log_marginals` of checked arguments."""

    def _drawing(self, count: int, n_harmonics: int) -> Cost:
        """What `draw` takes for `count` nodes and a ridgelet of `n_harmonics` harmonics."""
        values = count * self.modulus * self.outputs
        at_once = min(values, max(_DRAWN, self.modulus * self.outputs))
        return Cost(
            products=5.0 * values * np.log2(self.modulus),
            # passes with remainders, logarithms and look-ups, at a fifth of the rate of a copy (measured)
            moved=5 * 16.0 * (6 * values + 3 * count * self.dim),
            memory=16.0 * (8 * at_once + 2 * count * self.dim),
            dtype="complex128",
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(modulus={self.modulus}, dim={self.dim}, outputs={self.outputs}, "
            f"log_norm={self.log_norm:.6g})"
        )


def joined(parts: list[Scaled]) -> Scaled:
    """Batches one after the other."""
    mantissa = np.concatenate([part.mantissa for part in parts])
    return Scaled(mantissa, np.concatenate([part.log_scale for part in parts]))


def near_one(values: Any) -> tuple[Any, float]:
    """(values / 2^k, log 2^k) with a largest modulus near 1; no digit changes."""
    xp = array_module(values)
    factor, exponent = powers(peaks(values, tuple(range(values.ndim)), xp), xp)
    return values * factor, int(exponent) * math.log(2.0)


def check_count(n: Any, name: str = "the number of samples") -> int:
    """Return `n`, which an error calls `name`, if it is an int of at least 1."""
    check_whole(name, n)
    return int(n)
