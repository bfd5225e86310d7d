"""The tables of a study's report: what was asked, medians of every metric, shares of the roof."""

from collections.abc import Iterable
from html import escape

import numpy as np

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.html import MISSING, details, number, table
from qrt_tn.studies.report.study.finished import Column, Finished
from qrt_tn.studies.report.study.groups import Spread, combined, spread
from qrt_tn.studies.report.study.quantities import quantity, said, with_unit
from qrt_tn.studies.report.study.roofline import Roofline

MOST_ROWS = 300
MOST_VALUES = 12


def asked(finished: Finished) -> str:
    """Axes with their values, seeds, and in details what all points have in common."""
    study = finished.study
    rows = []
    for name in (*study.varied, "seed"):
        column = finished.column(name)
        label = quantity(study.experiment, name).label
        beside = "" if label == name.replace("_", " ") else f"<small>{escape(label)}</small>"
        rows.append([f"{escape(name)}{beside}", number(len(column.values)), _listed(column)])
    fixed = [
        [escape(name), escape(said(value))]
        for name, value in study.points[0].parameters.items()
        if name not in study.varied
    ]
    common = details(
        "Fixed parameters", "of all points, defaults too", table([], fixed, texts=2) if fixed else ""
    )
    return (
        table(["parameter", "values", ""], rows, texts=1).replace("<table>", '<table class="asked">') + common
    )


def _listed(column: Column) -> str:
    values = column.values
    if len(values) <= MOST_VALUES:
        return escape(", ".join(said(value, 32) for value in values))
    if column.numbers is not None:
        ends = (said(values[place]) for place in (0, 1, 2, -1))
        return escape("{}, {}, {}, … {}".format(*ends))
    shown = ", ".join(said(value, 32) for value in values[:MOST_VALUES])
    return f"{escape(shown)}, and {number(len(values) - MOST_VALUES)} more"


def medians(finished: Finished, metrics: Iterable[str]) -> str:
    """Median, least and greatest over the seeds of every metric, a row a setting; empty without rows.

    Args:
        finished: the rows of a table.
        metrics: its metrics.
    """
    experiment = finished.study.experiment
    if not len(finished):
        return ""
    groups, firsts = combined([finished.codes(name) for name in finished.varied], len(finished))
    # in the study's order, not that of sorted values
    order = np.argsort(finished.places[firsts], kind="stable")
    seeds = np.bincount(groups)
    shown = order[:MOST_ROWS]
    names = [*metrics, "wall_seconds", "peak_bytes"]
    columns = {name: spread(groups, finished.figures(name)) for name in names}
    names = [name for name in names if len(columns[name].groups)]
    rows = []
    for group in shown.tolist():
        row = int(firsts[group])
        cells = [escape(said(finished.value(name, row), 32)) for name in finished.varied] or ["all"]
        cells.append(number(int(seeds[group])))
        cells += [_cell(columns[name], group, quantity(experiment, name).unit) for name in names]
        rows.append(cells)
    labels = [escape(quantity(experiment, name).label) for name in names]
    head = [*(escape(name) for name in finished.varied or ("points",)), "seeds", *labels]
    more = len(firsts) - len(shown)
    note = (
        f'<p class="note">{number(len(shown))} of {number(len(firsts))} settings; '
        "<code>qrt-tn study export</code> writes all of them.</p>"
        if more > 0
        else ""
    )
    return table(head, rows, texts=max(1, len(finished.varied))) + note


def _cell(found: Spread, group: int, unit: str) -> str:
    place = int(np.searchsorted(found.groups, group))
    if place >= len(found.groups) or found.groups[place] != group:
        return MISSING
    low, middle, high = (float(part[place]) for part in (found.least, found.median, found.greatest))
    wide = f"<small>{with_unit(low, unit)} – {with_unit(high, unit)}</small>" if low < high else ""
    return f"{with_unit(middle, unit)}{wide}"


def roofs(finished: Finished, figure: Figure, made: Roofline) -> str:
    """Intensity, rate and share of the roof of every setting of a roofline."""
    rows = []
    for _, lines in made.panels:
        for dots in lines:
            for place in range(len(dots.rate)):
                share = float(dots.share[place])
                rows.append(
                    [
                        *(
                            escape(said(finished.value(name, int(dots.rows[place])), 32))
                            for name in finished.varied
                        ),
                        f"{dots.intensity[place]:.3g}",
                        with_unit(float(dots.rate[place]), "flop/s"),
                        MISSING if np.isnan(share) else f"{100 * share:.3g} %",
                    ]
                )
    head = [*map(escape, finished.varied), "flop per byte", "rate", "share of the roof"]
    shown = table(head, rows[:MOST_ROWS], texts=max(1, len(finished.varied)))
    if len(rows) > MOST_ROWS:
        shown += f'<p class="note">{MOST_ROWS} of {number(len(rows))} settings.</p>'
    return details("Shares of the roof", f"{number(len(rows))} settings", shown)
