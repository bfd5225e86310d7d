import re
import warnings

import cotengra as ctg
import numpy as np
import opt_einsum as oe
import pytest
import quimb.tensor as qtn

from qrt_tn import engine
from qrt_tn.engine.network import read_structure
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.slicing import within
from qrt_tn.engine.tree import linear_path

pytestmark = pytest.mark.filterwarnings("ignore:memory_limit")


def batched(sites, modulus=5, bond=5, batch=8):
    """A ring of site tensors under kernels that share v, with selectors that share n."""
    sizes = {"v": modulus, "n": batch}
    inputs = []
    for site in range(sites):
        sizes |= {f"k{site}": bond, f"x{site}": modulus, f"a{site}": modulus}
        inputs.append((f"k{site}", f"x{site}", f"k{(site + 1) % sites}"))
        inputs += [("v", f"a{site}", f"x{site}"), ("n", f"a{site}")]
    return inputs, ("n",), sizes


def renamed(network, kept=0):
    """The structure of a quimb network with short names in a fixed order; some inner indices are kept."""
    inputs, _, sizes = read_structure(network)
    names = {index: f"e{number}" for number, index in enumerate(dict.fromkeys(i for t in inputs for i in t))}
    output = tuple(list(names.values())[:kept])
    return [[names[i] for i in term] for term in inputs], output, {names[i]: sizes[i] for i in names}


NETWORKS = {
    "lattice": renamed(qtn.TN2D_rand(4, 5, 3, seed=0)),
    "regular": renamed(qtn.TN_rand_reg(24, 3, 3, seed=0)),
    "regular, kept": renamed(qtn.TN_rand_reg(12, 3, 3, seed=1), kept=3),
    "batched": batched(6),
}


def planned(name, **settings):
    return engine.plan(NETWORKS[name], dtype="float64", use_cache=False, **settings)


def operands(plan):
    return 8 * sum(int(np.prod([plan.sizes[index] for index in term])) for term in plan.inputs)


def least(whole, may_change=True):
    """The least limit that can be met, as the refusal of a lower one says."""
    with pytest.raises(ValueError, match="cannot be met") as caught:
        within(whole, operands(whole), 0, may_change_path=may_change)
    assert ("on this path" in str(caught.value)) is not may_change
    return int(re.search(r"reaches is (\d+) bytes", str(caught.value))[1])


def limits(whole, count, may_change=True):
    return np.linspace(least(whole, may_change), whole.peak_bytes, count).astype(int).tolist()


@pytest.mark.parametrize("may_change", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_limit_is_kept_without_a_slice_too_many(name, may_change):
    whole = planned(name)
    for limit in limits(whole, 3, may_change):
        found = within(whole, limit, 0, may_change_path=may_change)
        assert found.peak_bytes <= limit
        assert found.path == whole.path or may_change
        for index in found.slices if len(found.slices) <= 8 else ():
            fewer = tuple(other for other in found.slices if other != index)
            assert Plan(*NETWORKS[name], found.path, fewer, "float64").peak_bytes > limit
        # the same limit once more gives the same slices
        assert within(whole, limit + 1000, 0, may_change_path=may_change, beside=1000) == found
    assert found == whole


@pytest.mark.parametrize("name", ["lattice", "regular"])
def test_no_more_flops_than_cotengras_slicing_nor_than_with_less_memory(name):
    """cotengra is given what it wants, a size of the largest tensor, until the peak fits."""
    whole = planned(name)
    names = {index: oe.get_symbol(place) for place, index in enumerate(whole.sizes)}
    labels = {symbol: index for index, symbol in names.items()}
    tree = ctg.ContractionTree.from_path(
        [[names[i] for i in term] for term in whole.inputs],
        [],
        {names[i]: size for i, size in whole.sizes.items()},
        path=whole.path,
    )
    theirs = []
    for target in 2.0 ** np.arange(np.log2(tree.max_size()), 3, -2):
        for found in (tree.slice(target, seed=0), tree.slice_and_reconfigure(target)):
            slices = tuple(labels[symbol] for symbol in found.sliced_inds)
            theirs.append(Plan(*NETWORKS[name], tuple(found.get_path()), slices, "float64"))
    flops = []
    # (of the few slicings that fit the least memory there is, chance finds one or the other)
    for limit in limits(whole, 5)[1:]:
        flops.append(within(whole, limit, 0, may_change_path=True).flops)
        # both searches draw by chance
        assert flops[-1] <= 1.3 * min(
            [plan.flops for plan in theirs if plan.peak_bytes <= limit], default=flops[-1]
        )
        assert flops[-1] <= 1.2 * min(flops)


@pytest.mark.parametrize("optimizer", ["auto", "greedy", None])
@pytest.mark.parametrize("name", ["lattice, kept", "batched"])
def test_slices_add_up_to_the_contraction(name, optimizer, networks):
    structure = renamed(qtn.TN2D_rand(4, 5, 4, seed=3), kept=1) if "kept" in name else batched(4, 4, 6, 4)
    whole = engine.plan(structure, dtype="float64", optimizer="cotengra-greedy", use_cache=False)
    settings = {"dtype": "float64", "use_cache": False, "optimizer": optimizer or whole.path}
    found = engine.plan(structure, memory_limit=(least(whole) + whole.peak_bytes) // 2, **settings)
    assert found.slices or found.path != whole.path
    arrays = networks.arrays(np.random.default_rng(0), structure[0], structure[2])
    expected = whole.execute(arrays, "numpy").value()
    np.testing.assert_allclose(found.execute(arrays, "numpy").value(), expected, rtol=1e-10, atol=1e-8)


def test_slicing_that_multiplies_the_work_warns():
    whole = planned("regular")
    with pytest.warns(UserWarning, match="memory_limit of .* bytes multiplies the work by"):
        within(whole, least(whole), 0, may_change_path=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        within(whole, whole.peak_bytes * 3 // 4, 0, may_change_path=True)


def test_limits_that_cannot_be_met():
    structure = [("a", "b"), ("b", "c"), ("c", "a")], (), {"a": 2, "b": 3, "c": 50}
    says = r"limit of 4000 bytes is .* operands .* 4096 bytes; .* tensor 1 .* \('b', 'c'\) and 2400 bytes"
    with pytest.raises(ValueError, match=says):
        engine.plan(structure, memory_limit=4000)
    one = engine.plan(([("a", "a")], (), {"a": 4}))
    assert within(one, one.peak_bytes, 0, may_change_path=True) == one
    with pytest.raises(ValueError, match=str(one.peak_bytes - 1)):
        within(one, one.peak_bytes - 1, 0, may_change_path=True)


def test_a_path_beyond_floating_point():
    """Every second tensor of a chain first: an outer product with more elements than a float counts."""
    inputs, sizes = [(f"k{i}", f"k{i + 1}") for i in range(70)], {f"k{i}": 10**5 for i in range(71)}
    order = [*range(0, 70, 2), *range(1, 70, 2)]
    pairs = [(order[0] if step == 0 else 70 + step - 1, other) for step, other in enumerate(order[1:])]
    whole = engine.plan((inputs, (), sizes), optimizer=linear_path(pairs, 70))
    assert whole.peak_bytes > 10**308
    with pytest.raises(ValueError, match="cannot be met on this path"):
        within(whole, 10**14, 0, may_change_path=False)
