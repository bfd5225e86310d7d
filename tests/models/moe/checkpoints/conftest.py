"""google-research/vmoe's format written and read a second time, from its description, with msgpack alone."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import numpy as np
import pytest

MAGIC = "__msgpack_array_chunk_a87ca2__"


def flat(tree, name=()):
    """(keys, leaf) of nested dicts, by sorted keys."""
    if isinstance(tree, dict):
        return [pair for key in sorted(tree) for pair in flat(tree[key], (*name, key))]
    return [] if tree is None else [(name, tree)]


def pack_box(box):
    return msgpack.packb([msgpack.packb([start, stop, None]) for start, stop in box])


def guillotine(shape, rng, cuts):
    """Random boxes that cover an array once."""
    boxes = [tuple((0, size) for size in shape)]
    for _ in range(cuts if shape else 0):
        box = boxes.pop(rng.integers(len(boxes)))
        axis = rng.integers(len(shape))
        start, stop = box[axis]
        if stop - start < 2:
            boxes.append(box)
            continue
        at = int(rng.integers(start + 1, stop))
        boxes += [(*box[:axis], ends, *box[axis + 1 :]) for ends in ((start, at), (at, stop))]
    return [boxes[i] for i in rng.permutation(len(boxes))]


@dataclass
class Leaf:
    """An entry of the index, in plain lists, to be spoilt at will."""

    shape: list
    dtype: str
    boxes: list
    shards: list
    code: int = 8
    names: dict = field(default_factory=dict)

    def ext(self):
        about = msgpack.packb([self.shape, self.dtype, False, self.names])
        packed = [about, [pack_box(box) for box in self.boxes], self.shards]
        return msgpack.ExtType(self.code, msgpack.packb(packed))


@dataclass
class Piece:
    shape: list
    dtype: str
    data: bytes
    code: int = 1

    def ext(self):
        return msgpack.ExtType(self.code, msgpack.packb([self.shape, self.dtype, self.data]))


@dataclass
class Checkpoint:
    """index: nested dict of Leaf; shards: for each, number -> [[pieces, box], ...]."""

    index: dict
    shards: list
    head: dict
    marked: bool = True

    @classmethod
    def of(cls, tree, rng, shards=2, cuts=0, pieces=1, version="20220622"):
        files = [{} for _ in range(shards)]
        entries = iter(enumerate(flat(tree)))

        def enter(node):
            if isinstance(node, dict):
                return {key: enter(node[key]) for key in sorted(node)}
            if node is None:
                return None
            number, _ = next(entries)
            boxes = guillotine(node.shape, rng, cuts)
            owners = [int(owner) for owner in rng.integers(shards, size=len(boxes))]
            for box, owner in zip(boxes, owners, strict=True):
                data = np.ascontiguousarray(node[tuple(slice(*ends) for ends in box)]).reshape(-1)
                split = [part for part in np.array_split(data, pieces) if part.size]
                held = [Piece([part.size], part.dtype.name, part.tobytes()) for part in split]
                files[owner].setdefault(str(number), []).append([held, box])
            return Leaf(list(node.shape), node.dtype.name, boxes, owners)

        head = {"shard_count": shards} | ({"version": version} if version else {})
        return cls(enter(tree), files, head)

    def leaves(self):
        return [leaf for _, leaf in flat(self.index)]

    def copy(self):
        return copy.deepcopy(self)

    def index_bytes(self):
        return msgpack.packb(self.head | {"index": self.index}, default=lambda leaf: leaf.ext())

    def shard_bytes(self, shard):
        body = {
            number: [
                [[piece.ext() for piece in pieces], msgpack.ExtType(6, pack_box(box))]
                for pieces, box in chunks
            ]
            for number, chunks in self.shards[shard].items()
        }
        return msgpack.packb(({MAGIC: True} if self.marked else {}) | body)

    def write(self, prefix):
        Path(f"{prefix}.index").write_bytes(self.index_bytes())
        for shard in range(len(self.shards)):
            name = f"{prefix}.data-{shard:05d}-of-{len(self.shards):05d}"
            Path(name).write_bytes(self.shard_bytes(shard))
        return prefix


def decode(prefix):
    """A checkpoint as msgpack's own decoder and NumPy see it."""
    import ml_dtypes

    def dtype(name):
        return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

    def hook(code, data):
        value = msgpack.unpackb(data)
        if code == 1:
            return np.frombuffer(value[2], dtype(value[1])).reshape(value[0])
        if code == 6:
            return [tuple(msgpack.unpackb(part)) for part in value]
        assert code == 8
        (shape, name, weak, named), boxes, shards = msgpack.unpackb(value[0]), value[1], value[2]
        assert (weak, named) == (False, {})
        return (shape, dtype(name), [hook(6, box) for box in boxes], shards)

    head = msgpack.unpackb(Path(f"{prefix}.index").read_bytes(), ext_hook=hook)
    assert head["version"] == "20220622"
    arrays = [np.full(shape, 9, name) for _, (shape, name, _, _) in flat(head["index"])]
    for shard in range(head["shard_count"]):
        name = Path(f"{prefix}.data-{shard:05d}-of-{head['shard_count']:05d}")
        body = msgpack.unpackb(name.read_bytes(), ext_hook=hook)
        assert body.pop(MAGIC) is True
        for number, chunks in body.items():
            for pieces, box in chunks:
                where = [
                    i
                    for i, owner in zip(*flat(head["index"])[int(number)][1][2:], strict=True)
                    if owner == shard
                ]
                assert box in where
                part = tuple(slice(start, stop, step) for start, stop, step in box)
                arrays[int(number)][part] = np.concatenate(pieces).reshape(arrays[int(number)][part].shape)
    return dict(zip([keys for keys, _ in flat(head["index"])], arrays, strict=True)), head


def assert_same(found, wanted):
    """Trees equal bit for bit, None and empty dicts among them."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and sorted(found) == sorted(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif wanted is None:
        assert found is None
    else:
        assert type(found) is np.ndarray
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        assert found.tobytes() == np.asarray(wanted).tobytes()


def model(rng, experts=4, groups=None, hidden=8):
    """A small V-MoE tree; with `groups`, an E3 one, whose router has three axes."""

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    router = (hidden, groups, experts // groups) if groups else (hidden, experts)
    norm = {"bias": array(hidden), "scale": array(hidden)}
    dense = {"Dense_0": {"kernel": array(hidden, 12), "bias": array(12)}}
    mlp = {"Dense_0": {"kernel": array(experts, hidden, 12), "bias": array(experts, 12)}}
    return {
        "cls": array(1, 1, hidden),
        "Encoder": {
            "encoderblock_0": {"LayerNorm_0": norm, "Mlp": dense},
            "encoderblock_1": {"Moe": {"Router": {"dense": {"kernel": array(*router)}}, "Mlp": mlp}},
            "encoderblock_10": {"LayerNorm_0": {"bias": array(hidden), "scale": array(hidden)}},
        },
        "head": {"kernel": array(hidden, 5), "bias": array(5)},
    }


class Format:
    """What the tests of this folder share."""

    Checkpoint, Leaf, Piece = Checkpoint, Leaf, Piece
    flat, guillotine, decode = staticmethod(flat), staticmethod(guillotine), staticmethod(decode)
    assert_same, model = staticmethod(assert_same), staticmethod(model)


@pytest.fixture
def form():
    return Format
