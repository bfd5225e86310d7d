"""Change the root of a contraction tree, or cut it down to some of its leaves.

The tree of a closed network has no natural root: cut at any edge, it says how to contract both sides to
messages that meet there. Every step keeps the indices it works on, so all roots cost about the same flops.
"""

from collections.abc import Sequence

Pairs = list[tuple[int, int]]


def reroot_at_end(pairs: Sequence[tuple[int, int]], count: int) -> Pairs:
    """The same tree with its root beside a leaf at one end of a longest path through it.

    Such a tree is a spine with side branches: a walk down it leaves few of them unfinished behind it.

    Args:
        pairs: SSA pairs over `count` leaves; the last one is the root.
        count: the number of leaves.
    """
    if count < 3:
        return list(pairs)
    neighbours = _neighbours(pairs, count)
    end = _walk(neighbours, 0)[-1][0]
    return _rerooted(neighbours, _walk(neighbours, end)[-1][0], count)


def reroot(pairs: Sequence[tuple[int, int]], count: int, leaf: int) -> Pairs:
    """The same tree with its root beside a leaf, which the last step joins with all others."""
    return list(pairs) if count < 3 else _rerooted(_neighbours(pairs, count), leaf, count)


def restrict(pairs: Sequence[tuple[int, int]], count: int, kept: int) -> Pairs:
    """What remains of a tree over `count` leaves when only its first `kept` leaves do."""
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
    """The neighbours of every node in the unrooted tree; the root is only a point on an edge."""
    neighbours: list[list[int]] = [[] for _ in range(count + len(pairs) - 1)]
    edges = [(node, child) for node, both in enumerate(pairs[:-1], count) for child in both]
    for one, other in [*edges, pairs[-1]]:
        neighbours[one].append(other)
        neighbours[other].append(one)
    return neighbours


def _walk(neighbours: Sequence[Sequence[int]], start: int) -> list[tuple[int, int]]:
    """(node, the node before it) of the whole tree, breadth first."""
    queue = [(start, -1)]
    for node, above in queue:
        queue += [(other, node) for other in neighbours[node] if other != above]
    return queue


def _rerooted(neighbours: Sequence[Sequence[int]], leaf: int, count: int) -> Pairs:
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
