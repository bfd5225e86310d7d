"""A contraction tree hung up by one of its ends.

The tree of a closed network has no root of its own: cut at any edge, it tells how to contract the two sides
to messages that meet there. Every step keeps the indices it works on, so all roots cost about the same flops.
"""

from collections.abc import Sequence

Pairs = list[tuple[int, int]]


def hung_by_an_end(pairs: Sequence[tuple[int, int]], count: int) -> Pairs:
    """The same tree with its root beside a leaf that lies at one end of a longest way through it.

    The last step then joins this one leaf with all others. What is hung up so is a spine with side branches:
    whoever goes down it has few of them behind unfinished.

    Args:
        pairs: SSA pairs over `count` leaves; the last one is the root.
        count: the number of leaves.
    """
    if count < 3:
        return list(pairs)
    neighbours: list[list[int]] = [[] for _ in range(count + len(pairs) - 1)]

    def connect(one: int, other: int) -> None:
        neighbours[one].append(other)
        neighbours[other].append(one)

    for node, (left, right) in enumerate(pairs[:-1], count):
        connect(node, left)
        connect(node, right)
    connect(*pairs[-1])  # the root itself is but a point on this edge
    end = _farthest(neighbours, 0)
    return _hung(neighbours, _farthest(neighbours, end), count)


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
    order, stack = [], [(top, leaf)]
    children = {}
    while stack:
        node, above = stack.pop()
        if node < count:
            continue
        below = [other for other in neighbours[node] if other != above]
        children[node] = below
        order.append(node)
        stack += [(other, node) for other in below]
    order.reverse()  # children before their parents
    number = {node: place for place, node in enumerate(order, count)}
    made = [tuple(number.get(child, child) for child in children[node]) for node in order]
    return [*((left, right) for left, right in made), (leaf, number[top])]
