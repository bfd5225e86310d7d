"""Better contraction trees from a given one: annealing, exact reconfiguration of small parts, order.

All searches count their effort in moves or in subtrees, never in seconds, so that a seed gives the same
tree on every machine. Trees come and go as SSA pairs over the tensors of a `Simplified` network.

The cost of a step is log2 of its flops as opt_einsum counts them: the product of the extents of all indices
of the two tensors, twice if any index is summed.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import cotengrust

from qrt_tn.engine.simplify import Index, Simplified
from qrt_tn.engine.tree import Pair, contraction_tree, linear_path

Pairs = list[tuple[int, int]]

TEMPERATURES = 50  # steps of the annealing schedule
HOT, COLD = 2.0, 0.3  # its first and last temperature, in log2 flops; reconfiguration does what is left
SUBTREE = 8  # leaves of the parts that are reconfigured exactly
ROUNDS = 20  # passes of reconfiguration over a whole tree


def step_flops(pair: Pair, sizes: Mapping[Index, int]) -> int:
    """Flops of one step as opt_einsum counts them: a multiply and an add are two."""
    held = math.prod(sizes[index] for index in (*pair.term, *pair.summed))
    return 2 * held if pair.summed else held


def cost(network: Simplified, pairs: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """What trees are ranked by: flops, elements of the largest intermediate, most elements of them alive.

    Args:
        network: the tensors.
        pairs: SSA pairs that contract all of them.
    """
    count = len(network.terms)
    found = contraction_tree(network.terms, network.output, linear_path(pairs, count))
    sizes = [0] * count
    flops = alive = peak = 0
    for pair in found.pairs:
        flops += step_flops(pair, network.sizes)
        sizes.append(math.prod(network.sizes[index] for index in pair.term))
        alive += sizes[-1]
        peak = max(peak, alive)
        alive -= sizes[pair.left] + sizes[pair.right]
    return flops, max(sizes), peak


class _Numbered:
    """The network with its indices as numbers."""

    def __init__(self, network: Simplified) -> None:
        number = {index: place for place, index in enumerate(network.sizes)}
        self.terms = [[number[index] for index in term] for term in network.terms]
        self.output = [number[index] for index in network.output]
        self.extents = list(network.sizes.values())
        self.logs = [math.log2(extent) for extent in self.extents]


def _children(pairs: Sequence[tuple[int, int]], count: int) -> tuple[list[int], list[int]]:
    return [-1] * count + [left for left, _ in pairs], [-1] * count + [right for _, right in pairs]


def _ssa(left: Sequence[int], right: Sequence[int], count: int) -> Pairs:
    """The tree below the last node as SSA pairs, children before their parents."""
    order, stack = [], [len(left) - 1]
    while stack:
        node = stack.pop()
        if node >= count:
            order.append(node)
            stack += (left[node], right[node])
    order.reverse()
    number = {node: count + place for place, node in enumerate(order)}
    return [(number.get(left[node], left[node]), number.get(right[node], right[node])) for node in order]


def _log_total(costs: Iterable[float]) -> float:
    """log2 of the sum of 2**cost."""
    costs = list(costs)
    top = max(costs, default=0.0)
    return top + math.log2(math.fsum(2.0 ** (value - top) for value in costs)) if costs else -math.inf


def anneal(
    network: Simplified,
    pairs: Sequence[tuple[int, int]],
    seed: int,
    sweeps: int,
    *,
    hot: float = HOT,
    cold: float = COLD,
    largest: float | None = None,
) -> Pairs:
    """Simulated annealing of a contraction tree by local rotations.

    A move takes a step (A B) C and makes it (A C) B or (B C) A; it is accepted by the Metropolis rule on the
    change of log2 flops of the two steps it touches (Kalachev, Panteleev, Yung, arXiv:2108.05665). The
    indices of the new inner tensor follow from its four neighbours alone: those of A or C that B or the
    parent also holds. Each tensor's indices are one integer, a bit per index, so a move takes about two
    microseconds, but longer on thousands of indices.

    Args:
        network: the tensors.
        pairs: SSA pairs of the tree to start from.
        seed: of the moves.
        sweeps: visits to every step at each of the temperatures; the effort is proportional to it.
        hot: the first temperature, in units of log2 flops; a low one keeps what is good in the tree.
        cold: the last temperature.
        largest: log2 elements that intermediates should not exceed; every excess adds to the cost.

    Returns:
        SSA pairs of the best tree seen at the end of any temperature; never worse than `pairs`.
    """
    count = len(network.terms)
    if count < 3:
        return [(first, second) for first, second in pairs]
    tree = _Annealed(network, pairs, math.inf if largest is None else largest)
    draw = random.Random(seed).random
    best, kept = tree.score(), (tree.left[:], tree.right[:])
    for step in range(TEMPERATURES):
        temperature = hot * (cold / hot) ** (step / (TEMPERATURES - 1))
        for _ in range(sweeps):
            tree.sweep(temperature, draw)
        score = tree.score()
        if score < best:
            best, kept = score, (tree.left[:], tree.right[:])
    return _ssa(*kept, count)


class _Annealed:
    """A tree whose tensors are bit masks; the last node is the root."""

    def __init__(self, network: Simplified, pairs: Sequence[tuple[int, int]], largest: float) -> None:
        numbered = _Numbered(network)
        self.count = len(network.terms)
        self.left, self.right = _children(pairs, self.count)
        classes: dict[float, int] = {}
        for place, log in enumerate(numbered.logs):
            classes[log] = classes.get(log, 0) | 1 << place
        self.classes = [(mask, log) for log, mask in classes.items()]
        self.largest = largest
        self.masks = [sum(1 << place for place in term) for term in numbered.terms]
        legs = _legs([frozenset(term) for term in numbered.terms], numbered.output, pairs)
        self.masks += [sum(1 << place for place in term) for term in legs[self.count :]]
        self.costs = [0.0] * self.count
        for node in range(self.count, len(self.masks)):
            both = self.masks[self.left[node]] | self.masks[self.right[node]]
            self.costs.append(self.size(both) + (both != self.masks[node]))

    def size(self, mask: int) -> float:
        """log2 of the elements of a tensor."""
        total = 0.0
        for members, log in self.classes:
            total += (mask & members).bit_count() * log
        return total

    def score(self) -> float:
        total = _log_total(self.costs[self.count :])
        if self.largest == math.inf:
            return total
        # a tree under the limit always beats one that is not
        return total + 1e3 * sum(
            max(0.0, self.size(mask) - self.largest) for mask in self.masks[self.count : -1]
        )

    def sweep(self, temperature: float, draw: Callable[[], float]) -> None:
        """Offer every step one move, from the root down."""
        count, left, right = self.count, self.left, self.right
        masks, costs, size, largest = self.masks, self.costs, self.size, self.largest
        exp, log = math.exp, math.log2
        stack = [len(left) - 1]
        while stack:
            node = stack.pop()
            inner, outer = left[node], right[node]
            if inner < count:
                if outer < count:
                    continue
                inner, outer = outer, inner
            elif outer >= count and draw() < 0.5:
                inner, outer = outer, inner
            near, far = left[inner], right[inner]
            if draw() < 0.5:
                near, far = far, near
            # (near far) outer -> (near outer) far
            both = masks[near] | masks[outer]
            made = both & (masks[far] | masks[node])
            first = size(both) + (both != made)
            both = made | masks[far]
            second = size(both) + (both != masks[node])
            old_first, old_second = costs[inner], costs[node]
            high = first if first > second else second
            old = old_first if old_first > old_second else old_second
            change = high - old
            if change < 2:
                change += log(1 + 2.0 ** (first + second - 2 * high))
                change -= log(1 + 2.0 ** (old_first + old_second - 2 * old))
            if largest < high:
                change += max(0.0, size(made) - largest) - max(0.0, size(masks[inner]) - largest)
            if change <= 0 or draw() < exp(-change / temperature):
                left[inner], right[inner], masks[inner], costs[inner] = near, outer, made, first
                left[node], right[node], costs[node] = inner, far, second
            for child in (left[node], right[node]):
                if child >= count:
                    stack.append(child)


def _legs(
    terms: Sequence[frozenset[int]], output: Iterable[int], pairs: Sequence[tuple[int, int]]
) -> list[frozenset[int]]:
    """The indices of every tensor of a tree, the network's own first."""
    uses = Counter(index for term in terms for index in term)
    uses.update(output)
    legs = list(terms)
    for left, right in pairs:
        shared = legs[left] & legs[right]
        gone = [index for index in shared if uses[index] == 2]
        for index in shared:
            uses[index] -= 1
        legs.append((legs[left] | legs[right]).difference(gone))
    return legs


def reconfigure(
    network: Simplified,
    pairs: Sequence[tuple[int, int]],
    *,
    leaves: int = SUBTREE,
    rounds: int = ROUNDS,
    calls: int | None = None,
) -> Pairs:
    """Replace small parts of a tree by the best contraction of their leaves, until none improves.

    Every step in turn, the most expensive first, is the root of a part with up to `leaves` leaves; dynamic
    programming finds the part's best contraction (without outer products).

    Args:
        network: the tensors.
        pairs: SSA pairs of the tree to start from.
        leaves: leaves of a part; the time is exponential in it.
        rounds: passes over the tree.
        calls: parts to look at, at the most.

    Returns:
        SSA pairs of a tree with no more flops than `pairs`.
    """
    count = len(network.terms)
    if count < 3:
        return [(first, second) for first, second in pairs]
    tree = _Reconfigured(network, pairs)
    done: set[frozenset[tuple[int, frozenset[int]]]] = set()
    for _ in range(rounds):
        improved = False
        for node in sorted(range(count, len(tree.left)), key=lambda node: -tree.costs[node]):
            below, inside = tree.part(node, leaves)
            if len(below) < 3:
                continue
            key = frozenset((leaf, tree.legs[leaf]) for leaf in below)
            if key in done:
                continue
            if len(done) == calls:
                return _ssa(tree.left, tree.right, count)
            done.add(key)
            improved |= tree.improve(node, below, inside)
        if not improved:
            break
    return _ssa(tree.left, tree.right, count)


class _Reconfigured:
    """A tree whose tensors are sets of numbers, so that thousands of indices cost nothing; root last."""

    def __init__(self, network: Simplified, pairs: Sequence[tuple[int, int]]) -> None:
        self.count = len(network.terms)
        numbered = _Numbered(network)
        self.extents, self.logs = numbered.extents, numbered.logs
        self.left, self.right = _children(pairs, self.count)
        self.legs = _legs([frozenset(term) for term in numbered.terms], numbered.output, pairs)
        self.costs = [0.0] * self.count
        for left, right in pairs:
            made = self.legs[len(self.costs)]
            self.costs.append(self.cost(self.legs[left] | self.legs[right], made))

    def cost(self, both: frozenset[int], made: frozenset[int]) -> float:
        return sum([self.logs[index] for index in sorted(both)]) + (len(both) > len(made))

    def part(self, node: int, leaves: int) -> tuple[list[int], list[int]]:
        """The top of the tree below a node: its lower ends, and the steps inside with the node last."""
        below, inside = [self.left[node], self.right[node]], [node]
        place = 0
        while place < len(below) < leaves:
            at = below[place]
            if at < self.count:
                place += 1
            else:
                inside.append(at)
                below[place : place + 1] = []
                below += (self.left[at], self.right[at])
        inside.reverse()
        return below, inside

    def improve(self, node: int, below: list[int], inside: list[int]) -> bool:
        """Put the best contraction of these tensors in the place of this part, if it is better."""
        terms = [self.legs[leaf] for leaf in below]
        # cotengrust takes single characters
        names = {index: chr(97 + place) for place, index in enumerate(sorted(frozenset().union(*terms)))}
        shift = min(self.costs[step] for step in inside)
        old = math.fsum(2.0 ** min(1000.0, self.costs[step] - shift) for step in inside)
        found = cotengrust.optimize_optimal(
            [[names[index] for index in sorted(term)] for term in terms],
            [names[index] for index in sorted(self.legs[node])],
            {name: float(self.extents[index]) for index, name in names.items()},
            minimize="flops",
            cost_cap=2.0 ** min(1000.0, _log_total(self.costs[step] for step in inside)),
            simplify=False,
            use_ssa=True,
        )
        pairs = [(step[0], step[1]) for step in found if len(step) == 2]
        if len(pairs) < len(inside):
            return False
        legs, costs, live = [*terms], [], dict(enumerate(terms))
        for left, right in pairs:
            del live[left], live[right]
            both = legs[left] | legs[right]
            made = both & self.legs[node].union(*live.values())
            live[len(legs)] = made
            legs.append(made)
            costs.append(self.cost(both, made))
        if math.fsum(2.0 ** min(1000.0, cost - shift) for cost in costs) >= old * (1 - 1e-9):
            return False
        nodes = [*below, *inside]
        for step, (left, right) in enumerate(pairs):
            at = inside[step]
            self.left[at], self.right[at] = nodes[left], nodes[right]
            self.legs[at], self.costs[at] = legs[len(below) + step], costs[step]
        return True


def reordered(network: Simplified, pairs: Sequence[tuple[int, int]]) -> Pairs:
    """The same tree with its steps in the order that keeps the fewest intermediate elements alive.

    Of the two parts below a step, the one with the larger (peak - size of its result) goes first: while the
    second part runs, only the first one's result is kept. The network's own tensors do not count; they are
    there whatever the order.

    Args:
        network: the tensors.
        pairs: SSA pairs of the tree.
    """
    count = len(network.terms)
    found = contraction_tree(network.terms, network.output, linear_path(pairs, count))
    terms = found.terms()
    sizes = [0] * count + [math.prod(network.sizes[index] for index in term) for term in terms[count:]]
    peaks = [0] * count
    children: list[tuple[int, int]] = []
    for node, (left, right) in enumerate(pairs, count):
        first, second = sorted((left, right), key=lambda child: (sizes[child] - peaks[child], child))
        children.append((first, second))
        peaks.append(
            max(peaks[first], sizes[first] + peaks[second], sizes[first] + sizes[second] + sizes[node])
        )
    # the last child on the stack is the first one back in the reversed order
    order, stack = [], [count + len(pairs) - 1] if pairs else []
    while stack:
        node = stack.pop()
        if node >= count:
            order.append(node)
            stack += children[node - count]
    order.reverse()
    number = {node: count + place for place, node in enumerate(order)}
    chosen = (pairs[node - count] for node in order)
    return [(number.get(left, left), number.get(right, right)) for left, right in chosen]
