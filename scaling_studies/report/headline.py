"""The top of a report: what was run, whether nodes that know the data paid off, and by how much."""

from html import escape

from qrt_tn.studies.experiments.ticket.settings import NODELESS, TICKET
from qrt_tn.studies.report import comparison
from qrt_tn.studies.report.comparison import MARKS, Score
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.html import MISSING, facts, number, section, span, table

MOST_TILES = 3
LEGEND = {
    "ahead": "tickets are ahead",
    "tie": "a tie",
    "behind": "tickets are behind",
    "undecided": "too few seeds to say",
}


def header(results: TicketFolder) -> str:
    """Title, what the data are, and what a ticket is."""
    manifest, data = results.manifest, results.manifest["dataset"]
    seeds = len(manifest["seeds"])
    pairs = [
        (
            "train / validation / test",
            " / ".join(number(data[part]) for part in ("train", "validation", "test")),
        ),
        ("seeds", number(seeds)),
        ("grid", f"Z<sub>{manifest['modulus']}</sub>"),
    ]
    return (
        '<header>\n<p class="kicker">QRT-TN · ticket report</p>\n'
        f"<h1>{escape(manifest['title'])}</h1>\n"
        f'<p class="lede">{escape(str(data["description"]))}</p>\n'
        "<p>A network with one hidden layer is Σ <i>w</i> cos(2π(<i>a</i>·<i>x</i> − <i>b</i>)/<i>P</i>): "
        "hidden nodes "
        "(<i>a</i>, <i>b</i>) and output weights <i>w</i>. A <i>ticket</i> is a set of hidden nodes drawn "
        "from the "
        "ridgelet transform of the data before anything is trained. Here it stands beside nodes that know "
        "nothing of "
        "the targets, beside networks that learn their nodes, and beside methods without nodes.</p>\n"
        f"{facts(pairs)}\n</header>"
    )


def headline(results: TicketFolder) -> str:
    """The verdict, by how much, and a tile a node count with a mark for every rival."""
    said = " ".join(comparison.sentences(results))
    tiles = "".join(_tile(results, nodes) for nodes in _counts(results))
    key = "".join(f'<li><span class="mark">{MARKS[word]}</span>{text}</li>' for word, text in LEGEND.items())
    return section(
        "headline",
        "Did it pay off?",
        f'<p class="verdict"><b>{comparison.verdict(results)}</b> {said}</p>',
        f'<div class="tiles">\n{tiles}\n</div>',
        f'<ul class="key">{key}</ul>',
        f'<p class="note">{_about(results)}</p>',
    )


def _counts(results: TicketFolder) -> list[int]:
    """Up to three node counts: the fewest, the most and one between."""
    counts = results.counts
    if len(counts) <= MOST_TILES:
        return counts
    return [counts[0], counts[len(counts) // 2], counts[-1]]


def _tile(results: TicketFolder, nodes: int) -> str:
    own = comparison.score(results, TICKET, "fitted", nodes)
    assert own is not None
    rows = []
    for method in results.methods():
        at = None if method in NODELESS else nodes
        rows += [_row(results, method, training, at, nodes) for training in results.trainings(method)]
    what = "Accuracy" if results.classification else "R²"
    return (
        f'<div class="tile">\n<h3>{what} on the test points, {number(nodes)} nodes</h3>\n'
        f'<p class="big">{_text(results, own.mean)}</p>\n'
        f'<p class="of">tempered residual ticket, output weights fitted{_wide(results, own, ", ")}</p>\n'
        f"{table(['', '', ''], [row for row in rows if row])}</div>"
    )


def _row(results: TicketFolder, method: str, training: str, nodes: int | None, at: int) -> list[str]:
    """A method, its score, and the mark of the ticket against it."""
    found = comparison.score(results, method, training, nodes)
    if found is None or (method, training) == (TICKET, "fitted"):
        return []
    dot = f'<span class="swatch" style="background:var(--{escape(method)})"></span>'
    trained = ", trained" if training == "trained" and method == TICKET else ""
    difference = comparison.against(results, (method, training, nodes), at)
    mark = MISSING
    if difference is not None:
        word = difference.verdict
        mark = f'<span class="mark" title="{LEGEND[word]}: {comparison.gap(difference)}">{MARKS[word]}</span>'
    label = escape(comparison.label(method, results)) + trained
    return [dot + label, f"{_text(results, found.mean)}<small>{_wide(results, found)}</small>", mark]


def _text(results: TicketFolder, value: float) -> str:
    return f"{100 * value:.1f}&nbsp;%" if results.classification else number(value, 3)


def _wide(results: TicketFolder, found: Score, before: str = "") -> str:
    if found.low == found.high:
        return ""
    if results.classification:
        return f"{before}{100 * found.low:.1f}–{100 * found.high:.1f}"
    return before + span(found.low, found.high)


def _about(results: TicketFolder) -> str:
    seeds = len(results.manifest["seeds"])
    left = results.manifest.get("left_out") or []
    about = "One seed only, so no range is known and nothing is decided. "
    if seeds > 1:
        about = (
            f"Means over {seeds} seeds, each with its own split, the smallest and the largest beside "
            "them. A difference "
            "counts where its 95 % interval, paired over the seeds, leaves out 0 (t interval with the "
            "variance "
            "of resampled splits, Nadeau and Bengio 2003); all else is a tie. "
        )
    about += "The test points took no part in fitting or in choosing settings."
    if left:
        names = ", ".join(f"{comparison.name(one['method'], results)} ({one['why']})" for one in left)
        about += f" Left out: {escape(names)}."
    return about.replace(" %", "&nbsp;%")
