import itertools

import numpy as np
import pytest

from qrt_tn.engine.conditionals.rooted import hung_by, hung_by_an_end, restricted
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.tree import contraction_tree, linear_path


def ring_with_spokes(rng, count):
    """A random connected network: its terms and extents."""
    inputs = [[f"a{place}", f"a{(place + 1) % count}"] for place in range(count)]
    for number in range(3):
        for place in rng.choice(count, 3, replace=False):
            inputs[place].append(f"h{number}")
    inputs = [tuple(dict.fromkeys(term)) for term in inputs]
    return inputs, {index: 2 for term in inputs for index in term}


def splits(pairs, count):
    """The two-part splits of the leaves that the edges of the tree make: what no root changes."""
    below = [frozenset([leaf]) for leaf in range(count)]
    below += [frozenset()] * len(pairs)
    for node, (left, right) in enumerate(pairs, count):
        below[node] = below[left] | below[right]
    everything = frozenset(range(count))
    return {frozenset([part, everything - part]) for part in below[:-1]}


def contracted(inputs, arrays, pairs):
    tree = contraction_tree(inputs, (), linear_path(pairs, len(inputs)))
    live = list(arrays)  # no index is on one tensor alone
    for pair in tree.pairs:
        names = {index: place for place, index in enumerate((*pair.term, *pair.summed))}
        terms = [[names[i] for i in tree.terms()[number]] for number in (pair.left, pair.right)]
        live.append(
            np.einsum(live[pair.left], terms[0], live[pair.right], terms[1], [names[i] for i in pair.term])
        )
    return live[-1]


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_hung_by_another_leaf_contracts_the_same(seed):
    rng = np.random.default_rng(seed)
    inputs, sizes = ring_with_spokes(rng, 8)
    arrays = [rng.normal(size=[sizes[i] for i in term]) for term in inputs]
    path = find_path(inputs, (), sizes)
    pairs = [(pair.left, pair.right) for pair in contraction_tree(inputs, (), path).pairs]
    whole = contracted(inputs, arrays, pairs)
    for leaf in range(8):
        hung = hung_by(pairs, 8, leaf)
        assert leaf in hung[-1]
        assert splits(hung, 8) == splits(pairs, 8)
        assert np.isclose(contracted(inputs, arrays, hung), whole)


def longest_way_down(pairs, count):
    depth = [0] * count
    for left, right in pairs:
        depth.append(1 + max(depth[left], depth[right]))
    return depth[-1]


@pytest.mark.parametrize("seed", range(4))
def test_hung_by_an_end_it_is_deepest(seed):
    rng = np.random.default_rng(seed)
    live, pairs = list(range(9)), []
    while len(live) > 1:
        first, second = (live.pop(rng.integers(len(live))) for _ in range(2))
        pairs.append((first, second))
        live.append(8 + len(pairs))
    hung = hung_by_an_end(pairs, 9)
    assert splits(hung, 9) == splits(pairs, 9)
    depths = [longest_way_down(hung_by(pairs, 9, leaf), 9) for leaf in range(9)]
    assert longest_way_down(hung, 9) == max(depths)


def test_a_deep_tree():
    pairs = [(0, 1), *((20_000 + step, step + 2) for step in range(19_998))]
    hung = hung_by(pairs, 20_000, 10_000)
    assert len(hung) == len(pairs)
    assert longest_way_down(hung_by_an_end(pairs, 20_000), 20_000) == 19_999


@pytest.mark.parametrize("count", [1, 2])
def test_small_trees_stay(count):
    pairs = [(0, 1)][: count - 1]
    assert hung_by_an_end(pairs, count) == hung_by(pairs, count, 0) == pairs


def test_what_is_left_of_a_tree():
    # ((0 4) (1 5)) ((2 3) 6) without 4, 5, 6
    pairs = [(0, 4), (1, 5), (7, 8), (2, 3), (10, 6), (9, 11)]
    assert restricted(pairs, 7, 4) == [(0, 1), (2, 3), (4, 5)]
    assert restricted(pairs, 7, 1) == []
    for kept in range(1, 8):
        left = restricted(pairs, 7, kept)
        assert sorted(itertools.chain(*left)) == list(range(kept + len(left) - 1))
