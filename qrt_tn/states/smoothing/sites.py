"""One coordinate of a product filter: the frequencies it keeps, the basis they are held in, their kernel.

Where tau is real and even, e^{-i u x} and e^{i u x} are held as cos and sin: real arithmetic for real values.
"""

from dataclasses import dataclass

import numpy as np

from qrt_tn.states.filters import Filter


@dataclass(frozen=True, eq=False)
class Site:
    """One coordinate's filter tau, normalised to sum_u |tau(u)|^2 = 1.

    Attributes:
        modulus: P.
        support: the kept frequencies, ascending.
        tau: their amplitudes.
        even: whether tau is real and even, and the basis cos, sin.
        kernel: sum over kept u of |tau|^2 omega^{-ud} by d, shape (P,): the inner product of the
            features of x - d and x.
        full: the same over all u.
    """

    modulus: int
    support: np.ndarray
    tau: np.ndarray
    even: bool
    kernel: np.ndarray
    full: np.ndarray

    @property
    def _half(self) -> list[tuple[int, complex]]:
        """(u, tau) of one frequency from each pair u, -u."""
        pairs = zip(self.support.tolist(), self.tau.tolist(), strict=True)
        return [(u, tau) for u, tau in pairs if 2 * u <= self.modulus]

    def features(self, values: np.ndarray) -> np.ndarray:
        """tau(u) omega^{-ux} for x among `values` (V,), in this site's basis; shape (V, q)."""
        values = values.astype(np.int64)  # products of bytes would wrap
        if not self.even:
            phases = (self.support * values[:, None]) % self.modulus
            return self.tau * np.exp(-2j * np.pi * phases / self.modulus)
        parts = []
        for u, tau in self._half:
            angle = 2 * np.pi * ((u * values) % self.modulus) / self.modulus
            if 2 * u % self.modulus == 0:
                parts.append(tau * np.cos(angle))
            else:
                parts += [np.sqrt(2) * tau * np.cos(angle), np.sqrt(2) * tau * np.sin(angle)]
        return np.stack(parts, axis=1).real

    def to_spectrum(self, core: np.ndarray) -> np.ndarray:
        """A core's site axis from this site's basis to u, in the order of `support`.

        |cos> = (|u> + |-u>)/sqrt2 and |sin> = -i(|u> - |-u>)/sqrt2.
        """
        dtype = np.result_type(core.dtype, np.complex64)
        if not self.even:
            return core.astype(dtype)
        by_frequency: dict[int, np.ndarray] = {}
        axis = 0
        root = core.real.dtype.type(np.sqrt(0.5))
        for u, _ in self._half:
            if 2 * u % self.modulus == 0:
                by_frequency[u] = core[:, axis].astype(dtype)
                axis += 1
            else:
                by_frequency[u] = (core[:, axis] - 1j * core[:, axis + 1]) * root
                by_frequency[self.modulus - u] = (core[:, axis] + 1j * core[:, axis + 1]) * root
                axis += 2
        return np.stack([by_frequency[u] for u in self.support.tolist()], axis=1).astype(dtype)


def chosen_sites(product: Filter, drop: float) -> list[Site]:
    """Each coordinate's site, which keeps all but the share `drop` of its |tau|^2."""
    sites = [_site(row, drop) for row in product.tables]
    return [sites[row] for row in product.rows]


def _site(tau: np.ndarray, drop: float) -> Site:
    modulus = len(tau)
    mirrored = np.roll(tau[::-1], 1)  # tau(-u)
    even = not np.iscomplexobj(tau) and np.allclose(tau, mirrored, rtol=1e-12, atol=1e-14)
    if even:
        tau = (tau + mirrored) / 2
    tau = tau / np.sqrt((np.abs(tau) ** 2).sum())
    weights = np.abs(tau) ** 2
    ascending = np.sort(weights)
    # weights of one size, u and -u among them, are kept or dropped together
    least = ascending[np.argmax(np.cumsum(ascending) > drop)]
    kept = (weights >= least) & (weights > 0)
    kernel, full = (np.fft.fft(part) for part in (np.where(kept, weights, 0.0), weights))
    if even:
        return Site(modulus, np.flatnonzero(kept), tau[kept], True, kernel.real, full.real)
    support = np.flatnonzero(kept)
    return Site(modulus, support, tau[support], False, kernel, full)
