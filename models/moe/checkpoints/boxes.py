"""Boxes, the parts of an array that a checkpoint's chunks hold: cut an array, check that they cover it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

MAX_CHUNKS = 2**12  # of one array: the check looks at all pairs of them

Box = tuple[tuple[int, int], ...]  # (start, stop) along each axis


def box_shape(box: Box) -> tuple[int, ...]:
    """The shape of the part."""
    return tuple(stop - start for start, stop in box)


def box_slices(box: Box) -> tuple[Any, ...]:
    """The index of the part in its array."""
    # the ellipsis keeps it an array where it has no axes
    return (*(slice(start, stop) for start, stop in box), ...)


def cut(shape: tuple[int, ...], max_size: int) -> Iterator[Box]:
    """Boxes of at most `max_size` elements that cover an array, each contiguous in memory."""
    if math.prod(shape) <= max_size:
        yield tuple((0, size) for size in shape)
        return
    step = max_size // math.prod(shape[1:])  # rows of a box
    for start in range(0, shape[0], max(step, 1)):
        for rest in cut(shape[1:], max_size):
            yield ((start, min(start + max(step, 1), shape[0])), *rest)


def covers_once(shape: tuple[int, ...], boxes: Sequence[Box]) -> bool:
    """Whether every element of an array lies in exactly one of the boxes: as many as it has, none in two.

    Raises:
        ValueError: too many boxes.
    """
    if len(boxes) > MAX_CHUNKS:
        raise ValueError(f"an array in {len(boxes)} chunks; at most {MAX_CHUNKS} are read")
    if any(
        not 0 <= start <= stop <= size
        for box in boxes
        for (start, stop), size in zip(box, shape, strict=True)
    ):
        return False
    if 0 in shape:
        return True  # nothing to cover
    sizes = [math.prod(box_shape(box)) for box in boxes]
    if 0 in sizes or sum(sizes) != math.prod(shape):
        return False
    starts, stops = np.array(boxes, np.int64).reshape(len(boxes), len(shape), 2).T
    begins_before_end = np.ones((len(boxes), len(boxes)), bool)
    for start, stop in zip(starts, stops, strict=True):
        begins_before_end &= start < stop[:, None]
    # two that do so of each other share an element
    return int((begins_before_end & begins_before_end.T).sum()) == len(boxes)
