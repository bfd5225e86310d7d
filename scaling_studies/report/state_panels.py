"""Panels of the states that nodes are drawn from: bonds and Schmidt spectra along the chain."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from qrt_tn.engine.files import atomic_path
from qrt_tn.states import MPSState
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.style import FIGURE_SETTINGS, METHODS, decades, legend, panel, plain

BLUE = METHODS["residual"].colour
RANKS = (2, 4, 8, 16, 32, 64, 128)  # whose Schmidt values are followed along the chain
ROUNDING = 1e-6  # of the largest Schmidt value; beyond lies the rounding of truncated bonds


def bond_dimensions(results: TicketFolder) -> Figure:
    """Bond dimensions along each chain."""

    def draw(axes: Axes, state: dict[str, Any], **line: Any) -> None:
        bonds = np.asarray(state["bond_dimensions"])
        axes.plot(np.arange(1, len(bonds) + 1), bonds, **line)

    figure, axes = _of_states(results, "bond_dimensions", draw)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("bond along the chain")
    axes.set_title("Bond dimension")
    return figure


def schmidt_values(results: TicketFolder) -> Figure:
    """Schmidt values across the half cut, the largest of each state set to 1."""

    def draw(axes: Axes, state: dict[str, Any], **line: Any) -> None:
        values = np.sort(np.asarray(state["schmidt_values"], dtype=np.float64))[::-1]
        values = values[values > ROUNDING * values[:1]]
        axes.plot(np.arange(1, len(values) + 1), values / values[:1], marker=".", markersize=4, **line)

    figure, axes = _of_states(results, "schmidt_values", draw)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rank k")
    axes.set_title("Schmidt values σₖ / σ₁ at the half cut")
    return figure


def _of_states(results: TicketFolder, key: str, draw: Callable[..., None]) -> tuple[Figure, Axes]:
    """One thin line a seed."""
    figure, axes = panel()
    for state in results.manifest["states"]:
        if state.get(key):
            draw(axes, state, color=BLUE, linewidth=1.1, alpha=0.85)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure, axes


def schmidt_spectra(results: TicketFolder) -> Figure:
    """Schmidt values of a few ranks at every bond of the first state that tells them."""
    told = (state.get("schmidt_spectra") for state in results.manifest["states"])
    spectra = next(spectra for spectra in told if spectra)
    figure, axes = panel()
    _spectra(axes, spectra)
    return figure


def draw_state(state: MPSState, path: str | Path) -> None:
    """Draw a matrix product state's bond dimensions and Schmidt spectra along the chain, as SVG.

    Args:
        state: from `states.from_mps`, or smoothed data.
        path: the file, whole or not at all.

    Raises:
        ValueError: not a matrix product state, a state of one site, or a folder that does not exist.
    """
    if not isinstance(state, MPSState):
        raise ValueError(f"a {type(state).__name__} has no bonds to draw; give a matrix product state")
    spectra = leading_schmidt_values(state.schmidt_values())
    if not spectra:
        raise ValueError("a state of one site has no bond to draw")
    with matplotlib.rc_context(FIGURE_SETTINGS), atomic_path(path) as partial:
        figure = Figure(figsize=(8.2, 3.1))
        left, right = figure.add_axes((0.07, 0.17, 0.4, 0.7)), figure.add_axes((0.57, 0.17, 0.4, 0.7))
        bonds = state.bond_dimensions
        left.plot(np.arange(1, len(bonds) + 1), bonds, color=BLUE, linewidth=1.3)
        left.set_ylim(0, 1.12 * max(bonds))
        left.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        left.set_xlabel("bond along the chain")
        left.set_title("Bond dimension")
        _spectra(right, spectra)
        FigureCanvasSVG(figure).print_svg(partial, metadata={"Date": None, "Creator": None})


def leading_schmidt_values(spectra: Sequence[np.ndarray]) -> list[list[float]]:
    """The Schmidt values of `RANKS` at every bond, over the largest there.

    Args:
        spectra: of `MPSState.schmidt_values`.
    """
    found = []
    for values in spectra:
        ratios = values / values[:1]
        found.append([float(ratios[rank - 1]) for rank in RANKS if rank <= len(ratios)])
    return found


def _spectra(axes: Axes, spectra: list[list[float]]) -> None:
    bonds = np.arange(1, len(spectra) + 1)
    for number, rank in enumerate(RANKS):
        values = np.array([row[number] if number < len(row) else 0.0 for row in spectra])
        values[values < ROUNDING] = np.nan  # no line where a bond is narrower
        if np.isfinite(values).any():
            shade = 0.95 - 0.75 * number / len(RANKS)
            axes.plot(bonds, values, color=BLUE, alpha=shade, linewidth=1.3, label=f"k = {rank}")
    axes.set_yscale("log")
    decades(axes)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("bond along the chain")
    axes.set_title("Schmidt values σₖ / σ₁")
    legend(axes)
