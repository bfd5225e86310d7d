"""What each tensor of a sliced contraction is, and how the segments follow from it."""

import numpy as np
import pytest

from qrt_tn.engine.balance import padded
from qrt_tn.engine.segmented import CONSTANT, SLICED, VARIABLE, SegmentedContraction


def segmented(
    inputs, output, sizes, path, slices=(), batch=(), constants=(), dtype="complex64", looped=False
):
    return SegmentedContraction(
        inputs, output, sizes, path, slices, batch, np.dtype(dtype), constants, looped=looped
    )


CHAIN = [("a",), ("a", "b"), ("b", "c"), ("c", "d"), ("d",)]
SIZES = dict.fromkeys("abcd", 3)
PATH = [(0, 1), (0, 1), (0, 2), (0, 1)]  # ((0 1) ((2 3) 4))


def test_ranks_end_segments():
    made = segmented(CHAIN, (), SIZES, PATH, ("d",), constants=(0, 1, 2))
    assert made.ranks == [CONSTANT, CONSTANT, CONSTANT, SLICED, SLICED, CONSTANT, SLICED, SLICED, SLICED]
    assert [part.steps for part in made.segments] == [(5,), (6, 7, 8)]
    assert [part.steps for part in made.of_rank(CONSTANT)] == [(5,)]
    assert not made.looped and not made.is_cut(8) and made.slice_count == 3
    # the whole result is computed in every call
    assert segmented(CHAIN, (), SIZES, PATH, constants=range(5)).ranks[-1] == VARIABLE


def test_who_loops_over_the_slices():
    assert not segmented(CHAIN, ("a",), SIZES, PATH, ("d",)).looped
    assert segmented(CHAIN, ("a",), SIZES, PATH, ("a",)).looped  # kept
    made = segmented(CHAIN, (), SIZES, PATH, ("b", "d"))
    assert len(made.segments) == 1 and not made.looped
    assert made.split([8]) == SLICED
    assert len(made.segments) == 2 and made.looped and made.is_cut(8)
    assert made.term(3, cut=True) == ("c",)


def test_groups_hold_what_one_kernel_can_balance():
    inputs = [("n", "i"), ("i", "n"), ("n", "j"), ("s", "j"), ("n", "i")]
    sizes = dict.fromkeys("nijs", 2)
    made = segmented(inputs, ("n",), sizes, [(0, 1)] * 4, ("s",), ("n",), constants=(4,))
    assert sorted(made.groups) == [(False, [0, 2]), (False, [1]), (False, [3]), (True, [4])]


def test_repeated_and_lone_indices():
    inputs = [("x", "i", "i", "y", "s"), ("i",)]
    made = segmented(inputs, (), {"x": 5, "y": 2, "i": 3, "s": 7}, [(0, 1)], ("s",))
    assert made.terms == [("i", "s"), ("i",), ()]  # a sliced lone index is summed by the slices
    assert [made.halvings(number) for number in range(2)] == [4, 0]


@pytest.mark.parametrize("looped", [False, True])
def test_bytes_by_hand(looped):
    inputs, sizes = [("i", "s"), ("s", "k")], {"i": 40, "s": 2, "k": 50}
    made = segmented(inputs, ("i", "k"), sizes, [(0, 1)], ("s",), looped=looped)
    operands = [padded((40, 2), "complex64"), padded((2, 50), "complex64")]
    entries = sum(operands) + max(operands) + padded((40, 50), "complex64")
    if looped:
        entries += padded((40,), "complex64") + padded((50,), "complex64") + 3 * padded((40, 50), "complex64")
    assert made.bytes_taken() == 8 * entries


def test_only_segments_of_several_steps_have_floors():
    made = segmented(CHAIN, (), SIZES, PATH, ("d",), constants=(0, 1))
    assert set(made.floors()) == {8}
    single = made.floors()[8]
    made.looped = True
    assert np.isclose(made.floors()[8], single / 3)  # the errors of slices no longer add up
