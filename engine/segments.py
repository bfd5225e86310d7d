"""Cuts a contraction tree into segments: subtrees that are contracted without rescaling in between.

An executor that cannot rescale between steps (cuTensorNet) rescales between segments. Let every operand of a
segment have a Frobenius norm of at most 1. Contraction is submultiplicative in that norm: for every value of
the indices that the result keeps, Cauchy-Schwarz bounds the sum over the others, so |C| <= |A| |B|, with
shared indices that stay (hyperindices) included. Hence no entry of any intermediate exceeds 1 and nothing
overflows. Towards zero, every multiplication, addition and split of a number into parts may lose up to t, the
smallest normal number. A component of a product of complex numbers takes two real multiplications; modes that
split numbers in two (3XTF32) take three for each and drop four parts; as many additions follow: 16 losses, in
both components no more than 32 t together. An entry that sums s products is off by at most 32 s t, a
tensor of n such entries by 32 s sqrt(n) t in norm, the factors that follow have norm at most 1, and so the
segment's result is off by at most

    E = 32 t (sum over operands of sqrt(n) + sum over steps of s sqrt(n)),

known before anything is computed. A result whose largest entry is at least `floor` = E / eps has therefore
lost no more to underflow than to rounding. All of it holds for each batch element by itself, if every batch
element has been scaled by itself.

How far a norm falls below 1 is estimated: for tensors of independent entries, a step that sums over s values,
or shares an index of extent s that stays, shrinks the norm by sqrt(s). Segments are cut so that the estimate
uses at most half of what the floor leaves; one that falls below its floor all the same is cut in two.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrt_tn.engine.tree import Index, Term, Tree, linear_path


@dataclass(frozen=True)
class Segment:
    """A subtree that is contracted in one go.

    Attributes:
        operands: numbers of the tensors it takes: the network's own, and results of other segments.
        steps: numbers of the tensors it makes, in order; the last is its result. Numbers are those of
            `qrt_tn.engine.tree.Tree`.
    """

    operands: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def result(self) -> int:
        """The number of the tensor that the segment makes."""
        return self.steps[-1]

    def path(self, tree: Tree) -> list[tuple[int, int]]:
        """The steps as a linear path over `operands`."""
        places = {number: place for place, number in enumerate((*self.operands, *self.steps))}
        count = len(tree.leaves)
        pairs = [tree.pairs[number - count] for number in self.steps]
        return linear_path([(places[pair.left], places[pair.right]) for pair in pairs], len(self.operands))


def shrinkage(tree: Tree, sizes: Mapping[Index, int]) -> list[float]:
    """Bits by which every tensor's norm is expected to fall below the product of its factors' norms.

    Args:
        tree: the contraction; its leaves are balanced.
        sizes: the extent of every index within one element of the batch.
    """
    steps = [math.log2(_product((*pair.batch, *pair.summed), sizes)) / 2 for pair in tree.pairs]
    return [0.0] * len(tree.leaves) + steps


def floor(
    tree: Tree, segment: Segment, sizes: Mapping[Index, int], dtype: np.dtype, slices: int = 1
) -> float:
    """The least peak that proves a segment's result accurate; see the top of this file.

    Args:
        tree: the contraction.
        segment: the part of it; its operands have Frobenius norm at most 1 per batch element.
        sizes: the extent of every index within one slice of one element of the batch.
        dtype: what the contraction computes in.
        slices: over how many slices the result is summed up.
    """
    count = len(tree.leaves)
    error = 0.0
    for number in segment.operands:
        term = tree.leaves[number] if number < count else tree.pairs[number - count].term
        error += math.sqrt(_product(term, sizes))
    for number in segment.steps:
        pair = tree.pairs[number - count]
        error += _product(pair.summed, sizes) * math.sqrt(_product(pair.term, sizes))
    info = np.finfo(dtype)
    return 32 * slices * error * float(info.tiny) / float(info.eps)


def _product(term: Term, sizes: Mapping[Index, int]) -> int:
    return math.prod(sizes[index] for index in term)


def first_cuts(tree: Tree, bits: Sequence[float], ranks: Sequence[int], budget: float) -> set[int]:
    """Where to cut: the tensors that end a segment.

    Args:
        tree: the contraction.
        bits: of every tensor, from `shrinkage`.
        ranks: of every tensor, how often it is computed; a tensor of a lower rank than the step that takes
            it ends a segment, so that it is not computed again with that step.
        budget: bits that the steps of one segment may use up together.
    """
    count = len(tree.leaves)
    cuts: set[int] = set()
    load = list(bits[:count])
    for number, pair in enumerate(tree.pairs, start=count):
        children = (pair.left, pair.right)
        cuts.update(child for child in children if child >= count and ranks[child] < ranks[number])
        inside = sorted((child for child in children if child not in cuts), key=lambda child: -load[child])
        total = bits[number] + sum(load[child] for child in inside)
        for child in inside:
            if total > budget and child >= count:
                cuts.add(child)
                total -= load[child]
        load.append(total)
    return cuts


def segments(tree: Tree, cuts: Collection[int]) -> list[Segment]:
    """The segments that end at `cuts` and at the whole result, in an order they can be computed in."""
    count = len(tree.leaves)
    last = count + len(tree.pairs) - 1
    owner = {last: last}
    steps: dict[int, list[int]] = {}
    operands: dict[int, list[int]] = {}
    for number in range(last, count - 1, -1):
        pair, mine = tree.pairs[number - count], owner[number]
        steps.setdefault(mine, []).append(number)
        for child in (pair.right, pair.left):
            owner[child] = child if child in cuts else mine
            if child < count or child in cuts:
                operands.setdefault(mine, []).append(child)
    return [Segment(tuple(operands[end][::-1]), tuple(steps[end][::-1])) for end in sorted(steps)]


def halving_cut(tree: Tree, segment: Segment) -> int | None:
    """The tensor at which a cut leaves the segment in two most equal parts; None for a single step."""
    if len(segment.steps) == 1:
        return None
    count, half = len(tree.leaves), len(segment.steps) / 2
    inside: dict[int, int] = {}
    for number in segment.steps:
        pair = tree.pairs[number - count]
        inside[number] = 1 + inside.get(pair.left, 0) + inside.get(pair.right, 0)
    return min(segment.steps[:-1], key=lambda number: (abs(inside[number] - half), number))
