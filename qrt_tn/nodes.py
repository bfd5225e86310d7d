"""Hidden nodes (a, b) of a shallow network on Z_P^D, with the probability each was drawn at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.field import check_grid, check_prime

FORMAT = "qrt-tn.nodes 2"


@dataclass(frozen=True, eq=False)
class RidgeNodes:
    """N hidden nodes x -> g((a.x - b) mod P), in the order they were drawn.

    The draws are independent, so `nodes[:n]` is a sample of n.

    Attributes:
        a: weights, shape (N, D), int64 in 0..P-1.
        b: thresholds, shape (N,), int64 in 0..P-1.
        log_probability: natural log of the probability of each (a, b), shape (N,), float64.
        modulus: the prime P.

    Raises:
        ValueError: composite modulus, mismatched shapes, indices outside Z_P, or a log-probability
            that is NaN or positive.

    Example:
        >>> from qrt_tn import RidgeNodes
        >>> nodes = RidgeNodes([[1, 2], [3, 0]], [4, 0], [-1.5, -2.5], modulus=5)
        >>> nodes[:1].a.tolist()
        [[1, 2]]
    """

    a: np.ndarray
    b: np.ndarray
    log_probability: np.ndarray
    modulus: int

    def __post_init__(self) -> None:
        modulus = check_prime(self.modulus)
        a = check_grid(self.a, modulus, "a", (None, None))
        b = check_grid(self.b, modulus, "b", (len(a),))
        log_probability = np.asarray(self.log_probability, dtype=np.float64)
        if log_probability.shape != (len(a),):
            raise ValueError(f"log_probability has shape {log_probability.shape}; it must be ({len(a)},)")
        bad = log_probability[~(log_probability <= 1e-6)]
        if bad.size:
            raise ValueError(f"log_probability holds {bad[0]}; the log of a probability is at most 0")
        for name, value in (("a", a), ("b", b), ("log_probability", log_probability), ("modulus", modulus)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.a)

    @property
    def dim(self) -> int:
        """The dimension D of the inputs."""
        return self.a.shape[1]

    def __getitem__(self, index: slice | np.ndarray) -> "RidgeNodes":
        """The nodes at a slice or an index array."""
        if not isinstance(index, slice | np.ndarray):
            raise TypeError(f"index nodes with a slice or an array, not {type(index).__name__}")
        return RidgeNodes(self.a[index], self.b[index], self.log_probability[index], self.modulus)

    def save(self, path: str | Path) -> None:
        """Write the nodes to a safetensors file; an existing file is replaced whole.

        Weights and thresholds take the smallest unsigned type that holds Z_P.
        """
        small = np.min_scalar_type(self.modulus - 1)
        tensors = {
            "a": self.a.astype(small),
            "b": self.b.astype(small),
            "log_probability": self.log_probability,
        }
        save_tensors(path, tensors, {"format": FORMAT, "modulus": str(self.modulus)})

    @classmethod
    def load(cls, path: str | Path) -> "RidgeNodes":
        """Read nodes from a file that `save` wrote.

        Raises:
            ValueError: no such file, one of another kind, or one that was damaged or changed.
        """
        tensors, metadata = load_tensors(path, FORMAT)
        try:
            return cls(tensors["a"], tensors["b"], tensors["log_probability"], int(metadata["modulus"]))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} does not hold whole nodes: {error}") from error

    @classmethod
    def concatenate(cls, parts: Sequence["RidgeNodes"]) -> "RidgeNodes":
        """Nodes one after the other.

        Raises:
            ValueError: no parts, or parts of different moduli or dimensions.
        """
        if not parts:
            raise ValueError("parts is empty; give one part at least")
        kinds = {(part.modulus, part.dim) for part in parts}
        if len(kinds) > 1:
            raise ValueError(f"the parts have different (modulus, dim): {sorted(kinds)}; they must be equal")
        names = ("a", "b", "log_probability")
        a, b, logs = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(a, b, logs, parts[0].modulus)
