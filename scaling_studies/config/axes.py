"""The values of an axis: a list, a range, or a range in equal ratios."""

import math
from collections.abc import Mapping
from typing import Any

from qrt_tn.studies.config.messages import unknown

MOST = 1_000_000  # values of one axis
LEAST, GREATEST = 1e-150, 1e150
_FORMS = ("range", "log_range")


def axis_values(name: str, given: Any, *, whole: bool) -> list[Any]:
    """The values that an axis asks for, in order.

    Args:
        name: of the axis, for messages.
        given: a list; `{range = [first, last], step = s}` or `count = n` in its place, both ends included;
            `{log_range = [first, last], count = n}`.
        whole: the parameter takes whole numbers only: values in between are rounded, and each is kept once.

    Raises:
        ValueError: no values, a value twice, or a range that cannot be.
    """
    if isinstance(given, list):
        values = given
    elif isinstance(given, Mapping):
        values = _between(name, given, whole)
    else:
        raise ValueError(f"{name} is {given!r}; give a list, or a table such as {{range = [1, 9], step = 2}}")
    if not values:
        raise ValueError(f"{name} has no values, so the study has no points; give at least one")
    texts = [repr(value) for value in values]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"{name} has {twice} twice; give each value once")
    return values


def _between(name: str, given: Mapping[str, Any], whole: bool) -> list[Any]:
    """A range as its values."""
    for key in given:
        if key not in (*_FORMS, "step", "count"):
            raise ValueError(unknown(f"key in {name}", key, (*_FORMS, "step", "count")))
    forms = [form for form in _FORMS if form in given]
    if len(forms) != 1:
        raise ValueError(f"{name} must have one of range and log_range, such as {{range = [1, 9], step = 2}}")
    ends = given[forms[0]]
    if not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_finite, ends))):
        raise ValueError(f"{name}.{forms[0]} is {ends!r}; give two numbers, [first, last]")
    first, last = ends
    if not first < last:
        raise ValueError(f"{name}.{forms[0]} is {ends!r}; the second number must be larger than the first")
    values = [first, *(_in_ratios if forms[0] == "log_range" else _in_steps)(name, given, first, last)]
    if whole:
        return list(dict.fromkeys(round(value) for value in values))
    return [float(value) for value in values]


def _in_ratios(name: str, given: Mapping[str, Any], first: float, last: float) -> list[float]:
    """All values but the first."""
    if "step" in given:
        raise ValueError(f"{name} has a step beside log_range; give count instead")
    if first <= 0:
        raise ValueError(f"{name}.log_range is {[first, last]!r}; both numbers must be above 0")
    count = _count(name, given)
    logs = math.log(first), math.log(last)
    inside = (math.exp(logs[0] + (logs[1] - logs[0]) * k / (count - 1)) for k in range(1, count - 1))
    return [*map(_plain, inside), last]


def _in_steps(name: str, given: Mapping[str, Any], first: float, last: float) -> list[float]:
    """All values but the first."""
    if ("step" in given) == ("count" in given):
        raise ValueError(f"{name} must have one of step and count beside range")
    if "count" in given:
        count = _count(name, given)
        step = (last - first) / (count - 1)
        return [*(_plain(first + k * step, step) for k in range(1, count - 1)), last]
    step = given["step"]
    if not _is_finite(step) or step <= 0:
        raise ValueError(f"{name}.step is {step!r}; give a number above 0")
    count = math.floor((last - first) / step * (1 + 1e-12)) + 1
    if count > MOST:
        raise ValueError(f"{name} has {count:,} values; at most {MOST:,} can be")
    values = [_plain(first + k * step, step) for k in range(1, count)]
    if values and abs(values[-1] - last) < 1e-9 * step:
        values[-1] = last
    return values


def _plain(value: float, step: float = 0.0) -> float:
    """A value to twelve digits: 0.1 + 2 * 0.1 is the 0.3 that somebody else writes out, on any machine.

    What is left of a step when a range passes zero is zero; whole numbers among steps stay.
    """
    if step and float(value).is_integer():
        return float(value)
    return 0.0 if abs(value) < 1e-9 * step else float(f"{value:.12g}")


def _count(name: str, given: Mapping[str, Any]) -> int:
    count = given.get("count")
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST:
        raise ValueError(f"{name}.count is {count!r}; give a whole number from 2 to {MOST:,}")
    return count


def _is_finite(value: Any) -> bool:
    """Whether it is a number of ordinary size: sums and ratios of two such are finite too."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value == 0 or LEAST < abs(value) < GREATEST)
