"""Small contractions by the thousand: those alike in structure share one path and one program."""

from collections.abc import Mapping, Sequence
from typing import Any

from qrt_tn.engine.expression import Expression
from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan

MANY = 10  # tensors; beyond, the best path is not searched for
_ELEMENT = 0  # the number of the index that numbers the elements


class Contractions:
    """What makes expressions, on one backend and for one dtype.

    Args:
        backend: as `qrt_tn.engine.plan.Plan.execute`.
        dtype: the name of the arrays' dtype.
    """

    def __init__(self, backend: str, dtype: str) -> None:
        self._backend = backend
        self._dtype = dtype
        self._known: dict[Any, Plan] = {}

    def recipe(
        self,
        terms: Sequence[Term],
        output: Term,
        sizes: Mapping[Index, int],
        varying: Sequence[int] = (),
        elements: int = 1,
    ) -> Plan:
        """How to contract these tensors, of which some hold an array for each of many elements.

        Args:
            terms: the indices of every tensor, without an index for the elements.
            output: the indices of the result; where a tensor varies, an axis of elements comes before them.
            sizes: the extent of every index.
            varying: the tensors that have an axis of elements in front.
            elements: how many there are.
        """
        names: dict[Index, int] = {}
        inputs = []
        for number, term in enumerate(terms):
            places = tuple(names.setdefault(index, len(names) + 1) for index in term)
            inputs.append((_ELEMENT, *places) if number in varying else places)
        batch = (_ELEMENT,) if varying else ()
        kept = (*batch, *(names[index] for index in output))
        extents: dict[Index, int] = {_ELEMENT: elements} if varying else {}
        extents |= {place: sizes[index] for index, place in names.items()}
        key = (tuple(inputs), kept, tuple(extents.values()))
        made = self._known.get(key)
        if made is None:
            optimizer = "auto" if len(inputs) <= MANY else "cotengra-greedy"
            path = tuple(find_path(inputs, kept, extents, optimizer))
            made = Plan(tuple(inputs), kept, extents, path, (), self._dtype, batch=batch)
            self._known[key] = made
        return made

    def expression(self, recipe: Plan, constants: Mapping[int, Any]) -> Expression:
        """A recipe made ready for many calls; steps among the constants are done here."""
        return Expression(recipe, self._backend, constants=constants)

    def contract(
        self, terms: Sequence[Term], output: Term, sizes: Mapping[Index, int], arrays: Sequence[Any]
    ) -> tuple[Any, Any]:
        """Contract arrays none of which varies: (mantissa, exponent), the value mantissa * 2**exponent."""
        return Expression(self.recipe(terms, output, sizes), self._backend).part(arrays)
