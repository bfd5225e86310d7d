import numpy as np
import pytest

from qrt_tn.engine.exponents import MULTIPLIED
from qrt_tn.engine.layout import DOT, MATMUL, MULTIPLY
from qrt_tn.engine.network import batch_indices
from qrt_tn.engine.program import compile_program
from qrt_tn.engine.tree import contraction_tree


@pytest.mark.parametrize("real_bytes", [4, 8])
@pytest.mark.parametrize("seed", range(15))
def test_few_factors_meet_between_two_measurements(seed, real_bytes, networks):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = networks.draw(rng, tensors=80, indices=20, largest=2)
    path = networks.path(rng, len(inputs))
    program = compile_program(inputs, output, sizes, path, (), (), real_bytes)
    count = len(inputs)
    factors = [1] * count
    for step in program.steps:
        for operand, other in ((step.left, step.right), (step.right, step.left)):
            if operand < count and not program.leaves[operand].checked:
                # no more is looked at than the operand itself would cost, and nothing hides behind it
                assert step.measure
                assert step.size <= program.leaves[operand].size
                assert other < count or program.steps[other - count].measure
        met = factors[step.left] + factors[step.right]
        assert met <= MULTIPLIED[real_bytes]
        factors.append(1 if step.measure else met)
    assert program.steps[-1].measure
    # and no more is measured than that asks for
    measured = sum(leaf.checked for leaf in program.leaves) + sum(
        bool(step.measure) for step in program.steps
    )
    assert measured <= 1.5 * count
    careful = compile_program(inputs, output, sizes, path, (), (), real_bytes, careful=True)
    assert all(leaf.checked for leaf in careful.leaves)
    assert all(step.measure for step in careful.steps)


@pytest.mark.parametrize("seed", range(40))
def test_steps_follow_the_tree(seed, networks):
    rng = np.random.default_rng(seed)
    inputs, output, sizes = networks.draw(rng)
    path = networks.path(rng, len(inputs))
    slices = tuple(index for index in sizes if rng.random() < 0.3)
    batch = batch_indices(inputs, output)
    program = compile_program(inputs, output, sizes, path, slices, batch)
    assert program.slices == tuple(sizes[index] for index in slices)
    assert program.shape == tuple(sizes[index] for index in output)
    assert program.whole_grid == tuple(sizes[index] for index in batch)
    tree = contraction_tree(inputs, (*output, *(i for i in slices if i not in output)), path)
    below = [{number} for number in range(len(inputs))]
    for number, (step, pair) in enumerate(zip(program.steps, tree.pairs, strict=True), len(inputs)):
        assert step.target == number
        assert {step.left, step.right} == {pair.left, pair.right}
        below.append(below[pair.left] | below[pair.right])
        # a step is repeated for every slice if a sliced index lies anywhere below it
        assert step.sliced == any(index in slices for leaf in below[-1] for index in inputs[leaf])
        kept = [index for index in pair.term if index not in slices]
        summed = [index for index in pair.summed if index not in slices]
        assert step.size == np.prod([sizes[index] for index in kept], dtype=int)
        held = step.size * np.prod([sizes[index] for index in summed], dtype=int)
        assert step.flops == held * (2 if summed else 1)
        assert step.kind == (MULTIPLY if not summed else MATMUL if set(pair.batch) - set(slices) else DOT)
    for leaf, term in zip(program.leaves, inputs, strict=True):
        assert leaf.given == np.prod([sizes[index] for index in term], dtype=int)
        assert leaf.size == np.prod([sizes[index] for index in leaf.term], dtype=int)
        assert leaf.sliced == (not set(term).isdisjoint(slices))
        assert [slices[place] for place in leaf.cut if place is not None] == [
            index for index in leaf.term if index in slices
        ]


@pytest.mark.parametrize("term", ["a", "aa", "aba", "abab", "aaa", "abbca", "ccabacb"])
def test_diagonals_and_lone_indices_of_one_operand(term):
    sizes = {"a": 2, "b": 3, "c": 4}
    array = np.random.default_rng(0).normal(size=[sizes[index] for index in term])
    program = compile_program([tuple(term)], ("a",), sizes, [(0,)])
    (leaf,) = program.leaves
    for first, second in leaf.diagonals:
        array = np.diagonal(array, axis1=first, axis2=second)
    array = array.sum(axis=leaf.summed)
    whole = np.random.default_rng(0).normal(size=[sizes[index] for index in term])
    assert leaf.term == ("a",)
    assert np.allclose(array, np.einsum(f"{term}->a", whole))


def test_scales_have_an_axis_for_every_batch_index():
    """Sliced or not, held by the tensor or not: only so do exponents of different tensors add up."""
    inputs = [("v", "i", "w"), ("w", "j", "i"), ("j", "v"), ("v", "w")] * 3
    sizes = {"v": 2, "w": 3, "i": 4, "j": 5}
    path = [(0, 1)] * (len(inputs) - 1)
    for slices in ((), ("v",), ("w",), ("w", "v"), ("i", "w")):
        program = compile_program(inputs, ("w", "v"), sizes, path, slices, ("w", "v"), 4)
        measures = [leaf.measure for leaf in program.leaves]
        measures += [step.measure for step in program.steps if step.measure]
        assert len(measures) > len(inputs)
        assert {len(measure.grid) for measure in measures} <= {0, 2}
        assert program.grid == tuple(1 if i in slices else sizes[i] for i in ("w", "v"))
        assert program.spread == tuple(sizes[i] for i in ("w", "v") if i not in slices)
