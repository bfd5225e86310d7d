"""A stand-in for cuTensorNet over NumPy: strict about what it is handed, and contracts along the given path.

It refuses what the library refuses (read in cuquantum 26.9), flushes denormal numbers like a device that has
none, and counts handles and networks. What it cannot show is the library itself: tests marked `gpu` do.
Random networks and their values by other means stand at the end.
"""

import enum
import itertools
import math
import sys
import types
from collections.abc import Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import opt_einsum as oe
import pytest


class ComputeType(enum.IntEnum):
    COMPUTE_DEFAULT = 0
    COMPUTE_16F = 1
    COMPUTE_32F = 4
    COMPUTE_64F = 16
    COMPUTE_TF32 = 4096
    COMPUTE_3XTF32 = 8192


ALLOWED = {
    "float32": {4, 4096, 8192},
    "complex64": {4, 4096, 8192},
    "float64": {16},
    "complex128": {16},
}


class MemoryLimitExceededError(MemoryError):
    def __init__(self, limit, requirement, device_id):
        super().__init__(f"GPU memory limit exceeded: {limit} < {requirement}")
        self.limit, self.requirement, self.device_id = limit, requirement, device_id


class InvalidNetworkStateError(Exception):
    pass


@dataclass
class NetworkOptions:
    compute_type: int | None = None
    device_id: int | None = None
    handle: int | None = None
    logger: Any = None
    memory_limit: int | str = "80%"
    blocking: bool | str = True
    allocator: Any = None

    def __post_init__(self):
        if self.compute_type is not None:
            self.compute_type = ComputeType(self.compute_type)
        if not isinstance(self.memory_limit, int) and self.memory_limit != "80%":
            raise ValueError(f"memory limit {self.memory_limit!r}")
        if self.blocking is not True and self.blocking != "auto":
            raise ValueError("The value specified for blocking must be either True or 'auto'.")


@dataclass
class Record:
    """What a test looks at: everything made so far."""

    networks: list = field(default_factory=list)
    handles: set = field(default_factory=set)
    distributed: set = field(default_factory=set)
    handles_made: int = 0
    contractions: int = 0

    @property
    def live(self):
        return [network for network in self.networks if network.valid]


class Network:
    """One network; `record` and `array` (the device's array type) are filled in by the fixture."""

    record: Record
    array: type

    def __init__(self, *arguments, options=None, qualifiers=None, stream=None):
        if len(arguments) % 2 == 0 or isinstance(arguments[0], str):
            raise ValueError("give interleaved operands and the output's modes")
        *pairs, output = arguments
        self.operands, self.modes = pairs[::2], [list(modes) for modes in pairs[1::2]]
        self.output, self.options = list(output), options
        if not self.operands:
            raise ValueError("The network must consist of at least one tensor.")
        self.sizes = {}
        for operand, modes in zip(self.operands, self.modes, strict=True):
            if not isinstance(operand, self.array):
                raise TypeError(f"operand of type {type(operand)} is not on the device")
            if operand.ndim == 0:
                raise ValueError("a tensor needs a mode")
            fits = len(modes) == operand.ndim and all(type(mode) is int for mode in modes)
            if not fits or len(set(modes)) < len(modes) or not operand.flags["C_CONTIGUOUS"]:
                raise ValueError(f"modes {modes} for an operand of shape {operand.shape}")
            for mode, extent in zip(modes, operand.shape, strict=True):
                if self.sizes.setdefault(mode, extent) != extent:
                    raise ValueError("Extent mismatch")
        (self.dtype,) = {str(operand.dtype) for operand in self.operands}  # more than one: ValueError
        compute = options.compute_type
        if compute is not None and int(compute) not in ALLOWED[self.dtype]:
            raise ValueError(f"INVALID_VALUE: {compute!r} for {self.dtype}")
        if set(self.output) - set(self.sizes) or len(set(self.output)) < len(self.output):
            raise ValueError("Extra modes in output")
        if options.handle not in self.record.handles:
            raise ValueError(f"no handle {options.handle}")
        self.valid, self.optimize, self.holding = True, None, False
        self.autotuned = self.runs = 0
        self.record.networks.append(self)

    def _check(self, *, prepared=True):
        if not self.valid:
            raise InvalidNetworkStateError("The network cannot be used after resources are free'd")
        if self.options.handle not in self.record.handles:
            raise ValueError("the handle is gone")
        if prepared and self.optimize is None:
            raise RuntimeError("cannot be performed before contract_path() has been called.")

    def contract_path(self, optimize=None):
        self._check(prepared=False)
        path, slicing = optimize["path"], optimize["slicing"]
        for pair in path:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise TypeError("The path must be a sequence of pairs in the linear format")
        if len(path) != len(self.operands) - 1:
            raise ValueError("The length of the contraction path must be one less than the operands'")
        for mode, extent in slicing:
            if mode not in self.sizes:
                raise ValueError(f"Invalid sliced mode labels: {mode}")
            if self.sizes[mode] % extent or extent != 1:
                raise ValueError("The sliced extents must evenly divide the original extents")
        self.optimize = {"path": [tuple(pair) for pair in path], "slicing": list(slicing)}
        sliced = {mode for mode, _ in slicing}
        largest = 0
        live = [set(modes) - sliced for modes in self.modes]
        for first, second in path:
            assert 0 <= first < second < len(live)
            right, left = live.pop(second), live.pop(first)
            elsewhere = set().union(*live, self.output)
            live.append((left | right) & elsewhere)
            largest = max(largest, math.prod(self.sizes[mode] for mode in live[-1]))
        self.workspace = largest * np.dtype(self.dtype).itemsize
        limit = self.options.memory_limit
        if isinstance(limit, int) and limit < self.workspace:
            raise MemoryLimitExceededError(limit, self.workspace, 0)
        return self.optimize["path"], None

    def autotune(self, *, iterations=3, stream=None, release_workspace=False):
        self._check()
        self.holding = not release_workspace
        self.autotuned += 1

    def contract(self, *, slices=None, stream=None, release_workspace=False):
        self._check()
        self.holding = not release_workspace
        self.runs += 1
        self.ran_on = sys.modules["cupy"].cuda.Device().id
        self.record.contractions += 1
        modes = [mode for mode, _ in self.optimize["slicing"]]
        result = np.zeros([self.sizes[mode] for mode in self.output], dtype=self.dtype)
        every = list(itertools.product(*(range(self.sizes[mode]) for mode in modes)))
        for number in range(len(every)) if slices is None else slices:
            fixed = dict(zip(modes, every[number], strict=True))
            arrays = [
                operand.held[tuple(fixed.get(mode, slice(None)) for mode in term)]
                for operand, term in zip(self.operands, self.modes, strict=True)
            ]
            terms = [[mode for mode in term if mode not in fixed] for term in self.modes]
            kept = [mode for mode in self.output if mode not in fixed]
            value = along(arrays, terms, kept, self.optimize["path"])
            result[tuple(fixed.get(mode, slice(None)) for mode in self.output)] += value
        return self.array(result)

    def free(self):
        self.valid = False


def along(arrays, terms, output, path):
    """The contraction, pair by pair in the arrays' dtype, without denormal numbers."""
    uses = {}
    for term in [*terms, output]:
        for mode in term:
            uses[mode] = uses.get(mode, 0) + 1
    live = list(zip(arrays, terms, strict=True))
    for first, second in path:
        (b, t), (a, s) = live.pop(second), live.pop(first)
        for mode in [*s, *t]:
            uses[mode] -= 1
        modes = list(dict.fromkeys([*s, *t]))
        kept = [mode for mode in modes if uses[mode]]
        for mode in kept:
            uses[mode] += 1
        names = {mode: number for number, mode in enumerate(modes)}
        value = np.einsum(
            a, [names[m] for m in s], b, [names[m] for m in t], [names[m] for m in kept]
        ).astype(a.dtype)
        live.append((flushed(value), kept))
    ((array, term),) = live
    names = {mode: number for number, mode in enumerate(term)}
    return np.einsum(array, list(names.values()), [names[mode] for mode in output])


def flushed(array):
    array = np.ascontiguousarray(array).reshape((*array.shape, 1)).copy()
    parts = array.view(array.real.dtype)
    parts[np.abs(parts) < np.finfo(parts.dtype).tiny] = 0
    return array[..., 0]


@pytest.fixture
def cutensornet(device, monkeypatch):
    """The stand-ins of CuPy and cuTensorNet for one test; the record of what is made."""
    record = Record()

    class Device:
        current = 0

        def __init__(self, number=None):
            self.id = Device.current if number is None else number

        def __enter__(self):
            self.before, Device.current = Device.current, self.id
            return self

        def __exit__(self, *exception):
            Device.current = self.before

        def synchronize(self):
            pass

    device.cuda = types.SimpleNamespace(Device=Device)

    def put(self, host):
        if type(host) is not np.ndarray or host.dtype != self.held.dtype or host.shape != self.held.shape:
            raise TypeError("set takes a NumPy array of the same dtype and shape")
        self.held[...] = host

    monkeypatch.setattr(device.ndarray, "set", put, raising=False)
    network = type("Network", (Network,), {"record": record, "array": device.ndarray})

    def create():
        record.handles_made += 1
        record.handles.add(record.handles_made)
        return record.handles_made

    package = types.ModuleType("cuquantum")
    package.ComputeType = ComputeType
    package.MemoryLimitExceeded = MemoryLimitExceededError
    package.tensornet = types.SimpleNamespace(
        Network=network, NetworkOptions=NetworkOptions, get_mpi_comm_pointer=lambda comm: (id(comm), 8)
    )
    bindings = types.ModuleType("cuquantum.bindings")
    bindings.cutensornet = types.SimpleNamespace(
        create=create,
        destroy=record.handles.remove,
        distributed_reset_configuration=lambda handle, pointer, size: record.distributed.add(handle),
    )
    package.bindings = bindings
    monkeypatch.setitem(sys.modules, "cuquantum", package)
    monkeypatch.setitem(sys.modules, "cuquantum.bindings", bindings)
    return record


class Networks:
    """Random networks of every awkward kind, and what np.einsum says of them."""

    @staticmethod
    def draw(rng, *, tensors=7, indices=7, largest=4):
        """(inputs, output, sizes): hyperindices, repeated ones, scalars, extents of 1, disconnected parts."""
        sizes = {f"i{k}": int(rng.integers(1, largest + 1)) for k in range(indices)}
        names = list(sizes)
        inputs = [
            tuple(names[k] for k in rng.integers(indices, size=rng.integers(0, 5)))
            for _ in range(rng.integers(1, tensors + 1))
        ]
        used = list(dict.fromkeys(index for term in inputs for index in term))
        kept = rng.random()
        output = tuple(index for index in rng.permutation(used).tolist() if rng.random() < kept)
        return inputs, output, {index: sizes[index] for index in used}

    @staticmethod
    def path(rng, count, most=3):
        """A path with steps on one tensor and on several."""
        path = []
        while count > 1 or not path:
            size = int(rng.integers(1, min(most, count) + 1))
            path.append(tuple(rng.permutation(count)[:size].tolist()))
            count += 1 - size
        return tuple(path)

    @staticmethod
    def arrays(rng, inputs, sizes, dtype="complex128"):
        shapes = [[sizes[index] for index in term] for term in inputs]
        parts = [rng.normal(size=shape) + 1j * rng.normal(size=shape) for shape in shapes]
        return [np.asarray(part if np.dtype(dtype).kind == "c" else part.real, dtype) for part in parts]

    @staticmethod
    def einsum(arrays, inputs, output, sizes):
        """The contraction in double precision, without any path."""
        number = {index: place for place, index in enumerate(sizes)}
        operands = []
        for array, term in zip(arrays, inputs, strict=True):
            wide = np.result_type(array.dtype, np.float64)
            operands += [array.astype(wide), [number[index] for index in term]]
        return np.einsum(*operands, [number[index] for index in output])


@pytest.fixture
def networks():
    """Random networks; see `Networks`."""
    return Networks


# -- networks to contract, and what they come to


@contextmanager
def opened(*arguments, **options):
    """An expression, closed at the end."""
    from qrt_tn.engine.cutensornet import CuTensorNetExpression

    expression = CuTensorNetExpression(*arguments, **options)
    with closing(expression):
        yield expression


def value(result):
    """A result in double precision on the host; NumPy's own check of the promised shapes."""
    mantissa, exponent = (part.get() for part in result)
    assert exponent.dtype == np.int64 and exponent.ndim == mantissa.ndim
    assert np.broadcast_shapes(mantissa.shape, exponent.shape) == mantissa.shape
    assert np.abs(mantissa).max(initial=0) <= 64  # norms at most 1, a few slices added up
    wide = mantissa.astype(np.complex128 if mantissa.dtype.kind == "c" else np.float64)
    with np.errstate(over="ignore", under="ignore"):
        return wide * np.exp2(exponent.astype(np.float64))


def network(seed, tensors=7, *, scalars=True):
    """A random network with hyperindices, lone indices, kept indices, outer products and perhaps scalars."""
    rng = np.random.default_rng(seed)
    sizes = {f"i{k}": int(rng.integers(1, 4)) for k in range(8)}
    low = 0 if scalars else 1
    inputs = [tuple(rng.permutation(list(sizes))[: rng.integers(low, 4)].tolist()) for _ in range(tensors)]
    used = dict.fromkeys(i for term in inputs for i in term)
    output = tuple(i for i in used if rng.random() < 0.3)
    return rng, inputs, output, {i: sizes[i] for i in used}


def draw(rng, inputs, sizes, dtype):
    arrays = [rng.normal(size=[sizes[i] for i in term]) for term in inputs]
    if np.dtype(dtype).kind == "c":
        arrays = [array + 1j * rng.normal(size=array.shape) for array in arrays]
    return [np.asarray(array, dtype=dtype) for array in arrays]


def random_path(rng, count):
    path, left = [], count
    while left > 1:
        size = int(rng.integers(1, min(4, left) + 1))
        path.append(tuple(rng.permutation(left)[:size].tolist()))
        left += 1 - size
    return path


def einsum(arrays, inputs, output):
    names = {i: oe.get_symbol(k) for k, i in enumerate(dict.fromkeys(i for term in inputs for i in term))}
    terms = ["".join(names[i] for i in term) for term in (*inputs, output)]
    wide = [array.astype(np.complex128) for array in arrays]
    return np.einsum(",".join(terms[:-1]) + "->" + terms[-1], *wide, optimize="greedy")


def chain(length, bond, rng, dtype, size=1.0):
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(length)]
    sizes = {f"k{i}": bond for i in range(length + 1)}
    sizes["k0"] = sizes[f"k{length}"] = 1
    return inputs, sizes, [array * np.asarray(size, dtype) for array in draw(rng, inputs, sizes, dtype)]


def log_of_chain(arrays):
    """log |product of matrices|, rescaled at every step in double precision."""
    vector, log = np.ones((1, 1), dtype=np.complex128), 0.0
    for array in arrays:
        vector = vector @ array.astype(np.complex128)
        peak = np.abs(vector).max()
        vector, log = vector / peak, log + math.log(peak)
    return log + math.log(abs(vector[0, 0])), np.angle(vector[0, 0])


def log_abs(result):
    mantissa, exponent = (part.get() for part in result)
    return np.log(np.abs(mantissa.astype(np.complex128))) + exponent * math.log(2)
