"""Criteria against random pruning: differences paired by network, their ranges, and a verdict for each cell.

Networks of one seed share everything but which experts are gone. So the accuracy of a criterion is compared
with the mean of the random draws on the same network. These differences, one a seed, are summed up by their
median and their whole range; with the few seeds of such studies no test of significance is made of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from qrt_tn.studies.report.moe.folder import MoeFolder
from qrt_tn.studies.report.moe.names import CHANGE, MERGE, MODES, RANDOM

ACCURACY = "accuracy"
FINETUNED = "finetuned_accuracy"
_TIE = 1e-9  # what means of equal accuracies may differ by


class Verdict(Enum):
    """How a criterion does against random pruning in one cell."""

    APART = "above, bands apart"
    AHEAD = "above for every seed, bands overlap"
    UNDECIDED = "undecided"
    BEHIND = "below for every seed, bands overlap"
    BELOW = "below, bands apart"

    @property
    def beats(self) -> bool:
        """Whether it is above random for every seed."""
        return self in (Verdict.APART, Verdict.AHEAD)

    @property
    def loses(self) -> bool:
        """Whether it is below random for every seed."""
        return self in (Verdict.BEHIND, Verdict.BELOW)


@dataclass(frozen=True)
class Sample:
    """Numbers of one kind, one for each seed.

    Attributes:
        values: by seed, in ascending order of the seeds.
    """

    values: tuple[float, ...]

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def median(self) -> float:
        """Their median."""
        return float(np.median(self.values))

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.values)


@dataclass(frozen=True)
class Cell:
    """All criteria at one router kind, mode and number of pruned experts.

    Attributes:
        router: the router kind.
        mode: the mode of removal; "merge" counts as a criterion in each of the others.
        pruned: experts pruned in each layer.
        ratio: what share of the experts that is.
        accuracies: of each criterion but random, over the seeds.
        draws: accuracies of the random draws of each seed, seeds ascending.
        differences: of each criterion, its accuracy minus the mean of the draws on the same network.
    """

    router: str
    mode: str
    pruned: int
    ratio: float
    accuracies: dict[str, Sample]
    draws: tuple[tuple[float, ...], ...]
    differences: dict[str, Sample]

    @property
    def noise(self) -> tuple[float, float]:
        """The lowest and the highest draw minus the mean of the draws on its network."""
        apart = [value - float(np.mean(draws)) for draws in self.draws for value in draws]
        return min(apart), max(apart)

    def verdict(self, criterion: str = CHANGE) -> Verdict | None:
        """How a criterion does; None where it, or random pruning, was not measured.

        One seed has no range, so it decides nothing.
        """
        paired = self.differences.get(criterion)
        if paired is None:
            return None
        own, draws = self.accuracies[criterion], [value for part in self.draws for value in part]
        if paired.count > 1 and paired.low > _TIE:
            return Verdict.APART if own.low > max(draws) + _TIE else Verdict.AHEAD
        if paired.count > 1 and paired.high < -_TIE:
            return Verdict.BELOW if own.high < min(draws) - _TIE else Verdict.BEHIND
        return Verdict.UNDECIDED

    def ranked(self) -> list[tuple[str, Sample]]:
        """The criteria by median difference, the best first; equal ones in the order of the file."""
        return sorted(self.differences.items(), key=lambda item: -item[1].median)

    def best(self) -> list[str]:
        """Those of the largest median difference, if that is above 0; none where random is as good.

        Merging, which drops no column and is measured once for all modes, is none of them beside others.
        """
        found = {name: paired for name, paired in self.differences.items() if name != MERGE}
        found = found or self.differences
        most = max((paired.median for paired in found.values()), default=0.0)
        if most <= _TIE:
            return []
        return [name for name, paired in found.items() if paired.median >= most - _TIE]

    def merging_leads(self) -> bool | None:
        """Whether merging is above all that drop experts, in the median; None where it was not measured."""
        others = [paired.median for name, paired in self.differences.items() if name != MERGE]
        if MERGE not in self.differences or not others:
            return None
        return self.differences[MERGE].median > max(others) + _TIE


def cells(results: MoeFolder, column: str = ACCURACY) -> list[Cell]:
    """Every router kind, mode and number of pruned experts, in this order.

    Args:
        results: the study.
        column: ACCURACY, or FINETUNED for the accuracy after fine-tuning of what pruning left.
    """
    found: dict[tuple[str, str, int], dict[str, dict[int, list[float]]]] = {}
    ratios: dict[tuple[str, int], float] = {}
    present = modes(results)
    for row in results.pruned:
        if row[column] is None or not row["pruned"]:
            continue
        ratios[row["router"], row["pruned"]] = row["ratio"]
        for mode in present if row["mode"] == MERGE else [row["mode"]]:
            criteria = found.setdefault((row["router"], mode, row["pruned"]), {})
            criteria.setdefault(row["criterion"], {}).setdefault(row["seed"], []).append(row[column])
    order = {mode: place for place, mode in enumerate(present)}
    routers = {router: place for place, router in enumerate(results.routers)}
    keys = sorted(found, key=lambda key: (routers[key[0]], order[key[1]], key[2]))
    # what has no line of its own mode there, only merging, is no cell
    return [
        _cell(*key, ratios[key[0], key[2]], found[key])
        for key in keys
        if set(found[key]) != {MERGE} or present == [MERGE]
    ]


def modes(results: MoeFolder) -> list[str]:
    """The modes of removal, those known first; merging only where there is no other."""
    seen = dict.fromkeys(row["mode"] for row in results.pruned)
    found = [mode for mode in (*MODES, *(mode for mode in seen if mode not in MODES)) if mode in seen]
    return [mode for mode in found if mode != MERGE] or found


def _cell(
    router: str, mode: str, pruned: int, ratio: float, criteria: dict[str, dict[int, list[float]]]
) -> Cell:
    drawn = criteria.get(RANDOM, {})
    accuracies, differences = {}, {}
    for name, by_seed in criteria.items():
        if name == RANDOM:
            continue
        scores = {seed: float(np.mean(by_seed[seed])) for seed in sorted(by_seed)}
        accuracies[name] = Sample(tuple(scores.values()))
        paired = [score - float(np.mean(drawn[seed])) for seed, score in scores.items() if seed in drawn]
        if paired:
            differences[name] = Sample(tuple(paired))
    draws = tuple(tuple(drawn[seed]) for seed in sorted(drawn))
    return Cell(router, mode, pruned, ratio, accuracies, draws, differences)


def best_overall(found: Iterable[Cell]) -> str | None:
    """The criterion whose median differences are largest on average, of those measured in all the cells.

    Without random pruning to compare with, the one whose median accuracies are.

    Args:
        found: cells of one router kind and mode.

    Returns:
        Its name; None where no criterion is in all of them.
    """
    group = list(found)
    compared = all(cell.differences for cell in group)
    columns = [cell.differences if compared else cell.accuracies for cell in group]
    shared = [name for name in (columns[0] if columns else {}) if all(name in column for column in columns)]
    if not shared:
        return None
    return max(shared, key=lambda name: float(np.mean([column[name].median for column in columns])))


def panels_of(found: Iterable[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """The cells of each router kind and mode, few experts pruned first."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell.router, cell.mode), []).append(cell)
    return groups
