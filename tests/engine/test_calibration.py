import importlib
import json
import math
import types
from dataclasses import asdict

import numpy as np
import pytest

from qrt_tn.engine import backends, roofline

room = importlib.import_module("qrt_tn.engine.calibration")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(roofline, "_measured", {})


class Clock:
    """A device whose operations take what its rates say, by its own clock."""

    gemm = types.MappingProxyType({"float32": 8e9, "complex128": 1e9})
    products, copies, swaps, launch, jitter = 5e8, 3e9, 1e9, 2e-6, 1e-3

    def __init__(self):
        self.now = 0.0
        self.rng = np.random.default_rng(0)
        self.shapes = []

    def perf_counter(self):
        return self.now

    def take(self, seconds):
        # another job now and then: only the best run tells
        self.now += seconds + (self.jitter if self.rng.random() < 0.2 else 0)

    def matmul(self, left, right):
        (shape, dtype), (other, _) = left, right
        assert shape == other
        self.shapes.append(shape)
        self.take(2 * shape[0] * shape[1] ** 3 / self.gemm[dtype])

    def multiply(self, left, right):
        assert left[0][::2] == (right[0][0], 1)
        self.take(left[0][0] * left[0][1] * right[0][2] / self.products)

    def bench(self, **changes):
        def size(array):
            return 4 * math.prod(array[0])

        settings = {
            "name": "Abacus",
            "backend": "abacus",
            "versions": {"abacus": "1"},
            "memory": 2**40,
            "sizes": (2**20, 2**24),
            "elements": 2**10,
            "array": lambda shape, dtype: (shape, dtype),
            "wait": lambda result: None,
            "matmul": self.matmul,
            "multiply": self.multiply,
            "copy": lambda array: self.take(2 * size(array) / self.copies),
            "permute": lambda array: self.take(2 * size(array) / self.swaps),
            "steps": lambda array: self.take(room._CHAIN * self.launch),
            "upload": lambda: 7e9,
        }
        return room.Bench(**{**settings, **changes})


def test_calibration_recovers_the_rates_of_a_device_with_a_clock_of_its_own(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    told = []
    figures = room.measure(clock.bench(), ("float32", "complex128"), lambda *words: told.append(words))
    for dtype, rate in clock.gemm.items():
        assert [found for _, found in figures["gemm"][dtype]] == pytest.approx(
            [rate] * len(figures["gemm"][dtype])
        )
        assert [found for _, found in figures["multiply"][dtype]] == pytest.approx([clock.products] * 5)
    assert figures["copy"] == tuple((2.0 * size, pytest.approx(clock.copies)) for size in (2**20, 2**24))
    assert figures["permute"] == tuple((2.0 * size, pytest.approx(clock.swaps)) for size in (2**20, 2**24))
    assert figures["overhead"] == pytest.approx(clock.launch)
    assert figures["upload"] == 7e9
    # sizes stop where one product would try the patience
    assert [size for size, _ in figures["gemm"]["float32"]] == [1, 4, 16, 64, 256]
    assert 2 * 1024**3 / clock.gemm["float32"] > room._PATIENCE
    assert [done for done, *_ in told] == list(range(8))
    assert {total for _, total, _ in told} == {7}


def test_calibration_leaves_most_of_the_memory_alone(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    figures = room.measure(clock.bench(memory=2**20), ("float32",), lambda *words: None)
    assert [size for size, _ in figures["gemm"]["float32"]] == [1, 4, 16, 64]
    assert 3 * 4 * 256**2 > 2**20 / 16 >= 3 * 4 * 64**2


def with_gpu(device, monkeypatch):
    """The stand-in for CuPy, with what of its `cuda` a calibration uses."""
    card = types.SimpleNamespace(id=0, mem_info=(2**33, 2**34), synchronize=lambda: None)
    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"GPU 9000"}, runtimeGetVersion=lambda: 13000
    )
    device.cuda = types.SimpleNamespace(
        Device=lambda: card, runtime=runtime, alloc_pinned_memory=lambda size: bytearray(2 * size)
    )
    device.__version__ = "14"

    def fill(array, values):
        assert values.shape == array.held.shape
        array.held[...] = values

    monkeypatch.setattr(device.ndarray, "set", fill, raising=False)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize("dtype", roofline.DTYPES)
def test_what_is_timed_is_what_it_is_called(request, monkeypatch, backend, dtype):
    if backend == "cupy":
        with_gpu(request.getfixturevalue("device"), monkeypatch)
    bench = room.operations(backend)

    def host(array):
        bench.wait(array)
        assert array.dtype == dtype
        return array.get() if backend == "cupy" else np.asarray(array)

    left, right = bench.array((3, 5, 4), dtype), bench.array((3, 4, 6), dtype)
    a, b = host(left), host(right)
    assert a.std() > 0.1
    tolerance = 1e-5 if dtype in ("float32", "complex64") else 1e-13
    assert np.allclose(host(bench.matmul(left, right)), np.einsum("bij,bjk->bik", a, b), rtol=tolerance)
    column, row = bench.array((3, 5, 1), dtype), bench.array((3, 1, 6), dtype)
    product = np.einsum("bi,bj->bij", host(column)[..., 0], host(row)[:, 0])
    assert np.allclose(host(bench.multiply(column, row)), product, rtol=tolerance)
    copied = bench.copy(left)
    assert copied is not left
    assert (host(copied) == a).all()
    swapped = host(bench.permute(left))
    assert (swapped == np.einsum("bij->bji", a)).all()
    assert swapped.flags.c_contiguous


def test_calibrating_this_machine(monkeypatch):
    monkeypatch.setattr(room, "_HOST_BYTES", (2**16, 2**18))
    device = roofline.calibrate("numpy", dtypes=("float32",))
    assert device.name.startswith(roofline.processor())
    assert device.memory > 2**28
    assert device.versions == {"numpy": np.__version__}
    sizes = [size for size, _ in device.gemm["float32"]]
    assert sizes == [4**power for power in range(len(sizes))]
    # caches and vector units: a product of large matrices runs at many times the rate of single numbers
    assert device.gemm_rate("float32") > 3 * device.gemm["float32"][0][1]
    assert roofline.devices() == {device.name: device}


def test_calibrating_jax(monkeypatch):
    monkeypatch.setattr(room, "_HOST_BYTES", (2**16, 2**18))
    monkeypatch.setattr(room, "_SIZES", (1, 4))
    monkeypatch.setattr(room, "_ROWS", (1, 4))
    device = roofline.calibrate("jax", dtypes=("complex128",))
    assert ": jax" in device.name
    assert list(device.gemm) == ["complex128"]
    assert json.loads(json.dumps(asdict(device)))["versions"].keys() == {"jax", "jaxlib"}


@pytest.mark.parametrize("backend", ["auto", "cupy"])
def test_calibrating_a_gpu_stand_in(device, monkeypatch, backend):
    with_gpu(device, monkeypatch)
    monkeypatch.setattr(room, "_GPU_BYTES", (2**14, 2**16))
    monkeypatch.setattr(room, "_SIZES", (1, 4))
    monkeypatch.setattr(room, "_ROWS", (1, 4))
    monkeypatch.setattr(room, "_BUDGET", 1e-3)
    found = roofline.calibrate(backend, dtypes=("float32",))
    assert found.name == "GPU 9000: cupy"
    assert found.memory == 2**34
    assert found.upload > 0
    assert found.versions == {"cupy": "14", "cuda": "13000"}


@pytest.mark.gpu
def test_calibrating_a_gpu():
    pytest.importorskip("cupy")
    if not backends()["cupy"].available:
        pytest.skip(backends()["cupy"].reason)
    found = roofline.calibrate("cupy")
    assert found.gemm_rate("float32") > 10 * found.gemm["float32"][0][1]
    assert found.copy_rate > found.upload > 0
    assert 0 < found.overhead < 1e-2
