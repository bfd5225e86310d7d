"""What a figure of kind "lines" or "ratio" shows: medians and bands by panel, line and place."""

from dataclasses import replace

import numpy as np

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.groups import Spread, combined, spread
from qrt_tn.studies.report.study.plots import Curve, Plot
from qrt_tn.studies.report.study.powers import FEWEST, fit_power
from qrt_tn.studies.report.study.quantities import Quantity, chosen, quantity
from qrt_tn.studies.report.study.selection import (
    Selection,
    count_points,
    gathered,
    points_are,
    say_left_out,
    select,
    show,
)


def lines(finished: Finished, figure: Figure) -> Plot:
    """Medians of y over the points that share x."""
    plot = Plot(quantity(finished.study.experiment, figure.x), quantity(finished.study.experiment, figure.y))
    found = select(finished, figure, plot)
    _draw(finished, figure, plot, found, finished.figures(figure.y)[found.rows])
    return plot


def ratio(finished: Finished, figure: Figure) -> Plot:
    """Medians of y at the reference over y, each point with the one that is alike but for the reference.

    Points of the reference itself are 1; they are drawn where a curve starts from them, which is where x is
    among the parameters of the reference, and take no part in a fit.
    """
    study = finished.study
    y = quantity(study.experiment, figure.y)
    words = chosen(figure.reference)
    plot = Plot(
        quantity(study.experiment, figure.x),
        Quantity("ratio", f"{y.label} at {words} ÷ {y.label}", "", y.measured),
    )
    found = select(finished, figure, plot)
    every = finished.figures(figure.y)
    reference = finished.rows_matching(figure.reference, several=False)
    # the other parameters that vary, keys and the seed make out which two points are alike
    names = [name for name in (*finished.varied, "seed") if name not in figure.reference]
    alike, _ = combined([finished.codes(name) for name in names], len(finished))
    partner = np.full(len(finished), np.nan)  # by group
    at = np.flatnonzero(reference)
    partner[alike[at]] = every[at]
    if not finished.matching(figure.reference, several=False).any():
        plot.remarks.append(f"No point of this study has {words}, so there is nothing to compare with.")
    if not reference[found.rows].all():
        lone = int((~np.isin(alike[found.rows], alike[at])).sum())
        if lone and len(at):
            plot.remarks.append(f"{points_are(lone)} left out, having no finished partner at {words}.")
    if figure.x not in figure.reference:
        found = found.only(~reference[found.rows])
    above, below = partner[alike[found.rows]], every[found.rows]
    usable = (above != 0) & (below != 0)
    if (~usable).any():
        plot.remarks.append(f"{points_are(int((~usable).sum()))} left out, having a {y.label} of 0.")
    with np.errstate(all="ignore"):
        values = np.where(usable, above / below, np.nan)
    missing = bool(np.isnan(every[found.rows]).any())
    _draw(finished, figure, plot, found, values, anchors=reference[found.rows], silent=not missing)
    # where both come from matters: the partners count as points of the same curve
    curve_of = dict(zip(alike[plot.rows].tolist(), plot.curve_of.tolist(), strict=True))
    partners = at[np.isin(alike[at], list(curve_of))]
    plot.rows = np.concatenate([plot.rows, partners])
    plot.curve_of = np.concatenate(
        [plot.curve_of, np.array([curve_of[group] for group in alike[partners].tolist()], dtype=np.int64)]
    )
    _guide(figure, plot)
    return plot


def _guide(figure: Figure, plot: Plot) -> None:
    if figure.ideal == "one":
        plot.guides.append(("no gain", 1.0, 0))
    elif figure.ideal == "x" and plot.ticks is None:
        start = figure.reference.get(figure.x, 1)
        usable = isinstance(start, int | float) and not isinstance(start, bool) and start > 0
        plot.guides.append(("ideal", 1 / start if usable else 1.0, 1))


def _draw(
    finished: Finished,
    figure: Figure,
    plot: Plot,
    found: Selection,
    y: np.ndarray,
    *,
    anchors: np.ndarray | None = None,
    silent: bool = False,
) -> None:
    """Group, take medians, and fit; what is left out is said in the plot's remarks.

    Args:
        finished: all finished points.
        figure: what was asked.
        plot: is filled.
        found: the points.
        y: their values, (n,).
        anchors: which of them are 1 by construction, and no part of a fit.
        silent: y without a value have been spoken of already.
    """
    usable = ~np.isnan(y)
    if not usable.all() and not silent:
        plot.remarks.append(
            f"{points_are(int((~usable).sum()))} left out, having no value of {plot.y.label}."
        )
    found, y = found.only(usable), y[usable]
    anchors = None if anchors is None else anchors[usable]
    own = not finished.is_column(figure.x)  # x is what a point brought out, and differs between seeds
    x = finished.figures(figure.x)[found.rows]
    if own:
        there = ~np.isnan(x)
        if not there.all():
            plot.remarks.append(
                f"{points_are(int((~there).sum()))} left out, having no value of {plot.x.label}."
            )
        found, x, y = found.only(there), x[there], y[there]
        anchors = None if anchors is None else anchors[there]
        varied = [finished.codes(name)[found.rows] for name in finished.varied]
        share, _ = combined(varied, len(x))
    else:
        column = finished.column(figure.x)
        share = finished.codes(figure.x)[found.rows]
        if column.numbers is None:
            plot.ticks = column.values
            x = share.astype(np.float64)
    groups, firsts = combined([found.panel, found.line, share], len(found.rows))
    told = finished.varied if own else (figure.x, figure.series, figure.panels)
    count_points(finished, plot, found, groups, told)
    show(plot, found)
    spans = spread(groups, y), spread(groups, x)
    start = np.zeros(len(firsts), dtype=bool) if anchors is None else anchors[firsts]
    made: dict[tuple[int, int], Curve] = {}
    heads = found.panel[firsts], found.line[firsts]
    for panel, line in dict.fromkeys(zip(*(part.tolist() for part in heads), strict=True)):
        here = (heads[0] == panel) & (heads[1] == line)
        made[panel, line] = _fitted(figure, plot, _curve(figure, line, *spans, here, own), start[here])
    plot.panels = gathered(found, made)
    say_left_out(figure, plot)


def _curve(figure: Figure, line: int, y: Spread, x: Spread, here: np.ndarray, own: bool) -> Curve:
    low, high = y.band(figure.band)
    parts = Curve(line, x.median[here], low[here], y.median[here], high[here])
    if own:
        ends = x.band(figure.band)
        parts = replace(parts, x_low=ends[0][here], x_high=ends[1][here])
    return parts


def _fitted(figure: Figure, plot: Plot, curve: Curve, start: np.ndarray) -> Curve:
    """A curve with its fit, in order of x."""
    order = np.argsort(curve.x, kind="stable")
    curve, start = curve.only(order), start[order]
    return with_fit(figure, plot, curve, ~start)


def with_fit(figure: Figure, plot: Plot, curve: Curve, counted: np.ndarray) -> Curve:
    """A curve with the power law through those of its medians that count, where one was asked for."""
    if figure.fit == "none":
        return curve
    if plot.ticks is not None:
        return replace(curve, unfitted=f"{plot.x.label} is no number")
    kept = counted & (curve.x > 0) & (curve.middle > 0)
    x, y = curve.x[kept], curve.middle[kept]
    if len(np.unique(x)) < len(x):  # medians of settings that came out at one x: their middle
        code = np.unique(x, return_inverse=True)[1].reshape(-1)
        x, y = np.unique(x), np.exp(np.bincount(code, np.log(y)) / np.bincount(code))
    if len(x) < FEWEST:
        return replace(curve, unfitted=f"{len(x)} of at least {FEWEST} distinct places")
    return replace(curve, fit=fit_power(x, y))
