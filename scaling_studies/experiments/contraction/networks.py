"""The networks of a point, made from its seed."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import quimb.tensor as qtn

from qrt_tn.engine.network import Index, numbered
from qrt_tn.studies.benchmarks.engine import networks
from qrt_tn.studies.benchmarks.engine.networks import BATCH, Case
from qrt_tn.studies.experiments.contraction.settings import Contraction


def build(settings: Contraction, seed: int) -> Case:
    """The network of a point with its numbers in complex128, the same in every process.

    Args:
        settings: which network.
        seed: draws its numbers, a graph's edges, and which amplitudes.

    Returns:
        The case; its output is empty, or the batch index alone.
    """
    size, bond, modulus = settings.size, settings.bond, settings.modulus
    match settings.network:
        case "mps-overlap":
            rng = np.random.default_rng(seed)
            found = networks.case("", _mps(size, bond, modulus, rng).H & _mps(size, bond, modulus, rng))
        case "grid":
            grid = qtn.TN2D_rand(size, size, bond, seed=seed, dtype="complex128")
            found = networks.case("", grid)
        case "regular":
            found = networks.case("", networks.regular(size, 3, bond, seed=seed))
        case "circuit":
            found = networks.case("", networks.circuit(size, size, settings.depth, seed=seed))
        case "qrt-chain":
            state = networks.mps_state(size, modulus, bond, seed=seed)
            found = networks.amplitudes("", state, settings.batch, seed=seed)
        case "qrt-grid":
            state = networks.grid_state(size, size, modulus, bond, seed=seed)
            found = networks.amplitudes("", state, settings.batch, seed=seed)
    return _renamed(found)


def _mps(size: int, bond: int, modulus: int, rng: np.random.Generator) -> qtn.MatrixProductState:
    """A random chain whose norm is about one at any length, without one core that holds all of it."""
    bonds = [1, *[bond] * (size - 1), 1]
    cores = []
    for left, right in pairwise(bonds):
        parts = rng.normal(size=(2, left, right, modulus)) / np.sqrt(2 * modulus * right)
        cores.append(parts[0] + 1j * parts[1])
    cores[0], cores[-1] = cores[0][0], cores[-1][:, 0]
    return qtn.MatrixProductState(cores, shape="lrp")


def _renamed(found: Case) -> Case:
    """The same with indices named by their order: quimb names bonds at random, anew in every process."""
    names: dict[Index, Index] = {
        index: BATCH if index == BATCH else f"i{number}" for index, number in numbered(found.inputs).items()
    }
    return replace(
        found,
        inputs=tuple(tuple(names[index] for index in term) for term in found.inputs),
        output=tuple(names[index] for index in found.output),
        sizes={names[index]: extent for index, extent in found.sizes.items()},
    )
