"""A plan bound to a backend: the executors behind one interface."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import refuse_partial
from qrt_tn.engine.backends import array_module, namespace, resolve
from qrt_tn.engine.execute import PairwiseExpression
from qrt_tn.engine.exponents import MOST_AXES, Part, add, real_bytes, scaled
from qrt_tn.engine.mpi import choose_device, reduce_slices
from qrt_tn.engine.network import common_dtype, dtype_name
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.progress import shown, silent
from qrt_tn.engine.scaled import Scaled


class Expression:
    """A plan ready for many calls; `qrt_tn.engine.Plan.expression` makes it.

    Args:
        plan: what to contract.
        backend: "numpy", "cupy", "cuquantum", or "auto".
        constants: arrays by tensor number that never change; steps among them are done once. They are not
            copied: do not write to them.
        dtype: what operands are cast to; the plan's own by default.
        compute: cuTensorNet's compute type; None for the dtype's own.
        memory_limit: bytes of device memory that cuTensorNet may use.
        comm: an mpi4py communicator over whose ranks slices are spread.
        entrywise: whether entries count that are negligible beside the largest of their batch element; if
            not, they may become 0, and `part` has one exponent for each element in any case.
        tune: whether cuTensorNet tunes its kernels before their first run, which makes a first call four
            times as long and all later ones alike; if not, before their second.

    Raises:
        ValueError: an unknown tensor number, dtype or compute type, a wrong shape, a backend missing here, an
            output of more than 64 indices.
    """

    def __init__(
        self,
        plan: Plan,
        backend: str = "auto",
        *,
        constants: Mapping[int, Any] | None = None,
        dtype: str | None = None,
        compute: str | None = None,
        memory_limit: int | None = None,
        comm: Any = None,
        entrywise: bool = True,
        tune: bool = True,
    ) -> None:
        self.plan = plan
        self.backend = resolve(backend)
        self.dtype = plan.dtype if dtype is None else dtype_name(dtype)
        if compute is not None and self.backend != "cuquantum":
            raise ValueError(f"compute {compute!r} is cuTensorNet's; backend {self.backend!r} has no choice")
        self._dtype = np.dtype(self.dtype)
        self._kind = namespace(self.backend).ndarray
        if len(plan.output) > MOST_AXES:
            raise ValueError(
                f"output of {len(plan.output)} indices: an array has {MOST_AXES} axes at most; keep fewer, "
                "or fix some of them by one-hot vectors"
            )
        if not isinstance(constants, Mapping | None):
            raise TypeError(f"constants is {constants!r}; give a dict of arrays by tensor number")
        constants = dict(constants or {})
        for number in constants:
            if isinstance(number, bool | float) or number not in range(len(plan.inputs)):
                raise ValueError(f"constant {number} is no tensor of a plan of {len(plan.inputs)} tensors")
        self._shapes = [tuple(plan.sizes[index] for index in term) for term in plan.inputs]
        self._varying = [number for number in range(len(self._shapes)) if number not in constants]
        constants = {number: self._check(number, array) for number, array in constants.items()}
        self._options = {
            "constants": constants,
            "dtype": self.dtype,
            "compute": compute,
            "memory_limit": memory_limit,
            "entrywise": entrywise,
            "tune": tune,
        }
        self._comm = comm
        self._entrywise, self._tune = entrywise, tune
        self._executor = self._build(constants, compute, memory_limit)

    def _build(self, constants: dict[int, Any], compute: str | None, memory_limit: int | None) -> Any:
        plan = self.plan
        choose_device(self._comm)
        if self.backend == "cuquantum":
            from qrt_tn.engine.cutensornet import CuTensorNetExpression

            return CuTensorNetExpression(
                plan,
                self.dtype,
                compute=compute,
                memory_limit=memory_limit,
                constants=constants,
                entrywise=self._entrywise,
                spread=self._comm is not None,
                tune=self._tune,
            )
        return PairwiseExpression(
            plan.program, namespace(self.backend), self.dtype, constants, entrywise=self._entrywise
        )

    def __call__(self, arrays: Sequence[Any]) -> Scaled:
        """Contract with these operands.

        Args:
            arrays: one per tensor that is not constant, in the plan's order.

        Raises:
            ValueError: a wrong number of arrays or a wrong shape, another precision than the expression's,
                or NaN or infinity in an array on the host.
        """
        return scaled(self.part(arrays))

    def part(self, arrays: Sequence[Any]) -> Part:
        """As calling it, but (mantissa, exponent), the value being mantissa * 2**exponent."""
        slices = self.plan.slice_count
        if self._comm is None and (slices == 1 or self.backend == "cuquantum"):
            return self._executor(self._operands(arrays))
        share: Callable[[range], Part] | None = None

        def contract_range(chosen: range) -> Part:
            # bad operands on one rank are found here, where all ranks learn of it
            nonlocal share
            if share is None:
                share = self._executor.shares(self._operands(arrays))
            return share(chosen)

        lead = self._comm is None or self._comm.Get_rank() == 0
        with shown(None if lead else silent, slices, "slices") as tell:
            # groups of slices in a fixed order, so that one process and many ranks give the same bits
            total = partial(add, entries=self._entrywise)
            return reduce_slices(slices, contract_range, total, self._comm, progress=tell)

    def close(self) -> None:
        """Give back what the backend holds; the expression is of no use afterwards."""
        if hasattr(self._executor, "close"):
            self._executor.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._comm is not None:
            raise TypeError("an expression over MPI ranks belongs to its process; pickle its plan")
        return _expression, (self.plan, self.backend, self._options)

    def __enter__(self) -> "Expression":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _operands(self, arrays: Sequence[Any]) -> list[Any]:
        if len(arrays) != len(self._varying):
            raise ValueError(
                f"got {len(arrays)} arrays for {len(self._varying)} tensors that are not constant"
            )
        operands: list[Any] = [None] * len(self._shapes)
        dtype, shapes = self._dtype, self._shapes
        for number, array in zip(self._varying, arrays, strict=True):
            # (a masked array has a dtype and a shape too)
            known = type(array) is self._kind and array.dtype is dtype and array.shape == shapes[number]
            operands[number] = array if known else self._check(number, array)
        return operands

    def _check(self, number: int, array: Any) -> Any:
        array = as_operand(array, number)
        if array.shape != self._shapes[number]:
            raise ValueError(f"array {number} has shape {array.shape}; the plan wants {self._shapes[number]}")
        if array.dtype != self._dtype:
            found = common_dtype([array.dtype])
            if array.dtype.kind in "fc" and real_bytes(found) != real_bytes(self.dtype):
                raise ValueError(
                    f"mixed dtypes: array {number} is {array.dtype.name} and the expression {self.dtype}; "
                    "cast the array, or make the expression with another dtype"
                )
            if array.dtype.kind == "c" and np.dtype(self.dtype).kind != "c":
                raise ValueError(
                    f"array {number} is {array.dtype.name} and the expression {self.dtype}; make the "
                    "expression with a complex dtype"
                )
        return array


def as_operands(arrays: Any) -> list[Any]:
    """The operands of a plan as arrays; see `as_operand`.

    Raises:
        TypeError: something that is no sequence of arrays.
    """
    if not isinstance(arrays, Iterable):
        raise TypeError(f"arrays is {arrays!r}; give a sequence with one array for each tensor")
    return [as_operand(array, number) for number, array in enumerate(arrays)]


def as_operand(array: Any, number: int) -> Any:
    """An operand as an array of NumPy or CuPy.

    Raises:
        TypeError: a sparse or a masked array, of which a contraction would see only a part.
    """
    refuse_partial(array, f"array {number}")
    return array if array_module(array) is not np else np.asarray(array)


def _expression(plan: Plan, backend: str, options: dict[str, Any]) -> Expression:
    return Expression(plan, backend, **options)
