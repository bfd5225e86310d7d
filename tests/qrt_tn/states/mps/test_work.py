import tracemalloc

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states.mps.work import drawing_work


def test_products_by_hand():
    cores = [np.ones(shape) for shape in ((1, 31, 4), (4, 31, 4), (4, 31, 1))]
    profiles = 30 * 4 * (4 + 16 + 4)
    few, _, _ = drawing_work(cores, np.ones(3), 4, 30)
    assert few == 4 * (profiles + 4 * 31 * (4 + 16 + 4)), "four rows go by the sweep"
    many, _, _ = drawing_work(cores, np.ones(3), 4000, 30)
    # the end sites, of few branches, go by the sweep, the middle one by the search
    drawn = 4 * 31 * (4 + 4) + 16 * (np.log2(31) + 1) + 4 * 16
    tables = 4 * 31 * 64
    assert np.isclose(many, 4000 * (profiles + drawn) + tables, rtol=1e-12)
    narrow, _, _ = drawing_work(cores, np.full(3, 0.01), 4000, 30)
    alone = 4000 * 4 * (4 + 16 + 4)
    assert np.isclose(narrow, many - 30 * alone + alone, rtol=1e-4), "no harmonic but a node's own is kept"


@pytest.mark.parametrize(
    ("dim", "modulus", "bond", "count"), [(300, 31, 4, 1000), (30, 127, 8, 500), (8, 127, 96, 400)]
)
def test_memory_is_within_a_factor_of_two(dim, modulus, bond, count, oracle):
    cores = oracle.random_cores(np.random.default_rng(0), modulus, dim, bond)
    state = states.from_mps([core.astype(np.float32) for core in cores])
    qrt = QuantumRidgeletTransform(state, Ridgelet("relu", modulus), backend="numpy")
    qrt.sample(2, 0)
    work = state._drawing(count, modulus - 1)
    tracemalloc.start()
    qrt.sample(count, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 < work.memory / peak < 2
