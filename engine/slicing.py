"""Slice a plan to a memory limit at the least extra work.

A sliced index is fixed to one value at a time and looped over: extents are sliced to 1, for those that
matter here are prime. Indices are chosen one by one, by the flops they cost for the memory they save; where
the path may change, the tree is also reconfigured between choices, and annealed under a limit on its largest
tensor. What is tried depends on the limit as little as can be, so that more memory does not cost more flops.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qrt_tn.engine.network import Index, Term
from qrt_tn.engine.paths import Path, annealed
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.refine import Pairs, anneal, reconfigure, reordered, step_flops
from qrt_tn.engine.simplify import Simplified, simplify
from qrt_tn.engine.tree import Tree, contraction_tree, linear_path

State = tuple[Path, Term]  # a path and the slices

MOST_SLICES = 2**32  # nobody can wait for more
BEYOND = 10**250  # elements or flops that may as well be infinite, but are finite as a float
WARNED = 100  # times the flops without slices, from which on a warning is given
MANY = 300  # tensors, beyond which fewer sequences are searched, and reconfigured less often
LARGE = 2500  # tensors, beyond which no tree is annealed
IDLE = 8  # slices that are tried to do without
CANDIDATES = 48  # indices weighed at each choice
SHARP = 8  # exponent of the norm that stands for the peak; the peak alone is blind to the second largest
NEAR = 1.5  # times the flops of the best state, up to which a state may still become the best
POLISHED = 4  # states that are annealed at the end
PARTS = 1000  # parts of the tree that are reconfigured after each choice
CAPS = 2  # sizes, each half the one before, under which the largest intermediate is annealed
HOT, COLD = 1.0, 0.035  # temperatures of an annealing run, in log2 flops
MOVES = 100_000  # of it ...
SWEEPS = 40  # ... and visits to every step at each temperature, at the most


def within(plan: Plan, memory_limit: int, seed: int, *, may_change_path: bool, beside: int = 0) -> Plan:
    """The plan with indices sliced so that it takes at most `memory_limit` bytes.

    Warns where slicing multiplies the work by a hundred or more.

    Args:
        plan: what to slice; slices it already has are dropped.
        memory_limit: bytes, operands included.
        seed: makes the search repeatable.
        may_change_path: whether another path may be taken.
        beside: bytes that something else takes meanwhile, out of the same limit.

    Raises:
        ValueError: the limit cannot be met; the message says the least that would do.
    """
    whole = replace(plan, slices=())
    if whole.peak_bytes + beside <= memory_limit:
        return whole
    found = _Search(whole, memory_limit, beside).run(seed, may_change_path)
    if found.flops >= WARNED * whole.flops:
        factor = found.flops / whole.flops
        warnings.warn(
            f"memory_limit of {memory_limit} bytes multiplies the work by {factor:.3g}: "
            f"{found.slice_count} slices; {whole.peak_bytes + beside} bytes would need none",
            stacklevel=4,
        )
    return found


class _Search:
    """The cheapest plan under a limit, and what was tried for it."""

    def __init__(self, whole: Plan, memory_limit: int, beside: int) -> None:
        self.whole, self.memory_limit, self.beside = whole, memory_limit, beside
        self.inputs, self.output, self.sizes = whole.inputs, whole.output, whole.sizes
        self.itemsize = np.dtype(whole.dtype).itemsize
        self.start: Path = [tuple(step) for step in whole.path]
        self.fitting: dict[int, State] = {}  # by their flops
        self._known: tuple[Path, Tree] | None = None
        held = [self.itemsize * math.prod(self.sizes[index] for index in term) for term in self.inputs]
        self.operands = sum(held)
        if self.operands + beside > memory_limit:
            largest = max(range(len(held)), key=held.__getitem__)
            raise ValueError(
                f"memory_limit of {memory_limit} bytes is below the operands themselves, which take "
                f"{self.operands + beside} bytes; the largest is tensor {largest} with indices "
                f"{self.inputs[largest]} and {held[largest]} bytes"
            )

    def run(self, seed: int, may_change_path: bool) -> Plan:
        # sequences that do not depend on the limit: what one of them reaches, it reaches under any limit
        ends = [(self.start, ()), *self.along(self.sequence(self.start, changing=False))]
        if may_change_path:
            ends += self.along(self.sequence(self.start, changing=True))
            for path in self.others(seed):
                ends += self.along(self.sequence(path, changing=True))
            if 2 < len(self.inputs) <= MANY:
                ends += self.along(self.cotengras(seed))
            for path in self.capped(seed):
                self.along(self.sequence(path, changing=True))
        if not self.fitting:
            least = min((self.plan(*state) for state in ends), key=lambda plan: plan.peak_bytes)
            where = "" if may_change_path else " on this path"
            raise ValueError(
                f"memory_limit of {self.memory_limit} bytes cannot be met{where}; the least that slicing "
                f"reaches is {least.peak_bytes + self.beside} bytes, in {least.slice_count} slices"
            )
        best = [self.without_idle(*self.fitting[flops]) for flops in sorted(self.fitting)[:POLISHED]]
        if may_change_path and len(self.inputs) <= LARGE:
            found = [state for fitting in best for state in self.polished(*fitting, seed)]
            best += [self.without_idle(*state) for state in found]
        return self.plan(*min(best, key=lambda state: self.flops(*state)))

    def plan(self, path: Path, slices: Term) -> Plan:
        return replace(self.whole, path=tuple(path), slices=slices)

    def along(self, sequence: Iterator[State]) -> list[State]:
        """Collect the states of a sequence that fit; returns those that seemed to and the last, if none."""
        state, before, missed = None, len(self.fitting), []
        for state in sequence:
            flops = self.flops(*state)
            if self.fitting and flops > NEAR * min(self.fitting):
                break  # more slices only add flops
            if self.fits(*state):
                self.fitting.setdefault(flops, state)
            elif self.bound(*state) <= self.memory_limit - self.beside:
                missed.append(state)
        return [*missed, state] if state is not None and len(self.fitting) == before else []

    def fits(self, path: Path, slices: Term) -> bool:
        # the bound first: the true peak takes a hundred times as long to know
        limit = self.memory_limit - self.beside
        return self.bound(path, slices) <= limit and self.plan(path, slices).peak_bytes <= limit

    def bound(self, path: Path, slices: Term) -> int:
        """Bytes that any order of the steps takes: the operands, and what one step takes and makes."""
        extents, sizes, most = self.sliced(slices), [0] * len(self.inputs), 0
        for pair in self.tree(path).pairs:
            sizes.append(math.prod(extents[index] for index in pair.term))
            most = max(most, sizes[-1] + sizes[pair.left] + sizes[pair.right])
        return self.operands + self.itemsize * most

    def flops(self, path: Path, slices: Term) -> int:
        """Flops over all slices; what depends on no sliced index is computed once."""
        tree, extents = self.tree(path), self.sliced(slices)
        count = math.prod(self.sizes[index] for index in slices)
        depends = [not set(slices).isdisjoint(term) for term in self.inputs]
        total = 0
        for pair in tree.pairs:
            depends.append(depends[pair.left] or depends[pair.right])
            total += step_flops(pair, extents) * (count if depends[-1] else 1)
        return total

    def tree(self, path: Path) -> Tree:
        if self._known is None or self._known[0] is not path:
            self._known = path, contraction_tree(self.inputs, self.output, path)
        return self._known[1]

    def pairs(self, path: Path) -> Pairs:
        return [(pair.left, pair.right) for pair in self.tree(path).pairs]

    def sliced(self, slices: Term) -> dict[Index, int]:
        return {index: 1 if index in slices else size for index, size in self.sizes.items()}

    def network(self, slices: Term) -> Simplified:
        return simplify(self.inputs, self.output, self.sliced(slices), absorb="none")

    def path(self, network: Simplified, pairs: Pairs) -> Path:
        return list(linear_path(reordered(network, pairs), len(self.inputs)))

    # -- what is tried

    def sequence(self, path: Path, changing: bool) -> Iterator[State]:
        """States with ever more slices, up to `MOST_SLICES`; the path is reconfigured if it is `changing`."""
        slices: Term = ()
        yield path, slices
        while (index := self.choice(path, slices)) is not None:
            slices += (index,)
            if changing and (len(self.inputs) <= MANY or len(slices) % 4 == 1):
                network = self.network(slices)
                path = self.path(network, reconfigure(network, self.pairs(path), rounds=2, calls=PARTS))
            yield path, slices

    def choice(self, path: Path, slices: Term) -> Index | None:
        """The next index to slice: the least growth of the flops for the fall of the peak."""
        pairs, extents = self.tree(path).pairs, self.sliced(slices)
        present = math.prod(self.sizes[index] for index in slices)
        held = [min(math.prod(extents[index] for index in pair.term), BEYOND) for pair in pairs]
        elements = np.array(held, dtype=float)
        weights: Counter[Index] = Counter()
        for pair, weight in zip(pairs, (elements / elements.max(initial=1)) ** 2, strict=True):
            for index in pair.term:
                if 1 < extents[index] <= MOST_SLICES // present:
                    weights[index] += weight
        if not weights:
            return None
        chosen = [index for index, _ in weights.most_common(CANDIDATES)]
        extent = np.array([extents[index] for index in chosen], dtype=float)

        def on(term: Term) -> np.ndarray:
            return np.array([index in term for index in chosen])

        # a row per step, a column per candidate: what the step would cost and hold with it sliced
        costs = np.array([min(step_flops(pair, extents), BEYOND) for pair in pairs], dtype=float)
        sizes = elements[:, None] / np.where([on(pair.term) for pair in pairs], extent, 1)
        flops = costs[:, None] / np.where([on((*pair.term, *pair.summed)) for pair in pairs], extent, 1)
        repeated = [not set(slices).isdisjoint(term) for term in self.inputs]
        depends = [on(term) | repeats for term, repeats in zip(self.inputs, repeated, strict=True)]
        for pair in pairs:
            repeated.append(repeated[pair.left] or repeated[pair.right])
            depends.append(depends[pair.left] | depends[pair.right])
        count = len(self.inputs)
        before = np.where(repeated[count:], present * costs, costs).sum()
        after = np.where(depends[count:], extent * present * flops, flops).sum(axis=0)
        growth = np.log(np.maximum(after / before, 1.0))
        fall = np.log(self.norm(elements[:, None], pairs) / self.norm(sizes, pairs))
        score = (growth + 1e-3) / np.maximum(fall, 1e-6)
        score *= [1.01 if index in self.output else 1.0 for index in chosen]  # summed ones are preferred
        return chosen[int(np.argmin(score))]

    def norm(self, sizes: np.ndarray, pairs: tuple) -> np.ndarray:
        """A smooth stand-in for the most elements that intermediates hold together, for each column."""
        alive, total, top = np.zeros(sizes.shape[1]), np.zeros(sizes.shape[1]), sizes.max()
        count = len(self.inputs)
        for row, pair in zip(sizes, pairs, strict=True):
            alive += row
            total += (alive / top) ** SHARP
            for child in (pair.left, pair.right):
                if child >= count:
                    alive -= sizes[child - count]
        return top * total ** (1 / SHARP)

    def others(self, seed: int) -> list[Path]:
        """Other paths to begin with: the best one without slices is not always the best to slice."""
        if len(self.inputs) > LARGE:
            return []
        network = self.network(())
        return [self.path(network, pairs) for pairs in annealed(network, MOVES, seed + 2)]

    def cotengras(self, seed: int) -> Iterator[State]:
        """The slicing and reconfiguration of cotengra, to ever smaller largest tensors."""
        import cotengra as ctg

        # a character for every index
        names = {index: chr(0x100 + place) for place, index in enumerate(self.sizes)}
        labels = {name: index for index, name in names.items()}
        tree = ctg.ContractionTree.from_path(
            [[names[index] for index in term] for term in self.inputs],
            [names[index] for index in self.output],
            {names[index]: size for index, size in self.sizes.items()},
            path=self.start,
        )
        # without chance: of that only the reconfiguration takes a seed
        options = {"temperature": 0.0, "max_repeats": 1, "reconf_opts": {"seed": seed, "maxiter": 32}}
        target = tree.max_size() / 4
        while target > 4:
            found = tree.slice_and_reconfigure(target, **options)
            path = [tuple(step) for step in found.get_path()]
            yield path, tuple(labels[name] for name in found.sliced_inds)
            target /= 4

    def capped(self, seed: int) -> Iterator[Path]:
        """Paths whose largest intermediate tends to leave enough memory for the others."""
        elements = (self.memory_limit - self.beside - self.operands) // self.itemsize
        network, most = self.network(()), elements.bit_length() - 1
        for cap in range(most - 1, most - 1 - CAPS, -1) if len(self.inputs) <= LARGE else ():
            if cap > 0:
                yield self.path(network, self.annealed(network, self.start, seed, cap))

    def without_idle(self, path: Path, slices: Term) -> State:
        """The state without slices that later ones made unnecessary, of those that save the most flops."""

        def fewer(index: Index) -> Term:
            return tuple(other for other in slices if other != index)

        for index in sorted(slices, key=lambda index: self.flops(path, fewer(index)))[:IDLE]:
            if self.fits(path, fewer(index)):
                return self.without_idle(path, fewer(index))
        return path, slices

    def polished(self, path: Path, slices: Term, seed: int) -> Iterator[State]:
        """Cheaper paths with the same slices, as far as they fit."""
        network, sizes = self.network(slices), self.sliced(slices)
        largest = max(math.prod(sizes[index] for index in pair.term) for pair in self.tree(path).pairs)
        pairs = self.annealed(network, path, seed, math.log2(largest))
        for found in (pairs, reconfigure(network, pairs)):
            other = self.path(network, found)
            if self.flops(other, slices) < self.flops(path, slices) and self.fits(other, slices):
                yield other, slices

    def annealed(self, network: Simplified, path: Path, seed: int, largest: float) -> Pairs:
        sweeps = max(1, min(SWEEPS, round(MOVES / (35 * len(self.inputs)))))
        return anneal(network, self.pairs(path), seed, sweeps, hot=HOT, cold=COLD, largest=largest)
