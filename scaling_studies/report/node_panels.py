"""Panels of what was drawn and where it came from: single nodes, spectra, and the state that gave them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from qrt_tn.field import centred
from scaling_studies.report.folder import TicketFolder
from scaling_studies.report.style import INK, METHODS, MUTED, NEGATIVE, PAPER, POSITIVE, RULE, panel, plain

NODE_SPECTRA = {
    "node_spectrum_unsmoothed": ("QRT, unsmoothed", METHODS["qrt-unsmoothed"].colour),
    "filter_spectrum": ("filter τ², exact", METHODS["filter"].colour),
    "node_spectrum_smoothed": ("QRT, smoothed", METHODS["qrt-smoothed"].colour),
}
BLUE = METHODS["qrt-smoothed"].colour
OTHER_WIDTHS = (METHODS["qrt-importance"].colour, METHODS["uniform"].colour)


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
    _decades(axes)
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.set_xlabel("one coordinate of u, centred")
    axes.set_title("Share of coordinates")
    _legend(axes)
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
    _decades(axes)
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
    _legend(axes)
    return figure


def schmidt_values(results: TicketFolder) -> Figure:
    """Schmidt values across the half cut, the largest of each state set to 1."""

    def draw(axes: Axes, state: dict[str, Any], **line: Any) -> None:
        values = np.sort(np.asarray(state["schmidt_values"], dtype=np.float64))[::-1]
        values = values[values > 1e-6 * values[:1]]  # beyond lies the rounding of truncated bonds
        axes.plot(np.arange(1, len(values) + 1), values / values[:1], marker=".", markersize=4, **line)

    figure, axes = _of_states(results, "schmidt_values", draw)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rank k")
    axes.set_title("Schmidt values σₖ / σ₁ at the half cut")
    _legend(axes)
    return figure


def _of_states(results: TicketFolder, key: str, draw: Callable[..., None]) -> tuple[Figure, Axes]:
    """One thin line a seed, one colour and legend entry a smoothing width; the ticket's own width is blue."""
    figure, axes = panel()
    own = results.manifest.get("smoothing")
    states = [state for state in results.manifest["states"] if state.get(key)]
    widths = list(dict.fromkeys(state.get("smoothing") for state in states))
    others = [width for width in widths if width != own]
    for width in widths:
        colour = BLUE if width == own else OTHER_WIDTHS[others.index(width) % len(OTHER_WIDTHS)]
        label: str | None = "unsmoothed" if width is None else f"w = {width:g}"
        for state in states:
            if state.get("smoothing") == width:
                draw(axes, state, color=colour, linewidth=1.1, alpha=0.85, label=label)
                label = None
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure, axes


def _decades(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="best", fontsize=9, labelcolor="linecolor", handlelength=1.3, borderpad=0.3)
        legend.get_frame().set(facecolor=PAPER, edgecolor="none", alpha=0.85)
