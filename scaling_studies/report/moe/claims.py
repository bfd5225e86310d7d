"""What a mixture-of-experts report says of router change and random pruning, computed from the tables."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from qrt_tn.studies.report.html import join
from qrt_tn.studies.report.moe.comparison import ACCURACY, Cell, Verdict, cells
from qrt_tn.studies.report.moe.folder import MoeFolder
from qrt_tn.studies.report.moe.names import (
    CHANGE,
    CRITERIA,
    RANDOM,
    SHORT_MODES,
    points,
    router_name,
    span_of_points,
    upper,
)


def of_router(results: MoeFolder, router: str, column: str = ACCURACY) -> str:
    """Where router change beats random pruning, is undecided and loses, for one router kind.

    Args:
        results: the study.
        router: which router kind.
        column: accuracy as pruned, or after fine-tuning.

    Returns:
        Sentences in HTML; empty where the two were not both measured.
    """
    own = [cell for cell in cells(results, column) if cell.router == router]
    judged = [(cell, verdict) for cell in own if (verdict := cell.verdict()) is not None]
    if not judged:
        return ""
    groups = {which: [cell for cell, verdict in judged if verdict is which] for which in Verdict}
    apart, ahead = groups[Verdict.APART], groups[Verdict.AHEAD]
    total = len(judged)
    said = [
        f"<b>{upper(escape(router_name(router)))}</b> ({sizes(own)}): router change "
        + (
            f"beats random pruning with bands apart in {len(apart)} of {_cells(total)} ({_where(apart)})."
            if apart
            else f"beats random pruning with bands apart in none of {_cells(total)}."
        )
    ]
    if ahead:
        said.append(
            f"It is above random for every seed, but with bands that overlap, in {len(ahead)} "
            f"({_where(ahead)})."
        )
    rest = total - len(apart) - len(ahead)
    if rest:
        said.append(f"It does not beat random in {rest}: {'; '.join(_failures(groups))}.")
    return " ".join(said)


def _failures(groups: dict[Verdict, list[Cell]]) -> list[str]:
    """The cells in which router change does not beat random, the worst last."""
    said = []
    open_ones = groups[Verdict.UNDECIDED]
    if open_ones:
        one_seed = all(cell.differences[CHANGE].count == 1 for cell in open_ones)
        why = "one seed has no range" if one_seed else "the differences do not all have one sign"
        said.append(f"undecided in {len(open_ones)} ({_where(open_ones)}), since {why}")
    for which, words in (
        (Verdict.BEHIND, "it loses for every seed, with bands that overlap, in"),
        (Verdict.BELOW, "it loses with bands apart in"),
    ):
        if groups[which]:
            said.append(f"{words} {len(groups[which])} ({_where(groups[which])})")
    return said


def _cells(count: int) -> str:
    return "the one cell" if count == 1 else f"{count} cells"


def _where(found: Sequence[Cell]) -> str:
    """The cells by mode: router kept: 2 and 4 pruned; renormalised: 6 pruned."""
    by_mode: dict[str, list[str]] = {}
    for cell in found:
        by_mode.setdefault(cell.mode, []).append(str(cell.pruned))
    return "; ".join(
        f"{escape(SHORT_MODES.get(mode, mode))}: {join(counts)} pruned" for mode, counts in by_mode.items()
    )


def sizes(found: Sequence[Cell]) -> str:
    """How many seeds the differences from random are over, and how many draws random has of each."""
    seeds = sorted({paired.count for cell in found for paired in cell.differences.values()})
    draws = sorted({len(part) for cell in found for part in cell.draws})
    return f"{_some(seeds, 'seed')}, {_some(draws, 'random draw')} each"


def _some(counts: Sequence[int], word: str) -> str:
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{shown} {word}{'' if list(counts) == [1] else 's'}"


def best(results: MoeFolder, router: str, column: str = ACCURACY) -> str:
    """Which criterion has the largest median difference from random in how many cells of a router kind."""
    own = [cell for cell in cells(results, column) if cell.router == router and cell.differences]
    if not own:
        return ""
    counted = Counter(name for cell in own for name in cell.best())
    beaten = sum(not cell.best() for cell in own)
    most = [name for name, count in counted.items() if count == max(counted.values())]
    said = []
    if most:
        tied = " (ties count for each)" if sum(counted.values()) > len(own) - beaten else ""
        said.append(
            f"By median difference from random, {_names(most)} {'is' if len(most) == 1 else 'are each'} "
            f"best in {counted[most[0]]} of {_cells(len(own))}{tied}"
        )
        if CHANGE not in most and any(CHANGE in cell.differences for cell in own):
            said.append(f"router change in {counted[CHANGE] or 'none'}")
    if beaten:
        said.append(f"in {beaten} no criterion is better than random")
    return upper(", ".join(said)) + "." + _merging(own)


def _merging(own: Sequence[Cell]) -> str:
    """How merging does beside the criteria in the first mode; it is one measurement for all modes."""
    leads = {cell.pruned: cell.merging_leads() for cell in own if cell.mode == own[0].mode}
    measured = [pruned for pruned, lead in leads.items() if lead is not None]
    if not measured:
        return ""
    ahead = [str(pruned) for pruned in measured if leads[pruned]]
    where = f"at {join(ahead)} pruned" if ahead else "nowhere"
    mode = escape(SHORT_MODES.get(own[0].mode, own[0].mode))
    return f" Merging is above all of them {where} ({mode}; {len(ahead)} of {len(measured)} numbers)."


def extreme(results: MoeFolder, router: str, column: str = ACCURACY) -> str:
    """The cells in which router change gains most over random, and least."""
    own = [c for c in cells(results, column) if c.router == router and CHANGE in c.differences]
    if not own:
        return ""
    ordered = sorted(own, key=lambda cell: cell.differences[CHANGE].median)
    shown = [ordered[-1]] if len(ordered) == 1 else [ordered[-1], ordered[0]]
    said = []
    for cell, word in zip(shown, ("Its largest", "its smallest"), strict=False):
        paired = cell.differences[CHANGE]
        span = f", {span_of_points(paired.low, paired.high)} over the seeds" if paired.count > 1 else ""
        said.append(f"{word} median difference is {points(paired.median)} points ({_where([cell])}{span})")
    return "; ".join(said) + "."


def _names(criteria: Sequence[str]) -> str:
    return join([escape(CRITERIA.get(name, name)) for name in criteria])


def has_random(results: MoeFolder) -> bool:
    """Whether random pruning, which all is compared with, was run."""
    return any(row["criterion"] == RANDOM and row["pruned"] for row in results.pruned)
