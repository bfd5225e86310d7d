import numpy as np
import pytest

from qrt_tn.engine.layout import DOT, MATMUL, MULTIPLY, lay_out
from qrt_tn.engine.tree import Pair

PRODUCTS = {DOT: np.dot, MATMUL: np.matmul, MULTIPLY: np.multiply}


def viewed(array, view):
    """The array as the product takes it; whether it was copied."""
    made = array
    if view.order is not None:
        made = np.ascontiguousarray(made.transpose(view.order))
    if view.shape is not None:
        made = made.reshape(view.shape)
    if view.swap is not None:
        made = made.transpose(view.swap)
    return made


def draw(rng):
    """A random pair and the axis orders of its operands."""
    sizes = {index: int(rng.integers(1, 4)) for index in "abcdefgh"}
    groups = {index: int(rng.integers(4)) for index in sizes}
    batch, left, right, summed = (tuple(i for i in sizes if groups[i] == group) for group in range(4))
    orders = [tuple(rng.permutation(list(batch + own + summed)).tolist()) for own in (left, right)]
    return Pair(0, 1, batch, left, right, summed), orders, sizes


def wanted_by(rng, term):
    """Groups in which the next step might take the result."""
    labels = rng.integers(3, size=len(term))
    return tuple(tuple(i for i, label in zip(term, labels, strict=True) if label == k) for k in range(3))


@pytest.mark.parametrize("seed", range(80))
def test_products_are_einsums(seed):
    rng = np.random.default_rng(seed)
    pair, orders, sizes = draw(rng)
    wanted = wanted_by(rng, pair.term) if rng.random() < 0.7 else None
    product = lay_out(pair, orders, wanted, sizes)
    arrays = [rng.normal(size=[sizes[index] for index in order]) for order in orders]
    operands = [
        viewed(arrays[number], view) for number, view in zip(product.numbers, product.views, strict=True)
    ]
    for number, operand, view in zip(product.numbers, operands, product.views, strict=True):
        # what is announced as copied is copied, and nothing else
        assert view.copied == (arrays[number].size if view.order is not None else 0)
        if not view.copied:
            assert np.shares_memory(operand, arrays[number])
    result = PRODUCTS[product.kind](*operands)
    shape = tuple(sizes[index] for index in product.order)
    result = np.asarray(result) if product.shape is None else result.reshape(product.shape)
    assert result.shape == shape
    expected = np.einsum(f"{''.join(orders[0])},{''.join(orders[1])}->{''.join(product.order)}", *arrays)
    assert np.allclose(result, expected)
    assert set(product.order) == set(pair.term)
    extents = [np.prod([sizes[i] for i in group], dtype=int) for group in (pair.batch, pair.summed)]
    assert [product.dims[0], product.dims[2]] == extents
    assert product.dims[1] * product.dims[3] * product.dims[0] == result.size
    assert product.kind == (MULTIPLY if not pair.summed else MATMUL if pair.batch else DOT)


@pytest.mark.parametrize("left", ["abst", "stab"])
@pytest.mark.parametrize("right", ["cdst", "stcd"])
def test_operands_in_blocks_are_not_copied(left, right):
    sizes = dict.fromkeys("abcdst", 2)
    orders = [tuple(left), tuple(right)]
    product = lay_out(Pair(0, 1, (), ("a", "b"), ("c", "d"), ("s", "t")), orders, None, sizes)
    assert [view.copied for view in product.views] == [0, 0]


def test_the_result_lies_as_the_next_step_wants_it():
    sizes = dict.fromkeys("asbc", 3)
    pair = Pair(0, 1, (), ("a",), ("b", "c"), ("s",))
    # the next step sums b and keeps a and c: a c must be neighbours, so one operand is copied now
    product = lay_out(pair, [("a", "s"), ("s", "c", "b")], ((), ("a", "c"), ("b",)), sizes)
    assert product.order in (("a", "c", "b"), ("c", "a", "b"), ("b", "a", "c"), ("b", "c", "a"))


def test_a_batch_that_comes_last_is_moved():
    """BLAS reads no matrix whose neighbours lie apart in both directions."""
    sizes = {"v": 4, "a": 2, "b": 2, "s": 3}
    product = lay_out(
        Pair(0, 1, ("v",), ("a",), ("b",), ("s",)), [("a", "s", "v"), ("v", "s", "b")], None, sizes
    )
    copied = {number: view.copied for number, view in zip(product.numbers, product.views, strict=True)}
    assert copied == {0: 24, 1: 0}
    assert product.order[0] == "v"
