"""Panels drawn to SVG files, the same bytes for the same panels."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from qrt_tn.engine.files import atomic_path
from qrt_tn.studies.report.style import FIGURE_SETTINGS

# Names come from files; a dollar sign in one is no formula.
SETTINGS = FIGURE_SETTINGS | {"text.parse_math": False}


def draw_panels(place: Path, panels: Iterable[tuple[str, Figure | None]]) -> dict[str, Path]:
    """Draw panels, each to a file of its name, with no date and no random ids.

    Args:
        place: the folder, made if it is not there.
        panels: names and figures, made as they are drawn, so that all have one style; None is left out.

    Returns:
        The files by name, in the order of the panels.
    """
    place.mkdir(exist_ok=True)
    paths = {}
    with matplotlib.rc_context(SETTINGS):
        for name, figure in panels:
            if figure is not None:
                paths[name] = place / f"{name}.svg"
                with atomic_path(paths[name]) as partial:
                    FigureCanvasSVG(figure).print_svg(partial, metadata={"Date": None, "Creator": None})
    for old in place.glob("*.svg"):
        if old not in paths.values():
            old.unlink()  # of an earlier report that had more
    return paths
