"""What pruning experts saves: latency, bytes and operations relative to the unpruned network."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qrt_tn.studies.report.axes import Line, draw, name_lines
from qrt_tn.studies.report.moe.folder import MoeFolder, Row
from qrt_tn.studies.report.moe.names import MODES, SHORT_MODES, line_style
from qrt_tn.studies.report.style import INK, panel

QUANTITIES = {
    "latency": "Time of a batch, unpruned = 1",
    "bytes": "Bytes of parameters, unpruned = 1",
    "flops": "Operations an image, unpruned = 1",
}
# A colour and dashes for each mode, in the order of MODES; several networks differ in the markers.
_STYLES = ("qrt-smoothed", "filter", "random-features", "qrt")
_MARKERS = "os^Dv"


@dataclass(frozen=True)
class Saving:
    """One pruned network beside the unpruned one.

    Attributes:
        router: its router kind.
        mode: how experts were removed.
        experts: experts of a layer before, where the table says so.
        pruned: how many of them are gone.
        row: the measured row.
        relative: (low, middle, high) of latency, bytes and flops over those of the unpruned network; a
            quantity is absent where that was not measured. Counted quantities have no range.
    """

    router: str
    mode: str
    experts: int | None
    pruned: int
    row: Row
    relative: dict[str, tuple[float, float, float]]

    @property
    def verdict(self) -> str:
        """Whether the interval of the latency ratio lies below 1 (faster), above it (slower) or neither."""
        low, _, high = self.relative.get("latency", (0.0, 1.0, 2.0))
        return "faster" if high < 1 else "slower" if low > 1 else "level"


def savings(results: MoeFolder) -> list[Saving]:
    """Every measured network, the unpruned ones among them, in the order of the file."""
    rows = results.savings
    found = []
    for row in rows:
        same = [r for r in rows if _network(r) == _network(row) and not r["pruned"]]
        base = next((r for r in same if r["mode"] == row["mode"]), same[0] if same else None)
        relative = {}
        if row["ratio"] is not None:
            ends = [
                row[name] if row[name] is not None else row["ratio"] for name in ("ratio_low", "ratio_high")
            ]
            relative["latency"] = (ends[0], row["ratio"], ends[1])
        for name in ("bytes", "flops"):
            if base is not None:
                relative[name] = (row[name] / base[name],) * 3
        found.append(Saving(row["router"], row["mode"], row.get("experts"), row["pruned"], row, relative))
    return found


def _network(row: Row) -> tuple[str, int | None]:
    """What was pruned: tables of several networks tell them apart by a column of their experts."""
    return row["router"], row.get("experts")


def routers(results: MoeFolder) -> list[str]:
    """The router kinds that were measured, in the order of the file."""
    return list(dict.fromkeys(row["router"] for row in results.savings))


def against_pruned(results: MoeFolder, router: str, quantity: str) -> Figure | None:
    """A quantity relative to the unpruned network: a line a mode and network, a band over its interval.

    Args:
        results: the study.
        router: which router kind.
        quantity: one of QUANTITIES.

    Returns:
        The panel; None where nothing pruned was measured.
    """
    mine = [item for item in savings(results) if item.router == router and quantity in item.relative]
    networks = sorted({item.experts for item in mine}, key=lambda experts: experts or 0)
    shares = all(networks)
    names = list(MODES) + sorted({item.mode for item in mine} - set(MODES))
    lines = []
    for mode in (mode for mode in names if any(item.mode == mode and item.pruned for item in mine)):
        for place, experts in enumerate(networks):
            own = sorted(
                (item for item in mine if (item.mode, item.experts) == (mode, experts)),
                key=lambda item: item.pruned,
            )
            if not own:
                continue
            x = [100 * item.pruned / experts if shares and experts else item.pruned for item in own]
            label = SHORT_MODES.get(mode, mode) + (f", {experts}" if len(networks) > 1 else "")
            values = np.array([item.relative[quantity] for item in own])
            lines.append(_line(label, names.index(mode), place, x, values))
    if not lines:
        return None
    figure, axes = panel(left=0.11, right=0.68)
    axes.axhline(1, color=INK, linewidth=0.9, zorder=2)
    draw(axes, lines)
    axes.set_ylim(0, max(1.05, *(float(line.high.max()) * 1.04 for line in lines)))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("% of the experts pruned" if shares else "experts pruned in each layer")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=not shares))
    axes.set_title(QUANTITIES[quantity])
    name_lines(axes, lines)
    return figure


def _line(label: str, mode: int, network: int, x: list[float], values: np.ndarray) -> Line:
    style = line_style(_STYLES[mode % len(_STYLES)], label)
    dashes = "-" if not network else (0, (4.0, 1.4))
    marked = type(style)(
        label, style.colour, style.dark, dashes, _MARKERS[network % len(_MARKERS)], style.width
    )
    return Line(label, marked, np.array(x, dtype=float), *values.T)
