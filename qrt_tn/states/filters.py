"""Product filters tau(u) = prod_i tau_i(u_i): tables of their values, checked."""

from typing import Any

import numpy as np

from engine.arguments import as_array
from qrt_tn.field import centred


def filter_tables(tau: Any, modulus: int, dim: int) -> np.ndarray:
    """Values of a product filter, shape (dim, modulus), real or complex in double precision.

    Args:
        tau: shape (P,), one table for all coordinates, or (D, P).
        modulus: P.
        dim: D.

    Raises:
        ValueError: another shape, no numbers, NaN or infinity, or a coordinate whose table is all 0.
    """
    tables = as_array(tau, "tau")
    if tables.shape not in ((modulus,), (dim, modulus)):
        raise ValueError(
            f"tau has shape {tables.shape}; give one table of shape ({modulus},), or one per coordinate of "
            f"shape ({dim}, {modulus})"
        )
    if tables.dtype.kind not in "biufc":
        raise ValueError(f"tau has dtype {tables.dtype}; give numbers")
    if not np.isfinite(tables).all():
        raise ValueError(f"tau holds {tables[~np.isfinite(tables)][0]}; every value must be finite")
    tables = np.broadcast_to(tables, (dim, modulus))
    empty = np.flatnonzero(~(tables != 0).any(axis=1))
    if len(empty):
        raise ValueError(
            f"tau is zero everywhere at coordinate {empty[0]}, which leaves nothing of the state"
        )
    return tables.astype(np.complex128 if tables.dtype.kind == "c" else np.float64)


def gaussian_tables(width: Any, modulus: int, dim: int) -> np.ndarray:
    """tau_i(u) = exp(-u^2 / (2 w_i^2)), u its centred representative, shape (dim, modulus).

    Args:
        width: w for all coordinates, or one for each, shape (D,).
        modulus: P.
        dim: D.

    Raises:
        ValueError: another shape, or a width that is not positive and finite.
    """
    widths = as_array(width, "width")
    if widths.shape not in ((), (dim,)) or widths.dtype.kind not in "iuf":
        raise ValueError(f"width is {width!r}; give a width, or one per coordinate of shape ({dim},)")
    bad = ~(np.isfinite(widths) & (widths > 0))
    if bad.any():
        raise ValueError(f"width holds {widths[bad].item(0)}; widths must be positive and finite")
    each = np.broadcast_to(widths.astype(np.float64), (dim,))
    with np.errstate(over="ignore"):  # a width of almost nothing keeps u = 0 alone
        return np.exp(-0.5 * (centred(np.arange(modulus), modulus) / each[:, None]) ** 2)
