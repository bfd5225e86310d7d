import numpy as np
import pytest

from qrt_tn.engine import Scaled
from qrt_tn.studies.benchmarks.gpu.checks import Checks, Place, relative_error


def test_errors_are_relative_to_what_is_wanted():
    wanted = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -3.5]), wanted) == 0.125
    assert np.isnan(relative_error(np.array([np.nan]), np.ones(1)))
    with pytest.raises(ValueError, match=r"shape \(3,\) instead of \(2,\)"):
        relative_error(np.ones(3), wanted)
    # elements far apart in scale count alike, beyond the range of floats too
    scales = np.array([-2000.0, 3000.0])
    exact = Scaled(np.array([0.5, 1.0]), scales)
    assert relative_error(Scaled(np.array([0.5, 1.0]) / np.e, scales + 1), exact) < 1e-12
    for place in range(2):
        mantissa = np.array([0.5, 1.0])
        mantissa[place] *= 1.5
        assert relative_error(Scaled(mantissa, scales), exact) == pytest.approx(0.5)
    assert relative_error(Scaled(np.full(2, 2.0), np.log(2)), np.full(2, 4.0)) < 1e-12


def test_what_does_not_hold_is_named_and_the_rest_goes_on():
    kept = []
    checks = Checks(lambda found: kept.append(len(found["figures"])))
    checks.most("small", lambda: 1.0, 2)
    checks.most("large", lambda: 3.0, 2)
    checks.most("no number", lambda: np.nan, 2)
    checks.holds("false", lambda: [])
    checks.near("raises", lambda: np.ones(2), np.ones(3), 1)
    checks.tell("told", lambda: "anything")
    names = [name.partition(",")[0] for name in checks.found["failed"]]
    assert names == ["large", "no number", "false", "raises"]
    assert "ValueError: shape (2,)" in checks.found["failed"]["raises, at most 1"]
    assert checks.found["figures"]["told"] == "anything"
    assert len(kept) == 6


def test_times_stand_beside_their_bounds(monkeypatch):
    place, checks = Place("numpy", small=True), Checks()
    checks.timed(place, "sleep", lambda: None, host=lambda: None, share=4, flops=1e9, nodes=3)
    (row,) = checks.found["rows"]
    assert (row["what"], row["nodes"]) == ("sleep", 3)
    assert row["bound_seconds"] == pytest.approx(1e9 / place.device.gemm_rate("complex64"))
    assert 0 < row["seconds"] < row["bound_seconds"]
    assert row["host_seconds"] > 0
