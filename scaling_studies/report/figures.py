"""The figures of a ticket report: one small SVG file a panel, to be set side by side or stacked."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from qrt_tn.studies.report import node_panels, score_panels, state_panels
from qrt_tn.studies.report.drawing import draw_panels
from qrt_tn.studies.report.folder import TicketFolder, load
from qrt_tn.studies.report.style import BROAD_METHODS, MAIN_METHODS


def draw_all(folder: str | Path) -> dict[str, Path]:
    """Draw every figure that the folder's results allow, into its subfolder figures/.

    The same folder gives the same bytes: no date, no random ids.

    Args:
        folder: what `qrt-tn ticket` wrote.

    Returns:
        The SVG files by figure name, in the order of the report.

    Raises:
        ValueError: no such folder, or a missing or malformed file in it.
    """
    results = load(folder)
    return draw_panels(results.path / "figures", _panels(results))


def _panels(results: TicketFolder) -> Iterator[tuple[str, Figure]]:
    """Name and figure of every panel for which there are numbers."""
    for kind in ("accuracy", "risk"):
        for training in ("fitted", "trained"):
            bands = results.bands(MAIN_METHODS, training, f"test_{kind}")
            if bands:
                yield (
                    f"{kind}-{training}",
                    score_panels.scores(results, bands, training, f"test_{kind}"),
                )
    yield from _broad_panels(results)
    for k in range(len(results.showcase["b"])):
        yield f"node-{k + 1:02d}", node_panels.node(results, k)
    if any(name in results.showcase for name in node_panels.NODE_SPECTRA):
        yield "node-spectrum", node_panels.node_spectrum(results)
    if "ridgelet_spectrum" in results.showcase:
        yield "ridgelet-spectrum", node_panels.ridgelet_spectrum(results)
    states = results.manifest.get("states") or []
    if any(state.get("bond_dimensions") for state in states):
        yield "bond-dimensions", state_panels.bond_dimensions(results)
    if any(state.get("schmidt_values") for state in states):
        yield "schmidt-values", state_panels.schmidt_values(results)
    if any(state.get("schmidt_spectra") for state in states):
        yield "schmidt-spectra", state_panels.schmidt_spectra(results)


def _broad_panels(results: TicketFolder) -> Iterator[tuple[str, Figure]]:
    score = results.score("test")
    for training in ("fitted", "trained"):
        gain = results.gain(*BROAD_METHODS, training, score)
        if gain is not None:
            bands = results.bands(BROAD_METHODS, training, score)
            yield f"broad-{training}", score_panels.scores(results, bands, training, score)
            yield f"broad-gain-{training}", score_panels.gain(results, gain)
            return  # one way of training answers the question; the tables have both
