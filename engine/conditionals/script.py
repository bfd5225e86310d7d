"""What drawing the variables of a closed network takes, step by step: a walk down its contraction tree.

A node of the tree holds a part of the network, and meets the rest by the indices that both hold. Three things
are known of a part: its *message*, with all variables that lie within summed (no draw changes it: it is
contracted once for all samples); once its variables are drawn, what it comes to at those values; and its
*environment*, what the rest comes to, at drawn values where the walk has been and summed where it has not. A
variable is drawn where the last tensors that hold it meet, from environment times messages with it left open.

Parts at drawn values and environments are kept as factors, multiplied only where they share an index that
nothing else holds, or where the product is no larger than a factor. In the network <f|f>, whose two halves
meet in the variables alone, a part that is drawn thus falls apart into f's and its conjugate: a chain of bond
chi is sampled at chi^2 a site and value, not chi^4 (perfect sampling: Ferris and Vidal, Physical Review B 85
(2012) 165146).

The script knows the structure alone, not the numbers nor how many samples are drawn together.
"""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.tree import Tree


class Factor(NamedTuple):
    """One array of the script.

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
    """Take an array that does not vary at the values drawn for these of its indices."""

    source: Factor
    variables: Term
    made: Factor


class Draw(NamedTuple):
    """Draw a variable from weights with its axis alone (and one of samples, where they vary)."""

    weights: Factor
    variable: Index


Step = Contract | Pick | Draw


@dataclass(eq=False)
class Script:
    """The steps, and which arrays they begin with.

    Attributes:
        given: the factor of each leaf with its own variables open, then that of each node's message.
        steps: in order; every one leads to a draw.
        slots: the number of slots.
    """

    given: tuple[Factor, ...] = ()
    steps: list[Step] = field(default_factory=list)
    slots: int = 0


def write_script(tree: Tree, open_leaves: Sequence[Term], variables: Collection[Index]) -> Script:
    """The script of drawing these variables.

    Args:
        tree: of the closed network, the root last.
        open_leaves: the indices of every leaf, with those variables that no other holds.
        variables: the indices to draw.
    """
    writer = _Writer(tree, open_leaves, frozenset(variables))
    writer.walk()
    return Script(writer.given, _needed(writer.steps), writer.slots)


def _needed(steps: Sequence[Step]) -> list[Step]:
    """The steps that lead to a draw."""
    wanted: set[int] = set()
    kept = []
    for step in reversed(steps):
        if isinstance(step, Draw):
            wanted.add(step.weights.slot)
        elif step.made.slot not in wanted:
            continue
        elif isinstance(step, Contract):
            wanted.update(factor.slot for factor in step.factors)
        kept.append(step)
    kept.reverse()
    return kept


Visit = Generator[tuple[int, list[Factor]], list[Factor], list[Factor]]


class _Writer:
    def __init__(self, tree: Tree, open_leaves: Sequence[Term], variables: frozenset[Index]) -> None:
        self.tree = tree
        self.count = len(tree.leaves)
        self.variables = variables
        self.steps: list[Step] = []
        self.slots = 0
        # variables drawn at each node, how many are drawn at or below it, and whether it holds any at all
        self.here: list[Term] = []
        self.below: list[int] = []
        self.held: list[bool] = []
        for term, outer in zip(open_leaves, tree.leaves, strict=True):
            own = tuple(index for index in term if index in variables and index not in outer)
            self.here.append(own)
            self.below.append(len(own))
            self.held.append(any(index in variables for index in term))
        for pair in tree.pairs:
            own = tuple(index for index in pair.summed if index in variables)
            self.here.append(own)
            self.below.append(len(own) + self.below[pair.left] + self.below[pair.right])
            self.held.append(self.held[pair.left] or self.held[pair.right])
        self.open = [self._new(term, varies=False) for term in open_leaves]
        self.messages = [self._new(term, varies=False) for term in tree.terms()]
        self.given = (*self.open, *self.messages)
        self.drawn: set[Index] = set()

    def _new(self, term: Term, *, varies: bool) -> Factor:
        self.slots += 1
        return Factor(term, self.slots - 1, varies)

    def walk(self) -> None:
        """Visit the tree depth first, on a stack of our own: trees may be deeper than Python's."""
        stack = [self._visit(self.count + len(self.tree.pairs) - 1, [])]
        result: list[Factor] | None = None
        while stack:
            try:
                below = stack[-1].send(result)  # type: ignore[arg-type]
            except StopIteration as done:
                stack.pop()
                result = done.value
            else:
                stack.append(self._visit(*below))
                result = None

    def _visit(self, node: int, environment: list[Factor]) -> Visit:
        """Draw what lies below a node, and return what the node then comes to.

        The environment is not looked at where nothing below is left to draw.
        """
        if node < self.count:
            self._draw_here(node, environment, (self.open[node],))
            return [self._picked(self.open[node])]
        if not self.held[node]:
            return [self.messages[node]]
        pair = self.tree.pairs[node - self.count]
        # a part without draws first, then the smaller one: it is behind us when the long way down begins
        first, second = sorted((pair.left, pair.right), key=lambda child: self.below[child])
        terms = [self.messages[child].term for child in (first, second)]
        self._draw_here(node, environment, (self.messages[first], self.messages[second]))
        around: list[Factor] = []
        if self.below[first]:
            around = self._reduced([*environment, self._picked(self.messages[second])], terms[0])
        ours = yield first, around
        around = self._reduced([*environment, *ours], terms[1]) if self.below[second] else []
        theirs = yield second, around
        return self._reduced([*ours, *theirs], pair.term)

    def _draw_here(self, node: int, environment: list[Factor], parts: Sequence[Factor]) -> None:
        for variable in self.here[node]:
            factors = [*environment, *(self._picked(part) for part in parts)]
            self.steps.append(Draw(self._contracted(factors, (variable,)), variable))
            self.drawn.add(variable)

    def _picked(self, factor: Factor) -> Factor:
        """An array that does not vary, at the values drawn so far."""
        known = tuple(index for index in factor.term if index in self.drawn)
        if not known:
            return factor
        made = self._new(tuple(index for index in factor.term if index not in known), varies=True)
        self.steps.append(Pick(factor, known, made))
        return made

    def _contracted(self, factors: Sequence[Factor], term: Term) -> Factor:
        if len(factors) == 1 and factors[0].term == term:
            return factors[0]
        made = self._new(term, varies=any(factor.varies for factor in factors))
        self.steps.append(Contract(tuple(factors), made))
        return made

    def _reduced(self, factors: Sequence[Factor], kept: Term) -> list[Factor]:
        """The same product in as many factors as make it small, with all but the kept indices summed."""
        groups: list[tuple[set[Index], list[Factor]]] = []  # what is to be summed, and who holds it
        for factor in factors:
            inner = {index for index in factor.term if index not in kept}
            members = [factor]
            apart = []
            for group in groups:
                if inner.isdisjoint(group[0]):
                    apart.append(group)
                else:
                    inner |= group[0]
                    members = [*group[1], *members]
            groups = [*apart, (inner, members)]
        parts = []
        for _, members in groups:
            held = {index for factor in members for index in factor.term}
            varies = any(factor.varies for factor in members)
            parts.append((tuple(index for index in kept if index in held), varies, members))
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
