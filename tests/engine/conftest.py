"""A stand-in for cuTensorNet over NumPy: strict about what it is handed, and contracts along the given path.

It refuses what the library refuses (read in cuquantum 26.9), flushes denormal numbers like a device that has
none, and counts handles, networks and contractions. What it cannot show is the library itself: tests marked
`gpu` do. Random networks stand at the end.
"""

import enum
import importlib
import itertools
import math
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest


class ComputeType(enum.IntEnum):
    COMPUTE_32F = 4
    COMPUTE_64F = 16
    COMPUTE_TF32 = 4096
    COMPUTE_3XTF32 = 8192


class MemoryLimitExceededError(MemoryError):
    def __init__(self, requirement):
        self.requirement = requirement


@dataclass
class NetworkOptions:
    compute_type: ComputeType | None
    device_id: int
    handle: int
    logger: Any
    memory_limit: int | str
    blocking: bool | str

    def __post_init__(self):
        assert self.compute_type is None or isinstance(self.compute_type, ComputeType)
        assert (isinstance(self.memory_limit, int) and self.memory_limit > 0) or self.memory_limit == "80%"
        assert self.blocking in (True, "auto") and not self.logger.handlers  # which would time every call


@dataclass
class Record:
    """What a test looks at: everything made so far."""

    networks: list = field(default_factory=list)
    handles: set = field(default_factory=set)
    contractions: int = 0

    @property
    def live(self):
        return [network for network in self.networks if network.valid]


class Network:
    """One network; `record` and `array` (the device's array type) are filled in by the fixture."""

    record: Record
    array: type

    def __init__(self, *arguments, options):
        *pairs, self.output = arguments
        self.operands, self.modes, self.options = pairs[::2], pairs[1::2], options
        self.sizes = {}
        for operand, modes in zip(self.operands, self.modes, strict=True):
            assert isinstance(operand, self.array) and operand.flags["C_CONTIGUOUS"]
            assert 0 < operand.ndim == len(modes) == len(set(modes)) and all(type(m) is int for m in modes)
            for mode, extent in zip(modes, operand.shape, strict=True):
                assert self.sizes.setdefault(mode, extent) == extent
        (self.dtype,) = {str(operand.dtype) for operand in self.operands}
        assert set(self.output) <= set(self.sizes) and len(set(self.output)) == len(self.output)
        self.valid, self.path, self.holding, self.autotuned, self.runs = True, None, False, 0, 0
        self.record.networks.append(self)
        self._check()

    def _check(self):
        assert self.valid and self.options.handle in self.record.handles

    def contract_path(self, optimize):
        self._check()
        self.path, self.slicing = optimize["path"], optimize["slicing"]
        assert len(self.path) == len(self.operands) - 1 > 0
        assert all(mode in self.sizes and extent == 1 for mode, extent in self.slicing)
        sliced = {mode for mode, _ in self.slicing}
        live, largest = [set(modes) - sliced for modes in self.modes], 0
        for first, second in self.path:
            assert 0 <= first < second < len(live)
            right, left = live.pop(second), live.pop(first)
            live.append((left | right) & set().union(*live, self.output))
            largest = max(largest, math.prod(self.sizes[mode] for mode in live[-1]))
        self.workspace = largest * np.dtype(self.dtype).itemsize
        if self.options.memory_limit != "80%" and self.options.memory_limit < self.workspace:
            raise MemoryLimitExceededError(self.workspace)

    def autotune(self, *, release_workspace=False):
        self._check()
        self.holding = not release_workspace
        self.autotuned += 1

    def contract(self, *, release_workspace=False):
        self._check()
        self.holding = not release_workspace
        self.runs += 1
        self.record.contractions += 1
        self.ran_on = sys.modules["cupy"].cuda.Device().id
        modes = [mode for mode, _ in self.slicing]
        result = np.zeros([self.sizes[mode] for mode in self.output], dtype=self.dtype)
        for values in itertools.product(*(range(self.sizes[mode]) for mode in modes)):
            fixed = dict(zip(modes, values, strict=True))
            arrays = [
                operand.held[tuple(fixed.get(mode, slice(None)) for mode in term)]
                for operand, term in zip(self.operands, self.modes, strict=True)
            ]
            terms = [[mode for mode in term if mode not in fixed] for term in self.modes]
            kept = [mode for mode in self.output if mode not in fixed]
            result[tuple(fixed.get(mode, slice(None)) for mode in self.output)] += self._along(
                arrays, terms, kept
            )
        return self.array(result)

    def _along(self, arrays, terms, output):
        """The contraction, pair by pair in the arrays' dtype, without denormal numbers."""
        live = list(zip(arrays, terms, strict=True))
        for first, second in self.path:
            (b, t), (a, s) = live.pop(second), live.pop(first)
            names = {mode: number for number, mode in enumerate(dict.fromkeys([*s, *t]))}
            kept = [mode for mode in names if any(mode in term for _, term in live) or mode in output]
            value = np.einsum(a, [names[m] for m in s], b, [names[m] for m in t], [names[m] for m in kept])
            live.append((flushed(value), kept))
        ((array, term),) = live
        return array.transpose([term.index(mode) for mode in output])

    def free(self):
        self.valid = False


def flushed(array):
    parts = np.array(array, order="C").reshape((*array.shape, 1)).view(array.real.dtype)
    parts[np.abs(parts) < np.finfo(parts.dtype).tiny] = 0
    return parts.view(array.dtype)[..., 0]


@pytest.fixture
def cutensornet(device, monkeypatch):
    """The stand-ins of CuPy and cuTensorNet for one test; the record of what is made."""
    record = Record()
    module = importlib.import_module("qrt_tn.engine.backends")
    find, there = module._find, module.Backend("cuquantum", True, "stand-in", "stand-in")
    monkeypatch.setattr(module, "_find", lambda name: there if name == "cuquantum" else find(name))

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
        assert type(host) is np.ndarray and host.dtype == self.held.dtype and host.shape == self.held.shape
        self.held[...] = host

    monkeypatch.setattr(device.ndarray, "set", put, raising=False)

    def create():
        record.handles.add(len(record.networks) + 1)
        return len(record.networks) + 1

    package, bindings = types.ModuleType("cuquantum"), types.ModuleType("cuquantum.bindings")
    package.ComputeType, package.MemoryLimitExceeded = ComputeType, MemoryLimitExceededError
    package.bindings, package.tensornet = bindings, types.ModuleType("cuquantum.tensornet")
    package.tensornet.Network = type("Network", (Network,), {"record": record, "array": device.ndarray})
    package.tensornet.NetworkOptions = NetworkOptions
    bindings.cutensornet = types.SimpleNamespace(create=create, destroy=record.handles.remove)
    for part in (package, bindings, package.tensornet):
        monkeypatch.setitem(sys.modules, part.__name__, part)
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
