"""The figures of a mixture-of-experts report: one small SVG file a panel."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from qrt_tn.studies.report.drawing import draw_panels
from qrt_tn.studies.report.moe import accuracy_panels, ridgelet_panels, savings_panels, theory_panels
from qrt_tn.studies.report.moe.comparison import ACCURACY, FINETUNED, cells, panels_of
from qrt_tn.studies.report.moe.folder import MoeFolder, load


def draw_all(folder: str | Path) -> dict[str, Path]:
    """Draw every figure that the folder's results allow, into its subfolder figures/.

    The same folder gives the same bytes: no date, no random ids.

    Args:
        folder: what `qrt-tn moe study` wrote.

    Returns:
        The SVG files by figure name, in the order of the report.

    Raises:
        ValueError: no such folder, or a missing or malformed file in it.
    """
    results = load(folder)
    return draw_panels(results.path / "figures", _panels(results))


def _panels(results: MoeFolder) -> Iterator[tuple[str, Figure | None]]:
    """Name and figure of every panel; None where there are no numbers for it."""
    for column, name in ((ACCURACY, "accuracy"), (FINETUNED, "finetuned")):
        for (router, mode), group in panels_of(cells(results, column)).items():
            yield f"{name}-{router}-{mode}", accuracy_panels.against_pruned(results, group, column)
    for cell in cells(results):
        yield f"ranking-{cell.router}-{cell.mode}-{cell.pruned}", accuracy_panels.ranking(cell)
    for router in savings_panels.routers(results):
        for quantity in savings_panels.QUANTITIES:
            yield f"savings-{router}-{quantity}", savings_panels.against_pruned(results, router, quantity)
    yield "theory-scaling", theory_panels.scaling(results)
    for steps in theory_panels.steps(results):
        yield f"theory-pruning-{steps}", theory_panels.pruning(results, steps)
    yield "ridgelets-forest", ridgelet_panels.forest(results)
    for place, (init, measure) in enumerate(ridgelet_panels.pairs(results)):
        yield f"ridgelets-{place + 1}", ridgelet_panels.scatter(results, init, measure)
