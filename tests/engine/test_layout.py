import numpy as np
import pytest

from qrt_tn.engine.layout import DOT, MATMUL, MULTIPLY, lay_out
from qrt_tn.engine.tree import Pair

PRODUCTS = {DOT: np.dot, MATMUL: np.matmul, MULTIPLY: np.multiply}


def viewed(array, view):
    """The array as the product takes it."""
    if view.order is not None:
        array = np.ascontiguousarray(array.transpose(view.order))
    if view.shape is not None:
        array = array.reshape(view.shape)
    return array if view.swap is None else array.transpose(view.swap)


def draw(rng):
    """A random pair, the axis orders of its operands, and groups in which a next step may take it."""
    sizes = {index: int(rng.integers(1, 4)) for index in "abcdefgh"}
    groups = {index: int(rng.integers(4)) for index in sizes}
    batch, left, right, summed = (tuple(i for i in sizes if groups[i] == group) for group in range(4))
    orders = [tuple(rng.permutation(list(batch + own + summed)).tolist()) for own in (left, right)]
    pair = Pair(0, 1, batch, left, right, summed)
    labels = rng.integers(3, size=len(pair.term))
    wanted = tuple(
        tuple(i for i, label in zip(pair.term, labels, strict=True) if label == k) for k in range(3)
    )
    return pair, orders, sizes, wanted if rng.random() < 0.7 else None


def test_products_are_einsums():
    for seed in range(150):
        rng = np.random.default_rng(seed)
        pair, orders, sizes, wanted = draw(rng)
        product = lay_out(pair, orders, wanted, sizes)
        arrays = [rng.normal(size=[sizes[index] for index in order]) for order in orders]
        operands = []
        for number, view in zip(product.numbers, product.views, strict=True):
            operands.append(viewed(arrays[number], view))
            # what is announced as copied is copied, and nothing else
            assert view.copied == (arrays[number].size if view.order is not None else 0)
            assert view.copied or np.shares_memory(operands[-1], arrays[number])
        result = np.asarray(PRODUCTS[product.kind](*operands))
        result = result if product.shape is None else result.reshape(product.shape)
        assert result.shape == tuple(sizes[index] for index in product.order)
        expected = np.einsum(f"{''.join(orders[0])},{''.join(orders[1])}->{''.join(product.order)}", *arrays)
        assert np.allclose(result, expected)
        extents = [np.prod([sizes[i] for i in group], dtype=int) for group in (pair.batch, pair.summed)]
        assert [product.dims[0], product.dims[2]] == extents
        assert product.dims[1] * product.dims[3] * product.dims[0] == result.size
        assert product.kind == (MULTIPLY if not pair.summed else MATMUL if pair.batch else DOT)


@pytest.mark.parametrize(
    ("groups", "left", "right", "copied"),
    [
        *(
            (("", "ab", "cd", "st"), left, right, {0})
            for left in ("abst", "stab")
            for right in ("cdst", "stcd")
        ),
        # BLAS reads no matrix whose neighbours lie apart in both directions: a batch must not come last
        (("v", "a", "b", "s"), "asv", "vsb", {8, 0}),
    ],
)
def test_blocks_are_not_copied(groups, left, right, copied):
    sizes = dict.fromkeys("abcdstv", 2)
    product = lay_out(Pair(0, 1, *map(tuple, groups)), [tuple(left), tuple(right)], None, sizes)
    assert {view.copied for view in product.views} == copied
    assert not groups[0] or product.order[0] == "v"


def test_the_result_lies_as_the_next_step_wants_it():
    pair = Pair(0, 1, (), ("a",), ("b", "c"), ("s",))
    # the next step sums b and keeps a and c: a c must be neighbours, so one operand is copied now
    product = lay_out(pair, [("a", "s"), ("s", "c", "b")], ((), ("a", "c"), ("b",)), dict.fromkeys("asbc", 3))
    assert "".join(product.order) in ("acb", "cab", "bac", "bca")
