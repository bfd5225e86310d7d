"""Panels of what was drawn: single nodes, and the spectra they were drawn from."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qrt_tn.field import centred
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.style import (
    INK,
    METHODS,
    MUTED,
    NEGATIVE,
    POSITIVE,
    RULE,
    decades,
    legend,
    panel,
)

NODE_SPECTRA = {
    "node_spectrum_unsmoothed": ("QRT, unsmoothed", METHODS["qrt-unsmoothed"].colour),
    "filter_spectrum": ("filter τ², exact", METHODS["filter"].colour),
    "node_spectrum_smoothed": ("QRT, smoothed", METHODS["qrt-smoothed"].colour),
}
BLUE = METHODS["qrt-smoothed"].colour


def node(results: TicketFolder, k: int) -> Figure:
    """One drawn node: its frequency u above (an image where the data are images), p(b | a) below."""
    figure = Figure(figsize=(1.7, 2.2))
    u = results.showcase["u"][k].astype(np.float64)
    strongest = max(float(np.abs(results.showcase["u"]).max()), 1.0)
    shape = results.manifest["dataset"].get("image_shape")
    upper = figure.add_axes((0.03, 0.26, 0.94, 0.727))
    if shape:
        upper.imshow(_signed(u.reshape(shape), strongest), interpolation="none")
        upper.set(xticks=[], yticks=[])
        for spine in upper.spines.values():
            spine.set(visible=True, color=RULE)
    else:
        colours = [POSITIVE if value > 0 else NEGATIVE for value in u]
        upper.bar(np.arange(len(u)), u, width=0.75, color=colours)
        upper.axhline(0, color=MUTED, linewidth=0.7)
        upper.set(xlim=(-0.7, len(u) - 0.3), ylim=(-1.1 * strongest, 1.1 * strongest))
        upper.axis("off")
    _profile(figure.add_axes((0.03, 0.035, 0.94, 0.195)), results, k)
    return figure


def _profile(axes: Axes, results: TicketFolder, k: int) -> None:
    """p(b | a) over one period of centred b, the threshold that was drawn marked by a dot."""
    t, order = _centred_axis(results.manifest["modulus"])
    probability = results.showcase["probability"][k][order]
    axes.fill_between(t, probability, color=BLUE, alpha=0.28, linewidth=0)
    axes.plot(t, probability, color=BLUE, linewidth=0.9)
    drawn = int(np.flatnonzero(order == int(results.showcase["b"][k]) % len(t))[0])
    axes.plot([t[drawn]], [probability[drawn]], "o", color=INK, markersize=3.4, clip_on=False)
    axes.set(xlim=(t[0], t[-1]), ylim=(0, 1.2 * float(probability.max()) or 1.0), yticks=[])
    axes.set_xticks([0], [""])
    axes.tick_params(length=2)
    axes.spines["left"].set_visible(False)


def _signed(values: np.ndarray, strongest: float) -> np.ndarray:
    """RGBA pixels: the hue is the sign and the opacity the size, so that 0 shows the page beneath."""
    pixels = np.empty((*values.shape, 4))
    pixels[..., :3] = np.where(values[..., None] > 0, to_rgb(POSITIVE), to_rgb(NEGATIVE))
    pixels[..., 3] = np.minimum(np.abs(values) / strongest, 1) ** 0.75
    return pixels


def _centred_axis(modulus: int) -> tuple[np.ndarray, np.ndarray]:
    """The centred representatives ascending, and the order of 0..P-1 that makes them so."""
    t = centred(np.arange(modulus), modulus)
    order = np.argsort(t)
    return t[order], order


def node_spectrum(results: TicketFolder) -> Figure:
    """How often a coordinate of u takes each centred value, over the drawn nodes."""
    figure, axes = panel()
    t, order = _centred_axis(results.manifest["modulus"])
    curves = {name: results.showcase[name][order] for name in NODE_SPECTRA if name in results.showcase}
    lowest = 1e-5
    reach = [np.abs(t[curve > lowest]).max(initial=0) for name, curve in curves.items() if "un" not in name]
    window = min(int(max([8, *reach])) + 2, int(t[-1]))
    for name, curve in curves.items():
        label, colour = NODE_SPECTRA[name]
        shown = (np.abs(t) <= window) & (curve > lowest)
        line: dict[str, Any]
        if name == "filter_spectrum":
            line = {"linestyle": "none", "marker": "s", "markersize": 6, "markerfacecolor": "none"}
        else:
            line = {"linestyle": "-", "marker": "o", "markersize": 3}
        axes.plot(t[shown], curve[shown], color=colour, linewidth=1.5, label=label, **line)
    axes.set_yscale("log")
    axes.set_ylim(lowest, 2)
    decades(axes)
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.set_xlabel("one coordinate of u, centred")
    axes.set_title("Share of coordinates")
    legend(axes)
    return figure


def ridgelet_spectrum(results: TicketFolder) -> Figure:
    """|r^(v)|^2, the distribution from which each node's v is drawn; the activation in a corner."""
    figure, axes = panel()
    modulus = results.manifest["modulus"]
    spectrum = results.showcase["ridgelet_spectrum"]
    v = np.arange(1, min(modulus // 2, 32) + 1)
    weight = spectrum[v] + spectrum[-v] if modulus > 2 else spectrum[v]
    shown = weight > 1e-7
    bottom = max(float(weight[shown].min(initial=1)) / 3, 1e-7)
    axes.vlines(v[shown], min(bottom, 0.1), weight[shown], color=BLUE, linewidth=1.6, alpha=0.5)
    axes.plot(v[shown], weight[shown], "o", color=BLUE, markersize=4)
    axes.set_yscale("log")
    axes.set_ylim(min(bottom, 0.1), 4)
    axes.set_xlim(0, max(8, int(v[shown].max(initial=1)) + 1))
    decades(axes)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("harmonic |v|")
    axes.set_title("Weight of ±v in |r̂|²")
    if "activation" in results.showcase:
        t, order = _centred_axis(modulus)
        inset = axes.inset_axes((0.64, 0.7, 0.33, 0.27))
        inset.plot(t, results.showcase["activation"][order], color=INK, linewidth=1.3)
        inset.set(xticks=[], yticks=[])
        inset.spines["left"].set_visible(False)
        inset.set_xlabel("g on one period", fontsize=8.5, labelpad=3)
    return figure
