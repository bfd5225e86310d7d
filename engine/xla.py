"""Runs a program under JAX: chunks of steps compiled by XLA, once for all chunks of one shape.

XLA's compile time grows faster than a program's length, so a chain of 10,000 sites is compiled in chunks;
its chunks are alike, and compiled once. Results come back as NumPy arrays: their exponents, and double
precision, need 64-bit numbers, which JAX users may have switched off for their own arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from qrt_tn.engine.execute import PairwiseExpression, SliceSum, State, prepared, run_steps
from qrt_tn.engine.exponents import Part
from qrt_tn.engine.program import Leaf, Program, Step

CHUNK = 48  # steps compiled together


@dataclass(frozen=True)
class _Chunk:
    """Steps numbered from 0, so that chunks alike are equal."""

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


class JaxExpression(PairwiseExpression):
    """One program under JAX; see `qrt_tn.engine.execute.PairwiseExpression`."""

    def __init__(
        self,
        program: Program,
        dtype: Any,
        constants: Mapping[int, Any],
        careful: Callable[[], Program] | None = None,
    ) -> None:
        import jax

        with jax.enable_x64(True):
            super().__init__(program, jax.numpy, dtype, constants, careful)

    def _anew(self, program: Program) -> PairwiseExpression:
        return JaxExpression(program, self._dtype, self._constants)

    def _begun(self, arrays: Sequence[Any]) -> tuple[list[Any], State]:
        import jax

        with jax.enable_x64(True):
            live, (exponent, fine) = super()._begun(arrays)
        # slices take their parts of the exponents: NumPy compiles nothing for that
        return live, (np.asarray(exponent), fine)

    def _slices(self, live: list[Any], state: State, chosen: range) -> Part:
        import jax

        with jax.enable_x64(True):
            return super()._slices(live, state, chosen)

    def _prepared(self, leaf: Leaf, array: Any, number: int) -> Part:
        return _load()(replace(leaf, term=(), given=0, size=0), array)

    def _cut_leaf(self, array: Any, leaf: Leaf, values: tuple[int, ...]) -> Any:
        return _cut()(leaf.cut, array, values)

    def _run(self, steps: Sequence[Step], live: list[Any], state: State, given: Any) -> State:
        exponent, fine = state
        for start in range(0, len(steps), CHUNK):
            chunk, taken, made = _renumbered(steps[start : start + CHUNK])
            for number in taken:
                if live[number] is None:
                    live[number], out = self._load(number, given[number])
                    exponent = exponent + out
            operands = tuple(live[number] for number in taken)
            results, (exponent, fine) = _compiled()(chunk, operands, (exponent, fine))
            for number in taken:
                live[number] = None
            for number, result in zip(made, results, strict=True):
                live[number] = result
        return exponent, fine

    def _finished(self, live: list[Any], state: State, *, owned: bool) -> Part:
        exponent, fine = state
        self._check(fine)
        # a copy, since JAX's own memory is read-only
        mantissa = np.array(live[-1]).transpose(self.program.order)
        return mantissa, self._spread(np.asarray(exponent, dtype=np.int64))

    def _slice_sum(self) -> SliceSum:
        return SliceSum(self.program, np, self._dtype)


def _renumbered(steps: Sequence[Step]) -> tuple[_Chunk, list[int], list[int]]:
    """(the chunk, the numbers it takes from the program, the numbers it gives back)."""
    made = {step.target for step in steps}
    taken = [number for step in steps for number in (step.left, step.right) if number not in made]
    used = {number for step in steps for number in (step.left, step.right)}
    given = [step.target for step in steps if step.target not in used]
    names = {number: place for place, number in enumerate([*taken, *(step.target for step in steps)])}
    alike = tuple(
        step._replace(left=names[step.left], right=names[step.right], target=names[step.target])
        for step in steps
    )
    return _Chunk(alike, tuple(names[number] for number in given)), taken, given


@cache
def _compiled() -> Any:
    import jax

    def run(chunk: _Chunk, operands: tuple[Any, ...], state: State) -> Any:
        live = [*operands, *([None] * len(chunk.steps))]
        # by default JAX multiplies single precision on a GPU with the ten bits of TF32
        with jax.default_matmul_precision("highest"):
            state = run_steps(chunk.steps, live, state, jax.numpy)
        return tuple(live[number] for number in chunk.outputs), state

    return jax.jit(run, static_argnums=0)


@cache
def _load() -> Any:
    import jax

    return jax.jit(lambda leaf, array: prepared(leaf, array, 0, jax.numpy), static_argnums=0)


@cache
def _cut() -> Any:
    import jax

    def cut(places: tuple[int | None, ...], array: Any, values: tuple[int, ...]) -> Any:
        # from the last axis, so that the others keep their places
        for axis in reversed(range(len(places))):
            place = places[axis]
            if place is not None:
                array = jax.lax.dynamic_index_in_dim(array, values[place], axis, keepdims=False)
        return array

    return jax.jit(cut, static_argnums=0)
