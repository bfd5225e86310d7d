import os
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints import inspect_vmoe_checkpoint, load_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.vmoe_types import MAX_CORNERS, covers_once


def tree():
    rng = np.random.default_rng(0)
    # two arrays of one shape, so that a mistaken number could go unseen
    norm = {"bias": rng.normal(size=6).astype("f4"), "scale": rng.normal(size=6).astype("f4")}
    return {
        "norm": norm,
        "head": rng.normal(size=(4, 6)),
        "step": np.asarray(np.int32(7)),
        "mask": np.ones(5, bool),
    }


@pytest.fixture
def good(form):
    """Two shards; array 0 (head) is in two halves, one in each."""
    checkpoint = form.Checkpoint.of(tree(), np.random.default_rng(1), shards=2)
    head = tree()["head"]
    checkpoint.index["head"] = form.Leaf([4, 6], "float64", [((0, 2), (0, 6)), ((2, 4), (0, 6))], [0, 1])
    for shard, rows in enumerate((head[:2], head[2:])):
        box = checkpoint.index["head"].boxes[shard]
        checkpoint.shards[shard]["0"] = [[[form.Piece([12], "float64", rows.tobytes())], box]]
    return checkpoint


def names(prefix):
    return [Path(f"{prefix}{end}") for end in (".index", ".data-00000-of-00002", ".data-00001-of-00002")]


def refused(prefix, match):
    with pytest.raises(ValueError, match=match) as caught:
        load_vmoe_checkpoint(prefix)
    assert str(prefix) in str(caught.value)


def test_the_good_one_loads(form, good, tmp_path):
    form.assert_same(load_vmoe_checkpoint(good.write(tmp_path / "m")), tree())


def set_leaf(**values):
    def change(checkpoint):
        for name, value in values.items():
            setattr(checkpoint.index["head"], name, value)

    return change


def halves(*boxes):
    return set_leaf(boxes=list(boxes), shards=[0, 1, 0, 1][: len(boxes)])


def set_head(**values):
    return lambda checkpoint: checkpoint.head.update(values)


def rename(old, new):
    def change(checkpoint):
        checkpoint.index = {new if key == old else key: value for key, value in checkpoint.index.items()}

    return change


def nest(checkpoint):
    for _ in range(65):
        checkpoint.index = {"a": checkpoint.index}


TOP, BOTTOM = ((0, 2), (0, 6)), ((2, 4), (0, 6))

INDEX = {
    "negative shape": (set_leaf(shape=[-4, 6]), r"shape \(-4, 6\)"),
    "product beyond 64 bits": (set_leaf(shape=[2**62, 2**62]), "an array of shape"),
    "huge beside zero": (set_leaf(shape=[0, 2**63], boxes=[], shards=[]), "an array of shape"),
    "nine axes": (set_leaf(shape=[1] * 9), "9 axes"),
    "shape of floats": (set_leaf(shape=[4.0, 6]), "float in place of int"),
    "shape of bools": (set_leaf(shape=[True, 6]), "bool in place of int"),
    "object type": (set_leaf(dtype="object"), "'object'"),
    "text type": (set_leaf(dtype="<U4"), "'<U4'"),
    "fields": (set_leaf(dtype="i4,f4"), "'i4,f4'"),
    "named axes": (set_leaf(names={"x": 2}), "named axes"),
    "unknown type": (set_leaf(code=9), "extension type 9 in place of 8"),
    "array in the index": (set_leaf(code=1), "extension type 1"),
    "overlap": (halves(((0, 3), (0, 6)), BOTTOM), "do not cover"),
    "gap": (halves(((0, 1), (0, 6)), BOTTOM), "do not cover"),
    "overlap and gap of one size": (halves(((0, 2), (0, 6)), ((1, 3), (0, 6))), "do not cover"),
    "outside": (halves(TOP, ((2, 5), (0, 6))), "do not cover"),
    "none": (halves(), "do not cover"),
    "empty chunk": (halves(TOP, BOTTOM, ((1, 1), (0, 6))), "do not cover"),
    "twice": (halves(TOP, BOTTOM, TOP), "named twice"),
    "backwards": (halves(TOP, ((4, 2), (0, 6))), "slice from 4 to 2"),
    "negative start": (halves(TOP, ((-2, 4), (0, 6))), "slice from -2 to 4"),
    "huge stop": (halves(TOP, ((2, 2**63), (0, 6))), "do not cover"),
    "too few axes": (halves(((0, 4),)), "slice of 1 axes"),
    "shard out of range": (set_leaf(shards=[0, 2]), "shard 2 of 2"),
    "negative shard": (set_leaf(shards=[0, -1]), "shard -1 of 2"),
    "too few shards": (set_leaf(shards=[0]), "an array of 1 in place of 2"),
    "no shards at all": (set_head(shard_count=0), "0 shards"),
    "negative count": (set_head(shard_count=-3), "-3 shards"),
    "absurd count": (set_head(shard_count=10**9), "1000000000 shards"),
    "count of text": (set_head(shard_count="2"), "str in place of int"),
    "unknown version": (set_head(version="20250101"), "only version '20220622' is known"),
    "version of a number": (set_head(version=20220622), "int in place of str"),
    "another key": (set_head(extra=1), "key 'extra'"),
    "no dict": (lambda checkpoint: setattr(checkpoint, "index", 3), "int in place of a dict"),
    "one array": (
        lambda checkpoint: setattr(checkpoint, "index", checkpoint.index["head"]),
        "in place of a dict",
    ),
    "deep": (nest, "more than 64 deep"),
    "key of dots": (rename("head", ".."), "could be a path"),
    "key of a path": (rename("head", "a/b"), "could be a path"),
    "key of a Windows path": (rename("head", "a\\b"), "could be a path"),
    "key of nothing": (rename("head", ""), "0 characters"),
    "key of NUL": (rename("head", "a\0"), "could be a path"),
    "key of a number": (rename("head", 0), "int in place of str"),
    "long key": (rename("head", "a" * 300), "300 characters"),
    "longer key": (rename("head", "a" * 3000), "text of 3000 bytes"),
}


@pytest.mark.parametrize("name", INDEX)
def test_a_wrong_index_is_refused(good, tmp_path, name):
    change, match = INDEX[name]
    change(good)
    refused(good.write(tmp_path / "m"), match)
    with pytest.raises(ValueError, match=r"m\.index"):
        inspect_vmoe_checkpoint(tmp_path / "m")


def piece(**values):
    def change(checkpoint):
        for name, value in values.items():
            setattr(checkpoint.shards[1]["0"][0][0][0], name, value)

    return change


def move(checkpoint):
    chunks = checkpoint.shards[1].pop("0")
    checkpoint.shards[0]["0"] += chunks


def number_of(new):
    def change(checkpoint):
        checkpoint.shards[1][new] = checkpoint.shards[1].pop("0")

    return change


def box_of(box):
    def change(checkpoint):
        checkpoint.shards[1]["0"][0][1] = box

    return change


SHARDS = {
    "other type": (piece(dtype="int64"), "type int64"),
    "other size of type": (piece(dtype="float32", shape=[24]), "type float32"),
    "object type": (piece(dtype="object"), "'object'"),
    "other shape": (piece(shape=[2, 6]), r"shape \(2, 6\)"),
    "too short": (piece(shape=[11], data=bytes(88)), "in 88 bytes of data"),
    "too long": (piece(shape=[13], data=bytes(104)), "in 104 bytes of data"),
    "claims more than it has": (piece(shape=[2**40]), "in 96 bytes"),
    "negative size": (piece(shape=[-1]), "shape"),
    "scalar": (piece(code=3), "extension type 3"),
    "unknown type": (piece(code=77), "extension type 77"),
    "moved to another shard": (move, "the index does not name here"),
    "number out of range": (number_of("5"), "array number '5'"),
    "negative number": (number_of("-1"), "array number '-1'"),
    "number of words": (number_of("head"), "array number 'head'"),
    "number with a zero": (number_of("00"), "array number '00'"),
    "huge number": (number_of("9" * 30), "array number"),
    "other array": (number_of("4"), "should be int32"),
    "other slice": (box_of(((0, 2), (0, 6))), "the index does not name here"),
    "slice of another cut": (box_of(((2, 4), (0, 5))), "the index does not name here"),
    "missing chunk": (lambda checkpoint: checkpoint.shards[1].pop("0"), "the index names here"),
    "chunk twice": (
        lambda checkpoint: checkpoint.shards[1]["0"].append(checkpoint.shards[1]["0"][0]),
        "not name",
    ),
    "no mark": (lambda checkpoint: setattr(checkpoint, "marked", False), "__msgpack_array_chunk_a87ca2__"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_wrong_shard_is_refused(good, tmp_path, name):
    change, match = SHARDS[name]
    change(good)
    refused(good.write(tmp_path / "m"), rf"m\.data-0000[01]-of-00002: .*{match}")


def test_bools_that_are_none_are_refused(good, tmp_path):
    number, owner = "1", good.index["mask"].shards[0]
    good.shards[owner][number][0][0][0].data = b"\1\1\2\1\1"
    refused(good.write(tmp_path / "m"), "bools of mask")


def test_two_equal_shapes_may_not_change_places(form, good, tmp_path):
    # keys out of order would give the arrays the other's numbers
    good.index["norm"] = {"scale": good.index["norm"]["bias"], "bias": good.index["norm"]["scale"]}
    refused(good.write(tmp_path / "m"), "key 'bias' after 'scale'")


def test_a_key_twice_is_refused(good, tmp_path):
    prefix = good.write(tmp_path / "m")
    data = names(prefix)[0].read_bytes()
    names(prefix)[0].write_bytes(data.replace(b"\xa5scale", b"\xa4bias"))
    refused(prefix, "key 'bias' twice")


def test_a_number_twice_is_refused(form, tmp_path):
    # two halves of one array, each under its number: a dict would keep one of them
    part = form.Piece([2], "float32", bytes(8))
    leaf = form.Leaf([4], "float32", [((0, 2),), ((2, 4),)], [0, 0])
    body = {"0": [[[part], ((0, 2),)]], "1": [[[part], ((2, 4),)]]}
    checkpoint = form.Checkpoint({"a": leaf, "b": leaf}, [body], {"shard_count": 1})
    prefix = checkpoint.write(tmp_path / "m")
    path = tmp_path / "m.data-00000-of-00001"
    path.write_bytes(path.read_bytes().replace(b"\xa11", b"\xa10"))
    refused(prefix, "array number 0 twice")


def test_missing_swapped_and_foreign_shards(good, tmp_path):
    prefix = good.write(tmp_path / "m")
    _, first, second = names(prefix)
    held = first.read_bytes(), second.read_bytes()
    first.write_bytes(held[1])
    second.write_bytes(held[0])
    refused(prefix, r"data-00000-of-00002: .*renamed")
    second.unlink()
    refused(prefix, "1 of 2 shards are missing, such as .*data-00001-of-00002")
    first.unlink()
    os.mkfifo(first)  # would be waited for
    refused(prefix, "2 of 2 shards are missing")
    first.unlink()
    names(prefix)[0].unlink()
    second.write_bytes(held[1])
    refused(prefix, "1 of its shards")


def test_a_folder_or_an_unreadable_file_is_refused(good, tmp_path, monkeypatch):
    prefix = good.write(tmp_path / "m")
    reading = Path.open

    def forbids(self, *arguments):
        if self == names(prefix)[2]:
            raise PermissionError(13, "Permission denied")
        return reading(self, *arguments)

    monkeypatch.setattr(Path, "open", forbids)
    refused(prefix, "data-00001-of-00002 cannot be read .*Permission denied")
    names(prefix)[0].unlink()
    names(prefix)[0].mkdir()
    refused(prefix, "no file")


BOMBS = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "str": b"\xdb\xff\xff\xff\xff",
    "bin": b"\xc6\xff\xff\xff\xff",
    "ext": b"\xc9\xff\xff\xff\xff\x01",
    "ext of an index": b"\xc9\xff\xff\xff\xff\x08",
    "nested arrays": b"\x91" * 100_000,
    "nested maps": b"\x81\xa1a" * 100_000,
    "never used": b"\xc1",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_claims_of_billions_take_no_memory(good, tmp_path, name):
    prefix = good.write(tmp_path / "m")
    index, _, second = names(prefix)
    spoilt = {
        index: [
            BOMBS[name],
            b"\x81\xa5index" + BOMBS[name],
            b"\x82\xabshard_count\x01\xa5index\x81\xa1a" + BOMBS[name],
        ],
        second: [
            BOMBS[name],
            b"\x82" + msgpack.packb("__msgpack_array_chunk_a87ca2__") + b"\xc3\xa10" + BOMBS[name],
            b"\x82"
            + msgpack.packb("__msgpack_array_chunk_a87ca2__")
            + b"\xc3\xa10\x91\x92\x91"
            + BOMBS[name],
        ],
    }
    for path, variants in spoilt.items():
        kept = path.read_bytes()
        for data in variants:
            path.write_bytes(data)
            tracemalloc.start()
            refused(prefix, path.name)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 2_000_000
        path.write_bytes(kept)


def test_a_tree_larger_than_its_files_is_refused_before_it_is_allocated(form, tmp_path):
    data = form.Piece([4], "float32", bytes(16))
    big = form.Leaf([2**33], "float32", [((0, 2**33),)], [0])
    checkpoint = form.Checkpoint({"a": big}, [{"0": [[[data], ((0, 2**33),)]]}], {"shard_count": 1})
    refused(checkpoint.write(tmp_path / "m"), "in 16 bytes of data")


def test_a_huge_index_is_refused_unread(good, tmp_path):
    prefix = good.write(tmp_path / "m")
    with names(prefix)[0].open("r+b") as file:
        file.truncate(2**40)
    refused(prefix, "an index of more than 16777216 bytes")


def test_too_many_corners_are_refused():
    boxes = [tuple((place, place + 1) for _ in range(8)) for place in range(MAX_CORNERS // 256 + 1)]
    with pytest.raises(ValueError, match="4097 chunks, split along 8 axes"):
        covers_once((10**4,) * 8, boxes)


def test_random_damage_is_refused_or_harmless(form, good, tmp_path):
    """Without a checksum, data that were hit may differ, and one key, if it stays in its place."""
    rng = np.random.default_rng(7)
    prefix = good.write(tmp_path / "m")
    truth = form.flat(tree())
    kept = {path: path.read_bytes() for path in names(prefix)}
    runs = [array.tobytes() for _, array in truth] + [half.tobytes() for half in np.split(tree()["head"], 2)]
    outcomes = {"refused": 0, "same": 0, "data": 0, "key": 0}
    for case in range(600):
        path = names(prefix)[case % 3]
        data = bytearray(kept[path])
        at = int(rng.integers(len(data)))
        kind = case // 3 % 4
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at] = int(rng.integers(256))
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        path.write_bytes(data)
        try:
            found = form.flat(load_vmoe_checkpoint(prefix))
        except ValueError as error:
            assert str(prefix) in str(error)
            outcomes["refused"] += 1
        else:
            assert kind in {1, 2}
            parts = [(keys, array.shape, array.dtype) for keys, array in found]
            hit = any(start <= at < start + len(run) for run in runs if (start := kept[path].find(run)) >= 0)
            if parts != [(keys, array.shape, array.dtype) for keys, array in truth]:
                assert path.suffix == ".index"  # a key: all else is as it was, in the same order
                assert [part[1:] for part in parts] == [(array.shape, array.dtype) for _, array in truth]
                changed = {
                    (old, new)
                    for (was, _), (now, _) in zip(truth, found, strict=True)
                    for old, new in zip(was, now, strict=True)
                    if old != new
                }
                assert len(changed) == 1
                outcomes["key"] += 1
            elif hit and path.suffix != ".index":
                outcomes["data"] += 1
                continue
            else:
                outcomes["same"] += 1
            for (_, array), (_, wanted) in zip(found, truth, strict=True):
                form.assert_same(array, wanted)
        finally:
            path.write_bytes(kept[path])
    assert outcomes["refused"] > 300 and min(outcomes.values()) > 0


@pytest.mark.parametrize("which", range(3))
def test_bytes_at_the_end_are_refused(good, tmp_path, which):
    prefix = good.write(tmp_path / "m")
    path = names(prefix)[which]
    path.write_bytes(path.read_bytes() + b"\xc0")
    refused(prefix, rf"{path.name}: 1 bytes that belong to nothing")


def test_a_key_of_the_index_twice_is_refused(good, tmp_path):
    prefix = good.write(tmp_path / "m")
    path = names(prefix)[0]
    path.write_bytes(b"\x84" + path.read_bytes()[1:] + b"\xabshard_count\x02")
    refused(prefix, "key 'shard_count' of an index, unknown or for the second time")


@pytest.mark.parametrize(("step", "accepted"), [(1, True), (2, False), (-1, False), (0, False)])
def test_slices_have_no_other_step_than_one(form, good, tmp_path, step, accepted):
    prefix = good.write(tmp_path / "m")
    for path in names(prefix):
        stepped = path.read_bytes().replace(b"\x93\x02\x04\xc0", b"\x93\x02\x04" + msgpack.packb(step))
        assert stepped != path.read_bytes() or path.name.startswith("m.data-00000")
        path.write_bytes(stepped)
    if accepted:
        form.assert_same(load_vmoe_checkpoint(prefix), tree())
    else:
        refused(prefix, "whose step is not 1")


def test_too_many_entries_are_refused(good, tmp_path, monkeypatch):
    monkeypatch.setattr("qrt_tn.models.moe.checkpoints.nested.MAX_ENTRIES", 6)
    load_vmoe_checkpoint(good.write(tmp_path / "m"))
    good.index["zero"] = {}
    refused(good.write(tmp_path / "m"), "more than 6 entries")
