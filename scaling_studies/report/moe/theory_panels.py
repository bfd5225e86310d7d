"""The theory of router-change pruning, predicted and measured: exponents of d, accuracy against limits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qrt_tn.models.moe.theory import fit_exponent
from qrt_tn.studies.report.axes import Line, draw, log_axis, name_lines
from qrt_tn.studies.report.moe.comparison import Sample
from qrt_tn.studies.report.moe.folder import MoeFolder
from qrt_tn.studies.report.moe.names import CHANGE, ORDERS, RANDOM, line_style
from qrt_tn.studies.report.style import INK, MUTED, panel

ALLOWED_LOSS = 0.01  # of accuracy, up to which it counts as held
RELEVANT, OTHERS = "relevant_min", "others_size"
QUANTITIES = {  # what was measured, the exponent that is predicted, the name beside the line
    RELEVANT: ("the smallest change of relevant experts", 0.0, "relevant, smallest Δ"),
    OTHERS: ("the largest |change| of the others", -0.5, "others, largest |Δ|"),
    "others_moved": ("the largest movement of the others", -0.5, "others, movement"),
}
_STYLES = {RELEVANT: "imp", OTHERS: "qrt-smoothed", "others_moved": "random-features"}
LIMITS = {"without": "γ", "with": "1 − 2/k", "both_signs": "both signs"}
_BESIDE = {"both_signs": "right", "with": "left"}  # of its line, where two stand close
_ORDER_STYLES = {CHANGE: "imp", RANDOM: "random", "reversed": "filter"}


@dataclass(frozen=True)
class Exponent:
    """How a quantity grows with the dimension.

    Attributes:
        name: one of QUANTITIES.
        predicted: the exponent of the theory; for the others it bounds from above, so they may fall faster.
        slope: the fitted exponent.
        low: lower end of its 95 % interval.
        high: upper end.
        dims: how many dimensions.
        seeds: how many seeds each.
    """

    name: str
    predicted: float
    slope: float
    low: float
    high: float
    dims: int
    seeds: int

    @property
    def agrees(self) -> bool | None:
        """Whether the interval allows the prediction: True or False, None where it does not tell.

        Relevant experts are to keep a change of order 1, so their exponent must not be below 0. The others
        are to fall at least like d^(-1/2): an interval at or below -1/2 agrees, one above contradicts, and
        one that holds -1/2 does not tell which side it is on.
        """
        if self.name == RELEVANT:
            return self.high >= 0
        if self.high <= self.predicted:
            return True
        return False if self.low > self.predicted else None


def exponents(results: MoeFolder) -> list[Exponent]:
    """The fitted exponent of each quantity that is above 0 everywhere, at two dimensions or more."""
    rows = results.theory_scaling
    dims, seeds = {row["dim"] for row in rows}, {row["seed"] for row in rows}
    found = []
    for name, (_, predicted, _) in QUANTITIES.items():
        x, y = [row["dim"] for row in rows], [row[name] for row in rows]
        if len(dims) > 1 and len(rows) > 2 and min(y) > 0:
            found.append(Exponent(name, predicted, *fit_exponent(x, y), len(dims), len(seeds)))
    return found


def scaling(results: MoeFolder) -> Figure | None:
    """Changes of the routers against the dimension, both axes logarithmic, with the fitted exponents.

    The dotted line falls like d^(-1/2) from where the others begin.
    """
    rows = results.theory_scaling
    fits = {fit.name: fit for fit in exponents(results)}
    lines = []
    for name, (_, _, label) in QUANTITIES.items():
        values = _samples(rows, "dim", lambda row, name=name: float(row[name]))  # type: ignore[misc]
        if values and min(sample.low for sample in values.values()) > 0:
            fit = fits.get(name)
            said = (
                "" if fit is None else f"\n∝ d^{_plain(fit.slope)} ({_plain(fit.low)} to {_plain(fit.high)})"
            )
            lines.append(_line(_STYLES[name], label + said, values))
    if not lines:
        return None
    figure, axes = panel(left=0.135, right=0.56)
    draw(axes, lines)
    axes.set_xscale("log")
    axes.set_yscale("log")
    others = next(
        (line for line in lines if line.style.colour == line_style(_STYLES[OTHERS], "").colour), None
    )
    if others is not None:
        x = np.array([others.x[0], others.x[-1]])
        axes.plot(x, others.middle[0] * (x / x[0]) ** -0.5, ":", color=INK, linewidth=1.2, zorder=2)
        end = float(others.middle[0] * (x[1] / x[0]) ** -0.5)
        axes.annotate("d^−½", (x[1], end), (-2, 4), textcoords="offset points", ha="right", fontsize=8.8)
    dims = sorted({row["dim"] for row in rows})
    axes.set_xticks(dims, [str(dim) for dim in dims])
    axes.minorticks_off()
    log_axis(axes.yaxis)
    axes.set_xlabel("dimension d")
    axes.set_title("Change of router norms")
    name_lines(axes, lines)
    return figure


def steps(results: MoeFolder) -> list[int]:
    """The numbers of fine-tuning steps after pruning, ascending."""
    return sorted({row["fine_tune_steps"] for row in results.theory_pruning})


def curve(results: MoeFolder, order: str, after: int) -> dict[float, Sample]:
    """Accuracy over the seeds at each pruned ratio.

    Args:
        results: the study.
        order: "router-change", "random" or "reversed".
        after: how many fine-tuning steps after pruning.
    """
    rows = [r for r in results.theory_pruning if (r["order"], r["fine_tune_steps"]) == (order, after)]
    rows.sort(key=lambda row: int(row["seed"]))
    return _samples(rows, "ratio", lambda row: float(row["accuracy"]))


def held_until(found: dict[float, Sample], *, every_seed: bool = False) -> float | None:
    """The largest ratio up to which accuracy stays within ALLOWED_LOSS of that at ratio 0.

    Args:
        found: accuracies by ratio, the same seeds at each.
        every_seed: ask it of every seed, not of the median.

    Returns:
        The ratio; None where ratio 0 was not measured.
    """
    if 0 not in found:
        return None
    held = 0.0
    for ratio in sorted(found):
        here, start = found[ratio], found[0]
        lost = [before - value for before, value in zip(start.values, here.values, strict=False)]
        if (max(lost) if every_seed else start.median - here.median) > ALLOWED_LOSS + 1e-9:
            break
        held = ratio
    return held


def limits(results: MoeFolder) -> dict[str, float]:
    """The predicted limits of the pruned ratio, as the manifest gives them."""
    given = (results.manifest.get("theory") or {}).get("limits") or {}
    return {name: float(given[name]) for name in LIMITS if name in given}


def pruning(results: MoeFolder, after: int) -> Figure | None:
    """Accuracy of the theory's model against the pruned ratio, with the predicted limit as a vertical line.

    Args:
        results: the study.
        after: how many fine-tuning steps after pruning.
    """
    lines = []
    for order in dict.fromkeys(row["order"] for row in results.theory_pruning):
        found = curve(results, order, after)
        if found:
            lines.append(_line(_ORDER_STYLES.get(order, "uniform"), ORDERS.get(order, order), found))
    if not lines:
        return None
    figure, axes = panel(left=0.12, right=0.74)
    draw(axes, lines)
    shown = ("with", "both_signs") if after else ("without",)
    for name in (name for name in shown if name in limits(results)):
        place = limits(results)[name]
        axes.axvline(place, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=2)
        axes.annotate(
            LIMITS[name], (place, 1), (0, 2), xycoords=("data", "axes fraction"), va="bottom",
            textcoords="offset points", ha=_BESIDE.get(name, "center"), fontsize=8.2, color=MUTED,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}"))
    axes.set_xlabel("share of experts pruned")
    axes.set_title(
        f"Accuracy, %: {f'{after} steps after pruning' if after else 'no fine-tuning after'}", pad=17
    )
    name_lines(axes, lines)
    return figure


def _samples(
    rows: list[dict[str, float]], key: str, value: Callable[[dict[str, float]], float]
) -> dict[float, Sample]:
    groups: dict[float, list[float]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(value(row))
    return {place: Sample(tuple(groups[place])) for place in sorted(groups)}


def _line(name: str, label: str, found: dict[float, Sample]) -> Line:
    low, middle, high = np.array([(part.low, part.median, part.high) for part in found.values()]).T
    return Line(label, line_style(name, label), np.array(list(found), dtype=float), low, middle, high)


def _plain(exponent: float) -> str:
    return f"{exponent:.2f}".replace("-", "−")
