"""Which way the axes of a product's operands lie, so that few of them are copied.

An operand is a matrix (or a stack of matrices) in three groups of indices: those of the batch, its own, and
those summed over. Where the groups lie as blocks, in whatever order, reshaping and transposing are views
that BLAS reads in place; else the operand is copied. The order of a result is chosen with an eye on the
step that takes it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.tree import Pair

DOT, MATMUL, MULTIPLY = range(3)


class View(NamedTuple):
    """How an operand becomes a matrix, a stack of matrices or a vector.

    Attributes:
        order: a transposition that copies, or None.
        shape: then a shape, or None.
        swap: then a transposition that is only a view, or None.
        copied: elements copied on the way.
    """

    order: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    swap: tuple[int, ...] | None
    copied: int


@dataclass(frozen=True, slots=True)
class Product:
    """How one pair is multiplied.

    Attributes:
        kind: DOT (matrices), MATMUL (stacks of them) or MULTIPLY (nothing is summed).
        numbers: the two operands, perhaps swapped.
        views: how they become matrices.
        shape: the result's shape, or None where the product already has it.
        dims: (batch, rows, inner, columns).
        order: the indices of the result, axis by axis.
    """

    kind: int
    numbers: tuple[int, int]
    views: tuple[View, View]
    shape: tuple[int, ...] | None
    dims: tuple[int, int, int, int]
    order: Term


def lay_out(
    pair: Pair, orders: Sequence[Term], wanted: tuple[Term, Term, Term] | None, sizes: Mapping[Index, int]
) -> Product:
    """Choose the axis orders of one product.

    Args:
        pair: what is multiplied.
        orders: the indices of every tensor so far, axis by axis.
        wanted: the groups (batch, own, summed) in which the next step takes the result; None for the last.
        sizes: the extent of every index.
    """
    kind = MULTIPLY if not pair.summed else MATMUL if pair.batch else DOT
    best: tuple[int, Product] | None = None
    # a single index has one order, whichever operand it is read from
    references = (0, 1) if len(pair.batch) > 1 or len(pair.summed) > 1 else (0,)
    for swapped, reference in itertools.product((False, True), references):
        numbers = (pair.right, pair.left) if swapped else (pair.left, pair.right)
        onlys = (pair.right_only, pair.left_only) if swapped else (pair.left_only, pair.right_only)
        # indices that both hold must come in one order: that of one of the two
        lead = orders[numbers[reference]]
        batch = tuple(index for index in lead if index in pair.batch)
        summed = tuple(index for index in lead if index in pair.summed)
        rows, left = _view(
            orders[numbers[0]], (batch, onlys[0], summed), _final(kind, 0, batch, onlys), wanted, sizes
        )
        columns, right = _view(
            orders[numbers[1]], (batch, onlys[1], summed), _final(kind, 1, batch, onlys), wanted, sizes
        )
        order = (*batch, *left, *right)
        later = 0 if wanted is None or _in_blocks(order, wanted) else _extent(order, sizes)
        cost = rows.copied + columns.copied + later
        if best is None or cost < best[0]:
            dims = (
                _extent(batch, sizes),
                _extent(left, sizes),
                _extent(summed, sizes),
                _extent(right, sizes),
            )
            natural = _product_shape(kind, dims, batch, left, right)
            shape = tuple(sizes[index] for index in order)
            best = (
                cost,
                Product(kind, numbers, (rows, columns), None if shape == natural else shape, dims, order),
            )
        if best[0] == 0:
            break
    assert best is not None
    return best[1]


def _extent(term: Sequence[Index], sizes: Mapping[Index, int]) -> int:
    return math.prod([sizes[index] for index in term])


def _product_shape(kind: int, dims: Sequence[int], batch: Term, left: Term, right: Term) -> tuple[int, ...]:
    if kind == MATMUL:
        return (dims[0], dims[1], dims[3])
    rows, columns = (dims[1],) if left else (), (dims[3],) if right else ()
    return (*((dims[0],) if batch else ()), *rows, *columns)


def _view(
    order: Term,
    groups: tuple[Term, Term, Term],
    final: Sequence[int | None],
    wanted: tuple[Term, Term, Term] | None,
    sizes: Mapping[Index, int],
) -> tuple[View, Term]:
    """How an array with these axes becomes an operand with the `final` axes, and the order of its own."""
    batch, only, summed = groups
    only = tuple(index for index in order if index in only)
    groups = (batch, only, summed)
    names = {index: label for label, group in enumerate(groups) for index in group}
    blocks = tuple(dict.fromkeys(names[index] for index in order))
    straight = order == tuple(index for label in blocks for index in groups[label])
    copied = 0
    transposed: tuple[int, ...] | None = None
    if not straight or (blocks[-1:] == (0,) and len(blocks) > 1):
        # (BLAS reads no matrix whose neighbours lie apart in both directions: the batch must not come last)
        if wanted is not None:
            rank = {index: label for label, group in enumerate(wanted) for index in group}
            only = tuple(sorted(only, key=lambda index: rank.get(index, 0)))
            groups = (batch, only, summed)
        blocks = tuple(label for label in (0, 1, 2) if groups[label])
        moved = tuple(index for label in blocks for index in groups[label])
        transposed = tuple(order.index(index) for index in moved)
        copied = _extent(order, sizes)
        order = moved
    shape, swap = _matrix(blocks, [_extent(groups[label], sizes) for label in blocks], final)
    held = tuple(sizes[index] for index in order)
    return View(transposed, None if shape == held else shape, swap, copied), only


def _final(kind: int, side: int, batch: Term, onlys: tuple[Term, Term]) -> list[int | None]:
    """The axes of a product's operand: 0 batch, 1 its own indices, 2 summed ones, None one of extent 1."""
    only, other = onlys[side], onlys[1 - side]
    if kind == DOT:
        axes: list[int | None] = [1, 2] if only else [2]
        return axes if side == 0 else axes[::-1]
    if kind == MATMUL:
        own = 1 if only else None
        return [0, own, 2] if side == 0 else [0, 2, own]
    # an outer product by broadcasting: (batch, rows, 1) times (batch, 1, columns)
    parts: list[list[int | None]] = [[1] if only else [], [None] if other else []]
    return [*([0] if batch else []), *itertools.chain(*(parts if side == 0 else parts[::-1]))]


def _matrix(
    blocks: tuple[int, ...], extents: list[int], final: Sequence[int | None]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The shape, and then the transposition if one is needed, that turn blocks into these axes."""
    if tuple(axis for axis in final if axis is not None) == blocks:
        size = dict(zip(blocks, extents, strict=True))
        return tuple(1 if axis is None else size[axis] for axis in final), None
    shape, swap = list(extents), []
    for axis in final:
        if axis is None:
            swap.append(len(shape))
            shape.append(1)
        else:
            swap.append(blocks.index(axis))
    return tuple(shape), tuple(swap)


def _in_blocks(order: Term, groups: tuple[Term, Term, Term]) -> bool:
    """Whether axes in this order need no copy for a step that takes them in these groups."""
    label = {index: number for number, group in enumerate(groups) for index in group}
    blocks = [label[index] for index in order]
    changes = sum(1 for before, after in itertools.pairwise(blocks) if before != after)
    return changes + 1 <= len(set(blocks)) and not (blocks and blocks[-1] == 0 and len(set(blocks)) > 1)
