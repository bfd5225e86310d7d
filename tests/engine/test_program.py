import numpy as np

from qrt_tn.engine.layout import DOT, MATMUL, MULTIPLY
from qrt_tn.engine.network import batch_indices
from qrt_tn.engine.program import compile_program
from qrt_tn.engine.tree import contraction_tree


def test_steps_follow_the_tree(networks):
    for seed in range(60):
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
            found = [slices[place] for place in leaf.cut if place is not None]
            assert found == [index for index in leaf.term if index in slices]


def test_diagonals_and_lone_indices_of_one_operand():
    sizes = {"a": 2, "b": 3, "c": 4}
    for term in ("a", "aa", "aba", "abab", "aaa", "abbca", "ccabacb"):
        array = whole = np.random.default_rng(0).normal(size=[sizes[index] for index in term])
        (leaf,) = compile_program([tuple(term)], ("a",), sizes, [(0,)]).leaves
        for first, second in leaf.diagonals:
            array = np.diagonal(array, axis1=first, axis2=second)
        assert leaf.term == ("a",)
        assert np.allclose(array.sum(axis=leaf.summed), np.einsum(f"{term}->a", whole))


def test_scales_have_an_axis_for_every_batch_index():
    """Sliced or not, held by the tensor or not: only so do exponents of different tensors add up."""
    inputs = [("v", "i", "w"), ("w", "j", "i"), ("j", "v"), ("v", "w")] * 3
    sizes = {"v": 2, "w": 3, "i": 4, "j": 5}
    for slices in ((), ("v",), ("w",), ("w", "v"), ("i", "w")):
        program = compile_program(inputs, ("w", "v"), sizes, [(0, 1)] * 11, slices, ("w", "v"))
        for measure in [held.measure for held in (*program.leaves, *program.steps)]:
            assert len(measure.grid) in (0, 2)
        assert program.grid == tuple(1 if i in slices else sizes[i] for i in ("w", "v"))
        assert program.spread == tuple(sizes[i] for i in ("w", "v") if i not in slices)
