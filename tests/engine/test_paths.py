import itertools
import os
import subprocess
import sys

import cotengra as ctg
import networkx as nx
import numpy as np
import opt_einsum as oe
import pytest

from qrt_tn import engine
from qrt_tn.engine.paths import EXACT, LARGE, NAMES, check_path, find_path
from qrt_tn.engine.refine import cost as tree_cost
from qrt_tn.engine.refine import reordered, step_flops
from qrt_tn.engine.simplify import simplify
from qrt_tn.engine.tree import contraction_tree

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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", [(), ("a", "c")])
def test_every_name_gives_a_path(name, output):
    path = find_path(RING, output, SIZES, name)
    assert all(isinstance(position, int) for step in path for position in step)
    assert cost(path, RING, output, SIZES) >= best_cost(RING, output, SIZES)


@pytest.mark.parametrize("name", ["optimal", "dp", "auto"])
def test_exhaustive_searches_find_the_best(name):
    assert cost(find_path(RING, (), SIZES, name), RING, (), SIZES) == best_cost(RING, (), SIZES)


@pytest.mark.parametrize("name", ["auto", "cotengra-greedy", "random-greedy"])
@pytest.mark.parametrize("sites", [1, 2, EXACT, EXACT + 1, 60])
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


# -- quality, on small members of the families that the benchmarks measure


def amplitude(edges, sites, modulus=3, bond=3, batch=None):
    """QRT amplitudes of a state on a graph: site tensors, kernels that share v, and selectors."""
    legs = [[] for _ in range(sites)]
    sizes = {"v": modulus, "b": modulus}
    for number, (one, two) in enumerate(edges):
        sizes[f"e{number}"] = bond
        legs[one].append(f"e{number}")
        legs[two].append(f"e{number}")
    kept = () if batch is None else ("n",)
    if batch is not None:
        sizes["n"] = batch
    inputs = [("v", "b"), (*kept, "b")]
    for site in range(sites):
        sizes |= {f"x{site}": modulus, f"a{site}": modulus}
        inputs += [(*legs[site], f"x{site}"), ("v", f"a{site}", f"x{site}"), (*kept, f"a{site}")]
    return inputs, kept, sizes


def line(sites):
    return [(site, site + 1) for site in range(sites - 1)]


def tree(sites):
    return [((site - 1) // 2, site) for site in range(1, sites)]


def grid(rows, columns):
    place = {(i, j): i * columns + j for i in range(rows) for j in range(columns)}
    across = [(place[i, j], place[i, j + 1]) for i, j in place if j + 1 < columns]
    return across + [(place[i, j], place[i + 1, j]) for i, j in place if i + 1 < rows]


def regular(tensors, bond, seed):
    graph = nx.random_regular_graph(3, tensors, seed=seed)
    terms = [[] for _ in range(tensors)]
    for number, edge in enumerate(graph.edges):
        for end in edge:
            terms[end].append(f"e{number}")
    return [tuple(term) for term in terms], (), {f"e{number}": bond for number in range(graph.size())}


def hypergraph(seed):
    """An equation with hyperindices on most tensors, the kind where the best trees are far from greedy."""
    inputs, output, _, sizes = ctg.utils.rand_equation(
        30, 4, n_out=1, n_hyper_in=2, n_hyper_out=1, seed=seed, d_max=4
    )
    return [tuple(term) for term in inputs], tuple(output), sizes


def circuit(qubits, depth):
    """An amplitude of a brickwork circuit: gates on one qubit and on two, closed at both ends."""
    names = [f"q{qubit}.0" for qubit in range(qubits)]
    inputs, sizes = [(name,) for name in names], dict.fromkeys(names, 2)
    fresh = itertools.count(1)

    def gate(*wires):
        old = [names[wire] for wire in wires]
        for wire in wires:
            names[wire] = f"q{wire}.{next(fresh)}"
            sizes[names[wire]] = 2
        inputs.append((*(names[wire] for wire in wires), *old))

    for layer in range(depth):
        for qubit in range(qubits):
            gate(qubit)
        for qubit in range(layer % 2, qubits - 1, 2):
            gate(qubit, qubit + 1)
    inputs.extend((name,) for name in names)
    return inputs, (), sizes


FAMILIES = {
    "line": amplitude(line(20), 20),
    "line, batch": amplitude(line(20), 20, batch=16),
    "tree": amplitude(tree(15), 15),
    "tree, batch": amplitude(tree(15), 15, batch=16),
    "grid": amplitude(grid(4, 4), 16, bond=2),
    "grid, batch": amplitude(grid(4, 4), 16, bond=2, batch=8),
    "regular": regular(40, 3, 0),
    "hypergraph": hypergraph(2),
    "circuit": circuit(10, 8),
    "chain": ([*(("n", f"k{i}", f"k{i + 1}") for i in range(60))], ("n",), {"n": 8}),
}
FAMILIES["chain"][2].update({f"k{i}": 2 + i % 3 for i in range(61)})


def flops(path, inputs, output, sizes):
    return sum(step_flops(pair, sizes) for pair in contraction_tree(inputs, output, path).pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_is_never_above_other_finders(family):
    inputs, output, sizes = FAMILIES[family]
    ours = flops(find_path(inputs, output, sizes), inputs, output, sizes)
    sets, names = (
        [frozenset(term) for term in inputs],
        {index: oe.get_symbol(k) for k, index in enumerate(sizes)},
    )
    others = {
        "opt_einsum auto": oe.paths.auto(sets, frozenset(output), sizes),
        "opt_einsum greedy": oe.paths.greedy(sets, frozenset(output), sizes),
        "cotengra random greedy": ctg.RandomGreedyOptimizer(max_repeats=64, seed=1, parallel=False)(
            [tuple(names[i] for i in term) for term in inputs],
            tuple(names[i] for i in output),
            {names[i]: size for i, size in sizes.items()},
        ),
    }
    for name, path in others.items():
        assert ours <= flops(path, inputs, output, sizes), name


@pytest.mark.parametrize("seed", range(8))
def test_auto_is_never_above_opt_einsum_on_networks_of_every_kind(seed, networks):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        inputs, output, sizes = networks.draw(rng, tensors=14, indices=10)
        ours = flops(find_path(inputs, output, sizes), inputs, output, sizes)
        path = oe.paths.auto([frozenset(term) for term in inputs], frozenset(output), sizes)
        assert ours <= flops(path, inputs, output, sizes)


# -- exactness


def contract(arrays, inputs, output, sizes, path):
    """The result along a linear path, every step an einsum that keeps what anything else holds."""
    number = {index: place for place, index in enumerate(sizes)}
    live = list(zip(arrays, inputs, strict=True))
    for step in path:
        chosen = [live[place] for place in step]
        live = [pair for place, pair in enumerate(live) if place not in step]
        outside = {index for _, term in live for index in term} | set(output)
        held = dict.fromkeys(index for _, term in chosen for index in term)
        made = tuple(index for index in held if index in outside)
        operands = [part for array, term in chosen for part in (array, [number[i] for i in term])]
        live.append((np.einsum(*operands, [number[i] for i in made]), made))
    ((array, term),) = live
    return np.einsum(array, [number[i] for i in term], [number[i] for i in output])


@pytest.mark.parametrize("name", ["auto", "greedy", "dp", "cotengra-greedy", "random-greedy"])
@pytest.mark.parametrize("seed", range(12))
def test_every_path_is_exact(name, seed, networks):
    """Hyperindices, repeated and lone ones, scalars, extents of 1, disconnected parts, kept batch indices."""
    rng = np.random.default_rng(seed)
    for _ in range(4):
        inputs, output, sizes = networks.draw(rng, tensors=16, indices=9, largest=3)
        arrays = networks.arrays(rng, inputs, sizes)
        path = find_path(inputs, output, sizes, name, seed)
        np.testing.assert_allclose(
            contract(arrays, inputs, output, sizes, path),
            networks.einsum(arrays, inputs, output, sizes),
            rtol=1e-9,
            atol=1e-9,
        )


def test_auto_is_exact_where_everything_is_awkward(networks):
    rng = np.random.default_rng(5)
    inputs = [
        ("a",),
        (),
        ("a", "a", "b"),
        ("b", "c", "d"),
        ("c", "d", "n"),
        ("x", "n"),
        ("y", "y"),
        ("y", "z"),
    ]
    inputs += [("n", f"k{i}", f"k{i + 1}") for i in range(5)] + [("one", "k0"), ("one", "n"), ()]
    sizes = {index: 2 + place % 2 for place, index in enumerate(dict.fromkeys(i for t in inputs for i in t))}
    sizes["one"] = 1
    arrays = networks.arrays(rng, inputs, sizes)
    for output in [(), ("n",), ("z", "n", "k5")]:
        path = find_path(inputs, output, sizes, "auto")
        np.testing.assert_allclose(
            contract(arrays, inputs, output, sizes, path),
            networks.einsum(arrays, inputs, output, sizes),
            rtol=1e-9,
            atol=1e-9,
        )


# -- large networks, order, seeds


@pytest.mark.parametrize("batch", [None, 4])
def test_a_chain_beyond_the_small_searches(batch):
    """As cheap for each site as a shorter chain, which is searched in every way."""
    per_site = []
    for sites in (60, LARGE // 2):
        inputs, output, sizes = amplitude(line(sites), sites, batch=batch)
        path = find_path(inputs, output, sizes)
        check_path(path, len(inputs))
        per_site.append(flops(path, inputs, output, sizes) / sites)
    assert per_site[1] < 1.1 * per_site[0]


@pytest.mark.parametrize("name", ["auto", "greedy", "random-greedy"])
def test_steps_come_in_the_order_that_saves_memory(name):
    """Of two branches, the one with the large middle goes first, whichever the finder takes up first."""
    inputs = [("a", "l0"), ("l0", "l1"), ("l1", "l2"), ("l2", "b"), ("b", "r0"), ("r0", "r1"), ("r1", "a")]
    for wide in ("l1", "r0"):
        sizes = dict.fromkeys(dict.fromkeys(i for term in inputs for i in term), 3) | {wide: 50}
        network = simplify(inputs, (), sizes, "none")
        path = find_path(inputs, (), sizes, name)
        pairs = [(pair.left, pair.right) for pair in contraction_tree(inputs, (), path).pairs]
        assert tree_cost(network, pairs) == tree_cost(network, reordered(network, pairs))


def test_a_path_of_your_own_is_kept_as_it_is():
    path = [(4,), (0, 3, 1), (1, 2), (0,), (1, 0)]
    assert find_path(RING, (), SIZES, path) == path
    assert find_path(RING, (), SIZES, lambda *_: path) == path


def test_the_same_seed_gives_the_same_path_in_every_process():
    """Strings hash differently in each process; no finder may let that decide."""
    code = (
        "from qrt_tn.engine.paths import find_path\n"
        "inputs = [('v', f'a{i}', f'a{(i + 1) % 16}', f'b{i}') for i in range(16)]\n"
        "inputs += [(f'b{i}', f'b{(i + 7) % 16}') for i in range(16)]\n"
        "sizes = {i: 2 for t in inputs for i in t}\n"
        "for name in ('auto', 'greedy', 'random-greedy', 'cotengra-greedy'):\n"
        "    print(find_path(inputs, ('v',), sizes, name, 7))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("optimizer", "error", "says"),
    [
        ("fastest", ValueError, "'fastest'"),
        ([(0, 1)], ValueError, "leaves 4 tensors"),
        ([(0, 5)], ValueError, r"step 0 .* \(0, 5\), but 5 tensors"),
        ([(0, 1), (2, 4)], ValueError, r"step 1 .* \(2, 4\), but 4 tensors"),
        ([(0, 0)], ValueError, r"step 0 .* \(0, 0\)"),
        ([()], ValueError, r"step 0 .* \(\)"),
        ([(-1, 0)], ValueError, r"step 0 .* \(-1, 0\)"),
        ([], ValueError, "leaves 5 tensors"),
        *((value, TypeError, f"is {value!s:.20}") for value in (None, True, 3)),
        ((0, 1), TypeError, r"\(0, 1\)"),
        ([[0.5, 1]], TypeError, "0.5"),
        ([[True, 0]], TypeError, "True"),
        (lambda *_: None, TypeError, "None"),
    ],
)
def test_refusals(optimizer, error, says):
    with pytest.raises(error, match=says):
        find_path(RING, (), SIZES, optimizer)
