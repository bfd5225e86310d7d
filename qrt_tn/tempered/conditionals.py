"""Single-site conditionals of pi(u) proportional to |z(u)|^(2 beta) tau(u)^2, for every kind of state.

`Conditionals` moves many chains by Gibbs sweeps, a block of them at a time; how the sums of a coordinate's
values are found is each kind's own: from data points (`points`), from a matrix product state (`chain`), or,
here, by asking the state for every value.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from qrt_tn.engine.drawing import draw
from qrt_tn.engine.progress import Progress
from qrt_tn.engine.threads import threads_for, workers
from qrt_tn.states.base import State

_BLOCK_BYTES = 2**24  # of what a block of chains holds


class Conditionals(ABC):
    """Gibbs sweeps of chains whose frequencies u have the law of one tempered spectrum each.

    Attributes:
        modulus: P.
        supports: the values that each u_i may take, ascending, one int array a coordinate.
        log_filter: log tau_i(u_i)^2 of these values, likewise.
        filtered: whether the spectrum at hand is z tau rather than z.
        order: the coordinates that sweeps draw.
        most_chains: in a block, which one thread takes.
    """

    def __init__(
        self,
        modulus: int,
        supports: Sequence[np.ndarray],
        log_filter: Sequence[np.ndarray],
        filtered: bool = False,
    ) -> None:
        self.modulus = modulus
        self.dim = len(supports)
        self.supports = list(supports)
        self.log_filter = list(log_filter)
        self.filtered = filtered
        self.order = np.arange(self.dim)
        self.most_chains = 256
        # by value, so that a batch of frequencies is looked up at once; -inf outside the support
        self._log_filter = np.full((self.dim, modulus), -np.inf)
        for row, support, logs in zip(self._log_filter, supports, log_filter, strict=True):
            row[support] = logs

    def log_prior(self, u: np.ndarray) -> np.ndarray:
        """Log tau(u)^2, float64 (n,)."""
        return self._log_filter[np.arange(self.dim), u].sum(axis=1)

    def log_sizes(self, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
        """Log |z(u)|^2 of each chain up to one constant, for its own contrast; float64 (n,)."""
        logs = np.concatenate([self._log_sizes(u[rows], contrasts[rows]) for rows in self._blocks(len(u))])
        return logs - self.log_prior(u) if self.filtered else logs

    def sweep(
        self,
        u: np.ndarray,
        contrasts: np.ndarray,
        betas: Sequence[float],
        seed: int,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, float]:
        """Draw every coordinate of every chain anew, once at each of the inverse temperatures.

        Args:
            u: where the chains are, int64 (n, D); left as it is.
            contrasts: of the components, one a chain, (n, C).
            betas: one a sweep.
            seed: of the draws; those of chain k depend on the seed and on k alone.
            progress: called with (chains done, n).

        Returns:
            The chains' new places, and the share of the draws that took another value.
        """
        u = np.array(u, dtype=np.int64)
        moved = np.zeros(len(u), dtype=np.int64)
        blocks = self._blocks(len(u))

        def move(number: int) -> None:
            rows = blocks[number]
            chains = self._begin(u[rows], contrasts[rows])
            for sweep, beta in enumerate(betas):
                rng = np.random.default_rng([seed, number, sweep])
                order = rng.permutation(self.order)
                moved[rows] += chains.sweep(float(beta), order, rng.random((len(u[rows]), len(order))))
            u[rows] = chains.u

        with workers(threads_for(u, len(betas) * self.dim * len(u) * self._chain_bytes() / 8)) as run:
            for number, _ in enumerate(run(move, range(len(blocks)))):
                if progress is not None:
                    progress(blocks[number].stop, len(u))
        return u, float(moved.sum()) / max(1, len(u) * len(betas) * len(self.order))

    def _blocks(self, count: int) -> list[slice]:
        """Rows of the blocks, whose size no machine changes: each has random numbers of its own."""
        size = int(min(self.most_chains, max(1, _BLOCK_BYTES // self._chain_bytes())))
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    @abstractmethod
    def _chain_bytes(self) -> int:
        """What one chain takes."""

    @abstractmethod
    def _log_sizes(self, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
        """Log of the squared modulus of the spectrum at hand, at frequencies inside the support."""

    @abstractmethod
    def _begin(self, u: np.ndarray, contrasts: np.ndarray) -> "Chains":
        """Chains of one block."""


class Chains(ABC):
    """A block of chains on its way through sweeps.

    Attributes:
        u: where they are, int64 (n, D).
    """

    u: np.ndarray

    @abstractmethod
    def sweep(self, beta: float, order: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Draw the coordinates in this order by uniforms (n, len(order)); return how many moved, (n,)."""


def choose(logs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """One index a row, with probability proportional to exp(logs); the first where every one is -inf."""
    peak = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - np.where(np.isfinite(peak), peak, 0.0))
    weights[~np.isfinite(peak[:, 0]), 0] = 1.0
    return np.asarray(draw(weights, uniforms))


class StateConditionals(Conditionals):
    """Of any state: the spectrum is asked for at every value of a coordinate.

    Args:
        state: f.
        supports: as the base class, and so for the rest.
    """

    def __init__(
        self,
        state: State,
        supports: Sequence[np.ndarray],
        log_filter: Sequence[np.ndarray],
        filtered: bool = False,
    ) -> None:
        super().__init__(state.modulus, supports, log_filter, filtered)
        self._state = state

    def _chain_bytes(self) -> int:
        return 16 * max(map(len, self.supports)) * max(self.dim, self._state.outputs)

    def _log_sizes(self, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
        return contracted(self._state, u, contrasts)[1]

    def _begin(self, u: np.ndarray, contrasts: np.ndarray) -> Chains:
        return _StateChains(self, u, contrasts)


class _StateChains(Chains):
    def __init__(self, law: StateConditionals, u: np.ndarray, contrasts: np.ndarray) -> None:
        self._law, self.u, self._contrasts = law, u, contrasts

    def sweep(self, beta: float, order: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        moved = np.zeros(len(self.u), dtype=np.int64)
        for turn, i in enumerate(order):
            support, prior = self._law.supports[i], self._law.log_filter[i]
            tried = np.repeat(self.u, len(support), axis=0)
            tried[:, i] = np.tile(support, len(self.u))
            sizes = self._law._log_sizes(tried, np.repeat(self._contrasts, len(support), axis=0))
            logs = tempered(sizes.reshape(len(self.u), -1), prior, beta, self._law.filtered)
            new = support[choose(logs, uniforms[:, turn])]
            # where every value has z = 0 there is nothing to choose by
            new = np.where(np.isneginf(logs).all(axis=1), self.u[:, i], new)
            moved += new != self.u[:, i]
            self.u[:, i] = new
        return moved


def tempered(log_sizes: np.ndarray, log_prior: np.ndarray, beta: float, filtered: bool) -> np.ndarray:
    """Beta log|z|^2 + log tau^2 from log|z|^2, or from log|z tau|^2 where `filtered`."""
    prior = (1 - beta) * log_prior if filtered else log_prior
    return beta * log_sizes + prior


def contracted(state: State, u: np.ndarray, contrasts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sum_c g_c f^_c(u), each row's own contrast g: its phase factor, and log of its squared modulus.

    Args:
        state: f with C components.
        u: frequencies, int (N, D).
        contrasts: g, (N, C).
    """
    values = state._spectrum(u).rescaled(axis=1)
    sums = (np.asarray(values.mantissa, dtype=np.complex128) * contrasts).sum(axis=1)
    sizes = np.abs(sums)
    # what is left of components that cancel is rounding
    scale = (np.abs(values.mantissa) * np.abs(contrasts)).sum(axis=1)
    eps = np.finfo(values.mantissa.dtype).eps
    sizes = np.where(sizes > 8 * eps * scale, sizes, 0.0)
    with np.errstate(divide="ignore"):
        logs = 2 * np.log(sizes) + 2 * np.asarray(values.log_scale)[:, 0]
    return sums / np.where(sizes > 0, sizes, 1.0), logs
