"""Matrix product states, held in the Fourier basis, where they are sampled and evaluated."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import quimb.tensor as qtn

from engine import mps
from engine.backends import array_module, namespace, to_host
from engine.scaled import Scaled
from qrt_tn.field import check_prime, fourier_matrix
from qrt_tn.states.base import CLASS_INDEX, State, site_index


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
        truncation_error: ||f - held|| / ||f|| of the compression that made the cores; 0 if none did.
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
        self._places = np.full((self.dim, modulus), -1, dtype=np.int64)
        for site, support in enumerate(self.supports):
            self._places[site, support] = np.arange(len(support))

    def on(self, backend: str) -> "MPSState":
        """A copy whose cores live on a backend, where it is sampled and evaluated."""
        xp = namespace(backend)
        if array_module(self.cores[0]) is xp:
            return self
        moved = copy.copy(self)
        moved.cores = [xp.asarray(to_host(core)) for core in self.cores]
        return moved

    @property
    def bond_dimensions(self) -> list[int]:
        """The extents of the bonds from left to right."""
        return [int(core.shape[2]) for core in self.cores[:-1]]

    def schmidt_values(self) -> list[np.ndarray]:
        """The Schmidt coefficients at every bond, descending, each list of squared sum 1."""
        return mps.schmidt_values(self.cores)

    def network(self) -> qtn.TensorNetwork:
        """A chain of D tensors in the position basis, the class index on the first for a vector output."""
        first = 1 if self.vector else 0
        matrix = fourier_matrix(self.modulus).conj()  # F_1 is symmetric, so its adjoint is its conjugate
        tensors = []
        for site, support in enumerate(self.supports):
            core = np.einsum("xu,lur->lxr", matrix[:, support], to_host(self.cores[site + first]))
            inds = [f"k{site}", site_index(site), f"k{site + 1}"]
            if site == 0:
                if self.vector:
                    core = np.tensordot(to_host(self.cores[0])[0], core, axes=1)
                    inds[0] = CLASS_INDEX
                else:
                    core, inds = core[0], inds[1:]
            if site == self.dim - 1:
                core, inds = core[..., 0], inds[:-1]
            tensors.append(qtn.Tensor(core, inds=inds, tags=["F", f"F{site}"]))
        return qtn.TensorNetwork(tensors)

    def _spectrum(self, u: np.ndarray) -> Scaled:
        places = self._places[np.arange(self.dim), u]
        held = np.flatnonzero((places >= 0).all(axis=1))
        xp = array_module(self.cores[0])
        mantissa = xp.zeros((len(u), self.outputs), dtype=self.cores[0].dtype)
        log_scale = xp.zeros((len(u), 1))
        if len(held):
            first = 1 if self.vector else 0
            vectors = mps.right_vectors(self.cores[first:], places[held])
            mantissa[held] = vectors.mantissa @ self.cores[0][0].T if self.vector else vectors.mantissa
            log_scale[held] = vectors.log_scale
        return Scaled(to_host(mantissa), to_host(log_scale))

    def _sample_spectrum(self, count: int, rng: np.random.Generator) -> np.ndarray:
        sites, _ = mps.sample(self.cores, count, rng)
        places = sites[:, 1:] if self.vector else sites
        return np.stack(
            [support[column] for support, column in zip(self.supports, places.T, strict=True)], axis=1
        )


def from_mps(cores: Sequence[Any]) -> MPSState:
    """The state f(x) = A_0[x_0] A_1[x_1] ... A_{D-1}[x_{D-1}].

    Args:
        cores: arrays of shape (left, P, right); the outer bonds are 1. Single or double precision, real
            or complex; the state keeps the precision.

    Raises:
        ValueError: bonds that do not chain, sites of different or composite extent, NaN, or a zero state.
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
    matrix = xp.asarray(fourier_matrix(modulus)).astype(dtype)
    spectral = [xp.matmul(matrix, core) for core in checked]
    everywhere = np.arange(modulus)
    return MPSState(spectral, [everywhere] * len(spectral), modulus)
