import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization

from qrt_tn.models.moe import inspect_vmoe_checkpoint, load_vmoe_checkpoint
from tests.models.moe.checkpoints.vmoe_format import assert_same, flat


def make_tree():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(2, 3, 2)).astype(ml_dtypes.bfloat16)
    mask, none = np.array([True, False]), np.zeros((0, 3), np.int8)
    arrays = {"b": {"kernel": rng.normal(size=(5, 7)), "half": half}, "a": {"mask": mask, "none": none}}
    return arrays | {"nothing": None, "empty": {}, "long": np.arange(10**4), "six": np.arange(6, dtype="i1")}


NUMBERS = {
    "int": 3,
    "float": -1.5,
    "bool": True,
    "complex": 1 + 2j,
    "scalar": np.float16(0.5),
    "list": [1, 2],
}


def test_it_reads_what_flax_writes(tmp_path, monkeypatch):
    path = tmp_path / "model.msgpack"
    path.write_bytes(serialization.to_bytes(make_tree() | NUMBERS))
    wanted = {key: np.asarray(value) for key, value in NUMBERS.items()}
    wanted["list"] = {"0": np.asarray(1), "1": np.asarray(2)}
    seen = []
    found = load_vmoe_checkpoint(path, progress=lambda done, total: seen.append((done, total)))
    assert_same(found, make_tree() | wanted)
    assert seen == sorted(seen) and seen[-1] == (path.stat().st_size,) * 2
    for most in (8, 24, 100):
        monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", most)
        path.write_bytes(serialization.msgpack_serialize(make_tree()))
        assert b"__msgpack_chunked_array__" in path.read_bytes()
        assert_same(load_vmoe_checkpoint(path), make_tree())
    summary = inspect_vmoe_checkpoint(path)
    assert (summary.version, summary.shard_count) == ("flax", 1)
    entries = [("/".join(keys), leaf.shape, leaf.dtype) for keys, leaf in flat(make_tree())]
    assert [(leaf.name, leaf.shape, leaf.dtype) for leaf in summary.leaves] == entries


def packed(value):
    return msgpack.packb(value, default=serialization._msgpack_ext_pack, strict_types=True)


def chunked(**values):
    data = {"shape": {"0": 2, "1": 2}, "chunks": {"0": np.ones(3), "1": np.ones(1)}}
    return packed({"w": {"__msgpack_chunked_array__": True} | data | values})


def array(shape, dtype, data, code=1):
    return packed({"w": msgpack.ExtType(code, msgpack.packb([shape, dtype, data]))})


ONE = np.ones(1)
PIECES = (
    *({"chunks": {"0": np.ones(3)}}, {"chunks": {"0": np.ones(3), "2": ONE}}, {"chunks": {}}),
    *({"chunks": {"0": np.ones(3), "1": np.ones(1, "f4")}}, {"chunks": {"0": np.ones((3, 1)), "1": ONE}}),
    *({"chunks": {"0": 1.5, "1": 1.5}}, {"chunks": np.ones(4)}, {"more": ONE}),
    *({"shape": {"0": -2, "1": -2}}, {"shape": {"0": 2.0, "1": 2.0}}, {"shape": {"0": True, "1": 4}}),
    *({"shape": {"0": np.ones(2), "1": 2}}, {"shape": {"0": 2**60, "1": 0}}),
)
WRONG = [
    *((chunked(**pieces), "an array in pieces") for pieces in PIECES),
    (array([3], "float32", bytes(8)), r"shape \(3,\) and type float32"),
    (array([-1], "float32", bytes(8)), r"shape \[-1\]"),
    (array([1], "object", bytes(8)), "'object'"),
    (array([1], "float64", bytes(8), code=8), "code=8"),
    (array([2], "bool", b"\1\7"), "neither 0 nor 1"),
    (array([1], "float64", bytes(8))[:-1], "ends too early"),
    (packed({"w": msgpack.ExtType(1, msgpack.packb([[1], "int8", b"1", 0]))}), "not shape, type and bytes"),
    (packed({"w": msgpack.ExtType(1, msgpack.packb([[1], "int8", b"1"]) + b"0")}), "another number of bytes"),
    (packed({"w": msgpack.ExtType(1, msgpack.packb([[1], "int8", "1"]))}), "another number of bytes"),
    (packed({"w": "x"}), "'x' in place of an array"),
    (packed({"w": [1]}), r"\[1\] in place of an array"),
    (packed({"../w": 1}), "'../w' could be a path"),
    (packed({"w": 1}) + b"\0", "1 bytes that belong to nothing"),
    (packed({"w": msgpack.ExtType(2, packed([1, 2]))}), "two floats"),
    (packed([1]), r"\[1\]"),
    (b"\x81\xa1a" * 65 + b"\x80", "more than 64 dicts"),
    (b"\x81\xa1a" * 10**5, "more than 64 dicts"),
    (b"\xc9\xff\xff\xff\xff\x01" + bytes(100), "ends too early"),
    (b"PK\3\4" + bytes(100), "begins with b'PK"),
    (np.int64(4).tobytes() + b"{}  ", r"begins with b'\\x04"),  # a safetensors file
    (b"", "ends too early"),
]


@pytest.mark.parametrize(("data", "match"), WRONG)
def test_other_files_are_refused(tmp_path, data, match):
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        load_vmoe_checkpoint(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value) and "\n" not in str(caught.value)


def test_more_than_the_free_memory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(serialization.to_bytes({"a": np.ones(1000)}))
    monkeypatch.setattr("qrt_tn.models.moe.checkpoints.unpacking.device_memory", lambda _: (10**9, 7999))
    with pytest.raises(ValueError, match="7999 are free"):
        load_vmoe_checkpoint(tmp_path / "m")


def test_random_damage_raises_nothing_but_value_errors(tmp_path):
    path, rng = tmp_path / "m", np.random.default_rng(0)
    tree = {key: value for key, value in make_tree().items() if key != "long"}
    whole = serialization.to_bytes(tree | NUMBERS)
    for at in rng.integers(len(whole), size=80):
        path.write_bytes(whole[:at] + rng.bytes(1) + whole[at + 1 :])
        try:
            load_vmoe_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)
        path.write_bytes(whole[:at])
        with pytest.raises(ValueError, match="m: "):
            load_vmoe_checkpoint(path)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_changed_while_it_is_read_is_refused(tmp_path, in_place):
    path = tmp_path / "m"
    path.write_bytes(serialization.to_bytes({"a": np.zeros(3), "b": np.zeros(9)}))

    def meanwhile(*_):
        place = path if in_place else tmp_path / "new"
        place.write_bytes(serialization.to_bytes({"a": np.ones(3), "b": np.ones(9)}))
        place.replace(path)

    with pytest.raises(ValueError, match="m: it was changed while it was read"):
        load_vmoe_checkpoint(path, progress=meanwhile)
