from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qrt_tn import QuantumRidgeletTransform, Ridgelet, engine, states
from qrt_tn.studies.experiments.catalogue import Context, UnavailableError
from qrt_tn.studies.experiments.growth import makers, measuring
from qrt_tn.studies.experiments.growth.run import grow, preparation
from qrt_tn.studies.experiments.growth.settings import EXPERIMENT, Growth

KINDS = ("samples", "smoothed", "mps", "ridges", "dense")
CLASSES = {
    "samples": states.SampleState,
    "smoothed": states.SmoothedState,
    "mps": states.MPSState,
    "ridges": states.RidgeSumState,
    "dense": states.DenseState,
}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, say=lambda line: None)


def settings(kind: str, **more: Any) -> Growth:
    size = {"dim": 2, "modulus": 11, "bond": 3, "points": 20, "nodes": 30, "rounds": 2}
    return Growth.model_validate({"kind": kind, **size, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_the_transform_as_an_array(kind: str, context: Context) -> None:
    asked = settings(kind)
    found = grow(asked, 3, context)
    assert set(found) == set(EXPERIMENT.metrics)
    ridgelet = Ridgelet(asked.activation, 11)
    state = preparation(asked, ridgelet, 3)()()
    assert type(state) is CLASSES[kind]
    nodes = QuantumRidgeletTransform(state, ridgelet, "numpy").sample(30)
    # R[f](a, b) = P^{-D/2} sum_x f(x) conj r((a.x - b) mod P), point by point of the grid
    grid = np.stack(np.meshgrid(*[np.arange(11)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    waves = np.exp(2j * np.pi * (grid @ grid.T) / 11) / 11
    values = waves @ state.spectrum(grid).value()
    places = (nodes.a @ grid.T - nodes.b[:, None]) % 11
    amplitudes = (values[None, :] * ridgelet.values[places]).sum(axis=1) / 11
    wanted = np.log(np.abs(amplitudes) ** 2).mean()
    assert found["mean_log_probability"] == pytest.approx(wanted, rel=1e-4)
    assert found["total_seconds"] == found["build_seconds"] + found["seconds"]
    assert min(found["build_seconds"], found["seconds"]) > 0
    assert found["bytes"] > 1000
    assert (found["bond_reached"] is None) == (kind not in ("mps", "smoothed"))
    assert (found["truncation_error"] is None) == (kind != "smoothed")


def test_states_hold_the_data_that_were_drawn() -> None:
    rng = np.random.default_rng(8)
    asked = settings("samples", dtype="complex128", points=4)
    state = preparation(asked, Ridgelet("triangle", 11), 8)()()
    x = rng.integers(11, size=(4, 2), dtype=np.uint8)
    y = rng.normal(size=4)
    dense = np.zeros((11, 11))
    np.add.at(dense, tuple(x.T), y - y.mean())
    wanted = np.fft.fft2(dense)[tuple(x.T)] / 11 / np.linalg.norm(dense)
    assert np.allclose(state.spectrum(x).value(), wanted)


def test_bonds_and_errors_that_come_out(context: Context) -> None:
    assert grow(settings("mps", dim=5, bond=3), 0, context)["bond_reached"] == 3
    assert grow(settings("mps", dim=1), 0, context)["bond_reached"] == 1
    found = grow(settings("smoothed", dim=40, modulus=31, points=60), 0, context)
    assert 2 <= found["bond_reached"] < 40
    assert 0 < found["truncation_error"] <= 1e-2


def test_guard_band_and_width_of_smoothed_points() -> None:
    for dim, modulus in ((50, 127), (1000, 127), (50, 31)):
        build = makers.smoothed(dim, modulus, 30, np.random.default_rng(0))
        x, width = build.args[0], build.keywords["smoothing"]
        assert 0 <= x.min() < x.max() <= round(17 * modulus / 127) - 1
        # the weight of the lowest frequencies: 2 D tau(1)^2 coordinates off zero
        assert 2 * dim * np.exp(-1 / width**2) == pytest.approx(16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_gives_the_same_bits_again(kind: str, context: Context) -> None:
    def steady(seed: int) -> dict[str, Any]:
        found = grow(settings(kind, rounds=1), seed, context)
        return {name: value for name, value in found.items() if not EXPERIMENT.metrics[name].measured}

    assert steady(1) == steady(1)
    assert steady(1) != steady(2)


def test_more_memory_for_more_data(context: Context) -> None:
    few, many = (grow(settings("samples", dim=200, points=m), 0, context)["bytes"] for m in (100, 5000))
    assert many - few > 4900 * 200  # a byte for each coordinate


def test_the_precision_asked_for() -> None:
    for dtype, real in (("complex64", np.float32), ("complex128", np.float64)):
        assert makers.samples(3, 7, 9, np.random.default_rng(0), dtype).args[1].dtype == real
        (cores,) = makers.mps(3, 7, 2, np.random.default_rng(0), dtype).args
        assert {core.dtype.name for core in cores} == {dtype}


def test_a_log_probability_that_is_not_finite(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SimpleNamespace(log_probability=np.array([-3.0, np.nan]))
    monkeypatch.setattr(measuring.QuantumRidgeletTransform, "sample", lambda *_: bad)
    with pytest.raises(RuntimeError, match="a log-probability that is not finite"):
        grow(settings("dense"), 0, context)


def test_a_backend_that_is_missing(context: Context) -> None:
    if engine.backends()["cupy"].available:
        pytest.skip("a GPU answers here")
    with pytest.raises(UnavailableError, match=r"backend 'cupy' is not available: .*; "):
        grow(settings("mps", backend="cupy", gpus=1), 0, context)


def test_memory_of_a_device_is_what_its_pool_grew_by(device: Any) -> None:
    held = [700]  # freed, and 300 that others still hold

    class Pool:
        def free_all_blocks(self) -> None:
            held[0] = 300

        def total_bytes(self) -> int:
            return held[0]

    device.get_default_memory_pool = Pool
    device.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(synchronize=lambda: None))

    def prepare() -> makers.Build:
        held[0] += 1000
        return makers.ridges(3, 4, ridgelet, np.random.default_rng(0))

    ridgelet = Ridgelet("triangle", 7)
    found = measuring.measured(prepare, ridgelet, 5, 3, "cupy")
    assert found.bytes == 1000
    assert len(found.draws) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["samples", "smoothed", "mps"])
def test_on_a_gpu(kind: str, context: Context) -> None:
    if not engine.backends()["cupy"].available:
        pytest.skip(engine.backends()["cupy"].reason)
    asked = settings(kind, backend="cupy", gpus=1, dim=50)
    found = grow(asked, 1, context)
    assert found["bytes"] > 1000
    again = grow(asked, 1, context)
    assert found["mean_log_probability"] == pytest.approx(again["mean_log_probability"], rel=1e-6)


def test_the_mean_is_rounded_once() -> None:
    values = np.array([1e16, 1.0, -1e16, 1.0])
    assert measuring.mean(values) == 0.5
