import numpy as np
import pytest

from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.roofline import roofline
from tests.scaling_studies.report.study.conftest import DEVICE, ROOFED, record, study_of

TEXT = """
name = "roofs"
experiment = "roofed"
seeds = 3
[axes]
size = [1, 10, 100]
backend = ["numpy", "cupy"]
dtype = ["complex64", "complex128"]
[[figures]]
title = "figure"
kind = "roofline"
series = "backend"
panels = "dtype"
"""
PEAKS = {"numpy": (1e11, 2e10), "cupy": (1e13, 1e12)}


def finished_of(**changes: object) -> Finished:
    study = study_of(TEXT, ROOFED)
    made = []
    for point in study.points:
        p = point.parameters
        peak, bandwidth = PEAKS[p["backend"]]
        peak /= 2 if p["dtype"] == "complex128" else 1
        # a machine's rates are measured anew on every host, and differ by a percent
        values = {
            "flops": 1e9 * p["size"],
            "bytes_moved": 1e9,
            "seconds": 0.1 * (1 + point.seed),
            "peak_flops": peak * (1 + 0.01 * point.seed),
            "bandwidth": bandwidth,
        }
        gpu = "Big GPU" if p["backend"] == "cupy" else None
        made.append(record(study, point, values | changes, device=DEVICE | {"gpu": gpu}))  # type: ignore[operator]
    return Finished(study, made, "points")


def test_settings_are_medians_under_the_smaller_of_peak_and_bandwidth() -> None:
    finished = finished_of()
    made = roofline(finished, finished.study.figures[0])
    assert [panel for panel, _ in made.panels] == ["complex64", "complex128"]
    dots = made.panels[1][1][0]
    assert made.plot.lines[dots.place] == "numpy"
    order = np.argsort(dots.intensity)
    assert dots.intensity[order] == pytest.approx([1, 10, 100])
    assert dots.rate[order] == pytest.approx([1e9 * size / 0.2 for size in (1, 10, 100)])
    # the peak of the middle seed is 1 % higher
    roofs = [min(5e10 * 1.01, 2e10 * size) for size in (1, 10, 100)]
    share = dots.rate[order] / roofs
    assert dots.share[order] == pytest.approx(share)
    sizes = [finished.value("size", row) for row in dots.rows[order]]
    assert sizes == [1, 10, 100]


def test_a_ceiling_for_each_device_and_arithmetic() -> None:
    finished = finished_of()
    made = roofline(finished, finished.study.figures[0])
    found = {one.name: (one.peak, one.bandwidth) for one in made.ceilings}
    assert found == {
        "Big GPU, complex64": pytest.approx((1.01e13, 1e12)),
        "Big GPU, complex128": pytest.approx((5.05e12, 1e12)),
        "Fast 9000, complex64": pytest.approx((1.01e11, 2e10)),
        "Fast 9000, complex128": pytest.approx((5.05e10, 2e10)),
    }
    assert [one.peak for one in made.ceilings] == pytest.approx([1.01e13, 5.05e12, 1.01e11, 5.05e10])
    x = np.array([1e-3, 1e9])
    assert made.ceilings[0].at(x) == pytest.approx([1e9, 1.01e13])


def test_ceilings_that_hardly_differ_are_one() -> None:
    finished = finished_of(peak_flops=7e10, bandwidth=1e10)
    made = roofline(finished, finished.study.figures[0])
    names = {one.name for one in made.ceilings}
    assert names == {"Big GPU, complex64 / complex128", "Fast 9000, complex64 / complex128"}


def test_rates_without_a_roof_are_shown_and_said() -> None:
    finished = finished_of(peak_flops=None)
    made = roofline(finished, finished.study.figures[0])
    assert made.ceilings == []
    assert made.plot.remarks == ["36 points are shown without a roof, which was not measured."]
    assert np.isnan(made.panels[0][1][0].share).all()


def test_points_without_rates_are_left_out_and_said() -> None:
    finished = finished_of(flops=0.0)
    made = roofline(finished, finished.study.figures[0])
    assert made.panels == []
    assert made.plot.remarks == ["36 points are left out, having no flops, bytes or seconds."]
