"""The values of an axis: a list, a range, or a range in equal ratios."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from qrt_tn.studies.config.messages import Table, checked

MOST = 1_000_000  # values of one axis
GREATEST = 1e150  # sums and ratios of two such numbers are finite
Ends = Annotated[list[Annotated[float, Field(gt=-GREATEST, lt=GREATEST)]], Field(min_length=2, max_length=2)]


class _Range(Table):
    range: Ends | None = None
    log_range: Ends | None = None
    step: float | None = Field(None, gt=0, lt=GREATEST)
    count: int | None = Field(None, ge=2, le=MOST)

    @property
    def _ends(self) -> list[float]:
        return self.range or self.log_range or []

    @model_validator(mode="after")
    def _complete(self) -> "_Range":
        if (self.range is None) == (self.log_range is None):
            raise ValueError("give one of range and log_range, such as {range = [1, 9], step = 2}")
        first, last = self._ends
        if not first < last:
            raise ValueError("the second number must be larger than the first")
        if self.log_range and (first <= 0 or self.count is None or self.step is not None):
            raise ValueError("log_range needs numbers above 0, and a count; no step")
        if (self.step is None) == (self.count is None):
            raise ValueError("give one of step and count")
        if self.step is not None and not (last - first) / self.step < MOST:
            raise ValueError(f"it has more than {MOST:,} values")
        return self

    def values(self) -> list[float]:
        """Both ends, the last where the steps meet it, and what is between."""
        first, last = self._ends
        count = self.count or math.floor((last - first) / (self.step or 1) * (1 + 1e-12)) + 1
        if self.log_range:
            low, high = math.log(first), math.log(last)
            inside = [_plain(math.exp(low + (high - low) * k / (count - 1))) for k in range(1, count - 1)]
            return [first, *inside, last]
        step = self.step or (last - first) / (count - 1)
        values = [first, *(_plain(first + k * step, step) for k in range(1, count))]
        if self.count or (count > 1 and abs(values[-1] - last) < 1e-9 * step):
            values[-1] = last
        return values


def axis_values(name: str, given: Any, *, whole: bool) -> list[Any]:
    """The values that an axis asks for, in order.

    Args:
        name: of the axis, for messages.
        given: a list; `{range = [first, last], step = s}` or `count = n` in its place, both ends included;
            `{log_range = [first, last], count = n}`.
        whole: the parameter takes whole numbers only: values in equal ratios are rounded, and each is kept
            once; those of a range must be whole.

    Raises:
        ValueError: no values, a value twice, or a range that cannot be.
    """
    if isinstance(given, list):
        values = given
    elif isinstance(given, Mapping):
        asked = checked(_Range, given, name)
        values = asked.values()
        if whole:
            if asked.range and (broken := [value for value in values if not value.is_integer()]):
                raise ValueError(f"{name} has {broken[0]:g}, and takes whole numbers only; give another step")
            values = list(dict.fromkeys(map(round, values)))
    else:
        raise ValueError(f"{name} is {given!r}; give a list, or a table such as {{range = [1, 9], step = 2}}")
    if not values:
        raise ValueError(f"{name} has no values, so the study has no points; give at least one")
    texts = [repr(value) for value in values]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"{name} has {twice} twice; give each value once")
    return values


def _plain(value: float, step: float = 0.0) -> float:
    """A value to twelve digits: 0.1 + 2 * 0.1 is the 0.3 that somebody else writes out, on any machine.

    What is left of a step when a range passes zero is zero; whole numbers among steps stay.
    """
    if step and value.is_integer():
        return value
    return 0.0 if abs(value) < 1e-9 * step else float(f"{value:.12g}")
