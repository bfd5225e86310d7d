"""Functions compiled for the host by numba, kept on disk where that can be written."""

from collections.abc import Callable
from typing import Any

from numba import njit

# sums may be reordered, so that they vectorise; NaN and infinities keep their meaning
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, to run without Python's lock; once on a machine, if it may be kept."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither beside the source nor in the user's cache: a container, say
        return njit(**_OPTIONS)(function)
