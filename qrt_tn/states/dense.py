"""States given by all their P^D values and transformed by FFT."""

from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.drawing import draw_running
from qrt_tn.engine.scaled import Scaled
from qrt_tn.field import check_numbers, check_prime
from qrt_tn.states.base import ZERO, State, near_one, site_index


class DenseState(State):
    """f as an array of shape (P,) * D, real or complex, in double precision."""

    def __init__(self, values: np.ndarray) -> None:
        self.modulus = values.shape[0]
        self.dim = values.ndim
        self.outputs = 1
        self.vector = False
        values, log_scale = near_one(values)
        norm = float(np.linalg.norm(values))
        self.log_norm = float(np.log(norm)) + log_scale
        self.values = values / norm
        self._hat = np.fft.fftn(self.values, norm="ortho")
        self._running = np.cumsum(np.abs(self._hat.reshape(-1)) ** 2)

    def arrays(self) -> list[Any]:
        """The values."""
        return [self.values]

    def network(self) -> qtn.TensorNetwork:
        """One tensor."""
        inds = [site_index(site) for site in range(self.dim)]
        return qtn.TensorNetwork([qtn.Tensor(self.values, inds=inds, tags=["F"])])

    def _spectrum(self, u: np.ndarray) -> Scaled:
        values = self._hat[tuple(u.T)]
        return Scaled(values[:, None], np.zeros((len(u), 1)))

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        others = tuple(axis for axis in range(self.dim) if axis not in coordinates)
        weights = (np.abs(self._hat) ** 2).sum(axis=others)  # the axes left are in ascending order
        with np.errstate(divide="ignore"):
            return np.log(weights[tuple(u[:, np.argsort(coordinates)].T)])

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        flat = draw_running(self._running, rng.random(count))
        return np.stack(np.unravel_index(flat, self._hat.shape), axis=1).astype(np.int64)


def from_dense(values: Any) -> DenseState:
    """The state of an array of values f(x), shape (P,) * D with P prime.

    Raises:
        ValueError: axes of different lengths, a composite length, NaN, or all zeros.

    Example:
        >>> import numpy as np
        >>> from qrt_tn import states
        >>> state = states.from_dense([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
        >>> state.modulus, state.dim, round(state.norm, 12)
        (3, 2, 5.0)
        >>> state.spectrum(np.array([[0, 0]])).value()  # the mean, as f^(0) = P^(-D/2) sum_x f(x)
        array([0.46666667+0.j])
    """
    array = check_numbers(values, "values")
    if array.size == 0 or len(set(array.shape)) != 1:
        raise ValueError(f"values have shape {array.shape}; every axis must have the same prime length P")
    check_prime(array.shape[0])
    if not array.any():
        raise ValueError(f"the state is {ZERO}")
    return DenseState(array)
