"""The Quantum Ridgelet Transform of a state: amplitudes, profiles and exact samples of hidden nodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import quimb.tensor as qtn
from scipy.special import logsumexp

from qrt_tn.circuit import OUTPUT, circuit, fused_network, weight_index
from qrt_tn.engine import contract
from qrt_tn.engine.arguments import Seed
from qrt_tn.engine.backends import resolve
from qrt_tn.engine.progress import Progress
from qrt_tn.engine.scaled import Scaled
from qrt_tn.field import check_grid, correlated, powers
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.sampling import check_memory, check_profile_memory, joined_chunks, sample_chunks
from qrt_tn.states.base import CLASS_INDEX, State, check_count
from qrt_tn.states.chunks import chunk_rows

DENSE_LIMIT = 2**26  # values of a dense transform: 1 GiB in complex128
_BLOCK = 2**22  # frequencies of one block of weights (32 MiB)


class QuantumRidgeletTransform:
    """R[f](a, b) = P^{-D/2} sum_x f(x) conj r((a.x - b) mod P) of a normalised state f.

    R is an isometry: sum_{a,b} |R[f]|^2 = 1 (summed over classes for a vector output), and measuring
    the circuit's output draws (a, b) with probability |R[f](a, b)|^2 (Yamasaki et al., ICML 2023).
    Sampling here is classical and exact for the state held: tracing out b dephases v, so v ~ |r^(v)|^2,
    u ~ |f^(u)|^2, a = v^{-1} u, and then b given a from the P numbers R[f](a, .).

    Args:
        state: f, from `qrt_tn.states`.
        ridgelet: of the same modulus.
        backend: "numpy", "cupy", "cuquantum", or "auto".

    Raises:
        ValueError: the moduli differ, or the backend is missing here.

    >>> from qrt_tn import states
    >>> state = states.from_samples([[1, 2], [3, 4]], [1.0, -1.0], 5)
    >>> qrt = QuantumRidgeletTransform(state, Ridgelet("relu", 5))
    >>> nodes = qrt.sample(1000)
    >>> bool((qrt.log_probabilities(nodes.a, nodes.b) - nodes.log_probability).max() < 1e-9)
    True
    """

    def __init__(self, state: State, ridgelet: Ridgelet, backend: str = "auto") -> None:
        if not isinstance(state, State):
            raise ValueError(f"the state is a {type(state).__name__}; make one with qrt_tn.states.from_...")
        if not isinstance(ridgelet, Ridgelet):
            raise ValueError(f"the ridgelet is {ridgelet!r}; give Ridgelet(activation, modulus)")
        if state.modulus != ridgelet.modulus:
            raise ValueError(f"the state lives on Z_{state.modulus}, the ridgelet on Z_{ridgelet.modulus}")
        self.backend = resolve(backend)
        self.state = state.to(self.backend)
        self.ridgelet = ridgelet
        self.modulus = state.modulus
        self.dim = state.dim

    def circuit(self) -> qtn.TensorNetwork:
        """The circuit gate by gate, see `qrt_tn.circuit.circuit`."""
        return circuit(self.state, self.ridgelet)

    def network(self) -> qtn.TensorNetwork:
        """The fused network, see `qrt_tn.circuit.fused_network`."""
        return fused_network(self.state, self.ridgelet)

    def profiles(self, a: np.ndarray) -> Scaled:
        """R[f](a, b) for every b.

        Args:
            a: int in 0..P-1, shape (N, D).

        Returns:
            Scaled of shape (N, P), or (N, P, C) for a vector output; one log-scale per a.

        Raises:
            ValueError: wrong shape or values outside Z_P, or profiles that do not fit in memory.
        """
        a = check_grid(a, self.modulus, "a", (None, self.dim))
        check_profile_memory(self.state, len(a))
        profiles = self.state.profiles(a, self.ridgelet)
        return profiles if self.state.vector else profiles[:, :, 0]

    def amplitudes(self, a: np.ndarray, b: np.ndarray) -> Scaled:
        """R[f](a, b) of each pair.

        Args:
            a: int in 0..P-1, shape (N, D).
            b: int in 0..P-1, shape (N,).

        Returns:
            Scaled of shape (N,), or (N, C) for a vector output.

        Raises:
            ValueError: wrong shape or values outside Z_P.
        """
        a = check_grid(a, self.modulus, "a", (None, self.dim))
        b = check_grid(b, self.modulus, "b", (len(a),))
        amplitudes = self.state.amplitudes(a, b, self.ridgelet)
        return amplitudes if self.state.vector else amplitudes[:, 0]

    def log_probabilities(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Log sum_c |R[f_c](a, b)|^2 of each pair, float64 of shape (N,); -inf where it is 0."""
        a = check_grid(a, self.modulus, "a", (None, self.dim))
        b = check_grid(b, self.modulus, "b", (len(a),))
        amplitudes = self.state.amplitudes(a, b, self.ridgelet).rescaled(axis=1)
        with np.errstate(divide="ignore"):
            own = np.log((np.abs(amplitudes.mantissa) ** 2).sum(axis=1, dtype=np.float64))
        return own + 2 * amplitudes.log_scale[:, 0]

    def sample(
        self,
        n: int,
        seed: Seed = 0,
        *,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
    ) -> RidgeNodes:
        """Draw nodes (a, b) with probability sum_c |R[f_c](a, b)|^2, independent and exact.

        Args:
            n: the number of nodes N.
            seed: an int or a NumPy generator; the same seed gives the same nodes on the same backend.
            checkpoint: a folder in which nodes are kept as they are drawn. The same call goes on from there
                after a kill, and gives the nodes that an uninterrupted one would have; it needs an int seed
                and the same state to the last bit. A state built again may be rounded otherwise (on another
                machine, or number of threads): pickle it and load it.
            progress: called with (nodes done, N); left out, a bar appears after two seconds in a terminal.

        Raises:
            ValueError: n below 1, nodes that do not fit in memory, or a checkpoint of another run.
        """
        count = check_count(n)
        check_memory(self.state, self.ridgelet, count, whole=True)
        chunks = sample_chunks(self.state, self.ridgelet, count, seed, checkpoint, progress)
        return joined_chunks(chunks, count, self.dim)

    def sample_chunks(
        self,
        n: int,
        seed: Seed = 0,
        *,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Iterator[RidgeNodes]:
        """The nodes of `sample` a few thousand at a time, for more than fit in memory.

        Takes the arguments of `sample`. With a checkpoint the nodes are on disk afterwards, where
        `qrt_tn.load_chunks` reads them again.

        Raises:
            ValueError: as `sample`, at once; but for nodes that do not fit together.
        """
        count = check_count(n)
        check_memory(self.state, self.ridgelet, count, whole=False)
        return sample_chunks(self.state, self.ridgelet, count, seed, checkpoint, progress)

    def log_weights(self, a: np.ndarray) -> np.ndarray:
        """Log p(a) = log sum_b |R[f](a, b)|^2 of each weight, whatever its threshold.

        Args:
            a: int in 0..P-1, shape (N, D).

        Returns:
            float64, shape (N,); -inf where it is 0.

        Raises:
            ValueError: wrong shape or values outside Z_P.
        """
        a = check_grid(a, self.modulus, "a", (None, self.dim))
        rows = chunk_rows(self.state)
        parts = []
        for start in range(0, len(a), rows):
            profiles = self.state.profiles(a[start : start + rows], self.ridgelet).rescaled(axis=(1, 2))
            with np.errstate(divide="ignore"):
                own = np.log((np.abs(profiles.mantissa) ** 2).sum(axis=(1, 2), dtype=np.float64))
            parts.append(own + 2 * profiles.log_scale[:, 0, 0])
        return np.concatenate(parts)

    def log_marginals(self, coordinates: Any, values: np.ndarray) -> np.ndarray:
        """Log of the probability that these coordinates of a drawn weight a take these values.

        p(a_S) = sum_v |r^(v)|^2 p(u_S = v a_S), u ~ sum_c |f^_c(u)|^2.

        Args:
            coordinates: K distinct ints in 0..D-1.
            values: int in 0..P-1, shape (N, K).

        Returns:
            float64, shape (N,); -inf where the probability is 0.

        Raises:
            ValueError: coordinates that repeat or lie outside 0..D-1, wrong shape, values outside Z_P.
        """
        values = check_grid(values, self.modulus, "values", (None, np.size(coordinates)))
        harmonics = np.abs(self.ridgelet.spectrum) ** 2
        active = np.flatnonzero(harmonics)
        rows = max(1, _BLOCK // (len(active) * values.shape[1]))
        parts = []
        for start in range(0, len(values), rows):
            u = (active[:, None, None] * values[start : start + rows]) % self.modulus
            # each frequency once: harmonics share many
            distinct, place = np.unique(u.reshape(-1, values.shape[1]), axis=0, return_inverse=True)
            logs = self.state.log_marginals(coordinates, distinct)[place.reshape(u.shape[:2])]
            parts.append(logsumexp(logs, axis=0, b=harmonics[active][:, None]))
        return np.concatenate(parts)

    def coordinate_probabilities(self, coordinate: int) -> np.ndarray:
        """The probability of each value of one coordinate of a drawn weight a, float64 of shape (P,).

        Raises:
            ValueError: a coordinate outside 0..D-1.
        """
        u = np.exp(self.state.log_marginals([coordinate], np.arange(self.modulus)[:, None]))
        harmonics = np.abs(self.ridgelet.spectrum) ** 2
        # p(a) = sum_v |r^(v)|^2 p(u = v a), a correlation in the exponents k of a, v, u = g^k
        order = powers(self.modulus)
        result = np.empty(self.modulus)
        result[0] = u[0]
        result[order] = np.maximum(correlated(u[order][None, :], harmonics[order])[0], 0)
        return result

    def to_dense(self) -> np.ndarray:
        """All of R[f], by contracting the fused network.

        Returns:
            complex128 of shape (P,) * D + (P,), axes a0 .. a{D-1}, b (then C for a vector output).

        Raises:
            ValueError: more than `DENSE_LIMIT` values.
        """
        size = self.modulus ** (self.dim + 1) * self.state.outputs
        if size > DENSE_LIMIT:
            raise ValueError(
                f"the dense transform has {self.modulus}^{self.dim + 1} x {self.state.outputs} values, above "
                f"{DENSE_LIMIT}; use amplitudes, profiles or sample"
            )
        output = [weight_index(site) for site in range(self.dim)] + [OUTPUT]
        if self.state.vector:
            output.append(CLASS_INDEX)
        return np.asarray(
            contract(self.network(), output_inds=output, backend=self.backend), dtype=np.complex128
        )
