"""Panels of rooflines: rates against intensity under the ceilings, both axes logarithmic."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.axes import Line, log_axis, name_lines
from qrt_tn.studies.report.study.lines_style import line_styles
from qrt_tn.studies.report.study.plots import MOST_MARKS
from qrt_tn.studies.report.study.quantities import tick
from qrt_tn.studies.report.study.roofline import Ceiling, Roofline
from qrt_tn.studies.report.style import INK, MethodStyle, panel

_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 1.5, 1, 1.5)))
_WIDTH = 4.4 * 72


def draw_roofline(made: Roofline, figure: Figure) -> list[Drawing]:
    """One drawing a panel, all to the same limits."""
    styles = line_styles(made.plot.lines, names=figure.series or "")
    named = [_roof_line(ceiling, np.ones(1)) for ceiling in made.ceilings]
    labels = [style.label for style in styles] + [line.name for line in named]
    longest = max(len(part) for label in labels for part in label.split("\n"))
    right = max(0.55, 1 - (longest * 5.0 + 18) / _WIDTH) if longest else 0.965
    x = np.concatenate([dots.intensity for _, lines in made.panels for dots in lines])
    y = np.concatenate([dots.rate for _, lines in made.panels for dots in lines])
    ridges = [ceiling.peak / ceiling.bandwidth for ceiling in made.ceilings]
    span = min(x.min(), *ridges, np.inf) / 2.5, max(x.max(), *ridges, 0.0) * 2.5
    top = max([float(y.max()), *(ceiling.peak for ceiling in made.ceilings)]) * 3
    drawings = []
    for _, lines in made.panels:
        drawing, axes = panel(left=0.15, right=right)
        axes.set_title(made.plot.y.axis)
        axes.set_xlabel(made.plot.x.axis)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*span)
        axes.set_ylim(float(y.min()) / 3, top)
        named = _roofs(axes, made)
        for dots in lines:
            style = styles[dots.place]
            kept = np.linspace(0, len(dots.rate) - 1, min(len(dots.rate), MOST_MARKS)).round().astype(int)
            axes.plot(
                dots.intensity[kept], dots.rate[kept], linestyle="", marker=style.marker,
                markersize=4.8 if len(kept) <= 60 else 3, color=style.colour, zorder=4,
            )  # fmt: skip
            last = int(np.argmax(dots.intensity))
            if style.label:
                x_end, y_end = dots.intensity[[last]], dots.rate[[last]]
                named.append(Line(style.label, style, x_end, y_end, y_end, y_end))
        log_axis(axes.xaxis)
        log_axis(axes.yaxis, lambda value: tick(value, made.plot.y.unit))
        name_lines(axes, named)
        drawings.append(drawing)
    return drawings


def _roofs(axes: Axes, made: Roofline) -> list[Line]:
    """Draw each ceiling, the highest solid; and return what is to be named."""
    low, high = axes.get_xlim()
    named = []
    for place, ceiling in enumerate(made.ceilings):
        ridge = min(max(ceiling.peak / ceiling.bandwidth, low), high)
        x = np.array([low, ridge, high])
        dashes = _DASHES[place % len(_DASHES)]
        axes.plot(x, ceiling.at(x), color=INK, linewidth=1.1, linestyle=dashes, zorder=2)
        named.append(_roof_line(ceiling, np.array([high])))
    return named


def _roof_line(ceiling: Ceiling, x: np.ndarray) -> Line:
    """The right end of a ceiling, its name broken between device and arithmetic."""
    y = np.full(1, ceiling.at(x)[-1])
    name = (ceiling.name or "roof").replace(", ", "\n", 1)
    return Line(name, MethodStyle(name, INK, INK), x, y, y, y)
