from types import SimpleNamespace

import numpy as np
import pytest

from qrt_tn import states
from qrt_tn.studies.benchmarks.states import growth


def test_exponents_are_those_of_the_values() -> None:
    dims = [100, 300, 1000]
    assert growth.exponent(dims, [2.0 * dim**1.5 for dim in dims]) == pytest.approx(1.5)
    assert growth.exponent(dims, [7.0, 7.0, 7.0]) == pytest.approx(0.0)


@pytest.mark.parametrize("kind", [*growth.KINDS, "dense"])
def test_every_kind_gives_a_row_per_dimension(kind: str) -> None:
    make = growth.KINDS.get(kind, growth.dense)
    dims = (1, 2) if kind == "dense" else (5, 2000)
    rows = list(growth.measure(kind, make, dims, 3, 2))
    assert [row["dim"] for row in rows] == list(dims)
    for row in rows:
        assert (row["kind"], row["nodes"]) == (kind, 3)
        assert 0 < row["fastest"] <= row["seconds"]
        assert row["build_seconds"] > 0
        low, high = row["log_probability"]
        assert -(row["dim"] + 1) * np.log(127) - 30 < low <= high < 1e-6
    # what is held grows with D
    assert rows[1]["bytes"] > rows[0]["bytes"] > 1000


def test_the_states_are_of_the_kinds_they_say() -> None:
    kinds = {kind: type(make(4)()) for kind, make in growth.KINDS.items()}
    assert kinds == {
        "samples": states.SampleState,
        "MPS": states.MPSState,
        "ridge sum": states.RidgeSumState,
    }
    assert all(make(4)().dim == 4 for make in growth.KINDS.values())


def test_a_log_probability_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SimpleNamespace(log_probability=np.array([-3.0, np.inf]))
    monkeypatch.setattr(growth.QuantumRidgeletTransform, "sample", lambda *_: bad)
    with pytest.raises(RuntimeError, match="ridge sum at D = 3: a log-probability that is not finite"):
        list(growth.measure("ridge sum", growth.KINDS["ridge sum"], (3,), 2, 1))
