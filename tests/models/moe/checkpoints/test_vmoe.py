import itertools
from collections import namedtuple
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qrt_tn.models.moe import inspect_vmoe_checkpoint, load_vmoe_checkpoint, save_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints import boxes, vmoe, vmoe_save
from qrt_tn.models.moe.checkpoints.boxes import covers_once
from tests.models.moe.checkpoints.vmoe_format import (
    Checkpoint,
    assert_same,
    decode,
    flat,
    guillotine,
    index_of,
)

TYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
PINWHEEL = [((0, 1), (0, 2)), ((0, 2), (2, 3)), ((2, 3), (1, 3)), ((1, 3), (0, 1)), ((1, 2), (1, 2))]


def make_tree(rng, *, groups=()):
    """Part of a V-MoE tree, or of an E3 one, whose router has three axes; and an array of every type."""
    router = rng.normal(size=(8, *groups, 4)).astype("f4")
    block = {"Moe": {"Router": {"dense": {"kernel": router}}, "Mlp": {"kernel": rng.normal(size=(4, 8, 12))}}}
    types = {name: rng.integers(0, 2, size=(3, 5)).astype(name) for name in TYPES.split()}
    types["bfloat16"] = rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16)
    types |= {"number": np.asarray(np.float32(-2.5)), "nothing": None, "empty": {}}
    # "encoderblock_10" comes before "encoderblock_2"
    blocks = {f"encoderblock_{k}": {"bias": rng.normal(size=8)} for k in (2, 10)}
    return {"Encoder": blocks | {"encoderblock_1": block}, "cls": rng.normal(size=(1, 1, 8)), "types": types}


def test_it_reads_what_another_encoder_writes(tmp_path):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        tree = make_tree(rng, groups=[(), (2,)][seed % 2])
        settings = {"shards": 1 + seed % 5, "cuts": [0, 1, 6, 20][seed % 4], "pieces": 1 + seed % 3}
        checkpoint = Checkpoint.of(tree, rng, version=[None, "20220622"][seed % 2], **settings)
        assert_same(load_vmoe_checkpoint(checkpoint.write(tmp_path / "m")), tree)
        found = inspect_vmoe_checkpoint(tmp_path / "m")
        assert (found.version, found.shard_count) == (checkpoint.head.get("version"), settings["shards"])
        entries = [(leaf.name, list(leaf.shape), leaf.dtype, list(leaf.shards)) for leaf in found.leaves]
        assert entries == [
            ("/".join(keys), leaf.shape, leaf.dtype, leaf.shards) for keys, leaf in flat(checkpoint.index)
        ]
        assert found.nbytes == sum(array.nbytes for _, array in flat(tree))
    tree = {"a": np.arange(9.0).reshape(3, 3)}
    checkpoint = Checkpoint.of(tree, rng, boxes=PINWHEEL)
    assert_same(load_vmoe_checkpoint(checkpoint.write(tmp_path / "m")), tree)


def test_another_decoder_reads_what_it_writes(tmp_path):
    for seed, most in enumerate((1, 24, 100, 2**20)):
        rng = np.random.default_rng(seed)
        five, turned = rng.normal(size=(2, 3, 2, 2, 3)), rng.normal(size=(4, 6)).T
        tree = make_tree(rng) | {"five": five, "turned": turned, "none": np.zeros((3, 0), "f2")}
        seen = []
        report = lambda done, total, seen=seen: seen.append((done, total))  # noqa: E731
        save_vmoe_checkpoint(tmp_path / "m", tree, shards=1 + 2 * seed, max_chunk_bytes=most, progress=report)
        found, head = decode(tmp_path / "m")
        assert [(keys, array.tobytes()) for keys, array in found.items()] == [
            (keys, array.tobytes()) for keys, array in flat(tree)
        ]
        for _, (_, dtype, parts, _) in flat(head["index"]):
            sizes = [np.prod([stop - start for start, stop, _ in box]) for box in parts]
            assert all(size * dtype.itemsize <= max(most, dtype.itemsize) for size in sizes)
        assert len(list(tmp_path.glob("m.data-*"))) == head["shard_count"] == 1 + 2 * seed
        done = len(seen)
        assert_same(load_vmoe_checkpoint(tmp_path / "m", progress=report), tree)
        total = sum(array.nbytes for _, array in flat(tree))
        for part in (seen[:done], seen[done:]):
            assert part == sorted(part) and part[-1] == (total, total)


def test_lists_and_states_come_back_as_dicts(tmp_path):
    state = namedtuple("state", "count mu")
    many = [np.full(2, i) for i in range(12)]
    tree = {"many": many, "opt": (state(jnp.int32(3), {"w": jnp.ones(2)}), ()), "scalar": np.float64(1.5)}
    save_vmoe_checkpoint(tmp_path / "m", tree)
    states = {"0": {"count": np.asarray(3, "i4"), "mu": {"w": np.ones(2, "f4")}}, "1": {}}
    wanted = {"many": {f"{i}": one for i, one in enumerate(many)}, "opt": states, "scalar": np.asarray(1.5)}
    assert_same(load_vmoe_checkpoint(tmp_path / "m"), wanted)


def test_more_than_the_free_memory_is_refused(tmp_path, monkeypatch):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.arange(100.0)}, max_chunk_bytes=80)
    free = 960  # the tree, and two chunks of a tenth of it
    monkeypatch.setattr("qrt_tn.models.moe.checkpoints.unpacking.device_memory", lambda _: (10**9, free))
    load_vmoe_checkpoint(tmp_path / "m")
    free = 959
    with pytest.raises(ValueError, match="takes 960 bytes of memory, 959 are free"):
        load_vmoe_checkpoint(tmp_path / "m")


def test_saves_cut_short_never_mix(tmp_path, monkeypatch):
    old = {"a": np.zeros((6, 4)), "b": np.zeros(3)}
    new = {"a": np.ones((6, 4)), "b": np.ones(3)}
    replace = Path.replace
    for before in (2, 3):
        outcomes = set()
        for kill in range(5):
            save_vmoe_checkpoint(tmp_path / "m", old, shards=before, max_chunk_bytes=32)
            (tmp_path / "m.data-00000-of-00004").write_bytes(b"left behind")  # by a save of an earlier day
            renamed = itertools.count()

            def dies(self, target, renamed=renamed, kill=kill):
                if next(renamed) == kill:
                    raise KeyboardInterrupt
                return replace(self, target)

            monkeypatch.setattr(Path, "replace", dies)
            finished = False
            try:
                save_vmoe_checkpoint(tmp_path / "m", new, shards=3, max_chunk_bytes=32)
                finished = True
            except KeyboardInterrupt:
                pass
            monkeypatch.setattr(Path, "replace", replace)
            try:
                assert_same(load_vmoe_checkpoint(tmp_path / "m"), new if finished else old)
                outcomes.add("new" if finished else "old")
            except ValueError as error:
                assert "cut short" in str(error) and not finished
                outcomes.add("none")
        assert finished
        # with other names the old one lasts until the end; with the same names there is none in between
        assert outcomes == ({"none", "new"} if before == 3 else {"old", "new"})
        assert len(list(tmp_path.iterdir())) == 4  # what was left behind is gone
    (tmp_path / "m.index").write_bytes(b"no index")
    save_vmoe_checkpoint(tmp_path / "m", old, shards=3)
    assert_same(load_vmoe_checkpoint(tmp_path / "m"), old)


def test_shards_are_even_and_other_checkpoints_left_alone(tmp_path):
    for name in ("m", "m2", "mm", "m.x"):
        save_vmoe_checkpoint(tmp_path / name, {"a": np.zeros((64, 1000))}, shards=4, max_chunk_bytes=16_000)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.data-*")]
    assert min(sizes) > 128_000 and max(sizes) - min(sizes) < 100
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.ones(2)})
    assert [path.name for path in tmp_path.glob("m.data*")] == ["m.data-00000-of-00001"]
    for name in ("m2", "mm", "m.x"):
        assert not load_vmoe_checkpoint(tmp_path / name)["a"].any()


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("at", [72, 144])
def test_a_checkpoint_replaced_while_it_is_read_is_refused(tmp_path, shards, at):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.zeros(9), "b": np.zeros(9)}, shards=2)

    def meanwhile(done, _):
        if done == at:
            save_vmoe_checkpoint(tmp_path / "m", {"a": np.ones(9), "b": np.ones(9)}, shards=shards)

    with pytest.raises(ValueError, match=r"m\.(index|data-0000[01]-of-00002)"):
        load_vmoe_checkpoint(tmp_path / "m", progress=meanwhile)


def test_a_checkpoint_replaced_between_its_shards_is_refused(tmp_path, monkeypatch):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.zeros(9), "b": np.zeros(9)}, shards=2)
    read = vmoe._read_shard

    def replaced(path, *others):
        if path.name.endswith("00001-of-00002"):
            save_vmoe_checkpoint(tmp_path / "m", {"a": np.ones(9), "b": np.ones(9)}, shards=2)
        return read(path, *others)

    monkeypatch.setattr(vmoe, "_read_shard", replaced)
    with pytest.raises(ValueError, match=r"m\.index was replaced"):
        load_vmoe_checkpoint(tmp_path / "m")


ENDLESS: dict = {}
ENDLESS["a"] = ENDLESS
ONE = {"a": np.ones(1)}


@pytest.mark.parametrize(
    ("tree", "options", "message"),
    [
        ({"a": [1.5]}, {}, "a/0 is a float"),
        ({"a": np.array(["x"])}, {}, "a is of type <U1"),
        ({"a": np.ones(2, ">f4")}, {}, "a is of type >f4"),
        ({"a": np.zeros(2, "i4,f4")}, {}, "a is of type"),
        ({"a": np.zeros((1,) * 9)}, {}, r"\[1, 1, 1, 1, 1, 1, 1, 1, 1\]"),
        ({"a": {"b/c": np.ones(1)}}, {}, "'b/c'"),
        ({"..": {}}, {}, r"'\.\.'"),
        ({"": np.ones(1)}, {}, "key ''"),
        ({"a" * 300: np.ones(1)}, {}, "1 to 256"),
        (np.ones(3), {}, "ndarray"),
        (ENDLESS, {}, "without end"),
        (ONE, {"shards": 0}, "shards is 0"),
        (ONE, {"shards": 100_000}, "shards is 100000"),
        (ONE, {"max_chunk_bytes": 0}, "max_chunk_bytes is 0"),
        (ONE, {"max_chunk_bytes": 2**31}, "max_chunk_bytes is 2147483648"),
        ({"a": np.ones(2**11, bool)}, {"max_chunk_bytes": 1}, "an array in 1025 chunks"),
    ],
)
def test_what_cannot_be_saved_leaves_no_file(tmp_path, monkeypatch, tree, options, message):
    for module in (boxes, vmoe_save):
        monkeypatch.setattr(module, "MAX_CHUNKS", 2**10)
    with pytest.raises(ValueError, match=message):
        save_vmoe_checkpoint(tmp_path / "m", tree, **options)
    assert not list(tmp_path.iterdir())


def test_prefixes_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_vmoe_checkpoint("m", {"a": np.ones(1)})
    for prefix in ("m.index", "m.data-00000-of-00001", "", 3, None, "nowhere/m", "x", "a" * 300):
        for call in (load_vmoe_checkpoint, inspect_vmoe_checkpoint):
            with pytest.raises(ValueError, match=r"(give|cannot be read)"):
                call(prefix)


def test_covers_once_against_counting():
    rng = np.random.default_rng(5)
    outcomes = set()
    for _ in range(400):
        shape = tuple(int(size) for size in rng.integers(1, 5, size=rng.integers(0, 4)))
        parts = guillotine(shape, rng, 4)
        if shape and rng.random() < 0.5:  # one of them moved, perhaps onto nothing
            start, stop = parts[0][0]
            parts[0] = ((max(0, start - 1), stop - int(rng.integers(2))), *parts[0][1:])
        if rng.random() < 0.2:
            parts.pop()
        count = np.zeros(shape, int)
        for box in parts:
            count[index_of(box)] += 1
        filled = all(stop > start for box in parts for start, stop in box)
        assert covers_once(shape, parts) == (filled and bool((count == 1).all()))
        outcomes.add(covers_once(shape, parts))
    assert outcomes == {True, False}
    assert covers_once((3, 3), PINWHEEL) and not covers_once((3, 3), PINWHEEL[:-1])
    # as many elements as the array has, but twice the same; and beyond its end
    assert not covers_once((4,), [((0, 2),), ((0, 2),)]) and not covers_once((4,), [((1, 5),)])
