"""Stacks without their dead units, and as sparse matrices, against NumPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qrt_tn.models.dense import DenseNetwork
from qrt_tn.models.lottery.compaction import (
    DenseStack,
    apply_stack_masks,
    compact,
    dense_forward,
    dense_stack,
    sparse_forward,
    sparse_stack,
    stack_masks,
)
from qrt_tn.models.lottery.masks import full_masks


def _random_stack(rng, widths):
    return DenseStack(
        tuple(
            jnp.asarray((rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32))
            for shape in pairwise(widths)
        ),
        tuple(jnp.asarray(rng.normal(size=width).astype(np.float32)) for width in widths[1:]),
    )


def _random_masks(rng, stack, density):
    return [rng.random(kernel.shape) < density for kernel in stack.kernels]


def _outputs(stack, masks, x):
    """The masked network in float64, unit by unit."""
    h = np.asarray(x, dtype=np.float64)
    if stack.inputs is not None:
        h = h[:, np.asarray(stack.inputs)]
    last = len(stack.kernels) - 1
    for layer, (kernel, bias, mask) in enumerate(zip(stack.kernels, stack.biases, masks, strict=True)):
        w = np.array(kernel, dtype=np.float64)
        w[~mask] = 0
        h = h @ w + np.asarray(bias, dtype=np.float64)
        h = h if layer == last else np.maximum(h, 0)
    return h


def _dead_by_repetition(masks):
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


@pytest.mark.parametrize("seed", range(9))
def test_compaction_computes_the_same_and_finds_every_dead_unit(seed):
    rng = np.random.default_rng(seed)
    stack = _random_stack(rng, [9, *rng.integers(3, 9, size=rng.integers(1, 5)), 3])
    masks = _random_masks(rng, stack, (0.1, 0.2, 0.4)[seed % 3])
    x = rng.normal(size=(20, 9)).astype(np.float32)
    smaller = compact(stack, masks)
    np.testing.assert_allclose(
        dense_forward(smaller.stack, x), _outputs(stack, masks, x), rtol=1e-5, atol=1e-5
    )
    dead, unread = _dead_by_repetition(masks)
    found = [set(one) | set(other) for one, other in zip(smaller.constant, smaller.unused, strict=True)]
    assert found == dead
    # a unit of both kinds is told of once
    assert list(map(len, found)) == [
        len(one) + len(other) for one, other in zip(smaller.constant, smaller.unused, strict=True)
    ]
    assert set(smaller.inputs) == unread
    assert [len(k) for k in smaller.stack.kernels[1:]] == [
        k.shape[0] - len(gone) for k, gone in zip(stack.kernels[1:], dead, strict=True)
    ]
    # the survivors' masks describe the smaller stack, weight by weight
    np.testing.assert_allclose(
        _outputs(smaller.stack, smaller.masks, x), _outputs(stack, masks, x), rtol=1e-5, atol=1e-5
    )
    again = compact(smaller.stack, smaller.masks)
    assert sum(map(len, (*again.constant, *again.unused, again.inputs))) == 0
    for before, after in zip(smaller.stack.kernels, again.stack.kernels, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_chain_of_constants_folds_to_the_outputs():
    one = np.ones((1, 1), dtype=np.float32)
    stack = DenseStack(
        tuple(jnp.asarray(w * one) for w in (5.0, 2.0, -3.0)),
        tuple(jnp.asarray([b], dtype=jnp.float32) for b in (1.5, -1.0, 10.0)),
    )
    smaller = compact(stack, [np.array([[False]]), None, None])
    # relu(1.5) = 1.5, relu(2 * 1.5 - 1) = 2, 10 - 3 * 2 = 4
    assert [k.shape for k in smaller.stack.kernels] == [(0, 0), (0, 0), (0, 1)]
    np.testing.assert_array_equal(dense_forward(smaller.stack, jnp.ones((3, 1))), np.full((3, 1), 4.0))
    assert [list(units) for units in smaller.constant] == [[0], [0]]
    assert list(smaller.inputs) == [0]


def test_a_chain_of_unused_units_goes_back_to_the_inputs():
    rng = np.random.default_rng(3)
    stack = _random_stack(rng, [4, 4, 4, 2])
    diagonal = np.eye(4, dtype=bool)
    last = np.ones((4, 2), dtype=bool)
    last[1] = False
    smaller = compact(stack, [diagonal, diagonal, last])
    assert [list(units) for units in smaller.unused] == [[1], [1]]
    assert [list(units) for units in smaller.constant] == [[], []]
    np.testing.assert_array_equal(smaller.stack.inputs, [0, 2, 3])
    x = rng.normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(
        dense_forward(smaller.stack, x), _outputs(stack, [diagonal, diagonal, last], x), rtol=1e-5, atol=1e-6
    )


def test_inputs_of_a_compacted_stack_are_those_of_the_first():
    rng = np.random.default_rng(4)
    stack = _random_stack(rng, [6, 5, 2])
    first, second = np.ones((6, 5), dtype=bool), np.ones((5, 2), dtype=bool)
    first[[0, 3]] = False
    once = compact(stack, [first, second])
    further = once.masks[0].copy()
    further[1] = False  # feature 2 of the first stack
    twice = compact(once.stack, [further, once.masks[1]])
    np.testing.assert_array_equal(twice.stack.inputs, [1, 4, 5])
    np.testing.assert_array_equal(twice.inputs, [2])
    first[2] = False
    x = rng.normal(size=(7, 6)).astype(np.float32)
    np.testing.assert_allclose(
        dense_forward(twice.stack, x), _outputs(stack, [first, second], x), rtol=1e-5, atol=1e-6
    )


def test_nothing_to_take_out_leaves_the_stack_as_it_is():
    rng = np.random.default_rng(5)
    stack = _random_stack(rng, [5, 4, 3])
    same = compact(stack, [None, None])
    assert same.stack.inputs is None
    for before, after in zip(jax.tree.leaves(stack), jax.tree.leaves(same.stack), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert all(mask.all() for mask in same.masks)
    assert sum(map(len, (*same.constant, *same.unused, same.inputs))) == 0


@pytest.mark.parametrize("kind", ["bcoo", "bcsr"])
@pytest.mark.parametrize("density", [0.0, 0.3])
def test_sparse_outputs_are_those_of_the_masked_network(kind, density):
    rng = np.random.default_rng(6)
    stack = _random_stack(rng, [8, 6, 5, 3])
    masks = _random_masks(rng, stack, density)
    x = rng.normal(size=(10, 8)).astype(np.float32)
    sparse = sparse_stack(stack, masks, kind)
    assert [matrix.nse for matrix in sparse.kernels] == [mask.sum() for mask in masks]
    expected = _outputs(stack, masks, x)
    np.testing.assert_allclose(jax.jit(sparse_forward)(sparse, x), expected, rtol=1e-5, atol=1e-5)
    smaller = compact(stack, masks)
    both = sparse_stack(smaller.stack, smaller.masks, kind)
    np.testing.assert_allclose(jax.jit(sparse_forward)(both, x), expected, rtol=1e-5, atol=1e-5)
    one = sparse_forward(sparse, x[:1])
    np.testing.assert_allclose(one, expected[:1], rtol=1e-5, atol=1e-5)


def test_pruned_weights_count_for_nothing_whatever_they_are():
    rng = np.random.default_rng(7)
    stack = _random_stack(rng, [4, 3, 2])
    masks = _random_masks(rng, stack, 0.6)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    expected = _outputs(stack, masks, x)
    broken = DenseStack(
        tuple(jnp.where(mask, k, jnp.nan) for k, mask in zip(stack.kernels, masks, strict=True)), stack.biases
    )
    assert not all(mask.all() for mask in masks)
    for outputs in (
        dense_forward(apply_stack_masks(broken, masks), x),
        dense_forward(compact(broken, masks).stack, x),
        sparse_forward(sparse_stack(broken, masks), x),
    ):
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="not finite"):
        compact(broken, [None, None])


def test_a_surviving_zero_is_stored():
    stack = DenseStack((jnp.zeros((2, 2)),), (jnp.zeros(2),))
    assert sparse_stack(stack, [np.eye(2, dtype=bool)]).kernels[0].nse == 2


def test_a_network_becomes_a_stack():
    network = DenseNetwork(5, 7, 3, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    names = ("hidden_kernel", "kernel")
    x = jnp.asarray(np.random.default_rng(8).normal(size=(4, 5)), dtype=jnp.float32)
    np.testing.assert_allclose(dense_forward(dense_stack(params, names), x), network(x), rtol=1e-6)
    held = stack_masks(full_masks(params, lambda name, leaf: name == "hidden_kernel"), names)
    assert held[0].shape == (5, 7)
    assert held[1] is None


def test_a_layer_without_bias_gets_zeros():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    stack = dense_stack({"output": {"kernel": kernel}}, ["output/kernel"])
    np.testing.assert_array_equal(dense_forward(stack, jnp.eye(2)), kernel)


def test_what_is_no_stack_is_refused():
    params = {
        "one": {"kernel": np.ones((4, 3)), "bias": np.ones(3)},
        "two": {"kernel": np.ones((3, 2)), "bias": np.ones(2)},
    }
    with pytest.raises(ValueError, match="'three/kernel' is no kernel"):
        dense_stack(params, ["one/kernel", "three/kernel"])
    with pytest.raises(ValueError, match="none of the layers named"):
        dense_stack(params, ["one/kernel"])
    with pytest.raises(ValueError, match="kernel 1 takes 4 units but kernel 0 gives 2"):
        dense_stack(params, ["two/kernel", "one/kernel"])
    with pytest.raises(ValueError, match="takes fully connected layers"):
        dense_stack({"conv": {"kernel": np.ones((3, 3, 1, 2)), "bias": np.ones(2)}}, ["conv/kernel"])
    with pytest.raises(ValueError, match="bias 0 has shape"):
        dense_stack({"one": {"kernel": np.ones((4, 3)), "bias": np.ones(2)}}, ["one/kernel"])
    with pytest.raises(ValueError, match="0 kernels"):
        dense_stack({}, [])


def test_masks_that_do_not_fit_are_refused():
    stack = _random_stack(np.random.default_rng(9), [4, 3, 2])
    with pytest.raises(ValueError, match="1 masks for 2 kernels"):
        compact(stack, [None])
    with pytest.raises(ValueError, match="mask of kernel 1 has shape"):
        compact(stack, [None, np.ones((2, 3), dtype=bool)])
    with pytest.raises(ValueError, match="dtype float64"):
        sparse_stack(stack, [np.ones((4, 3)), None])
    with pytest.raises(ValueError, match="kind is 'csr'"):
        sparse_stack(stack, [None, None], "csr")
    with pytest.raises(ValueError, match="inputs has shape"):
        compact(DenseStack(stack.kernels, stack.biases, jnp.arange(3)), [None, None])
