"""Sums of rows over runs of them, sums by key, and squared moduli; on the host or a device."""

from typing import Any

import numpy as np

from qrt_tn.engine.backends import array_module
from qrt_tn.engine.compiled import compiled


def run_sums(terms: Any, ends: np.ndarray) -> Any:
    """Sums of terms (K, W), real or complex, over runs of their rows; shape (G, W), of the terms' type.

    Args:
        terms: in the memory of the host or a device.
        ends: where each run starts, and the end of the last; on the host, shape (G + 1,).
    """
    xp, width = array_module(terms), terms.shape[1]
    if xp is np:
        total = np.zeros((len(ends) - 1, width), dtype=terms.dtype)
        _run_sums(terms, ends, total)
        return total
    labels = xp.asarray(np.repeat(np.arange(len(ends) - 1), np.diff(ends)))
    keys = labels[:, None] * width + xp.arange(width)
    return binned(keys, terms, (len(ends) - 1) * width).reshape(-1, width)


@compiled
def _run_sums(terms: Any, ends: Any, total: Any) -> None:
    for run in range(ends.size - 1):
        for row in range(ends[run], ends[run + 1]):
            for column in range(terms.shape[1]):
                total[run, column] += terms[row, column]


def binned(keys: Any, values: Any, size: int) -> Any:
    """Sums of values by key, shape (size,), of the values' type."""
    xp = array_module(values)
    if values.dtype.kind == "c":
        both = binned(keys, values.real, size) + 1j * binned(keys, values.imag, size)
        return both.astype(values.dtype)
    counted = xp.bincount(keys.reshape(-1), weights=values.reshape(-1), minlength=size)
    return counted.astype(values.dtype)


def squares(values: Any) -> Any:
    """|z|^2, without the square root that abs takes."""
    return values.real**2 + values.imag**2 if values.dtype.kind == "c" else values**2
