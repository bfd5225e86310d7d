"""Where a tree is cut, and that the bound on underflow holds."""

import math

import numpy as np
import pytest

from qrt_tn.engine.subnetworks import divide, floor
from qrt_tn.engine.tree import contraction_tree

TINY = float(np.finfo(np.float16).tiny)


def flushed(array):
    """Without numbers below half precision's normal range: all that a device may lose."""
    parts = np.ascontiguousarray(array).reshape((*array.shape, 1)).view(np.float64)
    return np.where(np.abs(parts) < TINY, 0, parts).view(np.complex128)[..., 0]


def contract(tree, arrays, keep):
    """Step by step, every product and every sum through `keep`; otherwise in double precision."""
    terms, live = tree.terms(), list(arrays)
    for pair in tree.pairs:
        names = {i: k for k, i in enumerate((*pair.term, *pair.summed))}
        a, b = ([names[i] for i in terms[n]] for n in (pair.left, pair.right))
        left, right = keep(live[pair.left]), keep(live[pair.right])
        products = [
            keep(np.einsum(one, a, other, b, list(names.values())))
            for one in (left.real + 0j, 1j * left.imag)
            for other in (right.real + 0j, 1j * right.imag)
        ]
        summed = tuple(range(len(pair.term), len(names)))
        live.append(keep(sum(part.sum(axis=summed) for part in products)))
    return live[-1]


@pytest.mark.parametrize("seed", range(20))
def test_no_more_is_lost_than_the_bound_says(seed, networks):
    """Underflow alone: half precision's range, with the digits of double precision."""
    rng = np.random.default_rng(seed)
    inputs, output, sizes = networks.draw(rng, tensors=9)
    tree = contraction_tree([*inputs, ()], output, networks.path(rng, len(inputs) + 1, most=2))
    (whole,) = divide(tree, [0] * len(tree.terms()), sizes, math.inf)
    arrays = []
    for leaf in tree.leaves:
        array = rng.normal(size=[2, *(sizes[i] for i in leaf)])
        array = (array[0] + 1j * array[1]) * 10.0 ** rng.integers(-6, 1, size=array.shape[1:])
        arrays.append(array / np.linalg.norm(array) * rng.uniform(0.5, 1))
    right = contract(tree, arrays, lambda array: array)
    lost = np.linalg.norm(right - contract(tree, arrays, flushed))
    assert lost <= floor(tree, whole, sizes, np.dtype(np.float16)) * float(np.finfo(np.float16).eps)
    assert np.linalg.norm(right) <= 1 + 1e-12  # submultiplicative: nothing can overflow


def test_the_bound_is_no_empty_promise():
    """Every product just below the least normal number: near the worst that there can be."""
    inputs, sizes = (("i", "j"), ("j", "k")), {"i": 6, "j": 8, "k": 6}
    tree = contraction_tree(inputs, ("i", "k"), [(0, 1)])
    arrays = [np.full([sizes[i] for i in term], 0.99 * math.sqrt(TINY), dtype=complex) for term in inputs]
    lost = np.linalg.norm(contract(tree, arrays, lambda a: a) - contract(tree, arrays, flushed))
    (whole,) = divide(tree, [0] * 3, sizes, math.inf)
    least = floor(tree, whole, sizes, np.dtype(np.float16))
    assert 0.0125 < lost / (least * float(np.finfo(np.float16).eps)) <= 1
    error = math.sqrt(48) + math.sqrt(48) + 8 * math.sqrt(36)
    assert math.isclose(least, 32 * error * TINY / float(np.finfo(np.float16).eps))
    assert floor(tree, whole, sizes, np.dtype(np.float16), slices=5) == 5 * least


@pytest.mark.parametrize("seed", range(10))
def test_subnetworks_cover_the_tree_in_order_and_keep_to_the_budget(seed, networks):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = networks.draw(rng, tensors=12)
    tree = contraction_tree([*inputs, ()], output, networks.path(rng, len(inputs) + 1))
    count, budget = len(tree.leaves), float(rng.integers(2, 9))
    ranks = rng.integers(0, 2, size=count).tolist()
    for pair in tree.pairs:
        ranks.append(max(ranks[pair.left], ranks[pair.right]))
    parts, known = divide(tree, ranks, sizes, budget), set(range(count))
    assert sorted(n for part in parts for n in part.steps) == list(range(count, count + len(tree.pairs)))
    for part in parts:
        assert set(part.operands) <= known and {ranks[n] for n in part.steps} == {ranks[part.result]}
        live = list(part.operands)  # the linear path means the same pairs
        bits = len(live) / 2
        for (first, second), step in zip(part.path(tree), part.steps, strict=True):
            pair = tree.pairs[step - count]
            assert {live.pop(second), live.pop(first)} == {pair.left, pair.right}
            live.append(step)
            bits += math.log2(math.prod(sizes[index] for index in (*pair.batch, *pair.summed))) / 2
        assert live == [part.result] and (bits <= budget or len(part.steps) == 1)
        known.add(part.result)
