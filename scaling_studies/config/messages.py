"""What is wrong with a study file, in one line: where, the value, and the mend."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Checked = TypeVar("Checked", bound=BaseModel)


class Table(BaseModel):
    """A table of a study file: typed, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def checked(kind: type[Checked], values: Mapping[str, Any], place: str) -> Checked:
    """A table of a file as its class.

    Args:
        kind: the class.
        values: the table.
        place: where it stands, for messages.

    Raises:
        ValueError: what the class refuses, in one line.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(_said(kind, error, place)) from None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest one, or all."""
    choices = list(known)
    near = difflib.get_close_matches(str(name), choices, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices) or 'nothing'}"
    return f"unknown {what} {name!r}; {hint}"


def _said(kind: type[BaseModel], error: ValidationError, place: str) -> str:
    problems = error.errors(include_url=False)
    # a name mistyped is also one missing: the first says more
    found = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location = [str(part) for part in found["loc"]]
    where = ".".join([part for part in (place, *location) if part])
    if found["type"] == "extra_forbidden":
        owner = ".".join(part for part in (place, *location[:-1]) if part)
        inside = f" in {owner}" if owner else ""
        return unknown(f"key{inside}", location[-1], _fields(kind, location[:-1]))
    if found["type"] == "missing":
        return f"{where} is missing; give it"
    message = found["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not where:  # of the whole, which is no value to show
        return message
    return f"{where} is {found['input']!r}: {message[:1].lower()}{message[1:]}"


def _fields(kind: Any, location: Sequence[str]) -> list[str]:
    """The fields of the class that a location inside another leads to."""
    for part in location:
        field = getattr(kind, "model_fields", {}).get(part)
        inner = getattr(field, "annotation", None)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            kind = inner
    return list(getattr(kind, "model_fields", {}))
