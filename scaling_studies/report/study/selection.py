"""Which finished points a figure is about, by panel and line, and what is behind its medians."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.groups import combined, mixes
from qrt_tn.studies.report.study.plots import Curve, Plot
from qrt_tn.studies.report.study.quantities import chosen

MOST_PANELS = 6
MOST_LINES = 12


@dataclass(frozen=True)
class Selection:
    """The finished points that a figure is about, by panel and line.

    Attributes:
        rows: places among the finished points, shape (n,).
        panel: places in `panels`, (n,).
        line: places in `lines`, (n,).
        panels: values, at most MOST_PANELS.
        lines: values, at most MOST_LINES.
    """

    rows: np.ndarray
    panel: np.ndarray
    line: np.ndarray
    panels: tuple[Any, ...]
    lines: tuple[Any, ...]

    def only(self, kept: np.ndarray) -> "Selection":
        """Some of the points."""
        return replace(self, rows=self.rows[kept], panel=self.panel[kept], line=self.line[kept])


def select(finished: Finished, figure: Figure, plot: Plot) -> Selection:
    """The points that a figure's `where` leaves, cut to as many panels and lines as can be read."""
    fit = finished.matching(figure.where)
    plot.asked = int(fit.sum())
    rows = np.flatnonzero(finished.rows_matching(figure.where))
    if not plot.asked:
        plot.remarks.append(f"No point of this study has {chosen(figure.where)}.")
    one = np.zeros(len(rows), dtype=np.int64)
    found = Selection(rows, one, one, (None,), (None,))
    if figure.panels:
        codes, panels, kept, more = _first(finished, figure.panels, found.rows, MOST_PANELS, even=False)
        found = replace(found.only(kept), panel=codes, panels=panels)
        if more:
            plot.remarks.append(f"{more} more values of {figure.panels} have no panel here.")
    if figure.series:
        codes, lines, kept, more = _first(finished, figure.series, found.rows, MOST_LINES, even=True)
        found = replace(found.only(kept), line=codes, lines=lines)
        if more:
            plot.remarks.append(f"{more} more values of {figure.series} have no line here.")
    plot.lines = found.lines
    show(plot, found)
    return found


def show(plot: Plot, found: Selection) -> None:
    """Note which points a figure shows, and in which curve."""
    plot.rows = found.rows
    plot.curve_of = found.panel * len(found.lines) + found.line


def _first(
    finished: Finished, name: str, rows: np.ndarray, most: int, *, even: bool
) -> tuple[np.ndarray, tuple[Any, ...], np.ndarray, int]:
    """Codes of the values shown, these values, which rows have one, and how many values have none."""
    whole = finished.column(name)
    codes = finished.codes(name)[rows]
    present = np.unique(codes)
    shown = present[:most]
    if even and whole.numbers is not None and len(present) > most:
        shown = present[np.linspace(0, len(present) - 1, most).round().astype(int)]
    kept = np.isin(codes, shown)
    values = tuple(whole.values[code] for code in shown)
    return np.searchsorted(shown, codes[kept]), values, kept, len(present) - len(shown)


def gathered(found: Selection, made: Mapping[tuple[int, int], Curve]) -> list[tuple[Any, list[Curve]]]:
    """Curves by panel; a panel without any is left out."""
    panels: list[tuple[Any, list[Curve]]] = []
    for place, value in enumerate(found.panels):
        here = [curve for (panel, _), curve in sorted(made.items()) if panel == place]
        if here:
            panels.append((value, here))
    return panels


def count_points(
    finished: Finished, plot: Plot, found: Selection, groups: np.ndarray, told: Sequence[str | None]
) -> None:
    """How many points and seeds are behind a median, and what else than the seed differs among them.

    Args:
        finished: all finished points.
        plot: is filled.
        found: the points.
        groups: of each, (n,).
        told: parameters that make out the groups.
    """
    if not len(groups):
        return
    counts = np.bincount(groups)
    _, firsts = combined([groups, finished.codes("seed")[found.rows]], len(groups))
    seeds = np.bincount(groups[firsts])
    plot.counts = int(counts.min()), int(counts.max())
    plot.seeds = int(seeds.min()), int(seeds.max())
    others = [name for name in finished.varied if name not in told]
    plot.pooled = tuple(name for name in others if mixes(groups, finished.codes(name)[found.rows]))


def say_left_out(figure: Figure, plot: Plot) -> None:
    """Leave out what a logarithmic axis cannot hold, and cut bands off there."""
    log_x = figure.scale in ("log-x", "log-log") and plot.ticks is None
    log_y = figure.scale in ("log-y", "log-log")
    if figure.scale in ("log-x", "log-log") and plot.ticks is not None:
        plot.remarks.append(f"{plot.x.label} is no number, so its axis is not logarithmic.")
    lost = 0
    for place, (value, curves) in enumerate(plot.panels):
        kept = []
        for curve in curves:
            ok = np.ones(len(curve.x), dtype=bool)
            if log_x:
                ok &= curve.x > 0
            if log_y:
                ok &= curve.middle > 0
            lost += int((~ok).sum())
            kept.append(curve.only(ok))
        plot.panels[place] = (value, [curve for curve in kept if len(curve.x)])
    plot.panels = [(value, curves) for value, curves in plot.panels if curves]
    if lost:
        many = "One median is" if lost == 1 else f"{lost:,} medians are"
        plot.remarks.append(f"{many} left out, being 0 or below on a logarithmic axis.")


def points_are(count: int) -> str:
    """So many points, as a sentence begins."""
    return "One point is" if count == 1 else f"{count:,} points are"
