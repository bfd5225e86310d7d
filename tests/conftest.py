"""A stand-in for CuPy, so that machines without a GPU run the device code path too.

Its arrays hold NumPy arrays but refuse what CuPy's refuse: NumPy arrays as operands, and silent copies to
the host. What it cannot show is that CuPy itself behaves so; tests marked `gpu` do.
"""

import importlib
import operator
import os
import sys
import types

import numpy as np
import pytest

# Networks of tests are small: compiling them well takes far longer than running them.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """A cache that no run before this one has filled; the user's own is left alone."""
    before = os.environ.get("QRT_TN_CACHE")
    os.environ["QRT_TN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["QRT_TN_CACHE"]
    else:
        os.environ["QRT_TN_CACHE"] = before


def unwrapped(value, *, host_allowed=False):
    if isinstance(value, DeviceArray):
        return value.held
    if isinstance(value, np.ndarray) and not host_allowed:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(unwrapped(item, host_allowed=host_allowed) for item in value)
    return value


def wrapped(value):
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        return tuple(map(wrapped, value))
    return value


class DeviceArray:
    """An array that says no to NumPy."""

    # so that `numpy_array * device_array` comes here
    __array_priority__ = 100

    def __init__(self, held):
        self.held = held

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, function, method, *inputs, **kwargs):
        raise TypeError(f"numpy.{function.__name__} of a device array")

    def __array_function__(self, function, kinds, args, kwargs):
        if function is np.ndim:
            return self.ndim
        if function is np.shape:
            return self.shape
        raise TypeError(f"numpy.{function.__name__} of a device array")

    def get(self):
        return self.held.copy()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        attribute = getattr(self.held, name)
        if callable(attribute):
            return lambda *args, **kwargs: wrapped(attribute(*map(unwrapped, args), **kwargs))
        return wrapped(attribute)

    def __setattr__(self, name, value):
        if name == "held":
            object.__setattr__(self, name, value)
        else:
            setattr(self.held, name, unwrapped(value))

    def __getitem__(self, index):
        return wrapped(np.asarray(self.held[unwrapped(index, host_allowed=True)]))

    def __setitem__(self, index, value):
        self.held[unwrapped(index, host_allowed=True)] = unwrapped(value)

    def __len__(self):
        return len(self.held)

    def __bool__(self):
        return bool(self.held)

    def __float__(self):
        return float(self.held)

    def __int__(self):
        return int(self.held)


def _operator(function, *, reflected=False):
    def apply(self, *others):
        operands = [self.held, *map(unwrapped, others)]
        return wrapped(function(*(operands[::-1] if reflected else operands)))

    return apply


for _name in ("add", "sub", "mul", "truediv", "mod", "matmul", "pow"):
    setattr(DeviceArray, f"__{_name}__", _operator(getattr(operator, _name)))
    setattr(DeviceArray, f"__r{_name}__", _operator(getattr(operator, _name), reflected=True))
DeviceArray.__and__ = _operator(operator.and_)
DeviceArray.__rand__ = _operator(operator.and_, reflected=True)
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "invert"):
    setattr(DeviceArray, f"__{_name}__", _operator(getattr(operator, _name)))


def _wrap_module(module):
    """A module's functions, taking and giving device arrays."""
    fake = types.ModuleType("cupy")

    def find(name):
        attribute = getattr(module, name)
        if isinstance(attribute, type):
            return attribute
        if isinstance(attribute, types.ModuleType):
            return _wrap_module(attribute)
        if not callable(attribute):
            return attribute

        def call(*args, **kwargs):
            host_allowed = name in ("asarray", "array")
            args = [unwrapped(value, host_allowed=host_allowed) for value in args]
            kwargs = {key: unwrapped(value) for key, value in kwargs.items()}
            return wrapped(attribute(*args, **kwargs))

        return call

    fake.__getattr__ = find
    return fake


@pytest.fixture
def device(monkeypatch):
    """The stand-in module, installed as cupy for one test."""
    room = importlib.import_module("qrt_tn.engine.backends")
    module = _wrap_module(np)
    module.ndarray = DeviceArray
    module.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    monkeypatch.setitem(sys.modules, "cupy", module)
    find = room._find
    there = room.Backend("cupy", True, "stand-in", "stand-in")
    monkeypatch.setattr(room, "_find", lambda name: there if name == "cupy" else find(name))
    return module
