"""Panels of medians: lines with bands, fitted power laws, bounds, and dashed guides."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.axes import Line, draw, log_axis, name_lines
from qrt_tn.studies.report.study.lines_style import line_styles
from qrt_tn.studies.report.study.plots import AT_MOST, MOST_MARKS, NEVER, REACHED, Curve, Plot
from qrt_tn.studies.report.study.quantities import said, tick
from qrt_tn.studies.report.style import MUTED, PAPER, MethodStyle, panel

_MANY_MARKS = 60
MOST_SLOPES = 6
_MANY_TICKS = 16
_CHARACTER = 5.0  # points that a letter of a name takes
_WIDTH = 4.4 * 72


def draw_plot(plot: Plot, figure: Figure) -> list[Drawing]:
    """One drawing a panel, all to the same limits, so that panels compare."""
    styles = line_styles(plot.lines, names=figure.series or "")
    longest = max(len(style.label) for style in styles)
    # two lines for each name fit beside a panel only where the lines are few; the caption has all fits
    written = len(plot.lines) <= MOST_SLOPES
    if written and any(curve.fit for _, curves in plot.panels for curve in curves):
        longest = max(longest, len("slope −1.23"))
    right = 0.965 if len(plot.lines) == 1 else max(0.5, 1 - (longest * _CHARACTER + 18) / _WIDTH)
    made = []
    for _, curves in plot.panels:
        drawing, axes = panel(left=0.15, right=right)
        _title(axes, plot.y.axis)
        _draw_curves(axes, plot, curves, styles, figure)
        made.append((drawing, axes, curves))
    _share_limits([axes for _, axes, _ in made], plot, figure)
    for _, axes, curves in made:
        _dress(axes, plot, figure)
        if len(plot.lines) > 1:
            name_lines(axes, [_named(curve, styles[curve.place], written=written) for curve in curves])
        elif curves and curves[0].fit:
            # a falling line leaves the upper right free, a rising one the upper left
            rising = curves[0].fit.exponent > 0
            law = f"∝ {figure.x}^{curves[0].fit}"
            axes.text(
                0.03 if rising else 0.97, 0.97, law, transform=axes.transAxes, va="top",
                ha="left" if rising else "right", fontsize=9, color=styles[0].colour,
            )  # fmt: skip
    return [drawing for drawing, _, _ in made]


def _title(axes: Axes, text: str) -> None:
    """What runs upwards, on two lines at most."""
    parts = textwrap.wrap(text, 42)
    if len(parts) > 1:
        parts = textwrap.wrap(text, 48, max_lines=2, placeholder=" …")
        place = axes.get_position()
        axes.set_position((place.x0, place.y0, place.width, place.height - 0.03))
    axes.set_title("\n".join(parts), pad=9 if len(parts) > 1 else 13, fontsize=9 if len(parts) > 1 else 10)


def _draw_curves(
    axes: Axes, plot: Plot, curves: Sequence[Curve], styles: Sequence[MethodStyle], figure: Figure
) -> None:
    least = min((float(curve.middle.min()) for curve in curves), default=0.0)
    for name, factor, exponent in plot.guides:
        x = np.array([min(curve.x.min() for curve in curves), max(curve.x.max() for curve in curves)])
        x = np.linspace(*x, 64)  # type: ignore[call-overload]
        axes.plot(x, factor * x**exponent, color=MUTED, linestyle=(0, (5, 3)), linewidth=1, zorder=1.5)
        axes.annotate(
            name, (x[-1], factor * x[-1] ** exponent), (-3, 4), textcoords="offset points", ha="right",
            fontsize=8.4, color=MUTED,
        )  # fmt: skip
    for curve in curves:
        style = styles[curve.place]
        if figure.scale in ("log-y", "log-log"):
            # a band that reaches 0 is cut off below the lowest median, not left out
            curve = replace(curve, low=np.where(curve.low > 0, curve.low, least / 2))  # noqa: PLW2901
        if plot.ticks is not None:
            # names have no order: beside each other, and not joined
            step = min(0.12, 0.6 / len(plot.lines))
            middle = (len(plot.lines) - 1) / 2
            curve = replace(curve, x=curve.x + step * (curve.place - middle))  # noqa: PLW2901
        joined = plot.ticks is None and not curve.fit
        if curve.bound is not None:
            _draw_bounds(axes, curve, style, joined=joined)
        elif plot.ticks is not None or len(curve.x) == 1:
            _draw_settings(axes, curve, style, joined=False)
        elif curve.x_low is not None:
            _draw_settings(axes, curve, style, joined=joined)
        elif curve.fit:
            _draw_band(axes, curve, style)
            _marks(axes, _thinned(curve), style)
        else:
            shown = _thinned(curve)
            draw(axes, [_line(shown, style)], markers=len(shown.x) <= _MANY_MARKS)
        if curve.fit:
            kept = curve.x[curve.x > 0]
            ends = np.geomspace(kept.min(), kept.max(), 48)
            axes.plot(ends, curve.fit.at(ends), color=style.colour, linewidth=0.9, zorder=2.5)


def _draw_band(axes: Axes, curve: Curve, style: MethodStyle) -> None:
    shown = _thinned(curve)
    if (shown.high > shown.low).any():
        axes.fill_between(shown.x, shown.low, shown.high, color=style.colour, alpha=0.13, linewidth=0)


def _marks(axes: Axes, curve: Curve, style: MethodStyle, *, filled: bool = True) -> None:
    axes.plot(
        curve.x,
        curve.middle,
        linestyle="",
        marker=style.marker,
        markersize=4.4 if len(curve.x) <= _MANY_MARKS else 2.6,
        color=style.colour,
        markerfacecolor=style.colour if filled else PAPER,
        zorder=4,
    )


def _draw_settings(axes: Axes, curve: Curve, style: MethodStyle, *, joined: bool) -> None:
    """Points with bars of their ranges, also sideways where x came out of the points."""
    shown = _thinned(curve)
    sideways = None
    if shown.x_low is not None and shown.x_high is not None:
        sideways = np.maximum([shown.x - shown.x_low, shown.x_high - shown.x], 0)
    axes.errorbar(
        shown.x,
        shown.middle,
        yerr=np.maximum([shown.middle - shown.low, shown.high - shown.middle], 0),
        xerr=sideways,
        fmt="none",
        ecolor=style.colour,
        elinewidth=0.8,
        alpha=0.5,
        zorder=2.8,
    )
    _marks(axes, shown, style)
    if joined and len(shown.x) <= _MANY_MARKS:
        axes.plot(shown.x, shown.middle, color=style.colour, linewidth=0.9, alpha=0.6, zorder=3)


def _draw_bounds(axes: Axes, curve: Curve, style: MethodStyle, *, joined: bool) -> None:
    """Reached values filled, with a bar down to the value tried before; bounds open, with an arrow."""
    assert curve.bound is not None
    reached = curve.only(curve.bound == REACHED)
    if len(reached.x):
        axes.vlines(reached.x, reached.low, reached.high, color=style.colour, linewidth=1, alpha=0.55)
        _marks(axes, reached, style)
        if joined:
            axes.plot(reached.x, reached.middle, color=style.colour, linestyle=style.dashes, linewidth=1.3)
    for bound, up in ((NEVER, 1), (AT_MOST, -1)):
        open_ones = curve.only(curve.bound == bound)
        if len(open_ones.x):
            _marks(axes, open_ones, style, filled=False)
        for x, y in zip(open_ones.x.tolist(), open_ones.middle.tolist(), strict=True):
            arrow = {"arrowstyle": "<-", "color": style.colour, "lw": 1.1, "shrinkA": 0, "shrinkB": 2.5}
            axes.annotate(
                "", (x, y), (0, 16 * up), textcoords="offset points", annotation_clip=False, arrowprops=arrow
            )


def _line(curve: Curve, style: MethodStyle) -> Line:
    return Line(style.label, style, curve.x, curve.low, curve.middle, curve.high)


def _named(curve: Curve, style: MethodStyle, *, written: bool) -> Line:
    fit = f"\nslope {curve.fit.power}" if curve.fit and written else ""
    return Line(style.label + fit, style, curve.x, curve.low, curve.middle, curve.high)


def _thinned(curve: Curve) -> Curve:
    """At most MOST_MARKS places of a line, evenly along it."""
    if len(curve.x) <= MOST_MARKS:
        return curve
    return curve.only(np.linspace(0, len(curve.x) - 1, MOST_MARKS).round().astype(int))


def _share_limits(panels: Sequence[Axes], plot: Plot, figure: Figure) -> None:
    log_x = figure.scale in ("log-x", "log-log") and plot.ticks is None
    for axes in panels:
        if log_x:
            axes.set_xscale("log")
        if figure.scale in ("log-y", "log-log"):
            axes.set_yscale("log")
        if any(
            curve.bound is not None and curve.bound.any() for _, curves in plot.panels for curve in curves
        ):
            axes.margins(y=0.14)  # room for arrows
    for limits, setter in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        ends = np.array([getattr(axes, limits)() for axes in panels])
        if len(ends):
            for axes in panels:
                getattr(axes, setter)(float(ends[:, 0].min()), float(ends[:, 1].max()))


def _dress(axes: Axes, plot: Plot, figure: Figure) -> None:
    """Ticks and the name of what runs to the right."""
    axes.set_xlabel("\n".join(textwrap.wrap(plot.x.axis, 52, max_lines=1, placeholder=" …")))
    for axis, unit, log in (
        (axes.xaxis, plot.x.unit, axes.get_xscale() == "log"),
        (axes.yaxis, plot.y.unit, axes.get_yscale() == "log"),
    ):
        if log:
            log_axis(axis, lambda value, unit=unit: tick(value, unit))  # type: ignore[misc]
        else:
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: tick(value, unit)))
    if plot.ticks is not None:
        _name_values(axes, plot.ticks)
    elif axes.get_xscale() == "log":
        _tick_values(axes, plot)


def _tick_values(axes: Axes, plot: Plot) -> None:
    """Ticks at the very values of a logarithmic x, where these are few; else at round numbers."""
    values = np.unique(np.concatenate([curve.x for _, curves in plot.panels for curve in curves]))
    if len(values) > _MANY_TICKS or any(
        curve.x_low is not None for _, curves in plot.panels for curve in curves
    ):
        return
    width = axes.get_position().width * _WIDTH
    places = (
        axes.transAxes.inverted().transform(axes.transData.transform([(x, 1) for x in values]))[:, 0] * width
    )
    kept: list[int] = []
    for place in reversed(range(len(values))):  # the largest is kept: it tells how far it goes
        name = tick(float(values[place]), plot.x.unit)
        if not kept or places[kept[-1]] - places[place] > _CHARACTER * (len(name) + 2.5):
            kept.append(place)
    axes.xaxis.set_major_locator(FixedLocator([float(values[place]) for place in kept]))


def _name_values(axes: Axes, values: Sequence[Any]) -> None:
    """Values that are no numbers along the axis, every second or third of them where they are many."""
    step = max(1, -(-len(values) // 12))
    names = [said(value, 14) for value in values[::step]]
    axes.xaxis.set_major_locator(FixedLocator(list(range(0, len(values), step))))
    axes.xaxis.set_major_formatter(NullFormatter())
    axes.set_xticks(list(range(0, len(values), step)), names)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.35, len(values) - 0.65)
    room = axes.get_position().width * _WIDTH / max(1, len(names))
    if max(map(len, names), default=0) * _CHARACTER > room:
        axes.tick_params(axis="x", labelrotation=30, labelsize=8)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
        place = axes.get_position()
        axes.set_position((place.x0, place.y0 + 0.08, place.width, place.height - 0.08))
