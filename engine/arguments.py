"""What callers hand over, made uniform before any work: seeds and arrays."""

import math
from typing import Any

import numpy as np

Seed = int | np.random.Generator


def generator(seed: Seed) -> np.random.Generator:
    """The NumPy generator of an int seed, or the generator itself.

    Raises:
        ValueError: `seed` is neither a non-negative int nor a Generator.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}; give a non-negative int or a numpy.random.Generator")
    return np.random.default_rng(int(seed))


def refuse_partial(values: Any, name: str) -> None:
    """See that an array shows all its entries.

    Raises:
        TypeError: a masked or a sparse array, of which only a part would be seen.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; give .filled(0) of it")
    if hasattr(values, "toarray"):
        raise TypeError(f"{name} is a sparse {type(values).__name__}; give .toarray() of it")


def as_array(values: Any, name: str) -> np.ndarray:
    """`values` as an array.

    Raises:
        ValueError: nested lists of unequal lengths.
        TypeError: a masked or a sparse array.
    """
    refuse_partial(values, name)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} has rows of unequal lengths; every row must have the same length"
        ) from error


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """See that a value is a whole number, at least so large.

    Raises:
        ValueError: it is of another type (a bool too), or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number, at least {least}")
    if value >= 2**63:
        raise ValueError(f"{name} is more than 2**63; give a smaller number")


def is_real(value: Any) -> bool:
    """Whether a value is a real number, and finite; a bool is none."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        return number and math.isfinite(value)
    except OverflowError:  # an int beyond floating point
        return False
