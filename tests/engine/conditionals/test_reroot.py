import itertools

import numpy as np
import pytest

from qrt_tn.engine.conditionals.reroot import reroot, reroot_at_end, restrict


def random_pairs(rng, count):
    live, pairs = list(range(count)), []
    while len(live) > 1:
        pairs.append(tuple(live.pop(rng.integers(len(live))) for _ in range(2)))
        live.append(count - 1 + len(pairs))
    return pairs


def splits(pairs, count):
    """The two-part splits of the leaves that the edges of the tree make: what no root changes."""
    below = [frozenset([leaf]) for leaf in range(count)]
    for left, right in pairs:
        below.append(below[left] | below[right])
    return {frozenset([part, below[-1] - part]) for part in below[:-1]}


def depth(pairs, count):
    depths = [0] * count
    for left, right in pairs:
        depths.append(1 + max(depths[left], depths[right]))
    return depths[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 9, 20])
def test_another_root_of_the_same_tree(count):
    pairs = random_pairs(np.random.default_rng(count), count)
    depths = []
    for leaf in range(count):
        other = reroot(pairs, count, leaf)
        assert splits(other, count) == splits(pairs, count)
        assert sorted(itertools.chain(*other)) == list(range(2 * count - 2))
        assert count < 3 or leaf in other[-1]
        depths.append(depth(other, count))
    at_end = reroot_at_end(pairs, count)
    assert splits(at_end, count) == splits(pairs, count)
    assert depth(at_end, count) == max(depths)


def test_a_deep_tree():
    pairs = [(0, 1), *((20_000 + step, step + 2) for step in range(19_998))]
    assert len(reroot(pairs, 20_000, 10_000)) == len(pairs)
    assert depth(reroot_at_end(pairs, 20_000), 20_000) == 19_999


def test_the_tree_of_some_leaves():
    # ((0 4) (1 5)) ((2 3) 6) without 4, 5, 6
    pairs = [(0, 4), (1, 5), (7, 8), (2, 3), (10, 6), (9, 11)]
    assert restrict(pairs, 7, 4) == [(0, 1), (2, 3), (4, 5)]
    for kept in range(1, 8):
        left = restrict(pairs, 7, kept)
        assert sorted(itertools.chain(*left)) == list(range(kept + len(left) - 1))
