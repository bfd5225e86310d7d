import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, circuit, engine, states


def state_of(modulus, dim, bond=2, seed=0):
    rng = np.random.default_rng(seed)
    bonds = [1] + [bond] * (dim - 1) + [1]
    return states.from_mps([rng.normal(size=(bonds[i], modulus, bonds[i + 1])) for i in range(dim)])


def test_gates_are_unitary_and_placed_as_stated():
    state, ridgelet = state_of(5, 3), Ridgelet("relu", 5)
    network = circuit.circuit(state, ridgelet)
    assert sorted(network.outer_inds()) == ["a0", "a1", "a2", "b"]
    assert len(network.select("FOURIER").tensors) == 3
    assert len(network.select("MULTIPLY").tensors) == 3
    assert len(network.select("SITE1").tensors) == 2
    for tag in ("FOURIER", "INVERSE-FOURIER"):
        matrix = next(iter(network.select(tag))).data
        assert np.abs(matrix.conj().T @ matrix - np.eye(5)).max() < 1e-12
    (ancilla,) = network.select("ANCILLA")
    assert ancilla.inds == ("v",)
    assert abs(np.linalg.norm(ancilla.data) - 1) < 1e-12
    for gate in network.select("MULTIPLY"):
        assert gate.inds[0] == "v"
        for v in range(5):
            permutation = gate.data[v]
            assert (permutation.sum(axis=0) == 1).all()
            assert (permutation.sum(axis=1) == 1).all()
            # |u>|v> -> |v^{-1} u>|v>: v times the target is u
            u, target = np.nonzero(permutation)
            assert ((target * max(v, 1)) % 5 == u).all()


def test_one_amplitude_at_large_dimension():
    # a network of 3 D + 1 tensors that no dense array could hold, against the profile
    state, ridgelet = state_of(5, 300, bond=3), Ridgelet("relu", 5)
    qrt = QuantumRidgeletTransform(state, ridgelet)
    a = np.random.default_rng(1).integers(5, size=300)
    network = qrt.network().isel({f"a{site}": int(value) for site, value in enumerate(a)})
    profile = engine.contract(network, output_inds=["b"], backend="numpy")
    gates = qrt.circuit().isel({f"a{site}": int(value) for site, value in enumerate(a)})
    expected = qrt.profiles(a[None])
    assert qrt.network().num_tensors == 300 + 301
    for got in (profile, engine.contract(gates, output_inds=["b"], backend="numpy")):
        assert np.abs(got.log_abs() - expected.log_abs()[0]).max() < 1e-9
        ratio = (got / expected[0]).value()
        assert np.abs(ratio - 1).max() < 1e-9


def test_refusals():
    state = states.from_samples([[1], [2]], [1.0, 2.0], 1021)
    ridgelet = Ridgelet("relu", 1021)
    with pytest.raises(ValueError, match=r"P = 1021 have P\^3 elements"):
        circuit.circuit(state, ridgelet)
    with pytest.raises(ValueError, match=r"P = 1021 have P\^3 elements"):
        circuit.fused_network(state, ridgelet)
