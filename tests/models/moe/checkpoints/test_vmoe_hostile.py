import os
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest
from flax import serialization

from qrt_tn.models.moe import inspect_vmoe_checkpoint, load_vmoe_checkpoint, save_vmoe_checkpoint
from tests.models.moe.checkpoints.vmoe_format import MARK, Checkpoint, Leaf, Piece, assert_same, flat

TOP, BOTTOM = ((0, 2), (0, 6)), ((2, 4), (0, 6))


def make_tree():
    rng = np.random.default_rng(0)
    # two arrays of one shape, so that a mistaken number could go unseen
    norm = {"bias": rng.normal(size=6).astype("f4"), "scale": rng.normal(size=6).astype("f4")}
    head, step = rng.normal(size=(4, 6)), np.asarray(np.int32(7))
    return {"norm": norm, "head": head, "step": step, "mask": np.ones(5, bool)}


def make_good():
    """Two shards; array 0 (head) is in two halves, one in each."""
    checkpoint = Checkpoint.of(make_tree(), np.random.default_rng(1), shards=2)
    checkpoint.index["head"] = Leaf([4, 6], "float64", [TOP, BOTTOM], [0, 1])
    for shard, (box, rows) in enumerate(zip((TOP, BOTTOM), np.split(make_tree()["head"], 2), strict=True)):
        checkpoint.shards[shard]["0"] = [[[Piece([12], "float64", rows.tobytes())], box]]
    return checkpoint


@pytest.fixture
def good():
    return make_good()


def files(prefix):
    return [Path(f"{prefix}{end}") for end in (".index", ".data-00000-of-00002", ".data-00001-of-00002")]


def refused(prefix, match):
    with pytest.raises(ValueError, match=match) as caught:
        load_vmoe_checkpoint(prefix)
    assert str(prefix) in str(caught.value) and "\n" not in str(caught.value)


@contextmanager
def traced():
    """Yield a function that tells the peak of the block's memory."""
    peaks = []
    tracemalloc.start()
    try:
        yield lambda: peaks[0]
    finally:
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def leaf(**values):
    return lambda good: vars(good.index["head"]).update(values)


def halves(*boxes):
    return leaf(boxes=list(boxes), shards=[0, 1, 0, 1][: len(boxes)])


def head(**values):
    return lambda good: good.head.update(values)


def key(new):
    return lambda good: good.index.update({new: good.index.pop("head")})


def nest(good):
    for _ in range(65):
        good.index = {"a": good.index}


COVER = r"do not cover each element of an array of shape \(4, 6\)"
INDEX = [
    (leaf(shape=[-4, 6]), r"\[-4, 6\]"),
    (leaf(shape=[2**62, 2**62]), "4611686018427387904"),
    (leaf(shape=[0, 2**63], boxes=[], shards=[]), "0, 9223372036854775808"),
    (leaf(shape=[1] * 9), r"\[1, 1, 1, 1, 1, 1, 1, 1, 1\]"),
    (leaf(shape=[4.0, 6]), r"\[4.0, 6\]"),
    (leaf(shape=[True, 6]), r"\[True, 6\]"),
    (leaf(dtype="object"), "'object'"),
    (leaf(names={"x": 2}), "max_map_len"),
    *((leaf(code=code), f"code={code}") for code in (9, 1)),
    *((leaf(step=step), rf"slice \[0, 2, {step}\]") for step in (2, -1, 0, True)),
    (halves(((0, 2), (0, 6)), ((1, 3), (0, 6))), COVER),
    (halves(), COVER),
    (halves(TOP, BOTTOM, TOP), COVER),
    (halves(TOP, ((2, 2**63), (0, 6))), COVER),
    (halves(TOP, ((4, 2), (0, 6))), "slice .4, 2"),
    (halves(TOP, ((-2, 4), (0, 6))), "slice .-2, 4"),
    (halves(((0, 4),)), "another number of axes"),
    (leaf(shards=[0, 2]), "shard 2 of 2"),
    (leaf(shards=[0, -1]), r"\[0, -1\]"),
    (leaf(shards=[0]), r"\[0\] of 2 chunks"),
    *((head(shard_count=count), f"shard_count is {count!r}") for count in (0, 10**9, "2", True)),
    (head(version="20250101"), "'20250101'"),
    (head(version=20220622), "version 20220622, only '20220622'"),
    (head(extra=1), "'extra'"),
    (lambda good: setattr(good, "index", 3), "3 in place of an array"),
    (lambda good: setattr(good, "index", good.index["head"]), "no dict of arrays"),
    (lambda good: good.index.update(z=7), "7 in place of an array"),
    (lambda good: good.index.update(z=[7]), r"\[7\] in place of an array"),
    (lambda good: (good.index.clear(), nest(good)), "more than 64 dicts"),
    *((key(name), "could be a path") for name in ("..", "a/b", "a\\b", "a\0")),
    *((key(name), f"key {name!r:.40}; keys are texts of 1 to 256") for name in ("", "a" * 300, 0)),
    # arrays under swapped numbers: keys out of order would give each the other's
    (lambda good: good.index.update(norm=dict(reversed(good.index["norm"].items()))), "'bias' after 'scale'"),
]


@pytest.mark.parametrize(("change", "match"), INDEX)
def test_a_wrong_index_is_refused(good, tmp_path, change, match):
    change(good)
    refused(good.write(tmp_path / "m"), rf"m\.index: .*{match}")


def piece(**values):
    return lambda good: vars(good.shards[1]["0"][0][0][0]).update(values)


def number(new):
    return lambda good: good.shards[1].update({new: good.shards[1].pop("0")})


def box(new):
    return lambda good: good.shards[1]["0"][0].__setitem__(1, new)


TYPE = "array 0 that are not of one axis and type float64"
SHARDS = [
    *((piece(**wrong), TYPE) for wrong in ({"dtype": "int64"}, {"shape": [2, 6]}, {"code": 77})),
    (piece(dtype="object"), "'object'"),
    (piece(shape=[11], data=bytes(88)), "in 88 bytes"),
    (piece(shape=[13], data=bytes(104)), "in 104 bytes"),
    (piece(shape=[30], data=bytes(240)), "240 bytes in place of one of 192"),
    (piece(shape=[2**40]), "another number of bytes"),
    (piece(shape=[-1]), r"\[-1\]"),
    (lambda good: good.shards[0]["0"].extend(good.shards[1].pop("0")), "the index does not name here"),
    *((number(new), f"number '{new}'") for new in ("5", "-1", "head", "00", "9" * 30)),
    (number(0), "number 0,"),
    (number("4"), "96 bytes in place of one of 4"),
    (box(TOP), "the index does not name here"),
    (lambda good: good.shards[1].pop("0"), r"slice \[\(2, 4\), \(0, 6\)\] of array 0"),
    (lambda good: good.shards[1]["0"].extend(good.shards[1]["0"]), "does not name here"),
    (lambda good: good.shards[1]["0"][0].__setitem__(0, [Piece([0], "float64", b"")] * 1025), "1025 pieces"),
    (lambda good: good.mark.clear(), MARK),
    (lambda good: good.mark.update({MARK: 1}), MARK),
]


@pytest.mark.parametrize(("change", "match"), SHARDS)
def test_a_wrong_shard_is_refused(good, tmp_path, change, match):
    change(good)
    refused(good.write(tmp_path / "m"), rf"m\.data-0000[01]-of-00002: .*{match}")


def test_bytes_that_no_encoder_writes_are_refused(good, tmp_path):
    """A key or a number twice, of which a dict would keep one; bools of neither truth; bytes at the end."""
    owner = good.index["mask"].shards[0]
    good.shards[owner]["1"][0][0][0].data = b"\1\1\2\1\1"
    refused(good.write(tmp_path / "m"), "neither 0 nor 1")
    index, *shards = files(make_good().write(tmp_path / "m"))
    shard = next(path for path in shards if b"\xa13" in path.read_bytes())
    for path, old, new, match in (
        (index, b"\xa5scale", b"\xa4bias", "'bias' twice"),
        (index, b"\xa7version\xa820220622", b"\xabshard_count\x02", "'shard_count' of an index"),
        (shard, b"\xa13", b"\xa10", "array 0"),
        *((path, b"", b"", "1 bytes that belong to nothing") for path in (index, *shards)),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole.replace(old, new, 1) if old else whole + b"\xc0")
        refused(tmp_path / "m", rf"{path.name}: .*{match}")
        path.write_bytes(whole)


def test_missing_swapped_and_foreign_shards(good, tmp_path, monkeypatch):
    prefix = good.write(tmp_path / "m")
    index, first, second = files(prefix)
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
    good.write(prefix)
    reading = Path.open

    def forbids(self, *arguments, **named):
        if self == second:
            raise PermissionError(13, "Permission denied")
        return reading(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", forbids)
    refused(prefix, "data-00001-of-00002 cannot be read .*Permission denied")
    index.unlink()
    refused(prefix, "2 of its shards")
    index.mkdir()
    refused(prefix, "no file")


BOMBS = [
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    *(b"\xc9\xff\xff\xff\xff\x01", b"\xc9\xff\xff\xff\xff\x08", b"\x91" * 100_000, b"\x81\xa1a" * 100_000),
    *(b"\xdd\x00\x00\xff\xff" * 20_000, b"\xdf\x00\x00\xff\xff\xa1a" * 20_000, b"\xc1", b""),
]


def test_claims_of_billions_take_no_memory(good, tmp_path):
    prefix = good.write(tmp_path / "m")
    index, _, second = files(prefix)
    mark = b"\x82" + msgpack.packb(MARK) + b"\xc3\xa10"
    starts = {
        index: [b"", b"\x81\xa5index", b"\x82\xabshard_count\x01\xa5index\x81\xa1a"],
        second: [b"", mark, mark + b"\x91\x92\x91"],
    }
    for path, variants in starts.items():
        kept = path.read_bytes()
        for data in (start + bomb for start in variants for bomb in BOMBS):
            path.write_bytes(data + bytes(200))  # as many bytes as the index wants
            with traced() as peak:
                refused(prefix, path.name)
            assert peak() < 2_000_000
        path.write_bytes(kept)


def test_what_does_not_fit_is_refused_before_it_is_allocated(good, tmp_path, monkeypatch):
    data = Piece([4], "float32", bytes(16))
    big = Leaf([2**33], "float32", [((0, 2**33),)], [0])
    checkpoint = Checkpoint({"a": big}, [{"0": [[[data], ((0, 2**33),)]]}], {"shard_count": 1})
    refused(checkpoint.write(tmp_path / "m"), "34359738368")
    prefix = good.write(tmp_path / "m")
    with files(prefix)[0].open("r+b") as file:
        file.truncate(2**40)
    refused(prefix, "an index of more than 16777216 bytes")
    good.write(prefix)
    start = b"\x82" + msgpack.packb(MARK) + b"\xc3\xa10\x91\x92"
    described = b"\x93\x91\xce\x07\x00\x00\x00\xa7float64\xc6\x38\x00\x00\x00"
    for claim in (
        b"\x91\xc9" + (len(described) + 0x38000000).to_bytes(4) + b"\1" + described,  # a piece of 0.9 GB
        b"\x90\xc9\x3f\xff\x00\x00\x06",  # a slice of 1 GB
    ):
        with files(prefix)[2].open("wb") as file:
            file.write(start + claim)
            file.truncate(2**30)  # which takes no place on the disk
        with traced() as peak:
            refused(prefix, "939524096 bytes in place of one of 192|an extension of 1073676288 bytes")
        assert peak() < 2_000_000
    good.write(prefix)
    monkeypatch.setattr("qrt_tn.models.moe.checkpoints.unpacking.MAX_ENTRIES", 6)
    load_vmoe_checkpoint(prefix)
    good.index["zero"] = {}
    refused(good.write(prefix), "6 entries")


def test_reading_takes_little_more_than_the_tree(tmp_path):
    tree = {f"{k}": np.full((512, 1024), k, "f4") for k in range(8)}
    save_vmoe_checkpoint(tmp_path / "m", tree, shards=4)
    (tmp_path / "flax").write_bytes(serialization.to_bytes(tree))
    size = sum(array.nbytes for array in tree.values())
    for name, most in (("m", 1.2), ("flax", 1.05)):  # one chunk beside it, or none
        with traced() as peak:
            found = load_vmoe_checkpoint(tmp_path / name)
        assert size < peak() < most * size
        assert_same(found, tree)


def test_random_damage_is_refused_or_harmless(tmp_path):
    """Without a checksum, data that were hit may differ, and one key, if it stays in its place."""
    prefix, rng = make_good().write(tmp_path / "m"), np.random.default_rng(0)
    keys, arrays = zip(*flat(make_tree()), strict=True)
    for path in files(prefix):
        whole = path.read_bytes()
        assert_same(load_vmoe_checkpoint(prefix), make_tree())
        for at in rng.integers(len(whole), size=20):
            flipped = bytes([whole[at] ^ 1 << int(rng.integers(8))])
            for kind, new in (
                ("cut", b""),
                ("flip", flipped + whole[at + 1 :]),
                ("set", rng.bytes(1) + whole[at + 1 :]),
                ("put", rng.bytes(int(rng.integers(1, 9))) + whole[at:]),
            ):
                path.write_bytes(whole[:at] + new)
                try:
                    found = flat(load_vmoe_checkpoint(prefix))
                except ValueError as error:
                    assert str(prefix) in str(error) and "\n" not in str(error)
                    continue
                assert kind in ("flip", "set")
                now, others = zip(*found, strict=True)
                assert [(x.shape, x.dtype) for x in arrays] == [(x.shape, x.dtype) for x in others]
                # at most one key differs, or one byte of the data
                assert len(set(sum(keys, ())) ^ set(sum(now, ()))) <= 2 * (path.suffix == ".index")
                data, read = (b"".join(array.tobytes() for array in each) for each in (arrays, others))
                assert sum(a != b for a, b in zip(data, read, strict=True)) <= (path.suffix != ".index")
        path.write_bytes(whole)


def test_an_index_alone_is_inspected(good, tmp_path):
    prefix = good.write(tmp_path / "m")
    for path in files(prefix)[1:]:
        path.unlink()
    assert inspect_vmoe_checkpoint(prefix).shard_count == 2
    good.index["z"] = 7
    with pytest.raises(ValueError, match="7 in place of an array"):
        inspect_vmoe_checkpoint(good.write(prefix))
