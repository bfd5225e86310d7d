import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from qrt_tn.engine import Plan
from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.exponents import on_host

PRECISION = {"float32": 2e-5, "complex64": 2e-5, "float64": 1e-12, "complex128": 1e-12}


def agree(result, expected, dtype, terms=0.0):
    """Whether values are right to rounding, beside the largest sum of moduli that meets in one."""
    got = to_host(result.value())
    assert got.shape == expected.shape
    assert result.dtype == dtype
    scale = max(np.abs(expected).max(initial=0), terms)
    assert np.abs(got - expected).max(initial=0) <= PRECISION[dtype] * scale


def draw(networks, seed, **settings):
    """A random plan, its arrays, some of them constant, and the right answer."""
    rng = np.random.default_rng(seed)
    dtype = ("float32", "float64", "complex64", "complex128")[seed % 4]
    inputs, output, sizes = networks.draw(rng, **settings)
    path = networks.path(rng, len(inputs))
    slices = tuple(index for index in rng.permutation(list(sizes)).tolist() if rng.random() < 0.25)
    arrays = networks.arrays(rng, inputs, sizes, dtype)
    for array in arrays:
        if array.ndim and rng.random() < 0.15:
            array[rng.integers(len(array))] = 0
    made = Plan(tuple(inputs), output, sizes, path, slices, dtype)
    constants = {number: array for number, array in enumerate(arrays) if rng.random() < 0.4}
    expected = networks.einsum(arrays, inputs, output, sizes)
    bound = networks.einsum([np.abs(array) for array in arrays], inputs, output, sizes).max(initial=0)
    return made, arrays, constants, expected, bound


@pytest.mark.parametrize("chunk", range(8))
def test_random_networks_against_einsum(chunk, networks):
    for seed in range(50 * chunk, 50 * chunk + 50):
        made, arrays, constants, expected, bound = draw(networks, seed)
        agree(made.execute(arrays, "numpy"), expected, made.dtype, bound)
        expression = made.expression("numpy", constants=constants)
        varying = [array for number, array in enumerate(arrays) if number not in constants]
        for _ in range(2):  # constants serve more than one call
            agree(expression(varying), expected, made.dtype, bound)


@pytest.mark.parametrize("seed", range(60, 100))
def test_random_networks_on_the_device(seed, networks, device):
    made, arrays, constants, expected, bound = draw(networks, seed)
    result = made.execute(arrays, "cupy")
    assert array_module(result.mantissa) is array_module(result.log_scale) is device
    agree(result, expected, made.dtype, bound)
    there = {number: device.asarray(array) for number, array in constants.items()}
    expression = made.expression("cupy", constants=there)
    varying = [device.asarray(array) for number, array in enumerate(arrays) if number not in constants]
    agree(expression(varying), expected, made.dtype, bound)


@pytest.mark.parametrize("seed", [3, 14, 29, 33])
def test_random_networks_on_jax(seed, networks):
    made, arrays, constants, expected, bound = draw(networks, seed, tensors=5)
    agree(made.execute(arrays, "jax"), expected, made.dtype, bound)
    varying = [array for number, array in enumerate(arrays) if number not in constants]
    agree(made.expression("jax", constants=constants)(varying), expected, made.dtype, bound)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize("seed", range(24))
def test_scales_are_measured_on_the_way(seed, backend, networks, device):
    """Enough tensors for steps that measure, several batch indices, some of them sliced."""
    rng = np.random.default_rng(seed)
    dtype = ("float32", "complex64", "float64")[seed % 3]
    names = list("uvwxy")
    sizes = {name: int(rng.integers(1, 4)) for name in names}
    inputs = [tuple(rng.permutation(names)[: rng.integers(1, 4)].tolist()) for _ in range(40)] + [
        tuple(names)
    ]
    output = tuple(rng.permutation(names)[: rng.integers(1, 5)].tolist())
    slices = tuple(rng.permutation(names)[: rng.integers(0, 3)].tolist())
    powers = rng.integers(-25, 26, size=len(inputs))
    shapes = [[sizes[index] for index in term] for term in inputs]
    arrays = [np.asarray(rng.uniform(0.5, 1.5, size=shape), dtype) for shape in shapes]
    expected = networks.einsum(arrays, inputs, output, sizes)
    arrays = [(array * 10.0**power).astype(dtype) for array, power in zip(arrays, powers, strict=True)]
    made = Plan(tuple(inputs), output, sizes, networks.path(rng, len(inputs)), slices, dtype)
    result = made.execute(arrays, backend)
    logs = to_host(result.log_abs())
    assert np.allclose(logs, np.log(np.abs(expected)) + powers.sum() * math.log(10), rtol=0, atol=2e-4)
    assert np.broadcast_shapes(result.log_scale.shape, result.shape) == result.shape


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("product", "complex64"), ("tree", "float32"), ("chain", "complex64"), ("chain", "float32")],
)
def test_ten_thousand_tensors_stay_in_range(kind, dtype):
    """The result is of the order of 10**(+-300,000)."""
    count, scale = (
        10_000,
        {"product": 1e-30, "tree": 1e30, "chain": 1e-30 if dtype == "float32" else 1e30}[kind],
    )
    rng = np.random.default_rng(0)
    if kind == "chain":
        inputs = [(f"k{i}", f"k{i + 1}") for i in range(count)]
        output = ("k0", f"k{count}")
        path = [(0, 1)] + [(0, left - 1) for left in range(count - 1, 1, -1)]
    else:
        inputs, output = [("v",)] * count, ("v",)
        path = [(0, 1)] * (count - 1)  # the two oldest: a balanced tree
        if kind == "product":
            path = [(0, 1)] + [(0, left - 1) for left in range(count - 1, 1, -1)]
    sizes = {index: 2 for term in inputs for index in term}
    shapes = [[2] * len(term) for term in inputs]
    arrays = [(scale * rng.uniform(0.2, 1.8, size=shape)).astype(dtype) for shape in shapes]
    if dtype == "complex64":
        arrays = [(array * np.exp(1j * rng.uniform(0, 6))).astype(dtype) for array in arrays]
    made = Plan(tuple(inputs), output, sizes, tuple(path), (), dtype)
    result = made.execute(arrays, "numpy")
    assert result.dtype == dtype
    # the same in double precision, a step and a norm at a time; positive numbers lose no digits
    value, log = np.eye(2) if kind == "chain" else np.ones(2), 0.0
    for array in arrays:
        modulus = np.abs(array.astype(np.complex128))
        value = value @ modulus if kind == "chain" else value * modulus
        log += math.log(value.max())
        value /= value.max()
    assert np.allclose(result.log_abs(), np.log(value) + log, rtol=0, atol=0.02)
    assert np.isfinite(result.mantissa).all()


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize(("dtype", "most"), [("float64", 300), ("complex64", 36)])
def test_every_element_of_a_batch_has_its_own_scale(backend, dtype, most, device):
    rng = np.random.default_rng(0)
    count, tensors = 9, 7
    powers = rng.integers(-most, most + 1, size=(tensors, count))
    powers[0] = np.linspace(-most, most, count).astype(int)
    base = rng.uniform(0.5, 1.5, size=(tensors, count, 3, 3)) * (np.exp(1j) if dtype == "complex64" else 1)
    arrays = [(base[k] * 10.0 ** powers[k][:, None, None]).astype(dtype) for k in range(tensors)]
    arrays[3][4] = 0  # one element vanishes, and leaves the others alone
    inputs = tuple(("n", f"k{i}", f"k{i + 1}") for i in range(tensors))
    sizes = {"n": count, **{f"k{i}": 3 for i in range(tensors + 1)}}
    made = Plan(inputs, ("n", "k0", f"k{tensors}"), sizes, ((0, 1),) * (tensors - 1), (), dtype)
    result = made.execute(arrays, backend)
    mantissa, logs = to_host(result.mantissa), to_host(result.log_abs())
    assert (mantissa[4] == 0).all()
    assert (logs[4] == -np.inf).all()
    expected = base[:, :, :, :].astype(np.complex128)
    value = expected[0]
    for k in range(1, tensors):
        value = value @ expected[k]
    others = [n for n in range(count) if n != 4]
    wanted = np.log(np.abs(value)) + powers.sum(axis=0)[:, None, None] * math.log(10)
    assert np.allclose(logs[others], wanted[others], rtol=0, atol=1e-11 if dtype == "float64" else 2e-5)
    assert result.log_scale.shape == (count, 1, 1)


@pytest.mark.parametrize(("dtype", "shrink"), [("float32", 2.0**-23), ("float64", 2.0**-52)])
@pytest.mark.parametrize("order", ["chain", "tree"])
def test_products_that_shrink_at_every_step(dtype, shrink, order):
    """Large entries meet small ones only; the digits are all there, and must not underflow."""
    count = 60
    factor = [np.diag([1.0, shrink]), np.diag([shrink, 1.0])]
    arrays = [factor[number % 2].astype(dtype) for number in range(count)]
    inputs = tuple((f"k{i}", f"k{i + 1}") for i in range(count))
    sizes = {f"k{i}": 2 for i in range(count + 1)}
    path = [(0, 1)] * (count - 1)
    if order == "chain":
        path = [(0, 1)] + [(0, left - 1) for left in range(count - 1, 1, -1)]
    result = Plan(inputs, ("k0", f"k{count}"), sizes, tuple(path), (), dtype).execute(arrays, "numpy")
    logs = result.log_abs()
    assert np.allclose(np.diag(logs), count / 2 * math.log(shrink), rtol=1e-12)
    assert (logs[[0, 1], [1, 0]] == -np.inf).all()


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slices_of_very_different_sizes_add_up(dtype, backend, device):
    """Slices that differ by e^1000s, the largest neither first nor last, and two that nearly cancel."""
    rng = np.random.default_rng(0)
    count, extent = 300, 5
    inputs = (("s",),) * count + (("s", "o"),)
    sizes = {"s": extent, "o": 2}
    slope = np.array([-9, 0, -16, 0, -4])  # bits a factor: slices end up to 4,800 bits apart
    step = 2.0 ** (slope + rng.integers(-1, 2, size=(count, 1)))
    last = np.array([[1, 2], [3, 4], [5, 6], [-3.0625, 8], [0, 0.5]])
    arrays = [*step.astype(dtype), last.astype(dtype)]
    exact = [
        sum(Fraction(last[s, o]) * math.prod(map(Fraction, step[:, s].tolist())) for s in range(extent))
        for o in range(2)
    ]
    wanted = [math.log(abs(value.numerator)) - math.log(value.denominator) for value in exact]
    path = ((0, 1),) * count
    for slices in ((), ("s",), ("o",), ("s", "o")):
        made = Plan(inputs, ("o",), sizes, path, slices, dtype)
        result = made.execute(arrays, backend)
        mantissa, logs = to_host(result.mantissa), to_host(result.log_abs())
        assert np.allclose(logs, wanted, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)
        assert (np.sign(mantissa) == [math.copysign(1, value) for value in exact]).all()


def test_slices_of_a_kept_index_have_a_scale_each():
    """As elements of a batch have: named as one, or on two tensors."""
    powers = np.array([-250, 0, 250])
    array = np.array([[1.0, 2.0]] * 3) * 10.0 ** powers[:, None]
    other = np.array([1e-200, 3e-200])
    wanted = math.log(7) + math.log(10) * (powers - 200)
    for slices in ((), ("i",), ("j",), ("i", "j"), ("j", "i")):
        made = Plan(
            (("i", "j"), ("j",)), ("i",), {"i": 3, "j": 2}, ((0, 1),), slices, "float64", batch=("i",)
        )
        result = made.execute([array, other], "numpy")
        assert np.allclose(result.log_abs(), wanted, rtol=1e-14)
        assert result.log_scale.shape == (3,)


def test_the_same_bits_every_time(networks):
    for seed in range(40):
        made, arrays, constants, _, _ = draw(networks, seed)
        varying = [array for number, array in enumerate(arrays) if number not in constants]
        expression = made.expression("numpy", constants=constants)
        first, again = expression(varying), expression(varying)
        fresh = made.expression("numpy", constants=constants)(varying)
        for other in (again, fresh):
            assert first.mantissa.tobytes() == other.mantissa.tobytes()
            assert first.log_scale.tobytes() == other.log_scale.tobytes()


@pytest.mark.parametrize("backend", ["numpy"])
def test_callers_arrays_are_left_alone(backend, networks):
    """They are not written to, may be read-only, and no result shares their memory."""
    for seed in range(80) if backend == "numpy" else (1, 2):
        made, arrays, _, expected, bound = draw(networks, seed, tensors=3, largest=2)
        for factor in (1.0, 1e8):  # with nothing to rescale, and with something
            given = [np.asarray(array * factor, made.dtype) for array in arrays]
            before = [array.copy() for array in given]
            for array in given:
                array.flags.writeable = False
            result = made.execute(given, backend)
            agree(result, expected * factor ** len(arrays), made.dtype, bound * factor ** len(arrays))
            for array, kept in zip(given, before, strict=True):
                assert np.array_equal(array, kept)
                assert not np.shares_memory(array, result.mantissa)
            result.mantissa[...] = 0  # a caller may write to a result
            again = made.execute(given, backend)
            agree(again, expected * factor ** len(arrays), made.dtype, bound * factor ** len(arrays))


def test_operands_of_any_layout(networks):
    rng = np.random.default_rng(0)
    inputs, sizes = (("a", "b", "n"), ("b", "c", "n"), ("c", "n")), {"a": 3, "b": 4, "c": 5, "n": 2}
    arrays = networks.arrays(rng, inputs, sizes)
    expected = networks.einsum(arrays, inputs, ("n", "a"), sizes)
    made = Plan(inputs, ("n", "a"), sizes, ((0, 1), (0, 1)))
    strided = [np.repeat(array, 2, axis=0)[::2] for array in arrays]
    for given in (
        [np.asfortranarray(array) for array in arrays],
        strided,
        [array[::-1].copy()[::-1] for array in arrays],
        [array.astype(">c16") for array in arrays],
    ):
        for factor in (1, 1e9):
            result = made.execute([factor * array for array in given], "numpy")
            assert np.allclose(result.value(), expected * float(factor) ** 3, rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
def test_scalars(backend, dtype, device):
    for inputs, arrays in (
        (((),), [3.0]),
        (((), ()), [3.0, 1e30]),
        ((("i",), ("i",)), [[1.0, 2.0], [1e30, 1e30]]),
        ((("i", "i"),), [[[1.0, 2.0], [3.0, 4.0]]]),
    ):
        sizes = {"i": 2} if any(inputs) else {}
        made = Plan(inputs, (), sizes, (tuple(range(len(inputs))),), (), dtype)
        result = made.execute([np.asarray(array, dtype) for array in arrays], backend)
        assert result.shape == result.log_scale.shape == ()
        assert result.dtype == dtype
        terms = ["".join(term) for term in inputs]
        expected = np.einsum(f"{','.join(terms)}->", *(np.asarray(a, np.float64) for a in arrays))
        assert np.isclose(to_host(result.value()), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [(), ("i",)])
@pytest.mark.parametrize("value", [1.0, 1e-30])
def test_what_is_not_finite_is_refused(bad, batch, value):
    arrays = [np.full((2, 3), value), np.full((2, 3), value)]
    arrays[1][1, 2] = bad
    made = Plan((("i", "j"), ("j", "i")), ("i",), {"i": 2, "j": 3}, ((0, 1),), (), "float64", batch=batch)
    with pytest.raises(ValueError, match="array 1 has shape"):
        made.execute(arrays, "numpy")
    arrays[1] = arrays[1].T
    with pytest.raises(ValueError, match="array 1 holds NaN or infinity; replace it before contracting"):
        made.execute(arrays, "numpy")
    with pytest.raises(ValueError, match="array 1 holds NaN or infinity"):
        made.expression("numpy", constants={1: arrays[1]})([arrays[0]])


def test_large_numbers_of_single_precision_are_summed():
    """A lone index: the sum leaves the range of single precision before anything is multiplied."""
    made = Plan((("i", "l"), ("i",)), (), {"i": 2, "l": 1000}, ((0, 1),), (), "float32")
    large = np.float32(3e38)
    result = made.execute([np.full((2, 1000), large), np.float32([1, 2])], "numpy")
    assert result.dtype == np.float32
    assert np.isclose(result.log_abs(), math.log(3000) + math.log(float(large)), rtol=1e-8)


def test_any_division_of_the_slices_has_the_same_sum(networks):
    """As slices are spread over ranks."""
    rng = np.random.default_rng(5)
    inputs, sizes = (("a", "b"), ("b", "c"), ("c", "d"), ("b", "o")), {"a": 2, "b": 3, "c": 4, "d": 5, "o": 2}
    arrays = networks.arrays(rng, inputs, sizes)
    made = Plan(inputs, ("o", "d"), sizes, ((0, 1, 2, 3),), ("c", "o", "b"))
    executor = made.expression("numpy")._executor
    whole = executor(arrays)
    assert np.allclose(whole[0] * 2.0 ** whole[1], networks.einsum(arrays, inputs, ("o", "d"), sizes))
    for cuts in ((0, 24), (0, 5, 24), (0, 1, 2, 17, 24)):
        share, total = executor.shares(arrays), 0
        for start, stop in itertools.pairwise(cuts):
            mantissa, exponent = on_host(share(range(start, stop)))
            assert np.broadcast_shapes(mantissa.shape, exponent.shape) == (2, 5)
            total = total + mantissa * 2.0**exponent
        assert np.allclose(total, whole[0] * 2.0 ** whole[1])


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize(("dtype", "small"), [("float32", 1e-30), ("complex64", 1e-30), ("float64", 1e-300)])
def test_large_entries_that_meet_only_small_ones_do_not_fade(dtype, small, backend, device):
    """diag(1, s) diag(s, 1) ... : no digit is lost, and the scale falls by s in every step."""
    count = 20 if backend != "jax" else 8
    arrays = [np.diag([1, small] if place % 2 else [small, 1]).astype(dtype) for place in range(count)]
    inputs = tuple((f"k{place}", f"k{place + 1}") for place in range(count))
    sizes = dict.fromkeys((index for term in inputs for index in term), 2)
    made = Plan(
        inputs,
        ("k0", f"k{count}"),
        sizes,
        ((0, 1), *[(0, count - 2 - i) for i in range(count - 2)]),
        (),
        dtype,
    )
    expected = count / 2 * math.log(float(np.dtype(dtype).type(small).real))
    for _ in range(2):  # the second call begins with the careful program
        logs = to_host(made.execute(arrays, backend).log_abs())
        np.testing.assert_allclose(np.diag(logs), expected, rtol=1e-6)
        assert np.isneginf(logs[0, 1])


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize("slices", [(), ("h",)])
def test_hidden_extremes_are_found(backend, slices, device):
    """A factor of 1e-35 and then one of 1e35: the result looks harmless, what came between did not."""
    rng = np.random.default_rng(0)
    inputs = (("h", "i"), ("i", "j"), ("j", "k"), ("k", "l"), ("l", "h"))
    sizes = dict.fromkeys("hijkl", 4)
    arrays = [rng.uniform(0.5, 1.5, size=(4, 4)).astype("float32") for _ in inputs]
    expected = np.einsum("hi,ij,jk,kl,lh->", *(array.astype(float) for array in arrays))
    powers = (-35, -35, 35, 35, 0)
    scaled = [(array * np.float32(10.0**power)) for array, power in zip(arrays, powers, strict=True)]
    made = Plan(inputs, (), sizes, ((0, 1), (0, 3), (0, 2), (0, 1)), slices, "float32")
    assert float(to_host(made.execute(scaled, backend).value())) == pytest.approx(expected, rel=1e-5)


def test_a_result_that_is_zero_is_zero():
    made = Plan((("i", "j"), ("j",)), ("i",), {"i": 3, "j": 2}, ((0, 1),), (), "float32")
    result = made.execute([np.zeros((3, 2), "float32"), np.ones(2, "float32")], "numpy")
    assert not result.value().any()
    assert np.isneginf(result.log_abs()).all()
