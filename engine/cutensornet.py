"""Contract plans with cuTensorNet: operands of norm 1, subnetworks, one check a call, CuPy where it fails.

cuTensorNet has no exponents, so numbers could leave the range of floating point on the way. Operands are
therefore scaled by powers of two, and the contraction tree is cut into subnetworks: subtrees that cuTensorNet
contracts in one go, and whose results are scaled again before they enter the next one.

**Nothing overflows.** Let every operand of a subnetwork have a Frobenius norm of at most 1. Contraction is
submultiplicative in that norm: for every value of the indices that the result keeps, Cauchy-Schwarz bounds
the sum over the others, so |C| <= |A| |B|, with shared indices that stay (hyperindices) included. Hence no
entry of any intermediate exceeds 1.

**What underflow can take.** Every multiplication, addition and split of a number into parts may lose up to t,
the smallest normal number. A component of a product of complex numbers takes two real multiplications; modes
that split numbers in two (3XTF32) take three for each and drop four parts; as many additions follow: 16
losses, in both components no more than 32 t together. An entry that sums s products is off by at most 32 s t,
a tensor of n such entries by 32 s sqrt(n) t in norm, the factors that follow have norm at most 1, and so the
subnetwork's result is off by at most

    E = 32 t (sum over operands of sqrt(n) + sum over steps of s sqrt(n)),

known before anything is computed. A result whose largest entry is at least `floor` = E / eps has therefore
lost no more to underflow than to rounding. All of it holds for each element of a batch, each scaled by
itself.

**Where to cut.** For tensors of independent entries, a step that sums over s values, or shares an index of
extent s that stays, shrinks the norm by sqrt(s); scaling an operand leaves up to one bit, half a bit on
average. The tree is cut so that this estimate uses at most half of the bits above the floor.

**The check.** Results are compared with their floors on the device (of the last one not the largest entry but
every entry), and operands searched for entries so far below the largest one that scaling takes them below t.
The answer is copied to the host once a call. Where digits may be lost (a result that is zero, or far smaller
than its operands; entries too far apart), CuPy repeats the call, and does the calls after it.

**Slices.** cuTensorNet loops over the slices itself if only the last subnetwork depends on them and no sliced
index is kept. Otherwise the loop is here: every slice is scaled by itself, and slices are added with aligned
exponents. What no slice changes is computed once a call, what depends on constants alone once.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.engine.arithmetic import reduced, spread
from qrt_tn.engine.execute import PairwiseExpression, SliceSum, assignments, grid_at
from qrt_tn.engine.exponents import Part, real_bytes
from qrt_tn.engine.network import Index, Term, numbered
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.tree import Tree, contraction_tree, linear_path

COMPUTE = {4: ("32F", "TF32", "3XTF32"), 8: ("64F",)}  # compute types by bytes of the real type
CONSTANT, VARIABLE, SLICED = range(3)  # how often a tensor is computed: once, per call, per slice
ZERO = -(2**40)  # the exponent of exact zeros: below any sum of others, and int64 holds the sum of millions
ALIGNMENT = 256  # bytes; operands start at multiples, as allocations of their own would

_log = logging.getLogger(__name__)
_State = tuple[Any, Any]  # exponents taken out so far, an axis per batch index; whether digits were lost


@dataclass(frozen=True)
class Subnetwork:
    """A subtree that is contracted in one go.

    Attributes:
        operands: numbers of the tensors it takes: the network's, and results of other subnetworks.
        steps: numbers of the tensors it makes, in order; the last is its result. Numbers are those of
            `qrt_tn.engine.tree.Tree`.
    """

    operands: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def result(self) -> int:
        """The number of the tensor that the subnetwork makes."""
        return self.steps[-1]

    def path(self, tree: Tree) -> list[tuple[int, int]]:
        """The steps as a linear path over `operands`."""
        places = {number: place for place, number in enumerate((*self.operands, *self.steps))}
        pairs = [tree.pairs[number - len(tree.leaves)] for number in self.steps]
        return linear_path([(places[pair.left], places[pair.right]) for pair in pairs], len(self.operands))


def divide(tree: Tree, ranks: Sequence[int], sizes: Mapping[Index, int], budget: float) -> list[Subnetwork]:
    """Cut a tree into subnetworks, in an order they can be computed in.

    Args:
        tree: the contraction.
        ranks: of every tensor, how often it is computed; a tensor of a lower rank than the step that takes
            it ends a subnetwork, so that it is not computed again with that step.
        sizes: the extent of every index within one element of the batch.
        budget: bits by which the norm of one subnetwork's result may be expected to fall below 1.
    """
    count = len(tree.leaves)
    load = [0.5] * count
    open_parts = [Subnetwork((number,), ()) for number in range(count)]  # that end at each tensor so far
    parts = []
    for number, (pair, rank) in enumerate(zip(tree.pairs, ranks[count:], strict=True), start=count):
        bits = math.log2(_product((*pair.batch, *pair.summed), sizes)) / 2
        children = [(ranks[child] >= rank, -load[child], child) for child in (pair.left, pair.right)]
        for same, _, child in sorted(children):
            if child >= count and (not same or bits + load[pair.left] + load[pair.right] > budget):
                parts.append(open_parts[child])
                load[child], open_parts[child] = 0.5, Subnetwork((child,), ())
        load.append(bits + load[pair.left] + load[pair.right])
        left, right = open_parts[pair.left], open_parts[pair.right]
        open_parts.append(Subnetwork(left.operands + right.operands, (*left.steps, *right.steps, number)))
    return [*parts, open_parts[-1]]


def floor(
    tree: Tree, part: Subnetwork, sizes: Mapping[Index, int], dtype: np.dtype, slices: int = 1
) -> float:
    """The least peak that proves a subnetwork's result accurate; see the top of this file.

    Args:
        tree: the contraction.
        part: the part of it; its operands have Frobenius norm at most 1 per batch element.
        sizes: the extent of every index within one slice of one element of the batch.
        dtype: what the contraction computes in.
        slices: over how many slices the result is summed up.
    """
    count, error = len(tree.leaves), 0.0
    for number in part.operands:
        term = tree.leaves[number] if number < count else tree.pairs[number - count].term
        error += math.sqrt(_product(term, sizes))
    for number in part.steps:
        pair = tree.pairs[number - count]
        error += _product(pair.summed, sizes) * math.sqrt(_product(pair.term, sizes))
    info = np.finfo(dtype)
    return 32 * slices * error * float(info.tiny) / float(info.eps)


def _product(term: Sequence[Index], sizes: Mapping[Index, int]) -> int:
    return math.prod([sizes[index] for index in term])


class OperandBuffer:
    """Tensors of one shape side by side on the device, scaled together: one power of two per batch element.

    Args:
        xp: cupy.
        dtype: of the tensors.
        numbers: which tensors.
        shape: their extents, those of batch indices first.
        grid: the extents of their exponents: those of all batch indices, 1 for one that they do not hold.
    """

    def __init__(self, xp: Any, dtype: np.dtype, numbers: Sequence[int], shape: Term, grid: Term):
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
        if any(isinstance(array, xp.ndarray) for array in arrays):
            for place, array in enumerate(arrays):
                flat[place, : self._entries] = xp.asarray(array).reshape(-1)
        else:
            staged = np.zeros(flat.shape, dtype=flat.dtype)
            for row, array in zip(staged, arrays, strict=True):
                row[: self._entries] = array.reshape(-1)
            finite = np.isfinite(staged).all(axis=1)
            if not finite.all():
                number = list(self.places)[int(np.argmin(finite))]
                raise ValueError(f"array {number} holds NaN or infinity; replace it before contracting")
            flat.set(staged)
        # bits tell denormal numbers from zeros also where the device flushes them
        bits = np.dtype(f"i{self._real.itemsize}")
        zeros = ((self._rows.view(bits) & np.iinfo(bits).max) == 0).sum()
        exponents = self._rescale(self._rows).sum(axis=0)
        return exponents, (xp.abs(self._rows) < np.finfo(self._real).tiny).sum() != zeros

    def take(self, result: Any, floor: float, entrywise: bool) -> _State:
        """Take one tensor of norm at most 1: its exponents, and which elements fall below the floor.

        Args:
            result: the tensor, contiguous.
            floor: what the largest entry of each element must reach.
            entrywise: whether every entry must.
        """
        rows = result.reshape(-1).view(self._real).reshape(self._rows.shape)
        sizes = self._xp.abs(rows if result.dtype == self._real else rows.reshape((*rows.shape[:-1], -1, 2)))
        if result.dtype != self._real:
            sizes = sizes.max(axis=-1)
        low = (sizes.min(axis=-1) if entrywise else sizes.max(axis=-1)) < floor
        return self._rescale(rows)[0], low[0]

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
        xp = self._xp
        return xp.where(xp.logical_and(values > 0, xp.isfinite(values)), xp.frexp(values)[1], 0).astype(
            np.int32
        )


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
        memory_limit: bytes on the device for operands, results and workspace together; None lets the
            workspace take what the library allows by default. A call that CuPy repeats takes the plan's
            `peak_bytes` instead.
        constants: operands that stay, by number; what depends on them alone is computed here, once.
        entrywise: whether entries count that are negligible beside the largest of their batch element; if
            not, they may become 0.
        spread: whether `shares` will be asked for some of the slices at a time.
        tune: whether the library tunes its kernels before their first run, so that later calls are all
            alike; this takes three more runs. Otherwise it does so before their second run.

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
        self._handle, self._closed, self.fallback = None, False, None
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
        self._loaded: object = None  # the call whose operands the buffers hold
        inputs, path, fixed = plan.inputs, plan.path, dict(self._constants)
        if len(inputs) == 1:
            # the library's networks have steps: a factor 1 makes one
            inputs, path, fixed[1] = (*inputs, ()), ((0, 1),), np.ones(())
        self._divide(contraction_tree(inputs, plan.output, path), fixed, spread)
        taken = self._bytes_taken()
        if memory_limit is not None and taken >= memory_limit:
            raise ValueError(
                f"memory_limit of {memory_limit} bytes is too small: operands and results take {taken}, and "
                "cuTensorNet's workspace comes on top; give more, or slice more"
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
        """Contract.

        Args:
            arrays: one per tensor, NumPy or CuPy; what stands in a constant's place is not looked at.

        Returns:
            (mantissa, exponent) on the device: the value is mantissa * 2**exponent; exponent is int64 and
            broadcasts to the mantissa, with an extent of its own where an axis is a batch index or sliced.

        Raises:
            ValueError: NaN or infinity in an array on the host.
        """
        return self.shares(arrays)(range(self._count))

    def shares(self, arrays: Sequence[Any]) -> Callable[[range], Part]:
        """What contracts a range of slices: their sum, of the whole output's shape.

        Slice numbers count over the values of the sliced indices, the last fastest.

        Args:
            arrays: as for a call.
        """
        call, count = object(), self._count
        share: Callable[[range], Part] | None = None

        def contract(chosen: range) -> Part:
            nonlocal share
            if self._closed:
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
                    self._fall_back()
                if share is None:
                    share = self.fallback.shares(arrays)
                return share(chosen)

        return contract

    def close(self) -> None:
        """Wait for the device and free all that is held there; further calls are refused."""
        self._closed, self.fallback = True, None
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
        self._networks, self._buffers, self._groups, self._constant, self._variable = {}, {}, [], None, None

    def _fall_back(self) -> None:
        _log.warning(
            "cuTensorNet may have lost digits to underflow (a result has zeros or is far smaller than its "
            "operands, or entries are far apart); this and later contractions run on CuPy"
        )
        self._release()
        self.fallback = PairwiseExpression(
            self._program, self._xp, self.dtype, self._constants, entrywise=self._entrywise
        )

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
        ranks[-1] = max(ranks[-1], VARIABLE)
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
        self._numbers = [(key[0], numbers) for key, numbers in groups.items()]

    def _shape(self, term: Term) -> tuple[int, ...]:
        return tuple(self._plan.sizes[index] for index in term)

    def _cut(self, number: int) -> Term:
        """The indices of a tensor as cuTensorNet sees it: of one slice, where slices are looped over here."""
        term, slices = self._terms[number], self._plan.slices
        return tuple(index for index in term if index not in slices) if self._looped else term

    def _bytes_taken(self) -> int:
        """Device memory besides cuTensorNet's workspace: operands, results, and copies made on the way."""

        def size(term: Term) -> int:
            return self.dtype.itemsize * padded(self._shape(term), self.dtype)

        terms = [(len(n), self._terms[n[0]], self._cut(n[0])) for _, n in self._numbers]
        whole = [count * size(term) for count, term, _ in terms]
        cut = [count * size(part) for count, term, part in terms if part != term]
        results = [size(self._cut(part.result)) for part in self.parts]
        # a result is the library's, then a buffer's; the last is copied, and added to a sum by two copies
        taken = sum(whole) + sum(cut) + 2 * sum(results) + size(self._terms[-1])
        return taken + 3 * self._looped * results[-1] + max(whole + results)  # squares, for the norms

    def _allocate(self) -> None:
        """Make the buffers of operands and results."""
        self._buffers: dict[int, OperandBuffer] = {}  # what cuTensorNet sees, by number

        def buffer(numbers: Sequence[int], term: Term) -> OperandBuffer:
            grid = tuple(self._plan.sizes[index] if index in term else 1 for index in self._plan.batch)
            made = OperandBuffer(self._xp, self.dtype, numbers, self._shape(term), grid)
            self._buffers.update(dict.fromkeys(numbers, made))
            return made

        self._groups = []
        for constant, numbers in self._numbers:
            term, cut = self._terms[numbers[0]], self._cut(numbers[0])
            whole = buffer(numbers, term)
            self._groups.append((constant, whole, whole if cut == term else buffer(numbers, cut)))
        for part in self.parts:
            buffer([part.result], self._cut(part.result))

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
            memory_limit="80%" if limit is None else limit - taken,
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
        if number < len(self._program.leaves):
            xp = self._xp if isinstance(array, self._xp.ndarray) else np
            array = reduced(self._program.leaves[number], array, xp)
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
            result, entrywise = (
                network.contract(release_workspace=several),
                self._entrywise and part is self.parts[-1],
            )
            taken, low = self._buffers[part.result].take(result, self._floors[part], entrywise)
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
        return mantissa, spread(exponents, self._program, self._xp)
