"""Slices on the cuQuantum executor: loops of our own, and shares of them."""

import math

import numpy as np
import pytest

from qrt_tn.engine.balance import Stack
from qrt_tn.engine.execute import PairwiseExpression
from qrt_tn.engine.exponents import add
from qrt_tn.engine.network import batch_indices
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.program import compile_program
from tests.engine.conftest import (
    chain,
    draw,
    einsum,
    log_abs,
    log_of_chain,
    network,
    opened,
    random_path,
    value,
)


def test_slices_of_different_magnitude_add_up(cutensornet):
    """A slice is balanced by itself: 1e-15 times 1e15, many times over, is no small part of the sum."""
    rng = np.random.default_rng(8)
    inputs = [("s", f"k{i}", f"k{i + 1}") for i in range(8)] + [("k8", "l"), ("s", "l")]
    sizes = {"s": 3, "l": 2} | {f"k{i}": 2 for i in range(9)}
    arrays = draw(rng, inputs, sizes, "complex64")
    for number in range(8):
        powers = [15, -15, 0] if number % 2 else [-15, 15, 0]
        arrays[number] *= (10.0 ** np.array(powers)).astype("complex64")[:, None, None]
    path = [(0, 2, 4, 6), (0, 1, 2, 3), (0, 1, 2, 3)]  # 1e-60 before it meets 1e60
    with opened(inputs, ("k0",), sizes, path, ("s",), (), "complex64") as expression:
        share = expression.shares(arrays)
        got = sum(value(share(range(n, n + 1))) for n in range(3))
        assert np.allclose(got, einsum(arrays, inputs, ("k0",)), rtol=1e-4)
        assert np.allclose(value(expression(arrays)), got, rtol=1e-5)


def test_sliced_chain_cut_into_segments(cutensornet):
    """Several segments and slices at once: what has no sliced index runs once, the rest per slice."""
    rng = np.random.default_rng(9)
    inputs, sizes, arrays = chain(300, 3, rng, "complex64", 1e-20)
    path = find_path(inputs, (), sizes, "cotengra-greedy")
    with opened(inputs, (), sizes, path, ("k7", "k150"), (), "complex64") as expression:
        whole = expression(arrays)
        assert expression.segment_count > 5
        # 9 slices, yet most of the segments only once
        assert cutensornet.contractions < 6 * expression.segment_count
        share = expression.shares(arrays)
        parts = [share(range(start, 9, 4)) for start in range(4)]
    log, _ = log_of_chain(arrays)
    assert np.isclose(log_abs(whole), log, rtol=1e-6)
    shift = whole[1].get()
    total = sum(m.get() * np.exp2((e.get() - shift).astype(float)) for m, e in parts)
    assert np.isclose(total, whole[0].get(), rtol=1e-3)


def test_sliced_output_and_batch_indices(cutensornet):
    rng = np.random.default_rng(10)
    inputs = [("n", "i", "o"), ("n", "i", "j"), ("n", "j")]
    sizes = {"n": 4, "i": 3, "o": 2, "j": 3}
    arrays = draw(rng, inputs, sizes, "complex64")
    arrays[0] *= np.array([1e-25, 1e25, 1, 1e3], dtype="complex64")[:, None, None]
    expected = einsum(arrays, inputs, ("o", "n"))
    for slices in (("n",), ("o",), ("o", "n", "i")):
        with opened(inputs, ("o", "n"), sizes, [(0, 1), (0, 1)], slices, ("n",), "complex64") as expression:
            for result in (
                expression(arrays),
                expression.shares(arrays)(range(math.prod(sizes[i] for i in slices))),
            ):
                assert np.allclose(value(result) / expected, 1, rtol=1e-3)


def sliced_chain(rng, *, dips=False):
    """A chain of 40 with slices near its end, what comes before being the same for all slices."""
    inputs, sizes, arrays = chain(40, 2, rng, "complex64")
    if dips:
        for n, array in enumerate(arrays[1:30], start=1):
            array[...] = np.diag([1, 1e-6] if n % 2 else [1e-6, 1])
    path = [(0, 1)] + [(0, count - 1) for count in range(39, 1, -1)]
    return inputs, sizes, arrays, find_path(inputs, (), sizes, path)


def test_shares_compute_once_what_no_slice_changes(cutensornet, monkeypatch):
    inputs, sizes, arrays, path = sliced_chain(np.random.default_rng(20))
    slices = ("k37", "k38")
    with opened(inputs, (), sizes, path, slices, (), "complex64") as expression:
        fills = []
        monkeypatch.setattr(
            Stack, "fill", lambda self, given, real=Stack.fill: fills.append(1) or real(self, given)
        )
        share = expression.shares(arrays)
        loaded = len(fills)
        parts = [value(share(range(n, n + 1))) for n in range(4)]
        assert len(fills) == loaded
        sliced = [net for net in cutensornet.live if net.runs == 4]
        assert len(sliced) == 1 and sum(net.runs for net in cutensornet.live) == 4 + len(cutensornet.live) - 1
        # in between other operands: both are still right
        other = [array * (2 if n == 0 else 1) for n, array in enumerate(arrays)]
        second = expression.shares(other)
        assert np.isclose(value(second(range(1))), 2 * parts[0], rtol=1e-5)
        assert np.isclose(value(share(range(1, 2))), parts[1], rtol=1e-5)
        assert np.isclose(value(expression(other)), 2 * sum(parts), rtol=1e-5)
    assert np.isclose(sum(parts), einsum(arrays, inputs, ()), rtol=1e-4)
    with pytest.raises(ValueError, match="closed"):
        share(range(1))


def test_shares_whose_unsliced_part_is_cut(cutensornet):
    """The first share finds it and cuts; no later one computes it again."""
    inputs, sizes, arrays, path = sliced_chain(np.random.default_rng(21), dips=True)
    with opened(inputs, (), sizes, path, ("k37",), (), "complex64") as expression:
        before = expression.segment_count
        share = expression.shares(arrays)
        parts = [share(range(1))]
        assert expression.segment_count > before
        cutensornet.contractions = 0
        parts.append(share(range(1, 2)))
        assert cutensornet.contractions == 1
        whole = expression(arrays)
    assert np.isclose(log_abs(add(*parts)), log_of_chain(arrays)[0], rtol=1e-6)
    assert np.isclose(log_abs(whole), log_of_chain(arrays)[0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("dtype", ["complex64", "float64"])
def test_the_same_as_pair_by_pair(seed, dtype, cutensornet):
    """Zeros, wild magnitudes per batch element, constants and slices together."""
    rng, inputs, output, sizes = network(100 + seed, tensors=9)
    path = find_path(inputs, output, sizes, random_path(rng, len(inputs)))
    slices = tuple(rng.permutation(list(sizes))[: seed % 3].tolist())
    batch = batch_indices(inputs, output)
    arrays = draw(rng, inputs, sizes, dtype)
    reach = 12 if dtype == "complex64" else 120
    for number, term in enumerate(inputs):
        powers = 10.0 ** rng.integers(-reach, reach, size=[sizes[i] if i in batch else 1 for i in term])
        keep = rng.random(arrays[number].shape) > 0.1
        arrays[number] = (arrays[number] * powers * keep).astype(dtype)
    constants = {n: arrays[n] for n in rng.permutation(9)[:3].tolist()}
    bytes_ = 4 if dtype == "complex64" else 8
    program = compile_program(inputs, output, sizes, path, slices, batch, bytes_)
    expected = PairwiseExpression(program, np, dtype, constants)(arrays)
    with opened(inputs, output, sizes, path, slices, batch, dtype, constants=constants) as expression:
        share = expression.shares(arrays) if seed % 2 else None
        count = math.prod(sizes[i] for i in slices)
        for got in (expression(arrays), share(range(count)) if share else expression(arrays)):
            mantissa, exponent = (part.get() for part in got)
            top = np.maximum(exponent, np.broadcast_to(expected[1], exponent.shape))
            mine = mantissa * np.exp2((exponent - top).astype(float))
            theirs = expected[0] * np.exp2((expected[1] - top).astype(float))
            # to the largest of each batch element: what cancels has no digits to compare
            within = tuple(axis for axis, index in enumerate(output) if index not in batch)
            size = np.abs(theirs).max(axis=within, keepdims=True)
            tolerance = 1e-3 if dtype == "complex64" else 1e-9
            assert np.all(np.abs(mine - theirs) <= tolerance * size)
