"""The figures of a lottery report: one small SVG file a panel."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from qrt_tn.studies.report.drawing import draw_panels
from qrt_tn.studies.report.lottery import level_panels, savings_panels, shallow_panels, training_panels
from qrt_tn.studies.report.lottery.folder import LotteryFolder, load

PRUNED = ("imp", "reinit", "oneshot", "oneshot-reinit")
RANDOM = ("imp", "random")
CONTROLS = ("imp", "random", "magnitude-init", "snip", "synflow", "sign-reinit")


def draw_all(folder: str | Path) -> dict[str, Path]:
    """Draw every figure that the folder's results allow, into its subfolder figures/.

    The same folder gives the same bytes: no date, no random ids.

    Args:
        folder: what `qrt-tn lottery` wrote.

    Returns:
        The SVG files by figure name, in the order of the report.

    Raises:
        ValueError: no such folder, or a missing or malformed file in it.
    """
    results = load(folder)
    return draw_panels(results.path / "figures", _panels(results))


def has(results: LotteryFolder, methods: tuple[str, ...]) -> bool:
    """Whether any of the methods but the tickets themselves was run."""
    return bool(set(results.methods()) & set(methods) - {"imp"})


def _panels(results: LotteryFolder) -> Iterator[tuple[str, Figure | None]]:
    """Name and figure of every panel; None where there are no numbers for it."""
    yield "training-tickets", training_panels.tickets(results)
    yield "training-fresh", training_panels.against_fresh(results)
    for column in level_panels.TITLES:
        yield f"levels-{column.replace('_', '-')}", level_panels.levels(results, PRUNED, column)
    for group, methods in (("random", RANDOM), ("controls", CONTROLS)):
        # beside the random masks alone, controls would be the same panel twice
        if has(results, methods) and (group == "random" or has(results, CONTROLS[2:])):
            for column in ("early_iteration", "early_test_accuracy"):
                yield f"{group}-{column.replace('_', '-')}", level_panels.levels(results, methods, column)
    yield "shallow-accuracy", shallow_panels.scores(results, "parameters", "test_accuracy")
    yield "shallow-risk", shallow_panels.scores(results, "parameters", "test_risk")
    yield "shallow-flops", shallow_panels.scores(results, "flops", "test_accuracy")
    yield "shallow-seconds", shallow_panels.scores(results, "seconds", "test_accuracy")
    for k, measure in enumerate(shallow_panels.overlap_measures(results)):
        yield f"overlap-{k + 1}", shallow_panels.overlap(results, measure)
    yield "savings-files", savings_panels.files(results)
    batches = savings_panels.batches(results)
    if batches:
        yield "savings-memory", savings_panels.against_share(results, "memory_bytes", batches[-1])
        yield "savings-flops", savings_panels.against_share(results, "flops", batches[-1])
        yield "savings-seconds", savings_panels.against_share(results, "seconds", batches[-1])
    if len(batches) > 1:
        yield "savings-seconds-small", savings_panels.against_share(results, "seconds", batches[0])
