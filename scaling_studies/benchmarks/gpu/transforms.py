"""Ridgelet transforms of states on the device: against direct sums and NumPy, and timed."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, states
from qrt_tn.states import State
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place
from qrt_tn.studies.benchmarks.sample_mps import random_state

P, D = 5, 4  # of what is summed directly


def transforms(place: Place, checks: Checks) -> None:
    """Every kind of state with work for a device: small ones by direct sums, larger ones by NumPy."""
    ridgelet, points = Ridgelet("relu", P), np.indices((P,) * D).reshape(D, -1).T
    for name, state, values in _small():
        transform = QuantumRidgeletTransform(state, ridgelet, place.backend)
        nodes = transform.sample(60, seed=1)
        waves = ridgelet.values[(nodes.a @ points.T - nodes.b[:, None]) % P].conj()
        wanted = (waves * values.ravel()).sum(axis=1) / np.linalg.norm(values) / P ** (D / 2)
        checks.near(f"{name}: amplitudes", partial(transform.amplitudes, nodes.a, nodes.b), wanted, 1e-3)
        told = partial(np.exp, nodes.log_probability)
        checks.near(f"{name}: probabilities of nodes", told, np.abs(wanted) ** 2, 1e-3)
    for name, state, limit in _large(place):
        _against_numpy(place, checks, name, state, limit)


def _small() -> Iterator[tuple[str, State, np.ndarray]]:
    """Kinds of states, and their values on all of Z_P^D."""
    cores = random_state(D, P, 3, "complex128")
    dense = np.ones((1, 1))
    for core in cores:
        dense = np.einsum("xl,lpr->xpr", dense, core).reshape(-1, core.shape[2])
    yield "mps", states.from_mps(cores), dense
    rng = np.random.default_rng(0)
    x, y = rng.integers(P, size=(50, D)), rng.normal(size=50)
    values = np.zeros((P,) * D)
    np.add.at(values, tuple(x.T), y)
    yield "samples", states.from_samples(x, y, P), values
    network, indices = _grid(2, P, "complex128")
    yield "network", states.from_network(network, indices), network.to_dense(indices)


def _large(place: Place) -> Iterator[tuple[str, State, float]]:
    """States too large to be written out, and the errors that their precision allows."""
    rng = np.random.default_rng(0)
    shapes = ((31, 3000, 20, "float32"), (127, 5000, 64, "float64"), (257, 20_000, 100, "float32"))
    for modulus, points, dim, dtype in shapes:
        x = rng.integers(min(modulus, 64), size=(place.size(points, 300), place.size(dim, 6)))
        y = rng.normal(size=len(x)).astype(dtype)
        yield f"samples on Z_{modulus}, {dtype}", states.from_samples(x, y, modulus), 2e-3
    yield "samples, classes", states.from_samples(x, rng.normal(size=(len(x), 4)), 257), 2e-3
    yield "mps", states.from_mps(random_state(place.size(100, 6), 13, 6, "complex128")), 1e-8
    for dtype, limit in (("complex64", 2e-3), ("complex128", 1e-8)):
        yield f"network, {dtype}", states.from_network(*_grid(place.size(3, 2), 5, dtype)), limit


def _grid(side: int, extent: int, dtype: str) -> tuple[qtn.PEPS, list[str]]:
    network = qtn.PEPS.rand(side, side, 2, phys_dim=extent, seed=1, dtype=dtype)
    return network, [network.site_ind(site) for site in np.ndindex(side, side)]


def _against_numpy(place: Place, checks: Checks, name: str, state: State, limit: float) -> None:
    there, here = _both(place, state)
    nodes = here.sample(place.size(300, 40), seed=1)
    again = there.sample(len(nodes.a), seed=1)
    # rounding turns a draw where its uniform number lies at a boundary
    checks.most(f"{name}: share of nodes that differ", (again.a != nodes.a).any(axis=1).mean, 0.05)
    for what, call in {
        "log-probabilities": lambda one: one.log_probabilities(nodes.a, nodes.b),
        "profiles": lambda one: one.profiles(nodes.a[:20]),
        "marginals": lambda one: one.state.log_marginals([0, 3], nodes.a[:, [0, 3]]),
    }.items():
        checks.near(f"{name}: {what}", partial(call, there), partial(call, here), limit)


def _both(place: Place, state: State) -> tuple[Any, Any]:
    ridgelet = Ridgelet("relu", state.modulus)
    there, here = (QuantumRidgeletTransform(state, ridgelet, backend) for backend in (place.backend, "numpy"))
    return there, here


def smoothing(place: Place, checks: Checks) -> None:
    """Smoothed data compressed by a sketch: the error told on the device is that told on the host."""
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.normal(size=(place.size(8000, 300), place.size(40, 6))), axis=1)
    x = np.clip(walks.astype(int) + 15, 0, 30)
    y = np.sin(x[:, 3] / 5)
    made: Any = partial(states.from_samples, x, y - y.mean(), 31, smoothing=1.0, max_bond=place.size(32, 8))
    there, here = partial(made, backend=place.backend), partial(made, backend="numpy")
    checks.near("truncation error", lambda: there().truncation_error, lambda: here().truncation_error, 0.2)
    sizes = {"points": len(x), "dim": x.shape[1], "modulus": 31}
    checks.timed(place, "compressing data", there, host=here, **sizes)


def transforms_speed(place: Place, checks: Checks) -> None:
    """Nodes of data of MNIST's size, and of a matrix product state."""
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(place.size(60_000, 1000), 784)).astype("uint8")
    data = states.from_samples(x, rng.normal(size=len(x)).astype("float32"), 257)
    cores = random_state(place.size(200, 6), 31, 16)
    # frequencies meet every point; the branches of every value serve the samples, and then the harmonics
    cases: tuple[tuple[State, int, float, str, dict[str, int]], ...] = (
        (data, place.size(512, 32), 2.0 * x.size, "float32", {"points": len(x)}),
        (
            states.from_mps(cores),
            place.size(4096, 32),
            4.0 * sum(core.size for core in cores),
            "complex64",
            {},
        ),
    )
    for state, nodes, flops, dtype, more in cases:
        there, here = _both(place, state)
        checks.timed(
            place,
            f"nodes, {type(state).__name__}",
            partial(there.sample, nodes, seed=1),
            flops=flops * nodes,
            dtype=dtype,
            host=partial(here.sample, nodes // 4, seed=1),
            share=4,
            dim=state.dim,
            modulus=state.modulus,
            nodes=nodes,
            **more,
        )
