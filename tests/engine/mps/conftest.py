"""Random chains of cores, and the dense arrays that they stand for."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

SHAPES = [([4], 1), ([2, 3], 2), ([3, 2, 4, 2], 5), ([2] * 8, 6), ([5, 1, 3], 3)]


def random_cores(rng, extents, bond, *, complex_values=True, dtype=None):
    bonds = [1] + [bond] * (len(extents) - 1) + [1]
    cores = []
    for i, extent in enumerate(extents):
        core = rng.normal(size=(bonds[i], extent, bonds[i + 1]))
        if complex_values:
            core = core + 1j * rng.normal(size=core.shape)
        cores.append(core if dtype is None else core.astype(dtype))
    return cores


def expanded(cores):
    full = cores[0]
    for core in cores[1:]:
        full = np.tensordot(full, core, axes=1)
    return full[0, ..., 0]


def p_value(samples, probabilities):
    """Chi-square p-value of index tuples (N, axes), cells below an expectation of 6 pooled."""
    flat = np.ravel_multi_index(tuple(samples.T), probabilities.shape)
    counts = np.bincount(flat, minlength=probabilities.size)
    expected = len(samples) * probabilities.reshape(-1)
    if counts[expected == 0].any():
        return 0.0
    large = expected > 6
    observed = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    observed, wanted = observed[wanted > 1], wanted[wanted > 1]
    return float(stats.chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1))


@pytest.fixture(scope="session")
def chains():
    return SimpleNamespace(random_cores=random_cores, expanded=expanded, p_value=p_value)


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param
