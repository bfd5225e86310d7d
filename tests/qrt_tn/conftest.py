"""Oracles that know the definitions alone: dense sums, a chi-square test; and what drawing nodes takes."""

import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from qrt_tn import QuantumRidgeletTransform, Ridgelet
from qrt_tn.engine.threads import limited
from qrt_tn.states import chunks


def grid(modulus, dim):
    """All points of Z_P^D in the order of a C-contiguous array, (P^D, D)."""
    return np.array(list(itertools.product(range(modulus), repeat=dim)), dtype=np.int64)


def analysed(f, dim, r):
    """R[f](a, b) = P^{-D/2} sum_x f(x) conj r((a.x - b) mod P) by the sum; f: (P,)*D or (P,)*D + (C,)."""
    modulus = f.shape[0]
    points = grid(modulus, dim)
    products = points @ points.T
    flat = f.reshape(len(points), -1)
    columns = [np.conj(r[(products - b) % modulus]) @ flat for b in range(modulus)]
    return np.stack(columns, axis=1).reshape(*f.shape[:dim], modulus, *f.shape[dim:]) / modulus ** (dim / 2)


def synthesised(weights, dim, g):
    """S[w](x) = P^{-D/2} sum_{a,b} w(a, b) g((a.x - b) mod P) by the sum."""
    modulus = weights.shape[0]
    points = grid(modulus, dim)
    products = points @ points.T
    flat = weights.reshape(len(points), modulus, -1)
    total = sum(g[(products.T - b) % modulus] @ flat[:, b] for b in range(modulus))
    return total.reshape(*weights.shape[:dim], *weights.shape[dim + 1 :]) / modulus ** (dim / 2)


def fourier(f, dim):
    """f^(u) = P^{-D/2} sum_x f(x) omega^{-u.x} by the sum."""
    modulus = f.shape[0]
    points = grid(modulus, dim)
    phases = np.exp(-2j * np.pi * ((points @ points.T) % modulus) / modulus)
    return (phases @ f.reshape(len(points), -1)).reshape(f.shape) / modulus ** (dim / 2)


def placed(points, values, modulus):
    """sum_m y_m |x_m> as an array, (P,)*D or (P,)*D + (C,)."""
    f = np.zeros((modulus,) * points.shape[1] + values.shape[1:], dtype=values.dtype)
    np.add.at(f, tuple(points.T), values)
    return f


def filtered(f, dim, widths):
    """F^{-1}[f^ tau], tau(u) = prod_i exp(-u_i^2 / (2 w_i^2)) of the centred representatives."""
    modulus = f.shape[0]
    u = np.arange(modulus)
    u = np.minimum(u, modulus - u)
    hat = fourier(f, dim)
    for axis, width in enumerate(np.broadcast_to(widths, (dim,))):
        shape = [1] * f.ndim
        shape[axis] = modulus
        hat = hat * np.exp(-(u**2) / (2 * width**2)).reshape(shape)
    back = hat.reshape(modulus**dim, -1)
    points = grid(modulus, dim)
    phases = np.exp(2j * np.pi * ((points @ points.T) % modulus) / modulus)
    return (phases @ back).reshape(f.shape) / modulus ** (dim / 2)


def random_cores(rng, modulus, dim, bond, *, complex_values=False):
    bonds = [1] + [bond] * (dim - 1) + [1]
    shapes = [(bonds[i], modulus, bonds[i + 1]) for i in range(dim)]
    if complex_values:
        return [rng.normal(size=shape) + 1j * rng.normal(size=shape) for shape in shapes]
    return [rng.normal(size=shape) for shape in shapes]


def expanded(cores):
    """A matrix product state as an array."""
    full = cores[0]
    for core in cores[1:]:
        full = np.tensordot(full, core, axes=1)
    return full[0, ..., 0]


def p_value(samples, probabilities):
    """Chi-square p-value of index tuples (N, axes) against an array of probabilities, small cells pooled."""
    probabilities = np.asarray(probabilities, dtype=float)
    assert abs(probabilities.sum() - 1) < 1e-8
    flat = np.ravel_multi_index(tuple(np.asarray(samples).T), probabilities.shape)
    counts = np.bincount(flat, minlength=probabilities.size)
    expected = probabilities.reshape(-1) * len(samples)
    if counts[expected < 1e-12].any():
        return 0.0  # drew something of probability 0
    # cells of small expectation are pooled, in ascending order, to about 8 a pool
    order = np.argsort(expected)
    expected, counts = expected[order], counts[order]
    pools = np.maximum(np.cumsum(np.minimum(expected, 8)) / 8 - 1e-9, 0).astype(int)
    wanted, observed = np.bincount(pools, expected), np.bincount(pools, counts)
    observed, wanted = observed[wanted > 4], wanted[wanted > 4]
    if len(wanted) < 2:
        return 1.0
    return float(stats.chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1))


def foreseen_over_taken(state, nodes):
    """Bytes that `describe` foresees for drawing nodes, over those that drawing takes."""
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", state.modulus), "numpy")
    with limited(1):  # several threads seldom reach their peaks together
        qrt.sample(2)  # compiles
        foreseen = chunks.drawing_bytes(state, nodes, state.modulus - 1) + chunks.node_bytes(state, nodes)
        tracemalloc.start()
        qrt.sample(nodes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return foreseen / peak


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(
        grid=grid,
        analysed=analysed,
        synthesised=synthesised,
        fourier=fourier,
        placed=placed,
        filtered=filtered,
        random_cores=random_cores,
        expanded=expanded,
        p_value=p_value,
        foreseen_over_taken=foreseen_over_taken,
    )
