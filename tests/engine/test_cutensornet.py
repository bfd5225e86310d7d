"""cuTensorNet on a strict stand-in: values, what goes to CuPy, and how the library is used."""

import gc
import math
import pickle
from contextlib import closing

import numpy as np
import pytest

from qrt_tn.engine import Plan
from qrt_tn.engine.cutensornet import CuTensorNetExpression, OperandBuffer
from qrt_tn.engine.exponents import add
from qrt_tn.engine.network import batch_indices

BITS = {"float32": 120, "complex64": 120, "float64": 1000, "complex128": 1000}


def exact(arrays, plan):
    """(value, sum of the products' moduli) in extended precision, which no product here leaves."""
    names = {index: number for number, index in enumerate(plan.sizes)}
    terms = [[names[index] for index in term] for term in plan.inputs]
    output = [names[index] for index in plan.output]

    def contract(operands):
        return np.einsum(*(part for pair in zip(operands, terms, strict=True) for part in pair), output)

    wide = [np.asarray(array).astype(np.result_type(array.dtype, np.longdouble)) for array in arrays]
    return contract(wide), contract([np.abs(array) for array in wide])


def value(part):
    """A result in extended precision on the host."""
    mantissa, exponent = (array.get() for array in part)
    assert exponent.dtype == np.int64
    assert np.broadcast_shapes(mantissa.shape, exponent.shape) == mantissa.shape
    wide = mantissa.astype(np.result_type(mantissa.dtype, np.longdouble))
    return wide * np.ldexp(np.longdouble(1), np.clip(exponent, -16000, 16000).astype(np.int32))


def assert_right(part, arrays, plan):
    """Every entry, up to rounding."""
    wanted, bound = exact(arrays, plan)
    assert np.all(np.abs(value(part) - wanted) <= 1000 * np.finfo(plan.dtype).eps * bound)


def random_case(rng, networks, kind):
    """A plan with random slices and batch, and arrays of one kind."""
    inputs, output, sizes = networks.draw(rng, largest=3)
    batch = tuple(index for index in batch_indices(inputs, output) if rng.random() < 0.8)
    slices = tuple(rng.permutation(list(sizes))[: rng.integers(0, 3)].tolist())
    dtype = str(rng.choice(list(BITS)))
    plan = Plan(inputs, output, sizes, networks.path(rng, len(inputs)), slices, dtype, batch)
    arrays, reach = networks.arrays(rng, inputs, sizes, dtype), BITS[dtype]
    for array, term in zip(arrays, inputs, strict=True):
        element = [sizes[index] if index in batch else 1 for index in term]
        bits = {
            "scaled": rng.integers(-reach, reach // 2) + rng.integers(-3, 3, size=element),
            "elements apart": rng.integers(-reach, reach, size=element),
            "entries apart": rng.integers(-reach, reach, size=array.shape),
        }
        array[...] *= np.ldexp(1.0, bits.get(kind, 0))
        if kind == "holes":
            array[...] *= rng.random(array.shape) > 0.3
        if kind == "cancelling":
            array[...] = rng.choice([1, -1], size=array.shape)
    return plan, arrays


@pytest.mark.parametrize(
    "kind", ["plain", "scaled", "elements apart", "entries apart", "holes", "cancelling"]
)
@pytest.mark.parametrize("seed", range(16))
def test_random_networks(seed, kind, cutensornet, device, networks):
    """Hyperindices, repeated and lone indices, scalars, slices, batches, constants, every dtype and scale."""
    rng = np.random.default_rng([seed, len(kind)])
    plan, arrays = random_case(rng, networks, kind)
    constants = {number: array for number, array in enumerate(arrays) if rng.random() < 0.3}
    given = [None if number in constants else array for number, array in enumerate(arrays)]
    spread, count = bool(rng.random() < 0.5), plan.slice_count
    with closing(CuTensorNetExpression(plan, plan.dtype, constants=constants, spread=spread)) as expression:
        assert_right(expression(given), arrays, plan)
        assert_right(expression([None if a is None else device.asarray(a) for a in given]), arrays, plan)
        if spread and count > 1:
            share = expression.shares(given)
            assert_right(add(share(range(0, count, 2)), share(range(1, count, 2))), arrays, plan)
        assert kind not in ("plain", "scaled") or expression.fallback is None
    assert not cutensornet.live and not cutensornet.handles


def test_plans_run_on_it(cutensornet):
    plan, arrays = chain(60, 4)
    wanted = log_of_chain(arrays)
    assert np.isclose(plan.execute(arrays, "cuquantum").log_abs().get(), wanted, rtol=1e-6)
    assert not any(net.autotuned for net in cutensornet.networks)  # one call does not pay for it
    with (
        plan.expression("cuquantum", constants={7: arrays[7]}) as made,
        pickle.loads(pickle.dumps(made)) as copy,
    ):
        for expression in (made, copy):
            given = [array for number, array in enumerate(arrays) if number != 7]
            assert np.isclose(expression(given).log_abs().get(), wanted, rtol=1e-6)
    assert sum(net.autotuned for net in cutensornet.networks) > 2


# -- what goes to CuPy


def chain(length, bond, dtype="complex64", *, slices=(), size=1.0, path="left"):
    """(plan, arrays) of a product of matrices between two vectors."""
    rng = np.random.default_rng(length)
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(length)]
    sizes = {f"k{i}": bond for i in range(length + 1)} | {"k0": 1, f"k{length}": 1}
    if path == "left":
        path = [(0, 1)] + [(0, count - 1) for count in range(length - 1, 1, -1)]
    shapes = [[sizes[index] for index in term] for term in inputs]
    arrays = [(rng.normal(size=shape) * size).astype(dtype) for shape in shapes]
    return Plan(inputs, (), sizes, tuple(path), tuple(slices), dtype), arrays


def log_of_chain(arrays):
    """log |product of matrices|, rescaled at every step in double precision."""
    vector, log = np.ones((1, 1)), 0.0
    for array in arrays:
        vector = vector @ array.astype(complex)
        peak = np.abs(vector).max()
        vector, log = vector / peak, log + math.log(peak)
    return log


def log_abs(part):
    mantissa, exponent = (array.get() for array in part)
    return float(np.log(np.abs(mantissa.astype(complex))) + exponent * math.log(2))


def test_ten_thousand_tensors_in_complex64(cutensornet):
    plan, arrays = chain(10_000, 2, size=1e-25)
    with closing(CuTensorNetExpression(plan, "complex64")) as expression:
        assert np.isclose(log_abs(expression(arrays)), log_of_chain(arrays), rtol=1e-7)
        # as many networks as the estimate asks for, not one for each step
        assert 100 < len(expression.parts) < 500 and expression.fallback is None


def shrinking_chain():
    """Projections onto nearly orthogonal vectors shrink far faster than random matrices do."""
    plan, arrays = chain(60, 2, slices=("k57",))
    for number, array in enumerate(arrays[1:55], start=1):
        array[...] = np.diag([1, 1e-6] if number % 2 else [1e-6, 1])
    return plan, arrays


@pytest.mark.parametrize("fixed", [0, 59])
def test_what_shrinks_beyond_the_estimate_goes_to_cupy_once(fixed, cutensornet, caplog):
    plan, arrays = shrinking_chain()
    constants = dict(enumerate(arrays[:fixed]))
    with closing(CuTensorNetExpression(plan, "complex64", constants=constants, spread=True)) as expression:
        share = expression.shares(arrays)
        parts = [share(range(number, number + 1)) for number in range(2)]
        assert not cutensornet.live and not cutensornet.handles  # what the library held is free again
        runs = cutensornet.contractions
        for factor in (1, 3):
            given = [*arrays[:-1], factor * arrays[-1]]
            assert np.isclose(log_abs(expression(given)), log_of_chain(given), rtol=1e-6)
        assert cutensornet.contractions == runs
    assert np.isclose(log_abs(add(*parts)), log_of_chain(arrays), rtol=1e-6) and log_of_chain(arrays) < -87
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "CuPy" in caplog.text
    with pytest.raises(ValueError, match="closed"):
        share(range(1))


def test_single_steps_and_small_entries_are_looked_at_too(cutensornet, device):
    tiny = np.float32(1e-40)  # denormal
    for left, right in (([1, 1e-30], [0, 1e-30]), ([1e30, tiny], [0, 1]), ([1, 1], [1, -1])):
        plan = Plan([("i",), ("i",)], (), {"i": 2}, ((0, 1),), (), "float32")
        arrays = [np.array(part, dtype="float32") for part in (left, right)]
        for given in (arrays, [device.asarray(array) for array in arrays]):
            with closing(CuTensorNetExpression(plan, "float32")) as expression:
                assert_right(expression(given), arrays, plan)
                assert expression.fallback is not None
    # entries of a result that nobody needs may go
    plan = Plan([("i",), ("j",)], ("i", "j"), {"i": 2, "j": 2}, ((0, 1),), (), "float32")
    arrays = [np.array([1, 1e-25], dtype="float32")] * 2
    for entrywise in (True, False):
        with closing(CuTensorNetExpression(plan, "float32", entrywise=entrywise)) as expression:
            wanted = [[1, 1e-25], [1e-25, 1e-50 if entrywise else 0]]
            assert np.allclose(value(expression(arrays)), wanted, atol=0)
            assert (expression.fallback is not None) == entrywise
    # what an operand loses may be most of a result further on
    plan = Plan([("i",), ("i", "j"), ("j",)], (), {"i": 2, "j": 2}, ((0, 1), (0, 1)), (), "float32")
    entries = ([2.0**60, 2.0**-70], np.diag([2.0**-60, 1]), [2.0**-80, 1])
    arrays = [np.array(part, dtype="float32") for part in entries]
    with closing(CuTensorNetExpression(plan, "float32", constants=dict(enumerate(arrays[:2])))) as expression:
        assert_right(expression(arrays), arrays, plan)


def test_zeros_and_what_is_not_finite_need_no_second_look(cutensornet, device):
    plan, arrays = chain(40, 2)
    with closing(CuTensorNetExpression(plan, "complex64")) as expression:
        arrays[17] *= 0
        assert [part.get() for part in expression(arrays)] == [0, 0]
        for bad in (np.nan, np.inf):
            arrays[17][:] = bad
            assert not np.isfinite(expression([device.asarray(array) for array in arrays])[0].get())
        assert expression.fallback is None


# -- how the library is used


def test_one_network_and_its_buffers_serve_all_calls(cutensornet):
    plan, arrays = chain(6, 4)
    expression = CuTensorNetExpression(plan, "complex64")
    (net,) = cutensornet.networks
    operands = [operand.held.ctypes.data for operand in net.operands]
    first = expression(arrays)
    kept = first[0].get()
    expression([array * 2 for array in arrays])
    assert np.array_equal(first[0].get(), kept)  # a fresh result every time
    assert cutensornet.networks == [net] and net.runs == 2
    assert [operand.held.ctypes.data for operand in net.operands] == operands
    alike = [pointer for pointer, operand in zip(operands, net.operands, strict=True) if operand.size == 16]
    assert len(alike) == 4 and all((pointer - alike[0]) % 256 == 0 for pointer in alike)
    for _ in range(2):
        expression.close()
    with pytest.raises(ValueError, match="closed"):
        expression(arrays)


def test_tuning_before_the_first_run_or_the_second(cutensornet):
    plan, arrays = chain(60, 4, slices=("k58",))
    for tune, before in ((True, [1, 1]), (False, [0, 1])):
        cutensornet.networks.clear()
        constants = dict(enumerate(arrays[:30]))
        with closing(CuTensorNetExpression(plan, "complex64", constants=constants, tune=tune)) as expression:
            found = []
            for _ in range(2):
                expression(arrays)
                # what is constant runs once, and is not worth it
                found.append({net.autotuned for net in cutensornet.networks if net.runs > len(found)})
                assert {net.runs for net in cutensornet.networks} == {1, len(found)}
                # networks share one workspace through the pool
                assert not any(net.holding for net in cutensornet.networks)
        assert [max(counts) for counts in found] == before and len(cutensornet.networks) > 2
        assert not any(net.autotuned for net in cutensornet.networks if net.runs == 1)


def test_slices_are_looped_by_the_library_or_here(cutensornet):
    networks = {
        "summed": ((), ("j",), False, 1),
        "kept": (("j",), ("j",), False, 3),
        "shares": ((), ("j",), True, 3),
        "batch": (("n",), ("n", "j"), False, 6),
    }
    sizes = {"n": 2, "i": 2, "j": 3, "k": 2}
    for output, slices, spread, runs in networks.values():
        cutensornet.networks.clear()
        inputs = [("n", "i"), ("n", "i", "j"), ("j", "k"), ("n", "k")]
        plan = Plan(inputs, output, sizes, ((0, 1), (0, 1), (0, 1)), slices, "float64")
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=[sizes[index] for index in term]) for term in inputs]
        with closing(CuTensorNetExpression(plan, "float64", spread=spread)) as expression:
            assert_right(expression(arrays), arrays, plan)
            assert [net.runs for net in cutensornet.networks] == [runs]
            looped = [len(net.slicing) for net in cutensornet.networks] == [0]
            assert looped == (runs > 1)


def test_slices_through_several_subnetworks_are_looped_here(cutensornet):
    plan, arrays = chain(80, 2, slices=("k5",))
    with closing(CuTensorNetExpression(plan, "complex64")) as expression:
        assert np.isclose(log_abs(expression(arrays)), log_of_chain(arrays), rtol=1e-6)
        assert {(net.runs, len(net.slicing)) for net in cutensornet.networks} == {(1, 0), (2, 0)}


def test_a_batch_is_cut_no_finer_than_one_of_its_elements(cutensornet):
    plan, _ = chain(200, 4)
    inputs = [("n", *term) for term in plan.inputs]
    made = []
    for count in (1, 1000):
        plan = Plan(inputs, ("n",), {**plan.sizes, "n": count}, plan.path, (), "complex64")
        with closing(CuTensorNetExpression(plan, "complex64")) as expression:
            made.append(len(expression.parts))
    assert made[0] == made[1] > 1


def test_shares_compute_once_what_no_slice_changes(cutensornet):
    plan, arrays = chain(80, 2, slices=("k77", "k78"))
    with closing(CuTensorNetExpression(plan, "complex64", spread=True)) as expression:
        share = expression.shares(arrays)
        parts = [value(share(range(number, number + 1))) for number in range(4)]
        runs = sorted(net.runs for net in cutensornet.live)
        assert runs == [1] * (len(runs) - 1) + [4] and len(runs) > 2
        # in between other operands: both are still right
        other = [array * (2 if number == 0 else 1) for number, array in enumerate(arrays)]
        second = expression.shares(other)
        assert np.isclose(value(second(range(1))), 2 * parts[0], rtol=1e-5)
        assert np.isclose(value(share(range(1, 2))), parts[1], rtol=1e-5)
        assert np.isclose(value(expression(other)), 2 * sum(parts), rtol=1e-5)


def test_slices_of_different_magnitude_add_up(cutensornet):
    """A slice is scaled by itself: 1e-15 times 1e15, many times over, is no small part of the sum."""
    rng = np.random.default_rng(8)
    inputs = [("s", f"k{i}", f"k{i + 1}") for i in range(8)] + [("k8", "l"), ("s", "l")]
    sizes = {"s": 3, "l": 2} | {f"k{i}": 2 for i in range(9)}
    arrays = [rng.normal(size=[sizes[index] for index in term]).astype("float32") for term in inputs]
    for number in range(8):
        powers = [15, -15, 0] if number % 2 else [-15, 15, 0]
        arrays[number] *= (10.0 ** np.array(powers)).astype("float32")[:, None, None]
    path = ((0, 2, 4, 6), (0, 1, 2, 3), (0, 1, 2, 3))  # 1e-60 before it meets 1e60
    plan = Plan(inputs, ("k0",), sizes, path, ("s",), "float32")
    with closing(CuTensorNetExpression(plan, "float32", spread=True)) as expression:
        assert_right(expression(arrays), arrays, plan)
        assert expression.fallback is None


@pytest.mark.parametrize("compute", ["32F", "TF32", "3XTF32", None])
def test_compute_types_and_the_device_it_was_made_on(compute, cutensornet):
    import cupy

    plan, arrays = chain(6, 4)
    with cupy.cuda.Device(3):
        expression = CuTensorNetExpression(plan, "complex64", compute=compute)
    with closing(expression):
        expression(arrays)
        (net,) = cutensornet.networks
        assert (net.options.compute_type and net.options.compute_type.name[8:]) == compute
        assert net.options.device_id == 3 and net.ran_on == 3 and cupy.cuda.Device().id == 0


def test_memory_limit(cutensornet):
    plan, arrays = chain(80, 4)
    sizes = {**plan.sizes, "k1": 8, "k2": 8}  # the first subnetwork wants most
    arrays[:3] = [np.ones([sizes[index] for index in term], "complex64") for term in plan.inputs[:3]]
    plan = Plan(plan.inputs, (), sizes, plan.path, (), "complex64")
    with pytest.raises(ValueError, match="100 bytes is too small: operands and results take"):
        CuTensorNetExpression(plan, "complex64", memory_limit=100)
    with closing(CuTensorNetExpression(plan, "complex64")) as expression:
        taken = expression._bytes_taken()
    with pytest.raises(ValueError, match="give at least") as told:
        CuTensorNetExpression(plan, "complex64", memory_limit=taken + 1)
    least = int(str(told.value).rsplit(" ", 1)[1])
    with pytest.raises(ValueError, match="too small"):
        CuTensorNetExpression(plan, "complex64", memory_limit=least - 1)
    assert not cutensornet.live and not cutensornet.handles
    with closing(CuTensorNetExpression(plan, "complex64", memory_limit=least)) as expression:
        assert np.isclose(log_abs(expression(arrays)), log_of_chain(arrays), rtol=1e-6)
        assert len(cutensornet.live) > 1
        assert {net.options.memory_limit for net in cutensornet.live} == {least - taken}


@pytest.mark.filterwarnings("error")
def test_refusals(cutensornet, monkeypatch):
    """Shapes and numbers of arrays are `qrt_tn.engine.Expression`'s to check."""
    plan, arrays = chain(6, 4, slices=("k2",))
    with closing(CuTensorNetExpression(plan, "complex64")) as expression:
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="array 2 holds NaN or infinity"):
                expression([*arrays[:2], np.full_like(arrays[2], bad), *arrays[3:]])
        for chosen in (range(5), range(0), range(-1, 4)):
            with pytest.raises(ValueError, match=r"range\(.*4"):
                expression.shares(arrays)(chosen)
        with pytest.raises(ValueError, match="spread=True"):
            expression.shares(arrays)(range(2))
        assert np.isfinite(value(expression(arrays)))
    with pytest.raises(ValueError, match="array 1 holds NaN"):
        CuTensorNetExpression(plan, "complex64", constants={1: np.full((4, 4), np.nan)})
    with pytest.raises(ValueError, match="'64F'; for complex64"):
        CuTensorNetExpression(plan, "complex64", compute="64F")
    for limit in (True, 0, 1e6):
        with pytest.raises(ValueError, match=f"memory_limit is {limit}"):
            CuTensorNetExpression(plan, "complex64", memory_limit=limit)
    import cuquantum

    def fail(self, optimize):
        raise RuntimeError("INTERNAL_ERROR")

    monkeypatch.setattr(cuquantum.tensornet.Network, "contract_path", fail)
    with pytest.raises(RuntimeError, match="INTERNAL_ERROR"):
        CuTensorNetExpression(plan, "complex64")
    gc.collect()  # __del__ must not raise again
    assert not cutensornet.live and not cutensornet.handles


def test_the_norm_of_every_batch_element_is_one(device, cutensornet):
    rng = np.random.default_rng(0)
    array = (rng.normal(size=(3, 4, 5)) * 10.0 ** np.array([-30, 0, 30])[:, None, None]).astype("complex64")
    array[1] = 0
    buffer = OperandBuffer(device, np.dtype("complex64"), [7], (3, 4, 5), (3, 1))
    exponents, lost = buffer.load([array])
    norms, powers = np.linalg.norm(buffer.tensor(7).get().reshape(3, -1), axis=1), exponents.get()[:, 0]
    assert not lost and norms[1] == 0 and np.all((norms[[0, 2]] >= 0.5) & (norms[[0, 2]] < 1))
    for row, power, whole in zip(buffer.tensor(7).get()[[0, 2]], powers[[0, 2]], array[[0, 2]], strict=True):
        assert np.array_equal(np.ldexp(row.real, power), whole.real)  # not one digit lost
