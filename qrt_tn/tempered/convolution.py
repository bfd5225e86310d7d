"""Tempered spectra as spectra of self-convolutions: |z|^(2 beta) tau^2 of an MPS, for beta = 2 and 4.

z^beta is the spectrum of the beta-fold self-convolution of f, and an entrywise product of matrix product
states: of bond chi^beta, which successive randomised compression (Camano et al., arXiv 2504.06475)
brings to a bond chi' without ever forming the cores of z^2, in O(D levels chi' chi^2 (chi + chi')).
"""

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.engine.backends import to_host
from qrt_tn.tempered.chain import ChainConditionals

_EXTRA = 10  # random vectors beyond the bond
_NEGLIGIBLE = 1e-7  # of the largest singular value


def draw_convolved(
    law: ChainConditionals,
    contrast: np.ndarray,
    beta: int,
    max_bond: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact draws from the compressed self-convolution of z^beta tau, and how probable each was.

    Args:
        law: of a matrix product state.
        contrast: of its components, (C,).
        beta: 2 or 4.
        max_bond: the bond of the compressed state.
        count: how many draws n.
        rng: draws them, and the sketches.

    Returns:
        (u, log_probability): int64 (n, D), and float64 (n,).
    """
    first = contrast @ law.first
    cores = [np.tensordot(first[None], law.cores[0], axes=1), *law.cores[1:]]
    # z tau^(1 / beta), whose beta-th power is z^beta tau
    power = (1 / beta - 1 if law.filtered else 1 / beta) / 2
    cores = [
        core * np.exp(power * logs)[None, :, None] for core, logs in zip(cores, law.log_filter, strict=True)
    ]
    for _ in range(int(np.log2(beta))):
        cores = _squared(mps.right_canonical(cores)[0], max_bond, rng)
    places, log_probability = mps.sample(mps.right_canonical(cores)[0], count, rng)
    u = np.stack(
        [support[column] for support, column in zip(law.supports, to_host(places).T, strict=True)], axis=1
    )
    return u, np.asarray(to_host(log_probability))


def _squared(cores: mps.Cores, max_bond: int, rng: np.random.Generator) -> mps.Cores:
    """The entrywise square of a chain, with bonds up to `max_bond`."""
    sketches, length = max_bond + _EXTRA, len(cores)
    ends = [np.empty(0)] * length + [np.ones((sketches, 1, 1), dtype=np.complex128)]
    for i in range(length - 1, 0, -1):
        core = cores[i].transpose(1, 0, 2)
        random = rng.standard_normal((sketches, len(core), 2)) @ np.array([1, 1j])
        total = 0
        for number, matrix in enumerate(core):
            total = total + random[:, number, None, None] * (matrix @ ends[i + 1] @ matrix.T)
        ends[i] = total / np.linalg.norm(total, axis=(1, 2), keepdims=True)
    result: mps.Cores = []
    left = np.ones((1, 1, 1), dtype=np.complex128)
    for i, core in enumerate(cores):
        branches = np.stack([matrix.T @ left @ matrix for matrix in core.transpose(1, 0, 2)], axis=1)
        bond, values, right, _ = branches.shape
        flat = branches.reshape(bond * values, right * right)
        if i == length - 1:
            result.append(flat.reshape(bond, values, 1))
            break
        basis, sizes, _ = np.linalg.svd(flat @ ends[i + 1].reshape(sketches, -1).T, full_matrices=False)
        kept = max(1, min(max_bond, int((sizes > _NEGLIGIBLE * sizes[0]).sum())))
        result.append(basis[:, :kept].reshape(bond, values, kept))
        left = (basis[:, :kept].conj().T @ flat).reshape(kept, right, right)
        left = left / np.linalg.norm(left)
    return result
