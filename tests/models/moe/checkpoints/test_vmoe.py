import itertools
from collections import namedtuple
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints import inspect_vmoe_checkpoint, load_vmoe_checkpoint, save_vmoe_checkpoint
from qrt_tn.models.moe.checkpoints.vmoe_types import covers_once

TYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
]
TYPES += ["float64", "complex64", "complex128"]


def every_type(rng):
    tree = {name: rng.integers(0, 2, size=(3, 5)).astype(name) for name in TYPES}
    tree["bfloat16"] = rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16)
    tree |= {
        "number": np.asarray(np.float32(-2.5)),
        "nothing": None,
        "empty": {},
        "none": np.zeros((3, 0), "f2"),
    }
    return tree


@pytest.mark.parametrize("seed", range(8))
def test_it_reads_what_another_encoder_writes(form, tmp_path, seed):
    rng = np.random.default_rng(seed)
    tree = form.model(rng, groups=[None, 2][seed % 2]) | {"types": every_type(rng)}
    del tree["types"]["none"]
    settings = {"shards": 1 + seed % 5, "cuts": [0, 1, 6, 20][seed % 4], "pieces": 1 + seed % 3}
    prefix = form.Checkpoint.of(tree, rng, **settings).write(tmp_path / "model")
    found = load_vmoe_checkpoint(prefix)
    form.assert_same(found, tree)
    assert list(found) == sorted(tree)


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("most", [1, 24, 100, 2**20])
def test_another_decoder_reads_what_it_writes(form, tmp_path, shards, most):
    rng = np.random.default_rng(1)
    tree = form.model(rng) | {"types": every_type(rng), "five": rng.normal(size=(2, 3, 2, 2, 3))}
    tree["transposed"] = rng.normal(size=(4, 6)).T
    save_vmoe_checkpoint(tmp_path / "model", tree, shards=shards, max_chunk_bytes=most)
    found, head = form.decode(tmp_path / "model")
    wanted = dict(form.flat(tree))
    assert list(found) == list(wanted)
    for keys, array in wanted.items():
        form.assert_same(found[keys], array)
    for _, (_, dtype, boxes, _) in form.flat(head["index"]):
        assert all(
            np.prod([b - a for a, b, _ in box]) * dtype.itemsize <= max(most, dtype.itemsize) for box in boxes
        )
    sizes = [path.stat().st_size for path in tmp_path.glob("*.data-*")]
    assert len(sizes) == shards
    form.assert_same(load_vmoe_checkpoint(tmp_path / "model"), tree)


def test_shards_hold_about_as_many_bytes(tmp_path):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.zeros((64, 1000))}, shards=4, max_chunk_bytes=16_000)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.data-*")]
    assert min(sizes) > 128_000 and max(sizes) - min(sizes) < 100


def test_lists_and_states_come_back_as_dicts(form, tmp_path):
    state = namedtuple("state", "count mu")
    tree = {
        "many": [np.full(2, i) for i in range(12)],
        "opt": (state(jnp.int32(3), {"w": jnp.ones(2)}), ()),
        "scalar": np.float64(1.5),
    }
    save_vmoe_checkpoint(tmp_path / "m", tree)
    found = load_vmoe_checkpoint(tmp_path / "m")
    wanted = {
        "many": {str(i): np.full(2, i) for i in range(12)},
        "opt": {"0": {"count": np.asarray(3, "i4"), "mu": {"w": np.ones(2, "f4")}}, "1": {}},
        "scalar": np.asarray(1.5),
    }
    form.assert_same(found, wanted)


def test_an_index_without_version(form, tmp_path):
    rng = np.random.default_rng(3)
    tree = form.model(rng)
    old = form.Checkpoint.of(tree, rng, version=None, cuts=2)
    form.assert_same(load_vmoe_checkpoint(old.write(tmp_path / "old")), tree)
    assert inspect_vmoe_checkpoint(tmp_path / "old").version is None
    old.index["Encoder"] = dict(reversed(old.index["Encoder"].items()))  # as a dataclass would have it
    with pytest.raises(ValueError, match=r"old\.index: key 'encoderblock_1' after 'encoderblock_10'"):
        load_vmoe_checkpoint(old.write(tmp_path / "old"))


def test_inspect_needs_the_index_alone(form, tmp_path):
    rng = np.random.default_rng(4)
    checkpoint = form.Checkpoint.of(form.model(rng, groups=2), rng, shards=3, cuts=4)
    checkpoint.write(tmp_path / "m")
    for path in tmp_path.glob("*.data-*"):
        path.unlink()
    found = inspect_vmoe_checkpoint(str(tmp_path / "m"))
    assert (found.version, found.shard_count) == ("20220622", 3)
    leaves = form.flat(checkpoint.index)
    assert [leaf.name for leaf in found.leaves] == ["/".join(keys) for keys, _ in leaves]
    for entry, (_, leaf) in zip(found.leaves, leaves, strict=True):
        assert (list(entry.shape), entry.dtype.name) == (leaf.shape, leaf.dtype)
        assert set(entry.shards) == set(leaf.shards)
    assert found.nbytes == 4 * found.size == 4 * sum(np.prod(leaf.shape) for _, leaf in leaves)
    with pytest.raises(ValueError, match=r"3 of 3 shards are missing, such as .*m.data-00000-of-00003"):
        load_vmoe_checkpoint(tmp_path / "m")


def test_limits_and_progress(tmp_path):
    tree = {"a": np.arange(100.0), "b": np.arange(8.0)}
    calls = {"save": [], "load": []}
    save_vmoe_checkpoint(
        tmp_path / "m", tree, shards=2, max_chunk_bytes=160, progress=lambda *now: calls["save"].append(now)
    )
    load_vmoe_checkpoint(tmp_path / "m", max_bytes=864, progress=lambda *now: calls["load"].append(now))
    for seen in calls.values():
        done = [now for now, _ in seen]
        assert len(done) == 6 and done == sorted(done) and seen[-1] == (864, 864)
    with pytest.raises(ValueError, match="864 bytes of memory, max_bytes is 863"):
        load_vmoe_checkpoint(tmp_path / "m", max_bytes=863)


def test_a_chunk_across_rows_counts_against_the_limit(form, tmp_path):
    tree = {"a": np.arange(24.0).reshape(4, 6)}
    checkpoint = form.Checkpoint.of(tree, np.random.default_rng(0), shards=1)
    boxes = [((0, 4), (0, 3)), ((0, 4), (3, 6))]
    checkpoint.index["a"].boxes, checkpoint.index["a"].shards = boxes, [0, 0]
    checkpoint.shards[0]["0"] = [
        [[form.Piece([12], "float64", tree["a"][:, a:b].tobytes())], box]
        for box in boxes
        for a, b in [box[1]]
    ]
    checkpoint.write(tmp_path / "m")
    form.assert_same(load_vmoe_checkpoint(tmp_path / "m", max_bytes=192 + 96), tree)
    with pytest.raises(ValueError, match="takes 288 bytes"):
        load_vmoe_checkpoint(tmp_path / "m", max_bytes=192 + 95)


def test_more_than_the_free_memory_is_refused(tmp_path, monkeypatch):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.arange(100.0)})
    monkeypatch.setattr("qrt_tn.models.moe.checkpoints.allocation.device_memory", lambda _: (10**9, 799))
    with pytest.raises(ValueError, match="takes 800 bytes of memory, 799 are free"):
        load_vmoe_checkpoint(tmp_path / "m")


def test_orphans_of_a_save_cut_short_do_not_cost_the_old_checkpoint(form, tmp_path, monkeypatch):
    """Shards that an earlier save of another shard count left behind belong to no index."""
    old, new = {"a": np.zeros((6, 4))}, {"a": np.ones((6, 4))}
    save_vmoe_checkpoint(tmp_path / "m", old, shards=3, max_chunk_bytes=32)
    for shard in range(2):
        (tmp_path / f"m.data-{shard:05d}-of-00002").write_bytes(b"left behind")

    def dies(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_vmoe_checkpoint(tmp_path / "m", new, shards=2, max_chunk_bytes=32)
    monkeypatch.undo()
    form.assert_same(load_vmoe_checkpoint(tmp_path / "m"), old)
    save_vmoe_checkpoint(tmp_path / "m", new, shards=2, max_chunk_bytes=32)
    form.assert_same(load_vmoe_checkpoint(tmp_path / "m"), new)
    (tmp_path / "m.index").write_bytes(b"no index")
    save_vmoe_checkpoint(tmp_path / "m", old, shards=2, max_chunk_bytes=32)
    form.assert_same(load_vmoe_checkpoint(tmp_path / "m"), old)


@pytest.mark.parametrize("before", [1, 2, 3, 5])
def test_saves_cut_short_never_mix(form, tmp_path, monkeypatch, before):
    old = {"a": np.zeros((6, 4)), "b": np.zeros(3)}
    new = {"a": np.ones((6, 4)), "b": np.ones(3)}
    replace = Path.replace
    outcomes = set()
    for kill in itertools.count():
        save_vmoe_checkpoint(tmp_path / "m", old, shards=before, max_chunk_bytes=32)
        renamed = itertools.count()

        def dies(self, target, renamed=renamed, kill=kill):
            if next(renamed) == kill:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", dies)
        try:
            save_vmoe_checkpoint(tmp_path / "m", new, shards=3, max_chunk_bytes=32)
            finished = True
        except KeyboardInterrupt:
            finished = False
        monkeypatch.undo()
        try:
            found = load_vmoe_checkpoint(tmp_path / "m")
        except ValueError as error:
            assert "cut short" in str(error) and before == 3 and not finished
            outcomes.add("none")
            continue
        form.assert_same(found, new if finished else old)
        outcomes.add("new" if finished else "old")
        if finished:
            break
    assert kill == 4
    # with other names the old one lasts until the end; with the same names there is none in between
    assert outcomes == ({"none", "new"} if before == 3 else {"old", "new"})
    assert len(list(tmp_path.iterdir())) == 4


def test_other_checkpoints_are_left_alone(tmp_path):
    for name in ("m", "m2", "mm", "m.x"):
        save_vmoe_checkpoint(tmp_path / name, {"a": np.ones(2)}, shards=2)
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.ones(2)})
    assert {path.name.rsplit("-of-", maxsplit=1)[0] for path in tmp_path.glob("m.data*")} == {"m.data-00000"}
    for name in ("m2", "mm", "m.x"):
        assert load_vmoe_checkpoint(tmp_path / name)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("shards", [2, 3])
def test_a_checkpoint_replaced_while_it_is_read_is_refused(tmp_path, shards):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.zeros(9), "b": np.zeros(9)}, shards=2)

    def meanwhile(done, _):
        if done == 72:
            save_vmoe_checkpoint(tmp_path / "m", {"a": np.ones(9), "b": np.ones(9)}, shards=shards)

    with pytest.raises(ValueError, match=r"m\.(index: the checkpoint was replaced|data-00001-of-00002)"):
        load_vmoe_checkpoint(tmp_path / "m", progress=meanwhile)


@pytest.mark.parametrize(
    ("tree", "options", "message"),
    [
        ({"a": [1.5]}, {}, "a/0 is a float; give an array"),
        ({"a": np.array(["x"])}, {}, "a is of type <U1"),
        ({"a": np.array([None])}, {}, "a is of type object"),
        ({"a": np.ones(2, ">f4")}, {}, "a is of type >f4"),
        ({"a": np.zeros(2, "i4,f4")}, {}, "a is of type"),
        ({"a": np.zeros((1,) * 9)}, {}, "9 axes"),
        ({"a": {"b/c": np.ones(1)}}, {}, "in /a: key 'b/c' could be a path"),
        ({"..": np.ones(1)}, {}, "could be a path"),
        ({"": np.ones(1)}, {}, "0 characters"),
        ({1: np.ones(1)}, {}, "key 1 is not a text"),
        (np.ones(3), {}, "give nested dicts"),
        ({"a": np.ones(1)}, {"shards": 0}, "shards is 0"),
        ({"a": np.ones(1)}, {"shards": 100_000}, "at most 99999"),
        ({"a": np.ones(1)}, {"max_chunk_bytes": 0}, "max_chunk_bytes is 0"),
        ({"a": np.ones(1)}, {"max_chunk_bytes": 2**31}, "at most 1073741824"),
        ({"a": np.ones(2**20, bool)}, {"max_chunk_bytes": 1}, "more than 524288 chunks; give more"),
    ],
)
def test_what_cannot_be_saved_leaves_no_file(tmp_path, tree, options, message):
    with pytest.raises(ValueError, match=message):
        save_vmoe_checkpoint(tmp_path / "m", tree, **options)
    assert not list(tmp_path.iterdir())


def test_a_tree_without_end_is_refused(tmp_path):
    tree = {}
    tree["a"] = tree
    with pytest.raises(ValueError, match="64 dicts deep"):
        save_vmoe_checkpoint(tmp_path / "m", tree)


@pytest.mark.parametrize(
    "prefix", ["m.index", "m.data-00000-of-00001", "", 3, None, "nowhere/m", "x", "a" * 300]
)
def test_prefixes_that_are_none(tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    save_vmoe_checkpoint("m", {"a": np.ones(1)})
    for call in (load_vmoe_checkpoint, inspect_vmoe_checkpoint):
        with pytest.raises(ValueError, match=r"(give|cannot be read)"):
            call(prefix)


def test_covers_once_against_counting():
    rng = np.random.default_rng(5)
    outcomes = set()
    for _ in range(400):
        shape = tuple(int(size) for size in rng.integers(1, 5, size=rng.integers(0, 4)))
        boxes = set()
        for _ in range(rng.integers(1, 4)):
            ends = [sorted(rng.choice(size + 1, 2, replace=False).tolist()) for size in shape]
            boxes.add(tuple(map(tuple, ends)))
        if rng.random() < 0.5:  # boxes that do cover it, one of them sometimes moved
            boxes = _split(shape, rng)
            if shape and rng.random() < 0.5:
                start, stop = boxes[0][0]
                boxes[0] = ((max(0, start - 1), stop), *boxes[0][1:])
        count = np.zeros(shape, int)
        for box in boxes:
            count[(*(slice(*ends) for ends in box), ...)] += 1
        assert covers_once(shape, boxes) == (count == 1).all()
        outcomes.add(bool((count == 1).all()))
    assert outcomes == {True, False}


def _split(shape, rng):
    boxes = [tuple((0, size) for size in shape)]
    for axis, size in enumerate(shape):
        at = int(rng.integers(size))
        if at:
            boxes = [(*box[:axis], ends, *box[axis + 1 :]) for box in boxes for ends in ((0, at), (at, size))]
    return boxes


def test_a_pinwheel_covers_once(form, tmp_path):
    # no cut goes from edge to edge, so taking boxes apart along one axis would not do
    boxes = [((0, 1), (0, 2)), ((0, 2), (2, 3)), ((2, 3), (1, 3)), ((1, 3), (0, 1)), ((1, 2), (1, 2))]
    assert covers_once((3, 3), boxes)
    assert not covers_once((3, 3), boxes[:-1])
    tree = {"a": np.arange(9.0).reshape(3, 3)}
    checkpoint = form.Checkpoint.of(tree, np.random.default_rng(0), shards=1)
    checkpoint.index["a"].boxes, checkpoint.index["a"].shards = boxes, [0] * 5
    parts = [tree["a"][a:b, c:d] for (a, b), (c, d) in boxes]
    checkpoint.shards[0]["0"] = [
        [[form.Piece([part.size], "float64", part.tobytes())], box]
        for part, box in zip(parts, boxes, strict=True)
    ]
    form.assert_same(load_vmoe_checkpoint(checkpoint.write(tmp_path / "m")), tree)


def test_an_index_too_large_to_be_read_is_not_written(tmp_path, monkeypatch):
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.ones(1)})
    size = (tmp_path / "m.index").stat().st_size
    monkeypatch.setattr("qrt_tn.models.moe.checkpoints.vmoe_save.MAX_INDEX_BYTES", size)
    save_vmoe_checkpoint(tmp_path / "m", {"a": np.zeros(1)})
    with pytest.raises(ValueError, match=f"at most {size} will do"):
        save_vmoe_checkpoint(tmp_path / "m", {"ab": np.ones(1)})
    assert load_vmoe_checkpoint(tmp_path / "m")["a"] == 0
