"""Activations g on Z_P and the ridgelet functions r that analyse with them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from qrt_tn.field import centred, check_numbers, check_prime, fourier

# t is the centred representative, s = 2 pi t / P its angle on the circle. Piecewise linear functions
# need no scale and take t; functions that bend at a scale of their own take s, so that one period of
# the grid spans -pi .. pi at any P.
ACTIVATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "relu": lambda t, s: np.maximum(t, 0),
    "triangle": lambda t, s: np.abs(t),
    "sawtooth": lambda t, s: t,
    "step": lambda t, s: t > 0,
    "cosine": lambda t, s: np.cos(s),
    "sine": lambda t, s: np.sin(s),
    "tanh": lambda t, s: np.tanh(s),
    "sigmoid": lambda t, s: 1 / (1 + np.exp(-s)),
    "softplus": lambda t, s: np.logaddexp(0, s),
    "gaussian": lambda t, s: np.exp(-(s**2) / 2),
}
ALIASES = {"cos": "cosine", "sin": "sine", "abs": "triangle"}


class Ridgelet:
    """An activation g on Z_P together with a mean-zero, unit-norm ridgelet function r.

    With sum_b r(b) = 0 and ||r|| = 1 the ridgelet transform is an isometry from functions on Z_P^D to
    functions on Z_P^{D+1}, and S[R[f]] = C f with C = sum_{v != 0} g^(v) conj r^(v) = <r, g>
    (Yamasaki et al., ICML 2023; Sonoda, Ishikawa and Ikeda, arXiv 2402.15984, section 3).

    Args:
        activation: a name in `ACTIVATIONS`, or a table of P values g(0) .. g(P-1).
        modulus: the prime P.
        ridgelet: a table of P values r(0) .. r(P-1) with mean zero, scaled here to unit norm.
            Left out, r = (g - mean g) / ||g - mean g||.

    Attributes:
        name: the activation's name, or "table".
        modulus: P.
        activation: g, shape (P,).
        values: r, shape (P,).
        spectrum: r^ = F_1[r], shape (P,), complex; exactly 0 at v = 0 and where it is rounding noise.
        admissibility: C = <r, g>; real for real tables.

    Raises:
        ValueError: composite modulus, unknown name, wrong shape, NaN, constant activation, a ridgelet
            with a mean, or one with <r, g> = 0, from which f cannot be reconstructed.

    >>> Ridgelet("cosine", 127)
    Ridgelet('cosine', modulus=127, admissibility=7.96869)
    """

    def __init__(self, activation: str | Any = "relu", modulus: int = 127, ridgelet: Any = None) -> None:
        self.modulus = check_prime(modulus)
        if isinstance(activation, str):
            self.name = ALIASES.get(activation, activation)
            if self.name not in ACTIVATIONS:
                known = ", ".join(sorted(ACTIVATIONS))
                raise ValueError(f"unknown activation {activation!r}; choose one of {known}, or pass a table")
            t = centred(np.arange(self.modulus), self.modulus)
            g = ACTIVATIONS[self.name](t, 2 * np.pi * t / self.modulus).astype(np.float64)
            self.activation = np.where(np.abs(g) < 1e-15, 0.0, g)  # sin(pi) is 0 at P = 2, not 1e-16
        else:
            self.name = "table"
            self.activation = _table(activation, self.modulus, "activation")
        g, exponent = _near_one(self.activation)  # so that neither sums nor squares overflow or vanish
        if ridgelet is None:
            r = g - g.mean()
            if np.abs(r).max() <= 1e-12 * np.abs(g).max():
                raise ValueError("the activation is constant; it has no mean-zero part to analyse with")
        else:
            r, shift = _near_one(_table(ridgelet, self.modulus, "ridgelet"))
            if abs(r.sum()) > 1e-9 * np.abs(r).sum() or not r.any():
                raise ValueError(
                    f"the ridgelet sums to {_shifted(r.sum(), shift):.3g}; its sum must be 0 and its norm "
                    "not (pass r - r.mean())"
                )
            r = r - r.mean()
        self.values = r / np.linalg.norm(r)
        spectrum = fourier(self.values)
        # Rounding noise would otherwise be sampled as a harmonic that the function does not have.
        spectrum[np.abs(spectrum) < 1e-14] = 0
        spectrum[0] = 0
        self.spectrum = spectrum
        product = np.vdot(self.values, g)
        if abs(product) <= 1e-12 * np.abs(g).max():
            raise ValueError("<r, g> is 0: this ridgelet cannot reconstruct with this activation; change one")
        product = _shifted(product, exponent)
        if not np.isfinite(product):
            raise ValueError(
                f"<r, g> overflows, as the activation reaches {self.activation[np.abs(g).argmax()]}"
            )
        self.admissibility = complex(product) if np.iscomplexobj(product) else float(product)

    def __repr__(self) -> str:
        return f"Ridgelet({self.name!r}, modulus={self.modulus}, admissibility={self.admissibility:.6g})"


def _table(values: Any, modulus: int, name: str) -> np.ndarray:
    table = check_numbers(values, f"the {name} table")
    if table.shape != (modulus,):
        raise ValueError(
            f"the {name} table has shape {table.shape}; it must have one value per element: ({modulus},)"
        )
    return table


def _near_one(table: np.ndarray) -> tuple[np.ndarray, int]:
    """(table / 2^k, k) with a largest part in [1/2, 1); no digit changes."""
    exponent = int(np.frexp(max(np.abs(table.real).max(), np.abs(table.imag).max()))[1])
    return _shifted(table, -exponent), exponent


def _shifted(values: Any, exponent: int) -> Any:
    half = exponent // 2  # 2^exponent itself may lie outside float64
    with np.errstate(over="ignore", invalid="ignore"):
        return values * 2.0**half * 2.0 ** (exponent - half)
