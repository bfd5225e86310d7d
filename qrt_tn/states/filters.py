"""Product filters tau(u) = prod_i tau_i(u_i), from widths or tables; their samples and single coordinates."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import as_array
from qrt_tn.engine.drawing import draw_running
from qrt_tn.field import centred, check_numbers


@dataclass(frozen=True, eq=False)
class Filter:
    """A product filter; coordinates with equal rows of tau share one.

    Attributes:
        tables: the distinct rows of tau over their largest modulus, by u = 0..P-1, shape (R, P).
        rows: which row each coordinate has, shape (D,).
        log_peaks: log of what each row was divided by, shape (R,).
    """

    tables: np.ndarray
    rows: np.ndarray
    log_peaks: np.ndarray

    @property
    def dim(self) -> int:
        """The dimension D."""
        return len(self.rows)

    @property
    def modulus(self) -> int:
        """P."""
        return self.tables.shape[1]

    @property
    def log_peak(self) -> float:
        """Log of the largest |tau(u)|."""
        return float(self.log_peaks[self.rows].sum())

    @cached_property
    def totals(self) -> np.ndarray:
        """sum_u |tau(u)|^2 of each row of `tables`, shape (R,)."""
        return (np.abs(self.tables) ** 2).sum(axis=1)

    @property
    def log_weight(self) -> float:
        """Log of sum_u |tau(u)|^2 over all of Z_P^D."""
        return float((np.log(self.totals) + 2 * self.log_peaks)[self.rows].sum())

    @cached_property
    def probabilities(self) -> np.ndarray:
        """|tau(u)|^2 over its sum, shape (R, P)."""
        return np.abs(self.tables) ** 2 / self.totals[:, None]

    def log_weights(self, least: float) -> np.ndarray:
        """Log of |tau(u)|^2 over its peak for each row of `tables`, shape (R, P); -inf below `least`."""
        with np.errstate(divide="ignore"):
            logs = 2 * np.log(np.abs(self.tables))
        return np.where(logs < least, -np.inf, logs)

    def tempered(self, nats: float) -> "Filter":
        """The filter of |tau|^beta whose |tau|^2 is `nats` of relative entropy away from this one's.

        0 < beta < 1, and almost 0 where even that is nearer.
        """
        counts = np.bincount(self.rows, minlength=len(self.tables))
        weights = self.probabilities
        logs = np.log(np.where(weights > 0, weights, 1.0))
        moduli = np.abs(self.tables)
        low, high = 1e-3, 1.0
        for _ in range(30):
            beta = (low + high) / 2
            normaliser = np.log(np.where(weights > 0, weights**beta, 0.0).sum(axis=1))
            apart = (weights * ((1 - beta) * logs + normaliser[:, None])).sum(axis=1)
            if float(counts @ apart) > nats:
                low = beta
            else:
                high = beta
        # where |tau|^2 underflows this filter never draws, and nor must the new one
        return Filter(np.where(weights > 0, moduli**high, 0.0), self.rows, self.log_peaks)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw u ~ |tau(u)|^2, int64 of shape (count, D)."""
        u = np.empty((count, self.dim), dtype=np.int64)
        uniforms = rng.random((count, self.dim))
        for row, weights in enumerate(self.probabilities):
            columns = np.flatnonzero(self.rows == row)
            u[:, columns] = draw_running(np.cumsum(weights), uniforms[:, columns])
        return u

    def log_probabilities(self, u: np.ndarray) -> np.ndarray:
        """Log of |tau(u)|^2 over its sum, shape (N,) for u of shape (N, D); -inf where tau is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.probabilities)[self.rows, u].sum(axis=1)

    def phases(self, u: np.ndarray) -> np.ndarray:
        """tau(u) / |tau(u)|, shape (N,) for u of shape (N, D)."""
        moduli = np.abs(self.tables)
        unit = np.divide(self.tables, moduli, out=np.ones_like(self.tables), where=moduli > 0)
        return unit[self.rows, u].prod(axis=1)


def filter_amplitudes(width: float, modulus: int) -> np.ndarray:
    """tau(u) = exp(-u^2 / (2 w^2)) by u = 0..P-1, u taken as its centred representative; shape (P,)."""
    with np.errstate(over="ignore"):  # a width of almost nothing keeps u = 0 alone
        return np.exp(-0.5 * (centred(np.arange(modulus), modulus) / width) ** 2)


def checked_widths(smoothing: Any, dim: int) -> np.ndarray:
    """One positive width per coordinate, shape (dim,), from a number or an array."""
    widths = as_array(smoothing, "smoothing")
    if widths.shape not in ((), (dim,)) or widths.dtype.kind not in "iuf":
        raise ValueError(f"smoothing is {smoothing!r}; give a width, or one per coordinate of shape ({dim},)")
    bad = ~(np.isfinite(widths) & (widths > 0))
    if bad.any():
        raise ValueError(f"smoothing holds {widths[bad].item(0)}; widths must be positive and finite")
    return np.broadcast_to(widths.astype(np.float64), (dim,))


def checked_filter(smoothing: Any, dim: int, modulus: int) -> Filter:
    """The filter that `smoothing` names.

    Args:
        smoothing: a width or one per coordinate, for tau_i(u) = exp(-u^2 / (2 w_i^2)), or a table of tau by
            u = 0..P-1, real or complex, of shape (1, P) for all coordinates or (D, P).
        dim: D.
        modulus: P.

    Raises:
        ValueError: of another shape, not finite, a width that is not positive, a row that is zero everywhere.
    """
    if isinstance(smoothing, str):
        raise ValueError(
            f"smoothing is {smoothing!r}; give a width, one per coordinate, or a table of tau (data may be "
            'smoothed by "auto" as well)'
        )
    given = as_array(smoothing, "smoothing")
    if given.ndim != 2:
        widths, rows = np.unique(checked_widths(smoothing, dim), return_inverse=True)
        tables = np.stack([filter_amplitudes(width, modulus) for width in widths])
        return Filter(tables, rows.reshape(-1), np.zeros(len(widths)))
    table = check_numbers(given, "smoothing")
    if table.shape not in ((1, modulus), (dim, modulus)):
        raise ValueError(
            f"smoothing is a table of shape {table.shape}; give (1, {modulus}) or ({dim}, {modulus}), tau by "
            "u = 0..P-1"
        )
    distinct, rows = np.unique(table, axis=0, return_inverse=True)
    if not distinct.any(axis=1).all():
        row = int(np.flatnonzero(~table.any(axis=1))[0])
        raise ValueError(f"row {row} of smoothing is zero everywhere; a filter must keep some frequency")
    sizes = np.maximum(np.abs(distinct.real), np.abs(distinct.imag)).max(axis=1)  # never overflow
    tables = distinct / sizes[:, None]
    peaks = np.abs(tables).max(axis=1)
    places = np.broadcast_to(rows.reshape(-1), (dim,))
    return Filter(tables / peaks[:, None], places, np.log(sizes) + np.log(peaks))


@dataclass(frozen=True, eq=False)
class Site:
    """One coordinate's filter tau, normalised to sum_u |tau(u)|^2 = 1.

    Where tau is real and even, e^{-iux} and e^{iux} stand as cos and sin: real arithmetic for real values.

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
