"""Output weights in closed form: ridge regression on the features of a network's hidden nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from sklearn.linear_model import Ridge

from qrt_tn.engine.arguments import is_real
from qrt_tn.engine.threads import limited

# For features of unit variance and a thousand points or so: from hardly any shrinkage to a strong one.
RIDGES = tuple(float(ridge) for ridge in np.logspace(-2, 4, 13))

# Up to this extent one thread decomposes a matrix in seconds, and more gain little; but on busy cores
# threads that wait for each other are many times slower (measured: 9 s for 0.25 s at 1,024).
ONE_THREAD = 2048


def fit_output_weights(features: Any, targets: Any, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The minimiser of sum_m |y_m - kernel^T phi_m - bias|^2 + ridge |kernel|^2; the bias is free.

    Scikit-learn's `Ridge` by Cholesky, in float64: the smaller of the primal N x N and the dual M x M system.
    At ridge 0 it is the least-squares solution of least norm.

    Args:
        features: phi, shape (M, N).
        targets: y, shape (M, C) or (M,).
        ridge: the penalty, at least 0.

    Returns:
        kernel, shape (N, C), and bias, shape (C,); C = 1 for targets of shape (M,).

    Raises:
        ValueError: mismatched shapes, empty, NaN or infinity, or a negative penalty.

    Example:
        >>> kernel, bias = fit_output_weights([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], ridge=0)
        >>> kernel.round(6).tolist(), bias.round(6).tolist()
        ([[2.0]], [1.0])
    """
    phi, y = _checked(features, targets, "")
    _check_ridge(ridge)
    with _few_threads(phi):
        if ridge > 0:
            model = Ridge(ridge, solver="cholesky").fit(phi, y)
            return model.coef_.reshape(y.shape[1], -1).T, np.atleast_1d(model.intercept_)
        phi_mean, y_mean = phi.mean(axis=0), y.mean(axis=0)
        # NumPy's cut-off, a multiple of the extent, also drops the direction that centring made null
        kernel = np.linalg.lstsq(phi - phi_mean, y - y_mean)[0]
    return kernel, y_mean - phi_mean @ kernel


def select_ridge(
    features: Any,
    targets: Any,
    validation_features: Any,
    validation_targets: Any,
    ridges: Sequence[float] = RIDGES,
) -> tuple[np.ndarray, np.ndarray, float]:
    """`fit_output_weights` at the penalty with the smallest squared error on V validation points.

    One eigendecomposition of the smaller Gram matrix serves all penalties. The squared error is used for
    labels too: on a few hundred points it tells penalties apart that the accuracy cannot.

    Returns:
        kernel, shape (N, C), bias, shape (C,), and the penalty chosen.

    Raises:
        ValueError: as `fit_output_weights`, or no penalty to try, or one that is not above 0.

    Example:
        >>> x = np.arange(6.0)[:, None]
        >>> kernel, bias, ridge = select_ridge(x[:4], 2 * x[:4], x[4:], 2 * x[4:], [0.01, 1.0])
        >>> ridge
        0.01
    """
    phi, y = _checked(features, targets, "")
    phi_validation, y_validation = _checked(validation_features, validation_targets, "validation ")
    if phi_validation.shape[1] != phi.shape[1] or y_validation.shape[1] != y.shape[1]:
        raise ValueError(
            f"validation features {phi_validation.shape} and targets {y_validation.shape} do not fit the"
            f" training features {phi.shape} and targets {y.shape}"
        )
    if len(ridges) == 0:
        raise ValueError("ridges is empty; give at least one penalty to try")
    for ridge in ridges:
        _check_ridge(ridge)
        if ridge == 0:
            raise ValueError("ridges holds 0; give penalties above 0 (fit_output_weights takes 0)")
    phi_mean, y_mean = phi.mean(axis=0), y.mean(axis=0)
    phi, y = phi - phi_mean, y - y_mean
    # kernel(ridge) = basis diag(1 / (eigenvalues + ridge)) coefficients
    with _few_threads(phi):
        if phi.shape[1] <= phi.shape[0]:
            eigenvalues, basis = scipy.linalg.eigh(phi.T @ phi)
            coefficients = basis.T @ (phi.T @ y)
        else:
            eigenvalues, left = scipy.linalg.eigh(phi @ phi.T)
            basis, coefficients = phi.T @ left, left.T @ y
    eigenvalues = np.maximum(eigenvalues, 0)
    rotated = (phi_validation - phi_mean) @ basis
    wanted = y_validation - y_mean
    errors = [
        float(np.square(wanted - rotated @ (coefficients / (eigenvalues + ridge)[:, None])).mean())
        for ridge in ridges
    ]
    best = float(ridges[int(np.argmin(errors))])
    kernel = basis @ (coefficients / (eigenvalues + best)[:, None])
    return kernel, y_mean - phi_mean @ kernel, best


def _few_threads(phi: np.ndarray) -> Any:
    """A context that keeps the linear algebra of a small problem on one thread."""
    return limited(1 if min(phi.shape) <= ONE_THREAD else None)


def finite_matrix(values: Any, name: str) -> np.ndarray:
    """A real matrix in float64; ValueError for another shape or type, empty, or not finite."""
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.size == 0 or matrix.dtype.kind not in "biuf":
        raise ValueError(f"{name} has shape {matrix.shape}, {matrix.dtype}; give a real matrix, not empty")
    matrix = matrix.astype(np.float64, copy=False)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds {matrix[~np.isfinite(matrix)][0]}; every value must be finite")
    return matrix


def _checked(features: Any, targets: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as matrices with the same number of rows."""
    phi, y = finite_matrix(features, f"{part}features"), np.asarray(targets)
    y = finite_matrix(y[:, None] if y.ndim == 1 else y, f"{part}targets")
    if len(phi) != len(y):
        raise ValueError(f"{part}features have {len(phi)} rows and targets {len(y)}; give one a point")
    return phi, y


def _check_ridge(ridge: float) -> None:
    if not is_real(ridge) or ridge < 0:
        raise ValueError(f"ridge is {ridge!r}; give a finite penalty, 0 or above")
