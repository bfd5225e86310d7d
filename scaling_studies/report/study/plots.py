"""What a figure of medians shows, ready to be drawn and told: panels, curves, guides, remarks."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qrt_tn.studies.report.study.powers import PowerLaw
from qrt_tn.studies.report.study.quantities import Quantity

REACHED, AT_MOST, NEVER = 0, -1, 1
MOST_MARKS = 300  # that are drawn of one line: more cannot be told apart, and make a page heavy


@dataclass(frozen=True)
class Curve:
    """One line of a panel; shapes (n,).

    Attributes:
        place: of its value among those of the series.
        x: ascending.
        low: of the band.
        middle: medians.
        high: of the band.
        x_low: the range of x itself, where x is no parameter.
        x_high: the same, upper end.
        bound: of a reach figure: REACHED, AT_MOST (at the least value tried) or NEVER (a lower bound).
        fit: the fitted power law.
        unfitted: why there is none though one was asked for.
    """

    place: int
    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    x_low: np.ndarray | None = None
    x_high: np.ndarray | None = None
    bound: np.ndarray | None = None
    fit: PowerLaw | None = None
    unfitted: str = ""

    def only(self, kept: np.ndarray) -> "Curve":
        """The curve at some of its places."""
        return replace(
            self,
            x=self.x[kept],
            low=self.low[kept],
            middle=self.middle[kept],
            high=self.high[kept],
            x_low=None if self.x_low is None else self.x_low[kept],
            x_high=None if self.x_high is None else self.x_high[kept],
            bound=None if self.bound is None else self.bound[kept],
        )


@dataclass
class Plot:
    """What a figure shows.

    Attributes:
        x: what runs to the right.
        y: what runs upwards.
        ticks: the values of an x that is no number, in order; None where it is one.
        lines: the values that have a line each; one None where there is no series.
        panels: value and curves of each panel; one value None where there are no panels.
        counts: least and greatest number of points behind a median.
        seeds: least and greatest number of seeds behind one.
        pooled: varied parameters beside the seed that medians run over.
        rows: the finished points that are shown, as places among them, (n,).
        curve_of: a number for the curve that each of them belongs to, (n,).
        asked: how many points of the study, finished or not, belong into the figure.
        remarks: what was left out, and why, as plain sentences.
        guides: dashed guides: names and the factor f of y = f (exponent 0) or y = f x (exponent 1).
    """

    x: Quantity
    y: Quantity
    ticks: tuple[Any, ...] | None = None
    lines: tuple[Any, ...] = (None,)
    panels: list[tuple[Any, list[Curve]]] = field(default_factory=list)
    counts: tuple[int, int] = (0, 0)
    seeds: tuple[int, int] = (0, 0)
    pooled: tuple[str, ...] = ()
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    curve_of: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    asked: int = 0
    remarks: list[str] = field(default_factory=list)
    guides: list[tuple[str, float, int]] = field(default_factory=list)
