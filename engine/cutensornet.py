"""Contract plans with cuTensorNet: operands of norm 1, subnetworks, one check a call, CuPy where it fails.

cuTensorNet has no exponents, so numbers could leave the range of floating point on the way. Operands are
therefore scaled by powers of two to a Frobenius norm in [1/2, 1), and the contraction tree is cut into
subnetworks, whose results are scaled again before they enter the next one. `qrt_tn.engine.subnetworks` proves
that nothing overflows, and that what underflow takes from a result is less than what rounding takes from its
entries above a `floor` that is known beforehand.

**The check.** Results are compared with their floors on the device (of the last one not the largest entry but
every entry), and operands searched for entries so far below the largest that scaling takes them below the
normal numbers. The answer is copied to the host once a call. Where digits may be lost (a result that is zero,
or far smaller than its operands; entries too far apart), CuPy repeats the call, and does the calls after it.

**Slices.** cuTensorNet loops over the slices itself if only the last subnetwork depends on them and no sliced
index is kept. Otherwise the loop is here: every slice is scaled by itself, and slices are added with aligned
exponents. What no slice changes is computed once a call, what depends on constants alone once.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from qrt_tn.engine import arithmetic
from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.execute import PairwiseExpression, SliceSum, assignments, grid_at
from qrt_tn.engine.exponents import Part, real_bytes
from qrt_tn.engine.network import Term, numbered
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.subnetworks import Subnetwork, divide, floor
from qrt_tn.engine.tree import Tree, contraction_tree

COMPUTE = {4: ("32F", "TF32", "3XTF32"), 8: ("64F",)}  # compute types by bytes of the real type
CONSTANT, VARIABLE, SLICED = range(3)  # how often a tensor is computed: once, per call, per slice
ZERO = -(2**40)  # the exponent of exact zeros: below any sum of others, and int64 holds the sum of millions
ALIGNMENT = 256  # bytes; operands start at multiples, as allocations of their own would

Shape = tuple[int, ...]

_log = logging.getLogger(__name__)
_State = tuple[Any, Any]  # exponents taken out so far, an axis per batch index; whether digits were lost


class OperandBuffer:
    """Tensors of one shape side by side on the device, scaled together: one power of two per batch element.

    Args:
        xp: cupy.
        dtype: of the tensors.
        numbers: which tensors.
        shape: their extents, those of batch indices first.
        grid: the extents of their exponents: those of all batch indices, 1 for one that they do not hold.
    """

    def __init__(self, xp: Any, dtype: np.dtype, numbers: Sequence[int], shape: Shape, grid: Shape):
        self.places = {number: place for place, number in enumerate(numbers)}
        self._xp, self._shape, self._entries = xp, shape, math.prod(shape)
        self._real = np.dtype(f"f{real_bytes(dtype)}")
        self._flat = xp.zeros((len(numbers), padded(shape, dtype)), dtype=dtype)
        rows = self._flat.view(self._real)[:, : self._entries * dtype.itemsize // self._real.itemsize]
        self._rows = rows.reshape((len(numbers), *grid, -1))  # real numbers, those of an element in a row
        assert xp.may_share_memory(self._rows, self._flat)  # else scaling would change a copy

    def tensor(self, number: int) -> Any:
        """One tensor as it is now."""
        return self._flat[self.places[number], : self._entries].reshape(self._shape)

    def load(self, arrays: Sequence[Any]) -> _State:
        """Take these arrays: the sum of their exponents, and whether any entry fell below the normal numbers.

        Raises:
            ValueError: NaN or infinity, seen where looking costs nothing: on the host.
        """
        xp, flat = self._xp, self._flat
        on_host = not any(isinstance(array, xp.ndarray) for array in arrays)
        target = np.zeros(flat.shape, dtype=flat.dtype) if on_host else flat
        with np.errstate(over="ignore"):
            for row, array in zip(target, arrays, strict=True):
                row[: self._entries] = (array if on_host else xp.asarray(array)).reshape(-1)
        if on_host:
            finite = np.isfinite(target).all(axis=1)
            if not finite.all():
                number = list(self.places)[int(np.argmin(finite))]
                raise ValueError(f"array {number} holds NaN or infinity; replace it before contracting")
            flat.set(target)
        # bits tell denormal numbers from zeros also where the device flushes them
        bits = np.dtype(f"i{self._real.itemsize}")
        zeros = ((self._rows.view(bits) & np.iinfo(bits).max) == 0).sum()
        exponents = self._rescale(self._rows).sum(axis=0)
        return exponents, (xp.abs(self._rows) < np.finfo(self._real).tiny).sum() != zeros

    def take(self, result: Any, floor: float, *, entrywise: bool) -> tuple[Any, Any]:
        """Take one tensor: its exponents, and which elements are below the floor, by all entries or one."""
        sizes = self._xp.abs(result).reshape((*self._rows.shape[1:-1], -1))
        low = (sizes.min(axis=-1) if entrywise else sizes.max(axis=-1)) < floor
        return self._rescale(result.reshape(-1).view(self._real).reshape(self._rows.shape))[0], low

    def _rescale(self, source: Any) -> Any:
        """Fill the buffer with the Frobenius norm of every element brought to [1/2, 1); the exponents."""
        xp = self._xp
        peaks = xp.maximum(source.max(axis=-1), -source.min(axis=-1))  # no array of moduli in between
        first = self._exponents(peaks)
        squares = xp.ldexp(source, -first[..., None])
        xp.multiply(squares, squares, out=squares)
        exponents = first + self._exponents(xp.sqrt(squares.sum(axis=-1, dtype=np.float64)))
        xp.ldexp(source, -exponents[..., None], out=self._rows)
        return xp.where(peaks == 0, ZERO, exponents.astype(np.int64))

    def _exponents(self, values: Any) -> Any:
        usual = self._xp.logical_and(values > 0, self._xp.isfinite(values))
        return self._xp.where(usual, self._xp.frexp(values)[1], 0).astype(np.int32)


def padded(shape: Sequence[int], dtype: np.dtype) -> int:
    """Entries that a tensor takes in a buffer: its own, up to the next aligned place."""
    unit = ALIGNMENT // dtype.itemsize
    return -(-math.prod(shape) // unit) * unit


class CuTensorNetExpression:
    """A plan on cuTensorNet, for one call or many; `close` frees the device memory that it holds.

    Everything is ordered on CuPy's current stream; calls of one expression belong on one stream.

    Args:
        plan: what to contract.
        dtype: what operands are cast to.
        compute: "32F", "TF32" or "3XTF32" for single precision, "64F" for double; None is 32F or 64F.
        memory_limit: bytes on the device for operands, results and workspace together; by default the
            workspace takes what the library allows. A call that CuPy repeats takes the plan's `peak_bytes`.
        constants: operands that stay, by number; what depends on them alone is computed here, once.
        entrywise: as `qrt_tn.engine.execute.PairwiseExpression`.
        spread: whether `shares` will be asked for some of the slices at a time.
        tune: as `qrt_tn.engine.expression.Expression`.

    Attributes:
        parts: the subnetworks.
        fallback: what contracts in place of cuTensorNet once digits may be lost, else None.

    Raises:
        ValueError: an unknown compute type, NaN or infinity in a constant, or too small a limit.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: Any = np.complex128,
        *,
        compute: str | None = None,
        memory_limit: int | None = None,
        constants: Mapping[int, Any] | None = None,
        entrywise: bool = True,
        spread: bool = False,
        tune: bool = True,
    ):
        import cupy
        from cuquantum.bindings import cutensornet as bindings

        self._xp, self._bindings, self.dtype = cupy, bindings, np.dtype(dtype)
        self._handle: int | None = None
        self.fallback: PairwiseExpression | None = None
        names = COMPUTE[real_bytes(self.dtype)]
        if compute not in (None, *names):
            raise ValueError(
                f"compute is {compute!r}; for {self.dtype} choose None or one of {', '.join(names)}"
            )
        self._plan, self._program, self._tune, self._entrywise = plan, plan.program, tune, entrywise
        self._constants = dict(constants or {})
        self._device = cupy.cuda.Device().id
        self._networks: dict[Subnetwork, Any] = {}
        self._runs: dict[Subnetwork, int] = {}
        self._buffers: dict[int, OperandBuffer] = {}  # what cuTensorNet sees, by number
        self._groups: list[tuple[bool | None, OperandBuffer, OperandBuffer]] = []
        self._loaded: object = None  # the call whose operands the buffers hold
        inputs, path, fixed = plan.inputs, plan.path, dict(self._constants)
        if len(inputs) == 1:
            # the library's networks have steps: a factor 1 makes one
            inputs, path, fixed[1] = (*inputs, ()), ((0, 1),), np.ones(())
        self._divide(contraction_tree(inputs, plan.output, path), fixed, spread)
        taken = self._bytes_taken()
        if memory_limit is not None:
            check_whole("memory_limit", memory_limit)
            if memory_limit <= taken:
                raise ValueError(
                    f"memory_limit of {memory_limit} bytes is too small: operands and results take {taken}, "
                    "and cuTensorNet's workspace comes on top; give more, or slice more"
                )
        try:
            self._handle = bindings.create()
            self._allocate()
            self._connect(compute, memory_limit, taken)
            start = cupy.zeros((1,) * len(plan.batch), dtype=np.int64), cupy.zeros((), dtype=bool)
            self._constant = self._run(CONSTANT, self._load(fixed, start, constant=True))
        except BaseException:
            self.close()
            raise

    def __call__(self, arrays: Sequence[Any]) -> Part:
        """As `qrt_tn.engine.execute.PairwiseExpression`: (mantissa, exponent) on the device."""
        return self.shares(arrays)(range(self._count))

    def shares(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """What contracts a range of slices: their sum, of the whole output's shape."""
        call, count = object(), self._count
        share: Callable[[range], Part] | None = None

        def contract(chosen: range) -> Part:
            nonlocal share
            if self._handle is None and self.fallback is None:
                raise ValueError("this expression is closed; make a new one")
            if not chosen or min(chosen) < 0 or max(chosen) >= count:
                raise ValueError(f"{chosen} are no slices of the plan's {count}, numbered from 0")
            if len(chosen) < count and not self._looped:
                raise ValueError(f"{chosen} are some of {count} slices; make the expression with spread=True")
            with self._xp.cuda.Device(self._device):
                if self.fallback is None:
                    if self._loaded is not call:  # the first share, or another call has taken the buffers
                        self._loaded = None
                        state = self._load(arrays, self._constant, constant=False)
                        self._variable = self._run(VARIABLE, state)
                        self._loaded = call
                    part, lost = self._contract(chosen)
                    if not lost:  # the one moment that waits for the device
                        return part
                    self.fallback = self._pairwise()
                if share is None:
                    share = self.fallback.shares(arrays)
                return share(chosen)

        return contract

    def close(self) -> None:
        """Wait for the device and free all that is held there; further calls are refused."""
        self.fallback = None
        self._release()

    def __del__(self) -> None:
        # a constructor may have failed early, and at the interpreter's end nothing may be left to free with
        with suppress(Exception):
            self.close()

    def _release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        with self._xp.cuda.Device(self._device) as device:
            device.synchronize()
            for network in self._networks.values():
                network.free()
            self._bindings.destroy(handle)
        # buffers are CuPy's, and go back to its pool
        for held in (self._networks, self._buffers, self._groups):
            held.clear()
        self._constant = self._variable = None, None

    def _pairwise(self) -> PairwiseExpression:
        """What takes over from cuTensorNet, whose memory is freed."""
        _log.warning(
            "cuTensorNet may have lost digits to underflow (a result has zeros or is far smaller than its "
            "operands, or entries are far apart); this and later contractions run on CuPy"
        )
        self._release()
        options = (self._program, self._xp, self.dtype, self._constants)
        return PairwiseExpression(*options, entrywise=self._entrywise)

    def _divide(self, tree: Tree, fixed: Mapping[int, Any], spread: bool) -> None:
        """Cut the tree, and say of every tensor how often it is computed and in which order its axes lie."""
        plan, slices, self._tree = self._plan, set(self._plan.slices), tree
        self._count = math.prod(self._program.slices)
        # repeated indices are there once; lone ones are summed beforehand, or by the slices
        leaves = [leaf.term for leaf in self._program.leaves]
        leaves += [()] * (len(tree.leaves) - len(leaves))
        self._terms = [
            (*(i for i in plan.batch if i in term), *(i for i in term if i not in plan.batch))
            for term in (*leaves, *(pair.term for pair in tree.pairs[:-1]), plan.output)
        ]
        # how the axes given become ours
        self._orders = [
            tuple(map(given.index, term)) for given, term in zip(leaves, self._terms, strict=False)
        ]
        ranks = [
            SLICED if not slices.isdisjoint(term) else CONSTANT if number in fixed else VARIABLE
            for number, term in enumerate(leaves)
        ]
        for pair in tree.pairs:
            ranks.append(max(ranks[pair.left], ranks[pair.right]))
        element = dict(plan.sizes) | dict.fromkeys(plan.batch, 1)
        inner = element | dict.fromkeys(slices, 1)
        whole = Subnetwork(tuple(range(len(leaves))), tuple(range(len(leaves), len(ranks))))
        least = floor(tree, whole, inner, self.dtype, self._count)
        self.parts = divide(tree, ranks, element, max(1.0, -math.log2(least) / 2))
        self._ranks = {part: ranks[part.result] for part in self.parts}
        several = list(self._ranks.values()).count(SLICED) > 1
        self._looped = bool(slices) and (spread or several or not slices.isdisjoint(plan.output))
        # where the library loops, it adds up the slices, and their errors
        added = 1 if self._looped else self._count
        self._floors = {part: floor(tree, part, inner, self.dtype, added) for part in self.parts}
        groups: dict[Any, list[int]] = {}
        for number, term in enumerate(self._terms[: len(leaves)]):
            roles = tuple(index if index in plan.batch or index in slices else None for index in term)
            groups.setdefault((number in fixed, roles, self._shape(term)), []).append(number)
        # what a buffer holds: whether constants, which tensors, with which indices as a whole and in a slice
        self._layouts: list[tuple[bool | None, list[int], Term, Term]] = [
            (key[0], numbers, self._terms[numbers[0]], self._cut(numbers[0]))
            for key, numbers in groups.items()
        ]
        cuts = [(part.result, self._cut(part.result)) for part in self.parts]
        self._layouts += [(None, [number], cut, cut) for number, cut in cuts]

    def _shape(self, term: Term) -> Shape:
        return tuple(self._plan.sizes[index] for index in term)

    def _cut(self, number: int) -> Term:
        """The indices of a tensor as cuTensorNet sees it: of one slice, where slices are looped over here."""
        term, slices = self._terms[number], self._plan.slices
        return tuple(index for index in term if index not in slices) if self._looped else term

    def _bytes_taken(self) -> int:
        """Device memory besides cuTensorNet's workspace: operands, results, and copies made on the way."""

        def size(term: Term) -> int:
            return self.dtype.itemsize * padded(self._shape(term), self.dtype)

        buffers = [len(n) * size(term) for _, n, *terms in self._layouts for term in dict.fromkeys(terms)]
        results = [size(self._cut(part.result)) for part in self.parts]
        # a result is the library's, then a buffer's; the last is copied, and added to a sum by two copies
        copies = size(self._terms[-1]) + 3 * self._looped * results[-1]
        return sum(buffers) + sum(results) + copies + max(buffers)  # squares, for the norms

    def _allocate(self) -> None:
        """Make the buffers of operands and results."""
        for constant, numbers, *terms in self._layouts:
            made = []
            for term in dict.fromkeys(terms):
                grid = tuple(self._plan.sizes[index] if index in term else 1 for index in self._plan.batch)
                made.append(OperandBuffer(self._xp, self.dtype, numbers, self._shape(term), grid))
            self._groups.append((constant, made[0], made[-1]))
            self._buffers.update(dict.fromkeys(numbers, made[-1]))

    def _connect(self, compute: str | None, limit: int | None, taken: int) -> None:
        """Make cuTensorNet's networks, bound to the buffers."""
        import cuquantum
        from cuquantum import tensornet

        options = tensornet.NetworkOptions(
            compute_type=compute and getattr(cuquantum.ComputeType, f"COMPUTE_{compute}"),
            device_id=self._device,
            handle=self._handle,
            # not the root logger, which a program may have told to time every call
            logger=_log.getChild("library"),
            memory_limit="80%" if limit is None else int(limit) - taken,
            blocking="auto",
        )
        needed = 0
        for part in self.parts:
            terms = [self._cut(number) for number in part.operands]
            names = numbered(terms)  # integers: the library's string equations break at about 5,600 indices
            arguments: list[Any] = []
            for number, term in zip(part.operands, terms, strict=True):
                # the library refuses tensors without indices: a scalar gets one of extent 1, summed
                operand = self._buffers[number].tensor(number)
                labels = [names[index] for index in term] or [len(names) + number]
                arguments += [operand if term else operand.reshape(1), labels]
            arguments.append([names[index] for index in self._cut(part.result)])
            sliced = self._plan.slices if self._ranks[part] == SLICED and not self._looped else ()
            network = self._networks[part] = tensornet.Network(*arguments, options=options)
            try:
                slicing = [(names[index], 1) for index in sliced]
                network.contract_path(optimize={"path": part.path(self._tree), "slicing": slicing})
            except cuquantum.MemoryLimitExceeded as error:
                needed = max(needed, error.requirement)
        if needed:
            raise ValueError(
                f"memory_limit of {limit} bytes is too small: operands and results take {taken} and "
                f"cuTensorNet's workspace at least {needed}; give at least {taken + needed}"
            )

    def _load(self, arrays: Any, state: _State, *, constant: bool) -> _State:
        """Fill the operands' buffers."""
        exponents, lost = state
        for fixed, buffer, _ in self._groups:
            if fixed == constant:
                taken, some = buffer.load([self._arranged(n, arrays[n]) for n in buffer.places])
                exponents, lost = exponents + taken, self._xp.logical_or(lost, some)
        return exponents, lost

    def _arranged(self, number: int, array: Any) -> Any:
        """An operand as it is contracted, with batch indices first."""
        if number < len(self._program.leaves):
            xp = self._xp if isinstance(array, self._xp.ndarray) else np
            array = arithmetic.reduced(self._program.leaves[number], array, xp)
        return array.transpose(self._orders[number])

    def _run(self, rank: int, state: _State) -> _State:
        """Contract the subnetworks that are computed so often."""
        (exponents, lost), xp, several = state, self._xp, len(self.parts) > 1
        for part in (part for part in self.parts if self._ranks[part] == rank):
            network = self._networks[part]
            self._runs[part] = self._runs.get(part, 0) + 1
            # networks that take turns share one workspace through CuPy's pool
            if rank != CONSTANT and self._runs[part] == (1 if self._tune else 2):
                network.autotune(release_workspace=several)
            result = network.contract(release_workspace=several)
            entrywise = self._entrywise and part is self.parts[-1]
            taken, low = self._buffers[part.result].take(result, self._floors[part], entrywise=entrywise)
            # an element that is a product with zeros has no floor
            lost = xp.logical_or(lost, xp.any(xp.logical_and(low, exponents > ZERO // 2)))
            exponents = exponents + taken
        return exponents, lost

    def _contract(self, chosen: range) -> tuple[Part, Any]:
        """The sum of these slices, and whether digits may be lost."""
        xp, program = self._xp, self._program
        if not self._looped:
            exponents, lost = self._run(SLICED, self._variable)
            return self._result(exponents), lost
        total, (whole, lost) = SliceSum(program, xp, self.dtype), self._variable
        for values in assignments(program.slices, chosen):
            exponents = whole[grid_at(program, whole.shape, values)]
            fixed = dict(zip(self._plan.slices, values, strict=True))
            for _, buffer, cut in self._groups:
                if cut is not buffer:
                    numbers = list(cut.places)
                    where = tuple(fixed.get(index, slice(None)) for index in self._terms[numbers[0]])
                    taken, some = cut.load([buffer.tensor(number)[where] for number in numbers])
                    exponents, lost = exponents + taken, xp.logical_or(lost, some)
            exponents, lost = self._run(SLICED, (exponents, lost))
            total.add(values, self._result(exponents))
        return total.part(), lost

    def _result(self, exponents: Any) -> Part:
        """The last result, with its axes in the output's order."""
        last, output = self.parts[-1].result, self._plan.output
        order = tuple(self._cut(last).index(index) for index in output if index in self._cut(last))
        exponents = self._xp.where(exponents > ZERO // 2, exponents, 0)
        mantissa = self._buffers[last].tensor(last).transpose(order).copy()
        return mantissa, arithmetic.spread(exponents, self._program, self._xp)
