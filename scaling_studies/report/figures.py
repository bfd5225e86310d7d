"""The figures of a ticket report: one small SVG file a panel, to be set side by side or stacked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from qrt_tn.studies.experiments.ticket.settings import NODELESS
from qrt_tn.studies.report import node_panels, score_panels, state_panels
from qrt_tn.studies.report.drawing import draw_panels
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.style import METHODS


def draw_all(results: TicketFolder) -> dict[str, Path]:
    """Draw every figure that a folder's results allow, into its subfolder figures/.

    The same folder gives the same bytes: no date, no random ids.

    Args:
        results: what `qrt-tn ticket` wrote, loaded.

    Returns:
        The SVG files by figure name, in the order of the report.
    """
    return draw_panels(results.path / "figures", _panels(results))


def _panels(results: TicketFolder) -> Iterator[tuple[str, Figure]]:
    """Name and figure of every panel for which there are numbers; one node count makes no curve."""
    levels = {
        method: float(np.mean(list(errors.values())))
        for method in NODELESS
        if (errors := results.values(method, "fitted", None, "error"))
    }
    for training in ("fitted", "trained"):
        bands = results.bands(METHODS, training, "error")
        if any(len(band.nodes) > 1 for band in bands.values()):
            yield f"scores-{training}", score_panels.scores(results, bands, training, levels)
    for k in range(len(results.showcase["b"])):
        yield f"node-{k + 1:02d}", node_panels.node(results, k)
    if any(name in results.showcase for name in node_panels.SPECTRA):
        yield "node-spectrum", node_panels.node_spectrum(results)
    states = results.manifest.get("states") or []
    if any(len(state.get("bond_dimensions") or []) > 1 for state in states):
        yield "bond-dimensions", state_panels.bond_dimensions(results)
        if any(state.get("schmidt_values") for state in states):
            yield "schmidt-values", state_panels.schmidt_values(results)
        if any(state.get("schmidt_spectra") for state in states):
            yield "schmidt-spectra", state_panels.schmidt_spectra(results)
