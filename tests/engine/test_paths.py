import itertools

import cotengra as ctg
import opt_einsum as oe
import pytest

import engine
from engine.paths import COTENGRA, OPT_EINSUM, SMALL, find_path

RING = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "a")]
SIZES = {"a": 2, "b": 9, "c": 3, "d": 8, "e": 4}


def chain(sites):
    return [(f"k{i}", f"k{i + 1}") for i in range(sites)], {f"k{i}": 2 for i in range(sites + 1)}


def cost(path, inputs, output, sizes):
    return engine.plan((inputs, output, sizes), optimizer=path).flops


def best_cost(inputs, output, sizes):
    """The least flops over all pairwise paths, by trying them."""
    count, best = len(inputs), None

    def extend(path, left):
        nonlocal best
        if left == 1:
            total = cost(path, inputs, output, sizes)
            best = total if best is None else min(best, total)
            return
        for pair in itertools.combinations(range(left), 2):
            extend([*path, pair], left - 1)

    extend([], count)
    return best


@pytest.mark.parametrize("name", sorted({*OPT_EINSUM, *COTENGRA}))
@pytest.mark.parametrize("output", [(), ("a", "c")])
def test_every_name_gives_a_path(name, output):
    path = find_path(RING, output, SIZES, name)
    assert all(isinstance(position, int) for step in path for position in step)
    assert cost(path, RING, output, SIZES) >= best_cost(RING, output, SIZES)


@pytest.mark.parametrize("name", ["optimal", "dp", "auto"])
def test_exhaustive_searches_find_the_best(name):
    assert cost(find_path(RING, (), SIZES, name), RING, (), SIZES) == best_cost(RING, (), SIZES)


@pytest.mark.parametrize("name", ["auto", "cotengra-greedy", "random-greedy"])
@pytest.mark.parametrize("sites", [1, 2, SMALL, SMALL + 1, 60])
def test_chains_of_any_length(name, sites):
    inputs, sizes = chain(sites)
    found = engine.plan((inputs, ("k0", f"k{sites}"), sizes), optimizer=name)
    assert found.largest <= 8


def test_more_indices_than_letters():
    inputs, sizes = chain(6000)
    path = find_path(inputs, (), sizes)
    assert sum(len(step) - 1 for step in path) == 5999


def test_random_searches_repeat_with_their_seed():
    inputs = [(f"a{i}", f"a{(i + 1) % 14}", f"b{i}", f"b{(i + 5) % 14}") for i in range(14)]
    sizes = {index: 2 + number % 3 for number, index in enumerate(dict.fromkeys(itertools.chain(*inputs)))}
    paths = [find_path(inputs, (), sizes, "random-greedy", seed) for seed in (0, 0, 1, 2, 3)]
    assert paths[0] == paths[1]
    assert any(path != paths[0] for path in paths[2:])


def test_optimisers_of_other_libraries():
    seen = []

    def function(inputs, output, sizes, memory_limit):
        seen.append((inputs, output, memory_limit))
        return oe.paths.greedy(inputs, output, sizes, memory_limit)

    for optimizer in (
        oe.RandomGreedy(max_repeats=2),
        oe.DynamicProgramming(),
        oe.BranchBound(),
        oe.paths.greedy,
        function,
        ctg.RandomGreedyOptimizer(max_repeats=2, seed=0, parallel=False),
        ctg.pathfinders.path_basic.GreedyOptimizer(),
    ):
        path = find_path(RING, ("a",), SIZES, optimizer)
        assert len(path) == 4
    ((inputs, output, limit),) = seen
    assert all(isinstance(term, frozenset) for term in inputs)
    assert isinstance(output, frozenset)
    assert limit is None


def test_our_names_are_registered_with_opt_einsum():
    path, _ = oe.contract_path(
        "ab,bc,cd->ad", (2, 3), (3, 4), (4, 5), shapes=True, optimize="qrt-cotengra-greedy"
    )
    assert len(path) == 2


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ("fastest", "unknown optimizer 'fastest'; choose one of auto"),
        ([(0, 1)], "the path leaves 4 tensors; a path must contract all 5"),
        ([(0, 5)], r"step 0 of the path is \(0, 5\), but 5 tensors are left"),
        ([(0, 1), (2, 4)], r"step 1 of the path is \(2, 4\), but 4 tensors"),
        ([(0, 0)], r"step 0 of the path is \(0, 0\)"),
        ([()], r"step 0 of the path is \(\)"),
        ([(-1, 0)], r"step 0 of the path is \(-1, 0\)"),
        ([], "leaves 5 tensors"),
    ],
)
def test_refusals(optimizer, says):
    with pytest.raises(ValueError, match=says):
        find_path(RING, (), SIZES, optimizer)
