import numpy as np
import pytest

from qrt_tn.studies.report.study.curves import lines, ratio
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.plots import Curve, Plot
from tests.scaling_studies.report.study.conftest import ROOFED, noise, record, records, study_of

HEAD = """
name = "small"
experiment = "roofed"
seeds = 4
[axes]
size = [8, 2, 4, 16]
backend = ["numpy", "jax", "cupy"]
dtype = ["complex64", "complex128"]
[[figures]]
title = "figure"
"""


def value(p, seed: int) -> float:
    scale = {"numpy": 1.0, "jax": 2.0, "cupy": 5.0}[p["backend"]]
    return p["size"] ** 1.5 / scale * float(np.exp(0.1 * noise(seed, p["size"], p["backend"], p["dtype"])))


def finished_of(figure: str, values=None, keep=lambda point: True) -> Finished:
    study = study_of(HEAD + figure, ROOFED)
    points = [point for point in study.points if keep(point)]
    return Finished(
        study, records(study, values or (lambda p, seed: {"seconds": value(p, seed)}), points), "points"
    )


def drawn(figure: str, **options: object) -> Plot:
    finished = finished_of(figure, **options)  # type: ignore[arg-type]
    asked = finished.study.figures[0]
    return (ratio if asked.kind == "ratio" else lines)(finished, asked)


def curve_of(plot: Plot, line: object, panel: object = None) -> Curve:
    curves = dict(plot.panels)[panel]
    return next(curve for curve in curves if plot.lines[curve.place] == line)


@pytest.mark.parametrize("band", ["range", "quartiles"])
def test_lines_are_medians_and_bands_over_the_seeds(band: str) -> None:
    plot = drawn(f'x = "size"\ny = "seconds"\nseries = "backend"\npanels = "dtype"\nband = "{band}"')
    assert [panel for panel, _ in plot.panels] == ["complex64", "complex128"]
    assert plot.counts == plot.seeds == (4, 4)
    assert plot.pooled == ()
    assert plot.asked == len(plot.rows) == 96
    for panel in ("complex64", "complex128"):
        for backend in ("numpy", "jax", "cupy"):
            found = curve_of(plot, backend, panel)
            assert found.x.tolist() == [2, 4, 8, 16]
            for place, size in enumerate(found.x):
                p = {"size": int(size), "backend": backend, "dtype": panel}
                values = [value(p, seed) for seed in range(4)]
                ends = (0, 1) if band == "range" else (0.25, 0.75)
                assert found.middle[place] == pytest.approx(np.median(values), rel=1e-14)
                assert found.low[place] == pytest.approx(np.quantile(values, ends[0]), rel=1e-14)
                assert found.high[place] == pytest.approx(np.quantile(values, ends[1]), rel=1e-14)


def test_other_parameters_under_one_median_are_named() -> None:
    plot = drawn('x = "size"\ny = "seconds"\nseries = "backend"')
    assert plot.pooled == ("dtype",)
    assert plot.counts == (8, 8)
    assert plot.seeds == (4, 4)


def test_where_leaves_out_and_says_what_no_point_has() -> None:
    plot = drawn('x = "size"\ny = "seconds"\nwhere = { backend = "jax", dtype = ["complex64"] }')
    assert plot.asked == 16
    values = [value({"size": 2, "backend": "jax", "dtype": "complex64"}, seed) for seed in range(4)]
    assert plot.panels[0][1][0].middle[0] == pytest.approx(np.median(values), rel=1e-14)
    empty = drawn('x = "size"\ny = "seconds"\nwhere = { backend = "cuquantum" }')
    assert empty.panels == []
    assert empty.remarks == ["No point of this study has backend = cuquantum."]


def test_a_fit_finds_the_exponent_and_two_places_are_too_few() -> None:
    figure = 'x = "size"\ny = "seconds"\nseries = "backend"\npanels = "dtype"\nfit = "power"'
    fit = curve_of(drawn(figure), "cupy", "complex64").fit
    assert fit is not None
    assert fit.low < 1.5 < fit.high
    assert fit.high - fit.low < 0.5
    assert fit.count == 4
    few = drawn(figure, keep=lambda point: point.parameters["size"] < 5)
    found = curve_of(few, "cupy", "complex64")
    assert found.fit is None
    assert found.unfitted == "2 of at least 3 distinct places"


def test_names_along_x_are_places_in_the_studys_order_and_have_no_fit() -> None:
    plot = drawn('x = "backend"\ny = "seconds"\nwhere = { size = 8, dtype = "complex64" }\nfit = "power"')
    assert plot.ticks == ("numpy", "jax", "cupy")
    found = plot.panels[0][1][0]
    assert found.x.tolist() == [0, 1, 2]
    assert found.fit is None
    assert found.unfitted == "backend is no number"


def test_what_a_logarithmic_axis_cannot_hold_is_left_out_and_said() -> None:
    figure = 'x = "size"\ny = "error"\nseries = "backend"\npanels = "dtype"\n'
    values = lambda p, seed: {"error": 0.0 if p["size"] == 2 else 1.0}  # noqa: E731
    plot = drawn(figure + 'scale = "log-log"\nfit = "power"', values=values)
    assert curve_of(plot, "numpy", "complex64").x.tolist() == [4, 8, 16]
    assert plot.remarks == ["6 medians are left out, being 0 or below on a logarithmic axis."]
    kept = drawn(figure + 'fit = "power"', values=values)
    found = curve_of(kept, "numpy", "complex64")
    assert found.x.tolist() == [2, 4, 8, 16]
    assert found.fit is not None
    assert found.fit.count == 3


def test_missing_metrics_are_left_out_and_said() -> None:
    plot = drawn(
        'x = "size"\ny = "bond"\nwhere = { dtype = "complex64", backend = "numpy" }',
        values=lambda p, seed: {"bond": None if seed == 0 or p["size"] == 8 else seed},
    )
    found = plot.panels[0][1][0]
    assert found.x.tolist() == [2, 4, 16]
    assert found.middle.tolist() == [2, 2, 2]
    assert plot.counts == (3, 3)
    assert plot.remarks == ["7 points are left out, having no value of largest bond."]


def test_an_x_that_points_brought_out_gives_a_point_a_setting() -> None:
    plot = drawn(
        'x = "bond"\ny = "error"\nseries = "backend"',
        values=lambda p, seed: {"bond": p["size"] * 10 + seed, "error": seed**2},
    )
    found = curve_of(plot, "jax")
    assert plot.pooled == ()
    assert found.x.tolist() == [21.5, 21.5, 41.5, 41.5, 81.5, 81.5, 161.5, 161.5]  # two kinds of numbers
    assert found.x_low is not None
    assert found.x_high is not None
    assert found.x_low.tolist()[:3] == [20, 20, 40]
    assert found.x_high.tolist()[:3] == [23, 23, 43]
    assert found.middle.tolist() == [2.5] * 8


def test_more_panels_and_lines_than_can_be_read_are_said() -> None:
    axes = 'size = {range = [1, 30], step = 1}\nbackend = ["a","b","c","d","e","f","g","h"]'
    study = study_of(
        f'name = "m"\nexperiment = "roofed"\n[axes]\n{axes}\n[[figures]]\ntitle = "t"\nx = "bond"\n'
        'y = "error"\nseries = "size"\npanels = "backend"',
        ROOFED,
    )
    plot = lines(
        Finished(study, records(study, lambda p, seed: {"bond": 1, "error": 1}), "points"), study.figures[0]
    )
    assert [panel for panel, _ in plot.panels] == ["a", "b", "c", "d", "e", "f"]
    assert len(plot.lines) == 12
    assert (plot.lines[0], plot.lines[-1]) == (1, 30)  # evenly over all of them
    assert plot.remarks == [
        "2 more values of backend have no panel here.",
        "18 more values of size have no line here.",
    ]


def test_ratios_are_of_points_alike_with_the_same_seed() -> None:
    plot = drawn(
        'kind = "ratio"\nx = "size"\ny = "seconds"\nseries = "backend"\npanels = "dtype"\n'
        'reference = { backend = "numpy" }\nideal = "one"'
    )
    assert plot.y.label == "time at backend = numpy ÷ time"
    assert plot.guides == [("no gain", 1.0, 0)]
    for dtype in ("complex64", "complex128"):
        with pytest.raises(StopIteration):
            curve_of(plot, "numpy", dtype)
        found = curve_of(plot, "cupy", dtype)
        for place, size in enumerate(found.x):
            p = {"size": int(size), "dtype": dtype}
            ratios = [
                value(p | {"backend": "numpy"}, s) / value(p | {"backend": "cupy"}, s) for s in range(4)
            ]
            assert found.middle[place] == pytest.approx(np.median(ratios), rel=1e-14)
            assert (found.low[place], found.high[place]) == pytest.approx((min(ratios), max(ratios)))
    assert plot.remarks == []


def test_missing_partners_are_said() -> None:
    gone = lambda point: not (point.parameters["backend"] == "numpy" and point.seed == 2)  # noqa: E731
    figure = 'kind = "ratio"\nx = "size"\ny = "seconds"\nseries = "backend"\npanels = "dtype"\n'
    plot = drawn(figure + 'reference = { backend = "numpy" }', keep=gone)
    assert plot.remarks == ["16 points are left out, having no finished partner at backend = numpy."]
    assert plot.counts == (3, 3)
    none = drawn(figure + 'reference = { backend = "cuquantum" }')
    assert none.panels == []
    assert none.remarks[0].startswith("No point of this study has backend = cuquantum")


def test_a_curve_that_starts_from_its_reference_is_fitted_without_it() -> None:
    plot = drawn(
        'kind = "ratio"\nx = "size"\ny = "seconds"\nseries = "backend"\npanels = "dtype"\n'
        'reference = { size = 2 }\nideal = "x"\nfit = "power"'
    )
    found = curve_of(plot, "jax", "complex64")
    assert found.x.tolist() == [2, 4, 8, 16]
    assert (found.low[0], found.middle[0], found.high[0]) == (1, 1, 1)
    assert found.fit is not None
    assert found.fit.count == 3
    assert plot.guides == [("ideal", 0.5, 1)]


def test_a_ratio_over_zero_is_left_out_and_said() -> None:
    plot = drawn(
        'kind = "ratio"\nx = "size"\ny = "error"\nseries = "backend"\npanels = "dtype"\n'
        'reference = { backend = "numpy" }',
        values=lambda p, seed: {"error": 0.0 if p["backend"] == "jax" and seed == 1 else 2.0},
    )
    assert plot.remarks == ["8 points are left out, having a test error of 0."]
    assert curve_of(plot, "jax", "complex64").middle.tolist() == [1, 1, 1, 1]


def test_no_records_draw_nothing() -> None:
    for kind in ("", 'kind = "ratio"\nreference = { size = 2 }\n'):
        plot = drawn(f'{kind}x = "size"\ny = "seconds"\nseries = "backend"', keep=lambda point: False)
        assert plot.panels == []
        assert plot.asked == 96


def test_partners_take_part_in_what_a_ratio_mixes() -> None:
    study = study_of(
        HEAD + 'kind = "ratio"\nx = "size"\ny = "seconds"\nreference = { backend = "numpy" }', ROOFED
    )
    made = [record(study, p, {"seconds": 1.0}) for p in study.points]
    plot = ratio(Finished(study, made, "points"), study.figures[0])
    assert sorted(plot.rows.tolist()) == list(range(96))
    assert len(plot.curve_of) == 96
