"""One self-contained report.html from the folder of `qrt-tn lottery`: no script, no request, prints well."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from qrt_tn.studies.report.html import (
    MISSING,
    details,
    figure,
    join,
    number,
    page,
    section,
    side_by_side,
    write_page,
)
from qrt_tn.studies.report.lottery import figures, level_panels, savings_panels, shallow_panels, tables
from qrt_tn.studies.report.lottery import paper as paper_figures
from qrt_tn.studies.report.lottery.folder import LotteryFolder, load
from qrt_tn.studies.report.lottery.headline import header, headline, matches
from qrt_tn.studies.report.lottery.training_panels import shown_until
from qrt_tn.studies.report.style import method_style
from qrt_tn.studies.report.tables import origin, timings, versions

YARDSTICK = "qrt-smoothed"  # what a second draw of QRT nodes overlaps with the first
PAPER = '<a href="https://arxiv.org/abs/1803.03635">arXiv:1803.03635</a>'


def write(folder: str | Path) -> Path:
    """Draw the figures of a lottery study's folder and write its report.html, replacing an older one whole.

    Args:
        folder: what `qrt-tn lottery` wrote: manifest.json, runs.parquet, curves.parquet and, where they
            were run, savings.parquet, shallow.parquet, overlap.parquet.

    Returns:
        The path of report.html.

    Raises:
        ValueError: no such folder, or a missing or malformed file in it.
    """
    results = load(folder)
    return write_page(results.path, render(results, figures.draw_all(folder)))


def render(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    """The page, from the results and the SVG files that `figures.draw_all` made of them."""
    sections = (
        header(results),
        headline(results),
        _training(results, drawn),
        _levels(results, drawn),
        _random(drawn),
        _controls(results, drawn),
        _paper(results),
        _shallow(results, drawn),
        _overlap(results, drawn),
        _savings(results, drawn),
        _reproduce(results),
    )
    return page(results.manifest["title"], sections, _RULES)


def _training(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    left = figure(
        drawn, "training-tickets", "Test accuracy along training: dense network, tickets of several levels.",
        "<b>Tickets along training.</b> Named by the share of weights left.",
    )  # fmt: skip
    right = figure(
        drawn, "training-fresh", "Test accuracy along training: tickets, and their masks with fresh weights.",
        "<b>The same masks, fresh weights.</b> Dashed: reinitialised.",
    )  # fmt: skip
    panels = side_by_side(left, right)
    if not panels:
        return ""
    end, whole = shown_until(results), results.curves["iteration"].max()
    cut = (
        f" Training goes on to iteration {whole:,.0f}; what follows {end:,.0f} is left out."
        if end < whole
        else ""
    )
    text = (
        f"Lines are means over the trials{_bands(results)}; a dot marks the mean early stop. The first rise "
        f"from chance is below the panels.{cut}"
    )
    return section("training", "Learning curves", f"<p>{text}</p>", panels)


def _bands(results: LotteryFolder) -> str:
    many = results.trials > 1 or results.runs["repeat"].max() > results.runs["repeat"].min()
    return ", shaded bands run from the smallest to the largest" if many else ""


def _levels(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    captions = {
        "early_iteration": "<b>How fast.</b> Lower is faster.",
        "early_test_accuracy": "<b>How well.</b> Accuracy where validation loss is smallest.",
        "final_test_accuracy": "<b>After all iterations.</b>",
        "final_train_loss": "<b>How well the training set is fitted.</b>",
    }
    panels = _level_panels(results, drawn, "levels", figures.PRUNED, captions)
    if not panels:
        return ""
    text = (
        "The more is pruned, the further right. The dashed line is the dense network; each ticket begins "
        f"with its {results.kept_values}, reinitialised ones draw fresh ones under the same mask. "
        f"Means over the trials{_bands(results)}. Accuracies are shown where they compare; lines that fall "
        "leave the panel."
    )
    return section("levels", "How far pruning goes", f"<p>{text}</p>", panels)


def _level_panels(
    results: LotteryFolder,
    drawn: dict[str, Path],
    group: str,
    methods: Sequence[str],
    captions: dict[str, str],
) -> str:
    shown = []
    for column, caption in captions.items():
        labels = [method_style(name).label for name in methods if results.points(name, column)]
        if labels:
            words = f"{level_panels.TITLES[column]} against the share of weights left: {join(labels)}."
            shown.append(figure(drawn, f"{group}-{column.replace('_', '-')}", words, caption))
    return side_by_side(*shown)


def _random(drawn: dict[str, Path]) -> str:
    words = "tickets and networks with random masks of equal sparsity, against the share of weights left."
    left = figure(
        drawn, "random-early-iteration", f"Iteration of early stop: {words}", "<b>Speed of learning.</b>"
    )
    right = figure(drawn, "random-early-test-accuracy", f"Test accuracy: {words}", "<b>Accuracy.</b>")
    panels = side_by_side(left, right)
    text = (
        "After the paper’s first figure, where networks with a random mask, as sparse as the ticket in every "
        "layer, learn slower and less well the sparser they are."
    )
    return section("random", "Tickets against random sparsity", f"<p>{text}</p>", panels) if panels else ""


def _controls(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    captions = {
        "early_iteration": "<b>Speed of learning.</b>",
        "early_test_accuracy": "<b>Accuracy at early stop.</b>",
    }
    if "controls-early-test-accuracy" not in drawn:
        return ""
    panels = _level_panels(results, drawn, "controls", figures.CONTROLS, captions)
    about = {
        "magnitude-init": "<i>Small at the start</i> prunes the smallest initial weights",
        "snip": "<i>SNIP</i> those whose loss would change least, on one batch",
        "synflow": "<i>SynFlow</i> those on the weakest paths, without any data",
        "sign-reinit": "<i>only signs kept</i> takes the ticket’s mask and signs with fresh magnitudes",
    }
    said = [words for name, words in about.items() if name in results.methods()]
    text = f"Masks that cost no training, and the ticket with a part of it taken away. {'; '.join(said)}."
    return section("controls", "Pruned before training, and other controls", f"<p>{text}</p>", panels)


def _paper(results: LotteryFolder) -> str:
    text = f"Frankle and Carbin, <i>The lottery ticket hypothesis</i> (ICLR 2019, {PAPER}), and this run."
    return section(
        "paper", "The paper’s figures and ours", f"<p>{text}</p>", paper_figures.comparison(results)
    )


def _shallow(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    words = {
        "shallow-accuracy": ("Test accuracy against parameters", "<b>Accuracy at equal size.</b>"),
        "shallow-risk": ("Test risk against parameters", "<b>Risk at equal size.</b> Lower is better."),
        "shallow-flops": (
            "Test accuracy against operations",
            "<b>Accuracy at equal work.</b> Counted: states, sampling, fitting, every round of training.",
        ),
        "shallow-seconds": (
            "Test accuracy against wall time",
            "<b>Accuracy at equal wall time.</b> Of this machine.",
        ),
    }
    labels = list(dict.fromkeys(method_style(size.method).label for size in shallow_panels.sizes(results)))
    panels = side_by_side(
        *(
            figure(drawn, name, f"{title}: {join(labels)}.", caption)
            for name, (title, caption) in words.items()
            if labels
        )
    )
    if not panels:
        return ""
    text = (
        "Hidden nodes drawn before training against what pruning leaves of a wide shallow network. Each line "
        "follows one method from few nodes to many; each network is trained in the way that validates best, "
        "medians and ranges over the seeds. Accuracy is logarithmic in the error."
    )
    listed = details("Shallow networks", "by method and node count", tables.shallow(results))
    return section(
        "shallow", "Drawn against pruned", f"<p>{text}</p>", _best_shallow(results), panels, listed
    )


def _best_shallow(results: LotteryFolder) -> str:
    """One sentence: the method that validates best of those drawn, and of those pruned."""
    found = []
    for pruned in (False, True):
        own = [
            size
            for size in shallow_panels.sizes(results)
            if size.method.startswith("imp-") == pruned and size.median("validation_accuracy") >= 0
        ]
        if own:
            highest = max(size.median("validation_accuracy") for size in own)
            who = "Of those pruned" if pruned else "Of the networks with drawn nodes"
            best = [
                f"“{escape(method_style(size.method).label)}” with {number(size.nodes)} nodes (test accuracy "
                f"{number(size.median('test_accuracy'), 3)}, {number(round(size.median('parameters')))} "
                "parameters)"
                for size in own
                if size.median("validation_accuracy") == highest
            ]
            found.append(f"{who}, best on the validation points: {join(best)}.")
    return f"<p>{' '.join(found)}</p>" if found else ""


def _overlap(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    shown: list[str] = []
    yardstick, pruned = Counter[int](), Counter[int]()
    for k, measure in enumerate(shallow_panels.overlap_measures(results)):
        rows = shallow_panels.overlaps(results, measure)
        sides = Counter(side for row in rows if row.group != YARDSTICK for side in row.sides)
        yardstick += Counter(side for row in rows if row.group == YARDSTICK for side in row.sides)
        pruned += sides
        words = f"{measure}: {sides[1]} of {sides.total()} above the null, {sides[-1]} below."
        shown.append(figure(drawn, f"overlap-{k + 1}", words, escape(words[:1].upper() + words[1:])))
    panels = side_by_side(*shown)
    if not panels:
        return ""
    text = (
        "Do the weights that survive pruning point where the QRT’s nodes point? A dot is what was measured, "
        "the grey bar what random subsets of the same wide network give (a filled dot lies outside it). "
        f"Of {pruned.total()} comparisons of what pruning leaves, one a seed, {pruned[1]} lie above the "
        f"range of their own null and {pruned[-1]} below."
    )
    if yardstick:
        text += (
            f" A second draw of QRT nodes itself lies above in {yardstick[1]} of {yardstick.total()}: so "
            "much could be expected where the two agree."
        )
    return section("overlap", "Does pruning find the nodes that the QRT draws?", f"<p>{text}</p>", panels)


def _savings(results: LotteryFolder, drawn: dict[str, Path]) -> str:
    batches = savings_panels.batches(results)
    if not batches:
        return ""
    batch = number(batches[-1])
    panels = side_by_side(
        figure(
            drawn, "savings-files", "Bytes of files by kind, relative to dense.",
            "<b>Files.</b> A mask takes a bit a weight, an index 32 a surviving one.",
        ),
        figure(drawn, "savings-memory", "Bytes in memory by form, relative to dense.", "<b>Memory.</b>"),
        figure(drawn, "savings-flops", "Operations by form, relative to dense.", "<b>Operations.</b>"),
        figure(
            drawn, "savings-seconds", f"Time of a batch of {batch} by form, relative to dense.",
            f"<b>Time of a batch of {batch}.</b> Measured on this machine.",
        ),
        figure(
            drawn, "savings-seconds-small", f"Time of a batch of {batches[0]} by form, relative to dense.",
            f"<b>Time of a batch of {number(batches[0])}.</b> Measured likewise.",
        ),
    )  # fmt: skip
    levels = {cost.level for cost in savings_panels.costs(results)}
    chosen = next((match.level for match in reversed(matches(results)) if match.level in levels), max(levels))
    share = next(cost.remaining for cost in savings_panels.costs(results) if cost.level == chosen)
    return section(
        "savings",
        "What pruning really saves",
        f"<p>A mask alone saves nothing. {_saved(results, chosen, share)}</p>",
        panels,
        f"<h3>With {100 * share:.3g} % of the weights left</h3>",
        tables.savings(results, chosen),
        details("Bytes, operations and times", "every level", tables.savings(results))
        if len(levels) > 1
        else "",
        details("Files", "bytes at every level", tables.files(results)),
    )


def _saved(results: LotteryFolder, level: int, share: float) -> str:
    """The smallest file and the fastest form at one level, in a sentence each."""
    batch = savings_panels.batches(results)[-1]
    own = [
        cost
        for cost in savings_panels.costs(results)
        if (cost.level, cost.batch) == (level, batch) and cost.form != savings_panels.DENSE
    ]
    said = []
    sizes = {name: size for name, size in savings_panels.file_ratios(results, level).items() if size > 0}
    if sizes:
        best_file = min(sizes, key=lambda name: sizes[name])
        said.append(
            f"With {100 * share:.3g} % of the weights the smallest file, {escape(best_file)}, takes "
            f"{sizes[best_file]:.2g} × the bytes of the dense one."
        )
    fast = [cost for cost in own if cost.relative["seconds"] > 0]
    if fast:
        best = min(fast, key=lambda cost: cost.relative["seconds"])
        ratio = best.relative["seconds"]
        noise = savings_panels.timing_noise(results, batch)
        if ratio < 1 - max(noise, 0.05):
            said.append(f"The fastest form, {escape(best.form)}, takes {ratio:.2g} × the time of a batch.")
        else:
            said.append(
                f"No form is faster than the dense network beyond the noise of these timings ({noise:.0%}): "
                f"the best, {escape(best.form)}, takes {ratio:.2g} × its time."
            )
    return " ".join(said)


def _reproduce(results: LotteryFolder) -> str:
    manifest = results.manifest
    networks = number(len(results.runs["level"]))
    return section(
        "reproduce",
        "How it was run",
        f"<pre>{escape(manifest['command'])}</pre>",
        origin(manifest),
        details("Settings", "of the networks and their training", _settings(results)),
        timings(manifest.get("timings") or {}, manifest.get("seconds")),
        "<h3>All numbers</h3>",
        '<p class="note">Also in runs.parquet and curves.parquet; the figures are SVG files in figures/.</p>',
        details("Levels", f"every method, {networks} networks", tables.levels(results)),
        details("Layers", "weights left in each", tables.layers(results)),
        details("Versions", "of what ran", versions(manifest.get("versions") or {})),
    )


def _settings(results: LotteryFolder) -> str:
    """The preset and its recipe as they were given."""
    preset = results.manifest["preset"]
    entries = {name: value for name, value in preset.items() if name != "recipe"} | preset["recipe"]
    return versions({name.replace("_", " "): _said(value) for name, value in entries.items()})


def _said(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


# What this page adds to the style sheet that all reports share.
_RULES = """
.kicker,.tile .big,.tile b{color:var(--imp)}
.share{height:.55rem;border-radius:3px;background:var(--rule);margin:.55rem 0 .7rem;overflow:hidden}
.share div{height:100%;background:var(--imp)}
.checks{list-style:none;padding:0;margin:.8rem 0 0;font:.875rem/1.5 system-ui,-apple-system,"Segoe UI",
  Roboto,"Helvetica Neue",Arial,sans-serif}
.checks li{margin:0;display:flex;gap:.55rem}
.checks i{font-style:normal;font-weight:700;width:1em;text-align:center}
.held i{color:var(--random-features)}.failed i{color:var(--filter)}.unknown{color:var(--muted)}
#paper td{white-space:normal}#paper td:first-child{min-width:8.5rem}
"""
