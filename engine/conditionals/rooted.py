"""A contraction tree hung up by one of its leaves, and the part of it above some leaves.

The tree of a closed network has no root of its own: cut at any edge, it tells how to contract the two sides
to messages that meet there. Every step keeps the indices it works on, so all roots cost about the same flops.
"""

from collections.abc import Sequence

Pairs = list[tuple[int, int]]


def hung_by_an_end(pairs: Sequence[tuple[int, int]], count: int) -> Pairs:
    """The same tree with its root beside a leaf that lies at one end of a longest way through it.

    What is hung up so is a spine with side branches: whoever goes down it has few of them behind unfinished.

    Args:
        pairs: SSA pairs over `count` leaves; the last one is the root.
        count: the number of leaves.
    """
    if count < 3:
        return list(pairs)
    neighbours = _neighbours(pairs, count)
    return _hung(neighbours, _farthest(neighbours, _farthest(neighbours, 0)), count)


def hung_by(pairs: Sequence[tuple[int, int]], count: int, leaf: int) -> Pairs:
    """The same tree with its root beside a leaf, which the last step joins with all others."""
    return list(pairs) if count < 3 else _hung(_neighbours(pairs, count), leaf, count)


def restricted(pairs: Sequence[tuple[int, int]], count: int, kept: int) -> Pairs:
    """What is left of a tree where only its first `kept` leaves are."""
    numbers: dict[int, int] = {leaf: leaf for leaf in range(kept)}
    made: Pairs = []
    for node, both in enumerate(pairs, count):
        present = [numbers[child] for child in both if child in numbers]
        if len(present) == 2:
            made.append((present[0], present[1]))
            numbers[node] = kept + len(made) - 1
        elif present:
            numbers[node] = present[0]
    return made


def _neighbours(pairs: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """The tree without its root, which is but a point on an edge."""
    neighbours: list[list[int]] = [[] for _ in range(count + len(pairs) - 1)]
    edges = [(node, child) for node, both in enumerate(pairs[:-1], count) for child in both]
    for one, other in [*edges, pairs[-1]]:
        neighbours[one].append(other)
        neighbours[other].append(one)
    return neighbours


def _farthest(neighbours: Sequence[Sequence[int]], start: int) -> int:
    """The node, a leaf, that is the most steps away."""
    seen = {start}
    queue = [start]
    for node in queue:
        for other in neighbours[node]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return queue[-1]


def _hung(neighbours: Sequence[Sequence[int]], leaf: int, count: int) -> Pairs:
    """SSA pairs of the tree whose root lies on the edge of this leaf."""
    (top,) = neighbours[leaf]
    stack = [(top, leaf)]
    children: dict[int, list[int]] = {}
    while stack:
        node, above = stack.pop()
        if node >= count:
            children[node] = [other for other in neighbours[node] if other != above]
            stack += [(other, node) for other in children[node]]
    order = list(children)[::-1]  # children before their parents
    number = {node: place for place, node in enumerate(order, count)}
    made = [(number.get(one, one), number.get(two, two)) for one, two in (children[node] for node in order)]
    return [*made, (leaf, number[top])]
