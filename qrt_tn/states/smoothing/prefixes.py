"""Products of the first factors, asked for from the last to the first, without keeping all of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Factor = Callable[[Any], Any]  # product -> product * factor, a new array


def backwards(start: Any, factors: Sequence[Factor], levels: int = 2) -> Iterator[Any]:
    """Yield start * factors[0] * ... * factors[i - 1] for i = D-1, D-2, .., 0.

    Checkpoints: the factors are cut into about D^(1/levels) stretches, the product before each is kept, and
    each stretch is cut again. `held(D, levels)` products are alive at a time, and each factor is multiplied
    in at most `levels` times.
    """
    branching = _branching(len(factors), levels)
    yield from _stretch(start, factors, 0, len(factors), branching)


def held(count: int, levels: int) -> int:
    """How many products `backwards` holds at a time, at most."""
    return levels * (_branching(count, levels) - 1) + 2


def fitting_levels(count: int, size: float, budget: float) -> int:
    """The fewest levels whose products of `size` bytes fit in `budget`; six at most."""
    return next((levels for levels in range(2, 6) if held(count, levels) * size <= budget), 6)


def _branching(count: int, levels: int) -> int:
    branching = max(2, round(count ** (1 / levels)))
    return branching if branching**levels >= count else branching + 1


def _stretch(product: Any, factors: Sequence[Factor], low: int, high: int, branching: int) -> Iterator[Any]:
    if high - low == 1:
        yield product
        return
    step = -(-(high - low) // branching)
    starts = range(low, high, step)
    kept = []
    for place in starts:
        kept.append(product)
        if place != starts[-1]:
            for factor in factors[place : place + step]:
                product = factor(product)
    del product
    for place in reversed(starts):
        yield from _stretch(kept.pop(), factors, place, min(place + step, high), branching)
