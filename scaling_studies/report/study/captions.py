"""What stands under the figures of a study: medians, bands, seeds, fits and warnings, in words."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.html import join, number
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.lines_style import line_name
from qrt_tn.studies.report.study.origin import mixtures
from qrt_tn.studies.report.study.plots import MOST_MARKS, Curve, Plot
from qrt_tn.studies.report.study.quantities import chosen, quantity, said, with_unit
from qrt_tn.studies.report.study.roofline import Roofline
from qrt_tn.studies.report.style import METHODS

_BANDS = {"range": "from the least to the greatest", "quartiles": "from quartile to quartile"}


def of_plot(finished: Finished, figure: Figure, plot: Plot) -> str:
    """The caption of lines, ratios and reach figures, as HTML."""
    text = {"lines": _lines, "ratio": _ratio, "reach": _reach}[figure.kind](finished, figure, plot)
    sizes = (len(curve.x) for _, curves in plot.panels for curve in curves)
    return _joined([*text, _selected(figure), _thinned(sizes), *_shared(finished, figure, plot)])


def of_roofline(finished: Finished, figure: Figure, made: Roofline) -> str:
    """The caption of a roofline, as HTML."""
    roofs = "; ".join(
        f"{escape(one.name) or 'the device'}: {with_unit(one.peak, 'flop/s')}, "
        f"{with_unit(one.bandwidth, 'B/s')}"
        for one in made.ceilings
    )
    text = [
        f"A point is a setting: rate (flops over seconds) against flop per byte moved, medians over "
        f"{_count(made.plot.seeds, 'seed')}. Lines are ceilings, the smaller of peak and intensity times "
        f"bandwidth, as measured" + (f" ({roofs})." if roofs else "."),
        _selected(figure),
        _thinned(len(dots.rate) for _, lines in made.panels for dots in lines),
    ]
    return _joined([*text, *_shared(finished, figure, made.plot)])


def _joined(parts: Sequence[str]) -> str:
    """Sentences as one text, numbers and their units on one line."""
    return " ".join(part for part in parts if part).replace(" %", "&nbsp;%")


def _thinned(sizes: Iterable[int]) -> str:
    """That long lines are drawn in part; their fits and medians are of all."""
    longest = max(sizes, default=0)
    return f"Of a line of {number(longest)} places {MOST_MARKS} are drawn." if longest > MOST_MARKS else ""


def of_panel(figure: Figure, value: object, curves: list[Curve], plot: Plot) -> str:
    """The caption of one panel: its value and its fits, as HTML."""
    name = f"<b>{escape(f'{figure.panels} = {said(value)}')}.</b>" if figure.panels else ""
    if figure.fit == "none":
        return name
    fits = [(curve, _line(figure, plot, curve)) for curve in curves]
    x = escape(figure.x)
    done = [
        f"{line}{'' if not line else ' '}∝ {x}<sup>{curve.fit.power}</sup> "
        f"({escape(str(curve.fit).partition('(')[2])}"
        for curve, line in fits
        if curve.fit
    ]
    lacking = [f"{line or 'no fit'} ({escape(curve.unfitted)})" for curve, line in fits if not curve.fit]
    parts = [name, f"{'; '.join(done)}." if done else ""]
    if lacking:
        parts.append(f"Not fitted: {'; '.join(lacking)}." if fits[0][1] else f"Not fitted: {lacking[0]}.")
    return " ".join(part for part in parts if part)


def _line(figure: Figure, plot: Plot, curve: Curve) -> str:
    value = plot.lines[curve.place]
    if figure.series is None:
        return ""
    known = METHODS[value].label if isinstance(value, str) and value in METHODS else ""
    return escape(known or line_name(value, figure.series))


def _lines(finished: Finished, figure: Figure, plot: Plot) -> list[str]:
    y, x = escape(plot.y.label), escape(plot.x.label)
    if not finished.is_column(figure.x):
        return [
            f"A point is a setting: medians of {y} and of {x} over {_over(plot)}; its bars run "
            f"{_BANDS[figure.band]}."
        ]
    return [f"Medians of {y} over {_over(plot)} at each {x}{_band(figure, plot)}."]


def _ratio(finished: Finished, figure: Figure, plot: Plot) -> list[str]:
    y = escape(quantity(finished.study.experiment, figure.y).label)
    words = escape(chosen(figure.reference))
    text = (
        f"{y[:1].upper()}{y[1:]} at {words} over that of each other point with the same seed and otherwise "
        f"the same parameters; medians of these ratios over {_over(plot)}{_band(figure, plot)}."
    )
    if plot.guides:
        text += " Dashed: " + ("a ratio of 1." if plot.guides[0][2] == 0 else "in proportion to x.")
    return [text]


def _reach(finished: Finished, figure: Figure, plot: Plot) -> list[str]:
    y = quantity(finished.study.experiment, figure.y)
    level = with_unit(figure.level, y.unit)
    side = "at least" if figure.goal == "above" else "at most"
    return [
        f"The smallest {escape(plot.y.label)} that was tried at which the median of {escape(y.label)} over "
        f"{_over(plot)} is {side} {escape(level)}; nothing is interpolated. Bars reach down to the value "
        "tried before, which missed it."
    ]


def _over(plot: Plot) -> str:
    seeds = _count(plot.seeds, "seed")
    if not plot.pooled:
        return seeds
    return f"{seeds} and over {escape(join(plot.pooled))} ({_count(plot.counts, 'point')} each)"


def _count(ends: tuple[int, int], name: str) -> str:
    low, high = ends
    if low == high:
        return f"one {name}" if low == 1 else f"{number(low)} {name}s"
    return f"{number(low)} to {number(high)} {name}s"


def _band(figure: Figure, plot: Plot) -> str:
    return f", bands {_BANDS[figure.band]}" if plot.counts[1] > 1 else ""


def _selected(figure: Figure) -> str:
    return f"Only points with {escape(chosen(figure.where))}." if figure.where else ""


def _shared(finished: Finished, figure: Figure, plot: Plot) -> list[str]:
    """Fits, remarks, how far it is, the file's own note, and what to beware of."""
    parts = []
    if figure.fit == "power" and figure.kind != "roofline":
        medians = "reached values" if figure.kind == "reach" else "medians"
        parts.append(
            f"Fitted power laws (thin lines): least squares in the logarithms of the {medians}, each x "
            "counted once; in brackets the 95 % interval of the exponent by Student's t over the values of x."
        )
    parts += [escape(remark) for remark in plot.remarks]
    if len(plot.rows) and _shown(finished, figure) < plot.asked:
        parts.append(f"So far {number(_shown(finished, figure))} of {number(plot.asked)} points are in.")
    if figure.note:
        parts.append(escape(figure.note))
    warnings = []
    if plot.pooled:
        warnings.append(
            f"medians run over different values of {escape(join(plot.pooled))}; give series, panels or where "
            "to tell them apart"
        )
    mixed = mixtures(finished, plot, timed=_timed(finished, figure))
    warnings += mixed
    if warnings:
        parts.append(f"<span class=beware>Beware: {'; '.join(warnings)}.</span>")
    if mixed:
        parts.append('<a href="#origin">Where it ran</a> tells more.')
    return parts


def _shown(finished: Finished, figure: Figure) -> int:
    return len(np.unique(finished.places[finished.rows_matching(figure.where)]))


def _timed(finished: Finished, figure: Figure) -> bool:
    experiment = finished.study.experiment
    return figure.kind == "roofline" or any(
        quantity(experiment, name).measured for name in (figure.x, figure.y)
    )
