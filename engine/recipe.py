"""What is contracted and in which steps, and what that costs: all of a plan but how to run it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from qrt_tn.engine.cost import Cost, cost_of, program_slices
from qrt_tn.engine.exponents import real_bytes
from qrt_tn.engine.paths import check_path
from qrt_tn.engine.program import Program, compile_program
from qrt_tn.engine.structure import DTYPES, Index, Term, batch_indices, read_structure


@dataclass(frozen=True, repr=False)
class Recipe:
    """The data of a plan; `qrt_tn.engine.plan.Plan` adds what people do with it.

    Its attributes are described there.

    Raises:
        ValueError: an index without a size, an output index on no tensor, a path that does not fit the
            tensors, slices or a batch that name an unknown index, or an unknown dtype.
    """

    inputs: tuple[Term, ...]
    output: Term
    sizes: Mapping[Index, int]
    path: tuple[tuple[int, ...], ...]
    slices: Term = ()
    dtype: str = "complex128"
    merged: Mapping[Index, Index] = field(default_factory=dict)
    claims: tuple[tuple[int, Index, Index], ...] = ()
    batch: Term = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        structure = read_structure((self.inputs, self.output, self.sizes))
        for name, value in zip(("inputs", "output", "sizes"), structure, strict=True):
            object.__setattr__(self, name, value)
        check_path(self.path, len(self.inputs))
        for index in self.slices:
            if index not in self.sizes or index in self.merged or self.slices.count(index) > 1:
                raise ValueError(
                    f"slices {self.slices} name {index!r} twice, or no tensor of the network does"
                )
        if self.batch is None:
            object.__setattr__(self, "batch", batch_indices(self.terms, self.output))
        for index in self.batch:
            if index not in self.output:
                raise ValueError(f"batch index {index!r} is not in the output {self.output}")
        # in the output's order, which is that of its log-scales
        object.__setattr__(self, "batch", tuple(index for index in self.output if index in self.batch))
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}")

    @property
    def terms(self) -> tuple[Term, ...]:
        """The indices of every tensor once merged indices are one."""
        if not self.merged:
            return self.inputs
        return tuple(tuple(self.merged.get(index, index) for index in term) for term in self.inputs)

    @cached_property
    def program(self) -> Program:
        """The steps, with axis orders decided."""
        return compile_program(
            self.terms, self.output, self.sizes, self.path, self.slices, self.batch, real_bytes(self.dtype)
        )

    @cached_property
    def _cost(self) -> Cost:
        return cost_of(self.program)

    @property
    def flops(self) -> int:
        """Operations over all slices, as opt_einsum counts them: a multiply and an add are two."""
        return self._cost.flops

    @property
    def largest(self) -> int:
        """Elements of the largest intermediate of one slice."""
        return self._cost.largest

    @property
    def peak_bytes(self) -> int:
        """Bytes held at the worst moment: operands, intermediates of a slice, copies made on the way."""
        return self._cost.peak * np.dtype(self.dtype).itemsize

    @property
    def slice_count(self) -> int:
        """How many slices there are to contract; 1 without slicing."""
        return program_slices(self.program)

    def __getstate__(self) -> dict[str, Any]:
        # an expression holds what belongs to this process
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}
