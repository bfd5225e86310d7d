"""The cuQuantum executor: a plan's own path and slices, contracted by cuTensorNet.

Operands live in device buffers made once; a call copies new values into them, launches, and gives a fresh
result. Everything is stream-ordered on CuPy's current stream; calls of one expression belong on one stream.

**Scale.** cuTensorNet has no exponents. Two means stand in for them (`qrt_tn.engine.segments` has the proof):

- Balance. Every operand is multiplied by a power of two, one for each batch element that it holds, so that
  its Frobenius norm lies in [1/2, 1). No entry of any intermediate then exceeds 1: nothing overflows,
  whatever the values. What underflow can take from a result is at most a number E known beforehand. A result
  whose peak is at least E / eps, in each of its batch elements, is accurate to rounding: proven. The check
  is one flag per segment, and one copy of the flags to the host per call.
- Segments. Where the estimate says that the norm would fall too far, the tree is cut into segments, each a
  network of its own, and the result of each is balanced before it enters the next. A segment that fails its
  check is cut in two, the call is repeated, and the cut stays for later calls. A single step is always
  accepted: what its operands hold below the least normal number times their norm is zero there. A call of
  single steps only needs no check and never waits for the device.

An amplitude that is exactly zero by cancellation fails the check like an underflow; the cuts then close in on
the step where the zero arises, so networks full of structural zeros end up with many small segments.

**Slices.** The library loops over the slices itself if all that depends on them is the last segment and no
sliced index is kept. Otherwise, and for shares of the slices, the loop is here: every slice is balanced anew,
and slices are added with aligned exponents. The library's numbering of slices is not used, since it does not
say which values a number stands for. Segments without sliced indices are computed once for all slices, and
segments of constants alone once for all calls.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from qrt_tn.engine.balance import NOTHING, Batch, Stack
from qrt_tn.engine.execute import assignments, at
from qrt_tn.engine.exponents import Part, add
from qrt_tn.engine.mpi import cutensornet_distributed
from qrt_tn.engine.network import numbered
from qrt_tn.engine.segmented import CONSTANT, SLICED, VARIABLE, SegmentedContraction
from qrt_tn.engine.segments import Segment
from qrt_tn.engine.tensornet import Library, Net
from qrt_tn.engine.tree import Index, Term


class CuTensorNetExpression:
    """A plan on cuTensorNet, for one call or many; `close` frees the device memory that it holds.

    Args:
        inputs: the indices of every tensor; any number of tensors may share one.
        output: the indices of the result, in order.
        sizes: the extent of every index.
        path: positions per step, in opt_einsum's linear format.
        slices: indices that are fixed one value at a time.
        batch: indices of the output whose values each get a scale of their own.
        dtype: float32, float64, complex64 or complex128; operands are cast to it.
        compute: "32F", "TF32" or "3XTF32" for single precision, "64F" for double; None is 32F or 64F.
        memory_limit: bytes on the device for operands, results and workspace together; None lets the
            workspace take what the library allows by default.
        constants: operands that stay, by number; what depends on them alone is computed once.
        comm: an mpi4py communicator over whose ranks the slices are spread: by the library where its MPI
            interface is present (all ranks then make the same calls), otherwise by who calls `shares`.

    Attributes:
        distributed: whether the library spreads the slices of a call over the ranks itself.

    Raises:
        ValueError: an unknown dtype or compute type, NaN or infinity in a constant, or too small a limit.
    """

    def __init__(
        self,
        inputs: Sequence[Term],
        output: Term,
        sizes: Mapping[Index, int],
        path: Sequence[Sequence[int]],
        slices: Sequence[Index] = (),
        batch: Sequence[Index] = (),
        dtype: Any = np.complex128,
        *,
        compute: str | None = None,
        memory_limit: int | None = None,
        constants: Mapping[int, Any] | None = None,
        comm: Any = None,
    ):
        constants = dict(constants or {})
        if len(inputs) == 1:
            # the library's networks have steps: a factor 1 makes one
            inputs, path = (*inputs, ()), [(0, 1)]
            constants[1] = np.ones(())
        spread = comm is not None and bool(slices)
        self._contraction = SegmentedContraction(
            tuple(tuple(term) for term in inputs),
            tuple(output),
            dict(sizes),
            path,
            tuple(slices),
            frozenset(batch),
            np.dtype(dtype),
            frozenset(constants),
            looped=spread and not cutensornet_distributed(),
        )
        self._limit = memory_limit
        self.distributed = spread and not self._contraction.looped
        self._comm = comm if self.distributed else None

        self._operands: dict[int, tuple[Stack, int]] = {}  # by number: the stack, and the place in it
        self._cut_operands: dict[int, tuple[Stack, int]] = {}  # their parts in one slice
        self._stacks: list[tuple[bool, Stack, Stack | None]] = []  # whether constant, the whole, the part
        self._scales: dict[int, Any] = {}  # by rank: of all that is computed at most so often
        self._low: dict[int, Any] = {}  # flags of segments that ran since the last check
        self._nets: dict[tuple[Segment, bool], Net] = {}
        self._ready = False
        self._loaded: object = None  # the call whose operands the buffers hold

        self._library: Library | None = Library(dtype, compute, self._comm)
        import cupy

        self._cupy = cupy
        try:
            self._batch = Batch(cupy, np.dtype(dtype), tuple(batch))
            self._taken()  # before anything is allocated
            self._allocate()
            self._constant_scale = self._filled(constants, constant=True)
            self._build(self._library)
        except BaseException:
            self.close()
            raise

    @property
    def segment_count(self) -> int:
        """How many networks the plan is cut into at present."""
        return len(self._contraction.segments)

    def __call__(self, arrays: Sequence[Any]) -> Part:
        """Contract.

        Args:
            arrays: one per tensor, NumPy or CuPy; what stands in a constant's place is not looked at.

        Returns:
            (mantissa, exponent) on the device: the value is mantissa * 2**exponent; exponent is int64 and
            broadcasts to the mantissa, with an extent of its own where an axis is a batch index or sliced.

        Raises:
            ValueError: NaN or infinity in an array on the host.
        """
        return self._loaded_with(arrays)(range(self._contraction.slice_count))

    def shares(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """What contracts a range of slices: their sum, of the whole output's shape.

        Operands are loaded here, and what no slice changes is computed once. Slice numbers count over the
        values of the sliced indices, the last fastest.

        Args:
            arrays: as for a call.

        Raises:
            ValueError: as a call, or the library spreads the slices itself.
        """
        if self.distributed:
            raise ValueError("cuTensorNet spreads the slices over the ranks of comm itself; leave comm out")
        if self._contraction.slices and not self._contraction.looped:
            self._contraction.looped, self._ready = True, False
        return self._loaded_with(arrays)

    def close(self) -> None:
        """Wait for the device and free all that is held there; further calls are refused."""
        library, self._library = self._library, None
        if library is None:
            return
        with self._cupy.cuda.Device(library.device) as device:
            device.synchronize()
            for net in self._nets.values():
                net.free()
            library.close()
        # the buffers are CuPy's, and go back to its pool
        for held in (self._nets, self._operands, self._cut_operands, self._scales, self._low):
            held.clear()
        self._stacks.clear()

    def __del__(self) -> None:
        # a constructor may have failed early, and at the interpreter's end nothing may be left to free with
        with suppress(Exception):
            self.close()

    # -- device memory and networks

    def _taken(self) -> int:
        taken = self._contraction.bytes_taken()
        if self._limit is not None and taken >= self._limit:
            raise ValueError(
                f"memory_limit of {self._limit} bytes is too small: operands and results alone take "
                f"{taken}; give more, or slice more"
            )
        return taken

    def _allocate(self) -> None:
        """Make the buffers of the operands."""
        made = self._contraction
        for constant, numbers in made.groups:
            whole, part = self._stack(numbers, made.terms[numbers[0]]), None
            self._operands.update({number: (whole, place) for place, number in enumerate(numbers)})
            if made.ranks[numbers[0]] == SLICED:
                part = self._stack(numbers, made.unsliced(made.terms[numbers[0]]))
                self._cut_operands.update({number: (part, place) for place, number in enumerate(numbers)})
            self._stacks.append((constant, whole, part))

    def _stack(self, numbers: Sequence[int], term: Term) -> Stack:
        return Stack(self._batch, numbers, term, self._contraction.shape(term))

    def _build(self, library: Library) -> None:
        """Make the buffers and networks that the segments need and do not have; free those they had."""
        made, taken = self._contraction, self._taken()
        room = None if self._limit is None else self._limit - taken
        wanted = {(part, made.is_cut(part.result)): None for part in made.segments}
        for key in list(self._nets):
            if key not in wanted or self._nets[key].room != room:
                self._nets.pop(key).free()
        for part, cut in wanted:
            if part.result not in self._operands and part is not made.segments[-1]:
                self._operands[part.result] = (self._stack([part.result], made.term(part.result, cut=cut)), 0)
        for part, cut in wanted:
            if (part, cut) in self._nets:
                continue
            held = [
                self._cut_operands[number] if cut and number in self._cut_operands else self._operands[number]
                for number in part.operands
            ]
            self._nets[part, cut] = library.network(
                [stack.operand(place) for stack, place in held],
                [made.term(number, cut=cut) for number in part.operands],
                made.term(part.result, cut=cut),
                part.path(made.tree),
                made.slices if made.ranks[part.result] == SLICED and not cut else (),
                room,
                taken,
            )
        self._floors = made.floors()
        self._ready = True

    # -- one call

    def _loaded_with(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """Load operands, for a contraction of any slices (of all, where the library loops over them)."""
        call = object()

        def contract(chosen: range) -> Part:
            count = self._contraction.slice_count
            if not chosen or min(chosen) < 0 or max(chosen) >= count:
                raise ValueError(f"{chosen} are no slices of the plan's {count}, numbered from 0")
            library = self._opened()
            with self._cupy.cuda.Device(library.device):
                if self._loaded is not call:
                    self._load(call, arrays)  # another call has taken the buffers
                while True:
                    if not self._ready:
                        self._build(library)
                    result = self._attempt(chosen)
                    failing = self._failing()
                    if not failing:
                        return result
                    self._ready = False
                    for rank in range(self._contraction.split(failing), SLICED):
                        self._scales.pop(rank, None)

        with self._cupy.cuda.Device(self._opened().device):
            self._load(call, arrays)
        return contract

    def _opened(self) -> Library:
        if self._library is None:
            raise ValueError("this expression is closed; make a new one")
        return self._library

    def _load(self, call: object, arrays: Sequence[Any]) -> None:
        self._loaded = None
        self._scales.pop(VARIABLE, None)
        self._variable_scale = self._filled(arrays, constant=False)
        self._loaded = call

    def _filled(self, arrays: Any, *, constant: bool) -> Any:
        """Fill the operands' buffers; the scale of all of them together."""
        scale = self._batch.unscaled()
        for here, stack, _ in self._stacks:
            if here == constant:
                scale = scale + stack.fill([self._array(number, arrays[number]) for number in stack.numbers])
                scale = scale + sum(map(self._contraction.halvings, stack.numbers))
        return scale

    def _array(self, number: int, array: Any) -> Any:
        """An operand with its repeated indices once, and summed over those that nothing else holds."""
        xp = self._cupy if isinstance(array, self._cupy.ndarray) else np
        array = array if xp is self._cupy else np.asarray(array)
        given, term = self._contraction.inputs[number], self._contraction.terms[number]
        if given == term:
            return array
        names = numbered([given])
        wide = array.astype(np.result_type(array.dtype, np.float64))
        # first, since a sum of large numbers may overflow
        wide *= 2.0 ** -self._contraction.halvings(number)
        return xp.einsum(wide, [names[index] for index in given], [names[index] for index in term])

    def _attempt(self, chosen: range) -> Part:
        """Contract with the segments as they are; flags of what fell too low go to `_low`."""
        made = self._contraction
        if CONSTANT not in self._scales:
            self._scales[CONSTANT] = self._run(made.of_rank(CONSTANT), self._constant_scale)
        last = made.segments[-1]
        if VARIABLE not in self._scales:
            inner = [part for part in made.of_rank(VARIABLE) if part is not last]
            self._scales[VARIABLE] = self._run(inner, self._scales[CONSTANT] + self._variable_scale)
        if made.looped:
            return self._sum_of_slices(chosen, self._scales[VARIABLE])
        return self._finish(last, self._scales[VARIABLE])

    def _run(self, parts: Sequence[Segment], scale: Any) -> Any:
        """Run segments; their results go, balanced, to the operand buffers of others."""
        for part in parts:
            stack, _ = self._operands[part.result]
            taken, peak = stack.take(self._result(part))
            if part.result in self._floors:
                self._flag(part, peak, scale)
            scale = scale + taken
        return scale

    def _finish(self, last: Segment, scale: Any) -> Part:
        """Run the last segment, for all slices or for one."""
        output = self._contraction.term(last.result, cut=self._contraction.is_cut(last.result))
        result = self._result(last)
        if last.result in self._floors:
            self._flag(last, self._batch.peak(result, output), scale)
        return result, self._batch.spread(scale, self._contraction.output, output)

    def _result(self, part: Segment) -> Any:
        # networks that take turns share one workspace through the pool
        net = self._nets[part, self._contraction.is_cut(part.result)]
        return net.run(release=len(self._nets) > 1)

    def _flag(self, part: Segment, peak: Any, scale: Any) -> None:
        """Note whether any batch element that is not zero already is too small to be proven."""
        xp = self._cupy
        flag = xp.any(xp.logical_and(peak < self._floors[part.result], scale > NOTHING // 2))
        before = self._low.get(part.result)
        self._low[part.result] = flag if before is None else xp.logical_or(before, flag)

    def _failing(self) -> set[int]:
        """Segments whose result may have lost digits to underflow; this waits for the device."""
        if not self._low:
            return set()
        flags = self._cupy.stack(list(self._low.values())).get()
        found = {number for number, flag in zip(self._low, flags, strict=True) if flag}
        self._low.clear()
        if self._comm is not None:
            # ranks that differ in a last digit must still make the same cuts
            found = set().union(*self._comm.allgather(found))
        return found

    def _sum_of_slices(self, chosen: range, whole: Any) -> Part:
        xp, made, batch = self._cupy, self._contraction, self._batch.indices
        *inner, last = made.of_rank(SLICED)
        places = {index: place for place, index in enumerate(made.slices)}

        def axes(term: Term) -> list[int | None]:
            return [places.get(index) for index in term]

        stacks = [(stack, part, axes(stack.term)) for _, stack, part in self._stacks if part is not None]
        kept = axes(made.output)
        # an axis in front: a scalar stays an array
        mantissa = xp.zeros((1, *made.shape(made.output)), dtype=made.dtype)
        own = {*batch, *made.slices}
        extents = (made.sizes[index] if index in own else 1 for index in made.output)
        exponent = xp.zeros((1, *extents), dtype=np.int64)
        for values in assignments(made.shape(made.slices), chosen):
            scale = self._batch.cut(whole, {index: values[place] for index, place in places.items()})
            for stack, part, sliced in stacks:
                scale = scale + part.cut(stack, at(sliced, values))
            result, shift = self._finish(last, self._run(inner, scale))
            where = (slice(None), *at(kept, values))
            total = add((mantissa[where], exponent[where]), (result[None], shift[None]))
            mantissa[where], exponent[where] = total
        return mantissa[0], exponent[0]
