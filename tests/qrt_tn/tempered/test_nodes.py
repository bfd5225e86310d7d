import numpy as np
import pytest

from qrt_tn import TemperedNodes


def nodes(**changes):
    given = {
        "a": np.array([[0, 6], [1, 2], [3, 4]]),
        "b": np.array([0.0, 6.5, 3.25]),
        "log_weight": np.array([0.0, -np.inf, 0.4]),
        "beta": 16.0,
        "effective_sample_size": 2.1,
        "moved": 0.3,
        "modulus": 7,
    }
    return TemperedNodes(**(given | changes))


def test_saved_nodes_come_back(tmp_path):
    saved = nodes()
    saved.save(tmp_path / "nodes.safetensors")
    loaded = TemperedNodes.load(tmp_path / "nodes.safetensors")
    for name, value in vars(saved).items():
        assert np.array_equal(getattr(loaded, name), value), name
    assert loaded.a.dtype == np.int64
    changed = bytearray((tmp_path / "nodes.safetensors").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "nodes.safetensors").write_bytes(changed)
    with pytest.raises(ValueError, match="damaged"):
        TemperedNodes.load(tmp_path / "nodes.safetensors")


def test_slices_keep_their_share_of_the_sample_size():
    part = nodes()[:2]
    assert len(part) == 2
    assert part.dim == 2
    assert np.isclose(part.effective_sample_size, 1.4)


def test_features_are_cosines_at_real_points():
    x = np.array([[0.3, -20.0], [16.5, 2.0]])
    a = np.array([[0, -1], [1, 2], [3, -3]])  # centred representatives
    wanted = np.cos(2 * np.pi * (x @ a.T - nodes().b) / 7)
    assert np.allclose(nodes().features(x), wanted)
    assert nodes().features(x.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modulus": 8}, "8 is not prime"),
        ({"a": np.array([[0, 7], [1, 2], [3, 4]])}, "a holds 7"),
        ({"b": np.zeros(2)}, r"b has shape \(2,\)"),
        ({"b": np.array([0.0, 7.0, 1.0])}, "b holds 7.0"),
        ({"b": np.array([0.0, np.nan, 1.0])}, "b holds nan"),
        ({"log_weight": np.array([0.0, np.nan, 0.0])}, "log_weight holds a NaN"),
    ],
)
def test_what_is_no_node_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        nodes(**changes)


def test_torn_files_are_refused(tmp_path):
    path = tmp_path / "nodes.safetensors"
    nodes().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"nodes.safetensors"):
        TemperedNodes.load(path)
