import json

import numpy as np

from qrt_tn.studies.benchmarks import sample_mps


def test_every_sampler_draws_from_one_state():
    """All contenders get the same canonical state, and quimb's is the same function."""
    cores = sample_mps.random_state(3, 5, 2)
    for core in cores[1:]:
        rows = core.reshape(len(core), -1)
        assert np.allclose(rows @ rows.conj().T, np.eye(len(rows)), atol=1e-6)
    exact = np.tensordot(np.tensordot(cores[0], cores[1], axes=1), cores[2], axes=1)[0, ..., 0]
    for sites, probability in sample_mps._quimb(cores, 3)():
        assert np.isclose(probability, abs(exact[tuple(sites)]) ** 2, rtol=1e-4)
    for method in sample_mps.METHODS.values():
        sites, logs = sample_mps._sampling(cores, 7, method)()
        assert np.allclose(logs, 2 * np.log(np.abs(exact[tuple(sites.T)])), atol=1e-4)


def test_measure_and_main(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sample_mps, "SIZES", [(4, 5, 2, 20)])
    sample_mps.main([str(tmp_path / "result.json"), "--rounds", "2", "--shots", "1"])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in sample_mps.OURS)
    result = json.loads((tmp_path / "result.json").read_text())
    (row,) = result["rows"]
    assert (row["dim"], row["modulus"], row["bond"], row["nodes"], row["quimb_shots"]) == (4, 5, 2, 20, 1)
    for name in sample_mps.OURS:
        assert row["to_products"][name]["min"] <= row["to_products"][name]["median"]
        assert row["seconds"][name] > 0
        assert row["to_quimb"][name]["max"] > 0
    assert sample_mps.measure(4, 5, 2, 20, shots=0, rounds=1).keys().isdisjoint({"to_quimb"})
