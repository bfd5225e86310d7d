import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest

from qrt_tn.engine.backends import Backend, array_module, backends, device_memory, namespace, resolve, to_host

module = importlib.import_module("qrt_tn.engine.backends")  # engine.backends itself is the function


@pytest.fixture(autouse=True)
def looked_for_again():
    module._find.cache_clear()
    yield
    module._find.cache_clear()


def test_what_this_machine_has():
    found = backends()
    assert list(found) == ["numpy", "cupy", "cuquantum"]
    assert found["numpy"] == Backend("numpy", True, np.__version__, "CPU")
    for name, backend in found.items():
        assert backend.name == name
        # a missing one says why and what to do about it; one that is there says neither
        assert bool(backend.reason) == bool(backend.remedy) == (not backend.available)
    assert namespace("numpy") is np
    assert resolve("auto") in ("numpy", "cupy")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tpu", "unknown backend 'tpu'; choose one of auto, numpy, cupy, cuquantum"),
        ("jax", "cotengra.array_contract"),
        ("cupy", "the package cupy is not installed; pip install"),
        ("cuquantum", "the package cuquantum is not installed; pip install"),
    ],
)
def test_missing_backends_say_why_and_what_to_do(name, told, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    for call in (resolve, namespace):
        with pytest.raises(ValueError, match=f"'{name}'") as caught:
            call(name)
        assert told in str(caught.value)
    assert resolve("auto") == "numpy"


@pytest.fixture
def pretend(monkeypatch):
    """Pretends that CuPy is installed, as a module of the given contents."""

    def install(**contents):
        cupy = types.ModuleType("cupy")
        vars(cupy).update(contents)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        found = importlib.util.find_spec
        monkeypatch.setattr(
            module.importlib.util,
            "find_spec",
            lambda name, *rest: object() if name == "cupy" else found(name, *rest),
        )

    return install


def test_a_library_without_a_device(pretend):
    def fail():
        raise RuntimeError("cudaErrorNoDevice")

    pretend(cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceProperties=fail), Device=fail))
    found = backends()["cupy"]
    assert not found.available
    assert found.reason == "no CUDA device answers (cudaErrorNoDevice)"
    assert found.remedy == "run it on a GPU node"
    assert resolve("auto") == "numpy"
    assert device_memory("cupy") == (None, None)


def test_a_library_with_a_device(pretend):
    asked = []
    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda number: asked.append(number) or {"name": b"GPU 9000"}
    )
    device = types.SimpleNamespace(id=0, mem_info=(2**30, 2**34))
    pool = types.SimpleNamespace(free_bytes=lambda: 2**32)
    pretend(
        cuda=types.SimpleNamespace(runtime=runtime, Device=lambda: device),
        ndarray=list,
        get_default_memory_pool=lambda: pool,
    )
    found = backends()["cupy"]
    assert (found.available, found.device) == (True, "GPU 9000")
    # what the pool keeps is free for the next array
    assert (found.memory, found.free) == (2**34, 2**30 + 2**32)
    asked.clear()
    assert resolve("auto") == resolve("cupy") == "cupy"
    assert not asked  # one look a process
    assert namespace("auto") is sys.modules["cupy"]
    assert array_module([]) is sys.modules["cupy"]
    assert array_module(np.zeros(1)) is np


def test_arrays_on_the_host():
    array = np.arange(3)
    assert array_module(array) is np
    assert array_module(2.0) is np
    assert to_host(array) is array
    assert (to_host([1, 2]) == [1, 2]).all()
