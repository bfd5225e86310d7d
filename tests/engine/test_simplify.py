import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qrt_tn.engine.simplify import simplify

ABSORB = ["none", "subset", "rank"]


def contract(arrays, inputs, output, sizes, pairs):
    """The result along SSA pairs, every step an einsum that keeps what anything else holds."""
    number = {index: place for place, index in enumerate(sizes)}
    live = dict(enumerate(zip(arrays, inputs, strict=True)))
    for step, (left, right) in enumerate(pairs, len(inputs)):
        (one, ours), (two, theirs) = live.pop(left), live.pop(right)
        outside = {index for _, term in live.values() for index in term} | set(output)
        made = tuple(index for index in dict.fromkeys((*ours, *theirs)) if index in outside)
        operands = (one, [number[i] for i in ours], two, [number[i] for i in theirs])
        live[step] = np.einsum(*operands, [number[i] for i in made]), made
    ((array, term),) = live.values()
    return np.einsum(array, [number[i] for i in term], [number[i] for i in output])


@st.composite
def structures(draw):
    """Hyperindices, repeated and lone indices, scalars, extents of 1, disconnected parts, any output."""
    names = [f"i{k}" for k in range(draw(st.integers(1, 8)))]
    inputs = draw(st.lists(st.lists(st.sampled_from(names), max_size=4).map(tuple), min_size=1, max_size=9))
    used = list(dict.fromkeys(index for term in inputs for index in term))
    output = tuple(index for index in used if draw(st.booleans()))
    return inputs, output, {index: draw(st.integers(1, 3)) for index in used}


@pytest.mark.parametrize("absorb", ABSORB)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(structure=structures(), seed=st.integers(0, 2**16))
def test_what_is_left_completes_to_the_same_contraction(absorb, structure, seed, networks):
    inputs, output, sizes = structure
    rng = np.random.default_rng(seed)
    small = simplify(inputs, output, sizes, absorb)
    left = len(small.terms)
    live, pairs = list(range(left)), []
    while len(live) > 1:
        first, second = (live.pop(rng.integers(len(live))) for _ in range(2))
        live.append(left + len(pairs))
        pairs.append((first, second))
    arrays = networks.arrays(rng, inputs, sizes)
    found = contract(arrays, inputs, output, sizes, small.expand(pairs))
    np.testing.assert_allclose(found, networks.einsum(arrays, inputs, output, sizes), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("absorb", ABSORB)
@settings(max_examples=80, deadline=None)
@given(structure=structures())
def test_what_is_left_is_simple(absorb, structure):
    inputs, output, sizes = structure
    small = simplify(inputs, output, sizes, absorb)
    holders = {index: [k for k, term in enumerate(small.terms) if index in term] for index in small.sizes}
    outer = set(small.output)
    assert all(size > 1 for size in small.sizes.values())
    assert all(len(set(term)) == len(term) for term in small.terms)
    # no lone index is left to sum, and none goes along with another on the same tensors
    assert all(len(where) > 1 or index in outer for index, where in holders.items())
    alike = [(index in outer, *where) for index, where in holders.items()]
    assert len(set(alike)) == len(alike)
    if absorb != "none":
        sets = [frozenset(term) for term in small.terms]
        assert len(set(sets)) == len(sets)
        # nothing is inside anything else; a network this small has no index with too many holders to look at
        assert not any(one < two for one in sets for two in sets)
    if absorb == "rank":
        assert _no_pair_shrinks(small)


def _no_pair_shrinks(small):
    def size(term):
        return math.prod(small.sizes[index] for index in term)

    for a, one in enumerate(small.terms):
        for b, two in enumerate(small.terms[:a]):
            if set(one).isdisjoint(two):
                continue
            elsewhere = {i for c, term in enumerate(small.terms) if c not in (a, b) for i in term}
            made = {i for i in (*one, *two) if i in elsewhere or i in small.output}
            if size(made) <= max(size(one), size(two)):
                return False
    return True


def test_multi_bonds_are_one_index():
    small = simplify(
        [("a", "b", "c", "h", "k"), ("c", "b", "d", "h", "k"), ("d", "a", "k", "h")],
        (),
        {"a": 2, "b": 3, "c": 5, "d": 7, "h": 2, "k": 11},
        "none",
    )
    assert small.sizes == {"a": 2, "b": 15, "h": 22, "d": 7}
    assert small.terms == (("a", "b", "h"), ("b", "h", "d"), ("a", "h", "d"))


def test_vectors_sweep_a_chain_before_its_matrices_meet():
    inputs = [("k0",), *((f"k{i}", f"k{i + 1}") for i in range(20)), ("k20",)]
    small = simplify(inputs, (), {f"k{i}": 9 for i in range(21)}, "rank")
    assert len(small.terms) == 1
    made = [set(inputs[0])]
    terms = [set(term) for term in inputs]
    for left, right in small.pairs:
        terms.append(terms[left] ^ terms[right])
        made.append(terms[-1])
    assert all(len(term) <= 1 for term in made)


def test_time_grows_with_the_tensors_even_on_a_shared_index():
    """20,000 tensors on one hyperindex; quadratic work would not end."""
    inputs = [("v", f"k{i}", f"k{i + 1}") for i in range(20_000)]
    sizes = {"v": 3, **{f"k{i}": 2 for i in range(20_001)}}
    small = simplify(inputs, ("v",), sizes, "rank")
    assert len(small.terms) == 1
    assert len(small.pairs) == 19_999


def test_the_order_of_hashes_plays_no_part():
    inputs = [("v", f"a{i}", f"a{(i + 1) % 30}", f"b{i}") for i in range(30)] + [
        (f"b{i}",) for i in range(30)
    ]
    sizes = {index: 2 + place % 3 for place, index in enumerate(dict.fromkeys(i for t in inputs for i in t))}
    first = simplify(inputs, (), sizes, "rank")
    names = {index: hash((index, "other")) for index in sizes}
    again = simplify(
        [tuple(names[i] for i in term) for term in inputs],
        (),
        {names[i]: s for i, s in sizes.items()},
        "rank",
    )
    assert again.pairs == first.pairs
    assert again.terms == tuple(tuple(names[i] for i in term) for term in first.terms)
