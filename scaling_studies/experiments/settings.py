"""Settings of an experiment as a command line gives them: texts "name=value", made values of their fields."""

import typing
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

T = TypeVar("T")


def each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    """A tuple of which no entry comes twice.

    Raises:
        ValueError: one does.
    """
    if len(set(values)) < len(values):
        raise ValueError("name each once")
    return values


def one_of(choices: Sequence[str]) -> AfterValidator:
    """A check that a text is one of some."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"choose from {', '.join(choices)}")
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1)]
EachOnce = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(each_once)]
_WANTED = {int: "a whole number", float: "a number"}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def assignments(
    texts: Sequence[str], hints: Mapping[str, Any], refused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Values by name.

    Names without a hint keep their texts, for the preset to refuse, which knows the nearest name.

    Args:
        texts: each "name=value"; the entries of a tuple by commas, and "none" where None is allowed.
        hints: the type of each field.
        refused: names that are set otherwise, and what to say of them.

    Raises:
        ValueError: a text without "=", a name given twice or refused, or a value of another type.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name:
            raise ValueError(f"--set {text!r} is not of the form name=value, such as batch_size=128")
        if name in (refused or {}):
            raise ValueError((refused or {})[name])
        if name in found:
            raise ValueError(f"{name} is set twice; set it once")
        found[name] = _parsed(name, value, hints.get(name, str))
    return found


def _parsed(name: str, value: str, hint: Any) -> Any:
    """A text as a value of a field's type."""
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return tuple(_parsed(name, part.strip(), kind) for part in value.split(",") if part.strip())
    if typing.get_origin(hint) is typing.Literal:  # whose settings name the choices
        return value
    kinds = typing.get_args(hint) or (hint,)
    if NoneType in kinds and value.lower() == "none":
        return None
    kind = kinds[0]
    if kind is bool:
        if value.lower() not in _TRUTHS:
            raise ValueError(f"{name} is {value!r}; give true or false")
        return _TRUTHS[value.lower()]
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; give {_WANTED.get(kind, 'another value')}") from None
