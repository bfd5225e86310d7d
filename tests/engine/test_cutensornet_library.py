"""The cuQuantum executor with the library itself: its planning without a GPU, its results on one."""

import importlib.util
import math

import numpy as np
import pytest

from qrt_tn.engine.cutensornet import CuTensorNetExpression
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.tree import contraction_tree
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

INSTALLED = importlib.util.find_spec("cuquantum") is not None and importlib.util.find_spec("cupy") is not None


# -- what is handed over


def our_flops(inputs, output, sizes, path, slices):
    """Multiplications and additions as opt_einsum counts them; what has no sliced index is computed once."""
    inner = {i: 1 if i in slices else size for i, size in sizes.items()}
    tree = contraction_tree(inputs, output, path)
    sliced = [not set(term).isdisjoint(slices) for term in inputs]
    flops = 0
    for pair in tree.pairs:
        sliced.append(sliced[pair.left] or sliced[pair.right])
        step = 2 * math.prod(inner[i] for i in (*pair.term, *pair.summed))
        flops += step * (math.prod(sizes[i] for i in slices) if sliced[-1] else 1)
    return flops


def handed_over(cutensornet):
    """What every network got, with NumPy operands, for the real library."""
    return [
        (
            [
                part.held if hasattr(part, "held") else part
                for pair in zip(net.operands, net.modes, strict=True)
                for part in pair
            ]
            + [net.output],
            net.optimize,
        )
        for net in cutensornet.networks
    ]


@pytest.fixture
def real_contract_path():
    """Loaded before a stand-in takes its name."""
    if not INSTALLED:
        pytest.skip("cuquantum and cupy are not installed: pip install 'qrt-tn[cuda13]'")
    from cuquantum import tensornet

    def find(arguments, optimize):
        options = tensornet.NetworkOptions(memory_limit=2**34)
        return tensornet.contract_path(*arguments, optimize=optimize, options=options)

    return find


def agree(found, optimize):
    path, info = found
    assert [tuple(map(int, pair)) for pair in path] == optimize["path"]
    got = sorted((int(mode), int(extent)) for mode, extent in info.slices)
    assert got == sorted((mode, 1) for mode, _ in optimize["slicing"])
    return info


@pytest.mark.parametrize("seed", range(12))
def test_the_library_takes_every_hand_over(seed, real_contract_path, cutensornet, monkeypatch):
    """Planning needs no GPU, only a stated memory limit."""
    rng, inputs, output, sizes = network(seed)
    path = find_path(inputs, output, sizes, random_path(rng, len(inputs)))
    slices = tuple(rng.permutation(list(sizes))[: seed % 3].tolist())
    arrays = draw(rng, inputs, sizes, "complex64")
    with opened(inputs, output, sizes, path, slices, (), "complex64") as expression:
        expression(arrays)
        if slices:
            expression.shares(arrays)(range(1))
        given = handed_over(cutensornet)
    monkeypatch.undo()
    for arguments, optimize in given:
        info = agree(real_contract_path(arguments, optimize), optimize)
        assert info.num_slices == math.prod(
            next(
                x.shape[t.index(m)] for x, t in zip(arguments[:-1:2], arguments[1::2], strict=True) if m in t
            )
            for m, _ in optimize["slicing"]
        )


@pytest.mark.parametrize("case", ["chain", "batch", "sliced", "hyperindex", "constants"])
def test_the_library_counts_the_same_work(case, real_contract_path, cutensornet, monkeypatch):
    rng = np.random.default_rng(14)
    inputs, sizes, _ = chain(40, 8, rng, "complex64")
    output, slices, batch, constants = (), (), (), ()
    if case == "batch":
        inputs = [("n", *term) if n % 2 else term for n, term in enumerate(inputs)]
        output, batch = ("n",), ("n",)
    if case == "hyperindex":
        inputs = [("n", *term) for term in inputs]
    if case == "sliced":
        slices = ("k3", "k20")
    if case == "constants":
        constants = range(25)
    sizes["n"] = 7
    sizes = {i: sizes[i] for term in inputs for i in term}
    path = find_path(inputs, output, sizes, "cotengra-greedy")
    arrays = draw(rng, inputs, sizes, "complex128")
    fixed = {number: arrays[number] for number in constants}
    with opened(inputs, output, sizes, path, slices, batch, constants=fixed) as expression:
        assert np.allclose(value(expression(arrays)), einsum(arrays, inputs, output))
        given = handed_over(cutensornet)
    monkeypatch.undo()
    flops = sum(agree(real_contract_path(*net), net[1]).opt_cost for net in given)
    ours = our_flops(inputs, output, sizes, path, slices)
    assert np.isclose(flops, ours, rtol=1e-3)  # it counts the adding up of slices too


def test_the_library_takes_thousands_of_tensors(real_contract_path, cutensornet, monkeypatch):
    """Beyond 5,600 indices, where string equations break."""
    rng = np.random.default_rng(15)
    inputs, sizes, arrays = chain(6000, 1, rng, "complex128")
    path = [(0, 1)] + [(0, count - 1) for count in range(5999, 1, -1)]
    with opened(inputs, (), sizes, path) as expression:
        expression(arrays)
        given = max(handed_over(cutensornet), key=lambda net: len(net[0]))
    monkeypatch.undo()
    assert len(given[1]["path"]) == 5999
    agree(real_contract_path(*given), given[1])


# -- on a device


def on_device():
    """CuPy where a device answers."""
    if not INSTALLED:
        pytest.skip("cuquantum and cupy are not installed: pip install 'qrt-tn[cuda13]'")
    import cupy

    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device answers")
    return cupy


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_gpu_random_networks(seed, dtype):
    cupy = on_device()
    rng, inputs, output, sizes = network(seed)
    path = find_path(inputs, output, sizes, random_path(rng, len(inputs)))
    slices = tuple(rng.permutation(list(sizes))[: seed % 3].tolist())
    with opened(inputs, output, sizes, path, slices, (), dtype) as expression:
        for place in (np.asarray, cupy.asarray, np.asarray):
            arrays = draw(rng, inputs, sizes, dtype)
            expected = einsum(arrays, inputs, output)
            close = {"rtol": 1e-3, "atol": 1e-4 * np.abs(expected).max()}
            given = [place(array) for array in arrays]
            assert np.allclose(value(expression(given)), expected, **close)
            share = expression.shares(given)
            parts = [value(share(range(n, n + 1))) for n in range(math.prod(sizes[i] for i in slices))]
            assert np.allclose(sum(parts), expected, **close)


@pytest.mark.gpu
@pytest.mark.parametrize("compute", ["32F", "TF32", "3XTF32"])
def test_gpu_long_chain(compute):
    on_device()
    rng = np.random.default_rng(16)
    inputs, sizes, arrays = chain(10_000, 4, rng, "complex64", 1e-20)
    path = find_path(inputs, (), sizes, "cotengra-greedy")
    with opened(inputs, (), sizes, path, (), (), "complex64", compute=compute) as expression:
        results = [log_abs(expression(arrays)) for _ in range(3)]
    log, _ = log_of_chain(arrays)
    assert np.allclose(results, log, rtol=1e-3 if compute == "TF32" else 1e-6)


@pytest.mark.gpu
def test_gpu_batch_of_wildly_different_magnitudes():
    on_device()
    rng = np.random.default_rng(17)
    powers = np.array([-30, 0, 30, -10, 25], dtype=float)
    inputs = [("n", f"k{i}", f"k{i + 1}") for i in range(6)] + [("k0",), ("k6",)]
    sizes = {"n": 5} | {f"k{i}": 3 for i in range(7)}
    arrays = draw(rng, inputs, sizes, "complex64")
    factors = (10.0**powers).astype("complex64")[:, None, None]
    arrays = [array * factors for array in arrays[:6]] + arrays[6:]
    path = find_path(inputs, ("n",), sizes, "cotengra-greedy")
    with opened(inputs, ("n",), sizes, path, (), ("n",), "complex64") as expression:
        mantissa, exponent = (part.get() for part in expression(arrays))
    got = mantissa.astype(complex) * np.exp2(exponent.astype(np.longdouble))
    assert np.all(np.abs(got / einsum(arrays, inputs, ("n",)) - 1) < 1e-3)


@pytest.mark.gpu
def test_gpu_memory_comes_back():
    cupy = on_device()
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.used_bytes()
    rng = np.random.default_rng(18)
    inputs, sizes, arrays = chain(20, 64, rng, "complex64")
    path = find_path(inputs, (), sizes)
    expression = CuTensorNetExpression(inputs, (), sizes, path, (), (), "complex64", memory_limit=2**28)
    for _ in range(3):
        expression(arrays)
    expression.close()
    assert pool.used_bytes() == before
