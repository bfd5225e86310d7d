"""One self-contained report.html from the folder of `qrt-tn ticket`: no script, no request, prints well."""

from html import escape
from pathlib import Path

import numpy as np

from qrt_tn.studies.report import figures, tables
from qrt_tn.studies.report.folder import TicketFolder, load
from qrt_tn.studies.report.headline import header, headline, headline_counts
from qrt_tn.studies.report.html import (
    details,
    figure,
    join,
    number,
    page,
    section,
    side_by_side,
    write_page,
)
from qrt_tn.studies.report.style import BROAD_METHODS, MAIN_METHODS, method_style, training_name

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
    return write_page(results.path, render(results, figures.draw_all(folder)))


def render(results: TicketFolder, drawn: dict[str, Path]) -> str:
    """The page, from the results and the SVG files that `figures.draw_all` made of them."""
    sections = (
        header(results),
        headline(results),
        _accuracy(results, drawn),
        _risk(results, drawn),
        _against_filter(results, drawn),
        _nodes(results, drawn),
        _spectra(results, drawn),
        _state(results, drawn),
        _exactness(results),
        _reproduce(results),
    )
    return page(results.manifest["title"], sections)


def _panel(results: TicketFolder, drawn: dict[str, Path], kind: str, training: str, caption: str) -> str:
    bands = results.bands(MAIN_METHODS, training, f"test_{kind}")
    ends = [f"{method_style(name).label} {number(band.median[-1], 3)}" for name, band in bands.items()]
    name = training_name(training)
    alternative = f"Test {kind} against node count, {name}. At the most nodes: {', '.join(ends)}."
    return figure(drawn, f"{kind}-{training}", alternative, f"<b>{name.capitalize()}.</b> {caption}")


def _accuracy(results: TicketFolder, drawn: dict[str, Path]) -> str:
    chance = " The dotted line is chance." if results.class_count else ""
    dense = ""
    if "dense" in results.methods():
        dense = " The dense network has the same width and starts from a usual random initialisation."
    panels = side_by_side(
        _panel(
            results, drawn, "accuracy", "fitted",
            f"Hidden nodes as drawn; ridge regression fits the output weights.{_averaged(results)}{chance}",
        ),
        _panel(results, drawn, "accuracy", "trained", f"Gradient descent moves every parameter.{dense}"),
    )  # fmt: skip
    if not panels:
        return ""
    lines = "Lines are medians over the seeds, shaded bands run from the smallest to the largest. "
    text = (
        f"{lines if len(results.manifest['seeds']) > 1 else ''}The vertical axis is logarithmic in the "
        "error: equal steps up divide the error by equal factors."
    )
    return section(
        "accuracy", "Accuracy against node count", f"<p>{text}</p>", panels, _untrained(results, "accuracy")
    )


def _averaged(results: TicketFolder) -> str:
    """Says so where scores of few nodes are means over several draws."""
    draws = results.metrics.get("draws")
    if draws is None or not np.nanmax(draws, initial=0) > 1:
        return ""
    counts = results.metrics["nodes"][draws > 1]
    most = number(int(np.nanmax(draws)))
    return f" Up to {number(int(counts.max()))} nodes, means over up to {most} draws a seed."


def _untrained(results: TicketFolder, kind: str) -> str:
    """One sentence on the network whose weights come straight from the amplitudes."""
    for training in results.trainings("qrt-importance"):
        band = results.band("qrt-importance", training, f"test_{kind}")
        if band is not None:
            numbers = zip(band.median, band.nodes, strict=True)
            said = join([f"{number(float(score), 3)} with {number(int(n))} nodes" for score, n in numbers])
            start = "With output weights straight from the amplitudes, and only their common scale fitted"
            return f"<p>{start}: test {kind} {said}.</p>"
    return ""


def _risk(results: TicketFolder, drawn: dict[str, Path]) -> str:
    panels = side_by_side(
        _panel(
            results, drawn, "risk", "fitted", "Hidden nodes as drawn, output weights by ridge regression."
        ),
        _panel(results, drawn, "risk", "trained", "Every parameter trained."),
    )
    targets = " against the one-hot labels" if results.class_count else ""
    text = f"Mean squared error on the test split{targets}, both axes logarithmic. Lower is better."
    untrained = "" if results.classification else _untrained(results, "risk")
    return section("risk", "Risk against node count", f"<p>{text}</p>", panels, untrained) if panels else ""


def _against_filter(results: TicketFolder, drawn: dict[str, Path]) -> str:
    training = next((name for name in ("fitted", "trained") if f"broad-gain-{name}" in drawn), None)
    gain = None if training is None else results.gain(*BROAD_METHODS, training, results.score("test"))
    if training is None or gain is None:
        return ""
    what = "accuracy" if results.classification else "risk"
    width = (results.manifest.get("broad") or {}).get("smoothing")
    at = "" if width is None else f" at w = {number(width)}"
    sign = 1 if results.classification else -1
    said = []
    for nodes in headline_counts(results):
        here = gain.at(nodes)
        if here is not None:
            low, middle, high = (number(x, 3, signed=True) for x in sorted(sign * end for end in here))
            wide = f" ({low} to {high})" if gain.seeds > 1 else ""
            said.append(f"{middle}{wide} with {nodes} nodes")
    measured = "Gain in test accuracy" if results.classification else "Test risk saved"
    sentence = f"{measured}: {join(said)}." if said else ""
    text = (
        "The filter alone already prefers low frequencies, so the fair question is what the data add to it. "
        f"Here is the QRT beside nodes drawn from its own filter τ²{at}, {training_name(training)}. "
        f"{sentence}"
    )
    seeds = " Median and range over the seeds." if gain.seeds > 1 else ""
    left = figure(
        drawn, f"broad-{training}", f"Test {what} of the QRT and of its filter alone{at}. {sentence}",
        f"<b>Both{at}.</b>{seeds}",
    )  # fmt: skip
    right = figure(
        drawn, f"broad-gain-{training}", f"The QRT against its filter, difference in test {what}. {sentence}",
        "<b>Difference, paired by seed.</b> Above zero the QRT is better.",
    )  # fmt: skip
    return section("filter", "The QRT against its own filter", f"<p>{text}</p>", side_by_side(left, right))


def _nodes(results: TicketFolder, drawn: dict[str, Path]) -> str:
    modulus, show = results.manifest["modulus"], results.showcase
    tiles = []
    for k, u in enumerate(show["u"]):
        v, b = (int(x) if x <= modulus // 2 else int(x) - modulus for x in (show["v"][k], show["b"][k]))
        said = f"v = {v}, b = {b}".replace("-", "−")
        used = f"its frequency u is nonzero at {int(np.count_nonzero(u))} of {len(u)} coordinates"
        tiles.append(figure(drawn, f"node-{k + 1:02d}", f"Node {k + 1}: {said}; {used}.", said))
    if not tiles:
        return ""
    image = results.manifest["dataset"].get("image_shape")
    period = f"−{(modulus - 1) // 2} to {modulus // 2}"
    text = (
        "Each tile is one drawn node. Above, its frequency <i>u</i> = <i>v a</i> mod <i>P</i> in centred "
        f"representatives, {'laid out as the pixels of the input' if image else 'one bar a coordinate'}. "
        f"Below, <i>p</i>(<i>b</i> | <i>a</i>) over one period, {period}, with a dot at the <i>b</i> "
        "that was drawn."
    )
    swatches = "".join(
        f'<li><i style="background:var(--{name})"></i>{name}</li>' for name in ("positive", "negative")
    )
    strongest = max(int(np.abs(show["u"]).max()), 1)
    key = f'<ul class="key">{swatches}<li><i></i>zero</li><li>full strength: |u| = {strongest}</li></ul>'
    tiled = f'<div class="nodes">\n{"".join(tiles)}\n</div>'
    return section("nodes", "Some of the nodes drawn", f"<p>{text}</p>", tiled, key if image else "")


def _spectra(results: TicketFolder, drawn: dict[str, Path]) -> str:
    show, modulus = results.showcase, results.manifest["modulus"]
    spread = []
    if "node_spectrum_smoothed" in show:
        share = 100 * float(show["node_spectrum_smoothed"][0])
        spread.append(f"In the smoothed ticket {share:.1f} % of all coordinates are 0.")
    if "node_spectrum_unsmoothed" in show:
        taken = int(np.count_nonzero(show["node_spectrum_unsmoothed"]))
        spread.append(
            f"Unsmoothed nodes take {taken} of the {modulus} frequencies; only the lowest are shown."
        )
    first = ""
    if "ridgelet_spectrum" in show and modulus > 2:
        weight = show["ridgelet_spectrum"]
        first = f"v = ±1 carries {100 * float((weight[1] + weight[-1]) / weight.sum()):.1f} % of the weight. "
    left = figure(
        drawn, "node-spectrum", f"How often one coordinate of u takes each value. {' '.join(spread)}",
        f"<b>Node spectrum.</b> {' '.join(spread)}",
    )  # fmt: skip
    right = figure(
        drawn, "ridgelet-spectrum", f"Ridgelet spectrum against harmonic; inset, the activation. {first}",
        f"<b>Ridgelet spectrum.</b> {first}A node is a = v⁻¹u mod P, so weight on high harmonics "
        "becomes nodes of high frequency.",
    )  # fmt: skip
    panels = side_by_side(left, right)
    text = (
        "A node is drawn in three steps: <i>v</i> from the spectrum of the activation, <i>u</i> from that of "
        "the data, then <i>b</i> given <i>a</i> = <i>v</i>⁻¹<i>u</i>. These are the first two."
    )
    return section("spectra", "Where the frequencies lie", f"<p>{text}</p>", panels) if panels else ""


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
        drawn, "schmidt-values", "Schmidt values at the half cut, the largest set to 1, one line a seed.",
        "<b>Schmidt values.</b> The faster they fall, the less entangled the two halves of the input.",
    )  # fmt: skip
    along = figure(
        drawn, "schmidt-spectra", "Schmidt values of a few ranks at every bond, the largest there set to 1.",
        "<b>Schmidt values along the chain,</b> of ranks 2, 4, 8 and so on.",
    )  # fmt: skip
    text = (
        "The smoothed data are held as a matrix product state, compressed to a stated tolerance. "
        f"The truncation error is measured.{largest}"
    )
    told = tables.diagnosis(results.manifest.get("diagnosis") or {})
    panels = side_by_side(left, along, right)
    return section("state", "The state", f"<p>{text}</p>", panels, tables.states(states), told)


def _exactness(results: TicketFolder) -> str:
    manifest = results.manifest
    states = manifest.get("states") or []
    own = [state for state in states if state.get("smoothing") == manifest.get("smoothing")] or states
    errors = [float(state["truncation_error"]) for state in own if state.get("truncation_error") is not None]
    bonds = [max(state["bond_dimensions"]) for state in own if state.get("bond_dimensions")]
    held = f"; the truncation error was {number(max(errors), 2)} at most" if errors else ""
    levels = f"{manifest['levels']} levels inside " if manifest.get("levels") else ""
    seeds = len(manifest["seeds"])
    exact = (
        "Nodes follow |<i>R</i>[<i>f</i>](<i>a</i>, <i>b</i>)|² of the state held: <i>v</i>, <i>u</i> "
        "and <i>b</i> are drawn one after the other from exact conditionals, with no Markov chain, each node "
        "independently.",
        "Amplitudes, log-probabilities and b-profiles are those of the same state, to rounding.",
        "The unsmoothed state is the training set itself, not compressed.",
        "Fitted output weights are the closed solution of ridge regression.",
    )
    approximate = (
        f"The data are rounded to {levels}Z<sub>{manifest['modulus']}</sub>.",
        "Smoothing changes <i>f</i> on purpose: an unsmoothed ticket knows nothing between its points.",
        f"The smoothed state is compressed{held}.",
        "Training everything leaves the grid: the activation is interpolated between its <i>P</i> values.",
        f"Bands are the range over {seeds} seeds, not confidence intervals."
        if seeds > 1
        else "One seed says nothing of the spread.",
    )
    columns = "".join(
        f"<div><h3>{title}</h3><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul></div>"
        for title, lines in (("Exact", exact), ("Approximate, or a choice", approximate))
    )
    fits = ""
    if bonds:
        fits = (
            f" The states behind these tickets fit into bonds of at most {number(max(bonds))}: that is why "
            "a tensor network can do here what the circuit would do."
        )
    word = (
        "<aside><p>No quantum advantage is claimed. The sampling task of the Quantum Ridgelet Transform was "
        f"dequantised by its own authors in May 2026 ({DEQUANTISED}: classical, polynomial in <i>D</i>), and "
        f"every number on this page was computed classically.{fits} The parameters are this project’s own, "
        "not those of the papers.</p></aside>"
    )
    return section(
        "exact", "What is exact and what is approximate", f'<div class="pair">{columns}</div>', word
    )


def _reproduce(results: TicketFolder) -> str:
    manifest = results.manifest
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in manifest.get("notes") or [])
    rows = f"{number(len(results.metrics['nodes']))} rows"
    return section(
        "reproduce",
        "To reproduce",
        f"<pre>{escape(manifest['command'])}</pre>",
        tables.origin(manifest),
        f"<ul>{notes}</ul>" if notes else "",
        details("How the settings were chosen", "on the validation split", tables.selection(manifest)),
        tables.timings(manifest.get("timings") or {}, manifest.get("seconds")),
        "<h3>All numbers</h3>",
        '<p class="note">Also in metrics.parquet; the figures are SVG files in figures/.</p>',
        details("Medians and ranges", "every method and node count", tables.medians(results)),
        details("Every run", rows, tables.runs(results)),
        details("Versions", "of what ran", tables.versions(manifest.get("versions") or {})),
    )
