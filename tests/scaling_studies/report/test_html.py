from pathlib import Path

import pytest

from qrt_tn.studies.report.html import details, figure, inline_svg, join, number, section, span, table


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1797, None, "1,797"),
        (-63, None, "−63"),
        (0.7, None, "0.7"),
        (None, 3, "–"),
        (float("nan"), 3, "–"),
        (0.9634, 3, "0.963"),
        (0.03, 3, "0.030"),
        (0.00123, 3, "0.00123"),
        (12.345, 3, "12.345"),
        (2900.4, 3, "2,900"),
        (-0.0213, 3, "−0.021"),
        (0.0, 3, "0.000"),
    ],
)
def test_numbers(value: float | None, digits: int | None, text: str) -> None:
    assert number(value, digits) == text


def test_signed_numbers() -> None:
    assert number(0.0812, 3, signed=True) == "+0.081"
    assert number(-0.0812, 3, signed=True) == "−0.081"


def test_spans_and_lists() -> None:
    assert span(0.9, 0.95) == "0.900–0.950"
    assert span(0.9, 0.9) == ""
    assert join(["a"]) == "a"
    assert join(["a", "b", "c"]) == "a, b and c"
    assert join(["a", "b"], ", and ") == "a, and b"


def test_a_table_scrolls() -> None:
    html = table(["name", "value"], [["a", "1"], ["b", "2"]])
    assert html.startswith('<div class="scroll" tabindex="0">')
    assert html.count("<th scope=col") == 2
    assert "<thead>" not in table([], [["a", "1"]])


def test_empty_parts_leave_no_trace(tmp_path: Path) -> None:
    assert details("Title", "", "") == ""
    assert figure({}, "absent", "", "") == ""
    assert section("here", "Title", "", "<p>x</p>", "").count("\n") == 3


def test_an_inlined_svg_has_ids_of_its_own_and_follows_its_column() -> None:
    source = (
        '<?xml version="1.0"?>\n<svg width="9pt" height="9pt" viewBox="0 0 9 9" version="1.1">'
        "<metadata>\n<date/>\n</metadata><style type='text/css'>*{x:y}</style>"
        '<g id="a"><path clip-path="url(#p)" style="stroke: #0a5ba8"/><use xlink:href="#m"/></g></svg>\n'
    )
    html = inline_svg(source, "one", 'less & "more"')
    assert html.startswith('<svg viewBox="0 0 9 9" role="img" aria-label="less &amp; &quot;more&quot;">')
    assert 'id="one.a"' in html
    assert "url(#one.p)" in html
    assert 'href="#one.m"' in html
    assert "stroke: var(--qrt-smoothed)" in html
    assert "metadata" not in html
    assert "style type" not in html
