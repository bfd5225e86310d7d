import itertools
import math
import re

import cotengra as ctg
import networkx as nx
import numpy as np
import opt_einsum as oe
import pytest

from qrt_tn.engine.paths import find_path
from qrt_tn.engine.refine import step_flops
from qrt_tn.engine.slicing import slice_to_limit
from qrt_tn.engine.tree import contraction_tree, linear_path

ITEM = 16


def lattice(rows, columns, extent=3):
    terms = {(i, j): [] for i in range(rows) for j in range(columns)}
    for (i, j), term in terms.items():
        for other in ((i + 1, j), (i, j + 1)):
            if other in terms:
                index = f"{i},{j}-{other[0]},{other[1]}"
                term.append(index)
                terms[other].append(index)
    inputs = [tuple(term) for term in terms.values()]
    return inputs, (), {index: extent for term in inputs for index in term}


def regular(tensors, extent, seed, kept=0):
    graph = nx.random_regular_graph(3, tensors, seed=seed)
    terms = [[] for _ in range(tensors)]
    for number, edge in enumerate(graph.edges):
        for end in edge:
            terms[end].append(f"e{number}")
    output = tuple(f"e{number}" for number in range(kept))
    return [tuple(term) for term in terms], output, {f"e{number}": extent for number in range(graph.size())}


def batched(sites, modulus=5, bond=5, batch=8):
    """A ring of site tensors under kernels that share v, with selectors that share n."""
    sizes = {"v": modulus, "n": batch}
    inputs = []
    for site in range(sites):
        sizes |= {f"k{site}": bond, f"x{site}": modulus, f"a{site}": modulus}
        inputs.append((f"k{site}", f"x{site}", f"k{(site + 1) % sites}"))
        inputs += [("v", f"a{site}", f"x{site}"), ("n", f"a{site}")]
    return inputs, ("n",), sizes


def costs(inputs, output, sizes):
    """(path, slices) -> (flops over all slices, peak bytes), counted step by step."""

    def cost(path, slices):
        tree = contraction_tree(inputs, output, path)
        extents = {index: 1 if index in slices else size for index, size in sizes.items()}
        count = math.prod(sizes[index] for index in slices)
        sliced = [bool(set(slices) & set(term)) for term in inputs]
        held = [0] * len(inputs)
        flops, alive, peak = 0, 0, 0
        for pair in tree.pairs:
            sliced.append(sliced[pair.left] or sliced[pair.right])
            flops += step_flops(pair, extents) * (count if sliced[-1] else 1)
            held.append(math.prod(extents[index] for index in pair.term))
            alive += held[-1]
            peak = max(peak, alive)
            alive -= held[pair.left] + held[pair.right]
        operands = sum(math.prod(sizes[index] for index in term) for term in inputs)
        return flops, ITEM * (operands + peak)

    return cost


def contract(arrays, inputs, output, sizes, path, slices):
    """The sum (or the assembly) of all slices, each contracted along the path by einsum."""
    number = {index: place for place, index in enumerate(sizes)}
    result = np.zeros([sizes[index] for index in output], dtype=complex)
    for values in itertools.product(*(range(sizes[index]) for index in slices)):
        fixed = dict(zip(slices, values, strict=True))
        live = [
            (array[tuple(fixed.get(i, slice(None)) for i in term)], tuple(i for i in term if i not in fixed))
            for array, term in zip(arrays, inputs, strict=True)
        ]
        for step in path:
            chosen = [live[place] for place in step]
            live = [pair for place, pair in enumerate(live) if place not in step]
            outside = {index for _, term in live for index in term} | set(output)
            held = dict.fromkeys(index for _, term in chosen for index in term)
            made = tuple(index for index in held if index in outside)
            operands = [part for array, term in chosen for part in (array, [number[i] for i in term])]
            live.append((np.einsum(*operands, [number[i] for i in made]), made))
        ((array, term),) = live
        kept = [i for i in output if i not in fixed]
        place = tuple(fixed.get(i, slice(None)) for i in output)
        result[place] += np.einsum(array, [number[i] for i in term], [number[i] for i in kept])
    return result


NETWORKS = {
    "lattice": lattice(4, 5),
    "regular": regular(24, 3, 0),
    "regular, kept": regular(16, 3, 1, kept=3),
    "batched": batched(6),
}


def limit_of(cost, inputs, sizes, path, share):
    """The operands and a share of what the path takes beside them."""
    operands = ITEM * sum(math.prod(sizes[index] for index in term) for term in inputs)
    return operands + (cost(path, ())[1] - operands) // share


@pytest.mark.parametrize("may_change", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_limit_is_kept(name, may_change):
    inputs, output, sizes = NETWORKS[name]
    cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
    for share in (1, 4):
        limit = limit_of(cost, inputs, sizes, path, share)
        found, slices = slice_to_limit(inputs, output, sizes, path, cost, limit, 0, may_change, itemsize=ITEM)
        assert cost(found, slices)[1] <= limit
        assert len(set(slices)) == len(slices) and set(slices) <= set(sizes)
        assert found == path or may_change
        if share == 1:
            assert (found, slices) == (path, ())
        else:
            assert slices or found != path
        for index in slices if len(slices) <= 8 else ():
            fewer = tuple(other for other in slices if other != index)
            assert cost(found, fewer)[1] > limit, "a slice too many"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_path_of_ones_own_is_never_cheaper_to_keep(name):
    inputs, output, sizes = NETWORKS[name]
    cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
    limit = limit_of(cost, inputs, sizes, path, 4)
    kept, changed = (
        cost(*slice_to_limit(inputs, output, sizes, path, cost, limit, 0, may, itemsize=ITEM))[0]
        for may in (False, True)
    )
    assert changed <= kept


@pytest.mark.parametrize("name", ["lattice", "regular"])
def test_no_more_flops_than_cotengras_slicing(name):
    """cotengra is given what it wants, a size of the largest tensor, until the peak fits."""
    inputs, output, sizes = NETWORKS[name]
    cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
    limit = limit_of(cost, inputs, sizes, path, 6)
    found = slice_to_limit(inputs, output, sizes, path, cost, limit, itemsize=ITEM)
    names = {index: oe.get_symbol(place) for place, index in enumerate(sizes)}
    labels = {symbol: index for index, symbol in names.items()}
    tree = ctg.ContractionTree.from_path(
        [tuple(names[i] for i in term) for term in inputs],
        tuple(names[i] for i in output),
        {names[i]: size for i, size in sizes.items()},
        path=path,
    )
    target, fits = tree.max_size(), False
    while not fits:
        target //= 2
        sliced = tree.slice(target_size=target, seed=0)
        slices = tuple(labels[index] for index in sliced.sliced_inds)
        fits = cost(path, slices)[1] <= limit
    assert cost(*found)[0] <= cost(path, slices)[0]


@pytest.mark.parametrize("may_change", [False, True])
@pytest.mark.parametrize("name", ["regular, kept", "batched"])
def test_slices_add_up_to_the_contraction(name, may_change, networks):
    inputs, output, sizes = (
        regular(10, 2, 3, kept=3) if name == "regular, kept" else batched(3, modulus=2, bond=3, batch=4)
    )
    cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
    limit = limit_of(cost, inputs, sizes, path, 3)
    found, slices = slice_to_limit(inputs, output, sizes, path, cost, limit, 0, may_change, itemsize=ITEM)
    assert slices or found != path
    arrays = networks.arrays(np.random.default_rng(0), inputs, sizes)
    np.testing.assert_allclose(
        contract(arrays, inputs, output, sizes, found, slices),
        networks.einsum(arrays, inputs, output, sizes),
        rtol=1e-10,
        atol=1e-10,
    )


def test_the_best_single_slice_is_taken():
    """Where one slice is enough, it is the one with the fewest flops, by trying them all."""
    for seed in range(6):
        inputs, output, sizes = regular(20, 3, seed)
        cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
        peaks = {index: cost(path, (index,)) for index in sizes}
        limit = sorted(peak for _, peak in peaks.values())[3]
        if limit >= cost(path, ())[1]:
            continue
        best = min(flops for flops, peak in peaks.values() if peak <= limit)
        found, slices = slice_to_limit(inputs, output, sizes, path, cost, limit, 0, False, itemsize=ITEM)
        assert cost(found, slices)[0] <= 1.5 * best


def test_of_equals_a_summed_index_is_preferred():
    """Two indices on every tensor, one of them kept, and a large intermediate that holds both."""
    inputs = [("k", "s", "x"), ("x", "y", "k", "s"), ("y", "k", "s"), ("k", "s")]
    sizes = {"k": 6, "s": 6, "x": 4, "y": 50}
    path = [(0, 1), (0, 2), (0, 1)]
    for kept, summed in ("ks", "sk"):
        cost = costs(inputs, (kept,), sizes)
        limit = cost(path, ())[1] - ITEM
        _, slices = slice_to_limit(inputs, (kept,), sizes, path, cost, limit, 0, False, itemsize=ITEM)
        assert slices == (summed,)


def test_output_indices_are_sliced_where_nothing_else_helps():
    inputs = [("a", "m"), ("m", "b"), ("b", "c")]
    sizes = {"a": 40, "m": 2, "b": 40, "c": 2}
    cost = costs(inputs, ("a", "b", "c"), sizes)
    path = [(0, 1), (0, 1)]
    limit = cost(path, ())[1] // 4
    _, slices = slice_to_limit(inputs, ("a", "b", "c"), sizes, path, cost, limit, 0, False, itemsize=ITEM)
    assert set(slices) <= {"a", "b", "c"}
    assert cost(path, slices)[1] <= limit


def test_the_same_seed_gives_the_same_slices():
    inputs, output, sizes = NETWORKS["regular"]
    cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
    limit = limit_of(cost, inputs, sizes, path, 9)
    found = [slice_to_limit(inputs, output, sizes, path, cost, limit, 3, itemsize=ITEM) for _ in range(2)]
    assert found[0] == found[1]


@pytest.mark.parametrize("itemsize", [ITEM, None])
@pytest.mark.parametrize("may_change", [False, True])
@pytest.mark.parametrize("name", ["batched", "regular, kept"])
def test_the_least_that_is_named_can_be_met(name, may_change, itemsize):
    inputs, output, sizes = NETWORKS[name]
    cost, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)
    operands = ITEM * sum(math.prod(sizes[index] for index in term) for term in inputs)

    def sliced(limit):
        return slice_to_limit(inputs, output, sizes, path, cost, limit, 1, may_change, itemsize=itemsize)

    with pytest.raises(ValueError, match=f"memory_limit of {operands} bytes cannot be met") as caught:
        sliced(operands)
    assert ("on this path" in str(caught.value)) is not may_change
    least, count = map(int, re.search(r"reaches is (\d+) bytes, in (\d+) slices", str(caught.value)).groups())
    assert operands < least < cost(path, ())[1]
    found, slices = sliced(least)
    assert cost(found, slices)[1] <= least
    assert math.prod(sizes[index] for index in slices) <= count


def test_a_peak_that_slicing_raises_is_no_trap():
    """What slices keep from one to the next counts too: the least may be the path as it is."""
    inputs, output, sizes = NETWORKS["lattice"]
    plain, path = costs(inputs, output, sizes), find_path(inputs, output, sizes)

    def cost(path, slices):
        flops, peak = plain(path, slices)
        return flops, peak + 10**9 * bool(slices)

    least = cost(path, ())[1]
    with pytest.raises(ValueError, match=f"reaches is {least} bytes, in 1 slices"):
        slice_to_limit(inputs, output, sizes, path, cost, least - 1, 0, False, itemsize=ITEM)
    assert slice_to_limit(inputs, output, sizes, path, cost, least, 0, False, itemsize=ITEM) == (path, ())


def test_a_limit_below_the_operands_names_the_largest():
    inputs, output, sizes = [("a", "b"), ("b", "c"), ("c", "a")], (), {"a": 2, "b": 3, "c": 50}
    cost = costs(inputs, output, sizes)
    says = (
        r"limit of 4000 bytes is below the operands themselves, which take 4096 bytes; "
        r"the largest is tensor 1 with indices \('b', 'c'\) and 2400 bytes"
    )
    with pytest.raises(ValueError, match=says):
        slice_to_limit(inputs, output, sizes, [(0, 1), (0, 1)], cost, 4000, itemsize=ITEM)


def test_one_tensor_has_nothing_to_slice():
    cost = costs([("a", "a")], (), {"a": 4})
    assert slice_to_limit([("a", "a")], (), {"a": 4}, [(0,)], cost, 256, itemsize=ITEM) == ([(0,)], ())
    with pytest.raises(ValueError, match="below the operands"):
        slice_to_limit([("a", "a")], (), {"a": 4}, [(0,)], cost, 255, itemsize=ITEM)
    with pytest.raises(ValueError, match="cannot be met"):
        slice_to_limit([("a", "a")], (), {"a": 4}, [(0,)], lambda *_: (0, 999), 300, itemsize=ITEM)


def test_a_path_beyond_floating_point():
    """Every second tensor of a chain first: an outer product with more elements than a float counts."""
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(70)]
    sizes = {f"k{i}": 10**5 for i in range(71)}
    order = [*range(0, 70, 2), *range(1, 70, 2)]
    pairs = [(order[0] if step == 0 else 70 + step - 1, other) for step, other in enumerate(order[1:])]
    path = linear_path(pairs, 70)
    cost = costs(inputs, (), sizes)
    assert cost(path, ())[1] > 10**308
    with pytest.raises(ValueError, match="cannot be met on this path"):
        slice_to_limit(inputs, (), sizes, path, cost, 10**14, 0, False, itemsize=ITEM)
