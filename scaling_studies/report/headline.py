"""The top of a report: what was run, and how the ticket compares at two node counts."""

from html import escape

import numpy as np

from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.html import MISSING, facts, join, number, section, span, table
from qrt_tn.studies.report.style import method_style, training_name

TICKET = "qrt-smoothed"
RIVALS = ("filter", "random-features", "dense")
IN_A_SENTENCE = {
    "filter": "its filter alone",
    "random-features": "random features",
    "dense": "the dense network",
}
Score = tuple[float, float, float]  # low, median, high over the seeds


def header(results: TicketFolder) -> str:
    """Title, what a ticket is, and the settings of the run."""
    manifest, data = results.manifest, results.manifest["dataset"]
    pairs = [("data", escape(str(data.get("name", "unnamed")))), ("points", number(data["points"]))]
    pairs.append(("D", number(data["dim"])))
    if results.class_count is not None:
        pairs.append(("classes", number(results.class_count)))
    splits = [number(data.get(name)) for name in ("train", "validation", "test")]
    if MISSING not in splits:
        pairs.append(("train / validation / test", " / ".join(splits)))
    levels = f", {number(manifest['levels'])} levels" if manifest.get("levels") else ""
    pairs.append(("grid", f"Z<sub>{manifest['modulus']}</sub>{levels}"))
    if manifest.get("guard_band"):
        pairs.append(("guard band", f"{float(manifest['guard_band']):.3g} ×"))
    at = f" at {number(manifest['shown_at'])} nodes" if manifest.get("shown_at") else ""
    if manifest.get("activation"):
        pairs.append((f"activation{at}", escape(str(manifest["activation"]))))
    if manifest.get("smoothing") is not None:
        pairs.append((f"smoothing{at}", f"w = {number(manifest['smoothing'])}"))
    pairs.append(("seeds", ", ".join(escape(str(seed)) for seed in manifest["seeds"])))
    return (
        '<header>\n<p class="kicker">QRT-TN · ticket report</p>\n'
        f"<h1>{escape(manifest['title'])}</h1>\n"
        '<p class="lede">A ticket is a set of hidden nodes (<i>a</i>, <i>b</i>) of a shallow network '
        "Σ <i>w g</i>((<i>a</i>·<i>x</i> − <i>b</i>) mod <i>P</i>), drawn before any training with "
        "probability |<i>R</i>[<i>f</i>](<i>a</i>, <i>b</i>)|², the squared ridgelet transform of "
        "the data.</p>\n"
        f"{facts(pairs)}\n</header>"
    )


def headline_counts(results: TicketFolder) -> list[int]:
    """64 and 256 nodes where they were run, else two counts from the middle of those that were."""
    chosen = results.metrics["method"] == TICKET
    counts = np.unique(results.metrics["nodes"][chosen]).astype(int).tolist()
    usual = [nodes for nodes in (64, 256) if nodes in counts]
    if usual or not counts:
        return usual
    return sorted({counts[(len(counts) - 1) // 3], counts[2 * (len(counts) - 1) // 3]})


def headline(results: TicketFolder) -> str:
    """A tile a node count: the ticket's best score, large, and every rival's beside it."""
    tiles: list[str] = []
    verdicts: list[str] = []
    for nodes in headline_counts(results):
        best = {method: _best(results, method, nodes) for method in (TICKET, *RIVALS)}
        if best[TICKET] is not None:
            tiles.append(_tile(results, nodes, best))
            who = "it" if verdicts else "the smoothed QRT"
            verdicts += _comparison(results, nodes, best, who)
    if not tiles:
        return ""
    seeds = len(results.manifest["seeds"])
    about = "One seed only, so no range is known."
    if seeds > 1:
        about = (
            f"Medians over {seeds} seeds, the smallest and the largest below them; “level with” means that "
            "the ranges overlap."
        )
    about += " Of the ways of training, the one best on the validation split counts (in bold for the QRT)."
    return section(
        "headline",
        "In short",
        f'<div class="tiles">\n{"".join(tiles)}\n</div>',
        f"<p>{' '.join(verdicts)}</p>" if verdicts else "",
        f'<p class="note">{about}</p>',
    )


def _at(results: TicketFolder, method: str, training: str, split: str, nodes: int) -> Score | None:
    band = results.band(method, training, results.score(split))
    return None if band is None else band.at(nodes)


def _best(results: TicketFolder, method: str, nodes: int) -> tuple[str, Score] | None:
    """The way of training that validates best at a node count, and its test score."""
    found = []
    for training in results.trainings(method):
        validation = _at(results, method, training, "validation", nodes)
        test = _at(results, method, training, "test", nodes)
        if validation is not None and test is not None:
            found.append((validation[1] if results.classification else -validation[1], training, test))
    if not found:
        return None
    _, training, test = max(found, key=lambda entry: entry[0])
    return training, test


def _tile(results: TicketFolder, nodes: int, best: dict[str, tuple[str, Score] | None]) -> str:
    own = best[TICKET]
    assert own is not None
    trainings = [
        name for name in ("fitted", "trained") if _at(results, TICKET, name, "test", nodes) is not None
    ]
    rows = []
    for method, entry in best.items():
        if entry is None:
            continue
        dot = f'<span class="swatch" style="background:var(--{method})"></span>'
        row = [dot + method_style(method).label]
        for training in trainings:
            score = _at(results, method, training, "test", nodes)
            if score is None:
                row.append(MISSING)
                continue
            middle = number(score[1], 3)
            strong = method == TICKET and training == own[0]
            row.append(
                (f"<b>{middle}</b>" if strong else middle) + f"<small>{span(score[0], score[2])}</small>"
            )
        rows.append(row)
    what = "accuracy" if results.classification else "risk"
    wide = span(own[1][0], own[1][2])
    return (
        f'<div class="tile">\n<h3>Test {what} with {nodes} nodes</h3>\n'
        f'<p class="big">{number(own[1][1], 3)}</p>\n'
        f'<p class="of">smoothed QRT, {training_name(own[0])}{", " + wide if wide else ""}</p>\n'
        f"{table(['', *trainings], rows)}</div>"
    )


def _comparison(
    results: TicketFolder, nodes: int, best: dict[str, tuple[str, Score] | None], who: str
) -> list[str]:
    """One sentence that ranks the ticket among its rivals, or none where it has none."""
    own = best[TICKET]
    groups: dict[str, list[str]] = {}
    for method in RIVALS:
        other = best[method]
        if own is not None and other is not None:
            word = verdict(own[1], other[1], results.classification)
            groups.setdefault(word, []).append(IN_A_SENTENCE[method])
    if not groups:
        return []
    said = [f"{word} {join(names)}" for word, names in groups.items()]
    return [f"With {nodes} nodes {who} is {join(said, ', and ')}."]


def verdict(own: Score, other: Score, higher_is_better: bool) -> str:
    """How one range of scores lies to another, at the three digits that the page shows."""
    low, middle, high = (float(f"{value:.3g}") for value in own)
    other_low, other_middle, other_high = (float(f"{value:.3g}") for value in other)
    if low <= other_high and other_low <= high:
        return "level with"
    return "ahead of" if (middle > other_middle) == higher_is_better else "behind"
