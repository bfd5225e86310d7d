"""What a mixture-of-experts report says of savings, the theory and ridgelets, computed from the tables."""

from collections.abc import Sequence
from html import escape

import numpy as np

from qrt_tn.studies.report.html import join, number
from qrt_tn.studies.report.moe import ridgelet_panels, savings_panels, theory_panels
from qrt_tn.studies.report.moe.comparison import Sample
from qrt_tn.studies.report.moe.folder import MoeFolder
from qrt_tn.studies.report.moe.names import CHANGE, MODES, RANDOM, percent, router_name, upper


def saved(results: MoeFolder) -> list[str]:
    """A sentence a measured network: what is saved with most experts pruned, in its fastest mode."""
    said = []
    items = [item for item in savings_panels.savings(results) if item.pruned and "latency" in item.relative]
    for router, experts in dict.fromkeys((item.router, item.experts) for item in items):
        own = [item for item in items if (item.router, item.experts) == (router, experts)]
        most = max(item.pruned for item in own)
        chosen = min(
            (item for item in own if item.pruned == most), key=lambda item: item.relative["latency"][1]
        )
        low, middle, high = chosen.relative["latency"]
        of = f" of {experts}" if experts else ""
        ratio = f"{middle:.2g} × the time of the unpruned network (interval {low:.2g} to {high:.2g})"
        took = {
            "faster": f"a batch takes {ratio}",
            "slower": f"a batch is slower: it takes {ratio}",
            "level": f"no time is saved beyond the noise: a batch takes {ratio}",
        }[chosen.verdict]
        counted = [
            f"{chosen.relative[name][1]:.2g} × the {word}"
            for name, word in (("bytes", "bytes"), ("flops", "operations"))
            if name in chosen.relative
        ]
        mode = escape(MODES.get(chosen.mode, chosen.mode))
        said.append(
            f"{upper(escape(router_name(router)))}, {most}{of} experts pruned in each layer ({mode}): {took}"
            + (f", with {join(counted)}." if counted else ".")
        )
    return said


def exponents(results: MoeFolder) -> list[str]:
    """A sentence a fitted exponent, beside the prediction, and one on whether the two kinds are separate."""
    rows = results.theory_scaling
    if not rows:
        return []
    apart = sum(row["relevant_min"] > row["others_max"] for row in rows)
    runs = f"all {len(rows)}" if apart == len(rows) else f"only {apart} of {len(rows)}"
    said = [f"In {runs} runs of the theory’s model every relevant expert changes more than any other."]
    failed = sum(row["relevant_min"] <= 0 for row in rows)
    if failed:
        said.append(
            f"In {failed} of {len(rows)} runs a relevant expert’s change is not above 0, against the theory."
        )
    for fit in theory_panels.exponents(results):
        what = theory_panels.QUANTITIES[fit.name][0]
        measured = f"{_signed(fit.slope)} (95 % interval {_signed(fit.low)} to {_signed(fit.high)})"
        said.append(f"{upper(what)} goes with d to the power {measured}; {_against(fit)}.")
    return said


def _against(fit: theory_panels.Exponent) -> str:
    if fit.name == theory_panels.RELEVANT:
        if fit.agrees:
            return "the theory says at least of order 1, which the interval allows"
        return "the theory says at least of order 1, and this falls: it contradicts the theory"
    bound = "the theory’s bound for large d is −1/2"
    if fit.agrees is None:
        return f"{bound}, which the interval holds: no contradiction"
    if fit.agrees:
        return f"{bound}, and this is steeper, as a bound allows"
    return f"{bound}, and between these d it falls more slowly"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def limits(results: MoeFolder) -> list[str]:
    """Up to which ratio pruning by router change holds the accuracy, beside the predicted limits."""
    said = []
    given = theory_panels.limits(results)
    steps = theory_panels.steps(results)
    for after in [steps[0], steps[-1]] if len(steps) > 1 else steps:
        curve = theory_panels.curve(results, CHANGE, after)
        held = theory_panels.held_until(curve)
        surely = theory_panels.held_until(curve, every_seed=True)
        if held is None or surely is None:
            continue
        when = (
            f"With {after} steps of fine-tuning after pruning"
            if after
            else "Without fine-tuning after pruning"
        )
        text = (
            f"{when}, router change holds the accuracy of the whole model ({percent(curve[0].median)} %, "
            f"within one point) in median up to a ratio of {held:.2g} and for every seed up to {surely:.2g}"
        )
        limit = given.get("with" if after else "without")
        if limit is not None:
            reach = max((ratio for ratio in curve if ratio <= limit + 1e-9), default=0.0)
            verdict = (
                "which every seed reaches"
                if surely >= reach
                else "which the median reaches, but not every seed"
                if held >= reach
                else "which it does not reach"
            )
            constant = " (1 − 2/k; the theorem leaves its constant open)" if after else ""
            text += f"; predicted is {limit:.3g}{constant}, {verdict}"
        other = theory_panels.held_until(theory_panels.curve(results, RANDOM, after))
        said.append(
            text + (f". Random pruning holds it in median up to {other:.2g}." if other is not None else ".")
        )
    return said


def ridgelets(results: MoeFolder) -> list[str]:
    """How many rank correlations leave 0 out, and which; whether mass prunes better than random."""
    found = ridgelet_panels.correlations(results.ridgelet_correlation)
    said = []
    if found:
        signs = {sign: [item for item in found if item.sign == sign] for sign in (1, -1, 0, None)}
        defined = len(found) - len(signs[None])
        parts = []
        for sign, words in ((1, "above 0"), (-1, "below 0")):
            if signs[sign]:
                parts.append(f"{_band(len(signs[sign]))} {words} ({_which(signs[sign])})")
        if signs[0]:
            parts.append(f"for {len(signs[0])} the band holds 0: no evidence")
        what = "ridgelet mass before training with router change after"
        if len(signs[0]) == defined > 1:
            said.append(f"The bands of all {defined} rank correlations of {what} hold 0: no evidence.")
        elif parts:
            chance = f"about {defined / 20:.0f} would" if defined >= 30 else "one or two may"
            said.append(
                f"Of {defined} rank correlations of {what}, {'; '.join(parts)}. Of so many 95 % bands "
                f"{chance} leave 0 out by chance."
                if defined > 1
                else f"Of the one rank correlation of {what}, {parts[0]}."
            )
        if signs[None]:
            said.append(f"{len(signs[None])} of {len(found)} correlations are not defined.")
    return said + _by_mass(results)


def _band(count: int) -> str:
    return "1 has its band" if count == 1 else f"{count} have their bands"


def _which(found: Sequence[ridgelet_panels.Correlation]) -> str:
    return ", ".join(
        f"{escape(item.init)} with {escape(item.measure)}: {number(item.value, 2, signed=True)}"
        for item in found
    )


def mass_against_random(results: MoeFolder) -> dict[str, Sample]:
    """Accuracy with experts pruned by mass minus that at random, by initialisation, over the seeds."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in results.ridgelet_accuracy:
        if row["trained"]:
            by_seed = values.setdefault((row["init"], row["pruned_by"]), {})
            by_seed.setdefault(row["seed"], []).append(row["accuracy"])
    found = {}
    for init in dict.fromkeys(init for init, _ in values):
        mass, drawn = values.get((init, "mass"), {}), values.get((init, RANDOM), {})
        paired = [float(np.mean(mass[s]) - np.mean(drawn[s])) for s in sorted(mass) if s in drawn]
        if paired:
            found[init] = Sample(tuple(paired))
    return found


def _by_mass(results: MoeFolder) -> list[str]:
    found = mass_against_random(results)
    if not found:
        return []
    groups: dict[str, list[str]] = {"above": [], "below": [], "undecided": []}
    for init, paired in found.items():
        side = "undecided"
        if paired.count > 1 and (paired.low > 1e-9 or paired.high < -1e-9):
            side = "above" if paired.low > 0 else "below"
        groups[side].append(escape(init))
    words = {"above": "above random for every seed with", "below": "below random for every seed with"}
    words["undecided"] = "undecided with"
    parts = [f"{words[side]} {join(names)}" for side, names in groups.items() if names]
    seeds = max(paired.count for paired in found.values())
    return [f"Pruned by mass alone, accuracy is {'; '.join(parts)} ({seeds} seed{'s' if seeds > 1 else ''})."]
