import stat

import numpy as np
import pytest

from qrt_tn.engine.files import atomic_path, load_tensors, save_tensors


def test_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".txt"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_an_ordinary_file_mode(tmp_path):
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("")
    with atomic_path(ours) as partial:
        partial.write_text("")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_refusals(tmp_path):
    with (
        pytest.raises(ValueError, match=r"folder .*nowhere does not exist; make it first"),
        atomic_path(tmp_path / "nowhere" / "a.txt"),
    ):
        pass
    with pytest.raises(ValueError, match="is a folder; name a file in it"), atomic_path(tmp_path):
        pass


def test_tensors_round_trip(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "single": np.arange(3, dtype=np.float32),
        "whole": np.array([[1, 2]], dtype=np.int64),
        "empty": np.zeros((0, 2)),
    }
    save_tensors(path, tensors, {"format": "kind", "note": "ω"})
    loaded, metadata = load_tensors(path, "kind")
    assert metadata == {"format": "kind", "note": "ω"}
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert (loaded[name] == tensor).all()


def test_tensors_of_another_kind(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="holds 'no named format', not 'kind'"):
        load_tensors(path, "kind")
    with pytest.raises(ValueError, match=r"no file .*absent; give the path of a saved kind file"):
        load_tensors(tmp_path / "absent", "kind")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_tensors(path, "kind")
