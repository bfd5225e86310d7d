import numpy as np
import opt_einsum as oe
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, engine, states
from qrt_tn.studies.benchmarks.engine import networks


def einsum(case):
    """The contraction by opt_einsum, one product of two after the other."""
    operands = []
    for array, term in zip(case.arrays, case.inputs, strict=True):
        operands += [array, list(term)]
    return oe.contract(*operands, list(case.output), optimize="greedy")


def test_amplitudes_over_a_matrix_product_state_are_those_of_the_transform():
    case = networks.amplitudes("a", networks.mps_state(4, 5, 3, seed=2), 6, seed=1)
    chosen = {case.inputs[number][1]: case.arrays[number].argmax(axis=1) for number in case.varying}
    a = np.stack([chosen[f"a{site}"] for site in range(4)], axis=1)
    state = states.from_mps(networks._cores(4, 5, 3, 2))
    transform = QuantumRidgeletTransform(state, Ridgelet("triangle", 5), backend="numpy")
    wanted = transform.amplitudes(a, chosen["b"]).value()
    assert np.allclose(einsum(case), wanted, rtol=1e-9)
    assert len(case.varying) == 5
    assert case.output == ("z",)
    assert case.dtype == "complex128"


@pytest.mark.parametrize(
    ("network", "dim", "bonds"),
    [
        (lambda: networks.tree_state(3, 3, 2), 7, 6),
        (lambda: networks.grid_state(2, 2, 3, 2), 4, 4),
    ],
)
def test_states_on_graphs(network, dim, bonds):
    case = networks.amplitudes("a", network(), 4)
    indices = set(case.sizes)
    assert {f"x{site}" for site in range(dim)} <= indices
    assert sum(str(index).startswith("e") for index in indices) == bonds
    # the ancilla is shared by every kernel and the output tensor
    assert sum("v" in term for term in case.inputs) == dim + 1
    values = einsum(case)
    assert values.shape == (4,)
    for element in range(4):
        one = networks.per_amplitude(case)(element).contract(output_inds=())
        assert one == pytest.approx(values[element], rel=1e-9)


def test_sites_that_stay_open():
    network = networks.mps_state(4, 3, 2)
    case = networks.amplitudes("a", network, 5, opened=2)
    assert case.output == ("z", "a0", "a1", "b")
    assert len(case.varying) == 2
    closed = networks.amplitudes("a", network, 5)
    assert einsum(case).shape == (5, 3, 3, 3)
    assert einsum(closed).shape == (5,)


def test_elements_of_a_batch():
    case = networks.amplitudes("a", networks.mps_state(3, 5, 2), 6)
    single, arrays, count = networks.elements(case)
    assert count == 6
    assert single.output == ()
    values = einsum(case)
    varying = [array.ndim > len(term) for array, term in zip(arrays, single.inputs, strict=True)]
    assert sum(varying) == 4  # three kernels and the output tensor
    for element in range(count):
        chosen = [array[element] if own else array for array, own in zip(arrays, varying, strict=True)]
        one = networks.Case("one", single.inputs, (), single.sizes, tuple(chosen))
        assert einsum(one) == pytest.approx(values[element], rel=1e-9)


def test_an_amplitude_of_a_circuit_by_its_state_vector():
    rng = np.random.default_rng(4)
    # qubits 0 1 2 over 3 4 5; neighbours in four sets, one a layer
    sets = [[(0, 1), (3, 4)], [(1, 2), (4, 5)], [(0, 3), (1, 4), (2, 5)], []]
    state = np.zeros((2,) * 6, dtype=complex)
    state[(0,) * 6] = 1
    for layer in range(6):
        for qubit in range(6):
            theta, phi, lam = rng.uniform(0, 2 * np.pi, 3)
            cos, sin = np.cos(theta / 2), np.sin(theta / 2)
            gate = np.array(
                [[cos, -np.exp(1j * lam) * sin], [np.exp(1j * phi) * sin, np.exp(1j * (phi + lam)) * cos]]
            )
            state = np.moveaxis(np.tensordot(gate, state, (1, qubit)), 0, qubit)
        for first, second in sets[layer % 4]:
            both = [slice(None)] * 6
            both[first] = both[second] = 1
            state[tuple(both)] *= -1
    found = einsum(networks.case("c", networks.circuit(2, 3, 6, seed=4)))
    assert found == pytest.approx(state[(0,) * 6], rel=1e-9)


def test_chains():
    case = networks.matrix_chain(5, 3)
    assert np.allclose(einsum(case), np.linalg.multi_dot(case.arrays))
    batch = networks.batched_chain(4, 2, 3)
    assert batch.dtype == "complex64"
    wanted = [
        np.linalg.multi_dot([batch.arrays[0][z], *(a[z] for a in batch.arrays[1:3]), batch.arrays[3][z]])
        for z in range(3)
    ]
    assert np.allclose(einsum(batch), wanted, rtol=1e-4)
    assert np.abs(einsum(networks.case("r", networks.regular(10, 3, 3)))) < 100


def test_long_chains_have_the_structure_of_amplitudes():
    inputs, output, sizes = networks.long_chain(4, 5, 3, 6)
    case = networks.amplitudes("a", networks.mps_state(4, 5, 3), 6)
    assert len(inputs) == len(case.inputs)
    assert output == case.output
    # the best path of so few tensors does not depend on their order
    flops = engine.plan((inputs, output, sizes), optimizer="dp", use_cache=False).flops
    assert flops == engine.plan(case.structure, optimizer="dp", use_cache=False).flops
