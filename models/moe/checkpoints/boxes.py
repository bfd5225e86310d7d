"""Boxes, the parts of an array that a checkpoint's chunks hold: cut an array, check that they cover it."""

import math
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import product
from typing import Any

MAX_CORNERS = 2**20  # of the boxes of one array: 65,536 boxes where four axes are split

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
    row = math.prod(shape[1:])
    if row > max_size:
        for place in range(shape[0]):
            for rest in cut(shape[1:], max_size):
                yield ((place, place + 1), *rest)
        return
    step = max_size // row
    for start in range(0, shape[0], step):
        yield ((start, min(start + step, shape[0])), *((0, size) for size in shape[1:]))


def covers_once(shape: tuple[int, ...], boxes: Collection[Box]) -> bool:
    """Whether every element of an array lies in exactly one of the boxes.

    The number of boxes that an element lies in is a function on the grid; its mixed difference along all axes
    is +1 or -1 at the corners of each box and 0 elsewhere, and determines it. So boxes cover an array once if
    and only if their corners cancel up to those of the array: work in proportion to the number of boxes.

    Raises:
        ValueError: too many corners to hold.
    """
    whole = tuple((0, size) for size in shape)
    if any(
        not 0 <= start <= stop <= size
        for box in boxes
        for (start, stop), size in zip(box, shape, strict=True)
    ):
        return False
    if 0 in shape:
        return True  # nothing to cover
    if any(start == stop for box in boxes for start, stop in box):
        return False
    split = [axis for axis, ends in enumerate(whole) if any(box[axis] != ends for box in boxes)]
    if len(boxes) << len(split) > MAX_CORNERS:
        raise ValueError(f"an array in {len(boxes)} chunks, split along {len(split)} axes, is too finely cut")
    corners: Counter[tuple[int, ...]] = Counter()
    for box, sign in [(whole, -1), *((box, 1) for box in boxes)]:
        for corner in product(*(((box[axis][0], 1), (box[axis][1], -1)) for axis in split)):
            corners[tuple(place for place, _ in corner)] += sign * math.prod(side for _, side in corner)
    return not any(corners.values())
