"""Functions compiled for the host by numba, kept on disk where that can be written."""

from collections.abc import Callable
from functools import cached_property, update_wrapper
from types import FunctionType
from typing import Any

# sums may be reordered, so that they vectorise; NaN and infinities keep their meaning
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}


class compiled:  # noqa: N801  a decorator
    """Compile a function at its first call, to run without Python's lock; kept on disk where that can be.

    numba, which takes a while to import, is loaded then. Compiled functions of one file may call each other.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        """Run the compiled function."""
        return self._dispatcher(*arguments)

    @cached_property
    def _dispatcher(self) -> Any:
        from numba import njit

        function = self._function
        names = function.__globals__
        called = {name: names[name] for name in function.__code__.co_names if name in names}
        inner = {name: value._dispatcher for name, value in called.items() if isinstance(value, compiled)}
        # numba reads globals, and there it must find what it has compiled itself
        made = FunctionType(function.__code__, {**names, **inner}, function.__name__, function.__defaults__)
        update_wrapper(made, function)
        try:
            return njit(cache=True, **_OPTIONS)(made)
        except RuntimeError:  # neither beside the source nor in the user's cache: a container, say
            return njit(**_OPTIONS)(made)
