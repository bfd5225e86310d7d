"""The cuQuantum executor on a strict stand-in: values, scales, and how it uses the library."""

import gc
import math
import types
from contextlib import closing

import numpy as np
import pytest

from qrt_tn.engine.cutensornet import CuTensorNetExpression
from qrt_tn.engine.paths import find_path
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

# -- values


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("dtype", ["complex64", "float64"])
def test_random_networks_whole_and_sliced(seed, dtype, cutensornet):
    rng, inputs, output, sizes = network(seed)
    path = find_path(inputs, output, sizes, random_path(rng, len(inputs)))
    slices = tuple(rng.permutation(list(sizes))[: seed % 4].tolist())
    shared = [i for i in output if sum(i in term for term in inputs) > 1]
    constants = {}
    arrays = draw(rng, inputs, sizes, dtype)
    if seed % 3 == 0:
        constants = {number: arrays[number] for number in (0, 2, 5)}
    with opened(inputs, output, sizes, path, slices, shared, dtype, constants=constants) as expression:
        for _ in range(2):
            arrays = [constants.get(n, array) for n, array in enumerate(draw(rng, inputs, sizes, dtype))]
            given = [None if n in constants else array for n, array in enumerate(arrays)]
            expected = einsum(arrays, inputs, output)
            close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(expected).max()}
            assert np.allclose(value(expression(given)), expected, **close)
            # shares of the slices add up, however they are dealt out
            count = math.prod(sizes[i] for i in slices)
            share = expression.shares(given)
            parts = [value(share(range(n, count, 2))) for n in range(min(2, count))]
            assert np.allclose(sum(parts), expected, **close)
    assert not cutensornet.live and not cutensornet.handles


@pytest.mark.parametrize("output", [("i",), ("i", "j"), ("j", "i"), ()])
def test_one_tensor(output, cutensornet):
    array = np.arange(6.0).reshape(2, 3)
    with opened([("i", "j")], output, {"i": 2, "j": 3}, [(0,)]) as expression:
        assert np.allclose(
            value(expression([array])), np.einsum(array, [0, 1], ["ij".index(i) for i in output])
        )


def test_repeated_indices_are_diagonals(device, cutensornet):
    rng = np.random.default_rng(0)
    inputs, output, sizes = [("i", "i", "j", "i"), ("j", "k", "k")], ("i",), {"i": 3, "j": 2, "k": 4}
    arrays = draw(rng, inputs, sizes, "complex128")
    with opened(inputs, output, sizes, [(0, 1)]) as expression:
        for given in (arrays, [device.asarray(array) for array in arrays]):
            assert np.allclose(value(expression(given)), einsum(arrays, inputs, output))


def test_operands_from_host_and_device_together(device, cutensornet):
    rng = np.random.default_rng(1)
    inputs, sizes, arrays = chain(5, 3, rng, "complex128")
    with opened(inputs, (), sizes, find_path(inputs, (), sizes), (), (), "complex64") as made:
        mixed = [device.asarray(a) if n % 2 else a.tolist() for n, a in enumerate(arrays)]
        assert np.isclose(value(made(mixed)), einsum(arrays, inputs, ()), rtol=1e-5)


def test_a_batch_of_wildly_different_magnitudes(cutensornet):
    """Every element keeps its digits, in complex64: one exponent for all would leave zeros."""
    rng = np.random.default_rng(2)
    powers = np.array([-30, 0, 30, -10, 25], dtype=float)
    inputs = [("n", f"k{i}", f"k{i + 1}") for i in range(6)] + [("k0",), ("k6",)]
    sizes = {"n": 5} | {f"k{i}": 3 for i in range(7)}
    arrays = draw(rng, inputs, sizes, "complex64")
    factors = (10.0**powers).astype("complex64")[:, None, None]
    arrays = [array * factors for array in arrays[:6]] + arrays[6:]
    path = find_path(inputs, ("n",), sizes, "cotengra-greedy")
    with opened(inputs, ("n",), sizes, path, (), ("n",), "complex64") as expression:
        mantissa, exponent = expression(arrays)
        assert exponent.shape == (5,)
        got = mantissa.get().astype(complex) * np.exp2(exponent.get().astype(np.longdouble))
    # 1e-180 .. 1e180 fit double precision
    expected = einsum(arrays, inputs, ("n",))
    assert np.all(np.abs(got / expected - 1) < 1e-4)


def test_two_batch_indices_each_on_some_tensors(cutensornet):
    rng = np.random.default_rng(3)
    inputs = [("m", "i"), ("n", "i", "j"), ("m", "j"), ("n",)]
    sizes = {"m": 4, "n": 3, "i": 2, "j": 2}
    arrays = draw(rng, inputs, sizes, "complex64")
    arrays[0] *= np.array([1e-30, 1e30, 1, 1e10], dtype="complex64")[:, None]
    arrays[1] *= np.array([1e-20, 1e30, 1], dtype="complex64")[:, None, None]
    for output in (("n", "m"), ("m", "n")):
        with opened(
            inputs, output, sizes, [(0, 1), (0, 1), (0, 1)], (), ("m", "n"), "complex64"
        ) as expression:
            mantissa, exponent = expression(arrays)
            assert exponent.shape == mantissa.shape
            got = mantissa.get().astype(complex) * np.exp2(exponent.get().astype(np.longdouble))
        assert np.all(np.abs(got / einsum(arrays, inputs, output) - 1) < 1e-4)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_ten_thousand_tensors_in_complex64(size, cutensornet):
    rng = np.random.default_rng(4)
    inputs, sizes, arrays = chain(10_000, 2, rng, "complex64", size)
    path = find_path(inputs, (), sizes, "cotengra-greedy")
    with opened(inputs, (), sizes, path, (), (), "complex64") as expression:
        result = expression(arrays)
        # as many networks as the estimate asks for, not one for each step
        assert 50 < expression.segment_count < 1500
    log, angle = log_of_chain(arrays)
    assert np.isclose(log_abs(result), log, rtol=1e-7)
    assert np.isclose(np.angle(result[0].get()), angle, atol=1e-2)


def test_what_the_estimate_cannot_foresee_is_cut_after_the_first_call(cutensornet):
    """Projections onto nearly orthogonal vectors shrink far faster than random matrices do."""
    rng = np.random.default_rng(5)
    inputs, sizes, arrays = chain(60, 2, rng, "complex64")
    for n, array in enumerate(arrays[1:-1]):
        # diag(1, 1e-6) and its reverse in turn: norms near 1, a product that loses 1e-6 every step
        array[...] = np.diag([1, 1e-6] if n % 2 else [1e-6, 1])
    path = [(0, 1)] + [(0, count - 1) for count in range(59, 1, -1)]
    path = find_path(inputs, (), sizes, path)
    with opened(inputs, (), sizes, path, (), (), "complex64") as expression:
        before = expression.segment_count
        first = expression(arrays)
        cut = expression.segment_count
        assert before < cut < 59
        cutensornet.contractions = 0
        second = expression(arrays)
        assert expression.segment_count == cut
        assert cutensornet.contractions == cut  # no trial runs any more
    log, _ = log_of_chain(arrays)
    for result in (first, second):
        assert np.isclose(log_abs(result), log, rtol=1e-6)
    assert log < -87  # below complex64's least number


def test_constant_segments_are_cut_too(cutensornet):
    rng = np.random.default_rng(19)
    inputs, sizes, arrays = chain(60, 2, rng, "complex64")
    for n, array in enumerate(arrays[1:-1]):
        array[...] = np.diag([1, 1e-6] if n % 2 else [1e-6, 1])
    path = find_path(inputs, (), sizes, [(0, 1)] + [(0, count - 1) for count in range(59, 1, -1)])
    constants = dict(enumerate(arrays[:-1]))
    with opened(inputs, (), sizes, path, (), (), "complex64", constants=constants) as expression:
        for factor in (1, 2):
            result = expression([*[None] * 59, factor * arrays[-1]])
            assert np.isclose(log_abs(result), log_of_chain(arrays)[0] + math.log(factor), rtol=1e-6)
            # segments share one workspace through the pool
            assert not any(net.holding for net in cutensornet.live)


def test_sums_over_lone_indices_stay_below_one(cutensornet):
    inputs, sizes = [("i", "x", "y"), ("i",)], {"i": 2, "x": 100, "y": 50}
    with opened(inputs, (), sizes, [(0, 1)], (), (), "float32") as expression:
        mantissa, exponent = expression([np.ones((2, 100, 50)), np.ones(2)])
        assert 0 < mantissa.get() <= 1
        assert mantissa.get() * 2.0 ** exponent.get() == 10_000


def test_exact_zeros_are_zeros_and_end(cutensornet):
    """A zero operand needs no check; a zero by orthogonality is looked at once, closely."""
    rng = np.random.default_rng(6)
    inputs, sizes, arrays = chain(40, 2, rng, "complex64")
    path = find_path(inputs, (), sizes, "cotengra-greedy")
    with opened(inputs, (), sizes, path, (), (), "complex64") as expression:
        before = expression.segment_count
        zero = [array * 0 if n == 17 else array for n, array in enumerate(arrays)]
        assert value(expression(zero)) == 0
        assert expression.segment_count == before
        orthogonal = list(arrays)
        orthogonal[20] = np.array([[1, 0], [1, 0]], dtype="complex64")
        orthogonal[21] = np.array([[0, 0], [1, 1]], dtype="complex64")
        assert value(expression(orthogonal)) == 0
        # cut down to the step with the zero, and there only
        assert before < expression.segment_count <= before + 2 * math.ceil(math.log2(40))
        assert np.isclose(log_abs(expression(arrays)), log_of_chain(arrays)[0], rtol=1e-6)


def test_zeros_in_some_elements_of_a_batch(cutensornet):
    rng = np.random.default_rng(7)
    inputs = [("n", f"k{i}", f"k{i + 1}") for i in range(4)]
    sizes = {"n": 3} | {f"k{i}": 2 for i in range(5)}
    arrays = draw(rng, inputs, sizes, "complex64")
    arrays[1][1] = 0
    arrays[2][2] *= np.float32(1e-37)
    path = find_path(inputs, ("n",), sizes)
    with opened(inputs, ("n",), sizes, path, (), ("n",), "complex64") as expression:
        got = value(expression(arrays))
        assert expression.segment_count == 1
    expected = einsum(arrays, inputs, ("n",))
    assert got[1] == 0 and np.allclose(got[[0, 2]] / expected[[0, 2]], 1, rtol=1e-4)


def test_nan_and_infinity_on_the_device_come_through(device, cutensornet):
    inputs, sizes = [("i", "j"), ("j", "k")], {"i": 2, "j": 2, "k": 2}
    with opened(inputs, ("i", "k"), sizes, [(0, 1)], (), (), "float64") as expression:
        for bad in (np.nan, np.inf):
            left = device.asarray(np.array([[1.0, 2.0], [bad, 1.0]]))
            mantissa, _ = expression([left, device.asarray(np.ones((2, 2)))])
            assert not np.isfinite(mantissa.get()[1]).any()


# -- how the library is used


def small(**options):
    rng = np.random.default_rng(11)
    inputs, sizes, arrays = chain(6, 4, rng, "complex64")
    path = find_path(inputs, (), sizes)
    return arrays, CuTensorNetExpression(inputs, (), sizes, path, (), (), "complex64", **options)


def test_one_network_and_its_buffers_serve_all_calls(cutensornet):
    arrays, expression = small()
    (net,) = cutensornet.networks
    operands = [operand.held.ctypes.data for operand in net.operands]
    first = expression(arrays)
    kept = first[0].get()
    expression([array * 2 for array in arrays])
    assert np.array_equal(first[0].get(), kept)  # a fresh result every time
    assert cutensornet.networks == [net] and net.runs == 2 and net.autotuned == 1
    assert [operand.held.ctypes.data for operand in net.operands] == operands
    alike = [pointer for pointer, operand in zip(operands, net.operands, strict=True) if operand.size == 16]
    assert len(alike) == 4 and all((pointer - alike[0]) % 256 == 0 for pointer in alike)
    assert net.options.blocking == "auto" and net.options.handle in cutensornet.handles
    expression.close()
    expression.close()
    assert not cutensornet.live and not cutensornet.handles
    with pytest.raises(ValueError, match="closed"):
        expression(arrays)


def test_constants_are_contracted_once(cutensornet):
    rng = np.random.default_rng(12)
    inputs, sizes, arrays = chain(8, 3, rng, "float64")
    path = [(0, 1), (5, 6), (0, 5), (0, 1), (0, 3), (0, 1), (0, 1)]
    path = find_path(inputs, (), sizes, path)
    constants = dict(enumerate(arrays[:7]))
    with opened(inputs, (), sizes, path, (), (), "float64", constants=constants) as expression:
        for factor in (1.0, 3.0):
            given = [*[None] * 7, factor * arrays[7]]
            assert np.isclose(value(expression(given)), factor * einsum(arrays, inputs, ()))
        runs = [net.runs for net in cutensornet.networks]
        assert runs.count(2) == 1 and runs.count(1) == len(runs) - 1 > 0


@pytest.mark.parametrize(("compute", "number"), [("32F", 4), ("TF32", 4096), ("3XTF32", 8192), (None, None)])
def test_compute_types_by_name(compute, number, cutensornet):
    arrays, expression = small(compute=compute)
    with closing(expression):
        expression(arrays)
        (net,) = cutensornet.networks
        assert (net.options.compute_type and int(net.options.compute_type)) == number


def test_memory_limit(cutensornet):
    with pytest.raises(ValueError, match="memory_limit of 100 bytes is too small: operands and results"):
        small(memory_limit=100)
    with pytest.raises(ValueError, match="give at least") as told:
        small(memory_limit=2820)
    least = int(str(told.value).rsplit(" ", 1)[1])
    assert not cutensornet.live and not cutensornet.handles
    with pytest.raises(ValueError, match="too small"):
        small(memory_limit=least - 1)
    arrays, expression = small(memory_limit=least)
    with closing(expression):
        assert np.isfinite(value(expression(arrays)))
        (net,) = cutensornet.live
        assert net.options.memory_limit == net.workspace
    # a loop over slices holds the sum besides the part that is added to it
    inputs, sizes = [("i", "j"), ("j", "k")], {"i": 32, "j": 2, "k": 32}
    with opened(inputs, ("i", "k"), sizes, [(0, 1)], ("j",), (), "float32", memory_limit=2**20) as expression:
        (before,) = (net.options.memory_limit for net in cutensornet.live)
        expression.shares([np.ones((32, 2)), np.ones((2, 32))])(range(1))
        (after,) = (net.options.memory_limit for net in cutensornet.live)
        assert before - after >= 3 * 4 * 32 * 32


def test_networks_share_what_cuts_leave_of_the_limit(cutensornet):
    rng = np.random.default_rng(5)
    inputs, sizes, arrays = chain(60, 2, rng, "complex64")
    for n, array in enumerate(arrays[1:-1]):
        array[...] = np.diag([1, 1e-6] if n % 2 else [1e-6, 1])
    path = find_path(inputs, (), sizes, [(0, 1)] + [(0, count - 1) for count in range(59, 1, -1)])
    with opened(inputs, (), sizes, path, (), (), "complex64", memory_limit=2**20) as expression:
        (before,) = {net.options.memory_limit for net in cutensornet.live}
        assert np.isclose(log_abs(expression(arrays)), log_of_chain(arrays)[0], rtol=1e-6)
        (after,) = {net.options.memory_limit for net in cutensornet.live}
        assert after < before and len(cutensornet.live) == expression.segment_count


def test_wrong_input(device, cutensornet):
    """Shapes and numbers of arrays are `qrt_tn.engine.Plan`'s and `qrt_tn.engine.Expression`'s to check."""
    arrays, expression = small()
    with closing(expression):
        for bad in (np.nan, np.inf, 1e60):
            given = [np.where(n == 2, bad, array.astype(complex)) for n, array in enumerate(arrays)]
            with pytest.raises(ValueError, match="array 2 holds NaN, infinity, or more than complex64 does"):
                expression(given)
        for chosen in (range(2), range(0), range(-1, 1)):
            with pytest.raises(ValueError, match="no slices of the plan's 1"):
                expression.shares(arrays)(chosen)
        assert np.isfinite(value(expression(arrays)))
    with pytest.raises(ValueError, match="array 1 holds NaN"):
        small(constants={1: np.full((4, 4), np.nan)})
    assert not cutensornet.live and not cutensornet.handles


@pytest.mark.filterwarnings("error")
def test_a_failed_constructor_leaves_nothing_and_raises_once(cutensornet, monkeypatch):
    from cuquantum import tensornet

    def fail(self, optimize=None):
        raise RuntimeError("INTERNAL_ERROR")

    monkeypatch.setattr(tensornet.Network, "contract_path", fail)
    with pytest.raises(RuntimeError, match="INTERNAL_ERROR"):
        small()
    gc.collect()  # __del__ must not raise again
    assert not cutensornet.live and not cutensornet.handles
    with pytest.raises(ValueError, match="compute is"):
        small(compute="16F")
    gc.collect()


def test_distributed_mode(cutensornet, monkeypatch, tmp_path):
    """The library spreads the slices of a call; what has no sliced index stays on every rank."""
    comm = types.SimpleNamespace(allgather=lambda found: [found, found])
    rng = np.random.default_rng(13)
    inputs, output, sizes = [("i", "j"), ("j", "k"), ("k", "l"), ("l",)], (), {"i": 2, "j": 3, "k": 2, "l": 2}
    arrays = draw(rng, inputs, sizes, "complex64")
    made = (inputs, output, sizes, [(2, 3), (0, 1), (0, 1)], ("j",), (), "complex64")
    monkeypatch.delenv("CUTENSORNET_COMM_LIB", raising=False)
    with opened(*made, comm=comm) as expression:
        assert not expression.distributed and not cutensornet.distributed
        # shares are asked for then: what they need is there from the start
        networks = cutensornet.live
        expression.shares(arrays)(range(1))
        assert cutensornet.live == networks
    interface = tmp_path / "interface.so"
    interface.touch()
    monkeypatch.setenv("CUTENSORNET_COMM_LIB", str(interface))
    with opened(*made, comm=comm) as expression:
        assert expression.distributed
        (handle,) = cutensornet.distributed
        spread = [net for net in cutensornet.live if net.options.handle == handle]
        assert len(cutensornet.live) == 2
        assert [net.optimize["slicing"] for net in spread] == [[(0, 1)]]
        assert np.isclose(value(expression(arrays)), einsum(arrays, inputs, output), rtol=1e-4)
        with pytest.raises(ValueError, match="spreads the slices"):
            expression.shares(arrays)
    assert not cutensornet.live and not cutensornet.handles
    # what one rank finds wanting, all cut
    answers = [[set(), {6}], [set(), set()]]
    comm.allgather = lambda found: answers.pop(0)
    with opened(*made, comm=comm) as expression:
        assert np.isclose(value(expression(arrays)), einsum(arrays, inputs, output), rtol=1e-4)
        assert expression.segment_count == 3
    # a kept index, and slices through several segments: the library does not spread those
    with opened(inputs, ("j",), *made[2:], comm=comm) as expression:
        assert not expression.distributed


def test_the_device_stays_the_one_it_was_made_on(cutensornet):
    import cupy

    with cupy.cuda.Device(3):
        arrays, expression = small()
    with closing(expression):
        expression(arrays)
        (net,) = cutensornet.networks
        assert net.options.device_id == 3 and net.ran_on == 3
        assert cupy.cuda.Device().id == 0
