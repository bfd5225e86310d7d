import importlib
import itertools
import math
import types
from dataclasses import asdict

import numpy as np
import pytest

from qrt_tn.engine import backends, cache

module = importlib.import_module("qrt_tn.engine.roofline")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_measured", {})


def sample(name="Abacus: numpy, 1 thread", **changes):
    figures = {
        "name": name,
        "backend": "numpy",
        "gemm": {"float64": ((4, 2e9), (64, 8e9)), "complex64": ((1, 1e8), (16, 4e9), (256, 1e9))},
        "copy": ((1000, 1e11), (1e6, 1e10)),
        "permute": ((1000, 1e10), (1e6, 2e9)),
        "overhead": 1e-6,
        "upload": None,
        "versions": {"numpy": "0"},
        "measured": "2026-01-02",
    }
    return module.Device(**{**figures, **changes})


def interpolated(table, place):
    """The straight line in logarithms, written out."""
    if place <= table[0][0]:
        return table[0][1]
    for (start, low), (stop, high) in itertools.pairwise(table):
        if place <= stop:
            share = math.log(place / start) / math.log(stop / start)
            return low ** (1 - share) * high**share
    return table[-1][1]


def by_hand(device, batch, m, k, n, dtype, moved, permuted):
    if k == 1:
        work = moved / interpolated(device.permute, moved)
    else:
        work = 2 * batch * m * n * k / interpolated(device.gemm[dtype], (m * k * n) ** (1 / 3))
        work = max(work, moved / interpolated(device.copy, moved))
    work += permuted / interpolated(device.permute, permuted)
    return max(work, device.overhead) if device.backend == "cupy" else work + device.overhead


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_seconds_of_many_steps(backend, dtype):
    device = sample(backend=backend)
    rng = np.random.default_rng(0)
    steps = 2 ** rng.integers(0, 9, (4, 200))
    moved, permuted = rng.integers(0, 10**7, (2, 200)) * (rng.random((2, 200)) < 0.7)
    expected = [
        by_hand(device, *map(int, step), dtype, int(bytes_), int(copied))
        for step, bytes_, copied in zip(steps.T, moved, permuted, strict=True)
    ]
    assert np.allclose(device.seconds(*steps, dtype, moved, permuted), expected, rtol=1e-12)


def test_counts_beyond_int64():
    times = sample().seconds(1, 8, 8, 2 ** np.arange(80, dtype=object), "float64", 0)
    assert np.isfinite(times).all()
    assert (np.diff(times) >= 0).all()


def test_peak_rates():
    assert sample().gemm_rate("complex64") == 4e9
    assert sample().copy_rate == 1e10
    for call in (lambda: sample().gemm_rate("float32"), lambda: sample().seconds(1, 2, 2, 2, "float32", 0)):
        with pytest.raises(ValueError, match=r"not measured with float32.*float64, complex64"):
            call()


@pytest.mark.parametrize(
    "changes",
    [
        {"overhead": 0},
        {"overhead": "fast"},
        {"upload": math.nan},
        {"copy": ()},
        {"copy": ((2, 1), (1, 1))},
        {"permute": ((1, 0),)},
        {"gemm": {}},
        {"name": 3},
    ],
)
def test_figures_that_cannot_be(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        sample(**changes)


class Clock(module._Clock):
    """A device whose operations take what its rates say, by its own clock."""

    gemm = types.MappingProxyType({"float32": 8e9, "complex128": 1e9})
    copies, swaps, launch = 3e9, 1e9, 2e-6

    def __init__(self):
        self.backend, self.xp = "numpy", self
        self.now = 0.0
        self.rng = np.random.default_rng(0)

    def perf_counter(self):
        return self.now

    def take(self, seconds):
        # another job now and then: only the best run counts
        self.now += seconds + (1e-3 if self.rng.random() < 0.2 else 0)

    def array(self, shape, dtype):
        return np.broadcast_to(np.zeros((), dtype), shape)

    def matmul(self, left, right):
        assert left.shape == right.shape
        if left.ndim == 2:
            self.now += self.launch
        else:
            self.take(2 * math.prod(left.shape) * left.shape[-1] / self.gemm[left.dtype.name])

    def copy(self, array):
        self.take(2 * 4 * array.size / self.copies)

    def ascontiguousarray(self, array):
        self.take(2 * 4 * array.size / self.swaps)


def test_the_rates_of_a_device_with_its_own_clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    told = []
    figures = module._measure(clock, ("float32", "complex128"), lambda *words: told.append(words))
    for dtype, rate in clock.gemm.items():
        extents, rates = zip(*figures["gemm"][dtype], strict=True)
        assert rates == pytest.approx([rate] * len(rates))
        # the largest is measured that takes no longer than there is patience for
        assert extents == tuple(4**power for power in range(len(extents)))
        assert 2 * extents[-1] ** 3 / rate <= module._PATIENCE < 2 * (4 * extents[-1]) ** 3 / rate
    for name, rate in (("copy", clock.copies), ("permute", clock.swaps)):
        assert [size for size, _ in figures[name]] == [2 * size for size in module._BYTES["numpy"]]
        assert [found for _, found in figures[name]] == pytest.approx([rate] * len(figures[name]))
    assert figures["overhead"] == pytest.approx(clock.launch)
    assert [done for done, *_ in told] == list(range(6))
    assert {total for _, total, _ in told} == {5}
    # most of the memory is left alone
    monkeypatch.setattr(module, "device_memory", lambda backend: (2**23, 2**23))
    assert [extent for extent, _ in module._measure_gemm(clock, "float32")] == [1, 4, 16, 64]


@pytest.fixture
def gpu(device, monkeypatch):
    """The stand-in for CuPy, with what of its `cuda` a calibration uses."""
    card = types.SimpleNamespace(id=0, mem_info=(2**33, 2**34), synchronize=lambda: None)
    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"GPU 9000"}, runtimeGetVersion=lambda: 13000
    )
    device.cuda = types.SimpleNamespace(
        Device=lambda: card, runtime=runtime, alloc_pinned_memory=lambda size: bytearray(2 * size)
    )
    device.__version__ = "14"

    def put(array, values):
        assert values.shape == array.held.shape
        array.held[...] = values

    monkeypatch.setattr(device.ndarray, "set", put, raising=False)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_calibrating(request, monkeypatch, backend):
    if backend == "cupy":
        request.getfixturevalue("gpu")
    monkeypatch.setattr(module, "_BYTES", {"numpy": (2**16, 2**18), "cupy": (2**14, 2**16)})
    monkeypatch.setattr(module, "_BUDGET", 1e-3)
    found = module.calibrate("auto", dtypes=("float32", "complex128"))
    if backend == "cupy":
        assert (found.name, found.versions) == ("GPU 9000: cupy", {"cupy": "14", "cuda": "13000"})
        assert found.upload > 0
    else:
        assert found.name.startswith(module.processor())
        # caches and vector units: a product of large matrices runs at many times the rate of single numbers
        assert found.gemm_rate("float32") > 3 * found.gemm["float32"][0][1]
    assert set(found.gemm) == {"float32", "complex128"}
    assert found.permute[-1][1] < 10 * found.copy_rate
    assert module.devices() == {found.name: found}


@pytest.mark.gpu
def test_calibrating_a_gpu():
    if not backends()["cupy"].available:
        pytest.skip(backends()["cupy"].reason)
    found = module.calibrate("cupy")
    assert found.gemm_rate("float32") > 10 * found.gemm["float32"][0][1]
    assert found.copy_rate > found.upload > 0
    assert 0 < found.overhead < 1e-2


@pytest.fixture
def measured(monkeypatch):
    """Calibrations that cost nothing, and the dtypes of those that were made."""
    made = []

    def measure(clock, dtypes, progress):
        made.append(tuple(dtypes))
        whole = asdict(sample(gemm=dict.fromkeys(dtypes, ((1, 1e9),))))
        return {name: whole[name] for name in ("gemm", "copy", "permute", "overhead", "upload")}

    monkeypatch.setattr(module, "_measure", measure)
    return made


def test_a_calibration_is_kept(monkeypatch, measured):
    first = module.calibrate("numpy", dtypes=("float64",))
    assert module.calibrate("numpy", dtypes=("float64",)) is first
    module._measured.clear()  # as in another process
    assert module.calibrate("numpy", dtypes=("float64",)) == first
    assert measured == [("float64",)]
    # what a new dtype needs is measured with what there was, so that no calibration loses any
    assert set(module.calibrate("numpy", dtypes=("float32",)).gemm) == {"float32", "float64"}
    module.calibrate("numpy", dtypes=("float32",), refresh=True)
    assert measured[1:] == [("float32", "float64"), ("float32",)]
    monkeypatch.setattr(np, "__version__", "99")
    module._measured.clear()
    assert module.calibrate("numpy", dtypes=("float32",)).versions == {"numpy": "99"}
    # a file of another version is measured again
    cache.write("device", cache.digest(first.name), {"name": first.name, "gigaflops": 12})
    module._measured.clear()
    assert module.devices() == {}
    module.calibrate("numpy", dtypes=("float64",))
    assert len(measured) == 5


def test_threads_tell_calibrations_apart(monkeypatch, measured):
    names = []
    for threads in (1, 8):
        ours = {"user_api": "blas", "filepath": "/numpy.libs/blas.so", "num_threads": threads}
        pools = [{**ours, "filepath": "/scipy.libs/blas.so", "num_threads": 77}, ours]
        monkeypatch.setattr("threadpoolctl.threadpool_info", lambda pools=pools: pools)
        names.append(module.calibrate("numpy").name)
    assert names[0].endswith(": numpy, 1 thread")
    assert names[1].endswith(": numpy, 8 threads")
    assert set(module.devices()) == set(names)


def test_without_a_cache_folder_a_process_measures_once(monkeypatch, measured):
    monkeypatch.setenv("QRT_TN_CACHE", "off")
    first = module.calibrate("numpy")
    assert module.device("numpy") is first
    assert module.devices() == {first.name: first}
    assert len(measured) == 1


def test_devices_by_name(measured, tmp_path):
    here = module.device("numpy")
    other = sample("Far Away: cupy", backend="cupy", upload=1e10)
    cache.write("device", cache.digest(other.name), asdict(other))
    assert module.devices() == {here.name: here, other.name: other}
    copied = tmp_path / "copied.json"
    (file,) = (tmp_path / "cache" / "device").glob(f"{cache.digest(other.name)}.json")
    copied.write_bytes(file.read_bytes())
    for name in ("Far Away: cupy", other, copied, str(copied)):
        assert module.device(name) == other


def test_refusals(measured, tmp_path):
    notes = tmp_path / "notes.json"
    notes.write_text('{"a": 1}')
    cache.write("device", "0" * 64, {"name": "Abacus"})
    part = tmp_path / "cache" / "device" / f"{'0' * 64}.json"
    for call, message in [
        (lambda: module.calibrate("numpy", dtypes=("float16",)), "float16"),
        (lambda: module.calibrate("numpy", dtypes=()), "no dtypes"),
        (lambda: module.calibrate("abacus"), "abacus"),
        (lambda: module.device("H999"), "'H999'.*none yet"),
        (lambda: module.device(tmp_path / "absent.json"), r"absent\.json"),
        (lambda: module.device(notes), r"notes\.json"),
        (lambda: module.device(part), "missing"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert measured == []
