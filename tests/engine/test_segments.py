"""Where a tree is cut, and that the bound on underflow holds."""

import math

import numpy as np
import pytest

from qrt_tn.engine.segments import (
    Segment,
    first_cuts,
    floor,
    halving_cut,
    segments,
    shrinkage,
)
from qrt_tn.engine.tree import contraction_tree

TINY = float(np.finfo(np.float16).tiny)


def random_network(seed):
    """Hyperindices, kept indices, repeated and lone ones, and a random path."""
    rng = np.random.default_rng(seed)
    sizes = {f"i{k}": int(rng.integers(1, 5)) for k in range(9)}
    inputs = [tuple(rng.choice(list(sizes), size=rng.integers(1, 4)).tolist()) for _ in range(9)]
    used = list(dict.fromkeys(i for term in inputs for i in term))
    output = tuple(i for i in used if rng.random() < 0.25)
    path, left = [], len(inputs)
    while left > 1:
        path.append(tuple(rng.permutation(left)[:2].tolist()))
        left -= 1
    return rng, inputs, sizes, contraction_tree(inputs, output, path)


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


@pytest.mark.parametrize("seed", range(40))
def test_no_more_is_lost_than_the_bound_says(seed):
    """Underflow alone: half precision's range, with the digits of double precision."""
    rng, _, sizes, tree = random_network(seed)
    (whole,) = segments(tree, ())
    arrays = []
    for leaf in tree.leaves:
        array = rng.normal(size=[2, *(sizes[i] for i in leaf)])
        array = (array[0] + 1j * array[1]) * 10.0 ** rng.integers(-6, 1, size=array.shape[1:])
        arrays.append(array / np.linalg.norm(array) * rng.uniform(0.5, 1))
    exact = contract(tree, arrays, lambda array: array)
    lost = np.linalg.norm(exact - contract(tree, arrays, flushed))
    bound = floor(tree, whole, sizes, np.dtype(np.float16)) * float(np.finfo(np.float16).eps)
    assert lost <= bound
    assert np.linalg.norm(exact) <= 1 + 1e-12  # submultiplicative: nothing can overflow


def test_the_bound_is_no_empty_promise():
    """Every product just below the least normal number: near the worst that there can be."""
    inputs, sizes = (("i", "j"), ("j", "k")), {"i": 6, "j": 8, "k": 6}
    tree = contraction_tree(inputs, ("i", "k"), [(0, 1)])
    arrays = [np.full([sizes[i] for i in term], 0.99 * math.sqrt(TINY), dtype=complex) for term in inputs]
    lost = np.linalg.norm(contract(tree, arrays, lambda a: a) - contract(tree, arrays, flushed))
    least = floor(tree, segments(tree, ())[0], sizes, np.dtype(np.float16))
    assert 0.0125 < lost / (least * float(np.finfo(np.float16).eps)) <= 1


def test_floor_by_hand():
    tree = contraction_tree([("n", "i", "j"), ("n", "j", "k")], ("n", "i", "k"), [(0, 1)])
    sizes = {"n": 1, "i": 2, "j": 3, "k": 5}  # within one of n's elements
    (whole,) = segments(tree, ())
    error = math.sqrt(6) + math.sqrt(15) + 3 * math.sqrt(10)
    for dtype in (np.complex64, np.float64):
        info = np.finfo(dtype)
        expected = 32 * error * float(info.tiny) / float(info.eps)
        assert math.isclose(floor(tree, whole, sizes, np.dtype(dtype)), expected)
        assert math.isclose(floor(tree, whole, sizes, np.dtype(dtype), slices=5), 5 * expected)


def test_shrinkage_is_what_random_tensors_do():
    rng = np.random.default_rng(0)
    inputs = [("n", "h", "i", "j"), ("n", "h", "j", "k"), ("h", "k")]
    sizes = {"n": 1, "h": 4, "i": 6, "j": 8, "k": 5}
    tree = contraction_tree(inputs, ("n", "i"), [(0, 1), (0, 1)])
    bits = shrinkage(tree, sizes)
    assert bits[:3] == [0, 0, 0]
    logs = []
    for _ in range(300):
        a, b = rng.normal(size=(4, 6, 8)), rng.normal(size=(4, 8, 5))
        product = a @ b
        logs.append(math.log2(np.linalg.norm(a) * np.linalg.norm(b) / np.linalg.norm(product)))
    assert math.isclose(np.mean(logs), bits[3], abs_tol=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_segments_cover_the_tree_in_order(seed):
    rng, _, _, tree = random_network(seed)
    count = len(tree.leaves)
    numbers = list(range(count, count + len(tree.pairs)))
    cuts = set(rng.permutation(numbers)[: rng.integers(0, 6)].tolist())
    parts = segments(tree, cuts)
    assert sorted(n for part in parts for n in part.steps) == numbers
    assert {part.result for part in parts} == cuts | {numbers[-1]}
    known = set(range(count))
    taken = []
    for part in parts:
        assert set(part.operands) <= known
        taken += part.operands
        # the linear path means the same pairs
        live = list(part.operands)
        for (first, second), step in zip(part.path(tree), part.steps, strict=True):
            pair = tree.pairs[step - count]
            assert {live.pop(second), live.pop(first)} == {pair.left, pair.right}
            live.append(step)
        assert live == [part.result]
        known.add(part.result)
    assert sorted(taken) == sorted({*range(count), *cuts} - {numbers[-1]})


@pytest.mark.parametrize("budget", [1.0, 3.0, 10.0, 1e9])
@pytest.mark.parametrize("seed", range(10))
def test_no_segment_uses_more_than_its_budget(seed, budget):
    _, _, sizes, tree = random_network(seed)
    bits = shrinkage(tree, sizes)
    cuts = first_cuts(tree, bits, [0] * len(bits), budget)
    count = len(tree.leaves)
    for part in segments(tree, cuts):
        used = sum(bits[n] for n in (*part.steps, *(n for n in part.operands if n < count)))
        assert used <= budget or len(part.steps) == 1
    if budget == 1e9:
        assert not cuts


def test_a_long_chain_is_cut_no_finer_than_needed():
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(1000)]
    path = [(0, 1)] + [(0, count - 1) for count in range(999, 1, -1)]
    tree = contraction_tree(inputs, ("k0", "k1000"), path)
    bits = shrinkage(tree, {f"k{i}": 16 for i in range(1001)})
    cuts = first_cuts(tree, bits, [0] * len(bits), 40.0)
    assert len(segments(tree, cuts)) == math.ceil(999 / 20)  # 2 bits a step


def test_lower_ranks_end_where_higher_ones_take_them():
    inputs = [("a",), ("a", "b"), ("b", "c"), ("c", "d"), ("d",)]
    # ((0 1) ((2 3) 4)): what is made of 0 and 1 is constant, and so is 2 with 3
    tree = contraction_tree(inputs, (), [(0, 1), (0, 1), (0, 2), (0, 1)])
    ranks = [0, 0, 0, 0, 1]
    for pair in tree.pairs:
        ranks.append(max(ranks[pair.left], ranks[pair.right]))
    cuts = first_cuts(tree, [0.0] * len(ranks), ranks, 1.0)
    assert cuts == {5, 6}
    assert [part.steps for part in segments(tree, cuts)] == [(5,), (6,), (7, 8)]


def test_halving_ends_at_single_steps():
    _, _, _, tree = random_network(3)
    cuts = set()
    for _ in range(len(tree.pairs)):
        longest = max(segments(tree, cuts), key=lambda part: len(part.steps))
        cut = halving_cut(tree, longest)
        if cut is None:
            break
        assert cut in longest.steps[:-1]
        cuts.add(cut)
    assert len(segments(tree, cuts)) == len(tree.pairs)
    # a chain is cut in its middle
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(9)]
    chain = contraction_tree(inputs, (), [(0, 1)] + [(0, count - 1) for count in range(8, 1, -1)])
    (whole,) = segments(chain, ())
    assert halving_cut(chain, whole) == 9 + 3
    assert halving_cut(chain, Segment((0, 1), (9,))) is None
