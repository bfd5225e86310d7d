import itertools
import math

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from qrt_tn.engine import Plan, arithmetic, execute
from qrt_tn.engine.backends import array_module, to_host
from qrt_tn.engine.execute import PrecisionLossError
from qrt_tn.engine.exponents import add
from qrt_tn.engine.expression import Expression
from tests.engine import exact

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
    dtype = exact.DTYPES[seed % 4]
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


def chain(arrays, dtype, backend="numpy"):
    """(mantissa, exponent) of a product of matrices from left to right."""
    count = len(arrays)
    inputs = tuple((f"k{i}", f"k{i + 1}") for i in range(count))
    sizes = {f"k{i}": len(array) for i, array in enumerate(arrays)} | {f"k{count}": arrays[-1].shape[1]}
    path = ((0, 1), *((0, left - 1) for left in range(count - 1, 1, -1)))
    made = Plan(inputs, ("k0", f"k{count}"), sizes, path, (), dtype)
    return made.expression(backend).part([array.astype(dtype) for array in arrays])


@pytest.mark.parametrize(("backend", "seeds"), [("numpy", range(240)), ("cupy", range(60, 100))])
def test_random_networks_against_einsum(backend, seeds, networks, device):
    xp = np if backend == "numpy" else device
    for seed in seeds:
        made, arrays, constants, expected, bound = draw(networks, seed)
        result = made.execute(arrays, backend)
        assert array_module(result.mantissa) is array_module(result.log_scale) is xp
        agree(result, expected, made.dtype, bound)
        there = {number: xp.asarray(array) for number, array in constants.items()}
        expression = made.expression(backend, constants=there)
        varying = [xp.asarray(array) for number, array in enumerate(arrays) if number not in constants]
        for _ in range(2):  # constants serve more than one call
            agree(expression(varying), expected, made.dtype, bound)


def hostile(seed):
    """A plan, its arrays (some of them constant), tame ones for the others, and what both come to exactly."""
    rng = np.random.default_rng(seed)
    dtype, signed = exact.DTYPES[seed % 4], rng.random() < 0.4
    inputs, output, sizes, slices, batch = exact.network(rng)
    path = []
    for left in range(len(inputs), 1, -1):
        path.append(tuple(rng.permutation(left)[:2].tolist()))
    style = int(rng.integers(6)) if rng.random() < 0.3 else None
    shapes = [[sizes[index] for index in term] for term in inputs]
    wild = [exact.entries(rng, shape, dtype, signed=signed, style=style) for shape in shapes]
    fixed = {number: array for number, array in enumerate(wild) if rng.random() < 0.3}
    tame = [np.asarray(rng.uniform(1, 2, size=shape), dtype) for shape in shapes]
    tame = [fixed.get(number, array) for number, array in enumerate(tame)]
    made = Plan(inputs, output, sizes, tuple(path), slices, dtype, batch=batch)
    wanted = [exact.contract(arrays, inputs, output, sizes) for arrays in (wild, tame)]
    roundings = 4 * (len(inputs) + math.prod(sizes.values()))
    varying = [[a for number, a in enumerate(arrays) if number not in fixed] for arrays in (wild, tame)]
    return rng, made, fixed, varying, wanted, roundings


@pytest.mark.parametrize(
    ("backend", "seeds"), [("numpy", 400), ("cupy", 150), ("threads", 100), ("no flags", 100)]
)
def test_no_entry_is_lost(backend, seeds, device, monkeypatch):
    """Entries from the whole range of their dtype, against whole numbers, calls with tame ones in between.

    Products by BLAS's own threads, whose flags nobody sees, and a BLAS without flags are played.
    """
    if backend == "threads":
        # and a look at the scale after every product
        monkeypatch.setattr(arithmetic, "_FACTORS", {4: 1, 8: 1})
        monkeypatch.setattr(arithmetic, "THREADED", 0)
        monkeypatch.setattr(arithmetic, "THREADED_VECTOR", 0)
    if backend in ("threads", "no flags"):
        matmul = np.matmul

        def silent(left, right):
            with np.errstate(all="ignore"):
                return matmul(left, right)

        monkeypatch.setattr(np, "matmul", silent)
    if backend == "no flags":
        for module in (arithmetic, execute):
            monkeypatch.setattr(module, "flags_work", lambda: False)
    name = "cupy" if backend == "cupy" else "numpy"
    for seed in range(seeds):
        rng, made, fixed, varying, wanted, roundings = hostile(seed)
        tensors = len(made.inputs)
        expression = made.expression(name, constants=fixed)
        for kind in rng.permutation([0, 1, 0]):
            part = expression.part(varying[kind])
            misfits = exact.misfits(part, wanted[kind], tensors, roundings)
            assert not misfits, (seed, made.dtype, kind, misfits[:3])
            # earlier calls leave no trace
            fresh = made.expression(name, constants=fixed).part(varying[kind])
            assert all(np.array_equal(*map(to_host, pair)) for pair in zip(part, fresh, strict=True)), seed
        if made.slices:  # as they are spread over ranks
            executor = expression._executor
            share = executor.shares(expression._operands(varying[0]))
            cuts = sorted({0, made.slice_count, *rng.integers(made.slice_count + 1, size=3).tolist()})
            parts = [share(range(start, stop)) for start, stop in itertools.pairwise(cuts)]
            total = parts[0]
            for part in parts[1:]:
                total = add(total, part)
            misfits = exact.misfits(total, wanted[0], tensors, roundings)
            assert not misfits, (seed, made.dtype, cuts, misfits[:3])


@pytest.mark.parametrize(("backend", "seeds"), [("numpy", 300), ("cupy", 100)])
def test_one_exponent_an_element_where_small_entries_need_not_count(backend, seeds, device):
    """Then no finite operands are refused, and no element becomes zero."""
    for seed in range(seeds):
        _, made, _, _, _, _ = hostile(seed)
        rng = np.random.default_rng(seed)
        shapes = [[made.sizes[index] for index in term] for term in made.inputs]
        arrays = [exact.entries(rng, shape, made.dtype, signed=False) for shape in shapes]
        mantissa, exponent = map(to_host, Expression(made, backend, entrywise=False).part(arrays))
        spread = [made.sizes[i] if i in (*made.batch, *made.slices) else 1 for i in made.output]
        assert exponent.size <= math.prod(spread)
        assert np.isfinite(mantissa).all()
        wanted = exact.contract(arrays, made.inputs, made.output, made.sizes)
        within = tuple(axis for axis, extent in enumerate(spread) if extent == 1)
        reached = np.reshape([bool(size) for _, _, size in wanted.values()], mantissa.shape).any(axis=within)
        assert ((np.abs(mantissa).max(axis=within) > 0) == reached).all(), seed


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_losses_do_not_grow(backend, device):
    """Numbers lost beside large ones, which then become small or meet large ones in the next matrix."""
    odd = 1 + 2.0**-11
    start = [np.ones((1, 2)), np.diag([1, 2.0**-70]), np.diag([1, odd * 2.0**-72])]
    for rest in (
        [*[np.diag([2.0**-30, 1])] * 6, np.ones((2, 1))],
        [*[np.diag([2.0**-30, 1])] * 6],
        [np.array([[1, 2.0**-126], [0, 2.0**127]])],
        [np.array([[1, 0], [0, 2.0**100]]), np.diag([2.0**-60, 1]), np.ones((2, 1))],
    ):
        arrays = [*start, *rest]
        inputs = [(f"k{i}", f"k{i + 1}") for i in range(len(arrays))]
        sizes = {f"k{i}": n for i, n in enumerate([array.shape[0] for array in arrays])}
        sizes[f"k{len(arrays)}"] = arrays[-1].shape[1]
        wanted = exact.contract(arrays, inputs, ("k0", f"k{len(arrays)}"), sizes)
        assert not exact.misfits(chain(arrays, "float32", backend), wanted, len(arrays), 100)


def test_large_products_by_threads_lose_nothing():
    """The last rows are another thread's: entries underflow where no flag is seen, to 0 or not quite."""
    sizes = {"a": 600, "b": 64, "c": 600}
    made = Plan((("a", "b"), ("b", "c")), ("a", "c"), sizes, ((0, 1),), (), "float32")
    with threadpool_limits(2, user_api="blas"):
        for small, ways in itertools.product((2.0**-100, 1.7 * 2.0**-74), (2, 1)):
            left, right = np.ones((600, 64), np.float32), np.ones((64, 600), np.float32)
            left[-200:], right[:, -1] = small, small
            if ways == 1:  # nothing plain: an operand and its neighbour are out of range
                left[0], right[:, 0] = 1e30, 1e30
            logs = made.expression("numpy")([left, right]).log_abs() / math.log(2)
            wanted = np.log2(left[:, :1].astype(float)) + np.log2(right[:1].astype(float)) + 6
            assert np.allclose(logs, wanted, rtol=0, atol=1e-5)


def test_what_is_too_large_for_exponents_is_refused(monkeypatch):
    monkeypatch.setattr(execute, "_MOST", 0)
    far = [np.diag([1e300, 1e-300])] * 4
    with pytest.raises(PrecisionLossError, match="batch"):
        chain([*far, np.diag([1e-300, 1e300])[::-1], *far], "float64")


@pytest.mark.parametrize("kind", ["product", "tree", "chain"])
def test_ten_thousand_tensors_stay_in_range(kind):
    """The result is of the order of 10**(+-300,000)."""
    count, dtype = 10_000, "float32" if kind == "tree" else "complex64"
    rng = np.random.default_rng(0)
    term = (lambda i: (f"k{i}", f"k{i + 1}")) if kind == "chain" else (lambda i: ("v",))
    inputs = tuple(map(term, range(count)))
    output = ("k0", f"k{count}") if kind == "chain" else ("v",)
    path = ((0, 1),) * (count - 1)  # the two oldest: a balanced tree
    if kind != "tree":
        path = ((0, 1), *((0, left - 1) for left in range(count - 1, 1, -1)))
    sizes = {index: 2 for term in inputs for index in term}
    shape, scale = [2] * len(inputs[0]), 1e30 if kind == "tree" else 1e-30
    arrays = [(scale * rng.uniform(0.2, 1.8, size=shape)).astype(dtype) for _ in inputs]
    if dtype == "complex64":
        arrays = [(array * np.exp(1j * rng.uniform(0, 6))).astype(dtype) for array in arrays]
    result = Plan(inputs, output, sizes, path, (), dtype).execute(arrays, "numpy")
    assert result.dtype == dtype
    # the same in double precision, a step and a norm at a time; positive numbers lose no digits
    value, log = np.eye(2) if kind == "chain" else np.ones(2), 0.0
    for array in arrays:
        modulus = np.abs(array.astype(np.complex128))
        value = value @ modulus if kind == "chain" else value * modulus
        log += math.log(value.max())
        value /= value.max()
    assert np.allclose(result.log_abs(), np.log(value) + log, rtol=0, atol=0.02)


@pytest.mark.parametrize("backend", ["numpy", "cupy"])
@pytest.mark.parametrize(("dtype", "most"), [("float64", 300), ("complex64", 36)])
def test_every_element_of_a_batch_has_its_own_scale(backend, dtype, most, device):
    rng = np.random.default_rng(0)
    count, tensors = 9, 20
    powers = rng.integers(-most, most + 1, size=(tensors, count))
    powers[0] = np.linspace(-most, most, count).astype(int)
    base = rng.uniform(0.5, 1.5, size=(tensors, count, 3, 3)) * (np.exp(1j) if dtype == "complex64" else 1)
    arrays = [(base[k] * 10.0 ** powers[k][:, None, None]).astype(dtype) for k in range(tensors)]
    arrays[3][4] = 0  # one element vanishes, and leaves the others alone
    inputs = tuple(("n", f"k{i}", f"k{i + 1}") for i in range(tensors))
    sizes = {"n": count, **{f"k{i}": 3 for i in range(tensors + 1)}}
    value = base[0].astype(np.complex128)
    for k in range(1, tensors):
        value = value @ base[k]
    wanted = np.log(np.abs(value)) + powers.sum(axis=0)[:, None, None] * math.log(10)
    wanted[4] = -np.inf
    for slices in ((), ("n",), ("k3",), ("k3", "n"), ("n", "k0")):
        made = Plan(inputs, ("n", "k0", f"k{tensors}"), sizes, ((0, 1),) * (tensors - 1), slices, dtype)
        result = made.execute(arrays, backend)
        assert np.allclose(
            to_host(result.log_abs()), wanted, rtol=0, atol=2e-11 if dtype == "float64" else 2e-5
        )
        assert result.log_scale.shape == (count, 3 if "k0" in slices else 1, 1)


def test_callers_arrays_are_left_alone_and_bits_are_the_same(networks):
    """They are not written to, may be read-only, and no result shares their memory."""
    for seed in range(80):
        made, arrays, constants, expected, bound = draw(networks, seed, tensors=3, largest=2)
        for factor in (1.0, 1e8):  # with nothing to rescale, and with something
            given = [np.asarray(array * factor, made.dtype) for array in arrays]
            before = [array.copy() for array in given]
            for array in given:
                array.flags.writeable = False
            fixed = {number: given[number] for number in constants}
            expression = made.expression("numpy", constants=fixed)
            varying = [array for number, array in enumerate(given) if number not in fixed]
            first = expression.part(varying)
            for array, kept in zip(given, before, strict=True):
                assert np.array_equal(array, kept)
                assert not np.shares_memory(array, first[0])
            bits = [half.tobytes() for half in first]
            first[0][...] = 0  # a caller may write to a result
            for other in (expression, made.expression("numpy", constants=fixed)):
                assert [half.tobytes() for half in other.part(varying)] == bits
            power = factor ** len(arrays)
            agree(made.execute(given, "numpy"), expected * power, made.dtype, bound * power)


def test_operands_of_any_layout(networks):
    rng = np.random.default_rng(0)
    inputs, sizes = (("a", "b", "n"), ("b", "c", "n"), ("c", "n")), {"a": 3, "b": 4, "c": 5, "n": 2}
    arrays = networks.arrays(rng, inputs, sizes)
    expected = networks.einsum(arrays, inputs, ("n", "a"), sizes)
    made = Plan(inputs, ("n", "a"), sizes, ((0, 1), (0, 1)))
    for given in (
        [np.asfortranarray(array) for array in arrays],
        [np.repeat(array, 2, axis=0)[::2] for array in arrays],
        [array[::-1].copy()[::-1] for array in arrays],
        [array.astype(">c16") for array in arrays],
    ):
        for factor in (1, 1e9):
            result = made.execute([factor * array for array in given], "numpy")
            assert np.allclose(result.value(), expected * float(factor) ** 3, rtol=1e-12)


def test_not_a_number_is_refused(device):
    """On the host, wherever it stands; in sums of one operand that would hide which one it was in too."""
    for bad, batch, place, slices, entrywise in itertools.product(
        (np.nan, np.inf, -np.inf), ((), ("i",)), (0, 1), ((), ("j",)), (True, False)
    ):
        arrays = [np.ones((2, 3)), np.ones((2, 3, 4))]
        arrays[place][1, 2] = bad
        made = Plan(
            (("i", "j"), ("i", "j", "l")), ("i",), {"i": 2, "j": 3, "l": 4}, ((0, 1),), slices, batch=batch
        )
        for constants in ({}, {1: arrays[1]}, dict(enumerate(arrays))):
            with pytest.raises(ValueError, match=f"array {place} holds NaN or infinity"):
                expression = Expression(
                    made, "numpy", constants=constants, dtype="float64", entrywise=entrywise
                )
                expression([array for number, array in enumerate(arrays) if number not in constants])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_results_of_up_to_64_axes(dtype):
    def plan(count, **settings):
        inputs = tuple((i,) for i in range(count))
        return Plan(
            inputs,
            tuple(range(count)),
            {i: 1 + (i == 5) for i in range(count)},
            ((0, 1),) * (count - 1),
            **settings,
        )

    for count, settings in itertools.product(
        (33, 64), ({}, {"batch": (3, 5)}, {"slices": (5,)}, {"slices": (0, 7), "batch": (0,)})
    ):
        arrays = [np.full(1, 1e-300, dtype)] * count
        for pair in ([1.0, 2.0], [1e-300, 1e300], [5e-324, 0]):
            arrays[5] = np.array(pair, dtype) * (1j if dtype == "complex128" else 1)
            result = plan(count, **settings).execute(arrays, "numpy")
            assert result.shape == tuple(1 + (i == 5) for i in range(count))
            with np.errstate(divide="ignore"):
                wanted = np.log(pair) - 300 * math.log(10) * (count - 1)
            assert np.allclose(result.log_abs().ravel(), wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="65 indices"):
        plan(65).execute([*arrays, arrays[0]], "numpy")
