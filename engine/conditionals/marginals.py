"""Sums over a closed network: every node's message, and the distribution of every variable by itself.

Messages go up the contraction tree and environments down it (belief propagation: Pearl, Probabilistic
Reasoning in Intelligent Systems, 1988, chapter 4): the environment of a node is that of its parent times the
message of its sibling.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from qrt_tn.engine.expression import Expression
from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.tree import Tree

MANY = 10  # tensors; beyond, the best path is not searched for
_ELEMENT = 0  # the number of the index that numbers the elements


class ContractionCache:
    """Plans of small contractions of one dtype on one backend; those alike in structure share one."""

    def __init__(self, sizes: Mapping[Index, int], backend: str, dtype: str) -> None:
        self.backend = backend
        self._sizes = sizes
        self._dtype = dtype
        self._plans: dict[Any, Plan] = {}

    def plan(
        self, terms: Sequence[Term], output: Term, varying: Collection[int] = (), elements: int = 1
    ) -> Plan:
        """How to contract these tensors, of which the varying ones have an axis of elements in front.

        So has the result where there are such. The terms name the other axes.
        """
        names: dict[Index, int] = {}
        inputs = []
        for number, term in enumerate(terms):
            places = tuple(names.setdefault(index, len(names) + 1) for index in term)
            inputs.append((_ELEMENT, *places) if number in varying else places)
        batch = (_ELEMENT,) if varying else ()
        kept = (*batch, *(names[index] for index in output))
        extents: dict[Index, int] = {_ELEMENT: elements} if varying else {}
        extents |= {place: self._sizes[index] for index, place in names.items()}
        key = (tuple(inputs), kept, tuple(extents.values()))
        if key not in self._plans:
            optimizer = "auto" if len(inputs) <= MANY else "cotengra-greedy"
            path = tuple(find_path(inputs, kept, extents, optimizer))
            self._plans[key] = Plan(tuple(inputs), kept, extents, path, (), self._dtype, batch=batch)
        return self._plans[key]

    def expression(self, plan: Plan, constants: Mapping[int, Any]) -> Expression:
        """A plan ready for many calls; entries negligible beside the largest of their array may become 0."""
        return Expression(plan, self.backend, constants=constants, entrywise=False)

    def contract(self, terms: Sequence[Term], output: Term, arrays: Sequence[Any]) -> tuple[Any, int]:
        """Contract arrays none of which varies: (mantissa, exponent), the value mantissa * 2**exponent."""
        mantissa, exponent = self.expression(self.plan(terms, output), {}).part(arrays)
        return mantissa, int(exponent)


def send_messages(
    tree: Tree,
    terms: Sequence[Term],
    open_terms: Sequence[Term],
    arrays: Iterable[Any],
    cache: ContractionCache,
) -> Iterator[tuple[Any, int]]:
    """The leaves with their own variables open, then the messages of all nodes, each as it is ready.

    Yields:
        (mantissa, exponent): the exponent relative to the arrays that it was made of.
    """
    opened = []
    for term, left, array in zip(terms, open_terms, arrays, strict=True):
        # also where nothing is summed: this brings an array of any scale near 1
        opened.append(cache.contract([term], left, [array]))
        yield opened[-1]
    messages: list[Any] = []
    for left, outer, (array, _) in zip(open_terms, tree.leaves, opened, strict=True):
        mantissa, exponent = (array, 0) if left == outer else cache.contract([left], outer, [array])
        messages.append(mantissa)
        yield mantissa, exponent
    numbered = tree.terms()
    for pair in tree.pairs:
        both = (pair.left, pair.right)
        parts = [numbered[number] for number in both]
        mantissa, exponent = cache.contract(parts, pair.term, [messages[number] for number in both])
        messages.append(mantissa)
        yield mantissa, exponent


def find_marginals(
    tree: Tree,
    open_terms: Sequence[Term],
    arrays: Sequence[Any],
    variables: Collection[Index],
    cache: ContractionCache,
) -> dict[Index, Any]:
    """The network's sum over all indices but one, shape (extent,), for every variable; each up to a factor.

    The arrays are those that `send_messages` made.
    """
    terms = tree.terms()
    leaves = len(tree.leaves)
    messages = arrays[leaves:]
    found: dict[Index, Any] = {}

    def contract(factors: Sequence[tuple[Term, Any]], output: Term) -> Any:
        parts, operands = zip(*factors, strict=True)
        return cache.contract(parts, output, operands)[0]

    # from the root down; an environment is dropped once both children have theirs
    environments: dict[int, list[tuple[Term, Any]]] = {len(terms) - 1: []}
    for node in range(len(terms) - 1, -1, -1):
        around = environments.pop(node)
        if node < leaves:
            inside = [(open_terms[node], arrays[node])]
            candidates = tuple(index for index in open_terms[node] if index not in terms[node])
        else:
            pair = tree.pairs[node - leaves]
            inside = [(terms[child], messages[child]) for child in (pair.left, pair.right)]
            candidates = pair.summed
            for child, sibling in ((pair.left, inside[1]), (pair.right, inside[0])):
                environments[child] = [(terms[child], contract([*around, sibling], terms[child]))]
        for variable in candidates:
            if variable in variables:
                found[variable] = contract([*around, *inside], (variable,))
    return found
