"""Nodes: parts, files that come back exactly or are refused, and what is no node."""

import numpy as np
import pytest

from qrt_tn import RidgeNodes
from qrt_tn.engine.files import save_tensors
from qrt_tn.nodes import FORMAT


@pytest.fixture
def nodes():
    rng = np.random.default_rng(0)
    return RidgeNodes(rng.integers(7, size=(5, 3)), rng.integers(7, size=5), -rng.random(5), 7)


def same(left, right):
    pairs = [(getattr(left, name), getattr(right, name)) for name in ("a", "b", "log_probability")]
    return left.modulus == right.modulus and all((x == y).all() and x.dtype == y.dtype for x, y in pairs)


def test_files(nodes, tmp_path):
    path = tmp_path / "nodes.safetensors"
    nodes.save(path)
    assert same(RidgeNodes.load(path), nodes)
    assert [found.name for found in tmp_path.iterdir()] == ["nodes.safetensors"]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for damaged in (whole[:-20], whole[:30], b"", b"not safetensors at all", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"nodes\.safetensors is (not a whole|damaged)"):
            RidgeNodes.load(path)
    tensors = {"a": nodes.a, "b": nodes.b, "log_probability": nodes.log_probability}
    for named, metadata, shown in (
        ({"a": nodes.a}, {"format": FORMAT, "modulus": "7"}, "'b'"),
        (tensors, {"format": FORMAT, "modulus": "eight"}, "'eight'"),
        (tensors, {"format": "something else"}, "'something else'"),
    ):
        save_tensors(path, named, metadata)
        with pytest.raises(ValueError, match=shown):
            RidgeNodes.load(path)


def test_parts(nodes):
    assert (len(nodes), nodes.dim) == (5, 3)
    assert same(RidgeNodes.concatenate([nodes[:2], nodes[np.array([2, 3, 4])]]), nodes)
    assert (nodes[nodes.b > nodes.b.min()].b > nodes.b.min()).all()
    with pytest.raises(TypeError, match="int"):
        nodes[0]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"modulus": 9}, "9 is not prime"),
        ({"modulus": 5}, "a holds"),
        ({"a": np.zeros((5, 3))}, "a has dtype float64"),
        ({"a": np.zeros(5, dtype=int)}, "a has shape"),
        ({"a": np.zeros((0, 3), dtype=int)}, "a is empty"),
        ({"b": np.zeros(4, dtype=int)}, r"b has shape \(4,\)"),
        ({"b": np.full(5, 7)}, "b holds 7"),
        ({"log_probability": np.zeros(4)}, r"log_probability has shape \(4,\)"),
        ({"log_probability": np.full(5, np.nan)}, "nan"),
        ({"log_probability": np.full(5, 0.1)}, "0.1"),
    ],
)
def test_refusals(nodes, change, shown):
    fields = {name: getattr(nodes, name) for name in ("a", "b", "log_probability", "modulus")}
    with pytest.raises(ValueError, match=shown):
        RidgeNodes(**(fields | change))
    with pytest.raises(ValueError, match="one part at least"):
        RidgeNodes.concatenate([])
