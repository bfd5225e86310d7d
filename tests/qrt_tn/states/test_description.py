import numpy as np
import pytest

from qrt_tn import states
from qrt_tn.engine import Device
from qrt_tn.states import description as module
from qrt_tn.states.base import Cost

TABLES = {
    "float32": ((64.0, 2e9),),
    "float64": ((64.0, 1e9),),
    "complex64": ((64.0, 1e9),),
    "complex128": ((64.0, 5e8),),
}
DEVICE = Device("Abacus", "numpy", TABLES, ((1e8, 1e10),), ((1e8, 1e10),), 1e-6, None, {}, "2026-01-02")


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    monkeypatch.setattr("qrt_tn.engine.device", lambda name: DEVICE)
    monkeypatch.setattr(module, "device_memory", lambda name: (2**33, 2**32))


@pytest.fixture
def state():
    return states.from_dense(np.random.default_rng(0).normal(size=(5, 5, 5)))


def test_what_is_printed_is_what_is_returned(state, capsys):
    found = states.describe(state, 200)
    shown = capsys.readouterr().out
    assert shown == f"{found}\n"
    assert shown.startswith("DenseState on Z_5^3\n")
    assert "200 nodes" in shown
    assert "predicted on Abacus" in shown
    assert "4 GiB free" in shown
    assert found.fits
    drawn = state._drawing(200, 4)
    assert (found.cost.products, found.cost.moved) == (drawn.products, drawn.moved)
    assert found.cost.memory == drawn.memory + 200 * 8 * (3 + 2)


def test_seconds_follow_the_rates():
    # a real multiply-add is two flops; a complex one, four real ones, counts as two as well
    assert module.predicted_seconds(Cost(1e9, 0, 0, "float32"), DEVICE) == pytest.approx(1.0)
    assert module.predicted_seconds(Cost(4e9, 0, 0, "complex64"), DEVICE) == pytest.approx(2.0)
    assert module.predicted_seconds(Cost(0, 3e10, 0, "complex64"), DEVICE) == pytest.approx(3.0)


def test_what_does_not_fit_says_so(state, monkeypatch):
    monkeypatch.setattr(module, "device_memory", lambda name: (2**20, 2**10))
    found = states.describe(state, 10**6)
    assert not found.fits
    assert "does not fit" in str(found)


@pytest.mark.parametrize(("points", "kind"), [(300, "float64"), (5000, "float32")])
def test_smoothing_is_told_before_it_runs(points, kind, capsys):
    x = np.zeros((points, 784), dtype=np.uint8)
    y = np.ones((points, 10), dtype=np.float32)
    found = states.describe_smoothing(x, y, 127, smoothing=0.5, bond=100)
    assert capsys.readouterr().out == f"{found}\n"
    assert str(found).startswith("SmoothedState on Z_127^784, 10 outputs\nlargest bond   100\ncompressing")
    assert found.cost.dtype == kind
    assert found.seconds == module.predicted_seconds(found.cost, DEVICE) > 0


X, Y = np.zeros((5, 3), dtype=int), np.ones(5)


@pytest.mark.parametrize(
    ("call", "arguments", "says"),
    [
        (states.describe, {"state": np.zeros(3)}, "ndarray"),
        (states.describe, {"nodes": 0}, "nodes is 0"),
        (states.describe, {"harmonics": -1}, "harmonics is -1"),
        (states.describe, {"backend": "abacus"}, "'abacus'"),
        (states.describe_smoothing, {"y": Y[:4]}, r"shape \(4,\)"),
        (states.describe_smoothing, {"x": X[:0], "y": Y[:0]}, r"shape \(0, 3\)"),
        (states.describe_smoothing, {"y": Y * np.nan}, "nan"),
        (states.describe_smoothing, {"bond": 0}, "bond is 0"),
        (states.describe_smoothing, {"modulus": 126}, "126"),
    ],
)
def test_refusals(call, arguments, says, state):
    good = {"x": X, "y": Y, "modulus": 127, "smoothing": 0.5}
    good = {"state": state} if call is states.describe else good
    with pytest.raises(ValueError, match=says):
        call(**(good | arguments))
