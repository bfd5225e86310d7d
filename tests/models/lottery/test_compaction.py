"""Stacks without their dead units, and as sparse matrices, against NumPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qrt_tn.models.lottery.compaction import DenseStack, compact, dense_stack, sparse_stack


def random_stack(rng, widths):
    kernels = [(rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32) for shape in pairwise(widths)]
    biases = [rng.normal(size=width).astype(np.float32) for width in widths[1:]]
    return DenseStack(tuple(map(jnp.asarray, kernels)), tuple(map(jnp.asarray, biases)))


def random_masks(rng, stack, density):
    return [rng.random(kernel.shape) < density for kernel in stack.kernels]


def outputs(stack, masks, x):
    """The masked network in float64, by NumPy."""
    h = np.asarray(x, np.float64)
    h = h if stack.inputs is None else h[:, np.asarray(stack.inputs)]
    for layer, (kernel, bias, mask) in enumerate(zip(stack.kernels, stack.biases, masks, strict=True)):
        h = np.maximum(h, 0) if layer else h
        h = h @ np.where(mask, np.asarray(kernel, np.float64), 0) + np.asarray(bias, np.float64)
    return h


def dead_units(masks):
    """Constant or unused hidden units and unread inputs, one unit at a time until nothing changes."""
    masks = [mask.copy() for mask in masks]
    dead = [set() for _ in masks[1:]]
    changed = True
    while changed:
        changed = False
        for layer, gone in enumerate(dead):
            for unit in range(masks[layer].shape[1]):
                enters, leaves = masks[layer][:, unit], masks[layer + 1][unit]
                if unit not in gone and not (enters.any() and leaves.any()):
                    enters[:], leaves[:] = False, False
                    gone.add(unit)
                    changed = True
    return dead, set(np.flatnonzero(~masks[0].any(axis=1)))


def taken_out(compacted):
    return sum(map(len, (*compacted.constant, *compacted.unused, compacted.inputs)))


def test_compaction_computes_the_same_and_finds_every_dead_unit():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.2, 0.4, 1.0) * 6:
        stack = random_stack(rng, [9, *rng.integers(3, 9, size=rng.integers(1, 5)), 3])
        masks = random_masks(rng, stack, density)
        x = rng.normal(size=(20, 9)).astype(np.float32)
        expected = outputs(stack, masks, x)
        smaller = compact(stack, masks)
        whole = [np.ones(kernel.shape, bool) for kernel in smaller.stack.kernels]
        # both without its masks and with them: the survivors' masks describe it weight by weight
        for own in (whole, smaller.masks):
            np.testing.assert_allclose(outputs(smaller.stack, own, x), expected, rtol=1e-5, atol=1e-5)
        dead, unread = dead_units(masks)
        pairs = list(zip(smaller.constant, smaller.unused, strict=True))
        assert [set(one) | set(other) for one, other in pairs] == dead
        assert [len(one) + len(other) for one, other in pairs] == list(map(len, dead))
        assert set(smaller.inputs) == unread
        left = [kernel.shape[1] - len(gone) for kernel, gone in zip(stack.kernels, [*dead, ()], strict=True)]
        assert [kernel.shape for kernel in smaller.stack.kernels] == list(pairwise([9 - len(unread), *left]))
        again = compact(smaller.stack, smaller.masks)
        assert taken_out(again) == 0
        jax.tree.map(np.testing.assert_array_equal, smaller.stack, again.stack)


def test_a_chain_of_constants_folds_to_the_outputs():
    kernels, biases = (jnp.asarray([[w]]) for w in (5.0, 2.0, -3.0)), (1.5, -1.0, 10.0)
    stack = DenseStack(tuple(kernels), tuple(jnp.asarray([b]) for b in biases))
    smaller = compact(stack, [np.array([[False]]), None, None])
    # relu(1.5) = 1.5, relu(2 * 1.5 - 1) = 2, 10 - 3 * 2 = 4
    assert [kernel.shape for kernel in smaller.stack.kernels] == [(0, 0), (0, 0), (0, 1)]
    np.testing.assert_array_equal(smaller.stack(jnp.ones((3, 1))), np.full((3, 1), 4.0))
    assert [list(units) for units in smaller.constant] == [[0], [0]]
    assert list(smaller.inputs) == [0]


def test_inputs_of_a_compacted_stack_are_those_of_the_first():
    rng = np.random.default_rng(4)
    stack = random_stack(rng, [6, 5, 2])
    first, second = np.ones((6, 5), dtype=bool), np.ones((5, 2), dtype=bool)
    first[[0, 3]] = False
    once = compact(stack, [first, None])
    further = once.masks[0].copy()
    further[1] = False  # feature 2 of the first stack
    twice = compact(once.stack, [further, None])
    np.testing.assert_array_equal(twice.stack.inputs, [1, 4, 5])
    np.testing.assert_array_equal(twice.inputs, [2])
    first[2] = False
    x = rng.normal(size=(7, 6)).astype(np.float32)
    np.testing.assert_allclose(twice.stack(x), outputs(stack, [first, second], x), rtol=1e-5, atol=1e-6)


def test_sparse_matrices_hold_what_survives_and_compute_the_same():
    rng = np.random.default_rng(6)
    stack = random_stack(rng, [8, 5, 3])
    masks = random_masks(rng, stack, 0.4)
    x = rng.normal(size=(10, 8)).astype(np.float32)
    # pruned weights count for nothing, whatever they are, and a surviving zero is stored
    first = np.where(masks[0], stack.kernels[0], np.nan)
    first[tuple(np.argwhere(masks[0])[0])] = 0
    stack = DenseStack((jnp.asarray(first), stack.kernels[1]), stack.biases)
    expected = outputs(stack, masks, x)
    assert np.isfinite(expected).all()
    for kind in ("bcoo", "bcsr"):
        sparse = sparse_stack(stack, masks, kind)
        assert [kernel.nse for kernel in sparse.kernels] == [mask.sum() for mask in masks]
        np.testing.assert_allclose(jax.jit(DenseStack.__call__)(sparse, x), expected, rtol=1e-5, atol=1e-5)
        empty = compact(stack, [np.zeros((8, 5), bool), masks[1]])
        assert [kernel.nse for kernel in sparse_stack(empty.stack, empty.masks, kind).kernels] == [0, 0]
    np.testing.assert_allclose(compact(stack, masks).stack(x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="not finite"):
        compact(stack, [None, None])


def layer(*shape):
    return {"kernel": np.ones(shape, np.float32), "bias": np.full(shape[-1], 2, np.float32)}


def test_a_network_becomes_a_stack():
    params = {"one": layer(4, 3), "two": {"kernel": np.ones((3, 2), np.float32)}}
    stack = dense_stack(params, ["one/kernel", "two/kernel"])
    np.testing.assert_array_equal(stack.biases[0], [2, 2, 2])
    np.testing.assert_array_equal(stack.biases[1], [0, 0])  # a layer without a bias
    np.testing.assert_array_equal(stack(np.eye(4, dtype=np.float32)), np.full((4, 2), 9.0))


@pytest.mark.parametrize(
    ("params", "kernels", "message"),
    [
        ({"one": layer(4, 3)}, ["one/kernel", "three/kernel"], "'three/kernel' is no kernel"),
        ({"one": layer(4, 3)}, ["one/bias"], "'one/bias' is no kernel"),
        ({"one": layer(4, 3)}, [], "is no kernel"),
        ({"one": layer(4, 3), "two": layer(3, 2)}, ["one/kernel"], "'two/bias' is of none of the layers"),
        ({"one": layer(4, 3), "two": layer(3, 2)}, ["two/kernel", "one/kernel"], r"\(4, 3\) and follows 2"),
        ({"conv": layer(3, 3, 1, 2)}, ["conv/kernel"], r"shape \(3, 3, 1, 2\)"),
    ],
)
def test_what_is_no_stack_is_refused(params, kernels, message):
    with pytest.raises(ValueError, match=message):
        dense_stack(params, kernels)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([None], "1 masks for 2 kernels"),
        ([None, np.ones((2, 3), bool)], r"mask of kernel 1 has shape \(2, 3\)"),
        ([np.ones((4, 3)), None], "mask of kernel 0 .* dtype float64"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message):
    stack = random_stack(np.random.default_rng(9), [4, 3, 2])
    for function in (compact, sparse_stack):
        with pytest.raises(ValueError, match=message):
            function(stack, masks)
    with pytest.raises(ValueError, match="kind is 'csr'"):
        sparse_stack(stack, [None, None], "csr")
