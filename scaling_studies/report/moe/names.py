"""What routers, modes, criteria and orders are called in a mixture-of-experts report, and how they look."""

from qrt_tn.studies.report.html import number
from qrt_tn.studies.report.style import METHODS, MUTED, MethodStyle

CHANGE = "router-change"
RANDOM = "random"
MERGE = "merge"  # both a criterion and the only mode it has

ROUTERS = {"token-choice": "token choice", "expert-choice": "expert choice"}
MODES = {
    "keep-router": "expert dropped, router kept",
    "drop-router": "dropped with its router column",
    "renormalize": "dropped, gates renormalised",
    MERGE: "merged",
}
SHORT_MODES = {
    "keep-router": "router kept",
    "drop-router": "router dropped",
    "renormalize": "renormalised",
    MERGE: "merged",
}
CRITERIA = {
    CHANGE: "router change",
    "router-change-abs": "|router change|",
    "router-difference": "router difference",
    "router-norm": "router norm",
    "expert-norm": "expert norm",
    "stable-rank": "stable rank",
    "aimer": "AIMER",
    "frequency": "frequency",
    "gate-mass": "gate mass",
    "activation-sum": "activation sum",
    "activation-mean": "activation mean",
    "weighted-activation": "weighted act.",
    "reap": "REAP",
    "reconstruction": "NAEE",
    MERGE: "merging",
    RANDOM: "random",
}
ORDERS = {CHANGE: "router change", RANDOM: "random", "reversed": "reversed"}

# What a criterion looks at, told by dashes among the muted lines.
_ROUTER, _WEIGHTS, _TOKENS = "-", (0, (4, 1.6)), (0, (1, 1.3))
_DASHES: dict[str, str | tuple[int, tuple[float, ...]]]
_DASHES = dict.fromkeys((CHANGE, "router-change-abs", "router-difference", "router-norm"), _ROUTER)
_DASHES |= dict.fromkeys(("expert-norm", "stable-rank", "aimer"), _WEIGHTS)


def criterion_style(criterion: str, best: str | None = None) -> MethodStyle:
    """How a criterion is named and drawn: router change, random and the best in colour, others muted.

    The colours are those of methods that no panel of this report has, since each has its tone for the dark.

    Args:
        criterion: its name; one that is not known here is called by it.
        best: the criterion that does best in the panel, if one is to be set off.
    """
    label = CRITERIA.get(criterion, criterion)
    if criterion == CHANGE:
        return _of(label, "imp", "-", 2.4)
    if criterion == RANDOM:
        return _of(label, "random", (0, (1, 1.2)), 1.6)
    if criterion == best:
        return _of(label, "random-features", "-", 2.1)
    return MethodStyle(label, MUTED, "#9aa3ae", _DASHES.get(criterion, _TOKENS), "", 0.9)


def line_style(name: str, label: str) -> MethodStyle:
    """The colour of a method of the other reports for a line of another name."""
    style = METHODS[name]
    return _of(label, name, style.dashes, 1.6)


def _of(label: str, name: str, dashes: str | tuple[int, tuple[float, ...]], width: float) -> MethodStyle:
    style = METHODS[name]
    return MethodStyle(label, style.colour, style.dark, dashes, style.marker, width)


def router_name(router: str) -> str:
    """A router kind in running text."""
    return ROUTERS.get(router, router)


def points(difference: float) -> str:
    """A difference of accuracies in percentage points: +1.3."""
    return number(100 * difference, 1, signed=True) if abs(difference) >= 0.0005 else "0.0"


def span_of_points(low: float, high: float) -> str:
    """A range of such differences."""
    return f"{points(low)} to {points(high)}"


def percent(accuracy: float) -> str:
    """An accuracy in percent: 93.4."""
    return f"{100 * accuracy:.1f}"


def upper(text: str) -> str:
    """The text with a capital in front."""
    return text[:1].upper() + text[1:]
