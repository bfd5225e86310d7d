"""Contraction paths by name, through opt_einsum's interface.

opt_einsum's own path finders serve small networks. Its greedy search is quadratic in the number of
tensors (125 s on a chain of 5,000 sites, against 0.4 s), so cotengra's optimisers are registered beside
them under names of their own, and "auto" takes them from `SMALL` tensors on.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import cotengra as ctg
import opt_einsum as oe

Index = Hashable
Path = list[tuple[int, ...]]
PathFunction = Callable[..., Sequence[Sequence[int]]]

SMALL = 12  # at this many tensors opt_einsum's exhaustive searches still take milliseconds


def _auto(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
    if len(inputs) <= SMALL:
        return oe.paths.auto([frozenset(term) for term in inputs], frozenset(output), sizes, limit)
    return _cotengra_greedy(inputs, output, sizes, limit)


def _cotengra_greedy(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
    return ctg.pathfinders.path_basic.GreedyOptimizer()(list(map(tuple, inputs)), tuple(output), dict(sizes))


def _random(repeats: int, seed: int) -> PathFunction:
    def find(inputs: Sequence[Any], output: Any, sizes: Mapping[Any, int], limit: Any = None) -> Any:
        search = ctg.RandomGreedyOptimizer(max_repeats=repeats, seed=seed, parallel=False)
        return search(list(map(tuple, inputs)), tuple(output), dict(sizes))

    return find


OPT_EINSUM = {
    "greedy": oe.paths.greedy,
    "optimal": oe.paths.optimal,
    "dp": oe.paths.dynamic_programming,
    "branch-all": oe.paths.branch_all,
    "branch-2": oe.paths.branch_2,
}
COTENGRA: dict[str, Callable[[int], PathFunction]] = {
    "auto": lambda seed: _auto,
    "cotengra-greedy": lambda seed: _cotengra_greedy,
    "random-greedy": lambda seed: _random(32, seed),
    "random-greedy-128": lambda seed: _random(128, seed),
}

for _name in ("cotengra-greedy", "random-greedy"):
    # so that opt_einsum.contract(..., optimize="qrt-cotengra-greedy") finds them too
    oe.paths.register_path_fn(f"qrt-{_name}", COTENGRA[_name](0))


def find_path(
    inputs: Sequence[Collection[Index]],
    output: Collection[Index],
    sizes: Mapping[Index, int],
    optimizer: str | Sequence[Sequence[int]] | Callable[..., Any] = "auto",
    seed: int = 0,
) -> Path:
    """A contraction path in opt_einsum's linear format.

    Each step names positions in the current list of tensors; their product is appended at its end.

    Args:
        inputs: the indices of every tensor; an index may occur in any number of them.
        output: the indices that are kept.
        sizes: the extent of every index.
        optimizer: a name, a path of your own, or any optimiser with opt_einsum's interface
            (`opt_einsum.RandomGreedy()`, `cotengra.HyperOptimizer()`, a function
            `(inputs, output, sizes, memory_limit) -> path`, ...).
        seed: makes the random searches repeatable.

    Raises:
        ValueError: an unknown name, or a path that does not contract this network to one tensor.
    """
    # Path finders differ in the labels they take (cotengrust: single characters), so all get the same.
    symbols = {index: oe.get_symbol(position) for position, index in enumerate(sizes)}
    terms = [tuple(symbols[index] for index in term) for term in inputs]
    sets = [frozenset(term) for term in terms]
    kept = tuple(symbols[index] for index in output)
    extents = {symbols[index]: int(size) for index, size in sizes.items()}
    if isinstance(optimizer, str):
        if optimizer in OPT_EINSUM:
            found = OPT_EINSUM[optimizer](sets, frozenset(kept), extents, None)
        elif optimizer in COTENGRA:
            found = COTENGRA[optimizer](seed)(terms, kept, extents)
        else:
            known = ", ".join(sorted({*OPT_EINSUM, *COTENGRA}))
            raise ValueError(
                f"unknown optimizer {optimizer!r}; choose one of {known}, a path or an optimiser object"
            )
    elif callable(optimizer):
        # opt_einsum's interface passes sets; cotengra takes those too, but their order is no seed's to fix
        ordered = type(optimizer).__module__.startswith("cotengra")
        found = (
            optimizer(terms, kept, extents) if ordered else optimizer(sets, frozenset(kept), extents, None)
        )
    else:
        found = optimizer
    path = [tuple(int(position) for position in step) for step in found]
    _check(path, len(terms))
    return path


def _check(path: Path, count: int) -> None:
    left = count
    for number, step in enumerate(path):
        if not step or len(set(step)) < len(step) or min(step) < 0 or max(step) >= left:
            raise ValueError(
                f"step {number} of the path is {step}, but {left} tensors are left at that point"
            )
        left += 1 - len(step)
    if left != 1:
        raise ValueError(f"the path leaves {left} tensors; a path must contract all {count} tensors to one")
