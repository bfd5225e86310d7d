"""Settings: frozen pydantic dataclasses that refuse a wrong value in one line."""

from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar, cast, dataclass_transform

import numpy as np
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen pydantic dataclass: typed fields, whole, each in the range its `Field` gives.

    Lists become tuples, so that settings from a file can be hashed, and NumPy's scalars Python's. A check
    across fields is a `__post_init__` that raises ValueError. Wrong settings raise ValueError with one line:
    the field, its value, and what it should be.

    >>> @settings
    ... class Recipe:
    ...     steps: int = Field(100, gt=0)
    >>> Recipe(steps=0)
    Traceback (most recent call last):
    ValueError: steps is 0; input should be greater than 0
    """
    made: Any = dataclass(cls, frozen=True, config=_STRICT)
    build = made.__init__

    @wraps(build)
    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            build(self, *map(_plain, values), **{name: _plain(value) for name, value in named.items()})
        except ValidationError as error:
            raise ValueError(_message(made, error)) from None

    made.__init__ = init
    return cast(type[T], made)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _message(cls: type, error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    place, known = list(found["loc"]), list(getattr(cls, "__dataclass_fields__", ()))
    if found["type"] == "unexpected_positional_argument":
        return f"{found['input']!r} is one value too many; there are {len(known)} settings"
    if place and isinstance(place[0], int):  # a value without its field's name
        place[0] = known[place[0]]
    where = ".".join(map(str, place))
    if found["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = get_close_matches(where, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
        return f"unknown setting {where!r}; {hint}"
    if found["type"] in ("missing", "missing_argument"):
        return f"{where} is missing; give it"
    said = found["msg"].removeprefix("Value error, ")
    return f"{where} is {found['input']!r}; {said[:1].lower()}{said[1:]}" if where else said
