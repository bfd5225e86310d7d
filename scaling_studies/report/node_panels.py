"""Panels of what was drawn: single nodes, and how often their frequencies take each value."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qrt_tn.field import centred
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.style import (
    METHODS,
    MUTED,
    NEGATIVE,
    POSITIVE,
    RULE,
    decades,
    legend,
    panel,
)

SPECTRA = {
    "filter_spectrum": ("filter τ², exact", METHODS["filter"].colour),
    "qrt_spectrum": ("QRT", METHODS["qrt"].colour),
    "residual_spectrum": ("tempered residual", METHODS["residual"].colour),
}
MOST_BARS = 8  # of a node of a table
LONGEST_NAME = 14


def node(results: TicketFolder, k: int) -> Figure:
    """One node's frequency a: an image where the data are images, else a bar for its largest coordinates."""
    a = centred(results.showcase["a"], results.manifest["modulus"])
    strongest = max(float(np.abs(a).max()), 1.0)
    shape = results.manifest["dataset"].get("image_shape")
    if not shape:
        return _bars(a[k], strongest, results.manifest["dataset"]["names"])
    figure = Figure(figsize=(1.7, 1.7))
    axes = figure.add_axes((0.03, 0.03, 0.94, 0.94))
    # of colours one channel after the other, side by side
    image = a[k].reshape(shape)
    tiles = image if image.ndim == 2 else np.hstack(list(np.moveaxis(image, 2, 0)))
    axes.imshow(_signed(tiles, strongest), interpolation="none")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
    return figure


def _bars(a: np.ndarray, strongest: float, names: list[str]) -> Figure:
    """The largest coordinates by name, those of one sign in one colour."""
    shown = np.sort(np.argsort(-np.abs(a), kind="stable")[: min(MOST_BARS, max(1, np.count_nonzero(a)))])
    figure = Figure(figsize=(2.3, 0.35 + 0.24 * MOST_BARS))
    axes: Axes = figure.add_axes((0.46, 0.04, 0.5, 0.92))
    places = np.arange(len(shown))
    colours = [POSITIVE if value > 0 else NEGATIVE for value in a[shown]]
    axes.barh(places, a[shown], height=0.7, color=colours)
    axes.axvline(0, color=MUTED, linewidth=0.7)
    axes.set(xlim=(-1.1 * strongest, 1.1 * strongest), ylim=(MOST_BARS - 0.4, -0.6), xticks=[])
    axes.set_yticks(places, [_short(names[i]) for i in shown], fontsize=8.2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _signed(values: np.ndarray, strongest: float) -> np.ndarray:
    """RGBA pixels: the hue is the sign and the opacity the size, so that 0 shows the page beneath."""
    pixels = np.empty((*values.shape, 4))
    pixels[..., :3] = np.where(values[..., None] > 0, to_rgb(POSITIVE), to_rgb(NEGATIVE))
    pixels[..., 3] = np.minimum(np.abs(values) / strongest, 1) ** 0.75
    return pixels


def node_spectrum(results: TicketFolder) -> Figure:
    """How often a coordinate of a frequency takes each centred value, over the drawn nodes."""
    figure, axes = panel()
    modulus = results.manifest["modulus"]
    t = centred(np.arange(modulus), modulus)
    order = np.argsort(t)
    t = t[order]
    curves = {name: results.showcase[name][order] for name in SPECTRA if name in results.showcase}
    lowest = 1e-5
    reach = [np.abs(t[curve > lowest]).max(initial=0) for curve in curves.values()]
    window = min(int(max([8, *reach])) + 2, int(t[-1]))
    for name, curve in curves.items():
        label, colour = SPECTRA[name]
        shown = np.abs(t) <= window
        height = np.where(curve > lowest, curve, np.nan)  # no line where nothing was drawn
        line: dict[str, Any]
        if name == "filter_spectrum":
            line = {"linestyle": "none", "marker": "s", "markersize": 6, "markerfacecolor": "none"}
        else:
            line = {"linestyle": "-", "marker": "o", "markersize": 3}
        axes.plot(t[shown], height[shown], color=colour, linewidth=1.5, label=label, **line)
    axes.set_yscale("log")
    axes.set_ylim(lowest, 2)
    decades(axes)
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.set_xlabel("one coordinate of a, centred")
    axes.set_title("Share of coordinates")
    legend(axes)
    return figure
