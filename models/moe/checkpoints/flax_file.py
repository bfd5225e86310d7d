"""One file of msgpack as flax.serialization.to_bytes writes it, read without flax."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.progress import Progress, shown
from qrt_tn.models.moe.checkpoints.allocation import allocate, as_bytes, see_truths
from qrt_tn.models.moe.checkpoints.msgpack_reader import MsgpackReader, opened
from qrt_tn.models.moe.checkpoints.nested import Tree, TreeReader, numbered, renewed
from qrt_tn.models.moe.checkpoints.vmoe_types import (
    MAX_AXES,
    NATIVE_COMPLEX,
    NDARRAY,
    NPSCALAR,
    array_data,
    can_be,
)

CHUNKED_KEY = "__msgpack_chunked_array__"  # marks the dict that an array of more than 1 GiB is


@dataclass(frozen=True)
class _Entry:
    """An array: its shape, its type, and the bytes at which its pieces begin; or a number, at hand."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: tuple[int, ...]
    number: Any = None


def contents(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shapes and types of the arrays of a file, by name.

    Raises:
        ValueError: the file is damaged, hostile or of another format.
    """
    with opened(path) as reader:
        return {name: (entry.shape, entry.dtype) for name, entry in numbered(_scan(reader)).items()}


def load(path: Path, max_bytes: int | None, progress: Progress | None) -> Tree:
    """Nested dicts of the arrays of a file; numbers become arrays without axes.

    Raises:
        ValueError: as of `contents`; or the arrays take more memory than there is.
    """
    with opened(path) as reader:
        tree = _scan(reader)
        entries = numbered(tree)
        arrays = allocate([(entry.shape, entry.dtype) for entry in entries.values()], 0, max_bytes, path)
        total = sum(array.nbytes for array in arrays)
        done = 0
        with shown(progress, total, "bytes") as show:
            for (name, entry), array in zip(entries.items(), arrays, strict=True):
                if entry.number is not None:
                    array[...] = entry.number
                else:
                    _fill(reader, entry, as_bytes(array))
                see_truths(array, name, path)
                done += array.nbytes
                show(done, total)
        reader.see_unchanged()
    filled = iter(arrays)
    loaded: Tree = renewed(tree, lambda _: next(filled))
    return loaded


def _fill(reader: MsgpackReader, entry: _Entry, target: memoryview) -> None:
    for piece in entry.pieces:
        reader.go_to(piece)
        with array_data(reader, (NDARRAY, NPSCALAR)) as (_, _, length):
            reader.read_into(target[:length])
        target = target[length:]
    if target:
        raise reader.error("the file was changed while it was read", "read it again")


def _scan(reader: MsgpackReader) -> Tree:
    """The tree of a file, its data not read."""
    if reader.kind() != "map":
        raise reader.error(f"{reader.kind()} in place of a dict of arrays")
    found = _joined(reader, TreeReader(reader, lambda: _leaf(reader)).read())
    reader.finish()
    if not isinstance(found, dict):
        raise reader.error("an array in place of a dict of arrays")
    return found


def _leaf(reader: MsgpackReader) -> _Entry:
    kind = reader.kind()
    if kind in ("int", "float", "bool"):
        number: Any = {"int": reader.integer, "float": reader.real, "bool": reader.boolean}[kind]()
        return _Entry((), np.asarray(number).dtype, (), number)
    if kind != "ext":
        raise reader.error(f"{kind} in place of an array or a number")
    if reader.code() == NATIVE_COMPLEX:
        with reader.extension((NATIVE_COMPLEX,)):
            reader.array(2)
            number = complex(reader.real(), reader.real())
        return _Entry((), np.dtype(complex), (), number)
    at = reader.at
    with array_data(reader, (NDARRAY, NPSCALAR)) as (shape, dtype, length):
        reader.skip(length)
    return _Entry(shape, dtype, (at,))


def _joined(reader: MsgpackReader, tree: Any) -> Any:
    """The tree with dicts that stand for one large array replaced by it."""
    if not isinstance(tree, dict):
        return tree
    if CHUNKED_KEY not in tree:
        return {key: _joined(reader, value) for key, value in tree.items()}
    try:
        sizes, pieces = (
            [part[str(place)] for place in range(len(part))] for part in (tree["shape"], tree["chunks"])
        )
        shape = tuple(size.number for size in sizes)
        dtype = pieces[0].dtype
        fits = (
            set(tree) == {CHUNKED_KEY, "shape", "chunks"}
            and all(type(size) is int for size in shape)
            and len(shape) <= MAX_AXES
            and can_be(shape)
            and all(len(piece.shape) == 1 and piece.dtype == dtype for piece in pieces)
            and math.prod(shape) == sum(piece.shape[0] for piece in pieces)
        )
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise reader.error("an array in pieces that do not make one") from error
    if not fits:
        raise reader.error("an array in pieces that do not make one")
    return _Entry(shape, dtype, tuple(piece.pieces[0] for piece in pieces))
