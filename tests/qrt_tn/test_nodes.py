import numpy as np
import pytest

from qrt_tn import RidgeNodes
from qrt_tn.engine.files import save_tensors


@pytest.fixture
def nodes():
    rng = np.random.default_rng(0)
    return RidgeNodes(rng.integers(7, size=(5, 3)), rng.integers(7, size=5), -rng.random(5), 7)


def test_round_trip(nodes, tmp_path):
    path = tmp_path / "nodes.safetensors"
    nodes.save(path)
    loaded = RidgeNodes.load(path)
    assert loaded.modulus == 7
    for name in ("a", "b", "log_probability"):
        assert (getattr(loaded, name) == getattr(nodes, name)).all()
        assert getattr(loaded, name).dtype == getattr(nodes, name).dtype
    assert [p.name for p in tmp_path.iterdir()] == ["nodes.safetensors"]


def test_parts(nodes):
    assert len(nodes) == 5
    assert nodes.dim == 3
    assert (nodes[:2].a == nodes.a[:2]).all()
    assert (nodes[np.array([4, 0])].b == nodes.b[[4, 0]]).all()
    assert (nodes[nodes.b > nodes.b.min()].b > nodes.b.min()).all()
    with pytest.raises(TypeError, match="not int"):
        nodes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modulus": 9}, "9 is not prime"),
        ({"modulus": 5}, "a holds"),
        ({"a": np.zeros((5, 3))}, "a has dtype float64"),
        ({"a": np.zeros(5, dtype=int)}, "a has shape"),
        ({"a": np.zeros((0, 3), dtype=int)}, "a is empty"),
        ({"b": np.zeros(4, dtype=int)}, r"b has shape \(4,\); it must have shape \(5,\)"),
        ({"b": np.full(5, 7)}, "b holds 7, outside Z_7"),
        ({"log_probability": np.zeros(4)}, r"log_probability has shape \(4,\)"),
        ({"log_probability": np.full(5, np.nan)}, "NaN or a positive"),
        ({"log_probability": np.full(5, 0.1)}, "NaN or a positive"),
    ],
)
def test_refusals(nodes, change, says):
    fields = {name: getattr(nodes, name) for name in ("a", "b", "log_probability", "modulus")}
    with pytest.raises(ValueError, match=says):
        RidgeNodes(**(fields | change))


def test_bad_files(nodes, tmp_path):
    with pytest.raises(ValueError, match="no file"):
        RidgeNodes.load(tmp_path / "absent.safetensors")
    path = tmp_path / "nodes.safetensors"
    nodes.save(path)
    whole = path.read_bytes()
    for torn in (whole[:-20], whole[:30], whole[:4], b"", b"not safetensors at all"):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=r"nodes\.safetensors is not a whole safetensors file"):
            RidgeNodes.load(path)
    save_tensors(path, {"a": nodes.a}, {"format": "qrt-tn.nodes", "modulus": "7"})
    with pytest.raises(ValueError, match="does not hold whole nodes: 'b'"):
        RidgeNodes.load(path)
    tensors = {"a": nodes.a, "b": nodes.b, "log_probability": nodes.log_probability}
    save_tensors(path, tensors, {"format": "qrt-tn.nodes", "modulus": "eight"})
    with pytest.raises(ValueError, match="does not hold whole nodes"):
        RidgeNodes.load(path)
    save_tensors(path, tensors, {"format": "something else"})
    with pytest.raises(ValueError, match=r"holds 'something else', not 'qrt-tn\.nodes'"):
        RidgeNodes.load(path)


def test_a_failed_save_leaves_the_old_file(nodes, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        nodes.save(tmp_path / "nowhere" / "nodes.safetensors")
    assert list(tmp_path.iterdir()) == []
