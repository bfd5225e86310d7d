import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization

from qrt_tn.models.moe.checkpoints import inspect_vmoe_checkpoint, load_vmoe_checkpoint


def tree():
    rng = np.random.default_rng(0)
    return {
        "b": {
            "kernel": rng.normal(size=(5, 7)),
            "half": rng.normal(size=(2, 3, 2)).astype(ml_dtypes.bfloat16),
        },
        "a": {
            "mask": np.array([True, False]),
            "none": np.zeros((0, 3), np.int8),
            "nothing": None,
            "empty": {},
        },
    }


def numbers():
    return {
        "int": 3,
        "float": -1.5,
        "bool": True,
        "complex": 1 + 2j,
        "scalar": np.float16(0.5),
        "list": [1, 2],
    }


def test_it_reads_what_flax_writes(form, tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(serialization.to_bytes(tree() | numbers()))
    plain = {
        "int": np.asarray(3),
        "float": np.asarray(-1.5),
        "bool": np.asarray(True),
        "complex": np.asarray(1 + 2j),
        "scalar": np.asarray(np.float16(0.5)),
        "list": {"0": np.asarray(1), "1": np.asarray(2)},
    }
    form.assert_same(load_vmoe_checkpoint(path), tree() | plain)


@pytest.mark.parametrize("most", [8, 24, 100])
def test_it_reads_arrays_in_pieces(form, tmp_path, monkeypatch, most):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", most)
    packed = serialization.msgpack_serialize(tree())
    assert b"__msgpack_chunked_array__" in packed
    (tmp_path / "m").write_bytes(packed)
    form.assert_same(load_vmoe_checkpoint(tmp_path / "m"), tree())
    found = inspect_vmoe_checkpoint(tmp_path / "m")
    assert (found.version, found.shard_count) == ("flax", 1)
    wanted = [("/".join(keys), leaf.shape, leaf.dtype) for keys, leaf in form.flat(tree())]
    assert [(leaf.name, leaf.shape, leaf.dtype) for leaf in found.leaves] == wanted


def chunked(**values):
    data = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 2},
        "chunks": {"0": np.ones(3), "1": np.ones(1)},
    }
    return {"w": data | values}


PIECES = {
    "missing piece": chunked(chunks={"0": np.ones(3)}),
    "other number": chunked(chunks={"0": np.ones(3), "2": np.ones(1)}),
    "other type": chunked(chunks={"0": np.ones(3), "1": np.ones(1, "f4")}),
    "two axes": chunked(chunks={"0": np.ones((3, 1)), "1": np.ones(1)}),
    "numbers": chunked(chunks={"0": 1.5, "1": 1.5}),
    "no pieces": chunked(chunks={}),
    "no dict": chunked(chunks=np.ones(4)),
    "negative": chunked(shape={"0": -2, "1": -2}),
    "huge": chunked(shape={"0": 0, "1": 2**60}, chunks={"0": np.ones(0)}),
    "floats": chunked(shape={"0": 2.0, "1": 2.0}),
    "bools": chunked(shape={"0": True, "1": 4}),
    "arrays": chunked(shape={"0": np.ones(2), "1": 2}),
    "another key": chunked(more=np.ones(1)),
    "root": chunked()["w"],
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces_that_do_not_fit_are_refused(tmp_path, name):
    path = tmp_path / "m.msgpack"
    path.write_bytes(msgpack.packb(PIECES[name], default=serialization._msgpack_ext_pack, strict_types=True))
    with pytest.raises(ValueError, match=r"m\.msgpack: an array in "):
        load_vmoe_checkpoint(path)


def packed_array(shape, dtype, data, code=1):
    return msgpack.packb({"w": msgpack.ExtType(code, msgpack.packb([shape, dtype, data]))})


WRONG = {
    "size": (packed_array([3], "float32", bytes(8)), r"shape \(3,\) and type float32 in 8 bytes"),
    "negative": (packed_array([-1], "float32", bytes(8)), "shape"),
    "object": (packed_array([1], "object", bytes(8)), "'object'"),
    "code": (packed_array([1], "float64", bytes(8), code=8), "extension type 8 in place of 1 or 3"),
    "text": (msgpack.packb({"w": "x"}), "str in place of an array"),
    "list": (msgpack.packb({"w": [1]}), "array in place of an array or"),
    "no dict": (msgpack.packb([1]), "array in place of a dict"),
    "path": (msgpack.packb({"../w": 1}), "could be a path"),
    "more": (msgpack.packb({"w": 1}) + b"\0", "1 bytes that belong to nothing"),
    "less": (packed_array([1], "float64", bytes(8))[:-1], "where"),
    "zip": (b"PK\3\4" + bytes(100), "int in place of a dict"),
    "empty": (b"", "takes 1 bytes where 0 are left"),
    "bool": (packed_array([2], "bool", b"\1\7"), "bools of w"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_refused(tmp_path, name):
    data, match = WRONG[name]
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        load_vmoe_checkpoint(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)


def test_more_than_the_limit_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(serialization.to_bytes({"a": np.ones(10)}))
    assert load_vmoe_checkpoint(tmp_path / "m", max_bytes=80)["a"].sum() == 10
    with pytest.raises(ValueError, match="80 bytes of memory, max_bytes is 79"):
        load_vmoe_checkpoint(tmp_path / "m", max_bytes=79)


def test_random_damage_raises_nothing_but_value_errors(form, tmp_path):
    rng = np.random.default_rng(1)
    good = serialization.to_bytes(tree() | numbers())
    refused = 0
    for case in range(400):
        data = bytearray(good)
        at = int(rng.integers(len(data)))
        if case % 2:
            data[at] = int(rng.integers(256))
        else:
            data = data[:at]
        (tmp_path / "m").write_bytes(data)
        try:
            load_vmoe_checkpoint(tmp_path / "m")
        except ValueError as error:
            assert str(tmp_path / "m") in str(error)
            refused += 1
        else:
            assert case % 2
    assert refused >= 200


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_changed_while_it_is_read_is_refused(tmp_path, in_place):
    path = tmp_path / "m"
    path.write_bytes(serialization.to_bytes({"a": np.zeros(3), "b": np.zeros(9000)}))

    def meanwhile(done, _):
        if done == 24:
            place = path if in_place else tmp_path / "new"
            place.write_bytes(serialization.to_bytes({"a": np.ones(3), "b": np.ones(9000 - 8000 * in_place)}))
            place.replace(path)

    with pytest.raises(ValueError, match=r"m: .*"):
        load_vmoe_checkpoint(path, progress=meanwhile)
