"""The top of a mixture-of-experts report: what was run, and what came out, for and against."""

from html import escape
from typing import Any

from qrt_tn.studies.report.html import facts, number, section, table
from qrt_tn.studies.report.moe import claims, side_claims
from qrt_tn.studies.report.moe.comparison import FINETUNED, Cell, Verdict, cells, panels_of
from qrt_tn.studies.report.moe.folder import MoeFolder
from qrt_tn.studies.report.moe.names import CHANGE, SHORT_MODES, points, router_name, upper

MARKS = {
    Verdict.APART: "▲▲",
    Verdict.AHEAD: "▲",
    Verdict.UNDECIDED: "○",
    Verdict.BEHIND: "▼",
    Verdict.BELOW: "▼▼",
}
DATA_KEYS = ("dataset", "datasets", "data")


def header(results: MoeFolder) -> str:
    """Title, what router-change pruning is, and the sizes of the run."""
    manifest = results.manifest
    pairs = [
        ("routers", escape(", ".join(router_name(router) for router in results.routers))),
        ("seeds", number(results.seeds)),
    ]
    experts = {results.experts(router) for router in results.routers} - {None}
    if experts:
        pairs.append(("experts in a layer", " / ".join(map(str, sorted(experts)))))  # type: ignore[type-var]
    parameters = sorted({row["parameters"] for row in results.networks})
    pairs.append(("parameters", " / ".join(number(int(count)) for count in parameters)))
    criteria = {row["criterion"] for row in results.pruned}
    pairs.append(("criteria", number(len(criteria))))
    pairs += _data(manifest)
    return (
        '<header>\n<p class="kicker">QRT-TN · mixture-of-experts report</p>\n'
        f"<h1>{escape(manifest['title'])}</h1>\n"
        '<p class="lede">Fine-tune a sparse mixture of experts, and take experts out of it. <i>Router '
        "change</i> takes those whose router vectors grew least in fine-tuning. Does that keep more accuracy "
        "than taking them at random, and than other criteria?</p>\n"
        f"{facts(pairs)}\n</header>"
    )


def _data(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and sizes of the data, as the manifest has them."""
    found = next((manifest[key] for key in DATA_KEYS if manifest.get(key)), None)
    if not isinstance(found, dict):
        return [("data", escape(str(found)))] if found else []
    if not any(isinstance(value, dict) for value in found.values()):
        return [("data", _described(found))]
    return [(escape(str(name)), _described(value)) for name, value in found.items()]


def _described(value: Any) -> str:
    if not isinstance(value, dict):
        return escape(str(value))
    sizes = [
        f"{str(name).replace('_', ' ')} {number(size) if isinstance(size, int) else size}"
        for name, size in value.items()
        if name != "name" and isinstance(size, int | str) and not isinstance(size, bool)
    ]
    return escape(": ".join(part for part in (str(value.get("name", "")), ", ".join(sizes)) if part))


def headline(results: MoeFolder) -> str:
    """A tile a router kind with the verdict of every cell, and everything else in a sentence each."""
    found = cells(results)
    tiles = [_tile(router, [c for c in found if c.router == router]) for router in results.routers]
    shown = "\n".join(tile for tile in tiles if tile)
    return section(
        "headline",
        "In short",
        *(f"<p>{text}</p>" for text in _pruned(results)),
        f'<div class="tiles">\n{shown}\n</div>' if shown else "",
        f'<p class="note">{_about(results)}</p>' if shown else "",
        _list(_others(results)),
    )


def _pruned(results: MoeFolder) -> list[str]:
    if not claims.has_random(results):
        return ["Random pruning was not run, so no criterion can be compared with it."]
    said = []
    for router in results.routers:
        text = claims.of_router(results, router)
        if text:
            said.append(f"{text} {claims.extreme(results, router)}")
        best = claims.best(results, router)
        if best:
            kind = "" if text else f"<b>{upper(escape(router_name(router)))}</b>: "
            said.append(f"{kind}{best}")
    return said


def _others(results: MoeFolder) -> list[str]:
    """Fine-tuned, saved, theory, ridgelets: what was run of them."""
    said = []
    for router in results.routers:
        tuned = claims.of_router(results, router, FINETUNED)
        if tuned:
            said.append(f"<b>After fine-tuning.</b> {tuned} {claims.best(results, router, FINETUNED)}")
    parts = {
        "Savings": side_claims.saved(results),
        "Theory, change": side_claims.exponents(results),
        "Theory, accuracy": side_claims.limits(results),
        "Ridgelets": side_claims.ridgelets(results),
    }
    return said + [f"<b>{name}.</b> {' '.join(found)}" for name, found in parts.items() if found]


def _list(items: list[str]) -> str:
    """Sentences as a list, numbers and their units on one line."""
    lines = "".join(f"<li>{item}</li>\n" for item in items)
    return f"<ul>{lines}</ul>".replace(" %", "&nbsp;%").replace(" × ", "&nbsp;× ") if items else ""


def _about(results: MoeFolder) -> str:
    """How the marks are to be read."""
    key = "; ".join(f"{mark} {which.value}" for which, mark in MARKS.items())
    few = (
        "One seed only, so no range is known and nothing is decided."
        if results.seeds == 1
        else f"Ranges are the whole range over {results.seeds} seeds. They are no confidence intervals, and "
        "with so few seeds no test of significance is made."
        if results.seeds < 10
        else f"Ranges are the whole range over {results.seeds} seeds, not confidence intervals."
    )
    return (
        "A cell is a mode of removal and a number of experts pruned in each layer; where no more are left "
        "than a token goes to, dropped and renormalised are one network. Numbers are points of "
        "accuracy: router change minus the mean of the random draws on the same network, median over the "
        f"seeds. {key}. Bands run from the smallest to the largest over seeds, and over draws for random. "
        f"{few}"
    )


def _tile(router: str, found: list[Cell]) -> str:
    """How many cells router change wins with bands apart, large, and each cell's verdict."""
    verdicts = [cell.verdict() for cell in found]
    judged = [verdict for verdict in verdicts if verdict is not None]
    if not judged:
        return ""
    counts = sorted({cell.pruned for cell in found})
    rows = []
    for (_, mode), group in panels_of(found).items():
        by_count = {cell.pruned: cell for cell in group}
        cell_of = [_mark(by_count.get(count)) for count in counts]
        rows.append([escape(SHORT_MODES.get(mode, mode)), *cell_of])
    apart = sum(verdict is Verdict.APART for verdict in judged)
    worse = sum(verdict.loses for verdict in judged)
    return (
        f'<div class="tile">\n<h3>{upper(escape(router_name(router)))}</h3>\n'
        f'<p class="big">{apart} of {len(judged)}</p>\n'
        f'<p class="of">cells in which router change beats random with bands apart; it loses in {worse}</p>\n'
        f"{table(['experts pruned', *map(str, counts)], rows)}</div>"
    )


def _mark(cell: Cell | None) -> str:
    verdict = None if cell is None else cell.verdict()
    if cell is None or verdict is None:
        return "–"
    kind = "held" if verdict.beats else "failed" if verdict.loses else "unknown"
    return f'<i class="{kind}">{MARKS[verdict]}</i><small>{points(cell.differences[CHANGE].median)}</small>'
