"""The figures of Frankle and Carbin (ICLR 2019, arXiv 1803.03635) beside those of a run.

Figures of the final text and of its first public version (OpenReview) differ, so both are given. Those
that we have from memory only, and could not check against the text, are marked as such.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from qrt_tn.studies.report.html import MISSING, number, table
from qrt_tn.studies.report.lottery.folder import LotteryFolder
from qrt_tn.studies.report.lottery.series import Point, Points, falls_below

# A round prunes 20 %: a level counts as that of the paper if it is less than half a round away.
HALF_A_ROUND = 0.8**-0.5
UNVERIFIED = '<sup title="from memory, not checked against the paper">†</sup>'
SAME = "no difference"
ACCURACY, STOP = "early_test_accuracy", "early_iteration"
# Data, iterations, and whether the iterations are from memory.
SETTINGS = {
    "lenet": ("MNIST", 50_000, False),
    "conv2": ("CIFAR-10", 20_000, False),
    "conv4": ("CIFAR-10", 25_000, False),
    "conv6": ("CIFAR-10", 30_000, False),
    "resnet20": ("CIFAR-10", 30_000, True),
    "vgg19": ("CIFAR-10", 112_000, True),
}


@dataclass(frozen=True)
class Claim:
    """One figure of the paper.

    Attributes:
        what: what it measures, HTML.
        final: its value in the final text; empty where it is not there, or not known to us.
        first: likewise, in the first public version.
        ours: what the run gives, or a dash.
        from_memory: whether `final` is from memory, unverified.
    """

    what: str
    final: str
    first: str
    ours: Callable[[LotteryFolder], str]
    from_memory: bool = False


def claims(results: LotteryFolder) -> tuple[Claim, ...]:
    """What the paper says of the network that was pruned; its abstract's claim is the last."""
    architecture = results.architecture
    if architecture == "lenet":
        own = LENET
    elif architecture in CONVOLUTIONS:
        own = _convolution(*CONVOLUTIONS[architecture])
    else:
        own = DEEP.get(architecture, ())
    return (*own, ABSTRACT)


def comparison(results: LotteryFolder) -> str:
    """The table of claims, and below it the settings of both."""
    rows = []
    for claim in claims(results):
        final = f"{claim.final}{UNVERIFIED if claim.from_memory else ''}" if claim.final else MISSING
        rows.append([claim.what, f"<b>{claim.ours(results)}</b>", final, claim.first or MISSING])
    rows = [[cell.replace(" %", "&nbsp;%").replace(" ×", "&nbsp;×") for cell in row] for row in rows]
    body = table(["", "ours", "paper,<br>final text", "paper,<br>first version"], rows)
    return body + f'<p class="note">{_settings(results)}</p>'


def _settings(results: LotteryFolder) -> str:
    data, recipe = results.manifest["dataset"], results.recipe
    batch = f" in batches of {number(recipe['batch_size'])}" if recipe.get("batch_size") else ""
    points = f", {number(data['train'])} training points" if data.get("train") else ""
    runs = f"{number(results.trials)} trial{'s' if results.trials > 1 else ''}"
    ours = f"Ours: {escape(data['name'])}{points}, {number(recipe['iterations'])} iterations{batch}, {runs}."
    paper, other = "", ""
    memory = any(claim.from_memory for claim in claims(results))
    if results.architecture in SETTINGS:
        name, iterations, unverified = SETTINGS[results.architecture]
        memory = memory or unverified
        paper = f" The paper’s: {name}, {number(iterations)}{UNVERIFIED if unverified else ''} iterations."
        differs = []
        if _plain(name) != _plain(data["name"]):
            differs.append("other data")
        if abs(recipe["iterations"] / iterations - 1) > 0.01:
            times = "fewer" if recipe["iterations"] < iterations else "more"
            differs.append(f"{times} iterations")
        if differs:
            other = f" <b>{' and '.join(differs).capitalize()} than the paper’s: no reproduction.</b>"
    how = (
        " Ours are means over the trials, as the paper’s are (the headline has medians), where a level lies "
        "within half a round of pruning of the share named; a dash stands where none does."
    )
    mark = f" {UNVERIFIED} From memory, not checked against the paper." if memory else ""
    return ours + paper + other + how + mark


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _pairs(results: LotteryFolder, method: str, column: str) -> tuple[Point | None, Points]:
    """The dense network, and a method at its levels of at least one round."""
    found = results.points(method, column)
    return results.points("dense", column).get(0), {at: point for at, point in found.items() if at > 0}


def _near(results: LotteryFolder, share: float) -> int | None:
    return results.level_near(share, within=HALF_A_ROUND)


def _at(results: LotteryFolder, level: int, share: float) -> str:
    """Names the share that was measured, where it differs from the paper's."""
    own = 100 * results.share(level)
    return "" if abs(own - 100 * share) < 0.06 else f" at {_percent(own / 100)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def points_of(difference: float) -> str:
    """A difference of accuracies in percentage points."""
    return f"{number(100 * difference, 2, signed=True)} points"


def earlier(ratio: float) -> str:
    """How much earlier one iteration is than another, from their ratio."""
    percent = round(100 * abs(1 - ratio))
    return SAME if not percent else f"{percent} % {'earlier' if ratio < 1 else 'later'}"


def _stop(share: float) -> Callable[[LotteryFolder], str]:
    def ours(results: LotteryFolder) -> str:
        dense, tickets = _pairs(results, "imp", STOP)
        level = _near(results, share)
        if dense is None or level not in tickets or not dense.mean:
            return MISSING
        return earlier(tickets[level].mean / dense.mean) + _at(results, level, share)

    return ours


def _gain(share: float) -> Callable[[LotteryFolder], str]:
    def ours(results: LotteryFolder) -> str:
        dense, tickets = _pairs(results, "imp", ACCURACY)
        level = _near(results, share)
        if dense is None or level not in tickets:
            return MISSING
        return points_of(tickets[level].mean - dense.mean) + _at(results, level, share)

    return ours


def _fresh_stop(results: LotteryFolder) -> str:
    level = _near(results, 0.211)
    tickets, fresh = results.points("imp", STOP), results.points("reinit", STOP)
    if level not in tickets or level not in fresh or not tickets[level].mean:
        return MISSING
    return f"{fresh[level].mean / tickets[level].mean:.2f} ×{_at(results, level, 0.211)}"


def _fresh_gain(results: LotteryFolder) -> str:
    level = _near(results, 0.211)
    tickets, fresh = results.points("imp", ACCURACY), results.points("reinit", ACCURACY)
    if level not in tickets or level not in fresh:
        return MISSING
    return points_of(tickets[level].mean - fresh[level].mean) + _at(results, level, 0.211)


def _falls(method: str) -> Callable[[LotteryFolder], str]:
    def ours(results: LotteryFolder) -> str:
        dense, found = _pairs(results, method, ACCURACY)
        if dense is None or not found:
            return MISSING
        share = falls_below(found, dense.mean)
        last = min(point.remaining for point in found.values())
        return f"not by {_percent(last)}" if share is None else _percent(share)

    return ours


def _above(method: str) -> Callable[[LotteryFolder], str]:
    """Down to which share a method's accuracy is that of the dense network or better."""

    def ours(results: LotteryFolder) -> str:
        dense, found = _pairs(results, method, ACCURACY)
        if dense is None or not found:
            return MISSING
        good = [point.remaining for point in found.values() if point.mean >= dense.mean]
        if method == "imp":
            return _down_to(good)
        ends = list(dict.fromkeys(_percent(end) for end in (max(good), min(good)))) if good else []
        return " to ".join(ends) or "at no level"

    return ours


def _down_to(shares: list[float]) -> str:
    return f"down to {_percent(min(shares))}" if shares else "at no level"


def _oneshot_stop(results: LotteryFolder) -> str:
    dense, found = _pairs(results, "oneshot", STOP)
    if dense is None or not found:
        return MISSING
    return _down_to([point.remaining for point in found.values() if point.mean <= dense.mean])


def _best_stop(results: LotteryFolder) -> str:
    dense, found = _pairs(results, "imp", STOP)
    able = [point for point in found.values() if point.mean > 0]
    if dense is None or not able:
        return MISSING
    best = min(able, key=lambda point: point.mean)
    return f"{dense.mean / best.mean:.2f} × at {_percent(best.remaining)}"


def _best_gain(results: LotteryFolder) -> str:
    dense, found = _pairs(results, "imp", ACCURACY)
    if dense is None or not found:
        return MISSING
    best = max(found.values(), key=lambda point: point.mean)
    return f"{points_of(best.mean - dense.mean)} at {_percent(best.remaining)}"


def _smallest_ticket(results: LotteryFolder) -> str:
    dense, found = _pairs(results, "imp", ACCURACY)
    dense_stop, stops = _pairs(results, "imp", STOP)
    if dense is None or dense_stop is None or not found:
        return MISSING
    good = [
        point.remaining
        for level, point in found.items()
        if point.mean >= dense.mean and level in stops and stops[level].mean <= dense_stop.mean
    ]
    return _percent(min(good)) if good else "none found"


def _accuracy(share: float, learning_rate: float) -> Callable[[LotteryFolder], str]:
    def ours(results: LotteryFolder) -> str:
        level = _near(results, share)
        ends = results.points("imp", "final_test_accuracy")
        if results.recipe.get("learning_rate") != learning_rate or level not in ends:
            return MISSING
        return f"{100 * ends[level].mean:.1f} %{_at(results, level, share)}"

    return ours


def _tickets_at_rate(learning_rate: float, warmed: bool | None) -> Callable[[LotteryFolder], str]:
    def ours(results: LotteryFolder) -> str:
        recipe = results.recipe
        other = recipe.get("learning_rate") != learning_rate
        if other or (warmed is not None and bool(recipe.get("warmup")) != warmed):
            return MISSING
        return _smallest_ticket(results)

    return ours


LENET: tuple[Claim, ...] = (
    Claim("early stop of the ticket at 21.1 %, against dense", "38 % earlier", "27 % earlier", _stop(0.211)),
    Claim("accuracy of the ticket at 13.5 %, against dense", "more than +0.3 points", "", _gain(0.135)),
    Claim("accuracy of the ticket at 17 %, against dense", "", "more than +0.4 points", _gain(0.169)),
    Claim("accuracy of the ticket no lower than that of dense", "", "down to 3.5 %", _above("imp")),
    Claim("accuracy of the ticket falls below dense from", "", "2.9 %", _falls("imp")),
    Claim("accuracy of fresh weights falls below dense from", "", "26.3 %", _falls("reinit")),
    Claim("early stop of fresh weights over the ticket’s at 21.1 %", "2.51 ×", "2.44 ×", _fresh_stop),
    Claim("accuracy of the ticket over fresh weights at 21.1 %", "+0.5 points", "+0.5 points", _fresh_gain),
    Claim("one-shot tickets are as fast (ours: as dense)", "", "down to 22 %", _oneshot_stop),
    Claim("one-shot tickets are more accurate (ours: than dense)", "", "52 % to 10 %", _above("oneshot")),
)
# (speed-up, gain) of the final text, from memory, then the same of the first version
CONVOLUTIONS = {
    "conv2": ("3.5 × at 8.8 %", "+3.4 points at 4.6 %", "3.91 × at 5.7 %", "+3.5 points at 11.0 %"),
    "conv4": ("3.5 × at 9.2 %", "+3.5 points at 11.1 %", "4.17 × at 9.2 %", "+2.6 points at 7.7 %"),
    "conv6": ("2.5 × at 15.1 %", "+3.3 points at 26.4 %", "2.41 × at 12.6 %", "+3.5 points at 15.1 %"),
}


def _convolution(speed: str, gain: str, first_speed: str, first_gain: str) -> tuple[Claim, ...]:
    return (
        Claim("earliest stop of a ticket, against dense", speed, first_speed, _best_stop, True),
        Claim("highest accuracy of a ticket, against dense", gain, first_gain, _best_gain, True),
        Claim("accuracy of the ticket above that of dense", "", "down to about 2 %", _above("imp")),
    )


DEEP: dict[str, tuple[Claim, ...]] = {
    "resnet20": (
        Claim(
            "accuracy at 27.1 %, learning rate 0.03 with warm-up over 20,000 iterations (ours: at the end)",
            "90.5 %",
            "",
            _accuracy(0.271, 0.03),
        ),
        Claim(
            "smallest ticket at learning rate 0.1",
            "none, even with warm-up",
            "at lower rates only",
            _tickets_at_rate(0.1, None),
        ),
    ),
    "vgg19": (
        Claim(
            "smallest ticket at learning rate 0.1 with warm-up over 10,000 iterations",
            "1.5 %",
            "",
            _tickets_at_rate(0.1, True),
        ),
    ),
}
ABSTRACT = Claim(
    "smallest ticket, as accurate as dense and stopped no later",
    "below 10–20 %",
    "below 10 %",
    _smallest_ticket,
)
