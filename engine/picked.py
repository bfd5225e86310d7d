"""One network for many elements, each of which takes values of its own at some of the indices."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qrt_tn.engine.backends import device_memory, namespace, resolve, to_host
from qrt_tn.engine.batches import ELEMENT, batch_bytes
from qrt_tn.engine.cost import repeated_flops
from qrt_tn.engine.exponents import on_host, scaled
from qrt_tn.engine.expression import Expression
from qrt_tn.engine.limit import within
from qrt_tn.engine.network import Index, Term, common_dtype, read_structure
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.planning import plan
from qrt_tn.engine.progress import shown
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.tree import Path

_USUAL = 64  # elements for which a path is looked for: what all share then costs little
# operations for each element and tensor; below, a better path saves less than its search takes
_WORTH_A_SEARCH = 10**5


class Picked:
    """Contracts a network with some indices fixed, to other values for every element.

    Tensors that hold such an index are gathered at its values, with an axis of elements in the place of its
    own; whatever depends on none of them is contracted once for all batches. Batches are sized to memory.

    Args:
        inputs: the indices of every tensor.
        output: the indices of the result of one element, none of them picked.
        sizes: the extent of every index.
        arrays: one for each tensor; NumPy's, or the backend's own.
        picked: the indices that elements fix; each on at least one tensor.
        path: a linear path to take, unless an element costs so much by it that another is looked for; left
            out, one always is.
        backend: as `qrt_tn.engine.plan.Plan.execute`.
        memory_limit: bytes for one batch; left out, as `qrt_tn.engine.batches.execute_many`.

    Raises:
        ValueError: a malformed network, a picked index that is in the output or on no tensor, arrays that do
            not fit, or a memory limit that not even one element meets, sliced as far as may be.
    """

    def __init__(
        self,
        inputs: Sequence[Term],
        output: Term,
        sizes: Mapping[Index, int],
        arrays: Sequence[Any],
        picked: Sequence[Index],
        *,
        path: Path | None = None,
        backend: str = "numpy",
        memory_limit: int | None = None,
    ) -> None:
        terms, kept, sizes = read_structure((inputs, output, sizes))
        columns = {index: column for column, index in enumerate(picked)}
        held = {index for term in terms for index in term}
        for index in columns:
            if index in kept or index not in held:
                raise ValueError(f"picked index {index!r} is in the output, or on no tensor of the network")
        for number, (term, array) in enumerate(zip(terms, arrays, strict=True)):
            if array.shape != tuple(sizes[index] for index in term):
                raise ValueError(f"array {number} has shape {array.shape}, which does not fit its indices")
        self._held: tuple[Plan, Expression] | None = None
        self._fit: tuple[int, tuple[int, Plan]] | None = None  # the last count and what fits it
        self._limit = memory_limit
        self._dtype = common_dtype([array.dtype for array in arrays])
        # which columns each tensor is picked at, where they are along its axes, and its array
        self._chosen = [[columns[index] for index in term if index in columns] for term in terms]
        self._arrays: list[Any] = []
        left = []
        for term, array in zip(terms, arrays, strict=True):
            axes = [axis for axis, index in enumerate(term) if index in columns]
            self._arrays.append(_front(array, axes))
            rest = tuple(index for index in term if index not in columns)
            left.append((ELEMENT, *rest) if axes else rest)
        extents = {**sizes, ELEMENT: _USUAL}
        whole = (ELEMENT, *kept)
        found = None
        if path is not None:
            steps = tuple(tuple(step) for step in path)
            found = Plan(tuple(left), whole, extents, steps, (), self._dtype, batch=(ELEMENT,))
        if found is None or self._flops(found) > _WORTH_A_SEARCH * _USUAL * len(left):
            searched = plan((left, whole, extents), dtype=self._dtype, batch_inds=(ELEMENT,))
            found = searched if found is None else min(found, searched, key=self._flops)
        self._recipe: Plan = found
        self._on(backend)

    def to(self, backend: str) -> "Picked":
        """A copy whose arrays live on a backend, where it is contracted."""
        if resolve(backend) == self._backend:
            return self
        moved = copy.copy(self)
        xp = namespace(backend)
        moved._arrays = [xp.asarray(to_host(array)) for array in self._arrays]
        moved._on(backend)
        return moved

    def __call__(self, values: np.ndarray) -> Scaled:
        """Contract for every row.

        Args:
            values: ints, each within the extent of its index; shape (N, K), columns in the order of `picked`.

        Returns:
            Shape (N, *output), on the host, with one log-scale for each element.

        Raises:
            ValueError: not even one element fits in memory; the message says the least that would do.
        """
        count = len(values)
        size, recipe = self.fitted(count)
        expression = self._ready(recipe)
        parts = []
        with shown(None, count, "elements") as tell:
            for start in range(0, count, size):
                chunk = values[start : start + size]
                rows = len(chunk)
                if rows < size:  # filled up, so that all batches are alike
                    chunk = np.concatenate([chunk, np.repeat(chunk[-1:], size - rows, axis=0)])
                mantissa, exponent = on_host(expression.part(self._gathered(chunk)))
                exponent = np.broadcast_to(exponent, (size, *(1,) * (mantissa.ndim - 1)))
                parts.append((mantissa[:rows], exponent[:rows]))
                tell(start + rows, count)
        mantissa, exponent = (np.concatenate([part[half] for part in parts]) for half in (0, 1))
        return scaled((mantissa, exponent))

    def fitted(self, count: int) -> tuple[int, Plan]:
        """The size of equal batches that fit in memory, and what is contracted for one of them."""
        if self._fit is None or self._fit[0] != count:
            self._fit = count, self._found(count)
        return self._fit[1]

    def _found(self, count: int) -> tuple[int, Plan]:
        free = device_memory(self._backend)[1] if self._limit is None else self._limit
        limit = batch_bytes(self._backend) if self._limit is None else self._limit
        size = count
        while True:
            recipe = self._sized(size)
            # gathered arrays are counted in it; beside them only the arrays that they come from
            if recipe.peak_bytes <= limit or size == 1:
                break
            size = max(1, min(size - 1, int(size * limit / recipe.peak_bytes)))
        if size == 1 and free is not None and recipe.peak_bytes > free:
            return 1, within(recipe, free, 0, may_change_path=True)
        size = math.ceil(count / math.ceil(count / size))
        return size, self._sized(size)

    def multiply_adds(self, count: int) -> float:
        """What contracting so many elements takes, of the arrays' numbers."""
        size, recipe = self.fitted(count)
        return self._flops(recipe) / 2 * math.ceil(count / size)

    @property
    def gathered_bytes(self) -> int:
        """Bytes that are gathered for one element."""
        elements = sum(
            math.prod(array.shape[len(chosen) :])
            for array, chosen in zip(self._arrays, self._chosen, strict=True)
            if chosen
        )
        return elements * np.dtype(self._dtype).itemsize

    def _on(self, backend: str) -> None:
        self._backend = resolve(backend)
        self._xp = namespace(backend)
        self._arrays = [self._xp.asarray(array) for array in self._arrays]
        self._held = None
        self._fit = None

    def _flops(self, recipe: Plan) -> int:
        """Of one batch, once what all share is done."""
        return repeated_flops(
            recipe.program, [number for number, chosen in enumerate(self._chosen) if not chosen]
        )

    def _sized(self, size: int) -> Plan:
        if self._recipe.sizes[ELEMENT] != size:
            self._recipe = replace(self._recipe, sizes={**self._recipe.sizes, ELEMENT: size})
        return self._recipe

    def _ready(self, recipe: Plan) -> Expression:
        """The recipe bound to the arrays that are the same for all elements."""
        if self._held is None or self._held[0] != recipe:
            if self._held is not None:
                self._held[1].close()
            fixed = zip(self._arrays, self._chosen, strict=True)
            constants = {number: array for number, (array, chosen) in enumerate(fixed) if not chosen}
            self._held = recipe, Expression(recipe, self._backend, constants=constants)
        return self._held[1]

    def _gathered(self, values: np.ndarray) -> list[Any]:
        columns = self._xp.asarray(np.ascontiguousarray(values.T))
        return [
            array[tuple(columns[column] for column in chosen)]
            for array, chosen in zip(self._arrays, self._chosen, strict=True)
            if chosen
        ]


def _front(array: Any, axes: Sequence[int]) -> Any:
    """The array with these axes first, in their order."""
    return array.transpose([*axes, *(axis for axis in range(array.ndim) if axis not in axes)])
