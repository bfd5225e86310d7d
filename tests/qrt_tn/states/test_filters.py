import numpy as np
import pytest

from qrt_tn.states.filters import filter_tables, gaussian_tables


def test_one_table_or_one_for_each():
    table = np.array([1, 0, 2])
    assert (filter_tables(table, 3, 2) == [[1, 0, 2]] * 2).all()
    assert filter_tables(table, 3, 2).dtype == np.float64
    each = np.array([[1, 2j, 0], [0, 0, 1]])
    assert (filter_tables(each, 3, 2) == each).all()


def test_gaussians():
    tables = gaussian_tables([0.5, 2], 5, 2)
    u = np.array([0, 1, 2, -2, -1])
    assert np.allclose(tables, np.exp([-(u**2) / 0.5, -(u**2) / 8.0]))
    assert (gaussian_tables(2, 5, 3) == tables[1]).all()
    assert gaussian_tables(1e-200, 5, 1).tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("tau", "says"),
    [
        (np.ones(4), r"tau has shape \(4,\); give one table of shape \(3,\)"),
        (np.ones((3, 3)), r"tau has shape \(3, 3\)"),
        (["a", "b", "c"], "tau has dtype"),
        ([1, np.nan, 1], "tau holds nan"),
        ([1, np.inf, 1], "tau holds inf"),
        (np.zeros(3), "tau is zero everywhere at coordinate 0"),
        ([[1, 1, 1], [0, 0, 0]], "tau is zero everywhere at coordinate 1"),
        ([[1, 1], [0, 0, 0]], "rows of unequal lengths"),
    ],
)
def test_tables_that_are_refused(tau, says):
    with pytest.raises(ValueError, match=says):
        filter_tables(tau, 3, 2)


@pytest.mark.parametrize(
    ("width", "says"),
    [
        ("wide", "give a width"),
        ([1.0, 2.0, 3.0], r"one per coordinate of shape \(2,\)"),
        (0, "holds 0; widths must be positive"),
        ([1.0, -1.0], "holds -1"),
        (np.nan, "holds nan"),
    ],
)
def test_widths_that_are_refused(width, says):
    with pytest.raises(ValueError, match=says):
        gaussian_tables(width, 3, 2)
