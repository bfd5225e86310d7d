"""The colours, markers and names of a figure's lines: a known method's own, else a fixed cycle."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qrt_tn.studies.report.study.quantities import said
from qrt_tn.studies.report.style import METHODS, MethodStyle

LONGEST_NAME = 22  # characters beside the panel
# Okabe and Ito's eight, which the methods' styles darken for white paper and lighten for the dark; then once
# more in dashes, so that twelve lines differ.
_CYCLE = (
    "qrt-smoothed",
    "filter",
    "random-features",
    "qrt",
    "qrt-unsmoothed",
    "magnitude-init",
    "dense",
    "uniform",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)))


def line_styles(values: Sequence[Any], *, names: str = "") -> list[MethodStyle]:
    """One style a line.

    Method names are taken for what they are only where at least half of the values are: "dense" and "random"
    mean other things elsewhere.

    Args:
        values: of the series; one None where there is no series.
        names: the parameter's name, put before numbers: "P = 7".
    """
    known = [value for value in values if isinstance(value, str) and value in METHODS]
    methods = set(known) if 2 * len(known) >= len(values) else set()
    taken = {METHODS[name].colour for name in methods}
    free = [name for name in _CYCLE if METHODS[name].colour not in taken] or list(_CYCLE)
    styles, place = [], 0
    for value in values:
        if isinstance(value, str) and value in methods:
            styles.append(METHODS[value])
            continue
        base = METHODS[free[place % len(free)]]
        dashes = _DASHES[place // len(free) % len(_DASHES)]
        marker = _MARKERS[place % len(_MARKERS)]
        name = "" if value is None else line_name(value, names)
        styles.append(replace(base, label=name, dashes=dashes, marker=marker, width=1.6))
        place += 1
    return styles


def line_name(value: Any, parameter: str) -> str:
    """What stands beside a line: a text as it is, anything else behind its parameter's name."""
    text = said(value, LONGEST_NAME)
    if isinstance(value, str) or not parameter:
        return text
    return f"{parameter} = {text}" if len(parameter) + len(text) < LONGEST_NAME else text
