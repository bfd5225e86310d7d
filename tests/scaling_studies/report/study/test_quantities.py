import pytest

from qrt_tn.studies.report.study.lines_style import line_styles
from qrt_tn.studies.report.study.quantities import chosen, quantity, said, tick, with_unit
from qrt_tn.studies.report.style import METHODS
from tests.scaling_studies.report.study.conftest import ROOFED


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (12.34, "s", "12.3 s"),
        (0.0, "s", "0 s"),
        (600.0, "s", "10 min"),
        (7200.0, "s", "2 h"),
        (864000.0, "s", "10 days"),
        (999.96e6, "B", "1 GB"),
        (1.234e9, "B", "1.23 GB"),
        (2.5e13, "flop/s", "25 Tflop/s"),
        (95.125, "%", "95.12 %"),
        (0.9614, "", "0.9614"),
        (1797, "", "1,797"),
        (2.0, "", "2"),
        (-3.5, "", "−3.5"),
        (1.5e-7, "", "1.50·10⁻⁷"),
        (3e9, "", "3·10⁹"),
        (None, "s", "–"),
        (float("nan"), "", "–"),
    ],
)
def test_numbers_with_units(value: float | None, unit: str, text: str) -> None:
    assert with_unit(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1e7, "B", "10 M"),
        (5e9, "flop/s", "5 G"),
        (1024.0, "", "1,024"),
        (0.01, "s", "0.01"),
        (1e6, "", "10⁶"),
    ],
)
def test_ticks(value: float, unit: str, text: str) -> None:
    assert tick(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (0.1 + 0.2, "0.3"),
        ("a\nb\x00", "a b�"),
        ("", '""'),
        ([1, "ä"], '[1, "ä"]'),
        ("x" * 100, "x" * 30 + "…" + "x" * 29),
    ],
)
def test_values_of_parameters(value: object, text: str) -> None:
    assert said(value) == text


def test_names_and_labels() -> None:
    assert quantity(ROOFED, "size").label == "linear size"
    assert quantity(ROOFED, "dtype").label == "dtype"
    assert quantity(ROOFED, "seconds").axis == "time (s)"
    assert quantity(ROOFED, "seconds").measured
    assert quantity(ROOFED, "peak_bytes").unit == "B"
    assert chosen({"size": [1, 2], "dtype": "a"}) == "size = 1 or 2, dtype = a"


def test_methods_look_like_themselves_and_others_differ() -> None:
    styles = line_styles(["qrt-smoothed", "filter", "mine"], names="sampler")
    assert styles[:2] == [METHODS["qrt-smoothed"], METHODS["filter"]]
    assert styles[2].label == "mine"
    assert styles[2].colour not in {style.colour for style in styles[:2]}


def test_a_word_that_is_a_method_elsewhere_is_only_a_word() -> None:
    styles = line_styles(["samples", "smoothed", "mps", "ridges", "dense"], names="kind")
    assert [style.label for style in styles] == ["samples", "smoothed", "mps", "ridges", "dense"]


def test_twelve_lines_differ() -> None:
    styles = line_styles(list(range(12)), names="P")
    assert len({(style.colour, style.dashes) for style in styles}) == 12
    assert [style.label for style in styles[:2]] == ["P = 0", "P = 1"]
    assert [style.label for style in line_styles([None])] == [""]
