"""One self-contained report.html from the folder of `qrt-tn moe study`: no script, and it prints well."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from qrt_tn.studies.report.html import (
    MISSING,
    details,
    figure,
    number,
    page,
    section,
    side_by_side,
    write_page,
)
from qrt_tn.studies.report.moe import figures, ridgelet_panels, savings_panels, tables, theory_panels
from qrt_tn.studies.report.moe.comparison import ACCURACY, FINETUNED, Cell, best_overall, cells, panels_of
from qrt_tn.studies.report.moe.folder import MoeFolder, load
from qrt_tn.studies.report.moe.headline import DATA_KEYS, header, headline
from qrt_tn.studies.report.moe.names import CRITERIA, MERGE, MODES, router_name, upper
from qrt_tn.studies.report.tables import origin, timings, versions

PAPER = '<a href="https://arxiv.org/abs/2405.16646">arXiv:2405.16646</a>'
# What the manifest says elsewhere on the page, or what is no setting.
_TOLD = {"title", "command", "notes", "timings", "seconds", "versions", "machine", "date", "commit"}
_TOLD |= {*DATA_KEYS, "theory", "settings"}


def write(folder: str | Path) -> Path:
    """Draw the figures of a mixture-of-experts study's folder and write its report.html, whole.

    Args:
        folder: what `qrt-tn moe study` wrote: manifest.json, networks.parquet, pruned.parquet and, where
            they were run, savings.parquet, theory_*.parquet and ridgelet_*.parquet.

    Returns:
        The path of report.html.

    Raises:
        ValueError: no such folder, or a missing or malformed file in it.
    """
    results = load(folder)
    return write_page(results.path, render(results, figures.draw_all(folder)))


def render(results: MoeFolder, drawn: dict[str, Path]) -> str:
    """The page, from the results and the SVG files that `figures.draw_all` made of them."""
    sections = (
        header(results),
        headline(results),
        _accuracy(results, drawn),
        _finetuned(results, drawn),
        _ranking(results, drawn),
        _savings(results, drawn),
        _theory(results, drawn),
        _ridgelets(results, drawn),
        _not_shown(results),
        _reproduce(results),
    )
    return page(results.manifest["title"], sections, _RULES)


def _accuracy(results: MoeFolder, drawn: dict[str, Path]) -> str:
    text = (
        "Lines are medians over the seeds. Coloured: <span class=change>router change</span>, "
        "<span class=drawn>random</span> with every draw as a thin line, and <span class=best>the criterion "
        "that is best</span> on average in the panel; their bands run from the smallest to the largest. "
        "Muted lines look at routers (solid), expert weights (dashed) or calibration tokens (dotted). "
        "The dashed line across is the unpruned network."
    )
    if any(row["mode"] == MERGE for row in results.pruned):
        text += (
            " Merging leaves as many experts, and is drawn in each panel beside the ways of dropping them."
        )
    return section(
        "accuracy",
        "Accuracy against experts pruned",
        f"<p>{text}</p>",
        *_panels(results, drawn, ACCURACY, "accuracy"),
        details("All accuracies", "every mode, number and criterion", _all_accuracies(results)),
    )


def _panels(results: MoeFolder, drawn: dict[str, Path], column: str, name: str) -> list[str]:
    """The panels of each router kind under its name."""
    by_router: dict[str, list[str]] = {}
    for (router, mode), group in panels_of(cells(results, column)).items():
        called = upper(escape(MODES.get(mode, mode)))
        caption = f"<b>{called}.</b> {upper(escape(router_name(router)))}. {_best_of(group)}"
        words = (
            f"Accuracy against experts pruned, {router_name(router)}, {MODES.get(mode, mode)}: "
            f"{len(group[0].accuracies)} criteria and random."
        )
        by_router.setdefault(router, []).append(figure(drawn, f"{name}-{router}-{mode}", words, caption))
    if all(len(panels) == 1 for panels in by_router.values()):
        return [side_by_side(*(panel for panels in by_router.values() for panel in panels))] * bool(by_router)
    shown = []
    for router, panels in by_router.items():
        shown += [f"<h3>{upper(escape(router_name(router)))}</h3>", side_by_side(*panels)]
    return shown


def _best_of(group: list[Cell]) -> str:
    best = best_overall(group)
    return "" if best is None else f"Best on average: {escape(CRITERIA.get(best, best))}."


def _all_accuracies(results: MoeFolder) -> str:
    shown = ""
    for router in results.routers:
        listed = tables.accuracies(results, router)
        if listed:
            shown += f"<h3>{upper(escape(router_name(router)))}</h3>\n{listed}"
    return shown


def _finetuned(results: MoeFolder, drawn: dict[str, Path]) -> str:
    panels = _panels(results, drawn, FINETUNED, "finetuned")
    if not panels:
        return ""
    text = (
        "The pruned networks, trained on for a while. Only those that the study fine-tuned are shown; the "
        "dashed line is the unpruned network, which was not trained on."
    )
    return section("finetuned", "After fine-tuning what is left", f"<p>{text}</p>", *panels)


def _ranking(results: MoeFolder, drawn: dict[str, Path]) -> str:
    listed = tables.best(results)
    shown: list[str] = []
    seen: set[str] = set()
    for (router, mode), group in panels_of(cells(results)).items():
        panels = side_by_side(
            *(
                figure(
                    drawn,
                    f"ranking-{router}-{mode}-{cell.pruned}",
                    f"Criteria by paired difference from random, {router_name(router)}, {mode}, "
                    f"{cell.pruned} pruned; first: {', '.join(cell.best()) or 'none above random'}.",
                    f"<b>{cell.pruned} pruned.</b> Above random in median: "
                    f"{sum(pair.median > 1e-9 for pair in cell.differences.values())} of "
                    f"{len(cell.differences)} criteria.",
                )
                for cell in group
            )
        )
        title = f"{upper(escape(router_name(router)))}, {escape(MODES.get(mode, mode))}"
        # the first mode of a router kind is shown at once
        first = router not in seen
        seen.add(router)
        if panels:
            aside = f"{len(group)} numbers of experts"
            shown.append(f"<h3>{title}</h3>\n{panels}" if first else details(title, aside, panels))
    if not shown:
        return ""
    text = (
        "A dot is the median over the seeds of the difference between a criterion and the mean of the random "
        "draws on the same network, a bar the whole range, a tick a seed. The grey band is how far single "
        "random draws lie from their own mean: less than that is no more than luck in one draw. With many "
        "criteria the first of them is partly the luckiest."
    )
    best = details("The best criterion", "and the place of router change, in every cell", listed)
    return section("ranking", "Criteria ranked", f"<p>{text}</p>", *shown, best)


def _savings(results: MoeFolder, drawn: dict[str, Path]) -> str:
    captions = {
        "latency": "<b>Time.</b> Measured in pairs with the unpruned network, on this machine.",
        "bytes": "<b>Bytes.</b> Of all parameters.",
        "flops": "<b>Operations.</b> Counted for one image.",
    }
    shown = []
    for router in savings_panels.routers(results):
        panels = side_by_side(
            *(
                figure(
                    drawn,
                    f"savings-{router}-{quantity}",
                    f"{savings_panels.QUANTITIES[quantity]}, against experts pruned, {router_name(router)}.",
                    caption,
                )
                for quantity, caption in captions.items()
            )
        )
        if panels:
            shown += [f"<h3>{upper(escape(router_name(router)))}</h3>", panels]
    listed = tables.savings(results)
    if not listed:
        return ""
    text = (
        "A network of random weights whose experts dominate, with experts really taken out. Bands of time "
        "run over the rounds of timing, from the 10th to the 90th percentile."
    )
    if len({row.get("experts") for row in results.savings}) > 1:
        text += " Numbers behind the names of lines are experts of a layer."
    return section("savings", "What pruning saves", f"<p>{text}</p>", *shown, listed)


def _theory(results: MoeFolder, drawn: dict[str, Path]) -> str:
    panels = [
        figure(
            drawn,
            "theory-scaling",
            "Change of router norms against the dimension, both logarithmic: relevant experts and others.",
            "<b>Change against dimension.</b> Medians and ranges over seeds; dotted: the predicted bound.",
        )
    ]
    for steps in theory_panels.steps(results):
        after = f"{steps} steps of fine-tuning after it" if steps else "no fine-tuning after it"
        panels.append(
            figure(
                drawn,
                f"theory-pruning-{steps}",
                f"Accuracy of the theory’s model against the share of experts pruned, {after}.",
                f"<b>Pruned, with {after}.</b> Vertical: the predicted limit{'s' if steps else ''}.",
            )
        )
    shown = side_by_side(*panels)
    if not shown:
        return ""
    given = theory_panels.limits(results)
    said = [f"{name} {given[key]:.3g}" for key, name in _LIMITS.items() if key in given]
    about = (
        "After Chowdhury et al. "
        f"(ICML 2024, {PAPER}): in their model of two layers, experts that learn what tells the "
        "classes apart change their routers by order 1, others by O(1/√d) at most. A bound allows "
        "what falls faster. The set-up follows the paper’s from memory, unverified; its sizes and rates are "
        "ours." + (f" Predicted limits of the pruned share: {', '.join(said)}." if said else "")
    )
    return section(
        "theory",
        "The theory, replicated",
        f"<p>{about}</p>",
        shown,
        tables.exponents(results),
        details("Accuracy of the theory’s model", "by order, steps and ratio", tables.theory(results)),
    )


_LIMITS = {
    "without": "without fine-tuning γ =",
    "with": "with it 1 − 2/k =",
    "both_signs": "relevant experts of both signs left whatever their order up to",
}


def _ridgelets(results: MoeFolder, drawn: dict[str, Path]) -> str:
    forest = figure(
        drawn,
        "ridgelets-forest",
        "Rank correlations of ridgelet mass with router change, with 95 % bands.",
        "<b>Rank correlations.</b> A filled dot has a band that leaves 0 out.",
    )
    thumbnails = [
        figure(
            drawn,
            f"ridgelets-{place + 1}",
            f"Router change against ridgelet mass: {init}, {measure}.",
            f"{escape(init)}, {escape(measure)}",
        )
        for place, (init, measure) in enumerate(ridgelet_panels.pairs(results))
    ]
    dots = "\n".join(shown for shown in thumbnails if shown)
    parts = [
        side_by_side(forest),
        tables.correlations(results.ridgelet_correlation),
        details(
            "Controls that are no mass",
            "how many points choose an expert",
            tables.correlations(results.ridgelet_controls),
        ),
        f'<h3>Change (upwards) against mass</h3>\n<div class="nodes">\n{dots}\n</div>' if dots else "",
        details("Accuracy of the initialisations", "medians and ranges", tables.ridgelet_accuracies(results)),
    ]
    if not any(parts):
        return ""
    text = (
        "A mixture of ridge networks whose hidden nodes are drawn before training. Does an expert’s ridgelet "
        "mass, known before training, tell how far its router will grow, and so whether router change keeps "
        "it? Correlations are means over the seeds of those within a seed; with few seeds the bands, "
        "bootstrapped over them, are too narrow. A dot of the small panels is one expert of one seed."
    )
    return section("ridgelets", "Ridgelet mass and what is kept", f"<p>{text}</p>", *parts)


def _not_shown(results: MoeFolder) -> str:
    largest = max(int(row["parameters"]) for row in results.networks)
    seeds = f"{results.seeds} seed{'s' if results.seeds > 1 else ''}"
    points = [
        f"Networks here have up to {number(largest)} parameters and are trained on small sets of small "
        "images. Nothing follows for models of hundreds of millions of parameters, or for language models.",
        f"With {seeds} a range says what was seen, not what another seed would give. Cells share "
        "networks, so they are not independent either: ten cells won are not ten experiments.",
        "The best of many criteria is in part the luckiest one: it is found on the test images that it is "
        "shown on.",
        "The first author’s own figure (read off it, within about one point) does not favour router change "
        "everywhere: on ImageNet it scores 54.5 against 61.5 % for importance scoring with 4 of 8 experts "
        "pruned in each encoder, and 38.5 against 47 % with 6. With 2 it is ahead, and on CIFAR-10 and "
        "CIFAR-100 never behind. Whether the figure includes fine-tuning after pruning is not said.",
    ]
    items = "".join(f"<li>{point}</li>\n" for point in points)
    notes = "".join(f"<li>{escape(str(note))}</li>\n" for note in results.manifest.get("notes") or [])
    return section(
        "limits",
        "What this does not show",
        f"<ul>{items}</ul>",
        f"<h3>Notes of the run</h3>\n<ul>{notes}</ul>" if notes else "",
    )


def _reproduce(results: MoeFolder) -> str:
    manifest = results.manifest
    settings = _flat(manifest.get("settings") or {})
    settings |= _flat({name: value for name, value in manifest.items() if name not in _TOLD})
    given = _flat({name: value for name, value in (manifest.get("theory") or {}).items() if name != "limits"})
    files = ", ".join(sorted(path.name for path in results.path.glob("*.parquet")))
    return section(
        "reproduce",
        "How it was run",
        f"<pre>{escape(manifest['command'])}</pre>",
        origin(manifest),
        tables.networks(results),
        details("Settings", "of the networks, their training and pruning", versions(settings)),
        details("Settings of the theory", "and what was fitted in the run", versions(given)),
        timings(manifest.get("timings") or {}, manifest.get("seconds")),
        f'<p class="note">All numbers are in {escape(files)}; the figures are SVG files in figures/.</p>',
        details("Versions", "of what ran", versions(manifest.get("versions") or {})),
    )


def _flat(entries: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings in settings, by their names in a row."""
    found: dict[str, str] = {}
    for name, value in entries.items():
        path = f"{before}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}, ")
        else:
            found[path] = _said(value)
    return found


def _said(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    return str(value)


# What this page adds to the style sheet that all reports share.
_RULES = """
.kicker,.tile .big{color:var(--imp)}
.change{color:var(--imp);font-weight:600}.drawn{color:var(--random);font-weight:600}
.best{color:var(--random-features);font-weight:600}
.tile i{font-style:normal}.held{color:var(--random-features)}.failed{color:var(--filter)}
.unknown{color:var(--muted)}
#limits li{max-width:42rem}#headline ul{margin-top:1.2rem}
details .figures{margin-top:.8rem}.figures figure:only-child{max-width:36rem}
"""
