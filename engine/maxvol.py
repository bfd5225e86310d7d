"""Rows of a tall matrix that span it best: a submatrix of (locally) largest volume, and a few more."""

import numpy as np
from scipy.linalg import lu, solve_triangular

_GAIN = 1.05  # swap rows while the volume grows by more than this
_SWAPS = 200  # a bound that is not met in practice


def maxvol(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows I of Q such that no entry of Q Q[I]^{-1} has a modulus much above 1.

    Starts from the pivots of an LU decomposition and swaps one row at a time (Goreinov, Oseledets,
    Savostyanov, Tyrtyshnikov and Zamarashkin, "How to find a good submatrix", 2010).

    Args:
        basis: Q of full column rank, real or complex, shape (n, r) with n >= r.

    Returns:
        (rows, coefficients): the rows I, int64 of shape (r,), and Q Q[I]^{-1}, shape (n, r), which is the
        identity on them.
    """
    size = basis.shape[1]
    # permuted[order] is the basis, so argsort tells which row came to each place
    order, lower, upper = lu(basis, p_indices=True)
    rows = np.argsort(order)[:size]
    # Q = L U and Q[I] = L_top U, so Q Q[I]^{-1} = L L_top^{-1}
    del upper
    coefficients = solve_triangular(
        lower[:size], lower[order].T, trans="T", lower=True, unit_diagonal=True
    ).T.copy()
    for _ in range(_SWAPS):
        row, column = np.unravel_index(np.abs(coefficients).argmax(), coefficients.shape)
        pivot = coefficients[row, column]
        if abs(pivot) <= _GAIN:
            break
        rows[column] = row
        difference = coefficients[row].copy()
        difference[column] -= 1
        coefficients -= np.outer(coefficients[:, column] / pivot, difference)
    return rows.astype(np.int64), coefficients


def spanning_rows(basis: np.ndarray, extra: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `maxvol` and some more, drawn by leverage, from which all rows follow by least squares.

    Interpolation from r rows takes what Q lacks at exactly those rows for true; with more rows it averages
    out. For functions that are only near to low rank that halves the error.

    Args:
        basis: Q, shape (n, r).
        extra: how many more rows, as a share of r.
        rng: draws them.

    Returns:
        (rows, coefficients): the rows I, at most r (1 + extra) of them, and Q Q[I]^+, shape (n, len(I)).
    """
    rows, coefficients = maxvol(basis)
    size = len(rows)
    # the squared norm of a row of Q Q[I]^{-1}: how much the rows so far leave it to chance
    leverage = (np.abs(coefficients) ** 2).sum(axis=1)
    leverage[rows] = 0
    count = min(int(np.ceil(extra * size)) if size > 1 else 0, int((leverage > 0).sum()))
    if count == 0:
        return rows, coefficients
    more = rng.choice(len(leverage), size=count, replace=False, p=leverage / leverage.sum())
    rows = np.concatenate([rows, more])
    return rows, coefficients @ np.linalg.pinv(coefficients[rows])
