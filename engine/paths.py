"""Contraction paths by name, through opt_einsum's interface.

"auto" and "hyper" are searches of our own: they simplify the network, take the best of several greedy
paths, anneal the tree and reconfigure its parts (`engine.search`), and keep what costs the fewest flops among
this, the same on the network as it is, and opt_einsum's own "auto". The other names are the finders of
opt_einsum and cotengra as they are.
"""

import importlib.util
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cotengra as ctg
import cotengrust
import opt_einsum as oe

from engine.search import TEMPERATURES, Pairs, anneal, cost, reconfigure, reordered
from engine.simplify import Simplified, simplify
from engine.tree import contraction_tree, linear_path

Index = Hashable
Path = list[tuple[int, ...]]
PathFunction = Callable[..., Sequence[Sequence[int]]]

EXACT = 10  # at this many tensors the best path is found in milliseconds
LARGE = 2500  # from this many tensors on, one simplified network is searched, without annealing
PLAIN = 2000  # opt_einsum's "auto" and the network as it is are tried up to this many tensors ...
PARTS = 15_000  # parts of a large network that are reconfigured in one pass, on average
PAIRS = 10_000  # ... and this many pairs that share an index: opt_einsum's time is quadratic in them


@dataclass(frozen=True)
class Effort:
    """How much is searched, in counts.

    Attributes:
        trials: random greedy paths.
        starts: annealing runs at the most, each from the best of its share of the trials.
        moves: moves of all of them together.
        hyper: trials of cotengra's hyper-optimiser times the number of tensors; it takes about a
            millisecond for each.
        leaves: leaves of the parts that are reconfigured in a large network.
        rounds: passes over a large network.
    """

    trials: int
    starts: int
    moves: int
    hyper: int
    leaves: int
    rounds: int


EFFORTS = {"auto": Effort(32, 4, 100_000, 0, 6, 2), "hyper": Effort(256, 8, 2_000_000, 2000, 8, 10)}
SHORTEST = 4 * TEMPERATURES  # moves for every tensor that make an annealing run worth its while
LONGEST = 40  # sweeps at each temperature; another start gains more than longer runs
TRIALS = 32  # of cotengra's hyper-optimiser, at the most


def _greedy(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
    return ctg.pathfinders.path_basic.GreedyOptimizer()(list(map(tuple, inputs)), tuple(output), dict(sizes))


def _random(repeats: int, seed: int) -> PathFunction:
    def find(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
        search = ctg.RandomGreedyOptimizer(max_repeats=repeats, seed=seed, parallel=False)
        return search(list(map(tuple, inputs)), tuple(output), dict(sizes))

    return find


def _searched(name: str, seed: int) -> PathFunction:
    def find(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
        terms = [tuple(term) for term in inputs]
        return linear_path(search(terms, tuple(output), sizes, EFFORTS[name], seed), len(terms))

    return find


OPT_EINSUM = {
    "greedy": oe.paths.greedy,
    "optimal": oe.paths.optimal,
    "dp": oe.paths.dynamic_programming,
    "branch-all": oe.paths.branch_all,
    "branch-2": oe.paths.branch_2,
}
COTENGRA: dict[str, Callable[[int], PathFunction]] = {
    "auto": lambda seed: _searched("auto", seed),
    "hyper": lambda seed: _searched("hyper", seed),
    "cotengra-greedy": lambda seed: _greedy,
    "random-greedy": lambda seed: _random(32, seed),
    "random-greedy-128": lambda seed: _random(128, seed),
}

for _name in ("auto", "hyper", "cotengra-greedy", "random-greedy"):
    # so that opt_einsum.contract(..., optimize="qrt-auto") finds them too
    oe.paths.register_path_fn(f"qrt-{_name}", COTENGRA[_name](0))


def find_path(
    inputs: Sequence[Collection[Index]],
    output: Collection[Index],
    sizes: Mapping[Index, int],
    optimizer: str | Sequence[Sequence[int]] | Callable[..., Any] = "auto",
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
            `(inputs, output, sizes, memory_limit) -> path`, ...). The names: "auto", about half a second for
            a few hundred tensors; "hyper", a search about forty times as long, with cotengra's
            hyper-optimiser; "greedy", "optimal", "dp", "branch-all", "branch-2" of opt_einsum;
            "cotengra-greedy", "random-greedy", "random-greedy-128" of cotengra.
        seed: makes the random searches repeatable.

    Raises:
        ValueError: an unknown name, or a path that does not contract this network to one tensor.
    """
    # Path finders differ in the labels they take (cotengrust: single characters), so all get the same.
    symbols = {index: oe.get_symbol(position) for position, index in enumerate(sizes)}
    terms = [tuple(symbols[index] for index in term) for term in inputs]
    kept = tuple(symbols[index] for index in output)
    extents = {symbols[index]: int(size) for index, size in sizes.items()}
    if isinstance(optimizer, str):
        if optimizer in OPT_EINSUM:
            found = _with_opt_einsum(OPT_EINSUM[optimizer], terms, kept, extents)
        elif optimizer in COTENGRA:
            found = COTENGRA[optimizer](seed)(terms, kept, extents)
        else:
            known = ", ".join(sorted({*OPT_EINSUM, *COTENGRA}))
            raise ValueError(
                f"unknown optimizer {optimizer!r}; choose one of {known}, a path or an optimiser object"
            )
        found = _in_order(found, terms, kept, extents)
    elif callable(optimizer):
        # opt_einsum's interface passes sets; cotengra takes those too, but their order is no seed's to fix
        ordered = type(optimizer).__module__.startswith("cotengra")
        sets = [frozenset(term) for term in terms]
        found = (
            optimizer(terms, kept, extents) if ordered else optimizer(sets, frozenset(kept), extents, None)
        )
    else:
        found = optimizer
    path = [tuple(int(position) for position in step) for step in found]
    check_path(path, len(terms))
    return path


def _in_order(
    path: Sequence[Sequence[int]],
    inputs: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    sizes: Mapping[Any, int],
) -> Path:
    """The path's steps as pairs, in the order that keeps the least memory alive."""
    network = simplify(inputs, output, sizes, absorb="none")
    pairs = reordered(network, _pairs_of(path, network))
    return [*linear_path(pairs, len(inputs))] or [(0,)]


def check_path(path: Sequence[Sequence[int]], count: int) -> None:
    """Make sure that a linear path contracts `count` tensors to one.

    Raises:
        ValueError: it does not; the message names the step.
    """
    left = count
    for number, step in enumerate(path):
        if not step or len(set(step)) < len(step) or min(step) < 0 or max(step) >= left:
            raise ValueError(
                f"step {number} of the path is {tuple(step)}, but {left} tensors are left at that point"
            )
        left += 1 - len(step)
    if left != 1:
        raise ValueError(f"the path leaves {left} tensors; a path must contract all {count} tensors to one")


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
        effort: how much to search.
        seed: of the random parts.
    """
    count = len(inputs)
    plain = simplify(inputs, output, sizes, absorb="none")
    if count < 3:
        return [(0, 1)] if count == 2 else []
    candidates: list[Pairs] = []
    networks = _networks(inputs, output, sizes, plain)
    hard = sum(len(network.terms) > EXACT for network in networks)
    for network in networks:
        for level in dict.fromkeys((EFFORTS["auto"], effort)):  # more effort is never worse
            candidates += [network.expand(pairs) for pairs in _trees(network, level, max(1, hard), seed)]
    if count <= PLAIN and _sharing_pairs(plain) <= PAIRS:
        candidates.append(_opt_einsum_auto(plain))
    best = _cheapest(plain, candidates)
    # what the simplification settled is open again here
    if count > LARGE:
        best = reconfigure(
            plain, best, leaves=effort.leaves, rounds=effort.rounds, calls=effort.rounds * PARTS
        )
    elif count > EXACT:
        best = reconfigure(plain, best)
    return best


def _networks(
    inputs: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    sizes: Mapping[Index, int],
    plain: Simplified,
) -> list[Simplified]:
    """The networks to search: simplified, and as it is where that is much larger or hardly work."""
    count = len(inputs)
    if count <= EXACT:
        return [plain]
    small = simplify(inputs, output, sizes, absorb="rank")
    if len(small.terms) > 0.9 * count:
        return [plain]
    return [small] if count > LARGE else [small, plain]


def _trees(network: Simplified, effort: Effort, share: int, seed: int) -> list[Pairs]:
    """Trees of a network, each from a greedy path of its own, for one part in `share` of the effort."""
    count = len(network.terms)
    if count < 3:
        return [[(0, 1)] if count == 2 else []]
    if count <= EXACT:
        return [_exact(network)]
    if count > LARGE:
        return [_greedy_pairs(network)]
    moves = effort.moves / share
    starts = max(1, min(effort.starts, int(moves / (SHORTEST * count))))
    # about seven in ten steps have a move to offer
    sweeps = max(1, min(LONGEST, round(moves / (0.7 * starts * count * TEMPERATURES))))
    found = []
    for start in range(starts):
        pairs = _random_greedy(network, max(1, effort.trials // starts), seed + start)
        found.append(reconfigure(network, anneal(network, pairs, seed + start, sweeps)))
    if effort.hyper >= count:
        pairs = _hyper(network, min(TRIALS, effort.hyper // count), seed)
        found.append(reconfigure(network, anneal(network, pairs, seed, sweeps, hot=0.3)))
    return found


def _symbolic(network: Simplified) -> tuple[list[list[str]], list[str], dict[str, float]]:
    """The network as cotengrust takes it: every index a character."""
    symbols = {index: oe.get_symbol(place) for place, index in enumerate(network.sizes)}
    return (
        [[symbols[index] for index in term] for term in network.terms],
        [symbols[index] for index in network.output],
        {symbols[index]: float(size) for index, size in network.sizes.items()},
    )


def _exact(network: Simplified) -> Pairs:
    # up to six tensors with outer products, which the best path may need
    few = len(network.terms) <= 6
    inputs, output, sizes = _symbolic(network)
    return _binary(
        cotengrust.optimize_optimal(
            inputs, output, sizes, minimize="flops", search_outer=few, simplify=False, use_ssa=True
        ),
        len(inputs),
    )


def _cheapest(network: Simplified, candidates: Sequence[Pairs]) -> Pairs:
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda pairs: cost(network, pairs))


def _greedy_pairs(network: Simplified) -> Pairs:
    inputs, output, sizes = _symbolic(network)
    return _binary(cotengrust.optimize_greedy(inputs, output, sizes, use_ssa=True), len(inputs))


def _random_greedy(network: Simplified, trials: int, seed: int) -> Pairs:
    """The best of the plain greedy path and of random ones."""
    inputs, output, sizes = _symbolic(network)
    path, _ = cotengrust.optimize_random_greedy_track_flops(
        inputs, output, sizes, ntrials=trials, seed=seed, use_ssa=True
    )
    return _cheapest(network, [_greedy_pairs(network), _binary(path, len(inputs))])


def _binary(path: Sequence[Sequence[int]], count: int) -> Pairs:
    """An SSA path as pairs: steps on one tensor keep its number, and tensors that are left are joined."""
    numbers = dict(enumerate(range(count)))
    pairs: Pairs = []
    for place, step in enumerate(path, count):
        chosen = [numbers.pop(number) for number in step]
        made = chosen[0]
        for other in chosen[1:]:
            pairs.append((made, other))
            made = count + len(pairs) - 1
        numbers[place] = made
    left = list(numbers.values())
    made = left[0]
    for other in left[1:]:
        pairs.append((made, other))
        made = count + len(pairs) - 1
    return pairs


def _sharing_pairs(network: Simplified) -> int:
    """Pairs of tensors that share an index, counted once for every index."""
    holders = Counter(index for term in network.terms for index in term)
    return sum(math.comb(number, 2) for number in holders.values())


def _with_opt_einsum(
    finder: PathFunction, inputs: Sequence[Collection[Any]], output: Collection[Any], sizes: Mapping[Any, int]
) -> Sequence[Sequence[int]]:
    """A path finder's answer, the same in every process: strings hash differently in each, ints do not."""
    number = {index: place for place, index in enumerate(sizes)}
    return finder(
        [frozenset(number[index] for index in term) for term in inputs],
        frozenset(number[index] for index in output),
        {number[index]: size for index, size in sizes.items()},
        None,
    )


def _opt_einsum_auto(network: Simplified) -> Pairs:
    path = _with_opt_einsum(oe.paths.auto, network.terms, network.output, network.sizes)
    return _pairs_of(path, network)


def _pairs_of(path: Sequence[Sequence[int]], network: Simplified) -> Pairs:
    found = contraction_tree(network.terms, network.output, path)
    return [(pair.left, pair.right) for pair in found.pairs]


def _hyper(network: Simplified, trials: int, seed: int) -> Pairs:
    """The hyper-optimiser of cotengra with subtree reconfiguration, its trials counted."""
    inputs, output, sizes = _symbolic(network)
    methods = ["greedy", "kahypar" if importlib.util.find_spec("kahypar") else "labels"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = ctg.HyperOptimizer(
            methods=methods,
            max_repeats=trials,
            parallel=False,
            reconf_opts={},
            optlib="random",
            seed=seed,
            on_trial_error="ignore",
        )
        tree = optimizer.search(inputs, output, sizes)
    return _binary(tree.get_ssa_path(), len(inputs))
