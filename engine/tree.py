"""A contraction path as a binary tree: what every step multiplies, sums and keeps.

Tensors are numbered as cotengra and opt_einsum number them in their SSA form: the network's own first, then
the result of every step. Everything that needs to know what a path does (its cost, its execution, its
order, its parts) reads it here.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Index = Hashable
Term = tuple[Index, ...]
Path = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Pair:
    """One step: two tensors become one.

    Attributes:
        left: number of the first tensor.
        right: number of the second.
        batch: indices that both hold and the result keeps.
        left_only: indices of the left tensor alone; the result keeps them.
        right_only: indices of the right tensor alone.
        summed: indices that both hold and nothing else does.
    """

    left: int
    right: int
    batch: Term
    left_only: Term
    right_only: Term
    summed: Term

    @property
    def term(self) -> Term:
        """The indices of the result."""
        return (*self.batch, *self.left_only, *self.right_only)


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole contraction.

    Attributes:
        leaves: the indices of every tensor of the network once its repeated indices are its diagonal and
            the indices that nothing else holds are summed.
        pairs: the steps in order; the result of step k is tensor number `len(leaves) + k`.
    """

    leaves: tuple[Term, ...]
    pairs: tuple[Pair, ...]

    def terms(self) -> list[Term]:
        """The indices of every tensor, the leaves' first."""
        return [*self.leaves, *(pair.term for pair in self.pairs)]


def contraction_tree(inputs: Sequence[Term], output: Term, path: Path) -> Tree:
    """Read a linear path over these tensors as a tree of pairs.

    Steps on one tensor do nothing; steps on three or more become pairs from the left. The path must contract
    all tensors to one (`qrt_tn.engine.paths.check_path`).

    Args:
        inputs: the indices of every tensor; an index may occur in any number of them, or twice in one.
        output: the indices of the result.
        path: positions per step, in opt_einsum's linear format.
    """
    uses = Counter(index for term in inputs for index in set(term))
    uses.update(output)
    leaves = tuple(tuple(index for index in dict.fromkeys(term) if uses[index] > 1) for term in inputs)
    terms: list[Term] = list(leaves)
    live = list(range(len(leaves)))
    pairs = []
    for step in path:
        chosen = [live[position] for position in step]
        for position in sorted(step, reverse=True):
            del live[position]
        left = chosen[0]
        for right in chosen[1:]:
            ours, theirs = set(terms[left]), set(terms[right])
            shared = [index for index in terms[left] if index in theirs]
            pair = Pair(
                left,
                right,
                tuple(index for index in shared if uses[index] > 2),
                tuple(index for index in terms[left] if index not in theirs),
                tuple(index for index in terms[right] if index not in ours),
                tuple(index for index in shared if uses[index] == 2),
            )
            for index in shared:
                uses[index] -= 1
            pairs.append(pair)
            left = len(terms)
            terms.append(pair.term)
        live.append(left)
    return Tree(leaves, tuple(pairs))


def linear_path(pairs: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """SSA pairs over `count` tensors as a linear path: positions in the list of tensors that are left."""
    live = list(range(count))  # always increasing
    path = []
    for step, (left, right) in enumerate(pairs):
        places = sorted((bisect_left(live, left), bisect_left(live, right)))
        for place in reversed(places):
            del live[place]
        live.append(count + step)
        path.append((places[0], places[1]))
    return path
