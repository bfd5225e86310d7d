import numpy as np
import pytest
import scipy.sparse

from qrt_tn.engine.arguments import as_array, check_whole, generator, is_real


def test_an_int_and_its_generator_draw_alike():
    own = np.random.default_rng(5)
    assert generator(own) is own
    assert generator(5).random() == np.random.default_rng(5).random() == generator(np.int64(5)).random()


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, True])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed is .*; give a non-negative int"):
        generator(seed)


def test_ragged_rows_are_named():
    with pytest.raises(ValueError, match="x has rows of unequal lengths"):
        as_array([[1, 2], [3]], "x")
    assert as_array([[1, 2]], "x").shape == (1, 2)


def test_arrays_of_which_only_a_part_would_be_seen_are_named():
    for values, kind in ((np.ma.masked_less([1, 2], 2), "masked"), (scipy.sparse.eye(2), "sparse dia")):
        with pytest.raises(TypeError, match=f"x is a {kind}"):
            as_array(values, "x")


@pytest.mark.parametrize("value", [True, 1.0, "3", None, 1])
def test_whole_numbers_have_a_least(value):
    with pytest.raises(ValueError, match=r"rounds is .*; give a whole number, at least 2"):
        check_whole("rounds", value, 2)
    check_whole("rounds", np.int64(2), 2)


def test_real_numbers_are_finite_and_no_bools():
    assert all(map(is_real, (0, -1.5, np.float32(2), np.int8(3))))
    assert not any(map(is_real, (True, np.nan, np.inf, "1", None, 1j, np.complex64(1))))
