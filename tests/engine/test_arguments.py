import numpy as np
import pytest

from engine.arguments import as_array, generator


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
