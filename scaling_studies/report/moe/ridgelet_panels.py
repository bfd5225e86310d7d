"""Ridgelet mass of experts before training against the change of their routers: correlations and scatter."""

from dataclasses import dataclass
from itertools import groupby

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qrt_tn.studies.report.moe.folder import MoeFolder, Row
from qrt_tn.studies.report.moe.names import upper
from qrt_tn.studies.report.style import INK, METHODS, MUTED, RULE, panel

COLOUR = METHODS["qrt-smoothed"].colour


@dataclass(frozen=True)
class Correlation:
    """The rank correlation of one measure of mass with the router change, for one initialisation.

    Attributes:
        init: how the hidden nodes were drawn.
        measure: of which mass.
        value: Spearman's coefficient; None where it is not defined, as for masses that are all alike.
        low: lower end of its 95 % band; None where there is none.
        high: upper end.
        p_value: of the permutation test within the seeds, None where it was not made.
        seeds: seeds.
        experts: experts of each.
    """

    init: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    seeds: int
    experts: int

    @property
    def sign(self) -> int | None:
        """1 or -1 where the band lies on that side of 0, 0 where it holds it, None without a band."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return int(self.low > 0) - int(self.high < 0)


def correlations(rows: list[Row]) -> list[Correlation]:
    """Every initialisation and measure, in the order of the file with the initialisations together."""
    keys = ("init", "measure", "spearman", "low", "high", "p_value", "seeds", "experts")
    found = [Correlation(*(row[key] for key in keys)) for row in rows]
    order = list(dict.fromkeys(item.init for item in found))
    return sorted(found, key=lambda item: order.index(item.init))


def forest(results: MoeFolder) -> Figure | None:
    """A row a measure under each initialisation: the rank correlation and its 95 % band.

    Filled dots are those whose band leaves 0 out. None where no correlation is defined.
    """
    found = correlations(results.ridgelet_correlation)
    if not any(item.sign is not None for item in found):
        return None
    groups = [(init, list(items)) for init, items in groupby(found, key=lambda item: item.init)]
    height = 1.0 + 0.215 * (len(found) + len(groups))
    figure = Figure(figsize=(4.4, height))
    axes = figure.add_axes((0.34, 0.5 / height, 0.62, 1 - 0.88 / height))
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.axvline(0, color=INK, linewidth=0.9, zorder=2)
    place, ticks = 0, []
    for init, items in groups:
        at = axes.get_yaxis_transform()
        axes.text(-0.54, place, upper(init), transform=at, va="center", fontsize=9, color=INK, weight="bold")
        for item in items:
            place += 1
            ticks.append((place, item.measure.replace("-", " ").replace("_", " ")))
            if item.value is None or item.low is None or item.high is None:
                axes.text(0, place, "  not defined", va="center", fontsize=8.4, color=MUTED)
                continue
            axes.plot([item.low, item.high], [place, place], color=COLOUR, linewidth=1.6, zorder=3)
            fill = COLOUR if item.sign else "none"
            axes.plot(
                [item.value], [place], "o", color=COLOUR, markerfacecolor=fill, markersize=5.5, zorder=4
            )
        place += 1
    axes.set_ylim(place - 0.4, -0.7)
    axes.set_xlim(-1.02, 1.02)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("Spearman’s rank correlation, 95 % band")
    axes.spines["left"].set_visible(False)
    axes.set_title("Mass before, change after")
    return figure


def scatter(results: MoeFolder, init: str, measure: str) -> Figure | None:
    """Router change against ridgelet mass, a dot an expert of a seed; None where fewer than two have both."""
    rows = [r for r in results.ridgelet_experts if (r["init"], r["measure"]) == (init, measure)]
    pairs = [(r["mass"], r["change"]) for r in rows if r["mass"] is not None and r["change"] is not None]
    if len(pairs) < 2:
        return None
    figure, axes = panel()
    figure.set_size_inches(2.4, 2.2)
    axes.set_position((0.2, 0.21, 0.77, 0.67))
    x, y = zip(*pairs, strict=True)
    axes.plot(x, y, "o", color=COLOUR, markersize=3.2, alpha=0.55, markeredgewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.7, zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3))
    axes.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=False)
    axes.set_xlabel(measure.replace("-", " ").replace("_", " "))
    axes.set_title(upper(init))
    return figure


def pairs(results: MoeFolder) -> list[tuple[str, str]]:
    """The initialisations and measures that experts were listed for, in the order of the file."""
    return list(dict.fromkeys((row["init"], row["measure"]) for row in results.ridgelet_experts))
