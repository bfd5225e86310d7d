import importlib
import itertools
import math

import numpy as np
import pytest

from qrt_tn.engine import cache

room = importlib.import_module("qrt_tn.engine.roofline")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QRT_TN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "_measured", {})


def sample(name="Abacus: numpy, 1 thread", **changes):
    figures = {
        "name": name,
        "backend": "numpy",
        "gemm": {"float64": ((4, 2e9), (64, 8e9)), "complex64": ((1, 1e8), (16, 4e9), (256, 1e9))},
        "multiply": {"float64": ((1, 1e9), (16, 4e9)), "complex64": ((1, 1e8),)},
        "copy": ((1000, 1e11), (1e6, 1e10)),
        "permute": ((1000, 1e10), (1e6, 2e9)),
        "overhead": 1e-6,
        "upload": None,
        "memory": 2**30,
        "versions": {"numpy": "0"},
        "measured": "2026-01-02",
    }
    return room.Device(**{**figures, **changes})


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
        work = batch * m * n / interpolated(device.multiply[dtype], math.sqrt(m * n))
    else:
        work = 2 * batch * m * n * k / interpolated(device.gemm[dtype], (m * k * n) ** (1 / 3))
    work = max(work, moved / interpolated(device.copy, moved))
    work += permuted / interpolated(device.permute, permuted) if permuted else 0
    return work + device.overhead if device.upload is None else max(work, device.overhead)


@pytest.mark.parametrize("upload", [None, 1e10])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_seconds_of_many_steps(upload, dtype):
    device = sample(upload=upload)
    rng = np.random.default_rng(0)
    steps = 2 ** rng.integers(0, 9, (4, 200))
    moved, permuted = rng.integers(0, 10**7, (2, 200)) * (rng.random((2, 200)) < 0.7)
    expected = [
        by_hand(device, *map(int, step), dtype, int(bytes_), int(copied))
        for step, bytes_, copied in zip(steps.T, moved, permuted, strict=True)
    ]
    assert np.allclose(device.seconds(*steps, dtype, moved, permuted), expected, rtol=1e-12)
    one = device.step_seconds(*map(int, steps[:, 7]), np.dtype(dtype), int(moved[7]), int(permuted[7]))
    assert isinstance(one, float)
    assert one == pytest.approx(expected[7], rel=1e-12)


def test_more_work_never_takes_less_on_a_device_whose_rates_grow_slowly():
    device = sample()
    times = device.seconds(1, 8, 8, 2 ** np.arange(60, dtype=object), "float64", 0)
    assert np.isfinite(times).all()  # counts beyond int64 too
    assert (np.diff(times) >= 0).all()


def test_a_dtype_that_was_not_measured():
    for dtype in ("float32", "abacus"):
        with pytest.raises(ValueError, match=f"not measured with .*{dtype}.*float64, complex64"):
            sample().seconds(1, 2, 2, 2, dtype, 0)
    with pytest.raises(ValueError, match="not measured with complex128"):
        sample().gemm_rate(complex)


def test_peak_rates():
    assert sample().gemm_rate("complex64") == 4e9
    assert sample().copy_rate == 1e10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overhead": 0}, "overhead"),
        ({"overhead": "fast"}, "overhead"),
        ({"memory": -1}, "memory"),
        ({"upload": math.nan}, "upload"),
        ({"copy": ()}, "copy must be pairs"),
        ({"copy": ((2, 1), (1, 1))}, "copy must be pairs in order"),
        ({"permute": ((1, 0),)}, "permute must hold positive numbers"),
        ({"gemm": {}, "multiply": {}}, "one at least"),
        ({"multiply": {"float64": ((1, 1),)}}, "same dtypes"),
        ({"name": 3}, "name"),
    ],
)
def test_figures_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(**changes)


@pytest.fixture
def measured(monkeypatch):
    """Calibrations that cost nothing, and the dtypes of those that were made."""
    made = []

    def measure(bench, dtypes, progress):
        made.append(tuple(dtypes))
        tables = dict.fromkeys(dtypes, ((1, 1000000000.0),))
        return sample(bench.name, gemm=tables, multiply=tables, versions=dict(bench.versions))

    monkeypatch.setattr(room, "_measure", measure)
    return made


def test_a_calibration_is_kept(monkeypatch, measured):
    first = room.calibrate("numpy", dtypes=("float64",))
    assert room.calibrate("numpy", dtypes=("float64",)) is first
    room._measured.clear()  # as in another process
    assert room.calibrate("numpy", dtypes=("float64",)) == first
    assert measured == [("float64",)]
    # what a new dtype needs is measured with what there was, so that no calibration loses any
    assert set(room.calibrate("numpy", dtypes=("float32",)).gemm) == {"float32", "float64"}
    assert measured[1:] == [("float32", "float64")]
    room.calibrate("numpy", dtypes=("float32",), refresh=True)
    assert measured[2:] == [("float32",)]
    monkeypatch.setattr(np, "__version__", "99")
    room._measured.clear()
    assert room.calibrate("numpy", dtypes=("float32",)).versions == {"numpy": "99"}
    assert len(measured) == 4


def test_threads_tell_calibrations_apart(monkeypatch, measured):
    def pools(threads):
        ours = {"user_api": "blas", "filepath": "/numpy.libs/blas.so", "num_threads": threads}
        return [{**ours, "filepath": "/scipy.libs/blas.so", "num_threads": 77}, ours]

    names = []
    for threads in (1, 8):
        monkeypatch.setattr(
            "qrt_tn.engine.calibration.threadpool_info", lambda threads=threads: pools(threads)
        )
        names.append(room.calibrate("numpy").name)
    assert names[0].endswith(": numpy, 1 thread")
    assert names[1].endswith(": numpy, 8 threads")
    assert set(room.devices()) == set(names)


def test_without_a_cache_folder_a_process_measures_once(monkeypatch, measured):
    monkeypatch.setenv("QRT_TN_CACHE", "off")
    first = room.calibrate("numpy")
    assert room.device("numpy") is first
    assert room.devices() == {first.name: first}
    assert len(measured) == 1


def test_calibrations_of_another_version_are_measured_again(measured):
    first = room.calibrate("numpy")
    room._measured.clear()
    cache.write("device", cache.digest(first.name), {"name": first.name, "gigaflops": 12})
    assert room.devices() == {}
    assert room.calibrate("numpy") == first
    assert len(measured) == 2


def test_devices_by_name(measured, tmp_path):
    assert room.devices() == {}
    here = room.device("numpy")
    other = sample("Far Away: cupy", backend="cupy", upload=1e10)
    cache.write("device", cache.digest(other.name), room.asdict(other))
    assert room.devices() == {here.name: here, other.name: other}
    assert room.device("Far Away: cupy") == other
    assert room.device(other) is other
    (file,) = (tmp_path / "cache" / "device").glob(f"{cache.digest(other.name)}.json")
    copied = tmp_path / "copied.json"
    copied.write_bytes(file.read_bytes())
    assert room.device(copied) == room.device(str(copied)) == other
    with pytest.raises(ValueError, match=r"unknown device 'Abakus'; .*: .*Far Away: cupy"):
        room.device("Abakus")


def test_calibration_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"unknown device 'H999'; .*none yet"):
        room.device("H999")
    with pytest.raises(ValueError, match=r"cannot read .*absent\.json"):
        room.device(tmp_path / "absent.json")
    path = tmp_path / "notes.json"
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"notes\.json does not hold a whole device"):
        room.device(path)
    cache.write("device", "0" * 64, {"name": "Abacus"})
    with pytest.raises(ValueError, match=r"not hold a whole calibration .*missing.*measure it again"):
        room.device(tmp_path / "cache" / "device" / f"{'0' * 64}.json")


def test_refusals(measured):
    with pytest.raises(ValueError, match="unknown dtype 'float16'; choose from float32"):
        room.calibrate("numpy", dtypes=("float16",))
    with pytest.raises(ValueError, match="no dtypes"):
        room.calibrate("numpy", dtypes=())
    with pytest.raises(ValueError, match="unknown backend 'abacus'"):
        room.calibrate("abacus")
    assert measured == []
