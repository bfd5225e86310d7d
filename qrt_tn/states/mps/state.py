"""Matrix product states, held in the Fourier basis, where they are sampled and evaluated."""

import copy
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine import mps
from qrt_tn.engine.backends import array_module, namespace, to_host
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.threads import threads_for
from qrt_tn.field import check_prime, fourier, inverse_fourier
from qrt_tn.states.base import CLASS_INDEX, Cost, State, check_count, site_index
from qrt_tn.states.filters import checked_filter
from qrt_tn.states.mps.harmonics import BLOCK, DEVICE_BLOCK, FEWEST, LEAST, SMALL, SPREAD, harmonics

_BLOCK = 2**19  # profile values of one block of nodes (8 MiB)


class MPSState(State):
    """A state whose spectrum f^(u) is a matrix product state on few or all values of each u_i.

    A filter that keeps few frequencies leaves most values of u_i without amplitude; those need no place
    on a site. A vector output has its class as a first site of extent C.

    Args:
        cores: of the spectrum, (left, kept frequencies, right), the class core first for a vector output.
        supports: the frequencies that each site keeps, ascending, one int array a site.
        modulus: P.
        vector: whether the first core is the class's.
        log_norm: added to the log-norm that the cores themselves have.
        truncation_error: ||f - held|| / ||f|| of the compression that made the cores; 0 if none did. For
            sums and filtered states a bound on it.
        tolerance: what that error was asked to stay below; 0 if nothing was truncated.

    Attributes:
        cores: right-canonical with unit norm.
        bond_dimensions: the bonds between sites, D - 1 numbers (D with a class site before them).
    """

    def __init__(
        self,
        cores: Sequence[Any],
        supports: Sequence[np.ndarray],
        modulus: int,
        *,
        vector: bool = False,
        log_norm: float = 0.0,
        truncation_error: float = 0.0,
        tolerance: float = 0.0,
    ) -> None:
        self.modulus = modulus
        self.dim = len(supports)
        self.vector = vector
        self.outputs = int(cores[0].shape[1]) if vector else 1
        self.cores, own = mps.right_canonical(list(cores))
        if not np.isfinite(own):
            raise ValueError("the state is zero everywhere; a state needs a norm")
        self.log_norm = log_norm + own
        self.supports = [np.asarray(support, dtype=np.int64) for support in supports]
        self.truncation_error = truncation_error
        self.tolerance = tolerance
        # the place of each frequency on its site, -1 where the site does not keep it
        self._places = np.full((self.dim, modulus), -1, dtype=np.int32)
        for site, support in enumerate(self.supports):
            self._places[site, support] = np.arange(len(support))

    def __getstate__(self) -> dict[str, Any]:
        # a pickled array keeps its layout, in which products round alike, only if its strides descend
        orders = [tuple(np.argsort(core.strides)[::-1]) for core in self.cores]
        cores = [core.transpose(order) for core, order in zip(self.cores, orders, strict=True)]
        return {**self.__dict__, "cores": cores, "orders": orders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        orders = state.pop("orders")
        self.__dict__.update(state)
        pairs = zip(state["cores"], orders, strict=True)
        self.cores = [core.transpose(tuple(np.argsort(order))) for core, order in pairs]

    def to(self, backend: str) -> "MPSState":
        """A copy whose cores live on a backend, where it is sampled and evaluated."""
        xp = namespace(backend)
        if array_module(self.cores[0]) is xp:
            return self
        moved = copy.copy(self)
        moved.cores = [xp.asarray(to_host(core)) for core in self.cores]
        return moved

    @property
    def backend(self) -> str:
        """NumPy, or CuPy where the cores live on a device."""
        return "numpy" if array_module(self.cores[0]) is np else "cupy"

    @property
    def bond_dimensions(self) -> list[int]:
        """The extents of the bonds from left to right."""
        return [int(core.shape[2]) for core in self.cores[:-1]]

    @property
    def held_bytes(self) -> int:
        """Bytes of the cores, and of the places of frequencies."""
        return sum(int(core.nbytes) for core in self.cores) + self._places.nbytes

    def arrays(self) -> list[Any]:
        """The cores, and the frequencies that their sites keep."""
        return [*self.cores, *self.supports]

    def schmidt_values(self) -> list[np.ndarray]:
        """The Schmidt coefficients at every bond, descending, each list of squared sum 1."""
        return mps.schmidt_values(self.cores)

    def entanglement_entropies(self) -> np.ndarray:
        """-sum s^2 log s^2 of the Schmidt coefficients s at every bond, in nats."""
        weights = [values[values > 0] ** 2 for values in self.schmidt_values()]
        return np.array([float(-(weight * np.log(weight)).sum()) for weight in weights])

    def site_probabilities(self) -> np.ndarray:
        """The distribution of every u_i by itself, u ~ sum_c |f^_c(u)|^2; float64, shape (D, P)."""
        result = np.zeros((self.dim, self.modulus))
        held = mps.site_probabilities(self.cores)[self._first :]
        for row, support, probabilities in zip(result, self.supports, held, strict=True):
            row[support] = probabilities
        return result

    def compressed(self, *, tolerance: float = 0.0, max_bond: int | None = None) -> "MPSState":
        """The state with its bonds truncated by singular value decomposition.

        Args:
            tolerance: the largest relative error ||f - compressed|| / ||f|| to aim at, from 0 to below 1.
            max_bond: the largest bond, whatever the error.

        Returns:
            A state whose `truncation_error` is the error made; where this state had one, a bound on both.

        Raises:
            ValueError: a tolerance or a bond out of range.
        """
        if not (isinstance(tolerance, numbers.Real) and 0 <= float(tolerance) < 1):
            raise ValueError(f"tolerance is {tolerance!r}; give a relative error from 0 to below 1")
        if max_bond is not None:
            max_bond = check_count(max_bond, "max_bond")
        cores, error = mps.compress(self.cores, float(tolerance), max_bond)
        both = self.truncation_error + error * (1 + self.truncation_error)
        return self._with(cores, self.supports, both, tolerance=float(tolerance))

    def filtered(self, smoothing: Any) -> "MPSState":
        """The function whose spectrum is f^(u) prod_i tau_i(u_i); bonds stay as they are.

        Args:
            smoothing: the filter, as in `states.from_samples`: a width, one per coordinate, or a table of
                tau. Frequencies where tau is 0 lose their place on the site.

        Raises:
            ValueError: a bad filter, a coordinate whose tau is 0 wherever the state has frequencies, or a
                product that leaves nothing of the state.
        """
        product = checked_filter(smoothing, self.dim, self.modulus)
        cores, supports, chosen = list(self.cores[: self._first]), [], []
        for site, (support, row) in enumerate(zip(self.supports, product.rows, strict=True)):
            table = product.tables[row]
            kept = np.flatnonzero(table[support])
            if len(kept) == 0:
                raise ValueError(
                    f"tau is zero wherever the state has frequencies at coordinate {site}; nothing is left"
                )
            chosen.append(table[support[kept]])
            supports.append(support[kept])
            core = self.cores[self._first + site]
            cores.append(core if len(kept) == len(support) else core[:, array_module(core).asarray(kept)])
        cores[self._first :] = mps.filtered(cores[self._first :], chosen)
        try:
            state = self._with(cores, supports, 0.0, log_scale=product.log_peak)
        except ValueError as error:
            raise ValueError("the filter leaves nothing of the state; widen it") from error
        # an error may lie where the filter is largest
        state.truncation_error = _error_bound(
            [(self.truncation_error, self.log_norm + product.log_peak)], state
        )
        return state

    def inner(self, other: "MPSState") -> Scaled:
        """<f|g> = sum_x conj f(x) g(x) of both functions with the norms they have, summed over classes.

        Returns:
            Scaled of shape ().

        Raises:
            ValueError: states of different modulus, dimension, classes or device.
        """
        bra, ket, _ = self._aligned(other)
        found = mps.inner(bra, ket)
        return Scaled(to_host(found.mantissa), to_host(found.log_scale) + self.log_norm + other.log_norm)

    def __add__(self, other: "MPSState") -> "MPSState":
        if not isinstance(other, MPSState):
            return NotImplemented
        left, right, supports = self._aligned(other)
        scale = max(self.log_norm, other.log_norm)
        shares = [float(np.exp(state.log_norm - scale)) for state in (self, other)]
        cores = mps.add(mps.scaled(left, shares[0]), mps.scaled(right, shares[1]))
        try:
            state = self._with(cores, supports, 0.0, log_scale=scale - self.log_norm)
        except ValueError as error:
            raise ValueError("the sum of the states is zero; a state needs a norm") from error
        errors = [(term.truncation_error, term.log_norm) for term in (self, other)]
        state.truncation_error = _error_bound(errors, state)
        return state

    def __mul__(self, number: complex) -> "MPSState":
        if isinstance(number, bool) or not isinstance(number, numbers.Number):
            return NotImplemented
        value = complex(number)
        peak = max(abs(value.real), abs(value.imag))
        if peak == 0 or not np.isfinite(peak):
            raise ValueError(f"a state times {number!r} has no norm; give a finite number other than 0")
        value /= peak  # first, so that its modulus neither overflows nor vanishes
        size = abs(value)
        state = copy.copy(self)
        state.log_norm = self.log_norm + math.log(peak) + math.log(size)
        phase = value / size
        if phase != 1:
            state.cores = mps.scaled(self.cores, phase.real if phase.imag == 0 else phase)
        return state

    __rmul__ = __mul__

    def __neg__(self) -> "MPSState":
        return self * -1

    def __sub__(self, other: "MPSState") -> "MPSState":
        return self + (-other) if isinstance(other, MPSState) else NotImplemented

    @property
    def _first(self) -> int:
        """The place of the first coordinate's core."""
        return 1 if self.vector else 0

    def _with(
        self,
        cores: mps.Cores,
        supports: Sequence[np.ndarray],
        truncation_error: float,
        *,
        tolerance: float | None = None,
        log_scale: float = 0.0,
    ) -> "MPSState":
        """A state of other cores, whose values this one's norm and exp(log_scale) multiply."""
        return MPSState(
            cores,
            supports,
            self.modulus,
            vector=self.vector,
            log_norm=self.log_norm + log_scale,
            truncation_error=truncation_error,
            tolerance=self.tolerance if tolerance is None else tolerance,
        )

    def _aligned(self, other: "MPSState") -> tuple[mps.Cores, mps.Cores, list[np.ndarray]]:
        """Both states' cores with a place for every frequency that either keeps, and these frequencies."""
        if not isinstance(other, MPSState):
            raise ValueError(f"the other state is a {type(other).__name__}; give a matrix product state")
        for name in ("modulus", "dim", "outputs", "vector"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"the states differ in {name}: {getattr(self, name)} and {getattr(other, name)}"
                )
        if array_module(self.cores[0]) is not array_module(other.cores[0]):
            raise ValueError("one state lives on a device and the other on the host; move one with .to(...)")
        supports = [np.union1d(a, b) for a, b in zip(self.supports, other.supports, strict=True)]
        return self._padded(supports), other._padded(supports), supports

    def _padded(self, supports: Sequence[np.ndarray]) -> mps.Cores:
        """Cores with places for more frequencies, of amplitude 0 where this state does not keep them."""
        xp = array_module(self.cores[0])
        result = list(self.cores[: self._first])
        for core, own, wanted in zip(self.cores[self._first :], self.supports, supports, strict=True):
            if len(own) < len(wanted):
                wide = xp.zeros((core.shape[0], len(wanted), core.shape[2]), dtype=core.dtype)
                wide[:, xp.asarray(np.searchsorted(wanted, own))] = core
                core = wide  # noqa: PLW2901
            result.append(core)
        return result

    def network(self) -> qtn.TensorNetwork:
        """A chain of D tensors in the position basis, the class index on the first for a vector output."""
        first = self._first
        tensors = []
        for site, held in enumerate(self._padded([np.arange(self.modulus)] * self.dim)[first:]):
            core = inverse_fourier(to_host(held), axis=1).astype(held.dtype)
            inds = [f"k{site}", site_index(site), f"k{site + 1}"]
            if site == 0:
                if self.vector:
                    core, inds[0] = np.tensordot(to_host(self.cores[0])[0], core, axes=1), CLASS_INDEX
                else:
                    core, inds = core[0], inds[1:]
            if site == self.dim - 1:
                core, inds = core[..., 0], inds[:-1]
            tensors.append(qtn.Tensor(core, inds=inds, tags=["F", f"F{site}"]))
        return qtn.TensorNetwork(tensors)

    def _profile_rows(self) -> int:
        return max(1, _BLOCK // (self.modulus * self.outputs))

    def _harmonics(self, a: np.ndarray, v: np.ndarray) -> Scaled:
        everywhere = all(len(support) == self.modulus for support in self.supports)
        values = harmonics(self.cores[self._first :], None if everywhere else self._places, a, v)
        mantissa = values.mantissa.astype(np.complex128)
        if self.vector:
            mantissa = mantissa @ to_host(self.cores[0])[0].T
        return Scaled(mantissa, values.log_scale)

    def _spectrum(self, u: np.ndarray) -> Scaled:
        places = self._places[np.arange(self.dim), u]
        held = np.flatnonzero((places >= 0).all(axis=1))
        xp = array_module(self.cores[0])
        mantissa = xp.zeros((len(u), self.outputs), dtype=self.cores[0].dtype)
        log_scale = xp.zeros((len(u), 1))
        if len(held):
            vectors = mps.right_vectors(self.cores[self._first :], places[held])
            mantissa[held] = vectors.mantissa @ self.cores[0][0].T if self.vector else vectors.mantissa
            log_scale[held] = vectors.log_scale
        return Scaled(to_host(mantissa), to_host(log_scale))

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        sites, _ = mps.sample(self.cores, count, rng)
        places = sites[:, 1:] if self.vector else sites
        return np.stack(
            [support[column] for support, column in zip(self.supports, places.T, strict=True)], axis=1
        )

    def _log_marginals(self, coordinates: np.ndarray, u: np.ndarray) -> np.ndarray:
        places = self._places[coordinates, u]
        return mps.log_marginals(self.cores, coordinates + self._first, places)

    def _drawing(self, count: int, n_harmonics: int) -> Cost:
        device, real_size = self.backend != "numpy", self.cores[0].real.dtype.itemsize
        products = moved = swept = tables = largest = 0.0
        for core in self.cores:
            left, extent, right = core.shape
            if device or mps.best_method(left, extent, right, count) == "sweep":
                products += 4 * left * extent * right
                moved += 2 * extent * right * real_size
                swept = max(swept, extent * right)
            else:
                searched = left**2 * (np.log2(extent) + 1) + 4 * left * right
                table = extent * left * (left + 2.0 * right)
                products += searched + 4 * extent * left**2 * right / count
                moved += searched / 4 + 600 + 100 * extent * left**2 / count
                tables, largest = tables + table, max(largest, table)
        # the harmonic that a node was drawn with lives; of the others, those that no coordinate drops
        kept = [len(support) / self.modulus for support in self.supports]
        alive = min(float(n_harmonics), 1 + n_harmonics * float(np.exp(np.log(kept).sum())))
        products += alive * 4.0 * sum(core.shape[0] * core.shape[2] for core in self.cores)
        bond = max(core.shape[0] for core in self.cores)
        compiled = bond <= SMALL and not device
        # along the chain beside matrix products (bytes fitted to measured times); calls are added below
        each, by_bond = (200.0, 40.0) if compiled else (140.0, 120.0)
        places = max(1.0, n_harmonics / 128) ** 0.25  # of a large P lie apart in memory
        moved += alive * places * sum(each + by_bond * core.shape[0] for core in self.cores)
        # drawing: uniforms, picks and nodes, with tables of searched sites or branches of swept ones; then a
        # few arrays of a block of vectors
        threads, profiled = threads_for(self.cores[0]), min(count, self._profile_rows())
        drawn = 1.5 * real_size * (min(tables, 2.0**22) + 3 * largest)
        drawn = max(drawn, 5 * real_size * threads * swept * min(count, max(16, 2**19 // max(1, swept))))
        block = max(
            DEVICE_BLOCK if device else BLOCK,
            min(SPREAD, LEAST * n_harmonics * bond) if compiled else FEWEST * bond,
        )
        vectors = (8.0 if compiled else 14.0) * real_size * min(threads * block, profiled * alive * bond)
        profile = self.modulus * self.outputs
        values = 130 * profile + 8 * n_harmonics * self.cores[self._first].shape[0]  # and its harmonics
        return Cost(
            products=count * (products + 5.0 * profile * np.log2(self.modulus)),
            moved=count * (moved + 900.0 * profile) + 1.5e6 * len(self.cores),
            memory=64.0 * count * self.dim + max(drawn, vectors) + values * profiled + 160.0 * self.modulus,
            dtype=str(self.cores[0].dtype),
        )


def _error_bound(terms: Sequence[tuple[float, float]], held: MPSState) -> float:
    """A bound on the relative error of a state made of terms: (relative error, log-norm held) of each.

    Infinite where they say nothing.
    """
    lost = 0.0
    for error, log_norm in terms:
        if error > 0:
            # the exact term's norm is at most 1 / (1 - error) of the norm held
            share = min(log_norm - held.log_norm, 700.0)
            lost += error / (1 - error) * float(np.exp(share)) if error < 1 else np.inf
    return lost / (1 - lost) if lost < 1 else np.inf


def from_mps(cores: Sequence[Any]) -> MPSState:
    """The state f(x) = A_0[x_0] A_1[x_1] ... A_{D-1}[x_{D-1}].

    Args:
        cores: arrays of shape (left, P, right); the outer bonds are 1. Single or double precision, real
            or complex; the state keeps the precision.

    Raises:
        ValueError: bonds that do not chain, sites of different or composite extent, NaN, or a zero state.

    >>> import numpy as np
    >>> round(from_mps([np.ones((1, 5, 2)), np.ones((2, 5, 1))]).norm, 9)  # f = 2 on 25 points
    10.0
    """
    checked = mps.check_cores(cores)
    modulus = check_prime(checked[0].shape[1])
    for number, core in enumerate(checked):
        if core.shape[1] != modulus:
            raise ValueError(
                f"core {number} has site extent {core.shape[1]}, core 0 has {modulus}; all must be P"
            )
    xp = array_module(checked[0])
    dtype = np.result_type(checked[0].dtype, np.complex64)
    spectral, columns, exponent = [], xp.zeros(1, dtype=np.int64), 0
    for core in reversed(checked):
        wide, columns, more = mps.balanced(core, columns)  # in double precision: one core at a time is
        spectral.append(fourier(wide, axis=1).astype(dtype))
        exponent += more
    everywhere = [np.arange(modulus)] * len(spectral)
    return MPSState(spectral[::-1], everywhere, modulus, log_norm=exponent * math.log(2.0))
