"""The ridgelet transform as a tensor network in quimb: gate by gate, or fused to one tensor a site."""

import numpy as np
import quimb.tensor as qtn

from qrt_tn.field import fourier_matrix, inverses, roots_of_unity
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import State, site_index

ANCILLA = "v"  # the hyperindex that every site shares
OUTPUT = "b"
_LIMIT = 2**28  # elements of a tensor of P^3, so P up to 643


def weight_index(site: int) -> str:
    """The name of the outer index of one component of a."""
    return f"a{site}"


def circuit(state: State, ridgelet: Ridgelet) -> qtn.TensorNetwork:
    """The QRT circuit applied to a state, gate by gate.

    1. FOURIER on each site; 2. ANCILLA sum_v conj r^(v) |v>; 3. MULTIPLY on each site, |u>|v> ->
    |v^{-1} u>|v>, diagonal in v, so v is one hyperindex; 4. INVERSE-FOURIER on the ancilla, whose index
    becomes b. Every tensor carries its step as a tag, and SITE{i} where it acts on a site. At v = 0,
    which has no amplitude, the multiplication is the identity.

    Returns:
        A network with outer indices a0 .. a{D-1}, b (and c for a vector output).

    Raises:
        ValueError: a gate's P^3 elements, or the state's own network, are too large.
    """
    modulus = ridgelet.modulus
    _check_size(modulus)
    network = state.network()
    u = np.arange(modulus)
    targets = (inverses(modulus)[:, None] * u[None, :]) % modulus
    targets[0] = u
    multiply = np.zeros((modulus, modulus, modulus))
    multiply[u[:, None], u[None, :], targets] = 1
    matrix = fourier_matrix(modulus)
    tensors = []
    for site in range(state.dim):
        where = f"SITE{site}"
        tensors.append(qtn.Tensor(matrix, inds=[f"u{site}", site_index(site)], tags=["FOURIER", where]))
        tensors.append(
            qtn.Tensor(multiply, inds=[ANCILLA, f"u{site}", weight_index(site)], tags=["MULTIPLY", where])
        )
    tensors.append(qtn.Tensor(ridgelet.spectrum.conj(), inds=[ANCILLA], tags=["ANCILLA"]))
    tensors.append(qtn.Tensor(matrix.conj(), inds=[OUTPUT, ANCILLA], tags=["INVERSE-FOURIER"]))
    return qtn.TensorNetwork([network, *tensors])


def fused_network(state: State, ridgelet: Ridgelet) -> qtn.TensorNetwork:
    """The same transform in D + 1 tensors beside the state's own.

    One K[v, a, x] = P^{-1/2} omega^{-v a x} per site, all sharing the hyperindex v, and
    B[v, b] = P^{-1/2} omega^{v b} conj r^(v).

    Returns:
        A network with outer indices a0 .. a{D-1}, b (and c for a vector output).

    Raises:
        ValueError: as `circuit`.
    """
    modulus = ridgelet.modulus
    _check_size(modulus)
    v = np.arange(modulus)
    kernel = roots_of_unity(modulus)[(-v[:, None, None] * v[None, :, None] * v[None, None, :]) % modulus]
    kernel = kernel / np.sqrt(modulus)
    output = fourier_matrix(modulus).conj() * ridgelet.spectrum.conj()[:, None]
    tensors = [
        qtn.Tensor(
            kernel, inds=[ANCILLA, weight_index(site), site_index(site)], tags=["KERNEL", f"SITE{site}"]
        )
        for site in range(state.dim)
    ]
    tensors.append(qtn.Tensor(output, inds=[ANCILLA, OUTPUT], tags=["OUTPUT"]))
    return qtn.TensorNetwork([state.network(), *tensors])


def _check_size(modulus: int) -> None:
    if modulus**3 > _LIMIT:
        raise ValueError(
            f"the tensors of a site at P = {modulus} have P^3 elements each, above {_LIMIT}; use amplitudes, "
            "profiles or sample, which need none"
        )
