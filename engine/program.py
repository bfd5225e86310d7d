"""A plan made ready to run: which axes every step transposes, reshapes and multiplies, decided once.

Steps fall into those that every call repeats and those that every slice repeats: what depends on no sliced
index runs once for all slices. How their numbers keep their scale is told in `qrt_tn.engine.execute`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qrt_tn.engine.layout import MULTIPLY, View, lay_out
from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.tree import Pair, Path, contraction_tree


@dataclass(frozen=True, slots=True)
class Measure:
    """How to find and apply the scales of one array.

    Attributes:
        axes: the axes within an element of the batch.
        order: transposes the peaks to the batch's own order.
        grid: their shape in the batch, 1 for an index the array lacks; () where it holds none.
        keep: the shape in which factors multiply the array.
        rows: elements of the batch where its indices come first, so that each element is a row; else 0.
    """

    axes: tuple[int, ...]
    order: tuple[int, ...]
    grid: tuple[int, ...]
    keep: tuple[int, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """How to make one operand ready.

    Attributes:
        diagonals: pairs of axes to take the diagonal of, one after the other.
        summed: axes to sum over, after that.
        term: the indices left.
        cut: for every axis left, the place of its index among the slices, or None.
        measure: how to scale it, or its part in one slice.
        given: elements before.
        size: elements after, over all slices.
    """

    diagonals: tuple[tuple[int, int], ...]
    summed: tuple[int, ...]
    term: Term
    cut: tuple[int | None, ...]
    measure: Measure
    given: int
    size: int

    @property
    def sliced(self) -> bool:
        """Whether it holds a sliced index."""
        return any(place is not None for place in self.cut)


class Step(NamedTuple):
    """One product; `target` is the SSA number of its result.

    Attributes:
        kind: `qrt_tn.engine.layout.DOT`, `MATMUL` or `MULTIPLY`.
        left: the first operand's number.
        right: the second's.
        target: the result's.
        rows: how the first becomes a matrix.
        columns: how the second does.
        shape: the result's shape, or None where the product already has it.
        measure: how to scale the result.
        dims: (batch, rows, inner, columns) of the product.
        sliced: whether every slice repeats it.
    """

    kind: int
    left: int
    right: int
    target: int
    rows: View
    columns: View
    shape: tuple[int, ...] | None
    measure: Measure
    dims: tuple[int, int, int, int]
    sliced: bool

    @property
    def size(self) -> int:
        """Elements of the result."""
        return self.dims[0] * self.dims[1] * self.dims[3]

    @property
    def flops(self) -> int:
        """Operations as opt_einsum counts them: a multiply and an add are two."""
        return math.prod(self.dims) * (1 if self.kind == MULTIPLY else 2)


@dataclass(frozen=True, slots=True)
class Program:
    """A plan's steps, ready to run.

    Attributes:
        leaves: how to prepare the operands.
        steps: the products, in order.
        measure: how to scale the last result.
        order: transposes it to the output's order, sliced indices left out.
        slices: the extents of the sliced indices.
        grid: the extents of the batch indices, 1 for a sliced one.
        whole_grid: the extents of the batch indices.
        grid_cut: for every batch index its place among the slices, or None.
        spread: the shape in which a grid of exponents broadcasts to the output of one slice.
        whole_spread: likewise for the whole output; slices side by side in it have a scale each.
        shape: the output's shape.
        output_cut: for every axis of the output, the place of its index among the slices, or None.
    """

    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]
    measure: Measure
    order: tuple[int, ...]
    slices: tuple[int, ...]
    grid: tuple[int, ...]
    whole_grid: tuple[int, ...]
    grid_cut: tuple[int | None, ...]
    spread: tuple[int, ...]
    whole_spread: tuple[int, ...]
    shape: tuple[int, ...]
    output_cut: tuple[int | None, ...]


def compile_program(
    inputs: Sequence[Term],
    output: Term,
    sizes: Mapping[Index, int],
    path: Path,
    slices: Term = (),
    batch: Term = (),
) -> Program:
    """Decide everything about a contraction that does not depend on its numbers.

    Args:
        inputs: the indices of every tensor.
        output: the indices of the result, in order.
        sizes: the extent of every index.
        path: positions per step, in opt_einsum's linear format.
        slices: indices that are fixed and looped over.
        batch: output indices whose elements get a scale each.
    """
    # a sliced index is never summed within a slice
    kept = (*output, *(index for index in slices if index not in output))
    tree = contraction_tree(inputs, kept, path)
    place = {index: number for number, index in enumerate(slices)}
    leaves = tuple(
        _leaf(given, left, sizes, place, batch) for given, left in zip(inputs, tree.leaves, strict=True)
    )
    pairs = [_uncut(pair, place) for pair in tree.pairs] if slices else tree.pairs
    takers = {number: pair for pair in pairs for number in (pair.left, pair.right)}
    orders = [tuple(index for index in leaf.term if index not in place) for leaf in leaves]
    sliced = [leaf.sliced for leaf in leaves]
    steps = []
    for target, pair in enumerate(pairs, len(leaves)):
        taker = takers.get(target)
        wanted = None
        if taker is not None:
            own = taker.left_only if taker.left == target else taker.right_only
            wanted = (taker.batch, own, taker.summed)
        product = lay_out(pair, orders, wanted, sizes)
        orders.append(product.order)
        sliced.append(sliced[pair.left] or sliced[pair.right])
        steps.append(
            Step(
                product.kind,
                *product.numbers,
                target,
                *product.views,
                product.shape,
                _measure(product.order, sizes, batch),
                product.dims,
                sliced[-1],
            )
        )
    result = tuple(index for index in output if index not in place)
    return Program(
        leaves,
        tuple(steps),
        _measure(orders[-1], sizes, batch),
        tuple(orders[-1].index(index) for index in result),
        tuple(sizes[index] for index in slices),
        tuple(1 if index in place else sizes[index] for index in batch),
        tuple(sizes[index] for index in batch),
        tuple(place.get(index) for index in batch),
        tuple(sizes[index] if index in batch else 1 for index in result),
        tuple(sizes[index] if index in batch or index in place else 1 for index in output),
        tuple(sizes[index] for index in output),
        tuple(place.get(index) for index in output),
    )


def _uncut(pair: Pair, place: Mapping[Index, int]) -> Pair:
    """The same step without the sliced indices."""

    def cut(term: Term) -> Term:
        return tuple(index for index in term if index not in place)

    groups = (cut(term) for term in (pair.batch, pair.left_only, pair.right_only, pair.summed))
    return Pair(pair.left, pair.right, *groups)


def _leaf(
    given: Term, left: Term, sizes: Mapping[Index, int], place: Mapping[Index, int], batch: Term
) -> Leaf:
    diagonals = []
    term = list(given)
    if len(set(given)) < len(given):
        for index in [index for index, uses in Counter(given).items() if uses > 1]:
            while term.count(index) > 1:
                first = term.index(index)
                second = term.index(index, first + 1)
                diagonals.append((first, second))
                del term[second], term[first]
                term.append(index)  # where numpy.diagonal puts it
    summed = tuple(axis for axis, index in enumerate(term) if index not in left)
    after = tuple(index for index in term if index in left)
    cut = tuple(place.get(index) for index in after)
    elements = [math.prod([sizes[index] for index in indices]) for indices in (given, after)]
    before, now = elements
    rest = tuple(index for index in after if index not in place)
    return Leaf(tuple(diagonals), summed, after, cut, _measure(rest, sizes, batch), before, now)


def _measure(term: Term, sizes: Mapping[Index, int], batch: Term) -> Measure:
    held = [index for index in term if index in batch]
    first = tuple(term[: len(held)]) == tuple(held) and len(held) < len(term)
    return Measure(
        tuple(axis for axis, index in enumerate(term) if index not in batch),
        tuple(held.index(index) for index in batch if index in held),
        tuple(sizes[index] if index in held else 1 for index in batch) if held else (),
        tuple(sizes[index] if index in held else 1 for index in term),
        math.prod([sizes[index] for index in held]) if first else 0,
    )
