"""What a figure of kind "roofline" shows: rates of settings under the ceilings of the devices that ran them.

The model is that of Williams, Waterman and Patterson, Roofline: an insightful visual performance model for
multicore architectures, Communications of the ACM 52(4), 2009: a rate is at most min(peak, intensity times
bandwidth).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qrt_tn.studies.config import Figure
from qrt_tn.studies.report.study.finished import Finished
from qrt_tn.studies.report.study.groups import combined, spread
from qrt_tn.studies.report.study.plots import Plot
from qrt_tn.studies.report.study.quantities import Quantity, said
from qrt_tn.studies.report.study.selection import points_are, select, show

NEEDED = ("flops", "bytes_moved", "seconds", "peak_flops", "bandwidth")
ARITHMETIC = ("dtype", "precision", "compute")  # parameters that change what a device can do
_ON_GPUS = ("cupy", "cuquantum")
_ALIKE = 0.05  # relative difference up to which two measured ceilings are one


@dataclass(frozen=True)
class Ceiling:
    """The roof of one device for one kind of arithmetic.

    Attributes:
        name: device, and the arithmetic where it matters.
        peak: flop/s.
        bandwidth: B/s.
    """

    name: str
    peak: float
    bandwidth: float

    def at(self, intensity: np.ndarray) -> np.ndarray:
        """The most flop/s at so many flop per byte."""
        return np.minimum(self.peak, intensity * self.bandwidth)


@dataclass(frozen=True)
class Dots:
    """Medians over the seeds of the settings of one line in one panel; shapes (n,).

    Attributes:
        place: of the line's value.
        intensity: flop per byte moved.
        rate: flop/s.
        share: of the roof, between 0 and 1 if the roof was measured well; NaN without one.
        rows: places among the rows of the table, one of each setting.
    """

    place: int
    intensity: np.ndarray
    rate: np.ndarray
    share: np.ndarray
    rows: np.ndarray


@dataclass
class Roofline:
    """A roofline figure.

    Attributes:
        plot: lines, rows and remarks; its panels stay empty.
        panels: value and dots of each panel.
        ceilings: the roofs.
    """

    plot: Plot
    panels: list[tuple[Any, list[Dots]]] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)


def roofline(finished: Finished, figure: Figure) -> Roofline:
    """Rates and intensities of settings, medians over the seeds, and the ceilings above them."""
    plot = Plot(Quantity("intensity", "flop per byte moved"), Quantity("rate", "rate", "flop/s", True))
    made = Roofline(plot)
    found = select(finished, figure, plot)
    flops, moved, seconds, peak, bandwidth = (finished.figures(name)[found.rows] for name in NEEDED)
    with np.errstate(invalid="ignore"):
        usable = (flops > 0) & (moved > 0) & (seconds > 0)
    if not usable.all():
        plot.remarks.append(
            f"{points_are(int((~usable).sum()))} left out, having no flops, bytes or seconds."
        )
    found = found.only(usable)
    flops, moved, seconds, peak, bandwidth = (
        part[usable] for part in (flops, moved, seconds, peak, bandwidth)
    )
    show(plot, found)
    intensity, rate = flops / moved, flops / seconds
    with np.errstate(invalid="ignore"):
        roofed = (peak > 0) & (bandwidth > 0)
        roof = np.where(roofed, np.minimum(peak, intensity * bandwidth), np.nan)
    if len(rate) and not roofed.all():
        plot.remarks.append(
            f"{points_are(int((~roofed).sum()))} shown without a roof, which was not measured."
        )
    varied = [finished.codes(name)[found.rows] for name in finished.varied]
    groups, firsts = combined([found.panel, found.line, *varied], len(rate))
    _count(plot, groups)
    medians = [spread(groups, part).median for part in (intensity, rate)]
    shares = np.full(len(firsts), np.nan)
    under = spread(groups, rate / roof)
    shares[under.groups] = under.median
    heads = found.panel[firsts], found.line[firsts]
    for panel, value in enumerate(found.panels):
        dots = []
        for line in range(len(found.lines)):
            here = (heads[0] == panel) & (heads[1] == line)
            if here.any():
                rows = found.rows[firsts[here]]
                dots.append(Dots(line, medians[0][here], medians[1][here], shares[here], rows))
        if dots:
            made.panels.append((value, dots))
    made.ceilings = _ceilings(finished, found.rows[roofed], peak[roofed], bandwidth[roofed])
    return made


def _count(plot: Plot, groups: np.ndarray) -> None:
    if len(groups):
        counts = np.bincount(groups)
        plot.counts = plot.seeds = int(counts.min()), int(counts.max())


def _ceilings(finished: Finished, rows: np.ndarray, peak: np.ndarray, bandwidth: np.ndarray) -> list[Ceiling]:
    """One for each device and arithmetic, their medians; those that hardly differ are one."""
    names = [name for name in ARITHMETIC if name in finished.study.experiment.settings.model_fields]
    grouped: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        point = finished.study.points[int(finished.places[row])]
        kinds = (said(point.parameters[name]) for name in names if point.parameters[name] is not None)
        on_gpu = point.needs.gpus > 0
        name = device(finished.records[row], point.parameters.get("backend"), on_gpu=on_gpu)
        grouped.setdefault((name, *kinds), []).append(place)
    several = len({key[0] for key in grouped}) > 1
    merged: dict[tuple[str, ...], Ceiling] = {}
    for key, places in grouped.items():
        found = Ceiling("", float(np.median(peak[places])), float(np.median(bandwidth[places])))
        twin = next((k for k, one in merged.items() if k[0] == key[0] and _alike(one, found)), None)
        if twin is None:
            merged[key] = found
        else:
            one = merged.pop(twin)
            merged[(*twin, *key[1:])] = one
    named = (Ceiling(_name(key, several), one.peak, one.bandwidth) for key, one in merged.items())
    return sorted(named, key=lambda one: -one.peak)


def _name(key: tuple[str, ...], several: bool) -> str:
    kinds = " / ".join(dict.fromkeys(key[1:]))
    return ", ".join(part for part in (key[0] if several or not kinds else "", kinds) if part)


def _alike(one: Ceiling, other: Ceiling) -> bool:
    pairs = ((one.peak, other.peak), (one.bandwidth, other.bandwidth))
    return all(abs(a - b) <= _ALIKE * max(a, b) for a, b in pairs)


def device(record: Mapping[str, Any], backend: Any = None, *, on_gpu: bool = False) -> str:
    """The name of what computed: the GPU where the point had one to itself or its backend needs one."""
    parts = record.get("device") or {}
    gpu = parts.get("gpu")
    if gpu and (backend in _ON_GPUS or (on_gpu and backend != "numpy")):
        return said(gpu)
    return said(parts.get("processor") or "unknown processor")
