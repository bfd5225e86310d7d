"""Single-site conditionals from a matrix product state: O(chi^2 levels) a coordinate, whatever its points.

With the other sites picked, the amplitude of every value of one site is left vector . core . right vector: a
sweep from left to right needs the right vectors of all sites, made once, and carries the left one along.
"""

import numpy as np

from qrt_tn.engine.backends import to_host
from qrt_tn.states.mps import MPSState
from qrt_tn.tempered.conditionals import Chains, StateConditionals, choose, tempered


class ChainConditionals(StateConditionals):
    """Of matrix product states; sweeps go through the sites in their order.

    Args:
        state: f, held in the Fourier basis.
        log_filter: log tau_i(u_i)^2 by u_i = 0..P-1, one row of P numbers a coordinate.
        filtered: whether the state's spectrum is z tau rather than z.
    """

    def __init__(self, state: MPSState, log_filter: np.ndarray, filtered: bool) -> None:
        supports, logs = [], []
        for support, row in zip(state.supports, log_filter, strict=True):
            kept = support[np.isfinite(row[support])]
            supports.append(kept)
            logs.append(row[kept])
        super().__init__(state, supports, logs, filtered)
        cores = [to_host(core).astype(np.complex128) for core in state.cores]
        self.first = cores.pop(0)[0] if state.vector else np.ones((1, 1), dtype=np.complex128)
        self.cores = [
            core[:, np.searchsorted(support, kept)]
            for core, support, kept in zip(cores, state.supports, supports, strict=True)
        ]

    @property
    def sweep_cost(self) -> float:
        """Nanoseconds that one chain takes for a sweep, about (measured on one core)."""
        return sum(150.0 + 0.5 * (core.size + core.shape[0] * core.shape[2]) for core in self.cores)

    def _chain_bytes(self) -> int:
        return 16 * sum(core.shape[2] + core.shape[1] for core in self.cores)

    def _begin(self, u: np.ndarray, contrasts: np.ndarray) -> Chains:
        return _MPSChains(self, u, contrasts)


class _MPSChains(Chains):
    def __init__(self, law: ChainConditionals, u: np.ndarray, contrasts: np.ndarray) -> None:
        self._law, self.u = law, u
        self._start = contrasts @ law.first

    def sweep(self, beta: float, order: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """As the base class says; the order is that of the sites, whatever is asked for."""
        del order
        law, rights = self._law, self._rights()
        moved = np.zeros(len(self.u), dtype=np.int64)
        left = self._start
        for i, core in enumerate(law.cores):
            branches = np.tensordot(left, core, axes=1)  # (n, values, right bond)
            with np.errstate(divide="ignore"):
                sizes = 2 * np.log(np.abs(np.matmul(branches, rights[i][:, :, None])[:, :, 0]))
            logs = tempered(sizes, law.log_filter[i], beta, law.filtered)
            now = np.searchsorted(law.supports[i], self.u[:, i])
            place = choose(logs, uniforms[:, i])
            # where every value has z = 0 there is nothing to choose by
            place = np.where(np.isneginf(logs).all(axis=1), now, place)
            moved += place != now
            self.u[:, i] = law.supports[i][place]
            left = branches[np.arange(len(left)), place]
            left = left / _scale(left)
        return moved

    def _rights(self) -> list[np.ndarray]:
        """The chain to the right of each site, contracted at the present values, each row up to its scale."""
        law = self._law
        rights = [np.ones((len(self.u), 1), dtype=np.complex128)]
        for i in range(len(law.cores) - 1, 0, -1):
            picked = law.cores[i].transpose(1, 0, 2)[np.searchsorted(law.supports[i], self.u[:, i])]
            vectors = np.matmul(picked, rights[-1][:, :, None])[:, :, 0]
            rights.append(vectors / _scale(vectors))
        return rights[::-1]


def _scale(vectors: np.ndarray) -> np.ndarray:
    """The largest modulus of each row, 1 for rows of zeros; (n, 1)."""
    peaks = np.abs(vectors).max(axis=1, keepdims=True)
    return np.where(peaks > 0, peaks, 1.0)
