"""The search behind "auto": several trees, refined, and the cheapest of them.

A tree is begun in several ways: greedily, and by random greedy searches (cotengrust); by sweeping along the
network; for "hyper" also by cotengra's hyper-optimiser. Beginnings are made on the network simplified and on
the network as it is, annealed, and reconfigured in parts (`engine.refine`). opt_einsum's own "auto" is a
candidate too, wherever it is quick. Effort is counted, so a seed gives the same tree on every machine.
"""

import importlib.util
import math
import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cotengra as ctg
import cotengrust
import opt_einsum as oe

from qrt_tn.engine.progress import shown
from qrt_tn.engine.refine import TEMPERATURES, Pairs, anneal, cost, reconfigure
from qrt_tn.engine.simplify import NEIGHBOURS, Simplified, simplify
from qrt_tn.engine.tree import contraction_tree

Index = Hashable

EXACT = 10  # at this many tensors the best path is found in milliseconds
LARGE = 2500  # from this many tensors on, trees are reconfigured, but not annealed
HUGE = 10_000  # from this many tensors on, there is time for one tree
PARTS = 15_000  # parts of a large tree that are reconfigured in one pass, on average
SWEPT = 100  # a sweep that costs this many times a greedy tree is not worth reconfiguring
WIDEST = 40  # log2 elements at which a sweep is given up
QUICK = 2000  # opt_einsum's "auto" is tried up to this many tensors ...
SHARING = 10_000  # ... and this many pairs that share an index: its time is quadratic in them
SHORTEST = 4 * TEMPERATURES  # moves for every tensor that make an annealing run worth its while
LONGEST = 40  # sweeps at each temperature; another start gains more than longer runs
COSTLY = 10**10  # flops; a contraction that costs more is worth a longer search
TRIALS = 32  # of cotengra's hyper-optimiser, at the most


@dataclass(frozen=True)
class Effort:
    """How much is searched, in counts.

    Attributes:
        trials: random greedy paths.
        starts: annealing runs at the most, each from the best of its share of the trials.
        moves: moves of all of them together.
        hyper: trials of cotengra's hyper-optimiser times the number of tensors.
        leaves: leaves of the parts that are reconfigured in a large network.
        rounds: passes over a large network.
    """

    trials: int
    starts: int
    moves: int
    hyper: int
    leaves: int
    rounds: int


EFFORTS = {"auto": Effort(32, 4, 200_000, 0, 6, 2), "hyper": Effort(256, 8, 2_000_000, 2000, 8, 10)}
LONGER = Effort(64, 6, 600_000, 0, 6, 2)  # what both go on to where the contraction is costly


def search(
    inputs: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    sizes: Mapping[Index, int],
    effort: Effort,
    seed: int = 0,
) -> Pairs:
    """The cheapest tree that this effort finds, as SSA pairs over the tensors.

    Args:
        inputs: the indices of every tensor.
        output: the indices that are kept.
        sizes: the extent of every index.
        effort: how much to search; never less than that of "auto".
        seed: of the random parts.
    """
    count = len(inputs)
    if count < 3:
        return [(0, 1)] if count == 2 else []
    plain = simplify(inputs, output, sizes, absorb="none")
    # extents of 1 are gone from `plain`, but opt_einsum's count of flops sees them
    whole = Simplified(count, (), tuple(inputs), tuple(range(count)), output, sizes)
    levels = tuple(dict.fromkeys((EFFORTS["auto"], effort)))  # more effort is never worse
    if count > LARGE:
        candidates = _large(inputs, output, sizes, plain, levels[-1])
    elif count > EXACT:
        candidates = _middle(inputs, output, sizes, plain, levels, seed)
    else:
        candidates = [_exact(plain)]
    if count <= QUICK and _sharing_pairs(whole) <= SHARING:
        candidates.append(_opt_einsum_auto(whole))
    best = _cheapest(whole, candidates)
    if EXACT < count <= LARGE:
        # what the simplification settled is open again here
        best = _cheapest(whole, [best, reconfigure(plain, best)])
        if cost(whole, best)[0] > COSTLY:
            more = _middle(inputs, output, sizes, plain, (LONGER,), seed)
            best = _cheapest(whole, [best, *(reconfigure(plain, tree) for tree in more)])
    return best


def _large(
    inputs: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    sizes: Mapping[Index, int],
    plain: Simplified,
    effort: Effort,
) -> list[Pairs]:
    """Trees of a large network: simplified as far as can be and greedy, or swept where that is no worse."""
    small = simplify(inputs, output, sizes, absorb="rank")
    trees = [small.expand(_greedy(small))]
    swept = _swept(plain)
    if swept is not None and cost(plain, swept)[0] < SWEPT * cost(plain, trees[0])[0]:
        trees = [swept] if len(inputs) > HUGE else [*trees, swept]
    calls = effort.rounds * PARTS
    return [
        reconfigure(plain, tree, leaves=effort.leaves, rounds=effort.rounds, calls=calls) for tree in trees
    ]


def _middle(
    inputs: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    sizes: Mapping[Index, int],
    plain: Simplified,
    levels: Sequence[Effort],
    seed: int,
) -> list[Pairs]:
    """Trees of the network simplified and, where that is much larger, of the network as it is."""
    small = simplify(inputs, output, sizes, absorb="rank")
    networks = [plain] if len(small.terms) > 0.9 * len(inputs) else [small, plain]
    share = max(1, sum(len(network.terms) > EXACT for network in networks))
    found = [
        network.expand(pairs)
        for network in networks
        for effort in levels
        for pairs in _trees(network, effort, share, seed)
    ]
    swept = _swept(plain)
    return found if swept is None else [*found, reconfigure(plain, swept, rounds=2)]


def _trees(network: Simplified, effort: Effort, share: int, seed: int) -> list[Pairs]:
    """Annealed trees of a network, each begun by a greedy path, for one part in `share` of the effort."""
    count = len(network.terms)
    if count <= EXACT:
        return [_exact(network)]
    moves = effort.moves / share
    starts = max(1, min(effort.starts, int(moves / (SHORTEST * count))))
    # about seven in ten steps have a move to offer
    sweeps = max(1, min(LONGEST, round(moves / (0.7 * starts * count * TEMPERATURES))))
    found = []
    with shown(None, starts, "trees") as tell:
        for start in range(starts):
            pairs = _random_greedy(network, max(1, effort.trials // starts), seed + start)
            found.append(reconfigure(network, anneal(network, pairs, seed + start, sweeps)))
            tell(start + 1, starts)
    if effort.hyper >= count:
        pairs = _hyper(network, min(TRIALS, effort.hyper // count), seed)
        found.append(reconfigure(network, anneal(network, pairs, seed, sweeps, hot=0.3)))
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
    if len(network.terms) < 3:
        return [(0, 1)] if len(network.terms) == 2 else []
    path = cotengrust.optimize_optimal(
        *_symbolic(network),
        minimize="flops",
        search_outer=len(network.terms) <= 6,
        simplify=False,
        use_ssa=True,
    )
    return _binary(path, len(network.terms))


def _greedy(network: Simplified) -> Pairs:
    return _binary(cotengrust.optimize_greedy(*_symbolic(network), use_ssa=True), len(network.terms))


def _random_greedy(network: Simplified, trials: int, seed: int) -> Pairs:
    """The best of the plain greedy path and of random ones."""
    path, _ = cotengrust.optimize_random_greedy_track_flops(
        *_symbolic(network), ntrials=trials, seed=seed, use_ssa=True
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


def with_opt_einsum(
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


def _opt_einsum_auto(network: Simplified) -> Pairs:
    path = with_opt_einsum(oe.paths.auto, network.terms, network.output, network.sizes)
    found = contraction_tree(network.terms, network.output, path)
    return [(pair.left, pair.right) for pair in found.pairs]


def _hyper(network: Simplified, trials: int, seed: int) -> Pairs:
    """The hyper-optimiser of cotengra with subtree reconfiguration, its trials counted.

    Of its methods only those that partition take a seed; greedy trees we make ourselves.
    """
    method = "kahypar" if importlib.util.find_spec("kahypar") else "labels"
    optimizer = ctg.HyperOptimizer(
        methods=[method],
        # the default for large parts draws from the clock
        constants={method: {"seed": seed, "super_optimize": "greedy"}},
        max_repeats=trials,
        parallel=False,
        reconf_opts={},
        optlib="random",
        seed=seed,
        on_trial_error="ignore",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = optimizer.search(*_symbolic(network))
        except KeyError:  # no trial came to a tree
            return _greedy(network)
    return _binary(tree.get_ssa_path(), len(network.terms))
