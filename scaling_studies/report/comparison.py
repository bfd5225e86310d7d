"""What a ticket run found, in words and numbers: scores, who is ahead of whom, and whether it paid off."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt_tn.studies.experiments.ticket.settings import NODELESS, TICKET
from qrt_tn.studies.report.folder import TicketFolder
from qrt_tn.studies.report.style import method_style
from qrt_tn.studies.report.verdicts import Difference, paired

BLIND = ("random-features", "filter")  # nodes that know nothing of the targets
NAMES = {
    "residual": "tempered residual tickets",
    "qrt": "QRT nodes",
    "filter": "nodes of the filter alone",
    "random-features": "random features",
    "random-features-greedy": "greedy random features",
    "dense": "the dense network",
    "uniform": "uniform nodes",
    "qrt-unsmoothed": "unsmoothed QRT nodes",
    "forest": "a random forest",
    "svm": "an RBF support-vector machine",
    "boosting": "boosted trees",
    "training": "training of all parameters",
}
WIDE = 0.02  # of a score: intervals that reach further say little
MARKS = {"ahead": "✓", "behind": "✗", "tie": "=", "undecided": "?"}


@dataclass(frozen=True)
class Score:
    """A score over seeds: smallest, mean and largest."""

    low: float
    mean: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Gain:
    """The ticket at one node count beside the better of the nodes that know nothing of the targets."""

    nodes: int
    rival: str
    own: Score
    other: Score
    difference: Difference


def name(method: str, results: TicketFolder) -> str:
    """What a method is called in a sentence."""
    if method == "linear":
        return "logistic regression" if results.classification else "ridge regression"
    return NAMES.get(method, method)


def score(results: TicketFolder, method: str, training: str, nodes: int | None) -> Score | None:
    """The test score of a method, or None where it was not measured."""
    values = list(results.values(method, training, nodes).values())
    if not values:
        return None
    return Score(min(values), float(np.mean(values)), max(values), len(values))


def measured(results: TicketFolder) -> Iterator[tuple[str, str, int | None, Score]]:
    """Method, training, node count and score of all that was measured, in the order of the methods."""
    for method in results.methods():
        for training in results.trainings(method):
            for nodes in (None, *results.counts):
                found = score(results, method, training, nodes)
                if found is not None:
                    yield method, training, nodes, found


def against(results: TicketFolder, rival: tuple[str, str, int | None], nodes: int) -> Difference | None:
    """The fitted ticket less a rival, paired over seeds.

    Args:
        results: the run.
        rival: method, training and node count.
        nodes: of the ticket.
    """
    data = results.manifest["dataset"]
    return paired(
        results.values(TICKET, "fitted", nodes),
        results.values(*rival),
        data["test"],
        data["train"] + data["validation"],
        counted=results.classification,
    )


def gains(results: TicketFolder) -> list[Gain]:
    """One for each node count at which the ticket and a blind method were fitted."""
    found = []
    for nodes in results.counts:
        own = score(results, TICKET, "fitted", nodes)
        others = [(method, score(results, method, "fitted", nodes)) for method in BLIND]
        known = [(method, other) for method, other in others if other is not None]
        if own is None or not known:
            continue
        rival, other = max(known, key=lambda pair: pair[1].mean)
        difference = against(results, (rival, "fitted", nodes), nodes)
        if difference is not None:
            found.append(Gain(nodes, rival, own, other, difference))
    return found


def verdict(results: TicketFolder) -> str:
    """In one or two sentences: whether tickets paid off, and with how many nodes."""
    found = gains(results)
    if not found:
        return "No nodes drawn without the targets were run, so there is nothing to compare with."
    by: dict[str, list[Gain]] = {}
    for gain in found:
        by.setdefault(gain.difference.verdict, []).append(gain)
    if "undecided" in by:
        seeds = by["undecided"][0].difference.seeds
        return f"{_seeds(seeds).capitalize()} decide{'s' if seeds == 1 else ''} nothing: run at least three."
    said = []
    if "ahead" in by:
        said.append(f"Tickets paid off {_at(by['ahead'], found)}")
    if "tie" in by:
        at = _at(by["tie"], found)
        said.append(f"{at} it is a tie" if said else f"{at} it is a tie: no difference could be shown")
    if "behind" in by:
        at = _at(by["behind"], found)
        said.append(f"{at} those drawn without the targets are ahead")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def sentences(results: TicketFolder) -> list[str]:
    """By how much, at each node count; who is ahead of the ticket; and what would decide a tie."""
    said: list[str] = []
    found = gains(results)
    for gain in found:
        own, other = percent(gain.own.mean), percent(gain.other.mean)
        rival = name(gain.rival, results)
        verb = "read" if results.classification else "explain"
        what = " of the test points right" if results.classification else " of the variance"
        better = ", the better without the targets," if not said and {*BLIND} <= {*results.methods()} else ""
        first = f"With {gain.nodes:,} nodes tickets {verb} {own}{what if not said else ''}"
        said.append(f"{first}, {rival}{better} {other}: {gap(gain.difference)}.")
    errors = [results.values(TICKET, "fitted", nodes, "rmse").values() for nodes in results.counts]
    if found and all(errors):
        sizes = _listed([f"{np.mean(list(one)):.4g}" for one in errors])
        said.append(f"Root mean square error of tickets in the units of the target: {sizes}.")
    ahead = _ahead(results)
    said += [f"Ahead of tickets of {at}: {_listed(names)}." for at, names in ahead.items()]
    best = best_yardstick(results)
    if best is not None and not any(name(best[0], results) in names for names in ahead.values()):
        verb = "reads" if results.classification else "explains"
        said.append(f"Without nodes, {name(best[0], results)} {verb} {percent(best[1].mean)}.")
    wide = [gain for gain in found if gain.difference.high - gain.difference.low > 2 * WIDE]
    if any(gain.difference.verdict == "tie" for gain in wide):
        said.append("More seeds (--seeds) narrow the intervals.")
    return said


def _ahead(results: TicketFolder) -> dict[str, list[str]]:
    """The methods that are ahead of the fitted ticket, by the node counts at which they are."""
    found: dict[str, list[str]] = {}
    for method in results.methods():
        for training in results.trainings(method):
            counts = []
            for nodes in results.counts:
                rival = (method, training, None if method in NODELESS else nodes)
                difference = None if method == TICKET else against(results, rival, nodes)
                if difference is not None and difference.verdict == "behind":
                    counts.append(f"{nodes:,}")
            if counts:
                every = len(counts) == len(results.counts) > 1
                at = "any number of" if every else _listed(counts)
                found.setdefault(f"{at} nodes", []).append(name(method, results))
    return found


def best_yardstick(results: TicketFolder) -> tuple[str, Score] | None:
    """The method without nodes that has the best mean score."""
    found = [(method, score(results, method, "fitted", None)) for method in NODELESS]
    known = [(method, value) for method, value in found if value is not None]
    return max(known, key=lambda pair: pair[1].mean) if known else None


def percent(value: float) -> str:
    """A score in a sentence, in percent."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%".replace("-", "−")


def gap(difference: Difference) -> str:
    """A difference of two scores in points, with its interval and the verdict."""
    points = f"{100 * difference.mean:+.1f}"
    if difference.verdict == "undecided":
        return f"{points} points in {_seeds(difference.seeds)}".replace("-", "−")
    interval = f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    tie = ", a tie" if difference.verdict == "tie" else ""
    return f"{points} points {interval}{tie}".replace("-", "−")


def summary(results: TicketFolder) -> dict[str, Any]:
    """Scores, differences and verdict as JSON can hold them."""
    scores = []
    for method, training, nodes, found in measured(results):
        row: dict[str, Any] = {"method": method, "training": training, "nodes": nodes}
        row["name"] = label(method, results)
        row |= {"mean": found.mean, "low": found.low, "high": found.high, "seeds": found.seeds}
        rmse = list(results.values(method, training, nodes, "rmse").values())
        if rmse:
            row["rmse"] = float(np.mean(rmse))
        scores.append(row | _beside(results, method, training, nodes))
    return {
        "data": results.manifest["dataset"],
        "score": "accuracy" if results.classification else "R^2",
        "verdict": verdict(results),
        "findings": sentences(results),
        "scores": scores,
        "left_out": results.manifest.get("left_out") or [],
    }


def _beside(results: TicketFolder, method: str, training: str, nodes: int | None) -> dict[str, Any]:
    """The fitted ticket of that count less this method; of a method without nodes, the largest ticket."""
    at = results.counts[-1] if nodes is None else nodes
    if (method, training) == (TICKET, "fitted"):
        return {}
    difference = against(results, (method, training, nodes), at)
    if difference is None:
        return {}
    finite = difference.verdict != "undecided"
    return {
        "ticket_ahead_by": difference.mean,
        "interval": [difference.low, difference.high] if finite else None,
        "ticket_is": difference.verdict,
    }


def label(method: str, results: TicketFolder) -> str:
    """The short name of a method in a table."""
    if method == "linear":
        return "logistic regression" if results.classification else "ridge regression"
    return method_style(method).label


def _at(some: list[Gain], found: list[Gain]) -> str:
    if len(some) == len(found) > 1:
        return "at every node count"
    return f"with {_listed([f'{gain.nodes:,}' for gain in some])} nodes"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"
