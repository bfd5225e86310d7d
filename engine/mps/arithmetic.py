"""Sums, products and inner products of chains of cores."""

from collections.abc import Sequence

import numpy as np

from qrt_tn.engine.backends import array_module
from qrt_tn.engine.mps.canonical import Cores
from qrt_tn.engine.scaled import Scaled


def add(left: Cores, right: Cores) -> Cores:
    """The sum of two states, with the sum of their bonds."""
    xp = array_module(left[0])
    if len(left) == 1:
        return [left[0] + right[0]]
    result = [xp.concatenate([left[0], right[0]], axis=2)]
    for a, b in zip(left[1:-1], right[1:-1], strict=True):
        core = xp.zeros(
            (a.shape[0] + b.shape[0], a.shape[1], a.shape[2] + b.shape[2]), np.result_type(a.dtype, b.dtype)
        )
        core[: a.shape[0], :, : a.shape[2]] = a
        core[a.shape[0] :, :, a.shape[2] :] = b
        result.append(core)
    result.append(xp.concatenate([left[-1], right[-1]], axis=0))
    return result


def scaled(cores: Cores, factor: complex) -> Cores:
    """The state times a number, which its first core takes."""
    return [cores[0] * factor, *cores[1:]]


def filtered(cores: Cores, tables: Sequence[np.ndarray]) -> Cores:
    """The state times a product prod_i tau_i(s_i) of one table per site; bonds stay as they are.

    Args:
        cores: of any form; the result is in none.
        tables: tau_i on the host, one value per value of the site. Real tables keep real cores real.
    """
    xp = array_module(cores[0])
    result = []
    for core, table in zip(cores, tables, strict=True):
        # a table of single numbers must not make a single-precision core double
        dtype = np.result_type(core.dtype, np.complex64) if np.iscomplexobj(table) else core.dtype
        result.append((core * xp.asarray(table)[None, :, None]).astype(dtype))
    return result


def inner(bra: Cores, ket: Cores) -> Scaled:
    """<bra|ket>, conjugating the bra; a scalar with its log-scale, in double precision."""
    xp = array_module(ket[0])
    environment = xp.ones((1, 1), dtype=np.float64)
    log_scale = 0.0
    for a, b in zip(bra, ket, strict=True):
        environment = xp.tensordot(environment, b, axes=1)  # one core at a time becomes double
        environment = xp.tensordot(a.conj(), environment, axes=([0, 1], [0, 1]))
        peak = float(xp.abs(environment).max())
        if peak > 0:
            environment = environment / peak
            log_scale += float(np.log(peak))
    return Scaled(environment[0, 0], log_scale)
