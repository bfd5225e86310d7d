"""cuTensorNet itself: it takes what it is handed, without a GPU; and its results, on one."""

import importlib.util
import math
from contextlib import closing

import numpy as np
import pytest

from qrt_tn.engine.cutensornet import CuTensorNetExpression
from qrt_tn.engine.tree import contraction_tree
from tests.engine.test_cutensornet import assert_right, chain, log_abs, log_of_chain, random_case

INSTALLED = all(importlib.util.find_spec(name) for name in ("cuquantum", "cupy"))


@pytest.fixture
def real_contract_path():
    """The library's planning, which needs no GPU; loaded before a stand-in takes its name."""
    if not INSTALLED:
        pytest.skip("cuquantum and cupy are not installed: pip install 'qrt-tn[cuda13]'")
    from cuquantum import tensornet

    def find(network):
        """Plan what a network of the stand-in was handed."""
        arguments = [part for pair in zip(network.operands, network.modes, strict=True) for part in pair]
        arguments = [getattr(part, "held", part) for part in arguments]
        optimize = {"path": network.path, "slicing": network.slicing}
        options = tensornet.NetworkOptions(memory_limit=2**34)
        path, info = tensornet.contract_path(*arguments, network.output, optimize=optimize, options=options)
        assert [tuple(map(int, pair)) for pair in path] == network.path
        assert sorted((int(mode), int(extent)) for mode, extent in info.slices) == sorted(network.slicing)
        assert info.num_slices == math.prod(network.sizes[mode] for mode, _ in network.slicing)
        return info

    return find


@pytest.mark.parametrize("seed", range(12))
def test_the_library_takes_every_hand_over(seed, real_contract_path, cutensornet, networks, monkeypatch):
    plan, _ = random_case(np.random.default_rng(seed), networks, "plain")
    with closing(CuTensorNetExpression(plan, plan.dtype, spread=bool(seed % 2))):
        monkeypatch.undo()
        for network in cutensornet.networks:
            real_contract_path(network)


@pytest.mark.parametrize("case", ["chain", "batch", "sliced", "constants"])
def test_the_library_counts_the_same_work(case, real_contract_path, cutensornet, monkeypatch):
    plan, arrays = chain(40, 8, "complex128", slices=("k3", "k20") if case == "sliced" else ())
    if case == "batch":
        inputs = [("n", *term) if number % 2 else term for number, term in enumerate(plan.inputs)]
        plan = type(plan)(inputs, ("n",), {**plan.sizes, "n": 7}, plan.path, (), plan.dtype)
    constants = dict(enumerate(arrays[:25])) if case == "constants" else {}
    with closing(CuTensorNetExpression(plan, plan.dtype, constants=constants)):
        monkeypatch.undo()
        counted = sum(real_contract_path(network).opt_cost for network in cutensornet.networks)
    inner = dict(plan.sizes) | dict.fromkeys(plan.slices, 1)
    tree = contraction_tree(plan.inputs, plan.output, plan.path)
    sliced = [not set(term).isdisjoint(plan.slices) for term in plan.inputs]
    flops = 0
    for pair in tree.pairs:
        sliced.append(sliced[pair.left] or sliced[pair.right])
        step = 2 * math.prod(inner[index] for index in (*pair.term, *pair.summed))
        flops += step * (plan.slice_count if sliced[-1] else 1)
    assert np.isclose(counted, flops, rtol=1e-3)  # it counts the adding up of slices too


def test_the_library_takes_thousands_of_tensors(real_contract_path, cutensornet, monkeypatch):
    """Beyond 5,600 indices, where string equations break."""
    monkeypatch.setattr("qrt_tn.engine.cutensornet.divide", lambda tree, *_: [whole_of(tree)])
    plan, _ = chain(6000, 1, "complex128")
    with closing(CuTensorNetExpression(plan, plan.dtype)):
        (network,) = cutensornet.networks
    monkeypatch.undo()
    real_contract_path(network)


def whole_of(tree):
    from qrt_tn.engine.subnetworks import Subnetwork

    count = len(tree.leaves)
    return Subnetwork(tuple(range(count)), tuple(range(count, count + len(tree.pairs))))


# -- on a device


@pytest.fixture
def cupy_on_device():
    """CuPy where a device answers."""
    if not INSTALLED:
        pytest.skip("cuquantum and cupy are not installed: pip install 'qrt-tn[cuda13]'")
    import cupy

    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device answers")
    return cupy


@pytest.mark.gpu
@pytest.mark.parametrize(
    "kind", ["plain", "scaled", "elements apart", "entries apart", "holes", "cancelling"]
)
@pytest.mark.parametrize("seed", range(6))
def test_gpu_random_networks(seed, kind, cupy_on_device, networks):
    rng = np.random.default_rng([seed, len(kind)])
    plan, arrays = random_case(rng, networks, kind)
    constants = {number: array for number, array in enumerate(arrays) if rng.random() < 0.3}
    for spread in (False, True):
        made = CuTensorNetExpression(plan, plan.dtype, constants=constants, spread=spread)
        with closing(made) as expression:
            for place in (np.asarray, cupy_on_device.asarray):
                assert_right(expression([place(array) for array in arrays]), arrays, plan)


@pytest.mark.gpu
@pytest.mark.parametrize("compute", ["32F", "TF32", "3XTF32"])
def test_gpu_long_chain(compute, cupy_on_device):
    plan, arrays = chain(10_000, 4, size=1e-20)
    with closing(CuTensorNetExpression(plan, "complex64", compute=compute)) as expression:
        results = [log_abs(expression(arrays)) for _ in range(3)]
        assert expression.fallback is None
    assert np.allclose(results, log_of_chain(arrays), rtol=1e-3 if compute == "TF32" else 1e-6)


@pytest.mark.gpu
def test_gpu_memory_comes_back(cupy_on_device):
    pool = cupy_on_device.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.used_bytes()
    plan, arrays = chain(20, 64)
    expression = CuTensorNetExpression(plan, "complex64", memory_limit=2**28)
    for _ in range(3):
        expression(arrays)
    expression.close()
    assert pool.used_bytes() == before
