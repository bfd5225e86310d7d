import tracemalloc

import numpy as np
import opt_einsum as oe
import pytest

from qrt_tn import engine
from qrt_tn.engine import Plan
from qrt_tn.engine.cost import cost_of, predicted_seconds, program_slices, repeated_flops


def equation(inputs, output, sizes):
    symbols = {index: oe.get_symbol(number) for number, index in enumerate(sizes)}
    left = ",".join("".join(symbols[index] for index in term) for term in inputs)
    return f"{left}->{''.join(symbols[index] for index in output)}"


@pytest.mark.parametrize("seed", range(10))
def test_flops_and_sizes_as_opt_einsum_counts_them(seed):
    rng = np.random.default_rng(seed)
    sizes = {f"i{k}": int(rng.integers(2, 6)) for k in range(8)}
    # every index at most once a tensor: opt_einsum's cost knows no diagonals
    inputs = [tuple(rng.permutation(list(sizes))[: rng.integers(1, 5)].tolist()) for _ in range(6)]
    used = list(dict.fromkeys(i for term in inputs for i in term))
    # and none lonely: opt_einsum sums a lone index within its pair, here it is summed beforehand
    output = tuple(i for i in used if rng.random() < 0.3 or sum(i in term for term in inputs) == 1)
    found = engine.plan((inputs, output, sizes), optimizer="greedy")
    shapes = [tuple(sizes[i] for i in term) for term in inputs]
    _, info = oe.contract_path(
        equation(inputs, output, sizes), *shapes, shapes=True, optimize=list(found.path)
    )
    assert found.flops == info.opt_cost
    assert found.largest == info.largest_intermediate


def test_flops_by_hand():
    sizes = {"i": 2, "j": 3, "k": 5, "l": 7}
    assert Plan((("i", "j"), ("j", "k")), ("i", "k"), sizes, ((0, 1),)).flops == 2 * 2 * 3 * 5
    assert Plan((("i",), ("j",)), ("i", "j"), sizes, ((0, 1),)).flops == 6  # an outer product sums nothing
    # a lone index is summed beforehand: two for each of 2*7 elements
    assert Plan((("i", "l"), ("i",)), ("i",), sizes, ((0, 1),)).flops == 28 + 2


def test_what_no_slice_changes_counts_once():
    inputs, sizes = (("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")), dict.fromkeys("abcde", 3)
    path = ((0, 1), (0, 1), (0, 1))  # (ab bc), (cd de), then both
    whole, sliced = (Plan(inputs, ("a", "e"), sizes, path, slices) for slices in ((), ("b", "a")))
    assert whole.flops == 3 * 2 * 27
    # per slice of a and b: 1*1*3 multiplications without a sum, and 2*3*3 in the last product
    assert sliced.flops == 9 * 3 + 2 * 27 + 9 * 2 * 9
    assert program_slices(sliced.program) == sliced.slice_count == 9
    assert repeated_flops(sliced.program, ()) == sliced.flops
    assert repeated_flops(sliced.program, {2, 3}) == sliced.flops - 2 * 27
    assert repeated_flops(sliced.program, {0, 1}) == sliced.flops  # repeated for the slices all the same
    assert repeated_flops(whole.program, {0, 1, 2, 3}) == 0


def measured(made, arrays):
    """Bytes that one call takes at its worst moment, the operands among them."""
    with made.expression("numpy") as expression:
        expression(arrays)
        tracemalloc.start()
        try:
            expression(arrays)
            return tracemalloc.get_traced_memory()[1] + sum(array.nbytes for array in arrays)
        finally:
            tracemalloc.stop()


def grid(rng, rows, columns, extent, dtype, batch=False):
    """(inputs, sizes, arrays) of a grid, with a hyperindex on all tensors where asked for."""
    inputs = []
    for i in range(rows):
        for j in range(columns):
            bonds = [(f"r{i}{j}", j > 0), (f"r{i}{j + 1}", j < columns - 1)]
            bonds += [(f"c{i}{j}", i > 0), (f"c{i + 1}{j}", i < rows - 1), ("v", batch)]
            inputs.append(tuple(name for name, keep in bonds if keep))
    sizes = {index: extent for term in inputs for index in term}
    arrays = [rng.normal(size=[sizes[i] for i in term]).astype(dtype) for term in inputs]
    return inputs, sizes, arrays


@pytest.mark.parametrize("dtype", ["complex128", "float32"])
@pytest.mark.parametrize("factor", [1.0, 1e-6])  # small ones are rescaled: copied
@pytest.mark.parametrize(
    ("batch", "output"), [(False, ()), (False, ("r01", "c10")), (True, ("v",)), (True, ())]
)
def test_the_peak_bounds_what_is_measured(dtype, factor, batch, output):
    rng = np.random.default_rng(0)
    inputs, sizes, arrays = grid(rng, 3, 3, 12 if batch else 16, dtype, batch)
    arrays = [np.asarray(factor * array, dtype) for array in arrays]
    made = engine.plan((inputs, output, sizes), dtype=dtype)
    took = measured(made, arrays)
    assert took <= made.peak_bytes + 20_000  # Python's own objects
    assert made.peak_bytes <= 3 * took
    limited = engine.plan((inputs, output, sizes), dtype=dtype, memory_limit=made.peak_bytes * 2 // 3)
    assert limited.slices
    assert limited.peak_bytes <= made.peak_bytes * 2 // 3
    assert measured(limited, arrays) <= limited.peak_bytes + 40_000


@pytest.mark.parametrize("seed", [66, 68, 280, 380, *range(6)])
def test_the_peak_bounds_random_networks(seed, networks):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = networks.draw(rng, tensors=5, indices=6, largest=16)
    slices = tuple(index for index in sizes if sizes[index] < 6 and rng.random() < 0.2)
    made = Plan(tuple(inputs), output, sizes, networks.path(rng, len(inputs)), slices)
    arrays = [1e9 ** (number % 2) * a for number, a in enumerate(networks.arrays(rng, inputs, sizes))]
    assert measured(made, arrays) <= made.peak_bytes + 30_000  # NumPy's buffers for strided sums


def test_a_cost_by_hand():
    made = Plan((("i", "j"), ("j", "k")), ("i", "k"), {"i": 20, "j": 30, "k": 50}, ((0, 1),), (), "complex64")
    found = cost_of(made.program)
    assert (found.flops, found.largest) == (2 * 20 * 30 * 50, 1000)
    # operands as given, the result, and four of its size while its scale is found
    assert found.peak == 600 + 1500 + 5 * 1000
    assert made.peak_bytes == 8 * found.peak


class Device:
    """A thousand operations a second, ten bytes a second, and half a second for each step."""

    def seconds(self, batch, rows, inner, columns, dtype, moved, permuted):
        assert dtype == "float32"
        return batch * rows * inner * columns / 1000 + (moved + permuted) / 10 + 0.5


def test_predicted_seconds_by_hand():
    inputs, sizes = (("a", "b"), ("b", "c"), ("c", "d")), {"a": 2, "b": 3, "c": 5, "d": 7}
    device = Device()
    whole = Plan(inputs, ("a", "d"), sizes, ((0, 1), (0, 1)), (), "float32")
    first, second = 30 / 1000 + 4 * (6 + 15 + 10) / 10 + 0.5, 70 / 1000 + 4 * (10 + 35 + 14) / 10 + 0.5
    assert np.isclose(predicted_seconds(whole.program, "float32", device), first + second)
    sliced = Plan(inputs, ("a", "d"), sizes, ((0, 1), (0, 1)), ("d",), "float32")
    second = 10 / 1000 + 4 * (10 + 5 + 2) / 10 + 0.5
    assert np.isclose(predicted_seconds(sliced.program, "float32", device), first + 7 * second)
    single = Plan((("a",),), ("a",), sizes, ((0,),), (), "float32")
    assert predicted_seconds(single.program, "float32", device) == 0
