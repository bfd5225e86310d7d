"""What is handed to cuTensorNet, replayed with np.einsum; and cuTensorNet itself where it is installed."""

import importlib.util
import sys
import types

import numpy as np
import pytest

import engine
from engine.cutensornet import contract_network, interleaved, labels, pairwise_path

INSTALLED = importlib.util.find_spec("cuquantum") is not None and importlib.util.find_spec("cupy") is not None


def network(seed, tensors=7):
    rng = np.random.default_rng(seed)
    sizes = {f"i{k}": int(rng.integers(1, 4)) for k in range(8)}
    inputs = [tuple(rng.permutation(list(sizes))[: rng.integers(0, 4)].tolist()) for _ in range(tensors)]
    used = dict.fromkeys(i for term in inputs for i in term)
    output = tuple(i for i in used if rng.random() < 0.3)
    arrays = [rng.normal(size=[sizes[i] for i in term]) for term in inputs]
    return rng, inputs, output, sizes, arrays


def random_path(rng, count):
    path, left = [], count
    while left > 1:
        size = int(rng.integers(1, min(4, left) + 1))
        path.append(tuple(rng.permutation(left)[:size].tolist()))
        left += 1 - size
    return path


def replay(arguments, pairs):
    """cuTensorNet's reading of a path: a pair leaves the list, its product goes to the end."""
    *operands, output = arguments
    live = list(zip(operands[::2], operands[1::2], strict=True))
    for first, second in pairs:
        assert 0 <= first < second < len(live)
        (a, s), (b, t) = live[first], live[second]
        del live[second], live[first]
        elsewhere = {i for _, term in live for i in term} | set(output)
        kept = [i for i in dict.fromkeys([*s, *t]) if i in elsewhere]
        live.append((np.einsum(a, s, b, t, kept), kept))
    ((array, term),) = live
    return np.einsum(array, term, output)


def joined(path, count):
    """The original tensors that each step of two or more has put together, in order."""
    live, unions = [frozenset([number]) for number in range(count)], []
    for step in path:
        chosen = [live[place] for place in step]
        for place in sorted(step, reverse=True):
            del live[place]
        live.append(frozenset().union(*chosen))
        unions += [live[-1]] if len(step) > 1 else []
    return unions


@pytest.mark.parametrize("seed", range(30))
def test_pairs_mean_the_same_as_the_path(seed):
    rng, inputs, output, sizes, arrays = network(seed)
    for optimizer in ("auto", "greedy", random_path(rng, len(inputs))):
        made = engine.plan((inputs, output, sizes), optimizer=optimizer)
        pairs = pairwise_path(made.path, len(made.inputs))
        assert len(pairs) == len(inputs) - 1
        # any path gives the same value; the same tensors have to meet in the same order
        wanted = joined(made.path, len(inputs))
        assert [step for step in joined(pairs, len(inputs)) if step in wanted] == wanted
        got = replay(interleaved(arrays, made.inputs, made.output), pairs)
        assert np.allclose(got, made.execute(arrays, "numpy").value())


def test_labels_are_integers_in_the_order_of_the_axes():
    made = engine.plan(([("x", "y"), ("y", 7)], (7, "x"), {"x": 2, "y": 3, 7: 4}))
    arrays = [np.ones((2, 3)), np.ones((3, 4))]
    arguments = interleaved(arrays, made.inputs, made.output)
    assert arguments[0] is arrays[0]
    assert arguments[1::2] == [[0, 1], [1, 2]]
    assert arguments[4] == [2, 0]


def test_pairs_of_a_long_chain_stay_quick():
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(3000)]
    made = engine.plan((inputs, (), {f"k{i}": 2 for i in range(3001)}))
    assert len(pairwise_path(made.path, len(made.inputs))) == 2999


def test_the_hand_over(device, monkeypatch):
    """Operands balanced to 1, slices of extent 1 by label, and the scales put back."""
    seen = {}

    def contract(*arguments, optimize):
        seen.update(optimize)
        *operands, output = arguments
        for array in operands[::2]:
            assert isinstance(array, device.ndarray)
            assert np.isclose(np.abs(array.get()).max(), 1)
        host = [x.get() if isinstance(x, device.ndarray) else x for x in operands]
        return device.asarray(replay([*host, output], optimize["path"]))

    package = types.ModuleType("cuquantum")
    package.tensornet = types.SimpleNamespace(contract=contract)
    monkeypatch.setitem(sys.modules, "cuquantum", package)
    _, inputs, output, sizes, arrays = network(3)
    whole = engine.plan((inputs, output, sizes))
    chosen = tuple(whole.sizes)[1:3]
    made = engine.Plan(whole.inputs, whole.output, whole.sizes, whole.path, chosen)
    scaled = [array * 1e-200 for array in arrays]
    result = contract_network(
        [device.asarray(array) for array in scaled], made.inputs, made.output, made.path, made.slices
    )
    assert seen["path"] == pairwise_path(made.path, len(made.inputs))
    assert seen["slicing"] == [(1, 1), (2, 1)]
    expected = whole.execute(scaled, "numpy")
    assert np.allclose(result.log_abs().get(), expected.log_abs())


@pytest.mark.skipif(not INSTALLED, reason="cuquantum and cupy are not installed on this machine")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sliced", [0, 2])
def test_cutensornet_takes_path_and_slices(seed, sliced):
    """The library itself checks the hand-over; planning needs no GPU, only a stated memory limit."""
    from cuquantum import tensornet

    _, inputs, output, sizes, arrays = network(seed)
    whole = engine.plan((inputs, output, sizes))
    made = engine.Plan(whole.inputs, whole.output, whole.sizes, whole.path, tuple(whole.sizes)[:sliced])
    names = labels(made.inputs)
    optimize = {
        "path": pairwise_path(made.path, len(made.inputs)),
        "slicing": [(names[index], 1) for index in made.slices],
    }
    options = tensornet.NetworkOptions(memory_limit=2**30)
    path, info = tensornet.contract_path(
        *interleaved(arrays, made.inputs, made.output), optimize=optimize, options=options
    )
    assert [tuple(map(int, pair)) for pair in path] == pairwise_path(made.path, len(made.inputs))
    assert info.num_slices == made.slice_count


@pytest.mark.gpu
@pytest.mark.skipif(not INSTALLED, reason="cuquantum and cupy are not installed on this machine")
@pytest.mark.parametrize("seed", range(5))
def test_cutensornet_contracts_as_numpy_does(seed):
    if not engine.backends()["cuquantum"].available:
        pytest.skip(engine.backends()["cuquantum"].reason)
    _, inputs, output, sizes, arrays = network(seed)
    made = engine.plan((inputs, output, sizes))
    assert np.allclose(np.asarray(made.execute(arrays, "cuquantum")), made.execute(arrays, "numpy").value())
