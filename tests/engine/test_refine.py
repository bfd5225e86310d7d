import itertools
import math

import networkx as nx
import numpy as np
import pytest

import qrt_tn.engine.refine as room
from qrt_tn.engine.refine import anneal, cost, reconfigure, reordered, step_flops
from qrt_tn.engine.simplify import simplify
from qrt_tn.engine.tree import contraction_tree, linear_path


def random_network(rng, tensors=20, hyper=3, kept=2):
    """A random regular graph with hyperindices on a few tensors each, some of them kept."""
    graph = nx.random_regular_graph(3, tensors, seed=int(rng.integers(2**31)))
    terms = [[] for _ in range(tensors)]
    for number, edge in enumerate(graph.edges):
        for end in edge:
            terms[end].append(f"e{number}")
    for number in range(hyper):
        for place in rng.permutation(tensors)[: rng.integers(3, 6)]:
            terms[place].append(f"h{number}")
    inputs = [tuple(term) for term in terms]
    used = list(dict.fromkeys(index for term in inputs for index in term))
    output = tuple(used[place] for place in rng.permutation(len(used))[:kept])
    return simplify(inputs, output, {index: int(rng.integers(2, 5)) for index in used}, "none")


def random_tree(rng, count):
    live, pairs = list(range(count)), []
    while len(live) > 1:
        left, right = (live.pop(rng.integers(len(live))) for _ in range(2))
        live.append(count + len(pairs))
        pairs.append((left, right))
    return pairs


def checked(network, pairs):
    """The pairs, once they are seen to contract every tensor exactly once, children before parents."""
    count = len(network.terms)
    assert sorted(itertools.chain(*pairs)) == list(range(2 * count - 2))
    assert all(max(pair) < count + step for step, pair in enumerate(pairs))
    return pairs


def flops(network, pairs):
    """The count from the leaves below every step alone, without any tree's own bookkeeping."""
    count, total = len(network.terms), 0
    below = [{number} for number in range(count)]

    def held(leaves):
        inside = {i for k in leaves for i in network.terms[k]}
        outside = {i for k, term in enumerate(network.terms) if k not in leaves for i in term}
        return inside & (outside | set(network.output))

    for left, right in pairs:
        below.append(below[left] | below[right])
        both = held(below[left]) | held(below[right])
        total += math.prod(network.sizes[i] for i in both) * (2 if both != held(below[-1]) else 1)
    return total


def intermediates(network, pairs):
    """Most elements of intermediates alive at once, in this order."""
    found = contraction_tree(network.terms, network.output, linear_path(pairs, len(network.terms)))
    alive, most = {}, 0
    for number, pair in enumerate(found.pairs, len(network.terms)):
        alive[number] = math.prod(network.sizes[i] for i in pair.term)
        most = max(most, sum(alive.values()))
        alive.pop(pair.left, None)
        alive.pop(pair.right, None)
    return most


@pytest.mark.parametrize("seed", range(20))
def test_cost_is_the_count_from_the_leaves(seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, 10)
    pairs = random_tree(rng, 10)
    count, largest, peak = cost(network, pairs)
    assert count == flops(network, pairs)
    assert peak == intermediates(network, pairs) >= largest


def test_a_step_without_a_sum_counts_once():
    tree = contraction_tree([("a", "n"), ("b", "n")], ("a", "b", "n"), [(0, 1)])
    assert step_flops(tree.pairs[0], {"a": 2, "b": 3, "n": 5}) == 30
    tree = contraction_tree([("a", "n"), ("b", "n")], ("a", "b"), [(0, 1)])
    assert step_flops(tree.pairs[0], {"a": 2, "b": 3, "n": 5}) == 60


@pytest.mark.parametrize("seed", range(8))
def test_the_tree_that_annealing_keeps_is_what_it_believes(seed, monkeypatch):
    """After many moves, masks and costs are those of the tree from scratch."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, 16)
    made = []
    monkeypatch.setattr(
        room, "_Annealed", lambda *given, keep=room._Annealed: made.append(keep(*given)) or made[-1]
    )
    anneal(network, random_tree(rng, 16), seed, 5)
    (tree,) = made
    pairs = checked(network, room._ssa(tree.left, tree.right, 16))
    assert 2 ** tree.score() == pytest.approx(flops(network, pairs))


@pytest.mark.parametrize("search", ["anneal", "reconfigure"])
@pytest.mark.parametrize("seed", range(6))
def test_searches_improve_a_random_tree_much_and_a_good_one_never_for_the_worse(search, seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng)
    start = random_tree(rng, 20)

    def better(pairs):
        found = anneal(network, pairs, seed, 4) if search == "anneal" else reconfigure(network, pairs)
        return checked(network, found)

    once = better(start)
    assert flops(network, once) < flops(network, start) / 3
    assert flops(network, better(once)) <= flops(network, once)


def best_flops(network):
    """The least flops over all trees, by dynamic programming over all subsets."""
    count = len(network.terms)
    everything = frozenset(range(count))
    held = {}
    for size in range(1, count + 1):
        for leaves in map(frozenset, itertools.combinations(range(count), size)):
            inside = {i for k in leaves for i in network.terms[k]}
            outside = {i for k in everything - leaves for i in network.terms[k]}
            held[leaves] = inside & (outside | set(network.output))
    best = {frozenset([k]): 0 for k in range(count)}
    for leaves, kept in held.items():
        if len(leaves) == 1:
            continue
        first, *others = sorted(leaves)
        options = []
        for size in range(len(others)):
            for more in itertools.combinations(others, size):
                left = frozenset((first, *more))
                both = held[left] | held[leaves - left]
                step = math.prod(network.sizes[i] for i in both) * (2 if both != kept else 1)
                options.append(best[left] + best[leaves - left] + step)
        best[leaves] = min(options)
    return best[everything]


@pytest.mark.parametrize("seed", range(6))
def test_annealing_finds_the_best_tree_of_a_small_network(seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, 8, hyper=1)
    found = anneal(network, random_tree(rng, 8), seed, 20)
    assert flops(network, found) == best_flops(network)


@pytest.mark.parametrize("seed", range(6))
def test_reconfiguring_a_part_as_large_as_the_network_is_exact_but_for_sums(seed):
    """Its dynamic programming counts every step once; ours twice where something is summed."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, 8, hyper=0, kept=0)
    found = reconfigure(network, random_tree(rng, 8))
    assert flops(network, found) == best_flops(network)


def test_the_largest_intermediate_can_be_held_down():
    lower = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        network = random_network(rng, 40, hyper=0)
        free = anneal(network, random_tree(rng, 40), seed, 10)
        largest = cost(network, free)[1]
        held = checked(network, anneal(network, free, seed, 10, largest=math.log2(largest) - 0.01))
        assert cost(network, held)[1] <= largest
        lower += cost(network, held)[1] < largest
    assert lower >= 4  # some cannot be lower


def test_the_same_seed_gives_the_same_tree():
    rng = np.random.default_rng(0)
    network = random_network(rng, 30)
    start = random_tree(rng, 30)
    found = [anneal(network, start, seed, 2) for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2]
    assert reconfigure(network, start) == reconfigure(network, start)


def test_effort_is_counted():
    rng = np.random.default_rng(1)
    network = random_network(rng, 30)
    start = random_tree(rng, 30)
    assert flops(network, reconfigure(network, start, calls=0)) == flops(network, start)
    some = [flops(network, reconfigure(network, start, calls=calls)) for calls in (0, 3, 30, 3000)]
    assert some == sorted(some, reverse=True)
    assert some[1] > some[3]


def test_extents_beyond_floating_point():
    """A bad tree of a long chain costs more than a float can hold."""
    inputs = [(f"k{i}", f"k{i + 1}") for i in range(600)]
    network = simplify(inputs, (), {f"k{i}": 4 for i in range(601)}, "none")
    # every second tensor first: an outer product of 300 of them
    live, pairs = list(range(0, 600, 2)), []
    for other in [*live[1:], *range(1, 600, 2)]:
        pairs.append((600 + len(pairs) - 1 if pairs else 0, other))
    before = cost(network, checked(network, pairs))[0]
    assert before > 10**308
    assert cost(network, checked(network, reconfigure(network, pairs, rounds=2)))[0] < before
    assert cost(network, checked(network, anneal(network, pairs, 0, 1)))[0] < before


# -- order


@pytest.mark.parametrize("seed", range(25))
def test_no_depth_first_order_keeps_less_alive(seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, 8, hyper=1)
    pairs = random_tree(rng, 8)
    found = checked(network, reordered(network, pairs))
    assert cost(network, found)[:2] == cost(network, pairs)[:2]
    least = min(intermediates(network, order) for order in depth_first(network, pairs))
    assert intermediates(network, found) == least


def depth_first(network, pairs):
    """Every order that finishes one part below a step before it begins the other."""
    count = len(network.terms)

    def orders(node):
        if node < count:
            return [[]]
        left, right = pairs[node - count]
        found = []
        for one, two in itertools.product(orders(left), orders(right)):
            found += [[*one, *two, node], [*two, *one, node]]
        return found

    for order in orders(count + len(pairs) - 1):
        number = {node: count + place for place, node in enumerate(order)}
        yield [tuple(number.get(child, child) for child in pairs[node - count]) for node in order]


@pytest.mark.parametrize("count", [1, 2])
def test_networks_without_a_choice(count):
    network = simplify([("a",)] * count, (), {"a": 2}, "none")
    pairs = [(0, 1)][: count - 1]
    assert anneal(network, pairs, 0, 3) == reconfigure(network, pairs) == reordered(network, pairs) == pairs
