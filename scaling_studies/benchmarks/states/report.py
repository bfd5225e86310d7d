"""The growth of every kind of state as tables and as a plot, the dense transform's exponential beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from qrt_tn.engine.plan import bytes_text
from qrt_tn.studies.benchmarks.sheets import Sheet, grouped, markdown, seconds
from qrt_tn.studies.report.style import FIGURE_SETTINGS, RULE, decades

FITTED = ("seconds", "total_seconds", "bytes")  # what a power of D is fitted to
# colour and marker of every kind; colours are Okabe and Ito's, darkened
LOOKS = {
    "samples": ("#0a5ba8", "o"),
    "MPS": ("#b84a00", "s"),
    "ridge sum": ("#00795a", "^"),
    "dense": ("#2e3136", "x"),
}


def sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """All tables of a result, as `run.measure` gives it."""
    nodes = result["rows"][0]["nodes"]
    rows = [
        (
            row["kind"],
            f"{row['dim']:,}",
            seconds(row["build_seconds"]),
            seconds(row["seconds"]),
            bytes_text(row["bytes"]),
            f"{row['log_probability'][0]:.5g} to {row['log_probability'][1]:.5g}",
        )
        for row in result["rows"]
    ]
    return [
        Sheet(
            "Growth with the dimension",
            f"Drawing {nodes} nodes at P = {result['modulus']}, activation {result['activation']}; the peak "
            "memory is that of building and drawing together.",
            ("state", "D", "build", "draw", "memory", "log p(a, b)"),
            tuple(grouped(rows, 1)),
            whole=("log p(a, b)",),
        ),
        Sheet(
            "Powers of D",
            "Least squares in the logarithms over all D above; the dense transform takes P^D instead.",
            ("state", "draw", "build and draw", "memory"),
            tuple((fit["kind"], *(f"{fit[what]:.2f}" for what in FITTED)) for fit in result["exponents"]),
        ),
    ]


def as_markdown(result: Mapping[str, Any]) -> str:
    """All tables as Markdown, with what was measured on above them."""
    return markdown("States at large dimension", result, sheets(result))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw time and memory against D, both axes logarithmic, as SVG.

    Args:
        result: as `run.measure` gives it.
        path: the file.
    """
    with matplotlib.rc_context(FIGURE_SETTINGS):
        figure = Figure(figsize=(8.6, 3.8))
        left, right = figure.add_axes((0.075, 0.22, 0.4, 0.68)), figure.add_axes((0.585, 0.22, 0.4, 0.68))
        nodes = result["rows"][0]["nodes"]
        _panel(left, result, "total_seconds", f"Seconds to build, and to draw {nodes} nodes")
        _panel(right, result, "bytes", "Peak memory in bytes")
        lines, names = left.get_legend_handles_labels()
        figure.legend(lines, names, loc="lower center", ncols=len(names), frameon=False, fontsize=8.6)
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, result: Mapping[str, Any], what: str, title: str) -> None:
    powers = {fit["kind"]: fit[what] for fit in result["exponents"]}
    top = max(row[what] for row in result["rows"] if row["kind"] != "dense")
    bottom = min(row[what] for row in result["rows"])
    for kind, (colour, marker) in LOOKS.items():
        own = [row for row in result["rows"] if row["kind"] == kind]
        if not own:
            continue
        dims = np.array([row["dim"] for row in own], dtype=np.float64)
        values = np.array([row[what] for row in own])
        label = (
            f"{kind}, ~ D^{powers[kind]:.2f}" if kind in powers else f"{kind}, P^D beyond D = {dims[-1]:.0f}"
        )
        axes.plot(dims, values, color=colour, marker=marker, markersize=5, linewidth=1.4, label=label)
        if kind == "dense":
            # what cannot be measured: every further dimension costs a factor of P
            further = np.linspace(dims[-1], dims[-1] + 6, 50)
            beyond = values[-1] * float(result["modulus"]) ** (further - dims[-1])
            axes.plot(further, beyond, color=colour, linewidth=1.1, linestyle=(0, (4, 2)))
    axes.set(xscale="log", yscale="log", ylim=(bottom / 3, top * 30))
    decades(axes)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("dimension D")
    axes.set_title(title)
