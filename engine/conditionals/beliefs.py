"""The distribution of every variable of a closed network by itself, all in one sweep down its tree.

Belief propagation on a contraction tree (Pearl, Probabilistic Reasoning in Intelligent Systems, 1988, chapter
4): the environment of a node is that of its parent times the message of its sibling.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qrt_tn.engine.conditionals.alike import Contractions
from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.tree import Tree


def beliefs(
    tree: Tree,
    messages: Sequence[Any],
    open_terms: Sequence[Term],
    open_leaves: Sequence[Any],
    variables: Collection[Index],
    sizes: Mapping[Index, int],
    contractions: Contractions,
) -> dict[Index, Any]:
    """The network's sum over all indices but one, for every variable; each up to a factor of its own.

    Args:
        tree: of the closed network.
        messages: every node's array, at whatever scale.
        open_terms: the indices of every leaf, with those variables that no other leaf holds.
        open_leaves: the leaves' arrays with these indices.
        variables: the indices asked for.
        sizes: the extent of every index.
        contractions: what contracts.

    Returns:
        One array (extent,) for each variable.
    """
    wanted = set(variables)
    terms = tree.terms()
    leaves = len(tree.leaves)
    found: dict[Index, Any] = {}

    def ask(factors: list[tuple[Term, Any]], candidates: Term) -> None:
        for variable in candidates:
            if variable in wanted:
                parts, arrays = zip(*factors, strict=True)
                found[variable] = contractions.contract(parts, (variable,), sizes, arrays)[0]

    # from the root down; an environment is done with once both children have theirs
    environments: dict[int, list[tuple[Term, Any]]] = {len(terms) - 1: []}
    for node in range(len(terms) - 1, -1, -1):
        around = environments.pop(node)
        if node < leaves:
            own = tuple(index for index in open_terms[node] if index not in terms[node])
            ask([*around, (open_terms[node], open_leaves[node])], own)
            continue
        pair = tree.pairs[node - leaves]
        both = [(terms[child], messages[child]) for child in (pair.left, pair.right)]
        ask([*around, *both], pair.summed)
        for child, sibling in ((pair.left, both[1]), (pair.right, both[0])):
            parts, arrays = zip(*around, sibling, strict=True)
            kept = contractions.contract(parts, terms[child], sizes, arrays)[0]
            environments[child] = [(terms[child], kept)]
    return found
