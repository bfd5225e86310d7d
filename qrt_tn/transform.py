"""The Quantum Ridgelet Transform of a state: amplitudes, profiles and exact samples of hidden nodes."""

import numpy as np
import quimb.tensor as qtn

from engine import contract
from engine.arguments import Seed, generator
from engine.backends import resolve
from engine.drawing import draw
from engine.scaled import Scaled
from qrt_tn.circuit import OUTPUT, circuit, fused_network, weight_index
from qrt_tn.field import check_grid
from qrt_tn.nodes import RidgeNodes
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import CLASS_INDEX, State, check_count

DENSE_LIMIT = 2**26  # values of a dense transform: 1 GiB in complex128
_BLOCK = 2**22  # profile values or coordinates of the nodes drawn at once (32 to 64 MiB)


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
    """

    def __init__(self, state: State, ridgelet: Ridgelet, backend: str = "auto") -> None:
        if not isinstance(state, State):
            raise ValueError(f"the state is a {type(state).__name__}; make one with qrt_tn.states.from_...")
        if not isinstance(ridgelet, Ridgelet):
            raise ValueError(f"the ridgelet is {ridgelet!r}; give Ridgelet(activation, modulus)")
        if state.modulus != ridgelet.modulus:
            raise ValueError(f"the state lives on Z_{state.modulus}, the ridgelet on Z_{ridgelet.modulus}")
        self.backend = resolve(backend)
        self.state = state.on(self.backend)
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
            ValueError: wrong shape or values outside Z_P.
        """
        profiles = self.state.profiles(check_grid(a, self.modulus, "a", (None, self.dim)), self.ridgelet)
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

    def sample(self, n: int, seed: Seed = 0) -> RidgeNodes:
        """Draw nodes (a, b) with probability sum_c |R[f_c](a, b)|^2, independent and exact.

        Args:
            n: the number of nodes N.
            seed: an int or a NumPy generator; the same seed gives the same nodes on the same backend.

        Raises:
            ValueError: n below 1.
        """
        count, rng = check_count(n), generator(seed)
        harmonics = np.abs(self.ridgelet.spectrum) ** 2
        rows = max(1, _BLOCK // max(self.modulus * self.state.outputs, self.dim))
        parts = []
        for start in range(0, count, rows):
            uniforms = rng.random(min(rows, count - start))
            v = draw(np.broadcast_to(harmonics, (len(uniforms), self.modulus)), uniforms)
            parts.append(self.state.draw(v, self.ridgelet, rng))
        a, b, log_probability = (np.concatenate(part) for part in zip(*parts, strict=True))
        return RidgeNodes(a, b, log_probability, self.modulus)

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
