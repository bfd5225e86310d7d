"""The top of a lottery report: what was run, and whether tickets won at two levels of pruning."""

from dataclasses import dataclass
from html import escape

from qrt_tn.studies.report.html import MISSING, facts, join, number, section, table
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.lottery.paper import ACCURACY, SAME, STOP, earlier, points_of
from qrt_tn.studies.report.lottery.series import Point
from qrt_tn.studies.report.style import method_style

SHARES = (0.211, 0.135)  # where the paper gives its figures for Lenet
ALLOWED_LOSS = 0.003  # of accuracy: 0.3 points
NAMES = {
    "lenet": "Lenet-300-100",
    "conv2": "Conv-2",
    "conv4": "Conv-4",
    "conv6": "Conv-6",
    "resnet20": "ResNet-20",
    "vgg19": "VGG-19",
}
MARKS = {True: "✓", False: "✗", None: MISSING}
MOST_NOTES = 4  # shown at the top


@dataclass(frozen=True)
class Match:
    """Tickets of one level against the dense network, and against fresh weights under the same mask.

    Scores are points over the trials; None where something was not measured.
    """

    level: int
    share: float
    ticket: Point
    ticket_stop: Point | None
    dense: Point | None
    dense_stop: Point | None
    fresh: Point | None
    fresh_stop: Point | None

    @property
    def accurate(self) -> bool | None:
        """Whether the median accuracy is no more than ALLOWED_LOSS below that of the dense network."""
        if self.dense is None:
            return None
        return self.ticket.median >= self.dense.median - ALLOWED_LOSS - 1e-9

    @property
    def early(self) -> bool | None:
        """Whether the median early stop is no later than that of the dense network."""
        if self.dense_stop is None or self.ticket_stop is None:
            return None
        return self.ticket_stop.median <= self.dense_stop.median

    @property
    def better_than_fresh(self) -> bool | None:
        """Whether it is more accurate, or earlier, than fresh weights in median, and in neither worse."""
        if self.fresh is None or self.fresh_stop is None or self.ticket_stop is None:
            return None
        more = (
            self.ticket.median - self.fresh.median,
            self.fresh_stop.median - self.ticket_stop.median,
        )
        return min(more) >= 0 and max(more) > 0

    @property
    def passes(self) -> bool | None:
        """Whether all three hold; None where none fails but one was not measured."""
        parts = (self.accurate, self.early, self.better_than_fresh)
        return False if False in parts else None if None in parts else True


def matches(results: LotteryFolder) -> list[Match]:
    """The levels nearest to SHARES, each once, from few rounds of pruning to many."""
    levels = sorted({level for level in map(results.level_near, SHARES) if level is not None})
    found = []
    for level in levels:
        ticket = results.points("imp", ACCURACY).get(level)
        if ticket is None:
            continue
        stop = results.points("imp", STOP).get(level)
        others = [
            results.points(method, column).get(at)
            for method, at in (("dense", 0), ("reinit", level))
            for column in (ACCURACY, STOP)
        ]
        found.append(Match(level, results.share(level), ticket, stop, *others))
    return found


def header(results: LotteryFolder) -> str:
    """Title, what a winning ticket is, and the settings of the run."""
    manifest, preset, recipe = results.manifest, results.manifest["preset"], results.recipe
    data, weights = manifest["dataset"], manifest.get("weights") or {}
    pairs = [("network", escape(NAMES.get(results.architecture, results.architecture)))]
    if weights.get("prunable"):
        pairs.append(("prunable weights", number(weights["prunable"])))
    pairs.append(("data", escape(data["name"])))
    splits = [number(data.get(name)) for name in ("train", "validation", "test")]
    if MISSING not in splits:
        pairs.append(("train / validation / test", " / ".join(splits)))
    rates = [
        f"{label} {100 * preset[key]:.3g} %"
        for key, label in (("conv_rate", "convolutions"), ("rate", "dense"), ("output_rate", "output"))
        if preset.get(key)
    ]
    if rates:
        pairs.append(("pruned a round", ", ".join(rates)))
    for key in ("levels", "trials"):
        if preset.get(key):
            pairs.append(("rounds" if key == "levels" else key, number(preset[key])))
    if preset.get("rewind"):
        pairs.append(("rewound to iteration", number(preset["rewind"])))
    if recipe.get("optimizer"):
        rate = f" {recipe['learning_rate']:g}" if recipe.get("learning_rate") else ""
        pairs.append(("optimiser", escape(str(recipe["optimizer"])) + rate))
    pairs.append(("iterations", number(recipe["iterations"])))
    return (
        '<header>\n<p class="kicker">QRT-TN · lottery report</p>\n'
        f"<h1>{escape(manifest['title'])}</h1>\n"
        f'<p class="lede">Train a network, prune its smallest weights, {_rewinding(results)}, and train '
        "again. If the sparse network learns as well as the dense one, it is a <i>winning ticket</i>; if "
        "fresh weights in its place do worse, the values it began with made it win.</p>\n"
        f"{facts(pairs)}{_notes(results)}\n</header>"
    )


def _rewinding(results: LotteryFolder) -> str:
    """What becomes of the survivors before they train again."""
    if results.manifest.get("rewinding") == "rate":
        return "let the survivors keep their values but give the learning rate its course back"
    return f"give the survivors their {results.kept_values} back"


def _notes(results: LotteryFolder) -> str:
    """What could not be done, as the study says it."""
    notes = [escape(str(note)) for note in results.manifest.get("notes") or []]
    more = [f"{len(notes) - MOST_NOTES} more notes are in manifest.json."] if len(notes) > MOST_NOTES else []
    return "".join(f'\n<p class="note">{note}</p>' for note in notes[:MOST_NOTES] + more)


def headline(results: LotteryFolder) -> str:
    """A tile a level: the ticket's accuracy, large, its rivals', and which parts of the rule hold."""
    found = matches(results)
    if not found:
        return ""
    runs = max(match.ticket.runs for match in found)
    about = "One trial only, so no range is known." if runs == 1 else f"Medians over {runs} trials"
    if runs > 1:
        fresh = max((match.fresh.runs for match in found if match.fresh), default=0)
        about += f" ({fresh} runs of fresh weights)" if fresh > runs else ""
        about += ", the smallest and the largest below them."
    about += (
        " Early stop is the iteration of the smallest validation loss, found after the whole training. "
        "A ticket passes if its accuracy there is no more than 0.3 points below the dense network’s, its "
        "early stop no later, and fresh weights under the same mask are worse in accuracy or speed and "
        "better in neither."
    )
    return section(
        "headline",
        "In short",
        f'<p class="lede">{" ".join(_sentence(match) for match in found)}</p>',
        f'<div class="tiles">\n{"".join(map(_tile, found))}\n</div>',
        f'<p class="note">{about}</p>',
    )


def _sentence(match: Match) -> str:
    """What the ticket of one level does, and the verdict."""
    said = [f"reaches {100 * match.ticket.median:.2f} %"]
    if match.dense is not None:
        said[0] += f", {_above(match.ticket.median - match.dense.median)} the dense network"
    if match.dense_stop is not None and match.ticket_stop is not None and match.dense_stop.median:
        ratio = match.ticket_stop.median / match.dense_stop.median
        when = earlier(ratio)
        said.append("stops at the same time" if when == SAME else f"stops {when}")
    if match.fresh is not None:
        said.append(f"is {_above(match.ticket.median - match.fresh.median)} its mask with fresh weights")
    verdict = "It passes."
    if match.passes is False:
        verdict = f"It does not pass: {_why(match)}."
    elif match.passes is None:
        verdict = "Not all was measured that the rule asks for."
    return f"With {100 * match.share:.3g} % of the weights the ticket {join(said)}. <b>{verdict}</b>".replace(
        " %", "&nbsp;%"
    )


def _why(match: Match) -> str:
    reasons = []
    if match.accurate is False:
        reasons.append("too much accuracy is lost")
    if match.early is False:
        reasons.append("it stops later")
    if match.better_than_fresh is False:
        reasons.append("fresh weights do as well")
    return join(reasons)


def _above(difference: float) -> str:
    points = 100 * abs(difference)
    if points < 0.005:
        return "level with"
    return f"{points:.2f} points {'above' if difference > 0 else 'below'}"


def _tile(match: Match) -> str:
    rows = []
    for method, label, score, stop in (
        ("imp", "winning ticket", match.ticket, match.ticket_stop),
        ("dense", "dense network", match.dense, match.dense_stop),
        ("reinit", "fresh weights", match.fresh, match.fresh_stop),
    ):
        if score is not None:
            dot = f'<span class="swatch" style="background:var(--{method})"></span>'
            accuracy = f"{100 * score.median:.2f} %{_accuracies(score)}"
            rows.append([dot + label, _strong(accuracy, method), _strong(_iterations(stop), method)])
    width = f"{100 * match.share:.3g}"
    percent = f"{100 * match.ticket.median:.2f}"
    return (
        f'<div class="tile">\n<h3>{width} % of the weights left</h3>\n'
        f'<div class="share"><div style="width:{width}%"></div></div>\n'
        f'<p class="big">{percent} %</p>\n'
        f'<p class="of">{method_style("imp").label}, test accuracy at early stop</p>\n'
        f"{table(['', 'accuracy', 'early stop'], rows)}\n{_checks(match)}</div>"
    )


def _strong(cell: str, method: str) -> str:
    head, mark, rest = cell.partition("<small>")
    return f"<b>{head}</b>{mark}{rest}" if method == "imp" else cell


def _accuracies(point: Point) -> str:
    if point.low == point.high:
        return ""
    return f"<small>{100 * point.low:.2f}–{100 * point.high:.2f}</small>"


def _iterations(point: Point | None) -> str:
    if point is None:
        return MISSING
    wide = "" if point.low == point.high else f"<small>{point.low:,.0f}–{point.high:,.0f}</small>"
    return f"{point.median:,.0f}{wide}"


def _checks(match: Match) -> str:
    """The three parts of the rule, each with what was found."""
    lines = []
    found = "" if match.dense is None else f": {points_of(match.ticket.median - match.dense.median)}"
    lines.append((match.accurate, f"accuracy against dense{found}"))
    found = ""
    if match.dense_stop is not None and match.ticket_stop is not None and match.dense_stop.median:
        found = f": {earlier(match.ticket_stop.median / match.dense_stop.median)}"
    lines.append((match.early, f"early stop against dense{found}"))
    found = "" if match.fresh is None else f": {points_of(match.ticket.median - match.fresh.median)}"
    if match.fresh_stop is not None and match.ticket_stop is not None and match.fresh_stop.median:
        found += f", {earlier(match.ticket_stop.median / match.fresh_stop.median)}"
    lines.append((match.better_than_fresh, f"against fresh weights{found}"))
    words = {True: "held", False: "failed", None: "unknown"}
    items = ""
    for held, text in lines:
        unknown = ", not measured" if held is None else ""
        items += f'<li class="{words[held]}"><i>{MARKS[held]}</i>{text}{unknown}</li>'
    return f'<ul class="checks">{items}</ul>'
