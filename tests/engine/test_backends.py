import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import types

import numpy as np
import pytest

from qrt_tn.engine.backends import Backend, array_module, backends, namespace, resolve, to_host

room = importlib.import_module("qrt_tn.engine.backends")  # engine.backends itself is the function


def test_what_this_machine_has():
    found = backends()
    assert list(found) == ["numpy", "cupy", "jax", "cuquantum"]
    assert found["numpy"] == Backend("numpy", True, np.__version__, "CPU")
    for name, backend in found.items():
        assert backend.name == name
        # a missing one says why and what to do about it; one that is there says neither
        assert bool(backend.reason) == bool(backend.mend) == (not backend.available)
    assert found["jax"].version == importlib.metadata.version("jax")
    assert found["jax"].device
    if importlib.util.find_spec("cupy") is None:
        assert "cupy is not installed" in found["cupy"].reason
        assert "pip install 'qrt-tn[cuda13]'" in found["cupy"].mend


def test_names_resolve():
    assert resolve("numpy") == "numpy"
    assert resolve("auto") in ("numpy", "cupy")
    assert namespace("numpy") is np
    with pytest.raises(
        ValueError, match="unknown backend 'tpu'; choose one of auto, numpy, cupy, jax, cuquantum"
    ):
        resolve("tpu")


def test_jax_executes_plans_and_nothing_else():
    assert resolve("jax") == "jax"
    with pytest.raises(
        ValueError, match="backend 'jax' executes contraction plans only; choose numpy or cupy"
    ):
        namespace("jax")


def test_jax_is_imported_only_when_asked_for():
    """Its import takes a second."""
    code = (
        "import sys, numpy as np\n"
        "from qrt_tn import engine\n"
        "from qrt_tn.engine.backends import namespace, resolve\n"
        "namespace('numpy'), resolve('numpy'), resolve('auto')\n"
        "made = engine.plan(([('i',), ('i',)], (), {'i': 2}))\n"
        "made.execute([np.ones(2), np.ones(2)], 'numpy')\n"
        "assert 'jax' not in sys.modules, 'jax'\n"
        "assert engine.backends()['jax'].available\n"
        "assert 'jax' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_jax_without_a_device(monkeypatch):
    jax = importlib.import_module("jax")

    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(
        ValueError, match=r"'jax' is not available: JAX finds no device .*; set JAX_PLATFORMS=cpu"
    ):
        resolve("jax")


@pytest.fixture
def pretend(monkeypatch):
    """Pretends that a package is installed, as a module of the given contents."""
    found = importlib.util.find_spec

    def install(name, **contents):
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(
            room.importlib.util,
            "find_spec",
            lambda wanted, *rest: object() if wanted == name else found(wanted, *rest),
        )

    return install


def test_a_missing_backend_says_why_and_what_to_do(monkeypatch):
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    for name in ("cupy", "cuquantum"):
        with pytest.raises(
            ValueError, match=f"backend '{name}' is not available: the package {name} is not installed"
        ):
            resolve(name)
        with pytest.raises(ValueError, match="pip install"):
            namespace(name)
    assert resolve("auto") == "numpy"


def test_a_library_without_a_device(pretend):
    def fail():
        raise RuntimeError("cudaErrorNoDevice")

    runtime = types.SimpleNamespace(getDeviceProperties=fail)
    pretend("cupy", cuda=types.SimpleNamespace(runtime=runtime, Device=fail))
    found = backends()["cupy"]
    assert not found.available
    assert found.reason == "no CUDA device answers (cudaErrorNoDevice)"
    assert found.mend == "run it on a GPU node"
    assert resolve("auto") == "numpy"


def test_a_library_with_a_device(pretend):
    runtime = types.SimpleNamespace(getDeviceProperties=lambda number: {"name": b"GPU 9000"})
    device = types.SimpleNamespace(id=0)
    pretend("cupy", cuda=types.SimpleNamespace(runtime=runtime, Device=lambda: device), ndarray=list)
    found = backends()["cupy"]
    assert found.available
    assert found.device == "GPU 9000"
    assert resolve("auto") == "cupy"
    assert namespace("auto") is sys.modules["cupy"]
    assert array_module([]) is sys.modules["cupy"]
    assert array_module(np.zeros(1)) is np


def test_arrays_on_the_host():
    array = np.arange(3)
    assert array_module(array) is np
    assert array_module(2.0) is np
    assert to_host(array) is array
    assert (to_host([1, 2]) == [1, 2]).all()
