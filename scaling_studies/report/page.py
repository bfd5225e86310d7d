"""One self-contained report.html from the folder of `qrt-tn ticket`: no script, no request, prints well."""

from html import escape
from pathlib import Path

import numpy as np

from qrt_tn.field import centred
from qrt_tn.studies.experiments.ticket.settings import NODELESS
from qrt_tn.studies.report import figures, tables
from qrt_tn.studies.report.comparison import label
from qrt_tn.studies.report.folder import TicketFolder, load
from qrt_tn.studies.report.headline import header, headline
from qrt_tn.studies.report.html import (
    details,
    figure,
    number,
    page,
    section,
    side_by_side,
    write_page,
)
from qrt_tn.studies.report.style import METHODS, training_name

DEQUANTISED = '<a href="https://arxiv.org/abs/2605.13979">arXiv:2605.13979</a>'


def write(folder: str | Path) -> Path:
    """Draw the figures of a ticket folder and write its report.html, replacing an older one whole.

    Args:
        folder: what `qrt-tn ticket` wrote: manifest.json, metrics.parquet, showcase.safetensors.

    Returns:
        The path of report.html.

    Raises:
        ValueError: no such folder, or a missing or malformed file in it.
    """
    results = load(folder)
    return write_page(results.path, render(results, figures.draw_all(results)))


def render(results: TicketFolder, drawn: dict[str, Path]) -> str:
    """The page, from the results and the SVG files that `figures.draw_all` made of them."""
    sections = (
        header(results),
        headline(results),
        _scores(results, drawn),
        _use(results),
        _nodes(results, drawn),
        _spectra(results, drawn),
        _state(results, drawn),
        _exactness(results),
        _reproduce(results),
    )
    return page(results.manifest["title"], sections)


def _scores(results: TicketFolder, drawn: dict[str, Path]) -> str:
    captions = {
        "fitted": "Hidden nodes as drawn, output weights by ridge regression.",
        "trained": "Gradient descent moves every parameter: from the ticket, or of a dense network of the "
        "same "
        "width from a usual random initialisation.",
    }
    panels = []
    for training, caption in captions.items():
        name = training_name(training)
        bands = results.bands(METHODS, training, "error")
        ends = [f"{label(method, results)} {number(1 - band.mean[-1], 3)}" for method, band in bands.items()]
        alternative = f"Test score against node count, {name}. At the most nodes: {', '.join(ends)}."
        text = f"<b>{name.capitalize()}.</b> {caption}"
        panels.append(figure(drawn, f"scores-{training}", alternative, text))
    panels = [panel for panel in panels if panel]
    if not panels:
        return ""
    lines = "Lines are means over the seeds, shaded bands run from the smallest to the largest. "
    flat = "Level lines are methods without nodes. " if {*NODELESS} & {*results.methods()} else ""
    text = (
        f"{lines if len(results.manifest['seeds']) > 1 else ''}{flat}The vertical axis is logarithmic in the "
        "error: equal steps up divide the error by equal factors."
    )
    if results.manifest["dataset"].get("chance") is not None:
        text += " A faint dotted line, where the axis reaches so low, is what always naming the most "
        text += "frequent class scores."
    return section("scores", "Scores against node count", f"<p>{text}</p>", _beside(*panels))


def _beside(*panels: str) -> str:
    """Panels beside each other; one alone does not fill the page."""
    shown = [panel for panel in panels if panel]
    drawn = side_by_side(*shown)
    return f'<div class="lone">{drawn}</div>' if len(shown) == 1 else drawn


def _nodes(results: TicketFolder, drawn: dict[str, Path]) -> str:
    data, show = results.manifest["dataset"], results.showcase
    tiles = []
    for k in range(len(show["b"])):
        a = show["a"][k]
        used = f"{int(np.count_nonzero(a))} of {len(a)} coordinates"
        threshold = f"b = {float(show['b'][k]):.1f}"
        tiles.append(figure(drawn, f"node-{k + 1:02d}", f"Node {k + 1}: {threshold}, {used}.", threshold))
    if not tiles:
        return ""
    image = data.get("image_shape")
    laid = (
        f"laid out as the pixels of the input{', one colour beside the other' if len(image) > 2 else ''}"
        if image
        else "a bar for each of its largest coordinates, by name"
    )
    text = (
        "The nodes with the largest output weights in the model that was saved. Each tile is a frequency "
        "<i>a</i> in "
        f"centred representatives, {laid}; below it the threshold <i>b</i>."
    )
    swatches = "".join(
        f'<li><i style="background:var(--{name})"></i>{name}</li>' for name in ("positive", "negative")
    )
    strongest = max(int(np.abs(centred(show["a"], results.manifest["modulus"])).max()), 1)
    key = f'<ul class="key">{swatches}<li>full strength: |a| = {strongest}</li></ul>'
    kind = "nodes" if image else "nodes bars-by-name"
    tiled = f'<div class="{kind}">\n{"".join(tiles)}\n</div>'
    return section("nodes", "Some of the nodes drawn", f"<p>{text}</p>", tiled, key)


def _spectra(results: TicketFolder, drawn: dict[str, Path]) -> str:
    if "residual_spectrum" not in results.showcase:
        return ""
    zero = 100 * float(results.showcase["residual_spectrum"][0])
    said = f"In the ticket {zero:.1f} % of all coordinates are 0."
    shown = figure(
        drawn, "node-spectrum", f"How often one coordinate of a takes each value. {said}",
        f"<b>One coordinate of the frequencies.</b> {said}",
    )  # fmt: skip
    text = (
        "Low frequencies make smooth functions. The filter decides how high a coordinate may be; what the "
        "data add "
        "shows where a curve leaves the filter’s."
    )
    return section("spectra", "Where the frequencies lie", f"<p>{text}</p>", _beside(shown)) if shown else ""


def _state(results: TicketFolder, drawn: dict[str, Path]) -> str:
    states = results.manifest.get("states") or []
    if not states:
        return ""
    bonds = [max(state["bond_dimensions"]) for state in states if state.get("bond_dimensions")]
    largest = f" The largest bond is {number(max(bonds))}." if bonds else ""
    left = figure(
        drawn, "bond-dimensions", f"Bond dimension along the chain, one line a seed.{largest}",
        "<b>Bond dimensions.</b> One line a seed.",
    )  # fmt: skip
    right = figure(
        drawn, "schmidt-values", "Schmidt values at the half cut of the first state, the largest set to 1.",
        "<b>Schmidt values.</b> The faster they fall, the less entangled the two halves of the input.",
    )  # fmt: skip
    along = figure(
        drawn, "schmidt-spectra", "Schmidt values of a few ranks at every bond, the largest there set to 1.",
        "<b>Schmidt values along the chain,</b> of ranks 2, 4, 8 and so on.",
    )  # fmt: skip
    text = (
        "QRT nodes are drawn from the smoothed data held as a matrix product state, compressed to a "
        "tolerance of "
        f"{number(results.manifest.get('tolerance'))} or to the largest bond that does not take too long. "
        f"The truncation error is measured.{largest}"
    )
    panels = _beside(left, along, right)
    return section(
        "state", "The state behind the QRT’s nodes", f"<p>{text}</p>", panels, tables.states(states)
    )


def _use(results: TicketFolder) -> str:
    model = results.manifest.get("model")
    if not model:
        return ""
    text = (
        f"The folder holds a fitted model: the ticket of {number(model['nodes'])} nodes, with the settings "
        "that the "
        "first seed chose, fitted to all points. (The scores above are of fits to the training and "
        "validation points "
        "of each seed.)"
    )
    new = "new.csv" if model.get("table") else "new.npz"
    lines = f"qrt-tn predict FOLDER {new} --out predictions.csv"
    code = 'from qrt_tn import models\n\nmodels.load("FOLDER").predict(X)'
    return section("use", "To use it", f"<p>{text}</p>", f"<pre>{lines}</pre>", f"<pre>{escape(code)}</pre>")


def _exactness(results: TicketFolder) -> str:
    manifest = results.manifest
    seeds = len(manifest["seeds"])
    exact = (
        "QRT nodes follow |<i>R</i>[<i>f</i>](<i>a</i>, <i>b</i>)|² of the state held: they are drawn from "
        "exact "
        "conditionals, with no Markov chain, each node independently.",
        "Fitted output weights are the closed solution of ridge regression.",
    )
    approximate = (
        "Tempered residual tickets are drawn by annealing and Gibbs sweeps, in rounds: what a sweep has not "
        "reached, "
        "no node has.",
        f"Nodes are drawn with the data rounded to levels inside Z<sub>{manifest['modulus']}</sub>, and "
        "evaluated "
        "where the points lie between them.",
        "Smoothing changes <i>f</i> on purpose: an unsmoothed transform knows nothing between its points.",
        "The smoothed state of the QRT’s nodes is compressed.",
        "QRT and uniform nodes are drawn with the training points alone, tickets and all rivals with the "
        "validation points too; settings are chosen once a split.",
        f"Bands are the range over {seeds} seeds, not confidence intervals."
        if seeds > 1
        else "One seed says nothing of the spread.",
    )
    columns = "".join(
        f"<div><h3>{title}</h3><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul></div>"
        for title, lines in (("Exact", exact), ("Approximate, or a choice", approximate))
    )
    word = (
        "<aside><p>No quantum advantage is claimed. The sampling task of the Quantum Ridgelet Transform was "
        f"dequantised by its own authors in May 2026 ({DEQUANTISED}: classical, polynomial in <i>D</i>), and "
        "every number on this page was computed classically. The parameters are this project’s own, "
        "not those of the papers.</p></aside>"
    )
    return section(
        "exact", "What is exact and what is approximate", f'<div class="pair">{columns}</div>', word
    )


def _reproduce(results: TicketFolder) -> str:
    manifest = results.manifest
    rows = f"{number(len(results.metrics['nodes']))} rows"
    return section(
        "reproduce",
        "To reproduce",
        f"<pre>{escape(manifest['command'])}</pre>",
        tables.origin(manifest),
        details("What was chosen", "by each seed, on inner validation points", tables.chosen(results)),
        tables.timings(manifest.get("timings") or {}, manifest.get("seconds")),
        "<h3>All numbers</h3>",
        '<p class="note">Also in metrics.parquet; the figures are SVG files in figures/.</p>',
        details("Means and ranges", "every method and node count", tables.means(results)),
        details("Every run", rows, tables.runs(results)),
        details("Versions", "of what ran", tables.versions(manifest.get("versions") or {})),
    )
