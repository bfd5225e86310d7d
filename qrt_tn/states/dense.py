"""States given by all their P^D values: transformed by FFT, the oracle for every other kind."""

from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.arguments import as_array
from qrt_tn.engine.drawing import draw_running
from qrt_tn.engine.scaled import Scaled
from qrt_tn.field import check_prime
from qrt_tn.states.base import State, site_index


class DenseState(State):
    """f held as an array of shape (P,) * D."""

    def __init__(self, values: np.ndarray) -> None:
        self.modulus = values.shape[0]
        self.dim = values.ndim
        self.outputs = 1
        self.vector = False
        # scaled by the largest value first, so that squares neither overflow nor vanish
        peak = float(np.abs(values).max())
        norm = float(np.linalg.norm(values / peak))
        self.log_norm = float(np.log(peak) + np.log(norm))
        self.values = values / peak / norm
        self._hat = np.fft.fftn(self.values, norm="ortho")
        self._running = np.cumsum(np.abs(self._hat.reshape(-1)) ** 2)

    def network(self) -> qtn.TensorNetwork:
        """One tensor."""
        inds = [site_index(site) for site in range(self.dim)]
        return qtn.TensorNetwork([qtn.Tensor(self.values, inds=inds, tags=["F"])])

    def _spectrum(self, u: np.ndarray) -> Scaled:
        values = self._hat[tuple(u.T)]
        return Scaled(values[:, None], np.zeros((len(u), 1)))

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        weights = np.abs(self._hat) ** 2
        others = tuple(axis for axis in range(self.dim) if axis not in coordinates)
        # the axes that stay are in ascending order
        kept = weights.sum(axis=others)
        with np.errstate(divide="ignore"):
            return np.log(kept[tuple(u[:, np.argsort(coordinates)].T)])

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        flat = draw_running(self._running, rng.random(count))
        return np.stack(np.unravel_index(flat, self._hat.shape), axis=1).astype(np.int64)


def from_dense(values: Any) -> DenseState:
    """The state of an array of values f(x), shape (P,) * D with P prime.

    Raises:
        ValueError: axes of different lengths, a composite length, NaN, or all zeros.
    """
    array = as_array(values, "values")
    if array.size == 0 or len(set(array.shape)) != 1:
        raise ValueError(f"values have shape {array.shape}; every axis must have the same prime length P")
    check_prime(array.shape[0])
    if array.dtype.kind not in "biufc":
        raise ValueError(f"values have dtype {array.dtype}; give numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"values hold {array[~np.isfinite(array)][0]}; every value must be finite")
    if not array.any():
        raise ValueError("values are all zero; a state needs a norm")
    return DenseState(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
