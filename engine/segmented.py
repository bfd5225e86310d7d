"""A sliced contraction in segments: which tensors there are, how often each is computed, what they take.

All of it is known on the host, before anything is allocated; `qrt_tn.engine.cutensornet` carries it out.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from qrt_tn.engine.balance import padded
from qrt_tn.engine.segments import Segment, first_cuts, floor, halving_cut, segments, shrinkage
from qrt_tn.engine.tree import Index, Path, Term, contraction_tree

CONSTANT, VARIABLE, SLICED = range(3)  # how often a tensor is computed: once, per call, per slice


class SegmentedContraction:
    """A contraction tree cut into segments, which may be cut further.

    Args:
        inputs: the indices of every tensor as given, repeated and lone ones included.
        output: the indices of the result.
        sizes: the extent of every index.
        path: positions per step, in opt_einsum's linear format.
        slices: indices that are fixed one value at a time.
        batch: indices of the output whose values each have a scale of their own.
        dtype: what is computed in.
        constants: numbers of the tensors that stay the same in all calls.
        looped: whether the loop over slices is the caller's in any case.

    Attributes:
        tree: the contraction.
        terms: the indices of every tensor by number; repeated ones once, lone ones only if sliced.
        ranks: of every tensor, `CONSTANT`, `VARIABLE` or `SLICED`.
        groups: the operands (whether they are constant, their numbers): those of one group have one
            shape, and the same batch and sliced indices on the same axes.
        segments: in an order they can be computed in. All tensors made in one have the same rank.
        looped: whether the caller loops over the slices: a sliced index is kept, or the results of slices
            are balanced between segments. Otherwise only the last segment depends on them.
    """

    def __init__(
        self,
        inputs: Sequence[Term],
        output: Term,
        sizes: Mapping[Index, int],
        path: Path,
        slices: Term,
        batch: Collection[Index],
        dtype: np.dtype,
        constants: Collection[int],
        *,
        looped: bool,
    ):
        self.inputs, self.output, self.sizes, self.slices = inputs, output, sizes, slices
        self.dtype = dtype
        self.tree = tree = contraction_tree(inputs, output, path)
        self.terms: list[Term] = []
        self.ranks: list[int] = []
        groups: dict[Any, list[int]] = {}
        for number, (given, leaf) in enumerate(zip(inputs, tree.leaves, strict=True)):
            term = tuple(index for index in dict.fromkeys(given) if index in leaf or index in slices)
            self.terms.append(term)
            constant = number in constants
            sliced = not set(slices).isdisjoint(term)
            self.ranks.append(SLICED if sliced else CONSTANT if constant else VARIABLE)
            roles = tuple(index if index in batch or index in slices else None for index in term)
            groups.setdefault((constant, self.shape(term), roles), []).append(number)
        self.groups = [(key[0], numbers) for key, numbers in groups.items()]
        for pair in tree.pairs:
            self.terms.append(pair.term)
            self.ranks.append(max(self.ranks[pair.left], self.ranks[pair.right]))
        self.terms[-1] = output
        self.ranks[-1] = max(self.ranks[-1], VARIABLE)
        element = {index: 1 if index in batch else size for index, size in sizes.items()}
        self._element = element | dict.fromkeys(slices, 1)
        (whole,) = segments(tree, ())
        least = floor(tree, whole, self._element, dtype, self.slice_count)
        budget = max(1.0, -math.log2(least) / 2)
        self._cuts = first_cuts(tree, shrinkage(tree, element), self.ranks, budget)
        self.segments = segments(tree, self._cuts)
        self.looped = looped or not set(slices).isdisjoint(output) or len(self.of_rank(SLICED)) > 1

    @property
    def slice_count(self) -> int:
        """How many slices there are."""
        return math.prod(self.shape(self.slices))

    def shape(self, term: Term) -> tuple[int, ...]:
        """The extents of these indices."""
        return tuple(self.sizes[index] for index in term)

    def unsliced(self, term: Term) -> Term:
        """The indices that are not sliced."""
        return tuple(index for index in term if index not in self.slices)

    def halvings(self, number: int) -> int:
        """How often to divide an operand's sum over lone indices by 2, so that it cannot overflow."""
        lone = set(self.inputs[number]).difference(self.terms[number])
        return (math.prod(self.shape(tuple(lone))) - 1).bit_length()

    def of_rank(self, rank: int) -> list[Segment]:
        """The segments whose tensors are computed so often."""
        return [part for part in self.segments if self.ranks[part.result] == rank]

    def is_cut(self, number: int) -> bool:
        """Whether a tensor is handled one slice at a time, its sliced indices left out."""
        return self.looped and self.ranks[number] == SLICED

    def term(self, number: int, *, cut: bool) -> Term:
        """The indices of a tensor, or of its part in one slice."""
        return self.unsliced(self.terms[number]) if cut else self.terms[number]

    def floors(self) -> dict[int, float]:
        """By result, the least peak that proves a segment accurate; single steps are always accepted."""
        return {
            part.result: floor(
                self.tree,
                part,
                self._element,
                self.dtype,
                # the library adds up the slices
                self.slice_count if self.ranks[part.result] == SLICED and not self.looped else 1,
            )
            for part in self.segments
            if len(part.steps) > 1
        }

    def split(self, failing: Collection[int]) -> int:
        """Cut the segments with these results in two; the least rank among them."""
        for part in self.segments:
            if part.result in failing:
                cut = halving_cut(self.tree, part)
                assert cut is not None  # single steps have no floor
                self._cuts.add(cut)
        self.segments = segments(self.tree, self._cuts)
        self.looped = self.looped or len(self.of_rank(SLICED)) > 1
        return min(self.ranks[number] for number in failing)

    def bytes_taken(self) -> int:
        """Device memory besides cuTensorNet's workspace: operands, results, and copies made on the way."""

        def size(number: int, *, cut: bool = False) -> int:
            return self.dtype.itemsize * padded(self.shape(self.term(number, cut=cut)), self.dtype)

        last = len(self.terms) - 1
        inner = [size(part.result, cut=self.is_cut(part.result)) for part in self.segments[:-1]]
        stacks = [len(numbers) * size(numbers[0]) for _, numbers in self.groups]
        # the library makes the first result of a network beforehand, besides the buffer that takes it
        taken = sum(stacks) + 2 * sum(inner) + size(last)
        if self.looped:
            operands = [numbers for _, numbers in self.groups if self.is_cut(numbers[0])]
            taken += sum(len(numbers) * size(numbers[0], cut=True) for numbers in operands)
            # besides the sum, the result of one slice and two copies in adding it
            taken += 3 * size(last, cut=True)
        return taken + max(stacks + inner)  # squares, for the norms
