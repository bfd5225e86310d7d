"""Cut a contraction tree into subnetworks that cannot leave the range of floating point unnoticed.

An executor that cannot rescale between steps (cuTensorNet) rescales between subnetworks: subtrees that are
contracted in one go.

**Nothing overflows.** Let every operand of a subnetwork have a Frobenius norm of at most 1. Contraction is
submultiplicative in that norm: for every value of the indices that the result keeps, Cauchy-Schwarz bounds
the sum over the others, so |C| <= |A| |B|, with shared indices that stay (hyperindices) included. Hence no
entry of any intermediate exceeds 1.

**What underflow can take.** Every multiplication, addition and split of a number into parts may lose up to t,
the smallest normal number. A component of a product of complex numbers takes two real multiplications; modes
that split numbers in two (3XTF32) take three for each and drop four parts; as many additions follow: 16
losses, in both components no more than 32 t together. An entry that sums s products is off by at most 32 s t,
a tensor of n such entries by 32 s sqrt(n) t in norm, the factors that follow have norm at most 1, and so the
subnetwork's result is off by at most

    E = 32 t (sum over operands of sqrt(n) + sum over steps of s sqrt(n)),

known before anything is computed. A result whose largest entry is at least `floor` = E / eps has therefore
lost no more to underflow than to rounding. All of it holds for each element of a batch, each scaled by
itself.

**Where to cut.** For tensors of independent entries, a step that sums over s values, or shares an index of
extent s that stays, shrinks the norm by sqrt(s); scaling an operand leaves up to one bit, half a bit on
average. The tree is cut so that this estimate uses at most half of the bits above the floor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrt_tn.engine.network import Index
from qrt_tn.engine.tree import Tree, linear_path


@dataclass(frozen=True)
class Subnetwork:
    """A subtree that is contracted in one go, by the numbers of its tensors in a `qrt_tn.engine.tree.Tree`.

    Attributes:
        operands: the tensors it takes: the network's, and results of other subnetworks.
        steps: the tensors it makes, in order; the last is its result.
    """

    operands: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def result(self) -> int:
        """The number of the tensor that the subnetwork makes."""
        return self.steps[-1]

    def path(self, tree: Tree) -> list[tuple[int, int]]:
        """The steps as a linear path over `operands`."""
        places = {number: place for place, number in enumerate((*self.operands, *self.steps))}
        pairs = [tree.pairs[number - len(tree.leaves)] for number in self.steps]
        return linear_path([(places[pair.left], places[pair.right]) for pair in pairs], len(self.operands))


def divide(tree: Tree, ranks: Sequence[int], sizes: Mapping[Index, int], budget: float) -> list[Subnetwork]:
    """Cut a tree into subnetworks, in an order they can be computed in.

    Args:
        tree: the contraction.
        ranks: of every tensor, how often it is computed; a tensor of a lower rank than the step that takes
            it ends a subnetwork, so that it is not computed again with that step.
        sizes: the extent of every index within one element of the batch.
        budget: bits by which the norm of one subnetwork's result may be expected to fall below 1.
    """
    count = len(tree.leaves)
    load = [0.5] * count
    open_parts = [Subnetwork((number,), ()) for number in range(count)]  # that end at each tensor so far
    parts = []
    for number, (pair, rank) in enumerate(zip(tree.pairs, ranks[count:], strict=True), start=count):
        bits = math.log2(_product((*pair.batch, *pair.summed), sizes)) / 2
        children = [(ranks[child] >= rank, -load[child], child) for child in (pair.left, pair.right)]
        for same, _, child in sorted(children):
            if child >= count and (not same or bits + load[pair.left] + load[pair.right] > budget):
                parts.append(open_parts[child])
                load[child], open_parts[child] = 0.5, Subnetwork((child,), ())
        load.append(bits + load[pair.left] + load[pair.right])
        left, right = open_parts[pair.left], open_parts[pair.right]
        open_parts.append(Subnetwork(left.operands + right.operands, (*left.steps, *right.steps, number)))
    return [*parts, open_parts[-1]]


def floor(
    tree: Tree, part: Subnetwork, sizes: Mapping[Index, int], dtype: np.dtype, slices: int = 1
) -> float:
    """The least entry that underflow has not touched, where operands have norm 1; see the top of this file.

    Args:
        tree: the contraction.
        part: the part of it.
        sizes: the extent of every index within one slice of one element of the batch.
        dtype: what the contraction computes in.
        slices: over how many slices the result is summed up.
    """
    count, error = len(tree.leaves), 0.0
    for number in part.operands:
        term = tree.leaves[number] if number < count else tree.pairs[number - count].term
        error += math.sqrt(_product(term, sizes))
    for number in part.steps:
        pair = tree.pairs[number - count]
        error += _product(pair.summed, sizes) * math.sqrt(_product(pair.term, sizes))
    info = np.finfo(dtype)
    return 32 * slices * error * float(info.tiny) / float(info.eps)


def _product(term: Sequence[Index], sizes: Mapping[Index, int]) -> int:
    return math.prod([sizes[index] for index in term])
