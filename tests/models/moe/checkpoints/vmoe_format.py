"""google-research/vmoe's format written and read a second time, from its description, with msgpack alone."""

from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np

MARK = "__msgpack_array_chunk_a87ca2__"


def flat(tree, name=()):
    """(keys, leaf) of nested dicts, by sorted keys."""
    if isinstance(tree, dict):
        return [pair for key in sorted(tree) for pair in flat(tree[key], (*name, key))]
    return [] if tree is None else [(name, tree)]


def pack_box(box):
    return msgpack.packb([msgpack.packb([start, stop, None]) for start, stop in box])


def index_of(box):
    return (*(slice(*ends) for ends in box), ...)


def guillotine(shape, rng, cuts):
    """Random boxes that cover an array once."""
    boxes = [tuple((0, size) for size in shape)]
    for _ in range(cuts if shape else 0):
        box = boxes.pop(rng.integers(len(boxes)))
        axis = rng.integers(len(shape))
        start, stop = box[axis]
        at = int(rng.integers(start + 1, stop)) if stop - start > 1 else stop
        halves = ((start, at), (at, stop)) if at < stop else ((start, stop),)
        boxes += [(*box[:axis], ends, *box[axis + 1 :]) for ends in halves]
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
    step: object = None

    def ext(self):
        about = msgpack.packb([self.shape, self.dtype, False, self.names])
        boxes = [
            msgpack.packb([msgpack.packb([start, stop, self.step]) for start, stop in box])
            for box in self.boxes
        ]
        return msgpack.ExtType(self.code, msgpack.packb([about, boxes, self.shards]))


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
    mark: dict = field(default_factory=lambda: {MARK: True})

    @classmethod
    def of(cls, tree, rng, shards=2, cuts=0, pieces=1, version="20220622", boxes=None):
        """A tree in random boxes, each in a random shard; or one array in the boxes given."""
        files = [{} for _ in range(shards)]
        numbers = iter(range(10**6))

        def enter(node):
            if isinstance(node, dict):
                return {key: enter(node[key]) for key in sorted(node)}
            if node is None:
                return None
            number = str(next(numbers))
            covering = boxes or guillotine(node.shape, rng, cuts)
            owners = [int(owner) for owner in rng.integers(shards, size=len(covering))]
            for box, owner in zip(covering, owners, strict=True):
                data = np.ascontiguousarray(node[index_of(box)]).reshape(-1)
                split = [part for part in np.array_split(data, pieces) if part.size]
                held = [Piece([part.size], part.dtype.name, part.tobytes()) for part in split]
                files[owner].setdefault(number, []).append([held, box])
            return Leaf(list(node.shape), node.dtype.name, covering, owners)

        head = {"shard_count": shards} | ({"version": version} if version else {})
        return cls(enter(tree), files, head)

    def write(self, prefix):
        index = msgpack.packb(self.head | {"index": self.index}, default=lambda leaf: leaf.ext())
        Path(f"{prefix}.index").write_bytes(index)
        for shard, held in enumerate(self.shards):
            body = {
                number: [
                    [[piece.ext() for piece in pieces], msgpack.ExtType(6, pack_box(box))]
                    for pieces, box in chunks
                ]
                for number, chunks in held.items()
            }
            name = f"{prefix}.data-{shard:05d}-of-{len(self.shards):05d}"
            Path(name).write_bytes(msgpack.packb(self.mark | body))
        return prefix


def decode(prefix):
    """A checkpoint as msgpack's own decoder and NumPy see it: arrays by keys, and the index."""

    def hook(code, data):
        value = msgpack.unpackb(data)
        if code == 1:
            dtype = ml_dtypes.bfloat16 if value[1] == "bfloat16" else value[1]
            return np.frombuffer(value[2], dtype).reshape(value[0])
        if code == 6:
            return [tuple(msgpack.unpackb(part)) for part in value]
        assert code == 8
        (shape, name, weak, named), boxes, shards = msgpack.unpackb(value[0]), value[1], value[2]
        assert (weak, named) == (False, {})
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        return (shape, dtype, [hook(6, box) for box in boxes], shards)

    head = msgpack.unpackb(Path(f"{prefix}.index").read_bytes(), ext_hook=hook)
    assert head["version"] == "20220622"
    entries = flat(head["index"])
    arrays = [np.full(shape, 9, name) for _, (shape, name, _, _) in entries]
    for shard in range(head["shard_count"]):
        name = Path(f"{prefix}.data-{shard:05d}-of-{head['shard_count']:05d}")
        body = msgpack.unpackb(name.read_bytes(), ext_hook=hook)
        assert body.pop(MARK) is True
        for number, chunks in body.items():
            _, (_, _, boxes, owners) = entries[int(number)]
            for pieces, box in chunks:
                assert box in [held for held, owner in zip(boxes, owners, strict=True) if owner == shard]
                part = arrays[int(number)][index_of(box)]
                part[...] = np.concatenate(pieces).reshape(part.shape)
    return dict(zip([keys for keys, _ in entries], arrays, strict=True)), head


def assert_same(found, wanted):
    """Trees equal bit for bit, None and empty dicts among them."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and list(found) == sorted(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif wanted is None:
        assert found is None
    else:
        assert type(found) is np.ndarray and found.flags.writeable
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        assert found.tobytes() == np.asarray(wanted).tobytes()
