"""A smaller network with the same contraction: steps settled by its structure, before a path is searched."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Index = Hashable
Term = tuple[Index, ...]

NEIGHBOURS = 16  # an index on more tensors than this tells nothing about which two belong together


@dataclass(frozen=True)
class Simplified:
    """A network that is left to search, and the steps that led to it.

    Attributes:
        count: number of tensors of the original network.
        pairs: the steps already decided, as SSA pairs over the original tensors.
        terms: the indices of every tensor that is left; of indices that always go together only the first.
        numbers: the SSA number of every tensor that is left.
        output: the indices of the result, among those that are left.
        sizes: the extents of the indices that are left, fused ones multiplied.
    """

    count: int
    pairs: tuple[tuple[int, int], ...]
    terms: tuple[Term, ...]
    numbers: tuple[int, ...]
    output: Term
    sizes: Mapping[Index, int]

    def expand(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """SSA pairs over what is left as SSA pairs over the original tensors, the decided ones first."""
        left, done = len(self.terms), self.count + len(self.pairs)

        def number(tensor: int) -> int:
            return self.numbers[tensor] if tensor < left else tensor - left + done

        return [*self.pairs, *((number(first), number(second)) for first, second in pairs)]


def simplify(
    inputs: Sequence[Term], output: Term, sizes: Mapping[Index, int], absorb: str = "subset"
) -> Simplified:
    """Settle the steps that need no search.

    Indices of extent 1, indices that one tensor alone holds and repetitions of an index on one tensor go;
    indices on exactly the same tensors count as one; tensors with equal indices are multiplied; scalars
    join the smallest tensor; and tensors are absorbed by a neighbour, cheapest first, as `absorb` says. The
    time is near-linear in the number of tensors: an index on many tensors is not searched for partners.

    Args:
        inputs: the indices of every tensor.
        output: the indices of the result.
        sizes: the extent of every index.
        absorb: "none"; "subset": a tensor whose indices another one has too, a step that hardly any path
            can better; "rank": also every pair whose product is no larger than the larger of the two, which
            leaves a far smaller network, but may cost more flops than the best path.
    """
    state = _Network(inputs, output, sizes)
    if absorb != "none":
        state.absorb(NEIGHBOURS if absorb == "rank" else 0)
    return state.result(sizes)


class _Network:
    """The tensors that are left while steps are being decided."""

    def __init__(self, inputs: Sequence[Term], output: Term, sizes: Mapping[Index, int]) -> None:
        self.count = len(inputs)
        self.pairs: list[tuple[int, int]] = []
        self.sizes = sizes
        uses = Counter(index for term in inputs for index in set(term))
        uses.update(output)
        self.output = tuple(index for index in output if uses[index] > 1 and sizes[index] > 1)
        kept = {index for index, number in uses.items() if number > 1 and sizes[index] > 1}
        self.terms: dict[int, frozenset[Index]] = {}
        self.on: dict[Index, dict[int, None]] = {}  # which tensors hold an index, in order
        self.places: dict[Index, int] = {}  # a fixed order of the indices, whatever their hashes
        self.outer = frozenset(self.output)
        self.equal: dict[frozenset[Index], int] = {}
        for number, term in enumerate(inputs):
            for index in term:
                self.places.setdefault(index, len(self.places))
            self._add(number, frozenset(index for index in term if index in kept))

    def _add(self, number: int, term: frozenset[Index]) -> None:
        self.terms[number] = term
        for index in term:
            self.on.setdefault(index, {})[number] = None

    def size(self, term: frozenset[Index]) -> int:
        return math.prod(self.sizes[index] for index in term)

    def product(self, first: int, second: int) -> frozenset[Index]:
        """The indices of the product of two tensors."""
        ours, theirs = self.terms[first], self.terms[second]
        gone = {index for index in ours & theirs if index not in self.outer and len(self.on[index]) == 2}
        return (ours | theirs) - gone

    def join(self, first: int, second: int) -> int:
        """Contract two tensors; returns the number of the result."""
        made = self.product(first, second)
        for number in (first, second):
            for index in self.terms.pop(number):
                del self.on[index][number]
        number = self.count + len(self.pairs)
        self.pairs.append((first, second))
        self._add(number, made)
        return number

    def absorb(self, neighbours: int) -> None:
        """Join tensors, the cheapest step first, until no rule applies."""
        heap: list[tuple[int, int, int]] = []
        for number in list(self.terms):
            if number in self.terms:
                self._offer(self._merge_equal(number), neighbours, heap)
        while heap:
            _, first, second = heapq.heappop(heap)
            if first in self.terms and second in self.terms:
                self._offer(self._merge_equal(self.join(first, second)), neighbours, heap)
        scalars = [number for number, term in self.terms.items() if not term]
        if scalars and len(self.terms) > 1:
            # equal tensors were merged, so there is one
            others = (number for number in self.terms if number != scalars[0])
            self.join(scalars[0], min(others, key=lambda number: (self.size(self.terms[number]), number)))

    def _merge_equal(self, number: int) -> int:
        """Multiply a tensor with the one that has the same indices, as long as there is one."""
        while True:
            term = self.terms[number]
            other = self.equal.get(term)
            if other is None or other == number or self.terms.get(other) != term:
                self.equal[term] = number
                return number
            number = self.join(other, number)

    def _offer(self, number: int, neighbours: int, heap: list[tuple[int, int, int]]) -> None:
        """Put the steps of one tensor that a rule allows on the heap, with their costs."""
        term = self.terms[number]
        size = self.size(term)
        for other in self._partners(term, number, neighbours):
            theirs = self.terms[other]
            if not theirs:
                continue
            cost = self.size(term | theirs)
            larger = max(size, self.size(theirs))
            if cost == larger or (neighbours and self.size(self.product(number, other)) <= larger):
                heapq.heappush(heap, (cost, min(number, other), max(number, other)))

    def _partners(self, term: frozenset[Index], number: int, neighbours: int) -> dict[int, None]:
        """Tensors that share an index with this one, as far as they are worth looking at."""
        found: dict[int, None] = {}
        for index in sorted(term, key=self.places.__getitem__):
            holders = self.on[index]
            if len(holders) <= NEIGHBOURS:
                found.update(holders)
            else:
                # a partner by this index alone is as good as any other that holds it
                found.update(dict.fromkeys(itertools.islice(holders, 2)))
        found.pop(number, None)
        return found

    def result(self, sizes: Mapping[Index, int]) -> Simplified:
        """What is left, with indices that always go together fused to one."""
        groups: dict[tuple[Any, ...], list[Index]] = {}
        for index in sorted(self.on, key=self.places.__getitem__):
            if self.on[index]:
                groups.setdefault((index in self.outer, *self.on[index]), []).append(index)
        fused = {group[0]: math.prod(sizes[index] for index in group) for group in groups.values()}
        return Simplified(
            self.count,
            tuple(self.pairs),
            tuple(
                tuple(sorted((index for index in term if index in fused), key=self.places.__getitem__))
                for term in self.terms.values()
            ),
            tuple(self.terms),
            tuple(index for index in self.output if index in fused),
            fused,
        )
