"""Exact draws of named indices of a closed network whose values with these indices open are probabilities."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qrt_tn.engine.backends import array_module, device_memory, namespace, to_host
from qrt_tn.engine.batches import batch_bytes
from qrt_tn.engine.conditionals.alike import Contractions
from qrt_tn.engine.conditionals.beliefs import beliefs
from qrt_tn.engine.conditionals.playing import Bound, Contracting, Drawing, Picking, play, probabilities
from qrt_tn.engine.conditionals.rooted import hung_by_an_end
from qrt_tn.engine.conditionals.script import Contract, Draw, Pick, write_script
from qrt_tn.engine.cost import repeated_flops
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
    kind, with the indices that ket and bra share as variables. `engine.conditionals.script` tells how it
    goes; messages are contracted here, once.

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
        tree: the contraction tree, hung by one of its ends.

    Raises:
        ValueError: a malformed network, a variable that no tensor holds, arrays that do not fit, or messages
            that need more than the memory limit.
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
        held = {index for term in terms for index in term}
        for variable in self.variables:
            if variable not in held:
                raise ValueError(f"variable {variable!r} is on no tensor of the network")
        if not self.variables or len(set(self.variables)) < len(self.variables):
            raise ValueError(f"variables are {self.variables!r}; name at least one, and each once")
        if len(arrays) != len(terms):
            raise ValueError(f"got {len(arrays)} arrays for {len(terms)} tensors")
        self._dtype = common_dtype([array.dtype for array in arrays])
        self._limit = memory_limit
        self._place(array_module(arrays[0]))
        if path is None:
            path = find_path(terms, (), self._sizes)
        pairs = [(pair.left, pair.right) for pair in contraction_tree(terms, (), path).pairs]
        pairs = hung_by_an_end(pairs, len(terms))
        self.tree = contraction_tree(terms, (), linear_path(pairs, len(terms)) or [(0,)])
        self._check_messages(terms)
        own = set(self.variables)
        open_leaves = [
            tuple(index for index in dict.fromkeys(term) if index in own or index in outer)
            for term, outer in zip(terms, self.tree.leaves, strict=True)
        ]
        self._script = write_script(self.tree, open_leaves, own)
        self._last_use = self._lifetimes()
        self._arrays, self.log_total = self._contract_messages(terms, open_leaves, arrays)
        self._beliefs: list[np.ndarray] | None = None
        self._bound: tuple[int, list[Bound]] | None = None

    def to(self, backend: str) -> "Sampler":
        """A copy whose arrays live on a backend, where it draws."""
        xp = namespace(backend)
        if xp is self._xp:
            return self
        moved = copy.copy(self)
        moved._place(xp)
        kept = {id(array): xp.asarray(to_host(array)) for array in self._arrays}
        moved._arrays = [kept[id(array)] for array in self._arrays]
        moved._bound = None
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
            ValueError: the network's sum is not positive, or not even one sample fits in memory.
            FloatingPointError: a row whose probability was lost in rounding.
        """
        self._check_total()
        size, bound = self._bind(count)
        values = np.empty((count, len(self.variables)), dtype=np.int64)
        log_probability = np.empty(count)
        starts = range(0, count, size)
        with shown(None, len(starts) * len(bound), "steps of drawing") as tell:
            for number, start in enumerate(starts):
                rows = slice(start, min(start + size, count))
                uniforms = np.full((size, len(self.variables)), 0.5)  # a short last batch is filled up
                uniforms[: rows.stop - start] = rng.random((rows.stop - start, len(self.variables)))

                def done(step: int, before: int = number * len(bound)) -> None:
                    tell(before + step, len(starts) * len(bound))

                drawn, logs = play(bound, uniforms, self._xp, done)
                values[rows] = drawn[: rows.stop - start]
                log_probability[rows] = logs[: rows.stop - start]
        return values, log_probability

    def marginals(self) -> list[np.ndarray]:
        """The probabilities of every variable alone, float64, in the order of the variables.

        Raises:
            ValueError: the network's sum is not positive.
        """
        self._check_total()
        if self._beliefs is None:
            leaves = len(self.tree.leaves)
            opened, messages = self._arrays[:leaves], self._arrays[leaves:]
            terms = [factor.term for factor in self._script.given[:leaves]]
            found = beliefs(self.tree, messages, terms, opened, self.variables, self._sizes, self._alike)
            weights = [probabilities(found[variable][None], 1, self._xp)[0] for variable in self.variables]
            self._beliefs = [to_host(row[0] / row[0].sum()) for row in weights]
        return self._beliefs

    def needs(self, count: int) -> Needs:
        """What drawing `count` samples takes, beside what is held all the time."""
        size, recipes, peak = self._fitted(count)
        batches = math.ceil(count / size)
        itemsize = np.dtype(self._dtype).itemsize
        products = moved = 0.0
        for step, recipe in zip(self._script.steps, recipes, strict=True):
            if isinstance(step, Draw):
                moved += size * 8 * 4 * self._sizes[step.variable]
            elif isinstance(step, Pick):
                moved += 2 * itemsize * size * self._extent(step.made.term)
            elif recipe is not None and step.made.varies:
                fixed = [place for place, factor in enumerate(step.factors) if not factor.varies]
                products += repeated_flops(recipe.program, fixed) / 2
                moved += 2 * itemsize * size * self._extent(step.made.term)
        results = 8 * count * (len(self.variables) + 1)
        return Needs(products * batches, moved * batches, peak + results)

    @property
    def held_bytes(self) -> int:
        """Bytes of the operands and messages, which are held all the time."""
        return sum(array.nbytes for array in {id(array): array for array in self._arrays}.values())

    def _check_total(self) -> None:
        if self.log_total == -np.inf:
            raise ValueError("the network's sum is zero or lost in rounding; there is nothing to draw from")

    # -- messages

    def _place(self, xp: Any) -> None:
        self._xp = xp
        self._backend = "numpy" if xp is np else "cupy"
        self._alike = Contractions(self._backend, self._dtype)

    def _extent(self, term: Term) -> int:
        return math.prod([self._sizes[index] for index in term])

    def _check_messages(self, terms: Sequence[Term]) -> None:
        """All messages are held at once, beside the operands and the largest product on the way."""
        itemsize = np.dtype(self._dtype).itemsize
        elements = sum(map(self._extent, self.tree.terms())) + sum(map(self._extent, terms))
        # a step may copy both operands before it multiplies them
        sizes = [self._extent(term) for term in self.tree.terms()]
        copies = max((sizes[pair.left] + sizes[pair.right] for pair in self.tree.pairs), default=0)
        needed = (elements + copies) * itemsize
        limit = device_memory(self._backend)[1] if self._limit is None else self._limit
        if limit is not None and needed > limit:
            raise ValueError(
                f"the messages of this network take {bytes_text(needed)}, more than the "
                f"{bytes_text(limit)} there are; make its bonds smaller, or give more memory"
            )

    def _contract_messages(
        self, terms: Sequence[Term], open_leaves: Sequence[Term], arrays: Sequence[Any]
    ) -> tuple[list[Any], float]:
        """The arrays that the script begins with, each at a scale of its own, and the log of the total."""
        dtype = np.dtype(self._dtype)
        exponent = 0
        opened, messages = [], []

        def contracted(parts: Sequence[Term], output: Term, operands: Sequence[Any]) -> tuple[Any, int]:
            mantissa, taken = self._alike.contract(parts, output, self._sizes, operands)
            return mantissa, int(taken)

        for term, left, outer, array in zip(terms, open_leaves, self.tree.leaves, arrays, strict=True):
            # also where nothing is summed: this brings an array of any scale near 1
            mantissa, taken = contracted([term], left, [self._xp.asarray(array, dtype=dtype)])
            exponent += taken
            opened.append(mantissa)
            if left != outer:
                mantissa, taken = contracted([left], outer, [mantissa])
                exponent += taken
            messages.append(mantissa)
        numbered = self.tree.terms()
        with shown(None, len(self.tree.pairs), "messages") as tell:
            for step, pair in enumerate(self.tree.pairs):
                both = (pair.left, pair.right)
                parts = [numbered[number] for number in both]
                mantissa, taken = contracted(parts, pair.term, [messages[number] for number in both])
                exponent += taken
                messages.append(mantissa)
                tell(step + 1, len(self.tree.pairs))
        total = complex(to_host(messages[-1]))
        # a sum that cancels keeps no phase
        sound = total.real > 0 and abs(total.imag) < total.real
        log_total = math.log(total.real) + exponent * math.log(2.0) if sound else -math.inf
        return [*opened, *messages], log_total

    # -- drawing

    def _lifetimes(self) -> list[list[int]]:
        """The slots that are done with after each step."""
        seen: set[int] = set()
        done: list[list[int]] = []
        for step in reversed(self._script.steps):
            used = [step.weights] if isinstance(step, Draw) else []
            used = list(step.factors) if isinstance(step, Contract) else used
            last = [factor.slot for factor in used if factor.varies and factor.slot not in seen]
            seen.update(last)
            done.append(list(dict.fromkeys(last)))
        done.reverse()
        return done

    def _recipe(self, step: Contract, size: int) -> Plan:
        varying = [place for place, factor in enumerate(step.factors) if factor.varies]
        terms = [factor.term for factor in step.factors]
        return self._alike.recipe(terms, step.made.term, self._sizes, varying, size)

    def _measured(self, size: int) -> tuple[list[Plan | None], int]:
        """(what each step contracts, bytes held at the worst moment) for a batch of this size."""
        itemsize = np.dtype(self._dtype).itemsize
        recipes: list[Plan | None] = []
        alive: dict[int, int] = {}
        peak = fixed = 0
        for step, done in zip(self._script.steps, self._last_use, strict=True):
            recipe, beside = None, 0
            if isinstance(step, Draw):
                beside = size * 8 * 4 * self._sizes[step.variable]
            else:
                held = itemsize * self._extent(step.made.term)
                if isinstance(step, Contract):
                    recipe = self._recipe(step, size)
                    fixed += _kept(recipe, step) * itemsize if step.made.varies else held
                    beside = recipe.peak_bytes
                if step.made.varies:
                    alive[step.made.slot] = size * held
            recipes.append(recipe)
            peak = max(peak, sum(alive.values()) + beside)
            for slot in done:
                alive.pop(slot)
        return recipes, peak + fixed + size * len(self.variables) * 16

    def _fitted(self, count: int) -> tuple[int, list[Plan | None], int]:
        """The size of equal batches that fit in memory, with what `_measured` says of it."""
        free = device_memory(self._backend)[1] if self._limit is None else self._limit
        limit = batch_bytes(self._backend) if self._limit is None else self._limit
        size = count
        while True:
            recipes, peak = self._measured(size)
            if peak <= limit or size == 1:
                break
            size = max(1, min(size - 1, int(size * limit / peak)))
        if free is not None and peak > free:
            raise ValueError(
                f"drawing one sample takes {bytes_text(peak)}, more than the {bytes_text(free)} there are; "
                "make the network's bonds smaller, or give more memory"
            )
        equal = math.ceil(count / math.ceil(count / size))
        if equal < size:
            recipes, peak = self._measured(equal)
        return equal, recipes, peak

    def _bind(self, count: int) -> tuple[int, list[Bound]]:
        """The script bound to its arrays, for the batches of `count` samples."""
        size, recipes, _ = self._fitted(count)
        if self._bound is not None and self._bound[0] == size:
            return self._bound
        fixed = {factor.slot: array for factor, array in zip(self._script.given, self._arrays, strict=True)}
        columns = {variable: column for column, variable in enumerate(self.variables)}
        bound: list[Bound] = []
        for step, recipe, done in zip(self._script.steps, recipes, self._last_use, strict=True):
            if isinstance(step, Draw):
                array = None if step.weights.varies else fixed[step.weights.slot]
                bound.append(Drawing(step.weights.slot, array, columns[step.variable], done))
            elif isinstance(step, Pick):
                axes = [step.source.term.index(variable) for variable in step.variables]
                array = self._xp.moveaxis(fixed[step.source.slot], axes, list(range(len(axes))))
                chosen = [columns[variable] for variable in step.variables]
                bound.append(Picking(step.made.slot, array, chosen, done))
            else:
                assert recipe is not None
                constants = {
                    place: fixed[factor.slot]
                    for place, factor in enumerate(step.factors)
                    if not factor.varies
                }
                expression = self._alike.expression(recipe, constants)
                if step.made.varies:
                    varying = [factor.slot for factor in step.factors if factor.varies]
                    bound.append(Contracting(step.made.slot, expression.part, varying, done))
                else:
                    fixed[step.made.slot] = expression.part([])[0]  # only ratios matter
        self._bound = size, bound
        return self._bound


def _kept(recipe: Plan, step: Contract) -> int:
    """Elements of what a step keeps of products among factors that do not vary."""
    fixed = {place for place, factor in enumerate(step.factors) if not factor.varies}
    kept: dict[int, int] = {}
    for product in recipe.program.steps:
        if product.left in fixed and product.right in fixed:
            fixed.add(product.target)
            kept.pop(product.left, None)
            kept.pop(product.right, None)
            kept[product.target] = product.size
    return sum(kept.values())
