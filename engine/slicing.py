"""Slices that bring a contraction under a memory limit at the least extra work.

A sliced index is fixed to one value at a time and looped over: extents are sliced to 1, for those that
matter here are prime. Indices are chosen one by one, by the flops they cost for the memory they save; where
the path is ours to change, the tree is also reconfigured between choices, and annealed under a limit on its
largest tensor.
"""

import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from qrt_tn.engine.refine import Pairs, anneal, reconfigure, reordered, step_flops
from qrt_tn.engine.simplify import simplify
from qrt_tn.engine.tree import Tree, contraction_tree, linear_path

Index = Hashable
Term = tuple[Index, ...]
Path = list[tuple[int, ...]]
State = tuple[Path, Term]
Cost = Callable[[Path, Term], tuple[int, int]]

MOST_SLICES = 2**32  # nobody can wait for more
BEYOND = 10**250  # elements or flops that may as well be infinite, but are finite as a float
TRIED = (1, 2, 3, 4, 6, 8, 11, 14, 18, 22, 27, 32)  # places in a sequence of choices
MANY = 300  # tensors, beyond which fewer sequences are searched
LARGE = 2500  # tensors, beyond which no tree is annealed
IDLE = 8  # slices that are tried to do without
CANDIDATES = 48  # indices weighed at each choice
SHARP = 8  # exponent of the norm that stands for the peak; the peak alone is blind to the second largest
REPEATS = 4  # sequences of choices, all but the first with some chance
CHANCE = 0.3  # how much of it, as a share of what a choice costs
PARTS = 1000  # parts of the tree that are reconfigured after each choice
MOVES = 100_000  # of an annealing run ...
SWEEPS = 40  # ... and visits to every step at each temperature, at the most


def slice_to_limit(
    inputs: Sequence[Term],
    output: Term,
    sizes: Mapping[Index, int],
    path: Sequence[Sequence[int]],
    cost: Cost,
    memory_limit: int,
    seed: int = 0,
    may_change_path: bool = True,
    *,
    itemsize: int | None = None,
) -> State:
    """A path and the indices to slice, so that a contraction takes no more than `memory_limit` bytes.

    Args:
        inputs: the indices of every tensor.
        output: the indices of the result; they are sliced too, but of equals a summed index is preferred.
        sizes: the extent of every index.
        path: the path to slice, in opt_einsum's linear format.
        cost: (path, slices) -> (flops over all slices, peak bytes); the flops decide among what fits.
        memory_limit: bytes.
        seed: makes the search repeatable.
        may_change_path: whether another path may be used; a user's own path is kept.
        itemsize: bytes of an element. With it, a limit below the operands is refused at once, and most states
            that do not fit are seen not to without a call of `cost`, whose peak must count the operands whole
            and, at every step, the intermediates that it takes and makes.

    Returns:
        (path, slices); no slices where the path fits as it is.

    Raises:
        ValueError: the operands alone take more, or no slicing meets the limit; the message says the least
            that would do.
    """
    problem = _Problem(inputs, output, sizes, itemsize or 0)
    if problem.operands > memory_limit:
        raise ValueError(problem.operands_message(memory_limit))
    start: Path = [tuple(step) for step in path]
    if cost(start, ())[1] <= memory_limit:
        return start, ()
    search = _Search(problem, cost, memory_limit)
    repeats = REPEATS if len(inputs) <= MANY else 2
    # These sequences do not depend on the limit: what one of them reaches it reaches under every limit.
    for repeat in range(1 if may_change_path else repeats):
        search.along(problem.sequence(start, (seed, repeat), False))
    if may_change_path:
        for repeat in range(repeats - 1):
            search.along(problem.sequence(start, (seed, repeat), True))
        room = (memory_limit - problem.operands) // (itemsize or 16)
        for capped in problem.capped(start, room, seed):
            search.along(
                itertools.chain([(capped, ())], problem.sequence(capped, (seed, 0), True)), certain=False
            )
    if search.best is None:
        least, slices = search.least((start, ()))
        where = "" if may_change_path else " on this path"
        raise ValueError(
            f"memory_limit of {memory_limit} bytes cannot be met{where}; "
            f"the least that slicing reaches is {least} bytes, in {problem.slice_count(slices)} slices"
        )
    fitting = search.without_idle(search.best)
    return problem.polished(fitting, cost, memory_limit, seed) if may_change_path else fitting


class _Search:
    """The cheapest state that fits, and what was tried for it.

    The true cost of a state takes long to know, so only some states of a sequence are tried (`TRIED`), the
    same ones under every limit.
    """

    def __init__(self, problem: "_Problem", cost: Cost, memory_limit: int) -> None:
        self.problem, self.cost, self.memory_limit = problem, cost, memory_limit
        self.best: State | None = None
        self.peaks: list[tuple[int, State]] = []  # of states that do not fit
        self.passed: list[State] = []  # by their bound, before any true peak was known

    def fits(self, state: State) -> bool:
        return self.problem.bound(*state) <= self.memory_limit and self.cost(*state)[1] <= self.memory_limit

    def along(self, sequence: Iterable[State], certain: bool = True) -> None:
        """Try the states of a sequence until one fits, then the ones passed over just before it.

        Args:
            sequence: states with ever more slices.
            certain: whether the sequence is the same under every limit.
        """
        since: list[State] = []
        for number, state in enumerate(sequence, 1):
            if self.best is not None and self.problem.flops(*state) >= self.problem.flops(*self.best):
                return  # more slices only add flops
            since.append(state)
            if number not in TRIED:
                continue
            if self.problem.bound(*state) > self.memory_limit:
                self.passed += [state] if certain else []
            else:
                peak = self.cost(*state)[1]
                if peak <= self.memory_limit:
                    self.best = next((earlier for earlier in since[:-1] if self.fits(earlier)), state)
                    return
                self.peaks += [(peak, state)] if certain else []
            since = []

    def least(self, start: State) -> tuple[int, Term]:
        """The smallest peak among all that was tried, and its slices."""
        found = [*self.peaks, *((self.cost(*state)[1], state) for state in [start, *self.passed])]
        peak, state = min(found, key=lambda one: (one[0], len(one[1][1])))
        return peak, state[1]

    def without_idle(self, state: State) -> State:
        """The state without slices that later ones made unnecessary, of those that save the most flops."""
        path, slices = state

        def fewer(index: Index) -> Term:
            return tuple(other for other in slices if other != index)

        for index in sorted(slices, key=lambda index: self.problem.flops(path, fewer(index)))[:IDLE]:
            if self.fits((path, fewer(index))):
                slices = fewer(index)
        return path, slices


class _Problem:
    """One network, and the ways to slice it."""

    def __init__(
        self, inputs: Sequence[Term], output: Term, sizes: Mapping[Index, int], itemsize: int
    ) -> None:
        self.inputs, self.output, self.sizes, self.itemsize = inputs, output, sizes, itemsize
        self.outer = frozenset(output)
        self.held = [itemsize * math.prod(sizes[index] for index in term) for term in inputs]
        self.operands = sum(self.held)  # bytes
        self._known: tuple[Path, Tree] | None = None

    def operands_message(self, memory_limit: int) -> str:
        """What to say where the operands alone are over the limit."""
        largest = max(range(len(self.held)), key=self.held.__getitem__)
        return (
            f"memory_limit of {memory_limit} bytes is below the operands themselves, which take "
            f"{self.operands} bytes; the largest is tensor {largest} with indices {self.inputs[largest]} and "
            f"{self.held[largest]} bytes"
        )

    def slice_count(self, slices: Term) -> int:
        return math.prod(self.sizes[index] for index in slices)

    def tree(self, path: Path) -> Tree:
        if self._known is None or self._known[0] is not path:
            self._known = path, contraction_tree(self.inputs, self.output, path)
        return self._known[1]

    def sliced(self, slices: Term) -> dict[Index, int]:
        return {index: 1 if index in slices else size for index, size in self.sizes.items()}

    def flops(self, path: Path, slices: Term) -> int:
        """Flops over all slices; what depends on no sliced index is computed once."""
        tree, fixed, extents = self.tree(path), set(slices), self.sliced(slices)
        depends = [not fixed.isdisjoint(term) for term in self.inputs]
        once = each = 0
        for pair in tree.pairs:
            depends.append(depends[pair.left] or depends[pair.right])
            if depends[-1]:
                each += step_flops(pair, extents)
            else:
                once += step_flops(pair, extents)
        return once + each * self.slice_count(slices)

    def bound(self, path: Path, slices: Term) -> int:
        """Bytes that any order of the steps takes: the operands, and what one step takes and makes."""
        extents, count = self.sliced(slices), len(self.inputs)
        sizes, most = [0] * count, 0
        for pair in self.tree(path).pairs:
            sizes.append(math.prod(extents[index] for index in pair.term))
            most = max(most, sizes[-1] + sizes[pair.left] + sizes[pair.right])
        return self.operands + self.itemsize * most

    def sequence(self, path: Path, seed: tuple[int, int], changing: bool) -> Iterator[State]:
        """Ever more slices, up to `MOST_SLICES`.

        Args:
            path: the path to begin with.
            seed: of the choices and their repeat; repeat 0 takes the best choice each time.
            changing: whether the path is reconfigured after a choice: after each, or in a large network after
                those whose state is tried.
        """
        number, repeat = seed
        rng = random.Random(1000 * number + repeat)
        slices: Term = ()
        while True:
            chosen = self.choose(path, slices, rng if repeat else None)
            if chosen is None:
                return
            slices += chosen
            if changing and (len(slices) in TRIED or len(self.inputs) <= MANY):
                path = self.reconfigured(path, slices, PARTS)
            yield path, slices

    def choose(self, path: Path, slices: Term, rng: random.Random | None) -> Term | None:
        """The next index to slice: the least growth of the flops for the fall of the peak."""
        tree, extents, present = self.tree(path), self.sliced(slices), self.slice_count(slices)
        count = len(tree.leaves)
        terms = [pair.term for pair in tree.pairs]
        elements = np.array(
            [min(math.prod(extents[index] for index in term), BEYOND) for term in terms], dtype=float
        )
        if not len(elements):
            return None
        weight: dict[Index, float] = {}
        for term, held in zip(terms, elements, strict=True):
            for index in term:
                if 1 < extents[index] <= MOST_SLICES // present:
                    weight[index] = weight.get(index, 0.0) + (held / elements.max()) ** 2
        if not weight:
            return None
        ordered = sorted(weight, key=lambda index: -weight[index])[:CANDIDATES]
        place = {index: column for column, index in enumerate(ordered)}
        extent = np.array([extents[index] for index in ordered], dtype=float)
        # a row per step, a column per candidate: what the step would cost and hold with it sliced
        costs = np.array([min(step_flops(pair, extents), BEYOND) for pair in tree.pairs], dtype=float)
        cost = np.repeat(costs[:, None], len(ordered), axis=1)
        size = np.repeat(elements[:, None], len(ordered), axis=1)
        fixed = set(slices)
        whole = [not fixed.isdisjoint(term) for term in self.inputs]  # repeated for the present slices
        columns = [sum(1 << place[index] for index in set(term) if index in place) for term in self.inputs]
        depends = np.zeros(cost.shape, dtype=bool)
        for row, (pair, term) in enumerate(zip(tree.pairs, terms, strict=True)):
            held = [place[index] for index in term if index in place]
            gone = [place[index] for index in pair.summed if index in place]
            size[row, held] /= extent[held]
            cost[row, held + gone] /= extent[held + gone]
            whole.append(whole[pair.left] or whole[pair.right])
            columns.append(columns[pair.left] | columns[pair.right])
            depends[row] = whole[-1]
            if not whole[-1]:
                mask, members = columns[-1], []
                while mask:
                    members.append((mask & -mask).bit_length() - 1)
                    mask &= mask - 1
                depends[row, members] = True
        repeated = np.array(whole[count:])
        before = costs[~repeated].sum() + present * costs[repeated].sum()
        after = np.where(depends, cost * extent * present, cost).sum(axis=0)
        growth = np.log(np.maximum(after / before, 1.0))
        fall = np.log(_norm(elements[:, None], tree) / _norm(size, tree))
        score = (growth + 1e-3) / np.maximum(fall, 1e-6)
        score *= [1.01 if index in self.outer else 1.0 for index in ordered]
        if rng is not None:
            score *= [1 + CHANCE * rng.expovariate(1.0) for _ in ordered]
        return (ordered[int(np.argmin(score))],)

    def pairs(self, path: Path) -> Pairs:
        return [(pair.left, pair.right) for pair in self.tree(path).pairs]

    def reconfigured(self, path: Path, slices: Term, calls: int) -> Path:
        network = simplify(self.inputs, self.output, self.sliced(slices), absorb="none")
        pairs = reconfigure(network, self.pairs(path), rounds=2, calls=calls)
        return list(linear_path(reordered(network, pairs), len(self.inputs)))

    def capped(self, path: Path, room: int, seed: int) -> Iterator[Path]:
        """Paths whose largest intermediate tends to leave enough room for the others."""
        network = simplify(self.inputs, self.output, self.sizes, absorb="none")
        for share in (2, 4) if len(self.inputs) <= LARGE else ():
            if room >= share:
                pairs = anneal(
                    network, self.pairs(path), seed, self.sweeps(), largest=math.log2(room / share)
                )
                yield list(linear_path(reordered(network, pairs), len(self.inputs)))

    def polished(self, state: State, cost: Cost, memory_limit: int, seed: int) -> State:
        """A cheaper path with the same slices, if one is found that fits."""
        path, slices = state
        if len(self.inputs) > LARGE:
            return state
        least = cost(path, slices)[0]
        extents = self.sliced(slices)
        network = simplify(self.inputs, self.output, extents, absorb="none")
        largest = max(math.prod(extents[index] for index in pair.term) for pair in self.tree(path).pairs)
        for hot in (0.3, 1.0):
            pairs = anneal(
                network, self.pairs(path), seed, self.sweeps(), hot=hot, largest=math.log2(largest)
            )
            for found in (pairs, reconfigure(network, pairs)):
                other: Path = list(linear_path(reordered(network, found), len(self.inputs)))
                flops, peak = cost(other, slices)
                if flops < least and peak <= memory_limit:
                    least, state = flops, (other, slices)
        return state

    def sweeps(self) -> int:
        return max(1, min(SWEEPS, round(MOVES / (35 * len(self.inputs)))))


def _norm(size: np.ndarray, tree: Tree) -> np.ndarray:
    """A smooth stand-in for the most elements that intermediates hold together, for each column."""
    count = len(tree.leaves)
    alive = np.zeros(size.shape[1])
    top = size.max()
    total = np.zeros(size.shape[1])
    for step, pair in enumerate(tree.pairs):
        alive += size[step]
        total += (alive / top) ** SHARP
        for child in (pair.left, pair.right):
            if child >= count:
                alive -= size[child - count]
    return top * total ** (1 / SHARP)
