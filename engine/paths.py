"""Contraction paths by name, and the search behind "auto".

"auto" begins trees greedily, by random greedy searches (cotengrust) and by sweeping along the network, on the
network simplified and as it is; anneals them; reconfigures them in parts (`engine.refine`); and takes the
cheapest. Effort is counted, not timed, so a seed gives the same path on every machine. The other names are
finders of opt_einsum and cotengra as they are.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import cotengrust
import opt_einsum as oe

from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.refine import TEMPERATURES, Pairs, anneal, cost, reconfigure, reordered
from qrt_tn.engine.simplify import NEIGHBOURS, Simplified, simplify
from qrt_tn.engine.tree import contraction_tree, linear_path

Path = list[tuple[int, ...]]
Optimizer = str | Sequence[Sequence[int]] | Callable[..., Any]

EXACT = 10  # at this many tensors the best path is found in milliseconds
LARGE = 2500  # from this many tensors on, trees are reconfigured, but not annealed
HUGE = 10_000  # from this many tensors on, there is time for one tree
PARTS = 15_000  # parts of a large tree that are reconfigured in one pass, on average
SWEPT = 1000  # a sweep that costs this many times a greedy tree is not worth reconfiguring
WIDEST = 40  # log2 elements at which a sweep is given up
QUICK = 2000  # opt_einsum's "auto" is tried up to this many tensors ...
SHARING = 10_000  # ... and this many pairs that share an index: its time is quadratic in them
TRIALS = 8  # random greedy paths, of which the best is annealed
SHORTEST = 4 * TEMPERATURES  # moves for every tensor that make an annealing run worth its while
LONGEST = 15  # sweeps at each temperature; more starts gain more than longer runs
MOVES = 200_000  # of all annealing runs together ...
MORE_MOVES = 400_000  # ... and of those that follow where the contraction is costly
COSTLY = 10**10  # flops

OPT_EINSUM = {
    "greedy": oe.paths.greedy,
    "optimal": oe.paths.optimal,
    "dp": oe.paths.dynamic_programming,
    "branch-all": oe.paths.branch_all,
    "branch-2": oe.paths.branch_2,
}
RANDOM_GREEDY = {"random-greedy": 32, "random-greedy-128": 128}  # and their trials
NAMES = ("auto", "cotengra-greedy", *OPT_EINSUM, *RANDOM_GREEDY)


def find_path(
    inputs: Sequence[Collection[Index]],
    output: Collection[Index],
    sizes: Mapping[Index, int],
    optimizer: Optimizer = "auto",
    seed: int = 0,
) -> Path:
    """A contraction path in opt_einsum's linear format.

    Each step names positions in the current list of tensors; their product is appended at its end. The path
    of a finder by name has its steps in the order that keeps the least memory alive; a path or an optimiser
    of your own is taken as it is.

    Args:
        inputs: the indices of every tensor; an index may occur in any number of them.
        output: the indices that are kept.
        sizes: the extent of every index.
        optimizer: a name, a path of your own, or any optimiser with opt_einsum's interface
            (`opt_einsum.RandomGreedy()`, `cotengra.HyperOptimizer()`, a function
            `(inputs, output, sizes, memory_limit) -> path`, ...). The names: "auto", about a second for
            a few hundred tensors, some seconds where contracting would cost more than 10**10 flops; "greedy",
            "optimal", "dp", "branch-all", "branch-2" of opt_einsum;
            "cotengra-greedy", "random-greedy", "random-greedy-128" of cotengra.
        seed: makes the random searches repeatable.

    Raises:
        ValueError: an unknown name, or a path that does not contract this network to one tensor.
        TypeError: an optimizer that is none of these.

    >>> find_path([("a", "b"), ("b", "c"), ("c", "d")], ("a", "d"), {"a": 2, "b": 3, "c": 4, "d": 5})
    [(0, 1), (0, 1)]
    """
    # Path finders differ in the labels they take (cotengrust: single characters), so all get the same.
    symbols = {index: oe.get_symbol(position) for position, index in enumerate(sizes)}
    terms = [tuple(symbols[index] for index in term) for term in inputs]
    kept = tuple(symbols[index] for index in output)
    extents = {symbols[index]: int(size) for index, size in sizes.items()}
    if isinstance(optimizer, str):
        return _in_order(_by_name(optimizer, terms, kept, extents, seed), terms, kept, extents)
    if not callable(optimizer):
        return check_path(optimizer, len(terms))
    # opt_einsum's interface passes sets; cotengra takes those too, but their order is no seed's to fix
    if type(optimizer).__module__.startswith("cotengra"):
        return check_path(optimizer(terms, kept, extents), len(terms))
    sets = [frozenset(term) for term in terms]
    return check_path(optimizer(sets, frozenset(kept), extents, None), len(terms))


def check_path(path: Any, count: int) -> Path:
    """The path as tuples of ints, once it is seen to contract `count` tensors to one.

    Raises:
        ValueError: it does not; the message names the step.
        TypeError: it is no sequence of sequences of whole numbers.
    """
    try:
        steps = [tuple(step) for step in path]
        # `[0.5, 1]` is no step, and neither is `[True, 1]`
        whole = all(hasattr(at, "__index__") and not isinstance(at, bool) for step in steps for at in step)
    except TypeError:
        whole = False
    if not whole or isinstance(path, str):
        raise TypeError(
            f"optimizer or path is {str(path)[:80]}; give a name, an optimiser object, or pairs "
            "of positions such as [(0, 1), (0, 1)]"
        )
    found = [tuple(map(int, step)) for step in steps]
    left = count
    for number, step in enumerate(found):
        if not step or len(set(step)) < len(step) or min(step) < 0 or max(step) >= left:
            raise ValueError(
                f"step {number} of the path is {step}, but {left} tensors are left at that point"
            )
        left += 1 - len(step)
    if left != 1:
        raise ValueError(f"the path leaves {left} tensors; a path must contract all {count} tensors to one")
    return found


def _by_name(name: str, terms: list[Term], output: Term, sizes: dict[Any, int], seed: int) -> Any:
    if name == "auto":
        return linear_path(search(terms, output, sizes, seed), len(terms))
    if name in OPT_EINSUM:
        return _with_opt_einsum(OPT_EINSUM[name], terms, output, sizes)
    if name not in NAMES:
        known = ", ".join(sorted(NAMES))
        raise ValueError(f"unknown optimizer {name!r}; choose one of {known}, a path or an optimiser object")
    import cotengra  # takes a while to import

    if name == "cotengra-greedy":
        return cotengra.pathfinders.path_basic.GreedyOptimizer()(terms, output, sizes)
    finder = cotengra.RandomGreedyOptimizer(max_repeats=RANDOM_GREEDY[name], seed=seed, parallel=False)
    return finder(terms, output, sizes)


def _in_order(
    path: Sequence[Sequence[int]], inputs: list[Term], output: Term, sizes: Mapping[Index, int]
) -> Path:
    """The path's steps as pairs, in the order that keeps the least memory alive."""
    check_path(path, len(inputs))
    network = simplify(inputs, output, sizes, absorb="none")
    pairs = reordered(network, _pairs(network, path))
    return [*linear_path(pairs, len(inputs))] or [(0,)]


def _pairs(network: Simplified, path: Sequence[Sequence[int]]) -> Pairs:
    """A linear path as SSA pairs."""
    return [(pair.left, pair.right) for pair in contraction_tree(network.terms, network.output, path).pairs]


def search(inputs: Sequence[Term], output: Term, sizes: Mapping[Index, int], seed: int = 0) -> Pairs:
    """The cheapest tree that "auto" finds, as SSA pairs over the tensors.

    Args:
        inputs: the indices of every tensor.
        output: the indices that are kept.
        sizes: the extent of every index.
        seed: of the random parts.
    """
    count = len(inputs)
    if count < 3:
        return [(0, 1)] if count == 2 else []
    plain = simplify(inputs, output, sizes, absorb="none")
    # extents of 1 are gone from `plain`, but opt_einsum's count of flops sees them
    whole = Simplified(count, (), tuple(inputs), tuple(range(count)), output, sizes)
    if count > LARGE:
        candidates = _large(plain)
    elif count > EXACT:
        candidates = _middle(plain, simplify(inputs, output, sizes, absorb="rank"), MOVES, seed)
    else:
        candidates = [_exact(plain)]
    if count <= QUICK and _sharing_pairs(whole) <= SHARING:
        path = _with_opt_einsum(oe.paths.auto, whole.terms, output, sizes)
        candidates.append(_pairs(whole, path))
    best = _cheapest(whole, candidates)
    if EXACT < count <= LARGE:
        # what the simplification settled is open again here
        best = _cheapest(whole, [best, reconfigure(plain, best)])
        if cost(whole, best)[0] > COSTLY:
            small = simplify(inputs, output, sizes, absorb="rank")
            more = _cheapest(whole, _middle(plain, small, MORE_MOVES, seed + 1))
            best = _cheapest(whole, [best, reconfigure(plain, more)])
    return best


def _large(plain: Simplified) -> list[Pairs]:
    """Trees of a large network: simplified as far as can be and greedy, or swept where that is no worse."""
    small = simplify(plain.terms, plain.output, plain.sizes, absorb="rank")
    trees = [small.expand(_greedy(small))]
    swept = _swept(plain)
    if swept is not None and cost(plain, swept)[0] < SWEPT * cost(plain, trees[0])[0]:
        trees = [swept] if len(plain.terms) > HUGE else [*trees, swept]
    return [reconfigure(plain, tree, leaves=6, rounds=2, calls=2 * PARTS) for tree in trees]


def _middle(plain: Simplified, small: Simplified, moves: int, seed: int) -> list[Pairs]:
    """Trees of the network simplified and, where that is much larger, of the network as it is."""
    networks = [plain] if len(small.terms) > 0.9 * len(plain.terms) else [small, plain]
    moves //= max(1, sum(len(network.terms) > EXACT for network in networks))
    found = [network.expand(pairs) for network in networks for pairs in annealed(network, moves, seed)]
    swept = _swept(plain)
    return found if swept is None else [*found, reconfigure(plain, swept, rounds=2)]


def annealed(network: Simplified, moves: int, seed: int) -> list[Pairs]:
    """Annealed trees of a network, each begun by a greedy path, by so many moves in all."""
    count = len(network.terms)
    if count <= EXACT:
        return [_exact(network)]
    each = 0.7 * count * TEMPERATURES  # moves of one sweep: about seven in ten steps have one to offer
    starts = max(1, min(4, int(moves / (SHORTEST * count))))
    sweeps = max(1, min(LONGEST, round(moves / (starts * each))))
    starts = max(starts, round(moves / (sweeps * each)))
    found = []
    for number in range(1000 * seed, 1000 * seed + starts):
        pairs = _random_greedy(network, number)
        found.append(reconfigure(network, anneal(network, pairs, number, sweeps)))
    return found


def _cheapest(network: Simplified, candidates: Sequence[Pairs]) -> Pairs:
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda pairs: cost(network, pairs))


# -- beginnings


def _symbolic(network: Simplified) -> tuple[list[list[str]], list[str], dict[str, float]]:
    """The network as cotengrust takes it: every index a character."""
    symbols = {index: oe.get_symbol(place) for place, index in enumerate(network.sizes)}
    return (
        [[symbols[index] for index in term] for term in network.terms],
        [symbols[index] for index in network.output],
        {symbols[index]: float(size) for index, size in network.sizes.items()},
    )


def _binary(path: Sequence[Sequence[int]], count: int) -> Pairs:
    """An SSA path as pairs: steps on one tensor keep its number, and tensors that are left are joined."""
    numbers = dict(enumerate(range(count)))
    pairs: Pairs = []

    def join(chosen: Sequence[int]) -> int:
        made = chosen[0]
        for other in chosen[1:]:
            pairs.append((made, other))
            made = count + len(pairs) - 1
        return made

    for place, step in enumerate(path, count):
        numbers[place] = join([numbers.pop(number) for number in step])
    join(list(numbers.values()))
    return pairs


def _exact(network: Simplified) -> Pairs:
    """The best tree of a few tensors; up to six also with outer products, which that may need."""
    count = len(network.terms)
    if count < 3:
        return [(0, 1)] if count == 2 else []
    options: dict[str, Any] = {
        "minimize": "flops",
        "search_outer": count <= 6,
        "simplify": False,
        "use_ssa": True,
    }
    return _binary(cotengrust.optimize_optimal(*_symbolic(network), **options), count)


def _greedy(network: Simplified) -> Pairs:
    return _binary(cotengrust.optimize_greedy(*_symbolic(network), use_ssa=True), len(network.terms))


def _random_greedy(network: Simplified, seed: int) -> Pairs:
    """The best of the plain greedy path and of random ones."""
    path, _ = cotengrust.optimize_random_greedy_track_flops(
        *_symbolic(network), ntrials=TRIALS, seed=seed, use_ssa=True
    )
    return _cheapest(network, [_greedy(network), _binary(path, len(network.terms))])


def _swept(network: Simplified) -> Pairs | None:
    """The tensors of each connected part one after the other, from one end to the other.

    The ends are those of a breadth-first search along the indices that few tensors share. None where the
    tensor that is carried along grows too large, as it does on anything that is not long and narrow.
    """
    holders: dict[Index, list[int]] = {}
    for number, term in enumerate(network.terms):
        for index in term:
            holders.setdefault(index, []).append(number)

    def breadth_first(start: int) -> list[int]:
        order = dict.fromkeys([start])
        queue = [start]
        for number in queue:
            for index in network.terms[number]:
                if len(holders[index]) <= NEIGHBOURS:
                    for other in holders[index]:
                        if other not in order:
                            order[other] = None
                            queue.append(other)
        return queue

    count = len(network.terms)
    left = {index: len(where) + (index in network.output) for index, where in holders.items()}
    pairs: Pairs = []
    seen: set[int] = set()
    tops = []
    for first in range(count):
        if first in seen:
            continue
        order = breadth_first(breadth_first(first)[-1])
        seen.update(order)
        held: dict[Index, int] = {}
        carried, top = 0.0, order[0]
        for number in order:
            for index in network.terms[number]:
                if index not in held:
                    carried += math.log2(network.sizes[index])
                held[index] = held.get(index, 0) + 1
                if held[index] == left[index]:
                    carried -= math.log2(network.sizes[index])
            if carried > WIDEST:
                return None
            if number != top:
                pairs.append((top, number))
                top = count + len(pairs) - 1
        tops.append(top)
    for other in tops[1:]:
        pairs.append((tops[0], other))
        tops[0] = count + len(pairs) - 1
    return pairs


def _sharing_pairs(network: Simplified) -> int:
    """Pairs of tensors that share an index, counted once for every index."""
    holders = Counter(index for term in network.terms for index in set(term))
    return sum(math.comb(number, 2) for number in holders.values())


def _with_opt_einsum(
    finder: Any, inputs: Sequence[Collection[Any]], output: Collection[Any], sizes: Mapping[Any, int]
) -> Sequence[Sequence[int]]:
    """A path by one of opt_einsum's finders, the same in every process.

    The finders go through sets, and strings hash differently in each process; ints do not.

    Args:
        finder: (inputs, output, sizes, memory_limit) -> path.
        inputs: the indices of every tensor.
        output: the indices that are kept.
        sizes: the extent of every index.
    """
    number = {index: place for place, index in enumerate(sizes)}
    found: Sequence[Sequence[int]] = finder(
        [frozenset(number[index] for index in term) for term in inputs],
        frozenset(number[index] for index in output),
        {number[index]: size for index, size in sizes.items()},
        None,
    )
    return found
