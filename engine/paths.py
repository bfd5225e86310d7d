"""Contraction paths by name, through opt_einsum's interface.

"auto" is a search of our own (`engine.search`); the other names are the finders of opt_einsum and cotengra as
they are.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import cotengra as ctg
import opt_einsum as oe

from qrt_tn.engine.refine import reordered
from qrt_tn.engine.search import EFFORTS, search, with_opt_einsum
from qrt_tn.engine.simplify import simplify
from qrt_tn.engine.tree import contraction_tree, linear_path

Index = Hashable
Path = list[tuple[int, ...]]
PathFunction = Callable[..., Sequence[Sequence[int]]]


def _greedy(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
    return ctg.pathfinders.path_basic.GreedyOptimizer()(list(map(tuple, inputs)), tuple(output), dict(sizes))


def _random(repeats: int, seed: int) -> PathFunction:
    def find(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
        optimizer = ctg.RandomGreedyOptimizer(max_repeats=repeats, seed=seed, parallel=False)
        return optimizer(list(map(tuple, inputs)), tuple(output), dict(sizes))

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
    "cotengra-greedy": lambda seed: _greedy,
    "random-greedy": lambda seed: _random(32, seed),
    "random-greedy-128": lambda seed: _random(128, seed),
}

for _name in ("auto", "cotengra-greedy", "random-greedy"):
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
            `(inputs, output, sizes, memory_limit) -> path`, ...). The names: "auto", about a second for
            a few hundred tensors, some seconds where contracting would cost more than 10**10 flops; "greedy",
            "optimal", "dp", "branch-all", "branch-2" of opt_einsum;
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
            found = with_opt_einsum(OPT_EINSUM[optimizer], terms, kept, extents)
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


def _in_order(
    path: Sequence[Sequence[int]],
    inputs: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    sizes: Mapping[Any, int],
) -> Path:
    """The path's steps as pairs, in the order that keeps the least memory alive."""
    check_path(path, len(inputs))
    network = simplify(inputs, output, sizes, absorb="none")
    tree = contraction_tree(network.terms, network.output, path)
    pairs = reordered(network, [(pair.left, pair.right) for pair in tree.pairs])
    return [*linear_path(pairs, len(inputs))] or [(0,)]
