"""Nodes drawn from a tempered transform, with their weights and what tells how far to trust them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.field import centred, check_grid, check_prime

FORMAT = "qrt-tn.tempered-nodes 2"


@dataclass(frozen=True, eq=False)
class TemperedNodes:
    """N hidden nodes x -> g(a.x - b) from a tempered spectrum.

    Attributes:
        a: weights, shape (N, D), int64 in 0..P-1.
        b: thresholds, shape (N,), float64 in [0, P): real where they were taken at the phase of z (cosine),
            whole where they were drawn from |R[f](a, .)|^2 (other activations).
        log_weight: natural log of each node's weight, shape (N,), float64. Averages with weights
            exp(log_weight) are averages over the tempered law; all 0 where every node counts alike.
        beta: the inverse temperature.
        effective_sample_size: how many independent draws the weights are worth: (sum w)^2 / sum w^2, at the
            temperature where it was smallest. N for exact draws, NaN for residual tickets, which have no
            weights to tell it by. Small values say that few ancestors carry
            the sample; large ones do not prove that every mode was found.
        moved: the share of all single-site draws that changed a coordinate; 0 where nothing had to move.
            Small values say that the chains hardly mixed.
        modulus: the prime P.

    Raises:
        ValueError: composite modulus, mismatched shapes, a outside Z_P, b outside [0, P), NaN.
    """

    a: np.ndarray
    b: np.ndarray
    log_weight: np.ndarray
    beta: float
    effective_sample_size: float
    moved: float
    modulus: int

    def __post_init__(self) -> None:
        modulus = check_prime(self.modulus)
        a = check_grid(self.a, modulus, "a", (None, None))
        b, log_weight = (np.asarray(part, dtype=np.float64) for part in (self.b, self.log_weight))
        for name, values in (("b", b), ("log_weight", log_weight)):
            if values.shape != (len(a),):
                raise ValueError(f"{name} has shape {values.shape}; it must be ({len(a)},)")
        if not ((b >= 0) & (b < modulus)).all():
            wrong = b[~((b >= 0) & (b < modulus))][0]
            raise ValueError(f"b holds {wrong}; thresholds lie in 0 <= b < {modulus}")
        if np.isnan(log_weight).any() or (log_weight == np.inf).any():
            raise ValueError("log_weight holds a NaN or +inf; it is the log of a weight")
        for name, value in (("a", a), ("b", b), ("log_weight", log_weight), ("modulus", modulus)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.a)

    def __repr__(self) -> str:
        return (
            f"TemperedNodes({len(self)} nodes, dim={self.dim}, modulus={self.modulus}, beta={self.beta:g}, "
            f"effective_sample_size={self.effective_sample_size:.4g}, moved={self.moved:.3g})"
        )

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        return self.a.shape[1]

    def __getitem__(self, index: slice | np.ndarray) -> "TemperedNodes":
        """The nodes at a slice or an index array; the effective sample size is their share of it."""
        if not isinstance(index, slice | np.ndarray):
            raise TypeError(f"index nodes with a slice or an array, not {type(index).__name__}")
        a = self.a[index]
        share = len(a) / len(self)
        return TemperedNodes(
            a,
            self.b[index],
            self.log_weight[index],
            self.beta,
            self.effective_sample_size * share,
            self.moved,
            self.modulus,
        )

    def features(self, positions: np.ndarray) -> np.ndarray:
        """cos(2 pi (a.x - b) / P) of cosine nodes at real x, a as centred representatives.

        Nodes of other activations live on the grid; `qrt_tn.models.RidgeNetwork` evaluates them.

        Args:
            positions: x, on the scale of the levels, neither rounded nor clipped, shape (M, D).

        Returns:
            Of the type of the positions if that is a float, else float64; shape (M, N).
        """
        x = np.asarray(positions)
        kind = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
        if np.abs(x).max(initial=0) > self.modulus:
            x = np.remainder(x, self.modulus)  # a is whole, so whole turns change nothing but digits
        unit = 2 * np.pi / self.modulus
        angles = x.astype(kind, copy=False) @ (unit * centred(self.a, self.modulus)).T.astype(kind)
        angles -= (unit * self.b).astype(kind)
        return np.cos(angles, out=angles)

    def save(self, path: str | Path) -> None:
        """Write the nodes to a safetensors file; an existing file is replaced whole."""
        tensors = {
            "a": self.a.astype(np.min_scalar_type(self.modulus - 1)),
            "b": self.b,
            "log_weight": self.log_weight,
            "diagnostics": np.array([self.beta, self.effective_sample_size, self.moved], dtype=np.float64),
        }
        save_tensors(path, tensors, {"format": FORMAT, "modulus": str(self.modulus)})

    @classmethod
    def load(cls, path: str | Path) -> "TemperedNodes":
        """Read nodes from a file that `save` wrote.

        Raises:
            ValueError: no such file, one of another kind, or one that was damaged or changed.
        """
        tensors, metadata = load_tensors(path, FORMAT)
        try:
            beta, size, moved = map(float, tensors["diagnostics"])
            modulus = int(metadata["modulus"])
            return cls(tensors["a"], tensors["b"], tensors["log_weight"], beta, size, moved, modulus)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} does not hold whole nodes: {error}") from error
