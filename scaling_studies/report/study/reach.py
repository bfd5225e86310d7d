"""What a figure of kind "reach" shows: the smallest value of a parameter at which a level is reached."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.study.curves import with_fit
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.groups import combined, spread
from qrt_tn.studies.report.study.plots import AT_MOST, NEVER, REACHED, Curve, Plot
from qrt_tn.studies.report.study.quantities import quantity, with_unit
from qrt_tn.studies.report.study.selection import (
    count_points,
    gathered,
    points_are,
    say_left_out,
    select,
    show,
)


def reach(finished: Finished, figure: Figure) -> Plot:
    """The smallest value tried of `of` at which the median of y reaches the level, by panel, line and x.

    Nothing is interpolated: a curve between two values that were tried is a guess, and a fit through guesses
    would look surer than it is. The band runs from the value tried before, where the level was not reached.
    Where the least value tried reaches it, the true one may be smaller still, and where none does, larger:
    both are bounds, drawn open and left out of a fit.
    """
    experiment = finished.study.experiment
    assert figure.of is not None and figure.level is not None
    of, y = quantity(experiment, figure.of), quantity(experiment, figure.y)
    plot = Plot(quantity(experiment, figure.x), of)
    found = select(finished, figure, plot)
    tried = finished.column(figure.of)
    if tried.numbers is None:
        plot.remarks.append(f"{of.label} takes values that are no numbers, so none is the smallest.")
        return plot
    if not finished.is_column(figure.x):
        plot.remarks.append(f"{plot.x.label} is no parameter, and x of a reach figure must be one.")
        return plot
    values = finished.figures(figure.y)[found.rows]
    there = ~np.isnan(values)
    if not there.all():
        plot.remarks.append(f"{points_are(int((~there).sum()))} left out, having no value of {y.label}.")
    found, values = found.only(there), values[there]
    show(plot, found)
    column = finished.column(figure.x)
    if column.numbers is None:
        plot.ticks = column.values
    share = finished.codes(figure.x)[found.rows]
    cells, firsts = combined(
        [found.panel, found.line, share, finished.codes(figure.of)[found.rows]], len(values)
    )
    medians = spread(cells, values)
    count_points(finished, plot, found, cells, (figure.x, figure.series, figure.panels, figure.of))
    met = medians.median >= figure.level if figure.goal == "above" else medians.median <= figure.level
    where = np.stack([found.panel[firsts], found.line[firsts], share[firsts]])
    steps = tried.numbers[finished.codes(figure.of)[found.rows][firsts]]
    rows: dict[tuple[int, int], list[tuple[float, float, float, float, int]]] = {}
    fallen = 0
    for (panel, line, code), here in _runs(where):
        x = float(code) if column.numbers is None else float(column.numbers[code])
        entry, back = _first(steps[here], met[here])
        fallen += back
        rows.setdefault((panel, line), []).append((x, *entry))
    made = {}
    for (panel, line), entries in rows.items():
        x, low, middle, high, bound = np.array(entries, dtype=np.float64).T
        curve = Curve(line, x, low, middle, high, bound=bound.astype(np.int64))
        made[panel, line] = with_fit(figure, plot, curve, bound == REACHED)
    plot.panels = gathered(found, made)
    level = with_unit(figure.level, y.unit)
    if fallen:
        places = "one place" if fallen == 1 else f"{fallen:,} places"
        plot.remarks.append(f"At {places} the level is missed again at a larger {of.label}.")
    _say_bounds(plot, of.label, y.label, level)
    say_left_out(figure, plot)
    return plot


def _runs(where: np.ndarray) -> Iterator[tuple[tuple[int, int, int], slice]]:
    """Stretches of equal columns, which stand together already."""
    if not where.shape[1]:
        return
    cuts = np.flatnonzero((where[:, 1:] != where[:, :-1]).any(axis=0)) + 1
    ends = [0, *cuts.tolist(), where.shape[1]]
    for start, end in pairwise(ends):
        panel, line, share = where[:, start].tolist()
        yield (panel, line, share), slice(start, end)


def _first(steps: np.ndarray, met: np.ndarray) -> tuple[tuple[float, float, float, int], bool]:
    """Band, value and bound of one place, and whether the level is missed again after it."""
    if not met.any():
        last = float(steps[-1])
        return (last, last, last, NEVER), False
    place = int(np.argmax(met))
    value = float(steps[place])
    before = value if place == 0 else float(steps[place - 1])
    return (before, value, value, AT_MOST if place == 0 else REACHED), not bool(met[place:].all())


def _say_bounds(plot: Plot, of: str, y: str, level: str) -> None:
    bounds = [curve.bound for _, curves in plot.panels for curve in curves if curve.bound is not None]
    every = np.concatenate(bounds) if bounds else np.empty(0)
    never, least = int((every == NEVER).sum()), int((every == AT_MOST).sum())
    if never:
        plot.remarks.append(
            f"{_places(never)} no {of} that was tried brings the median of {y} to {level}: an open marker "
            "with an arrow upwards stands at the largest, in no fit."
        )
    if least:
        plot.remarks.append(
            f"{_places(least)} the smallest {of} that was tried does so already: an open marker with an "
            "arrow downwards, in no fit."
        )


def _places(count: int) -> str:
    return "At one place" if count == 1 else f"At {count:,} places"
