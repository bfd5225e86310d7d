"""Exact draws of named indices of a closed network whose values with these indices open are probabilities."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qrt_tn.engine.arguments import check_whole
from qrt_tn.engine.backends import array_module, device_memory, namespace, to_host
from qrt_tn.engine.batched import batch_bytes
from qrt_tn.engine.conditionals.marginals import ContractionCache, find_marginals, send_messages
from qrt_tn.engine.conditionals.reroot import reroot_at_end
from qrt_tn.engine.conditionals.schedule import Contract, Draw, Pick, write_schedule
from qrt_tn.engine.cost import repeated_flops
from qrt_tn.engine.drawing import draw
from qrt_tn.engine.expression import Expression
from qrt_tn.engine.network import Index, Term, common_dtype, read_structure
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan, bytes_text
from qrt_tn.engine.progress import shown
from qrt_tn.engine.tree import Path, contraction_tree, linear_path


class Needs(NamedTuple):
    """What drawing takes.

    Attributes:
        multiply_adds: of the arrays' numbers (a complex one is four real ones).
        moved: bytes that picks, draws and results of products read and write.
        memory: bytes taken at the worst moment.
    """

    multiply_adds: float
    moved: float
    memory: float


class Sampler:
    """Draws variables of a closed network, all samples of a batch at once.

    The network's sum over all other indices must be real and non-negative for all values of the variables, up
    to a common factor: then it is, up to norm, the probability of these values. Any network <f|f> is of this
    kind, with the indices that ket and bra share as variables. `engine.conditionals.schedule` describes the
    algorithm; messages are contracted here, once.

    Args:
        inputs: the indices of every tensor; an index may be on any number of them.
        sizes: the extent of every index.
        arrays: one for each tensor, NumPy's or CuPy's; draws run where they live.
        variables: the indices to draw.
        path: a linear path; left out, `qrt_tn.engine.paths.find_path` looks for one.
        memory_limit: bytes for messages and for a batch; left out, what is free.

    Attributes:
        log_total: the log of the network's sum over all indices; -inf where that is not positive (it is then
            zero, or lost in rounding), and nothing can be drawn.
        tree: the contraction tree, with its root at one of its ends.

    Raises:
        ValueError: a malformed network, a variable that no tensor holds, arrays that do not fit, or messages
            that need more than the memory limit.

    Example:
        >>> import numpy as np
        >>> from qrt_tn.engine.conditionals import Sampler
        >>> f = np.array([[1.0, 0.0], [0.0, 2.0]])  # |f|^2 is 1/5 at (0, 0) and 4/5 at (1, 1)
        >>> sampler = Sampler([("u", "v"), ("u", "v")], {"u": 2, "v": 2}, [f, f], ["u", "v"])
        >>> values, log_probability = sampler.sample(1000, np.random.default_rng(0))
        >>> sorted(set(map(tuple, values.tolist())))
        [(0, 0), (1, 1)]
    """

    def __init__(
        self,
        inputs: Sequence[Term],
        sizes: Mapping[Index, int],
        arrays: Sequence[Any],
        variables: Sequence[Index],
        *,
        path: Path | None = None,
        memory_limit: int | None = None,
    ) -> None:
        terms, _, self._sizes = read_structure((inputs, (), sizes))
        self.variables = tuple(variables)
        if not self.variables or len(set(self.variables)) < len(self.variables):
            raise ValueError(f"variables are {self.variables!r}; name at least one, and each once")
        for variable in self.variables:
            if variable not in self._sizes:
                raise ValueError(f"variable {variable!r} is on no tensor of the network")
        if len(arrays) != len(terms):
            raise ValueError(f"got {len(arrays)} arrays for {len(terms)} tensors")
        if memory_limit is not None:
            check_whole("memory_limit", memory_limit)
        self._limit = memory_limit
        self._dtype = np.dtype(common_dtype([array.dtype for array in arrays]))
        self._cache = self._empty_cache(array_module(arrays[0]))
        if path is None:
            path = find_path(terms, (), self._sizes)
        pairs = [(pair.left, pair.right) for pair in contraction_tree(terms, (), path).pairs]
        path = linear_path(reroot_at_end(pairs, len(terms)), len(terms))
        self.tree = contraction_tree(terms, (), path or [(0,)])
        drawn = frozenset(self.variables)
        opened = [
            tuple(index for index in dict.fromkeys(term) if index in drawn or index in outer)
            for term, outer in zip(terms, self.tree.leaves, strict=True)
        ]
        self._schedule = write_schedule(self.tree, opened, drawn)
        # all arrays are held at once, beside the operands of the largest product, which it may copy
        made = [*self._schedule.given, *(step.made for step in self._schedule.fixed)]
        extents = [self._extent(term) for term in self.tree.terms()]
        copies = max((extents[pair.left] + extents[pair.right] for pair in self.tree.pairs), default=0)
        elements = sum(self._extent(factor.term) for factor in made) + copies
        self._check_fits("summing this network", elements * self._dtype.itemsize)
        self.log_total, self._arrays = self._contract_messages(terms, arrays)
        self._marginals: list[np.ndarray] | None = None
        self._bound: tuple[int, list[Expression | None]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # expressions hold what belongs to this process
        return {**self.__dict__, "_bound": None}

    def to(self, backend: str) -> "Sampler":
        """A copy whose arrays live on a backend, where it draws."""
        xp = namespace(backend)
        if xp is self._xp:
            return self
        moved = copy.copy(self)
        moved._cache = self._empty_cache(xp)
        unique = {id(array): xp.asarray(to_host(array)) for array in self._arrays.values()}
        moved._arrays = {slot: unique[id(array)] for slot, array in self._arrays.items()}
        return moved

    def sample(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw all variables, `count` times over.

        Args:
            count: the number of samples N.
            rng: draws N * K uniforms on the host, so that a seed means the same samples on every device.

        Returns:
            (values, log_probability): int64 of shape (N, K), the columns in the order of the variables, and
            the log of each row's probability, float64 of shape (N,).

        Raises:
            ValueError: no positive count, a network whose sum is not positive, or not even one sample fits in
                memory.
            FloatingPointError: a row whose probability was lost in rounding.
        """
        check_whole("count", count)
        self._check_total()
        size = self._bind(count)
        values = np.empty((count, len(self.variables)), dtype=np.int64)
        log_probability = np.empty(count)
        total = math.ceil(count / size) * len(self._schedule.steps)
        with shown(None, total, "steps of drawing") as tell:
            steps = iter(range(1, total + 1))
            for start in range(0, count, size):
                taken = min(size, count - start)
                uniforms = np.full((size, len(self.variables)), 0.5)  # a short last batch is filled up
                uniforms[:taken] = rng.random((taken, len(self.variables)))
                drawn, logs = self._draw_batch(uniforms, lambda: tell(next(steps), total))
                values[start : start + taken] = drawn[:taken]
                log_probability[start : start + taken] = logs[:taken]
        return values, log_probability

    def marginals(self) -> list[np.ndarray]:
        """The probabilities of every variable alone, float64, in the order of the variables.

        Raises:
            ValueError: the network's sum is not positive.
        """
        self._check_total()
        if self._marginals is None:
            given = self._schedule.given
            opened = [factor.term for factor in given[: len(self.tree.leaves)]]
            arrays = [self._arrays[factor.slot] for factor in given]
            found = find_marginals(self.tree, opened, arrays, set(self.variables), self._cache)
            rows = [_probabilities(found[variable][None], 1, self._xp)[0][0] for variable in self.variables]
            self._marginals = [to_host(row / row.sum()) for row in rows]
        return self._marginals

    def needs(self, count: int) -> Needs:
        """What drawing `count` samples takes, beside what is held all the time."""
        check_whole("count", count)
        size, _, batch = self._fitted(count)
        batches = math.ceil(count / size)
        results = 8 * count * (len(self.variables) + 1)
        return Needs(batch.multiply_adds * batches, batch.moved * batches, batch.memory + results)

    @property
    def held_bytes(self) -> int:
        """Bytes of the operands and messages, which are held all the time."""
        return sum(array.nbytes for array in {id(array): array for array in self._arrays.values()}.values())

    @property
    def _xp(self) -> Any:
        return array_module(self._arrays[0])  # no module is held: a sampler can be pickled

    def _empty_cache(self, xp: Any) -> ContractionCache:
        return ContractionCache(self._sizes, "numpy" if xp is np else "cupy", self._dtype.name)

    def _extent(self, term: Term) -> int:
        return math.prod([self._sizes[index] for index in term])

    def _check_total(self) -> None:
        if self.log_total == -np.inf:
            raise ValueError("the network's sum is zero or lost in rounding; there is nothing to draw from")

    def _check_fits(self, what: str, needed: float) -> None:
        limit = device_memory(self._cache.backend)[1] if self._limit is None else self._limit
        if limit is not None and needed > limit:
            raise ValueError(
                f"{what} takes {bytes_text(needed)}, more than the {bytes_text(limit)} there are; make the "
                "network's bonds smaller, or give more memory"
            )

    def _contract_messages(
        self, terms: Sequence[Term], arrays: Sequence[Any]
    ) -> tuple[float, dict[int, Any]]:
        """(the log of the total, the arrays that no draw changes, by slot and each at its own scale)."""
        xp, given = array_module(arrays[0]), self._schedule.given
        operands = (xp.asarray(array, dtype=self._dtype) for array in arrays)
        opened = [factor.term for factor in given[: len(terms)]]
        made: dict[int, Any] = {}
        exponent = 0
        with shown(None, len(given), "messages") as tell:
            messages = send_messages(self.tree, terms, opened, operands, self._cache)
            for factor, (mantissa, taken) in zip(given, messages, strict=True):
                made[factor.slot] = mantissa
                exponent += taken
                tell(len(made), len(given))
        total = complex(to_host(made[given[-1].slot]))
        for step in self._schedule.fixed:
            parts = [factor.term for factor in step.factors]
            held = [made[factor.slot] for factor in step.factors]
            made[step.made.slot] = self._cache.contract(parts, step.made.term, held)[0]
        # a sum that cancels keeps no phase
        sound = total.real > 0 and abs(total.imag) < total.real
        return math.log(total.real) + exponent * math.log(2.0) if sound else -math.inf, made

    # -- batches

    def _estimate(self, size: int) -> tuple[list[Plan | None], Needs]:
        """(what each step contracts, what drawing takes) for one batch of this size."""
        itemsize = self._dtype.itemsize
        plans: list[Plan | None] = []
        alive: dict[int, int] = {}
        peak = kept = 0
        products = moved = 0.0
        for step, freed in zip(self._schedule.steps, self._schedule.freed, strict=True):
            plan = None
            if isinstance(step, Draw):
                beside = size * 8 * 4 * self._sizes[step.variable]
                moved += beside
            else:
                beside = 0
                if isinstance(step, Contract):
                    varying = [place for place, factor in enumerate(step.factors) if factor.varies]
                    terms = [factor.term for factor in step.factors]
                    plan = self._cache.plan(terms, step.made.term, varying, size)
                    constants = set(range(len(terms))).difference(varying)
                    products += repeated_flops(plan.program, constants) / 2
                    kept += itemsize * _kept(plan, constants)
                    beside = plan.peak_bytes
                alive[step.made.slot] = size * itemsize * self._extent(step.made.term)
                moved += 2 * alive[step.made.slot]
            plans.append(plan)
            peak = max(peak, sum(alive.values()) + beside)
            for slot in freed:
                del alive[slot]
        return plans, Needs(products, moved, peak + kept + size * len(self.variables) * 16)

    def _fitted(self, count: int) -> tuple[int, list[Plan | None], Needs]:
        """The size of equal batches that fit in memory, and its `_estimate`."""
        limit = batch_bytes(self._cache.backend) if self._limit is None else self._limit
        size = count
        plans, needs = self._estimate(size)
        while needs.memory > limit and size > 1:
            size = max(1, min(size - 1, int(size * limit / needs.memory)))
            plans, needs = self._estimate(size)
        self._check_fits("drawing one sample", needs.memory)
        equal = math.ceil(count / math.ceil(count / size))
        return equal, *(self._estimate(equal) if equal < size else (plans, needs))

    def _bind(self, count: int) -> int:
        """Bind the steps to the arrays that no draw changes; returns the size of the batches."""
        size, plans, _ = self._fitted(count)
        if self._bound is None or self._bound[0] != size:
            expressions: list[Expression | None] = []
            for step, plan in zip(self._schedule.steps, plans, strict=True):
                fixed = {
                    place: self._arrays[factor.slot]
                    for place, factor in enumerate(step.factors)
                    if not factor.varies
                }
                expressions.append(None if plan is None else self._cache.expression(plan, fixed))
            self._bound = size, expressions
        return size

    def _draw_batch(self, uniforms: np.ndarray, done: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
        """The rows of `sample` for uniforms in [0, 1), shape (batch, variables); `done` counts the steps."""
        assert self._bound is not None
        xp, size = self._xp, len(uniforms)
        arrays = dict(self._arrays)
        columns = dict(zip(self.variables, xp.asarray(np.ascontiguousarray(uniforms.T)), strict=True))
        chosen: dict[Index, Any] = {}
        logs = xp.zeros(size)
        sound = xp.ones(size, dtype=bool)
        each = xp.arange(size)
        schedule = zip(self._schedule.steps, self._schedule.freed, self._bound[1], strict=True)
        for step, freed, expression in schedule:
            source = step.factors[0]
            if isinstance(step, Draw):
                weights, total = _probabilities(arrays[source.slot], size, xp)
                sound = sound & (total > 0)
                column = draw(weights, columns[step.variable])
                chosen[step.variable] = column
                total = xp.where(total > 0, total, xp.ones_like(total))
                logs = logs + xp.log(xp.maximum(weights[each, column], np.finfo(float).tiny) / total)
            elif isinstance(step, Pick):
                axes = [source.term.index(variable) for variable in step.variables]
                array = xp.moveaxis(arrays[source.slot], axes, list(range(len(axes))))
                arrays[step.made.slot] = array[tuple(chosen[variable] for variable in step.variables)]
            elif expression is not None:
                # every sample keeps its own scale, since only ratios matter
                operands = [arrays[factor.slot] for factor in step.factors if factor.varies]
                arrays[step.made.slot] = expression.part(operands)[0]
            for slot in freed:
                del arrays[slot]
            done()
        if not bool(sound.all()):
            raise FloatingPointError(
                f"{int((~to_host(sound)).sum())} of {size} samples lost all probability to rounding; hold "
                "the network in double precision"
            )
        drawn = xp.stack([chosen[variable] for variable in self.variables], axis=1)
        return to_host(drawn), to_host(logs)


def _probabilities(weights: Any, size: int, xp: Any) -> tuple[Any, Any]:
    """(weights free of rounding noise, their sums), float64 of shapes (size, K) and (size,).

    Args:
        weights: shape (size, K), or (K,) where they are the same for all.
        size: rows.
        xp: the array's namespace.
    """
    noise = float(np.finfo(weights.dtype).eps)
    weights = xp.broadcast_to(weights.real.astype(np.float64), (size, weights.shape[-1]))
    # what lies below rounding is nothing: it may be of either sign
    floor = noise * weights.max(axis=1, keepdims=True)
    weights = xp.where(weights > floor, weights, 0.0)
    return weights, weights.sum(axis=1)


def _kept(plan: Plan, constants: set[int]) -> int:
    """Elements of the products among constants that an expression keeps."""
    sizes = dict.fromkeys(constants, 0)  # given arrays are held in any case
    kept = 0
    for step in plan.program.steps:
        if step.left in sizes and step.right in sizes:
            sizes[step.target] = step.size
        else:
            kept += sizes.get(step.left, 0) + sizes.get(step.right, 0)
    return kept
