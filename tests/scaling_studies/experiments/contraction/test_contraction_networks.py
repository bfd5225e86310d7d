import ast
import hashlib
import os
import subprocess
import sys

import numpy as np
import opt_einsum as oe
import pytest
import quimb.tensor as qtn

from qrt_tn import QuantumRidgeletTransform, Ridgelet, engine, states
from qrt_tn.studies.benchmarks.engine import networks
from qrt_tn.studies.benchmarks.engine.networks import Case
from qrt_tn.studies.experiments.contraction.networks import build
from qrt_tn.studies.experiments.contraction.settings import Contraction


def value(case: Case) -> np.ndarray:
    operands: list[object] = []
    for array, term in zip(case.arrays, case.inputs, strict=True):
        operands += [array, list(term)]
    return np.asarray(oe.contract(*operands, list(case.output), optimize="greedy"))


@pytest.mark.parametrize("seed", [0, 3])
def test_networks_are_those_of_quimb(seed: int) -> None:
    expected = {
        "grid": qtn.TN2D_rand(3, 3, 2, seed=seed, dtype="complex128"),
        "regular": networks.regular(10, 3, 2, seed=seed),
        "circuit": networks.circuit(3, 3, 5, seed=seed),
    }
    for name, network in expected.items():
        size = 10 if name == "regular" else 3
        case = build(Contraction.model_validate({"network": name, "size": size, "bond": 2, "depth": 5}), seed)
        assert value(case) == pytest.approx(complex(network.contract(output_inds=())), rel=1e-9), name


def test_the_overlap_is_that_of_two_vectors() -> None:
    case = build(Contraction(network="mps-overlap", size=4, bond=3, modulus=2), 5)
    rng = np.random.default_rng(5)
    vectors = []
    for _ in range(2):
        vector = np.ones((1, 1))
        for left, right in ((1, 3), (3, 3), (3, 3), (3, 1)):
            parts = rng.normal(size=(2, left, right, 2)) / np.sqrt(4 * right)
            core = parts[0] + 1j * parts[1]
            vector = np.einsum("xl,lrp->xpr", vector, core).reshape(-1, right)
        vectors.append(vector[:, 0])
    assert value(case) == pytest.approx(np.vdot(*vectors), rel=1e-10)


def test_chains_keep_their_norm_at_any_length() -> None:
    norms = []
    for size in (10, 100):
        case = build(Contraction(network="mps-overlap", size=size, bond=8, modulus=3), 0)
        norms += [np.linalg.norm(array) for array in case.arrays]
    assert 0.2 < min(norms) <= max(norms) < 5


def test_amplitudes_are_those_of_the_transform() -> None:
    case = build(Contraction(network="qrt-chain", size=4, bond=3, modulus=5, batch=6), 2)
    assert case.output == ("z",)
    state = states.from_mps(networks._cores(4, 5, 3, 2))
    transform = QuantumRidgeletTransform(state, Ridgelet("triangle", 5), backend="numpy")
    bits = [case.arrays[number].argmax(axis=1) for number in case.varying]
    wanted = transform.amplitudes(np.stack(bits[:4], axis=1), bits[4]).value()
    assert np.allclose(value(case), wanted, rtol=1e-9)


def test_amplitudes_on_a_grid() -> None:
    case = build(Contraction(network="qrt-grid", size=2, bond=2, modulus=3, batch=5), 1)
    one = networks.amplitudes("", networks.grid_state(2, 2, 3, 2, seed=1), 5, seed=1)
    assert np.allclose(value(case), value(one), rtol=1e-12)


def digests() -> list[str]:
    found = []
    for name, size in (("grid", 3), ("regular", 26), ("circuit", 3), ("qrt-chain", 4)):
        case = build(Contraction.model_validate({"network": name, "size": size, "bond": 3}), 7)
        path = engine.plan(case.structure, use_cache=False, seed=7).path
        data = b"".join(array.tobytes() for array in case.arrays)
        text = repr((case.inputs, case.output, sorted(case.sizes.items()), path))
        found.append(hashlib.sha256(data + text.encode()).hexdigest())
    return found


def test_another_process_makes_the_same_network() -> None:
    # strings hash otherwise there, and quimb names bonds otherwise
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "1"}
    program = f"import runpy; print(runpy.run_path({__file__!r})['digests']())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    mine = digests()
    assert ast.literal_eval(done.stdout) == mine
    assert len(set(mine)) == 4
