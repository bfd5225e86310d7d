import numpy as np
import opt_einsum as oe
import pytest

from qrt_tn.engine.tree import contraction_tree, linear_path


@pytest.mark.parametrize("seed", range(60))
def test_every_tensor_holds_what_the_outside_needs(seed, networks):
    """The indices of a step's result: those of its leaves that the output or a leaf outside holds."""
    rng = np.random.default_rng(seed)
    inputs, output, _ = networks.draw(rng)
    path = networks.path(rng, len(inputs))
    tree = contraction_tree(inputs, output, path)
    assert len(tree.pairs) == len(inputs) - 1
    below = [{number} for number in range(len(inputs))]
    for pair in tree.pairs:
        below.append(below[pair.left] | below[pair.right])
    terms = tree.terms()
    for tensor, leaves in enumerate(below):
        inside = {index for leaf in leaves for index in inputs[leaf]}
        outside = {index for leaf, term in enumerate(inputs) if leaf not in leaves for index in term}
        assert set(terms[tensor]) == inside & (outside | set(output))
        assert len(set(terms[tensor])) == len(terms[tensor])
    assert set(terms[-1]) == set(output)
    for number, pair in enumerate(tree.pairs, len(inputs)):
        left, right, made = (set(terms[place]) for place in (pair.left, pair.right, number))
        assert set(pair.batch) == left & right & made
        assert set(pair.summed) == (left & right) - made
        assert set(pair.left_only) == left - right
        assert set(pair.right_only) == right - left
        assert pair.term == terms[number]


def test_steps_on_one_tensor_and_on_three():
    inputs = [("a", "b"), ("b", "c"), ("c", "d"), ("d",)]
    tree = contraction_tree(inputs, ("a",), [(2,), (0, 2, 1), (1, 0)])
    # (2,) puts tensor 2 at the end: the list is 0 1 3 2
    assert [(pair.left, pair.right) for pair in tree.pairs] == [(0, 3), (4, 1), (2, 5)] or [
        (pair.left, pair.right) for pair in tree.pairs
    ] == [(0, 3), (4, 1), (5, 2)]


@pytest.mark.parametrize("seed", range(20))
def test_a_linear_path_is_opt_einsums(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 30))
    live, pairs = list(range(count)), []
    for step in range(count - 1):
        left, right = (live.pop(rng.integers(len(live))) for _ in range(2))
        pairs.append((left, right))
        live.append(count + step)
    path = linear_path(pairs, count)
    assert path == [tuple(sorted(step)) for step in oe.paths.ssa_to_linear(pairs)]
    inputs = [(f"i{k}", f"i{k + 1}") for k in range(count)]
    tree = contraction_tree(inputs, ("i0",), path)
    assert [{pair.left, pair.right} for pair in tree.pairs] == [set(pair) for pair in pairs]


def test_a_path_of_nothing():
    assert linear_path([], 1) == []
    assert contraction_tree([("a", "a", "b")], ("b",), [(0,)]).leaves == (("b",),)
