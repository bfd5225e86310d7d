"""The steps that draw the variables of a closed network: a walk down its contraction tree.

A node of the tree holds one part of the network and meets the rest through the indices that both hold. Of a
part three things matter: its *message*, with all variables inside it summed (no draw changes it, so it is
contracted once for all samples); its value at the drawn variables, once they are drawn; and its
*environment*, the value of the rest: at drawn values where the walk has been, summed where it has not. A
variable is drawn where the last tensors that hold it meet, from environment times messages with it left open.

Environments and parts at drawn values are kept as several factors, multiplied only where they share an index
that nothing else holds, or where the product is no larger than a factor. In the network <f|f>, whose halves
meet in the variables alone, a part that is drawn thus splits into f's factor and its conjugate: a chain of
bond chi is sampled at chi^2 a site and value, not chi^4 (perfect sampling: Ferris and Vidal, Physical Review
B 85 (2012) 165146).

A schedule depends on the structure alone, not on the numbers nor on how many samples are drawn together.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.tree import Tree


class Factor(NamedTuple):
    """One array of a schedule.

    Attributes:
        term: its indices.
        slot: its number.
        varies: whether every sample has its own, along an axis before the others.
    """

    term: Term
    slot: int
    varies: bool


class Contract(NamedTuple):
    """Contract factors to one."""

    factors: tuple[Factor, ...]
    made: Factor


class Pick(NamedTuple):
    """Take the one factor, which does not vary, at the values drawn for these of its indices."""

    factors: tuple[Factor]
    made: Factor
    variables: Term


class Draw(NamedTuple):
    """Draw a variable from the one factor: weights along its axis (and one of samples, if they vary)."""

    factors: tuple[Factor]
    variable: Index


Step = Contract | Pick | Draw


class Schedule(NamedTuple):
    """The steps, and which arrays they begin with; every step leads to a draw.

    Attributes:
        given: the factor of each leaf with its own variables open, then that of each node's message.
        fixed: contractions of what does not vary, to be done once, in order.
        steps: to be done for every batch of samples, in order.
        freed: after each of the steps, the slots of varying factors that no later one uses.
    """

    given: tuple[Factor, ...]
    fixed: list[Contract]
    steps: list[Step]
    freed: list[list[int]]


def write_schedule(tree: Tree, open_leaves: Sequence[Term], variables: frozenset[Index]) -> Schedule:
    """The schedule that draws these variables, each leaf having those open that no other leaf holds."""
    writer = _Writer(tree, open_leaves, variables)
    writer.walk()
    wanted: set[int] = set()
    fixed: list[Contract] = []
    steps: list[Step] = []
    freed: list[list[int]] = []
    for step in reversed(writer.steps):
        if not isinstance(step, Draw) and step.made.slot not in wanted:
            continue
        last = {factor.slot: factor.varies for factor in step.factors if factor.slot not in wanted}
        wanted.update(last)
        if isinstance(step, Contract) and not step.made.varies:
            fixed.append(step)
        else:
            steps.append(step)
            freed.append([slot for slot, varies in last.items() if varies])
    return Schedule((*writer.open, *writer.messages), fixed[::-1], steps[::-1], freed[::-1])


Visit = Generator[tuple[int, list[Factor]], list[Factor], list[Factor]]


class _Writer:
    def __init__(self, tree: Tree, open_leaves: Sequence[Term], variables: frozenset[Index]) -> None:
        self.tree = tree
        self.count = len(tree.leaves)
        self.steps: list[Step] = []
        self.slots = 0
        self.open = [self._new(term, varies=False) for term in open_leaves]
        self.messages = [self._new(term, varies=False) for term in tree.terms()]
        self.drawn: set[Index] = set()
        # variables drawn at each node, how many are drawn at or below it, and whether it holds any at all
        opened = [
            tuple(index for index in term if index not in outer)
            for term, outer in zip(open_leaves, tree.leaves, strict=True)
        ]
        summed = [*opened, *(pair.summed for pair in tree.pairs)]
        self.here = [tuple(index for index in term if index in variables) for term in summed]
        self.below = [len(term) for term in self.here]
        self.held = [not variables.isdisjoint(term) for term in open_leaves]
        for node, pair in enumerate(tree.pairs, self.count):
            self.below[node] += self.below[pair.left] + self.below[pair.right]
            self.held.append(self.held[pair.left] or self.held[pair.right])

    def _new(self, term: Term, *, varies: bool) -> Factor:
        self.slots += 1
        return Factor(term, self.slots - 1, varies)

    def walk(self) -> None:
        """Visit the tree depth first on an explicit stack: trees may be deeper than Python's recursion."""
        stack = [self._visit(self.count + len(self.tree.pairs) - 1, [])]
        result: list[Factor] | None = None
        while stack:
            try:
                stack.append(self._visit(*stack[-1].send(result)))  # type: ignore[arg-type]
                result = None
            except StopIteration as done:
                stack.pop()
                result = done.value

    def _visit(self, node: int, environment: list[Factor]) -> Visit:
        """Draw what lies below a node, and return the node's value at what was drawn.

        The environment is not looked at where nothing below remains to be drawn.
        """
        if node < self.count:
            self._draw_here(node, environment, (self.open[node],))
            return [self._picked(self.open[node])]
        if not self.held[node]:
            return [self.messages[node]]
        pair = self.tree.pairs[node - self.count]
        # a part without draws first, then the smaller one: it is finished when the long way down begins
        first, second = sorted((pair.left, pair.right), key=lambda child: self.below[child])
        self._draw_here(node, environment, (self.messages[first], self.messages[second]))
        around: list[Factor] = []
        if self.below[first]:
            others = [*environment, self._picked(self.messages[second])]
            around = self._reduced(others, self.messages[first].term)
        ours = yield first, around
        around = []
        if self.below[second]:
            around = self._reduced([*environment, *ours], self.messages[second].term)
        theirs = yield second, around
        return self._reduced([*ours, *theirs], pair.term)

    def _draw_here(self, node: int, environment: list[Factor], parts: Sequence[Factor]) -> None:
        for variable in self.here[node]:
            factors = [*environment, *(self._picked(part) for part in parts)]
            self.steps.append(Draw((self._contracted(factors, (variable,)),), variable))
            self.drawn.add(variable)

    def _picked(self, factor: Factor) -> Factor:
        """An array that does not vary, at the values drawn so far."""
        known = tuple(index for index in factor.term if index in self.drawn)
        if not known:
            return factor
        made = self._new(tuple(index for index in factor.term if index not in known), varies=True)
        self.steps.append(Pick((factor,), made, known))
        return made

    def _contracted(self, factors: Sequence[Factor], term: Term) -> Factor:
        if len(factors) == 1 and factors[0].term == term:
            return factors[0]
        made = self._new(term, varies=any(factor.varies for factor in factors))
        self.steps.append(Contract(tuple(factors), made))
        return made

    def _reduced(self, factors: Sequence[Factor], kept: Term) -> list[Factor]:
        """The product of factors with all but the kept indices summed, as several small factors."""
        groups: list[tuple[set[Index], list[Factor]]] = []  # indices to be summed, and who holds them
        for factor in factors:
            inner = set(factor.term).difference(kept)
            joined = [group for group in reversed(groups) if not inner.isdisjoint(group[0])]
            groups = [group for group in groups if inner.isdisjoint(group[0])]
            members = [member for group in joined for member in group[1]]
            groups.append((inner.union(*(group[0] for group in joined)), [*members, factor]))
        parts = []
        for _, members in groups:
            term = tuple(index for index in kept if any(index in member.term for member in members))
            parts.append((term, any(member.varies for member in members), members))
        # a factor whose indices another has too goes into that, but none that varies into one that is fixed
        parts.sort(key=lambda part: (-len(part[0]), not part[1]))
        merged: list[tuple[Term, bool, list[Factor]]] = []
        for term, varies, members in parts:
            for outer, outer_varies, host in merged:
                if set(term) <= set(outer) and (outer_varies or not varies or len(term) == len(outer)):
                    host.extend(members)
                    break
            else:
                merged.append((term, varies, members))
        return [
            members[0]
            if len(members) == 1 and set(members[0].term) == set(term)
            else self._contracted(members, term)
            for term, _, members in merged
        ]
