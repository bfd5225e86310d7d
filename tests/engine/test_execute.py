import numpy as np
import pytest

import engine
from engine.execute import contract_path
from engine.paths import find_path


def random_network(rng, *, tensors=6, indices=6, largest=3):
    """Inputs, output and sizes with hyperindices, repeated indices, scalars and disconnected parts."""
    sizes = {f"i{k}": int(rng.integers(1, largest + 1)) for k in range(indices)}
    names = list(sizes)
    inputs = [
        tuple(names[k] for k in rng.integers(indices, size=rng.integers(0, 4)))
        for _ in range(rng.integers(1, tensors + 1))
    ]
    used = list(dict.fromkeys(index for term in inputs for index in term))
    output = tuple(index for index in rng.permutation(used).tolist() if rng.random() < 0.4)
    return inputs, output, {index: sizes[index] for index in used}


def random_arrays(rng, inputs, sizes, *, complex_values=True):
    shapes = [[sizes[index] for index in term] for term in inputs]
    return [rng.normal(size=s) + (1j * rng.normal(size=s) if complex_values else 0) for s in shapes]


def by_einsum(arrays, inputs, output, sizes):
    numbers = {index: number for number, index in enumerate(sizes)}
    operands = [
        x for array, term in zip(arrays, inputs, strict=True) for x in (array, [numbers[i] for i in term])
    ]
    return np.einsum(*operands, [numbers[index] for index in output])


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_against_einsum(seed):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = random_network(rng)
    arrays = random_arrays(rng, inputs, sizes, complex_values=seed % 2 == 0)
    expected = by_einsum(arrays, inputs, output, sizes)
    for optimizer in ("auto", "greedy", "cotengra-greedy", "random-greedy"):
        made = engine.plan((inputs, output, sizes), optimizer=optimizer)
        result = made.execute(arrays, "numpy")
        assert result.shape == expected.shape
        assert np.allclose(result.value(), expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_steps_of_any_number_of_tensors(seed):
    """Paths that join one tensor, or three or more, in a step."""
    rng = np.random.default_rng(seed)
    inputs, output, sizes = random_network(rng, tensors=7)
    path, left = [], len(inputs)
    while left > 1 or not path:
        size = int(rng.integers(1, min(4, left) + 1))
        path.append(tuple(rng.permutation(left)[:size].tolist()))
        left += 1 - size
    arrays = random_arrays(rng, inputs, sizes)
    mantissa, log_scale = contract_path(arrays, inputs, output, path)
    assert np.allclose(mantissa * np.exp(log_scale), by_einsum(arrays, inputs, output, sizes), atol=1e-10)


@pytest.mark.parametrize(
    ("term", "output"),
    [
        ("ii", ""),
        ("ii", "i"),
        ("iij", "j"),
        ("iii", ""),
        ("iii", "i"),
        ("ijij", "ji"),
        ("ij", "ji"),
        ("ij", ""),
    ],
)
def test_a_single_tensor(term, output):
    rng = np.random.default_rng(0)
    array = rng.normal(size=[{"i": 2, "j": 3}[index] for index in term])
    result = engine.plan(([tuple(term)], tuple(output), {"i": 2, "j": 3})).execute([array], "numpy")
    assert np.allclose(result.value(), np.einsum(f"{term}->{output}", array))


@pytest.mark.parametrize("dtype", [np.complex64, np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1.0, 1e5, 1e30])
def test_a_long_chain_keeps_its_scale(dtype, scale):
    """5,000 sites, two tensors a site: planned in seconds, executed without underflow or overflow."""
    sites = 5000
    inputs = [(f"k{i}", f"k{i + 1}", f"x{i}") for i in range(sites)] + [(f"x{i}", "v") for i in range(sites)]
    sizes = {index: 2 for term in inputs for index in term}
    rng = np.random.default_rng(0)
    matrices, vectors = rng.normal(size=(sites, 2, 2, 2)), rng.normal(size=(sites, 2, 2))
    made = engine.plan((inputs, ("v",), sizes), dtype=dtype)
    assert made.largest <= 64
    arrays = [(scale * m).astype(dtype) for m in matrices] + [v.astype(dtype) for v in vectors]
    result = made.execute(arrays, "numpy")
    assert result.dtype == dtype
    # the chain by itself, in double precision, a step and a norm at a time
    expected = []
    for v in range(2):
        row, log = np.ones(2), 0.0
        for matrix, vector in zip(matrices, vectors, strict=True):
            row = row @ (matrix @ vector[:, v])
            log += np.log(np.abs(row).max() * scale)
            row = row / np.abs(row).max()
        expected.append(log + np.log(abs(row.sum())))
    assert np.allclose(result.log_abs(), expected, atol=1e-6 if dtype == np.float64 else 0.05)


def test_zeros_and_integers():
    inputs = [("i", "j"), ("j", "k")]
    sizes = {"i": 2, "j": 3, "k": 2}
    made = engine.plan((inputs, ("i", "k"), sizes))
    zeros = made.execute([np.zeros((2, 3)), np.ones((3, 2))], "numpy")
    assert (zeros.value() == 0).all()
    a, b = np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)
    result = made.execute([a, b], "numpy")
    assert result.dtype == np.float64
    assert np.allclose(result.value(), a @ b)


def test_half_precision_is_promoted():
    made = engine.plan(([("i",), ("i",)], (), {"i": 2}))
    result = made.execute([np.float16([1e-7, 2.0]), np.float16([3.0, 0.5])], "numpy")
    assert result.dtype == np.float32
    assert np.isclose(result.value(), 1, rtol=1e-3)


def test_nan_stays_nan():
    made = engine.plan(([("i",), ("i",)], (), {"i": 2}))
    assert np.isnan(made.execute([np.array([np.nan, 1.0]), np.ones(2)], "numpy").value())


@pytest.mark.parametrize("seed", range(8))
def test_the_device_road(seed, device):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = random_network(rng)
    arrays = random_arrays(rng, inputs, sizes)
    made = engine.plan((inputs, output, sizes))
    result = made.execute(arrays, "cupy")
    assert isinstance(result.mantissa, device.ndarray)
    assert isinstance(result.log_scale, device.ndarray)
    expected = by_einsum(arrays, inputs, output, sizes)
    assert np.allclose(np.asarray(result), expected, atol=1e-10)
    path = find_path(inputs, output, sizes)
    mantissa, log_scale = contract_path([device.asarray(a) for a in arrays], inputs, output, path)
    assert np.allclose(mantissa.get() * np.exp(float(log_scale)), expected, atol=1e-10)


def test_the_device_road_in_slices(device):
    rng = np.random.default_rng(0)
    inputs = [("a", "b"), ("b", "c"), ("c", "d")]
    sizes = dict.fromkeys("abcd", 4)
    arrays = random_arrays(rng, inputs, sizes)
    for output in ((), ("a", "d")):
        whole = engine.plan((inputs, output, sizes))
        sliced = engine.Plan(whole.inputs, whole.output, whole.sizes, whole.path, ("b", "a"))
        result = sliced.execute(arrays, "cupy")
        assert isinstance(result.mantissa, device.ndarray)
        assert np.allclose(np.asarray(result), by_einsum(arrays, inputs, output, sizes))
