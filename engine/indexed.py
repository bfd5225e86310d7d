"""One network for many elements, each of which takes values of its own at some of the indices."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import as_array, check_whole
from qrt_tn.engine.backends import namespace, resolve, to_host
from qrt_tn.engine.batched import ELEMENT, contracted, fitted, joined
from qrt_tn.engine.cost import repeated_flops
from qrt_tn.engine.expression import Expression
from qrt_tn.engine.network import Index, Term, common_dtype, read_structure
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.planning import plan
from qrt_tn.engine.progress import shown
from qrt_tn.engine.scaled import Scaled
from qrt_tn.engine.tree import Path

_USUAL = 64  # elements for which a path is looked for: what all share then costs little
# operations for each element and tensor; below, a better path saves less than its search takes
_WORTH_A_SEARCH = 10**5


class IndexedContraction:
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
        memory_limit: bytes for one batch; left out, as `qrt_tn.engine.plan.Plan.execute_many`.

    Raises:
        ValueError: a malformed network, a picked index that is in the output or on no tensor, arrays that do
            not fit, or a memory limit that is no whole number.

    Example:
        >>> import numpy as np
        >>> from qrt_tn.engine.indexed import IndexedContraction
        >>> matrix = np.arange(6.0).reshape(2, 3)
        >>> at = IndexedContraction([("i", "j"), ("j",)], (), {"i": 2, "j": 3}, [matrix, np.ones(3)], ["i"])
        >>> at([[1], [0]]).value()
        array([12.,  3.])
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
        if memory_limit is not None:
            check_whole("memory_limit", memory_limit)
        if len(arrays) != len(terms):
            raise ValueError(f"got {len(arrays)} arrays for {len(terms)} tensors")
        columns = {index: column for column, index in enumerate(picked)}
        for index in columns:
            if index in kept or index not in sizes:
                raise ValueError(f"picked index {index!r} is in the output, or on no tensor of the network")
        for number, (term, array) in enumerate(zip(terms, arrays, strict=True)):
            if array.shape != tuple(sizes[index] for index in term):
                raise ValueError(f"array {number} has shape {array.shape}, which does not fit its indices")
        self._extents = {index: sizes[index] for index in picked}
        self._limit = memory_limit
        self._dtype = common_dtype([array.dtype for array in arrays])
        # which columns each tensor is picked at, and its array with those axes first
        self._columns = [[columns[index] for index in term if index in columns] for term in terms]
        self._arrays: list[Any] = []
        left = []
        for term, array in zip(terms, arrays, strict=True):
            chosen = [axis for axis, index in enumerate(term) if index in columns]
            others = [axis for axis, index in enumerate(term) if index not in columns]
            self._arrays.append(array.transpose([*chosen, *others]))
            left.append((*([ELEMENT] if chosen else []), *(term[axis] for axis in others)))
        network = (tuple(left), (ELEMENT, *kept), {**sizes, ELEMENT: _USUAL})
        found = None
        if path is not None:
            steps = tuple(tuple(step) for step in path)
            found = Plan(*network, steps, (), self._dtype, batch=(ELEMENT,))
        if found is None or self._flops(found) > _WORTH_A_SEARCH * _USUAL * len(left):
            searched = plan(network, dtype=self._dtype, batch_inds=(ELEMENT,))
            found = searched if found is None else min(found, searched, key=self._flops)
        self._plan: Plan = found
        self._bound: tuple[Plan, Expression] | None = None
        self._fit: tuple[int, Plan] | None = None  # the last count and what fits it
        self._place(backend)

    def to(self, backend: str) -> "IndexedContraction":
        """A copy whose arrays live on a backend, where it is contracted."""
        if resolve(backend) == self._backend:
            return self
        moved = copy.copy(self)
        moved._arrays = [to_host(array) for array in self._arrays]
        moved._place(backend)
        return moved

    def __call__(self, values: Any) -> Scaled:
        """Contract for every row.

        Args:
            values: ints, each within the extent of its index; shape (N, K), columns in the order of `picked`.

        Returns:
            Shape (N, *output), on the host, with one log-scale for each element.

        Raises:
            ValueError: no ints, another shape, a value outside its extent, or not even one element fits in
                memory; the message says the least that would do.
        """
        values = self._check(values)
        count = len(values)
        size, made = self.fitted(count)
        expression = self._bind(made)
        parts = []
        with shown(None, count, "elements") as tell:
            for start in range(0, count, size):
                chunk = values[start : start + size]
                rows = len(chunk)
                # filled up, so that all batches are alike
                chunk = chunk[np.minimum(np.arange(size), rows - 1)]
                parts.append(contracted(expression, self._gather(chunk), rows))
                tell(start + rows, count)
        return joined(parts)

    def fitted(self, count: int) -> tuple[int, Plan]:
        """The size of equal batches that fit in memory, and what is contracted for one of them."""
        if self._fit is None or self._fit[0] != count:
            # gathered arrays are counted in it; beside them only the arrays that they come from
            self._fit = count, fitted(self._plan, count, self._backend, self._limit)
        made = self._fit[1]
        return made.sizes[ELEMENT], made

    def multiply_adds(self, count: int) -> float:
        """What contracting so many elements takes, of the arrays' numbers."""
        size, made = self.fitted(count)
        return self._flops(made) / 2 * math.ceil(count / size)

    @property
    def gathered_bytes(self) -> int:
        """Bytes that are gathered for one element."""
        pairs = zip(self._arrays, self._columns, strict=True)
        shapes = [array.shape[len(columns) :] for array, columns in pairs if columns]
        return sum(map(math.prod, shapes)) * np.dtype(self._dtype).itemsize

    def __getstate__(self) -> dict[str, Any]:
        # an expression holds what belongs to this process
        return self.__dict__ | {"_bound": None}

    def _place(self, backend: str) -> None:
        self._backend = resolve(backend)
        xp = namespace(backend)
        self._arrays = [xp.asarray(array) for array in self._arrays]
        self._bound = self._fit = None

    def _check(self, values: Any) -> np.ndarray:
        values = as_array(values, "values")
        if values.dtype.kind not in "iu" or values.ndim != 2 or values.shape[1] != len(self._extents):
            wanted = f"ints of shape (N, {len(self._extents)})"
            raise ValueError(f"values have dtype {values.dtype} and shape {values.shape}; give {wanted}")
        if len(values) == 0:
            raise ValueError(f"values have shape {values.shape}; give at least one row")
        for (index, extent), column in zip(self._extents.items(), values.T, strict=True):
            for value in (column.min(), column.max()):
                if not 0 <= value < extent:
                    raise ValueError(f"values hold {value} for index {index!r}; give 0 to {extent - 1}")
        return values

    def _flops(self, made: Plan) -> int:
        """Of one batch, once what all share is done."""
        return repeated_flops(
            made.program, [number for number, columns in enumerate(self._columns) if not columns]
        )

    def _bind(self, made: Plan) -> Expression:
        """The plan bound to the arrays that are the same for all elements."""
        if self._bound is None or self._bound[0] != made:
            if self._bound is not None:
                self._bound[1].close()
            pairs = enumerate(zip(self._arrays, self._columns, strict=True))
            constants = {number: array for number, (array, columns) in pairs if not columns}
            self._bound = made, Expression(made, self._backend, constants=constants)
        return self._bound[1]

    def _gather(self, values: np.ndarray) -> list[Any]:
        columns = namespace(self._backend).asarray(np.ascontiguousarray(values.T))
        return [
            array[tuple(columns[column] for column in chosen)]
            for array, chosen in zip(self._arrays, self._columns, strict=True)
            if chosen
        ]
