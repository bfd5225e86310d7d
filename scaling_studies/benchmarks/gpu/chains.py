"""Matrix product states on the device: against NumPy and dense sums, and timed."""

from functools import partial

import numpy as np

from qrt_tn.engine import mps
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place, logs
from qrt_tn.studies.benchmarks.sample_mps import random_state

SHAPES = ((31, 16, "complex64"), (127, 16, "complex64"), (31, 50, "complex64"), (13, 8, "complex128"))


def chains(place: Place, checks: Checks) -> None:
    """What matrix product states are asked for, at a size that is written out and at larger ones by NumPy."""
    cores = random_state(5, 3, 4, "complex128")
    state = np.ones((1, 1))
    for core in cores:
        state = np.einsum("xl,lpr->xpr", state, core).reshape(-1, core.shape[2])
    weights = (np.abs(state[:, 0]) ** 2).reshape((3,) * 5)
    device = place.to_device(cores)
    sites, log_probability = mps.sample(device, 500, np.random.default_rng(0))
    checks.near("probabilities of samples", lambda: np.exp(log_probability), weights[tuple(sites.T)], 1e-9)
    site = weights.sum(axis=(1, 2, 3, 4))
    checks.near("probabilities of a site", lambda: mps.site_probabilities(device)[0], site, 1e-10)
    pair, values = weights.sum(axis=(0, 2, 4)), np.indices((3, 3)).reshape(2, -1).T
    places = np.array([1, 3])
    checks.near("marginals", lambda: np.exp(mps.log_marginals(device, places, values)), pair.ravel(), 1e-10)
    for modulus, bond, dtype in SHAPES:
        _against_numpy(place, checks, place.size(60, 8), modulus, place.size(bond, 5), dtype)


def _against_numpy(place: Place, checks: Checks, dim: int, modulus: int, bond: int, dtype: str) -> None:
    cores = random_state(dim, modulus, bond, dtype)
    device = place.to_device(cores)
    tag, single = f"P={modulus} bond {bond} {dtype}: ", dtype == "complex64"
    drawn, log_p = mps.sample(cores, place.size(2000, 100), np.random.default_rng(1))
    again, log_q = mps.sample(device, len(drawn), np.random.default_rng(1))
    same = (drawn == again).all(axis=1)
    # rounding turns a draw where its uniform number lies at a boundary
    checks.most(tag + "share of samples that differ", (~same).mean, 0.02)
    checks.near(tag + "log-probabilities", lambda: log_q[same], log_p[same], 1e-4 if single else 1e-10)
    few, places = drawn[:50], np.array([1, 5])
    for name, call in {
        "right vectors": lambda state: logs(mps.right_vectors(state, few)),
        "marginals": lambda state: mps.log_marginals(state, places, few[:, places]),
        "probabilities of sites": lambda state: np.stack(mps.site_probabilities(state)),
        "canonical form": lambda state: logs(mps.right_vectors(mps.right_canonical(state)[0], few)),
        "Schmidt values": lambda state: np.concatenate(mps.schmidt_values(state)),
        "inner product": lambda state: mps.inner(state, state),
        "truncation": lambda state: np.array(mps.compress(state, 0.3)[1]),
    }.items():
        limit = 1e-3 if name == "truncation" else 1e-4 if single else 1e-10
        checks.near(tag + name, partial(call, device), partial(call, cores), limit)


def chains_speed(place: Place, checks: Checks) -> None:
    """Samples of chains of many sites; on the host of an eighth as many."""
    nodes, bond = place.size(4096, 256), place.size(16, 5)
    for large, modulus in ((200, 31), (200, 127), (2000, 31)):
        dim = place.size(large, 8)
        cores = random_state(dim, modulus, bond)
        device = place.to_device(cores)
        checks.timed(
            place,
            "samples of a chain",
            partial(mps.sample, device, nodes, np.random.default_rng(1)),
            flops=2.0 * nodes * sum(core.size for core in cores),
            moved=16.0 * nodes * dim * bond,
            host=partial(mps.sample, cores, nodes // 8, np.random.default_rng(1)),
            share=8,
            dim=dim,
            modulus=modulus,
            bond=bond,
            nodes=nodes,
        )
